"""Equation 8 against a loop over pairs of areas, and top-k masks against their literal scores."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import Saliency
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from by_hand import result_by_hand
from captum_extremal import BlurPyramid, ExtremalMasks, ExtremalPerturbation, PathSolver
from captum_extremal.metrics import monotone_evidence, top_masks
from captum_extremal.search.games import DELETE, PRESERVE

AREAS = [0.1, 0.2, 0.4, 0.8]


def result_of(
    scores: list[list[float]], threshold: list[float], areas: list[float], values: list[list[float]] | None = None
) -> ExtremalMasks:
    shape = len(scores), len(areas)
    return result_by_hand(
        torch.rand(*shape, 1, 8, 8),
        areas,
        torch.tensor(scores),
        torch.zeros(shape) if values is None else -torch.tensor(values),
        clean=torch.full(shape[:1], 100.0),
        perturbed=torch.full(shape[:1], -100.0),
        threshold=torch.tensor(threshold),
        game=PRESERVE if values is None else DELETE,
    )


@given(
    st.integers(1, 5).flatmap(
        lambda areas: st.lists(
            st.tuples(st.lists(st.integers(-3, 3), min_size=areas, max_size=areas), st.integers(-3, 4)),
            min_size=1,
            max_size=4,
        )
    )
)
def test_equation_8_is_checked_on_every_pair_of_areas_below_the_optimal_one(rows: list[Any]) -> None:
    scores = [[float(score) for score in row] for row, _ in rows]
    areas = [(k + 1) / 10 for k in range(len(scores[0]))]
    found = result_of(scores, [float(threshold) for _, threshold in rows], areas)
    evidence = monotone_evidence(found)
    for n, (row, threshold) in enumerate(rows):
        optimal = min((area for area, score in zip(areas, row) if score >= threshold), default=math.inf)
        drops = [
            row[i] - row[j]
            for i in range(len(row))
            for j in range(len(row))
            if areas[i] <= areas[j] < optimal and areas[i] < optimal
        ]
        assert bool(evidence.holds[n]) == all(drop <= 0 for drop in drops)
        assert float(evidence.largest_drop[n]) == max([0.0, *drops])
        assert int(evidence.areas_below[n]) == sum(area < optimal for area in areas)
    assert evidence.share == pytest.approx(evidence.holds.double().mean().item())


def test_shares_by_hand() -> None:
    found = result_of(
        [[1, 2, 3, 9.0], [1, 3, 2, 9.0], [9, 1, 1, 1.0], [1, 9, 1, 1.0], [4, 3, 2, 1.0]], [5.0] * 5, AREAS
    )
    evidence = monotone_evidence(found)
    assert evidence.holds.tolist() == [True, False, True, True, False]
    assert evidence.areas_below.tolist() == [3, 3, 0, 1, 4]
    assert evidence.largest_drop.tolist() == [0, 1, 0, 0, 3]
    assert evidence.share == pytest.approx(3 / 5)
    assert evidence.share_compared == pytest.approx(1 / 3)


def test_without_anything_to_compare_the_share_is_nan() -> None:
    evidence = monotone_evidence(result_of([[9.0, 1.0]], [5.0], [0.1, 0.2]))
    assert evidence.share == 1
    assert math.isnan(evidence.share_compared)


def test_scores_that_are_nan_are_no_evidence() -> None:
    assert monotone_evidence(result_of([[1.0, math.nan, 2.0]], [5.0], [0.1, 0.2, 0.3])).holds.tolist() == [False]


def test_the_optimal_area_is_that_of_the_game() -> None:
    scores = [[3.0, 2.0, 1.0]]
    found = result_of(scores, [0.0], [0.1, 0.2, 0.3], values=[[-1.0, 1.0, 1.0]])
    evidence = monotone_evidence(found)
    assert (evidence.areas_below.tolist(), evidence.holds.tolist()) == ([1], [True])
    found = result_of(scores, [0.0], [0.1, 0.2, 0.3], values=[[-2.0, -1.0, 1.0]])
    evidence = monotone_evidence(found)
    assert (evidence.areas_below.tolist(), evidence.holds.tolist()) == ([2], [False])


def test_masks_of_a_search_are_taken(network: nn.Module, images: Tensor) -> None:
    found = ExtremalPerturbation(network).extremal_masks(images, target=1, areas=AREAS, solver=PathSolver(steps=5))
    evidence = monotone_evidence(found)
    assert evidence.holds.shape == evidence.largest_drop.shape == (2,)


def test_masks_of_a_star_alone_are_refused(network: nn.Module, images: Tensor) -> None:
    found = ExtremalPerturbation(network).extremal_masks(images, target=1, areas="optimal", solver=PathSolver(steps=5))
    with pytest.raises(ValueError, match=r"found must hold masks of areas.*areas=\[\.\.\.\]"):
        monotone_evidence(found)


def test_vacuous_images_have_no_area_below() -> None:
    found = result_of([[3.0, 2.0]], [-200.0], [0.1, 0.2])
    assert found.vacuous.tolist() == [True]
    evidence = monotone_evidence(found)
    assert (evidence.areas_below.tolist(), evidence.holds.tolist()) == ([0], [True])


@pytest.mark.parametrize("found", [torch.rand(2, 3), None, "masks"])
def test_anything_but_masks_by_area_is_refused(found: Any) -> None:
    with pytest.raises(TypeError, match="found"):
        monotone_evidence(found)


def test_top_masks_hold_the_highest_values_and_are_scored_literally(network: nn.Module) -> None:
    x = torch.randn(2, 3, 12, 18, dtype=torch.float64)
    maps = torch.rand(2, 12, 18, dtype=torch.float64)
    found = top_masks(network, maps, x, [1, 3], areas=AREAS)
    perturb = BlurPyramid().bind(x, torch.zeros_like(x))
    rows = torch.arange(2), torch.tensor([1, 3])
    for k, area in enumerate(AREAS):
        count = round(area * 12 * 18)
        mask = torch.zeros(2, 1, 12, 18, dtype=torch.float64)
        for n in range(2):
            mask[n, 0][maps[n] >= maps[n].flatten().sort().values[-count]] = 1
        assert torch.equal(found.masks[:, k], mask.float())
        assert found.masks[:, k].sum((1, 2, 3)).tolist() == [count, count]
        torch.testing.assert_close(found.scores[:, k], network(perturb(mask))[rows].detach())
        torch.testing.assert_close(found.complement_scores[:, k], network(perturb(1 - mask))[rows].detach())
    torch.testing.assert_close(found.clean_score, network(x)[rows].detach())
    torch.testing.assert_close(found.perturbed_score, network(perturb(torch.zeros_like(mask)))[rows].detach())
    assert torch.equal(found.threshold, found.clean_score)
    assert torch.equal(found.values, found.scores)


def test_area_one_is_the_whole_input_to_the_bit(network: nn.Module, images: Tensor) -> None:
    found = top_masks(network.float(), torch.rand(2, 16, 16), images.float(), 1, areas=(0.01, 1.0))
    assert torch.equal(found.scores[:, -1], found.clean_score)
    assert torch.equal(found.complement_scores[:, -1], found.perturbed_score)
    assert bool(found.reached.all())


def test_area_one_reaches_even_where_a_model_is_not_the_same_twice(images: Tensor) -> None:
    calls = 0

    def model(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x.mean((1, 2, 3)) - 1e-6 * calls

    found = top_masks(model, torch.rand(2, 16, 16), images, areas=(0.1, 1.0))
    assert torch.equal(found.scores[:, -1], found.clean_score)
    assert bool(found.reached.all())


def test_positive_evidence_is_monotone_and_its_reverse_is_not(images: Tensor) -> None:
    """A linear model that adds up what is shown: the last areas of a wrong order hold all that there is."""
    evidence = images.sum(1)

    def model(x: Tensor) -> Tensor:
        return x.sum((1, 2, 3))

    areas = (0.05, 0.1, 0.2)
    right = top_masks(model, evidence, images, areas=areas, perturbation="fade")
    wrong = top_masks(model, -evidence, images, areas=areas, perturbation="fade")
    ranked = evidence.flatten(1).sort(descending=True).values
    for k, area in enumerate(areas):
        count = round(area * 256)
        torch.testing.assert_close(right.scores[:, k], ranked[:, :count].sum(1))
        torch.testing.assert_close(wrong.scores[:, k], ranked[:, -count:].sum(1))
    high = torch.tensor([1e6, 1e6], dtype=torch.float64)
    assert bool(monotone_evidence(_with_threshold(right, high)).holds.all())
    backwards = monotone_evidence(_with_threshold(wrong, high))
    assert not bool(backwards.holds.any())
    torch.testing.assert_close(backwards.largest_drop, wrong.scores[:, 0] - wrong.scores[:, -1])


def _with_threshold(found: ExtremalMasks, threshold: Tensor) -> ExtremalMasks:
    """The same masks, of which none is enough."""
    never = torch.full_like(threshold, torch.nan)
    return dataclasses.replace(found, threshold=threshold, optimal_area=never, vacuous=never > 0)


def test_top_masks_of_a_short_signal_take_the_areas_that_there_are() -> None:
    x = torch.randn(2, 3, 16)
    found = top_masks(lambda x: x.sum((1, 2)), x[:, 0], x)
    assert found.areas.tolist() == pytest.approx([0.1, 0.2, 0.4, 0.6, 0.8])


def test_top_masks_fade_to_the_baselines(network: nn.Module, images: Tensor) -> None:
    other = torch.randn_like(images)
    found = top_masks(network, images.sum(1), images, 2, areas=(0.5,), perturbation="fade", baselines=other)
    mask = found.masks[:, 0].double()
    expected = network(mask * images + (1 - mask) * other)[:, 2].detach()
    torch.testing.assert_close(found.scores[:, 0], expected)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
def test_top_masks_are_extremal_masks_in_every_other_way(network: nn.Module, images: Tensor, tmp_path: Path) -> None:
    found = top_masks(lambda x: network(x).detach(), Saliency(network), images, 1, areas=(0.1, 0.3))
    assert torch.equal(found.binary_masks().float(), found.masks)
    assert found.binariness.tolist() == [[1, 1], [1, 1]]
    found.save(tmp_path / "top.npz")
    again = ExtremalMasks.load(tmp_path / "top.npz")
    assert torch.equal(again.masks, found.masks)
    assert again.settings == found.settings
    assert torch.equal(monotone_evidence(again).holds, monotone_evidence(found).holds)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"areas": (0.2, 0.1)}, ValueError, "areas"),
        ({"areas": (0.001, 0.1)}, ValueError, "areas"),
        ({"areas": 1.5}, ValueError, "areas"),
        ({"areas": "all"}, TypeError, "areas"),
        ({"perturbation": "noise"}, ValueError, "perturbation"),
        ({"baselines": "black"}, TypeError, "baselines"),
    ],
)
def test_bad_arguments_are_named_before_the_first_forward(
    images: Tensor, network: nn.Module, counted: Any, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    model = counted(network)
    with pytest.raises(error, match=match):
        top_masks(model, lambda x, target: model(x), images, 1, **changes)
    assert model.calls == 0
