r"""A layer of a network: its activation, and the rest of the network behind it (section 5).

:class:`LayerTail` runs the model once, keeps the activation :math:`\Phi_l(x)` of the layer, and is from then on the
function :math:`\Phi_{l+}` from activations to outputs. Where torch.fx can split the network at the layer, what comes
before it is computed once; elsewhere the whole model runs, and a hook puts the activation in the layer's place.

Shapes: N images; activations (N, ...); R copies of the images as rows (R N, ...), one copy after another.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import scatter

from captum_extremal._captum import repeat_arguments, run_forward
from captum_extremal._state import ForwardPrecision
from captum_extremal.hooks import on_input, on_output, uncompiled, unwrap
from captum_extremal.objective import raise_hint_of_batch

Tensors = tuple[Tensor, ...]


def check_layer(forward_func: Callable[..., Any], layer: object) -> None:
    """What can be said of a layer before the model runs.

    Raises:
        TypeError: it is no module.
        ValueError: ``forward_func`` is a module, and this layer is no part of it.
    """
    if not isinstance(layer, nn.Module):
        raise TypeError(
            f"layer must be a torch.nn.Module of the model, got {layer!r} of type {type(layer).__name__}: "
            "model.get_submodule(name) finds one by its name"
        )
    if isinstance(forward_func, nn.Module) and not any(module is layer for module in forward_func.modules()):
        raise ValueError(f"layer must be a part of the model, got a {type(layer).__name__} that is none of its modules")


def name_of(forward_func: Callable[..., Any], layer: nn.Module) -> str:
    """The layer's name in the model where it can be found, and its class."""
    model = unwrap(forward_func)
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    found = [name for name, module in modules if module is layer and name]
    return " ".join([*found[:1], type(layer).__name__])


class LayerTail:
    """The rest of a model behind one of its layers: from activations of the layer to the model's output.

    Args:
        forward_func: the model or a function that calls it.
        layer: one of its modules.
        inputs: the model's input tensors, each with N rows.
        additional_forward_args: as Captum takes them.
        to_input: stand at the layer's input instead of its output.
        device_ids: of a ``DataParallel`` model, in the order in which it splits the batch.
        caller: the autocast state in which the activation is computed; None for the present one.

    Attributes:
        activation: the layer's tensors, each with N rows, detached.
        is_split: whether only what stands behind the layer runs.

    Raises:
        TypeError: the layer's output holds no tensors, or not only tensors.
        ValueError: the model does not call the layer, or calls it more than once; an activation does not have a row an
            image.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module,
        inputs: Tensors,
        additional_forward_args: object = None,
        to_input: bool = False,
        device_ids: list[int] | None = None,
        caller: ForwardPrecision | None = None,
    ) -> None:
        self._forward_func = uncompiled(forward_func)
        self._layer = layer
        self._inputs = inputs
        self._arguments = additional_forward_args
        self._to_input = to_input
        self._hook = on_input if to_input else on_output
        self._device_ids = device_ids or list(getattr(forward_func, "device_ids", None) or [])
        self._copies = _Copies(inputs, additional_forward_args)
        self._caller = caller or ForwardPrecision(inputs[0].device)
        with torch.no_grad(), self._caller.forward():
            value, output = self._capture()
            self._pattern, self.activation = _take_apart(value, len(inputs[0]), to_input)
            self._split = self._try_split(output)
        self.is_split = self._split is not None

    def __call__(self, *activation: Tensor) -> Any:
        """The model's output for activations (R N, ...) in the place of the layer's own.

        They may be overwritten by layers that work in place, so copies are handed on.
        """
        repeats = len(activation[0]) // len(self._inputs[0])
        value = self._pattern(tuple(tensor.clone() for tensor in activation))
        if self._split is not None:
            return self._split(value, repeats)
        return self._through_hook(value, repeats)

    def _capture(self) -> tuple[Any, Any]:
        """The layer's own output (or input) and the model's."""
        seen: dict[torch.device, Any] = {}

        def look(value: Any) -> None:
            device = _device_of(value)
            if device in seen:
                raise ValueError("layer must be called once in a forward of the model, but was called again")
            seen[device] = _map_tensors(value, lambda tensor: tensor.detach().clone())

        with self._hook(self._layer, look):
            try:
                output = run_forward(self._forward_func, self._inputs, None, self._arguments)
            except RuntimeError as error:
                raise_hint_of_batch(self._inputs[0], error)
                raise
        if not seen:
            raise ValueError(f"layer must be called by the model, but its {type(self._layer).__name__} was not")
        return _gathered(seen, self._device_ids), output

    def _through_hook(self, value: Any, repeats: int) -> Any:
        pieces = {_device_of(value): value}
        if len(self._device_ids) > 1:
            pieces = {_device_of(piece): piece for piece in scatter(value, self._device_ids)}
        with self._hook(self._layer, lambda value: pieces[_device_of(value)]):
            inputs, arguments = self._copies(repeats)
            return run_forward(self._forward_func, inputs, None, arguments)

    def _try_split(self, output: Any) -> _Split | None:
        """The split model, if it gives the outputs of the whole: for the activation as it is, and halved."""
        model = self._forward_func
        while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) and len(self._device_ids) <= 1:
            model = model.module
        if not isinstance(model, nn.Module) or model.training or not isinstance(output, Tensor):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                split = _Split(model, self._layer, self._to_input, self._copies, self._caller)
            whole, half = self._pattern(self.activation), self._pattern(tuple(0.5 * x for x in self.activation))
            same = _same(output, split.first(_map_tensors(whole, torch.clone)))
            # Whatever reaches the output past the graph, such as what a hook stored, would not be halved.
            expected = self._through_hook(_map_tensors(half, torch.clone), 1)
            return split if same and _same(expected, split(half, 1)) else None
        except Exception:  # whatever a stranger's model does while it is traced: the hook remains
            return None


class _Copies:
    """R copies of a batch and of its additional arguments; those of the last R are kept."""

    def __init__(self, inputs: Tensors, arguments: object) -> None:
        self._batch = (inputs, arguments)
        self._last: tuple[int, tuple[Tensors, Any]] = (1, self._batch)

    def __call__(self, repeats: int) -> tuple[Tensors, Any]:
        if repeats != self._last[0]:
            inputs, arguments = self._batch
            copies = tuple(x.repeat(repeats, *[1] * (x.dim() - 1)) for x in inputs)
            self._last = (repeats, (copies, repeat_arguments(arguments, repeats)))
        return self._last[1]


# What a layer hands on: a tensor, or a tuple of tensors between which there may be None


@dataclass(frozen=True)
class _Pattern:
    """How the tensors of a layer stand in what it hands on."""

    container: type | None  # of several things; None for a bare tensor
    is_tensor: tuple[bool, ...]

    def __call__(self, tensors: Tensors) -> Any:
        if self.container is None:
            return tensors[0]
        rest = iter(tensors)
        return self.container(next(rest) if is_tensor else None for is_tensor in self.is_tensor)


def _take_apart(value: Any, images: int, to_input: bool) -> tuple[_Pattern, Tensors]:
    name = "the layer's input" if to_input else "the layer's output"
    container = type(value) if type(value) in (tuple, list) else None
    parts = value if container else (value,)
    if not all(isinstance(part, Tensor) or (container and part is None) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(f"{name} must be a tensor or a tuple of tensors, got {kinds}: choose a layer inside of it")
    tensors = tuple(part for part in parts if part is not None)
    if not tensors:
        raise TypeError(f"{name} must hold a tensor, got {value!r}")
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating tensor, got {tensor.dtype}")
        if tensor.dim() < 2 or len(tensor) != images:
            raise ValueError(
                f"{name} must have a row for each of {images} images and at least one more dimension, "
                f"got shape {tuple(tensor.shape)}"
            )
    return _Pattern(container, tuple(part is not None for part in parts)), tensors


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(_map_tensors(part, function) for part in value)
    return value


def _device_of(value: Any) -> torch.device:
    if isinstance(value, Tensor):
        return value.device
    tensors = [part for part in value if isinstance(part, Tensor)] if isinstance(value, (tuple, list)) else []
    return tensors[0].device if tensors else torch.device("cpu")


def _gathered(seen: dict[torch.device, Any], device_ids: list[int]) -> Any:
    """One value from those of several devices, in the order in which the batch was split."""
    if len(seen) == 1:
        return next(iter(seen.values()))
    parts = [seen[torch.device("cuda", index)] for index in device_ids if torch.device("cuda", index) in seen]
    if isinstance(parts[0], Tensor):
        return torch.cat([part.to(parts[0].device) for part in parts])
    columns = ([part for part in column if part is not None] for column in zip(*parts))
    return type(parts[0])(torch.cat([p.to(c[0].device) for p in c]) if c else None for c in columns)


# The split


class _LayerIsOneNode(fx.Tracer):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """The layer is not looked into, nor are modules with hooks, which would see the tracer's stand-ins."""
        return m is self._layer or _is_hooked(m) or super().is_leaf_module(m, module_qualified_name)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Split:
    """A model in two parts: the head, run once for each number of copies, and the tail behind the layer.

    Raises:
        Exception: of any kind, if torch.fx cannot follow the model or does not find the layer in it exactly once.
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module, to_input: bool, copies: _Copies, caller: ForwardPrecision
    ) -> None:
        self._copies, self._caller = copies, caller
        twin, twin_layer = _twin(model, layer)
        graph = _LayerIsOneNode(twin_layer).trace(twin, _not_given(twin, *copies(1)))
        (node,) = (n for n in graph.nodes if n.op == "call_module" and twin.get_submodule(str(n.target)) is twin_layer)
        behind = _behind(graph, node)
        boundary = _boundary(graph, behind, node)
        self._head = fx.GraphModule(twin, _head_graph(graph, boundary))
        self._tail = fx.GraphModule(twin, _tail_graph(graph, behind, boundary, node, to_input))
        self._overwritten = (False,) * len(boundary)
        self._needed: dict[int, tuple[Any, ...]] = {}

    def __call__(self, value: Any, repeats: int) -> Any:
        needed = self._at_boundary(repeats)
        return self._tail(value, *(x.clone() if again else x for x, again in zip(needed, self._overwritten)))

    def first(self, value: Any) -> Any:
        """The output for one copy; from then on it is known what the tail overwrites and must be given anew."""
        needed = self._at_boundary(1)
        before = [_version(x) for x in needed]
        output = self._tail(value, *needed)
        self._overwritten = tuple(_version(x) != version for x, version in zip(needed, before))
        self._needed.clear()
        return output

    def _at_boundary(self, repeats: int) -> tuple[Any, ...]:
        """What the tail needs from before the layer, for so many copies of the batch."""
        if self._overwritten and repeats not in self._needed:
            inputs, arguments = self._copies(repeats)
            with torch.no_grad(), self._caller.forward():
                self._needed[repeats] = self._head(*inputs, *_as_tuple(arguments))
        return self._needed.get(repeats, ())


def _version(value: Any) -> int | None:
    """How often a tensor was written to."""
    return value._version if isinstance(value, Tensor) else None


def _not_given(model: nn.Module, inputs: Tensors, arguments: Any) -> dict[str, Any]:
    """The model's arguments that keep their defaults, so that what it asks of them is known to the tracer."""
    parameters = list(inspect.signature(model.forward).parameters.values())[len(inputs) + len(_as_tuple(arguments)) :]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _as_tuple(arguments: Any) -> tuple[Any, ...]:
    if arguments is None:
        return ()
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _twin(model: nn.Module, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A copy of the model that shares its parameters and buffers: tracing leaves nothing behind in the model."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    name = next(name for name, module in model.named_modules() if module is layer)
    twin = copy.deepcopy(model, cast(dict[int, Any], shared))
    return twin, twin.get_submodule(name)


def _behind(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    """The layer's node and all that depend on it."""
    behind = {node}
    for other in graph.nodes:
        if not behind.isdisjoint(other.all_input_nodes):
            behind.add(other)
    return behind


def _boundary(graph: fx.Graph, behind: set[fx.Node], layer: fx.Node) -> list[fx.Node]:
    """What the nodes behind the layer need from before it, other than what the layer hands on."""
    needed = (source for node in graph.nodes if node in behind - {layer} for source in node.all_input_nodes)
    return [node for node in dict.fromkeys(needed) if node not in behind]


def _head_graph(graph: fx.Graph, boundary: list[fx.Node]) -> fx.Graph:
    """All that the boundary needs; the model's inputs stay, so that it is called as before."""
    wanted = set(boundary)
    for node in reversed(graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    head, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node in wanted or node.op == "placeholder":
            copies[node] = head.node_copy(node, copies.__getitem__)
    head.output(tuple(copies[node] for node in boundary))
    return head


def _tail_graph(
    graph: fx.Graph, behind: set[fx.Node], boundary: list[fx.Node], layer: fx.Node, to_input: bool
) -> fx.Graph:
    tail = fx.Graph()
    value = tail.placeholder("activation")
    copies = {node: tail.placeholder(f"needed_{k}") for k, node in enumerate(boundary)}
    for node in (node for node in graph.nodes if node in behind):
        if node is not layer:
            copies[node] = tail.node_copy(node, copies.__getitem__)
        elif not to_input:
            copies[node] = value
        else:
            copies[node] = _call_again(tail, node, value)
    return tail


def _call_again(tail: fx.Graph, layer: fx.Node, value: fx.Node) -> fx.Node:
    """The layer on other positional arguments."""
    if layer.kwargs:
        raise ValueError("the layer has keyword arguments")
    count = len(layer.args)
    given = (value,) if count == 1 else tuple(tail.call_function(_item, (value, k)) for k in range(count))
    return tail.call_module(str(layer.target), given)


def _item(values: Mapping[int, Any], index: int) -> Any:
    return values[index]


def _same(expected: Tensor, found: Any) -> bool:
    if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(expected.dtype, 1e-2)
    return bool(torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())))
