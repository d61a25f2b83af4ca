"""Rank correlation and structural similarity: by hand and against their literal definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_extremal.metrics import rank_correlation, ssim


def rounded_maps(*shape: int) -> Tensor:
    """Random maps with many equal values."""
    return (torch.rand(shape, dtype=torch.float64) * 8).round() / 8


def test_rank_correlation_sees_the_order_alone() -> None:
    maps = torch.rand(3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(rank_correlation(maps, maps.exp()), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(rank_correlation(maps, -(maps**3)), -torch.ones(3, dtype=torch.float64))


def test_equal_values_share_their_mean_rank() -> None:
    one, other = torch.tensor([[1.0, 2.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0, 4.0]])
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, sums of squares 4.5 and 5
    assert float(rank_correlation(one, other)) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_rank_correlation_of_a_constant_is_nan() -> None:
    found = rank_correlation(torch.stack([torch.ones(4, 4), torch.rand(4, 4)]), torch.rand(2, 4, 4))
    assert found.isnan().tolist() == [True, False]


@pytest.mark.parametrize("make", [rounded_maps, torch.rand], ids=["ties", "no ties"])
@pytest.mark.parametrize("shape", [(3, 17), (3, 9, 6), (2, 4, 5, 3), (1, 1)], ids=str)
def test_rank_correlation_is_pearsons_of_mean_ranks(shape: tuple[int, ...], make: Any) -> None:
    """SciPy's definition is the literal one: a rank is how many values are smaller, and half of the equal ones."""
    maps, others = make(*shape).flatten(1), make(*shape).flatten(1)
    maps[0] = maps[0, 0]  # a constant map
    one, other = (
        (part[:, :, None] > part[:, None]).double().sum(2) + (part[:, :, None] == part[:, None]).double().sum(2) / 2
        for part in (maps, others)
    )
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    expected = (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()
    assert bool(expected[0].isnan())
    found = rank_correlation(maps.view(shape), others.view(shape))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, equal_nan=True)


def test_ssim_of_equal_maps_is_one_and_symmetric_otherwise() -> None:
    maps, others = rounded_maps(2, 14, 12), rounded_maps(2, 14, 12)
    torch.testing.assert_close(ssim(maps, maps), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(ssim(maps, others), ssim(others, maps))
    assert float(ssim(maps, others).max()) < 0.9


def test_ssim_of_constants_compares_their_brightness() -> None:
    found = ssim(torch.full((1, 11, 13), 0.2), torch.full((1, 11, 13), 0.6))
    assert float(found) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))


@pytest.mark.parametrize("make", [rounded_maps, torch.rand, torch.zeros], ids=["ties", "no ties", "constant"])
def test_ssim_is_the_formula_of_its_paper(make: Any) -> None:
    """scikit-image's definition is the literal one, with the weights of a Gaussian that sum to 1 in every window."""
    one, other = make(2, 13, 12).double(), rounded_maps(2, 13, 12)
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    weights = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    x, y = (part.unfold(1, 11, 1).unfold(2, 11, 1) for part in (one, other))  # (N, rows, columns, 11, 11)

    def mean(windows: Tensor) -> Tensor:
        return (weights * windows).sum((3, 4))

    mean_x, mean_y = mean(x), mean(y)
    off_x, off_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
    alike = (2 * mean_x * mean_y + 1e-4) * (2 * mean(off_x * off_y) + 9e-4)
    expected = alike / ((mean_x**2 + mean_y**2 + 1e-4) * (mean(off_x**2) + mean(off_y**2) + 9e-4))
    torch.testing.assert_close(ssim(one, other), expected.mean((1, 2)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("compare", [rank_correlation, ssim])
@pytest.mark.parametrize(
    ("maps", "others", "error"),
    [
        (torch.rand(2, 12, 12), torch.rand(2, 12, 13), ValueError),
        (torch.rand(0, 12, 12), torch.rand(0, 12, 12), ValueError),
        (torch.rand(12), torch.rand(12), ValueError),
        (torch.ones(2, 12, 12).int(), torch.rand(2, 12, 12), TypeError),
        (torch.rand(2, 12, 12), np.ones((2, 12, 12)), TypeError),
    ],
)
def test_bad_maps_are_named(compare: Any, maps: Any, others: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"maps|others"):
        compare(maps, others)


def test_ssim_needs_room_for_its_window() -> None:
    with pytest.raises(ValueError, match="11"):
        ssim(torch.rand(1, 10, 30), torch.rand(1, 10, 30))
