"""Several methods side by side, after figures 2 and 6 of the paper.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from captum.attr import visualization as captum_figures
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from captum_extremal._checks import check_choice, check_number
from captum_extremal.results import ExtremalMasks
from captum_extremal.results.tensors import Array, as_array
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import styled
from captum_extremal.visualization.sweep import draw_areas

_COLOURS = {"all": "RdBu_r", "positive": "inferno", "negative": "inferno", "absolute_value": "inferno"}  # by sign
_ROUNDING = 1e-3  # by which a mask that was resized may leave [0, 1]


@styled
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
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """Images, their extremal masks, and other attributions side by side (figure 2).

    Args:
        attributions: name -> (N, C, H, W), such as Captum's methods return; the channels are summed. Resize a layer's
            map to the image with ``captum.attr.LayerAttribution.interpolate``.
        index: which of the N images; of several, such as ``range(3)``, each has a row.
        names: titles of the images that are drawn, such as their targets.
        method, sign, outlier_perc: how :func:`captum.attr.visualization.visualize_image_attr` draws them: "heat_map" or
            "blended_heat_map"; "positive", in which the brightest place is where the metrics say that a map points,
            "absolute_value", "negative" or "all". An attribution without values of the sign is blank.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    check_choice("method", method, ("blended_heat_map", "heat_map"))
    check_choice("sign", sign, _COLOURS)
    check_number("outlier_perc", outlier_perc, at_least=0, below=100)
    rows = check.rows_of("index", index, len(check.result(found).clean_score))
    views = [check.view(found, images, row, input_index) for row in rows]
    labels = check.names("names", names, ["image", *[""] * (len(views) - 1)], "image")
    shape, alone = views[0].rgb.shape[:2], len(views) == 1
    maps = check.attributions("attributions", attributions, len(found.clean_score), shape)
    columns = 2 + len(maps)
    size: dict[str, Any] = {"base": 2.3, "least_width": 1.9, "title_lines": 1, "most_columns": 6}
    if not alone:
        size = {"base": 1.6, "least_width": 1.6, "columns": columns}
    place, axes = layout.panels(fig, shape, len(views) * columns, headed=bool(title), **size)
    text.suptitle(place, title)
    # With 0 per cent, Captum's threshold can be rounded above the sum of all values, and then nothing reaches it.
    how = {"method": method, "outlier_perc": max(outlier_perc, 1e-6), "cmap": _COLOURS[sign]}
    for k, (row, view) in enumerate(zip(rows, views)):
        image, mask, *others = axes[k * columns : (k + 1) * columns]
        draw.image(image, view.rgb, labels[k])
        draw.under_panel(mask, view.rgb, view.best)
        told = f"{words.origin(view.found)}, {words.shown_text(view.found)}"
        text.title(mask, told, boxed=bool(view.found.reached & ~view.found.vacuous))
        for ax, (name, values) in zip(others, maps.items()):
            _draw_attribution(ax, view.rgb, as_array(values[row].double().sum(0)), sign, how)
            text.title(ax, "" if k else name)
    return layout.finished(place, fig)


@styled
def compare_masks(
    found: ExtremalMasks,
    images: Tensor,
    masks: Mapping[str, Tensor],
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """The image under other methods' masks, and under the extremal masks of every area (figure 6).

    What a mask hides is dark and grey, as in :func:`show_mask`. Figure 6 has the masks of Fong and Vedaldi (ICCV 2017),
    which :class:`~captum_extremal.MeaningfulPerturbation` makes.

    Args:
        masks: name -> (N, C, H, W) in [0, 1], 1 where the method keeps or points; the channels are averaged. The mean
            of each is told as its area.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, such as a mask outside of [0, 1].
        IndexError: there is no such image.
    """
    view = check.view(found, images, index, input_index)
    others = check.attributions("masks", masks, len(found.clean_score), view.rgb.shape[:2])
    for name, values in others.items():
        low, high = values.min().item(), values.max().item()
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ValueError(f"masks[{name!r}] must be a mask in [0, 1], got values from {low:.3g} to {high:.3g}")
    count = 1 + len(others) + len(view.panels)
    place, axes = layout.panels(fig, view.rgb.shape, count, base=1.7, least_width=1.3, headed=bool(title))
    text.suptitle(place, title)
    draw.image(axes[0], view.rgb, "image")
    for ax, (name, values) in zip(axes[1:], others.items()):
        mask = as_array(values[index].double().mean(0))
        draw.under_mask(ax, view.rgb, mask)
        text.title(ax, f"{name}\n{100 * mask.mean():.3g} %")
    draw_areas(axes[1 + len(others) :], view, f"{words.origin(view.found)}\n")
    return layout.finished(place, fig)


def _draw_attribution(ax: Axes, rgb: Array, values: Array, sign: str, how: dict[str, Any]) -> None:
    signed = {"positive": values.clip(min=0), "negative": values.clip(max=0)}.get(sign, values)
    largest = float(np.abs(signed).max())
    if largest == 0:
        draw.blank(ax, rgb.shape[:2], f"no {sign} values" if values.any() else "all zero")
        return
    values = values / largest  # Captum scales the map anyway, but warns of small values
    at: Any = {"plt_fig_axis": (ax.figure, ax), "use_pyplot": False}
    captum_figures.visualize_image_attr(values, rgb, sign=sign, alpha_overlay=0.7, **at, **how)
    draw.no_ticks(ax)
