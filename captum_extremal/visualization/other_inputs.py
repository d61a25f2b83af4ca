"""Masks of signals and of volumes, after figure 1 of the paper.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.results.shown import shown_optimum
from captum_extremal.results.tensors import Array, as_array
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import BLUE, FAINT, GOLD, SMALL, TINT, styled

_MOST_CHANNELS = 12  # of a signal that have a line
_ROW, _WIDTH, _SIDE = 0.9, 7.0, 2.3  # inches: of a channel's line, of a signal, a slice's side
_AXES = ("first axis", "second axis", "third axis")


@styled
def show_signal(
    found: ExtremalMasks,
    signals: Tensor,
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """A signal as a line for each channel, the part that the mask of a* keeps coloured, and the mask below.

    What is coloured and shaded is the binary mask of exactly the area. Of more than 12 channels the first 12 are drawn,
    and the figure says so.

    Args:
        found: masks of signals, (N, A, 1, L), or of the positions of a layer, (N, A, 1, l), which are resized.
        signals: (N, C, L), of any values.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    values = check.tensor("signals", signals, ("N", "C", "L"))
    one, panel = _optimal(found, values, index, input_index)
    channels = as_array(values[index])
    shown = channels[:_MOST_CHANNELS]
    count = len(shown)
    place = layout.canvas(fig, _WIDTH, _ROW * (count + 1) + 1.1 + (0.3 if title else 0))
    text.suptitle(place, title)
    *lines, below = place.subplots(count + 1, 1, sharex=True, squeeze=False)[:, 0].tolist()
    for k, (ax, line) in enumerate(zip(lines, shown)):
        _draw_line(ax, line, panel.binary)
        text.write(ax.set_ylabel, f"{k}" if count > 1 else "signal", SMALL)
    below.fill_between(np.arange(len(panel.mask)), panel.mask, color=GOLD, alpha=0.5, linewidth=0)
    below.set_ylim(0, 1.05)
    text.write(below.set_ylabel, "mask", SMALL)
    for ax in (*lines, below):
        _shade(ax, panel.binary)
        draw.grid(ax, "y")
    text.title(lines[0], words.summary(one))
    more = "" if len(channels) == count else f"\nchannels 0 to {count - 1} of {len(channels)}"
    text.under(below, f"position\n{words.mask_text(one, panel.mask)}{more}")
    return layout.finished(place, fig)


def _draw_line(ax: Axes, line: Array, kept: NDArray[np.bool_]) -> None:
    """A channel (L,), what is kept of it in colour."""
    times = np.arange(len(line))
    ax.plot(times, line, color=FAINT, linewidth=0.9)
    ax.plot(times, np.where(kept, line, np.nan), color=BLUE, linewidth=1.3)


@styled
def show_volume(
    found: ExtremalMasks,
    volumes: Tensor,
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """Three slices of a volume or a clip through the middle of the mask of a*: above as they are, below under the mask.

    The middle is the mean position of what the mask keeps; of an empty mask, that of the volume. What the mask hides is
    dark and grey, as in :func:`show_mask`, and the outline is the binary mask's.

    Args:
        found: masks of volumes, (N, A, 1, D, H, W), or of the positions of a layer, (N, A, 1, d, h, w), which are
            resized.
        volumes: for display, (N, 1, D, H, W) or (N, 3, D, H, W) in [0, 1].

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    sizes = ("D", "H", "W")
    values = check.tensor("volumes", volumes, ("N", 1, *sizes), ("N", 3, *sizes), display=True)
    one, panel = _optimal(found, values, index, input_index)
    colours = as_array(values[index].expand(3, -1, -1, -1).permute(1, 2, 3, 0).clamp(0, 1))  # (D, H, W, 3)
    middle = _middle(panel.mask)
    place = layout.canvas(fig, 3 * (_SIDE + 0.15) + 0.3, 2 * _SIDE + 1.6 + (0.3 if title else 0))
    text.suptitle(place, title)
    for axis, (above, below) in enumerate(place.subplots(2, 3).T):
        at: Any = tuple(middle[axis] if k == axis else slice(None) for k in range(3))
        picture = np.asarray(colours[at])
        draw.image(above, picture, f"{_AXES[axis]}: {middle[axis]} of 0 to {panel.mask.shape[axis] - 1}")
        draw.under_panel(below, picture, panel._replace(mask=panel.mask[at], binary=panel.binary[at]))
    told = words.mask_text(one, panel.mask).replace("\n", "; ")
    text.caption(place, f"{words.summary(one)}\n{told}")
    return layout.finished(place, fig)


def _optimal(found: ExtremalMasks, values: Tensor, index: int, input_index: int) -> tuple[ExtremalMasks, check.Panel]:
    """The result of one input, and its mask of a* (*S) in the input's size."""
    masks, axes, size = check.masks_of(found, input_index), values.dim() - 2, tuple(values.shape[2:])
    shapes = {1: "of signals, (N, A, 1, L)", 3: "of volumes, (N, A, 1, D, H, W)"}
    if masks.dim() != 3 + axes or masks.shape[2] != 1:
        raise ValueError(f"found must hold masks {shapes[axes]}, got {tuple(masks.shape)}")
    one = found.image(index)
    is_of_layer = "layer" in one.settings
    if len(values) != len(masks) or (tuple(masks.shape[3:]) != size and not is_of_layer):
        name = "signals" if axes == 1 else "volumes"
        wanted = (len(masks), "C", *(("L", "D, H, W")[axes == 3] if is_of_layer else masks.shape[3:]))
        raise ValueError(f"{name} must be ({', '.join(map(str, wanted))}), got shape {tuple(values.shape)}")
    return one, check.panel(shown_optimum(one, input_index), size)


def _middle(mask: Array) -> list[int]:
    """The mean position of what a mask (*S) keeps."""
    weights = mask if mask.any() else np.ones_like(mask)
    return [round(float((axis * weights).sum() / weights.sum())) for axis in np.indices(mask.shape)]


def _shade(ax: Axes, kept: NDArray[np.bool_]) -> None:
    """Shade the parts of a signal (L,) that are kept."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(int)))
    for begin, end in list(pairwise(edges.tolist()))[::2]:
        ax.axvspan(begin - 0.5, end - 0.5, color=TINT, zorder=0)
