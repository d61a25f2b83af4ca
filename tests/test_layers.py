"""The rest of a network behind a layer, against hooks written here: values, gradients, and what is run for them."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_extremal import LayerExtremalPerturbation, PathSolver, PenaltySolver
from captum_extremal.layers import LayerTail, activations, check_layer, name_of

N, K = 2, 6
SOLVER = PathSolver(steps=6)


class Network(nn.Module):
    """Two convolutions and a read-out; ``form`` says what happens around the second, the layer under test."""

    def __init__(self, form: Callable[..., Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, K, 3, padding=1)
        self.layer = nn.Conv2d(K, K, 3, padding=1)
        self.shift = nn.Parameter(torch.randn(K, 1, 1))
        self.head = nn.LazyLinear(4)
        self.form = form
        self.history: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.form(self, torch.tanh(self.stem(x))))


def pooled(h: Tensor) -> Tensor:
    return torch.tanh(h).mean((2, 3))


def residual(net: Network, h: Tensor) -> Tensor:
    return pooled(F.relu(net.layer(h)) + h)


def relu_in_place(net: Network, h: Tensor) -> Tensor:
    return pooled(F.relu_(net.layer(h)))


def sum_in_place(net: Network, h: Tensor) -> Tensor:
    return pooled(h.add_(net.layer(h)))


def copied_in_place(net: Network, h: Tensor) -> Tensor:
    """Each time it writes the same, but into a tensor that has the last step's graph."""
    return pooled(torch.zeros_like(h).copy_(net.layer(h)) * h)


def dense(net: Network, h: Tensor) -> Tensor:
    return pooled(torch.cat([h, net.layer(h), 2 * h], dim=1))


def chunks(net: Network, h: Tensor) -> Tensor:
    return pooled(torch.cat([net.layer(h), h.chunk(2, dim=1)[1]], dim=1))


def reshaped(net: Network, h: Tensor) -> Tensor:
    rows = h.shape[0]
    return torch.tanh(net.layer(h).reshape(rows, -1))


def with_parameters(net: Network, h: Tensor) -> Tensor:
    return pooled(net.layer(h) * net.shift)


def storing(net: Network, h: Tensor) -> Tensor:
    net.features = net.layer(h)
    net.history.append(net.features.detach())
    return pooled(net.features + h)


def dropped_in_place(net: Network, h: Tensor) -> Tensor:
    h.relu_()
    return pooled(net.layer(h) + h)


def branching(net: Network, h: Tensor) -> Tensor:
    return pooled(net.layer(h) if float(h.detach().sum()) > -1e9 else h)


FORMS = {  # and whether torch.fx can split the network there
    residual: True,
    relu_in_place: True,
    sum_in_place: True,
    copied_in_place: True,
    dense: True,
    chunks: True,
    reshaped: True,
    with_parameters: True,
    storing: True,
    dropped_in_place: False,
    branching: False,
}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, 3, 6, 5, dtype=torch.float64)


def network(form: Callable[..., Tensor]) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = Network(form).double().eval()
        net(torch.zeros(1, 3, 6, 5, dtype=torch.float64))
        nn.init.normal_(net.head.weight)
        nn.init.normal_(net.layer.weight, std=0.3)
    return net


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__)
def form(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    return request.param


@contextmanager
def replacing(layer: nn.Module, function: Callable[[Tensor], Tensor], to_input: bool = False) -> Iterator[None]:
    """A literal hook: the layer hands on (or is given) a function of what it would be."""
    if to_input:
        handle = layer.register_forward_pre_hook(lambda module, args: (function(args[0]), *args[1:]))
    else:
        handle = layer.register_forward_hook(lambda module, args, output: function(output))
    try:
        yield
    finally:
        handle.remove()


def literal(net: nn.Module, x: Tensor, masks: Tensor, to_input: bool = False) -> Tensor:
    """Equation 9's Phi for rows of masks (R N, K), by the whole network on R copies of the images."""
    with replacing(net.layer, lambda value: value.clone() * masks[:, :, None, None], to_input):
        return net(x.repeat(len(masks) // len(x), 1, 1, 1))


@pytest.mark.parametrize("to_input", [False, True], ids=["output", "input"])
def test_tail_is_the_network_with_a_hook_in_values_and_gradients(
    form: Callable[..., Tensor], x: Tensor, to_input: bool
) -> None:
    net = network(form)
    tail = LayerTail(net, net.layer, (x,), to_input=to_input)
    assert tail.is_split is FORMS[form]
    assert (tail.not_split is None) is FORMS[form]
    (activation,) = tail.activation
    for copies in (1, 3, 1, 2, 2):
        masks = torch.rand(copies * N, K, dtype=torch.float64, requires_grad=True)
        found = tail(activation.repeat(copies, 1, 1, 1) * masks[:, :, None, None])
        expected = literal(net, x, masks, to_input)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        weights = torch.randn_like(found)
        gradients = [torch.autograd.grad((output * weights).sum(), masks)[0] for output in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
        assert float(gradients[0].abs().max()) > 1e-3


@pytest.mark.parametrize("to_input", [False, True], ids=["output", "input"])
def test_activation_is_what_the_layer_hands_on(form: Callable[..., Tensor], x: Tensor, to_input: bool) -> None:
    net = network(form)
    seen: list[Tensor] = []
    with replacing(net.layer, lambda value: seen.append(value.clone()) or value, to_input):
        net(x)
    (activation,) = LayerTail(net, net.layer, (x,), to_input=to_input).activation
    assert torch.equal(activation, seen[0])
    assert not activation.requires_grad


@pytest.mark.parametrize("form", [residual, sum_in_place, reshaped], ids=lambda form: form.__name__)
def test_activation_is_not_written_to(form: Callable[..., Tensor], x: Tensor) -> None:
    net = network(relu_in_place)
    for forward in (net, lambda x: net(x)):
        tail = LayerTail(forward, net.layer, (x,))
        (activation,) = tail.activation
        before = activation.clone()
        tail(activation)
        assert torch.equal(activation, before)
        assert bool((before < 0).any())


@pytest.mark.parametrize("game", ["preserve", "delete", "hybrid", "penalty"])
def test_masks_are_the_same_whatever_is_run(form: Callable[..., Tensor], x: Tensor, game: str) -> None:
    net = network(form)
    how: dict[str, Any] = {"game": game, "solver": SOLVER}
    if game == "penalty":
        how = {"solver": PenaltySolver(steps=4, flip=False, dampening=0.0)}
    split, whole, one_by_one = (
        LayerExtremalPerturbation(forward, net.layer).extremal_masks(
            x, target=[1, 2], areas=(1, 3, 6), perturbations_per_eval=at_once, **how
        )
        for forward, at_once in ((net, None), (lambda x: net(x), None), (net, 1))
    )
    assert split.settings["runs"] == ("tail" if FORMS[form] else "model")
    assert whole.settings["runs"] == "model"
    for other in (whole, one_by_one):
        torch.testing.assert_close(split.masks, other.masks, rtol=0, atol=1e-6)
        torch.testing.assert_close(split.scores, other.scores, rtol=0, atol=1e-10)
        torch.testing.assert_close(split.complement_scores, other.complement_scores, rtol=0, atol=1e-10)


def count_calls(module: nn.Module) -> list[int]:
    """The rows of each call of a module from now on."""
    rows: list[int] = []
    module.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    return rows


@pytest.mark.parametrize(
    ("form", "calls"),
    [(residual, (3, 2, 3)), (with_parameters, (2, 2, 3)), (branching, (1, 1, 1))],
    ids=["residual", "with parameters", "branching"],
)
def test_construction_runs_the_model_twice_and_its_two_parts_once(
    form: Callable[..., Tensor], calls: tuple[int, ...], x: Tensor
) -> None:
    """The activation is taken from one run; another, of half the activation, is what the parts must agree with."""
    net = network(form)
    counted = [count_calls(module) for module in (net.stem, net.layer, net.head)]
    LayerTail(net, net.layer, (x,))
    assert tuple(map(len, counted)) == calls


def test_split_network_runs_what_stands_before_the_layer_once_for_each_number_of_copies(x: Tensor) -> None:
    net = network(residual)
    before, layer, behind = (count_calls(module) for module in (net.stem, net.layer, net.head))
    tail = LayerTail(net, net.layer, (x,))
    assert tail.is_split
    for rows in (before, layer, behind):
        rows.clear()
    (activation,) = tail.activation
    for copies in (1, 2, 1, 2, 3, 3, 1):
        tail(activation.repeat(copies, 1, 1, 1))
    assert before == [2 * N, 3 * N]  # and one copy while it was looked at
    assert layer == []
    assert behind == [N, 2 * N, N, 2 * N, 3 * N, 3 * N, N]


def test_split_network_without_a_way_around_the_layer_never_runs_what_stands_before(x: Tensor) -> None:
    net = network(with_parameters)
    before = count_calls(net.stem)
    tail = LayerTail(net, net.layer, (x,))
    before.clear()
    tail(tail.activation[0].repeat(4, 1, 1, 1))
    assert before == []


@pytest.mark.parametrize("at_once", [None, 2])
def test_search_runs_the_layers_behind_alone(x: Tensor, at_once: int | None) -> None:
    net = network(residual)
    before, behind = count_calls(net.stem), count_calls(net.head)
    LayerExtremalPerturbation(net, net.layer).extremal_masks(
        x, target=1, areas=(1, 3, 6), solver=PenaltySolver(steps=40, flip=False), perturbations_per_eval=at_once
    )
    assert len(behind) >= 40
    assert len(before) <= 8


def test_whole_model_runs_the_layer_in_every_step(x: Tensor) -> None:
    net = network(branching)
    before = count_calls(net.stem)
    LayerExtremalPerturbation(net, net.layer).attribute(x, target=1, areas=(1, 3, 6), solver=PathSolver(steps=30))
    assert len(before) >= 30


def test_deeper_and_outer_layers_are_split_too(x: Tensor) -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))
    net = net.double().eval()
    for layer in (net[0], net[0][0], net[0][1], net[1], net[1][0], net[1][1]):
        tail = LayerTail(net, layer, (x,))
        assert tail.is_split
        torch.testing.assert_close(tail(*tail.activation), net(x), rtol=0, atol=1e-12)
    whole = LayerTail(net, net, (x,))
    assert torch.equal(whole(2 * net(x)), 2 * net(x))


# Networks that are called in other ways


class Flagged(nn.Module):
    """Its way depends on arguments that are no tensors, or have defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, K), nn.Linear(K, 3)

    def forward(self, x: Tensor, scale: Tensor | None = None, double: bool = False, *, shift: float = 0.0) -> Tensor:
        h = self.layer(x)
        if scale is not None:
            h = h * scale
        if double:
            h = 2 * h
        return self.head(torch.tanh(h + shift))


@pytest.mark.parametrize(
    ("arguments", "is_split"),
    [(None, True), (torch.full((N, 1), 0.5), True), ((torch.full((N, 1), 0.5), True), False)],
    ids=["none", "one", "both"],
)
def test_arguments_with_defaults_do_not_stand_in_the_splits_way(arguments: Any, is_split: bool) -> None:
    net, x = Flagged().eval(), torch.randn(N, 4)
    tail = LayerTail(net, net.layer, (x,), arguments)
    assert tail.is_split is is_split
    values = torch.randn(3 * N, K)
    given = arguments if isinstance(arguments, tuple) else (arguments,)
    given = [part.repeat(3, 1) if isinstance(part, Tensor) else part for part in given]
    with replacing(net.layer, lambda output: values):
        expected = net(x.repeat(3, 1), *given)
    torch.testing.assert_close(tail(values), expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: lambda x: net(x),
        functools.partial,
        nn.DataParallel,
        lambda net: nn.Sequential(net).eval(),
        lambda net: nn.DataParallel(nn.Sequential(net).eval()),
        lambda net: net.forward,
    ],
    ids=["lambda", "partial", "data parallel", "module", "data parallel module", "method"],
)
def test_wrapped_network_is_the_network(x: Tensor, wrap: Callable[[nn.Module], Any]) -> None:
    net = network(residual)
    masks = torch.rand(2 * N, K, dtype=torch.float64)
    wrapped = wrap(net)
    tail = LayerTail(wrapped, net.layer, (x,))
    found = tail(tail.activation[0].repeat(2, 1, 1, 1) * masks[:, :, None, None])
    torch.testing.assert_close(found, literal(net, x, masks), rtol=0, atol=1e-12)
    assert tail.is_split is isinstance(wrapped, nn.Module)


@pytest.fixture
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_nothing_compiled")
@pytest.mark.parametrize("kind", ["compiled", "lambda", "part", "in place"])
def test_compiled_network_is_the_network(x: Tensor, kind: str) -> None:
    if kind != "compiled" and not hasattr(torch.compiler, "set_stance"):
        pytest.skip("before PyTorch 2.6, parts that are compiled do not notice hooks")
    net = network(residual)
    masks = torch.rand(2 * N, K, dtype=torch.float64)
    expected = literal(net, x, masks)
    compile_it = functools.partial(torch.compile, backend="aot_eager")
    if kind == "in place":
        net.compile(backend="aot_eager")
        forward: Any = net
    elif kind == "part":
        forward = nn.Sequential(compile_it(net)).eval()
    else:
        compiled = compile_it(net)
        forward = compiled if kind == "compiled" else lambda x: compiled(x)
    with torch.no_grad():
        forward(x)  # compiled before there is a hook, which such a network need not notice
        tail = LayerTail(forward, net.layer, (x,))
        found = tail(tail.activation[0].repeat(2, 1, 1, 1) * masks[:, :, None, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert tail.is_split is (kind in ("compiled", "in place"))


def test_values_of_several_devices_are_gathered_in_the_order_of_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "gather", lambda values, device: (values, device))  # DataParallel's own
    first, second, unused = (torch.device("cuda", index) for index in (1, 0, 2))
    seen = {second: "two", first: "one"}
    assert activations.gathered(seen, [1, 0, 2]) == (["one", "two"], first)
    assert activations.gathered({unused: "one"}, [1, 0, 2]) == "one"


# Layers that hand on several tensors


class Several(nn.Module):
    def __init__(self, container: type, gap: bool) -> None:
        super().__init__()
        self.container, self.gap = container, gap

    def forward(self, h: Tensor, other: Tensor | None = None) -> Any:
        parts = [h + 1, None, h[:, :2] * 2] if self.gap else [h + 1, h[:, :2] * 2]
        return self.container(parts)


class OfSeveral(nn.Module):
    def __init__(self, container: type = tuple, gap: bool = False) -> None:
        super().__init__()
        self.layer, self.head = Several(container, gap), nn.Linear(K + 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.layer(torch.sin(x), torch.cos(x))
        return self.head(torch.tanh(torch.cat([parts[0], parts[-1]], dim=1)))


@pytest.mark.parametrize("wrapped", [False, True], ids=["split", "hook"])
@pytest.mark.parametrize(("container", "gap"), [(tuple, False), (tuple, True), (list, False)])
def test_layers_of_several_tensors_are_replaced_as_a_whole(container: type, gap: bool, wrapped: bool) -> None:
    net, x = OfSeveral(container, gap).double().eval(), torch.randn(N, K, dtype=torch.float64)
    tail = LayerTail((lambda x: net(x)) if wrapped else net, net.layer, (x,))
    assert tail.is_split is not wrapped
    assert [tuple(part.shape) for part in tail.activation] == [(N, K), (N, 2)]
    one, two = torch.randn(2 * N, K, dtype=torch.float64), torch.randn(2 * N, 2, dtype=torch.float64)
    torch.testing.assert_close(tail(one, two), net.head(torch.tanh(torch.cat([one, two], dim=1))), rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrapped", [False, True], ids=["split", "hook"])
def test_inputs_of_a_layer_of_several_are_replaced_as_a_whole(wrapped: bool) -> None:
    net, x = OfSeveral().double().eval(), torch.randn(N, K, dtype=torch.float64)
    tail = LayerTail((lambda x: net(x)) if wrapped else net, net.layer, (x,), to_input=True)
    assert tail.is_split is not wrapped
    torch.testing.assert_close(tail.activation, (x.sin(), x.cos()))
    one, two = torch.randn(2, 2 * N, K, dtype=torch.float64)
    expected = net.head(torch.tanh(torch.cat([one + 1, 2 * one[:, :2]], dim=1)))
    torch.testing.assert_close(tail(one, two), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrapped", [False, True], ids=["split", "hook"])
def test_input_that_is_one_tuple_stays_one(wrapped: bool) -> None:
    class Sum(nn.Module):
        def forward(self, parts: tuple[Tensor, Tensor]) -> Tensor:
            return parts[0] + 2 * parts[1]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Sum()

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.layer((x, x.sin())))

    net, x = Net().eval(), torch.randn(N, K)
    tail = LayerTail((lambda x: net(x)) if wrapped else net, net.layer, (x,), to_input=True)
    one, two = torch.randn(2, 2 * N, K)
    torch.testing.assert_close(tail(one, two), torch.tanh(one + 2 * two))


# What is refused


class Handing(nn.Module):
    """Hands on whatever its function makes of the input."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "error", "named"),
    [
        (lambda x: {"features": x}, TypeError, "must be a tensor or a tuple of tensors, got dict"),
        (lambda x: (x, "text"), ValueError, r"must depend .*, at \(0,\) .* \[1\] str: choose a layer behind"),
        (lambda x: (x, (x, x)), ValueError, r"\[1\] tuple of torch.float32 \(2, 6\), torch.float32 \(2, 6\)"),
        (lambda x: (x.T[None], x.T), TypeError, r"\[1\] torch.float32 \(6, 2\): choose a layer inside"),
        (lambda x: (x.T, (x, x)), TypeError, r"\[0\] torch.float32 \(6, 2\), .* batch_first=True"),
        (lambda x: None, TypeError, "got NoneType"),
        (lambda x: (None, None), TypeError, "must hold a tensor of floats, .*, got \\(None, None\\)"),
        (lambda x: (), TypeError, r"must hold a tensor of floats, .*, got \(\)"),
        (lambda x: x.argmax(1, keepdim=True), TypeError, "floating tensor, got torch.int64"),
        (lambda x: x.sum(1), ValueError, r"got shape \(2,\)"),
        (lambda x: x.sum(), ValueError, r"got shape \(\)"),
        (lambda x: x.mean(0, keepdim=True), ValueError, r"row for each of 2 images .* got shape \(1, 6\)"),
        (lambda x: (x, x.T), ValueError, r"must depend .* \[1\] torch.float32 \(6, 2\)"),
    ],
)
def test_layers_that_hand_on_something_else_are_refused(
    function: Callable[[Tensor], Any], error: type[Exception], named: str
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = Handing(function), nn.Linear(K, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.layer(x)
            return self.head(x)

    net = Net().eval()
    with pytest.raises(error, match=named):
        LayerTail(net, net.layer, (torch.randn(N, K),))
    assert not net.layer._forward_hooks


class Calling(nn.Module):
    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.times = nn.Linear(K, K), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x)
        return x


@pytest.mark.parametrize(("times", "named"), [(0, "must be called by the model"), (2, "must be called once")])
@pytest.mark.parametrize("to_input", [False, True], ids=["output", "input"])
def test_layers_must_be_called_once(times: int, named: str, to_input: bool) -> None:
    net = Calling(times).eval()
    for forward in (net, lambda x: net(x)):
        with pytest.raises(ValueError, match=named):
            LayerTail(forward, net.layer, (torch.randn(N, K),), to_input=to_input)
        assert not net.layer._forward_hooks
        assert not net.layer._forward_pre_hooks


def test_check_layer_names_what_is_wrong() -> None:
    net = network(residual)
    for good in (net, nn.DataParallel(net), lambda x: net(x), nn.Sequential(net)):
        check_layer(good, net.layer)
    with pytest.raises(ValueError, match="must be a part of the model, got a Linear"):
        check_layer(net, nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"swapped: got the layer \w+ as forward_func, and the \w+ that holds it"):
        check_layer(net.layer, net)
    for bad in ("layer", None, nn.Linear, [net.layer]):
        with pytest.raises(TypeError, match=r"layer must be a torch\.nn\.Module"):
            check_layer(net, bad)


class Holder:
    """Calls a model from a method."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


COMPILE = functools.partial(torch.compile, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        nn.DataParallel,
        COMPILE,
        lambda net: nn.DataParallel(COMPILE(net)),
        lambda net: lambda x: net(x),
        lambda net: functools.partial(net),
        lambda net: net.forward,
        lambda net: Holder(net).forward,
        lambda net: Holder(nn.DataParallel(COMPILE(net))).forward,
    ],
    ids=["module", "parallel", "compiled", "both", "closure", "partial", "method", "holder", "holder of both"],
)
def test_layers_have_names_in_wrapped_models(wrap: Callable[[nn.Module], Any]) -> None:
    net = network(residual)
    assert name_of(wrap(net), net.layer) == "layer Conv2d"
    outer = nn.Sequential(nn.Identity(), net)
    assert name_of(wrap(outer), net.layer) == "1.layer Conv2d"


def test_layers_without_a_name_have_their_class() -> None:
    net = network(residual)
    assert name_of(net, net) == "Network"
    assert name_of(lambda x: x, net.layer) == "Conv2d"
    layer = net.layer
    assert name_of(lambda x: layer(x), layer) == "Conv2d"
    assert name_of(lambda x: net(layer(x)), layer) == "layer Conv2d"


# Why a model is not split


class Within(nn.Module):
    """Calls its layer in a way of its own."""

    def __init__(self, way: Callable[[nn.Module, Tensor], Any], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.way = layer or nn.Linear(K, K), way
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.way(self.layer, x)


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


def not_copied() -> nn.Module:
    net = Within(plain)
    net.lock = threading.Lock()
    return net


class Announced(Within):
    """Keeps a list of the classes derived from it."""

    known: ClassVar[list[type]] = []

    def __init_subclass__(cls) -> None:
        cls.known.append(cls)


def hidden() -> nn.Module:
    net, layer = Within(lambda layers, x: layers[0](x)), nn.Linear(K, K)
    del net.layer
    net.layer = [layer]  # which is no module of the model
    return net


def hooked() -> nn.Module:
    net = nn.Sequential(Within(plain)).eval()
    net[0].register_forward_hook(lambda module, arguments, output: None)
    return net


def proxies_fail(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x) if isinstance(x, Tensor) else layer(x).no_such_method()


REASONS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "the model runs on several devices": (lambda: Within(plain), {"device_ids": [0, 1]}),
    "the model is in train mode": (lambda: nn.Sequential(Within(plain), nn.Dropout()), {}),
    "torch.fx cannot split the model: TypeError: model must be one that copy.deepcopy copies": (not_copied, {}),
    "Announced wants to know of its subclasses": (lambda: nn.Sequential(Announced(plain)).eval(), {}),
    "the layer is none of the model's modules": (hidden, {}),
    "torch.fx cannot split the model: TraceError: symbolically traced variables cannot be used": (
        lambda: Within(lambda layer, x: layer(x) if x.sum() < 99 else x),
        {},
    ),
    "torch.fx does not look into the module that calls the layer": (hooked, {}),
    "the layer is called with keyword arguments": (
        lambda: Within(lambda layer, x: layer(x, other=x)[0], Several(tuple, gap=False)),
        {"to_input": True},
    ),
    "torch.fx cannot split the model: AttributeError: 'Tensor' object has no attribute 'no_such_method'": (
        lambda: Within(proxies_fail),
        {},
    ),
    "the model's output is not one tensor": (lambda: Within(lambda layer, x: (layer(x), x)), {}),
    "the split model gives other outputs": (lambda: Within(lambda layer, x: (x.relu_(), layer(x) + x)[1]), {}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_tail_says_why_the_model_is_not_split(reason: str) -> None:
    make, settings = REASONS[reason]
    net, x = make(), torch.randn(N, K)
    layer = net[0].layer if isinstance(net, nn.Sequential) else net.layer
    layer = layer[0] if isinstance(layer, list) else layer
    tail = LayerTail(net, layer, (x,), **settings)
    assert not tail.is_split
    assert tail.not_split is not None
    assert tail.not_split.startswith(reason)
    assert "\n" not in tail.not_split
    assert not Announced.known
    function = LayerTail(lambda x: net(x), layer, (x,), **settings)
    assert function.not_split == "forward_func is not a module"


# Nothing is left behind


def test_tracing_leaves_the_model_as_it_was(x: Tensor) -> None:
    net = network(storing)
    net(x)
    before = set(vars(net))
    tail = LayerTail(net, net.layer, (x,))
    assert tail.is_split
    tail(tail.activation[0] * 0.5)
    assert {type(value) for value in (net.features, *net.history)} == {Tensor}
    assert set(vars(net)) == before


@pytest.mark.parametrize("where", ["outer", "stem", "layer", "head"])
def test_users_hooks_see_tensors_and_survive(x: Tensor, where: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.layer = nn.Conv2d(3, K, 3), nn.Conv2d(K, K, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.stem(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer, self.head = Block(), nn.Conv2d(K, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.outer(x).tanh()).mean((2, 3))

    net = Net().double().eval()
    module = {"outer": net.outer, "stem": net.outer.stem, "layer": net.outer.layer, "head": net.head}[where]
    seen: list[type] = []
    module.register_forward_hook(lambda module, args, output: seen.append(type(output)))
    module.register_forward_pre_hook(lambda module, args: seen.append(type(args[0])))
    tail = LayerTail(net, net.outer.layer, (x,))
    assert tail.is_split is (where != "outer")  # whose hooks would see the tracer's stand-ins
    tail(tail.activation[0])
    assert set(seen) == {Tensor}
    assert len(module._forward_hooks) == len(module._forward_pre_hooks) == 1


@pytest.mark.parametrize("where", ["stem", "layer", "head", "root"])
@pytest.mark.parametrize("to_input", [False, True], ids=["output", "input"])
def test_hooks_that_change_what_passes_are_part_of_the_model(x: Tensor, where: str, to_input: bool) -> None:
    net = network(residual)
    module = net if where == "root" else getattr(net, where)
    module.register_forward_hook(lambda module, args, output: 3 * output)
    module.register_forward_pre_hook(lambda module, args: 0.5 * args[0])
    masks = torch.rand(2 * N, K, dtype=torch.float64)
    tail = LayerTail(net, net.layer, (x,), to_input=to_input)
    found = tail(tail.activation[0].repeat(2, 1, 1, 1) * masks[:, :, None, None])
    torch.testing.assert_close(found, literal(net, x, masks, to_input), rtol=0, atol=1e-12)


def test_values_that_pass_by_the_graph_are_noticed(x: Tensor) -> None:
    """A later module reads what a hook of the layer stored: the graph would hold it as a constant."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.after, self.head = nn.Conv2d(3, K, 3), nn.Identity(), nn.Conv2d(K, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.after(self.layer(x)) + stored["value"]).mean((2, 3))

    net, stored = Net().double().eval(), {}
    net.after.register_forward_hook(lambda module, args, output: stored.update(value=output.sin()))
    net(x)
    tail = LayerTail(net, net.layer, (x,))
    assert not tail.is_split
    half = 0.5 * tail.activation[0]
    torch.testing.assert_close(tail(half), net.head(half + half.sin()).mean((2, 3)), rtol=0, atol=1e-12)


def test_model_that_fails_later_loses_the_hook(x: Tensor) -> None:
    net = network(branching)
    tail = LayerTail(net, net.layer, (x,))
    assert not tail.is_split
    with pytest.raises(RuntimeError):
        tail(torch.zeros(N, K + 1, 6, 5, dtype=torch.float64))
    assert not net.layer._forward_hooks


def test_parameters_are_shared_not_copied(x: Tensor) -> None:
    net = network(residual)
    tail = LayerTail(net, net.layer, (x,))
    before = tail(tail.activation[0]).detach()
    with torch.no_grad():
        net.head.bias.add_(1)
    torch.testing.assert_close(tail(tail.activation[0]), before + 1)
    assert not any(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("wrapped", [False, True], ids=["split", "hook"])
def test_models_that_overwrite_their_inputs_get_copies(x: Tensor, wrapped: bool) -> None:
    net, before = network(residual), x.clone()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.add_(1))

    outer = Net().eval()
    tail = LayerTail((lambda x: outer(x)) if wrapped else outer, net.layer, (x,))
    assert tail.is_split is not wrapped
    for _ in range(2):
        torch.testing.assert_close(tail(*tail.activation), net(before + 1), rtol=0, atol=1e-12)
    assert torch.equal(x, before)


def test_modules_whose_train_mode_counts_are_not_split(x: Tensor) -> None:
    net = network(residual).train()
    assert LayerTail(net, net.layer, (x,)).is_split
    chance = nn.Sequential(nn.Conv2d(3, K, 3), nn.Dropout(), nn.Flatten()).double().eval()
    assert LayerTail(chance, chance[0], (x,)).is_split
    chance[1].train()
    assert not LayerTail(chance, chance[0], (x,)).is_split


def test_models_that_cannot_be_copied_are_run_whole(x: Tensor) -> None:
    net = network(residual)
    net.lock = threading.Lock()
    with pytest.raises(TypeError):
        copy.deepcopy(net)
    masks = torch.rand(N, K, dtype=torch.float64)
    tail = LayerTail(net, net.layer, (x,))
    assert not tail.is_split
    torch.testing.assert_close(tail(tail.activation[0] * masks[:, :, None, None]), literal(net, x, masks))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["layer2", "layer2.0", "layer2.0.bn1", "avgpool"]),
        ("squeezenet1_1", ["features.7", "features.7.expand1x1", "features.10.squeeze_activation"]),
        ("mobilenet_v3_small", ["features.3", "features.4.block.2", "classifier.1"]),
        ("vgg11", ["features.7", "features.8", "classifier.1"]),
    ],
)
def test_networks_of_torchvision_are_split(name: str, layers: list[str]) -> None:
    models = pytest.importorskip("torchvision.models")
    settings = {"init_weights": False} if name == "vgg11" else {}
    net = getattr(models, name)(num_classes=7, **settings).eval()
    x = torch.randn(N, 3, 64, 64)
    for layer in map(net.get_submodule, layers):
        tail = LayerTail(net, layer, (x,))
        assert tail.is_split
        (activation,) = tail.activation
        factor = torch.rand(2 * N, *activation.shape[1:])
        with replacing(layer, lambda value, factor=factor: value * factor), torch.no_grad():
            expected = net(x.repeat(2, 1, 1, 1))
            found = tail(activation.repeat(2, *[1] * (activation.dim() - 1)) * factor)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
