"""What maps are compared with: the pixels of an object, and which objects are difficult."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal.metrics._maps import as_tensor

_DIFFICULT_BELOW = 0.25  # of the image (Zhang et al. 2018)
_Label = TypeVar("_Label", bound=Hashable)


def mask_from_boxes(boxes: Tensor | Sequence[Sequence[float]], size: tuple[int, int]) -> Tensor:
    """The pixels that boxes cover: those whose centre lies inside one.

    Args:
        boxes: (B, 4) as x0, y0, x1, y1 in pixels, x1 and y1 exclusive: (0, 0, W, H) is the whole image. Boxes may
            lie between pixels, and are cut off at the border of the image. No boxes give an empty mask.
        size: (H, W) of the annotated image.

    Returns:
        (H, W) bool.

    Raises:
        TypeError: the boxes are no numbers, or the size is no two integers.
        ValueError: the boxes are not (B, 4), not finite, or end before they begin.
    """
    if not isinstance(size, Sequence) or len(size) != 2:
        raise TypeError(f"size must be (H, W), got {size!r}")
    for axis, side in enumerate(size):
        check_count(f"size[{axis}]", side)
    corners = as_tensor("boxes must be (B, 4) numbers", boxes, torch.float64).detach().cpu()
    if not corners.numel():
        corners = corners.reshape(0, 4)
    if corners.dim() != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes must be (B, 4), got shape {tuple(corners.shape)}")
    start, stop = corners[:, :2, None], corners[:, 2:, None]
    if not bool(corners.isfinite().all()) or bool((stop < start).any()):
        raise ValueError(f"boxes must be finite with x0 <= x1 and y0 <= y1, got {corners.tolist()}")
    rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    inside_x = (start[:, 0] <= columns) & (columns < stop[:, 0])
    inside_y = (start[:, 1] <= rows) & (rows < stop[:, 1])
    return (inside_y[:, :, None] & inside_x[:, None, :]).any(0)


def difficult_classes(masks: Mapping[_Label, Tensor]) -> dict[_Label, bool]:
    """Which classes of an image belong to the "difficult" subset of Zhang et al. 2018 (section 4.2).

    A class is difficult if all its objects together cover less than a quarter of the image and an object of another
    class is present. ``masks`` holds the pixels (H, W) bool of every class annotated in the image.

    Raises:
        TypeError, ValueError: a mask is not bool, or not (H, W).
    """
    shares = {label: float(check_mask(f"masks[{label!r}]", mask).double().mean()) for label, mask in masks.items()}
    present = {label for label, share in shares.items() if share > 0}
    return {label: share < _DIFFICULT_BELOW and bool(present - {label}) for label, share in shares.items()}


def check_mask(name: str, mask: object) -> Tensor:
    """One mask (H, W) bool, on the CPU."""
    rule = f"{name} must be a bool mask (H, W)"
    tensor = as_tensor(rule, mask)
    if tensor.dtype != torch.bool:
        raise TypeError(f"{rule}, got {tensor.dtype}: compare it, or use mask_from_boxes")
    if tensor.dim() != 2 or not tensor.numel():
        raise ValueError(f"{rule}, got shape {tuple(tensor.shape)}")
    return tensor.cpu()
