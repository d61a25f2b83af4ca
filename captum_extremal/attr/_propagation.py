r"""The rules by which excitation backprop propagates relevance from the output of an operation to its inputs.

Under :class:`Recorder` a forward pass computes what it always computes, but the backward pass of each operation with
a rule propagates relevance instead of a gradient. Concatenation, flattening and max pooling need no rule: their
gradients already split relevance, add it up, or give it to the maximum.

*Relevance* is a neuron's marginal winning probability with a sign. Negative relevance belongs to the neuron's *dual*,
the same neuron with all weights negated (section 3.3 of the paper). A batch normalisation with a negative scale
therefore turns the sign, and the convolution below it is asked what lowers its output, as if the two were one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

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


class _Recorded(torch.autograd.Function):
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


class Recorder(TorchFunctionMode):
    """Records the rule of every operation that has one. Other operations are left to autograd.

    Leaf tensors such as parameters count as constants, so that a tensor requires a gradient exactly if it depends on
    the inputs. These must not be leaves.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args = _without_leaves(args)
        named = {name: _without_leaves(value) for name, value in (kwargs or {}).items()}
        make = _RULES.get(getattr(func, "__name__", ""))
        if make is None:
            return func(*args, **named)
        args += tuple(named.pop(name) for name in ("input", "other") if name in named)
        depends = [k for k, value in enumerate((*args, *named.values())) if _depends(value)]
        if not depends or (depends != [0] and make not in (_scaled, _added)):
            return func(*args, **named)
        found = make(func, *args, **named)
        return func(*args, **named) if found is None else _record(*found, lambda: func(*args, **named), args)


def _without_leaves(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach() if value.is_leaf and value.requires_grad else value
    return type(value)(map(_without_leaves, value)) if type(value) in (list, tuple) else value


def _depends(value: object) -> bool:
    """Whether this depends on the model's inputs."""
    return isinstance(value, Tensor) and value.requires_grad


def _record(
    rule: Linear | Elementwise, inputs: tuple[Tensor, ...], compute: Callable[[], Tensor], args: tuple[Any, ...]
) -> Tensor:
    """Compute an operation on ``args`` so that it propagates relevance to ``inputs`` by its rule."""
    first, version = args[0], args[0]._version
    memory = {value.data_ptr() for value in args if isinstance(value, Tensor)}

    def copied() -> Tensor:
        value = compute()
        return value.clone() if value.data_ptr() in memory else value

    output: Tensor = _Recorded.apply(rule, copied, *inputs)
    changed_in_place = first._version != version
    return first.copy_(output) if changed_in_place else output


# From the arguments of an operation to its rule and to the inputs that get relevance, or to None if there is no rule.

_Found = tuple[Linear | Elementwise, tuple[Tensor, ...]] | None


def _weighted(func: Callable[..., Any], x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> _Found:
    """Linear layers and convolutions of all kinds. A bias excites no neuron."""
    options = {name: value for name, value in kwargs.items() if name != "bias"}

    def part(lowest: float | None, highest: float | None) -> Callable[..., Tensor]:
        return lambda x: func(x, weight.to(x.dtype).clamp(lowest, highest), None, *args[1:], **options)

    return Linear(part(0, None), part(None, 0), weighted=True), (x,)


def _averaged(func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> _Found:
    """Average pooling, means, sums and interpolation: linear operations with positive weights."""
    return Linear(lambda x: func(x, *args, **kwargs)), (x,)


def _activation(func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> _Found:
    """Activation functions, dropout and softmax: relevance passes unchanged."""
    return Elementwise(x.shape, 1.0), (x,)


def _batch_norm(
    func: Callable[..., Any], x: Tensor, running_mean: Any, running_var: Any, weight: Any = None, *_: Any, **__: Any
) -> _Found:
    """A scale and a shift per channel."""
    if func is not F.batch_norm:  # torch.batch_norm takes its arguments in another order
        return None
    return Elementwise(x.shape, 1.0 if weight is None else weight.view(1, -1, *[1] * (x.dim() - 2))), (x,)


def _scaled(func: Callable[..., Any], x: Any, factor: Any = -1.0, **kwargs: Any) -> _Found:
    """Negation, and products and quotients with what does not depend on the inputs."""
    quotient = "div" in func.__name__
    if not _depends(factor):
        return Elementwise(x.shape, 1 / torch.as_tensor(factor) if quotient else factor), (x,)
    return None if quotient or _depends(x) else (Elementwise(factor.shape, x), (factor,))


def _added(func: Callable[..., Any], x: Any, other: Any, *, alpha: float = 1) -> _Found:
    """Sums and differences: the sides of a skip connection share by what each adds; a constant is a bias."""
    weights = (-alpha, 1) if "rsub" in func.__name__ else (1, -alpha) if "sub" in func.__name__ else (1, alpha)
    if not _depends(other):
        return Elementwise(x.shape, weights[0]), (x,)
    if not _depends(x):
        return Elementwise(other.shape, weights[1]), (other,)

    def positive(*values: Tensor) -> Tensor:
        return max(weights[0], 0) * values[0] + max(weights[1], 0) * values[1]

    def negative(*values: Tensor) -> Tensor:
        return min(weights[0], 0) * values[0] + min(weights[1], 0) * values[1]

    # Copies, because the model may change in place what a sum does not need for its gradient.
    return Linear(positive, negative if min(weights) < 0 else None), (x.clone(), other.clone())


def _table(make: Callable[..., _Found], names: str) -> dict[str, Callable[..., _Found]]:
    return dict.fromkeys(names.split(), make)


_RULES = {
    **_table(_weighted, "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
    **_table(_averaged, "avg_pool1d avg_pool2d avg_pool3d mean sum interpolate"),
    **_table(_averaged, "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"),
    **_table(_activation, "relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_"),
    **_table(_activation, "prelu silu gelu mish softplus sigmoid sigmoid_ tanh tanh_ hardsigmoid hardswish"),
    **_table(_activation, "clamp clamp_ clamp_min clamp_min_ softmax log_softmax"),
    **_table(_activation, "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"),
    **_table(_batch_norm, "batch_norm"),
    **_table(_scaled, "neg neg_ __neg__ mul mul_ __mul__ __rmul__ __imul__ div div_ __truediv__ __itruediv__"),
    **_table(_added, "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ rsub"),
}

# Autograd's names of operations that need no rule: they move values, copy them or pick the largest.
MOVES = {
    *("AccumulateGrad", "Alias", "AsStrided", "Clone", "Copy", "CopyBackwards", "CopySlices", "ToCopy"),
    *("View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Expand", "Repeat", "Squeeze", "Unsqueeze"),
    *("Cat", "Stack", "Split", "SplitWithSizes", "Unbind", "Select", "Slice", "Index", "IndexSelect", "Gather"),
    *("Flip", "Roll", "ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D", "ReplicationPad1D", "ReplicationPad2D"),
    *("MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "Amax", "Max"),
    *("PixelShuffle", "PixelUnshuffle"),
}
