r"""The path solver, the default: one path of areas that passes all the areas asked for (equation 2), and a*.

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
from captum_extremal.search.crossing import Crossing
from captum_extremal.search.momentum import Momentum
from captum_extremal.search.optimal_area import find_optimum, optimum_reports
from captum_extremal.search.precision import check_precision, chosen_precision
from captum_extremal.search.problem import Found, Optimum, Parameters, Record, Search
from captum_extremal.search.refinement import refine, refinement_reports

_LONGEST_SHIFT = 4.0  # in one step, in logits: the first order says little where no logit is near the threshold
_START = 0.9  # area at the path's start: a mask of everything has no gradient by its parameters
_WARM_UP = 4  # steps at the start, because the first masks hold no information
_END = 0.05  # where the steps of a path end that seeks a* alone; it goes on at the same pace
_BEND, _SLOWER = 0.4, 2.0  # above this area, halving it takes this many times more steps than below
_FORK = 0.5  # area at which one search becomes several
_SMOOTHING = 1 / 8  # of the gradient, see BoundMask: coarse, so that luck at the start does not decide
_LOGIT_RANGE = 8.0  # logits stay in this range around the threshold, so that every parameter can come back
_TIED = 1e-6  # values that differ by less are the same: rounding should not choose between them
_CHECKPOINT = 8  # least number of steps after which finished images leave the batch
_CHECKPOINTS = 9  # at most, on a whole path: another device is waited for at each


@dataclass(frozen=True)
class PathSolver:
    """Follow a mask of each image along a path of shrinking areas (a homotopy).

    A mask starts with nearly everything kept and shrinks geometrically. As it passes an area that was asked for, it is
    recorded. At each step the logits of its parameters move along the gradient with momentum. The gradient is averaged
    over neighbouring parameters, because that of a single step is mostly noise. The length of the step is normalised by
    a running mean square, so the learning rate does not depend on the model's scale. Then the logits are shifted to the
    area of the next step. At the end each mask is refined at its area (:mod:`~captum_extremal.search.refinement`), and
    a* is sought from the smallest of all these masks that is enough (:mod:`~captum_extremal.search.optimal_area`). Each
    area then takes the mask of a*, shrunk or grown, if it is better. Where a* alone is sought, an image leaves the
    batch when its path lies well behind a*.

    A game that only removes ("delete") has little gradient at large areas, where nearly everything is removed. So its
    path is followed a second time, from the smallest area up to the largest. Each area keeps the better mask of both.

    Args:
        steps: of one sweep of the path, give or take a few, because each part between two areas has whole steps. A
            step is one forward and backward pass of each image; below the fork one for each search.
        searches: how many the search forks into at one half of the input. Below it, they are evidence for how far the
            masks are a matter of luck (:attr:`~captum_extremal.ExtremalMasks.agreement`), and each area keeps the best
            of them. They are spaced evenly, by their logarithms, around the settings below: the first and the last have
            a learning rate smaller and larger by the square root of 2, and half and twice the binary weight.
        learning_rate: change of a typical logit in the first step. It falls geometrically to ``final_learning_rate``.
        momentum: of the normalised gradient.
        decay: the fraction of each logit that is subtracted in a step, so that a parameter far from the threshold can
            come back when the area has changed.
        binary_weight: of the pull towards binary masks, which is part of equation 4's area loss. Without it, masks
            that are larger than what the model needs stay grey, because their values make no difference to the model.
        sweeps: how often the path is followed, down, up, down, ...; None for 1, and 2 for games that only remove.
        refinement: passes of each image for the refinement at the end, as a fraction of ``steps``; all areas share
            them. The search for a* has as many passes as the path has steps.
        precision: floating type to autocast the model's forward to, such as ``torch.bfloat16``; "auto" for bfloat16
            where the machine is fast at it. ``settings["precision"]`` of the result says what was chosen. None leaves
            the caller's.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range.
    """

    flips = False
    finds_optimum = True

    steps: int = 46
    searches: int = 1
    learning_rate: float = 0.35
    final_learning_rate: float = 0.14
    momentum: float = 0.8
    decay: float = 0.02
    binary_weight: float = 0.5
    sweeps: int | None = None
    refinement: float = 1.25
    precision: torch.dtype | str | None = None

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
    path is geometric, and slower at large areas. Each part of a sweep, between two neighbouring areas, gets steps in
    proportion to its length, but at least one: the step at its end. Areas above the path's start are met at its start.
    """
    down = list(range(len(areas)))[::-1]
    warm_up = min(_WARM_UP, steps - 1)
    schedule: list[tuple[float, int | None]] = [(start, None)] * warm_up
    before = start
    for sweep in range(sweeps):
        route = down if sweep == 0 else (down[::-1] if sweep % 2 else down)[1:]
        ends = [min(areas[index], start) for index in route]
        lengths = [abs(path_position(end) - path_position(one)) for one, end in zip([before, *ends], ends)]
        for index, end, length in zip(route, ends, lengths):
            count = max(1, round((steps - warm_up) * length / max(sum(lengths), 1e-12)))
            first, last = path_position(before), path_position(end)
            schedule += [(_area_at(first + (last - first) * step / count), None) for step in range(1, count)]
            schedule.append((end, index))
            before = end
    return schedule


def path_position(area: float) -> float:
    """Where on the path an area is. Steps are evenly spaced between the positions of two areas."""
    return math.log(area / _BEND) * (_SLOWER if area > _BEND else 1.0)


def _area_at(position: float) -> float:
    return _BEND * math.exp(position / _SLOWER if position > 0 else position)


def open_schedule(steps: int, sweeps: int, start: float, smallest: float) -> list[tuple[float, int | None]]:
    """The path of a search for a* alone: that of a sweep to 5 %, which goes on at its pace to the smallest area."""
    schedule = area_schedule((max(smallest, min(_END, start / 2)), start), steps, sweeps, start)
    if sweeps > 1:
        return [(area, None) for area, _ in schedule]
    areas = [area for area, _ in schedule]
    pace = areas[-1] / areas[-2]
    while areas[-1] * pace > smallest:
        areas.append(areas[-1] * pace)
    return [(area, None) for area in areas]


def checkpoint_interval(length: int) -> int:
    """After how many steps of a path of this length finished images leave the batch."""
    return max(_CHECKPOINT, math.ceil(length / _CHECKPOINTS))


class _PathPlan:
    """One run of the path solver, for all images at once."""

    def __init__(self, solver: PathSolver, search: Search) -> None:
        self._solver, self._search = solver, search
        self._precision = chosen_precision(solver.precision, search.device)
        families = search.bounds or [search.bounds_at(1.0)]
        start = min(_START, *(fit_limit(bound) for bounds in families for bound in bounds))
        sweeps = solver.sweeps or (1 if search.game.kept else 2)
        if search.areas:
            self._schedule = area_schedule(search.areas, solver.steps, sweeps, start)
        else:
            assert search.goal is not None
            self._schedule = open_schedule(solver.steps, sweeps, start, search.goal.smallest)
        # Behind a* there is nothing to see, but a path that turns comes back.
        self._may_stop = not search.areas and sweeps == 1
        passes = round(solver.refinement * solver.steps)
        self._refinement_steps = math.ceil(passes / max(1, len(search.areas)))
        self._length = sweeps * solver.steps
        self._checkpoint = checkpoint_interval(len(self._schedule))
        self._forked = False
        self._taken = 0  # steps of the path

    @property
    def steps(self) -> int:
        """The steps of the path, at least one for each area it passes, of the refinement, and of the search for a*."""
        refinement = refinement_reports(self._refinement_steps) * len(self._search.areas)
        optimum = optimum_reports(self._solver.steps) if self._search.goal is not None else 0
        return len(self._schedule) + refinement + optimum

    def run(self) -> Found:
        """Follow the path, keep for each image and area the best parameters seen there, refine them, and find a*."""
        search = self._search
        records, rows = self._follow()
        taken, optimum = self._taken, None
        records = refine(search, records, self._refinement_steps, self._precision, first_step=taken)
        if search.goal is not None:
            taken += refinement_reports(self._refinement_steps) * len(search.areas)
            for area, record in zip(search.areas, records):
                self._crossing.see(area, record.parameters, record, self._rows)
            optimum = find_optimum(search, self._crossing, self._solver.steps, self._precision, first_step=taken)
            records = [self._or_from(optimum, index, record) for index, record in enumerate(records)]
        return Found([record.parameters for record in records], optimum, rows)

    def _or_from(self, optimum: Optimum, index: int, record: Record) -> Record:
        """The masks of an area, or those of a* shrunk or grown to it where they are better.

        The search for a* stays longer near one area than the refinement does at each.
        """
        area, bounds = self._search.areas[index], self._search.bounds[index]
        fitted = tuple(at_area(p, area, bound) for p, bound in zip(optimum.parameters, bounds))
        return record.or_better(Record(fitted, self._search.value(bounds, fitted, self._precision)[0]))

    def _follow(self) -> tuple[list[Record], list[Parameters | None]]:
        """For each area the best parameters of the path, and those of all its searches; None before the fork."""
        search = self._search
        bounds = search.bounds[0] if search.areas else search.bounds_at(1.0)
        self._ascents = [_LogitAscent(self._solver, bound, search.images) for bound in bounds]
        self._active, self._rows = search, torch.arange(search.images, device=self._ascents[0].device)
        if search.goal is not None:
            self._crossing = Crossing(search.goal, tuple(bound.new_parameters(search.images) for bound in bounds))
        best: dict[int, Record] = {}
        every: dict[int, Parameters | None] = {}
        next_areas = [*(area for area, _ in self._schedule[1:]), None]
        for step, ((area, index), next_area) in enumerate(zip(self._schedule, next_areas)):
            if area < _FORK and not self._forked:
                self._fork()
            if self._may_stop and step % self._checkpoint == 0 and self._leave():
                break
            parameters, values = self._step(area, next_area, min(1.0, step / self._length))
            record = Record.best(parameters, values)
            self._active.report(step, record.value.new_full((1,), area), record.value[None])
            self._taken = step + 1
            if search.goal is not None:
                self._crossing.see(area, parameters, record, self._rows)
            if index is not None:
                best[index] = best.get(index, record).or_better(record)
                every[index] = parameters if len(values) > 1 else None
        areas = range(len(search.areas))
        return [best[index] for index in areas], [every[index] for index in areas]

    def _fork(self) -> None:
        self._forked = True
        for ascent in self._ascents:
            ascent.fork(self._solver.searches)

    def _leave(self) -> bool:
        """Go on with the images whose path is not yet behind a*. Whether there are none."""
        passed = self._crossing.passed[self._rows].tolist()
        if not any(passed):
            return False
        if all(passed):
            return True
        images, stay = len(passed), [image for image, done in enumerate(passed) if not done]
        kept = torch.tensor(stay, device=self._rows.device)
        self._rows = self._rows[kept]
        self._active = self._search.of_images(self._rows)
        for ascent in self._ascents:
            ascent.keep(kept, images)
        return False

    def _step(self, area: float, next_area: float | None, progress: float) -> tuple[Parameters, Tensor]:
        """The parameters (R N, D) and values (R, N) at this area; then a step to the next one, if there is one."""
        bounds = self._active.bounds_at(area)
        parameters = tuple(ascent.parameters_at(area, bound) for ascent, bound in zip(self._ascents, bounds))
        if next_area is None:
            return parameters, self._active.value(bounds, parameters, self._precision)
        point = self._active.value_and_grad(bounds, parameters, self._precision)
        for ascent, bound, here, by_grid in zip(self._ascents, bounds, point.linearised, point.by_grid):
            ascent.step(bound, here, by_grid, next_area, progress)
        return parameters, point.values


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

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return self._logits.device

    def keep(self, kept: Tensor, images: int) -> None:
        """Continue with some of the images, their numbers (n,) among as many as there are now."""
        firsts = torch.arange(0, len(self._logits), images, device=kept.device)
        rows = (firsts[:, None] + kept).flatten()
        self._logits, self._factor = self._logits[rows], self._factor[rows]
        self._momentum.keep(rows)

    def fork(self, searches: int) -> None:
        """Continue as several searches."""
        images = len(self._logits)
        like = self._logits
        spread = torch.linspace(-1, 1, searches, dtype=like.dtype, device=like.device)
        factors = 2**spread if searches > 1 else like.new_ones(1)
        self._factor = factors.repeat_interleave(images)[:, None]
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
        value = bound.smooth_gradient(at_fixed_area(value, area), here.area, _SMOOTHING)
        return value, at_fixed_area(binary, area), area

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
    return (values >= lowest - _TIED).to(values) - values
