"""JSON Lines: files of one JSON value per line that are only ever appended to.

The first line is a header with the settings of a run. Lines are written whole and flushed, so a process that is killed
leaves at most one unfinished line, the last: readers skip it, and the next writer of the file cuts it off.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from captum_extremal._replace import replaced

FORMAT = 1
# A line that is damaged can fail to be parsed in any of these ways, down to brackets that are nested too deeply.
DAMAGE = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RecursionError)
LONGEST_LINE = 2**20  # bytes; a row of an evaluation has some hundred, a mask of 2048 channels ten thousand
_T = TypeVar("_T")


class DamagedError(ValueError):
    """A file has lines that no writer of it has left there."""


class JsonLines(ExitStack):
    """A file that one process continues, or starts if it is new.

    The header is written with the first values: a run that fails before them leaves an empty file.

    Args:
        path: of the file. Its folder must exist.
        kind: what the lines are, the first key of the header, whose value is :data:`FORMAT`.
        settings: the rest of the header. A file with others is refused and left as it is.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path must be a string or a path, got {path!r} of type {type(path).__name__}")
        self._header = as_line({kind: FORMAT, **settings})
        with ExitStack() as opened:
            self._file = opened.enter_context(open(os.fspath(path), "a+b"))
            self._check_header(kind)
            self.push(opened.pop_all())

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self._file.name)

    def read(self, parse: Callable[[Any], _T]) -> Iterator[_T]:
        """The values after the header, parsed. An unfinished last line is cut off when it is met."""
        yield from read_lines(self._file, parse, first=2)
        self._file.truncate()

    @property
    def position(self) -> int:
        """Where the next line starts that :meth:`read` gives."""
        return self._file.tell()

    def value_at(self, start: int) -> Any:
        """The value of the line that starts there."""
        self._file.seek(start)
        return json.loads(self._file.readline())

    def append(self, values: Iterable[Any]) -> None:
        """Write values behind those that were read or written."""
        header = b"" if self._file.tell() else self._header
        self._file.write(header + b"".join(map(as_line, values)))
        self._file.flush()

    def _check_header(self, kind: str) -> None:
        self._file.seek(0)
        line = self._file.readline(LONGEST_LINE)
        if self._header.startswith(line):
            if line != self._header:  # the file is new, or its writer was stopped within the first line
                self._file.truncate(self._file.seek(0))
            return
        try:
            found = json.loads(line)
            _ = found[kind]
        except (KeyError, TypeError, ValueError, RecursionError):
            raise ValueError(f"path must be a new file or one of {kind}, got {self._file.name!r}") from None
        wanted = json.loads(self._header).items()
        others = [
            f"{name} {found.get(name)!r} instead of {value!r}" for name, value in wanted if found.get(name) != value
        ]
        raise ValueError(f"path must be a file of these settings, got {self._file.name!r} with {', '.join(others)}")


def read_lines(
    file: BinaryIO, parse: Callable[[Any], _T], *, first: int = 1, largest: float = math.inf
) -> Iterator[_T]:
    """The values of a file's whole lines, parsed; the file's position is then the end of the last one.

    Another process may be writing the file. Nothing in it is run, and no line can use more memory than its size. A
    ValueError names the line, from ``first``, that is no JSON or on whose value ``parse`` fails with almost any error;
    others tell of a line that is too long, and of a file that is larger than so many bytes.
    """
    number, end = first, file.tell()
    while (line := file.readline(LONGEST_LINE)).endswith(b"\n"):
        try:
            value = parse(json.loads(line))
        except DAMAGE as error:
            raise DamagedError(f"{file.name} is damaged, or no file of rows, at line {number}: {error!r}") from None
        number, end = number + 1, end + len(line)
        if end > largest:
            raise ValueError(f"{file.name} is larger than a file of rows can be, {largest} bytes")
        yield value
    if len(line) == LONGEST_LINE:
        raise DamagedError(f"{file.name} has a line longer than a row can be, {LONGEST_LINE} bytes")
    file.seek(end)


def whole_lines(file: Path) -> list[bytes]:
    """The lines of a file with their ends. What follows the last one's end is unfinished, which is no damage."""
    return [line + b"\n" for line in file.read_bytes().split(b"\n")[:-1]]


def set_aside(file: Path, good: Iterable[bytes]) -> None:
    """Replace a file by its good lines, and keep it as it was beside it, under its name and ".damaged"."""
    endings = (".damaged", *(f".damaged-{number}" for number in range(2, 1000)))
    aside = next(path for ending in endings if not (path := file.with_name(file.name + ending)).exists())
    with replaced(file) as repaired, replaced(aside) as copy:  # the copy takes its place first
        shutil.copy2(file, copy)
        Path(repaired).write_bytes(b"".join(good))


def as_line(value: Any) -> bytes:
    """The value as a line of a file."""
    return json.dumps(value).encode() + b"\n"
