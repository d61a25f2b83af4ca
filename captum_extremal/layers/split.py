"""Split a model at a layer with torch.fx: a head before the layer, and a tail behind it.

The tail takes what the layer returns, and whatever else it needs from before the layer, such as the other branch of a
residual block. The head computes the latter.
"""

from __future__ import annotations

import copy
import inspect
import operator
import warnings
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import fx, nn

from captum_extremal._state import ForwardPrecision
from captum_extremal.hooks import has_forward_hooks
from captum_extremal.layers.activations import Tensors, map_tensors

Copies = Callable[[int], tuple[Tensors, tuple[Any, ...]]]
"""From R to R copies of the model's inputs and of its additional arguments."""


class CannotSplitError(Exception):
    """Says in one sentence why a model was not split."""


class Split:
    """A model in two parts. The head runs once for each number R of copies of the batch.

    Args:
        model: it is copied, but its parameters and buffers are shared.
        layer: one of its modules.
        to_input: whether the tail begins with the layer, instead of behind it.
        copies: gives the model's inputs and arguments.
        caller: the autocast state in which the head runs.

    Raises:
        CannotSplitError: torch.fx does not find the layer in the model, or cannot call it on another input.
        Exception: any, where torch.fx cannot follow the model's own code.
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module, to_input: bool, copies: Copies, caller: ForwardPrecision
    ) -> None:
        self._copies, self._caller = copies, caller
        self._at_boundary: dict[int, tuple[Any, ...]] = {}
        twin, twin_layer = _twin(model, layer)
        graph = _trace(twin, twin_layer, _defaults(twin, *copies(1)))
        nodes = [n for n in graph.nodes if n.op == "call_module" and twin.get_submodule(n.target) is twin_layer]
        if len(nodes) != 1:
            raise CannotSplitError("torch.fx does not look into the module that calls the layer")
        behind = _behind(nodes[0])
        needed = dict.fromkeys(source for node in behind for source in node.all_input_nodes)
        boundary = [node for node in needed if node not in {nodes[0], *behind}]
        self._head = fx.GraphModule(twin, _head(graph, boundary)) if boundary else None
        self._tail = fx.GraphModule(twin, _tail(behind, boundary, nodes[0], to_input))

    def __call__(self, value: Any, repeats: int) -> Any:
        """The model's output where the layer returns (or is given) this value, for R copies of the batch."""
        if self._head is not None and repeats not in self._at_boundary:
            inputs, arguments = self._copies(repeats)
            with torch.no_grad(), self._caller.forward():
                self._at_boundary[repeats] = self._head(*inputs, *arguments)
        # The tail may overwrite its inputs in place.
        return self._tail(value, *map_tensors(torch.clone, self._at_boundary.get(repeats, ())))


def _twin(model: nn.Module, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A copy of the model and of its layer, because tracing a model may change its attributes."""
    name = next((name for name, module in model.named_modules() if module is layer), None)
    if name is None:
        raise CannotSplitError("the layer is none of the model's modules")
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    twin = copy.deepcopy(model, cast(dict[int, Any], shared))
    return twin, twin.get_submodule(name)


def _trace(model: nn.Module, layer: nn.Module, known: dict[str, Any]) -> fx.Graph:
    """The model's graph, with one node for the layer and for each module with hooks, which would see proxies."""

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return m is layer or has_forward_hooks(m) or super().is_leaf_module(m, module_qualified_name)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Tracer().trace(model, known)


def _defaults(model: nn.Module, inputs: Tensors, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments of the model that are not given. The tracer must know their values to follow branches on them."""
    parameters = list(inspect.signature(model.forward).parameters.values())[len(inputs) + len(arguments) :]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _behind(layer: fx.Node) -> list[fx.Node]:
    """The nodes that depend on the layer's node, in order."""
    behind = {layer: None}
    for node in layer.graph.nodes:
        if not behind.keys().isdisjoint(node.all_input_nodes):
            behind[node] = None
    return list(behind)[1:]


def _head(graph: fx.Graph, boundary: list[fx.Node]) -> fx.Graph:
    """From the model's inputs, all of them, to what the tail needs."""
    wanted = set(boundary)
    for node in reversed(graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    head, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    _copy_nodes((node for node in graph.nodes if node in wanted or node.op == "placeholder"), head, copies)
    head.output(tuple(copies[node] for node in boundary))
    return head


def _tail(behind: list[fx.Node], boundary: list[fx.Node], layer: fx.Node, to_input: bool) -> fx.Graph:
    """From the layer's value and the boundary to the model's output."""
    tail = fx.Graph()
    value = tail.placeholder("value")
    copies = {node: tail.placeholder(f"boundary_{k}") for k, node in enumerate(boundary)}
    copies[layer] = _call(layer, tail, value) if to_input else value
    _copy_nodes(behind, tail, copies)
    return tail


def _call(layer: fx.Node, graph: fx.Graph, value: fx.Node) -> fx.Node:
    """A call of the layer with other positional arguments: the value, or its items where there are several."""
    if layer.kwargs:
        raise CannotSplitError("the layer is called with keyword arguments")
    count = len(layer.args)
    items = [value] if count == 1 else [graph.call_function(operator.getitem, (value, k)) for k in range(count)]
    return graph.call_module(str(layer.target), tuple(items))


def _copy_nodes(nodes: Iterable[fx.Node], graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
