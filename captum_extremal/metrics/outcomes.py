"""One number per pair of image and class, as plain values that can be written down and put together later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import TargetType
from captum_extremal.metrics._maps import as_tensor

Label = int | str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A metric's value for one image and one class in it; ``dataclasses.asdict`` makes a JSON row of it.

    Attributes:
        image: which image; None for one of its own.
        label: which class.
        value: the metric's value; None if the pair was skipped because nothing of the class is annotated.
        difficult: whether the pair belongs to the difficult subset.
    """

    image: Label | None
    label: Label
    value: float | None
    difficult: bool = False


def outcomes_of(
    values: Tensor | Sequence[float],
    target: TargetType = None,
    *,
    images: Sequence[Label] | None = None,
    labels: Sequence[Label] | None = None,
    difficult: Sequence[bool] | None = None,
) -> list[Outcome]:
    """Outcomes of any metric with one number per pair, such as ``insertion_deletion(...).insertion_auc``.

    Args:
        values: (N,), finite.
        target: as the metric was given it.
        images, labels, difficult: as :func:`~captum_extremal.metrics.pointing_game` takes them.

    Raises:
        TypeError: the values are no numbers, or a name is neither integer nor string.
        ValueError: the values are not (N,) or not finite, or there is not one name or flag for each.
    """
    numbers = as_tensor("values must be numbers (N,)", values, torch.float64)
    if numbers.dim() != 1 or not bool(numbers.isfinite().all()):
        raise ValueError(f"values must be finite numbers (N,), got shape {tuple(numbers.shape)}")
    pairs = describe_pairs(len(numbers), target, images, labels, difficult)
    return [Outcome(**pair, value=value) for pair, value in zip(pairs, numbers.tolist())]


def describe_pairs(
    count: int,
    target: TargetType,
    images: Sequence[Label] | None,
    labels: Sequence[Label] | None,
    difficult: Sequence[bool] | None,
) -> list[dict[str, Any]]:
    """The fields image, label and difficult of each pair's outcome; by default the label is the target, or 0."""
    fields = {
        "image": [None] * count if images is None else _plain("images", images, count, (Integral, str)),
        "label": _plain("labels", _as_labels(target, count) if labels is None else labels, count, (Integral, str)),
        "difficult": [False] * count if difficult is None else _plain("difficult", difficult, count, (bool,)),
    }
    return [dict(zip(fields, pair)) for pair in zip(*fields.values())]


def _as_labels(target: TargetType, count: int) -> Sequence[Any]:
    given: Any = 0 if target is None else target
    if isinstance(given, Tensor):
        given = given.item() if given.numel() == 1 else given.tolist()
    return given if isinstance(given, list) else [given] * count


def _plain(name: str, given: Any, count: int, types: tuple[type, ...]) -> list[Any]:
    """One value per example, as Python's own integers, strings or bools."""
    values = given.tolist() if isinstance(given, Tensor) else list(given)
    if len(values) != count:
        raise ValueError(f"{name} must be one for each of {count} examples, got {len(values)}")
    for value in values:
        if not isinstance(value, types) or isinstance(value, bool) != (bool in types):
            rule = "bools" if bool in types else "integers or strings"
            hint = ": give labels=..., which are the targets by default" if name == "labels" else ""
            raise TypeError(f"{name} must be {rule}, got {value!r}{hint}")
    return [int(value) if isinstance(value, Integral) and bool not in types else value for value in values]
