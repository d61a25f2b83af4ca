"""Records a forward pass so that its backward pass propagates relevance instead of a gradient.

*Relevance* is a neuron's marginal winning probability with a sign. Negative relevance belongs to the neuron's *dual*,
the same neuron with all weights negated (section 3.3 of the paper). So a negative scale turns the sign, and the
convolution below it is asked what lowers its output. Operations without a rule in the table below, such as
concatenation and max pooling, are those whose gradient already splits relevance, adds it up, or picks the maximum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

SMALLEST = 1e-30  # a smaller excitation counts as none
_DEPENDS = "captum_extremal.depends_on_inputs"


@dataclass(frozen=True, eq=False)
class Linear:
    r"""A linear operation :math:`y_i = \sum_j w_{ij} x_j + b_i`, of one input or of several that are added.

    ``positive`` and ``negative`` compute it without its bias, with its positive or its negative weights only.
    ``weighted`` says whether it is a layer with weights, which can be the classifier.
    """

    positive: Callable[..., Tensor]
    negative: Callable[..., Tensor] | None = None
    weighted: bool = False

    def gradient(self, grad: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients by the inputs."""
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in inputs)
            parts = [part(*leaves) for part in (self.positive, self.negative) if part is not None]
            return torch.autograd.grad(parts, leaves, [grad] * len(parts))

    def propagate(self, relevance: Tensor, inputs: tuple[Tensor, ...], normalize: bool = True) -> tuple[Tensor, ...]:
        r"""The relevance of the inputs, in float32 or float64.

        :math:`P(x_j | y_i)` is proportional to the excitation :math:`\max(w_{ij} x_j, 0)`. A neuron without any
        excitation propagates nothing. The relevance of a negative input belongs to the input's dual. Without
        ``normalize``, the excitations of a neuron are not divided by their sum.
        """
        dtype = torch.promote_types(relevance.dtype, torch.float32)
        found = [torch.zeros_like(x, dtype=dtype) for x in inputs]
        for sign in (1.0, -1.0):  # the neurons, then their duals
            weight = (sign * relevance.to(dtype)).clamp(min=0)
            if not bool(weight.any()):
                continue
            with torch.enable_grad():
                signed = tuple((sign * x.detach().to(dtype)).requires_grad_() for x in inputs)
                excitation = self.positive(*(x.relu() for x in signed))
                if self.negative is not None and any(bool((x < 0).any()) for x in signed):
                    excitation = excitation - self.negative(*((-x).relu() for x in signed))
                if normalize:
                    weight = torch.where(excitation > SMALLEST, weight / excitation.clamp(min=SMALLEST), 0.0)
                slopes = torch.autograd.grad(excitation, signed, weight)
            for total, x, slope in zip(found, signed, slopes):
                total += sign * x.detach().abs() * slope
        return tuple(found)


def _constant(value: Tensor | float) -> Tensor:
    """A tensor, detached; a number as a 0-d one, which changes no other's type."""
    return value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")


class Elementwise:
    """A slope times an input of this shape, value by value, where either may be broadcast."""

    weighted = False

    def __init__(self, shape: torch.Size, slope: Tensor | float) -> None:
        self._shape, self._slope = shape, _constant(slope)

    def gradient(self, grad: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradient by the input; nonlinear operations count as the identity."""
        return ((grad * self._slope).sum_to_size(self._shape),)

    def propagate(self, relevance: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """All relevance goes to the only input, or to its dual if the slope is negative."""
        return ((relevance * self._slope.sign()).sum_to_size(self._shape),)


class _Recorded(torch.autograd.Function):
    """An operation that is computed as usual and propagates relevance in its backward pass by its ``rule``.

    While a node is ``averaging``, the backward pass takes gradients, down to the first layers with weights.
    """

    @staticmethod
    def forward(ctx: Any, rule: Linear | Elementwise, compute: Callable[[], Tensor], *inputs: Tensor) -> Tensor:
        ctx.rule, ctx.averaging = rule, False
        if isinstance(rule, Linear):
            ctx.save_for_backward(*inputs)
        return compute()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if ctx.averaging and ctx.rule.weighted:
            return None, None, None
        follow = ctx.rule.gradient if ctx.averaging else ctx.rule.propagate
        return None, None, *follow(grads[0], ctx.saved_tensors)


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
        if found is None:
            return func(*args, **named)
        first, version = args[0], args[0]._version
        memory = {value.data_ptr() for value in args if isinstance(value, Tensor)}

        def compute() -> Tensor:
            value: Tensor = func(*args, **named)
            return value.clone() if value.data_ptr() in memory else value

        output = _Recorded.apply(found[0], compute, *found[1])
        if first._version != version:  # the model changes it in place
            first.copy_(output)
            return first
        return output


def marked(x: Tensor) -> Tensor:
    """A copy of an input of the model, marked for :func:`depends_on_inputs`."""
    x = x.clone()
    node: Any = x.grad_fn
    node.metadata[_DEPENDS] = True
    return x


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
        return Elementwise(x.shape, 1 / _constant(factor) if quotient else factor), (x,)
    return None if quotient or depends_on_inputs(x) else (Elementwise(factor.shape, x), (factor,))


def _added(func: Callable[..., Any], x: Any, other: Any, *, alpha: float = 1) -> _Found:
    """Sums and differences: the sides of a skip connection share by what each adds; a constant is a bias."""
    weights = (-alpha, 1) if "rsub" in func.__name__ else (1, -alpha) if "sub" in func.__name__ else (1, alpha)
    if not depends_on_inputs(other):
        return Elementwise(x.shape, weights[0]), (x,)
    if not depends_on_inputs(x):
        return Elementwise(other.shape, weights[1]), (other,)

    def part(bound: Callable[[float, float], float]) -> Callable[..., Tensor]:
        return lambda x, other: bound(weights[0], 0) * x + bound(weights[1], 0) * other

    # Copies, because the model may change in place what a sum does not need for its gradient.
    return Linear(part(max), part(min) if min(weights) < 0 else None), (x.clone(), other.clone())


_NAMES: dict[Callable[..., _Found], str] = {
    _weighted: "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    _averaged: "avg_pool1d avg_pool2d avg_pool3d mean sum interpolate "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
    _activation: "relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ "
    "prelu silu gelu mish softplus sigmoid sigmoid_ tanh tanh_ hardsigmoid hardswish "
    "clamp clamp_ clamp_min clamp_min_ softmax log_softmax "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout",
    _batch_norm: "batch_norm",
    _scaled: "neg neg_ __neg__ mul mul_ __mul__ __rmul__ __imul__ div div_ __truediv__ __itruediv__",
    _added: "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ rsub",
}
_RULES = {name: make for make, names in _NAMES.items() for name in names.split()}

# Autograd's names of operations that need no rule: they move values, copy them or pick the largest.
_MOVES = """
AccumulateGrad Alias AsStrided Clone Copy CopyBackwards CopySlices ToCopy View UnsafeView ReshapeAlias Permute Transpose
T Expand Repeat Squeeze Unsqueeze Cat Stack Split SplitWithSizes Unbind Select Slice Index IndexSelect Gather Flip Roll
ConstantPadNd ReflectionPad1D ReflectionPad2D ReplicationPad1D ReplicationPad2D MaxPool2DWithIndices
MaxPool3DWithIndices AdaptiveMaxPool2D AdaptiveMaxPool3D Amax Max PixelShuffle PixelUnshuffle
"""
MOVES = frozenset(_MOVES.split())
