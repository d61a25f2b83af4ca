"""Scores that do not ask for any part of the input: a* says so, and where there is no gradient, a warning does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import (
    ExtremalMasks,
    ExtremalPerturbation,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
    PenaltySolver,
)

GAMES = ["preserve", "delete", "hybrid"]
SHORT = PathSolver(steps=4)
NO_GRADIENT = r"forward_func has no gradient at examples \[1\]"


class Constant(nn.Module):
    """A score that depends on the input by its graph alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * self.layer(x).sum((1, 2, 3)) + 2.0


class Shy(Constant):
    """A score that rises as less is shown."""

    def forward(self, x: Tensor) -> Tensor:
        return -self.layer(x).square().sum((1, 2, 3))


def detector(x: Tensor) -> Tensor:
    """The brightest patch's brightness where one is bright enough, and else a 0 that no gradient leads to."""
    found = [one.max() if one.mean() > 0.3 else one.new_zeros(()) for one in x]
    return torch.stack(found)


@pytest.fixture
def pair() -> Tensor:
    """One image in which the detector finds something, and one in which it does not."""
    return torch.rand(2, 3, 12, 12) * torch.tensor([1.0, 0.2]).view(2, 1, 1, 1)


def of_inputs(model: Any, x: Tensor, **how: Any) -> ExtremalMasks:
    return ExtremalPerturbation(model).extremal_masks(x, perturbation="fade", **how)


def of_channels(model: Any, x: Tensor, **how: Any) -> ExtremalMasks:
    return LayerExtremalPerturbation(model, model.layer).extremal_masks(x, **how)


def of_positions(model: Any, x: Tensor, **how: Any) -> ExtremalMasks:
    return LayerExtremalPerturbation(model, model.layer).extremal_masks(x, mask="spatial", **how)


@pytest.mark.parametrize("find", [of_inputs, of_channels, of_positions])
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("areas", [None, "optimal", [0.5, 1.0]], ids=str)
@pytest.mark.parametrize("model", [Constant(), Shy()], ids=["constant", "rising"])
@pytest.mark.filterwarnings("ignore:forward_func has no gradient")
def test_a_score_that_needs_nothing_is_vacuous_in_every_game(
    pair: Tensor, find: Callable[..., ExtremalMasks], game: str, areas: Any, model: nn.Module
) -> None:
    found = find(model.eval(), pair, game=game, areas=areas, solver=SHORT)
    assert found.vacuous.tolist() == found.reached.tolist() == [True, True]
    assert found.optimal_area.tolist() == [0, 0]
    assert not found.optimal_mask().any()  # type: ignore[union-attr]
    assert "vacuous=[True, True]" in repr(found)


@pytest.mark.parametrize("solver", [SHORT, PenaltySolver(steps=4)], ids=["path", "penalty"])
def test_images_without_a_gradient_are_named_and_get_an_honest_result(pair: Tensor, solver: Any) -> None:
    with pytest.warns(UserWarning, match=NO_GRADIENT) as told:
        found = of_inputs(detector, pair, areas=[0.3, 0.9], solver=solver)
    assert len(told) == 1
    assert found.vacuous.tolist() == [False, True]
    assert found.scores.isfinite().all()
    torch.testing.assert_close(found.masks.flatten(2).mean(2), torch.tensor([0.3, 0.9]).expand(2, 2), rtol=0, atol=2e-3)


def test_a_search_goes_on_where_masks_leave_nothing_to_detect(pair: Tensor) -> None:
    found = of_inputs(detector, pair[:1], score_threshold=0.5, solver=PathSolver(steps=10))
    assert found.vacuous.tolist() == [False]
    assert found.optimal_value >= found.threshold
    assert 0 < float(found.optimal_area) < 1
    assert found.scores[0, 0] == 0  # at 5 % there is nothing bright enough


def test_an_image_with_nothing_to_detect_needs_nothing(pair: Tensor) -> None:
    method = ExtremalPerturbation(detector)
    with pytest.warns(UserWarning, match=r"forward_func has no|1 of 1") as told:
        attribution = method.attribute(pair[1:], perturbation="fade", solver=SHORT)
    assert [str(one.message).split(" the score")[0][:46] for one in told] == [
        "forward_func has no gradient at examples [0]: ",
        "1 of 1 examples reach",
    ]
    assert {one.filename for one in told} == {__file__}
    assert not attribution.any()


def test_meaningful_perturbation_leaves_images_without_a_gradient_finite(pair: Tensor) -> None:
    with pytest.warns(UserWarning, match=NO_GRADIENT):
        attribution = MeaningfulPerturbation(detector).attribute(pair, perturbation="fade", steps=3)
    assert attribution.isfinite().all()


def test_saturated_scores_are_searched_with_a_warning(pair: Tensor) -> None:
    def saturated(x: Tensor) -> Tensor:
        return (200 * x.mean((1, 2, 3)) - 20).sigmoid()  # exactly 1 for the first image

    with pytest.warns(UserWarning, match=r"no gradient at examples \[0\].*saturated"):
        found = of_inputs(saturated, pair[:1], solver=SHORT)
    assert found.vacuous.tolist() == [False]
    assert found.optimal_score >= found.threshold


def test_a_layer_that_is_not_used_is_refused(pair: Tensor) -> None:
    unused = Constant().eval()
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 3)).eval()
    with pytest.raises(ValueError, match=r"forward_func must be differentiable by .* the activation"):
        LayerExtremalPerturbation(
            lambda x: model(x + 0 * unused(x).detach().view(-1, 1, 1, 1)), unused.layer
        ).attribute(pair, target=1)


def test_a_score_that_changes_without_a_gradient_is_refused(pair: Tensor) -> None:
    with pytest.raises(ValueError, match="forward_func must be differentiable"):
        of_inputs(lambda x: x.detach().mean((1, 2, 3)), pair, solver=SHORT)
