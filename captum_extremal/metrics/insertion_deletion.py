"""Insertion and deletion (Petsiuk et al., *RISE*, BMVC 2018): a class's probability as positions come and go."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType
from captum_extremal._checks import check_count, check_number
from captum_extremal._state import warn_caller
from captum_extremal.masks import REFERENCE_SIDE
from captum_extremal.metrics.explanations import Explanation, check_batch, rank_from_top
from captum_extremal.objective import Objective
from captum_extremal.perturbations import FadePyramid, gaussian_blur
from captum_extremal.session import open_session


@dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """The curves of N images over T + 1 shares of their positions, and the area under each, by trapezoids.

    Attributes:
        fractions: (T + 1,), the share of the positions taken, from exactly 0 to exactly 1.
        insertion: (N, T + 1), the probability with those positions shown: from the blurred input to the input.
        deletion: (N, T + 1), the probability without them: from the input to the baseline.

    A probability is NaN where the model has none, such as one that standardises each image for an image of one colour.
    It then counts in the areas as that of the step before, or in insertion of the step after.
    """

    fractions: Tensor
    insertion: Tensor
    deletion: Tensor

    @property
    def insertion_auc(self) -> Tensor:
        """(N,): the higher, the better the ranking."""
        return torch.trapezoid(_known(self.insertion.flip(1)).flip(1), self.fractions)

    @property
    def deletion_auc(self) -> Tensor:
        """(N,): the lower, the better the ranking."""
        return torch.trapezoid(_known(self.deletion), self.fractions)


def _known(curves: Tensor) -> Tensor:
    """Curves (N, T + 1) with the value before in the place of NaN. The first value is that of the input, never NaN."""
    steps = torch.arange(curves.shape[1], device=curves.device)
    return curves.gather(1, steps.where(~curves.isnan(), 0).cummax(1).values)


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

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before the model runs), or the model's output cannot be
            explained.
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
    if unknown := int((insertion.isnan() | deletion.isnan()).any(1).sum()):
        warn_caller(
            f"forward_func's output is NaN for {unknown} of {len(inputs)} examples where little or nothing of them is "
            "shown, and counts as that of the step before: give baselines for which the model has an output"
        )
    return InsertionDeletion(taken.to(insertion) / positions, insertion, deletion)


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
