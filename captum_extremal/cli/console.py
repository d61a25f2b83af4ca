"""What the command prints, and how it fails.

Everything that comes from outside (names of files and classes, errors) is printed literally: rich's markup is off.
Output that is no terminal gets whole lines without control codes.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event, Thread
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PROGRAM = "captum-extremal"
FAILED, WRONG_ARGUMENT, INTERRUPTED, UNREAD = 1, 2, 130, 141
_UNLIMITED = 100_000  # columns of a file: tables there are as wide as their content
SECONDS_BETWEEN_LINES = 60.0  # of progress, where it is written to a file


class StopError(Exception):
    """Ends the command with one line and this exit status."""

    def __init__(self, message: str, status: int = WRONG_ARGUMENT) -> None:
        super().__init__(message)
        self.status = status


class PhotoError(Exception):
    """Ends the work on one photograph; the command continues with the next one."""


@contextmanager
def stopping(what: str, *errors: type[Exception], status: int = FAILED) -> Iterator[None]:
    """Let these errors end the command with a line that begins with ``what``."""
    try:
        yield
    except errors as error:
        raise StopError(f"{what}: {error}", status) from error


@contextmanager
def printing_anything() -> Iterator[None]:
    """Print what the console cannot show as its codes, instead of failing."""
    with ExitStack() as stack:
        for stream in (sys.stdout, sys.stderr):
            if callable(reconfigure := getattr(stream, "reconfigure", None)):
                stack.callback(reconfigure, errors=getattr(stream, "errors", None))
                reconfigure(errors="backslashreplace")
        yield


@contextmanager
def telling(what: Callable[[float], str]) -> Iterator[None]:
    """Say now and then how far the work is, where stderr is no terminal and so has no bar.

    Args:
        what: from the seconds since the start to a line.
    """
    if _console(stderr=True).is_terminal:
        yield
        return
    ended, started = Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES):
            say(what(time.monotonic() - started))

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def one_line(error: object, limit: int = 400) -> str:
    """The text of an error without line breaks, shortened to ``limit`` characters."""
    return shortened(" ".join(str(error).split()), limit)


def shortened(name: str, limit: int) -> str:
    """The name with at most ``limit`` characters."""
    return name if len(name) <= limit else f"{name[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def _console(*, stderr: bool = False) -> Console:
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _UNLIMITED
    return made


def say(line: object, where: Console | None = None) -> None:
    """Print one line of text on stderr, after the name of the program."""
    (where or _console(stderr=True)).print(f"{PROGRAM}: {one_line(line, 1000)}", soft_wrap=True)


def print_table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), indent: int = 0) -> None:
    """Print rows of cells in columns; on a narrow terminal, long cells continue on the next line."""
    cells = list(rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(head))
    for name in head or [""] * len(cells[0]):
        table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*row)
    made = _console()
    with made.capture() as printed:
        made.print(Padding(table, (0, 0, 0, indent), expand=False))
    print("\n".join(line.rstrip() for line in printed.get().rstrip("\n").split("\n")), flush=True)


def print_files(where: object, files: dict[str, str]) -> None:
    """Print which files have been written to a folder, and what is in them."""
    print(f"Written to {where}:")
    print_table(files.items(), indent=2)


class LinesOfProgress:
    """The progress of a search on stderr, where it is no terminal: a line for each tenth.

    It is a callback of ``extremal_masks``. More steps may come than are expected, so the last line is that of
    :meth:`finish`.

    Args:
        steps: how many are expected.
    """

    def __init__(self, steps: int) -> None:
        self._expected, self._done, self._started = steps, 0, time.monotonic()

    def __call__(self, step: int, areas: Any, values: Any) -> None:
        """Count a step, at which the masks have the areas (N, R)."""
        tenths = self._tenths()
        self._done += 1
        if self._tenths() > tenths:
            kept = 100 * float(areas.nanmean())  # images that are finished have NaN
            self._say(self._tenths(), "" if math.isnan(kept) else f", the masks keep {kept:.0f} %")

    def finish(self) -> None:
        """The last line."""
        self._say(10, "")

    def _say(self, tenths: int, more: str) -> None:
        say(f"[{'#' * tenths:.<10}] {10 * tenths} %, {time.monotonic() - self._started:.0f} s{more}")

    def _tenths(self) -> int:
        return min(10 * self._done // self._expected, 9)


class ProgressBar(Progress):
    """The progress of a run on stderr, with the time left: a bar on a terminal, a line at the end in a file."""

    def __init__(self, name: str, *, hidden: bool = False) -> None:
        where = _console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        times = (TextColumn("pairs,"), TimeRemainingColumn(), TextColumn("left"))
        super().__init__(*columns, *times, console=where, disable=hidden or not where.is_terminal)
        self.done = 0  # pairs of an image and a class that are finished
        self._name, self._in_lines = name, not (hidden or where.is_terminal)

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` pairs are finished; nothing is shown where there is nothing to do."""
        if not total:
            return
        if not self.tasks:
            self.add_task(self._name, total=total)
        self.done = done
        self.update(self.tasks[0].id, completed=done)
        if self._in_lines and done == total:
            self.console.print(self.line())

    def line(self, seconds: float = 0.0) -> str:
        """How far the run is, after so many seconds."""
        if not self.tasks:
            return f"{self._name}: {seconds:.0f} s so far"
        task = self.tasks[0]
        left = "an unknown time" if task.time_remaining is None else f"{task.time_remaining:.0f} s"
        return f"{self._name}: {task.percentage:.0f}%, {self.done} of {task.total:.0f} pairs, {left} left"
