"""Both solvers on models whose best mask is known, and the paper's descent step for step."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import ExtremalMasks, ExtremalPerturbation, PathSolver, PenaltySolver, SmoothMask
from captum_extremal.masks import BoundMask, ChannelMask
from captum_extremal.search.area import at_area, fit_area, mask_of_area
from captum_extremal.search.games import PRESERVE
from captum_extremal.search.path import area_schedule, open_schedule, path_position
from captum_extremal.search.problem import Found, Goal, Search
from captum_extremal.settings import InputSearchSettings, LayerSearchSettings
from fakes import FakeObjective, linear_objective

SIDE = 24
GAMES = ["preserve", "delete", "hybrid"]
# A weight that starts as strong as the models' pull and ends far above it.
SOLVERS = {
    "path": PathSolver(steps=80),
    "penalty": PenaltySolver(steps=120, learning_rate=0.05, weight=30.0, growth=1.02, flip=False),
}


def blob(row: float, column: float, radius: float = 4.0, side: int = SIDE) -> Tensor:
    """A bright spot (side, side) with a soft edge."""
    at = torch.arange(side, dtype=torch.float64)
    return torch.exp(-((at[:, None] - row) ** 2 + (at[None, :] - column) ** 2) / (2 * radius**2))


class Linear(nn.Module):
    """Scores (N, 1): the sum of the input's positions times a weight for each."""

    def __init__(self, weight: Tensor, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * weight / weight.sum())
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean(1) * self.weight).flatten(1).sum(1, keepdim=True)


def explain(model: nn.Module, images: int = 1, **settings: Any) -> ExtremalMasks:
    """White images fade to black: the score is the model's weight under the mask."""
    x = torch.ones(images, 2, SIDE, SIDE, dtype=torch.float64)
    return ExtremalPerturbation(model).extremal_masks(x, target=0, perturbation="fade", **settings)


def best_possible(weight: Tensor, area: float) -> float:
    """The weight under the best mask of all, smooth or not."""
    ranked = weight.flatten().sort(descending=True).values
    kept = area * ranked.numel()
    whole = int(kept)
    return float(ranked[:whole].sum() + (kept - whole) * ranked[min(whole, len(ranked) - 1)])


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_mask_lies_on_the_only_thing_that_counts(solver: str, game: str) -> None:
    weight = blob(8, 15)
    model = Linear(weight)
    found = explain(model, solver=SOLVERS[solver], areas=(0.1, 0.25), game=game)
    for index, area in enumerate((0.1, 0.25)):
        threshold = weight.flatten().sort(descending=True).values[round(area * SIDE**2)]
        brightest = weight > threshold
        kept = found.binary_masks()[0, index, 0]
        assert float((kept & brightest).sum() / (kept | brightest).sum()) > 0.75
        assert float(found.scores[0, index]) > 0.85 * best_possible(model.weight.detach(), area)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_small_area_picks_the_heavier_of_two_things_and_a_large_one_both(solver: str, game: str) -> None:
    light, heavy = blob(6, 6, 2.5), blob(17, 17, 2.5)
    found = explain(Linear(light + 1.6 * heavy), solver=SOLVERS[solver], areas=(0.05, 0.3), game=game)
    small, large = found.masks[0, :, 0].double()
    assert float((small * heavy).sum()) > 5 * float((small * light).sum())
    assert float((large * light).sum() / light.sum()) > 0.6
    assert float((large * heavy).sum() / heavy.sum()) > 0.6


@pytest.mark.parametrize("solver", SOLVERS)
def test_score_is_near_the_best_disk_found_by_trying_every_place(solver: str) -> None:
    area = 0.12
    model = Linear(blob(5, 17, 2.5) + 0.8 * blob(18, 6, 4.0) + 0.05)
    bound = SmoothMask().bind((SIDE, SIDE), "cpu", torch.float64, area)
    lattice = _lattice(bound)
    disks = torch.exp(-((torch.cdist(lattice[::3], lattice) / 3) ** 2))
    tried = mask_of_area(disks.clamp(1e-3, 1 - 1e-3), area, bound)
    best = float(model(tried).detach().max())
    assert float(explain(model, solver=SOLVERS[solver], areas=area).scores) > 0.97 * best


def _lattice(bound: BoundMask) -> Tensor:
    axes = [torch.arange(points, dtype=torch.float64) * bound.step for points in bound.lattice_shape]
    return torch.cartesian_prod(*axes)


@pytest.mark.parametrize("solver", SOLVERS)
def test_images_of_a_batch_are_solved_on_their_own(solver: str) -> None:
    places = [(6, 6), (12, 17), (18, 8)]
    weights = torch.stack([blob(*place, 3.0) for place in places])

    def forward(x: Tensor, weights: Tensor) -> Tensor:
        return (x.mean(1) * weights).flatten(1).sum(1, keepdim=True)

    x = torch.ones(3, 2, SIDE, SIDE, dtype=torch.float64)
    found = ExtremalPerturbation(forward).extremal_masks(
        x, target=0, additional_forward_args=weights, perturbation="fade", solver=SOLVERS[solver], areas=(0.08, 0.3)
    )
    at = torch.arange(SIDE, dtype=torch.float64)
    for mask, (row, column) in zip(found.masks[:, 0, 0].double(), places):
        assert float((mask.sum(1) * at).sum() / mask.sum()) == pytest.approx(row, abs=1.5)
        assert float((mask.sum(0) * at).sum() / mask.sum()) == pytest.approx(column, abs=1.5)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_path_does_not_know_the_models_scale(scale: float) -> None:
    weight = blob(8, 15)
    found = explain(Linear(weight, scale), solver=PathSolver(steps=20), areas=(0.1, 0.3))
    same = explain(Linear(weight), solver=PathSolver(steps=20), areas=(0.1, 0.3))
    torch.testing.assert_close(found.masks, same.masks, rtol=0, atol=0.02)  # rounding differs
    torch.testing.assert_close(found.scores / scale, same.scores / 20, rtol=1e-5, atol=0)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "solver",
    [PathSolver(steps=16), PenaltySolver(steps=40), PathSolver(steps=1), PenaltySolver(steps=1)],
    ids=["path", "penalty", "path in one step", "penalty in one step"],
)
def test_every_mask_has_exactly_its_area(
    make_network: Callable[..., nn.Module], solver: PathSolver, dtype: torch.dtype, game: str
) -> None:
    areas = (0.01, 0.05, 0.1, 0.4, 0.8, 0.95, 0.99, 1.0)
    x = torch.randn(2, 3, 20, 17, dtype=dtype)
    found = ExtremalPerturbation(make_network(dtype=dtype)).extremal_masks(
        x, target=1, areas=areas, solver=solver, game=game
    )
    measured = found.masks.double().flatten(2).mean(2)
    torch.testing.assert_close(measured, torch.tensor([areas] * 2, dtype=torch.float64), rtol=0, atol=1e-4)
    assert float(found.masks.min()) >= -1e-6
    assert float(found.masks.max()) <= 1 + 1e-6


def linear_search(
    weights: Tensor, areas: tuple[float, ...], reports: list[tuple[int, Tensor, Tensor]]
) -> tuple[Search, FakeObjective]:
    """A search whose value (R, N) is linear in the masks, with a weight (*S) for each of N images."""
    shape = tuple(weights.shape[1:])
    objective, fake = linear_objective(weights)
    bounds = [(SmoothMask().bind(shape, "cpu", torch.float64, area),) for area in areas]
    return Search(objective, PRESERVE, areas, bounds, lambda *told: reports.append(told)), fake


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"growth": 1.1, "learning_rate": 0.03},
        {"growth": 1.0, "doublings": (1 / 3, 2 / 3), "dampening": 0.0},
        {"momentum": 0.0, "dampening": 0.0, "weight": 50.0},
        {"growth": 1.0, "ramp": 0.5, "weight": 90.0},
        {"ramp": 1.0},
    ],
    ids=str,
)
def test_penalty_solver_is_the_papers_descent_step_for_step(settings: dict[str, Any], steps: int) -> None:
    areas, weights = (0.1, 0.5), torch.stack([blob(4, 9, 3.0, 14), blob(9, 3, 2.0, 14)])
    solver = PenaltySolver(steps=steps, flip=False, refinement=0.0, **settings)
    reports: list[tuple[int, Tensor, Tensor]] = []
    search, _ = linear_search(weights, areas, reports)
    found = solver.plan(search).run()
    for a, area in enumerate(areas):
        (bound,) = search.bounds[a]
        for n, weight in enumerate(weights):
            p = torch.ones(1, bound.parameters, dtype=torch.float64)
            velocity = None
            for step in range(steps):
                p.requires_grad_()
                m = bound(p)
                reward = (m[0, 0] * weight).sum()
                assert float(reports[step][2][a, n]) == pytest.approx(float(reward.detach()), abs=1e-9)
                kept = area * m.numel()
                r = (torch.arange(m.numel(), 0, -1, dtype=torch.float64) - 1).neg().add(kept).clamp(0, 1)
                doubled = sum(step >= at * steps for at in solver.doublings)
                risen = 1 if solver.ramp == 0 else min(step / (solver.ramp * steps), 1)
                weighed = solver.weight * risen * solver.growth**step * 2**doubled
                loss = weighed * ((m.flatten().sort().values - r) ** 2).mean() - reward
                (gradient,) = torch.autograd.grad(loss, p)
                velocity = (
                    gradient if velocity is None else solver.momentum * velocity + (1 - solver.dampening) * gradient
                )
                p = (p.detach() - solver.learning_rate * velocity).clamp(0, 1)
            torch.testing.assert_close(found.parameters[a][0][n : n + 1], p, rtol=0, atol=1e-9)


def test_presets_are_the_papers_and_the_released_codes() -> None:
    paper, released, channels = PenaltySolver.paper(), PenaltySolver.released(), PenaltySolver.channels()
    assert (paper.steps, paper.momentum, paper.weight, paper.growth) == (1600, 0.9, 300, 1)
    assert paper.doublings == (1 / 3, 2 / 3)
    assert not paper.flip
    assert (released.steps, released.learning_rate, released.momentum, released.dampening) == (800, 0.01, 0.9, 0.9)
    assert (released.weight, released.growth, released.doublings, released.flip) == (300, 1.0035, (), True)
    assert paper.ramp == released.ramp == 0
    assert (channels.steps, channels.learning_rate, channels.momentum) == (300, 0.01, 0.9)
    assert (channels.weight, channels.growth, channels.doublings, channels.flip) == (1500, 1, (), False)
    assert channels.ramp * channels.steps == 150


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (PenaltySolver(steps=4), [True, False, True, False]),
        (PenaltySolver(steps=4, flip=False), [False] * 4),
        (PathSolver(steps=4, refinement=0.0), [False] * 4),
    ],
    ids=["flip", "no flip", "path"],
)
def test_only_the_released_preset_flips_and_on_even_steps(solver: PenaltySolver, expected: list[bool]) -> None:
    search, fake = linear_search(blob(4, 9, 3.0, 14)[None], (0.5,), [])
    solver.plan(search).run()
    assert fake.flips == expected


@pytest.mark.parametrize("areas", [(0.2,), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8), (0.3, 0.97, 1.0), (1.0,)], ids=str)
@pytest.mark.parametrize("sweeps", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 9, 30])
def test_path_meets_every_area_in_the_steps_it_announced(steps: int, sweeps: int, areas: tuple[float, ...]) -> None:
    reports: list[tuple[int, Tensor, Tensor]] = []
    search, _ = linear_search(torch.stack([blob(4, 9, 3.0, 14)] * 3), areas, reports)
    plan = PathSolver(steps=steps, sweeps=sweeps, refinement=0.0).plan(search)
    found = plan.run()
    assert len(reports) == plan.steps
    assert [step for step, _, _ in reports] == list(range(len(reports)))
    assert len(areas) <= len(reports) <= sweeps * (steps + len(areas))
    assert areas == (1.0,) or len(reports) >= steps - len(areas)
    path = [area for _, at, _ in reports for area in at.tolist()]
    limit = max(path)  # the family's largest masks are no literal ones
    met = [sum(abs(min(area, limit) - passed) < 1e-9 for passed in path) for area in areas]
    assert min(met) >= 1
    turns = [path[0], *(b for a, b, c in zip(path, path[1:], path[2:]) if (b - a) * (c - b) < 0), path[-1]]
    assert len(turns) <= sweeps + 1
    assert sweeps > 1 or path == sorted(path, reverse=True)
    assert [p[0].shape for p in found.parameters] == [(3, search.bounds[0][0].parameters)] * len(areas)
    assert all(rewards.shape == (1, 3) for _, _, rewards in reports)


@pytest.mark.parametrize("areas", [(0.3, 0.94), (0.97,), (0.5, 1.0), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)], ids=str)
def test_first_area_of_the_path_is_not_met_at_once(areas: tuple[float, ...]) -> None:
    """Masks that were not searched for at all would be recorded there."""
    schedule = area_schedule(areas, steps=150, sweeps=1, start=0.95)
    before = next(step for step, (_, index) in enumerate(schedule) if index == len(areas) - 1)
    assert before > 1
    assert schedule[before][0] == min(areas[-1], 0.95)


def test_path_is_geometric_after_its_warm_up() -> None:
    schedule = area_schedule((0.05, 0.2), steps=60, sweeps=1, start=0.8)
    areas = [area for area, _ in schedule]
    warm_up = areas.count(0.8)
    assert 0 < warm_up < 15
    falls = torch.tensor([path_position(area) for area in areas[warm_up - 1 :]]).diff()
    expected = (path_position(0.05) - path_position(0.8)) / (60 - warm_up)
    assert falls.tolist() == pytest.approx([expected] * len(falls), rel=0.1)
    assert [index for _, index in schedule if index is not None] == [1, 0]


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_path_of_a_search_for_the_smallest_area_alone_goes_on_at_its_pace(steps: int) -> None:
    smallest, start = 0.004, 0.8
    areas = [area for area, index in open_schedule(steps, 1, start, smallest) if index is None]
    assert len(areas) == len(open_schedule(steps, 1, start, smallest))
    assert areas[0] == start
    falls = [path_position(earlier) - path_position(later) for earlier, later in pairwise(areas) if later < earlier]
    assert falls == pytest.approx([falls[-1]] * len(falls))
    assert smallest < areas[-1] <= smallest * math.exp(falls[-1])


def test_path_takes_longer_at_large_areas() -> None:
    assert path_position(0.8) - path_position(0.4) == pytest.approx(2 * math.log(2))
    assert path_position(0.2) - path_position(0.1) == pytest.approx(math.log(2))


def test_penalty_reports_every_area_at_every_step() -> None:
    reports: list[tuple[int, Tensor, Tensor]] = []
    search, _ = linear_search(torch.stack([blob(4, 9, 3.0, 14)] * 3), (0.2, 0.5), reports)
    plan = PenaltySolver(steps=5).plan(search)
    plan.run()
    assert [step for step, _, _ in reports] == list(range(5)) == list(range(plan.steps))
    for _, areas, rewards in reports:
        assert areas.tolist() == [0.2, 0.5]
        assert rewards.shape == (2, 3)
        assert not rewards.requires_grad


@pytest.mark.parametrize("solver", SOLVERS)
def test_callback_is_told_of_every_step(network: nn.Module, images: Tensor, solver: str) -> None:
    told: list[tuple[int, Tensor, Tensor]] = []
    quick = dataclasses.replace(SOLVERS[solver], steps=6)
    found = ExtremalPerturbation(network).extremal_masks(
        images, target=1, areas=(0.1, 0.3, 0.6), solver=quick, callback=lambda *report: told.append(report)
    )
    assert [step for step, _, _ in told] == list(range(found.settings["steps"]))
    for step, areas, scores in told:
        assert type(step) is int
        assert scores.shape == areas.shape == (2, 3 if solver == "penalty" and step < 6 else 1)
        assert bool(((areas > 0) & (areas <= 1)).all())


@pytest.mark.parametrize("searches", [1, 2, 3])
def test_one_search_forks_into_several_below_one_half(searches: int) -> None:
    reports: list[tuple[int, Tensor, Tensor]] = []
    search, fake = linear_search(torch.rand(2, 14, 14, dtype=torch.float64) ** 8, (0.1, 0.3, 0.7), reports)
    found = PathSolver(steps=20, searches=searches, refinement=0.0).plan(search).run().parameters
    seen = list(fake.seen)
    rows = [len(masks) // 2 for masks in seen[: len(reports)]]
    areas = [float(area) for _, area, _ in reports]
    assert rows == [1 if area >= 0.5 else searches for area in areas]
    forked = next(step for step, area in enumerate(areas) if area < 0.5)
    first, last = (seen[step].unflatten(0, (searches, 2)) for step in (forked, len(reports) - 1))
    assert torch.equal(first, first[:1].expand_as(first))
    assert len(torch.unique(last, dim=0)) == searches
    for masks, (_, area, best) in zip(seen, reports):
        rewards = fake.value((masks,)).view(-1, 2)
        torch.testing.assert_close(best[0], rewards.amax(0))
        for index, goal in enumerate(search.areas):
            if abs(float(area) - goal) < 1e-9:  # no search was better than what was kept
                kept = search.value(search.bounds[index], found[index])[0]
                assert bool((kept >= rewards.amax(0) - 1e-9).all())


def test_searches_lie_around_the_settings() -> None:
    """A search alone is the middle one of three."""
    weights = torch.rand(2, 14, 14, dtype=torch.float64) ** 8
    alone, middle = [], []
    for searches, masks in ((1, alone), (3, middle)):
        search, fake = linear_search(weights, (0.1,), [])
        PathSolver(steps=12, searches=searches).plan(search).run()
        masks += fake.seen
    for one, three in zip(alone[:12], middle[:12]):
        torch.testing.assert_close(three if len(three) == 2 else three[2:4], one)


@pytest.mark.parametrize("sweeps", [1, 2, 3])
def test_path_keeps_the_best_of_its_legs_for_each_image_and_area(sweeps: int) -> None:
    areas = (0.08, 0.2, 0.5)
    weights = torch.rand(6, 14, 14, dtype=torch.float64) ** 8
    reports: list[tuple[int, Tensor, Tensor]] = []
    search, _ = linear_search(weights, areas, reports)
    found = PathSolver(steps=12, sweeps=sweeps, refinement=0.0).plan(search).run().parameters
    for a, area in enumerate(areas):
        seen = torch.cat([rewards for _, at, rewards in reports if abs(float(at) - area) < 1e-9])
        kept = search.value(search.bounds[a], found[a])[0]
        assert bool((kept >= seen.amax(0) - 1e-9).all())
        assert area != 0.2 or len(seen) == sweeps


def test_areas_take_over_what_their_neighbours_found() -> None:
    """No mask is worse than that of the next larger area, tightened to its own."""
    areas = (0.08, 0.2, 0.5)
    search, _ = linear_search(torch.rand(6, 14, 14, dtype=torch.float64) ** 8, areas, [])
    found = PathSolver(steps=6, refinement=0.0).plan(search).run().parameters
    rewards = [search.value(bounds, p)[0] for p, bounds in zip(found, search.bounds)]
    for here, neighbour in ((0, 1), (1, 2)):
        bound = search.bounds[here][0]
        moved, _ = fit_area(torch.logit(found[neighbour][0], eps=1e-4), areas[here], bound)
        assert bool((rewards[here] >= search.value((bound,), (moved,))[0] - 1e-6).all())


@pytest.mark.parametrize(("game", "sweeps"), [("preserve", 1), ("hybrid", 1), ("delete", 2)])
def test_path_is_walked_back_for_games_that_only_remove(
    network: nn.Module, images: Tensor, game: str, sweeps: int
) -> None:
    default, chosen = (
        ExtremalPerturbation(network).extremal_masks(
            images, target=1, areas=(0.1, 0.4), game=game, solver=PathSolver(steps=8, sweeps=choice)
        )
        for choice in (None, sweeps)
    )
    assert torch.equal(default.masks, chosen.masks)
    assert default.settings["steps"] == chosen.settings["steps"]


def test_deletion_is_solved_where_a_saturated_score_has_no_gradient_at_first() -> None:
    """A model that is content with half of its evidence: flat until nearly nothing is left."""
    weight = blob(8, 15, 3.0)

    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(8 * ((x.mean(1) * weight).flatten(1).sum(1, keepdim=True) / weight.sum() - 0.5))

    found = explain(forward, solver=PathSolver(steps=40), game="delete", areas=(0.05, 0.2))
    assert float((found.masks[0, 1, 0] * weight).sum() / weight.sum()) > 0.6


@pytest.mark.parametrize("solver", SOLVERS)
def test_lower_precision_of_the_forward_changes_little(network: nn.Module, solver: str) -> None:
    x = torch.randn(1, 3, 16, 16)
    results = [
        ExtremalPerturbation(network.float()).extremal_masks(
            x, target=1, areas=0.3, solver=dataclasses.replace(SOLVERS[solver], steps=10, precision=precision)
        )
        for precision in (None, torch.bfloat16)
    ]
    assert results[1].scores.dtype == results[1].masks.dtype == torch.float32
    assert float(results[1].masks.mean()) == pytest.approx(0.3, abs=1e-4)
    assert not torch.equal(results[0].masks, results[1].masks)
    assert float((results[0].scores - results[1].scores).abs().max()) < 0.1 * float(results[0].clean_score.abs().max())


@pytest.mark.parametrize("solver", [PathSolver(steps=7), PenaltySolver.paper()], ids=["path", "penalty"])
def test_settings_are_frozen_values(solver: PathSolver) -> None:
    assert copy.deepcopy(solver) == solver
    assert hash(copy.deepcopy(solver)) == hash(solver)
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.steps = 3


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("steps", (0, -1), ValueError),
        ("steps", (2.0, True, "10"), TypeError),
        ("learning_rate", (0.0, -1.0, math.nan, math.inf), ValueError),
        ("learning_rate", ("0.1", None), TypeError),
        ("momentum", (-0.1, 1.0), ValueError),
        ("precision", (torch.int8, 16), TypeError),
        ("precision", ("bf16",), ValueError),
    ],
)
@pytest.mark.parametrize("solver", [PathSolver, PenaltySolver])
def test_bad_settings_are_named(solver: type, name: str, values: tuple[object, ...], error: type[Exception]) -> None:
    for value in values:
        with pytest.raises(error, match=name):
            solver(**{name: value})


@pytest.mark.parametrize(
    ("solver", "name", "value"),
    [
        (PathSolver, "sweeps", 0),
        (PathSolver, "decay", 1.0),
        (PathSolver, "binary_weight", -1.0),
        (PenaltySolver, "weight", -1.0),
        (PenaltySolver, "growth", 0.0),
        (PenaltySolver, "dampening", 1.1),
        (PenaltySolver, "doublings", (0.5, 1.5)),
        (PenaltySolver, "ramp", -0.1),
        (PenaltySolver, "ramp", 1.1),
        (PathSolver, "searches", 0),
        (PathSolver, "refinement", -0.1),
        (PenaltySolver, "refinement", -0.1),
    ],
)
def test_bad_settings_of_one_solver_are_named(solver: type, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        solver(**{name: value})


def test_solvers_by_name_are_the_defaults() -> None:
    assert InputSearchSettings(solver="path").chosen_solver() == PathSolver()
    assert InputSearchSettings(solver="penalty").chosen_solver() == PenaltySolver()
    assert LayerSearchSettings(solver="penalty").chosen_solver() == PenaltySolver.channels()
    own = PathSolver(steps=3)
    assert InputSearchSettings(solver=own).chosen_solver() is own


def test_users_own_solver_takes_a_solvers_place(network: nn.Module, images: Tensor) -> None:
    class Everything:
        flips = False
        steps = 1

        def plan(self, search: Search) -> Everything:
            self.search = search
            return self

        def run(self) -> Found:
            search = self.search
            search.report(0, torch.tensor([1.0]), torch.zeros(1, search.images))
            ones = [tuple(bound.new_parameters(search.images) + 1 for bound in bounds) for bounds in search.bounds]
            return Found(ones)

    found = ExtremalPerturbation(network).extremal_masks(images, target=1, areas=(0.4, 1.0), solver=Everything())
    assert found.masks.flatten(2).mean(2).tolist() == [pytest.approx([0.4, 1.0], abs=1e-5)] * 2
    assert torch.equal(found.masks[:, 1], torch.ones(2, 1, 16, 16))


@pytest.mark.parametrize(("steps", "learning_rate"), [(30, 0.35), (30, 0.5), (30, 0.6), (38, 0.3), (46, 0.5)])
def test_areas_take_the_mask_of_a_star_where_it_is_better(steps: int, learning_rate: float) -> None:
    """Two channels are worth something: the masks of areas above a* keep them, whatever the path had.

    At some of these settings, a mask of the path is enough because it is larger than its area by less than 1 %.
    """
    weights = torch.zeros(1, 10, dtype=torch.float64)
    weights[0, [2, 7]] = 1.0
    objective, _ = linear_objective(weights)
    bound = ChannelMask().bind(10, dtype=torch.float64)
    goal = Goal(
        threshold=torch.tensor([1.9], dtype=torch.float64),
        whole=torch.tensor([2.0], dtype=torch.float64),
        nothing=torch.zeros(1, dtype=torch.float64),
        unit=0.1,
        smallest=0.1,
        bounds_of=lambda area: (bound,),
        objective_of=lambda rows: objective,
    )
    areas = (0.2, 0.3)
    search = Search(objective, PRESERVE, areas, [(bound,)] * 2, lambda *told: None, goal)
    found = PathSolver(steps=steps, learning_rate=learning_rate, refinement=0.0).plan(search).run()
    assert found.optimum is not None
    assert found.optimum.area.tolist() == pytest.approx([0.2])
    for parameters, area in zip(found.parameters, areas):
        kept = parameters[0] @ weights[0]
        fitted = at_area(found.optimum.parameters[0], area, bound) @ weights[0]
        assert float(kept) >= float(fitted) - 1e-9
