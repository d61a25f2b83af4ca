"""A model split at a layer by torch.fx: a head before the layer and a tail behind it.

The tail takes what the layer returns, and whatever else it needs from before the layer, such as the other branch of a
residual block. The head computes that boundary once. ``torch.fx.symbolic_trace`` replaces ``nn.Module.__call__`` for
the whole process while it runs; here a copy of the model gets classes of its own, so that other threads notice nothing.

Shapes: N images; R copies of the images as rows (R N, ...), one copy after another.
"""

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic

import torch
from torch import fx, nn

from captum_extremal._captum import own_copies, run_forward
from captum_extremal._reach import copied
from captum_extremal._state import ForwardPrecision
from captum_extremal.hooks import LOCK, has_forward_hooks, remove_copied, uncompiled
from captum_extremal.layers.activations import Tensors

Copies = Callable[[int], tuple[Tensors, tuple[Any, ...]]]
"""From R to R copies of the model's inputs and arguments."""


class CannotSplitError(Exception):
    """Says in one sentence why a model was not split."""


def split_model(
    model: nn.Module, layer: nn.Module, to_input: bool, copies: Copies, caller: ForwardPrecision
) -> Callable[[Any, int], Any]:
    """From the layer's value (its input with ``to_input``) and R to the model's output for R copies of its inputs."""
    name = next((name for name, module in model.named_modules() if module is layer), None)
    if name is None:
        raise CannotSplitError("the layer is none of the model's modules")
    with LOCK:  # because tracing a model may change its attributes
        twin = copied(model, share=True)
    remove_copied(twin)
    twin_layer = twin.get_submodule(name)
    graph = _trace(twin, twin_layer, *copies(1))
    nodes = [n for n in graph.nodes if n.op == "call_module" and twin.get_submodule(n.target) is twin_layer]
    if len(nodes) != 1:
        raise CannotSplitError("torch.fx does not look into the module that calls the layer")
    depending = {nodes[0]: None}  # the layer's node and those that depend on it, in order
    for node in graph.nodes:
        if not depending.keys().isdisjoint(node.all_input_nodes):
            depending[node] = None
    behind = list(depending)[1:]
    needed = dict.fromkeys(source for node in behind for source in node.all_input_nodes)
    boundary = [node for node in needed if node not in depending]
    head = fx.GraphModule(twin, _head(graph, boundary)) if boundary else None
    tail = fx.GraphModule(twin, _tail(behind, boundary, nodes[0], to_input))
    at_boundary: dict[int, tuple[Any, ...]] = {}

    def run(value: Any, repeats: int) -> Any:
        if head is not None and repeats not in at_boundary:
            inputs, arguments = copies(repeats)
            with torch.no_grad(), caller.forward():
                at_boundary[repeats] = run_forward(head, inputs, None, arguments)
        return tail(value, *own_copies(at_boundary.get(repeats, ())))

    return run


def _trace(model: nn.Module, layer: nn.Module, inputs: Tensors, arguments: tuple[Any, ...]) -> fx.Graph:
    """The model's graph, with one node for the layer and for each module with hooks, which would see proxies."""
    if any(uncompiled(module) is not module for module in model.modules()):
        raise CannotSplitError("a part of the model is compiled")
    tracer = _Tracer(layer)
    tracer.root = model
    tracer.root_module_name = type(model).__name__
    tracer.submodule_paths = {module: name for name, module in model.named_modules()}
    tracer.graph = graph = fx.Graph(tracer_cls=_Tracer)
    tracer.tensor_attrs = {
        value: f"{name}.{attribute}" if name else attribute
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    }
    # To follow branches on the defaults of arguments that are not given, the tracer must know them.
    rest = list(inspect.signature(model.forward).parameters.values())[len(inputs) + len(arguments) :]
    known = {parameter.name: parameter.default for parameter in rest if parameter.default is not parameter.empty}
    forward, proxies = tracer.create_args_for_root(type(model).forward, True, known)
    with _seen_by(tracer, list(model.modules())):
        tracer.create_node("output", "output", (tracer.create_arg(forward(*proxies)),), {})
    return graph


class _Tracer(fx.Tracer):
    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self._layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m is self._layer or has_forward_hooks(m) or super().is_leaf_module(m, module_qualified_name)


@contextmanager
def _seen_by(tracer: _Tracer, modules: list[nn.Module]) -> Iterator[None]:
    """Each of the modules has a class of its own, whose calls and parameters are the tracer's."""
    kinds = [type(module) for module in modules]
    proxies: dict[str, Any] = {}
    try:
        for module, kind in zip(modules, kinds):
            object.__setattr__(module, "__class__", _traced(kind, tracer, proxies))
        yield
    finally:
        tracer.submodule_paths = None
        for module, kind in zip(modules, kinds):
            object.__setattr__(module, "__class__", kind)


def _traced(kind: type[nn.Module], tracer: _Tracer, proxies: dict[str, Any]) -> type[nn.Module]:
    """A class of modules whose calls and parameters are the tracer's."""
    harmless = (None, getattr(Generic.__init_subclass__, "__func__", None))
    if getattr(kind.__init_subclass__, "__func__", None) not in harmless:
        raise CannotSplitError(f"{kind.__name__} wants to know of its subclasses")

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return kind.__call__(module, *args, **kwargs)

        # Others are made by the model's own code, such as slices of a sequence of modules.
        known = module in (tracer.submodule_paths or {})
        return tracer.call_module(module, forward, args, kwargs) if known else forward(*args, **kwargs)

    def get(module: nn.Module, name: str) -> Any:
        own: Any = kind  # a parameter's method may be given what is traced, such as the number of examples
        return tracer.getattr(name, own.__getattr__(module, name), proxies)

    make: Any = type(kind)
    methods = {"__module__": kind.__module__, "__call__": call, "__getattr__": get}
    made: type[nn.Module] = make(kind.__name__, (kind,), methods)
    return made


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
    if to_input:
        if layer.kwargs:
            raise CannotSplitError("the layer is called with keyword arguments")
        count = len(layer.args)  # several are given as a tuple
        items = [value] if count == 1 else [tail.call_function(operator.getitem, (value, k)) for k in range(count)]
        value = tail.call_module(str(layer.target), tuple(items))
    copies[layer] = value
    _copy_nodes(behind, tail, copies)
    return tail


def _copy_nodes(nodes: Iterable[fx.Node], graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
