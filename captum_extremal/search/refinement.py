r"""Settling: projected gradient ascent on equation 2 itself, with which every search ends.

A path only passes an area, and the penalty of equation 4 leaves a mask near one; a mask that is then cut down or
widened to the area loses a good part of its score, because what it keeps was weighed for another area. So each area's
mask goes uphill for a few steps under the constraint :math:`mean(m) = a`, met exactly at every step by projection.

Parameters are moved themselves, and not their logits: one at 0 or 1 leaves it as easily as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from captum_extremal.masks import BoundMask, Linearised
from captum_extremal.search.area import at_area, fit_limit, project
from captum_extremal.search.momentum import Momentum
from captum_extremal.search.problem import Parameters, Record, Search

_RATE, _FINAL_RATE = 0.01, 0.002  # change of a typical parameter in the first and the last step
_MEMORY = 0.8  # of the momentum


def refine(
    search: Search, found: list[Parameters], steps: int, precision: torch.dtype | None, first_step: int
) -> list[Parameters]:
    """The best parameters that each area has uphill from those that were found.

    Args:
        search: what to maximise.
        found: for each area the parameters to start from, whose masks need not have the area.
        steps: of each area, uphill, one forward and backward pass of each image a step. Every mask on the way is
            reported, so one more than steps.
        precision: floating type to autocast the model's forward to.
        first_step: the number of the first step to report.

    Returns:
        parameters in [0, 1] whose masks have the areas; those found if there are no steps.
    """
    reports = refinement_reports(steps)
    if reports == 0:
        return found
    ascents = [_ProjectedAscent(search, index, parameters, precision) for index, parameters in enumerate(found)]
    return [ascent.run(steps, first_step + index * reports) for index, ascent in enumerate(ascents)]


def refinement_reports(steps: int) -> int:
    """How many masks of an area are reported in so many steps."""
    return steps + 1 if steps else 0


class _ProjectedAscent:
    """One area's ascent, for all images at once."""

    def __init__(self, search: Search, index: int, start: Parameters, precision: torch.dtype | None) -> None:
        self._search, self._precision = search, precision
        self._asked, self._bounds = search.areas[index], search.bounds[index]
        self._areas = [min(self._asked, fit_limit(bound)) for bound in self._bounds]
        # A mask far from the area is best brought there by its logits: they spare what is surely kept.
        self._parameters = self._map(at_area, start)
        self._momenta = [Momentum(_MEMORY, p) for p in start]

    def run(self, steps: int, first_step: int) -> Parameters:
        rates = [_RATE * (_FINAL_RATE / _RATE) ** (step / steps) for step in range(steps)]
        records = []
        for step, rate in enumerate([*rates, None], start=first_step):
            records.append(self._step(rate))
            reward = records[-1].reward
            self._search.report(step, reward.new_tensor([self._asked]), reward[None])
        return reduce(Record.or_better, records).parameters

    def _step(self, rate: float | None) -> Record:
        """The parameters and their rewards, and a step uphill from there if there is a rate."""
        parameters = self._parameters
        here = [bound.linearised(p) for bound, p in zip(self._bounds, parameters)]
        leaves = [one.grid_values.requires_grad_(rate is not None) for one in here]
        masks = tuple(bound.expand(leaf) for bound, leaf in zip(self._bounds, leaves))
        reward = self._search.reward(masks, precision=self._precision)[0]
        if rate is not None:
            gradients = torch.autograd.grad(reward.sum(), leaves)
            parts = zip(self._bounds, parameters, here, gradients, self._momenta)
            with torch.no_grad():
                moved = tuple(p + rate * momentum(_along(b, p, h, g)) for b, p, h, g, momentum in parts)
                self._parameters = self._map(project, moved)
        return Record(parameters, reward.detach())

    def _map(self, fit: Callable[[Tensor, float, BoundMask], Tensor], parameters: Parameters) -> Parameters:
        return tuple(fit(p, area, bound) for p, area, bound in zip(parameters, self._areas, self._bounds))


def _along(bound: BoundMask, p: Tensor, here: Linearised, by_grid: Tensor) -> Tensor:
    """The reward's gradient (B, D), less the part of it that would change the area."""
    reward, area = here.gradients(by_grid, here.area_by_grid)
    free = ((p > 0) | (reward > 0)) & ((p < 1) | (reward < 0))
    total = (area * free).sum(1, keepdim=True).clamp(min=1e-30)
    return bound.spread(reward - area * ((reward * free).sum(1, keepdim=True) / total))
