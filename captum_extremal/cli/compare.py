"""``captum-extremal compare``: evaluations side by side, from the rows that they left.

The table goes to the console, to a CSV and to a JSON file; there is one figure per metric.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_extremal.cli.console import FAILED, StopError, print_table, shortened
from captum_extremal.cli.options import Out, Tolerance, option, with_defaults
from captum_extremal.cli.output import made_folder, print_files, write_figure

if TYPE_CHECKING:
    from captum_extremal.evaluation import Line, Score

_LONGEST_LABEL = 60


def compare(
    rows: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files of rows, or folders that evaluate has written to.")
    ],
    tolerance: Tolerance = None,
    against: Annotated[
        str | None, option("A run by its name in the table: its lead over each other run, by pairs.", "METHOD")
    ] = None,
    out: Out = "captum-extremal-compare",
) -> None:
    """Put evaluations side by side.

    There is a table on the console, as CSV and as JSON, and one figure per metric. Rows of the same pair and the same
    settings count once, however many files they come from.
    """
    report(rows, tolerance, made_folder(out), against)


def report(paths: Sequence[Path], tolerance: float | None, folder: Path, against: str | None = None) -> None:
    """Print the runs in files or folders of rows and write them to a folder; with ``against``, that run's leads too."""
    from captum_extremal.evaluation import leads, read_rows, tabulate

    tolerance = with_defaults(tabulate, tolerance=tolerance)["tolerance"]
    for path in paths:
        if not path.exists():
            raise StopError(f"there is no file or folder {path}", FAILED)
    try:
        runs = read_rows(paths)
    except ValueError as error:
        raise StopError(str(error), FAILED) from error
    lines = tabulate(runs.values(), tolerance)
    if not lines:
        raise StopError(f"there is no row in {', '.join(map(str, paths))}", FAILED)
    try:
        ahead = None if against is None else leads(runs.values(), against, tolerance)
    except ValueError as error:
        raise StopError(f"--against: {error}") from error
    _print(lines, tolerance)
    if ahead is not None:
        _print_leads(ahead, str(against))
    _write_csv(lines, folder / "table.csv")
    content = {"tolerance": tolerance, "runs": [asdict(line) for line in lines]}
    (folder / "table.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    figures = _write_figures(lines, tolerance, folder)
    files = {"table.csv": "one line per run, metric and subset", "table.json": "the same with settings and classes"}
    print_files(str(folder.resolve()), files | dict.fromkeys(figures, "the runs side by side, with their intervals"))


def _print(lines: list[Line], tolerance: float) -> None:
    found = ((column, subset) for line in lines for column, subsets in line.scores.items() for subset in subsets)
    columns = list(dict.fromkeys(found))
    names = [column if subset == "all" else f"{column}, {subset}" for column, subset in columns]
    labels = _short_labels(lines)
    table = [
        [label, *(_text(_score(line, *column)) for column in columns), f"{line.seconds_per_image:.2f}", _pairs(line)]
        for line, label in zip(lines, labels)
    ]
    print_table(table, ["method", *names, "s/image", "pairs"])
    pointing = f", pointing within {tolerance:g} px" if ("pointing", "all") in columns else ""
    pairs = ", of insertion and deletion over the pairs" if ("insertion", "all") in columns else ""
    means = f"means over the classes{pairs}{pointing}"
    print(f"Per cent, {means}; in brackets 95 % intervals from drawing the images again.")
    for line, label in zip(lines, labels):
        if line.unreadable:
            print(f"{label}: images that could not be read: {line.unreadable}.")


def _print_leads(ahead: dict[str, dict[str, Score]], label: str) -> None:
    if not ahead:
        print(f"{label} has no pair in common with another run.")
        return
    columns = list(dict.fromkeys(column for scores in ahead.values() for column in scores))
    table = []
    for other, scores in ahead.items():
        cells = [_text(scores.get(column), "+") for column in columns]
        table.append([shortened(other, _LONGEST_LABEL), *cells, str(max(score.pairs for score in scores.values()))])
    print()
    print_table(table, [f"{label} ahead of", *columns, "pairs"])
    print("Differences pair by pair; those whose interval holds 0 tell nothing apart. Less deletion is better.")


def _short_labels(lines: list[Line]) -> list[str]:
    """Labels that fit into the table; those that are alike once they are cut end in the key of their settings."""
    short = [shortened(line.label, _LONGEST_LABEL) for line in lines]
    return [f"{label} ({line.key})" if short.count(label) > 1 else label for line, label in zip(lines, short)]


def _score(line: Line, column: str, subset: str) -> Score | None:
    return line.scores.get(column, {}).get(subset)


def _text(score: Score | None, sign: str = "") -> str:
    if score is None:
        return "-"
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (score.mean, score.low, score.high))
    return f"{mean} [{low}, {high}]"


def _write_csv(lines: list[Line], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        head = ["label", "settings", "metric", "subset", "mean", "low", "high", "pairs", "skipped"]
        writer.writerow([*head, "images", "unreadable", "seconds_per_image"])
        for line in lines:
            for metric, subsets in line.scores.items():
                for subset, score in subsets.items():
                    values = [score.mean, score.low, score.high, score.pairs, score.skipped]
                    run = [line.images, line.unreadable, line.seconds_per_image]
                    writer.writerow([line.label, line.key, metric, subset, *values, *run])


def _write_figures(lines: list[Line], tolerance: float, folder: Path) -> list[str]:
    """A figure for each metric that several runs have: the names of the files."""
    from captum_extremal import visualization

    written = []
    for column in dict.fromkeys(column for line in lines for column in line.scores):
        labels = [f"{label}{_part(line)}" for line, label in zip(lines, _short_labels(lines))]
        scores = {label: _score(line, column, "all") for line, label in zip(lines, labels)}
        values = {_as_text(label): (score.mean, score.low, score.high) for label, score in scores.items() if score}
        if len(values) > 1:
            within = f" within {tolerance:g} px" if column == "pointing" else ""
            figure = visualization.show_bars(values, ylabel=f"{column}{within}, as a fraction")
            written.append(write_figure(figure, folder / f"{column}.png"))
    return written


def _part(line: Line) -> str:
    """What a bar says of a run that is not at its end."""
    return "" if line.rows == line.pairs or line.unreadable else f" ({_pairs(line)} pairs)"


def _pairs(line: Line) -> str:
    return str(line.rows) if line.rows == line.pairs else f"{line.rows} of {line.pairs}"


def _as_text(label: str) -> str:
    """A label that matplotlib does not take for a formula."""
    return label.replace("$", r"\$")
