"""Tables of evaluations: on the console, as CSV and JSON, and a figure a metric."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_extremal.cli._console import FAILED, StopError, shortened
from captum_extremal.cli._figures import print_files, write_figure

if TYPE_CHECKING:
    from captum_extremal.evaluation.tables import Line, Score

TABLE = "table"
_LONGEST_LABEL = 60


def report(paths: Sequence[Path], tolerance: float, folder: Path, against: str | None = None) -> None:
    """Print the runs in files or folders of rows, and write them to a folder; one against the others where named."""
    from captum_extremal.evaluation.rows import read_rows
    from captum_extremal.evaluation.tables import leads, tabulate

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
        ahead = {} if against is None else leads(runs.values(), against, tolerance)
    except ValueError as error:
        raise StopError(f"--against: {error}") from error
    _print(lines, tolerance)
    if against is not None:
        _print_leads(ahead, against)
    _write_csv(lines, folder / f"{TABLE}.csv")
    _write_json(lines, tolerance, folder / f"{TABLE}.json")
    figures = _write_figures(lines, tolerance, folder)
    print(f"Written to {folder.resolve()}:")
    print_files(
        {f"{TABLE}.csv": "a line a run, metric and subset", f"{TABLE}.json": "the same with settings and classes"}
        | dict.fromkeys(figures, "the runs side by side, with their intervals")
    )


def _print(lines: list[Line], tolerance: float) -> None:
    from captum_extremal.evaluation.tables import SUBSETS

    wanted = dict.fromkeys((column, subset) for line in lines for column in line.scores for subset in SUBSETS)
    columns = [(column, subset) for column, subset in wanted if any(_score(line, column, subset) for line in lines)]
    names = [column if subset == "all" else f"{column}, {subset}" for column, subset in columns]
    table = [["method", *names, "s/image", "pairs"]]
    labels = _short_labels(lines)
    for line, label in zip(lines, labels):
        cells = [_text(_score(line, column, subset)) for column, subset in columns]
        table.append([label, *cells, f"{line.seconds_per_image:.2f}", _pairs(line)])
    _print_table(table)
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
    table = [[f"{label} ahead of", *columns, "pairs"]]
    for other, scores in ahead.items():
        cells = [_text(scores.get(column), "+") for column in columns]
        table.append([shortened(other, _LONGEST_LABEL), *cells, str(max(score.pairs for score in scores.values()))])
    print()
    _print_table(table)
    print("Differences pair by pair; those whose interval holds 0 tell nothing apart. Less deletion is better.")


def _print_table(table: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table)]
    print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table))


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


def _write_json(lines: list[Line], tolerance: float, path: Path) -> None:
    content: dict[str, Any] = {"tolerance": tolerance, "runs": [asdict(line) for line in lines]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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
