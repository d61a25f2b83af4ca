"""What models may do: overwrite what they are given, hide behind objects, train, share threads, checkpoint, be lazy."""

from __future__ import annotations

import functools
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Saliency
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_extremal import (
    RISE,
    ExcitationBackprop,
    ExtremalPerturbation,
    FeatureInversion,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
)
from captum_extremal._captum import own_copies
from captum_extremal._reach import constants_of, copied, modules_of, reachable
from captum_extremal.evaluation.methods import last_spatial_layer
from captum_extremal.layers import LayerTail
from captum_extremal.metrics import insertion_deletion, weight_randomisation
from captum_extremal.objectives import BoxScore

SHORT = PathSolver(steps=4, searches=1)
HOW: dict[str, Any] = {"target": 1, "areas": [0.3, 1.0], "solver": SHORT}


def small(first: nn.Module | None = None) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        layers = [first or nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
        return nn.Sequential(*layers).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 12, 12)


# Models that overwrite what they are given


class Scaled(nn.Module):
    """Works in place on its input and its further arguments, or out of place."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.body, self.in_place = small(), in_place
        self.eval()

    def forward(self, x: Tensor, *factors: Any) -> Tensor:
        scores: Tensor = self.body(x.sub_(0.5).mul_(4) if self.in_place else (x - 0.5) * 4)
        for factor in factors:
            tensor = factor[0] if isinstance(factor, list) else factor["a"] if isinstance(factor, dict) else factor
            scores = scores * (tensor.mul_(2) if self.in_place else 2 * tensor)
        return scores


def rise(model: Any) -> Callable[..., Tensor]:
    return functools.partial(RISE(model).attribute, n_samples=5)


USES: dict[str, Callable[[Scaled, Tensor], Any]] = {
    "extremal": lambda model, x: ExtremalPerturbation(model).extremal_masks(x, **HOW).scores,
    "layer": lambda model, x: (
        LayerExtremalPerturbation(model, model.body[0])
        .extremal_masks(x, target=1, areas=[2, 4], solver=SHORT)
        .complement_scores
    ),
    "layer, by a hook": lambda model, x: (
        LayerExtremalPerturbation(lambda x: model(x), model.body[0])
        .extremal_masks(x, target=1, areas=[2, 4], solver=SHORT)
        .complement_scores
    ),
    "rise": lambda model, x: RISE(model).attribute(x, target=1, n_samples=5),
    "meaningful": lambda model, x: MeaningfulPerturbation(model).attribute(x, target=1, steps=2),
    "excitation": lambda model, x: ExcitationBackprop(model, model.body[0]).attribute(x, target=1),
    "inversion": lambda model, x: FeatureInversion(model, model.body[0]).invert(x, steps=2).images,
    "insertion": lambda model, x: insertion_deletion(model, rise(model), x, [1, 1], steps=4).insertion,
    "a function that calls the model": lambda model, x: (
        insertion_deletion(model, lambda x, target: model(x)[:, :1, None] + x.mean(1), x, [1, 1], steps=4).deletion
    ),
    "randomisation": lambda model, x: weight_randomisation(model, rise, x, [1, 1], layers=["body.4"]).maps,
    "last layer": lambda model, x: len(last_spatial_layer(model, x)),
}


@pytest.mark.parametrize("use", USES)
def test_model_gets_copies_and_is_explained_as_one_out_of_place(x: Tensor, use: str) -> None:
    given = x.clone()
    found, expected = USES[use](Scaled(in_place=True), given), USES[use](Scaled(in_place=False), x)
    assert torch.equal(given, x)
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected))


@pytest.mark.parametrize("layer", [False, True], ids=["input", "layer"])
def test_further_arguments_are_copied_too(x: Tensor, layer: bool) -> None:
    further = (torch.full((2, 1), 0.5), torch.tensor(0.5), [torch.tensor(0.5)], {"a": torch.tensor(0.5)})
    found = []
    for in_place in (True, False):
        model = Scaled(in_place)
        method = LayerExtremalPerturbation(model, model.body[0]) if layer else ExtremalPerturbation(model)
        how = {**HOW, "areas": [2, 4]} if layer else HOW
        found.append(method.extremal_masks(x, additional_forward_args=further, **how))
    torch.testing.assert_close(found[0].scores, found[1].scores)
    assert [float(part.mean()) for part in (*further[:2], further[2][0], further[3]["a"])] == [0.5] * 4


def test_values_without_tensors_are_not_copied() -> None:
    values = ([1, 2], {"a": "b"}, "text", None)
    assert all(one is other for one, other in zip(own_copies(values), values))
    assert own_copies(values) is values
    nested = own_copies([(torch.ones(1), 2)])
    assert isinstance(nested[0], tuple)


def test_scores_are_kept_where_a_model_uses_its_output_again(x: Tensor) -> None:
    model, kept = small(), torch.empty(64, 3)

    def reusing(x: Tensor) -> Tensor:
        kept[: len(x)] = model(x).detach()
        return kept[: len(x)]

    expected = RISE(model).attribute(x, target=1, n_samples=6)
    torch.testing.assert_close(RISE(reusing).attribute(x, target=1, n_samples=6), expected)


# Models behind objects


class Service:
    shelf: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, x: Tensor) -> Tensor:
        return self.model(x)

    @property
    def never(self) -> None:
        raise AssertionError("looked at")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


class Slots:
    __slots__ = ("empty", "model")

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


class Ensemble(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.members = [model]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.members[0](x)


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(lambda *args: function(*args))


def unassigned(model: Any) -> Callable[..., Any]:
    def forward(x: Tensor) -> Tensor:
        return model(x) if model else never(x)

    if not model:
        never = model
    return forward


def of_a_file(model: nn.Module) -> Callable[..., Any]:
    file = types.ModuleType("users_file")
    file.net = model  # type: ignore[attr-defined]
    space: dict[str, Any] = {"file": file, "__name__": "users_script"}
    exec("def forward(x): return file.net(x)", space)
    return space["forward"]


BEHIND: dict[str, Callable[[Any], Any]] = {
    "list in a module": Ensemble,
    "function over an object": lambda model: (lambda service: lambda x: service.predict(x))(Service(model)),
    "method": lambda model: Service(model).predict,
    "object in an object": lambda model: Service(Service(model).predict).predict,
    "slots": Slots,
    "dictionary": lambda model: (lambda shelf: lambda x: shelf["now"](x))({"now": model}),
    "method of a dictionary": lambda model: (lambda get: lambda x: get("now")(x))({"now": model}.get),
    "bound method": lambda model: (lambda bound: lambda x: bound(x))(model.forward),
    "default": lambda model: lambda x, model=model: model(x),
    "partial of keywords": lambda model: functools.partial(lambda x, net: net(x), net=model),
    "weak reference": lambda model: (lambda reference: lambda x: reference()(x))(weakref.ref(model)),
    "decorator": lambda model: decorated(lambda x: model(x)),
    "cell without a value": unassigned,
    "name space": lambda model: (lambda space: lambda x: space.net(x))(types.SimpleNamespace(net=model)),
    "file": of_a_file,
    "attribute of a function": lambda model: (lambda holder: lambda x: holder.net(x))(
        type("Holder", (), {"net": model})
    ),
}


@pytest.mark.parametrize("kind", BEHIND)
def test_models_are_found_behind_anything(kind: str) -> None:
    model = small()
    assert any(module is model for root in modules_of(BEHIND[kind](model)) for module in root.modules())


net = small()  # which no function below uses


def test_attributes_are_not_taken_for_globals_of_their_name() -> None:
    model = small()
    holder = types.SimpleNamespace(net=model)
    assert modules_of(lambda x: holder.net(x)) == [model]


def test_an_assert_of_pytest_leads_nowhere() -> None:
    """As pytest rewrites it, an assert refers to the module that formats its message, and so to all of pytest."""

    def forward(x: Tensor) -> Tensor:
        assert x.dim() == 2
        return x

    assert any("pytest" in name for name in forward.__code__.co_names)
    assert len(list(reachable(forward))) < 100


def test_constants_are_those_of_functions() -> None:
    model, matrix, offset = small(), torch.eye(3), torch.ones(3)
    model.kept = torch.zeros(3)
    found = constants_of(functools.partial(lambda x, offset, matrix=matrix: model(x) @ matrix + offset, offset=offset))
    assert {id(tensor) for tensor in found} == {id(matrix), id(offset)}


# Train mode, and statistics of the batch


def normalised(**settings: Any) -> nn.Sequential:
    return small(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **settings)))


def told(forward: Callable[..., Any], x: Tensor) -> list[str]:
    """The warnings of a run, whose line is here."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        RISE(forward).attribute(x, target=1, n_samples=2)
    assert {one.filename for one in heard} <= {__file__}
    return [str(one.message) for one in heard]


@pytest.mark.parametrize("kind", BEHIND)
def test_train_mode_is_noticed_behind_anything_and_leaves_no_trace(x: Tensor, kind: str) -> None:
    model = normalised().train()
    forward = BEHIND[kind](model)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (message,) = told(forward, x)
    assert "train mode" in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


class Stochastic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Frozen(nn.BatchNorm2d):
    """Uses its running statistics in train mode too."""

    def forward(self, h: Tensor) -> Tensor:
        return F.batch_norm(h, self.running_mean, self.running_var)


QUIET: dict[str, Callable[[], Any]] = {
    "container": lambda: nn.Sequential(nn.Identity(), normalised()),
    "parallel in an object": lambda: Service(nn.DataParallel(normalised())).predict,
    "eval mode by the wrapper": lambda: (lambda model: lambda x: model.eval()(x))(normalised().train()),
    "dropout of nothing": lambda: nn.Sequential(normalised(), nn.Dropout(0.0)),
    "frozen": lambda: small(nn.Sequential(nn.Conv2d(3, 4, 3), Frozen(4))).train(),
    "one beside that is not called": lambda: (lambda models: lambda x: models[0](x))([small(), normalised().train()]),
}


@pytest.mark.parametrize("kind", QUIET)
def test_train_mode_without_effect_is_not_warned_of(x: Tensor, kind: str) -> None:
    assert told(QUIET[kind](), x) == []


def test_modules_of_the_user_that_ask_for_their_mode_are_warned_of(x: Tensor) -> None:
    assert "train mode" in told(nn.Sequential(Stochastic(), small()), x)[0]


def test_modes_are_restored_where_the_model_changes_them(x: Tensor) -> None:
    model = normalised()
    before = model[0][1].running_mean.clone()
    told(lambda x: model.train()(x), x)
    assert not any(module.training for module in model.modules())
    assert torch.equal(model[0][1].running_mean, before)


def test_buffers_that_the_model_exchanges_are_put_back(x: Tensor) -> None:
    class Exchanging(nn.BatchNorm2d):
        def forward(self, h: Tensor) -> Tensor:
            self.running_mean = self.running_mean + 1
            return super().forward(h)

    model = small(nn.Sequential(nn.Conv2d(3, 4, 3), Exchanging(4)))
    before = model[0][1].running_mean
    told(model, x)
    assert model[0][1].running_mean is before
    assert float(before.abs().max()) == 0


@pytest.mark.parametrize("kind", ["module", "function"])
def test_statistics_of_the_batch_are_warned_of_in_eval_mode(x: Tensor, kind: str) -> None:
    model = normalised(track_running_stats=False)
    (message,) = told(model if kind == "module" else lambda x: model(x), x)
    assert "statistics of each batch in eval mode" in message
    assert "perturbations_per_eval=1" in message


def test_advice_on_statistics_of_the_batch_helps(x: Tensor) -> None:
    """One image at a time, one mask at a time: the areas asked for beside do not count."""
    model = normalised(track_running_stats=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how: dict[str, Any] = {"target": 1, "perturbations_per_eval": 1, "n_samples": 3}
        assert torch.equal(RISE(model).attribute(x[:1], **how), RISE(model).attribute(x[:1], **how))
        with pytest.raises(AssertionError):
            torch.testing.assert_close(RISE(model).attribute(x, **how)[:1], RISE(model).attribute(x[:1], **how))


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="before PyTorch 2.6")
def test_train_mode_of_compiled_models_is_warned_of(x: Tensor) -> None:
    torch.compiler.reset()
    try:
        assert "train mode" in told(torch.compile(normalised().train(), backend="eager"), x)[0]
    finally:
        torch.compiler.reset()


# Threads


class Watching(nn.Module):
    """Notes how modules are called, while it is traced and while it runs."""

    noted: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.body = small()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.noted.append((isinstance(x, Tensor), nn.Module.__call__, nn.Module.__getattr__))
        return self.body(x)


def test_tracing_replaces_nothing_in_the_process(x: Tensor) -> None:
    model, ours = Watching(), (nn.Module.__call__, nn.Module.__getattr__)
    Watching.noted.clear()
    assert LayerTail(model, model.body[0], (x,)).is_split
    assert set(Watching.noted) == {(True, *ours), (False, *ours)}  # it ran, and it was traced
    assert type(model.body) is nn.Sequential


def test_neighbours_run_while_models_are_explained(x: Tensor) -> None:
    """Threads that infer with another model, and with the one that is explained, notice nothing."""
    model, other, done, wrong = small(), small(), threading.Event(), []
    how: dict[str, Any] = {"target": 1, "areas": [1, 4], "solver": SHORT}
    makers = [
        lambda: LayerExtremalPerturbation(model, model[0]).attribute(x, **how),
        lambda: LayerExtremalPerturbation(lambda x: model(x), model[1]).attribute(x, **how),
        lambda: ExcitationBackprop(model, model[1]).attribute(x, target=1),
    ]
    expected, outputs = [make() for make in makers], (model(x), other(x))

    def infer() -> None:
        while not done.is_set():
            with torch.no_grad():
                if not all(map(torch.allclose, (model(x), other(x)), outputs)):
                    wrong.append("another output")

    def explain(k: int) -> None:
        for _ in range(2):
            try:
                if not torch.equal(makers[k](), expected[k]):
                    wrong.append(f"another map of {k}")
            except Exception as error:
                wrong.append(f"{k}: {error}")

    neighbour = threading.Thread(target=infer)
    explainers = [threading.Thread(target=explain, args=(k,)) for k in (0, 1, 2, 1)]
    for thread in (neighbour, *explainers):
        thread.start()
    for thread in explainers:
        thread.join()
    done.set()
    neighbour.join()
    assert wrong == []
    assert not any(module._forward_hooks for module in model.modules())


# Checkpoints


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.stem, self.head, self.reentrant = small()[:2], small()[2:], reentrant
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.head(self.stem(x))
        return self.head(checkpoint(self.stem, x, use_reentrant=self.reentrant))


def test_checkpoints_are_explained_as_models_without(x: Tensor) -> None:
    expected, model = Checkpointed(None), Checkpointed(False)
    for layer in (lambda model: model.stem[0], lambda model: model.head[0]):
        for wrap in (lambda model: model, lambda model: lambda x: model(x)):
            if wrap(1) != 1 and layer(model) is model.stem[0]:
                continue  # refused below
            found, known = (
                LayerExtremalPerturbation(wrap(net), layer(net)).extremal_masks(x, **{**HOW, "areas": [1, 4]})
                for net in (model, expected)
            )
            torch.testing.assert_close(found.masks, known.masks)
    found, known = (ExtremalPerturbation(net).extremal_masks(x, **HOW) for net in (model, expected))
    torch.testing.assert_close(found.masks, known.masks)
    images = [FeatureInversion(net, net.stem[1]).invert(x, steps=3).images for net in (model, expected)]
    torch.testing.assert_close(*images)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_that_cannot_be_explained_say_so(x: Tensor, reentrant: bool) -> None:
    model = Checkpointed(reentrant)
    inside = LayerExtremalPerturbation(lambda x: model(x), model.stem[0])
    with pytest.raises(
        ValueError, match=r"layer must not be inside of a checkpoint.* switch gradient checkpointing off"
    ):
        inside.attribute(x, **{**HOW, "areas": [1, 4]})
    with pytest.raises(ValueError, match="heckpoint"):
        ExcitationBackprop(model).attribute(x, target=1)
    if reentrant:
        with pytest.raises(ValueError, match=r"checkpoint\(use_reentrant=True\).* switch gradient checkpointing off"):
            ExtremalPerturbation(model).attribute(x, **HOW)
    assert not any(module._forward_hooks for module in model.modules())


def test_tensors_that_the_caller_saves_elsewhere_are_no_checkpoint(x: Tensor) -> None:
    model = small()
    method = LayerExtremalPerturbation(lambda x: model(x), model[0])
    expected = method.attribute(x, **{**HOW, "areas": [1, 4]})
    with torch.autograd.graph.save_on_cpu():
        assert torch.equal(method.attribute(x, **{**HOW, "areas": [1, 4]}), expected)
        assert ExcitationBackprop(model).attribute(x, target=1).shape == x.shape


def test_values_that_a_gradient_needs_and_the_model_overwrites_are_named(x: Tensor) -> None:
    model = small()

    def forward(x: Tensor) -> Tensor:
        scores = model(x)
        return scores + x.mul_(2).mean((1, 2, 3))[:, None]

    with pytest.raises(ValueError, match=r"overwrites in place .* clone"):
        ExtremalPerturbation(forward).attribute(x, **HOW)


# Lazy layers, and models that deepcopy refuses


def lazy() -> nn.Sequential:
    return nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(3)
    ).eval()


def test_lazy_layers_are_initialised_by_the_first_forward(x: Tensor) -> None:
    for make in (
        lambda model: ExtremalPerturbation(model).extremal_masks(x, **HOW).scores,
        lambda model: LayerExtremalPerturbation(model, model[0]).extremal_masks(x, **{**HOW, "areas": [1, 4]}).scores,
        lambda model: RISE(model).attribute(x, target=1, n_samples=2),
        lambda model: ExcitationBackprop(model).attribute(x, target=1),
        lambda model: FeatureInversion(model, model[0]).invert(x, steps=1).images,
        lambda model: FeatureInversion(model, model[0]).invert_channels(0, size=16, steps=1).images,
    ):
        state = torch.get_rng_state()
        assert bool(make(lazy()).isfinite().all())
        assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_lazy_layers_are_not_randomised_before_they_are_there(x: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"model must have its parameters, but '0\.weight' comes with the first forward"
    ):
        weight_randomisation(lazy(), Saliency, x, [1, 1])


class Keeping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kept = small(), list[Tensor]()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.kept.append(self.body[0](x))
        return self.body[1:](self.kept[-1])


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("kind", ["weight normalisation", "kept features"])
def test_models_that_keep_what_they_computed_are_copied(x: Tensor, kind: str) -> None:
    model = Keeping() if kind == "kept features" else small(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)))
    output = model(x)
    twin, own = copied(model, share=True), copied(model)
    torch.testing.assert_close(twin(x), output)
    torch.testing.assert_close(own(x), output)
    theirs, ours, others = ([id(p) for p in net.parameters()] for net in (model, twin, own))
    assert ours == theirs
    assert not set(others) & set(theirs)
    layer = model.body[0] if isinstance(model, Keeping) else model[0]
    assert LayerTail(model, layer, (x,)).is_split
    found = weight_randomisation(model, lambda net: rise(net), x, [1, 1])
    assert len(found.layers) == 2
    torch.testing.assert_close(model(x), output)


def test_models_that_cannot_be_copied_are_not_randomised(x: Tensor) -> None:
    model = small()
    model.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"model must be one that copy\.deepcopy copies, but TypeError: .*lock"):
        weight_randomisation(model, Saliency, x, [1, 1])


# Models that are stored or built in other ways


class Counting(nn.Module):
    """Counts its images, in eval mode too, and holds a table and a repeated buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("repeated", torch.ones(1).expand(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        self.scale = self.scale * 2
        return x.mean((2, 3))


@pytest.mark.parametrize("kind", ["module", "function"])
def test_a_count_that_a_model_keeps_in_eval_mode_is_as_before(x: Tensor, kind: str) -> None:
    model = Counting().eval()
    scale, seen = model.scale, model.seen
    RISE(model if kind == "module" else lambda x: model(x)).attribute(x, target=1, n_samples=2)
    assert (float(model.seen), float(model.scale)) == (0, 1)
    assert model.scale is scale
    assert model.seen is seen


class Weighted(nn.Module):
    """Scales by a buffer, and holds one that nobody may write to and one without strides."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.full((), 2.0))
        with torch.inference_mode():
            self.register_buffer("cached", torch.ones(3))
        self.register_buffer("graph", torch.eye(3).to_sparse_csr())
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * self.scale * self.weight


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_graphs_that_the_caller_has_made_can_still_be_followed(x: Tensor) -> None:
    model = Weighted().eval()
    before = model(x).sum()
    versions = [model.scale._version, model.graph.values()._version]
    RISE(model).attribute(x, target=1, n_samples=2)
    assert [model.scale._version, model.graph.values()._version] == versions
    before.backward()


@pytest.mark.parametrize("store", ["script", "trace", "freeze"])
def test_models_of_torchscript_are_explained_as_themselves(x: Tensor, store: str) -> None:
    model = normalised().eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of newer versions, that it is deprecated
        stored = torch.jit.trace(model, x) if store == "trace" else torch.jit.script(model)
        stored = torch.jit.freeze(stored) if store == "freeze" else stored
    how: dict[str, Any] = {"target": 1, "n_samples": 3}
    found = RISE(stored).attribute(x, **how)
    torch.testing.assert_close(found, RISE(model).attribute(x, **how))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to("meta"), "inputs must hold values, got a tensor on the device meta"),
        (lambda x: x.to(torch.float8_e4m3fn), "inputs must be .* got torch.float8_e4m3fn: give x.float"),
        (lambda x: x.to_sparse(), r"inputs must be a dense tensor, got torch.sparse_coo: give x.to_dense\(\)"),
    ],
)
def test_inputs_without_values_at_each_place_are_refused(x: Tensor, change: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        RISE(normalised()).attribute(change(x), target=1)


def test_arguments_that_are_missing_are_not_taken_for_a_wrong_shape() -> None:
    def model(x: Tensor, gain: Tensor) -> Tensor:
        return (x * gain).flatten(1)

    with pytest.raises(TypeError, match=r"forward_func must take the inputs .* but it raises TypeError: .*'gain'"):
        RISE(model).attribute(torch.rand(2, 3, 9), target=1, n_samples=2)


def test_a_model_that_refuses_its_inputs_says_which(x: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(x.shape[1] + 1, 4, 1), nn.Flatten())
    layer = LayerExtremalPerturbation(model, model[1])
    for method in (ExtremalPerturbation(model).attribute, RISE(model).attribute, layer.attribute):
        with pytest.raises(
            ValueError, match=r"forward_func must take the inputs \(.*\) torch.float32, but it raises Run"
        ):
            method(x, target=1)
    with pytest.raises(
        TypeError, match=r"must take the inputs .* and additional_forward_args, but it raises TypeError"
    ):
        RISE(model).attribute(x, target=1, additional_forward_args=3)


def test_an_error_of_an_objective_is_told_as_it_is(x: Tensor) -> None:
    with pytest.raises(TypeError, match=r"^model must return a list of dictionaries"):
        ExtremalPerturbation(BoxScore(normalised(), torch.tensor([[0.0, 0, 1, 1]]), 1)).attribute(x)
