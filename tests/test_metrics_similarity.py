"""Rank correlation and structural similarity: by hand, against loops, and against SciPy and scikit-image."""

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


@pytest.mark.parametrize("shape", [(3, 17), (3, 9, 6), (2, 4, 5, 3)], ids=str)
def test_rank_correlation_is_scipys(shape: tuple[int, ...]) -> None:
    stats = pytest.importorskip("scipy.stats")
    maps, others = rounded_maps(*shape), rounded_maps(*shape)
    expected = [stats.spearmanr(one.flatten(), other.flatten()).statistic for one, other in zip(maps, others)]
    np.testing.assert_allclose(rank_correlation(maps, others), expected, rtol=0, atol=1e-12)


def test_ssim_of_equal_maps_is_one_and_symmetric_otherwise() -> None:
    maps, others = rounded_maps(2, 14, 12), rounded_maps(2, 14, 12)
    torch.testing.assert_close(ssim(maps, maps), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(ssim(maps, others), ssim(others, maps))
    assert float(ssim(maps, others).max()) < 0.9


def test_ssim_of_constants_compares_their_brightness() -> None:
    found = ssim(torch.full((1, 11, 13), 0.2), torch.full((1, 11, 13), 0.6))
    assert float(found) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))


def test_ssim_is_the_formula_of_its_paper() -> None:
    one, other = rounded_maps(13, 12), rounded_maps(13, 12)
    weights = torch.tensor([[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)])
    weights = (weights / weights.sum()).double()
    values = []
    for row in range(13 - 10):
        for column in range(12 - 10):
            x, y = (part[row : row + 11, column : column + 11] for part in (one, other))
            mean_x, mean_y = float((weights * x).sum()), float((weights * y).sum())
            variance_x = float((weights * (x - mean_x) ** 2).sum())
            variance_y = float((weights * (y - mean_y) ** 2).sum())
            covariance = float((weights * (x - mean_x) * (y - mean_y)).sum())
            values.append(
                (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
                / ((mean_x**2 + mean_y**2 + 1e-4) * (variance_x + variance_y + 9e-4))
            )  # fmt: skip
    assert float(ssim(one[None], other[None])) == pytest.approx(np.mean(values), abs=1e-6)


def test_ssim_is_scikit_images() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    maps, others = rounded_maps(2, 21, 16), rounded_maps(2, 21, 16)
    expected = [
        metrics.structural_similarity(
            one.numpy(), other.numpy(), data_range=1, gaussian_weights=True, use_sample_covariance=False
        )
        for one, other in zip(maps, others)
    ]
    np.testing.assert_allclose(ssim(maps, others), expected, rtol=0, atol=1e-9)


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
