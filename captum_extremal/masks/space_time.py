r"""Masks that are a product of one temporal and one spatial mask.

.. math::

    m(t, u) = m_{time}(t) \; m_{space}(u)

A video is then kept in a part of the frames and in the same part of the picture throughout. Both factors are smooth
masks (equation 7). The area of the product is the product of their areas.

Shapes: B masks, D parameters (those of time, then those of space), G grid values, S the shape of the positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal.masks.axes import Axes
from captum_extremal.masks.family import BoundMask, Layout, Linearised
from captum_extremal.masks.interpolation import collected, expanded
from captum_extremal.masks.lengths import held_axes
from captum_extremal.masks.smooth import DEFAULT_AREAS, BoundGrid, BoundSmoothMask, SmoothMask

_ANY_PLANE = (2, 2)  # two axes of space, of any length


@dataclass(frozen=True)
class SpaceTimeMask:
    """The family of products of one temporal mask for all pixels and one spatial mask for all frames.

    Args:
        space: the masks over the axes of space.
        time: the masks over the axis of time.
        time_axis: which axis of the positions S is time, counted from 0: for videos (N, C, T, H, W) the first.

    Raises:
        TypeError: a setting has the wrong type.

    Examples::

        >>> mask = SpaceTimeMask(space=SmoothMask(sigma=21), time=SmoothMask(sigma=3))
    """

    space: SmoothMask = field(default_factory=SmoothMask)
    time: SmoothMask = field(default_factory=SmoothMask)
    time_axis: int = 0

    def __post_init__(self) -> None:
        for name in ("space", "time"):
            if not isinstance(value := getattr(self, name), SmoothMask):
                raise TypeError(f"{name} must be a SmoothMask, got {value!r}")
        check_count("time_axis", self.time_axis, at_least=None)

    @property
    def hold(self) -> tuple[int, ...]:
        """The axes of S along which neither factor varies, as in :class:`SmoothMask`.

        Raises:
            ValueError: ``space`` holds all of its axes, or one that it does not have.
        """
        if self.space.hold == ():
            return ()
        try:
            held = held_axes(self.space.hold, _ANY_PLANE)
        except ValueError as error:
            raise ValueError(f"space must hold one of its two axes at most, got hold={self.space.hold!r}") from error
        in_space = [axis for axis in range(3) if axis != self.time_axis % 3]  # with one axis of space it must vary
        return tuple(in_space[axis] for axis in held)

    def layout(self, axes: Axes) -> Layout:
        """One value per position. The default areas are those that are not too small for a mask."""
        shape = axes.grid
        areas = tuple(area for area in DEFAULT_AREAS if area >= self.smallest_area(shape))
        return Layout(shape, (1, *shape), "positions", areas, view=axes.over_positions)

    def smallest_area(self, shape: tuple[int, ...]) -> float:
        """The product of the smallest areas in time and in space."""
        _, time, space = self._parts(shape)
        return self.time.smallest_area(time) * self.space.smallest_area(space)

    def bind(
        self,
        shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        area: float = 1.0,
    ) -> BoundSpaceTimeMask:
        """Fit the family to inputs whose positions have the shape S, and to masks of about one area.

        Raises:
            ValueError: the shape has not the axis of time and at least 2 positions in time and in space.
        """
        axis, time, space = self._parts(tuple(shape))
        of_time = area ** (1 / len(shape))  # as if each axis were cut by the same factor
        temporal = self.time.bind(time, device, dtype, of_time)
        return BoundSpaceTimeMask(temporal, self.space.bind(space, device, dtype, area / of_time), axis)

    def bind_areas(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, areas: tuple[float, ...]
    ) -> list[BoundMask]:
        """:meth:`bind` for each area, once for all the areas whose disks have the same radii."""
        _, time, space = self._parts(tuple(shape))
        bound: dict[Any, BoundMask] = {}
        found = []
        for area in areas:
            of_time = area ** (1 / len(shape))
            radii = self.time.sigma_for(time, of_time), self.space.sigma_for(space, area / of_time)
            if radii not in bound:
                bound[radii] = self.bind(shape, device, dtype, area)
            found.append(bound[radii])
        return found

    def _parts(self, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """The axis of time, and the shapes of time and of space."""
        if not (2 <= len(shape) <= 3 and -len(shape) <= self.time_axis < len(shape)):
            raise ValueError(
                "mask must be SpaceTimeMask for positions of two or three axes only, one of them time_axis, got "
                f"time_axis {self.time_axis} for positions {shape}"
            )
        axis = self.time_axis % len(shape)
        time, space = shape[axis : axis + 1], shape[:axis] + shape[axis + 1 :]
        if min(math.prod(time), math.prod(space)) < 2:
            raise ValueError(f"mask must vary in time and in space, got SpaceTimeMask for positions {shape}")
        return axis, time, space


class BoundSpaceTimeMask(BoundGrid):
    """Products of masks over one input shape.

    Attributes:
        time, space: the factors.
        parameters: D.
        sigma: of the disks in space, in pixels.
        largest_area: the mean of the mask whose parameters are all 1.
    """

    def __init__(self, time: BoundSmoothMask, space: BoundSmoothMask, axis: int) -> None:
        self.time, self.space = time, space
        self.parameters = time.parameters + space.parameters
        self.sigma = space.sigma
        self.largest_area = time.largest_area * space.largest_area
        self._axis = axis
        self.area_by_node = torch.kron(time.area_by_node, space.area_by_node)
        self._expansions = [*time.expansions, *space.expansions]

    def grid_values(self, p: Tensor) -> Tensor:
        """The products (B, G) of the factors' node values."""
        in_time, in_space = self._split(p)
        return _outer(self.time.grid_values(in_time), self.space.grid_values(in_space))

    def expand(self, grid_values: Tensor) -> Tensor:
        """Masks (B, 1, *S) from node values (B, G), by linear interpolation along each axis in turn."""
        nodes = grid_values.view(-1, *self.time.grid_shape, *self.space.grid_shape)
        return expanded(nodes, self._expansions).movedim(1, 1 + self._axis).unsqueeze(1)

    def by_grid(self, by_mask: Tensor) -> Tensor:
        """The derivative (B, G) by the node values from that by the masks (B, 1, *S)."""
        pixels = by_mask.squeeze(1).movedim(1 + self._axis, 1)
        return collected(pixels, self._expansions).flatten(1)

    def linearised(self, p: Tensor) -> Linearised:
        """The node values and the area of parameters (B, D) with their derivatives, without autograd."""
        time, space = (bound.linearised(part) for bound, part in zip((self.time, self.space), self._split(p)))

        def pullback(*by_grid: Tensor) -> tuple[Tensor, ...]:
            by_node = [one.view(len(one), time.grid_values.shape[1], -1) for one in by_grid]
            in_time = time.gradients(*(torch.einsum("bts,bs->bt", one, space.grid_values) for one in by_node))
            in_space = space.gradients(*(torch.einsum("bts,bt->bs", one, time.grid_values) for one in by_node))
            return tuple(torch.cat(pair, dim=1) for pair in zip(in_time, in_space))

        grid_values = _outer(time.grid_values, space.grid_values)
        return Linearised(
            grid_values,
            time.area * space.area,
            self.area_by_node,
            lambda *by_grid: pullback(*(one.expand(len(p), -1) for one in by_grid)),
        )

    def binary(self, p: Tensor, area: float) -> None:
        """None: every mask has soft edges."""

    def smooth_gradient(self, gradient: Tensor, area: float | Tensor, share: float) -> Tensor:
        """The gradient of each factor, averaged over its lattice for the side of a cube of the masks' area."""
        of_time, of_space = len(self.time.joined), len(self.space.joined)
        in_time, in_space = self._split(gradient)
        smoothed = (
            self.time.smooth_gradient(in_time, area ** (of_time / (of_time + of_space)), share),
            self.space.smooth_gradient(in_space, area ** (of_space / (of_time + of_space)), share),
        )
        return torch.cat(smoothed, dim=1)

    def _split(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """What belongs to time (B, D) and to space."""
        return p[:, : self.time.parameters], p[:, self.time.parameters :]


def _outer(one: Tensor, other: Tensor) -> Tensor:
    """All products of pairs from rows (B, X) and (B, Y): (B, X Y)."""
    return (one[:, :, None] * other[:, None, :]).flatten(1)
