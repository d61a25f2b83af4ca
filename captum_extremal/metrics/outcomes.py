"""One number per pair of image and class, and their means over classes, with how certain these are."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from statistics import fmean
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal._captum import TargetType
from captum_extremal._checks import check_count, check_number
from captum_extremal.metrics.explanations import as_tensor

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


@dataclass(frozen=True)
class Summary:
    """Means of outcomes, which are NaN without a counted pair.

    Attributes:
        mean: the mean over the classes of each class's mean, as in table 1 of the paper.
        by_class: the mean of each class that has a counted pair.
        overall: the mean over all counted pairs, whatever their class.
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
    """Outcomes of any metric with one number per pair, such as ``insertion_deletion(...).insertion_auc``.

    The values are (N,), finite; all else is as :func:`~captum_extremal.metrics.pointing_game` takes it.
    """
    numbers = as_tensor("values must be numbers (N,)", values, torch.float64)
    if numbers.dim() != 1 or not bool(numbers.isfinite().all()):
        raise ValueError(f"values must be finite numbers (N,), got shape {tuple(numbers.shape)}")
    pairs = describe_pairs(len(numbers), target, images, labels, difficult)
    return [Outcome(**pair, value=value) for pair, value in zip(pairs, numbers.tolist())]


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """The class-averaged mean of outcomes, from any number of batches (section 4.2).

    The difficult subset is ``summarise([one for one in outcomes if one.difficult])``.
    """
    if not isinstance(outcomes, Sequence) or not all(isinstance(one, Outcome) for one in outcomes):
        rule = "a list of a metric's outcomes, or of those that outcomes_of makes of numbers"
        raise TypeError(f"outcomes must be {rule}, got {type(outcomes).__name__}")
    values: dict[Label, list[float]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.value is not None:
            values[outcome.label].append(outcome.value)
    by_class = {label: fmean(of_class) for label, of_class in values.items()}
    counted = [value for of_class in values.values() for value in of_class]
    mean, overall = (fmean(by_class.values()), fmean(counted)) if counted else (math.nan, math.nan)
    return Summary(mean, by_class, overall, pairs=len(counted), skipped=len(outcomes) - len(counted))


def bootstrap_interval(
    outcomes: Sequence[Outcome], *, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval (Efron 1979) of ``summarise(outcomes).mean``, by SciPy.

    Images are drawn with replacement, not pairs, because the classes of one image are not independent. Where most
    classes have a single image, whose mean is the same however often it is drawn, the interval is too narrow; outcomes
    of one label give the interval of their plain mean instead. Both ends are the mean for a single image, and NaN
    without a counted pair.

    Args:
        outcomes: as :func:`summarise` takes them; a pair whose image has no name counts as an image of its own.
        confidence: above 0 and below 1, the share of the drawn means inside the interval; half of the rest is below it.
        samples: how many times the images are drawn, at least once.
        seed: of the draws, at least 0.
    """
    mean = summarise(outcomes).mean
    check_number("confidence", confidence, above=0, below=1)
    check_count("samples", samples)
    check_count("seed", seed, at_least=0)
    counted = {row: one for row, one in enumerate(outcomes) if one.value is not None}
    number: Any = [defaultdict(itertools.count().__next__) for _ in range(2)]  # of a name, by first appearance
    images = [number[0][row if one.image is None else (one.image,)] for row, one in counted.items()]
    labels = [number[1][one.label] for one in counted.values()]
    if len(number[0]) < 2:
        return mean, mean
    sums, counts = np.zeros((2, max(images) + 1, max(labels) + 1))
    np.add.at(sums, (images, labels), np.array([one.value for one in counted.values()]))
    np.add.at(counts, (images, labels), 1)

    def mean_over_classes(drawn: NDArray[Any], axis: int) -> NDArray[Any]:
        times = np.apply_along_axis(np.bincount, axis, drawn, minlength=len(sums))
        with np.errstate(invalid="ignore"):  # 0 / 0 is a class that was not drawn
            return np.asarray(np.nanmean(times @ sums / (times @ counts), axis=axis))

    how: Any = {"confidence_level": confidence, "method": "percentile", "batch": 100}  # the batch bounds the memory
    rows, rng = (np.arange(len(sums)),), np.random.default_rng(seed)
    resampling: Any = scipy.stats  # mypy does not see all that it exports
    low, high = resampling.bootstrap(rows, mean_over_classes, n_resamples=samples, rng=rng, **how).confidence_interval
    return float(low), float(high)


def describe_pairs(count: int, target: TargetType, images: Any, labels: Any, difficult: Any) -> list[dict[str, Any]]:
    """The fields image, label and difficult of each pair's outcome; by default the label is the target, or 0."""
    if labels is None:
        labels = 0 if target is None else target
        if isinstance(labels, Tensor):
            labels = labels.item() if labels.numel() == 1 else labels.tolist()
        labels = labels if isinstance(labels, list) else [labels] * count
    fields = {
        "image": [None] * count if images is None else _plain("images", images, count),
        "label": _plain("labels", labels, count),
        "difficult": [False] * count if difficult is None else _plain("difficult", difficult, count, bools=True),
    }
    return [dict(zip(fields, pair)) for pair in zip(*fields.values())]


def _plain(name: str, given: Any, count: int, *, bools: bool = False) -> list[Any]:
    """One value per example, as Python's own integers, strings or bools."""
    values = given.tolist() if isinstance(given, Tensor) else list(given)
    if len(values) != count:
        raise ValueError(f"{name} must be one for each of {count} examples, got {len(values)}")
    for value in values:
        if not isinstance(value, (Integral, str)) or isinstance(value, bool) != bools:
            hint = ": give labels=..., which are the targets by default" if name == "labels" else ""
            raise TypeError(f"{name} must be {'bools' if bools else 'integers or strings'}, got {value!r}{hint}")
    return [value if isinstance(value, (bool, str)) else int(value) for value in values]
