"""Extremal masks beside other attributions and other methods' masks, after figures 2 and 6 of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from captum.attr import visualization as captum_figures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal._checks import check_choice, check_number
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import Array, as_array, check_attributions, check_names
from captum_extremal.visualization._masked import draw_areas, draw_kept, draw_optimal, view_of
from captum_extremal.visualization._panels import (
    LETTERS,
    draw_blank,
    draw_image,
    panel_size,
    panels,
    without_ticks,
    write,
    write_row_name,
    write_title,
)
from captum_extremal.visualization._wording import origin, percent, shown_text, wrapped

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
    labels = [""] * len(views) if names is None else check_names("names", names, len(views), "image")
    shape = views[0].shape
    maps = check_attributions("attributions", attributions, len(found.clean_score), shape)
    columns = 2 + len(maps)
    alone = len(views) == 1
    base, width = (2.3, 1.9) if alone else (1.6, 1.6)  # inches
    letters, most_columns, lines = int(LETTERS * width), 6 if alone else columns, 1 if alone else 2
    size = {"base": base, "least_width": width}
    figure, axes = panels(
        shape, len(views) * columns, **size, title=title, title_lines=lines, most_columns=most_columns
    )
    for row, (one, view) in enumerate(zip(chosen, views)):
        image, mask, *others = axes[row * columns : (row + 1) * columns]
        draw_image(image, view.rgb, "" if row else "image")
        write_row_name(image, labels[row], panel_size(shape, base)[1])
        draw_optimal(mask, view)
        text = f"{origin(view.found)}, {shown_text(view.found)}"
        write_title(mask, wrapped(text, letters), boxed=bool(view.found.reached))
        for ax, (name, values) in zip(others, maps.items()):
            _draw_attribution(ax, view.rgb, as_array(values[one].double().sum(0)), method, sign, outlier_perc)
            write(ax.set_title, "" if row else wrapped(name, letters))
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
    others = check_attributions("masks", masks, len(found.clean_score), view.shape)
    for name, values in others.items():
        low, high = values.min().item(), values.max().item()
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ValueError(f"masks[{name!r}] must be a mask in [0, 1], got values from {low:.3g} to {high:.3g}")
    count = 1 + len(others) + len(view.found.areas)
    figure, (image, *axes) = panels(view.shape, count, base=1.7, least_width=1.3, title=title, title_lines=2)
    draw_image(image, view.rgb, "image")
    for ax, (name, values) in zip(axes, others.items()):
        mask = as_array(values[index].double().mean(0))
        draw_kept(ax, view.rgb, mask)
        write(ax.set_title, f"{name}\n{percent(float(mask.mean()))}")
    draw_areas(axes[len(others) :], view, f"{origin(view.found)}\n")
    return figure


def _draw_attribution(ax: Axes, rgb: Array, values: Array, method: str, sign: str, outlier_perc: float) -> None:
    signed = {"positive": values.clip(min=0), "negative": values.clip(max=0)}.get(sign, values)
    largest = float(np.abs(signed).max())
    if largest == 0:
        draw_blank(ax, rgb.shape[:2], f"no {sign} values" if values.any() else "all zero")
        return
    captum_figures.visualize_image_attr(
        values / largest,  # Captum scales the map anyway, but warns of small values
        rgb,
        method=method,
        sign=sign,
        plt_fig_axis=(ax.figure, ax),  # type: ignore[arg-type]
        outlier_perc=max(outlier_perc, _LEAST_OUTLIERS),
        cmap=_COLOURS[sign],
        alpha_overlay=0.7,
        use_pyplot=False,
    )
    without_ticks(ax)
