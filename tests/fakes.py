"""Stand-ins that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from captum_extremal.objective import Objective


class FakeObjective:
    """An objective whose score of what masks keep is any differentiable function of them; it counts what it is asked.

    Attributes:
        seen: the masks of the first input tensor, call by call.
        flips: whether each call asked for mirrored inputs.
    """

    def __init__(self, score: Callable[[tuple[Tensor, ...]], Tensor], images: int) -> None:
        self._score = score
        self.images = images
        self.seen: list[Tensor] = []
        self.flips: list[bool] = []

    def value(
        self,
        masks: tuple[Tensor, ...],
        kept: float = 1.0,
        removed: float = 0.0,
        *,
        as_in_search: bool = False,
        **how: Any,
    ) -> Tensor:
        return self.value_and_grad(masks, kept, removed, **how)[0]

    def value_and_grad(
        self,
        masks: tuple[Tensor, ...],
        kept: float = 1.0,
        removed: float = 0.0,
        *,
        precision: Any = None,
        flip: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert (kept, removed) == (1, 0)
        self.seen.append(masks[0])
        self.flips.append(flip)
        with torch.enable_grad():
            leaves = tuple(mask.detach().requires_grad_() for mask in masks)
            value = self._score(leaves)
            gradients = torch.autograd.grad(value.sum(), leaves)
        return value.detach(), gradients


def linear_objective(weights: Tensor) -> tuple[Objective, FakeObjective]:
    """The score of image n is the mask's product with weights[n]; the same object under both its types."""

    def score(masks: tuple[Tensor, ...]) -> Tensor:
        rows = masks[0].flatten(1).unflatten(0, (-1, len(weights)))
        return (rows * weights.flatten(1)).sum(-1)

    fake = FakeObjective(score, len(weights))
    return cast(Objective, fake), fake
