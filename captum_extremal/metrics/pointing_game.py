"""The pointing game (section 4.2; Zhang et al., *Top-down Neural Attention by Excitation Backprop*, IJCV 2018).

Its energy-based form is that of Wang et al., *Score-CAM*, CVPR workshops 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from captum_extremal._captum import TargetType
from captum_extremal._checks import check_number
from captum_extremal.arguments import check_target
from captum_extremal.metrics import _maps
from captum_extremal.metrics._maps import Explanation
from captum_extremal.metrics.ground_truth import check_mask
from captum_extremal.metrics.outcomes import Label, Outcome, describe_pairs
from captum_extremal.perturbations import gaussian_blur

_TIE = 1e-9  # of a map's range: smaller differences are rounding


@dataclass(frozen=True, kw_only=True)
class PointingOutcome(Outcome):
    """Where a map points, and how far that is from the object; the value is 1 for a hit, 0 for a miss.

    Attributes:
        point: row and column of the map's maximum in the annotated image; None if the map is constant.
        distance: pixels between that point and the nearest pixel of the object, 0 on it; None without a point or
            without an object.
    """

    point: tuple[int, int] | None
    distance: float | None

    def within(self, tolerance: float) -> PointingOutcome:
        """The same outcome with another tolerance, in pixels: a distance equal to it is a hit.

        Raises:
            TypeError, ValueError: the tolerance is no number of at least 0.
        """
        check_number("tolerance", tolerance, at_least=0)
        if self.value is None:
            return self
        return replace(self, value=float(self.distance is not None and self.distance <= tolerance))


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

    Each map is resized to the annotated image, blurred there, and its maximum is taken. It is a hit if the nearest
    pixel of the object is no farther away than the tolerance. Of equal maxima the first in reading order counts. A
    constant map points nowhere and misses. A pair without any pixel of its class is skipped: its value is None, and
    :func:`summarise` counts it. The summary's ``mean`` is the accuracy of table 1.

    Args:
        attribution: a Captum attribution, a function ``(inputs, target=...)``, or maps (N, H, W) or (N, C, H, W).
            Channels are averaged, signs kept. Options are passed by ``functools.partial``, as in
            ``partial(ExtremalPerturbation(model).attribute, reduce="sum")``.
        inputs: (N, C, H, W), one row per pair: an image with two classes comes twice. Not needed with maps.
        target, additional_forward_args: as Captum takes them.
        ground_truth: for each pair the pixels (H', W') bool of the class in the annotated image, which the map is
            taken to cover whole; its size may differ from pair to pair. :func:`mask_from_boxes` makes it from boxes.
        tolerance: in pixels of the annotated image; 0 asks for the pixel itself.
        blur: standard deviation of a Gaussian, as a fraction of the annotated image's shorter side. The paper's 0.09
            is for summed masks that are not blurred yet, ``found.saliency(blur=0)``; the default 0 is for maps that
            need no blur, such as those of ``reduce="sum"``.
        images: the name of each pair's image, an integer or a string, the same in all batches; by default every pair
            has an image of its own.
        labels: the name of each pair's class; by default the target.
        difficult: which pairs belong to the difficult subset, see :func:`difficult_classes`.

    Returns:
        N outcomes. ``outcome.within(0)`` is the outcome with another tolerance.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before anything is explained), or a map is not finite.
    """
    check_number("tolerance", tolerance, at_least=0)
    check_number("blur", blur, at_least=0)
    names = images, labels, difficult
    outcomes = []
    for one, mask, pair in _annotated(attribution, inputs, target, additional_forward_args, ground_truth, names):
        point = _maximum(one, tuple(mask.shape), blur)
        value = 0.0 if bool(mask.any()) else None
        outcome = PointingOutcome(**pair, value=value, point=point, distance=_distance(point, mask))
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

    Each map is resized to the annotated image and its negative values are set to 0; the sum over the object is
    divided by the sum over the image. A map that is positive nowhere has a share of 0. A pair without any pixel of
    its class is skipped: its value is None, and :func:`summarise` counts it.

    Args, Raises: as :func:`pointing_game`.
    """
    names = images, labels, difficult
    annotated = _annotated(attribution, inputs, target, additional_forward_args, ground_truth, names)
    return [Outcome(**pair, value=_share(one, mask) if bool(mask.any()) else None) for one, mask, pair in annotated]


def _annotated(
    attribution: Explanation,
    inputs: Tensor | None,
    target: TargetType,
    additional_forward_args: object,
    ground_truth: Any,
    names: tuple[Any, Any, Any],
) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
    """For each pair a map (H, W) in float64 on the CPU, the annotated pixels, and the outcome's other fields."""
    _maps.check_explanation(attribution)
    if inputs is not None:
        target = _maps.check_batch(inputs, target, additional_forward_args)
        if inputs.dim() != 4:
            raise ValueError(f"inputs must be images (N, C, H, W), got shape {tuple(inputs.shape)}")
    elif not isinstance(attribution, Tensor):
        raise TypeError("inputs must be given for attribution to explain, got None")
    if not isinstance(ground_truth, (Tensor, list, tuple)):
        raise TypeError(f"ground_truth must be masks, one for each example, got {type(ground_truth).__name__}")
    masks = [check_mask(f"ground_truth[{row}]", mask) for row, mask in enumerate(ground_truth)]
    count = len(cast(Tensor, attribution) if inputs is None else inputs)
    if len(masks) != count:
        raise ValueError(f"ground_truth must be one mask for each of {count} examples, got {len(masks)}")
    pairs = describe_pairs(count, check_target(target, count, torch.device("cpu")), *names)
    found = _maps.explain(attribution, inputs, target, additional_forward_args)
    return list(zip(_maps.positions(found).cpu().double(), masks, pairs))


def _maximum(one: Tensor, size: tuple[int, ...], blur: float) -> tuple[int, int] | None:
    """Row and column where a map (H, W) is highest in an image of the given size; None if it is constant."""
    at_image = _maps.resize(one[None], size)
    if blur:
        at_image = gaussian_blur(at_image[:, None], blur * min(size), "zeros", normalise=True)[:, 0]
    low, high = at_image.aminmax()
    if bool(one.min() == one.max()) or bool(low == high):
        return None
    row, column = (at_image[0] >= high - _TIE * (high - low)).nonzero()[0].tolist()
    return row, column


def _distance(point: tuple[int, int] | None, mask: Tensor) -> float | None:
    """From a point to the nearest pixel of a mask (H, W), centre to centre."""
    pixels = mask.nonzero()
    if point is None or not len(pixels):
        return None
    return float(torch.linalg.vector_norm(pixels.double() - torch.tensor(point), dim=1).min())


def _share(one: Tensor, mask: Tensor) -> float:
    energy = _maps.resize(one[None], tuple(mask.shape))[0].clamp(min=0)
    total = float(energy.sum())
    return float(energy[mask].sum()) / total if total else 0.0
