r"""How excitation backprop walks down a network: each neuron hands its winning probability to those that excite it.

In a forward pass under :class:`_Recorder` every layer is computed as ever, but remembers how to hand probability down,
so that autograd's backward pass carries probabilities in the place of gradients. Concatenations, flattening and max
pooling then need nothing more: what was copied adds up, and a maximum names its winner.

A *message* is a probability with a sign. Below zero it is meant for the neuron's negation, the *dual* unit whose
weights are all negated. So a batch normalisation with a negative scale asks the convolution under it for what lowers
its output, as the two folded into one would, and a contrast is a message of the other sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_extremal._captum import TargetType, run_forward
from captum_extremal._state import ForwardPrecision
from captum_extremal.hooks import unwrap
from captum_extremal.objective import mean_over_positions, select_checked

_SMALLEST = 1e-30  # an excitation below this is none
_REACHES_INPUTS = "captum_extremal.reaches_inputs"
_SCALE = 2.0**14  # lifts probabilities out of half precision's subnormal range; their sum still fits

_Messages = tuple[Tensor, ...]
_Part = Callable[..., Tensor]


class Excitation:
    """A recorded forward pass, down which probability can be sent from the target.

    From the output down to the classifier, its topmost layer with weights, the network counts as one neuron: pooling
    and activations above it are averaged into its weights. So it makes no difference whether a network pools before
    its linear classifier or after its convolutional one, and a class whose score ends at 0 in a ReLU is explained too.

    Args:
        forward_func: the model or a wrapper of it, as Captum takes it.
        layer: where the way down ends; None for the inputs.
        inputs: the input tensors, each (N, C, *S).
        target, additional_forward_args: as Captum takes them.
        caller: the autocast state in which the model runs.

    Raises:
        TypeError, ValueError: the output cannot be explained, the layer does not run once with one tensor below the
            classifier, or the model contains an operation that has no rule.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | None,
        inputs: tuple[Tensor, ...],
        target: TargetType,
        additional_forward_args: object,
        caller: ForwardPrecision,
    ) -> None:
        leaves = tuple(x.detach().requires_grad_() for x in inputs)
        with torch.enable_grad(), _outputs_of(layer) as seen, caller.forward(), _Recorder():
            # A copy, because a model may change its input in place and autograd lets nobody change a leaf.
            given = tuple(x.clone() for x in leaves)
            roots: set[Any] = {x.grad_fn for x in given}
            for root in roots:
                root.metadata[_REACHES_INPUTS] = True
            output = run_forward(unwrap(forward_func), given, None, additional_forward_args)
        with torch.enable_grad():
            score = mean_over_positions(select_checked(output, target, len(inputs[0])))
        if not bool(score.isfinite().all()):
            raise ValueError(f"forward_func's output must be finite, got scores {score.tolist()}")
        above, self._classifier = _upper_layers(output, roots)
        self._ends = leaves if layer is None else (_only_output(seen),)
        self._sources = [one.inputs[0] for one in self._classifier]
        if any(len(source) != len(inputs[0]) for source in self._sources):
            shapes = [tuple(source.shape) for source in self._sources]
            raise ValueError(f"forward_func's classifier must be given one row for each example, got shapes {shapes}")
        (start,) = torch.autograd.grad(score.sum(), output, retain_graph=True)
        for one in above:
            one.above = True
        torch.autograd.grad(output, self._sources, start, retain_graph=True, allow_unused=True)
        for one in above:
            one.above = False

    def probabilities(self) -> tuple[Tensor, ...]:
        """The marginal winning probability of every neuron of the layer, or of every input value."""
        return self._send(1.0)

    def dual_probabilities(self) -> tuple[Tensor, ...]:
        """The same for the dual of the target, the neuron whose weights are all negated."""
        return self._send(-1.0)

    def _send(self, sign: float) -> tuple[Tensor, ...]:
        excitations = [layer.excitation(sign) for layer in self._classifier]
        total = torch.stack([part.abs().flatten(1).sum(1) for part in excitations]).sum(0)
        scale = torch.where(total > _SMALLEST, _SCALE / total.clamp(min=_SMALLEST), 0.0)
        start = [
            (part * scale.view(-1, *[1] * (part.dim() - 1))).to(source.dtype)
            for part, source in zip(excitations, self._sources)
        ]
        messages = torch.autograd.grad(self._sources, self._ends, start, retain_graph=True, allow_unused=True)
        if all(message is None for message in messages):  # the inputs are reached, so it is the layer that is not
            raise ValueError("layer must stand between the inputs and the classifier, the topmost layer with weights")
        return tuple(
            torch.zeros_like(end, requires_grad=False) if message is None else message.abs() / _SCALE
            for end, message in zip(self._ends, messages)
        )


@contextmanager
def _outputs_of(layer: nn.Module | None) -> Iterator[list[Any]]:
    """Collect what a layer returns. The model goes on with a copy, so that nothing in place can reach what is kept."""
    seen: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        seen.append(output)
        return output.clone() if isinstance(output, Tensor) else output

    handle = None if layer is None else layer.register_forward_hook(keep)
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


def _only_output(seen: list[Any]) -> Tensor:
    if len(seen) != 1:
        raise ValueError(f"layer must run once in a forward pass of forward_func, but ran {len(seen)} times")
    if not isinstance(seen[0], Tensor) or not seen[0].requires_grad:
        raise ValueError(f"layer must return one tensor that depends on the inputs, got {type(seen[0]).__name__}")
    return seen[0]


# What is recorded of a layer


class _Layer:
    r"""A linear layer :math:`y_i = \sum_j w_{ij} x_j + b_i` of a recorded forward pass.

    Attributes:
        plus: the layer with its positive weights alone and no bias.
        minus: the layer with its negative weights alone; None if it has none.
        values: x, one tensor, or several that are added up.
        weighted: whether its weights are parameters.
        above: while the network above the classifier is averaged into the classifier's weights.
        inputs, slope: of a layer with weights: what went in, and the message that came from above.
    """

    def __init__(self, plus: _Part, minus: _Part | None, values: tuple[Tensor, ...], weighted: bool = False) -> None:
        self.plus = plus
        self.minus = minus
        self.values = values
        self.weighted = weighted
        self.above = False
        self.inputs: tuple[Tensor, ...] = ()
        self.slope = torch.empty(0)

    def hand_down(self, message: Tensor, *values: Tensor) -> tuple[Tensor | None, ...]:
        """The messages to the inputs, from that to the output."""
        if not self.above:
            return self.share(message, values)
        if self.weighted:
            self.slope = message
            return (None,)
        with torch.enable_grad():
            inputs = tuple(x.detach().requires_grad_() for x in values)
            output = self.plus(*inputs)
            return torch.autograd.grad(output if self.minus is None else output + self.minus(*inputs), inputs, message)

    def excitation(self, sign: float) -> Tensor:
        """What each input adds to the target, where that is positive; to the target's negation for a sign of -1."""
        return self.share(sign * self.slope, (self.inputs[0].detach(),), divided=False)[0]

    def share(self, message: Tensor, inputs: tuple[Tensor, ...], divided: bool = True) -> _Messages:
        r"""The rule of the method.

        :math:`P(x_j | y_i)` is in proportion to what :math:`x_j` adds to :math:`y_i`, :math:`w_{ij} x_j` where that is
        positive: for inputs that are not negative, as after a ReLU, the excitatory weights times the activations. A
        neuron that nothing excites hands nothing down.

        Args:
            message: to the outputs y.
            inputs: the values x.
            divided: whether a neuron's probability is divided among its inputs, or multiplied by what each adds.
        """
        dtype = torch.promote_types(message.dtype, torch.float32)
        values = [x.to(dtype) for x in inputs]
        messages = [torch.zeros_like(x) for x in values]
        for sign in (1.0, -1.0):  # the neuron, and its dual
            probability = (sign * message.to(dtype)).clamp(min=0)
            if not bool(probability.any()):
                continue
            with torch.enable_grad():
                above = tuple((sign * x).clamp(min=0).requires_grad_() for x in values)
                below = tuple((-sign * x).clamp(min=0).requires_grad_() for x in values)
                total = self.plus(*above)
                if self.minus is not None and any(bool(x.any()) for x in below):
                    total = total - self.minus(*below)
                if divided:
                    ratio = torch.where(total > _SMALLEST, probability / total.clamp(min=_SMALLEST), 0.0)
                else:
                    ratio = probability
                shares = torch.autograd.grad(total, above + below, ratio, allow_unused=True)
            for message_to, x, share in zip(messages, above, shares):
                if share is not None:
                    message_to += sign * x.detach() * share
            for message_to, x, share in zip(messages, below, shares[len(values) :]):
                if share is not None:
                    message_to -= sign * x.detach() * share
        return tuple(messages)


class _OneToOne:
    """A layer each of whose neurons has one input, with a weight of the slope's sign."""

    weighted = False
    values = ()

    def __init__(self, shape: torch.Size, slope: Tensor | float) -> None:
        self.above = False
        self._shape = shape
        self._slope = torch.as_tensor(slope).detach()

    def hand_down(self, message: Tensor) -> _Messages:
        slope = self._slope if self.above else self._slope.sign()
        return ((message * slope).sum_to_size(self._shape),)


class _HandDown(torch.autograd.Function):
    """A layer whose output is what ``compute`` says and whose backward pass hands probability down."""

    @staticmethod
    def forward(ctx: Any, layer: _Layer | _OneToOne, compute: Callable[[], Tensor], *inputs: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(*layer.values)
        layer.values = ()  # autograd keeps them now, and notices if they change
        return compute()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, None, *ctx.layer.hand_down(grads[0], *ctx.saved_tensors)


# The rules


def _carries(value: object) -> bool:
    """Whether this depends on the model's inputs, and not on parameters alone, as a bias that was reshaped does."""
    return isinstance(value, Tensor) and value.grad_fn is not None and _reaches_inputs(value.grad_fn)


def _reaches_inputs(node: Any) -> bool:
    """Whether autograd computed this from the inputs. The answer is noted on the nodes, so that the walk is short."""
    waiting, seen, found = [node], set(), False
    while waiting and not found:
        one = waiting.pop()
        known = one.metadata.get(_REACHES_INPUTS)
        found = bool(known)
        if known is None and one not in seen:
            seen.add(one)
            waiting += [child for child, _ in one.next_functions if child is not None]
    for one in [node] if found else seen:
        one.metadata[_REACHES_INPUTS] = found
    return found


def _record(layer: _Layer | _OneToOne, compute: Callable[[], Tensor], *inputs: Tensor) -> Tensor:
    output: Tensor = _HandDown.apply(layer, compute, *inputs)
    return output


def _weighted(func: Callable[..., Any], x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Linear layers and convolutions of all kinds. The bias excites nobody."""
    if not _carries(x):
        return func(x, weight, *args, **kwargs)
    options = {name: value for name, value in kwargs.items() if name != "bias"}

    def part(lowest: float | None, highest: float | None) -> _Part:
        return lambda values: func(
            values, weight.detach().to(values.dtype).clamp(lowest, highest), None, *args[1:], **options
        )

    layer = _Layer(part(0, None), part(None, 0), (x.detach(),), weighted=True)
    layer.inputs = (x,)
    return _record(layer, lambda: func(x, weight, *args, **kwargs), x)


def _averaged(func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Average pooling, means, sums and interpolation: linear layers whose weights are positive and not learned."""
    if not _carries(x):
        return func(x, *args, **kwargs)
    layer = _Layer(lambda values: func(values, *args, **kwargs), None, (x.detach(),))
    return _record(layer, lambda: func(x, *args, **kwargs), x)


def _one_to_one(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], x: Any, slope: Tensor | float
) -> Any:
    """A layer each of whose neurons has one input among x."""
    if not _carries(x):
        return func(*args, **kwargs)
    changed = args[0]
    version = changed._version if isinstance(changed, Tensor) else None

    def compute() -> Tensor:
        value: Tensor = func(*args, **kwargs)
        return value.clone() if value.data_ptr() == x.data_ptr() else value

    output = _record(_OneToOne(x.shape, slope), compute, x)
    return output if version is None or changed._version == version else changed.copy_(output)


def _activation(func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What acts on each neuron for itself, dropout and softmax included: it hands down what it was given."""
    return _one_to_one(func, (x, *args), kwargs, x, 1.0)


def _normalised(func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Batch normalisation: a scale and a shift a channel."""
    if func is not F.batch_norm:  # torch.batch_norm takes its arguments in another order
        return func(x, *args, **kwargs)
    weight = kwargs["weight"] if "weight" in kwargs else (*args, None, None, None)[2]
    scale: Any = 1.0 if weight is None else weight.view(1, -1, *[1] * (x.dim() - 2))
    return _one_to_one(func, (x, *args), kwargs, x, scale)


def _scaled(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """Negation, and products and quotients with what does not depend on the input."""
    if "other" in kwargs:
        args = (kwargs.pop("other"),)
    factor = args[0] if args else -1.0
    quotient = "div" in func.__name__
    if _carries(factor) and (_carries(x) or quotient):
        return func(x, *args, **kwargs)  # one neuron gates another: there is no rule, and the check will say so
    carrier, slope = (factor, x) if _carries(factor) else (x, 1 / torch.as_tensor(factor) if quotient else factor)
    return _one_to_one(func, (x, *args), kwargs, carrier, slope)


def _added(func: Callable[..., Any], x: Any, other: Any, *, alpha: float = 1) -> Any:
    """Sums and differences: a skip connection shares in proportion to what each side adds; a constant is a bias."""
    name = func.__name__
    weights = (-alpha, 1.0) if "rsub" in name else (1.0, -alpha) if "sub" in name else (1.0, alpha)
    if not (_carries(x) and _carries(other)):
        carrier, weight = (x, weights[0]) if _carries(x) else (other, weights[1])
        return _one_to_one(func, (x, other), {"alpha": alpha} if alpha != 1 else {}, carrier, weight)

    def part(keep: Callable[[float], bool]) -> _Part:
        return lambda *values: sum(w * value for w, value in zip(weights, values) if keep(w))

    minus = part(lambda w: w < 0) if min(weights) < 0 else None
    layer = _Layer(part(lambda w: w > 0), minus, (x.detach().clone(), other.detach().clone()))
    output = _record(layer, lambda: weights[0] * x + weights[1] * other, x, other)
    in_place = name.startswith("__i") or (name.endswith("_") and not name.startswith("_"))
    return x.copy_(output) if in_place else output


_WEIGHTED = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"
_AVERAGED = (
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum interpolate"
)
_ACTIVATIONS = (
    "relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ prelu silu gelu mish "
    "softplus sigmoid sigmoid_ tanh tanh_ hardsigmoid hardswish clamp clamp_ clamp_min clamp_min_ softmax log_softmax "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"
)
_SCALED = "neg neg_ __neg__ mul mul_ __mul__ __rmul__ __imul__ div div_ __truediv__ __itruediv__"
_ADDED = "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ rsub"
_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_WEIGHTED.split(), _weighted),
    **dict.fromkeys(_AVERAGED.split(), _averaged),
    **dict.fromkeys(_ACTIVATIONS.split(), _activation),
    **dict.fromkeys(_SCALED.split(), _scaled),
    **dict.fromkeys(_ADDED.split(), _added),
    "batch_norm": _normalised,
}


class _Recorder(TorchFunctionMode):
    """Records every layer that has a rule. The rest runs as ever; the graph that it leaves is looked at afterwards."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        rule = _RULES.get(getattr(func, "__name__", ""))
        if rule is None:
            return func(*args, **named)
        first = (named.pop("input"),) if not args and "input" in named else ()  # as torch calls it, where it is named
        return rule(func, *first, *args, **named)


# Operations that move values, copy them or pick the largest: their gradient already hands probability down.
_MOVES = {
    *("AccumulateGrad", "Alias", "AsStrided", "Clone", "Copy", "CopyBackwards", "CopySlices", "ToCopy"),
    *("View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Expand", "Repeat", "Squeeze", "Unsqueeze"),
    *("Cat", "Stack", "Split", "SplitWithSizes", "Unbind", "Select", "Slice", "Index", "IndexSelect", "Gather"),
    *("Flip", "Roll", "ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D", "ReplicationPad1D", "ReplicationPad2D"),
    *("MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "Amax", "Max"),
    *("PixelShuffle", "PixelUnshuffle"),
}


def _upper_layers(output: Tensor, roots: set[Any]) -> tuple[list[_Layer | _OneToOne], list[_Layer]]:
    """The layers down to the classifier, and the classifier: the layers with weights that no other stands above.

    Raises:
        ValueError: the graph does not reach the inputs, or it holds an operation that would hand down a gradient, or
            no layer with weights.
    """
    above: dict[int, _Layer | _OneToOne] = {}
    waiting: list[tuple[Any, bool]] = [(output.grad_fn, True)]
    seen: set[tuple[Any, bool]] = set()
    reached, unknown = False, set()
    while waiting:
        node, upper = waiting.pop()
        if node is None or (node, upper) in seen:
            continue
        seen.add((node, upper))
        layer = getattr(node, "layer", None)
        if not isinstance(layer, (_Layer, _OneToOne)):
            operation = re.sub(r"Backward\d*$", "", node.name().rsplit("::", 1)[-1])
            unknown |= {operation} - _MOVES
            reached = reached or node in roots
        elif upper:
            above[id(layer)] = layer
            upper = not layer.weighted
        waiting += [(child, upper) for child, _ in node.next_functions]
    if not reached:
        raise ValueError(
            "forward_func must be differentiable by its inputs, but its output carries no gradient: look for "
            "detach(), no_grad(), argmax or numpy inside it"
        )
    if unknown:
        raise ValueError(
            f"forward_func contains {', '.join(sorted(unknown))}, which excitation backprop cannot follow: it takes "
            "convolutions, linear layers, pooling, batch normalisation, activations, sums and concatenations, none of "
            "them in scripted code. Where it stands at the top, give forward_func without it"
        )
    classifier = [layer for layer in above.values() if isinstance(layer, _Layer) and layer.weighted]
    if not classifier:
        raise ValueError("forward_func must have a layer with weights, linear or convolutional, above its inputs")
    return list(above.values()), classifier
