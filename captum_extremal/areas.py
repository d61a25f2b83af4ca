"""The areas of a sweep: what is to be sought, reading them, and what they are as fractions of what masks cover.

Bad areas raise TypeError or ValueError.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_extremal.masks import Family, Layout

AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""The areas of section 4."""
OPTIMAL = "optimal"
"""What ``areas`` is where a* alone is searched."""

Areas = float | Sequence[float] | Tensor | str


@dataclass(frozen=True)
class Sought:
    """What a search is to find.

    Attributes:
        areas: fractions to sweep, increasing; none where a* alone is sought.
        beyond: whether a* is sought beyond the areas. If not, it is the smallest of them that is enough.
        instead: the areas among which a solver that only sweeps chooses a*, where there are none to sweep.
    """

    areas: tuple[float, ...]
    beyond: bool
    instead: tuple[float, ...] = ()


def check_areas(areas: object, counts: bool) -> tuple[int, ...] | tuple[float, ...]:
    """Areas as a tuple of fractions, or of integers where they are numbers of channels.

    Args:
        areas: a number or a sequence of numbers.
        counts: whether integers are numbers of channels.
    """
    values = _as_numbers(areas)
    whole = [counts and isinstance(value, Integral) for value in values]
    if any(whole) and not all(whole):
        raise TypeError(
            f"areas must be all integers, numbers of channels or groups, or all floats, fractions, got {areas!r}"
        )
    rising = all(before < after for before, after in pairwise(values))
    if whole[0]:
        if values[0] < 1 or not rising:
            raise ValueError(f"areas must be strictly increasing numbers of channels or groups from 1 up, got {values}")
        return tuple(map(int, values))
    if not all(0 < value <= 1 for value in values):
        raise ValueError(f"areas must be fractions in (0, 1], 0.05 for 5 %, got {values}")
    if not rising:
        raise ValueError(f"areas must be strictly increasing, got {values}")
    return tuple(map(float, values))


def _as_numbers(areas: object) -> list[Any]:
    """A flat list of at least one real number."""
    if isinstance(areas, (Tensor, np.ndarray)):
        areas = areas.tolist()
    if isinstance(areas, Real):
        areas = [areas]
    if isinstance(areas, (str, bytes, Iterator)) or not isinstance(areas, Iterable):
        raise TypeError(f"areas must be a number or a sequence of numbers, got {areas!r}")
    values = list(areas)
    if any(isinstance(value, Sequence) and not isinstance(value, str) for value in values):
        raise ValueError(f"areas must be one set of numbers for all images, got {areas!r}")
    if not all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
        raise TypeError(f"areas must be a number or a sequence of numbers, got {areas!r}")
    if not values:
        raise ValueError("areas must not be empty")
    return values


def as_fractions(
    areas: tuple[int, ...] | tuple[float, ...], layouts: Sequence[Layout], family: Family
) -> tuple[float, ...]:
    """Areas, checked by :func:`check_areas`, as fractions of what a family's masks of these layouts cover."""
    smallest = max(family.smallest_area(layout.shape) for layout in layouts)
    sizes, unit = sorted({count for layout in layouts for count in _counts(layout)}), layouts[0].unit
    of_tensor = layouts[0].counts is None
    if isinstance(areas[0], int):
        if len(sizes) > 1:
            what = "a layer with tensors" if of_tensor else "examples"
            raise ValueError(f"areas must be fractions for {what} of {sizes} {unit}, got {areas}")
        if areas[-1] > sizes[0]:
            whose = "the layer's " if of_tensor else ""
            raise ValueError(f"areas must be at most {whose}{sizes[0]} {unit}, got {areas}")
    fractions = tuple(area / sizes[0] if isinstance(area, int) else area for area in areas)
    if fractions[0] < smallest:
        raise ValueError(
            f"areas must be at least that of the smallest mask, {smallest:.3g} of the {unit}, got {areas[0]}"
        )
    return fractions


def _counts(layout: Layout) -> tuple[int, ...]:
    return layout.counts or (torch.Size(layout.shape).numel(),)
