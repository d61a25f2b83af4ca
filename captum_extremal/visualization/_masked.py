"""One image under one of its masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import array, as_rgb, check_found, check_images_of_masks
from captum_extremal.visualization._panels import GREY, MARK, Array, bare

_HIDDEN = 0.28  # how much of its grey is left of a hidden pixel: enough to see what was left out, clearly not shown
_LEAST_CONTRAST = 0.25  # of a mask's inside to its outside


@dataclass(frozen=True)
class View:
    """One image of a result, as arrays: rgb (H, W, 3) in [0, 1], soft masks and binary masks (A, H, W)."""

    found: ExtremalMasks
    rgb: Array
    masks: Array
    binary: NDArray[np.bool_]
    entry: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.rgb.shape[0], self.rgb.shape[1]

    @property
    def optimal(self) -> int:
        """Which area to show: a*, or the largest where none is reached."""
        return int(self.found.optimal_index)


def view_of(found: ExtremalMasks, images: Tensor, index: int, input_index: int) -> View:
    """What there is to draw of one image.

    Raises:
        TypeError, ValueError: the masks are not of images, or the images not of the masks' size and in [0, 1].
        IndexError: there is no such image.
    """
    masks = _of_input("masks", check_found(found).masks, input_index)
    if masks.dim() != 5:
        others = "show_channels draws masks of channels, " if masks.dim() == 3 else ""
        raise ValueError(
            f"found must hold masks of images, (N, A, 1, H, W), got {tuple(masks.shape)}: "
            f"{others}show_curves draws the scores of any"
        )
    one = found.image(index)
    pictures = check_images_of_masks(images, (len(masks), masks.shape[-2], masks.shape[-1]))
    return View(
        found=one,
        rgb=as_rgb(pictures[index]),
        masks=array(masks[index, :, 0]),
        binary=_of_input("masks", one.binary_masks(), input_index)[0, :, 0].cpu().numpy(),
        entry=array(_of_input("masks", one.order_of_entry(), input_index)[0, 0]),
    )


def _of_input(name: str, given: Tensor | tuple[Tensor, ...], input_index: int) -> Tensor:
    check_count("input_index", input_index, at_least=0)
    tensors = given if isinstance(given, tuple) else (given,)
    if input_index >= len(tensors):
        raise ValueError(f"input_index must be below {len(tensors)}, the number of {name}, got {input_index}")
    return tensors[input_index]


def draw_masked(ax: Axes, view: View, area: int, *, outline: bool = True) -> None:
    """The image under one of its masks: what is hidden is dark and grey."""
    draw_kept(ax, view.rgb, view.masks[area])
    if outline and _has_outline(view.masks[area], view.binary[area]):
        values, level = _outline(view.masks[area], view.binary[area])
        # Dark under light, so that it shows on any picture.
        ax.contour(values, levels=[level], colors=["black"], linewidths=[2.4], alpha=0.6)
        ax.contour(values, levels=[level], colors=[MARK], linewidths=[1.2])


def draw_kept(ax: Axes, rgb: Array, mask: Array) -> None:
    """An image (H, W, 3) under any mask (H, W)."""
    kept = mask[..., None].clip(0, 1)
    hidden = _HIDDEN * (rgb @ GREY)[..., None]
    ax.imshow(kept * rgb + (1 - kept) * hidden, interpolation="nearest")
    bare(ax)


def _has_outline(mask: Array, binary: NDArray[np.bool_]) -> bool:
    """Whether the mask has an inside and an outside. That of a nearly flat one would trace the lattice's ripples."""
    if binary.all() or not binary.any():
        return False
    return bool(mask[binary].mean() - mask[~binary].mean() >= _LEAST_CONTRAST)


def _outline(mask: Array, binary: NDArray[np.bool_]) -> tuple[Array, float]:
    """Values (H, W) and the level that encloses exactly the binary mask's area."""
    least, most = float(mask[binary].min()), float(mask[~binary].max())
    if least > most:
        return mask, (least + most) / 2
    # Equal values on both sides (a plateau): no level parts them, but the binary mask does.
    return binary.astype(np.float64), 0.5
