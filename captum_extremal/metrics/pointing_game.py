"""The pointing game (section 4.2; Zhang et al., *Top-down Neural Attention by Excitation Backprop*, IJCV 2018)."""

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
from captum_extremal.metrics.outcomes import Label, Outcome, Pairs, check_pairs
from captum_extremal.perturbations import gaussian_blur

_TIE = 1e-9  # of a map's range: less than that apart is rounding


@dataclass(frozen=True, kw_only=True)
class PointingOutcome(Outcome):
    """Where a map points, and how far that is from the object; the value is 1 for a hit, 0 for a miss.

    Attributes:
        point: row and column of the map's maximum in the annotated image; None where the map is constant.
        distance: pixels between that point and the nearest pixel of the object, 0 on it; None where there is no such
            point or no such object.
    """

    point: tuple[int, int] | None
    distance: float | None

    def within(self, tolerance: float) -> PointingOutcome:
        """The same outcome judged with another tolerance, in pixels: a distance equal to it hits.

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
    """Whether the maximum of each map lies on the object: one outcome a pair of image and class.

    Each map is resized to the annotated image, blurred there, and its maximum is taken; it hits where the nearest
    pixel of the object is no farther away than the tolerance. Equal maxima: the first in reading order points. A
    constant map points nowhere and misses. A pair without any pixel of its class is skipped: its value is None,
    :func:`summarise` counts it, and it is never a hit. The summary's ``mean`` is the accuracy of table 1.

    Args:
        attribution: a Captum attribution, a function ``(inputs, target=...)``, or maps (N, H, W) or (N, C, H, W) that
            are made already. Channels are averaged, signs kept; a function can take another choice. Options go in
            by ``functools.partial(ExtremalPerturbation(model).attribute, reduce="sum")``.
        inputs: (N, C, H, W), a row a pair: an image with two classes comes twice. Not needed with maps.
        target, additional_forward_args: as Captum takes them.
        ground_truth: for each pair the pixels (H', W') bool of the class in the annotated image, whose size may
            differ from the input's and from pair to pair; :func:`mask_from_boxes` makes them from boxes. The map is
            taken to cover the whole annotated image.
        tolerance: in pixels of the annotated image; 0 asks for the pixel itself.
        blur: standard deviation of a Gaussian, as a fraction of the annotated image's shorter side. The paper's is
            0.09, for masks that are summed and not yet blurred, ``found.saliency(blur=0)``; the default 0 leaves maps
            as they are, such as those of ``reduce="sum"``, which are blurred already.
        images: integers or strings that name each pair's image, which all batches share; by default every pair is of
            an image of its own.
        labels: the same for its class; by default the target.
        difficult: which pairs belong to the difficult subset, see :func:`difficult_classes`.

    Returns:
        N outcomes. ``outcome.within(0)`` judges one again with another tolerance.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before anything is explained), or what is explained is
            no finite map.
    """
    check_number("tolerance", tolerance, at_least=0)
    check_number("blur", blur, at_least=0)
    maps, masks, pairs = annotated_maps(
        attribution, inputs, target, additional_forward_args, ground_truth, (images, labels, difficult)
    )
    points = [_maximum(one, tuple(mask.shape), blur) for one, mask in zip(maps, masks)]
    return [
        PointingOutcome(
            image=pairs.images[row],
            label=pairs.labels[row],
            value=0.0 if bool(mask.any()) else None,
            difficult=pairs.difficult[row],
            point=point,
            distance=_distance(point, mask),
        ).within(tolerance)
        for row, (point, mask) in enumerate(zip(points, masks))
    ]


def annotated_maps(
    attribution: Explanation,
    inputs: Tensor | None,
    target: TargetType,
    additional_forward_args: object,
    ground_truth: Any,
    names: tuple[Sequence[Label] | None, Sequence[Label] | None, Sequence[bool] | None],
) -> tuple[Tensor, list[Tensor], Pairs]:
    """Maps (N, H, W) in float64 on the CPU, the annotated pixels of each, and the pairs' names; all checked first."""
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
    pairs = check_pairs(count, check_target(target, count, torch.device("cpu")), *names)
    found = _maps.explain(attribution, inputs, target, additional_forward_args)
    return _maps.positions(found).cpu().double(), masks, pairs


def _maximum(one: Tensor, size: tuple[int, ...], blur: float) -> tuple[int, int] | None:
    """Row and column where a map (H, W) is highest, in an image of the size given."""
    at_image = _maps.resize(one[None], size)
    if blur:
        at_image = gaussian_blur(at_image[:, None], blur * min(size), "zeros", normalise=True)[:, 0]
    low, high = at_image.aminmax()
    if bool(one.min() == one.max()) or bool(low == high):
        return None
    tied = at_image[0] >= high - _TIE * (high - low)
    row, column = tied.nonzero()[0].tolist()
    return row, column


def _distance(point: tuple[int, int] | None, mask: Tensor) -> float | None:
    """From a point to the nearest pixel of a mask (H, W), centre to centre."""
    pixels = mask.nonzero()
    if point is None or not len(pixels):
        return None
    offsets = (pixels - torch.tensor(point)).double()
    return float(offsets.square().sum(1).min().sqrt())
