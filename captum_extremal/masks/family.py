"""The protocol that all mask families share.

A family holds settings only. Bound to the shape of an input, it maps free parameters to masks.

Shapes: B masks (rows), D parameters, G grid values, K channels, S the shape of the input's positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Linearised:
    """Masks near some parameters.

    Attributes:
        grid_values: (B, G), as :meth:`BoundMask.grid_values`.
        area: (B,), the masks' means.
        area_by_grid: (1, G), the derivative of the area by the grid values.
    """

    grid_values: Tensor
    area: Tensor
    area_by_grid: Tensor
    _pullback: Callable[..., tuple[Tensor, ...]]

    def gradients(self, *by_grid: Tensor) -> tuple[Tensor, ...]:
        """Derivatives (B, D) by the parameters from derivatives (B, G) by the grid values.

        Several for little more than the price of one.
        """
        return self._pullback(*by_grid)


class BoundMask(Protocol):
    """A mask family on one input's shape: what the area and the solvers know of masks."""

    @property
    def parameters(self) -> int:
        """D, how many free parameters a mask has."""

    @property
    def sigma(self) -> float:
        """The radius in pixels of the smooth masks' disks; NaN for masks that have none."""

    @property
    def largest_area(self) -> float:
        """The area of the mask whose parameters are all 1."""

    def new_parameters(self, rows: int) -> Tensor:
        """Parameters (B, D) of zeros, in the masks' type and on their device."""

    def __call__(self, p: Tensor) -> Tensor:
        """Masks (B, 1, *S) or (B, K) of parameters (B, D) in [0, 1]: ``expand(grid_values(p))``."""

    def grid_values(self, p: Tensor) -> Tensor:
        """The few values (B, G) that the mask and its area follow from."""

    def area(self, grid_values: Tensor) -> Tensor:
        """The exact mean (B,) of the masks."""

    def expand(self, grid_values: Tensor) -> Tensor:
        """The masks (B, 1, *S) of positions, (B, K) of channels."""

    def linearised(self, p: Tensor) -> Linearised:
        """The mask's grid values of parameters (B, D), its area, and their derivatives, without autograd."""

    def spread(self, gradient: Tensor) -> Tensor:
        """A gradient (B, D) of which each parameter's neighbours have got their share."""


@runtime_checkable
class MaskFamily(Protocol):
    """What can stand in ``mask=``: frozen settings that are bound to an input's shape call by call."""

    def smallest_area(self, shape: tuple[int, ...]) -> float:
        """The area below which there are no masks."""

    def bind_areas(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, areas: tuple[float, ...]
    ) -> list[BoundMask]:
        """The family on inputs of this shape, for masks of each area; one object where areas can share it."""
