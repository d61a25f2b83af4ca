"""Methods by name: what each name stands for, and which layer is looked at where nobody says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from captum.attr import IntegratedGradients, LayerAttribution
from torch import Tensor, nn

from captum_extremal import RISE, ContrastiveExcitationBackprop, ExtremalPerturbation, PathSolver
from captum_extremal.evaluation import find_method, last_spatial_layer, make_method, method_names

QUICK = {"solver": PathSolver(steps=2), "n_samples": 4, "n_steps": 2, "steps": 2}
TARGETS = [1, 3]
OWN = """
class Own:
    @staticmethod
    def method(model, power=1):
        return lambda x, target: x.abs() ** power
number = 3
def no_function(model):
    return 3
"""


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.Softplus()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 16, 20)


@pytest.mark.filterwarnings("ignore:Layer:UserWarning")  # LRP's, of the layers that it was not told about
@pytest.mark.parametrize("name", [name for name in method_names() if "lrp" not in name])
def test_every_method_gives_one_map_an_image(name: str, model: nn.Sequential, x: Tensor) -> None:
    if name in ("lime", "kernel_shap"):
        pytest.importorskip("sklearn", reason="Captum fits their models with scikit-learn, which is not installed")
    state = torch.get_rng_state()
    options = {option: value for option, value in QUICK.items() if option in find_method(name).parameters}
    explain = make_method(name, model, options=options)
    maps = explain(x, TARGETS)
    assert maps.shape in ((2, 1, 16, 20), (2, 3, 16, 20))
    assert bool(maps.isfinite().all())
    assert not maps.requires_grad
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    if name in ("extremal", "rise", "saliency", "grad_cam", "center"):
        assert torch.equal(torch.get_rng_state(), state)


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(leaf)[[0, 1], TARGETS].sum(), leaf)
    return found


def test_the_baselines_of_table_1_are_literally_these(model: nn.Sequential, x: Tensor) -> None:
    largest = gradient(model, x).abs().amax(1, keepdim=True)
    torch.testing.assert_close(make_method("saliency", model)(x, TARGETS), largest)
    layer = model[3]
    activation = model[:4](x).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(model[4:](activation)[[0, 1], TARGETS].sum(), activation)
    cam = (slopes.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True).clamp(min=0).detach()
    cam = nn.functional.interpolate(cam, (16, 20), mode="bilinear")
    torch.testing.assert_close(make_method("grad_cam", model, layer="3")(x, TARGETS), cam)
    contrast = ContrastiveExcitationBackprop(model, layer).attribute(x, TARGETS).sum(1, keepdim=True).clamp(min=0)
    contrast = LayerAttribution.interpolate(contrast, (16, 20), "bilinear")
    torch.testing.assert_close(make_method("contrastive_excitation_backprop", model)(x, TARGETS), contrast)


def test_ours_are_what_the_paper_asks_for(model: nn.Sequential, x: Tensor) -> None:
    how: Any = {"areas": (0.2, 0.4), "solver": PathSolver(steps=2)}
    expected = ExtremalPerturbation(model).attribute(x, target=TARGETS, reduce="sum", **how)
    assert torch.equal(make_method("extremal_paper", model, options=how)(x, TARGETS), expected)
    refined = ExtremalPerturbation(model).attribute(x, target=TARGETS, reduce="refined", **how)
    assert torch.equal(make_method("extremal", model, options=how)(x, TARGETS), refined)
    probabilities = RISE(lambda x: model(x).softmax(1)).attribute(x, target=TARGETS, n_samples=6)
    torch.testing.assert_close(make_method("rise", model, options={"n_samples": 6})(x, TARGETS), probabilities)


def test_a_path_is_walked_a_few_steps_at_once(model: nn.Sequential, x: Tensor) -> None:
    rows: list[int] = []
    model[0].register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    found = make_method("integrated_gradients", model)(x, TARGETS)
    assert max(rows) <= 8
    assert sum(rows) == 100
    torch.testing.assert_close(found, IntegratedGradients(model).attribute(x, target=TARGETS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [("vgg11", 224, "features.19"), ("resnet18", 64, "layer4"), ("squeezenet1_1", 64, "features")],
)
def test_the_layer_chosen_is_the_last_with_positions(name: str, size: int, layer: str) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    assert last_spatial_layer(model, torch.zeros(1, 3, size, size)) == layer


class Reuses(nn.Module):
    """Its last layer with positions runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.scores = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.twice(self.twice(self.once(x)))).mean((2, 3))


def test_layers_that_run_twice_and_scores_are_not_chosen(x: Tensor) -> None:
    assert last_spatial_layer(Reuses().eval(), x) == "once"
    with pytest.raises(ValueError, match="layer must be given"):
        last_spatial_layer(nn.Sequential(nn.Flatten(), nn.Linear(960, 5)).eval(), x)


def test_choosing_a_layer_leaves_nothing_on_a_model_in_train_mode(x: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 5, 1))
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    with pytest.warns(UserWarning, match="train mode"):
        assert last_spatial_layer(model, x) == "1"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_ones_own_method(model: nn.Sequential, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_method_of_ones_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    explain = make_method("a_method_of_ones_own:Own.method", model, options={"power": 2})
    torch.testing.assert_close(explain(x, TARGETS), x**2)
    for name, options, message in [
        ("a_method_of_ones_own:Own.method", {"q": 2}, r"must take \(model, q\), got .* that takes \(model, power=1\)"),
        ("a_method_of_ones_own:no_function", {}, r"must return a function \(inputs, target\), got int of"),
        ("a_method_of_ones_own:number", {}, "must name a callable that takes the model, got .* of int"),
        ("a_method_of_ones_own:nothing", {}, "must be importable as module:callable"),
        ("no_such_module_anywhere:x", {}, "must be importable as module:callable"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_method(name, model, options=options)
    del sys.modules["a_method_of_ones_own"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("def make(model):\n    from a_module_beside_it import explain\n    return explain", None),
        ("def make(model):\n    return 3", ValueError),
        ("raise OSError", OSError),
        ("import sys\nsys.path.remove(sys.path[0])\nraise OSError", OSError),
        ("import sys\nsys.path.append('of the method')\ndef make(model):\n    return print", None),
    ],
)
def test_a_method_in_the_working_directory_leaves_the_path_of_imports(
    content: str, error: type[Exception] | None, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens in it; what it adds to the path itself stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = [*sys.path]
    (tmp_path / "a_method_here.py").write_text(content)
    (tmp_path / "a_module_beside_it.py").write_text("def explain(x, target):\n    return x\n")
    try:
        with nullcontext() if error is None else pytest.raises(error):
            assert callable(make_method("a_method_here:make", model))
    finally:
        sys.modules.pop("a_method_here", None)
        sys.modules.pop("a_module_beside_it", None)
    assert sys.path == before + ["of the method"] * ("of the method" in content)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: make_method("grad-cam", m), "method must be a known name .* near it: grad_cam"),
        (lambda m: make_method("qqq", m), "one of extremal, extremal_paper"),
        (lambda m: make_method("saliency", m, layer="3"), "layer must not be given to saliency"),
        (lambda m: make_method("grad_cam", m, layer="33"), "layer must be a module of the model, got '33'; near it: 3"),
        (lambda m: make_method("grad_cam", m, layer=""), "layer must be a module of the model, got ''"),
        (lambda m: make_method("rise", m, options={"samples": 3}), "options of rise must be among .*n_samples"),
    ],
)
def test_wrong_names_are_told_with_what_is_near(call: Callable[..., Any], message: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=message):
        call(model)
