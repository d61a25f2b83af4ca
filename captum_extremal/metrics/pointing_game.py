"""Pointing games (section 4.2; Zhang et al., *Top-down Neural Attention by Excitation Backprop*, IJCV 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import TargetType
from captum_extremal._checks import check_count, check_number
from captum_extremal.arguments import check_target
from captum_extremal.metrics.explanations import Explanation, as_tensor, check_batch, check_explanation, explain, resize
from captum_extremal.metrics.outcomes import Label, Outcome, describe_pairs
from captum_extremal.perturbations import gaussian_blur


@dataclass(frozen=True, kw_only=True)
class PointingOutcome(Outcome):
    """Where a map points, and how far that is from the object; the value is 1 for a hit, 0 for a miss.

    Attributes:
        point: row and column of the map's maximum in the annotated image; None if the map is constant.
        distance: pixels from that point to the object's nearest pixel, 0 on it; None without a point or an object.
    """

    point: tuple[int, int] | None
    distance: float | None

    def within(self, tolerance: float) -> PointingOutcome:
        """The same outcome with another tolerance, in pixels, at least 0: a distance equal to it is a hit."""
        check_number("tolerance", tolerance, at_least=0)
        hit = float(self.distance is not None and self.distance <= tolerance)
        return self if self.value is None else replace(self, value=hit)


def pointing_game(
    attribution: Explanation,
    inputs: Tensor | None = None,
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    ground_truth: Tensor | Sequence[Tensor],
    tolerance: float = 15.0,
    blur: float = 0.0,
    images: Sequence[Label] | None = None,
    labels: Sequence[Label] | None = None,
    difficult: Sequence[bool] | None = None,
) -> list[PointingOutcome]:
    """Whether the maximum of each map lies on the object: one outcome per pair of image and class.

    Each map is resized to the annotated image and blurred there. Its maximum, of equal ones the first in reading order,
    hits if the nearest pixel of the object is no farther away than the tolerance. A constant map points nowhere and
    misses. A pair without any pixel of its class is skipped: its value is None, and :func:`summarise` counts it. The
    summary's ``mean`` is the accuracy of table 1.

    Args:
        attribution: a Captum attribution, a function ``(inputs, target=...)``, or maps (N, H, W) or (N, C, H, W).
            Channels are averaged. ``partial(ExtremalPerturbation(model).attribute, reduce="sum")`` passes an option.
        inputs: (N, C, H, W), one row per pair: an image with two classes comes twice. Not needed with maps.
        target, additional_forward_args: as Captum takes them.
        ground_truth: for each pair the pixels (H', W') bool of the class in the annotated image, of any size, which
            the map is taken to cover whole. :func:`mask_from_boxes` makes it from boxes.
        tolerance: in pixels of the annotated image; 0 asks for the pixel itself.
        blur: standard deviation of a Gaussian, as a fraction of the annotated image's shorter side. The paper's 0.09
            is for summed masks that are not blurred yet, ``found.saliency(blur=0)``.
        images: the name of each pair's image, an integer or a string; by default every pair has an image of its own.
        labels: the name of each pair's class; by default the target.
        difficult: which pairs belong to the difficult subset, see :func:`difficult_classes`.
    """
    check_number("tolerance", tolerance, at_least=0)
    check_number("blur", blur, at_least=0)
    outcomes = []
    names = images, labels, difficult
    for one, mask, pair in _annotated(attribution, inputs, target, additional_forward_args, ground_truth, names):
        point, pixels, distance = _maximum(one, mask.shape, blur), mask.nonzero().double(), None
        if point is not None and len(pixels):  # from centre to centre
            distance = float(torch.linalg.vector_norm(pixels - pixels.new_tensor(point), dim=1).min())
        outcome = PointingOutcome(**pair, value=0.0 if len(pixels) else None, point=point, distance=distance)
        outcomes.append(outcome.within(tolerance))
    return outcomes


def energy_pointing_game(
    attribution: Explanation,
    inputs: Tensor | None = None,
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    ground_truth: Tensor | Sequence[Tensor],
    images: Sequence[Label] | None = None,
    labels: Sequence[Label] | None = None,
    difficult: Sequence[bool] | None = None,
) -> list[Outcome]:
    """The share of each map's positive energy that lies on the object: one outcome in [0, 1] per pair.

    It is that of Wang et al., *Score-CAM*, CVPR workshops 2020. Each map is resized to the annotated image, its
    negative values are set to 0, and the sum over the object is divided by the sum over the image; the share is 0 where
    no value is positive. Arguments, and what is skipped, are those of :func:`pointing_game`.
    """
    outcomes = []
    names = images, labels, difficult
    for one, mask, pair in _annotated(attribution, inputs, target, additional_forward_args, ground_truth, names):
        energy = resize(one[None], mask.shape)[0].clamp(min=0)
        share = float(energy[mask].sum()) / (float(energy.sum()) or 1.0)
        outcomes.append(Outcome(**pair, value=share if bool(mask.any()) else None))
    return outcomes


def mask_from_boxes(boxes: Tensor | Sequence[Sequence[float]], size: tuple[int, int]) -> Tensor:
    """The pixels that boxes cover, (H, W) bool: those whose centre lies inside one.

    Args:
        boxes: (B, 4) as x0, y0, x1, y1 in pixels, x1 and y1 exclusive: (0, 0, W, H) is the whole image. They may lie
            between pixels or reach out of the image. No boxes give an empty mask.
        size: (H, W) of the annotated image.
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
    if not bool(corners.isfinite().all()) or bool((corners[:, 2:] < corners[:, :2]).any()):
        raise ValueError(f"boxes must be finite with x0 <= x1 and y0 <= y1, got {corners.tolist()}")
    rows, columns = (torch.arange(side, dtype=torch.float64, device="cpu") + 0.5 for side in size)
    x0, y0, x1, y1 = corners.T[:, :, None]
    inside_x, inside_y = (x0 <= columns) & (columns < x1), (y0 <= rows) & (rows < y1)
    return torch.any(inside_y[:, :, None] & inside_x[:, None, :], 0)


def difficult_classes(masks: Mapping[Any, Tensor]) -> dict[Any, bool]:
    """Which classes of an image belong to the "difficult" subset of Zhang et al. 2018 (section 4.2).

    All objects of such a class together cover less than a quarter of the image, and an object of another class is
    present. ``masks`` holds the pixels (H, W) bool of every class annotated in the image.
    """
    shares = {label: float(_check_mask(f"masks[{label!r}]", mask).double().mean()) for label, mask in masks.items()}
    present = {label for label, share in shares.items() if share > 0}
    return {label: share < 0.25 and bool(present - {label}) for label, share in shares.items()}


def _check_mask(name: str, mask: object) -> Tensor:
    rule = f"{name} must be a bool mask (H, W)"
    tensor = as_tensor(rule, mask)
    if tensor.dtype != torch.bool:
        raise TypeError(f"{rule}, got {tensor.dtype}: compare it, or use mask_from_boxes")
    if tensor.dim() != 2 or not tensor.numel():
        raise ValueError(f"{rule}, got shape {tuple(tensor.shape)}")
    return tensor.cpu()


def _annotated(
    attribution: Any, inputs: Tensor | None, target: Any, further: object, ground_truth: Any, names: tuple[Any, ...]
) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
    """For each pair a map (H, W) in float64 on the CPU, the annotated pixels, and the outcome's other fields."""
    check_explanation(attribution)
    if inputs is not None:
        target = check_batch(inputs, target, further)
        if inputs.dim() != 4:
            raise ValueError(f"inputs must be images (N, C, H, W), got shape {tuple(inputs.shape)}")
    elif not isinstance(attribution, Tensor):
        raise TypeError("inputs must be given for attribution to explain, got None")
    if not isinstance(ground_truth, (Tensor, list, tuple)):
        raise TypeError(f"ground_truth must be masks, one for each example, got {type(ground_truth).__name__}")
    masks = [_check_mask(f"ground_truth[{row}]", mask) for row, mask in enumerate(ground_truth)]
    count = len(attribution if inputs is None else inputs)
    if len(masks) != count:
        raise ValueError(f"ground_truth must be one mask for each of {count} examples, got {len(masks)}")
    pairs = describe_pairs(count, check_target(target, count, torch.device("cpu")), *names)
    found = explain(attribution, inputs, target, further)
    return list(zip(found.mean(1).cpu().double(), masks, pairs))


def _maximum(one: Tensor, size: tuple[int, ...], blur: float) -> tuple[int, int] | None:
    """Row and column where a map (H, W) is highest in an image of the given size; None if it is constant."""
    at_image = resize(one[None], size)
    if blur:
        at_image = gaussian_blur(at_image[:, None], blur * min(size), "zeros", normalise=True)[:, 0]
    low, high = at_image.aminmax()
    if bool(one.min() == one.max()) or bool(low == high):
        return None
    row, column = (at_image[0] >= high - 1e-9 * (high - low)).nonzero()[0].tolist()  # smaller differences are rounding
    return row, column
