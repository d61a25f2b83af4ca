"""What is kept of each pair of image and class: one row in files that are only appended to.

Each process writes a new file at each start, and rows are merged by their settings and pair. A pair whose row was not
written to its end is done again.
"""

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from captum_extremal._describe import describe
from captum_extremal._jsonl import FORMAT, LONGEST_LINE, JsonLines, as_line, read_lines
from captum_extremal.class_rows import are_of_class_channels

Pair = tuple[str, str]  # the names of an image and of a class
Values = dict[str, float | None]  # what the metrics recorded of a pair, by name
_KIND = "evaluation"
_LARGEST_FILE = 2**28  # bytes; the rows of COCO's 40 000 images have a tenth


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found for one pair; TypeError or ValueError for other types, and for numbers that are not finite."""

    image: str
    label: str  # the name of the class
    difficult: bool  # whether the pair belongs to the difficult subset
    seconds: float  # the time of its map, its share of the batch's
    values: Values  # what the metrics recorded, without those that do not apply to the pair

    def __post_init__(self) -> None:
        _check(str, self.image, self.label, *self.values)
        _check(bool, self.difficult)
        for number in (self.seconds, *self.values.values()):
            if number is not None and (isinstance(number, bool) or not math.isfinite(number)):
                raise ValueError(f"JSON keeps finite numbers only, got {number!r}")

    @property
    def pair(self) -> Pair:
        """Image and class."""
        return self.image, self.label


@dataclass(frozen=True)
class Settings:
    """What decides the rows of a run."""

    about: Mapping[str, Any]  # data set, model, method and the rest by name, kept as describe has them

    def __post_init__(self) -> None:
        object.__setattr__(self, "about", {name: describe(name, value) for name, value in self.about.items()})

    @property
    def key(self) -> str:
        """A hash of them."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Kept:
    """What files hold of one run."""

    settings: Settings
    pairs: int  # how many the data set has
    rows: dict[Pair, Row] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)  # why an image could not be read, by its name
    unexplained: dict[str, str] = field(default_factory=dict)  # why one that was read could not be explained


class RowFile(ExitStack):
    """A new file of rows in a folder, which must exist; it is made when the first row is written.

    Its first line holds the settings of the run, and how many pairs the data set has.
    """

    def __init__(self, folder: Path, settings: Settings, pairs: int) -> None:
        super().__init__()
        self._header = _header(settings, pairs)
        started = datetime.now().strftime("%Y%m%dT%H%M%S.%f")  # files are read in the order of their names
        self._path = folder / f"rows-{started}-{settings.key}-{uuid4().hex}.jsonl"
        self._file: JsonLines | None = None

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows; if the process is stopped, the first of them may be kept."""
        self._write(
            {("class" if name == "label" else name): value for name, value in vars(row).items()} for row in rows
        )

    def sizes(self) -> dict[str, int]:
        """The file's name and its size, if it was made."""
        return {} if self._file is None else {self._path.name: self._path.stat().st_size}

    def note_unreadable(self, image: str, why: str) -> None:
        """Write that an image could not be read."""
        self._write([{"image": image, "unreadable": why}])

    def note_unexplained(self, image: str, why: str) -> None:
        """Write that an image could not be explained."""
        self._write([{"image": image, "unexplained": why}])

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        if self._file is None:
            self._file = self.enter_context(JsonLines(self._path, _KIND, self._header))
        self._file.append({"settings": self._header["settings"], **line} for line in lines)


def _header(settings: Settings, pairs: int) -> dict[str, Any]:
    return {"settings": settings.key, "about": settings.about, "pairs": pairs}


def header_line(settings: Settings, pairs: int) -> bytes:
    """The first line of a file of rows."""
    return as_line({_KIND: FORMAT, **_header(settings, pairs)})


def row_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files, and those of rows in the folders."""
    for path in paths:
        yield from sorted(path.glob("*.jsonl")) if path.is_dir() else [path]


def read_rows(paths: Iterable[Path]) -> dict[str, Kept]:
    """The runs in files of rows, and in folders of such files, by the key of their settings.

    Of two rows of one pair the first counts. An unfinished last line is skipped. Nothing in a file is run.

    Raises:
        ValueError: a file is larger than 256 MiB, or one of its lines is no such row, which :func:`repair` sets aside.
        OSError: a file cannot be read.
    """
    runs: dict[str, Kept] = {}
    for file in row_files(paths):
        with file.open("rb") as opened:
            if are_of_class_channels([opened.readline(LONGEST_LINE)]):  # which may lie in the same folder
                continue
            opened.seek(0)
            deque(read_lines(opened, partial(take_line, runs), largest=_LARGEST_FILE), maxlen=0)
    for kept in runs.values():
        for image, _ in kept.rows:
            kept.unreadable.pop(image, None)
            kept.unexplained.pop(image, None)
    return runs


def take_line(runs: dict[str, Kept], line: Any) -> None:
    """Add what a line says to its run; raises almost any error if the line is damaged."""
    key = line["settings"]
    if "about" in line:
        settings = Settings(line["about"])
        _check(int, line["pairs"])
        if (line[_KIND], settings.key) != (FORMAT, key) or line["pairs"] < 0:
            raise ValueError("the header is of another format, or its settings do not have its key")
        runs.setdefault(key, Kept(settings, line["pairs"]))
    elif noted := {"unreadable", "unexplained"} & line.keys():
        kind = noted.pop()
        _check(str, line["image"], line[kind])
        getattr(runs[key], kind)[line["image"]] = line[kind]
    else:
        row = Row(label=line["class"], **{name: line[name] for name in ("image", "difficult", "seconds", "values")})
        runs[key].rows.setdefault(row.pair, row)


def _check(kind: type, *values: object) -> None:
    for value in values:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is no {kind.__name__}")
