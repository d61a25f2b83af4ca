"""``captum-extremal compare``: evaluations side by side, from the rows that they left."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captum_extremal import visualization
from captum_extremal._jsonl import DamagedError
from captum_extremal._replace import replaced
from captum_extremal.cli.console import (
    FAILED,
    WRONG_ARGUMENT,
    StopError,
    print_files,
    print_table,
    say,
    shortened,
    stopping,
)
from captum_extremal.cli.options import REPAIR
from captum_extremal.cli.output import made_folder, write_figure
from captum_extremal.evaluation import Kept, Line, Score, as_frame, leads, read_rows, repair, tabulate
from captum_extremal.evaluation.metrics import COLUMNS, TOLERANCE

_LONGEST_LABEL = 60


def run(given: Any) -> None:
    """Print the runs in files or folders of rows and write them to a folder; with ``against``, that run's leads too."""
    paths, tolerance = given.rows, TOLERANCE if given.tolerance is None else given.tolerance
    for path in paths:
        if not path.exists():
            raise StopError(f"there is no file or folder {path}", FAILED)
    if given.repair:
        repaired(paths)
    try:
        runs = read_rows(paths)
    except DamagedError as error:
        advice = "" if given.repair else f"; --repair {REPAIR}"  # which has left this file as it is
        raise StopError(f"{error}{advice}", FAILED) from error
    except ValueError as error:
        raise StopError(str(error), FAILED) from error
    lines = tabulate(runs.values(), tolerance)
    if not lines:
        raise StopError(f"there is no row in {', '.join(map(str, paths))}", FAILED)
    with stopping("--against", ValueError, status=WRONG_ARGUMENT):
        ahead = {} if given.against is None else leads(runs.values(), given.against, tolerance)
    # Labels that fit into the table; those that are alike once they are cut end in the key of their settings.
    short, folder = [shortened(line.label, _LONGEST_LABEL) for line in lines], made_folder(given.out)
    labels = [f"{label} ({line.key})" if short.count(label) > 1 else label for line, label in zip(lines, short)]
    labelled = dict(zip(labels, lines))
    # The files come first, because a closed output ends the program.
    with replaced(folder / "table.csv") as partial:
        as_frame(lines).to_csv(partial, index=False)
    content = {"tolerance": tolerance, "runs": [asdict(line) for line in lines]}
    with replaced(folder / "table.json") as partial:
        Path(partial).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for column in COLUMNS:
        (folder / f"{column}.png").unlink(missing_ok=True)  # of an earlier comparison
    figures = _write_figures(labelled, tolerance, folder)
    _print(labelled, tolerance)
    if given.against is not None:
        _print_leads(ahead, given.against)
    files = {"table.csv": "one line per run, metric and subset", "table.json": "the same with settings and classes"}
    print_files(folder.resolve(), files | dict.fromkeys(figures, "the runs side by side, with their intervals"))


def repaired(paths: Iterable[Path], known: Iterable[Kept] = ()) -> None:
    """Set damaged lines aside, and say how many."""
    for file, count in repair(paths, known).items():
        say(f"{file}: damaged lines set aside: {count}; the file as it was is beside it")


def _print(lines: dict[str, Line], tolerance: float) -> None:
    found = [line.scores for line in lines.values()]
    columns = dict.fromkeys((name, subset) for scores in found for name in scores for subset in scores[name])
    names = [name if subset == "all" else f"{name}, {subset}" for name, subset in columns]
    table = []
    for label, line in lines.items():
        cells = [_text(line.scores.get(name, {}).get(subset)) for name, subset in columns]
        table.append([label, *cells, f"{line.seconds_per_image:.2f}", _pairs(line)])
    print_table(table, ["method", *names, "s/image", "pairs"])
    pointing = f", pointing within {tolerance:g} px" if ("pointing", "all") in columns else ""
    pairs = ", of insertion and deletion over the pairs" * (("insertion", "all") in columns)
    means = f"means over the classes{pairs}{pointing}"
    print(f"Per cent, {means}; in brackets 95 % intervals from drawing the images again.")
    for label, line in lines.items():
        if line.unreadable:
            print(f"{label}: images that could not be read: {line.unreadable}.")
        if line.unexplained:
            print(f"{label}: images that could not be explained: {line.unexplained}.")
        if skipped := {score.skipped for subsets in line.scores.values() for score in subsets.values()} - {0}:
            print(f"{label}: pairs that do not count, because nothing of their class is annotated: {max(skipped)}.")


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


def _text(score: Score | None, sign: str = "") -> str:
    if score is None:
        return "-"
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (score.mean, score.low, score.high))
    return f"{mean} [{low}, {high}]"


def _write_figures(lines: dict[str, Line], tolerance: float, folder: Path) -> list[str]:
    """A figure for each metric that several runs have: the names of the files."""
    written = []
    for column in dict.fromkeys(column for line in lines.values() for column in line.scores):
        values = {}
        for label, line in lines.items():
            part = "" if line.rows == line.pairs or line.unreadable else f" ({_pairs(line)} pairs)"  # not at its end
            if score := line.scores.get(column, {}).get("all"):
                values[label + part] = (score.mean, score.low, score.high)
        if len(values) > 1:
            within = f" within {tolerance:g} px" if column == "pointing" else ""
            figure = visualization.show_bars(values, ylabel=f"{column}{within}, as a fraction")
            written.append(write_figure(figure, folder / f"{column}.png"))
    return written


def _pairs(line: Line) -> str:
    return str(line.rows) if line.rows == line.pairs else f"{line.rows} of {line.pairs}"
