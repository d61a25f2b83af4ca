"""What Captum asks of an attribution method, for every method of the package in one table.

A later method joins by one entry in ``METHODS``.
"""

from __future__ import annotations

import copy
import inspect
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
from captum_extremal._state import modules_of

N, TARGET = 2, 1


@dataclass(frozen=True)
class Method:
    """One attribution method under test.

    Args:
        make: from a model to the method.
        name: what ``get_name`` returns.
        settings: keywords that make a call quick.
        options: further keywords whose values must be deep-copyable and give the same result as a copy.
        follows_inputs: whether an attribution has its input's shape and type; layer methods have their layer's.
        calls_model: whether the model plays a part at all.
    """

    make: Callable[[nn.Module], Attribution]
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    follows_inputs: bool = True
    calls_model: bool = True


def at_first_layer(forward_func: Any) -> LayerExtremalPerturbation:
    """Of the first module with weights: of ``model`` the convolution, (N, 4, 16, 16)."""
    (model,) = modules_of(forward_func)
    layer = next(module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    return LayerExtremalPerturbation(forward_func, layer)


METHODS = {
    "extremal perturbation": Method(
        make=ExtremalPerturbation,
        name="Extremal Perturbation",
        settings={"areas": (0.2, 1.0), "solver": PathSolver(steps=5)},
        options={
            "game": "hybrid",
            "mask": SmoothMask(step=2.0),
            "score_threshold": lambda clean, perturbed: 0.9 * clean,
            "callback": lambda step, areas, scores: None,
            "reduce": "sum",
        },
    ),
    "extremal perturbation, refined": Method(
        make=ExtremalPerturbation,
        name="Extremal Perturbation",
        settings={"areas": (0.2, 1.0), "solver": PathSolver(steps=5), "reduce": "refined"},
    ),
    "layer extremal perturbation, channels": Method(
        make=at_first_layer,
        name="Layer Extremal Perturbation",
        settings={"areas": (1, 4), "solver": PathSolver(steps=5)},
        options={
            "game": "hybrid",
            "score_threshold": lambda clean, perturbed: 0.9 * clean,
            "callback": lambda step, areas, scores: None,
            "multiply_by_activation": True,
            "perturbations_per_eval": 1,
        },
        follows_inputs=False,
    ),
    "layer extremal perturbation, positions": Method(
        make=at_first_layer,
        name="Layer Extremal Perturbation",
        settings={"mask": "spatial", "areas": (0.2, 1.0), "solver": PathSolver(steps=5)},
        options={"mask": SmoothMask(step=2.0), "attribute_to_layer_input": True},
        follows_inputs=False,
    ),
    "rise": Method(
        make=RISE,
        name="RISE",
        settings={"n_samples": 20},
        options={"cells": 4, "probability": 0.3, "seed": 1, "perturbations_per_eval": 7},
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
    "center": Method(make=CenterAttribution, name="Center Attribution", calls_model=False),
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
    return network.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, 3, 16, 16)


def attribute(method: Method, model: Any, inputs: Any, **settings: Any) -> Any:
    return method.make(model).attribute(inputs, **({"target": TARGET} | method.settings | settings))


def assert_good(method: Method, attributions: Tensor, inputs: Tensor) -> None:
    assert len(attributions) == len(inputs)
    assert attributions.device == inputs.device
    assert attributions.is_contiguous()
    assert not attributions.requires_grad
    assert bool(attributions.isfinite().all())
    assert float(attributions.abs().max()) > 0
    if method.follows_inputs:
        assert attributions.shape == inputs.shape
        assert attributions.dtype == inputs.dtype


def test_attribution_is_one_map_an_input(method: Method, model: nn.Module, x: Tensor) -> None:
    assert_good(method, attribute(method, model, x), x)


def test_tuple_of_one_gives_a_tuple_of_one(method: Method, model: nn.Module, x: Tensor) -> None:
    attributions = attribute(method, model, (x,))
    if method.follows_inputs:
        assert isinstance(attributions, tuple)
        assert len(attributions) == 1
        assert_good(method, attributions[0], x)


def test_arguments_come_in_captums_order(method: Method, model: nn.Module) -> None:
    parameters = inspect.signature(method.make(model).attribute).parameters
    shared = [name for name in parameters if name in ("inputs", "baselines", "target", "additional_forward_args")]
    assert next(iter(parameters)) == "inputs"
    assert shared == [n for n in ("inputs", "baselines", "target", "additional_forward_args") if n in parameters]
    assert all(p.default is not p.empty for name, p in parameters.items() if name != "inputs")


# Captum's wrappers and metrics


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_averages_it(method: Method, model: nn.Module, x: Tensor, kind: str) -> None:
    tunnel = NoiseTunnel(method.make(model))
    found = tunnel.attribute(x, nt_type=kind, nt_samples=3, stdevs=0.1, target=[1, 3], **method.settings)
    assert_good(method, found, x)


def test_noise_tunnel_without_noise_is_the_attribution(method: Method, model: nn.Module, x: Tensor) -> None:
    tunnel = NoiseTunnel(method.make(model))
    found = tunnel.attribute(x, nt_samples=2, nt_samples_batch_size=1, stdevs=1e-12, target=[1, 3], **method.settings)
    torch.testing.assert_close(found, attribute(method, model, x, target=[1, 3]), rtol=0, atol=1e-3)


def test_sensitivity_max_measures_it(method: Method, model: nn.Module, x: Tensor) -> None:
    def explain(inputs: tuple[Tensor, ...], **settings: Any) -> Any:
        found = method.make(model).attribute(inputs, **settings)
        # It hands over a tuple and takes a tensor for one too, with Captum's own layer methods as well.
        return found if method.follows_inputs else (found,)

    found = sensitivity_max(explain, x, n_perturb_samples=2, target=[1, 3], **(method.settings | method.options))
    assert found.shape == (N,)
    assert bool(found.isfinite().all())


def test_infidelity_accepts_it(method: Method, model: nn.Module, x: Tensor) -> None:
    if not method.follows_inputs:
        pytest.skip("infidelity takes attributions of the input's shape only")

    def noise(inputs: Tensor) -> tuple[Tensor, Tensor]:
        change = 0.1 * torch.randn_like(inputs)
        return change, inputs - change

    attributions = attribute(method, model, x)
    found = infidelity(model, noise, x, attributions, target=TARGET, n_perturb_samples=4, normalize=True)
    assert found.shape == (N,)
    assert bool(found.isfinite().all())


def channels_last(image: Tensor) -> np.ndarray:
    return image.detach().movedim(0, -1).numpy()


@pytest.mark.parametrize("kind", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling"])
def test_captum_draws_it(method: Method, model: nn.Module, x: Tensor, kind: str) -> None:
    attributions = attribute(method, model, x)
    if not method.follows_inputs:
        attributions = LayerAttribution.interpolate(attributions, (16, 16))
    figure, axis = visualization.visualize_image_attr(
        channels_last(attributions[0]),
        channels_last(x[0].sigmoid()),
        method=kind,
        sign="positive",
        outlier_perc=0,
        use_pyplot=False,
    )
    assert axis.images
    figure.canvas.draw()


def test_captum_draws_it_beside_its_image(method: Method, model: nn.Module, x: Tensor) -> None:
    attributions = attribute(method, model, x)
    if not method.follows_inputs:
        attributions = LayerAttribution.interpolate(attributions, (16, 16))
    figure, axes = visualization.visualize_image_attr_multiple(
        channels_last(attributions[0]),
        channels_last(x[0].sigmoid()),
        methods=["original_image", "heat_map"],
        signs=["all", "positive"],
        titles=["image", method.name],
        use_pyplot=False,
    )
    assert len(axes) == 2
    figure.canvas.draw()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_captum_interpolates_it(method: Method, model: nn.Module, x: Tensor, mode: str) -> None:
    larger = LayerAttribution.interpolate(attribute(method, model, x), (40, 33), interpolate_mode=mode)
    assert larger.shape[2:] == (40, 33)
    assert bool(larger.isfinite().all())


# Models as people have them


def test_data_parallel_model_is_explained_like_the_model(method: Method, model: nn.Module, x: Tensor) -> None:
    expected = attribute(method, model, x)
    torch.testing.assert_close(attribute(method, nn.DataParallel(model), x), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("_nothing_compiled")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, compiling for another batch size
def test_compiled_model_is_explained_like_the_model(method: Method, model: nn.Module, x: Tensor) -> None:
    compiled = torch.compile(model, backend="aot_eager")
    expected = attribute(method, model, x)
    torch.testing.assert_close(attribute(method, compiled, x), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_models_of_every_precision_are_explained(
    method: Method, model: nn.Module, x: Tensor, dtype: torch.dtype
) -> None:
    assert_good(method, attribute(method, model.to(dtype), x.to(dtype)), x.to(dtype))


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
def test_model_in_train_mode_is_explained_with_a_warning(method: Method, model: nn.Module, x: Tensor) -> None:
    model.train()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match="train mode"):
        found = attribute(method, model, x)
    assert_good(method, found, x)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_frozen_model_is_explained(method: Method, model: nn.Module, x: Tensor) -> None:
    expected = attribute(method, model, x)
    torch.testing.assert_close(attribute(method, model.requires_grad_(False), x), expected, rtol=0, atol=1e-5)


# Modes of the caller


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_mode_of_the_caller_plays_no_part(method: Method, model: nn.Module, x: Tensor, mode: Any) -> None:
    expected = attribute(method, model, x)
    with mode():
        found = attribute(method, model, x)
        made_inside = attribute(method, model, x.clone(), target=torch.tensor([TARGET] * N))
        assert_good(method, made_inside, x)
    for attributions in (found, made_inside):
        torch.testing.assert_close(attributions, expected, rtol=0, atol=0)


def test_everything_made_in_inference_mode_is_accepted(method: Method, model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        inputs, scale = x.clone(), torch.ones(N, 1)
        found = method.make(lambda x, scale: model(x) * scale).attribute(
            (inputs,), target=TARGET, additional_forward_args=(scale,), **method.settings
        )
        assert_good(method, found[0] if isinstance(found, tuple) else found, x)


@pytest.mark.usefixtures("_calls_model")
def test_parameters_made_in_inference_mode_are_refused(method: Method, x: Tensor) -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).eval()
    with pytest.raises(ValueError, match="inference"):
        attribute(method, model, x)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference"):
        attribute(method, model, x)


def test_inputs_that_need_gradients_get_none(method: Method, model: nn.Module, x: Tensor) -> None:
    expected = attribute(method, model, x)
    x.requires_grad_()
    torch.testing.assert_close(attribute(method, model, x), expected, rtol=0, atol=0)
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.usefixtures("_calls_model")
@pytest.mark.parametrize("fails", [False, True], ids=["well", "stopped in its last forward"])
def test_nothing_is_left_behind(method: Method, model: nn.Sequential, x: Tensor, fails: bool) -> None:
    calls: list[int] = []
    last = 0

    def count(module: nn.Module, inputs: Any) -> None:
        calls.append(1)
        if len(calls) == last:
            raise Stopped

    handle = model[-1].register_forward_pre_hook(count)
    chance, before, inputs = torch.get_rng_state(), copy.deepcopy(model.state_dict()), x.clone()
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    attribute(method, model, x)
    assert calls
    if fails:
        last = len(calls)
        calls.clear()
        with pytest.raises(Stopped):
            attribute(method, model, x)
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    handle.remove()
    assert torch.equal(chance, torch.get_rng_state())
    assert torch.equal(inputs, x)
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# The class


def test_name_reads_well(method: Method, model: nn.Module) -> None:
    assert method.make(model).get_name() == method.name


def test_there_is_no_convergence_delta(method: Method, model: nn.Module) -> None:
    assert method.make(model).has_convergence_delta() is False


def test_attributions_are_not_multiplied_by_inputs(method: Method, model: nn.Module) -> None:
    assert method.make(model).multiplies_by_inputs is False


def test_attribute_has_the_wrapper_that_noise_tunnel_takes_off(method: Method, model: nn.Module, x: Tensor) -> None:
    attribution = method.make(model)
    expected = attribute(method, model, x)
    # With gradients on or off: NoiseTunnel calls what is under the outermost decorator.
    for grad in (torch.no_grad, torch.enable_grad):
        with grad():
            found = attribution.attribute.__wrapped__(attribution, x, target=TARGET, **method.settings)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_attribute_is_decorated_with_no_grad_as_captum_will_ask(method: Method, model: nn.Module) -> None:
    """Captum pull request 1899 asks it of every perturbation method; under the decorator that NoiseTunnel takes off."""
    assert hasattr(method.make(model).attribute.__wrapped__, "__wrapped__")


def test_attribute_future_is_not_implemented(method: Method, model: nn.Module) -> None:
    with pytest.raises(NotImplementedError, match="attribute_future"):
        method.make(model).attribute_future()


def test_copied_settings_give_the_same_attribution(method: Method, model: nn.Module, x: Tensor) -> None:
    settings = method.settings | method.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # areas that are not reached are no matter here
        expected = attribute(method, model, x, **settings)
        found = attribute(method, model, x, **copy.deepcopy(settings))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_attribution_object_can_be_copied(method: Method, model: nn.Module, x: Tensor) -> None:
    attribution = copy.deepcopy(method.make(model))
    found = attribution.attribute(x, target=TARGET, **method.settings)
    torch.testing.assert_close(found, attribute(method, model, x), rtol=0, atol=0)
