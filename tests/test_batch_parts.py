"""Images that leave the batch of a model that needs the whole batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import ExtremalMasks, ExtremalPerturbation, LayerExtremalPerturbation, PathSolver

SIDE = 16
FACTORS = torch.tensor([1.0, 2.0, 3.0])
ENOUGH = torch.tensor([0.3, 1.2, 2.7])  # at the areas 0.3, 0.6 and 0.9


def mean(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3))


def by_row(factors: Tensor, rows: int) -> Tensor:
    return factors.repeat(rows // len(factors))


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "a value for each image": (lambda x: mean(x) * by_row(FACTORS, len(x)), {}),
    "one copy of each image at a time": (lambda x: mean(x) * FACTORS, {"perturbations_per_eval": 1}),
    "values in a list": (
        lambda x, values: mean(x) * by_row(values[0], len(x)),
        {"additional_forward_args": ([FACTORS],)},
    ),
    # No error, but another score.
    "the first values": (lambda x: mean(x) * FACTORS[torch.arange(len(x)) % 3], {}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("areas", ["optimal", None])
def test_images_stay_in_the_batch_that_the_model_needs(name: str, areas: str | None) -> None:
    function, how = FUNCTIONS[name]
    x = torch.ones(3, 1, SIDE, SIDE)
    found = ExtremalPerturbation(function).extremal_masks(
        x, perturbation="fade", areas=areas, score_threshold=ENOUGH, **how
    )
    torch.testing.assert_close(found.optimal_score, found.optimal_area * FACTORS, rtol=1e-3, atol=0)
    assert bool((found.optimal_score >= ENOUGH).all())
    torch.testing.assert_close(found.optimal_area, torch.tensor([0.3, 0.6, 0.9]), rtol=0, atol=0.012)


def test_their_further_answers_and_groups_stay_in_it_too() -> None:
    x = torch.rand(3, 6) + 0.5

    def function(x: Tensor) -> Tensor:
        return x.sum(1) * by_row(FACTORS, len(x))

    method = ExtremalPerturbation(function)
    together = method.extremal_masks(
        x, feature_mask=torch.arange(6)[None], explanations=2, score_threshold=x.sum(1) * 0.4
    )
    for n, factor in enumerate(FACTORS):
        alone = ExtremalPerturbation(lambda x, by=factor: x.sum(1) * by).extremal_masks(
            x[n : n + 1], feature_mask=torch.arange(6)[None], explanations=2, score_threshold=x[n : n + 1].sum(1) * 0.4
        )
        for both, own in zip(together.explanations, alone.explanations):
            torch.testing.assert_close(both[n].optimal_area, own.optimal_area)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).relu().mean((2, 3)).sum(1) * by_row(FACTORS, len(x))


def test_the_same_behind_a_layer() -> None:
    torch.manual_seed(0)
    model, x = Layers(), torch.rand(3, 1, SIDE, SIDE)

    def masks(model: nn.Module, x: Tensor, layer: nn.Module) -> ExtremalMasks:
        return LayerExtremalPerturbation(model, layer).extremal_masks(
            x, areas="optimal", score_threshold=lambda clean, hidden: 0.5 * clean
        )

    together = masks(model, x, model.first)
    plain = nn.Sequential(model.first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    summed = nn.Sequential(plain, Sum())
    alone = torch.cat([masks(summed, one[None], model.first).optimal_area for one in x])
    torch.testing.assert_close(together.optimal_area, alone)


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


def test_images_leave_the_batch_of_a_model_that_scores_them_alone(counted: type) -> None:
    model, x = counted(mean), torch.ones(3, 1, SIDE, SIDE)
    ExtremalPerturbation(model).extremal_masks(
        x, perturbation="fade", areas="optimal", score_threshold=torch.tensor([0.3, 0.6, 0.9])
    )
    assert 5 < model.rows.count(1) < len(model.rows) - 10


def test_large_images_stay_in_it_too() -> None:
    x = torch.ones(3, 3, 224, 224)  # which a search on a CPU sends one after the other
    factors, seen = torch.tensor([3.0, 2.0, 1.0]), []

    def function(x: Tensor) -> Tensor:
        seen.append(len(x))
        return mean(x) * factors[torch.arange(len(x)) % 3]

    found = ExtremalPerturbation(function).extremal_masks(
        x, perturbation="fade", areas=[0.2, 0.6], solver=PathSolver(steps=4), perturbations_per_eval=None
    )
    torch.testing.assert_close(found.scores, factors[:, None] * found.areas, rtol=1e-3, atol=0)
    assert seen.count(1) == 1


def test_masks_without_a_score_come_behind_all_others() -> None:
    def function(x: Tensor) -> Tensor:
        score = mean(x)
        return torch.where((score > 0.4) & (score < 0.6), torch.nan, score)

    found = ExtremalPerturbation(function).extremal_masks(
        torch.ones(1, 1, SIDE, SIDE), perturbation="fade", areas="optimal", score_threshold=0.45
    )
    assert 0.6 <= float(found.optimal_area) <= 0.63
    assert float(found.optimal_score) >= 0.6
