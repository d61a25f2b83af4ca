r"""What an image should do to a layer: imitate an activation, or excite one channel.

Shapes: N images; activations (N, ...) with K channels on one axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extremal.inversion.activation import Activation
from captum_extremal.layers.axes import read_axes

View = Callable[[Tensor], Tensor]
"""From images to images that are moved, scaled and turned."""


class Goal(Protocol):
    """The direction in which the activation of an image should point."""

    kept: Tensor
    """1 where the activation counts, 0 elsewhere; broadcasts with activations."""

    def target(self, view: View | None) -> Tensor:
        """The direction (N, ...) for images that are seen through a view; None for the images as they are."""


class Imitate:
    r"""Point to :math:`m \otimes \Phi_l(x)`.

    The view that moves the image moves x too, so that the layer should see the same in both at the same place.
    """

    def __init__(self, activate: Activation, x: Tensor, mask: Tensor | None, channel_dim: int | None) -> None:
        self._activate, self._x = activate, x
        self._dtype = torch.promote_types(x.dtype, torch.float32)
        self._own = activate.checked(x).to(self._dtype)
        self._mask = self._own.new_ones(())
        if mask is not None or channel_dim is not None:
            axes = read_axes(self._own, channel_dim)
            if mask is not None and mask.shape[1] != axes.channels:
                raise ValueError(
                    f"channel_mask must have a value for each of the layer's {axes.channels} channels, got shape "
                    f"{tuple(mask.shape)} for an activation of shape {tuple(self._own.shape)}"
                )
            if mask is not None:
                self._mask = axes.over_channels(mask.to(self._own))
        self.kept = (self._mask > 0).to(self._dtype)
        empty = (self.target(None).flatten(1) == 0).all(1)
        if bool(empty.any()):
            raise ValueError(
                "nothing to invert: the layer's activation, under channel_mask, must not be zero, but it is for images "
                f"{empty.nonzero().flatten().tolist()}"
            )

    def target(self, view: View | None) -> Tensor:
        if view is None:
            return self._own * self._mask
        seen = view(self._x.to(self._dtype)).to(self._x.dtype)  # half-precision images cannot be interpolated
        return self._activate(seen).to(self._dtype) * self._mask

    def input_dot_products(self) -> Tensor:
        """Equation 12 at x itself (N,)."""
        return compare(self._own, self.target(None), self.kept)[0]


class Excite:
    """Point to one channel per image, equally at all positions. The dot product is the mean of its activation."""

    def __init__(self, activate: Activation, x: Tensor, channels: Tensor, channel_dim: int | None) -> None:
        activation = activate.checked(x)
        axes = read_axes(activation, channel_dim)
        if int(channels.max()) >= axes.channels:
            raise ValueError(
                f"channels must be below the layer's number of channels, {axes.channels}, got {channels.tolist()} for "
                f"an activation of shape {tuple(activation.shape)}"
            )
        chosen = F.one_hot(channels.to(activation.device), axes.channels).to(
            torch.promote_types(x.dtype, torch.float32)
        )
        positions = activation[0].numel() // axes.channels
        self._target = (axes.over_channels(chosen) / positions).expand(activation.shape)
        self.kept = self._target.new_ones(())

    def target(self, view: View | None) -> Tensor:
        return self._target


def compare(activation: Tensor, target: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The dot products (N,) of activations (N, ...) and targets, and their cosines, where the activation counts."""
    counted, wanted = (activation * kept).flatten(1), target.flatten(1)
    dot = (counted * wanted).sum(1)
    norms = torch.linalg.vector_norm(counted, dim=1) * torch.linalg.vector_norm(wanted, dim=1)
    return dot, dot / norms.clamp(min=torch.finfo(norms.dtype).tiny)
