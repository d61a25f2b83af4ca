"""Masks over groups of features: one free value for each id of a feature mask, as in Captum's ``feature_mask``.

Shapes: N examples, G groups, B masks as rows (R N, G), mask-major; inputs (N, ...), feature masks broadcast to them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_extremal._checks import check_choice, check_count
from captum_extremal.masks.channels import BoundChannelMask, default_counts
from captum_extremal.masks.family import BoundMask, Layout
from captum_extremal.masks.smooth import DEFAULT_AREAS

MOST_GROUPS = 2**15
_ROUNDED = 1e-6  # of a group: what rounding may take from a number of groups

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class GroupMask:
    """The family of masks over groups of features, which ``feature_mask`` or ``layer_mask`` names by ids.

    Args:
        weights: what an area counts. "count": the groups, whatever their size. "size": the elements in them.
        passes: forward passes of each example that the search for a smaller set may take at the end. Where they are
            enough for all smaller sets, as the default is for 8 groups, none is smaller than the one found. The proof
            that no single group can be left out is not counted: see :attr:`~captum_extremal.ExtremalMasks.minimal`.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range.
    """

    weights: str = "count"
    passes: int = 256

    def __post_init__(self) -> None:
        check_choice("weights", self.weights, ("count", "size"))
        check_count("passes", self.passes, at_least=0)


@dataclass(frozen=True, eq=False)
class FeatureGroups:
    """The groups of one batch: a mask family of (R N, G) masks, one for all input tensors together.

    Make one with :meth:`of`.

    Attributes:
        mask: the settings.
        ids: (G,) int64, ascending.
        sizes: (N, G) or (1, G) float64, the elements of each group in each example; 0 where an example lacks it.
        index: for each input tensor the group of each element, (N, ...) or (1, ...), broadcast to the input.
    """

    mask: GroupMask
    ids: Tensor
    sizes: Tensor
    index: Tensors

    @classmethod
    def of(cls, mask: GroupMask, ids: Tensors, tensors: Tensors) -> FeatureGroups:
        """The groups of input tensors (N, ...), from ids of each that were checked by :func:`check_ids`."""
        every, counts = torch.unique(torch.cat([one.flatten() for one in ids])), []
        index = tuple(torch.searchsorted(every, one.contiguous()) for one in ids)
        for one, x in zip(index, tensors):
            rows = one.flatten(1) + len(every) * torch.arange(len(one), device=one.device)[:, None]
            found = torch.bincount(rows.flatten(), minlength=len(one) * len(every)).view(len(one), -1)
            counts.append(found.double() * (x[0].numel() / one[0].numel()))
        images = max(map(len, counts))
        sizes = torch.stack([one.expand(images, -1) for one in counts]).sum(0)
        return cls(mask, every, sizes[:1] if bool((sizes == sizes[:1]).all()) else sizes, index)

    @classmethod
    def of_every_column(cls, mask: GroupMask, tensors: Tensors) -> FeatureGroups:
        """Every element of an example is a group, numbered from 0 on through all tensors, as Captum numbers them."""
        ids, first = [], 0
        for x in tensors:
            one = first + torch.arange(x[0].numel(), device=x.device)
            ids.append(one.view(1, *x.shape[1:]))
            first += x[0].numel()
        if first > MOST_GROUPS:
            raise ValueError(
                f"feature_mask must be given for inputs of more than {MOST_GROUPS} elements, got None for {first}, "
                "each of which would be a group"
            )
        return cls.of(mask, tuple(ids), tensors)

    def __repr__(self) -> str:
        return repr(self.mask)

    @property
    def present(self) -> Tensor:
        """(N, G) or (1, G) bool: the groups that each example has."""
        return self.sizes > 0

    @property
    def weights(self) -> Tensor:
        """(N, G) or (1, G) float64, each group's share of the area; 0 where an example lacks it."""
        shares = self.sizes if self.mask.weights == "size" else self.present.double()
        return shares / shares.sum(1, keepdim=True)

    def of_images(self, rows: Tensor) -> FeatureGroups:
        """The groups of some examples, rows (n,), under the same ids."""
        sizes, *index = (one if len(one) == 1 else one[rows] for one in (self.sizes, *self.index))
        return replace(self, sizes=sizes, index=tuple(index))

    def spread(self, masks: Tensors) -> Tensors:
        """Masks (R N, G), a tuple of one, repeated over the elements: (R N, ...) for each input tensor."""
        return tuple(_spread(masks[0], index) for index in self.index)

    def filled(self, values: Tensor, area: float | Tensor) -> Tensor:
        """Masks (R N, G) of exactly an area that keep the groups of the highest values, and a part of the next one.

        Args:
            values: (R N, G).
            area: one for all masks or one for each (R N,).
        """
        repeats = len(values) // len(self.sizes)
        weights = self.weights.repeat(repeats, 1) if len(self.sizes) > 1 else self.weights.expand(len(values), -1)
        values = values.masked_fill(weights == 0, -torch.inf)
        order = values.argsort(dim=1, descending=True, stable=True)
        ranked = weights.gather(1, order)
        area = torch.as_tensor(area, dtype=torch.float64, device=values.device).expand(len(values))
        room = area[:, None] - (ranked.cumsum(1) - ranked)
        smallest = ranked.where(ranked > 0, torch.inf).amin(1, keepdim=True)
        kept = torch.where(ranked > 0, room / ranked.clamp(min=1e-30), 0).clamp(0, 1)
        whole = kept.round()
        kept = torch.where((kept - whole).abs() * ranked < _ROUNDED * smallest, whole, kept)
        return torch.zeros_like(kept).scatter_(1, order, kept).to(values.dtype)

    # As a mask family, but on all tensors at once

    def layout(self) -> Layout:
        """One value per group. The default areas are numbers of groups, where all examples have as many."""
        count = len(self.ids)
        by_size = self.mask.weights == "size"
        units = self.sizes.sum(1) if by_size else self.present.sum(1)
        every = tuple(sorted({int(one) for one in units.tolist()}))
        areas = default_counts(every[0]) if not by_size and len(every) == 1 else DEFAULT_AREAS
        return Layout((count,), (count,), "elements" if by_size else "groups", areas, every)

    def smallest_area(self, shape: tuple[int, ...]) -> float:
        """The smallest group, in the example where it is largest."""
        return float(self.weights.where(self.present, torch.inf).amin(1).amax())

    def bind_areas(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, areas: tuple[float, ...]
    ) -> list[BoundMask]:
        """The family of these groups, once for all areas."""
        return [BoundChannelMask(self.weights.to(device, dtype))] * len(areas)


def _spread(masks: Tensor, index: Tensor) -> Tensor:
    """The values (R N, ...) of masks (R N, G) at the groups of each element, (N, ...) or (1, ...)."""
    # Indexing, not gather, whose derivative is not deterministic on CUDA.
    if len(index) == 1:
        return masks[:, index[0]]
    rows = masks.view(-1, len(index), masks.shape[1])
    images = torch.arange(len(index), device=index.device)[:, None]
    return rows[:, images, index.flatten(1)].view(len(masks), *index.shape[1:])


def check_ids(name: str, given: object) -> Tensors:
    """The ids of a feature mask, as a tuple of int64 tensors, as far as they can be checked without the inputs.

    Raises:
        TypeError, ValueError: they are no tensors of integers, some are negative, or there are too many.
    """
    parts = given if isinstance(given, tuple) else (given,)
    if not parts:
        raise ValueError(f"{name} must hold at least one tensor, got an empty tuple")
    found = []
    for k, part in enumerate(parts):
        label = f"{name}[{k}]" if isinstance(given, tuple) else name
        if not isinstance(part, Tensor):
            raise TypeError(f"{label} must be a tensor of integers, got {type(part).__name__}")
        if part.is_floating_point() or part.is_complex() or part.dtype == torch.bool:
            raise TypeError(f"{label} must be a tensor of integers, the groups' ids, got {part.dtype}")
        if not part.numel():
            raise ValueError(f"{label} must not be empty, got shape {tuple(part.shape)}")
        if int(part.min()) < 0:
            raise ValueError(f"{label} must hold ids of at least 0, got {int(part.min())}")
        found.append(part.detach().to(torch.int64))
    count = len(torch.unique(torch.cat([part.flatten().cpu() for part in found])))
    if count > MOST_GROUPS:
        raise ValueError(f"{name} must hold at most {MOST_GROUPS} different ids, got {count}")
    return tuple(found)


def check_ids_fit(name: str, ids: Tensors, tensors: Tensors) -> Tensors:
    """The ids on the tensors' device.

    Raises:
        ValueError: they cannot be broadcast to the tensors.
    """
    if len(ids) != len(tensors):
        raise ValueError(f"{name} must be one tensor for each of {len(tensors)} tensors, got {len(ids)}")
    for k, (one, x) in enumerate(zip(ids, tensors)):
        label = f"{name}[{k}]" if len(ids) > 1 else name
        if one.dim() != x.dim() or any(ours not in (1, theirs) for ours, theirs in zip(one.shape, x.shape)):
            raise ValueError(
                f"{label} must have the shape of what it groups, {tuple(x.shape)}, or 1 "
                f"in dimensions over which it is repeated, got {tuple(one.shape)}"
            )
    return tuple(one.to(x.device) for one, x in zip(ids, tensors))
