r"""The smooth maximum of soft disks (equations 6 and 7): from a parameter per lattice point to values at grid nodes.

.. math::

    m(u) = \operatorname{smax}_i \; k(u - u_i)\, p_i, \qquad
    \operatorname{smax}_i f_i = \frac{\sum_i f_i e^{f_i / T}}{\sum_i e^{f_i / T}}

The derivative is written out. It gathers from each lattice point's own nodes and scatters nothing, so that CUDA gives
the same bits twice, and several derivatives share its exponentials.

Shapes: B masks, D lattice points, G nodes; Q queries with up to T neighbours each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SUPPORT = 2.4
"""The distance, in sigmas, within which lattice points count: the kernel is below 1e-3 there."""
_TABLE_ENTRIES = {True: 2**20, False: 2**26}  # at once: on a CPU, where they fit into the cache, and elsewhere
_QUERIES = 256  # whose kernels are computed at once

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
            nodes and the D points.
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
        self._of_node = _neighbours(nodes, lattice, dtype)
        self._of_point = _neighbours(lattice, nodes, dtype)
        self._temperature = temperature

    def to(self, device: torch.device) -> SmoothMaximum:
        """The same on a device."""
        moved = copy.copy(self)
        moved._of_node, moved._of_point = self._of_node.to(device), self._of_point.to(device)
        return moved

    def __call__(self, p: Tensor) -> Tensor:
        """Node values (B, G) of parameters (B, D), differentiable."""
        values: Tensor = _ByPullback.apply(p, self)
        return values

    def linearised(self, p: Tensor) -> tuple[Tensor, Pullback]:
        """Node values (B, G) of parameters (B, D), and their derivative as a linear map."""
        rows = max(1, _TABLE_ENTRIES[p.device.type == "cpu"] // self._of_node.index.numel())
        maximum = self._hard if self._temperature == 0 else self._soft
        values, pullbacks = zip(*(maximum(part) for part in torch.split(p, rows)))

        def pullback(*by_node: Tensor) -> tuple[Tensor, ...]:
            parts = zip(*(torch.split(derivative.expand(len(p), -1), rows) for derivative in by_node))
            found = [back(*part) for back, part in zip(pullbacks, parts)]
            return tuple(map(torch.cat, zip(*found)))

        return torch.cat(values), pullback

    def _soft(self, p: Tensor) -> tuple[Tensor, Pullback]:
        near, inverse = self._of_node, 1 / self._temperature
        f = _gather(p, near.index).mul_(near.weight)
        weight = torch.exp(f * inverse)
        # A missing neighbour has f = 0 and adds a 1 to the denominator, which is taken off.
        total = weight.sum(-1).sub_(near.missing)
        value = f.mul_(weight).sum(-1).div_(total)

        def pullback(*by_node: Tensor) -> tuple[Tensor, ...]:
            # dm/dp_i = k_i e^(f_i/T) (1 + (f_i - m)/T) / sum e^(f/T), in two terms: one known at the node alone, and
            # one that multiplies f.
            nodes = self._of_point
            f = p[:, :, None] * nodes.weight
            constant = torch.exp(f * inverse).mul_(nodes.weight)
            slope = f.mul_(constant)
            found = []
            for derivative in by_node:
                scaled = derivative / total
                by_point = _gather(scaled - scaled * value * inverse, nodes.index).mul_(constant)
                by_point.addcmul_(_gather(scaled * inverse, nodes.index), slope)
                found.append(by_point.sum(-1))
            return tuple(found)

        return value, pullback

    def _hard(self, p: Tensor) -> tuple[Tensor, Pullback]:
        near = self._of_node
        value, winner = (_gather(p, near.index) * near.weight).max(dim=-1)
        rows = torch.arange(len(near.index), device=p.device)
        index, weight = near.index[rows, winner].long(), near.weight[rows, winner]
        return value, lambda *by_node: tuple(torch.zeros_like(p).scatter_add(1, index, d * weight) for d in by_node)


class _ByPullback(torch.autograd.Function):
    """:meth:`SmoothMaximum.linearised` for autograd."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, maximum: SmoothMaximum) -> Tensor:
        value, ctx.pullback = maximum.linearised(p.detach())
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.pullback(*grads)[0], None


@dataclass(frozen=True)
class _Neighbours:
    """For each of Q queries the sources within reach: their indices (Q, T) and the kernel there (Q, T).

    Near the border there are fewer than T; ``missing`` (Q,) counts them, and their kernel is 0.
    """

    index: Tensor
    weight: Tensor
    missing: Tensor

    def to(self, device: torch.device) -> _Neighbours:
        """The same on a device."""
        return _Neighbours(self.index.to(device), self.weight.to(device), self.missing.to(device))


def _neighbours(queries: list[Tensor], sources: list[Tensor], dtype: torch.dtype) -> _Neighbours:
    """The sources within reach of each query. Both are the products of their axes' positions, in sigmas."""
    index = torch.zeros(1, 1, dtype=torch.int32, device="cpu")  # gathers twice as fast as int64
    squared = torch.zeros(1, 1, dtype=torch.float64, device="cpu")
    for query, source in zip(queries, sources):
        spacing = float(source[1] - source[0]) if len(source) > 1 else math.inf
        window = torch.arange(math.floor(2 * SUPPORT / spacing + 1e-9) + 1, device="cpu")
        first = torch.ceil((query - SUPPORT - source[0]) / spacing - 1e-9).to(torch.int64)
        near = first[:, None] + window  # (queries, window), on this axis
        inside = (near >= 0) & (near < len(source))
        near = near.clamp(0, len(source) - 1)
        offset = (source[near] - query[:, None]).masked_fill(~inside, math.inf)
        index = _outer(index * len(source), near.to(torch.int32))
        squared = _outer(squared, offset**2)
    distance = squared.sqrt_()
    within = distance <= SUPPORT + 1e-9
    if not bool(within.any(1).all()):
        raise ValueError(
            f"sigma must be large enough for every position to be within {SUPPORT} sigma of a lattice point, got a "
            f"nearest one at {float(distance.amin(1).max()):.3g}"
        )
    used = within.any(0)  # the corners of the window are out of reach of every query
    index, distance, within = index[:, used], distance[:, used], within[:, used]
    weights = [kernel(part, 1.0).to(dtype) for part in torch.split(distance, _QUERIES)]  # in parts, to limit the memory
    return _Neighbours(index, torch.cat(weights).masked_fill_(~within, 0), (~within).sum(1).to(dtype))


def _outer(one: Tensor, other: Tensor) -> Tensor:
    """Sums of all pairs of rows and of columns: (a, b) and (c, d) to (a c, b d)."""
    return (one[:, None, :, None] + other[None, :, None, :]).flatten(2).flatten(0, 1)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Entries (B, Q, T) of the rows (B, X) at the indices (Q, T)."""
    return values.index_select(1, index.flatten()).view(-1, *index.shape)
