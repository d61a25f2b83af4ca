"""Excitation backprop: the probability of each neuron to win when the target's excitation is followed down."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from captum_extremal._autograd import without_checkpoints
from captum_extremal._captum import TargetType, TensorOrTupleOfTensorsGeneric, log_usage, run_forward
from captum_extremal.attr._base import BaseAttribution
from captum_extremal.attr._recorder import MOVES, SMALLEST, Elementwise, Linear, Recorder, depends_on_inputs, marked
from captum_extremal.first_run import first_run, mean_over_positions, select_checked
from captum_extremal.hooks import on_output, unwrap
from captum_extremal.layers import check_layer
from captum_extremal.outputs import scores_in
from captum_extremal.session import Session, open_session

_SCALE = 2.0**14  # lifts probabilities out of half precision's subnormal range; their sum still fits


class ExcitationBackprop(BaseAttribution, GradientAttribution):
    r"""Marginal winning probability (MWP) of each neuron or input value, propagated down from the target.

    Each neuron divides its probability among the neurons below in proportion to activation times positive weight:

    .. math::

        P(a_j) = \sum_i P(a_j | a_i) P(a_i), \qquad
        P(a_j | a_i) = \frac{a_j w_{ij}^+}{\sum_k a_k w_{ik}^+}

    This is the z+ rule of layer-wise relevance propagation. The probabilities of a layer add up to 1 for each image,
    minus those of neurons that only their bias excites. A sum, such as a skip connection, is a neuron with weights of
    1; batch normalisation is folded into the layer below; biases excite no neuron. Negative inputs excite through
    negative weights: what counts is the positive part of :math:`a_j w_{ij}`. Where one branch uses a value and another
    its negation, what they propagate to it cancels. What is above the classifier, the topmost layer with weights, is
    averaged into that layer's weights. Convolutions, linear layers, pooling, batch normalisation, activation functions,
    sums, concatenations and products with constants are followed in any code that PyTorch runs; else it is refused.

    Reference: J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff, *Top-down Neural Attention by Excitation Backprop*,
    ECCV 2016.

    Args:
        forward_func: the model, or any function of its inputs.
        layer: the module whose output is explained; None for the inputs. The maps of the method come from a layer in
            the middle, such as the last pooling layer but one, summed over the channels and resized to the image.

    Examples::

        >>> attribution = ExcitationBackprop(model, model.layer3).attribute(x, target=207)
        >>> maps = LayerAttribution.interpolate(attribution.sum(1, keepdim=True), x.shape[2:], "bilinear")
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module | None = None) -> None:
        if layer is not None:
            check_layer(forward_func, layer)
        GradientAttribution.__init__(self, forward_func)
        self.layer = layer

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel removes one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: TargetType = None,
        additional_forward_args: object = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """The probability of each neuron of the layer, or of each value of the inputs.

        Args:
            inputs: (N, C, *S), S of one to three sides, or a tuple of these.
            target: which output, in any of Captum's forms. Outputs with positions share the probability equally.
            additional_forward_args: passed on to the model.

        Returns:
            a tensor of the layer's shape, or maps like ``inputs``: same type and device, contiguous.

        Raises:
            TypeError, ValueError: an argument is bad (before the model runs), the model's output or one of its
                operations cannot be explained, or the layer does not run once with one tensor.
        """
        with open_session(self.forward_func, inputs, target, additional_forward_args) as session:
            found = self._probabilities(Excitation(session, self.layer))
        attributions = session.like_inputs(found) if self.layer is None else found[0].contiguous()
        return cast(TensorOrTupleOfTensorsGeneric, attributions)

    def _probabilities(self, excitation: Excitation) -> tuple[Tensor, ...]:
        return excitation.probabilities()


class Excitation:
    """The forward pass of a model, recorded down to a layer; None for the inputs.

    The classifier is the topmost layer with weights. It and everything above it count as one linear neuron, whose
    weights are the classifier's times the gradient of the score by the classifier's output, with activation functions
    as identities. So it makes no difference whether a network pools before a linear classifier or after a
    convolutional one, and a class whose score ends at 0 in a ReLU is explained too.
    """

    def __init__(self, session: Session, layer: nn.Module | None) -> None:
        seen: list[Any] = []

        def keep(output: Any) -> Any:
            seen.append(output)
            return output.clone() if isinstance(output, Tensor) else output  # the model may change it in place

        def run(inputs: tuple[Tensor, ...], arguments: Any) -> Any:
            return run_forward(unwrap(session.forward_func), inputs, None, arguments)

        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in session.inputs)
            given = tuple(map(marked, leaves))
            watched = nullcontext() if layer is None else on_output(layer, keep)
            with watched, without_checkpoints(), session.caller.forward(), Recorder():
                returned = first_run(run, given, session.arguments)
            output = scores_in(returned, session.images)
            score = mean_over_positions(select_checked(output, session.target, session.images))
        if not bool(score.isfinite().all()):
            raise ValueError(f"forward_func's output must be finite, got scores {score.tolist()}")
        above, self._classifier = _upper_nodes(output)
        if layer is not None and len(seen) != 1:
            raise ValueError(f"layer must run once in a forward pass of forward_func, but ran {len(seen)} times")
        self._ends = leaves if layer is None else tuple(seen)
        if not all(isinstance(end, Tensor) and end.requires_grad for end in self._ends):
            raise ValueError(f"layer must return one tensor that depends on the inputs, got {type(seen[0]).__name__}")
        self._sources = [node.saved_tensors[0] for node in self._classifier]
        if any(len(source) != session.images for source in self._sources):
            shapes = [tuple(source.shape) for source in self._sources]
            raise ValueError(f"forward_func's classifier must be given one row for each example, got shapes {shapes}")
        edges = [GradientEdge(node, 0) for node in self._classifier]
        for node in above:
            node.averaging = True
        self._slopes = torch.autograd.grad(score, edges, torch.ones_like(score), retain_graph=True)
        for node in above:
            node.averaging = False

    def probabilities(self, dual: bool = False) -> tuple[Tensor, ...]:
        """The probability of every neuron of the layer, or of every input value; of the target's dual with ``dual``."""
        sign = -1.0 if dual else 1.0
        excitations = [
            node.rule.propagate(sign * slope, (source,), normalize=False)[0]
            for node, slope, source in zip(self._classifier, self._slopes, self._sources)
        ]
        total = torch.stack([part.abs().flatten(1).sum(1) for part in excitations]).sum(0)
        scale = torch.where(total > SMALLEST, _SCALE / total.clamp(min=SMALLEST), 0.0)
        rows = [scale.view(-1, *[1] * (part.dim() - 1)) for part in excitations]
        start = [(part * row).to(source.dtype) for part, row, source in zip(excitations, rows, self._sources)]
        found = torch.autograd.grad(self._sources, self._ends, start, retain_graph=True, allow_unused=True)
        if all(relevance is None for relevance in found):  # the inputs are reached, so it is the layer that is not
            raise ValueError("layer must stand between the inputs and the classifier, the topmost layer with weights")
        return tuple(
            torch.zeros_like(end, requires_grad=False) if relevance is None else relevance.abs() / _SCALE
            for end, relevance in zip(self._ends, found)
        )


def _upper_nodes(output: Tensor) -> tuple[list[Any], list[Any]]:
    """The recorded nodes of autograd's graph from the output down to the classifier, and those of the classifier."""
    if not depends_on_inputs(output):
        raise ValueError(
            "forward_func must be differentiable by its inputs, but its output carries no gradient: look for "
            "detach(), no_grad(), argmax or numpy inside it"
        )
    upper: list[Any] = []
    waiting: list[tuple[Any, bool]] = [(output.grad_fn, True)]
    seen: set[tuple[Any, bool]] = set()
    unknown: set[str] = set()
    while waiting:
        node, above = waiting.pop()
        if node is None or (node, above) in seen:
            continue
        seen.add((node, above))
        rule = getattr(node, "rule", None)
        if not isinstance(rule, (Linear, Elementwise)):
            unknown.add(re.sub(r"Backward\d*$", "", node.name().rsplit("::", 1)[-1]))
        elif above:
            upper.append(node)
            above = not rule.weighted
        waiting += [(child, above) for child, _ in node.next_functions]
    if unknown := unknown - MOVES:
        raise ValueError(
            f"forward_func contains {', '.join(sorted(unknown))}, which excitation backprop cannot follow: it takes "
            "convolutions, linear layers, pooling, batch normalisation, activations, sums and concatenations, none of "
            "them in scripted code. Where it stands at the top, give forward_func without it"
        )
    classifier = [node for node in upper if node.rule.weighted]
    if not classifier:
        raise ValueError("forward_func must have a layer with weights, linear or convolutional, above its inputs")
    return upper, classifier
