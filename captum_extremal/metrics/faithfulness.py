r"""Faithfulness: what the score does as positions come and go in the order of a map, or with the area of masks.

Insertion and deletion are those of Petsiuk et al., *RISE*, BMVC 2018. Monotone evidence is equation 8 (section 4.3):

.. math::

    a_1 \leq a_2 < a^* \Rightarrow \Phi(m_{a_1} \otimes x) \leq \Phi(m_{a_2} \otimes x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType
from captum_extremal._checks import check_count, check_number
from captum_extremal._state import warn_caller
from captum_extremal.masks import REFERENCE_SIDE
from captum_extremal.metrics.explanations import Explanation, check_batch, rank_from_top
from captum_extremal.objective import Objective
from captum_extremal.perturbations import FadePyramid, Perturbation, gaussian_blur
from captum_extremal.results import ExtremalMasks
from captum_extremal.search.games import PRESERVE
from captum_extremal.session import open_session
from captum_extremal.settings import AREAS, as_perturbation, check_areas


@dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """The curves of N images over T + 1 shares of their positions, and the area under each, by trapezoids.

    Attributes:
        fractions: (T + 1,), the share of the positions taken, from exactly 0 to exactly 1.
        insertion: (N, T + 1), the probability with those positions shown: from the blurred input to the input.
        deletion: (N, T + 1), the probability without them: from the input to the baseline.
    """

    fractions: Tensor
    insertion: Tensor
    deletion: Tensor

    @property
    def insertion_auc(self) -> Tensor:
        """(N,): the higher, the better the ranking."""
        return torch.trapezoid(self.insertion, self.fractions)

    @property
    def deletion_auc(self) -> Tensor:
        """(N,): the lower, the better the ranking."""
        return torch.trapezoid(self.deletion, self.fractions)


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


def insertion_deletion(
    forward_func: Callable[..., Any],
    attribution: Explanation,
    inputs: Tensor,
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    baselines: BaselineType = None,
    blur: float | None = None,
    steps: int | None = None,
    softmax: bool = True,
    perturbations_per_eval: int = 8,
) -> InsertionDeletion:
    """How fast the target's probability rises and falls as positions are inserted and deleted in a map's order.

    At each step a few more of the highest positions are shown on the blurred input, or replaced by the baseline.

    Args:
        forward_func: the model, from inputs to class scores (N, K, ...), which are averaged over positions.
        attribution, inputs, target, additional_forward_args: as :func:`pointing_game` takes them, with inputs
            (N, C, *S). The map is resized to the input; of equal values the first in memory is taken first.
        baselines: what a deleted position shows, as Captum takes it; default 0, the mean colour of a normalised image.
        blur: standard deviation in pixels of insertion's blur; default 5 px at 224 px, scaled with the shorter side.
        steps: T, at most the number P of positions, of which round(t P / T) are taken after t steps; default 224, the
            authors' 224 pixels per step in an image of 224 px, or P if that is smaller.
        softmax: False if the outputs are probabilities already; a second softmax, which flattens curves, is warned of.
        perturbations_per_eval: how many perturbed copies of each input go through the model at once.
    """
    target = check_batch(inputs, target, additional_forward_args, baselines)
    check_count("perturbations_per_eval", perturbations_per_eval)
    positions = inputs[0, 0].numel()
    steps = min(224, positions) if steps is None else steps
    check_count("steps", steps)
    if steps > positions:
        raise ValueError(f"steps must be at most the number of positions, {positions}, got {steps}")
    if blur is not None:
        check_number("blur", blur, above=0)
    rank = rank_from_top(attribution, inputs, target, additional_forward_args)
    taken = torch.tensor([round(step * positions / steps) for step in range(steps + 1)], device=inputs.device)
    sigma = blur or 5.0 * min(inputs.shape[2:]) / REFERENCE_SIDE  # Petsiuk et al. cut it off 5 px away
    with open_session(forward_func, inputs, target, additional_forward_args, baselines=baselines) as session:
        called = replace(session, forward_func=_softmax(forward_func)) if softmax else session
        blurred = gaussian_blur(inputs.detach().to(session.dtype), sigma, "replicate")
        inserted = called.objective(lambda x, baseline: FadePyramid().bind(x, blurred), differentiable=False)
        insertion = _curve(inserted, lambda count: rank < count, taken, perturbations_per_eval)
        deleted = called.objective(FadePyramid().bind, differentiable=False)
        deletion = _curve(deleted, lambda count: rank >= count, taken, perturbations_per_eval)
    return InsertionDeletion(taken.to(insertion) / positions, insertion, deletion)


def monotone_evidence(found: ExtremalMasks) -> MonotoneEvidence:
    """Equation 8 on the scores of masks by area, those of a search or of :func:`top_masks`.

    The scores compared are those of what the masks keep, whatever the game was; a* is the result's own.
    """
    if not isinstance(found, ExtremalMasks):
        raise TypeError(f"found must be ExtremalMasks, of extremal_masks() or top_masks(), got {type(found).__name__}")
    below = torch.arange(len(found.areas), device=found.scores.device) < found.optimal_index[:, None]
    below |= ~found.reached[:, None]
    drops = (found.scores.cummax(1).values - found.scores).masked_fill(~below, 0.0)
    return MonotoneEvidence(holds=(drops <= 0).all(1), areas_below=below.sum(1), largest_drop=drops.amax(1))


def top_masks(
    forward_func: Callable[..., Any],
    attribution: Explanation,
    inputs: Tensor,
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    areas: float | Sequence[float] | Tensor = AREAS,
    baselines: BaselineType = None,
    perturbation: str | Perturbation = "blur",
) -> ExtremalMasks:
    """The binary masks of any map's highest values at each area, scored as :class:`~captum_extremal.ExtremalMasks`.

    Args:
        forward_func: the model, or any function of its inputs.
        attribution, inputs, target, additional_forward_args: as :func:`insertion_deletion` takes them.
        areas: strictly increasing fractions of the input, in (0, 1]. A mask keeps round(a P) of P positions.
        baselines, perturbation: as :meth:`ExtremalPerturbation.attribute` takes them.

    Returns:
        masks (N, A, 1, *S) of 0 and 1, their scores and a*, whose Phi_0 is the whole input's score; ``sigma`` is 0.
    """
    target = check_batch(inputs, target, additional_forward_args, baselines)
    positions = inputs[0, 0].numel()
    fractions = check_areas(areas, counts=False)
    if fractions[0] < 1 / positions:
        raise ValueError(f"areas must be at least one position, {1 / positions:.2g} of the input, got {fractions[0]}")
    chosen = as_perturbation(perturbation)
    rank = rank_from_top(attribution, inputs, target, additional_forward_args)
    kept = torch.stack([rank < round(area * positions) for area in fractions])
    with open_session(forward_func, inputs, target, additional_forward_args, baselines=baselines) as session:
        phi = session.objective(chosen.bind, differentiable=False)
        by_area = [phi.measure((rows.unsqueeze(1).to(session.dtype),)) for rows in kept]
        scores, complements = (torch.cat(rows).T.contiguous() for rows in zip(*by_area))
        if fractions[-1] == 1:
            scores[:, -1], complements[:, -1] = phi.clean, phi.perturbed  # the whole input, without rounding
    return ExtremalMasks(
        masks=kept.transpose(0, 1).unsqueeze(2).float(),
        areas=scores.new_tensor(fractions),
        scores=scores,
        complement_scores=complements,
        clean_score=phi.clean,
        perturbed_score=phi.perturbed,
        values=scores,
        threshold=phi.clean,
        sigma=torch.zeros(len(fractions)),
        settings={"game": asdict(PRESERVE), "perturbation": repr(chosen), "masks": "the highest values of a map"},
    )


def _curve(objective: Objective, kept: Callable[[Tensor], Tensor], taken: Tensor, at_once: int) -> Tensor:
    """Scores (N, T + 1) of the positions that are kept after so many are taken."""
    chunks = (torch.cat([kept(count) for count in counts]).unsqueeze(1) for counts in torch.split(taken, at_once))
    return torch.cat([objective.value((masks.to(objective.clean.dtype),)) for masks in chunks]).T.contiguous()


def _softmax(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The function's probabilities; the sums of those in half precision may be off by a hundredth."""
    warned = False

    def probabilities(*args: Any) -> Any:
        nonlocal warned
        scores = forward_func(*args)
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            return scores  # the objective says what is wrong with it
        if scores.dim() < 2 or scores.shape[1] < 2:
            rule = "forward_func must return scores (N, K, ...) of two classes or more"
            raise ValueError(f"{rule}, got shape {tuple(scores.shape)}: softmax=False takes probabilities")
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if not warned and bool((scores >= 0).all()) and bool((scores.sum(1) - 1).abs().max() < 0.01):
            warned = True
            warn_caller("the model returns probabilities, of which the softmax is taken again: give softmax=False")
        return scores.softmax(1)

    return probabilities
