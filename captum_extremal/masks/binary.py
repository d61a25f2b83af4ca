"""Binary masks of an exact area, and how far those of independent searches agree.

Shapes: N images, A areas, K channels, R independent searches. Masks are (N, A, 1, *S) or (N, A, K).
"""

from itertools import combinations

import torch
from torch import Tensor


def binarised(masks: Tensor, areas: Tensor) -> Tensor:
    """The highest values of each mask, as many as its area says: bool. Areas are (A,) or (N, A)."""
    flat = masks.flatten(2)
    kept = (areas * flat.shape[-1]).round().to(torch.int64)
    rank = flat.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (rank < kept[..., None]).view_as(masks)


def overlap(kept: Tensor) -> Tensor:
    """The IoU (..., R, R) of each two of R binary masks (..., R, P); 1 where both keep nothing."""
    values = kept.double()
    both = values @ values.mT
    alone = values.sum(-1)
    either = alone[..., None] + alone[..., None, :] - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).float()


def agreement(masks: tuple[Tensor, ...], area: float | Tensor, images: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """How far independent searches agree on the binary masks of one area.

    Args:
        masks: rows (R N, *mask_shape), mask-major, for each input tensor.
        area: of every mask, or of each image's (N,).
        images: N.

    Returns:
        the share of the searches that keep each position, (N, *mask_shape) for each input tensor, and the mean
        pairwise IoU (N,) over the positions of all inputs together. NaN for fewer than two searches.
    """
    areas = torch.as_tensor(area, dtype=masks[0].dtype, device=masks[0].device).expand(images)
    return agreement_of([binarised(rows.view(-1, images, *rows.shape[1:]), areas) for rows in masks], masks[0].dtype)


def agreement_of(kept: list[Tensor], dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor]:
    """:func:`agreement` of binary masks (R, N, *mask_shape), bool, for each input tensor."""
    searches, images = kept[0].shape[:2]
    if searches < 2:
        missing = tuple(torch.full_like(one[0], torch.nan, dtype=torch.float32) for one in kept)
        return missing, torch.full((images,), torch.nan, dtype=dtype, device=kept[0].device)
    flat = torch.cat([one.flatten(2) for one in kept], dim=2)  # (R, N, P)
    overlaps = [
        (one & other).sum(1) / (one | other).sum(1).clamp(min=1).to(dtype) for one, other in combinations(flat, 2)
    ]
    return tuple(one.float().mean(0) for one in kept), torch.stack(overlaps).mean(0)
