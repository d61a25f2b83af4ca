"""The extremal mask beside other attributions, after figure 2 of the paper."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from captum.attr import visualization as captum_figures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal._checks import check_choice
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import array
from captum_extremal.visualization._masked import draw_masked, view_of
from captum_extremal.visualization._panels import INK, NORMAL, Array, bare, box_title, draw_blank, draw_image, panels
from captum_extremal.visualization._wording import optimal_text

_SIGNS = ("all", "positive", "negative", "absolute_value")
_METHODS = ("blended_heat_map", "heat_map")
_COLOURS = {"all": "RdBu_r", "positive": "inferno", "negative": "inferno", "absolute_value": "inferno"}


def compare(
    found: ExtremalMasks,
    images: Tensor,
    attributions: Mapping[str, Tensor],
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
    method: str = "blended_heat_map",
    sign: str = "absolute_value",
    outlier_perc: float = 2,
) -> Figure:
    """The image, its extremal mask, and other attributions side by side (figure 2).

    Args:
        found, images, index, input_index, title: as :func:`show_mask`.
        attributions: name -> (N, C, H, W), such as Captum's methods return; the channels are summed. A layer's map is
            brought to the image's size by ``captum.attr.LayerAttribution.interpolate``.
        method, sign, outlier_perc: how :func:`captum.attr.visualization.visualize_image_attr` draws them: "heat_map" or
            "blended_heat_map"; "absolute_value", "positive", "negative" or "all".

    Returns:
        a figure of 2 + len(attributions) panels; one of an attribution without values of the sign is blank.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    check_choice("method", method, _METHODS)
    check_choice("sign", sign, _SIGNS)
    view = view_of(found, images, index, input_index)
    maps = _check_attributions(attributions, view.shape, len(found.clean_score), index)
    figure, rows = panels(
        view.shape, 2 + len(maps), base=2.3, title=title, title_lines=1, least_width=1.9, most_columns=6
    )
    axes = [ax for row in rows for ax in row]
    draw_image(axes[0], view.rgb, "image")
    draw_masked(axes[1], view, view.optimal)
    box_title(axes[1], f"extremal, {optimal_text(view.found)}", boxed=bool(view.found.reached))
    for ax, (name, values) in zip(axes[2:], maps.items()):
        _draw_attribution(ax, view.rgb, values, method, sign, outlier_perc)
        ax.set_title(name, fontsize=NORMAL, color=INK)
    return figure


def _check_attributions(attributions: object, shape: tuple[int, int], count: int, index: int) -> dict[str, Array]:
    """The attributions of one image, their channels summed: name -> (H, W)."""
    if not isinstance(attributions, Mapping):
        raise TypeError(f"attributions must be a dict of names and tensors, got {type(attributions).__name__}")
    return {
        str(name): _summed_channels(f"attributions[{name!r}]", values, shape, count, index)
        for name, values in attributions.items()
    }


def _summed_channels(name: str, values: object, shape: tuple[int, int], count: int, index: int) -> Array:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
    if values.dim() != 4 or len(values) != count or tuple(values.shape[2:]) != shape:
        raise ValueError(
            f"{name} must be ({count}, C, {shape[0]}, {shape[1]}), got shape {tuple(values.shape)}: "
            "captum.attr.LayerAttribution.interpolate brings a layer's map to the image's size"
        )
    summed = array(values[index].double().sum(0))
    if not np.isfinite(summed).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return summed


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
        outlier_perc=outlier_perc,
        cmap=_COLOURS[sign],
        alpha_overlay=0.7,
        use_pyplot=False,
    )
    bare(ax)
