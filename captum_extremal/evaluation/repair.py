"""The way out of a damaged file of rows: the damaged lines are set aside, and every good line is kept."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from captum_extremal._jsonl import DAMAGE, set_aside, whole_lines
from captum_extremal._state import warn_caller
from captum_extremal.class_rows import are_of_class_channels, good_rows
from captum_extremal.evaluation.rows import Kept, header_line, row_files, take_line


def repair(paths: Iterable[Path], known: Iterable[Kept] = ()) -> dict[Path, int]:
    """Set damaged lines of files of rows aside.

    A file that has some is kept as it was beside the repaired one, under its name and ".damaged". A file of
    :func:`~captum_extremal.class_channels` whose header is damaged is left alone, with a warning: its settings are
    known to ``class_channels(..., repair=True)`` only.

    Args:
        paths: files of rows, of an evaluation or of :func:`~captum_extremal.class_channels`, and folders of such files.
        known: runs whose rows are good also where no file has a whole header of theirs.

    Returns:
        the files that had damaged lines, and how many.

    Raises:
        OSError: a file cannot be read or written.
    """
    files = {file: whole_lines(file) for file in row_files(paths)}
    headers = {one.settings.key: header_line(one.settings, one.pairs) for one in known}
    for line in itertools.chain(*files.values()):
        runs: dict[str, Kept] = {}
        if _is_good(line, runs) and runs:
            headers.setdefault(next(iter(runs)), line)
    found = {}
    for file, lines in files.items():
        if are_of_class_channels(lines):
            good = [lines[0], *good_rows(lines[1:])]
            damaged = len(lines) - len(good)
        elif good_rows(lines):
            warn_caller(
                f"{file}: left as it is, because its rows are those of class_channels and its header is damaged: "
                "class_channels(..., path=..., repair=True) mends it"
            )
            continue
        else:
            good, damaged = _sorted(lines, headers)
        if damaged:
            set_aside(file, good)
            found[file] = damaged
    return found


def _sorted(lines: list[bytes], headers: dict[str, bytes]) -> tuple[list[bytes], int]:
    """The good lines in their order, each run's header before its rows, and the number of the others."""
    good: list[bytes] = []
    damaged = 0
    own: dict[str, Kept] = {}  # the runs that have a header in the file
    known: dict[str, Kept] = {}
    for line in headers.values():
        _is_good(line, known)
    for line in lines:
        if _is_good(line, own):
            good.append(line)
        elif _is_good(line, known):
            header = headers[json.loads(line)["settings"]]
            _is_good(header, own)
            good += [header, line]
        else:
            damaged += 1
    return good, damaged


def _is_good(line: bytes, runs: dict[str, Kept]) -> bool:
    try:
        take_line(runs, json.loads(line))
    except DAMAGE:
        return False
    return True
