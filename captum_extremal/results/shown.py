"""What is shown of one image of a result: its masks in the order of their areas, a* among them.

Shapes: N images, A areas, K channels or groups, C, H, W. A mask is (1, *S) or (K,).
"""

from typing import NamedTuple

import torch
from captum.attr import LayerAttribution
from torch import Tensor

from captum_extremal.results.extremal_masks import ExtremalMasks
from captum_extremal.results.tensors import as_tuple

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by the number of axes


class Shown(NamedTuple):
    """One mask of one image."""

    area: float
    mask: Tensor  # (1, *S) or (K,)
    score: float  # of what it keeps
    complement: float  # of what it removes
    value: float  # of the game
    agreement: float  # of independent searches; NaN where it is not known
    shares: Tensor | None  # (1, *S) or (K,), of the searches that keep each position; None where it is not known
    is_optimum: bool
    place: int  # among the A areas; A for a mask of a* that lies between them


def shown_masks(one: ExtremalMasks, part: int = 0) -> list[Shown]:
    """The masks of one image (N = 1) over one of its input tensors, that of a* too where none of the areas has it.

    Without areas there is one mask: that of a*, or what stands for it where nothing is needed or enough.
    """
    masks, best, shares = (as_tuple(given)[part][0] for given in (one.masks, one.optimal_masks, one.agreement))
    known = ~one.agreement_score[0].isnan()
    same = (one.areas == one.optimal_area) & one.reached & (masks == best).flatten(1).all(1)
    numbers = torch.stack([one.scores[0], one.complement_scores[0], one.values[0], one.agreement_score[0]], dim=1)
    listed = []
    for k, area in enumerate(one.areas.tolist()):
        score, complement, value, agreement = numbers[k].tolist()
        of_searches = shares[k] if bool(known[k]) else None
        listed.append(Shown(area, masks[k], score, complement, value, agreement, of_searches, bool(same[k]), k))
    between = bool(one.reached) and not bool(one.vacuous) and not bool(same.any())
    if between or not listed:
        listed.append(shown_optimum(one, part))
    return sorted(listed, key=lambda shown: shown.area)


def shown_optimum(one: ExtremalMasks, part: int = 0) -> Shown:
    """The mask of a* of one image (N = 1), or what stands for it where nothing is needed or enough."""
    best = as_tuple(one.optimal_masks)[part][0]
    numbers = torch.cat([one.optimal_score, one.optimal_complement_score, one.optimal_value, one.optimal_agreement])
    score, complement, value, agreement = numbers.tolist()
    place = len(one.areas)
    return Shown(shown_area(one), best, score, complement, value, agreement, None, bool(one.reached), place)


def shown_area(one: ExtremalMasks) -> float:
    """a* of one image (N = 1), or the area of what stands for its mask where no area is enough."""
    return float(one.optimal_area if bool(one.reached) else as_tuple(one.optimal_masks)[0].mean())


def resized(mask: Tensor, size: tuple[int, ...] | None) -> Tensor:
    """A mask (1, *S) in an input's size, which only those of a layer's positions do not have already."""
    if size is None or tuple(mask.shape[1:]) == size:
        return mask
    return LayerAttribution.interpolate(mask[None], size, _MODES[len(size)])[0]
