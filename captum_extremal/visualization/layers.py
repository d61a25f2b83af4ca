"""What layers and their channels see, after figures 8, 9 and 10 of the paper."""

from __future__ import annotations

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
    as_array,
    as_rgb,
    as_tuple,
    check_found,
    check_heat_maps,
    check_image,
    check_images,
    check_names,
    check_values,
)
from captum_extremal.visualization._panels import (
    BLUE,
    RED,
    SMALL,
    draw_image,
    grey,
    new_figure,
    panel_size,
    panels,
    write,
    write_row_name,
)
from captum_extremal.visualization._wording import number, summary
from captum_extremal.visualization.curves import draw_curves

_LEAST_TITLE_WIDTH, _CURVES_WIDTH, _LEAST_CURVES_HEIGHT, _LEGEND_WIDTH = 2.8, 4.0, 2.4, 3.0  # inches
_INVERSION = 2.3  # inches, a panel's side
_OPACITY = 0.85  # of the heat map where it is strongest


def show_channels(
    found: ExtremalMasks, heat_maps: Tensor, images: Tensor, index: int = 0, *, title: str | None = None
) -> Figure:
    """Where the channels of a* look, and the score against the number of channels (figure 8).

    A heat map without negative values goes from 0, where the grey image shows, over red to its maximum, yellow. One
    with negative values is red above 0 and blue below, the more opaque the closer to its largest magnitude.

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
        :func:`~captum_extremal.visualization.show_curves`, but the deleted score faint (for a game that only removes,
        the preserved score).

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    if check_found(found).covers != "channels":
        shapes = " and ".join(str(tuple(masks.shape)) for masks in as_tuple(found.masks))
        raise ValueError(
            f"found must hold masks of channels, (N, A, K), got {shapes}: "
            "show_mask draws masks of images, show_curves the scores of any"
        )
    one = found.image(index)
    count = len(found.clean_score)
    maps = check_heat_maps(heat_maps, count)
    pictures = check_images("images", images, count)
    width, height = panel_size(_size(pictures), 3.2)
    width = max(width, _LEAST_TITLE_WIDTH)  # a narrow picture still needs room for its title
    tall = max(height, _LEAST_CURVES_HEIGHT) + (1.2 if title else 0.9)
    figure = new_figure(width + _CURVES_WIDTH + _LEGEND_WIDTH, tall, title)
    left, right = figure.subplots(1, 2, width_ratios=[width, _CURVES_WIDTH])
    _draw_heat(left, pictures[index], maps[index], summary(one))
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
    """What a layer sees of an image, and what its channels of a* see (figure 9).

    Args:
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        heat_maps: (N, 1, h, w) or (N, h, w), drawn as by :func:`show_channels`.
        whole: inversions of the whole activation, (N, 3, H', W') in [0, 1], of any size, such as
            ``FeatureInversion(model, layer).invert(x).images``.
        masked: those of the masked activation, ``...invert(x, channel_mask=found.optimal_mask()).images``.
        titles: N names of the rows.
        title: a line above the figure.

    Returns:
        a figure of one row per image: the heat map over it, and its two inversions.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
    """
    pictures = check_images("images", images)
    count, size = len(pictures), _size(pictures)
    maps = check_heat_maps(heat_maps, count)
    inversions = [check_images("whole", whole, count), check_images("masked", masked, count)]
    names = [""] * count if titles is None else check_names("titles", titles, count, "image")
    figure, axes = panels(size, 3 * count, base=_INVERSION, least_width=2.2, title=title, title_lines=0, most_columns=3)
    for k, name in enumerate(names):
        left, *others = axes[3 * k : 3 * k + 3]
        _draw_heat(left, pictures[k], maps[k], "" if k else "image and heat map")
        write_row_name(left, name, panel_size(size, _INVERSION)[1])
        for ax, of_images, what in zip(others, inversions, ("whole", "masked")):
            draw_image(ax, as_rgb(of_images[k]), "" if k else f"inversion, {what} activation")
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
    pictures = check_images("examples", examples)
    count = len(pictures)
    labels = [] if values is None else [number(value) for value in check_values("values", values, count, "example")]
    figure, (first, *others) = panels(
        _size(pictures), 1 + count, base=1.8, least_width=1.2, title=title, title_lines=2, most_columns=7
    )
    draw_image(first, as_rgb(picture), "inversion")
    for ax, example in zip(others, pictures):
        draw_image(ax, as_rgb(example))
    for ax, label in zip(others, labels):
        write(ax.set_xlabel, label, SMALL)
    return figure


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _draw_heat(ax: Axes, image: Tensor, heat_map: Tensor, title: str) -> None:
    """A heat map (h, w) over an image (C, H, W): opaque in proportion to its magnitude, over the grey image."""
    resized = LayerAttribution.interpolate(heat_map.detach().cpu().double()[None, None], _size(image), "bilinear")
    values = as_array(resized[0, 0])
    magnitude = np.abs(values)
    strength = magnitude / (magnitude.max() or 1.0)
    if (values < 0).any():
        colours = np.where(values[..., None] > 0, to_rgb(RED), to_rgb(BLUE))
    else:
        colours = colormaps["inferno"](strength)[..., :3]
    opacity = _OPACITY * strength[..., None]
    draw_image(ax, opacity * colours + (1 - opacity) * grey(as_rgb(image))[..., None], title)
    if not values.any():
        write(ax.set_xlabel, "heat map: all zero", SMALL)
