"""A forward pass through which relevance is propagated from the target down to a layer or to the inputs."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from captum_extremal._captum import run_forward
from captum_extremal.attr._recorder import MOVES, SMALLEST, Elementwise, Linear, Recorder, depends_on_inputs, marked
from captum_extremal.hooks import on_output, unwrap
from captum_extremal.objective import mean_over_positions, select_checked
from captum_extremal.session import Session

_SCALE = 2.0**14  # lifts probabilities out of half precision's subnormal range; their sum still fits


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

        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in session.inputs)
            given = tuple(map(marked, leaves))  # copies, because a model may change its inputs in place, but no leaf
            watched = nullcontext() if layer is None else on_output(layer, keep)
            with watched, session.caller.forward(), Recorder():
                output = run_forward(unwrap(session.forward_func), given, None, session.arguments)
            score = mean_over_positions(select_checked(output, session.target, session.images))
        if not bool(score.isfinite().all()):
            raise ValueError(f"forward_func's output must be finite, got scores {score.tolist()}")
        above, self._classifier = _upper_nodes(output)
        self._ends = leaves if layer is None else (_only_output(seen),)
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
        """The marginal winning probability of every neuron of the layer, or of every input value.

        With ``dual``, it starts at the dual of the target, the neuron whose weights are all negated.
        """
        sign = -1.0 if dual else 1.0
        excitations = [
            node.rule.propagate(sign * slope, (source,), normalize=False)[0]
            for node, slope, source in zip(self._classifier, self._slopes, self._sources)
        ]
        total = torch.stack([part.abs().flatten(1).sum(1) for part in excitations]).sum(0)
        scale = torch.where(total > SMALLEST, _SCALE / total.clamp(min=SMALLEST), 0.0)
        start = [
            (part * scale.view(-1, *[1] * (part.dim() - 1))).to(source.dtype)
            for part, source in zip(excitations, self._sources)
        ]
        found = torch.autograd.grad(self._sources, self._ends, start, retain_graph=True, allow_unused=True)
        if all(relevance is None for relevance in found):  # the inputs are reached, so it is the layer that is not
            raise ValueError("layer must stand between the inputs and the classifier, the topmost layer with weights")
        return tuple(
            torch.zeros_like(end, requires_grad=False) if relevance is None else relevance.abs() / _SCALE
            for end, relevance in zip(self._ends, found)
        )


def _only_output(seen: list[Any]) -> Tensor:
    if len(seen) != 1:
        raise ValueError(f"layer must run once in a forward pass of forward_func, but ran {len(seen)} times")
    if not isinstance(seen[0], Tensor) or not seen[0].requires_grad:
        raise ValueError(f"layer must return one tensor that depends on the inputs, got {type(seen[0]).__name__}")
    return seen[0]


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
