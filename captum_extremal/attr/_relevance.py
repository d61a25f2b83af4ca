"""The rules by which excitation backprop propagates relevance from the output of an operation to its inputs.

*Relevance* is a neuron's marginal winning probability with a sign. Negative relevance belongs to the neuron's *dual*,
the same neuron with all weights negated (section 3.3 of the paper). A batch normalisation with a negative scale
therefore turns the sign, and the convolution below it is asked what lowers its output, as if the two were one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SMALLEST = 1e-30
"""A smaller excitation counts as none."""


class Linear:
    r"""A linear operation :math:`y_i = \sum_j w_{ij} x_j + b_i`, of one input or of several that are added.

    Args:
        positive: the operation with its positive weights only and without its bias.
        negative: the operation with its negative weights only and without its bias; None if there are none.
        weighted: whether it is a layer with weights, which can be the classifier.
    """

    def __init__(
        self, positive: Callable[..., Tensor], negative: Callable[..., Tensor] | None = None, weighted: bool = False
    ) -> None:
        self._positive = positive
        self._negative = negative
        self.weighted = weighted

    def gradient(self, grad: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients by the inputs."""
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in inputs)
            output = self._positive(*leaves)
            if self._negative is not None:
                output = output + self._negative(*leaves)
            return torch.autograd.grad(output, leaves, grad)

    def propagate(self, relevance: Tensor, inputs: tuple[Tensor, ...], normalize: bool = True) -> tuple[Tensor, ...]:
        r"""The relevance of the inputs, in float32 or float64.

        :math:`P(x_j | y_i)` is proportional to the excitation :math:`\max(w_{ij} x_j, 0)`. A neuron without any
        excitation propagates nothing. The relevance of a negative input belongs to the input's dual.

        Args:
            relevance: of the outputs.
            inputs: the values x.
            normalize: whether the excitations of each neuron are divided by their sum.
        """
        dtype = torch.promote_types(relevance.dtype, torch.float32)
        found = [torch.zeros_like(x, dtype=dtype) for x in inputs]
        for sign in (1.0, -1.0):  # the neurons, then their duals
            weight = (sign * relevance.to(dtype)).clamp(min=0)
            if not bool(weight.any()):
                continue
            with torch.enable_grad():
                signed = tuple((sign * x.detach().to(dtype)).requires_grad_() for x in inputs)
                excitation = self._positive(*(x.relu() for x in signed))
                if self._negative is not None and any(bool((x < 0).any()) for x in signed):
                    excitation = excitation - self._negative(*((-x).relu() for x in signed))
                if normalize:
                    weight = torch.where(excitation > SMALLEST, weight / excitation.clamp(min=SMALLEST), 0.0)
                slopes = torch.autograd.grad(excitation, signed, weight)
            for total, x, slope in zip(found, signed, slopes):
                total += sign * x.detach().abs() * slope
        return tuple(found)


class Elementwise:
    """An operation whose every output value depends on one value of its input.

    Args:
        shape: of the input, which may be broadcast.
        slope: what each value is multiplied by; a number or a tensor that broadcasts with the output.
    """

    weighted = False

    def __init__(self, shape: torch.Size, slope: Tensor | float) -> None:
        self._shape = shape
        self._slope = torch.as_tensor(slope).detach()

    def gradient(self, grad: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradient by the input; nonlinear operations count as the identity."""
        return ((grad * self._slope).sum_to_size(self._shape),)

    def propagate(self, relevance: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """All relevance goes to the only input, or to its dual if the slope is negative."""
        return ((relevance * self._slope.sign()).sum_to_size(self._shape),)


class Recorded(torch.autograd.Function):
    """An operation that is computed as usual and propagates relevance in its backward pass.

    The nodes of the autograd graph carry its ``rule``, and ``averaging``: whether the backward pass takes gradients,
    and only down to the first layers with weights.
    """

    @staticmethod
    def forward(ctx: Any, rule: Linear | Elementwise, compute: Callable[[], Tensor], *inputs: Tensor) -> Tensor:
        ctx.rule = rule
        ctx.averaging = False
        if isinstance(rule, Linear):
            ctx.save_for_backward(*inputs)
        return compute()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if not ctx.averaging:
            found = ctx.rule.propagate(grads[0], ctx.saved_tensors)
        elif ctx.rule.weighted:
            found = (None,)
        else:
            found = ctx.rule.gradient(grads[0], ctx.saved_tensors)
        return None, None, *found
