"""What a solver is given and what it returns.

A solver sees no model. It sees an objective as a function of masks, and the mask families that span the masks.

Shapes: N images, A areas, D parameters of a mask, R masks per image at a time; rows (R N, D) are mask-major.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from captum_extremal.batch_parts import AnyObjective
from captum_extremal.masks import BoundMask, Linearised
from captum_extremal.search.games import Game

Parameters = tuple[Tensor, ...]
"""The free parameters of masks, rows (R N, D) for each input tensor."""
BoundMasks = tuple[BoundMask, ...]
"""The mask family of each input tensor."""


@dataclass(frozen=True)
class Point:
    """Masks with their values, and the gradient there.

    Attributes:
        parameters: of the masks.
        linearised: the masks of each input tensor near these parameters.
        values: the game's value (R, N) of each mask.
        by_grid: its derivative by the grid values, rows (R N, G) for each input tensor.
    """

    parameters: Parameters
    linearised: tuple[Linearised, ...]
    values: Tensor
    by_grid: tuple[Tensor, ...]


@dataclass(frozen=True)
class Goal:
    """What a search for a* (equation 3) needs to know beside the value of masks.

    Args:
        threshold: Phi_0 (N,), in units of the game's value.
        whole: the game's value (N,) of the mask that keeps everything.
        nothing: its value of the mask that keeps nothing.
        unit: a* is a multiple of this fraction of the input: one position, one channel.
        smallest: area of the smallest mask.
        bounds_of: from an area to the mask family of each input tensor, the same object for areas that share one.
        objective_of: from rows (n,), numbers of images, to the objective of these images.
    """

    threshold: Tensor
    whole: Tensor
    nothing: Tensor
    unit: float
    smallest: float
    bounds_of: Callable[[float], BoundMasks]
    objective_of: Callable[[Tensor], AnyObjective]

    def of_images(self, rows: Tensor) -> Goal:
        """The goal of the images of some rows (n,)."""
        by_image = {name: getattr(self, name)[rows] for name in ("threshold", "whole", "nothing")}
        cut: dict[int, BoundMasks] = {}  # of images, so that areas that share an object still do

        def bounds_of(area: float) -> BoundMasks:
            whole = self.bounds_of(area)
            return cut.setdefault(id(whole), bounds_of_images(whole, rows))

        return replace(self, **by_image, bounds_of=bounds_of, objective_of=lambda inner: self.objective_of(rows[inner]))


def bounds_of_images(bounds: BoundMasks, rows: Tensor) -> BoundMasks:
    """The mask families of the images of some rows (n,)."""
    return tuple(bound.of_images(rows) for bound in bounds)


@dataclass(frozen=True)
class Search:
    """A search for the masks of several areas.

    Args:
        objective: the model's score as a function of masks.
        game: which value of the scores is maximised.
        areas: increasing fractions of the input; none where a* alone is sought.
        bounds: for each area, the mask family of each input tensor.
        report: called at every step with its number, the areas (R,) or (R, N) and the values (R, N); NaN for images
            that are finished. Of several masks of one area only the best is reported.
        goal: where a* is sought beyond the areas; else None.
    """

    objective: AnyObjective
    game: Game
    areas: tuple[float, ...]
    bounds: Sequence[BoundMasks]
    report: Callable[[int, Tensor, Tensor], None]
    goal: Goal | None = None

    @property
    def images(self) -> int:
        """N."""
        return self.objective.images

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.bounds_at(1.0)[0].new_parameters(1).device

    def bounds_at(self, area: float) -> BoundMasks:
        """The mask families of the smallest area asked for that is not below this one, or of the largest one."""
        if not self.areas:
            assert self.goal is not None
            return self.goal.bounds_of(area)
        above = (bounds for asked, bounds in zip(self.areas, self.bounds) if asked >= area * (1 - 1e-9))
        return next(above, self.bounds[-1])

    def of_images(self, rows: Tensor) -> Search:
        """The search of the images of some rows (n,) of one with a goal. Nothing is reported for the others."""
        assert self.goal is not None

        def report(step: int, areas: Tensor, values: Tensor) -> None:
            by_image = areas if areas.dim() == 2 else areas[:, None].expand_as(values)
            unknown = values.new_full((len(values), self.images), torch.nan)
            spread = [unknown.index_copy(1, rows, part.to(values)) for part in (by_image, values)]
            self.report(step, *spread)

        return replace(
            self,
            objective=self.goal.objective_of(rows),
            bounds=[bounds_of_images(bounds, rows) for bounds in self.bounds],
            report=report,
            goal=self.goal.of_images(rows),
        )

    def value(self, bounds: BoundMasks, parameters: Parameters, precision: torch.dtype | None = None) -> Tensor:
        """The game's value (R, N) of the masks of these parameters."""
        masks = tuple(bound.expand(bound.linearised(p).grid_values) for bound, p in zip(bounds, parameters))
        game = self.game
        return self.objective.value(masks, game.kept, game.removed, precision=precision, as_in_search=True)

    def value_and_grad(self, bounds: BoundMasks, parameters: Parameters, precision: torch.dtype | None = None) -> Point:
        """The game's value of the masks of these parameters, and its gradient."""
        linearised = tuple(bound.linearised(p) for bound, p in zip(bounds, parameters))
        masks = tuple(bound.expand(here.grid_values) for bound, here in zip(bounds, linearised))
        values, by_mask = self.objective.value_and_grad(masks, self.game.kept, self.game.removed, precision=precision)
        by_grid = tuple(bound.by_grid(gradient) for bound, gradient in zip(bounds, by_mask))
        return Point(parameters, linearised, values, by_grid)


@dataclass(frozen=True)
class Optimum:
    """The smallest masks found whose value reaches the threshold (equation 3), one for each image.

    Attributes:
        parameters: (N, D) for each input tensor.
        masks: (N, *mask_shape) for each input tensor, of exactly ``area``.
        area: (N,), NaN where no area is enough; the mask is then the largest area's.
        sigma: (N, inputs), the radius in pixels of the masks' disks.
        agreement: (N,), the mean pairwise IoU of the masks of independent searches, each shrunk or grown to a*; NaN for
            fewer than two searches.
    """

    parameters: Parameters
    masks: tuple[Tensor, ...]
    area: Tensor
    sigma: Tensor
    agreement: Tensor


@dataclass(frozen=True)
class Found:
    """What a search returns.

    Attributes:
        parameters: for each area those (N, D) of the best masks found. Their masks need not have the areas exactly.
        optimum: a* beyond the areas; None where it was not sought.
        searches: for each area the parameters (R N, D) of R independent searches, which say how far they agree, or
            None where there was only one; None for one search at every area.
    """

    parameters: list[Parameters]
    optimum: Optimum | None = None
    searches: list[Parameters | None] | None = None


class Plan(Protocol):
    """A search that a solver has prepared."""

    @property
    def steps(self) -> int:
        """How many steps :meth:`run` reports at most."""

    def run(self) -> Found:
        """The masks of each area, and what else was found."""


@runtime_checkable
class Solver(Protocol):
    """What ``solver=`` accepts: settings, and a way to search with them.

    A solver with ``finds_optimum = True`` seeks a* itself where the search has a threshold, also without any areas.
    For others a* is the smallest of the areas that is enough.
    """

    @property
    def flips(self) -> bool:
        """Whether the search mirrors the perturbed inputs, which makes no sense for a layer's activation."""

    def plan(self, search: Search) -> Plan:
        """Prepare a search."""


@dataclass(frozen=True)
class Record:
    """Parameters of one mask per image, (N, D) for each input tensor, and their values (N,)."""

    parameters: Parameters
    value: Tensor

    @classmethod
    def best(cls, parameters: Parameters, values: Tensor) -> Record:
        """For each image the best row of parameters (R N, D), by their values (R, N)."""
        images = values.shape[1]
        rows = values.argmax(0) * images + torch.arange(images, device=values.device)
        return cls(tuple(p[rows] for p in parameters), values.amax(0))

    def or_better(self, other: Record) -> Record:
        """For each image the parameters of the higher value; these if the values are equal. NaN is below all others."""
        wins = (other.value > self.value) | (self.value.isnan() & ~other.value.isnan())
        pairs = zip(self.parameters, other.parameters)
        parameters = tuple(torch.where(wins[:, None], theirs, ours) for ours, theirs in pairs)
        return Record(parameters, torch.where(wins, other.value, self.value))
