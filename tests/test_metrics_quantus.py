"""The bridge to Quantus, on its own and with the real Quantus where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from torch import Tensor, nn

from captum_extremal import ExtremalPerturbation, PathSolver
from captum_extremal.metrics import pointing_game, quantus_explainer, summarise

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")


@pytest.fixture
def quantus() -> Any:
    return pytest.importorskip("quantus", reason="Quantus is not installed: pip install '.[quantus]'")


class Quadrants(nn.Module):
    """Four classes: how bright each quarter of the image is."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x.mean(1, keepdim=True)).flatten(1) * self.scale


def explain_quickly(model: nn.Module) -> Callable[..., Tensor]:
    settings: dict[str, Any] = {"areas": (0.1, 0.2), "solver": PathSolver(steps=10), "perturbation": "fade"}
    return partial(ExtremalPerturbation(model).attribute, reduce="sum", **settings)


def the_example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four images (4, 3, 32, 32) with a bright spot in every quarter, targets 0 to 3, and masks (4, 1, 32, 32).

    The masks of the first three pairs hold the spot of the target; that of the last holds another's.
    """
    x = np.full((4, 3, 32, 32), 0.01, dtype=np.float32)
    masks = np.zeros((4, 1, 32, 32), dtype=bool)
    corners = [(3, 3), (3, 21), (21, 3), (21, 21)]
    for row, column in corners:
        x[:, :, row : row + 8, column : column + 8] = 1.0
    for pair, (row, column) in enumerate([*corners[:3], corners[0]]):
        masks[pair, 0, row : row + 8, column : column + 8] = True
    return x, np.arange(4), masks


def test_maps_have_one_channel_and_the_inputs_positions() -> None:
    x, targets, _ = the_example()
    model = Quadrants().eval()
    found = quantus_explainer(Saliency)(model=model, inputs=x, targets=targets)
    expected = Saliency(model).attribute(torch.from_numpy(x), target=torch.from_numpy(targets)).mean(1, keepdim=True)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected)
    small = quantus_explainer(lambda m: LayerGradCam(m, m.pool))(model, x, targets, device="cpu")
    assert small.shape == (4, 1, 32, 32)


def test_inputs_take_the_precision_of_the_model_that_is_handed_over() -> None:
    x, targets, _ = the_example()
    seen = []

    def make(model: nn.Module) -> Callable[..., Tensor]:
        def attribute(inputs: Tensor, target: Tensor) -> Tensor:
            seen.append((model, inputs.dtype, target.dtype))
            return inputs

        return attribute

    double, single = Quadrants().double().eval(), Quadrants().eval()
    explain = quantus_explainer(make)
    explain(double, x, targets)
    explain(single, x.astype(np.float64), targets.astype(np.int32))
    assert seen == [(double, torch.float64, torch.int64), (single, torch.float32, torch.int64)]


@pytest.mark.parametrize("make", [None, "Saliency", lambda: None])
def test_anything_but_a_function_of_a_model_is_refused(make: Any) -> None:
    with pytest.raises(TypeError, match="make_attribution"):
        quantus_explainer(make)


def test_a_result_that_explains_nothing_is_named() -> None:
    with pytest.raises(TypeError, match="make_attribution's result"):
        quantus_explainer(lambda model: 3)(Quadrants(), *the_example()[:2])


def test_our_pointing_game_of_the_example_is_three_quarters() -> None:
    x, targets, masks = the_example()
    found = pointing_game(
        explain_quickly(Quadrants().eval()),
        torch.from_numpy(x),
        torch.from_numpy(targets),
        ground_truth=torch.from_numpy(masks[:, 0]),
        tolerance=0,
    )
    assert [one.value for one in found] == [1.0, 1.0, 1.0, 0.0]
    assert summarise(found).mean == 0.75


@pytest.mark.parametrize(
    "make", [explain_quickly, lambda model: lambda x, target: Saliency(model).attribute(x, target=target) * x]
)
def test_quantus_pointing_game_of_the_example_is_three_quarters(make: Any, quantus: Any) -> None:
    x, targets, masks = the_example()
    metric = quantus.PointingGame(disable_warnings=True)
    scores = metric(
        model=Quadrants().eval(),
        x_batch=x,
        y_batch=targets,
        s_batch=masks,
        explain_func=quantus_explainer(make),
        device="cpu",
    )
    assert [bool(score) for score in scores] == [True, True, True, False]
    assert np.mean(scores) == 0.75


def test_other_metrics_of_quantus_run(network: nn.Sequential, quantus: Any) -> None:
    """One that compares with masks, one that perturbs inputs, one that hands over randomised models."""
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    targets, masks = np.array([1, 3]), np.zeros((2, 1, 16, 16), dtype=bool)
    masks[:, :, 4:12, 3:9] = True
    explain = quantus_explainer(Saliency)
    arguments: dict[str, Any] = {"x_batch": x, "y_batch": targets, "explain_func": explain, "device": "cpu"}
    model = network.float()
    share = quantus.RelevanceMassAccuracy(disable_warnings=True)(model=model, s_batch=masks, **arguments)
    maps = explain(model, x, targets)
    np.testing.assert_allclose(share, (maps * masks).sum((1, 2, 3)) / maps.sum((1, 2, 3)), rtol=1e-5)
    flipped = quantus.PixelFlipping(features_in_step=64, disable_warnings=True)(model=model, **arguments)
    assert len(flipped) == 2
    randomised = quantus.MPRT(disable_warnings=True, skip_layers=False)(model=model, **arguments)
    assert list(randomised) == ["original", "4", "0"]
    assert randomised["original"] == pytest.approx([1.0, 1.0])
