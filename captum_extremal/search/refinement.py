r"""Refinement: projected gradient ascent on equation 2 itself, the last part of every search.

A path only passes an area, and the penalty of equation 4 leaves a mask near one. A mask that is then shrunk or grown to
the area loses a good part of its score, because its parts were chosen for another area. So the mask of each area takes
a few steps uphill under the constraint :math:`mean(m) = a`, which a projection meets exactly after every step.

The steps move the parameters, not their logits, so that a parameter at 0 or 1 moves as easily as any other.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from captum_extremal.masks import BoundMask, Linearised
from captum_extremal.search.area import at_area, at_fixed_area, fit_limit, project
from captum_extremal.search.momentum import Momentum
from captum_extremal.search.problem import BoundMasks, Parameters, Point, Record, Search

_RATE, _FINAL_RATE = 0.04, 0.01  # change of a typical parameter in the first and the last step
_MEMORY = 0.8  # of the momentum
_SMOOTHING = 1 / 32  # of the gradient, see BoundMask: finer than the path's


def refine(
    search: Search, found: list[Record], steps: int, precision: torch.dtype | None, first_step: int
) -> list[Record]:
    """The best masks of each area that projected ascent finds from the given ones.

    Args:
        search: what to maximise.
        found: for each area the masks to start from, which need not have the area.
        steps: for each area; a step is one forward and backward pass of each image. Every mask on the way is
            reported, that is one more than steps.
        precision: floating type to autocast the model's forward to.
        first_step: the number of the first step to report.

    Returns:
        masks that have the areas; ``found`` if there are no steps.
    """
    reports = refinement_reports(steps)
    if reports == 0:
        return found
    ascents = [ProjectedAscent(search, index, record.parameters, precision) for index, record in enumerate(found)]
    return [ascent.run(steps, first_step + index * reports) for index, ascent in enumerate(ascents)]


def refinement_reports(steps: int) -> int:
    """The number of masks of one area that are reported in so many steps."""
    return steps + 1 if steps else 0


class ProjectedAscent:
    """Projected gradient ascent at one area, for all images at once."""

    def __init__(self, search: Search, index: int, start: Parameters, precision: torch.dtype | None) -> None:
        self._search, self._precision = search, precision
        self._asked, self._bounds = search.areas[index], search.bounds[index]
        self._areas = [min(self._asked, fit_limit(bound)) for bound in self._bounds]
        # A mask far from the area is shifted in its logits, which keeps values near 0 and 1 where they are.
        self._parameters = self._each(at_area, start)
        self._momenta = new_momenta(start)

    def run(self, steps: int, first_step: int) -> Record:
        """The best masks of the start and of each step's end, and their binary versions where the family has them."""
        records = []
        for step in range(steps):
            point = self._search.value_and_grad(self._bounds, self._parameters, self._precision)
            records.append(self._report(first_step + step, point.values))
            self._ascend(point, step / steps)
        values = self._search.value(self._bounds, self._parameters, self._precision)
        records.append(self._report(first_step + steps, values))
        best = reduce(Record.or_better, records)
        binary = [bound.binary(p, self._asked) for bound, p in zip(self._bounds, best.parameters)]
        kept = tuple(p for p in binary if p is not None)
        if len(kept) < len(binary):
            return best
        # Where many channels are kept, the steps do not bring each of them up to 1.
        return best.or_better(Record(kept, self._search.value(self._bounds, kept, self._precision)[0]))

    def _report(self, step: int, values: Tensor) -> Record:
        self._search.report(step, values.new_full((1,), self._asked), values)
        return Record(self._parameters, values[0])

    def _ascend(self, point: Point, progress: float) -> None:
        self._parameters = ascended(self._bounds, point, self._areas, self._momenta, progress)

    def _each(self, fit: Callable[[Tensor, float, BoundMask], Tensor], parameters: Parameters) -> Parameters:
        return tuple(fit(p, area, bound) for p, area, bound in zip(parameters, self._areas, self._bounds))


def new_momenta(parameters: Parameters) -> list[Momentum]:
    """The momentum of an ascent, for the parameters (B, D) of each input tensor."""
    return [Momentum(_MEMORY, p) for p in parameters]


def ascended(
    bounds: BoundMasks, point: Point, areas: Sequence[float | Tensor], momenta: list[Momentum], progress: float
) -> Parameters:
    """The parameters (B, D) one step uphill from a point, projected to an area for each input tensor.

    Args:
        bounds, point: the masks' families, and the gradient where the step begins.
        areas: for each input tensor the area of all rows, or one for each (B,).
        momenta: of the ascent.
        progress: the fraction of the steps that are done; steps become shorter.
    """
    rate = _RATE * (_FINAL_RATE / _RATE) ** progress
    parts = zip(bounds, point.parameters, point.linearised, point.by_grid, momenta, areas)
    return tuple(
        project(p + rate * momentum(_direction(bound, p, here, by_grid)), area, bound)
        for bound, p, here, by_grid, momentum, area in parts
    )


def _direction(bound: BoundMask, p: Tensor, here: Linearised, by_grid: Tensor) -> Tensor:
    """The gradient (B, D) of the value along which the area stays, smoothed."""
    gradient, area = here.gradients(by_grid, here.area_by_grid)
    free = ((p > 0) | (gradient > 0)) & ((p < 1) | (gradient < 0))  # not held back by a bound of [0, 1]
    return bound.smooth_gradient(at_fixed_area(gradient, area, free), here.area, _SMOOTHING)
