"""Extremal masks beside other attributions and other methods' masks, after figures 2 and 6 of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from captum.attr import visualization as captum_figures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal._checks import check_choice, check_number
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw
from captum_extremal.visualization import _wording as words
from captum_extremal.visualization._arguments import Array, as_array
from captum_extremal.visualization._masked import draw_areas, draw_kept, draw_optimal, view_of

_METHODS = ("blended_heat_map", "heat_map")
_COLOURS = {"all": "RdBu_r", "positive": "inferno", "negative": "inferno", "absolute_value": "inferno"}  # by sign

# With 0, Captum's threshold can be rounded above the sum of all values, and then nothing reaches it.
_LEAST_OUTLIERS = 1e-6  # per cent
_ROUNDING = 1e-3  # by which a mask that was resized may leave [0, 1]


def compare(
    found: ExtremalMasks,
    images: Tensor,
    attributions: Mapping[str, Tensor],
    index: int | Sequence[int] = 0,
    *,
    input_index: int = 0,
    names: Sequence[str] | None = None,
    title: str | None = None,
    method: str = "blended_heat_map",
    sign: str = "positive",
    outlier_perc: float = 2,
) -> Figure:
    """Images, their extremal masks, and other attributions side by side (figure 2).

    Args:
        found, images, input_index, title: as :func:`show_mask`.
        attributions: name -> (N, C, H, W), such as Captum's methods return; the channels are summed. Resize a layer's
            map to the image with ``captum.attr.LayerAttribution.interpolate``.
        index: which of the N images; of several, such as ``range(3)``, each has a row.
        names: of the images that are drawn, such as their targets.
        method, sign, outlier_perc: how :func:`captum.attr.visualization.visualize_image_attr` draws them: "heat_map" or
            "blended_heat_map"; "positive", in which the brightest place is where the metrics say that a map points,
            "absolute_value", "negative" or "all".

    Returns:
        a figure of 2 + len(attributions) panels per image; an attribution without values of the sign is blank.

    Raises: as :func:`show_mask`.
    """
    check_choice("method", method, _METHODS)
    check_choice("sign", sign, _COLOURS)
    check_number("outlier_perc", outlier_perc, at_least=0, below=100)
    chosen = list(index) if isinstance(index, Sequence) else [index]
    if not chosen:
        raise ValueError("index must name at least one image, got none")
    views = [view_of(found, images, one, input_index) for one in chosen]
    labels = [""] * len(views) if names is None else check.names("names", names, len(views), "image")
    shape, alone = views[0].rgb.shape[:2], len(views) == 1
    maps = check.attributions("attributions", attributions, len(found.clean_score), shape)
    columns = 2 + len(maps)
    base, width, most_columns = (2.3, 1.9, 6) if alone else (1.6, 1.6, columns)
    letters = int(draw.LETTERS * width)
    size: dict[str, Any] = {"base": base, "least_width": width, "most_columns": most_columns}
    figure, axes = draw.panels(shape, len(views) * columns, title, title_lines=1 if alone else 2, **size)
    how = {"method": method, "outlier_perc": max(outlier_perc, _LEAST_OUTLIERS), "cmap": _COLOURS[sign]}
    for row, (one, view) in enumerate(zip(chosen, views)):
        image, mask, *others = axes[row * columns : (row + 1) * columns]
        draw.image(image, view.rgb, "" if row else "image")
        draw.row_name(image, labels[row], draw.panel_size(shape, base)[1])
        draw_optimal(mask, view)
        text = f"{words.origin(view.found)}, {words.shown_text(view.found)}"
        draw.title(mask, words.wrapped(text, letters), boxed=bool(view.found.reached))
        for ax, (name, values) in zip(others, maps.items()):
            _draw_attribution(ax, view.rgb, as_array(values[one].double().sum(0)), sign, how)
            draw.title(ax, "" if row else words.wrapped(name, letters))
    return figure


def compare_masks(
    found: ExtremalMasks,
    images: Tensor,
    masks: Mapping[str, Tensor],
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
) -> Figure:
    """The image under other methods' masks, and under the extremal masks of every area (figure 6).

    What a mask hides is dark and grey, as in :func:`show_mask`. Figure 6 has the masks of Fong and Vedaldi (ICCV 2017),
    which :class:`~captum_extremal.MeaningfulPerturbation` makes.

    Args:
        found, images, index, input_index, title: as :func:`show_mask`.
        masks: name -> (N, C, H, W) in [0, 1], 1 where the method keeps or points; the channels are averaged.

    Returns:
        a figure of the image, one panel per method with the area of its mask (its mean), and one panel per area; the
        area a* is boxed.

    Raises: as :func:`show_mask`.
    """
    view = view_of(found, images, index, input_index)
    others = check.attributions("masks", masks, len(found.clean_score), view.rgb.shape[:2])
    for name, values in others.items():
        low, high = values.min().item(), values.max().item()
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ValueError(f"masks[{name!r}] must be a mask in [0, 1], got values from {low:.3g} to {high:.3g}")
    count = 1 + len(others) + len(view.found.areas)
    figure, (image, *axes) = draw.panels(view.rgb.shape, count, title, base=1.7, least_width=1.3)
    draw.image(image, view.rgb, "image")
    for ax, (name, values) in zip(axes, others.items()):
        mask = as_array(values[index].double().mean(0))
        draw_kept(ax, view.rgb, mask)
        draw.title(ax, f"{name}\n{words.percent(float(mask.mean()))}")
    draw_areas(axes[len(others) :], view, f"{words.origin(view.found)}\n")
    return figure


def _draw_attribution(ax: Axes, rgb: Array, values: Array, sign: str, how: dict[str, Any]) -> None:
    signed = {"positive": values.clip(min=0), "negative": values.clip(max=0)}.get(sign, values)
    largest = float(np.abs(signed).max())
    if largest == 0:
        draw.blank(ax, rgb.shape[:2], f"no {sign} values" if values.any() else "all zero")
        return
    values = values / largest  # Captum scales the map anyway, but warns of small values
    panel: Any = (ax.figure, ax)
    captum_figures.visualize_image_attr(
        values, rgb, sign=sign, plt_fig_axis=panel, alpha_overlay=0.7, use_pyplot=False, **how
    )
    draw.no_ticks(ax)
