"""Extremal masks beside other attributions, after figure 2 of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from captum.attr import visualization as captum_figures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal._checks import check_choice, check_number
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import array, check_attributions, check_names
from captum_extremal.visualization._masked import draw_masked, view_of
from captum_extremal.visualization._panels import (
    INK,
    LETTERS,
    NORMAL,
    Array,
    bare,
    box_title,
    draw_blank,
    draw_image,
    panel_size,
    panels,
)
from captum_extremal.visualization._wording import kind, optimal_text, wrapped

_SIGNS = ("all", "positive", "negative", "absolute_value")
_METHODS = ("blended_heat_map", "heat_map")
_COLOURS = {"all": "RdBu_r", "positive": "inferno", "negative": "inferno", "absolute_value": "inferno"}

# Inches: a panel's side and the room for its title, of one image and of each of several.
_ALONE, _IN_ROWS = (2.3, 1.9), (1.6, 1.6)
_MOST_COLUMNS = 6  # of one image

# With 0, Captum's threshold can round to more than the sum of all values, which nothing reaches.
_LEAST_OUTLIERS = 1e-6  # per cent


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
        attributions: name -> (N, C, H, W), such as Captum's methods return; the channels are summed. A layer's map is
            brought to the image's size by ``captum.attr.LayerAttribution.interpolate``.
        index: which of the N images; of several, such as ``range(3)``, each has a row.
        names: of the images that are drawn, such as their targets.
        method, sign, outlier_perc: how :func:`captum.attr.visualization.visualize_image_attr` draws them: "heat_map" or
            "blended_heat_map"; "positive", in which the brightest place is where the metrics say that a map points,
            "absolute_value", "negative" or "all".

    Returns:
        a figure of 2 + len(attributions) panels an image; one of an attribution without values of the sign is blank.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    check_choice("method", method, _METHODS)
    check_choice("sign", sign, _SIGNS)
    check_number("outlier_perc", outlier_perc, at_least=0, below=100)
    chosen = list(index) if isinstance(index, Sequence) else [index]
    if not chosen:
        raise ValueError("index must name at least one image, got none")
    views = [view_of(found, images, one, input_index) for one in chosen]
    labels = [""] * len(views) if names is None else check_names("names", names, len(views), "image")
    maps = check_attributions("attributions", attributions, views[0].shape, len(found.clean_score))
    columns = 2 + len(maps)
    base, width = _ALONE if len(views) == 1 else _IN_ROWS
    letters = int(LETTERS * width)
    _, height = panel_size(views[0].shape, base)
    figure, grid = panels(
        views[0].shape,
        len(views) * columns,
        base=base,
        title=title,
        title_lines=1 if len(views) == 1 else 2,
        least_width=width,
        most_columns=_MOST_COLUMNS if len(views) == 1 else columns,
    )
    axes = [ax for line in grid for ax in line]
    for row, (one, view) in enumerate(zip(chosen, views)):
        image, mask, *others = axes[row * columns : (row + 1) * columns]
        draw_image(image, view.rgb, "" if row else "image")
        image.set_ylabel(wrapped(labels[row], int(LETTERS * height)), fontsize=NORMAL, color=INK)
        draw_masked(mask, view, view.optimal)
        told = f"{kind(view.found)}, {optimal_text(view.found)}"
        box_title(mask, wrapped(told, letters), boxed=bool(view.found.reached))
        for ax, (name, values) in zip(others, maps.items()):
            _draw_attribution(ax, view.rgb, array(values[one].double().sum(0)), method, sign, outlier_perc)
            ax.set_title("" if row else wrapped(name, letters), fontsize=NORMAL, color=INK)
    return figure


def _draw_attribution(ax: Axes, rgb: Array, values: Array, method: str, sign: str, outlier_perc: float) -> None:
    signed = {"positive": values.clip(min=0), "negative": values.clip(max=0)}.get(sign, values)
    largest = float(np.abs(signed).max())
    if largest == 0:
        draw_blank(ax, rgb.shape[:2], sign, all_zero=not values.any())
        return
    captum_figures.visualize_image_attr(
        # Captum scales the map anyway, but warns of small values.
        values / largest,
        rgb,
        method=method,
        sign=sign,
        plt_fig_axis=(ax.figure, ax),  # type: ignore[arg-type]
        outlier_perc=max(outlier_perc, _LEAST_OUTLIERS),
        cmap=_COLOURS[sign],
        alpha_overlay=0.7,
        use_pyplot=False,
    )
    bare(ax)
