"""JSON Lines: files of one JSON value per line that are only ever appended to.

The first line is a header with the settings of a run. Lines are written whole and flushed, so a process that is killed
leaves at most one unfinished line, the last: readers skip it, and the next writer of the file cuts it off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

FORMAT = 1
_LONGEST_LINE = 2**20  # bytes; a row of an evaluation has some hundred, a mask of 2048 channels ten thousand
_T = TypeVar("_T")


class JsonLines(ExitStack):
    """A file that one process continues, or starts if it is new.

    The header is written with the first values: a run that fails before them leaves an empty file.

    Args:
        path: of the file. Its folder must exist.
        kind: what the lines are, the first key of the header, whose value is :data:`FORMAT`.
        settings: the rest of the header. A file with others is refused and left as it is.

    Raises:
        TypeError, ValueError: ``path`` is no path, or a file of another kind or of other settings.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path must be a string or a path, got {path!r} of type {type(path).__name__}")
        self._path, self._kind = os.fspath(path), kind
        self._header = _as_line({kind: FORMAT, **settings})
        with ExitStack() as opened:
            self._file = opened.enter_context(open(path, "a+b"))
            self._check_header()
            self.push(opened.pop_all())

    def read(self, parse: Callable[[Any], _T]) -> Iterator[_T]:
        """The values after the header, parsed. An unfinished last line is cut off when it is met.

        Raises:
            ValueError: a line is not JSON, or ``parse`` fails on its value.
        """
        for _, value in _parsed(self._file, self._path, parse, first=2):
            yield value
        self._file.truncate()

    def append(self, values: Iterable[Any]) -> None:
        """Write values behind those that were read or written."""
        header = b"" if self._file.tell() else self._header
        self._file.write(header + b"".join(map(_as_line, values)))
        self._file.flush()

    def _check_header(self) -> None:
        self._file.seek(0)
        line = self._file.readline(_LONGEST_LINE)
        if line == self._header:
            return
        if self._header.startswith(line):  # the file is new, or its writer was stopped within the first line
            self._file.truncate(0)
            self._file.seek(0)
            return
        try:
            found = json.loads(line)
            _ = found[self._kind]
        except (KeyError, TypeError, ValueError, RecursionError):
            raise ValueError(f"path must be a new file or one of {self._kind}, got {self._path!r}") from None
        others = [
            f"{name} {found.get(name)!r} instead of {value!r}"
            for name, value in json.loads(self._header).items()
            if found.get(name) != value
        ]
        raise ValueError(f"path must be a file of these settings, got {self._path!r} with {', '.join(others)}")


def read_lines(path: Path, parse: Callable[[Any], _T], largest: int) -> Iterator[_T]:
    """The values of a file's whole lines, the header's among them, parsed. The file is not changed.

    Another process may be writing the file. Nothing in it is run, and no line can use more memory than its size.

    Args:
        path: of the file.
        parse: from the JSON value of a line to what is returned.
        largest: how many bytes are read at most.

    Raises:
        ValueError: the file is larger, has a line that is too long or not JSON, or ``parse`` fails on a value.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for size, value in _parsed(file, path, parse):
            if size > largest:
                raise ValueError(f"{path} is larger than a file of rows can be, {largest} bytes")
            yield value


def _parsed(file: BinaryIO, path: str | Path, parse: Callable[[Any], _T], first: int = 1) -> Iterator[tuple[int, _T]]:
    """Where each whole line ends, and its value; the file's position is then the end of the last one."""
    number, end = first, file.tell()
    while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
        try:
            value = parse(json.loads(line))
        # A line that is damaged can fail in any of these ways, down to brackets that are nested too deeply.
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, or no file of rows, at line {number}: {error!r}") from None
        number, end = number + 1, end + len(line)
        yield end, value
    if len(line) == _LONGEST_LINE:
        raise ValueError(f"{path} has a line longer than a row can be, {_LONGEST_LINE} bytes")
    file.seek(end)


def _as_line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
