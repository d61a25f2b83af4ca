"""The smallest sufficient area a* (equation 3) on models whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import (
    ChannelMask,
    ExtremalMasks,
    ExtremalPerturbation,
    LayerExtremalPerturbation,
    PathSolver,
    SmoothMask,
)
from captum_extremal.datasets import DigitImages, digit_network
from captum_extremal.search.crossing import Crossing
from captum_extremal.search.games import PRESERVE
from captum_extremal.search.optimal_area import find_optimum, optimum_reports, whole_units
from captum_extremal.search.problem import Goal, Record, Search
from fakes import linear_objective

# Warnings that count vacuous and unreached images are tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:.*reach the score threshold:UserWarning")

SIDE = 24
GAMES = ["preserve", "delete", "hybrid"]
DOUBLE = torch.float64


# What a path leaves behind


def goal_of(threshold: list[float], **how: Any) -> Goal:
    """The goal for values in [0, 1] and masks of eight channels."""
    bounds = tuple(ChannelMask().bind_areas((8,), torch.device("cpu"), DOUBLE, (1.0,)))
    given = torch.tensor(threshold, dtype=DOUBLE)
    weights = torch.ones(len(threshold), 8, dtype=DOUBLE)
    values = {
        "threshold": given,
        "whole": torch.ones_like(given),
        "nothing": torch.zeros_like(given),
        "unit": 1 / 8,
        "smallest": 1 / 8,
        "bounds_of": lambda area: bounds,
        "objective_of": lambda rows: linear_objective(weights[rows])[0],
    }
    return Goal(**(values | how))


def crossing_of(goal: Goal, seen: list[tuple[float, list[float]]]) -> Crossing:
    """What is left of a path whose masks of each area have these values; the k-th mask's parameters are all k."""
    images = len(goal.threshold)
    crossing = Crossing(goal, (torch.zeros(images, 8, dtype=DOUBLE),))
    for k, (area, values) in enumerate(seen, start=1):
        parameters = (torch.full((images, 8), float(k), dtype=DOUBLE),)
        record = Record(parameters, torch.tensor(values, dtype=DOUBLE))
        crossing.see(area, parameters, record, torch.arange(images))
    return crossing


def test_crossing_is_the_smallest_area_that_was_enough_also_where_a_larger_one_was_not() -> None:
    path = [(0.8, [0.9, 0.9, 0.4]), (0.4, [0.7, 0.9, 0.6]), (0.2, [0.75, 0.2, 0.5]), (0.1, [0.1, 0.1, 0.1])]
    crossing = crossing_of(goal_of([0.72, 0.5, 0.5]), path)
    assert crossing.found.tolist() == [True, True, True]
    assert crossing.area.tolist() == [0.2, 0.4, 0.2]  # a value of exactly the threshold is enough
    assert crossing.parameters[0][:, 0].tolist() == [3, 2, 3]


def test_crossing_begins_where_the_least_is_missing_if_nothing_was_enough() -> None:
    crossing = crossing_of(goal_of([0.9]), [(0.8, [0.88]), (0.6, [0.87]), (0.3, [0.1])])
    assert crossing.found.tolist() == [False]
    assert crossing.area.tolist() == [0.6]


def test_path_is_behind_the_smallest_area_only_after_staying_well_below_the_threshold() -> None:
    short = [(0.3, [0.1]), (0.28, [0.1])]
    goal = goal_of([0.8])
    assert not crossing_of(goal, [(0.9 - 0.01 * k, [0.1]) for k in range(20)]).passed.any()  # no information yet
    assert not crossing_of(goal, [*short, (0.26, [0.7]), *short]).passed.any()
    assert crossing_of(goal, short * 4).passed.all()
    assert not crossing_of(goal, [(0.3, [0.79])] * 20).passed.any()
    assert crossing_of(goal_of([-0.1]), []).passed.all()  # keeping nothing is enough


def test_whole_units_are_the_nearest_that_a_mask_can_have() -> None:
    areas = torch.tensor([0.01, 0.3, 0.32, 0.5, 1.0], dtype=DOUBLE)
    assert whole_units(areas, goal_of([0.5])).tolist() == [0.125, 0.25, 0.375, 0.5, 1.0]


def test_search_begins_again_from_nearly_everything_where_no_mask_is_soon_enough() -> None:
    weights = torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, 8]] * 3, dtype=DOUBLE)
    whole, steps, told = weights.sum(1), 24, []
    goal = goal_of([1, 1, 1], objective_of=lambda rows: linear_objective(weights[rows])[0])
    goal = replace(goal, threshold=0.75 * whole, whole=whole)
    crossing = Crossing(goal, (torch.zeros(3, 8, dtype=DOUBLE),))
    # The path of the first and the last image ended with one useless channel, from which there is no way to grow.
    for area, kept, values in [(6 / 8, [1] * 6 + [0, 1], [0.0, 13, 0]), (1 / 8, [1] + [0] * 7, [1.0, 1, 1])]:
        parameters = (torch.tensor([kept] * 3, dtype=DOUBLE),)
        crossing.see(area, parameters, Record(parameters, torch.tensor(values, dtype=DOUBLE)), torch.arange(3))
    assert crossing.found.tolist() == [False, True, False]
    search = Search(goal.objective_of(torch.arange(3)), PRESERVE, (), (), lambda *step: told.append(step), goal)
    found = find_optimum(search, crossing, steps, None, first_step=7)
    assert found.area.tolist() == [5 / 8] * 3
    assert (found.masks[0] @ weights.T).diagonal().ge(0.75 * whole).all()
    assert [step for step, *_ in told] == list(range(7, 7 + optimum_reports(steps)))
    finished = [values[0].isnan().tolist() for _, _, values in told]
    assert finished == [[False] * 3] * steps + [[False, True, False]] * (optimum_reports(steps) - steps)


def test_search_of_some_of_some_images() -> None:
    weights, told = torch.rand(4, 8, dtype=DOUBLE), []
    goal = goal_of([0.1, 0.2, 0.3, 0.4], objective_of=lambda rows: linear_objective(weights[rows])[0])
    every = Search(
        goal.objective_of(torch.arange(4)), PRESERVE, (), (), lambda step, at, values: told.append((at, values)), goal
    )
    some = every.of_images(torch.tensor([3, 0, 2])).of_images(torch.tensor([2, 0]))  # the images 2 and 3
    assert some.goal is not None
    assert some.goal.threshold.tolist() == [0.3, 0.4]
    expected = weights[[2, 3]].sum(1)
    for objective in (some.objective, some.goal.objective_of(torch.arange(2))):
        torch.testing.assert_close(objective.value((torch.ones(2, 8, dtype=DOUBLE),))[0], expected)
    some.report(0, torch.tensor([0.5], dtype=DOUBLE), torch.tensor([[7.0, 8.0]], dtype=DOUBLE))
    at, values = (part.nan_to_num(-1).tolist() for part in told[0])
    assert (at, values) == ([[-1, -1, 0.5, 0.5]], [[-1, -1, 7, 8]])


# Channels: the answer is a count


class Weighted(nn.Module):
    """The score is the weighted sum of the inputs (N, K); the layer is the identity."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.weights = nn.Parameter(weights)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) * self.weights).flatten(1).sum(1, keepdim=True)


def fewest(contributions: Tensor, threshold: Tensor, game: str) -> list[int]:
    """How many channels (N, K) it takes to reach the threshold (N,): the best are the first in order."""
    ranked = contributions.sort(dim=1, descending=True).values.cumsum(1)
    kept, left = ranked, contributions.sum(1, keepdim=True) - ranked
    value = {"preserve": kept, "delete": -left, "hybrid": kept - left}[game]
    return [1 + int((one >= t - 1e-9).nonzero()[0, 0]) for one, t in zip(value, threshold)]


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("channels", [1, 2, 5, 16, 40])
def test_smallest_number_of_channels_is_exact(channels: int, game: str) -> None:
    x = torch.rand(6, channels, 1, 1, dtype=DOUBLE) ** 2 + 0.01
    share = torch.tensor([0.2, 0.35, 0.5, 0.65, 0.8, 0.95], dtype=DOUBLE)
    total = x.flatten(1).sum(1)
    threshold = {"preserve": share, "delete": share - 1, "hybrid": 2 * share - 1}[game] * total
    model = Weighted(torch.ones(channels, 1, 1, dtype=DOUBLE))
    found = LayerExtremalPerturbation(model, model.layer).extremal_masks(
        x, target=0, game=game, areas="optimal", score_threshold=threshold, solver=PathSolver(steps=200)
    )
    count = found.optimal_area * channels
    torch.testing.assert_close(count, count.round(), rtol=0, atol=1e-9)
    for found_count, best in zip(count.tolist(), fewest(x.flatten(1), threshold, game)):
        assert best - 1e-6 <= found_count <= best + best // 20 + 1e-6  # of many channels, some weigh nearly the same
    assert bool((found.optimal_value >= threshold).all())


@pytest.mark.parametrize("areas", ["optimal", None])
@pytest.mark.parametrize("refinement", [0.0, 0.6])
def test_number_of_channels_is_whole_however_short_the_search(areas: str | None, refinement: float) -> None:
    x = torch.rand(8, 13, 1, 1, dtype=DOUBLE)
    model = Weighted(torch.ones(13, 1, 1, dtype=DOUBLE))
    found = LayerExtremalPerturbation(model, model.layer).extremal_masks(
        x,
        target=0,
        areas=areas,
        score_threshold=lambda clean, _: clean * torch.linspace(0.1, 0.9, 8, dtype=DOUBLE),
        solver=PathSolver(steps=9, refinement=refinement),
    )
    count = found.optimal_area * 13
    torch.testing.assert_close(count, count.round(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.optimal_masks.double().sum(1), count, rtol=0, atol=1e-4)
    assert bool((found.optimal_value >= found.threshold).all())


class Gained(Weighted):
    """Each example has weights of its own, and the layer is behind another; torch.fx cannot follow a branch."""

    def __init__(self, channels: int, branching: bool) -> None:
        super().__init__(torch.ones(channels, 1, 1, dtype=DOUBLE))
        self.stem, self.branching = nn.Conv2d(3, channels, 3, dtype=DOUBLE), branching
        self.eval()

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        h = self.layer(torch.sigmoid(self.stem(x)))
        if self.branching and float(h.detach().sum()) > 1e9:
            h = 2 * h
        return (h.mean((2, 3)) * gain).sum(1)[:, None] * torch.arange(1, 4)


@pytest.mark.parametrize("split", [True, False])
def test_images_of_a_layer_leave_the_batch_with_their_targets_and_arguments(split: bool) -> None:
    x, gain = torch.randn(3, 3, 8, 8, dtype=DOUBLE), torch.rand(3, 20, dtype=DOUBLE) ** 2
    model, shares = Gained(20, branching=not split), torch.tensor([0.95, 0.3, 0.6], dtype=DOUBLE)
    method, told = LayerExtremalPerturbation(model, model.layer), []

    def explained(rows: list[int], **how: Any) -> ExtremalMasks:
        return method.extremal_masks(
            x[rows],
            target=[row % 3 for row in rows],
            additional_forward_args=gain[rows],
            areas="optimal",
            score_threshold=lambda clean, _: shares[rows] * clean,
            **how,
        )

    found = explained([0, 1, 2], callback=lambda step, at, values: told.append(int(values.isnan().sum())))
    assert found.settings["runs"] == ("tail" if split else "model")
    assert told[0] == 0
    assert max(told) > 0
    for row in range(3):
        alone = explained([row])
        assert float(alone.optimal_area) == pytest.approx(float(found.optimal_area[row]), abs=1e-9)
        torch.testing.assert_close(alone.optimal_masks[0], found.optimal_masks[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (7, 7)], ids=str)
def test_a_star_of_a_layer_of_few_positions(shape: tuple[int, ...]) -> None:
    model, x = Weighted(torch.rand(1, *shape, dtype=DOUBLE)), torch.rand(5, 4, *shape, dtype=DOUBLE)
    found = LayerExtremalPerturbation(model, model.layer).extremal_masks(
        x,
        target=0,
        mask="spatial",
        areas="optimal",
        score_threshold=lambda clean, _: clean * torch.tensor([0.02, 0.3, 0.5, 0.7, 0.9], dtype=DOUBLE),
    )
    positions = found.optimal_area * shape[0] * shape[1]
    torch.testing.assert_close(positions, positions.round(), rtol=0, atol=1e-6)
    assert float(positions.min()) >= 1 - 1e-6
    torch.testing.assert_close(found.optimal_masks.double().flatten(1).mean(1), found.optimal_area, rtol=0, atol=1e-5)


# Positions


def blob(row: float, column: float, radius: float = 4.0, side: int = SIDE) -> Tensor:
    """A bright spot (side, side) with a soft edge, of sum 1."""
    at = torch.arange(side, dtype=DOUBLE)
    spot = torch.exp(-((at[:, None] - row) ** 2 + (at[None, :] - column) ** 2) / (2 * radius**2))
    return spot / spot.sum()


def weigh(x: Tensor, weights: Tensor) -> Tensor:
    """Scores (N, 1): white images (N, C, S, S) score the weight (N, S, S) that is kept."""
    return (x.mean(1) * weights).flatten(1).sum(1, keepdim=True)


def explain(weights: Tensor, dtype: torch.dtype = DOUBLE, **settings: Any) -> ExtremalMasks:
    """White images fade to black."""
    x = torch.ones(len(weights), 2, *weights.shape[1:], dtype=dtype)
    how = {"target": 0, "perturbation": "fade", "areas": "optimal", "solver": QUICK} | settings
    return ExtremalPerturbation(weigh).extremal_masks(x, additional_forward_args=weights.to(dtype), **how)


def least_possible(weight: Tensor, share: float) -> float:
    """The area of the best mask of all, smooth or not, that keeps this share of a weight of sum 1."""
    ranked = weight.flatten().sort(descending=True).values.cumsum(0)
    return float((ranked < share).sum()) / len(ranked)


QUICK = PathSolver(steps=30)
SHARES = [0.25, 0.5, 0.75]


@pytest.mark.parametrize("game", GAMES)
def test_a_star_is_near_the_smallest_mask_of_all(game: str) -> None:
    weights = torch.stack([blob(8, 15), blob(14, 9), blob(11, 11)])
    shares = torch.tensor(SHARES, dtype=DOUBLE)
    threshold = {"preserve": shares, "delete": shares - 1, "hybrid": 2 * shares - 1}[game]
    found = explain(weights, game=game, score_threshold=threshold)
    assert bool((found.optimal_value >= threshold).all())
    positions = found.optimal_area * SIDE**2
    torch.testing.assert_close(positions, positions.round(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.optimal_masks.double().flatten(1).mean(1), found.optimal_area, rtol=0, atol=1e-5)
    for weight, share, area in zip(weights, SHARES, found.optimal_area.tolist()):
        assert least_possible(weight, share) <= area < 1.25 * least_possible(weight, share)


@pytest.mark.parametrize("areas", ["optimal", None, "1 %"])
def test_a_star_is_not_above_any_area_that_was_seen_to_be_enough(areas: Any) -> None:
    told: list[tuple[Tensor, Tensor]] = []
    found = explain(
        torch.stack([blob(8, 15), blob(14, 9, 2.0), torch.full((SIDE, SIDE), 1 / SIDE**2, dtype=DOUBLE)]),
        areas=[0.01, 0.9] if areas == "1 %" else areas,
        score_threshold=0.6,
        callback=lambda step, at, values: told.append((at, values)),
    )
    at, values = (torch.cat(parts, dim=1) for parts in zip(*told))
    enough = at.masked_fill(~(values >= 0.6001), torch.inf).amin(1)  # (N,), of the path, the refinement and a*
    if areas == "1 %":  # a* is one of the list
        assert found.optimal_area.tolist() == pytest.approx([0.9] * 3)
    else:
        assert bool((found.optimal_area <= enough + 1 / SIDE**2).all())


def mean(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3))


@pytest.mark.filterwarnings("ignore:forward_func has no gradient at examples:UserWarning")  # of the whole input
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    "scale",
    [
        lambda value: value,
        lambda value: (30 * value).exp(),
        lambda value: -1 / (value + 1e-6),
        lambda value: -((1 - value) ** 8),
        lambda value: value.log(),  # minus infinity where all is hidden
        lambda value: torch.sigmoid(400 * (value - 0.05)),  # 1 from area 0.1 on, to the last bit
    ],
    ids=["linear", "exponential", "pole", "flat", "logarithm", "saturated"],
)
def test_a_star_does_not_depend_on_the_scale_of_the_score(scale: Callable[[Tensor], Tensor], threshold: float) -> None:
    x = torch.ones(1, 1, SIDE, SIDE)
    enough = scale(torch.tensor([threshold]))
    found = ExtremalPerturbation(lambda x: scale(mean(x))).extremal_masks(
        x, perturbation="fade", areas="optimal", score_threshold=enough
    )
    assert found.optimal_score >= enough
    area, least = float(found.optimal_area), 1 / 400 if bool(enough == 1) else threshold - 1e-6
    assert least <= area <= threshold + 0.015  # of 576 positions, 0.001 are a half


@pytest.mark.parametrize("threshold", [0.95, 0.965, 0.97, 0.98, 0.99])
def test_a_star_beyond_the_largest_area_of_a_search(threshold: float) -> None:
    found = ExtremalPerturbation(mean).extremal_masks(
        torch.ones(1, 1, SIDE, SIDE), perturbation="fade", areas="optimal", score_threshold=threshold
    )
    assert threshold - 1e-6 <= float(found.optimal_area) <= threshold + 0.012


def test_mask_of_the_path_that_is_not_enough_at_its_exact_area_is_forgotten() -> None:
    # With this scene the path's last mask that is enough is not at 1 % more either, where its score falls by 6.
    data = DigitImages(6)
    image, label = data.pairs()[4]
    x = ((data.load(image).pixels - 0.485) / 0.2)[None]
    method = ExtremalPerturbation(digit_network())
    enough = [5.0, 2.1972, 0.0]
    areas = [
        float(method.extremal_masks(x, target=int(label), areas="optimal", score_threshold=one).optimal_area)
        for one in enough
    ]
    assert all(0.01 < area < 0.05 for area in areas)


def test_a_star_of_a_saturated_probability_is_near_that_of_its_logit() -> None:
    # Values that are all about 1 say little of the way to Phi_0; without regard to it, a* here is 0.68.
    data, network = DigitImages(6), digit_network()
    image, label = data.pairs()[3]
    x = ((data.load(image).pixels - 0.485) / 0.2)[None]
    found = ExtremalPerturbation(lambda x: network(x).sigmoid()).extremal_masks(x, target=int(label), areas="optimal")
    assert float(found.clean_score) > 0.9999
    assert float(found.optimal_area) < 0.2  # that of the logit is 0.1


def test_infinite_score_of_the_other_side_does_not_count() -> None:
    found = ExtremalPerturbation(lambda x: mean(x).log()).extremal_masks(
        torch.ones(1, 1, SIDE, SIDE), perturbation="fade", areas=[0.2, 1.0], solver=PathSolver(steps=6)
    )
    assert found.threshold.tolist() == [0.0]
    assert found.values[0, 1] == 0.0
    assert found.optimal_area.tolist() == [1.0]


def test_a_star_between_the_areas_is_sought_beside_them() -> None:
    weights = blob(8, 15)[None]
    alone, beside = (explain(weights, areas=areas, score_threshold=0.5) for areas in ("optimal", None))
    assert alone.areas.tolist() == []
    assert beside.areas.tolist() == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.6, 0.8])
    assert float(beside.optimal_area) == pytest.approx(float(alone.optimal_area), rel=0.1)
    listed = explain(weights, areas=beside.areas.tolist(), score_threshold=0.5)
    assert bool((beside.scores >= listed.scores - 1e-9).all())  # an area takes the mask of a* where it is better
    assert float(beside.optimal_area) <= float(listed.optimal_area)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=str)
def test_value_measured_again_reaches_the_threshold(network: nn.Module, precision: Any, game: str) -> None:
    """Scores in lower precision, or of another batch, differ by rounding."""
    x = torch.randn(6, 3, 24, 24)
    x[:, :, 6:14, 8:16] += 2
    found = ExtremalPerturbation(network.float()).extremal_masks(
        x,
        target=1,
        game=game,
        areas="optimal",
        score_threshold=lambda clean, perturbed: {
            "preserve": perturbed + 0.6 * (clean - perturbed),
            "delete": -clean + 0.6 * (clean - perturbed),
            "hybrid": 0.2 * (clean - perturbed),
        }[game],
        solver=PathSolver(steps=20, precision=precision),
    )
    again = found.optimal_value >= found.threshold
    assert bool((again | found.optimal_area.isnan()).all())
    possible = (
        found.threshold
        <= {
            "preserve": found.clean_score,
            "delete": -found.perturbed_score,
            "hybrid": found.clean_score - found.perturbed_score,
        }[game]
    )
    assert torch.equal(found.reached, possible | found.vacuous)
    assert bool((found.optimal_area[~found.vacuous & possible] > 0).all())


@pytest.mark.parametrize("game", GAMES)
def test_value_that_depends_on_the_batch_is_measured_as_the_result_measures_it(game: str) -> None:
    """As with rounding, but more of it: a score is higher if it is computed together with others."""
    weights = torch.stack([blob(8.3, 15.2), blob(14.1, 9.4)])

    def forward(x: Tensor) -> Tensor:
        return weigh(x, weights.repeat(len(x) // 2, 1, 1)) * (1 + 1e-3 * (len(x) > 2))

    x = torch.ones(2, 2, SIDE, SIDE, dtype=DOUBLE)
    threshold = {"preserve": 0.6, "delete": -0.4, "hybrid": 0.2}[game]
    found = ExtremalPerturbation(forward).extremal_masks(
        x, target=0, perturbation="fade", areas="optimal", game=game, score_threshold=threshold, solver=QUICK
    )
    assert found.optimal_area.isfinite().all()
    assert bool((found.optimal_value >= threshold).all())


@pytest.mark.parametrize("areas", ["optimal", None])
def test_vacuous_and_unreached_images_do_not_disturb_the_others(areas: str | None) -> None:
    weights = torch.stack([blob(8.3, 15.2)] * 3)
    thresholds = [-0.1, 0.5, 1.1]
    found = explain(weights, areas=areas, score_threshold=thresholds)
    alone = explain(weights[:1], areas=areas, score_threshold=0.5)
    assert found.vacuous.tolist() == [True, False, False]
    assert found.reached.tolist() == [True, True, False]
    assert found.optimal_area.tolist() == pytest.approx([0.0, float(alone.optimal_area), math.nan], nan_ok=True)
    assert not found.optimal_masks[0].any()
    torch.testing.assert_close(found.optimal_masks[1], alone.optimal_masks[0], rtol=0, atol=1e-6)
    assert bool((found.optimal_masks[2] == 1).all())
    assert found.optimal_sigma[0].isnan()


def test_vacuous_images_alone_take_no_step(counted: type) -> None:
    told: list[int] = []
    model = counted(lambda x: weigh(x, blob(8, 15)[None]))
    found = ExtremalPerturbation(model).extremal_masks(
        torch.ones(2, 2, SIDE, SIDE, dtype=DOUBLE),
        target=0,
        areas="optimal",
        score_threshold=-1.0,
        callback=lambda step, at, values: told.append(step),
    )
    assert found.optimal_area.tolist() == [0, 0]
    assert found.optimal_masks.shape == (2, 1, SIDE, SIDE)
    assert bool(found.optimal_sigma.isnan().all())
    assert told == []
    assert model.calls <= 6  # clean, perturbed, and the mask that was not searched for


@pytest.mark.parametrize("game", ["preserve", "hybrid"])
def test_image_that_leaves_the_batch_changes_nothing_for_the_others(counted: type, game: str) -> None:
    weights, shares = torch.stack([blob(8.3, 15.2), blob(14.1, 9.4), blob(11.2, 10.9, 2.0)]), [0.97, 0.1, 0.5]
    thresholds = shares if game == "preserve" else [2 * share - 1 for share in shares]
    x, told = torch.ones(3, 2, SIDE, SIDE, dtype=DOUBLE), []
    model = counted(weigh)
    how: dict[str, Any] = {"target": 0, "perturbation": "fade", "areas": "optimal", "game": game, "solver": QUICK}
    found = ExtremalPerturbation(model).extremal_masks(
        x,
        additional_forward_args=weights,
        score_threshold=thresholds,
        callback=lambda *report: told.append(report),
        **how,
    )
    assert [step for step, _, _ in told] == list(range(found.settings["steps"]))
    assert len({tuple(values.isnan().flatten().tolist()) for _, _, values in told}) > 1
    for _, at, values in told:
        assert at.shape == values.shape == (3, 1)
        assert torch.equal(at.isnan(), values.isnan())
    assert len(set(model.rows)) > 2  # fewer rows when one has left
    for n in range(3):
        alone = explain(weights[n : n + 1], game=game, score_threshold=thresholds[n])
        assert float(alone.optimal_area) == float(found.optimal_area[n])
        torch.testing.assert_close(alone.optimal_masks[0], found.optimal_masks[n], rtol=0, atol=1e-6)


def test_small_a_star_has_smaller_disks() -> None:
    side, family = 48, SmoothMask()
    small, large = blob(15, 30, 1.5, side), blob(24, 24, 9.0, side)
    found = explain(torch.stack([small, large]), score_threshold=0.5)
    assert float(found.optimal_area[0]) < 0.025
    assert float(found.optimal_area[1]) > 0.05
    assert (
        float(found.optimal_sigma[0]) < float(found.optimal_sigma[1]) == pytest.approx(family.sigma_for((side, side)))
    )
    assert float(found.optimal_area[0]) < 2 * least_possible(small, 0.5)


def test_searches_say_how_far_they_agree_at_a_star() -> None:
    weights = torch.stack([blob(8, 15), torch.full((SIDE, SIDE), 1 / SIDE**2, dtype=DOUBLE), blob(8, 8), blob(8, 8)])
    thresholds = [0.5, 0.95, -1.0, 0.3]  # the second leaves no room below the fork, the third is vacuous
    found = explain(weights, score_threshold=thresholds, solver=PathSolver(steps=30, searches=3))
    assert found.optimal_agreement.isnan().tolist() == [False, True, True, False]
    assert float(found.optimal_agreement[0]) > 0.6
    assert bool(explain(weights, score_threshold=0.5, solver=PathSolver(steps=9)).optimal_agreement.isnan().all())


def test_every_input_of_a_tuple_has_a_mask_of_the_same_area() -> None:
    first, second = torch.ones(2, 1, SIDE, SIDE, dtype=DOUBLE), torch.ones(2, 3, 16, dtype=DOUBLE)
    line = torch.linspace(0, 1, 16, dtype=DOUBLE)

    def forward(one: Tensor, two: Tensor) -> Tensor:
        return weigh(one, blob(8, 15)[None]) + (two.mean(1) * line).sum(1, keepdim=True) / line.sum()

    found = ExtremalPerturbation(forward).extremal_masks(
        (first, second), target=0, perturbation="fade", areas="optimal", score_threshold=[1.2, 0.6]
    )
    assert found.optimal_sigma.shape == (2, 2)
    for masks in found.optimal_masks:
        torch.testing.assert_close(masks.double().flatten(1).mean(1), found.optimal_area, rtol=0, atol=1e-5)
    assert bool((found.optimal_value >= found.threshold).all())


# What is left behind


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("of_layer", [False, True])
@pytest.mark.parametrize(("share", "error"), [(0.0, KeyboardInterrupt), (0.4, Stopped), (0.95, KeyboardInterrupt)])
def test_interrupted_search_leaves_nothing_behind(
    network: nn.Sequential, images: Tensor, of_layer: bool, share: float, error: type[BaseException]
) -> None:
    """Also while some images have left the batch, and in the search for a* behind the path."""
    solver = PathSolver(steps=20, refinement=1.0)

    def stop(step: int, areas: Tensor, values: Tensor) -> None:
        if step == int(share * expected.settings["steps"]):
            raise error

    before = {name: value.clone() for name, value in network.state_dict().items()}
    method: Any = LayerExtremalPerturbation(network, network[1]) if of_layer else ExtremalPerturbation(network)
    how = {"target": 1, "areas": "optimal", "solver": solver}
    how["score_threshold"] = lambda clean, perturbed: torch.stack(
        [perturbed[0] + 1e9, perturbed[1] + 0.3 * (clean - perturbed)[1].abs()]
    )
    expected = method.extremal_masks(images, **how)
    with pytest.raises(error):
        method.extremal_masks(images, callback=stop, **how)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    again = method.extremal_masks(images, **how)
    assert torch.equal(again.optimal_masks, expected.optimal_masks)
