"""The energy-based pointing game (Wang et al., *Score-CAM*, CVPR workshops 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captum_extremal._captum import TargetType
from captum_extremal.metrics import _maps
from captum_extremal.metrics._maps import Explanation
from captum_extremal.metrics.outcomes import Label, Outcome
from captum_extremal.metrics.pointing_game import annotated_maps


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
    """The share of each map's positive energy that lies on the object: one outcome in [0, 1] a pair.

    Each map is resized to the annotated image and its negative values are set to 0; what lies inside the object is
    divided by the whole. A map that is positive nowhere has a share of 0. A pair without any pixel of its class is
    skipped: its value is None, and :func:`summarise` counts it.

    Args, Raises: as :func:`pointing_game`, which knows the arguments of the same names.
    """
    maps, masks, pairs = annotated_maps(
        attribution, inputs, target, additional_forward_args, ground_truth, (images, labels, difficult)
    )
    return [
        Outcome(
            image=pairs.images[row],
            label=pairs.labels[row],
            value=_share(one, mask) if bool(mask.any()) else None,
            difficult=pairs.difficult[row],
        )
        for row, (one, mask) in enumerate(zip(maps, masks))
    ]


def _share(one: Tensor, mask: Tensor) -> float:
    energy = _maps.resize(one[None], tuple(mask.shape))[0].clamp(min=0)
    total = float(energy.sum())
    return float(energy[mask].sum()) / total if total else 0.0
