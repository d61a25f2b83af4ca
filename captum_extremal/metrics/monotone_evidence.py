r"""Monotone evidence (section 4.3, equation 8): does showing more of the evidence ever lower the score?

.. math::

    a_1 \leq a_2 < a^* \Rightarrow \Phi(m_{a_1} \otimes x) \leq \Phi(m_{a_2} \otimes x)
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType
from captum_extremal.areas import AREAS, check_areas
from captum_extremal.metrics.explanations import Explanation, check_batch, rank_from_top
from captum_extremal.perturbations import Perturbation
from captum_extremal.results import ExtremalMasks, Measured, assemble
from captum_extremal.search.games import PRESERVE
from captum_extremal.session import open_session
from captum_extremal.settings import as_perturbation, warn_of_baselines


@dataclass(frozen=True, eq=False)
class MonotoneEvidence:
    """Whether equation 8 holds for each of N images.

    Attributes:
        holds: (N,) bool, True also with fewer than two areas to compare.
        areas_below: (N,), how many areas are smaller than a*, or all of them if a* is not reached; these are compared.
        largest_drop: (N,), the most by which the score of such an area exceeds that of a larger one; 0 if it holds.
    """

    holds: Tensor
    areas_below: Tensor
    largest_drop: Tensor

    @property
    def share(self) -> float:
        """The share of the images for which equation 8 holds, which the paper reports."""
        return float(self.holds.double().mean())

    @property
    def share_compared(self) -> float:
        """The same over the images with at least two areas below a*; NaN without any."""
        return float(self.holds[self.areas_below > 1].double().mean())


def monotone_evidence(found: ExtremalMasks) -> MonotoneEvidence:
    """Equation 8 on the scores of masks by area, those of a search or of :func:`top_masks`.

    The scores compared are those of what the masks keep, whatever the game was; a* is the result's own.

    Raises:
        TypeError: ``found`` is not ExtremalMasks.
        ValueError: it has no areas, only a*.
    """
    if not isinstance(found, ExtremalMasks):
        raise TypeError(f"found must be ExtremalMasks, of extremal_masks() or top_masks(), got {type(found).__name__}")
    if not len(found.areas):
        raise ValueError("found must hold masks of areas, got a* alone: search with areas=[...]")
    below = (found.areas < found.optimal_area[:, None]) | ~found.reached[:, None]
    drops = (found.scores.cummax(1).values - found.scores).masked_fill(~below, 0.0)
    return MonotoneEvidence(holds=(drops <= 0).all(1), areas_below=below.sum(1), largest_drop=drops.amax(1))


def top_masks(
    forward_func: Callable[..., Any],
    attribution: Explanation,
    inputs: Tensor,
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    areas: float | Sequence[float] | Tensor | None = None,
    baselines: BaselineType = None,
    perturbation: str | Perturbation = "blur",
) -> ExtremalMasks:
    """The binary masks of any map's highest values at each area, scored as :class:`~captum_extremal.ExtremalMasks`.

    Args:
        forward_func: the model, or any function of its inputs.
        attribution, inputs, target, additional_forward_args: as :func:`insertion_deletion` takes them.
        areas: strictly increasing fractions of the input, in (0, 1]. A mask keeps round(a P) of P positions. None for
            0.05, 0.1, 0.2, 0.4, 0.6 and 0.8, as far as they are a position or more.
        baselines, perturbation: as :meth:`ExtremalPerturbation.attribute` takes them.

    Returns:
        masks (N, A, 1, *S) of 0 and 1, their scores and a*, whose Phi_0 is the whole input's score; ``sigma`` is 0.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before the model runs), or the model's output cannot be
            explained.
    """
    target = check_batch(inputs, target, additional_forward_args, baselines)
    positions = inputs[0, 0].numel()
    listed_areas = [area for area in AREAS if area >= 1 / positions] if areas is None else areas
    fractions = check_areas(listed_areas, counts=False)
    if fractions[0] < 1 / positions:
        raise ValueError(f"areas must be at least one position, {1 / positions:.2g} of the input, got {fractions[0]}")
    chosen = as_perturbation(perturbation)
    warn_of_baselines(baselines, chosen)
    rank = rank_from_top(attribution, inputs, target, additional_forward_args)
    kept = torch.stack([rank < round(area * positions) for area in fractions])
    with open_session(forward_func, inputs, target, additional_forward_args, baselines=baselines) as session:
        phi = session.objective(chosen.bind, differentiable=False)
        listed = [
            Measured.by(
                phi,
                (rows.unsqueeze(1).to(session.dtype),),
                torch.full_like(phi.clean, area),
                sigma=torch.zeros(len(inputs), 1, dtype=torch.float32, device="cpu"),
            )
            for rows, area in zip(kept, fractions)
        ]
    return assemble(
        listed,
        game=PRESERVE,
        clean_score=phi.clean,
        perturbed_score=phi.perturbed,
        threshold=phi.clean,
        is_tuple=False,
        settings={"game": asdict(PRESERVE), "perturbation": repr(chosen), "masks": "the highest values of a map"},
    )
