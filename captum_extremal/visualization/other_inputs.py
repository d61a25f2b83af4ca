"""Masks of signals and of volumes, after figure 1 of the paper."""

from itertools import pairwise
from typing import Any

import numpy as np
from captum.attr import LayerAttribution
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal.masks.binary import binarised
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw
from captum_extremal.visualization.masks import draw_masked, under_mask

_MOST_CHANNELS = 12  # of a signal that have a line
_ROW, _WIDTH, _SIDE = 0.9, 7.0, 2.3  # inches: of a channel's line, of a signal, a slice's side
_MODES = {1: "linear", 3: "trilinear"}  # by the number of axes
_AXES = ("first axis", "second axis", "third axis")


def show_signal(
    found: ExtremalMasks, signals: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """A signal as a line for each channel, the part that the mask of a* keeps coloured, and the mask below.

    What is coloured and shaded is the binary mask of exactly the area. Of more than 12 channels the first 12 are drawn,
    and the figure says so.

    Args:
        found: masks of signals, (N, A, 1, L), or of the positions of a layer, (N, A, 1, l), which are resized.
        signals: (N, C, L), of any values.
    """
    values = check.tensor("signals", signals, ("N", "C", "L"))
    one, mask, kept = _optimal(found, values, index, input_index)
    channels = check.as_array(values[index])
    shown = channels[:_MOST_CHANNELS]
    count = len(shown)
    figure = draw.new_figure(_WIDTH, _ROW * (count + 1) + 1.1 + (0.3 if title else 0), title)
    axes = figure.subplots(count + 1, 1, sharex=True, squeeze=False)[:, 0]
    times = np.arange(len(mask))
    for k, (ax, line) in enumerate(zip(axes, shown)):
        ax.plot(times, line, color=draw.FAINT, linewidth=0.9)
        ax.plot(times, np.where(kept, line, np.nan), color=draw.BLUE, linewidth=1.3)
        draw.write(ax.set_ylabel, f"{k}" if count > 1 else "signal", draw.SMALL)
    axes[-1].fill_between(times, mask, color=draw.MARK, alpha=0.5, linewidth=0)
    axes[-1].set_ylim(0, 1.05)
    draw.write(axes[-1].set_ylabel, "mask", draw.SMALL)
    for ax in axes:
        _shade(ax, kept)
        draw.grid(ax, "y")
    draw.title(axes[0], draw.summary(one))
    more = "" if len(channels) == count else f"\nchannels 0 to {count - 1} of {len(channels)}"
    draw.write(axes[-1].set_xlabel, f"position\n{under_mask(one, mask)}{more}", draw.SMALL)
    return figure


def show_volume(
    found: ExtremalMasks, volumes: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """Three slices of a volume or a clip through the middle of the mask of a*: above as they are, below under the mask.

    The middle is the mean position of what the mask keeps; of an empty mask, that of the volume. What the mask hides is
    dark and grey, as in :func:`show_mask`, and the outline is the binary mask's.

    Args:
        found: masks of volumes, (N, A, 1, D, H, W), or of the positions of a layer, (N, A, 1, d, h, w), which are
            resized.
        volumes: for display, (N, 1, D, H, W) or (N, 3, D, H, W) in [0, 1].
    """
    sizes = ("D", "H", "W")
    values = check.tensor("volumes", volumes, ("N", 1, *sizes), ("N", 3, *sizes), display=True)
    one, mask, kept = _optimal(found, values, index, input_index)
    colours = check.as_array(values[index].expand(3, -1, -1, -1).permute(1, 2, 3, 0).clamp(0, 1))  # (D, H, W, 3)
    middle = _middle(mask)
    figure = draw.new_figure(3 * (_SIDE + 0.15) + 0.3, 2 * _SIDE + 1.6, title)
    area, scores = check.shown_area(one), (float(one.optimal_score), float(one.optimal_complement_score))
    for axis, (above, below) in enumerate(figure.subplots(2, 3).T):
        at: Any = tuple(middle[axis] if k == axis else slice(None) for k in range(3))
        picture = np.asarray(colours[at])
        draw.image(above, picture, f"{_AXES[axis]}: {middle[axis]} of 0 to {mask.shape[axis] - 1}")
        panel = check.Panel(area, mask[at], kept[at], scores, bool(one.reached), float("nan"), None)
        draw_masked(below, picture, panel)
    told = under_mask(one, mask).replace("\n", "; ")
    draw.write(figure.supxlabel, f"{draw.summary(one)}\n{told}", draw.SMALL)
    return figure


def _optimal(
    found: ExtremalMasks, values: Tensor, index: int, input_index: int
) -> tuple[ExtremalMasks, check.Array, NDArray[np.bool_]]:
    """The result of one input, its mask of a* (*S), and the binary mask of the same area."""
    of_inputs, axes, size = check.as_tuple(check.result(found).masks), values.dim() - 2, tuple(values.shape[2:])
    check_count("input_index", input_index, at_least=0)
    if input_index >= len(of_inputs):
        raise ValueError(f"input_index must be below {len(of_inputs)}, the number of masks, got {input_index}")
    masks = of_inputs[input_index]
    shapes = {1: "of signals, (N, A, 1, L)", 3: "of volumes, (N, A, 1, D, H, W)"}
    if masks.dim() != 3 + axes or masks.shape[2] != 1:
        raise ValueError(f"found must hold masks {shapes[axes]}, got {tuple(masks.shape)}")
    one = found.image(index)
    is_of_layer = "layer" in one.settings
    if len(values) != len(masks) or (tuple(masks.shape[3:]) != size and not is_of_layer):
        name = "signals" if axes == 1 else "volumes"
        wanted = (len(masks), "C", *(("L", "D, H, W")[axes == 3] if is_of_layer else masks.shape[3:]))
        raise ValueError(f"{name} must be ({', '.join(map(str, wanted))}), got shape {tuple(values.shape)}")
    mask = check.as_tuple(one.optimal_masks)[input_index]  # (1, 1, *S)
    if tuple(mask.shape[2:]) != size:
        mask = LayerAttribution.interpolate(mask, size, _MODES[axes])
    binary = binarised(mask, mask.new_tensor([check.shown_area(one)]))
    return one, check.as_array(mask[0, 0]), binary[0, 0].cpu().numpy()


def _middle(mask: check.Array) -> list[int]:
    """The mean position of what a mask (*S) keeps."""
    weights = mask if mask.any() else np.ones_like(mask)
    return [round(float((axis * weights).sum() / weights.sum())) for axis in np.indices(mask.shape)]


def _shade(ax: Axes, kept: NDArray[np.bool_]) -> None:
    """Shade the parts of a signal (L,) that are kept."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(int)))
    for begin, end in list(pairwise(edges.tolist()))[::2]:
        ax.axvspan(begin - 0.5, end - 0.5, color=draw.BOX["facecolor"], zorder=0)
