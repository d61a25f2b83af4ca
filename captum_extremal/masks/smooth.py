r"""Smooth masks over an input's positions (section 3.5, equations 5 to 7, appendix A).

A mask is spanned by one parameter :math:`p_i \in [0, 1]` at each point :math:`u_i` of a coarse lattice. Every parameter
draws a soft disk, and the mask is the smooth maximum of the disks. The disk's kernel is flat in the middle, so a
parameter of one makes a spot of the mask reach one. An ordinary convolution (equation 5) would not.

The maximum is evaluated exactly on a *grid* a few times finer than the lattice, and interpolated linearly between the
grid's nodes. The mask has no detail finer than the kernel, so nothing is lost, and the cost does not depend on the size
of the image.

Shapes: B masks (rows), D parameters (lattice points), G grid nodes, S the shape of the input's positions (W, H x W or
D x H x W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from captum_extremal._checks import check_number
from captum_extremal.masks.axes import Axes
from captum_extremal.masks.family import BoundMask, Layout, Linearised
from captum_extremal.masks.interpolation import Interpolation, collected, expanded
from captum_extremal.masks.lengths import (
    REFERENCE_SIDE,
    SHORT,
    Hold,
    check_hold,
    check_lengths,
    each_axis,
    held_axes,
    one_or_each,
    scales,
    varying,
)
from captum_extremal.masks.smooth_maximum import SUPPORT, SmoothMaximum, kernel

_STEP = {1: 7.0, 2: 7.0, 3: 14.0}  # px at 224; a volume's lattice is coarser, to have about as many neighbours
_SIGMA = 21.0  # px at 224
_COLDEST = 1 / 80  # temperature at which e^(1/T) still has room in float32
_NODES_PER_SIGMA = {1: 6, 2: 6, 3: 4}
_APART = 0.25  # px: a disk so narrow reaches no other position of its axis
_LEAST_WIDTH = 0.7  # lattice steps, of the average of gradients
DEFAULT_AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # section 4, and everything


@dataclass(frozen=True)
class SmoothMask:
    """The family of smooth masks over an input's positions (equations 6 and 7).

    Lengths are in positions of the input, one number for all axes or a tuple with one for each axis of S. ``None``
    scales the paper's choice for 224 px: with the shorter side of an image, so that a mask covers the same fraction of
    every input, and along each axis of a volume or a video with its own side. An axis shorter than 8 beside longer
    ones has a value for each of its positions, which knows nothing of its neighbours along this axis.

    Args:
        step: distance of the lattice points. Default 7 px at 224 (14 for volumes), at least 1.
        sigma: radius of the disk that one lattice point draws, an ellipse where the axes have different ones. Default
            21 px at 224, and less for areas that have no room for such a disk (see :meth:`sigma_for`). A number is
            used as it is.
        temperature: T of the smooth maximum, at least 1/80; 0 is the hard maximum of equation 6.
        hold: the axes of S along which a mask is constant, counted from 0, one or a tuple. For videos (N, C, T, H, W)
            ``hold=0`` is one spatial mask for all frames, and ``hold=(1, 2)`` one temporal mask for all pixels;
            :class:`SpaceTimeMask` is a product of both. The default blur then leaves these axes alone.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range.

    Examples::

        >>> mask = SmoothMask(step=(1, 7, 7), sigma=(3, 21, 21))  # for videos: disks of 3 frames and of 21 pixels
    """

    step: float | tuple[float, ...] | None = None
    sigma: float | tuple[float, ...] | None = None
    temperature: float = 1 / 20
    hold: Hold = ()

    def __post_init__(self) -> None:
        check_lengths("step", self.step)
        check_lengths("sigma", self.sigma)
        check_number("temperature", self.temperature, at_least=0)
        if 0 < self.temperature < _COLDEST:
            raise ValueError(f"temperature must be 0 or at least 1/80, got {self.temperature!r}")
        check_hold(self.hold)

    def layout(self, axes: Axes) -> Layout:
        """One value per position. The default areas are those that are not too small for a mask."""
        shape = axes.grid
        if not _is_covered(shape):
            raise ValueError(
                "mask must be 'channels' for a layer without one to three dimensions of positions, 2 of them at least, "
                f"got an activation of shape (N, {', '.join(map(str, axes.shape))})"
            )
        areas = tuple(area for area in DEFAULT_AREAS if area >= self.smallest_area(shape))
        return Layout(shape, (1, *shape), "positions", areas, view=axes.over_positions)

    def step_for(self, shape: tuple[int, ...]) -> float | tuple[float, ...]:
        """The lattice step in pixels for inputs whose positions have this shape, one for each axis if they differ."""
        return one_or_each(self._steps(shape))

    def sigma_for(self, shape: tuple[int, ...], area: float = 1.0) -> float | tuple[float, ...]:
        """The disk's radius in pixels for masks of this area, a fraction of the input; for each axis if they differ.

        One disk of the default radius covers nearly 4 % of a square image, so that masks of smaller areas would come
        out grey. Their radius is that of a single disk of the area.
        """
        return one_or_each(self._sigmas(shape, area))

    def smallest_area(self, shape: tuple[int, ...]) -> float:
        """One lattice cell as a fraction of the input: no mask is smaller."""
        return 1 / math.prod(self._lattice_shape(shape))

    def _lattice_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        free, steps = varying(shape, held_axes(self.hold, shape)), self._steps(shape)
        return tuple(_lattice_points(side, steps[axis]) if axis in free else 1 for axis, side in enumerate(shape))

    def _apart(self, shape: tuple[int, ...]) -> list[int]:
        """The short axes beside longer ones, which have a value for each position."""
        free = varying(shape, held_axes(self.hold, shape))
        short = [axis for axis in free if shape[axis] < SHORT]
        return short if self.step is None and self.sigma is None and len(short) < len(free) else []

    def _joined(self, shape: tuple[int, ...]) -> list[int]:
        """The axes along which disks reach."""
        apart = self._apart(shape)
        return [axis for axis in varying(shape, held_axes(self.hold, shape)) if axis not in apart]

    def _steps(self, shape: tuple[int, ...]) -> tuple[float, ...]:
        if self.step is not None:
            return each_axis("step", self.step, shape)
        at_reference = _STEP[len(self._joined(shape))]
        return tuple(
            max(1.0, at_reference * side / REFERENCE_SIDE) for side in scales(shape, held_axes(self.hold, shape))
        )

    def _sigmas(self, shape: tuple[int, ...], area: float) -> tuple[float, ...]:
        if self.sigma is not None:
            return each_axis("sigma", self.sigma, shape)
        joined, apart, steps = self._joined(shape), self._apart(shape), self._steps(shape)
        sigmas = [_SIGMA * side / REFERENCE_SIDE for side in scales(shape, held_axes(self.hold, shape))]
        dot = _dot_area([sigmas[axis] for axis in joined], [shape[axis] for axis in joined])
        dot /= math.prod(shape[axis] for axis in apart)
        shrunk = min(1.0, (area / dot) ** (1 / len(joined)))
        # No smaller than reaches across a cell of the lattice, or there would be gaps between the disks.
        cell = math.sqrt(len(joined)) / SUPPORT
        return tuple(
            _APART if axis in apart else float(max(shrunk * sigma, cell * step))
            for axis, (sigma, step) in enumerate(zip(sigmas, steps))
        )

    def bind(
        self,
        shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        area: float = 1.0,
    ) -> BoundSmoothMask:
        """Fit the family to inputs whose positions have the shape S, and to masks of about one area.

        Args:
            shape: S, one to three sides in pixels.
            device, dtype: of the masks.
            area: fraction of the input that the masks will cover; small areas get smaller disks.

        Raises:
            ValueError: the shape does not have one to three sides and at least 2 positions, a setting does not fit it,
                or the disks leave gaps.
        """
        shape = tuple(shape)
        if not _is_covered(shape):
            raise ValueError(f"shape must have one to three sides and at least 2 positions, got {shape}")
        return BoundSmoothMask(self, shape, torch.device(device), dtype, area)

    def bind_areas(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, areas: tuple[float, ...]
    ) -> list[BoundMask]:
        """:meth:`bind` for each area, once for all the areas whose disks have the same radius."""
        radii = [self.sigma_for(shape, area) for area in areas]
        bound = {sigma: self.bind(shape, device, dtype, area) for sigma, area in dict(zip(radii, areas)).items()}
        return [bound[sigma] for sigma in radii]


def _is_covered(shape: Sequence[int]) -> bool:
    return 1 <= len(shape) <= 3 and math.prod(shape) > 1


def _dot_area(sigmas: Sequence[float], shape: Sequence[int]) -> float:
    """The mean over the input of a single disk, away from the border."""
    radius = torch.linspace(0, SUPPORT, 1001, dtype=torch.float64, device="cpu")
    shell = {1: 2 * torch.ones_like(radius), 2: 2 * torch.pi * radius, 3: 4 * torch.pi * radius**2}
    integral = torch.trapezoid(kernel(radius, 1.0) * shell[len(shape)], radius)
    return float(integral) * math.prod(sigmas) / math.prod(shape)


def _lattice_points(side: int, step: float) -> int:
    return max(2, round(side / step))


@dataclass(frozen=True)
class _Axis:
    """One axis of the input: its lattice points and its grid nodes, in sigmas, and how nodes become pixels."""

    lattice: Tensor
    nodes: Tensor
    expansion: Interpolation

    @classmethod
    def of(cls, side: int, step: float, sigma: float, nodes_per_sigma: int) -> _Axis:
        centre = (side - 1) / 2
        points = _lattice_points(side, step)
        lattice = _centred(points, step) + centre
        # Nodes lie on the lattice and between its points, and hardly denser than pixels.
        splits = max(1, min(math.ceil(nodes_per_sigma * step / sigma), round(step)))
        spacing = step / splits
        # As many nodes as reach the outermost pixels, with the parity that puts nodes on the lattice.
        count = math.ceil((side - 1) / spacing - 1e-9) + 1
        if (count - 1 - (points - 1) * splits) % 2:
            count += 1
        nodes = _centred(count, spacing) + centre
        return cls(lattice / sigma, nodes / sigma, Interpolation.between(nodes, side))

    @classmethod
    def constant(cls, side: int) -> _Axis:
        """An axis along which masks do not vary: one lattice point and one node for all its pixels."""
        point = torch.zeros(1, dtype=torch.float64, device="cpu")
        return cls(point, point, Interpolation.constant(side))


def _centred(count: int, spacing: float) -> Tensor:
    return (torch.arange(count, dtype=torch.float64, device="cpu") - (count - 1) / 2) * spacing


_Bound = TypeVar("_Bound", bound="BoundGrid")


class BoundGrid:
    """What masks of nodes on a grid share, which are the same for all images.

    Attributes:
        parameters: D.
        area_by_node: (1, G), the derivative of the area by the node values.
    """

    parameters: int
    area_by_node: Tensor

    def __call__(self, p: Tensor) -> Tensor:
        """Masks (B, 1, *S) of parameters (B, D) in [0, 1]."""
        return self.expand(self.grid_values(p))

    def of_images(self: _Bound, rows: Tensor) -> _Bound:
        """Itself: its masks are the same for all images."""
        return self

    def new_parameters(self, rows: int) -> Tensor:
        """Parameters (B, D) of zeros, in the masks' type and on their device."""
        return self.area_by_node.new_zeros(rows, self.parameters)

    def grid_values(self, p: Tensor) -> Tensor:
        """The node values (B, G) of parameters (B, D)."""
        raise NotImplementedError

    def area(self, grid_values: Tensor) -> Tensor:
        """The exact mean (B,) of the expanded masks, from their node values (B, G)."""
        # No matrix product, whose rounding depends on the number of rows.
        return (grid_values * self.area_by_node).sum(1)

    def expand(self, grid_values: Tensor) -> Tensor:
        """Masks (B, 1, *S) from node values (B, G)."""
        raise NotImplementedError


class BoundSmoothMask(BoundGrid):
    """Smooth masks of one input shape.

    Attributes:
        shape: S.
        sigma: in pixels, the largest of the axes along which disks reach.
        step: in pixels, one for each axis if they differ.
        joined: the axes along which disks reach.
        expansions: for each axis, from nodes to pixels.
        area_by_node: (1, G), the derivative of the area by the node values.
        parameters: D, the number of lattice points.
        largest_area: the mean of the mask whose parameters are all 1 (a little below 1 with the smooth maximum).
    """

    def __init__(
        self, settings: SmoothMask, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, area: float
    ) -> None:
        self.shape = shape
        self.step = settings.step_for(shape)
        steps, sigmas = settings._steps(shape), settings._sigmas(shape, area)
        self.joined = settings._joined(shape)
        self.sigma = max(sigmas[axis] for axis in self.joined)
        per_sigma = _NODES_PER_SIGMA[len(self.joined)]
        held = held_axes(settings.hold, shape)
        free = varying(shape, held)
        axes = [
            _Axis.of(side, steps[axis], sigmas[axis], per_sigma) if axis in free else _Axis.constant(side)
            for axis, side in enumerate(shape)
        ]
        self.lattice_shape = tuple(len(axis.lattice) for axis in axes)
        self.grid_shape = tuple(len(axis.nodes) for axis in axes)
        self.parameters = math.prod(self.lattice_shape)
        self.expansions = [axis.expansion.to(device, dtype) for axis in axes]
        area_by_node = reduce(torch.kron, [axis.expansion.means.to(dtype) for axis in axes])
        self.area_by_node = area_by_node[None].to(device)
        lattice, nodes = [axis.lattice for axis in axes], [axis.nodes for axis in axes]
        maximum = SmoothMaximum(nodes, lattice, settings.temperature, dtype)
        everything = torch.ones(1, self.parameters, dtype=dtype, device="cpu")  # no other device is waited for
        self.largest_area = float(maximum(everything) @ area_by_node)
        self._maximum = maximum.to(device)

    def grid_values(self, p: Tensor) -> Tensor:
        """Equation 7 on the nodes of the grid: parameters (B, D) to node values (B, G)."""
        return self._maximum(p)

    def expand(self, grid_values: Tensor) -> Tensor:
        """Masks (B, 1, *S) from node values (B, G), by linear interpolation along each axis in turn."""
        return expanded(grid_values.view(-1, *self.grid_shape), self.expansions).unsqueeze(1)

    def by_grid(self, by_mask: Tensor) -> Tensor:
        """The derivative (B, G) by the node values from that by the masks (B, 1, *S)."""
        return collected(by_mask.squeeze(1), self.expansions).flatten(1)

    def linearised(self, p: Tensor) -> Linearised:
        """The node values and the area of parameters (B, D) with their derivatives, without autograd."""
        grid_values, pullback = self._maximum.linearised(p)
        return Linearised(grid_values, self.area(grid_values), self.area_by_node, pullback)

    def binary(self, p: Tensor, area: float) -> None:
        """None: every mask has soft edges."""

    def smooth_gradient(self, gradient: Tensor, area: float | Tensor, share: float) -> Tensor:
        """A gradient (B, D) by the parameters, averaged over the lattice with Gaussian weights.

        At the scale of a lattice step, a network's gradient is mostly noise. The average also lets a mask grow at its
        border rather than at new places, as the sensitivity filter of topology optimisation does.

        Args:
            gradient: (B, D).
            area: of the masks, one for all rows or one for each (B,).
            share: the standard deviation of the Gaussian as a share of the side of a cube of the masks' area. It is at
                least 0.7 lattice steps.
        """
        areas = torch.as_tensor(area, dtype=gradient.dtype, device=gradient.device).reshape(-1)
        shortest = min(self.lattice_shape[axis] for axis in self.joined)
        width = (share * shortest * areas ** (1 / len(self.joined))).clamp(min=_LEAST_WIDTH)
        smoothed = gradient.view(-1, *self.lattice_shape)
        for axis, points in [(axis + 1, self.lattice_shape[axis]) for axis in self.joined]:
            rows = smoothed.movedim(axis, -1)
            smoothed = _averaged(rows.reshape(len(rows), -1, points), width).view_as(rows).movedim(-1, axis)
        return smoothed.flatten(1)


def _averaged(rows: Tensor, width: Tensor) -> Tensor:
    """Averages with Gaussian weights along the last axis of rows (B, X, points), for each width (1,) or (B,) in points.

    By the convolution theorem, so that the cost of a long axis grows with its length.
    """
    points = rows.shape[2]
    at = torch.arange(2 * points, dtype=width.dtype, device=width.device)
    weights = torch.exp(-0.5 * (torch.minimum(at, 2 * points - at) / width[:, None, None]) ** 2)
    response = torch.fft.rfft(weights)

    def summed(values: Tensor) -> Tensor:
        found: Tensor = torch.fft.irfft(torch.fft.rfft(values, n=2 * points) * response, n=2 * points)
        return found[..., :points]

    return summed(rows) / summed(torch.ones_like(rows[:1, :1]))
