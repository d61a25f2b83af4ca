"""Records a forward pass so that its backward pass propagates relevance instead of a gradient.

Under :class:`Recorder` a model computes what it always computes, but the backward pass of every operation in the table
below follows a rule of excitation backprop. Concatenation, flattening and max pooling need no rule: their gradients
already split relevance, add it up, or give it to the maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_extremal.attr._relevance import Elementwise, Linear, Recorded

_DEPENDS = "captum_extremal.depends_on_inputs"


class Recorder(TorchFunctionMode):
    """Records the rule of every operation that has one. Other operations are left to autograd."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        make = _RULES.get(getattr(func, "__name__", ""))
        if make is None:
            return func(*args, **named)
        args += tuple(named.pop(name) for name in ("input", "other") if name in named)
        depends = [k for k, value in enumerate((*args, *named.values())) if depends_on_inputs(value)]
        if not depends or (depends != [0] and make not in (_scaled, _added)):
            return func(*args, **named)
        found = make(func, *args, **named)
        return func(*args, **named) if found is None else _record(*found, lambda: func(*args, **named), args)


def mark_input(x: Tensor) -> None:
    """Mark an input of the model, which must not be a leaf, for :func:`depends_on_inputs`."""
    node: Any = x.grad_fn
    node.metadata[_DEPENDS] = True


def depends_on_inputs(value: object) -> bool:
    """Whether autograd computed this from a marked input, and not from parameters alone."""
    if not isinstance(value, Tensor) or value.grad_fn is None:
        return False
    waiting: list[Any] = [value.grad_fn]
    seen: set[Any] = set()
    found = False
    while waiting and not found:
        node = waiting.pop()
        known = node.metadata.get(_DEPENDS)
        found = bool(known)
        if known is None and node not in seen:
            seen.add(node)
            waiting += [child for child, _ in node.next_functions if child is not None]
    known_now: Any = [value.grad_fn] if found else seen
    for node in known_now:
        node.metadata[_DEPENDS] = found  # so that later walks end here
    return found


def _record(
    rule: Linear | Elementwise, inputs: tuple[Tensor, ...], compute: Callable[[], Tensor], args: tuple[Any, ...]
) -> Tensor:
    """Compute an operation on ``args`` so that it propagates relevance to ``inputs`` by its rule."""
    first, version = args[0], args[0]._version
    memory = {value.data_ptr() for value in args if isinstance(value, Tensor)}

    def copied() -> Tensor:
        value = compute()
        return value.clone() if value.data_ptr() in memory else value

    output: Tensor = Recorded.apply(rule, copied, *inputs)
    changed_in_place = first._version != version
    return first.copy_(output) if changed_in_place else output


# From the arguments of an operation to its rule and to the inputs that get relevance, or to None if there is no rule.

_Found = tuple[Linear | Elementwise, tuple[Tensor, ...]] | None


def _weighted(func: Callable[..., Any], x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> _Found:
    """Linear layers and convolutions of all kinds. A bias excites no neuron."""
    options = {name: value for name, value in kwargs.items() if name != "bias"}

    def part(lowest: float | None, highest: float | None) -> Callable[..., Tensor]:
        return lambda x: func(x, weight.detach().to(x.dtype).clamp(lowest, highest), None, *args[1:], **options)

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
    if not depends_on_inputs(factor):
        return Elementwise(x.shape, 1 / torch.as_tensor(factor) if quotient else factor), (x,)
    return None if quotient or depends_on_inputs(x) else (Elementwise(factor.shape, x), (factor,))


def _added(func: Callable[..., Any], x: Any, other: Any, *, alpha: float = 1) -> _Found:
    """Sums and differences: the sides of a skip connection share by what each adds; a constant is a bias."""
    weights = (-alpha, 1) if "rsub" in func.__name__ else (1, -alpha) if "sub" in func.__name__ else (1, alpha)
    if not depends_on_inputs(other):
        return Elementwise(x.shape, weights[0]), (x,)
    if not depends_on_inputs(x):
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
