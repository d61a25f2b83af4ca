"""What Captum asks of an attribution method: one table of methods, and one list of points that each must meet.

A new method joins by one entry in ``METHODS``. The points are those of Captum 0.9, without the limits of Captum itself.
"""

from __future__ import annotations

import copy
import inspect
import math
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import Attribution, LayerAttribution, NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from captum_extremal import (
    RISE,
    CenterAttribution,
    ContrastiveExcitationBackprop,
    ExcitationBackprop,
    ExtremalPerturbation,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
    SmoothMask,
)
from captum_extremal._reach import modules_of

N, TARGET = 2, 1


@dataclass(frozen=True)
class Method:
    """One attribution method under test.

    Args:
        make: from a model to the method.
        name: what ``get_name`` returns.
        settings: keywords that make a call quick.
        options: further keywords whose values must be deep-copyable and give the same result as a copy.
        of_layer: whether an attribution has the shape and type of a layer, and not of the input.
        calls_model: whether the method calls the model at all.
        needs_gradient: whether the model must be differentiable by its inputs.
    """

    make: Callable[[Any], Attribution]
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    of_layer: bool = False
    calls_model: bool = True
    needs_gradient: bool = True


def at_first_layer(forward_func: Any) -> LayerExtremalPerturbation:
    """At the first module with weights: in ``model`` the convolution, (N, 4, 16, 16)."""
    modules = [part for model in modules_of(forward_func) for part in model.modules()]
    layer = next(part for part in modules if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)))
    return LayerExtremalPerturbation(forward_func, layer)


def a_tenth(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Of the way up from the perturbed score: what some mask reaches, but keeping nothing does not."""
    return perturbed + (clean - perturbed).abs() / 10


SHORT = PathSolver(steps=10)
METHODS = {
    "extremal perturbation": Method(
        make=ExtremalPerturbation,
        name="Extremal Perturbation",
        settings={"solver": SHORT, "score_threshold": a_tenth},
        options={
            "game": "hybrid",
            "mask": SmoothMask(step=2.0),
            "score_threshold": lambda clean, perturbed: 0.9 * (clean - perturbed),
            "callback": lambda step, areas, values: None,
            "reduce": "sum",
        },
    ),
    "extremal perturbation, refined": Method(
        make=ExtremalPerturbation,
        name="Extremal Perturbation",
        settings={"areas": (0.2, 1.0), "solver": SHORT, "reduce": "refined"},
    ),
    "layer extremal perturbation, channels": Method(
        make=at_first_layer,
        name="Layer Extremal Perturbation",
        settings={"solver": SHORT, "channel_dim": 1, "score_threshold": a_tenth},
        options={
            "game": "hybrid",
            "score_threshold": lambda clean, perturbed: 0.9 * (clean - perturbed),
            "callback": lambda step, areas, values: None,
            "multiply_by_activation": True,
            "perturbations_per_eval": 1,
        },
        of_layer=True,
    ),
    "layer extremal perturbation, positions": Method(
        make=at_first_layer,
        name="Layer Extremal Perturbation",
        settings={
            "mask": "spatial",
            "areas": (0.2, 1.0),
            "solver": SHORT,
            "channel_dim": 1,
            "score_threshold": a_tenth,
        },
        options={"mask": SmoothMask(step=2.0), "attribute_to_layer_input": True},
        of_layer=True,
    ),
    "rise": Method(
        make=RISE,
        name="RISE",
        settings={"n_samples": 20},
        options={"cells": 4, "probability": 0.3, "seed": 1, "perturbations_per_eval": 7},
        needs_gradient=False,
    ),
    "excitation backprop": Method(make=ExcitationBackprop, name="Excitation Backprop"),
    "contrastive excitation backprop": Method(
        make=ContrastiveExcitationBackprop, name="Contrastive Excitation Backprop"
    ),
    "meaningful perturbation": Method(
        make=MeaningfulPerturbation,
        name="Meaningful Perturbation",
        settings={"steps": 5},
        options={"game": "hybrid", "perturbation": "fade", "area_weight": 1e-3, "seed": 1},
    ),
    "center": Method(make=CenterAttribution, name="Center Attribution", calls_model=False, needs_gradient=False),
}


@pytest.fixture(params=METHODS, autouse=True)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


@pytest.fixture
def _calls_model(method: Method) -> None:
    if not method.calls_model:
        pytest.skip("this method does not look at the model")


@pytest.fixture
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def model() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(16, 5),
        )
    # So that what is hidden lowers the score, as in a trained network: else nothing would be needed.
    network[-1].weight.data.abs_()
    return network.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, 3, 16, 16)


def attribute(method: Method, model: Any, inputs: Any, **settings: Any) -> Any:
    return method.make(model).attribute(inputs, **({"target": TARGET} | method.settings | settings))


KNOWN: dict[str, Tensor] = {}


@pytest.fixture
def expected(method: Method, model: nn.Module, x: Tensor, request: pytest.FixtureRequest) -> Tensor:
    """The attribution of ``model`` and ``x``, computed once per method."""
    name = next(name for name, entry in METHODS.items() if entry is method)
    if name not in KNOWN:
        KNOWN[name] = attribute(method, model, x)
    return KNOWN[name]


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    """Equal up to a tolerance, in units of the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def parameters(method: Method) -> Any:
    return inspect.signature(method.make(nn.Linear(1, 1)).attribute).parameters


def assert_good(method: Method, attributions: Tensor, inputs: Tensor) -> None:
    assert len(attributions) == len(inputs)
    assert attributions.device == inputs.device
    assert attributions.is_contiguous()
    assert not attributions.requires_grad
    assert bool(attributions.isfinite().all())
    assert float(attributions.abs().max()) > 0
    if not method.of_layer:
        assert attributions.shape == inputs.shape
        assert attributions.dtype == inputs.dtype


# Inputs and attributions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_attribution_is_like_its_input(method: Method, model: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    assert_good(method, attribute(method, model.to(dtype), x.to(dtype)), x.to(dtype))


def test_attribution_is_on_its_inputs_device(method: Method, model: nn.Module, x: Tensor, device: torch.device) -> None:
    """With targets on that device and on the CPU."""
    model, x, targets = model.to(device), x.to(device), torch.tensor([1, 3])
    found = attribute(method, model, x, target=targets)
    assert_good(method, found, x)
    assert_near(attribute(method, model, x, target=targets.to(device)), found, 1e-4)


def test_attribution_is_contiguous_however_the_input_lies(
    method: Method, model: nn.Module, x: Tensor, expected: Tensor
) -> None:
    found = attribute(method, model, x.to(memory_format=torch.channels_last))
    assert_near(found, expected, 1e-4)
    for inputs in (x.to(memory_format=torch.channels_last), x[:1].expand(N, -1, -1, -1)):
        assert_good(method, attribute(method, model, inputs), inputs)


def test_tuple_of_one_gives_a_tuple_of_one(method: Method, model: nn.Module, x: Tensor, expected: Tensor) -> None:
    attributions = attribute(method, model, (x,))
    assert isinstance(attributions, tuple) is not method.of_layer
    (found,) = (attributions,) if method.of_layer else attributions
    assert_near(found, expected)


class TwoInputs(nn.Module):
    def __init__(self, of_image: nn.Module, of_signal: nn.Module) -> None:
        super().__init__()
        self.of_image, self.of_signal = of_image, of_signal

    def forward(self, image: Tensor, signal: Tensor) -> Tensor:
        return self.of_image(image) + self.of_signal(signal)


def test_every_input_of_a_tuple_has_a_map(method: Method, make_network: Callable[..., nn.Module]) -> None:
    inputs = torch.randn(N, 3, 16, 16, dtype=torch.float64), torch.randn(N, 2, 30, dtype=torch.float64)
    found = attribute(method, TwoInputs(make_network(2), make_network(1, 2)).eval(), inputs)
    if method.of_layer:
        found = (found,)  # one map, because the layer has one tensor
    for attributions, one in zip(found, inputs):
        assert_good(method, attributions, one)


@pytest.mark.parametrize("shape", [(30,), (17, 23), (9, 8, 11)], ids=str)
def test_batch_is_explained_as_its_images_are(
    method: Method, make_network: Callable[..., nn.Module], shape: tuple[int, ...]
) -> None:
    """With a target and an additional argument per image."""
    network, x = make_network(len(shape)), torch.randn(N, 3, *shape, dtype=torch.float64)

    def forward(x: Tensor, scale: Tensor, name: str) -> Tensor:
        assert name == "scale"
        return network(x) * scale

    network[-1].weight.data.abs_()  # as in ``model``
    scale = torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    found = attribute(method, forward, x, target=[0, 4], additional_forward_args=(scale, "scale"))
    for n, target in enumerate([0, 4]):
        one = slice(n, n + 1)
        alone = attribute(method, forward, x[one], target=target, additional_forward_args=(scale[one], "scale"))
        assert_near(found[one], alone, 1e-5)


SAME_TARGETS: list[Any] = [-4, (1,), [1, 1], [(1,), (1,)], np.int64(1), np.array([1, 1], np.uint8)]
SAME_TARGETS += [torch.tensor(1), torch.tensor([1]), torch.tensor([1, 1]).int()]


def test_targets_come_in_captums_forms(method: Method, model: nn.Module, x: Tensor, expected: Tensor) -> None:
    for target in SAME_TARGETS:
        assert_near(attribute(method, model, x, target=target), expected)


@pytest.mark.parametrize("arguments", [3.0, None, (torch.tensor(2.0), [torch.ones(3)], "name")], ids=repr)
def test_arguments_without_rows_are_passed_on_unchanged(
    method: Method, model: nn.Module, x: Tensor, expected: Tensor, arguments: Any
) -> None:
    def forward(x: Tensor, *received: Any) -> Tensor:
        given = arguments if isinstance(arguments, tuple) else (arguments,) * len(received)
        assert list(map(str, received)) == list(map(str, given))
        return model(x)

    found = attribute(method, forward, x, additional_forward_args=arguments)
    assert_near(found, expected, 1e-5)


def test_arguments_come_in_captums_order(method: Method) -> None:
    order = ("inputs", "baselines", "target", "additional_forward_args")
    found = parameters(method)
    assert next(iter(found)) == "inputs"
    assert [name for name in found if name in order] == [name for name in order if name in found]
    assert all(p.default is not p.empty for name, p in found.items() if name != "inputs")


def test_progress_is_shown_where_asked(
    method: Method, model: nn.Module, x: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    if "show_progress" not in parameters(method):
        pytest.skip("this method has no progress bar")
    attribute(method, model, x)
    assert capsys.readouterr().err == ""
    attribute(method, model, x, show_progress=True)
    shown = capsys.readouterr().err
    assert method.name in shown
    assert "100%" in shown


# Refusals


def _x() -> Tensor:
    return torch.full((N, 3, 16, 16), 0.5)


BAD_INPUT: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "inputs in words": (TypeError, {"inputs": "image"}),
    "inputs, an array": (TypeError, {"inputs": _x().numpy()}),
    "inputs, a list": (TypeError, {"inputs": [_x()]}),
    "inputs, none": (ValueError, {"inputs": ()}),
    "inputs of NaN": (ValueError, {"inputs": _x().index_fill(0, torch.tensor([1]), math.nan)}),
    "inputs, infinite": (ValueError, {"inputs": _x() / 0}),
    "inputs without images": (ValueError, {"inputs": _x()[:0]}),
    "inputs[1] in words": (TypeError, {"inputs": (_x(), "image")}),
    "inputs[1] of another length": (ValueError, {"inputs": (_x(), _x()[:1])}),
    "target in words": (TypeError, {"target": "cat"}),
    "target of a half": (TypeError, {"target": 0.5}),
    "target, boolean": (TypeError, {"target": True}),
    "target, a boolean of NumPy": (TypeError, {"target": np.True_}),
    "target, a float of NumPy": (TypeError, {"target": np.float64(1)}),
    "target, float tensor": (TypeError, {"target": torch.tensor([1.0, 2.0])}),
    "target, float array": (TypeError, {"target": np.array([1.0, 2.0])}),
    "target, boolean array": (TypeError, {"target": np.array([True, False])}),
    "target, list of words": (TypeError, {"target": ["a", "b"]}),
    "target, list of booleans": (TypeError, {"target": [True, np.True_]}),
    "target, mixed list": (TypeError, {"target": [1, (2,)]}),
    "target, short list": (ValueError, {"target": [1]}),
    "target, long list": (ValueError, {"target": [1, 2, 3]}),
    "target, long tensor": (ValueError, {"target": torch.tensor([1, 2, 3])}),
    "target, long array": (ValueError, {"target": np.array([1, 2, 3])}),
    "target, column": (ValueError, {"target": torch.tensor([[1], [2]])}),
    "target, column of an array": (ValueError, {"target": np.array([[1], [2]])}),
    "additional_forward_args of three rows": (ValueError, {"additional_forward_args": torch.zeros(3)}),
    "additional_forward_args of one row": (ValueError, {"additional_forward_args": torch.zeros(1, 4)}),
    "additional_forward_args[1] without rows": (ValueError, {"additional_forward_args": (1, _x()[:0])}),
    "baselines in words": (TypeError, {"baselines": "zero"}),
    "baselines of another shape": (ValueError, {"baselines": torch.zeros(N, 3, 8, 8)}),
    "baselines of another batch": (ValueError, {"baselines": torch.zeros(3, 3, 16, 16)}),
    "baselines, a scalar tensor": (ValueError, {"baselines": torch.tensor(0.0)}),
    "baselines, two": (ValueError, {"baselines": (0, 0)}),
    "baselines of NaN": (ValueError, {"baselines": _x() * math.nan}),
    "perturbations_per_eval of 0": (ValueError, {"perturbations_per_eval": 0}),
    "perturbations_per_eval of a half": (TypeError, {"perturbations_per_eval": 1.5}),
    "game, unknown": (ValueError, {"game": "keep"}),
}  # fmt: skip

BAD_IMAGES: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "inputs of integers": (TypeError, {"inputs": torch.zeros(N, 3, 16, 16, dtype=torch.uint8)}),
    "inputs, complex": (TypeError, {"inputs": _x().to(torch.complex64)}),
    "inputs, one row": (ValueError, {"inputs": _x()[0, 0]}),
    "inputs with four spatial dimensions": (ValueError, {"inputs": torch.zeros(1, 1, 8, 8, 8, 8)}),
    "inputs without channels": (ValueError, {"inputs": _x()[:, :0]}),
    "inputs with one position": (ValueError, {"inputs": _x()[:, :, :1, :1]}),
}  # fmt: skip


@pytest.mark.parametrize("case", [*BAD_INPUT, *BAD_IMAGES])
def test_bad_input_is_named_before_any_forward(method: Method, model: nn.Module, counted: type, case: str) -> None:
    error, changes = (BAD_INPUT | BAD_IMAGES)[case]
    accepted = changes.keys() <= parameters(method).keys()
    if not accepted or (method.of_layer and case in BAD_IMAGES):
        return  # another argument, or inputs that a layer's method accepts
    table = case == "inputs, one row" and "feature_mask" in parameters(method)  # its columns may be groups
    model = counted(model)
    name = case.replace(",", " ").split()[0]
    with pytest.raises(error, match="^(inputs|reduce)" if table else f"^{name}".replace("[", r"\[")):
        method.make(model).attribute(**({"inputs": _x(), "target": TARGET} | method.settings | changes))
    assert model.calls == 0 or table


WRAPPER_HINT = r"lambda x: model\(x\)"
BAD_OUTPUT: dict[str, tuple[Callable[[Tensor], Any], Any, type[Exception], str]] = {
    "a dict": (lambda scores: {"out": scores, "aux": scores}, 1, TypeError, f"forward_func.*dict.*{WRAPPER_HINT}"),
    "a tuple": (lambda scores: (scores, scores), 1, TypeError, f"forward_func.*tuple.*{WRAPPER_HINT}"),
    "a number": (lambda scores: float(scores.detach().sum()), 1, TypeError, "forward_func.*float"),
    "one score for all": (lambda scores: scores.sum(), None, ValueError, "forward_func.*one row for each example"),
    "one row for all": (lambda scores: scores.sum(0, keepdim=True), 1, ValueError, r"forward_func.*\(1, 5\) for 2"),
    "nan": (lambda scores: scores * math.nan, 1, ValueError, "forward_func.*finite"),
    "no gradient": (lambda scores: scores.detach(), 1, ValueError, "forward_func.*differentiable"),
    "integers": (lambda scores: scores.argmax(1), None, TypeError, "forward_func.*floating"),
    "many scores and no target": (lambda scores: scores, None, ValueError, r"target.*\(2, 5\)"),
    "target out of range": (lambda scores: scores, 5, ValueError, r"target.*\(2, 5\)"),
    "one target out of range": (lambda scores: scores, [0, 5], ValueError, r"target.*\(2, 5\)"),
    "target too deep": (lambda scores: scores, (0, 0), ValueError, r"target.*\(2, 5\)"),
}  # fmt: skip


@pytest.mark.usefixtures("_calls_model")
@pytest.mark.parametrize("case", BAD_OUTPUT)
def test_bad_output_is_named_at_the_first_forward(method: Method, model: nn.Module, x: Tensor, case: str) -> None:
    of_scores, target, error, message = BAD_OUTPUT[case]
    if case == "no gradient" and not method.needs_gradient:
        return
    rows: list[int] = []

    def forward(x: Tensor) -> Any:
        rows.append(len(x))
        return of_scores(model(x))

    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    with pytest.raises(error, match=message):
        attribute(method, forward, x, target=target)
    # A layer's activation is a forward of its own, and only the perturbed inputs tell a constant from a detached score.
    assert len(rows) <= 1 + (method.of_layer or case == "no gradient")
    assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())


# Captum's wrappers and metrics


@pytest.mark.parametrize("kind", ["smoothgrad", "vargrad"])
def test_noise_tunnel_averages_it(method: Method, model: nn.Module, x: Tensor, kind: str) -> None:
    tunnel = NoiseTunnel(method.make(model))
    found = tunnel.attribute(x, nt_type=kind, nt_samples=3, stdevs=0.1, target=[1, 3], **method.settings)
    assert_good(method, found, x)


def test_noise_tunnel_without_noise_is_the_attribution(method: Method, model: nn.Module, x: Tensor) -> None:
    tunnel = NoiseTunnel(method.make(model))
    found = tunnel.attribute(x, nt_samples=2, nt_samples_batch_size=1, stdevs=1e-12, target=[1, 3], **method.settings)
    assert_near(found, attribute(method, model, x, target=[1, 3]), 1e-3)


def test_sensitivity_max_measures_it(method: Method, model: nn.Module, x: Tensor) -> None:
    def explain(inputs: tuple[Tensor, ...], **settings: Any) -> Any:
        found = method.make(model).attribute(inputs, **settings)
        # It passes a tuple and expects one back, which Captum's own layer methods do not give either.
        return (found,) if method.of_layer else found

    found = sensitivity_max(explain, x, n_perturb_samples=2, target=[1, 3], **(method.settings | method.options))
    assert found.shape == (N,)
    assert bool(found.isfinite().all())


def test_infidelity_accepts_it(method: Method, model: nn.Module, x: Tensor, expected: Tensor) -> None:
    if method.of_layer:
        pytest.skip("infidelity takes attributions of the input's shape only")

    def noise(inputs: Tensor) -> tuple[Tensor, Tensor]:
        change = 0.1 * torch.randn_like(inputs)
        return change, inputs - change

    found = infidelity(model, noise, x, expected, target=TARGET, n_perturb_samples=4, normalize=True)
    assert found.shape == (N,)
    assert bool(found.isfinite().all())


def channels_last(image: Tensor) -> np.ndarray:
    return image.detach().movedim(0, -1).numpy()


def test_captum_draws_and_interpolates_it(method: Method, x: Tensor, expected: Tensor) -> None:
    if method.of_layer:
        expected = LayerAttribution.interpolate(expected, (16, 16))
    attribution, image = channels_last(expected[0]), channels_last(x[0].sigmoid())
    for kind in ("heat_map", "blended_heat_map", "masked_image", "alpha_scaling"):
        figure, axis = visualization.visualize_image_attr(
            attribution, image, method=kind, sign="positive", outlier_perc=0, use_pyplot=False
        )
        assert axis.images
        figure.canvas.draw()
    figure, axes = visualization.visualize_image_attr_multiple(
        attribution,
        image,
        ["original_image", "heat_map"],
        ["all", "positive"],
        ["image", method.name],
        use_pyplot=False,
    )
    assert len(axes) == 2
    figure.canvas.draw()
    for mode in ("nearest", "bilinear"):
        larger = LayerAttribution.interpolate(expected, (40, 33), interpolate_mode=mode)
        assert larger.shape[2:] == (40, 33)
        assert bool(larger.isfinite().all())


# Models as people have them


def test_data_parallel_model_is_explained_like_the_model(
    method: Method, model: nn.Module, x: Tensor, expected: Tensor
) -> None:
    assert_near(attribute(method, nn.DataParallel(model), x), expected, 1e-5)


@pytest.mark.usefixtures("_nothing_compiled")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, compiling for another batch size
def test_compiled_model_is_explained_like_the_model(
    method: Method, model: nn.Module, x: Tensor, expected: Tensor
) -> None:
    compiled = torch.compile(model, backend="aot_eager")
    assert_near(attribute(method, compiled, x), expected, 1e-3)


def test_frozen_model_is_explained(method: Method, model: nn.Module, x: Tensor, expected: Tensor) -> None:
    assert_near(attribute(method, model.requires_grad_(False), x), expected, 1e-5)


@pytest.mark.usefixtures("_calls_model")
def test_autocast_of_the_caller_is_that_of_the_model_alone(method: Method, model: nn.Module, x: Tensor) -> None:
    seen: list[torch.dtype] = []
    handle = model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = attribute(method, model, x)
    handle.remove()
    assert set(seen) == {torch.bfloat16}
    assert_good(method, found, x)


@pytest.mark.usefixtures("_calls_model")
@pytest.mark.filterwarnings("ignore:.* do not reach the score threshold:UserWarning")
def test_model_in_train_mode_is_explained_with_a_warning(method: Method, model: nn.Module, x: Tensor) -> None:
    settings = dict(method.settings)
    if "score_threshold" in settings:
        settings["score_threshold"] = 1e9  # never enough: with dropout keeping nothing can be
    with pytest.warns(UserWarning, match="train mode") as told:
        found = method.make(model.train()).attribute(x, target=TARGET, **settings)
    assert_good(method, found, x)
    assert told[0].filename == __file__


# Modes of the caller


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_mode_of_the_caller_plays_no_part(
    method: Method, model: nn.Module, x: Tensor, expected: Tensor, mode: Any
) -> None:
    with mode():
        found = attribute(method, model, x)
        made_inside = attribute(method, model, x.clone(), target=torch.tensor([TARGET] * N))
        assert_good(method, made_inside, x)
    for attributions in (found, made_inside):
        assert_near(attributions, expected)


def test_everything_made_in_inference_mode_is_accepted(method: Method, model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        inputs, scale = x.clone(), torch.ones(N, 1)
        found = attribute(method, lambda x, scale: model(x) * scale, (inputs,), additional_forward_args=(scale,))
        assert_good(method, found[0] if isinstance(found, tuple) else found, x)


@pytest.mark.usefixtures("_calls_model")
def test_parameters_made_in_inference_mode_are_refused(method: Method, x: Tensor) -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).eval()
    for inference in (False, True):
        with torch.inference_mode(inference), pytest.raises(ValueError, match="inference"):
            attribute(method, model, x)


# Nothing is left behind


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def traces(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    """All that a call could change."""
    return {
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: [len(getattr(module, kind)) for kind in HOOKS] for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "inputs": inputs.tolist(),
        "inputs' flags": (inputs.requires_grad, inputs.grad, inputs._version),
        "torch's random state": torch.get_rng_state().tolist(),
        "Python's random state": random.getstate(),
        "NumPy's random state": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "defaults": (torch.get_default_dtype(), torch.get_num_threads()),
        "output": type(model(inputs.detach()).grad_fn).__name__,
    }


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.usefixtures("_calls_model")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("ending", ["well", "stopped in its last forward", "interrupted by its callback"])
def test_nothing_is_left_behind(method: Method, model: nn.Sequential, x: Tensor, ending: str, training: bool) -> None:
    if "callback" in ending and "callback" not in parameters(method):
        pytest.skip("this method has no callback")
    model[0].weight.requires_grad_(False)
    model[-1].weight.grad = torch.ones_like(model[-1].weight)
    x.requires_grad_()
    calls: list[int] = []
    last = 0

    def count(module: nn.Module, inputs: Any) -> None:
        calls.append(1)
        if len(calls) == last:
            raise Stopped

    def interrupt(step: int, areas: Tensor, scores: Tensor) -> None:
        if step == 2:
            raise KeyboardInterrupt

    model[-1].register_forward_pre_hook(count)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of train mode
        before = traces(model, x)
        model.train(training)
        modes = {name: module.training for name, module in model.named_modules()}
        calls.clear()
        attribute(method, model, x)
        assert calls
        if "callback" in ending:
            with pytest.raises(KeyboardInterrupt):
                attribute(method, model, x, callback=interrupt)
        elif ending != "well":
            last = len(calls)
            calls.clear()
            with pytest.raises(Stopped):
                attribute(method, model, x)
            last = 0
        assert modes == {name: module.training for name, module in model.named_modules()}
        assert traces(model.eval(), x) == before


# The class


def test_class_is_described_as_captum_asks(method: Method, model: nn.Module) -> None:
    attribution = method.make(model)
    assert attribution.get_name() == method.name
    assert attribution.has_convergence_delta() is False
    assert attribution.multiplies_by_inputs is False
    with pytest.raises(NotImplementedError, match="attribute_future"):
        attribution.attribute_future()


def test_attribute_has_the_wrapper_that_noise_tunnel_takes_off(
    method: Method, model: nn.Module, x: Tensor, expected: Tensor
) -> None:
    attribution = method.make(model)
    # With gradients on or off: NoiseTunnel calls what is under the outermost decorator.
    for grad in (torch.no_grad, torch.enable_grad):
        with grad():
            found = attribution.attribute.__wrapped__(attribution, x, target=TARGET, **method.settings)
        assert_near(found, expected)
    # Captum's pull request 1899 asks for torch.no_grad on every perturbation method, under that decorator.
    assert hasattr(attribution.attribute.__wrapped__, "__wrapped__")


def test_copies_give_the_same_attribution(method: Method, model: nn.Module, x: Tensor) -> None:
    settings = method.settings | method.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # areas that are not reached are no matter here
        expected = attribute(method, model, x, **settings)
        found = copy.deepcopy(method.make(model)).attribute(x, target=TARGET, **copy.deepcopy(settings))
    assert_near(found, expected)
