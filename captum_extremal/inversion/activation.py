r"""The activation of a layer, :math:`\Phi_l`, as a differentiable function of the model's inputs.

Shapes: N images; activations (N, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_extremal._captum import run_forward
from captum_extremal._state import ForwardPrecision
from captum_extremal.hooks import on_output, unwrap
from captum_extremal.layers.activations import capture, check_activation


class Activation:
    """From inputs (N, C, H, W) to the activation of a layer, or its first tensor. What stands behind does not run.

    It is used within :meth:`hooked`.

    Args:
        forward_func: the model or a function that calls it. Inputs go through one copy of a ``DataParallel`` model.
        layer: one of its modules.
        caller: the autocast state in which the model runs.
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module, caller: ForwardPrecision) -> None:
        self._forward_func = unwrap(forward_func)
        self._layer = layer
        self._caller = caller
        self._stops = False

    @contextmanager
    def hooked(self) -> Iterator[Activation]:
        """Hook the layer. The hook stays during the backward passes, so that checkpoints run the layer as before."""
        with on_output(self._layer, self._stop):
            yield self

    def _stop(self, output: Any) -> None:
        if self._stops:  # not where a checkpoint calls the layer again in the backward pass
            raise _Reached(output)

    def _run(self, x: Tensor) -> None:
        with self._caller.forward():
            run_forward(self._forward_func, (x,), None, None)

    def __call__(self, x: Tensor) -> Tensor:
        self._stops = True
        try:
            self._run(x)
        except _Reached as reached:
            activation: Tensor = _first(reached.output)
            return activation
        finally:
            self._stops = False
        raise ValueError(f"layer must be called by the model, but its {type(self._layer).__name__} was not")

    def checked(self, x: Tensor) -> Tensor:
        """The activation of inputs x from one run of the whole model, detached.

        Raises:
            TypeError, ValueError: the layer is not called exactly once, or its output cannot be inverted.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            (output,) = capture(self._layer, lambda: self._run(x)).values()
            activation = _first(output)
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
        return activation.detach()


class _Reached(BaseException):
    """Ends a forward pass at the layer. It is not an Exception, so that a model does not catch it as its own error."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) and output else output
