"""Models that take one example at a time, and images that lack a batch dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import (
    RISE,
    CenterAttribution,
    ExcitationBackprop,
    ExtremalMasks,
    ExtremalPerturbation,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
)
from captum_extremal.metrics import insertion_deletion

SEVERAL = PathSolver(steps=8, searches=2)
ONE_AT_A_TIME = "one at a time, as with perturbations_per_eval=1"


class Flat(nn.Module):
    """Takes any batch, or with ``alone`` refuses all but one example by an error of PyTorch's own."""

    def __init__(self, alone: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alone, self.layer, self.head = alone, nn.Conv2d(3, 4, 3), nn.Linear(4 * 10 * 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer(x).relu()
        scores: Tensor = self.head(features.reshape(1 if self.alone else len(x), -1))
        return scores


class FirstOnly(Flat):
    """Returns the first example's row alone, without an error."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:1]


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 3, 12, 12, dtype=torch.float64)


def masks(model: Any, x: Tensor, **how: Any) -> Any:
    return ExtremalPerturbation(model).extremal_masks(x, target=1, solver=SEVERAL, **how).masks


def channels(model: Any, x: Tensor, **how: Any) -> Any:
    return LayerExtremalPerturbation(model, model.layer).extremal_masks(x, target=1, solver=SEVERAL, **how).masks


def rise(model: Any, x: Tensor, perturbations_per_eval: int = 3) -> Any:
    return RISE(model).attribute(x, target=1, n_samples=5, perturbations_per_eval=perturbations_per_eval)


@pytest.mark.parametrize("alone", [Flat(alone=True), FirstOnly()], ids=["refuses", "first only"])
@pytest.mark.parametrize("method", [masks, channels, rise])
def test_models_of_one_example_run_one_mask_at_a_time(
    image: Tensor, method: Callable[..., Tensor], alone: nn.Module
) -> None:
    with pytest.warns(UserWarning, match=ONE_AT_A_TIME) as told:
        found = method(alone.double().eval(), image)
    assert len(told) == 1
    assert told[0].filename == __file__
    torch.testing.assert_close(found, method(Flat().double().eval(), image), rtol=0, atol=1e-7)
    torch.testing.assert_close(found, method(alone, image, perturbations_per_eval=1), rtol=0, atol=1e-7)


def test_measurements_of_models_of_one_example_warn_once(image: Tensor) -> None:
    model, centre = Flat(alone=True).double().eval(), CenterAttribution(Flat().eval())
    with pytest.warns(UserWarning, match=ONE_AT_A_TIME) as told:
        found = insertion_deletion(model, centre, image, 1, steps=5)
    assert len(told) == 1
    expected = insertion_deletion(Flat().double().eval(), centre, image, 1, steps=5)
    torch.testing.assert_close(found.deletion, expected.deletion)


def test_several_images_for_a_model_of_one_example_are_refused_with_advice(image: Tensor) -> None:
    model = Flat(alone=True).double().eval()
    for method in (masks, channels, rise):
        with pytest.raises(ValueError, match=r"must take 2 examples at once, but it takes one: .* x\[n : n \+ 1\]"):
            method(model, image.repeat(2, 1, 1, 1))


class Stumbling(Flat):
    """Fails once, at a forward of its own choice."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == -1:
            raise RuntimeError("out of luck")
        return super().forward(x)


@pytest.mark.parametrize("at", [0, 3, 8])
def test_an_error_that_does_not_come_again_is_the_models_own(image: Tensor, at: int) -> None:
    with pytest.raises(RuntimeError, match="out of luck"):
        masks(Stumbling(at).double().eval(), image.repeat(2, 1, 1, 1))


METHODS: dict[str, Callable[[Any, Tensor], Any]] = {
    "extremal": lambda net, x: ExtremalPerturbation(net).attribute(x, target=1),
    "layer": lambda net, x: LayerExtremalPerturbation(net, net[0]).attribute(x, target=1),
    "meaningful": lambda net, x: MeaningfulPerturbation(net).attribute(x, target=1),
    "rise": lambda net, x: RISE(net).attribute(x, target=1),
    "excitation": lambda net, x: ExcitationBackprop(net).attribute(x, target=1),
    "insertion": lambda net, x: insertion_deletion(net, CenterAttribution(net), x, 1),
}


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_a_batch_dimension_gets_a_hint_from_batch_normalisation(image: Tensor, method: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"one image needs a batch dimension, x\[None\]: expected 4D input"):
        METHODS[method](net.double().eval(), image[0])


def test_a_result_of_one_at_a_time_is_a_result_like_any(image: Tensor) -> None:
    with pytest.warns(UserWarning, match=ONE_AT_A_TIME):
        found = ExtremalPerturbation(Flat(alone=True).double().eval()).extremal_masks(
            image, target=1, game="hybrid", solver=SEVERAL
        )
    assert isinstance(found, ExtremalMasks)
    assert found.values.isfinite().all()
