"""What a solver is given and what it gives back.

A solver sees no model: only a reward as a function of masks, and the mask families that span them.

Shapes: N images, A areas, D parameters of a mask, R masks an image at a time; rows (R N, D) are mask-major.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from captum_extremal.masks import BoundMask
from captum_extremal.search.games import Game

Masks = tuple[Tensor, ...]
Parameters = tuple[Tensor, ...]
"""The free parameters of one mask an image, (N, D) for each input tensor."""


class Reward(Protocol):
    """The game's value (R, N) of masks (R N, 1, *S), differentiable by them."""

    def __call__(  # noqa: D102
        self, masks: Masks, *, precision: torch.dtype | None = None, flip: bool = False
    ) -> Tensor: ...


@dataclass(frozen=True)
class Search:
    """What a solver is given.

    Args:
        reward: what to maximise.
        game: which game's value that is.
        areas: increasing fractions of the input.
        bounds: for each area, the mask family of each input tensor.
        images: N.
        report: told of every step: its number, the areas (R,) and the rewards (R, N); of several masks of one area
            only the best.
    """

    reward: Reward
    game: Game
    areas: tuple[float, ...]
    bounds: Sequence[tuple[BoundMask, ...]]
    images: int
    report: Callable[[int, Tensor, Tensor], None]


@runtime_checkable
class Solver(Protocol):
    """What can stand in ``solver=``: it carries its own settings, and searches."""

    def total_steps(self, search: Search) -> int:
        """How many steps :meth:`solve` will report."""

    def solve(self, search: Search) -> list[Parameters]:
        """For each area the parameters of the best masks found, as they are: the caller meets the areas exactly."""


@dataclass(frozen=True)
class Record:
    """Parameters of one mask an image, and their rewards (N,)."""

    parameters: Parameters
    reward: Tensor

    def or_better(self, other: Record) -> Record:
        """For each image the parameters with the higher reward; these if it is the same."""
        wins = other.reward > self.reward
        pairs = zip(self.parameters, other.parameters)
        parameters = tuple(torch.where(wins[:, None], theirs, ours) for ours, theirs in pairs)
        return Record(parameters, torch.where(wins, other.reward, self.reward))


def check_precision(precision: object) -> None:
    """Raise TypeError unless ``precision`` is None or a floating dtype."""
    if precision is not None and (not isinstance(precision, torch.dtype) or not precision.is_floating_point):
        raise TypeError(f"precision must be a floating torch.dtype or None, got {precision!r}")
