r"""The smooth maximum of soft disks (equations 6 and 7): from a parameter per lattice point to values at grid nodes.

.. math::

    m(u) = \operatorname{smax}_i \; k(u - u_i)\, p_i, \qquad
    \operatorname{smax}_i f_i = \frac{\sum_i f_i e^{f_i / T}}{\sum_i e^{f_i / T}}

A term depends on its lattice point's parameter, and on how far the node is away along each axis. So there is one
exponential for each lattice point and each distance, which all nodes at this distance share. They are summed along one
axis after the other, so that no table has an entry for each pair of a node and a lattice point, which in a volume are
millions.

The derivative is written out. That of the smooth maximum adds in a fixed order, so that CUDA gives the same bits twice,
and several derivatives share its exponentials.

Shapes: B masks, D lattice points, G nodes. Along one axis V nodes, L points, and Q distances between 0 and the end of
the kernel's support. A *cell* is a point with a distance, along each axis: tensors of cells are (Q, L, Q, L, ..., B).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SUPPORT = 2.4
"""The distance, in sigmas, within which lattice points count: the kernel is below 1e-3 there."""
_CELLS = {True: 2**16, False: 2**26}  # at once: on a CPU, where they fit into the cache, and elsewhere

Pullback = Callable[..., tuple[Tensor, ...]]
"""From derivatives (B, G) by node values to derivatives (B, D) by parameters, any number at once."""


def kernel(distance: Tensor, sigma: float) -> Tensor:
    """The soft disk that one lattice point draws (section 4 and appendix A, as in the released code).

    Args:
        distance: any shape, in pixels of the input.
        sigma: the radius of the disk in pixels; the kernel is 1 up to half of it.

    Returns:
        ``exp(-2 max(0, distance / sigma - 1/2)^2)``, in (0, 1], of the same shape.
    """
    return torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2)


class SmoothMaximum:
    """Equation 7 on the nodes of a grid.

    Args:
        nodes, lattice: the positions along each axis, in units of the disks' radius there; their products are the G
            nodes and the D points. Both are evenly spaced. A node lies on each lattice point that lies between nodes.
        temperature: T; 0 is the hard maximum of equation 6.
        dtype: of the masks, which lie on the CPU until :meth:`to` moves them.

    Raises:
        ValueError: a node is farther than :data:`SUPPORT` sigma from every lattice point.
    """

    def __init__(
        self,
        nodes: list[Tensor],
        lattice: list[Tensor],
        temperature: float,
        dtype: torch.dtype,
    ) -> None:
        self._axes = [_Axis.of(of_nodes, of_lattice) for of_nodes, of_lattice in zip(nodes, lattice)]
        squared = torch.zeros(1, dtype=torch.float64, device="cpu")
        for axis in reversed(self._axes):
            squared = axis.distances.view(-1, 1, *[1] * squared.dim()) ** 2 + squared
        distance = squared.sqrt()  # (Q, 1, Q, 1, ..., 1)
        within = distance <= SUPPORT + 1e-9
        farthest = math.hypot(*(axis.farthest for axis in self._axes))
        if farthest > SUPPORT + 1e-9:
            raise ValueError(
                f"sigma must be large enough for every position to be within {SUPPORT} sigma of a lattice point, got a "
                f"nearest one at {farthest:.3g}"
            )
        self._within = within.to(dtype)
        self._kernel = kernel(distance, 1.0).to(dtype) * self._within
        self._temperature = temperature

    def to(self, device: torch.device) -> SmoothMaximum:
        """The same on a device."""
        moved = copy.copy(self)
        moved._axes = [axis.to(device) for axis in self._axes]
        moved._kernel, moved._within = self._kernel.to(device), self._within.to(device)
        return moved

    def __call__(self, p: Tensor) -> Tensor:
        """Node values (B, G) of parameters (B, D), differentiable."""
        values: Tensor = _ByPullback.apply(p, self)
        return values

    def linearised(self, p: Tensor) -> tuple[Tensor, Pullback]:
        """Node values (B, G) of parameters (B, D), and their derivative as a linear map."""
        rows = max(1, _CELLS[p.device.type == "cpu"] // (self._kernel.numel() * p.shape[1]))
        maximum = self._hard if self._temperature == 0 else self._soft
        values, pullbacks = zip(*(maximum(part) for part in torch.split(p, rows)))

        def pullback(*by_node: Tensor) -> tuple[Tensor, ...]:
            parts = zip(*(torch.split(derivative.expand(len(p), -1), rows) for derivative in by_node))
            found = [back(*part) for back, part in zip(pullbacks, parts)]
            return tuple(map(torch.cat, zip(*found)))

        return torch.cat(values), pullback

    def _soft(self, p: Tensor) -> tuple[Tensor, Pullback]:
        f, weight = self._terms(p)
        total = self._summed(weight)
        value = self._summed(f.mul_(weight)).div_(total)

        def pullback(*by_node: Tensor) -> tuple[Tensor, ...]:
            # dm/dp_i = k_i e^(f_i/T) (1 + (f_i - m)/T) / sum e^(f/T), in two terms: one known at the node alone, and
            # one that multiplies f.
            f, weight = self._terms(p)
            constant = weight.mul_(self._kernel)
            slope = f.mul_(constant)
            found = []
            for derivative in by_node:
                at_node = derivative / total
                in_f = at_node / self._temperature
                by_cell = self._spread(at_node - in_f * value).mul_(constant)
                by_cell.addcmul_(self._spread(in_f), slope)
                for axis in range(len(self._axes)):
                    by_cell = by_cell.sum(axis)
                found.append(by_cell.view(-1, len(p)).T)
            return tuple(found)

        return value, pullback

    def _hard(self, p: Tensor) -> tuple[Tensor, Pullback]:
        value = self._products(p) + (self._within - 1)  # what is out of reach is below everything
        lattice = torch.arange(p.shape[1], device=p.device)
        point, weight = self._by_axis(lattice[None]).expand_as(value), self._kernel.expand_as(value)
        for axis in self._axes:
            value, winner = axis.of_node.largest(value.reshape(axis.cells, -1))
            point, weight = (one.reshape(axis.cells, -1).gather(0, winner).T for one in (point, weight))
            value = value.T
        value, index, weight = (one.reshape(len(p), -1) for one in (value, point, weight))
        return value, lambda *by_node: tuple(torch.zeros_like(p).scatter_add(1, index, d * weight) for d in by_node)

    def _terms(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The terms f of all cells, and e^(f/T), which is 0 out of reach."""
        f = self._products(p)
        return f, torch.exp(f / self._temperature).mul_(self._within)

    def _products(self, p: Tensor) -> Tensor:
        """The terms f = k p of all cells."""
        return self._by_axis(p) * self._kernel

    def _by_axis(self, p: Tensor) -> Tensor:
        """(1, L, 1, L, ..., B) of what the lattice points have, (B, D)."""
        return p.T.reshape(*(size for axis in self._axes for size in (1, axis.points)), len(p))

    def _summed(self, cells: Tensor) -> Tensor:
        """The sums (B, G) of the cells of each node."""
        rows = cells.shape[-1]
        for axis in self._axes:
            cells = axis.of_node(cells.reshape(axis.cells, -1)).T  # the axis comes last, and the next one first
        return cells.reshape(rows, -1)

    def _spread(self, by_node: Tensor) -> Tensor:
        """For all cells the sums over their nodes, from (B, G): the transpose of :meth:`_summed`."""
        cells = by_node
        for axis in reversed(self._axes):
            cells = axis.of_cell(cells.reshape(-1, axis.nodes).T.contiguous())
        return cells.view(*(size for axis in self._axes for size in (len(axis.distances), axis.points)), len(by_node))


class _ByPullback(torch.autograd.Function):
    """:meth:`SmoothMaximum.linearised` for autograd."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, maximum: SmoothMaximum) -> Tensor:
        value, ctx.pullback = maximum.linearised(p.detach())
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.pullback(*grads)[0], None


@dataclass(frozen=True)
class _Sums:
    """Sums over some rows of a table, of which each has its own list.

    Attributes:
        rows: all lists, one after the other.
        starts: where each of them starts.
    """

    rows: Tensor
    starts: Tensor

    @classmethod
    def of(cls, rows: Tensor, valid: Tensor) -> _Sums:
        """From lists of equal length (lists, W), of which some entries are not valid."""
        counts = valid.sum(1)
        return cls(rows[valid], counts.cumsum(0) - counts)

    def to(self, device: torch.device) -> _Sums:
        """The same on a device."""
        return _Sums(self.rows.to(device), self.starts.to(device))

    def __call__(self, table: Tensor) -> Tensor:
        """The sums (lists, Y) of a table (X, Y)."""
        return F.embedding_bag(self.rows, table, self.starts, mode="sum")

    def largest(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """The largest (lists, Y) instead of the sums, and the rows of the table that have them."""
        largest, _, _, rows = torch.embedding_bag(table, self.rows, self.starts, mode=2)
        return largest, rows


@dataclass(frozen=True)
class _Axis:
    """One axis: which of its nodes and points have which distance.

    Attributes:
        nodes, points: V and L.
        distances: (Q,), in sigmas.
        farthest: the largest distance of a node from the nearest point.
        of_node: for each node the cells (Q L) within reach.
        of_cell: for each cell the nodes.
    """

    nodes: int
    points: int
    distances: Tensor
    farthest: float
    of_node: _Sums
    of_cell: _Sums

    @classmethod
    def of(cls, nodes: Tensor, lattice: Tensor) -> _Axis:
        """The axis of nodes (V,) and lattice points (L,) at positions in sigmas."""
        spacing = float(nodes[1] - nodes[0]) if len(nodes) > 1 else 0.0
        reach = math.floor(SUPPORT / spacing + 1e-9) if spacing else 0  # in whole nodes, as all that follows
        apart = round(float(lattice[1] - lattice[0]) / spacing) if len(lattice) > 1 else 1
        start = round(float(nodes[0] - lattice[0]) / spacing) if spacing else 0
        ends = [start + node - apart * point for node in (0, len(nodes) - 1) for point in (0, len(lattice) - 1)]
        reach = min(reach, max(map(abs, ends)))  # larger distances do not exist
        numbers = torch.arange(max(len(nodes), len(lattice), 2 * reach + 3), device="cpu")
        at, points, distances = start + numbers[: len(nodes)], apart * numbers[: len(lattice)], numbers[: reach + 1]

        nearest = ((2 * at + apart) // (2 * apart)).clamp(0, len(points) - 1)  # in integers, or long axes are rounded
        window = reach // apart + 1
        near = nearest[:, None] + numbers[: 2 * window + 1] - window
        away = (at[:, None] - apart * near).abs()
        in_reach = (near >= 0) & (near < len(points)) & (away <= reach)

        steps = torch.stack([distances, -distances], dim=1)[:, None]
        node = (points[:, None] + steps - start).flatten(0, 1)  # (Q L, 2)
        exists = (node >= 0) & (node < len(at))
        exists[: len(points), 1] = False  # at the distance 0 both are the same
        return cls(
            len(at),
            len(points),
            distances.double() * spacing,
            float((at - points[nearest]).abs().max()) * spacing,
            _Sums.of(away * len(points) + near, in_reach),
            _Sums.of(node, exists),
        )

    @property
    def cells(self) -> int:
        """Q L."""
        return len(self.distances) * self.points

    def to(self, device: torch.device) -> _Axis:
        """The same on a device."""
        return replace(self, of_node=self.of_node.to(device), of_cell=self.of_cell.to(device))
