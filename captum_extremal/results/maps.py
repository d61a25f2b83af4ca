"""What is computed from the masks of a sweep: pointing maps, binary masks, and how far searches agree.

Shapes: N images, A areas, K channels, R independent searches. Masks are (N, A, 1, *S) or (N, A, K).
"""

from itertools import combinations

import torch
from torch import Tensor

from captum_extremal.perturbations import gaussian_blur

SALIENCY_BLUR = 0.09  # of the shorter side (section 4.2)
_CONTRAST_BLUR = 0.01  # of the shorter side, so that no single noisy pixel is the maximum


def binariness(masks: Tensor) -> Tensor:
    """Sum m^2 / sum m, (N, A)."""
    flat = masks.flatten(2)
    return flat.square().sum(-1) / flat.sum(-1).clamp(min=1e-30)


def summed(masks: Tensor, blur: float) -> Tensor:
    """The sum over the areas, blurred by a fraction of the shorter side: (N, 1, *S), or (N, K) without a blur."""
    total = masks.sum(1)
    sigma = blur * min(total.shape[2:], default=0)
    return gaussian_blur(total, sigma, "zeros", normalise=True) if sigma else total


def refined(masks: Tensor, areas: Tensor, contrast: Tensor) -> Tensor:
    """The mean weighted by 1 / a, and the contrast (N, 1, *S) where all masks agree: (N, 1, *S)."""
    weights = (1 / areas / (1 / areas).sum()).to(masks).view(-1, *[1] * (masks.dim() - 2))
    detail = gaussian_blur(contrast.to(masks), _CONTRAST_BLUR * min(contrast.shape[2:]), "zeros", normalise=True)
    strongest = detail.flatten(1).amax(1).clamp(min=1e-30).view(-1, *[1] * (detail.dim() - 1))
    return (weights * masks).sum(1) + masks.prod(1) * detail / strongest


def binary(masks: Tensor, areas: Tensor) -> Tensor:
    """The highest values of each mask, as many as its area says: bool. Areas are (A,) or (N, A)."""
    flat = masks.flatten(2)
    kept = (areas * flat.shape[-1]).round().to(torch.int64)
    rank = flat.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (rank < kept[..., None]).view_as(masks)


def first_area(masks: Tensor, areas: Tensor) -> Tensor:
    """The smallest area whose binary mask keeps each position, 1 where none does: (N, 1, *S) or (N, K)."""
    held = areas.view(-1, *[1] * (masks.dim() - 2))
    return torch.where(binary(masks, areas), held, torch.ones_like(held)).amin(1)


def agreement(masks: tuple[Tensor, ...], area: float, images: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """How far independent searches agree on the binary masks of one area.

    Args:
        masks: rows (R N, *mask_shape), mask-major, for each input tensor.
        area: of every mask.
        images: N.

    Returns:
        the share of the searches that keep each position, (N, *mask_shape) for each input tensor, and the mean
        pairwise IoU (N,) over the positions of all inputs together. NaN for fewer than two searches.
    """
    kept = [binary(rows.view(-1, images, *rows.shape[1:]), rows.new_full((images,), area)) for rows in masks]
    if len(kept[0]) < 2:
        missing = tuple(torch.full_like(rows[:images], torch.nan, dtype=torch.float32) for rows in masks)
        return missing, masks[0].new_full((images,), torch.nan)
    flat = torch.cat([one.flatten(2) for one in kept], dim=2)  # (R, N, P)
    overlaps = [
        (one & other).sum(1) / (one | other).sum(1).clamp(min=1).to(masks[0]) for one, other in combinations(flat, 2)
    ]
    return tuple(one.float().mean(0) for one in kept), torch.stack(overlaps).mean(0)
