"""Equation 4's ranking loss, and the exact area of equation 2 with its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captum_extremal import ChannelMask, SmoothMask, area_loss
from captum_extremal.masks import BoundMask
from captum_extremal.search.area import at_area, at_fixed_area, fit_area, fit_limit, mask_of_area, project


def literal_loss(mask: list[float], area: float) -> float:
    """The mean over positions of (vecsort(m) - r_a)^2, r_a = zeros, then a |Omega| ones."""
    ones = area * len(mask)
    whole = math.floor(ones + 1e-9)
    ranked = [1.0] * whole
    if len(ranked) < len(mask):
        ranked.append(ones - whole)
    ranked += [0.0] * (len(mask) - len(ranked))
    return sum((m - r) ** 2 for m, r in zip(sorted(mask), reversed(ranked))) / len(mask)


@given(
    mask=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    area=st.floats(0, 1),
)
def test_loss_is_the_literal_definition(mask: list[float], area: float) -> None:
    loss = area_loss(torch.tensor(mask, dtype=torch.float64), area)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(literal_loss(mask, area), abs=1e-8)


def test_each_mask_has_its_own_area() -> None:
    masks = torch.rand(3, 1, 4, 5, dtype=torch.float64)
    areas = torch.tensor([0.1, 0.33, 1.0], dtype=torch.float64)
    expected = [literal_loss(m.flatten().tolist(), float(a)) for m, a in zip(masks, areas)]
    torch.testing.assert_close(area_loss(masks, areas), torch.tensor(expected, dtype=torch.float64))
    one_for_all = [literal_loss(m.flatten().tolist(), 0.33) for m in masks]
    torch.testing.assert_close(area_loss(masks, 0.33), torch.tensor(one_for_all, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kept", [0, 1, 5, 8])
def test_loss_is_exactly_zero_for_binary_masks_of_the_area_and_only_for_them(kept: int, dtype: torch.dtype) -> None:
    masks = torch.zeros(4, 8, dtype=dtype)
    for row in masks:
        row[torch.randperm(8)[:kept]] = 1
    assert area_loss(masks, kept / 8).tolist() == [0, 0, 0, 0]
    masks[:, 0] = 0.5
    assert bool((area_loss(masks, kept / 8) > 0).all())


def test_gradient_of_the_loss_is_its_derivative() -> None:
    masks = torch.rand(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    areas = torch.tensor([0.2, 0.7], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: area_loss(m, areas), (masks,))


@pytest.mark.parametrize("area", [0.25, 0.7])
def test_descending_the_loss_makes_a_binary_mask_of_the_area(area: float) -> None:
    mask = torch.rand(20, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([mask], 0.5)
    for _ in range(1500):
        optimizer.zero_grad()
        area_loss(mask, area).backward()
        optimizer.step()
    assert sorted(mask.detach().round(decimals=3).tolist()) == [0.0] * round(20 - 20 * area) + [1.0] * round(20 * area)


@pytest.mark.parametrize(
    ("masks", "areas", "error", "named"),
    [
        ([0.5], 0.1, TypeError, "masks"),
        (torch.ones(2, 3, dtype=torch.int64), 0.1, TypeError, "masks"),
        (torch.tensor(0.5), 0.1, ValueError, "masks"),
        (torch.ones(0), 0.1, ValueError, "masks"),
        (torch.ones(2, 3), "0.1", TypeError, "areas"),
        (torch.ones(2, 3), [0.1, 0.2], TypeError, "areas"),
        (torch.ones(2, 3), -0.1, ValueError, "areas"),
        (torch.ones(2, 3), 1.1, ValueError, "areas"),
        (torch.ones(2, 3), math.nan, ValueError, "areas"),
        (torch.ones(2, 3), torch.tensor([0.1, math.nan]), ValueError, "areas"),
        (torch.ones(2, 3), torch.tensor([0.1, 0.2, 0.3]), ValueError, "areas"),
        (torch.ones(2, 3), torch.tensor([0.1]), ValueError, "areas"),
    ],
)
def test_bad_arguments_of_the_loss_are_named(masks: Tensor, areas: Tensor, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        area_loss(masks, areas)


def bind(dtype: torch.dtype = torch.float64, area: float = 1.0, shape: tuple[int, ...] = (18, 21)) -> BoundMask:
    return SmoothMask().bind(shape, "cpu", dtype, area)


LOGITS: dict[str, Callable[[tuple[int, int]], Tensor]] = {
    "random": lambda size: 2 * torch.randn(size, dtype=torch.float64),
    "constant": lambda size: torch.full(size, 3.0, dtype=torch.float64),
    "steep": lambda size: 30 * torch.randn(size, dtype=torch.float64),
    "binary": lambda size: 100 * torch.randint(-1, 2, size).double(),
    "one": lambda size: -50 + 100 * torch.eye(*size, dtype=torch.float64),
    "far": lambda size: 1000 + torch.randn(size, dtype=torch.float64),
}


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.float64, 1e-6)], ids=str)
@pytest.mark.parametrize("area", [0.01, 0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("logits", LOGITS)
def test_fitted_parameters_have_the_area_exactly(logits: str, area: float, dtype: torch.dtype, within: float) -> None:
    bound = bind(dtype, area)
    z = LOGITS[logits]((3, bound.parameters)).to(dtype)
    p, shift = fit_area(z, area, bound)
    assert p.shape == z.shape
    assert p.dtype == dtype
    assert not shift.requires_grad
    assert 0 <= float(p.min()) <= float(p.max()) <= 1
    assert bound(p).flatten(1).mean(1).tolist() == pytest.approx([area] * 3, abs=within)


def test_fitted_parameters_keep_the_order_of_the_logits() -> None:
    bound = bind()
    z = torch.randn(2, bound.parameters, dtype=torch.float64)
    p, shift = fit_area(z, 0.3, bound)
    torch.testing.assert_close(p, torch.sigmoid(z - shift[:, None]), rtol=0, atol=1e-12)


def test_rows_are_fitted_on_their_own() -> None:
    bound = bind()
    z = torch.randn(4, bound.parameters, dtype=torch.float64) * torch.tensor([[0.1], [1.0], [5.0], [50.0]])
    together, _ = fit_area(z, 0.2, bound)
    for row in range(4):
        torch.testing.assert_close(
            together[row : row + 1], fit_area(z[row : row + 1], 0.2, bound)[0], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("fit", [at_area, project, mask_of_area, lambda z, area, bound: fit_area(z, area, bound)[0]])
def test_an_area_for_each_row_is_that_row_alone(fit: Callable[..., Tensor], channels: bool) -> None:
    bound = ChannelMask().bind(40, "cpu", torch.float64) if channels else bind()
    areas = torch.tensor([0.03, 0.2, 0.5, 0.96 if fit is mask_of_area else 0.9], dtype=torch.float64)
    values = torch.rand(4, bound.parameters, dtype=torch.float64)
    together = fit(values, areas, bound)
    for row, area in enumerate(areas.tolist()):
        alone = fit(values[row : row + 1], area, bound)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-9)
    masks = together if fit is mask_of_area else bound(together)
    torch.testing.assert_close(masks.flatten(1).mean(1), areas, rtol=0, atol=1e-6)


def test_start_of_the_search_plays_no_part_in_its_end() -> None:
    bound = bind()
    z = torch.randn(2, bound.parameters, dtype=torch.float64)
    _, shift = fit_area(z, 0.2, bound)
    for start in (-100.0, 0.0, 30.0):
        _, again = fit_area(z, 0.2, bound, torch.full((2,), start, dtype=torch.float64))
        torch.testing.assert_close(again, shift, rtol=0, atol=1e-5)


def test_neighbouring_solution_needs_two_steps() -> None:
    bound = bind()
    z = torch.randn(2, bound.parameters, dtype=torch.float64)
    _, shift = fit_area(z, 0.2, bound)
    p, _ = fit_area(z + 0.2 * torch.randn_like(z), 0.19, bound, shift, steps=2)
    assert bound.area(bound.grid_values(p)).tolist() == pytest.approx([0.19] * 2, abs=1e-3)


class Kinked:
    """A family of one parameter whose area, by the shift, has a kink so sharp that Newton's steps leap across it.

    The log-odds of the area exceed those of 0.3 by the 0.52th power of the distance left of a shift of 0.7, and fall
    short by three times as much right of it: from a distance d, Newton's method goes to 0.92 d on the other side.
    """

    largest_area = 1.0

    def linearised(self, p: Tensor) -> SimpleNamespace:
        offset = torch.logit(p[:, 0]) + 0.7  # of the logit 0, less the shift
        steepness = torch.where(offset > 0, 1.0, 3.0)
        excess = offset.sign() * steepness * offset.abs() ** 0.52
        area = torch.sigmoid(math.log(0.3 / 0.7) + excess)
        by_offset = area * (1 - area) * 0.52 * steepness * offset.abs() ** -0.48
        gradient = by_offset[:, None] / (p * (1 - p))
        return SimpleNamespace(area=area, area_by_grid=torch.ones(1, 1), gradients=lambda *_: (gradient,))


def test_newtons_steps_that_leap_to_and_fro_are_cut_short() -> None:
    _, shift = fit_area(torch.zeros(1, 1, dtype=torch.float64), 0.3, Kinked())  # type: ignore[arg-type]
    assert float(shift) == pytest.approx(0.7, abs=1e-4)


@pytest.mark.parametrize("area", [0.1, 0.5])
def test_gradient_at_a_fixed_area_is_the_derivative_through_the_fit(area: float) -> None:
    bound = bind(shape=(8, 9))
    z = torch.randn(1, bound.parameters, dtype=torch.float64)
    p, shift = fit_area(z, area, bound)
    upstream = torch.randn_like(p)
    slope = p * (1 - p)
    here = bound.linearised(p)
    found = at_fixed_area(upstream * slope, here.gradients(here.area_by_grid)[0] * slope)
    step = 1e-5
    for k in range(0, bound.parameters, 7):
        ahead, behind = z.clone(), z.clone()
        ahead[0, k] += step
        behind[0, k] -= step
        change = fit_area(ahead, area, bound, shift)[0] - fit_area(behind, area, bound, shift)[0]
        assert float((change * upstream).sum()) / (2 * step) == pytest.approx(float(found[0, k]), rel=1e-4, abs=1e-8)


def test_gradient_at_a_fixed_area_changes_no_area() -> None:
    gradient, by_area = torch.randn(3, 9, dtype=torch.float64), torch.rand(3, 9, dtype=torch.float64)
    assert float(at_fixed_area(by_area, by_area).abs().max()) < 1e-12
    assert float(at_fixed_area(gradient, by_area).sum(1).abs().max()) < 1e-12
    free = torch.rand(3, 9) > 0.3
    of_free = at_fixed_area(gradient, by_area, free)
    assert float((of_free * free).sum(1).abs().max()) < 1e-12


@pytest.mark.parametrize("shape", [(40,), (18, 21), (26, 37), (8, 9, 10)], ids=str)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 2e-5), (torch.float64, 1e-6)], ids=str)
def test_masks_have_every_area_from_one_cell_to_all(shape: tuple[int, ...], dtype: torch.dtype, within: float) -> None:
    cell = SmoothMask().smallest_area(shape)
    for area in (cell, 2 * cell, 0.05, 0.1, 0.4, 0.8, 0.95, 0.97, 0.99, 0.999, 1.0):
        if area < cell:
            continue
        bound = bind(dtype, area, shape)
        p = torch.rand(2, bound.parameters, dtype=dtype)
        p = torch.stack([p[0], p[1].round()])
        mask = mask_of_area(p, area, bound)
        assert mask.shape == (2, 1, *shape)
        assert float(mask.min()) >= -1e-6
        assert float(mask.max()) <= 1 + 1e-6
        assert mask.double().flatten(1).mean(1).tolist() == pytest.approx([area] * 2, abs=within), area


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_mask_of_area_one_is_literally_one(p: float) -> None:
    bound = bind(torch.float32)
    mask = mask_of_area(torch.full((2, bound.parameters), p), 1.0, bound)
    assert torch.equal(mask, torch.ones_like(mask))


def test_parameters_that_have_the_area_are_left_alone() -> None:
    bound = bind()
    p, _ = fit_area(torch.randn(2, bound.parameters, dtype=torch.float64), 0.3, bound)
    assert torch.equal(mask_of_area(p, 0.3, bound), bound(p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_binary_channels_that_have_the_area_are_left_alone_row_by_row(dtype: torch.dtype) -> None:
    """Away from 0 by a ten-thousandth, 512 channels would take a twentieth of the only one that counts."""
    bound = ChannelMask().bind_areas((512,), torch.device("cpu"), dtype, (1 / 512,))[0]
    p = torch.zeros(2, 512, dtype=dtype)
    p[0, 7], p[1, :3] = 1, 1
    found = at_area(p, 1 / 512, bound)
    assert torch.equal(found[0], p[0])
    assert found.sum(1).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_largest_area_fitted_is_below_the_familys_largest() -> None:
    bound = bind()
    everything = bound(torch.ones(1, bound.parameters, dtype=torch.float64))
    assert float(everything.mean()) == pytest.approx(bound.largest_area, abs=1e-12)
    assert 0.9 < fit_limit(bound) < bound.largest_area <= 1
