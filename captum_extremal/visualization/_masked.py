"""One image under its masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw
from captum_extremal.visualization import _wording as words
from captum_extremal.visualization._arguments import Array, as_array, as_rgb, as_tuple

_HIDDEN = 0.28  # brightness of the hidden pixels' grey: visible, but clearly not shown
_LEAST_CONTRAST = 0.25  # between a mask's mean inside and outside of its binary mask


@dataclass(frozen=True)
class View:
    """The result of one image, the picture (H, W, 3) in [0, 1], its soft and its binary masks (A, H, W)."""

    found: ExtremalMasks
    rgb: Array
    masks: Array
    binary: NDArray[np.bool_]


def view_of(found: ExtremalMasks, images: Tensor, index: int, input_index: int) -> View:
    """What the figures draw of one image.

    Raises:
        TypeError, ValueError: the masks are not of images, or the images not of the masks' size and in [0, 1].
        IndexError: there is no such image.
    """
    of_inputs = as_tuple(check.result(found).masks)
    check_count("input_index", input_index, at_least=0)
    if input_index >= len(of_inputs):
        raise ValueError(f"input_index must be below {len(of_inputs)}, the number of masks, got {input_index}")
    masks = of_inputs[input_index]
    if masks.dim() != 5:
        others = "show_channels draws masks of channels, " if found.covers == "channels" else ""
        others += "show_curves draws the scores of any"
        raise ValueError(f"found must hold masks of images, (N, A, 1, H, W), got {tuple(masks.shape)}: {others}")
    one = found.image(index)
    pictures = check.images("images", images, len(masks), tuple(masks.shape[3:]), "of the masks' size, ")
    binary = as_tuple(one.binary_masks())[input_index]
    return View(one, as_rgb(pictures[index]), as_array(masks[index, :, 0]), binary[0, :, 0].cpu().numpy())


def draw_optimal(ax: Axes, view: View) -> None:
    """The image under its mask at a*, or under its largest mask where a* is not reached."""
    _draw_masked(ax, view, words.shown_index(view.found), outline=True)


def draw_areas(axes: Iterable[Axes], view: View, before: str = "") -> None:
    """The image under its mask of each area; the title is the area after ``before``, boxed at a*."""
    best = words.reached_index(view.found)
    for k, (ax, area) in enumerate(zip(axes, view.found.areas.tolist())):
        _draw_masked(ax, view, k, outline=k == best)
        draw.title(ax, f"{before}{words.percent(area)}", boxed=k == best)


def draw_kept(ax: Axes, rgb: Array, mask: Array) -> None:
    """A picture (H, W, 3) under any mask (H, W): what is hidden is dark and grey."""
    kept = mask[..., None].clip(0, 1)
    hidden = _HIDDEN * draw.grey(rgb)[..., None]
    draw.image(ax, kept * rgb + (1 - kept) * hidden)


def _draw_masked(ax: Axes, view: View, area: int, *, outline: bool) -> None:
    mask, binary = view.masks[area], view.binary[area]
    draw_kept(ax, view.rgb, mask)
    if outline and _has_outline(mask, binary):
        values, level = _outline(mask, binary)
        # Dark under light, so that it shows on any picture.
        ax.contour(values, levels=[level], colors=["black"], linewidths=[2.4], alpha=0.6)
        ax.contour(values, levels=[level], colors=[draw.MARK], linewidths=[1.2])


def _has_outline(mask: Array, binary: NDArray[np.bool_]) -> bool:
    """Whether the mask has an inside and an outside. The outline of a nearly flat mask would follow its ripples."""
    if binary.all() or not binary.any():
        return False
    return bool(mask[binary].mean() - mask[~binary].mean() >= _LEAST_CONTRAST)


def _outline(mask: Array, binary: NDArray[np.bool_]) -> tuple[Array, float]:
    """Values (H, W) and the level that encloses exactly the binary mask's area."""
    least, most = float(mask[binary].min()), float(mask[~binary].max())
    if least > most:
        return mask, (least + most) / 2
    # Equal values on both sides: no level separates them, but the binary mask does.
    return binary.astype(np.float64), 0.5
