r"""The path solver, the default: one path of areas that passes all the areas asked for (equation 2).

The solver follows one mask while its area shrinks. The area is met exactly at every step, so all areas of a sweep
cost little more than one.

Shapes: N images, A areas, D parameters of a mask, R searches; rows (R N, D) are mask-major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal.masks import BoundMask, Linearised
from captum_extremal.search.area import at_area, at_fixed_area, fit_area, fit_limit, positive_sum
from captum_extremal.search.momentum import Momentum
from captum_extremal.search.problem import BoundMasks, Parameters, Record, Search, check_precision
from captum_extremal.search.refinement import refine, refinement_reports

_LONGEST_SHIFT = 4.0  # in one step, in logits: the first order says little where no logit is near the threshold
_START = 0.95  # area at the path's start: a mask of everything has no gradient by its parameters
_FORK = 0.5  # area at which one search becomes several
_SLOWER = 2.4  # halving the area takes this many times more steps above the fork than below it
_FIRST_PART = 18  # at least 1 / 18 of the steps lead to the first area
_LOGIT_RANGE = 8.0  # logits stay in this range around the threshold, so that every parameter can come back
_SHARPNESS = (2.0, 4.0)  # of the variants tried at the end


@dataclass(frozen=True)
class PathSolver:
    """Follow a few masks of each image along a path of shrinking areas (a homotopy).

    A mask starts with nearly everything kept and shrinks geometrically. As it passes an area that was asked for, it is
    recorded. At each step the logits of its parameters move along the gradient with momentum. The length of the step
    is normalised by a running mean square, so the learning rate does not depend on the model's scale. Then they are
    shifted to the area of the next step.

    A small mask depends on what the path has given up before, which is partly chance. So at one half of the input the
    search forks into several that differ in their learning rates and binary weights, and each area keeps the best of
    them. This gains more than as many steps of a single search.

    At the end every area tries sharper versions of its mask and its neighbours' masks, and the best of them is refined
    at the area (:mod:`~captum_extremal.search.refinement`).

    A game that only removes ("delete") has little gradient at large areas, where nearly everything is removed. So its
    path is followed a second time, from the smallest area up to the largest. Each area keeps the better mask of both.

    Args:
        steps: of one sweep of the path, give or take a few, because each part between two areas has whole steps. Above
            the fork, to which about four tenths of them lead, a step is one forward and backward pass of each image;
            below it one for each search.
        searches: how many the search forks into. They are spaced evenly, by their logarithms, around the settings
            below: the first and the last have a learning rate smaller and larger by the square root of 2, and half and
            twice the binary weight.
        learning_rate: change of a typical logit in the first step. It falls geometrically to ``final_learning_rate``.
        momentum: of the normalised gradient.
        decay: the fraction of each logit that is subtracted in a step, so that a parameter far from the threshold can
            come back when the area has changed.
        binary_weight: of the pull towards binary masks, which is part of equation 4's area loss. Without it, masks
            that are larger than what the model needs stay grey, because their values make no difference to the model.
        sweeps: how often the path is followed, down, up, down, ...; None for 1, and 2 for games that only remove.
        refinement: passes of each image for the refinement at the end, as a fraction of ``steps``; all areas share
            them.
        precision: floating type to autocast the model's forward to, such as ``torch.bfloat16``.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range.
    """

    flips = False

    steps: int = 100
    searches: int = 3
    learning_rate: float = 0.35
    final_learning_rate: float = 0.14
    momentum: float = 0.8
    decay: float = 0.02
    binary_weight: float = 1.0
    sweeps: int | None = None
    refinement: float = 0.4
    precision: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("searches", self.searches)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("final_learning_rate", self.final_learning_rate, above=0)
        check_number("momentum", self.momentum, at_least=0, below=1)
        check_number("decay", self.decay, at_least=0, below=1)
        check_number("binary_weight", self.binary_weight, at_least=0)
        if self.sweeps is not None:
            check_count("sweeps", self.sweeps)
        check_number("refinement", self.refinement, at_least=0)
        check_precision(self.precision)

    def plan(self, search: Search) -> _PathPlan:
        """The path through the areas of this search."""
        return _PathPlan(self, search)


def area_schedule(areas: tuple[float, ...], steps: int, sweeps: int, start: float) -> list[tuple[float, int | None]]:
    """The areas of a path, each with its index among the areas asked for, or None between them.

    The first sweep goes from the start down to the smallest area, the next ones up to the largest and down again. The
    path is geometric, and slower above the fork. Each part of a sweep, between two neighbouring areas, gets steps in
    proportion to its length, but at least one: the step at its end. The first part gets a few, however short it is,
    because the masks at the start hold no information yet. Areas above the path's start are met at its start.
    """
    down = list(range(len(areas)))[::-1]
    schedule: list[tuple[float, int | None]] = []
    before = start
    for sweep in range(sweeps):
        route = down if sweep == 0 else (down[::-1] if sweep % 2 else down)[1:]
        ends = [min(areas[index], start) for index in route]
        lengths = [abs(path_position(end) - path_position(one)) for one, end in zip([before, *ends], ends)]
        for index, end, length in zip(route, ends, lengths):
            least = 1 if schedule else max(1, steps // _FIRST_PART)
            count = max(least, round(steps * length / max(sum(lengths), 1e-12)))
            first, last = path_position(before), path_position(end)
            schedule += [(_area_at(first + (last - first) * step / count), None) for step in range(1, count)]
            schedule.append((end, index))
            before = end
    return schedule


def path_position(area: float) -> float:
    """Where on the path an area is. Steps are evenly spaced between the positions of two areas."""
    return math.log(area / _FORK) * (_SLOWER if area > _FORK else 1.0)


def _area_at(position: float) -> float:
    return _FORK * math.exp(position / _SLOWER if position > 0 else position)


class _PathPlan:
    """One run of the path solver, for all images at once."""

    def __init__(self, solver: PathSolver, search: Search) -> None:
        self._solver, self._search, self._precision = solver, search, solver.precision
        limit = min(fit_limit(bound) for bounds in search.bounds for bound in bounds)
        sweeps = solver.sweeps or (1 if search.game.kept else 2)
        self._schedule = area_schedule(search.areas, solver.steps, sweeps, start=min(_START, limit))
        self._refinement_steps = math.ceil(round(solver.refinement * solver.steps) / len(search.areas))
        self._forked = False

    @property
    def steps(self) -> int:
        """The steps of the path, at least one for each area it passes, and those of the refinement."""
        return len(self._schedule) + refinement_reports(self._refinement_steps) * len(self._search.areas)

    def run(self) -> list[Parameters]:
        """Follow the path, keep for each image and area the best parameters seen there, and refine them."""
        records = self._try_variants(self._follow())
        found = [record.parameters for record in records]
        return refine(self._search, found, self._refinement_steps, self._precision, first_step=len(self._schedule))

    def _follow(self) -> list[Record]:
        """For each area the best parameters of the path."""
        self._ascents = [_LogitAscent(self._solver, bound, self._search.images) for bound in self._search.bounds[0]]
        best: dict[int, Record] = {}
        next_areas = [*(area for area, _ in self._schedule[1:]), None]
        for step, ((area, index), next_area) in enumerate(zip(self._schedule, next_areas)):
            if area < _FORK and not self._forked:
                self._forked = True
                for ascent in self._ascents:
                    ascent.fork(self._solver.searches)
            record = self._step(area, next_area, step / len(self._schedule))
            self._search.report(step, record.value.new_tensor([area]), record.value[None])
            if index is not None:
                best[index] = best.get(index, record).or_better(record)
        return [best[index] for index in range(len(self._search.areas))]

    def _step(self, area: float, next_area: float | None, progress: float) -> Record:
        """The best parameters at this area; then a step along the gradient to the next area, if there is one."""
        bounds = self._bounds_at(area)
        parameters = tuple(ascent.parameters_at(area, bound) for ascent, bound in zip(self._ascents, bounds))
        if next_area is None:
            return Record.best(parameters, self._search.value(bounds, parameters, self._precision))
        point = self._search.value_and_grad(bounds, parameters, self._precision)
        for ascent, bound, here, by_grid in zip(self._ascents, bounds, point.linearised, point.by_grid):
            ascent.step(bound, here, by_grid, next_area, progress)
        return Record.best(parameters, point.values)

    def _bounds_at(self, area: float) -> BoundMasks:
        """The mask families of the smallest area asked for that is not below this one."""
        for asked, bounds in zip(self._search.areas, self._search.bounds):
            if asked >= area * (1 - 1e-9):
                return bounds
        return self._search.bounds[-1]

    def _try_variants(self, records: list[Record]) -> list[Record]:
        """Let each area try sharper versions of its mask, and its neighbours' masks. A try is one forward pass.

        The path may pass an area with a poor mask and find a better one just before or after it. First the smaller
        area's mask is grown, then the larger one's shrunk, so that a good mask can spread over several areas.
        """
        areas = range(len(records))
        tries = [(index, index, sharpness) for index in areas for sharpness in _SHARPNESS]
        tries += [(index, index - 1, 1.0) for index in areas[1:]]
        tries += [(index, index + 1, 1.0) for index in reversed(areas[:-1])]
        for index, source, sharpness in tries:
            area, bounds = self._search.areas[index], self._search.bounds[index]
            given = records[source].parameters
            parameters = tuple(at_area(p, area, bound, sharpness) for p, bound in zip(given, bounds))
            value = self._search.value(bounds, parameters, self._precision)[0]
            records[index] = records[index].or_better(Record(parameters, value))
        return records


class _LogitAscent:
    """Momentum along normalised gradients, on the logits (R N, D) of the masks of one input tensor.

    The logits' threshold is 0, because the shift that leads to the next area is part of each step. A step dz changes
    the area by the sum of c p' dz to first order, with c p' the derivative of the area by the logits. The error of the
    first order, about one per cent of the area, is corrected in the next step.
    """

    def __init__(self, solver: PathSolver, bound: BoundMask, images: int) -> None:
        self._solver = solver
        self._logits = bound.new_parameters(images)
        self._momentum = Momentum(solver.momentum, self._logits)
        self._factor = self._logits.new_ones(images, 1)
        self._bound: BoundMask | None = None

    def fork(self, searches: int) -> None:
        """Continue as several searches."""
        images = len(self._logits)
        factors = 2 ** torch.linspace(-1, 1, searches) if searches > 1 else torch.ones(1)
        self._factor = factors.to(self._logits).repeat_interleave(images)[:, None]
        self._logits = self._logits.repeat(searches, 1)
        self._momentum.repeat(searches)

    def parameters_at(self, area: float, bound: BoundMask) -> Tensor:
        """The parameters (R N, D). With a mask family that is new to the path, the area is fitted first."""
        if bound is not self._bound:
            self._bound = bound
            self._logits -= fit_area(self._logits, area, bound)[1][:, None]
        return torch.sigmoid(self._logits)

    def step(self, bound: BoundMask, here: Linearised, by_grid: Tensor, next_area: float, progress: float) -> None:
        """Ascend along the gradient (R N, G) by the grid values, to the next area of the path."""
        value, binary, area = self._gradients(bound, here, by_grid)
        ascent = self._momentum(value) + self._solver.binary_weight * self._factor * binary
        change = self._rate(progress) * self._factor.sqrt() * ascent - self._solver.decay * self._logits
        # Newton's step on the log-odds of the area, which fall almost linearly with the shift.
        covered = here.area[:, None]
        excess = (torch.logit(covered) - math.log(next_area / (1 - next_area))) * covered * (1 - covered)
        shift = ((area * change).sum(1, keepdim=True) + excess) / positive_sum(area)
        shift = shift.clamp(-_LONGEST_SHIFT, _LONGEST_SHIFT)
        self._logits.add_(change - shift).clamp_(-_LOGIT_RANGE, _LOGIT_RANGE)

    def _gradients(self, bound: BoundMask, here: Linearised, by_grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By the logits (R N, D): of the value and of being binary, both at a fixed area, and of the area."""
        by_area = here.area_by_grid
        found = here.gradients(by_grid, by_area * _towards_binary(here), by_area)
        # In units of a typical parameter's share of the area, so that the binary weight depends on no size.
        share = found[2].mean(1, keepdim=True)
        p = torch.sigmoid(self._logits)
        slope = p * (1 - p)
        value, binary, area = found[0] * slope, found[1] * slope / share, found[2] * slope
        return bound.smooth_gradient(at_fixed_area(value, area)), at_fixed_area(binary, area), area

    def _rate(self, progress: float) -> float:
        first, last = self._solver.learning_rate, self._solver.final_learning_rate
        return float(first * (last / first) ** progress)


def _towards_binary(here: Linearised) -> Tensor:
    """Minus half the derivative of equation 4's area loss by the grid values (B, G), each with weight 1.

    At the exact area, all that the area loss still asks for is a binary mask of the highest values.
    """
    values = here.grid_values
    kept = (here.area * values.shape[1]).long().clamp(1, values.shape[1])
    lowest = values.sort(dim=1, descending=True).values.gather(1, kept[:, None] - 1)
    return (values >= lowest).to(values) - values
