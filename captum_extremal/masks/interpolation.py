"""Linear interpolation along the axes, from a few nodes to all positions.

Shapes: B masks, V nodes and W positions of one axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 256  # positions that share a matrix: of a longer axis nearly all of its entries would be 0


@dataclass(frozen=True)
class Interpolation:
    """Linear interpolation along one axis.

    Attributes:
        nodes: V.
        blocks: for some positions in a row, their first node and the weights (positions, nodes from there on).
    """

    nodes: int
    blocks: tuple[tuple[int, Tensor], ...]

    @classmethod
    def between(cls, nodes: Tensor, positions: int) -> Interpolation:
        """From evenly spaced nodes (V,) to the positions 0, 1, ..., which lie between the first and the last node."""
        spacing, blocks = nodes[1] - nodes[0], []
        for part in torch.split(torch.arange(positions, dtype=torch.float64, device="cpu"), _BLOCK):
            first = max(0, int((part[0] - nodes[0]) / spacing) - 1)
            end = int((part[-1] - nodes[0]) / spacing) + 3
            hat = 1 - (part[:, None] - nodes[None, first:end]).abs() / spacing
            blocks.append((first, hat.clamp(min=0)))
        return cls(len(nodes), tuple(blocks))

    @classmethod
    def constant(cls, positions: int) -> Interpolation:
        """From one node to all positions."""
        return cls(1, ((0, torch.ones(positions, 1, dtype=torch.float64, device="cpu")),))

    def to(self, device: torch.device, dtype: torch.dtype) -> Interpolation:
        """The same on a device, in a floating type."""
        return Interpolation(self.nodes, tuple((first, weights.to(device, dtype)) for first, weights in self.blocks))

    def __call__(self, values: Tensor) -> Tensor:
        """Values (..., V) at the nodes to values (..., W) at the positions."""
        parts = [values[..., first : first + weights.shape[1]] @ weights.T for first, weights in self.blocks]
        return torch.cat(parts, dim=-1)

    def transposed(self, values: Tensor) -> Tensor:
        """Values (..., W) to values (..., V)."""
        found = values.new_zeros(*values.shape[:-1], self.nodes)
        sizes = [len(weights) for _, weights in self.blocks]
        for (first, weights), part in zip(self.blocks, torch.split(values, sizes, dim=-1)):
            found[..., first : first + weights.shape[1]] += part @ weights
        return found

    @property
    def means(self) -> Tensor:
        """(V,), what each node has of the mean over all positions."""
        every = torch.cat([weights.new_ones(len(weights)) for _, weights in self.blocks])
        return self.transposed(every) / len(every)


def expanded(values: Tensor, axes: Sequence[Interpolation]) -> Tensor:
    """Values (B, V, V, ...) at the nodes to values (B, W, W, ...) at the positions."""
    for axis, interpolate in enumerate(axes, start=1):
        values = interpolate(values.movedim(axis, -1)).movedim(-1, axis)
    return values


def collected(values: Tensor, axes: Sequence[Interpolation]) -> Tensor:
    """Values (B, W, W, ...) to values (B, V, V, ...): the transpose of :func:`expanded`."""
    for axis, interpolate in enumerate(axes, start=1):
        values = interpolate.transposed(values.movedim(axis, -1)).movedim(-1, axis)
    return values
