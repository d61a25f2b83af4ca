"""Projection onto an area, momentum, and projected ascent at an exact area, on objectives whose best mask is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_extremal import ChannelMask, PathSolver, PenaltySolver, SmoothMask
from captum_extremal.masks import BoundChannelMask, BoundMask
from captum_extremal.search.area import fit_limit, project
from captum_extremal.search.games import PRESERVE
from captum_extremal.search.momentum import Momentum
from captum_extremal.search.problem import Parameters, Record, Search
from captum_extremal.search.refinement import refine
from fakes import linear_objective

SIDE, IMAGES = 14, 3


def channels(count: int = 8) -> BoundMask:
    """Masks whose area is the plain mean of their parameters."""
    return ChannelMask().bind_areas((count,), torch.device("cpu"), torch.float64, (0.5,))[0]


def smooth(area: float = 0.3) -> BoundMask:
    return SmoothMask().bind((SIDE, SIDE), "cpu", torch.float64, area)


@pytest.mark.parametrize("area", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("make", [channels, smooth], ids=["channels", "smooth"])
def test_projection_has_the_area_and_only_shifts_and_clamps(make: object, area: float) -> None:
    bound: BoundMask = make()  # type: ignore[operator]
    values = 2 * torch.rand(IMAGES, bound.parameters, dtype=torch.float64) - 0.5
    p = project(values, area, bound)
    assert bound.area(bound.grid_values(p)).tolist() == pytest.approx([area] * IMAGES, abs=1e-9)
    between = (p > 0) & (p < 1)
    for row in range(IMAGES):
        shift = (values - p)[row][between[row]]
        assert float(shift.max() - shift.min()) < 1e-12
        torch.testing.assert_close(p[row], (values[row] - shift[0]).clamp(0, 1))


@pytest.mark.parametrize("area", [0.2, 0.5])
def test_projection_of_channels_is_the_nearest_point(area: float) -> None:
    """No mask of the area that is a step away from the projection is nearer to the values."""
    bound = channels()
    values = 2 * torch.rand(1, 8, dtype=torch.float64) - 0.5
    p = project(values, area, bound)
    near = float((p - values).norm())
    for one in range(8):
        for other in range(8):
            moved = p.clone()
            step = torch.minimum(torch.tensor(1e-3), torch.minimum(1 - p[0, one], p[0, other]))
            moved[0, one] += step
            moved[0, other] -= step
            assert float((moved - values).norm()) >= near - 1e-9


def test_projection_leaves_masks_of_the_area_alone() -> None:
    bound = smooth()
    p = project(torch.rand(IMAGES, bound.parameters, dtype=torch.float64), 0.3, bound)
    torch.testing.assert_close(project(p, 0.3, bound), p, rtol=0, atol=1e-9)


def test_projection_of_parameters_that_are_all_zero_or_one() -> None:
    bound = smooth()
    p = (torch.rand(IMAGES, bound.parameters) > 0.5).double()
    for area in (0.1, 0.9 * fit_limit(bound)):
        assert bound.area(bound.grid_values(project(p, area, bound))).tolist() == pytest.approx(
            [area] * IMAGES, abs=1e-6
        )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_momentum_knows_no_scale_and_tends_to_a_typical_step_of_one(scale: float) -> None:
    gradient = scale * torch.randn(2, 50, dtype=torch.float64)
    momentum = Momentum(0.8, gradient)
    first = momentum(gradient).clone()
    torch.testing.assert_close(first, 0.2 * gradient / gradient.square().mean(1, keepdim=True).sqrt())
    for _ in range(80):
        last = momentum(gradient)
    assert last.square().mean(1).sqrt().tolist() == pytest.approx([1, 1], abs=1e-6)


def test_momentum_goes_on_with_more_rows() -> None:
    gradients = torch.randn(6, 2, 9, dtype=torch.float64)
    plain, repeated = Momentum(0.5, gradients[0]), Momentum(0.5, gradients[0])
    for step, gradient in enumerate(gradients):
        if step == 3:
            repeated.repeat(2)
        rows = gradient.repeat(2, 1) if step >= 3 else gradient
        one, two = plain(gradient), repeated(rows)
        torch.testing.assert_close(two[:2], one)
        torch.testing.assert_close(two[-2:], one)


def test_momentum_goes_on_with_some_of_its_rows() -> None:
    gradients, rows = torch.randn(6, 4, 9, dtype=torch.float64), torch.tensor([True, False, True, True])
    every, some = Momentum(0.5, gradients[0]), Momentum(0.5, gradients[0])
    for step, gradient in enumerate(gradients):
        if step == 3:
            some.keep(rows)
        one, two = every(gradient), some(gradient[rows] if step >= 3 else gradient)
        torch.testing.assert_close(two, one[rows] if step >= 3 else one, rtol=0, atol=1e-12)


def test_better_record_is_chosen_image_by_image_and_the_first_of_equals() -> None:
    one = Record((torch.zeros(3, 2),), torch.tensor([1.0, 2.0, 3.0]))
    other = Record((torch.ones(3, 2),), torch.tensor([2.0, 2.0, 1.0]))
    best = one.or_better(other)
    assert best.value.tolist() == [2, 2, 3]
    assert best.parameters[0].tolist() == [[1, 1], [0, 0], [0, 0]]


Reports = list[tuple[int, Tensor, Tensor]]


def linear_search(
    weights: Tensor, bounds: list[BoundMask], areas: tuple[float, ...]
) -> tuple[Search, list[Tensor], Reports]:
    """A search whose value is linear in the masks, the masks it was asked for, and the reports."""
    reports: Reports = []
    objective, fake = linear_objective(weights)
    report = lambda *told: reports.append(told)  # noqa: E731
    return Search(objective, PRESERVE, areas, [(bound,) for bound in bounds], report), fake.seen, reports


def refined(search: Search, start: list[Parameters], steps: int, first_step: int = 0) -> list[Parameters]:
    """The parameters after a refinement from masks whose values are not known."""
    unknown = torch.full((search.images,), -torch.inf, dtype=torch.float64)
    records = [Record(parameters, unknown) for parameters in start]
    return [record.parameters for record in refine(search, records, steps, None, first_step)]


def test_refinement_of_channels_ends_at_the_heaviest_ones() -> None:
    """Equation 2 on a linear value: the area's number of largest weights, whatever the start."""
    weights = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0, 5.0, 0.5, 0.1]], dtype=torch.float64)
    search, _, _ = linear_search(weights, [channels()], (0.375,))
    start = torch.full((1, 8), 0.375, dtype=torch.float64)
    (found,) = refined(search, [(start,)], 600)
    expected = torch.tensor([[1, 0, 1, 0, 0, 1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(("equal", "area"), [(True, 0.5), (False, 0.5), (True, 0.55)])
def test_a_whole_number_of_channels_that_count_the_same_may_end_binary(equal: bool, area: float) -> None:
    """A step leaves grey values, which keep less of a linear value than as many whole channels in the same order."""
    weights = torch.arange(8, dtype=torch.float64)[None]
    bound = BoundChannelMask(torch.full((1, 8), 1 / 8, dtype=torch.float64), equal)
    search, _, _ = linear_search(weights, [bound], (area,))
    (found,) = refined(search, [(0.3 + weights / 20,)], 1)
    assert float(found[0].mean()) == pytest.approx(area, abs=1e-9)
    whole = torch.tensor([[0.0] * 4 + [1.0] * 4], dtype=torch.float64)
    assert torch.equal(found[0], whole) == (equal and area == 0.5)


def test_parameters_at_a_bound_come_back_when_the_reward_asks_for_it() -> None:
    """In logits they would be lost: their slope is 0 there."""
    weights = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    search, _, _ = linear_search(weights, [channels(4)], (0.25,))
    start = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    (found,) = refined(search, [(start,)], 300)
    assert float(found[0][0, 3]) > 0.95


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_mask_on_the_way_has_the_area_and_the_best_is_kept(steps: int) -> None:
    areas = (0.1, 0.4)
    weights = torch.rand(IMAGES, SIDE, SIDE, dtype=torch.float64) ** 8
    bounds = [smooth(area) for area in areas]
    search, seen, reports = linear_search(weights, bounds, areas)
    start: list[Parameters] = [(torch.rand(IMAGES, bounds[0].parameters, dtype=torch.float64),) for _ in areas]
    found = refined(search, start, steps, first_step=11)
    told = steps + 1
    assert [step for step, _, _ in reports] == list(range(11, 11 + 2 * told))
    assert [float(area) for _, area, _ in reports] == [0.1] * told + [0.4] * told
    assert len(seen) == 2 * told
    for masks, (_, area, _) in zip(seen, reports):
        assert masks.flatten(1).mean(1).tolist() == pytest.approx([float(area)] * IMAGES, abs=1e-6)
    for index, (bound, parameters) in enumerate(zip(bounds, found)):
        best = torch.cat([reward for _, _, reward in reports[index * told : (index + 1) * told]]).amax(0)
        kept = (bound(parameters[0]).flatten(1) * weights.flatten(1)).sum(1)
        torch.testing.assert_close(kept, best)
        assert bool((kept > reports[index * told][2][0]).all())  # one step is worth its pass already


def test_without_steps_what_was_found_stays() -> None:
    search, seen, _ = linear_search(torch.rand(1, 8, dtype=torch.float64), [channels()], (0.5,))
    found = [Record((torch.rand(1, 8, dtype=torch.float64),), torch.zeros(1, dtype=torch.float64))]
    assert refine(search, found, 0, None, 0) is found
    assert not seen


def test_area_above_the_familys_largest_is_refined_at_the_largest() -> None:
    bound = smooth(1.0)
    search, seen, _ = linear_search(torch.rand(1, SIDE, SIDE, dtype=torch.float64), [bound], (1.0,))
    refined(search, [(bound.new_parameters(1) + 1,)], 2)
    assert float(seen[-1].mean()) == pytest.approx(fit_limit(bound), abs=1e-6)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (PathSolver(steps=20, refinement=0.0), 0),
        (PathSolver(steps=20, refinement=0.4), 4),  # 8 passes, shared by two areas
        (PathSolver(steps=20, refinement=1.0), 10),
        (PathSolver(steps=1, refinement=0.4), 0),
        (PenaltySolver(steps=20, refinement=0.25), 5),
        (PenaltySolver(steps=20, refinement=0.0), 0),
    ],
    ids=str,
)
def test_solvers_refine_each_area_for_their_share_of_the_steps(
    solver: PathSolver | PenaltySolver, expected: int
) -> None:
    areas = (0.1, 0.4)
    bounds = [smooth(area) for area in areas]
    search, _, told = linear_search(torch.rand(1, SIDE, SIDE, dtype=torch.float64), bounds, areas)
    plan = solver.plan(search)
    plan.run()
    assert len(told) == plan.steps
    masks = expected + 1 if expected else 0
    refined = told[len(told) - 2 * masks :]
    assert [at.tolist() for _, at, _ in refined] == [[0.1]] * masks + [[0.4]] * masks
    before = told[len(told) - 2 * masks - 1]
    assert len(before[1]) == (2 if isinstance(solver, PenaltySolver) else 1)
