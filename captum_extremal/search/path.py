r"""Solvers: the loops that look for :math:`m_a` (equations 2 and 4, section 4).

A solver sees no model: only a reward as a function of masks, and the mask families that span them.

:class:`PathSolver` (the default) follows one mask while its area shrinks through all the areas asked for, met exactly
at every step: every area of the sweep for the price of one. :class:`PenaltySolver` is the paper's: stochastic gradient
descent on equation 4, one mask an area, kept as the reference.

Shapes: N images, A areas, D parameters of a mask, R masks an image at a time (the searches of the path, or A with the
penalty); rows (R N, D) are mask-major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal.masks import BoundMask
from captum_extremal.search.area import at_area, fit_area, fit_limit
from captum_extremal.search.momentum import Momentum
from captum_extremal.search.problem import Parameters, Record, Search, check_precision
from captum_extremal.search.refinement import refine, refinement_reports

_LONGEST_SHIFT = 4.0  # of the threshold in one step, in logits: where nothing is near it, the first order says little
_START = 0.95  # of the path: everything kept has no gradient by the mask's parameters
_FORK = 0.5  # the area at which one search becomes several
_SLOWER = 2.4  # so many times as many steps for the same ratio of areas above the fork
_FIRST_PART = 18  # of all steps, one in so many at least leads to the first area
_LOGIT_RANGE = 8.0  # parameters stay this close to the threshold, in logits, so that none is lost for good
_SHARPNESS = (2.0, 4.0)  # of the variants tried at the end


@dataclass(frozen=True)
class PathSolver:
    """Follow a few masks an image along the path of areas (a homotopy).

    A mask starts with nearly everything kept and is tightened geometrically; as it passes an area that was asked for,
    it is recorded. At each step the logits of its parameters take a step of momentum along the gradient, whose length
    is normalised by its running mean square, so that the learning rate knows nothing of the model's scale; then they
    are shifted to the area of the next step, and the gradient knows of that shift, as in
    :func:`~captum_extremal.area.fit_area`.

    Where the mask is to be small, much depends on which parts it has lost hold of before: the search is a matter of
    luck. So at one half of the input it forks into several that differ in their learning rates and binary weights, and
    each area keeps the best of them. That gains more than as many steps of a single search.

    At the end every area tries sharper versions of its mask, and its neighbours' masks widened or tightened to it, and
    the best of them settles at the area (:mod:`~captum_extremal.search.refinement`).

    A game that only removes ("delete") sees little gradient where nearly everything is removed, so its path is walked
    back as well, from the smallest area up to the largest, and the better masks of the two sweeps are kept.

    Args:
        steps: of one sweep of the path, give or take a few, since each part between two areas has whole ones. Above the
            fork, to which about four tenths of them lead, each is a forward and backward pass of each image; below it
            as many as there are searches.
        searches: into how many the search forks. They lie evenly, by their logarithms, around the settings below: the
            first and last have learning rates smaller and larger by the square root of 2, and half and twice the binary
            weight.
        learning_rate: change of a typical logit in the first step; it falls geometrically to ``final_learning_rate``.
        momentum: of the normalised gradient.
        decay: the part of each logit that is forgotten in a step, so that a parameter far from the threshold can come
            back when the area has changed.
        binary_weight: of the demand for binary masks that equation 4 makes through its area loss. It decides where the
            reward is indifferent: without it, masks larger than what the model needs stay grey.
        sweeps: how often the path is walked, down, up, down, ...; None for 1, and 2 for games that only remove.
        refinement: passes of each image for settling at the end, in parts of ``steps``; the areas share them.
        precision: floating type to autocast the model's forward to, such as ``torch.bfloat16``.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range.
    """

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

    def total_steps(self, search: Search) -> int:
        """The steps of the path, at least one for each area it passes, and those of the settling."""
        return len(self.schedule(search)) + refinement_reports(self._refinement_steps(search)) * len(search.areas)

    def schedule(self, search: Search) -> list[tuple[float, int | None]]:
        """The path through the areas of a search: see :func:`area_schedule`."""
        limit = min(fit_limit(bound) for bounds in search.bounds for bound in bounds)
        sweeps = self.sweeps or (1 if search.game.kept else 2)
        return area_schedule(search.areas, self.steps, sweeps, start=min(_START, limit))

    def solve(self, search: Search) -> list[Parameters]:
        """Walk the path, keep for each image and area the best parameters that were seen there, and let them settle."""
        records = _Walk(self, search).run()
        with torch.no_grad():
            _try_variants(search, records, self.precision)
        found = [record.parameters for record in records]
        first_step = len(self.schedule(search))
        return refine(search, found, self._refinement_steps(search), self.precision, first_step)

    def _refinement_steps(self, search: Search) -> int:
        return math.ceil(round(self.refinement * self.steps) / len(search.areas))


def area_schedule(areas: tuple[float, ...], steps: int, sweeps: int, start: float) -> list[tuple[float, int | None]]:
    """The areas of a path, and which of the areas asked for each of them is, if any.

    The first sweep goes from the start down to the smallest area, the next ones up to the largest and down again. The
    path is geometric, and slower above the fork. Each part of a sweep, between two neighbouring areas, gets steps in
    proportion to its length, but at least one: the step at its end. The first part gets a few, however short it is,
    because the masks at the start know nothing yet. Areas above the path's start are met at its start.
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
            schedule += [(_area_at_position(first + (last - first) * step / count), None) for step in range(1, count)]
            schedule.append((end, index))
            before = end
    return schedule


def path_position(area: float) -> float:
    """Where on the path an area is: steps of one length lie evenly between two areas."""
    return math.log(area / _FORK) * (_SLOWER if area > _FORK else 1.0)


def _area_at_position(position: float) -> float:
    return _FORK * math.exp(position / _SLOWER if position > 0 else position)


def _try_variants(search: Search, records: list[Record], precision: torch.dtype | None) -> None:
    """Let each area try sharper versions of its mask, and its neighbours' masks, at a forward pass of each image a try.

    A walk that passed an area on a bad stretch has often found better just before or after it: the smaller area's mask
    is widened, then the larger one's tightened, so that whole chains of areas can follow one good mask.
    """
    areas = range(len(records))
    tries = [(index, index, sharpness) for index in areas for sharpness in _SHARPNESS]
    tries += [(index, index - 1, 1.0) for index in areas[1:]]
    tries += [(index, index + 1, 1.0) for index in reversed(areas[:-1])]
    for index, source, sharpness in tries:
        area, bounds = search.areas[index], search.bounds[index]
        given = records[source].parameters
        parameters = tuple(at_area(p, area, bound, sharpness) for p, bound in zip(given, bounds))
        masks = tuple(bound(p) for p, bound in zip(parameters, bounds))
        reward = search.reward(masks, precision=precision)[0]
        records[index] = records[index].or_better(Record(parameters, reward))


class _Walk:
    """One walk along the path, for all images at once."""

    def __init__(self, solver: PathSolver, search: Search) -> None:
        self._search = search
        self._searches = solver.searches
        self._schedule = solver.schedule(search)
        self._ascents = [_Ascent(solver, bound, search.images) for bound in search.bounds[0]]
        self._precision = solver.precision
        self._forked = False

    def run(self) -> list[Record]:
        best: dict[int, Record] = {}
        goals = [area for area, _ in self._schedule]
        for step, (area, index) in enumerate(self._schedule):
            if area < _FORK and not self._forked:
                self._forked = True
                for ascent in self._ascents:
                    ascent.fork(self._searches)
            record = self._step(area, goals[step + 1 : step + 2], step / len(goals))
            self._search.report(step, record.reward.new_tensor([area]), record.reward[None])
            if index is not None:
                best[index] = best.get(index, record).or_better(record)
        return [best[index] for index in range(len(self._search.areas))]

    def _step(self, area: float, following: list[float], progress: float) -> Record:
        """The best parameters at this area and their rewards, and the step that follows from the gradient."""
        bounds = self._bounds_at(area)
        leaves = [ascent.grid_values_at(area, bound) for ascent, bound in zip(self._ascents, bounds)]
        masks = tuple(bound.expand(leaf) for bound, leaf in zip(bounds, leaves))
        reward = self._search.reward(masks, precision=self._precision)
        record = _best_row(tuple(ascent.parameters for ascent in self._ascents), reward.detach())
        gradients = torch.autograd.grad(reward.sum(), leaves)
        for next_area in following:
            for ascent, gradient in zip(self._ascents, gradients):
                ascent.step(gradient, next_area, progress)
        return record

    def _bounds_at(self, area: float) -> tuple[BoundMask, ...]:
        """The masks of the smallest of the areas asked for that is not below this one."""
        for goal, bounds in zip(self._search.areas, self._search.bounds):
            if goal >= area * (1 - 1e-9):
                return bounds
        return self._search.bounds[-1]


def _best_row(parameters: Parameters, reward: Tensor) -> Record:
    """For each image the parameters, of rows (R N, D), with the highest of the rewards (R, N)."""
    images = reward.shape[1]
    rows = reward.argmax(0) * images + torch.arange(images, device=reward.device)
    return Record(tuple(p[rows] for p in parameters), reward.amax(0))


class _Ascent:
    """Momentum along gradients of a normalised length, on the logits (R N, D) of one input's masks.

    The threshold of the logits is 0: the shift that keeps to the path is part of each step. To first order, with the
    area's derivative c p' by the logits, a step dz changes the area by its sum with c p', and so does the shift. What
    the first order misses, a per cent or so of the area, the next step makes good.
    """

    def __init__(self, solver: PathSolver, bound: BoundMask, images: int) -> None:
        self._solver = solver
        self._logits = bound.new_parameters(images)
        self._momentum = Momentum(solver.momentum, self._logits)
        self._factor = self._logits.new_ones(images, 1)
        self._bound = bound
        self._met = False
        self.parameters = self._logits

    def fork(self, searches: int) -> None:
        """Go on as several searches from here."""
        images = len(self._logits)
        factors = 2 ** torch.linspace(-1, 1, searches) if searches > 1 else torch.ones(1)
        self._factor = factors.to(self._logits).repeat_interleave(images)[:, None]
        self._logits = self._logits.repeat(searches, 1)
        self._momentum.repeat(searches)

    def grid_values_at(self, area: float, bound: BoundMask) -> Tensor:
        """The masks' grid values, as a leaf of the graph; on a new bound the area is met anew."""
        if bound is not self._bound or not self._met:
            self._bound, self._met = bound, True
            with torch.no_grad():
                self._logits -= fit_area(self._logits, area, bound)[1][:, None]
        self.parameters = torch.sigmoid(self._logits)
        self._here = bound.linearised(self.parameters)
        return self._here.grid_values.requires_grad_()

    @torch.no_grad()
    def step(self, by_grid: Tensor, next_area: float, progress: float) -> None:
        """Ascend along the gradient (B, G) by the grid values, to the next area of the path."""
        reward, binary, area = self._gradients(by_grid)
        ascent = self._momentum(reward) + self._solver.binary_weight * self._factor * binary
        change = self._rate(progress) * self._factor.sqrt() * ascent - self._solver.decay * self._logits
        # Newton's step on the log-odds of the area, which fall almost linearly with the shift.
        covered = self._here.area[:, None]
        excess = (torch.logit(covered) - math.log(next_area / (1 - next_area))) * covered * (1 - covered)
        shift = ((area * change).sum(1, keepdim=True) + excess) / _positive_sum(area)
        shift = shift.clamp(-_LONGEST_SHIFT, _LONGEST_SHIFT)
        self._logits.add_(change - shift).clamp_(-_LOGIT_RANGE, _LOGIT_RANGE)

    def _gradients(self, by_grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By the logits (N, D): of the reward and of being binary, both with the area held, and of the area."""
        by_area = self._here.area_by_grid
        found = self._here.gradients(by_grid, by_area * self._towards_binary(), by_area)
        # In units of a typical parameter's share of the area, so that the binary weight depends on no size.
        share = found[2].mean(1, keepdim=True)
        slope = self.parameters * (1 - self.parameters)
        reward, binary, area = found[0] * slope, found[1] * slope / share, found[2] * slope
        total = _positive_sum(area)
        # The part along which the area stays: the implicit gradient of fit_area.
        reward, binary = (g - area * (g.sum(1, keepdim=True) / total) for g in (reward, binary))
        return self._bound.spread(reward), binary, area

    def _towards_binary(self) -> Tensor:
        """Minus half the derivative of equation 4's area loss by the grid values (B, G), each weighing one.

        At the exact area, what is left of that loss is its demand for a binary mask of the highest values.
        """
        grid_values = self._here.grid_values.detach()
        kept = (self._here.area * grid_values.shape[1]).long().clamp(1, grid_values.shape[1])
        lowest = grid_values.sort(dim=1, descending=True).values.gather(1, kept[:, None] - 1)
        return (grid_values >= lowest).to(grid_values) - grid_values

    def _rate(self, progress: float) -> float:
        first, last = self._solver.learning_rate, self._solver.final_learning_rate
        return float(first * (last / first) ** progress)


def _positive_sum(gradient: Tensor) -> Tensor:
    """Sums (N, 1) to divide by."""
    return gradient.sum(1, keepdim=True).clamp(min=1e-30)
