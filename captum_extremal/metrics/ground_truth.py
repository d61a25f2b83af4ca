"""What a map is held against: the pixels of an object, and which objects are difficult."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from captum_extremal._checks import check_count

_DIFFICULT_BELOW = 0.25  # of the image (Zhang et al. 2018)
_Label = TypeVar("_Label", bound=Hashable)


def mask_from_boxes(boxes: Tensor | Sequence[Sequence[float]], size: tuple[int, int]) -> Tensor:
    """The pixels that boxes cover.

    Args:
        boxes: (B, 4) as x0, y0, x1, y1 in pixels, x1 and y1 exclusive: (0, 0, W, H) is the whole image. A pixel is
            covered where its centre lies within, which also decides boxes between pixels. What lies outside the image
            is cut off. No boxes give an empty mask.
        size: (H, W) of the annotated image.

    Returns:
        (H, W) bool.

    Raises:
        TypeError: the boxes are no numbers, or the size is no two integers.
        ValueError: the boxes are not (B, 4), not finite, or end before they begin.
    """
    if not isinstance(size, Sequence) or len(size) != 2:
        raise TypeError(f"size must be (H, W), got {size!r}")
    height, width = size
    check_count("size[0]", height)
    check_count("size[1]", width)
    try:
        corners = torch.as_tensor(boxes, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"boxes must be (B, 4) numbers, got {boxes!r}") from error
    if corners.numel() == 0:
        corners = corners.reshape(0, 4)
    if corners.dim() != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes must be (B, 4), got shape {tuple(corners.shape)}")
    if not bool(corners.isfinite().all()) or bool((corners[:, 2:] < corners[:, :2]).any()):
        raise ValueError(f"boxes must be finite with x0 <= x1 and y0 <= y1, got {corners.tolist()}")
    columns = _within(width, corners[:, 0], corners[:, 2])
    rows = _within(height, corners[:, 1], corners[:, 3])
    return (rows[:, :, None] & columns[:, None, :]).any(0)


def _within(side: int, start: Tensor, stop: Tensor) -> Tensor:
    """Whether pixel centres lie from each start to before its stop: (B, side)."""
    centres = torch.arange(side, dtype=torch.float64) + 0.5
    return (centres >= start[:, None]) & (centres < stop[:, None])


def difficult_classes(masks: Mapping[_Label, Tensor]) -> dict[_Label, bool]:
    """Which classes of an image belong to the "difficult" subset of Zhang et al. 2018 (section 4.2).

    A class is difficult where all its objects together cover less than a quarter of the image and an object of
    another class is present.

    Args:
        masks: the pixels (H, W) bool of every class annotated in one image.

    Returns:
        for each class whether it is difficult.

    Raises:
        TypeError, ValueError: a mask is not bool, or not (H, W).
    """
    checked = {label: check_mask(f"masks[{label!r}]", mask) for label, mask in masks.items()}
    present = {label for label, mask in checked.items() if bool(mask.any())}
    return {
        label: float(mask.double().mean()) < _DIFFICULT_BELOW and bool(present - {label})
        for label, mask in checked.items()
    }


def check_mask(name: str, mask: object) -> Tensor:
    """One mask (H, W), on the CPU.

    Raises:
        TypeError: the mask is not bool.
        ValueError: it is not (H, W), or has no pixel.
    """
    try:
        tensor = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a bool mask (H, W), got {type(mask).__name__}") from error
    if tensor.dtype != torch.bool:
        raise TypeError(f"{name} must be a bool mask (H, W), got {tensor.dtype}: compare it, or use mask_from_boxes")
    if tensor.dim() != 2 or not tensor.numel():
        raise ValueError(f"{name} must be a mask (H, W), got shape {tuple(tensor.shape)}")
    return tensor.cpu()
