"""How alike two maps are: rank correlation and structural similarity, as in Adebayo et al. 2018."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import scipy
import skimage
import torch
from torch import Tensor

WINDOW = 11  # px, the side of ssim's window, which a Gaussian of 1.5 px has in scikit-image
_GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of maps, by SciPy; equal values share their mean rank.

    Args:
        maps, others: (N, *S) floating.

    Returns:
        (N,) float64 in [-1, 1]; NaN where either map is constant.

    Raises:
        TypeError, ValueError: they are no floating tensors of one shape.
    """
    _check_pair(maps, others)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "An input array is constant")  # its NaN says so
        return _by_pair(lambda one, other: scipy.stats.spearmanr(one.ravel(), other.ravel())[0], maps, others)


def ssim(maps: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each pair of maps (Wang et al. 2004), by scikit-image.

    The window is that of the paper, a Gaussian of 1.5 px on 11 px, at every place where it lies inside the map, with
    the paper's constants for values between 0 and 1.

    Args:
        maps, others: (N, H, W) floating, at least 11 px a side, with values in [0, 1].

    Returns:
        (N,) float64, 1 for equal maps.

    Raises:
        TypeError, ValueError: they are no floating tensors of one such shape.
    """
    _check_pair(maps, others)
    if maps.dim() != 3 or min(maps.shape[1:]) < WINDOW:
        raise ValueError(f"maps must be (N, H, W) with sides of at least {WINDOW} px, got {tuple(maps.shape)}")
    compare: Any = skimage.metrics.structural_similarity
    return _by_pair(lambda one, other: compare(one, other, **_GAUSSIAN), maps, others)


def _by_pair(compare: Callable[[Any, Any], float], maps: Tensor, others: Tensor) -> Tensor:
    pairs = zip(*(part.detach().cpu().double().numpy() for part in (maps, others)))
    return torch.tensor([compare(*pair) for pair in pairs], dtype=torch.float64, device=maps.device)


def _check_pair(maps: Tensor, others: Tensor) -> None:
    for name, part in {"maps": maps, "others": others}.items():
        if not isinstance(part, Tensor) or not part.is_floating_point():
            raise TypeError(f"{name} must be a floating tensor (N, *S), got {getattr(part, 'dtype', type(part))}")
    if maps.shape != others.shape or maps.dim() < 2 or not maps.numel():
        raise ValueError(
            f"maps and others must be (N, *S) of one shape, got {tuple(maps.shape)} and {tuple(others.shape)}"
        )
