r"""The activation of a layer, :math:`\Phi_l`, as a differentiable function of the model's inputs.

Shapes: N images; activations (N, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_extremal._captum import run_forward
from captum_extremal._state import ForwardPrecision
from captum_extremal.hooks import unwrap
from captum_extremal.layers.activations import capture, check_activation


class Activation:
    """From inputs (N, C, H, W) to the output of a layer, or the first tensor of it.

    Args:
        forward_func: the model or a function that calls it. Inputs go through one copy of a ``DataParallel`` model.
        layer: one of its modules.
        caller: the autocast state in which the model runs.
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module, caller: ForwardPrecision) -> None:
        self._forward_func = unwrap(forward_func)
        self._layer = layer
        self._caller = caller

    def __call__(self, x: Tensor) -> Tensor:
        """The activation; what stands behind the layer does not run."""
        activation: Tensor = self._output(x, stop=True)
        return activation

    def _output(self, x: Tensor, stop: bool) -> Any:
        with self._caller.forward():
            run = partial(run_forward, self._forward_func, (x,), None, None)
            (output,) = capture(self._layer, run, stop=stop).values()
        return output[0] if isinstance(output, (tuple, list)) and output else output

    def checked(self, x: Tensor) -> Tensor:
        """The activation from one run of the whole model, detached, in the type of x but at least float32.

        Raises:
            TypeError, ValueError: the layer is not called exactly once, or its output cannot be inverted.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            activation = self._output(x, stop=False)
            if not isinstance(activation, Tensor):
                raise TypeError(
                    "the layer's output must be a tensor, or a tuple that begins with one, got "
                    f"{type(activation).__name__}: choose a layer inside of it"
                )
            check_activation(activation, len(x))
            if not bool(activation.isfinite().all()):
                shape = tuple(activation.shape)
                raise ValueError(f"the layer's output must be finite, got NaN or infinite values in shape {shape}")
            depends = activation.requires_grad and torch.autograd.grad(activation.sum(), x, allow_unused=True)[0]
        if not isinstance(depends, Tensor):
            raise ValueError(
                "layer's output must be differentiable by the inputs, but it carries no gradient: look for detach(), "
                "no_grad() or checkpoints before it"
            )
        return activation.detach().to(torch.promote_types(x.dtype, torch.float32))
