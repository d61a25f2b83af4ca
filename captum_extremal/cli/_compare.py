"""``captum-extremal compare``: evaluations side by side, from the rows that they left."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from captum_extremal.cli._report import report
from captum_extremal.cli._summary import made_folder


def add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="put evaluations side by side",
        description="Put evaluations side by side: a table on the console, as CSV and as JSON, and a figure a metric. "
        "Rows of one pair and the same settings count once, however many files they come from.",
    )
    compare.add_argument(
        "rows", nargs="+", type=Path, metavar="PATH", help="files of rows, or folders that evaluate has written to"
    )
    add_tolerance(compare)
    compare.add_argument(
        "--against",
        metavar="METHOD",
        help="one of the runs, by its name in the table: how far it is ahead of each of the others, pair by pair",
    )
    compare.add_argument(
        "--out", metavar="DIR", default="captum-extremal-compare", help="folder to write to (%(default)s)"
    )
    compare.set_defaults(command=_compare)


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=_pixels,
        default=15.0,
        metavar="PIXELS",
        help="how far off the object, in pixels of the image as annotated, still hits in the pointing game; the table "
        "is made anew, the maps are not (%(default)g)",
    )


def _compare(options: argparse.Namespace) -> int:
    report(options.rows, options.tolerance, made_folder(options.out), options.against)
    return 0


def _pixels(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of pixels of at least 0, got {text!r}")
    return value
