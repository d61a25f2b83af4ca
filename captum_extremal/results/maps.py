"""What is computed from the masks of a sweep: pointing maps, and how binary the masks are.

Shapes: N images, A areas, K channels. Masks are (N, A, 1, *S) or (N, A, K).
"""

import torch
from torch import Tensor

from captum_extremal.masks.lengths import scales
from captum_extremal.perturbations import gaussian_blur

SALIENCY_BLUR = 0.09  # of the shorter side (section 4.2)
_CONTRAST_BLUR = 0.01  # of the shorter side, so that no single noisy pixel is the maximum


def binariness(masks: Tensor) -> Tensor:
    """Sum m^2 / sum m, (N, A)."""
    flat = masks.flatten(2)
    return flat.square().sum(-1) / flat.sum(-1).clamp(min=1e-30)


def is_grey(binariness: float, area: float) -> bool:
    """Whether a mask is nearer to a constant one of its area than to a binary one: its outline says little."""
    return 0 < binariness < (1 + area) / 2


def summed(masks: Tensor, blur: float) -> Tensor:
    """The sum over the areas, blurred by a fraction of the shorter side: (N, 1, *S), or (N, K) without a blur."""
    total = masks.sum(1)
    return gaussian_blur(total, _scaled(blur, total), "zeros", normalise=True)


def refined(masks: Tensor, areas: Tensor, contrast: Tensor) -> Tensor:
    """The mean weighted by 1 / a^2, and the contrast (N, 1, *S) where all masks agree: (N, 1, *S)."""
    weights = areas**-2 / (areas**-2).sum()
    weights = weights.to(masks).view(-1, *[1] * (masks.dim() - 2))
    detail = gaussian_blur(contrast.to(masks), _scaled(_CONTRAST_BLUR, contrast), "zeros", normalise=True)
    strongest = detail.flatten(1).amax(1).clamp(min=1e-30).view(-1, *[1] * (detail.dim() - 1))
    return (weights * masks).sum(1) + masks.prod(1) * detail / strongest


def _scaled(fraction: float, maps: Tensor) -> list[float]:
    """A fraction of the shorter side, as a length along each axis of maps (N, 1, *S); none for (N, K)."""
    return [fraction * side for side in scales(maps.shape[2:])]


def first_area(kept: Tensor, areas: Tensor) -> Tensor:
    """The smallest area whose binary mask, bool, keeps each position, 1 where none does: (N, 1, *S) or (N, K)."""
    held = areas.view(-1, *[1] * (kept.dim() - 2))
    return torch.where(kept, held, torch.ones_like(held)).amin(1)
