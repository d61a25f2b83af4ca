"""How alike two maps are: rank correlation and structural similarity, the two numbers of Adebayo et al. 2018."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 11  # px, the side of ssim's window
_SIGMA = 1.5  # px
_STABILISERS = (0.01**2, 0.03**2)


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of maps, equal values sharing their mean rank.

    Args:
        maps, others: (N, *S) floating.

    Returns:
        (N,) float64 in [-1, 1]; NaN where either map is constant.

    Raises:
        TypeError, ValueError: they are no floating tensors of one shape.
    """
    _check_pair(maps, others)
    one, other = (torch.stack([_mean_ranks(row) for row in part.flatten(1)]) for part in (maps, others))
    one, other = (ranks - ranks.mean(1, keepdim=True) for ranks in (one, other))
    spread = one.square().sum(1).sqrt() * other.square().sum(1).sqrt()
    return (one * other).sum(1) / spread  # 0 / 0 is the NaN of a constant map


def _mean_ranks(values: Tensor) -> Tensor:
    _, which, count = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = count.cumsum(0) - (count.double() - 1) / 2
    return ranks[which]


def ssim(maps: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each pair of maps (Wang et al. 2004).

    With their window, a Gaussian of 1.5 px on 11 px, wherever it lies inside the map, and their constants for values
    between 0 and 1.

    Args:
        maps, others: (N, H, W) floating, at least 11 px a side, with values in [0, 1].

    Returns:
        (N,), 1 for equal maps.

    Raises:
        TypeError, ValueError: they are no floating tensors of one such shape.
    """
    _check_pair(maps, others)
    if maps.dim() != 3 or min(maps.shape[1:]) < WINDOW:
        raise ValueError(f"maps must be (N, H, W) with sides of at least {WINDOW} px, got {tuple(maps.shape)}")
    x, y = maps.double(), others.double()
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x, variance_y = _window_mean(x * x) - mean_x**2, _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = _STABILISERS
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (alike / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean((1, 2))


def _window_mean(maps: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, dtype=maps.dtype, device=maps.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights = weights / weights.sum()
    along_rows = functional.conv2d(maps.unsqueeze(1), weights.view(1, 1, 1, -1))
    return functional.conv2d(along_rows, weights.view(1, 1, -1, 1)).squeeze(1)


def unit_range(maps: Tensor) -> Tensor:
    """Each map (N, *S) stretched to [0, 1]; a constant one becomes 0."""
    flat = maps.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    spread = torch.where(high > low, high - low, math.inf)
    return ((flat - low) / spread).view_as(maps)


def _check_pair(maps: object, others: object) -> None:
    for name, part in (("maps", maps), ("others", others)):
        if not isinstance(part, Tensor) or not part.is_floating_point():
            got = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"{name} must be a floating tensor (N, *S), got {got}")
    if maps.shape != others.shape or maps.dim() < 2 or not maps.numel():  # type: ignore[attr-defined]
        shapes = f"{tuple(maps.shape)} and {tuple(others.shape)}"  # type: ignore[attr-defined]
        raise ValueError(f"maps and others must be (N, *S) of one shape, got {shapes}")
