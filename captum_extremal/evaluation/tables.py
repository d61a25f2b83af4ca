"""The end of an evaluation: means over classes, how sure they are, and what they cost, for runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from captum_extremal.evaluation.metrics import COLUMNS, TOLERANCE, outcome
from captum_extremal.evaluation.rows import Kept
from captum_extremal.metrics import Outcome, bootstrap_interval, summarise

SUBSETS = ("all", "difficult")
_OPTION = "options."  # the insertion has steps, and so have options of methods


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over the pairs of a subset.

    Attributes:
        mean: the mean over the classes of each class's mean, as in table 1; of insertion and deletion over the pairs.
        low, high: its 95 % bootstrap interval over the images.
        pairs: how many were counted.
        skipped: how many were not, because nothing of their class is annotated.
        by_class: each class's mean; one for all of insertion and deletion.
    """

    mean: float
    low: float
    high: float
    pairs: int
    skipped: int
    by_class: Mapping[Any, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One run.

    Attributes:
        label: what tells it from the others.
        key: of its settings.
        about: its settings.
        scores: by column ("pointing", "energy", "insertion", "deletion") and subset ("all", "difficult"); only what was
            recorded, and subsets with a counted pair.
        images: how many images have a row.
        rows, pairs: how many pairs have a row, and how many the data set has.
        unreadable: how many images could not be used.
        seconds: the mean time of one map.
        seconds_per_image: the mean over the images of the time of all their maps.
    """

    label: str
    key: str
    about: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Score]]
    images: int
    rows: int
    pairs: int
    unreadable: int
    seconds: float
    seconds_per_image: float


def tabulate(runs: Iterable[Kept], tolerance: float = TOLERANCE) -> list[Line]:
    """A line for each run that has a row, in the order given.

    Args:
        runs: as :func:`~captum_extremal.evaluation.rows.read_rows` gives them.
        tolerance: of the pointing game, in pixels of the annotated image.
    """
    counted = [run for run in runs if run.rows]
    return [_line(run, label, tolerance) for run, label in zip(counted, _labels(counted))]


def leads(runs: Iterable[Kept], label: str, tolerance: float = TOLERANCE) -> dict[str, dict[str, Score]]:
    """How far one run is ahead of each of the others, pair by pair: what is hard is hard for all of them.

    Args:
        runs: as :func:`~captum_extremal.evaluation.rows.read_rows` gives them.
        label: which of them, as :func:`tabulate` calls it.
        tolerance: of the pointing game, in pixels of the annotated image.

    Returns:
        by the others' labels and by column the mean difference over the pairs of one data set that both have, and its
        interval. An interval that holds 0 does not tell the two apart.

    Raises:
        ValueError: no run, or more than one, is called that.
    """
    counted = [run for run in runs if run.rows]
    labels = _labels(counted)
    if labels.count(label) != 1:
        raise ValueError(f"label must be of one of the runs, {', '.join(labels)}, got {label!r}")
    ahead = counted[labels.index(label)]
    found: dict[str, dict[str, Score]] = {}
    for other, run in zip(labels, counted):
        if run is ahead or not _same_data(run, ahead):
            continue
        for column in COLUMNS:
            score = _lead(ahead, run, column, tolerance)
            if score is not None:
                found.setdefault(other, {})[column] = score
    return found


def _same_data(one: Kept, other: Kept) -> bool:
    """Whether two runs are of one data set; rows of earlier versions have no checksum of it."""
    about, others = one.settings.about, other.settings.about
    checksums = {each["data_checksum"] for each in (about, others) if "data_checksum" in each}
    return about.get("data") == others.get("data") and len(checksums) < 2


def _lead(ahead: Kept, run: Kept, column: str, tolerance: float) -> Score | None:
    differences = []
    for pair in sorted(ahead.rows.keys() & run.rows.keys()):
        one, other = (outcome(of.rows[pair], column, tolerance) for of in (ahead, run))
        if one.value is not None and other.value is not None:
            differences.append(replace(one, value=one.value - other.value))
    return _score(differences) if differences else None


def _line(run: Kept, label: str, tolerance: float) -> Line:
    rows = sorted(run.rows.values(), key=lambda row: row.pair)  # whatever the order in which they were written
    recorded = {name for row in rows for name in row.values}
    seconds = [row.seconds for row in rows]
    images = len({row.image for row in rows})
    return Line(
        label=label,
        key=run.settings.key,
        about=run.settings.about,
        scores={
            column: _scores([outcome(row, column, tolerance) for row in rows])
            for column, name in COLUMNS.items()
            if name in recorded
        },
        images=images,
        rows=len(rows),
        pairs=run.pairs,
        unreadable=len(run.unreadable),
        seconds=fmean(seconds),
        seconds_per_image=sum(seconds) / images,
    )


def _scores(outcomes: list[Outcome]) -> dict[str, Score]:
    subsets = {"all": outcomes, "difficult": [one for one in outcomes if one.difficult]}
    return {
        name: _score(of_subset)
        for name, of_subset in subsets.items()
        if any(one.value is not None for one in of_subset)
    }


def _score(outcomes: list[Outcome]) -> Score:
    summary = summarise(outcomes)
    low, high = bootstrap_interval(outcomes)
    return Score(
        mean=summary.mean,
        low=low,
        high=high,
        pairs=summary.pairs,
        skipped=summary.skipped,
        by_class=summary.by_class,
    )


def _labels(runs: list[Kept]) -> list[str]:
    """For each run its method, its data set where there are several, and in what it differs from others of both."""
    every = [_flat(run.settings.about) for run in runs]
    labels = []
    for about in every:
        same_data = [other for other in every if other.get("data") == about.get("data")]
        known = [other for other in same_data if "data_checksum" in other]  # rows of earlier versions have none
        alike = [other for other in same_data if other.get("method") == about.get("method")]
        differing = (
            _differing(about, ["data"], every)
            | _differing(about, ["data_checksum"], known)
            | _differing(about, about, alike)
        )
        if set(differing) - {"metrics"}:
            differing.pop("metrics", None)  # what was measured tells runs apart where nothing else does
        settings = [f"{name.removeprefix(_OPTION)}={value}" for name, value in differing.items()]
        label = " ".join([str(about.get("method")), *settings])
        labels.append("".join(sign if sign.isprintable() else "?" for sign in label))  # a file may come from anywhere
    return labels


def _differing(about: Mapping[str, Any], names: Iterable[str], others: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings of these names that some of the others have not or have otherwise."""
    return {
        name: about[name] for name in names if name in about and any(other.get(name) != about[name] for other in others)
    }


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, each option of the method one of them."""
    options = about.get("options")
    if not isinstance(options, dict):
        return dict(about)
    flat = {name: value for name, value in about.items() if name != "options"}
    return flat | {_OPTION + name: value for name, value in options.items()}
