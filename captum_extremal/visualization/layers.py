"""What layers and their channels see, after figures 8, 9 and 10 of the paper."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from captum.attr import LayerAttribution
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import (
    array,
    as_rgb,
    check_found,
    check_heat_maps,
    check_image,
    check_images,
    check_names,
    check_values,
)
from captum_extremal.visualization._panels import (
    BLUE,
    GREY,
    INK,
    LARGE,
    LETTERS,
    NORMAL,
    RED,
    SMALL,
    Array,
    bare,
    draw_image,
    new_figure,
    panel_size,
    panels,
)
from captum_extremal.visualization._wording import number, optimal_text, score_text
from captum_extremal.visualization.curves import draw_curves

_LEAST_TITLE_WIDTH, _CURVES_WIDTH, _LEAST_CURVES_HEIGHT, _LEGEND_WIDTH = 2.8, 4.0, 2.4, 3.0  # inches
_OPACITY = 0.85  # of the heat map where it is strongest


def show_channels(
    found: ExtremalMasks, heat_maps: Tensor, images: Tensor, index: int = 0, *, title: str | None = None
) -> Figure:
    """Where the channels of a* look, and the score against the number of channels (figure 8).

    A heat map without negative values goes from 0, where the grey image shows, over red to its maximum, yellow. One
    with negative values is red above 0 and blue below, the more so the closer to its largest magnitude.

    Args:
        found: masks of channels, (N, A, K).
        heat_maps: (N, 1, h, w) or (N, h, w): equation 11, such as
            ``method.attribute(x, target=target, multiply_by_activation=True).sum(1, keepdim=True)``. They are resized
            to the images.
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        index: which of the N images.
        title: a line above the figure, such as the target's name.

    Returns:
        a figure of two panels: the heat map over the image, and the scores as in
        :func:`~captum_extremal.visualization.show_curves`, but the one of what is left faint (for a game that only
        removes, the one of what is kept).

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    one = _check_channels(found).image(index)
    count = len(found.clean_score)
    maps = check_heat_maps(heat_maps, count)
    pictures = check_images("images", images, count)
    figure, left, right = _picture_and_curves((pictures.shape[2], pictures.shape[3]), title)
    _draw_heat(left, pictures[index], maps[index])
    left.set_title(f"{optimal_text(one)}\n{score_text(one)}", fontsize=NORMAL, color=INK)
    draw_curves(right, one, faint=True)
    # Beside the axes: within them it would hide one curve or the other.
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL, frameon=False)
    return figure


def show_inversions(
    images: Tensor,
    heat_maps: Tensor,
    whole: Tensor,
    masked: Tensor,
    *,
    titles: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """What a layer has seen, and what its channels of a* have (figure 9).

    Args:
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        heat_maps: (N, 1, h, w) or (N, h, w), drawn as by :func:`show_channels`.
        whole: inversions of the whole activation, (N, 3, H', W') in [0, 1], of any size, such as
            ``FeatureInversion(model, layer).invert(x).images``.
        masked: those of the masked activation, ``...invert(x, channel_mask=found.optimal_mask()).images``.
        titles: N names of the rows.
        title: a line above the figure.

    Returns:
        a figure of a row an image: the heat map over it, and its two inversions.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
    """
    pictures = check_images("images", images, None)
    count = len(pictures)
    maps = check_heat_maps(heat_maps, count)
    inversions = [check_images("whole", whole, count), check_images("masked", masked, count)]
    names = [] if titles is None else check_names("titles", titles, count, "image")
    shape = (pictures.shape[2], pictures.shape[3])
    figure, rows = panels(shape, 3 * count, base=2.3, title=title, title_lines=0, least_width=2.2, most_columns=3)
    for k, (left, middle, right) in enumerate(rows):
        _draw_heat(left, pictures[k], maps[k])
        for ax, of_images in zip((middle, right), inversions):
            draw_image(ax, as_rgb(of_images[k]), "")
    for ax, name in zip(rows[0], ("image and heat map", "inversion, whole activation", "inversion, masked activation")):
        ax.set_title(name, fontsize=NORMAL, color=INK)
    for (left, *_), name in zip(rows, names):
        letters = int(LETTERS * panel_size(shape, 2.3)[1])
        left.set_ylabel(textwrap.fill(name, letters), fontsize=NORMAL, color=INK)
    return figure


def show_class_channel(
    inversion: Tensor,
    examples: Tensor,
    *,
    values: Sequence[float] | Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """One channel: the image made to excite it, and the images that excite it most (figure 10).

    Args:
        inversion: (3, H, W) in [0, 1], such as ``FeatureInversion(model, layer).invert_channels(k).images[0]``.
        examples: M images (M, 3, H', W') or (M, 1, H', W') in [0, 1], in the order in which to draw them.
        values: M numbers to write under them, such as the channel's mean activations.
        title: a line above the figure, such as the class's name and the channel's number.

    Returns:
        a figure of M + 1 panels.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
    """
    picture = check_image("inversion", inversion)
    pictures = check_images("examples", examples, None)
    count = len(pictures)
    labels = [] if values is None else [number(value) for value in check_values("values", values, count, "example")]
    shape = (pictures.shape[2], pictures.shape[3])
    figure, rows = panels(shape, 1 + count, base=1.8, title=title, title_lines=2, least_width=1.2, most_columns=7)
    axes = [ax for row in rows for ax in row]
    draw_image(axes[0], as_rgb(picture), "inversion")
    for ax, example in zip(axes[1:], pictures):
        draw_image(ax, as_rgb(example), "")
    for ax, label in zip(axes[1:], labels):
        ax.set_xlabel(label, fontsize=SMALL, color=INK)
    return figure


def _check_channels(found: object) -> ExtremalMasks:
    result = check_found(found)
    for masks in result.masks if isinstance(result.masks, tuple) else (result.masks,):
        if masks.dim() != 3:
            raise ValueError(
                f"found must hold masks of channels, (N, A, K), got {tuple(masks.shape)}: "
                "show_mask draws masks of images, show_curves the scores of any"
            )
    return result


def _picture_and_curves(shape: tuple[int, int], title: str | None) -> tuple[Figure, Axes, Axes]:
    """Axes for a picture of this shape (H, W), and beside it for curves with their legend."""
    width, height = panel_size(shape, 3.2)
    tall = max(height, _LEAST_CURVES_HEIGHT) + (1.2 if title else 0.9)
    # A narrow picture still needs room for its title.
    width = max(width, _LEAST_TITLE_WIDTH)
    figure = new_figure(width + _CURVES_WIDTH + _LEGEND_WIDTH, tall)
    if title:
        figure.suptitle(title, fontsize=LARGE, color=INK)
    left, right = figure.subplots(1, 2, width_ratios=[width, _CURVES_WIDTH])
    return figure, left, right


def _draw_heat(ax: Axes, image: Tensor, heat_map: Tensor) -> None:
    """A heat map (h, w) over an image (C, H, W)."""
    values = _resized(heat_map, (image.shape[1], image.shape[2]))
    ax.imshow(_overlaid(as_rgb(image), values), interpolation="nearest")
    bare(ax)
    if not values.any():
        ax.set_xlabel("heat map: all zero", fontsize=SMALL, color=INK)


def _resized(heat_map: Tensor, shape: tuple[int, int]) -> Array:
    rows = heat_map.detach().cpu().double()[None, None]
    return array(LayerAttribution.interpolate(rows, shape, "bilinear")[0, 0])


def _overlaid(rgb: Array, values: Array) -> Array:
    """The grey image (H, W, 3) under the colours of the values (H, W), opaque in proportion to their magnitude."""
    largest = np.abs(values).max()
    strength = np.abs(values)[..., None] / (largest if largest > 0 else 1.0)
    if (values < 0).any():
        colours = np.where(values[..., None] > 0, to_rgb(RED), to_rgb(BLUE))
    else:
        colours = colormaps["inferno"](strength[..., 0])[..., :3]
    opacity = _OPACITY * strength
    picture: Array = opacity * colours + (1 - opacity) * (rgb @ GREY)[..., None]
    return picture
