"""What layers and their channels see, after figures 8, 9 and 10 of the paper."""

from collections.abc import Sequence

import numpy as np
from captum.attr import LayerAttribution
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw
from captum_extremal.visualization.masks import draw_curves

_INVERSION = 2.3  # inches, a panel's side


def show_channels(
    found: ExtremalMasks, heat_maps: Tensor, images: Tensor, index: int = 0, *, title: str | None = None
) -> Figure:
    """Where the channels of a* look, and the score against the number of channels (figure 8).

    A heat map without negative values goes from 0, where the grey image shows, over red to its maximum, yellow. One
    with negative values is red above 0 and blue below, the more opaque the closer to its largest magnitude. The scores
    are drawn as by :func:`show_curves`, but the deleted score faint (for a game that only removes, the preserved one).

    Args:
        found: masks of channels, (N, A, K).
        heat_maps: (N, 1, h, w) or (N, h, w): equation 11, such as
            ``method.attribute(x, target=target, multiply_by_activation=True).sum(1, keepdim=True)``. They are resized
            to the images.
    """
    if check.result(found).covers != "channels":
        shapes = " and ".join(str(tuple(masks.shape)) for masks in check.as_tuple(found.masks))
        others = "show_mask draws masks of images, show_curves the scores of any"
        raise ValueError(f"found must hold masks of channels, (N, A, K), got {shapes}: {others}")
    one = check.with_areas(found, "attribute draws the heat map of a*").image(index)
    maps = check.heat_maps(heat_maps, len(found.clean_score))
    pictures = check.images("images", images, len(maps))
    # Inches: at least for the title over a narrow picture and for the curves, then for the curves and their legend.
    width, height = map(max, draw.panel_size(pictures.shape[2:], 3.2), (2.8, 2.4))
    figure = draw.new_figure(width + 4.0 + 3.0, height + (1.2 if title else 0.9), title)
    left, right = figure.subplots(1, 2, width_ratios=[width, 4.0])
    _draw_heat(left, pictures[index], maps[index], draw.summary(one))
    draw_curves(right, one, faint=True)
    # Beside the axes: within them it would hide one curve or the other.
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=draw.SMALL, frameon=False)
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
    """What a layer sees of an image, and what its channels of a* see, one row per image (figure 9).

    Args:
        heat_maps: as :func:`show_channels`.
        whole: inversions of the whole activation, (N, 3, H', W') in [0, 1], of any size, such as
            ``FeatureInversion(model, layer).invert(x).images``.
        masked: those of the masked activation, ``...invert(x, channel_mask=found.optimal_mask()).images``.
        titles: N names of the rows.
    """
    pictures = check.images("images", images)
    count, size = len(pictures), pictures.shape[2:]
    maps = check.heat_maps(heat_maps, count)
    inversions = [check.images("whole", whole, count), check.images("masked", masked, count)]
    names = check.names("titles", titles, [""] * count, "image")
    figure, axes = draw.panels(size, 3 * count, title, base=_INVERSION, least_width=2.2, title_lines=0, most_columns=3)
    for k, name in enumerate(names):
        left, *others = axes[3 * k : 3 * k + 3]
        _draw_heat(left, pictures[k], maps[k], "" if k else "image and heat map")
        draw.row_name(left, name, draw.panel_size(size, _INVERSION)[1])
        for ax, of_images, what in zip(others, inversions, ("whole", "masked")):
            draw.image(ax, check.as_rgb(of_images[k]), "" if k else f"inversion, {what} activation")
    return figure


def show_class_channel(
    inversion: Tensor, examples: Tensor, *, values: Sequence[float] | Tensor | None = None, title: str | None = None
) -> Figure:
    """One channel: the image made to excite it, and the images that excite it most (figure 10).

    Args:
        inversion: (3, H, W) in [0, 1], such as ``FeatureInversion(model, layer).invert_channels(k).images[0]``.
        examples: M images (M, 3, H', W') or (M, 1, H', W') in [0, 1], in the order in which to draw them.
        values: M numbers to write under them, such as the channel's mean activations.
    """
    picture = check.as_rgb(check.tensor("inversion", inversion, (3, "H", "W"), (1, "H", "W"), display=True))
    pictures = check.images("examples", examples)
    count, size = len(pictures), pictures.shape[2:]
    told = [""] * count if values is None else map(draw.number, check.numbers("values", values, count, "example"))
    figure, (first, *others) = draw.panels(size, 1 + count, title, base=1.8, least_width=1.2, most_columns=7)
    draw.image(first, picture, "inversion")
    for ax, example, under in zip(others, pictures, told):
        draw.image(ax, check.as_rgb(example))
        draw.write(ax.set_xlabel, under, draw.SMALL)
    return figure


def _draw_heat(ax: Axes, image: Tensor, heat_map: Tensor, title: str) -> None:
    """A heat map (h, w) over the grey image (C, H, W), opaque in proportion to its magnitude."""
    rows = heat_map.detach().cpu().double()[None, None]
    values = check.as_array(LayerAttribution.interpolate(rows, tuple(image.shape[1:]), "bilinear")[0, 0])
    strength = np.abs(values) / (np.abs(values).max() or 1.0)
    if (values < 0).any():
        colours = np.where(values[..., None] > 0, to_rgb(draw.RED), to_rgb(draw.BLUE))
    else:
        colours = colormaps["inferno"](strength)[..., :3]
    opacity = 0.85 * strength[..., None]
    draw.image(ax, opacity * colours + (1 - opacity) * draw.grey(check.as_rgb(image))[..., None], title)
    if not values.any():
        draw.write(ax.set_xlabel, "heat map: all zero", draw.SMALL)
