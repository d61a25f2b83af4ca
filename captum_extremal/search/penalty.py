"""The penalty solver, the paper's: equation 4 with a weight on the area loss (section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal.search.area import ranking_loss
from captum_extremal.search.precision import check_precision, chosen_precision
from captum_extremal.search.problem import Found, Parameters, Record, Search
from captum_extremal.search.refinement import refine, refinement_reports


@dataclass(frozen=True)
class PenaltySolver:
    """The paper's solver: gradient descent with momentum on equation 4, with a mask of its own for each area.

    The parameters start at one and are clamped to [0, 1] after each step. The penalty leaves masks whose area is near
    the one asked for. At the end each mask is refined there (:mod:`~captum_extremal.search.refinement`).

    The defaults are the settings of the released code; :meth:`paper` has those of the paper.

    Args:
        steps: forward and backward passes of each image and area.
        learning_rate, momentum, dampening: of ``torch.optim.SGD``.
        weight: lambda, of the area loss.
        growth: factor of the weight at each step.
        doublings: fractions of the steps at which the weight is doubled.
        ramp: the fraction of the steps over which the weight rises linearly from 0.
        flip: mirror the perturbed input along its last axis on even steps. This makes the masks of objects steadier,
            and is wrong for digits, text and scenes whose two sides differ.
        refinement: passes of each image and area for the refinement at the end, as a fraction of ``steps``.
        precision: floating type to autocast the model's forward to, such as ``torch.bfloat16``; "auto" for bfloat16
            where the machine is fast at it. ``settings["precision"]`` of the result says what was chosen. None leaves
            the caller's.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range.
    """

    steps: int = 800
    learning_rate: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight: float = 300.0
    growth: float = 1.0035
    doublings: tuple[float, ...] = ()
    ramp: float = 0.0
    flip: bool = True
    refinement: float = 0.06
    precision: torch.dtype | str | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("momentum", self.momentum, at_least=0, below=1)
        check_number("dampening", self.dampening, at_least=0, at_most=1)
        check_number("weight", self.weight, at_least=0)
        check_number("growth", self.growth, above=0)
        for fraction in self.doublings:
            check_number("doublings", fraction, at_least=0, at_most=1)
        check_number("ramp", self.ramp, at_least=0, at_most=1)
        check_number("refinement", self.refinement, at_least=0)
        check_precision(self.precision)

    @classmethod
    def paper(cls) -> PenaltySolver:
        """Section 4's: 1600 steps, lambda 300 doubled at 1/3 and 2/3, no flip.

        The paper gives no learning rate for images; this one is the released code's.
        """
        return cls(steps=1600, dampening=0.0, growth=1.0, doublings=(1 / 3, 2 / 3), flip=False)

    @classmethod
    def released(cls) -> PenaltySolver:
        """The released code's: 800 steps, lambda growing by 0.35 % a step, a flip on even steps."""
        return cls()

    @classmethod
    def channels(cls) -> PenaltySolver:
        """Section 5's, for channel masks: 300 steps, lambda rising from 0 to 1500 over the first half, no flip."""
        return cls(steps=300, dampening=0.0, weight=1500.0, growth=1.0, ramp=0.5, flip=False)

    @property
    def flips(self) -> bool:
        """Whether the perturbed inputs are mirrored on even steps."""
        return self.flip

    def plan(self, search: Search) -> _PenaltyPlan:
        """A descent on equation 4 for all areas of this search at once."""
        return _PenaltyPlan(self, search)

    def weight_at(self, step: int) -> float:
        """Lambda at a step."""
        doubled = sum(step >= fraction * self.steps for fraction in self.doublings)
        risen = min(1.0, step / (self.ramp * self.steps)) if self.ramp else 1.0
        return self.weight * risen * self.growth**step * 2.0**doubled


class _PenaltyPlan:
    """One run of the penalty solver. Rows are mask-major: all images of the first area, then of the second."""

    def __init__(self, solver: PenaltySolver, search: Search) -> None:
        self._solver, self._search = solver, search
        self._precision = chosen_precision(solver.precision, search.device)
        self._refinement_steps = round(solver.refinement * solver.steps)

    @property
    def steps(self) -> int:
        """The steps of the descent, in which all areas move at once, and those of the refinement."""
        return self._solver.steps + refinement_reports(self._refinement_steps) * len(self._search.areas)

    def run(self) -> Found:
        """Descend on equation 4, and refine."""
        solver, search = self._solver, self._search
        found = [tuple(bound.new_parameters(search.images) + 1 for bound in bounds) for bounds in search.bounds]
        every = [p for parameters in found for p in parameters]
        optimizer = torch.optim.SGD(every, solver.learning_rate, momentum=solver.momentum, dampening=solver.dampening)
        areas = every[0].new_tensor(search.areas)
        for step in range(solver.steps):
            values = self._set_gradients(found, areas, step)
            optimizer.step()
            for p in every:
                p.clamp_(0, 1)
            search.report(step, areas, values)
        records = [Record(parameters, value) for parameters, value in zip(found, values)]
        refined = refine(search, records, self._refinement_steps, self._precision, first_step=solver.steps)
        return Found([record.parameters for record in refined])

    def _set_gradients(self, found: list[Parameters], areas: Tensor, step: int) -> Tensor:
        """Set the gradients of equation 4 by the parameters; the values (A, N) of the masks."""
        solver, search = self._solver, self._search
        linearised = [
            [bound.linearised(p) for bound, p in zip(bounds, parameters)]
            for bounds, parameters in zip(search.bounds, found)
        ]
        masks = tuple(
            torch.cat([bound.expand(here.grid_values) for bound, here in zip(bounds, of_input)])
            for bounds, of_input in zip(zip(*search.bounds), zip(*linearised))
        )
        flip = solver.flip and step % 2 == 0
        values, by_mask = search.objective.value_and_grad(
            masks, search.game.kept, search.game.removed, precision=self._precision, flip=flip
        )
        targets, weight = areas.repeat_interleave(search.images), solver.weight_at(step)
        for k, (mask, gradient) in enumerate(zip(masks, by_mask)):
            loss = weight * _area_gradient(mask, targets) - gradient
            for area, by_area in enumerate(loss.chunk(len(areas))):
                by_grid = search.bounds[area][k].by_grid(by_area)
                (found[area][k].grad,) = linearised[area][k].gradients(by_grid)
        return values


def _area_gradient(masks: Tensor, areas: Tensor) -> Tensor:
    """The derivative of the area loss (B,) by each mask."""
    with torch.enable_grad():
        leaf = masks.detach().requires_grad_()
        return torch.autograd.grad(ranking_loss(leaf.flatten(1), areas).sum(), leaf)[0]
