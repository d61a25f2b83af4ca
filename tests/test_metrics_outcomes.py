"""Putting outcomes together: class-averaged means by hand, and bootstrap intervals against a loop over images."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from captum_extremal.metrics import Outcome, bootstrap_interval, pointing_game, summarise
from captum_extremal.metrics import outcomes_of as outcomes_of_numbers


def outcomes_of(rows: list[tuple[int | str, int | str, float | None]]) -> list[Outcome]:
    return [Outcome(image=image, label=label, value=value) for image, label, value in rows]


ROWS: list[tuple[int | str, int | str, float | None]] = [
    (0, "cat", 1.0), (0, "dog", 0.0), (1, "cat", 1.0), (1, "dog", None), (2, "cat", 0.0), (2, "bird", None),
    (3, "dog", 1.0), (3, "cow", 0.25), (4, "cat", 1.0),
]  # fmt: skip


def test_accuracies_are_averaged_over_the_classes_that_have_a_pair() -> None:
    summary = summarise(outcomes_of(ROWS))
    assert summary.by_class == {"cat": 0.75, "dog": 0.5, "cow": 0.25}
    assert summary.mean == pytest.approx((0.75 + 0.5 + 0.25) / 3)
    assert summary.overall == pytest.approx(4.25 / 7)
    assert (summary.pairs, summary.skipped) == (7, 2)


def test_batches_put_together_in_any_order_are_the_same() -> None:
    outcomes = outcomes_of(ROWS)
    shuffled = [outcomes[k] for k in torch.randperm(len(outcomes))]
    one, other = summarise(outcomes), summarise(shuffled)
    assert (one.mean, one.by_class, one.pairs) == (pytest.approx(other.mean), other.by_class, other.pairs)


@pytest.mark.parametrize("rows", [[], [(0, 1, None)]])
def test_nothing_counted_is_nan(rows: Any) -> None:
    summary = summarise(outcomes_of(rows))
    assert math.isnan(summary.mean)
    assert math.isnan(summary.overall)
    assert (summary.by_class, summary.pairs, summary.skipped) == ({}, 0, len(rows))
    assert all(math.isnan(end) for end in bootstrap_interval(outcomes_of(rows)))


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_intervals_are_quantiles_of_summaries_of_images_drawn_again(confidence: float) -> None:
    outcomes = outcomes_of(ROWS)
    counted = [one for one in outcomes if one.value is not None]
    images = list(dict.fromkeys(one.image for one in counted))
    drawn = np.random.default_rng(7).integers(0, len(images), (200, len(images)))  # as scipy.stats.bootstrap draws
    means = [summarise([one for k in row for one in counted if one.image == images[k]]).mean for row in drawn]
    tail = (1 - confidence) / 2
    expected = (np.quantile(means, tail), np.quantile(means, 1 - tail))
    assert bootstrap_interval(outcomes, confidence=confidence, samples=200, seed=7) == pytest.approx(expected)


def test_intervals_are_those_of_images_counted_by_a_multinomial() -> None:
    """The same definition without SciPy: an image is drawn as often as a multinomial says."""
    generator = np.random.default_rng(3)
    values = generator.random((60, 3)).round(1)
    outcomes = outcomes_of([(k, c, float(values[k, c])) for k in range(60) for c in range(3) if k % 4 > c])
    counts = np.array([[k % 4 > c for c in range(3)] for k in range(60)], dtype=float)
    times = generator.multinomial(60, [1 / 60] * 60, size=20_000)
    expected = np.quantile(((times @ (values * counts)) / (times @ counts)).mean(1), [0.025, 0.975])
    assert bootstrap_interval(outcomes, samples=20_000) == pytest.approx(expected, abs=0.02 * np.ptp(expected))


def test_a_single_image_has_its_mean_at_both_ends() -> None:
    assert bootstrap_interval(outcomes_of([(0, 1, 0.25), (0, 2, 0.75)])) == (0.5, 0.5)


def test_interval_of_a_plain_mean_is_near_the_normal_one() -> None:
    values = torch.randn(400, dtype=torch.float64).tolist()
    low, high = bootstrap_interval(outcomes_of([(row, 0, value) for row, value in enumerate(values)]))
    error = 1.96 * np.std(values) / math.sqrt(400)
    assert (low, high) == pytest.approx((np.mean(values) - error, np.mean(values) + error), abs=0.1 * error)


def test_pairs_of_one_image_are_drawn_together() -> None:
    """Ten pairs an image say no more than one."""
    single = [(image, 0, float(image % 2)) for image in range(30)]
    tenfold = single * 10
    assert bootstrap_interval(outcomes_of(single)) == pytest.approx(bootstrap_interval(outcomes_of(tenfold)))


def test_pairs_without_the_name_of_an_image_are_images_of_their_own() -> None:
    maps, truth = torch.rand(2, 8, 8), torch.rand(20, 2, 8, 8) < 0.1  # each batch numbers its rows from 0
    outcomes = [one for masks in truth for one in pointing_game(maps, ground_truth=masks, tolerance=1)]
    named = [replace(one, image=row) for row, one in enumerate(outcomes)]
    assert 0 < summarise(outcomes).mean < 1
    assert bootstrap_interval(outcomes) == bootstrap_interval(named)


def test_numbers_become_outcomes() -> None:
    found = outcomes_of_numbers(torch.tensor([0.5, 0.25, 0.0]), [3, 1, 3], images=["x", "x", "y"])
    assert [(one.image, one.label, one.value) for one in found] == [("x", 3, 0.5), ("x", 1, 0.25), ("y", 3, 0.0)]
    assert summarise(found).by_class == {3: 0.25, 1: 0.25}
    assert [one.label for one in outcomes_of_numbers([1.0, 2.0])] == [0, 0]


@pytest.mark.parametrize(
    ("values", "error"),
    [("abc", TypeError), (None, TypeError), ([[1.0]], ValueError), (3.0, ValueError), ([1.0, math.nan], ValueError)],
)
def test_what_is_no_number_is_no_outcome(values: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="values must be"):
        outcomes_of_numbers(values)


@pytest.mark.parametrize("given", [torch.ones(3), [1.0, 0.0], None, [Outcome(image=1, label=1, value=1.0), 3]], ids=str)
@pytest.mark.parametrize("put_together", [summarise, bootstrap_interval])
def test_numbers_are_no_outcomes(put_together: Any, given: Any) -> None:
    with pytest.raises(TypeError, match="outcomes must be a list of a metric's outcomes"):
        put_together(given)


def test_intervals_are_seeded_and_leave_the_global_state_alone() -> None:
    outcomes = outcomes_of([(row, row % 3, value) for row, value in enumerate(torch.rand(40).tolist())])
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = bootstrap_interval(outcomes, samples=100)
    assert first == bootstrap_interval(outcomes, samples=100)
    assert first != bootstrap_interval(outcomes, samples=100, seed=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("confidence", 1.0, ValueError),
        ("confidence", 0, ValueError),
        ("confidence", "95%", TypeError),
        ("samples", 0, ValueError),
        ("samples", 10.0, TypeError),
        ("seed", -1, ValueError),
        ("seed", None, TypeError),
    ],
)
def test_bad_settings_are_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        bootstrap_interval(outcomes_of(ROWS), **{name: value})
