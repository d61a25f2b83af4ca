"""Tables of evaluations: means over classes, their intervals, and the time that the maps took, for several runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import pandas as pd

from captum_extremal.evaluation.metrics import COLUMNS, TOLERANCE, outcome
from captum_extremal.evaluation.rows import Kept
from captum_extremal.metrics import Outcome, bootstrap_interval, summarise

SUBSETS = ("all", "difficult")
_Path = tuple[str, ...]  # of a setting: its name, or "options" and the name of an option
_DATA: _Path = ("data",)
_CHECKSUM: _Path = ("data_checksum",)
_METHOD: _Path = ("method",)
_METRICS: _Path = ("metrics",)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over the pairs of a subset.

    Attributes:
        mean: the mean over the classes of each class's mean, as in table 1; of insertion and deletion over the pairs.
        low, high: its 95 % bootstrap interval over the images.
        pairs: how many pairs count.
        skipped: how many do not count, because nothing of their class is annotated.
        by_class: the mean of each class; one entry "all" for insertion and deletion.
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
        label: tells the run from the others.
        key: of its settings.
        about: its settings.
        scores: by column ("pointing", "energy", "insertion", "deletion") and subset ("all", "difficult"): the recorded
            columns, and the subsets in which a pair counts.
        images: how many images have a row.
        rows, pairs: how many pairs have a row, and how many the data set has.
        unreadable: how many images could not be used.
        seconds: the mean time of a map.
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
        runs: as :func:`~captum_extremal.evaluation.rows.read_rows` returns them.
        tolerance: of the pointing game, in pixels of the annotated image.
    """
    counted = [run for run in runs if run.rows]
    return [_line(run, label, tolerance) for run, label in zip(counted, _labels(counted))]


def as_frame(lines: Iterable[Line]) -> pd.DataFrame:
    """One row per run, metric and subset; ``to_csv(path, index=False)`` writes it."""
    return pd.DataFrame(
        {"label": line.label, "settings": line.key, "metric": metric, "subset": subset}
        | {name: value for name, value in asdict(score).items() if name != "by_class"}
        | {"images": line.images, "unreadable": line.unreadable, "seconds_per_image": line.seconds_per_image}
        for line in lines
        for metric, subsets in line.scores.items()
        for subset, score in subsets.items()
    )


def leads(runs: Iterable[Kept], label: str, tolerance: float = TOLERANCE) -> dict[str, dict[str, Score]]:
    """How far one run is ahead of each of the others, pair by pair, because pairs differ in difficulty.

    Args:
        runs: as :func:`~captum_extremal.evaluation.rows.read_rows` returns them.
        label: the run, as :func:`tabulate` calls it.
        tolerance: of the pointing game, in pixels of the annotated image.

    Returns:
        by the labels of the other runs of the same data set, and by column, the mean difference over the pairs that
        both have, and its interval. An interval that holds 0 does not tell the two apart.

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
        if run is ahead or _data_of(run) != _data_of(ahead):
            continue
        for column in COLUMNS:
            if differences := _differences(ahead, run, column, tolerance):
                found.setdefault(other, {})[column] = _score(differences)
    return found


def _data_of(run: Kept) -> tuple[Any, Any]:
    return run.settings.about.get("data"), run.settings.about.get("data_checksum")


def _differences(ahead: Kept, run: Kept, column: str, tolerance: float) -> list[Outcome]:
    found = []
    for pair in sorted(ahead.rows.keys() & run.rows.keys()):
        one, other = (outcome(of.rows[pair], column, tolerance) for of in (ahead, run))
        if one.value is not None and other.value is not None:
            found.append(replace(one, value=one.value - other.value))
    return found


def _line(run: Kept, label: str, tolerance: float) -> Line:
    rows = sorted(run.rows.values(), key=lambda row: row.pair)  # the bootstrap depends on the order
    recorded = {name for row in rows for name in row.values}
    columns = [column for column, name in COLUMNS.items() if name in recorded]
    images = len({row.image for row in rows})
    return Line(
        label=label,
        key=run.settings.key,
        about=run.settings.about,
        scores={column: _scores([outcome(row, column, tolerance) for row in rows]) for column in columns},
        images=images,
        rows=len(rows),
        pairs=run.pairs,
        unreadable=len(run.unreadable),
        seconds=fmean(row.seconds for row in rows),
        seconds_per_image=sum(row.seconds for row in rows) / images,
    )


def _scores(outcomes: list[Outcome]) -> dict[str, Score]:
    subsets = zip(SUBSETS, (outcomes, [one for one in outcomes if one.difficult]))
    return {name: _score(chosen) for name, chosen in subsets if any(one.value is not None for one in chosen)}


def _score(outcomes: list[Outcome]) -> Score:
    found = summarise(outcomes)
    low, high = bootstrap_interval(outcomes)
    return Score(mean=found.mean, low=low, high=high, pairs=found.pairs, skipped=found.skipped, by_class=found.by_class)


def _labels(runs: list[Kept]) -> list[str]:
    """For each run its method, its data set if there are several, and how it differs from others with both."""
    every = [_flat(run.settings.about) for run in runs]
    labels = []
    for about in every:
        same_data = [other for other in every if other.get(_DATA) == about.get(_DATA)]
        alike = [other for other in same_data if other.get(_METHOD) == about.get(_METHOD)]
        others = {_DATA: every, _CHECKSUM: same_data}
        differing = {
            path: value
            for path, value in about.items()
            if any(other.get(path) != value for other in others.get(path, alike))
        }
        if set(differing) - {_METRICS}:
            differing.pop(_METRICS, None)  # what was measured tells runs apart only where nothing else does
        label = " ".join([str(about.get(_METHOD)), *(f"{path[-1]}={value}" for path, value in differing.items())])
        labels.append("".join(sign if sign.isprintable() else "?" for sign in label))  # a file may come from anywhere
    return labels


def _flat(about: Mapping[str, Any]) -> dict[_Path, Any]:
    """Settings by their path, those of the data first; each option of the method is one of them."""
    flat = {path: about[path[0]] for path in (_DATA, _CHECKSUM) if path[0] in about}
    for name, value in about.items():
        options = value if name == "options" and isinstance(value, dict) else None
        flat |= {(name,): value} if options is None else {(name, option): options[option] for option in options}
    return flat
