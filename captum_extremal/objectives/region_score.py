"""How strongly a segmenter sees a class in a region."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extremal._checks import check_callable
from captum_extremal.objectives.per_image import PerImage, as_labels, rows_for
from captum_extremal.outputs import scores_in


class RegionScore(PerImage):
    """The mean of a class's logits over a region.

    Args:
        model: a segmenter, from images (N, C, H, W) to logits (N, K, h, w), or to a dictionary with them under "out",
            as torchvision's. Logits of another size are resized to the images' by linear interpolation.
        region: (N, H, W), or (1, H, W) for all images: bool, or weights of at least 0.
        label: one class, or one for each image (N,).

    Raises:
        TypeError, ValueError: an argument is bad; when called, the model's output is no such logits, or does not have
            the class.

    Examples::

        >>> region = segmenter(images)["out"].argmax(1) == 8  # the pixels that the model takes for a cat
        >>> found = ExtremalPerturbation(RegionScore(segmenter, region, 8)).extremal_masks(images)
    """

    def __init__(self, model: Callable[..., Any], region: Tensor, label: Tensor | int) -> None:
        check_callable("model", model, "images")
        self.model = model
        self.region = _checked_region(region)
        self.label = as_labels("label", label)

    def of_images(self, images: Tensor) -> tuple[Tensor, ...]:
        """The regions (N, H, W) and the classes (N,) of images (N, C, H, W)."""
        if self.region.shape[1:] != images.shape[2:]:
            raise ValueError(
                f"region must have the images' size {tuple(images.shape[2:])}, got shape {tuple(self.region.shape)}"
            )
        return rows_for("region", self.region, images), rows_for("label", self.label, images)

    def __call__(self, images: Tensor, region: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The scores (N,) of images (N, C, H, W) in regions (N, H, W) of classes (N,); None for the own."""
        if region is None or label is None:
            region, label = self.of_images(images)
        output = self.model(images)
        logits = output["out"] if isinstance(output, Mapping) and "out" in output else scores_in(output, len(images))
        if not isinstance(logits, Tensor) or logits.dim() != 4 or len(logits) != len(images):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model must return logits ({len(images)}, K, h, w), got {got}")
        if not 0 <= int(label.min()) <= int(label.max()) < logits.shape[1]:
            raise ValueError(f"label must be from 0 to {logits.shape[1] - 1}, got {label.tolist()}")
        of_class = logits[torch.arange(len(logits), device=logits.device), label]
        if of_class.shape[1:] != region.shape[1:]:
            size = list(region.shape[1:])
            of_class = F.interpolate(of_class[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        weights = region.to(of_class)
        return (of_class * weights).sum((1, 2)) / weights.sum((1, 2))


def _checked_region(region: object) -> Tensor:
    if not isinstance(region, Tensor):
        raise TypeError(f"region must be a tensor (N, H, W), got {type(region).__name__}")
    if region.dim() != 3 or not len(region):
        raise ValueError(f"region must be (N, H, W), got shape {tuple(region.shape)}")
    weights = region.detach().to(torch.float32)
    if not bool((weights.isfinite() & (weights >= 0)).all()) or not bool((weights.sum((1, 2)) > 0).all()):
        raise ValueError("region must hold finite weights of at least 0, and not be empty in any image")
    return weights
