r"""The smallest sufficient area a* (equation 3), searched as it is defined: the smallest mask that is still enough.

.. math::

    a^* = \min_m mean(m) \quad \text{subject to} \quad \Phi(m \otimes x) \ge \Phi_0

A path of shrinking areas passes a*. The smallest area at which it was still enough
(:mod:`~captum_extremal.search.crossing`) is where the search begins. From there, each step moves the mask uphill, as
the refinement does. Then the mask shrinks if its value is above Phi_0, and grows slowly if it is below, by the change
of the area that would bring the value to Phi_0. Near Phi_0 the changes become smaller and smaller. The smallest mask
on the way that was enough is a*. An image of which no mask is soon enough begins again from nearly everything, with
more steps, because its way is longer.

Shapes: N images, D parameters of a mask; rows (N, D).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_extremal.masks.binary import agreement
from captum_extremal.search.area import at_area, fit_limit, mask_of_area
from captum_extremal.search.crossing import FLAT, Crossing, missing_change
from captum_extremal.search.problem import BoundMasks, Goal, Optimum, Parameters, Search, bounds_of_images
from captum_extremal.search.refinement import ascended, new_momenta

_LARGEST_CHANGE = 0.12  # of the area's logarithm in one step
_GROWTH = 0.25  # of the largest change: most masks that are not enough become so by moving uphill
_STUCK = 5  # steps without a mask that was enough, after which the area grows however little the value falls short
_PATIENT_STEPS = 8  # images of which no mask was enough until then begin again from nearly everything,
_LONGER = 1.6  # with so many times more steps
_FIRST_CHANGE, _LAST_CHANGE = 0.12, 0.01  # the largest change near Phi_0, in the first and the last step
_ROUNDED = 0.01  # of a unit: what rounding may add to an area that is a whole number of units
_TRIES = 8  # to grow a mask that was not enough when it was measured again, by _LAST_CHANGE and twice as much each time


def find_optimum(
    search: Search, crossing: Crossing, steps: int, precision: torch.dtype | None, first_step: int
) -> Optimum:
    """The smallest masks that are enough, from where a path crossed a*.

    Args:
        search: with a goal.
        crossing: where to start.
        steps: passes of each image.
        precision: floating type to autocast the model's forward to. The masks found are measured without it.
        first_step: the number of the first step to report.
    """
    assert search.goal is not None
    goal = search.goal
    vacuous = goal.nothing >= goal.threshold
    starts = crossing.area.clamp(max=1).masked_fill(vacuous, torch.nan).tolist()
    groups: dict[int, tuple[BoundMasks, list[int]]] = {}
    for row, area in enumerate(starts):
        if not math.isnan(area):
            bounds = goal.bounds_of(area)
            groups.setdefault(id(bounds), (bounds, []))[1].append(row)
    parts = [
        _Shrinking.from_path(search, bounds, torch.tensor(members, device=vacuous.device), crossing, steps)
        for bounds, members in groups.values()
    ]
    for step in range(optimum_reports(steps)):
        if step == _PATIENT_STEPS:
            parts = _with_restarts(parts)
        areas, values = (torch.full_like(goal.threshold, torch.nan) for _ in range(2))
        moving = [part for part in parts if not part.ended]
        for part in moving:
            areas[part.rows], values[part.rows] = part.step(precision)
        if moving:
            search.report(first_step + step, areas[None], values[None])
    return _measured(search, parts, crossing)


def _with_restarts(parts: list[_Shrinking]) -> list[_Shrinking]:
    """The parts, and those in which images of which no mask was enough yet begin again."""
    if not parts:
        return []
    never_enough = iter(torch.cat([part.least_area for part in parts]).isinf().tolist())
    far = [[row for row in range(len(part.rows)) if next(never_enough)] for part in parts]
    restarted = [part.restarted(of_part) for part, of_part in zip(parts, far) if of_part]
    return [part for part in (*parts, *restarted) if len(part.rows)]


def optimum_reports(steps: int) -> int:
    """The largest number of steps that are reported for so many steps of the search for a*."""
    return max(steps, min(steps, _PATIENT_STEPS) + round(_LONGER * steps))


class _Shrinking:
    """The search for a* of some images, whose masks are of one family.

    Args:
        search: of all images.
        bounds: the family.
        rows: the images' numbers (n,).
        parameters: where to start, (n, D).
        known: the areas (n,) of these masks where they are enough; else infinite.
        start: the areas (n,) to start at.
        steps: to take.
    """

    def __init__(
        self,
        search: Search,
        bounds: BoundMasks,
        rows: Tensor,
        parameters: Parameters,
        known: Tensor,
        start: Tensor,
        steps: int,
    ) -> None:
        self.rows, self.bounds, self.best, self.best_area = rows, bounds_of_images(bounds, rows), parameters, known
        self.seen_area = known  # where a mask was enough, perhaps of an area a little larger
        self._whole_search, self._steps, self._taken = search, steps, 0
        self.limit = min(fit_limit(bound) for bound in bounds)
        self._area = start.clamp(max=self.limit)
        # For how many steps no mask was enough, and for how many masks were, but hardly.
        self._short, self._flat = torch.zeros_like(rows), torch.zeros_like(rows)
        self._parameters = tuple(at_area(p, self._area, bound) for p, bound in zip(parameters, self.bounds))
        self._momenta = new_momenta(self._parameters)
        self._enter()

    @classmethod
    def from_path(cls, search: Search, bounds: BoundMasks, rows: Tensor, crossing: Crossing, steps: int) -> _Shrinking:
        """Begin where the path crossed a*, or where it came nearest to it."""
        area, parameters = crossing.area[rows], tuple(p[rows] for p in crossing.parameters)
        # A path meets its areas to one per cent only: at its exact area, a mask that was enough may fall short.
        known = (area * (1 + _LAST_CHANGE)).masked_fill(~crossing.found[rows], torch.inf)
        return cls(search, bounds, rows, parameters, known, area, steps)

    def _enter(self) -> None:
        """The search of these images alone."""
        everything = len(self.rows) == self._whole_search.images
        self._search = self._whole_search if everything else self._whole_search.of_images(self.rows)
        assert self._search.goal is not None
        self._goal = self._search.goal

    @property
    def least_area(self) -> Tensor:
        """The area (n,) of the best masks, or about that where a path saw some that were enough; else infinite."""
        return torch.where(self.best_area.isinf(), self.seen_area, self.best_area)

    @property
    def ended(self) -> bool:
        """Whether all steps are taken."""
        return self._taken >= self._steps

    def restarted(self, of_part: list[int]) -> _Shrinking:
        """Hand over some of these images, to begin again from nearly everything."""
        goal, device = self._whole_search.goal, self.rows.device
        assert goal is not None
        near = [row for row in range(len(self.rows)) if row not in of_part]
        far, others = (torch.tensor(some, dtype=torch.int64, device=device) for some in (of_part, near))
        bounds, parameters = goal.bounds_of(1.0), tuple(p[far] for p in self._parameters)
        rows, known = self.rows[far], self.best_area[far]
        again = _Shrinking(self._whole_search, bounds, rows, parameters, known, known, round(_LONGER * self._steps))
        self._keep(others)
        return again

    def _keep(self, rows: Tensor) -> None:
        self.rows, self.best_area, self._area = self.rows[rows], self.best_area[rows], self._area[rows]
        self._short, self._flat, self.seen_area = self._short[rows], self._flat[rows], self.seen_area[rows]
        self.bounds = bounds_of_images(self.bounds, rows)
        self.best, self._parameters = (tuple(p[rows] for p in every) for every in (self.best, self._parameters))
        for momentum in self._momenta:
            momentum.keep(rows)
        if len(self.rows):
            self._enter()

    def step(self, precision: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Measure the masks, move them uphill and change their areas. The areas (n,) and values (n,) measured."""
        progress = self._taken / self._steps
        self._taken += 1
        point = self._search.value_and_grad(self.bounds, self._parameters, precision)
        area, values = self._area, point.values[0]
        if self._taken == 1:
            self._check_known(values, precision)
        smaller = (values >= self._goal.threshold) & (area < self.best_area)
        self.best_area = torch.where(smaller, area, self.best_area)
        self.best = tuple(torch.where(smaller[:, None], p, q) for p, q in zip(self._parameters, self.best))
        self._area = self._next_area(values, progress)
        areas = [self._area] * len(self.bounds)
        self._parameters = ascended(self.bounds, point, areas, self._momenta, progress)
        return area, values

    def _check_known(self, values: Tensor, precision: torch.dtype | None) -> None:
        """Forget the masks of the path that are not enough at their exact areas either."""
        doubtful = (values < self._goal.threshold) & self.best_area.isfinite()
        if bool(doubtful.any()):
            areas = _rounded_up(self.best_area.where(doubtful, self._area), self._goal).clamp(max=1)
            fitted = tuple(at_area(p, areas, bound) for p, bound in zip(self.best, self.bounds))
            short = self._search.value(self.bounds, fitted, precision)[0] < self._goal.threshold
            self.best_area = self.best_area.masked_fill(doubtful & short, torch.inf)

    def _next_area(self, values: Tensor, progress: float) -> Tensor:
        goal, largest = self._goal, _FIRST_CHANGE * (_LAST_CHANGE / _FIRST_CHANGE) ** progress
        missing = missing_change(goal, values)
        self._short = torch.where(missing > 0, self._short + 1, 0)
        self._flat = torch.where((missing <= 0) & (missing > -FLAT), self._flat + 1, 0)
        most = (-missing / 3).clamp(min=largest, max=_LARGEST_CHANGE)  # far above Phi_0 there is a long way to go
        # Where the score has another scale near Phi_0, values say little of the way there.
        growth = missing.maximum(largest * (self._short >= _STUCK)).clamp(max=_GROWTH * largest)
        shrinkage = missing.minimum(-largest * (self._flat >= _STUCK)).maximum(-most)
        wanted = self._area * torch.exp(torch.where(missing > 0, growth, shrinkage))
        # Once a mask is enough, another of its area is of no use.
        known = self.best_area.clamp(max=2)
        below = torch.minimum(known * (1 - _LAST_CHANGE / 2), _rounded_up(known, goal) - goal.unit)
        return whole_units(torch.minimum(wanted, below), goal).clamp(max=self.limit)


def whole_units(areas: Tensor, goal: Goal) -> Tensor:
    """The nearest areas that are a whole number of units, and no smaller than the smallest mask's."""
    return ((areas / goal.unit).round() * goal.unit).clamp(min=goal.smallest)


def _rounded_up(areas: Tensor, goal: Goal) -> Tensor:
    """The next areas that are a whole number of units; areas that are one already, but for rounding, stay."""
    return whole_units(areas + (0.5 - _ROUNDED) * goal.unit, goal)


def _measured(search: Search, parts: list[_Shrinking], crossing: Crossing) -> Optimum:
    """The masks found, measured by the ordinary forward of the whole batch; those that fall short grow a little."""
    assert search.goal is not None
    goal, inputs = search.goal, len(search.goal.bounds_of(1.0))
    area = torch.ones_like(goal.threshold)
    for part in parts:
        # No mask was enough at the largest area of a search, but a mask between it and everything may be.
        sought = part.least_area.masked_fill(part.least_area.isinf(), part.limit)
        area[part.rows] = _rounded_up(sought.clamp(max=1), goal)  # on the path, areas are no whole number
    sigma = area.new_full((len(area), inputs), torch.nan)
    for part in parts:
        sigma[part.rows] = sigma.new_tensor([bound.sigma for bound in part.bounds])
    for attempt in range(_TRIES):
        masks = _masks(search, parts, area)
        short = (_value(search, masks) < goal.threshold) & (area < 1)
        if not bool(short.any()):
            break
        larger = whole_units(area * (1 + _LAST_CHANGE * 2**attempt), goal).clamp(min=area + goal.unit)
        area = torch.where(short, larger, area)
        area = area.clamp(max=1)
    else:
        area = area.masked_fill(short, 1)
        masks = _masks(search, parts, area)
    area = area.masked_fill((area == 1) & (goal.whole < goal.threshold), torch.nan)
    for part in parts:
        for every, best in zip(crossing.parameters, part.best):
            every[part.rows] = best
    return Optimum(crossing.parameters, masks, area, sigma, _agreement(parts, crossing, area))


def _value(search: Search, masks: tuple[Tensor, ...]) -> Tensor:
    """The game's value (N,), from a forward of its own for each score, as the result measures it."""
    sides = [(search.game.kept, 0.0), (0.0, search.game.removed)]
    return torch.stack([search.objective.value(masks, *side)[0] for side in sides if any(side)]).sum(0)


def _agreement(parts: list[_Shrinking], crossing: Crossing, area: Tensor) -> Tensor:
    """The mean pairwise IoU (N,) of the searches' masks, shrunk or grown to a* (N,); NaN where there was one search."""
    agreed = torch.full_like(area, torch.nan)
    if crossing.every is None:
        return agreed
    for part in parts:
        behind = area[part.rows] <= crossing.forked_at
        rows = part.rows[behind]
        if len(rows):
            areas = area[rows].repeat(len(crossing.every[0]))
            every = zip(crossing.every, bounds_of_images(part.bounds, behind.nonzero()[:, 0]))
            masks = tuple(mask_of_area(of_input[:, rows].flatten(0, 1), areas, bound) for of_input, bound in every)
            agreed[rows] = agreement(masks, area[rows], len(rows))[1]
    return agreed


def _masks(search: Search, parts: list[_Shrinking], area: Tensor) -> tuple[Tensor, ...]:
    """The masks (N, *mask_shape) of areas (N,); ones where no part has the image."""
    masks = None
    for part in parts:
        found = [mask_of_area(p, area[part.rows], bound) for p, bound in zip(part.best, part.bounds)]
        masks = masks or tuple(one.new_ones(search.images, *one.shape[1:]) for one in found)
        for every, some in zip(masks, found):
            every[part.rows] = some
    if masks is None:  # every image is vacuous
        assert search.goal is not None
        masks = tuple(
            torch.ones_like(b.expand(b.grid_values(b.new_parameters(search.images))))
            for b in search.goal.bounds_of(1.0)
        )
    return masks
