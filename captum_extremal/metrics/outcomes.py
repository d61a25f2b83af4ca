"""One number a pair of image and class, as plain values that can be written down and put together later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import TargetType

Label = int | str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a metric says of one image and one class in it; ``dataclasses.asdict`` makes a JSON row of it.

    Attributes:
        image: which image; None for one of its own.
        label: which class.
        value: the metric's; None where the pair was skipped because nothing of the class is annotated.
        difficult: whether the pair belongs to the difficult subset.
    """

    image: Label | None
    label: Label
    value: float | None
    difficult: bool = False


@dataclass(frozen=True)
class Summary:
    """Outcomes of many pairs, put together.

    Attributes:
        mean: the mean over the classes of each class's mean, as the paper's table 1; NaN without a counted pair.
        by_class: each class's mean, of the classes that have a counted pair.
        overall: the mean over all counted pairs, whatever their class; NaN without one.
        pairs: how many were counted.
        skipped: how many were not, because nothing of their class is annotated.
    """

    mean: float
    by_class: dict[Label, float]
    overall: float
    pairs: int
    skipped: int


def outcomes_of(
    values: Tensor | Sequence[float],
    target: TargetType = None,
    *,
    images: Sequence[Label] | None = None,
    labels: Sequence[Label] | None = None,
    difficult: Sequence[bool] | None = None,
) -> list[Outcome]:
    """Any number a pair, such as ``insertion_deletion(...).insertion_auc``, as outcomes to put together.

    Args:
        values: (N,), finite.
        target: as the metric was given it.
        images, labels, difficult: as :func:`~captum_extremal.metrics.pointing_game` takes them.

    Raises:
        TypeError: the values are no numbers, or a name is none.
        ValueError: the values are not (N,) or not finite, or there is not one name or flag for each.
    """
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"values must be numbers (N,), got {type(values).__name__}") from error
    if numbers.dim() != 1 or not bool(numbers.isfinite().all()):
        raise ValueError(f"values must be finite numbers (N,), got shape {tuple(numbers.shape)}")
    pairs = check_pairs(len(numbers), target, images, labels, difficult)
    rows = zip(pairs.images, pairs.labels, numbers.tolist(), pairs.difficult)
    return [Outcome(image=image, label=label, value=value, difficult=flag) for image, label, value, flag in rows]


def check_outcomes(outcomes: object) -> None:
    """Raise TypeError unless it is a sequence of outcomes."""
    if not isinstance(outcomes, Sequence) or not all(isinstance(one, Outcome) for one in outcomes):
        raise TypeError(
            "outcomes must be a list of a metric's outcomes, or of those that outcomes_of makes of numbers, "
            f"got {type(outcomes).__name__}"
        )


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """The class-averaged mean of outcomes, from any number of batches (section 4.2).

    The difficult subset is ``summarise([one for one in outcomes if one.difficult])``.

    Raises:
        TypeError: these are no outcomes.
    """
    check_outcomes(outcomes)
    values: dict[Label, list[float]] = {}
    for outcome in outcomes:
        if outcome.value is not None:
            values.setdefault(outcome.label, []).append(outcome.value)
    by_class = {label: fmean(of_class) for label, of_class in values.items()}
    counted = [value for of_class in values.values() for value in of_class]
    return Summary(
        mean=fmean(by_class.values()) if by_class else math.nan,
        by_class=by_class,
        overall=fmean(counted) if counted else math.nan,
        pairs=len(counted),
        skipped=len(outcomes) - len(counted),
    )


@dataclass(frozen=True)
class Pairs:
    """Which image and class each row of a batch is about."""

    images: list[Label | None]
    labels: list[Label]
    difficult: list[bool]


def check_pairs(
    count: int,
    target: TargetType,
    images: Sequence[Label] | None,
    labels: Sequence[Label] | None,
    difficult: Sequence[bool] | None,
) -> Pairs:
    """Names for the pairs of a batch: by default a row is an image of its own, and its target the class (0 without).

    Raises:
        TypeError: a name is neither integer nor string, a flag is no bool, or the targets cannot serve as names.
        ValueError: there is not one an example.
    """
    return Pairs(
        images=[None] * count if images is None else [*_names("images", images, count)],
        labels=_names("labels", _labels_of(target, count) if labels is None else labels, count),
        difficult=_flags([False] * count if difficult is None else difficult, count),
    )


def _labels_of(target: TargetType, count: int) -> Sequence[object]:
    if target is None:
        return [0] * count
    given = target.tolist() if isinstance(target, Tensor) else target
    if isinstance(given, list):
        return given * count if isinstance(target, Tensor) and len(given) == 1 else given
    return [given] * count


def _names(name: str, given: object, count: int) -> list[Label]:
    plain = _one_each(name, given, count)
    for entry in plain:
        if isinstance(entry, bool) or not isinstance(entry, (Integral, str)):
            hint = ": give labels=..., which are the targets by default" if name == "labels" else ""
            raise TypeError(f"{name} must be integers or strings, got {entry!r}{hint}")
    return [entry if isinstance(entry, str) else int(entry) for entry in plain]


def _flags(given: object, count: int) -> list[bool]:
    plain = _one_each("difficult", given, count)
    for entry in plain:
        if not isinstance(entry, bool):
            raise TypeError(f"difficult must be bools, got {entry!r}")
    return plain


def _one_each(name: str, given: Any, count: int) -> list[Any]:
    plain = given.tolist() if isinstance(given, Tensor) else list(given)
    if len(plain) != count:
        raise ValueError(f"{name} must be one for each of {count} examples, got {len(plain)}")
    return plain
