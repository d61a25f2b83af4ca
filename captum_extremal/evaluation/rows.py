"""What is kept of each pair of image and class: a line of JSON, in files that only ever grow.

Every process writes a file of its own, new at each start, and rows are put together by their key. So whatever stops a
process, at most the last line of its file is not whole, and the pair of that line is done again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

Pair = tuple[str, str]
"""The names of an image and of a class."""

SUFFIX = ".jsonl"
_FORMAT = 1
_LONGEST_LINE = 2**20  # bytes; a row has some hundred, the settings of a thousand classes some ten thousand
_LARGEST_FILE = 2**28  # bytes; the rows of COCO's 40 000 images have a tenth


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found for one pair.

    Attributes:
        image, label: the names of the image and of the class.
        difficult: whether the pair belongs to the difficult subset.
        seconds: what its map took: its share of the batch's time.
        values: what the metrics recorded, by the names in
            :data:`~captum_extremal.evaluation.metrics.METRICS`; without those that do not apply to the pair.
    """

    image: str
    label: str
    difficult: bool
    seconds: float
    values: dict[str, float | None]

    @property
    def pair(self) -> Pair:
        """Image and class."""
        return self.image, self.label


@dataclass(frozen=True)
class Settings:
    """What decides the rows of a run: plain values of JSON by name.

    Attributes:
        about: data set, model, method and the rest.
    """

    about: Mapping[str, Any]

    @property
    def key(self) -> str:
        """A hash of them."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Kept:
    """What files hold of one run.

    Attributes:
        settings: of the run.
        pairs: how many pairs the data set has.
        rows: by pair.
        unreadable: why an image could not be used, by its name.
    """

    settings: Settings
    pairs: int
    rows: dict[Pair, Row] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


class RowFile:
    """A new file of rows in a folder, made when the first is written.

    Args:
        folder: must exist.
        settings: of the run, in the file's first line.
        pairs: how many pairs the data set has.
    """

    def __init__(self, folder: Path, settings: Settings, pairs: int) -> None:
        self._key = settings.key
        self._header = {"evaluation": _FORMAT, "settings": self._key, "about": dict(settings.about), "pairs": pairs}
        started = datetime.now().strftime("%Y%m%dT%H%M%S.%f")  # read in this order
        name = f"rows-{started}-{self._key}-{socket.gethostname()}-{os.getpid()}"
        self._paths = (folder / f"{name}-{number:03}{SUFFIX}" for number in itertools.count())
        self._file: BinaryIO | None = None
        self._closed = ExitStack()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.close()

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows, all of them or, where the process is stopped, the first of them."""
        self._write(
            {"image": row.image, "class": row.label, "difficult": row.difficult, "seconds": row.seconds}
            | {"values": row.values}
            for row in rows
        )

    def note_unreadable(self, image: str, why: str) -> None:
        """Write that an image could not be used."""
        self._write([{"image": image, "unreadable": why}])

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        text = b"".join(_line({"settings": self._key, **line}) for line in lines)
        if self._file is None:
            self._file = self._closed.enter_context(_new_file(self._paths))
            text = _line(self._header) + text
        self._file.write(text)
        self._file.flush()


def _new_file(paths: Iterator[Path]) -> BinaryIO:
    while True:
        with suppress(FileExistsError):
            return next(paths).open("xb")


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def read_rows(paths: Iterable[Path]) -> dict[str, Kept]:
    """The runs in files of rows, and in folders of such files, by the key of their settings.

    Of two rows of one pair the first counts. A last line without its end is left out. Nothing in a file is run, and
    none can use more memory than its size bears out.

    Raises:
        ValueError: a file is larger than 256 MiB, or one of its lines is no such row.
        OSError: a file cannot be read.
    """
    runs: dict[str, Kept] = {}
    for path in paths:
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        for file in files:
            for number, line in enumerate(_whole_lines(file), 1):
                try:
                    _take(json.loads(line), runs)
                # What is no row can be that in any way, down to brackets that are nested too deeply.
                except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
                    raise ValueError(f"{file} is damaged, or no file of rows, at line {number}: {error!r}") from None
    for kept in runs.values():
        repaired = {image for image, _ in kept.rows} & set(kept.unreadable)
        for image in repaired:
            del kept.unreadable[image]
    return runs


def _whole_lines(path: Path) -> Iterator[bytes]:
    size = 0
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE):
            size += len(line)
            if size > _LARGEST_FILE:
                raise ValueError(f"{path} is larger than a file of rows can be, {_LARGEST_FILE} bytes")
            if not line.endswith(b"\n"):
                if len(line) == _LONGEST_LINE:
                    raise ValueError(f"{path} has a line longer than a row can be, {_LONGEST_LINE} bytes")
                return
            yield line


def _take(line: Any, runs: dict[str, Kept]) -> None:
    """Add what a line says to its run; an error of almost any kind if it is no line of a file of rows."""
    key = line["settings"]
    if "about" in line:
        if line["evaluation"] != _FORMAT:
            raise ValueError(f"format {line['evaluation']!r} instead of {_FORMAT}")
        settings = Settings(dict(line["about"].items()))
        if settings.key != key:
            raise ValueError("settings that do not have this key")
        runs.setdefault(key, Kept(settings, _count(line["pairs"])))
        return
    kept, image = runs[key], _name(line["image"])
    if "unreadable" in line:
        kept.unreadable[image] = _name(line["unreadable"])
        return
    row = Row(
        image=image,
        label=_name(line["class"]),
        difficult=_flag(line["difficult"]),
        seconds=_number(line["seconds"]),
        values={_name(name): None if value is None else _number(value) for name, value in line["values"].items()},
    )
    kept.rows.setdefault(row.pair, row)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no finite number")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value
