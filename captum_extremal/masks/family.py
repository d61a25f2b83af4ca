"""The protocol that all mask families share.

A family holds settings only. It says which part of a tensor its masks cover (:class:`Layout`), and is bound to that
part's shape call by call. A bound family maps free parameters to masks in two steps: a nonlinear one from parameters
to a few grid values, and a linear one from grid values to the mask. A mask's area follows from its grid values alone.

Shapes: B masks (rows), D parameters, G grid values, K channels, S the shape of the positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from captum_extremal.masks.axes import Axes


@dataclass(frozen=True)
class Layout:
    """How a family's masks lie on one tensor.

    Attributes:
        shape: what the family is bound to, (K,) or S.
        mask_shape: the shape of one mask, (K,) or (1, *S).
        unit: what one value of a mask covers, in the plural, for messages: "channels" or "positions".
        default_areas: the areas to search where none are given: integers are numbers of units, floats fractions.
        counts: of how many units integer areas are numbers, several where examples differ; None for that of the shape.
        view: from masks (B, *mask_shape) to the shape that multiplies the tensor (B, ...); None for those of groups,
            which lie on all tensors at once.
    """

    shape: tuple[int, ...]
    mask_shape: tuple[int, ...]
    unit: str
    default_areas: tuple[int, ...] | tuple[float, ...]
    counts: tuple[int, ...] | None = None
    view: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Linearised:
    """The masks of some parameters: their grid values, their area, and the derivatives of both.

    Attributes:
        grid_values: (B, G), as :meth:`BoundMask.grid_values`.
        area: (B,), the masks' means.
        area_by_grid: (1, G) or (B, G), the derivative of the area by the grid values.
    """

    grid_values: Tensor
    area: Tensor
    area_by_grid: Tensor
    _pullback: Callable[..., tuple[Tensor, ...]]

    def gradients(self, *by_grid: Tensor) -> tuple[Tensor, ...]:
        """Derivatives (B, D) by the parameters from derivatives (B, G) by the grid values.

        Several derivatives together cost little more than one.
        """
        return self._pullback(*by_grid)


class BoundMask(Protocol):
    """A mask family on one shape: all that the area and the solvers know of masks."""

    @property
    def parameters(self) -> int:
        """D, the number of free parameters of a mask."""

    @property
    def sigma(self) -> float:
        """The radius in pixels of a smooth mask's disks; NaN for families without disks."""

    @property
    def largest_area(self) -> float:
        """The area of the mask whose parameters are all 1."""

    def of_images(self, rows: Tensor) -> BoundMask:
        """The family for masks of some images alone, rows (n,): itself, where images do not differ."""

    def new_parameters(self, rows: int) -> Tensor:
        """Parameters (B, D) of zeros, in the masks' type and on their device."""

    def __call__(self, p: Tensor) -> Tensor:
        """Masks (B, *mask_shape) of parameters (B, D) in [0, 1], differentiable: ``expand(grid_values(p))``."""

    def grid_values(self, p: Tensor) -> Tensor:
        """The grid values (B, G) of parameters (B, D)."""

    def area(self, grid_values: Tensor) -> Tensor:
        """The exact mean (B,) of the masks."""

    def expand(self, grid_values: Tensor) -> Tensor:
        """The masks (B, *mask_shape), linear in the grid values."""

    def by_grid(self, by_mask: Tensor) -> Tensor:
        """The derivative (B, G) by the grid values from that by the masks: the transpose of :meth:`expand`."""

    def linearised(self, p: Tensor) -> Linearised:
        """Grid values and area of parameters (B, D) with their derivatives, without autograd."""

    def smooth_gradient(self, gradient: Tensor, area: float | Tensor, share: float) -> Tensor:
        """A gradient (B, D) by the parameters, averaged over neighbouring parameters.

        Args:
            gradient: (B, D).
            area: of the masks, one for all rows or one for each (B,).
            share: how far neighbours count, as a share of the side of a cube of the masks' area.
        """

    def binary(self, p: Tensor, area: float) -> Tensor | None:
        """The highest parameters of each row (B, D) as binary masks of exactly this area; None if there are none."""


class Family(Protocol):
    """What is bound to shapes."""

    def smallest_area(self, shape: tuple[int, ...]) -> float:
        """The smallest area of a mask, a fraction of the shape."""

    def bind_areas(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, areas: tuple[float, ...]
    ) -> list[BoundMask]:
        """The family on one shape, for masks of each area. One object may serve several areas."""


@runtime_checkable
class MaskFamily(Family, Protocol):
    """What ``mask=`` accepts: frozen settings."""

    def layout(self, axes: Axes) -> Layout:
        """What the family's masks cover of a tensor with these axes.

        Raises:
            ValueError: they cannot cover such a tensor.
        """
