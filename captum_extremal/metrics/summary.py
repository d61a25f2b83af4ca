"""Outcomes of many pairs put together: means over classes, and how certain they are."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from captum_extremal._checks import check_count, check_number
from captum_extremal.metrics.outcomes import Label, Outcome


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


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """The class-averaged mean of outcomes, from any number of batches (section 4.2).

    The difficult subset is ``summarise([one for one in outcomes if one.difficult])``.

    Raises:
        TypeError: these are no outcomes.
    """
    if not isinstance(outcomes, Sequence) or not all(isinstance(one, Outcome) for one in outcomes):
        raise TypeError(
            "outcomes must be a list of a metric's outcomes, or of those that outcomes_of makes of numbers, "
            f"got {type(outcomes).__name__}"
        )
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


def bootstrap_interval(
    outcomes: Sequence[Outcome], *, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval (Efron 1979) of ``summarise(outcomes).mean``, by SciPy.

    Images are drawn with replacement, not pairs, because the classes of one image are not independent. Skipped pairs
    are left out. A class with a single image has the same mean however often that image is drawn, so the interval is
    too narrow where most classes are like that; outcomes of one label give the interval of their plain mean instead.

    Args:
        outcomes: as :func:`summarise` takes them; a pair whose image has no name counts as an image of its own.
        confidence: above 0 and below 1, the share of the drawn means inside the interval; half of the rest is below it.
        samples: how many times the images are drawn, at least once.
        seed: of the draws, at least 0. The global random states are left alone.

    Returns:
        the lower and the upper end: both are the mean for a single image, and NaN without a counted pair.

    Raises:
        TypeError, ValueError: these are no outcomes, or another argument breaks a rule above.
    """
    mean = summarise(outcomes).mean
    check_number("confidence", confidence, above=0, below=1)
    check_count("samples", samples)
    check_count("seed", seed, at_least=0)
    counted = {row: one for row, one in enumerate(outcomes) if one.value is not None}
    images = _numbered(row if one.image is None else (one.image,) for row, one in counted.items())
    if len(set(images)) < 2:
        return mean, mean
    labels = _numbered(one.label for one in counted.values())
    sums, counts = np.zeros((2, max(images) + 1, max(labels) + 1))
    np.add.at(sums, (images, labels), np.array([one.value for one in counted.values()]))
    np.add.at(counts, (images, labels), 1)

    def mean_over_classes(drawn: NDArray[Any], axis: int) -> NDArray[Any]:
        times = np.apply_along_axis(np.bincount, axis, drawn, minlength=len(sums))
        with np.errstate(invalid="ignore"):  # 0 / 0 is a class that was not drawn
            return np.asarray(np.nanmean(times @ sums / (times @ counts), axis=axis))

    low, high = scipy.stats.bootstrap(
        (np.arange(len(sums)),),
        mean_over_classes,
        n_resamples=samples,
        batch=100,  # which bounds the memory
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)


def _numbered(names: Iterable[Hashable]) -> list[int]:
    """A number for each name, the same for equal ones, from 0 in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]
