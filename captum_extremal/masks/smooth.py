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
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from captum_extremal._checks import check_number
from captum_extremal.masks.axes import Axes
from captum_extremal.masks.family import BoundMask, Layout, Linearised
from captum_extremal.masks.smooth_maximum import SUPPORT, SmoothMaximum, kernel

REFERENCE_SIDE = 224
"""The side in pixels that the paper's lengths (step, sigma, blur) refer to."""

_STEP = {1: 7.0, 2: 7.0, 3: 14.0}  # px at 224; a volume's lattice is coarser, to have about as many neighbours
_SIGMA = 21.0  # px at 224
_NODES_PER_SIGMA = {1: 6, 2: 6, 3: 4}
_MIN_SIDE = 2
_LEAST_WIDTH = 0.7  # lattice steps, of the average of gradients
AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # section 4, and everything


@dataclass(frozen=True)
class SmoothMask:
    """The family of smooth masks over an input's positions (equations 6 and 7).

    Lengths are in pixels of the input; ``None`` scales the paper's choice for 224 px with the input's shorter
    side, so that a mask covers the same fraction of every input.

    Args:
        step: distance of the lattice points. Default 7 px at 224 (14 for volumes), at least 1.
        sigma: radius of the disk that one lattice point draws. Default 21 px at 224, and less for areas that
            have no room for such a disk (see :meth:`sigma_for`). A number is used as it is.
        temperature: T of the smooth maximum; 0 is the hard maximum of equation 6.

    Raises:
        TypeError, ValueError: a setting is not a number, or is out of range.
    """

    step: float | None = None
    sigma: float | None = None
    temperature: float = 1 / 20

    def __post_init__(self) -> None:
        for name in ("step", "sigma"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, above=0)
        check_number("temperature", self.temperature, at_least=0)

    def layout(self, axes: Axes) -> Layout:
        """One value per position. The default areas are those that are not too small for a mask."""
        shape = axes.grid
        if not 1 <= len(shape) <= 3 or min(shape) < _MIN_SIDE:
            raise ValueError(
                "mask must be 'channels' for a layer without one to three dimensions of at least "
                f"{_MIN_SIDE} positions, got an activation of shape (N, {', '.join(map(str, axes.shape))})"
            )
        areas = tuple(area for area in AREAS if area >= self.smallest_area(shape))
        return Layout(shape, (1, *shape), "positions", areas, axes.over_positions)

    def step_for(self, shape: tuple[int, ...]) -> float:
        """The lattice step in pixels for inputs whose positions have this shape."""
        if self.step is not None:
            return float(self.step)
        return max(1.0, _STEP[len(shape)] * min(shape) / REFERENCE_SIDE)

    def sigma_for(self, shape: tuple[int, ...], area: float = 1.0) -> float:
        """The disk's radius in pixels for masks of this area, a fraction of the input.

        One disk of the default radius covers nearly 4 % of a square image, so that masks of smaller areas would come
        out grey. Their radius is that of a single disk of the area.
        """
        if self.sigma is not None:
            return float(self.sigma)
        sigma = _SIGMA * min(shape) / REFERENCE_SIDE
        shrunk = sigma * min(1.0, (area / _dot_area(sigma, shape)) ** (1 / len(shape)))
        # No smaller than reaches across a cell of the lattice, or there would be gaps between the disks.
        return float(max(shrunk, math.sqrt(len(shape)) * self.step_for(shape) / SUPPORT))

    def smallest_area(self, shape: tuple[int, ...]) -> float:
        """One lattice cell as a fraction of the input: no mask is smaller."""
        step = self.step_for(shape)
        return 1 / math.prod(_lattice_points(side, step) for side in shape)

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
            ValueError: the shape does not have one to three sides of at least 2 px, or the disks leave gaps.
        """
        shape = tuple(shape)
        if not 1 <= len(shape) <= 3 or min(shape) < _MIN_SIDE:
            raise ValueError(f"shape must have one to three sides of at least {_MIN_SIDE} px, got {shape}")
        return BoundSmoothMask(self, shape, torch.device(device), dtype, area)

    def bind_areas(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, areas: tuple[float, ...]
    ) -> list[BoundMask]:
        """:meth:`bind` for each area, once for all the areas whose disks have the same radius."""
        radii = [self.sigma_for(shape, area) for area in areas]
        bound = {sigma: self.bind(shape, device, dtype, area) for sigma, area in dict(zip(radii, areas)).items()}
        return [bound[sigma] for sigma in radii]


def _dot_area(sigma: float, shape: tuple[int, ...]) -> float:
    """The mean over the input of a single disk, away from the border."""
    radius = torch.linspace(0, SUPPORT, 1001, dtype=torch.float64)
    shell = {1: 2 * torch.ones_like(radius), 2: 2 * torch.pi * radius, 3: 4 * torch.pi * radius**2}
    integral = torch.trapezoid(kernel(radius, 1.0) * shell[len(shape)], radius)
    return float(integral) * sigma ** len(shape) / math.prod(shape)


def _lattice_points(side: int, step: float) -> int:
    return max(2, round(side / step))


@dataclass(frozen=True)
class _Axis:
    """One axis of the input: its lattice points and its grid nodes, in pixels, and how nodes become pixels."""

    lattice: Tensor
    nodes: Tensor
    expansion: Tensor  # (pixels, nodes): rows of linear interpolation weights

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
        pixels = torch.arange(side, dtype=torch.float64)
        hat = 1 - (pixels[:, None] - nodes[None, :]).abs() / spacing
        return cls(lattice, nodes, hat.clamp(min=0))


def _centred(count: int, spacing: float) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * spacing


class BoundSmoothMask:
    """Smooth masks of one input shape.

    Attributes:
        shape: S.
        sigma, step: in pixels.
        parameters: D, the number of lattice points.
        largest_area: the mean of the mask whose parameters are all 1 (a little below 1 with the smooth maximum).
    """

    def __init__(
        self, settings: SmoothMask, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, area: float
    ) -> None:
        self.shape = shape
        self.step = settings.step_for(shape)
        self.sigma = settings.sigma_for(shape, area)
        per_sigma = _NODES_PER_SIGMA[len(shape)]
        axes = [_Axis.of(side, self.step, self.sigma, per_sigma) for side in shape]
        self.lattice_shape = tuple(len(axis.lattice) for axis in axes)
        self.grid_shape = tuple(len(axis.nodes) for axis in axes)
        self.parameters = math.prod(self.lattice_shape)
        self._expansions = [axis.expansion.to(device, dtype) for axis in axes]
        self._means = [axis.expansion.mean(0).to(device, dtype) for axis in axes]
        self._area_by_node = reduce(torch.kron, self._means)[None]
        lattice, nodes = [axis.lattice for axis in axes], [axis.nodes for axis in axes]
        self._maximum = SmoothMaximum(nodes, lattice, self.sigma, settings.temperature, device, dtype)
        self.largest_area = float(self.area(self.grid_values(self.new_parameters(1) + 1)))

    def __call__(self, p: Tensor) -> Tensor:
        """Masks (B, 1, *S) of parameters (B, D) in [0, 1]."""
        return self.expand(self.grid_values(p))

    def of_images(self, rows: Tensor) -> BoundSmoothMask:
        """Itself: its masks are the same for all images."""
        return self

    def new_parameters(self, rows: int) -> Tensor:
        """Parameters (B, D) of zeros, in the masks' type and on their device."""
        return self._means[0].new_zeros(rows, self.parameters)

    def grid_values(self, p: Tensor) -> Tensor:
        """Equation 7 on the nodes of the grid: parameters (B, D) to node values (B, G)."""
        return self._maximum(p)

    def area(self, grid_values: Tensor) -> Tensor:
        """The exact mean (B,) of the expanded masks, from their node values (B, G)."""
        return grid_values @ self._area_by_node[0]

    def expand(self, grid_values: Tensor) -> Tensor:
        """Masks (B, 1, *S) from node values (B, G), by linear interpolation along each axis in turn."""
        return _along_axes(grid_values.view(-1, *self.grid_shape), self._expansions).unsqueeze(1)

    def by_grid(self, by_mask: Tensor) -> Tensor:
        """The derivative (B, G) by the node values from that by the masks (B, 1, *S)."""
        return _along_axes(by_mask.squeeze(1), [matrix.T for matrix in self._expansions]).flatten(1)

    def linearised(self, p: Tensor) -> Linearised:
        """The node values and the area of parameters (B, D) with their derivatives, without autograd."""
        grid_values, pullback = self._maximum.linearised(p)
        return Linearised(grid_values, self.area(grid_values), self._area_by_node, pullback)

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
        width = (share * min(self.lattice_shape) * areas ** (1 / len(self.shape))).clamp(min=_LEAST_WIDTH)
        smoothed = gradient.view(-1, *self.lattice_shape)
        for axis, points in enumerate(self.lattice_shape, start=1):
            rows = smoothed.movedim(axis, -1)
            weights = _gaussian(points, width).transpose(1, 2)  # (1 or B, points, points)
            smoothed = (rows.reshape(len(rows), -1, points) @ weights).view_as(rows).movedim(-1, axis)
        return smoothed.flatten(1)


def _along_axes(values: Tensor, matrices: list[Tensor]) -> Tensor:
    """Values (B, ...) multiplied by a matrix along each of their axes."""
    for axis, matrix in enumerate(matrices, start=1):
        values = (values.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return values


def _gaussian(points: int, width: Tensor) -> Tensor:
    """Weights (B, points, points) of averages over some points in a row, for each width (B,) in points."""
    at = torch.arange(points, dtype=width.dtype, device=width.device)
    weights = torch.exp(-0.5 * ((at[:, None] - at[None, :]) / width[:, None, None]) ** 2)
    return weights / weights.sum(2, keepdim=True)
