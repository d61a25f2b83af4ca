"""The paper's solver: equation 4 with a weight on the area loss (section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from captum_extremal._checks import check_count, check_number
from captum_extremal.search.area import area_loss
from captum_extremal.search.problem import Parameters, Search, check_precision
from captum_extremal.search.refinement import refine, refinement_reports


@dataclass(frozen=True)
class PenaltySolver:
    """The paper's solver: gradient descent with momentum on equation 4, for each area a mask of its own.

    The parameters start at one and are clamped to [0, 1] after each step. The area that the penalty leaves is near
    the one that was asked for; there each mask settles (:mod:`~captum_extremal.search.refinement`).

    The defaults are the settings of the released code; :meth:`paper` has those of the paper.

    Args:
        steps: forward and backward passes of each image and area.
        learning_rate, momentum, dampening: of ``torch.optim.SGD``.
        weight: lambda, of the area loss.
        growth: what the weight is multiplied by at each step.
        doublings: at which fractions of the steps it is doubled.
        ramp: the fraction of the steps over which the weight rises linearly from 0.
        flip: mirror the perturbed input along its last axis on even steps. It steadies the masks of objects and
            falsifies digits, text and scenes whose two sides differ.
        refinement: passes of each image and area for settling at the end, in parts of ``steps``.
        precision: floating type to autocast the model's forward to.

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
    precision: torch.dtype | None = None

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

    def total_steps(self, search: Search) -> int:
        """The steps of the descent, in which all areas move at once, and those of the settling."""
        return self.steps + refinement_reports(self._refinement_steps) * len(search.areas)

    def solve(self, search: Search) -> list[Parameters]:
        """Descend on equation 4, and settle."""
        parameters = [
            tuple(bound.new_parameters(search.images).add_(1).requires_grad_() for bound in bounds)
            for bounds in search.bounds
        ]
        flat = [p for tensors in parameters for p in tensors]
        optimizer = torch.optim.SGD(flat, self.learning_rate, momentum=self.momentum, dampening=self.dampening)
        areas = flat[0].new_tensor(search.areas)
        for step in range(self.steps):
            # Rows are mask-major: all images of the first area, then of the second.
            masks = tuple(
                torch.cat([bounds[k](tensors[k]) for bounds, tensors in zip(search.bounds, parameters)])
                for k in range(len(parameters[0]))
            )
            reward = search.reward(masks, precision=self.precision, flip=self.flip and step % 2 == 0)
            targets = areas.repeat_interleave(search.images)
            penalty = torch.stack([area_loss(mask, targets) for mask in masks]).sum()
            loss = self._weight_at(step) * penalty - reward.sum()
            for p, gradient in zip(flat, torch.autograd.grad(loss, flat)):
                p.grad = gradient
            optimizer.step()
            with torch.no_grad():
                for p in flat:
                    p.clamp_(0, 1)
            search.report(step, areas, reward.detach())
        found = [tuple(p.detach() for p in tensors) for tensors in parameters]
        return refine(search, found, self._refinement_steps, self.precision, first_step=self.steps)

    @property
    def _refinement_steps(self) -> int:
        return round(self.refinement * self.steps)

    def _weight_at(self, step: int) -> float:
        doubled = sum(step >= fraction * self.steps for fraction in self.doublings)
        risen = min(1.0, step / (self.ramp * self.steps)) if self.ramp else 1.0
        return self.weight * risen * self.growth**step * 2.0**doubled
