"""Which axes of a tensor hold its channels and its positions, and how masks over either lie on it.

Shapes: N images; tensors (N, ...) with K channels on one axis and positions S on the others; B masks, (B, K) over
channels or (B, 1, *S) over positions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal._checks import check_count


@dataclass(frozen=True)
class Axes:
    """How the axes of an activation are read.

    Attributes:
        shape: the activation's, without N.
        channel: which axis of ``shape`` holds the channels.
        grid: S, the shape of the positions that a mask covers.
        prefix: number of tokens before them, which are always kept.
    """

    shape: tuple[int, ...]
    channel: int
    grid: tuple[int, ...]
    prefix: int

    @property
    def channels(self) -> int:
        """K."""
        return self.shape[self.channel]

    def over_channels(self, masks: Tensor) -> Tensor:
        """Masks (B, K), to be multiplied with activations (B, ...)."""
        shape = [1] * len(self.shape)
        shape[self.channel] = self.channels
        return masks.view(-1, *shape)

    def over_positions(self, masks: Tensor) -> Tensor:
        """Masks (B, 1, *S), to be multiplied with activations (B, ...)."""
        shape = list(self.shape)
        shape[self.channel] = 1
        flat = masks.flatten(1)
        if self.prefix:
            flat = torch.cat([flat.new_ones(len(flat), self.prefix), flat], dim=1)
        return flat.view(-1, *shape)


def check_axes(channel_dim: object, prefix_tokens: object = 0, token_grid: object = None) -> None:
    """Check the arguments of :func:`read_axes` that can be checked without a tensor."""
    if channel_dim is not None:
        check_count("channel_dim", channel_dim, at_least=None)
    check_count("prefix_tokens", prefix_tokens, at_least=0)
    if token_grid is None:
        return
    if not isinstance(token_grid, tuple):
        raise TypeError(f"token_grid must be a tuple of integers, got {token_grid!r}")
    for side in token_grid:
        check_count("token_grid", side)


def read_axes(
    activation: Tensor,
    channel_dim: int | None = None,
    prefix_tokens: int = 0,
    token_grid: tuple[int, ...] | None = None,
) -> Axes:
    """The axes of an activation (N, ...).

    Args:
        activation: at least 2-D.
        channel_dim: the axis of the channels (of a transformer the embedding), counted with N; None for 1, but of
            activations of three dimensions, which may be signals or tokens.
        prefix_tokens: how many of the first positions are always kept, such as a class token.
        token_grid: the shape in which the other positions lie in the image; None for that of the activation.
    """
    check_axes(channel_dim, prefix_tokens, token_grid)
    rank = activation.dim()
    if channel_dim is None and rank == 3:
        raise ValueError(
            "channel_dim must be given for a layer of three dimensions, 1 for signals (N, channels, positions), -1 for "
            f"tokens (N, tokens, embedding), got None for an activation of shape {tuple(activation.shape)}"
        )
    channel_dim = 1 if channel_dim is None else channel_dim
    if not (1 <= channel_dim < rank or -rank < channel_dim <= -1):
        raise ValueError(
            f"channel_dim must be one of the layer's {rank - 1} dimensions behind the first, got {channel_dim} "
            f"for an activation of shape {tuple(activation.shape)}"
        )
    channel = channel_dim % rank - 1
    shape = tuple(activation.shape[1:])
    positions = shape[:channel] + shape[channel + 1 :]
    if not prefix_tokens and token_grid is None:
        return Axes(shape, channel, positions, 0)
    tokens = math.prod(positions) - prefix_tokens
    grid = (tokens,) if token_grid is None else token_grid
    if len(positions) != 1 or tokens < 1 or math.prod(grid) != tokens:
        raise ValueError(
            f"token_grid {grid} and prefix_tokens {prefix_tokens} must account for all tokens of the layer, "
            f"got an activation of shape {tuple(activation.shape)} with positions {positions}"
        )
    return Axes(shape, channel, grid, prefix_tokens)
