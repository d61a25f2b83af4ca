"""What layers and their channels see, after figures 8, 9 and 10 of the paper.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from captum.attr import LayerAttribution
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.results.tensors import as_array, as_tuple
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import BLUE, ORANGE, styled
from captum_extremal.visualization.curves import draw_curves

_INVERSION = 2.3  # inches, a panel's side
_WIDE = 8.0  # inches, from which on the curves stand beside the heat map
_CURVES, _LEGEND = (4.0, 2.4), 2.2  # inches: of the curves, and the width of their legend


@styled
def show_channels(
    found: ExtremalMasks,
    images: Tensor,
    index: int = 0,
    *,
    heat_maps: Tensor,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
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

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, such as masks of positions, or ``found``
            holds a* alone.
        IndexError: there is no such image.
    """
    if check.result(found).covers != "channels":
        shapes = " and ".join(str(tuple(masks.shape)) for masks in as_tuple(found.masks))
        others = "show_mask draws masks of images, show_curves the scores of any"
        raise ValueError(f"found must hold masks of channels, (N, A, K), got {shapes}: {others}")
    one = check.with_areas(found, "attribute draws the heat map of a*").image(index)
    maps = check.heat_maps(heat_maps, len(found.clean_score))
    pictures = check.images("images", images, len(maps))
    # Inches: at least for the title over a narrow picture and for the curves.
    width, height = map(max, layout.panel_size(pictures.shape[2:], 3.2), (2.8, _CURVES[1]))
    place = layout.canvas(fig, width + _CURVES[0] + _LEGEND + 0.8, height + (1.2 if title else 0.9))
    text.suptitle(place, title)
    legend: dict[str, Any]
    if layout.inches(place)[0] >= _WIDE:
        left, right = place.subplots(1, 2, width_ratios=[width, _CURVES[0]])
        legend = {"loc": "outside center right"}
    else:
        left, right = place.subplots(2, 1, height_ratios=[height, _CURVES[1]])
        legend = {"loc": "outside lower center", "ncols": 2}
    _draw_heat(left, pictures[index], maps[index], words.summary(one))
    draw_curves(right, one, faint=True)
    place.legend(handles=right.get_legend_handles_labels()[0], **legend)  # within the axes it would hide a curve
    return layout.finished(place, fig)


@styled
def show_inversions(
    images: Tensor,
    heat_maps: Tensor,
    whole: Tensor,
    masked: Tensor,
    index: int | Sequence[int] | None = None,
    *,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """What a layer sees of an image, and what its channels of a* see, one row per image (figure 9).

    Args:
        heat_maps: as :func:`show_channels`.
        whole: inversions of the whole activation, (N, 3, H', W') in [0, 1], of any size, such as
            ``FeatureInversion(model, layer).invert(x).images``.
        masked: those of the masked activation, ``...invert(x, channel_mask=found.optimal_mask()).images``.
        index: which of the N images; all of them by default.
        titles: of the images that are drawn, such as their targets.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    pictures = check.images("images", images)
    count = len(pictures)
    maps = check.heat_maps(heat_maps, count)
    inversions = [check.images("whole", whole, count), check.images("masked", masked, count)]
    rows = check.rows_of("index", index, count)
    names = check.names("titles", titles, ["image and heat map", *[""] * (len(rows) - 1)], "image")
    at: dict[str, Any] = {
        "base": _INVERSION,
        "least_width": 2.2,
        "title_lines": 0 if titles is None else 1,
        "columns": 3,
    }
    place, axes = layout.panels(fig, pictures.shape[2:], 3 * len(rows), headed=bool(title), **at)
    text.suptitle(place, title)
    for k, (row, name) in enumerate(zip(rows, names)):
        left, *others = axes[3 * k : 3 * k + 3]
        _draw_heat(left, pictures[row], maps[row], name)
        for ax, of_images, what in zip(others, inversions, ("whole", "masked")):
            draw.image(ax, check.as_rgb(of_images[row]), "" if k else f"inversion, {what} activation")
    return layout.finished(place, fig)


@styled
def show_class_channel(
    inversion: Tensor,
    examples: Tensor,
    *,
    values: Sequence[float] | Tensor | None = None,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """One channel: the image made to excite it, and the images that excite it most (figure 10).

    Args:
        inversion: (3, H, W) in [0, 1], such as ``FeatureInversion(model, layer).invert_channels(k).images[0]``.
        examples: M images (M, 3, H', W') or (M, 1, H', W') in [0, 1], in the order in which to draw them.
        values: M numbers to write under them, such as the channel's mean activations.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
    """
    picture = check.as_rgb(check.tensor("inversion", inversion, (3, "H", "W"), (1, "H", "W"), display=True))
    pictures = check.images("examples", examples)
    count, size = len(pictures), pictures.shape[2:]
    told = [""] * count if values is None else map(words.number, check.numbers("values", values, count, "example"))
    place, (first, *others) = layout.panels(
        fig, size, 1 + count, base=1.8, least_width=1.2, headed=bool(title), most_columns=7
    )
    text.suptitle(place, title)
    draw.image(first, picture, "inversion")
    for ax, example, under in zip(others, pictures, told):
        draw.image(ax, check.as_rgb(example))
        text.under(ax, under)
    return layout.finished(place, fig)


def _draw_heat(ax: Axes, image: Tensor, heat_map: Tensor, title: str) -> None:
    """A heat map (h, w) over the grey image (C, H, W), opaque in proportion to its magnitude."""
    rows = heat_map.detach().cpu().double()[None, None]
    values = as_array(LayerAttribution.interpolate(rows, tuple(image.shape[1:]), "bilinear")[0, 0])
    strength = np.abs(values) / (np.abs(values).max() or 1.0)
    if (values < 0).any():
        colours = np.where(values[..., None] > 0, to_rgb(ORANGE), to_rgb(BLUE))
    else:
        colours = colormaps["inferno"](strength)[..., :3]
    opacity = 0.85 * strength[..., None]
    draw.image(ax, opacity * colours + (1 - opacity) * draw.grey(check.as_rgb(image))[..., None], title)
    if not values.any():
        text.under(ax, "heat map: all zero")
