"""Tables of evaluations: means over classes, their intervals, and the time that the maps took, for several runs."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import pandas as pd

from captum_extremal.evaluation.metrics import COLUMNS, TOLERANCE, outcome
from captum_extremal.evaluation.rows import Kept
from captum_extremal.metrics import Outcome, bootstrap_interval, summarise


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over the pairs of a subset, a mean over classes as in table 1; insertion and deletion over pairs."""

    mean: float
    low: float  # the 95 % bootstrap interval over the images
    high: float
    pairs: int  # how many count
    skipped: int  # how many do not, because nothing of their class is annotated
    by_class: Mapping[Any, float]  # the mean of each class; one entry "all" for insertion and deletion


@dataclass(frozen=True, kw_only=True)
class Line:
    """One run, with scores by column that was recorded (of COLUMNS) and subset with pairs ("all", "difficult")."""

    label: str  # tells the run from the others
    key: str  # of its settings
    about: Mapping[str, Any]  # its settings
    scores: Mapping[str, Mapping[str, Score]]
    images: int  # how many have a row
    rows: int  # how many pairs have a row
    pairs: int  # how many the data set has
    unreadable: int  # how many images could not be read
    unexplained: int  # how many of the others could not be explained
    seconds: float  # the mean time of a map
    seconds_per_image: float  # the mean over the images of the time of all their maps


def tabulate(runs: Iterable[Kept], tolerance: float = TOLERANCE) -> list[Line]:
    """A line for each run that has a row, in the order given.

    The ``runs`` are as :func:`read_rows` returns them, the tolerance is in pixels of the annotated image.
    """
    return [_line(run, label, tolerance) for label, run in _labelled(runs)]


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
        runs, tolerance: as :func:`tabulate` takes them.
        label: the run, as :func:`tabulate` calls it.

    Returns:
        by the labels of the other runs of the same data set, and by column, the mean difference over the pairs that
        both have, and its interval. An interval that holds 0 does not tell the two apart.

    Raises:
        ValueError: no run, or more than one, is called that.
    """
    labelled = _labelled(runs)
    called_that = [run for name, run in labelled if name == label]
    if len(called_that) != 1:
        raise ValueError(
            f"label must be that of one of the runs, {', '.join(name for name, _ in labelled)}, got {label!r}"
        )
    ahead, data = called_that[0], ("data", "data_checksum")
    found: dict[str, dict[str, Score]] = {}
    for other, run in labelled:
        if run is ahead or any(run.settings.about.get(name) != ahead.settings.about.get(name) for name in data):
            continue
        pairs = sorted(ahead.rows.keys() & run.rows.keys())
        for column in COLUMNS:
            both = [[outcome(of.rows[pair], column, tolerance) for of in (ahead, run)] for pair in pairs]
            differences = [
                replace(one, value=one.value - two.value)
                for one, two in both
                if one.value is not None and two.value is not None
            ]
            if differences:
                found.setdefault(other, {})[column] = _score(differences)
    return found


def _line(run: Kept, label: str, tolerance: float) -> Line:
    rows = sorted(run.rows.values(), key=lambda row: row.pair)  # the bootstrap depends on the order
    recorded = {name for row in rows for name in row.values}
    scores: dict[str, dict[str, Score]] = {}
    for column in [column for column, name in COLUMNS.items() if name in recorded]:
        outcomes = [outcome(row, column, tolerance) for row in rows]
        subsets = {"all": outcomes, "difficult": [one for one in outcomes if one.difficult]}
        counted = {name: some for name, some in subsets.items() if any(one.value is not None for one in some)}
        scores[column] = {name: _score(some) for name, some in counted.items()}
    images = len({row.image for row in rows})
    return Line(
        label=label,
        key=run.settings.key,
        about=run.settings.about,
        scores=scores,
        images=images,
        rows=len(rows),
        pairs=run.pairs,
        unreadable=len(run.unreadable),
        unexplained=len(run.unexplained),
        seconds=fmean(row.seconds for row in rows),
        seconds_per_image=sum(row.seconds for row in rows) / images,
    )


def _score(outcomes: list[Outcome]) -> Score:
    found = summarise(outcomes)
    low, high = bootstrap_interval(outcomes)
    return Score(mean=found.mean, low=low, high=high, pairs=found.pairs, skipped=found.skipped, by_class=found.by_class)


def _labelled(runs: Iterable[Kept]) -> list[tuple[str, Kept]]:
    """The runs with rows, each with its method, its data set if there are several, and how it differs from the rest."""
    counted = [run for run in runs if run.rows]
    every = [_flat(run.settings.about) for run in counted]
    labels = []
    for about in every:
        same_data = [other for other in every if other.get("data") == about.get("data")]
        alike = [other for other in same_data if other.get("method") == about.get("method")]
        others = {"data": every, "data_checksum": same_data}
        differing = {
            key: value for key, value in about.items() if any(x.get(key) != value for x in others.get(key, alike))
        }
        if differing.keys() - {"metrics"}:
            differing.pop("metrics", None)  # what was measured tells runs apart only where nothing else does
        parts = [f"{name[-1] if isinstance(name, tuple) else name}={value}" for name, value in differing.items()]
        label = " ".join([str(about.get("method")), *parts])
        labels.append("".join(sign if sign.isprintable() else "?" for sign in label))  # a file may come from anywhere
    return list(zip(labels, counted))


def _flat(about: Mapping[str, Any]) -> dict[Any, Any]:
    """Settings by name, those of the data first, and the options of the method by ("options", name)."""
    flat: dict[Any, Any] = {name: about[name] for name in ("data", "data_checksum") if name in about}
    for name, value in about.items():
        is_options = name == "options" and isinstance(value, dict)
        flat |= {(name, option): value[option] for option in value} if is_options else {name: value}
    return flat
