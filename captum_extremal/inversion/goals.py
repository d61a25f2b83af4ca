r"""What images should do to a layer: imitate its activation :math:`\Phi_l(x)`, or excite one channel.

Shapes: N images; activations (N, ...) with K channels on one axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_extremal._autograd import gradients
from captum_extremal._captum import run_forward
from captum_extremal._state import ForwardPrecision
from captum_extremal.first_run import first_run
from captum_extremal.hooks import unwrap
from captum_extremal.layers.activations import capture, check_activation
from captum_extremal.masks import read_axes

Activate = Callable[..., Any]
""":func:`activation_of` as a function of an input, and of ``stop``."""
View = Callable[[Tensor], Tensor]
"""From images to images that are moved, scaled and turned."""


def activation_of(
    forward_func: Callable[..., Any], layer: nn.Module, caller: ForwardPrecision, x: Tensor, stop: bool = True
) -> Any:
    """The output of a layer, or the first tensor of it. With ``stop``, what stands behind the layer does not run.

    The inputs x (N, C, H, W) go through one copy of a ``DataParallel`` model, in the caller's autocast state.
    """

    def run(inputs: tuple[Tensor, ...], arguments: Any) -> Any:
        return run_forward(unwrap(forward_func), inputs, None, arguments)

    with caller.forward():
        called = run if stop else partial(first_run, run)  # without stop this is the first run, of the whole model
        found = capture(layer, lambda: called((x,), None), stop=stop)
    (output,) = found.values()
    return output[0] if isinstance(output, (tuple, list)) and output else output


def checked_activation(activate: Activate, x: Tensor) -> Tensor:
    """The activation from one run of the whole model, detached, at least in float32, if it can be inverted."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        activation = activate(x, stop=False)
        if not isinstance(activation, Tensor):
            raise TypeError(
                "the layer's output must be a tensor, or a tuple that begins with one, got "
                f"{type(activation).__name__}: choose a layer inside of it"
            )
        check_activation(activation, len(x))
        if not bool(activation.isfinite().all()):
            shape = tuple(activation.shape)
            raise ValueError(f"the layer's output must be finite, got NaN or infinite values in shape {shape}")
        depends = activation.requires_grad and gradients(activation.sum(), x, allow_unused=True)[0]
    if not isinstance(depends, Tensor):
        raise ValueError(
            "layer's output must be differentiable by the inputs, but it carries no gradient: look for detach(), "
            "no_grad() or checkpoints before it"
        )
    return activation.detach().to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class Goal:
    """The direction in which the activation of an image should point.

    ``target`` gives it (N, ...) for images that are seen through a view; None for the images themselves. ``kept`` is 1
    where the activation counts and 0 elsewhere, and broadcasts with activations.
    """

    target: Callable[[View | None], Tensor]
    kept: Tensor

    def compare(self, activation: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The dot products (N,) of activations and targets, and their cosines, where the activation counts."""
        counted, wanted = (activation * self.kept).flatten(1), target.flatten(1)
        dot = (counted * wanted).sum(1)
        norms = torch.linalg.vector_norm(counted, dim=1) * torch.linalg.vector_norm(wanted, dim=1)
        return dot, dot / norms.clamp(min=torch.finfo(norms.dtype).tiny)


def imitate(activate: Activate, x: Tensor, own: Tensor, mask: Tensor | None, channel_dim: int | None) -> Goal:
    r"""Point to :math:`m \otimes \Phi_l(x)`, where ``own`` is :math:`\Phi_l(x)`.

    The view that moves the image moves x too.
    """
    axes = None if mask is None and channel_dim is None else read_axes(own, channel_dim)
    factor = own.new_ones(())
    if mask is not None and axes is not None:
        if mask.shape[1] != axes.channels:
            raise ValueError(
                f"channel_mask must have a value for each of the layer's {axes.channels} channels, got shape "
                f"{tuple(mask.shape)} for an activation of shape {tuple(own.shape)}"
            )
        factor = axes.over_channels(mask.to(own))
    empty = (own * factor == 0).flatten(1).all(1)
    if bool(empty.any()):
        raise ValueError(
            "nothing to invert: the layer's activation, under channel_mask, must not be zero, but it is for images "
            f"{empty.nonzero().flatten().tolist()}"
        )

    def target(view: View | None) -> Tensor:
        if view is None:
            return own * factor
        seen = view(x.to(own.dtype)).to(x.dtype)  # half-precision images cannot be interpolated
        return cast(Tensor, activate(seen).to(own.dtype) * factor)

    return Goal(target, (factor > 0).to(own.dtype))


def excite(own: Tensor, channels: Tensor, channel_dim: int | None) -> Goal:
    """Point to one channel per image, equally at all positions. The dot product is the mean of its activation."""
    axes = read_axes(own, channel_dim)
    if int(channels.max()) >= axes.channels:
        raise ValueError(
            f"channels must be below the layer's number of channels, {axes.channels}, got {channels.tolist()} for "
            f"an activation of shape {tuple(own.shape)}"
        )
    chosen = axes.over_channels(F.one_hot(channels.to(own.device), axes.channels).to(own.dtype))
    direction = (chosen / (own[0].numel() // axes.channels)).expand(own.shape)
    return Goal(lambda view: direction, direction.new_ones(()))
