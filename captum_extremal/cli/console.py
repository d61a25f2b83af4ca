"""What the command prints, how it fails, and its exit status.

Everything that comes from outside (names of files and classes, errors) is printed literally: rich's markup is off.
Output that is no terminal gets whole lines without control codes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM = "captum-extremal"
FAILED, WRONG_ARGUMENT, INTERRUPTED = 1, 2, 130
_UNLIMITED = 100_000  # columns of a file: tables there are as wide as their content
_SECONDS_BETWEEN_LINES = 30.0  # of progress, where it is written to a file


class StopError(Exception):
    """Ends the command with one line and this exit status."""

    def __init__(self, message: str, status: int = WRONG_ARGUMENT) -> None:
        super().__init__(message)
        self.status = status


class PhotoError(Exception):
    """Ends the work on one photograph; the command continues with the next one."""


def one_line(error: object, limit: int = 400) -> str:
    """The text of an error without line breaks, shortened to ``limit`` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def shortened(name: str, limit: int) -> str:
    """The name with at most ``limit`` characters."""
    return name if len(name) <= limit else f"{name[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that prints text literally."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _UNLIMITED
    return made


def say(line: object, where: Console | None = None) -> None:
    """Print one line of text on stderr, after the name of the program."""
    (where or console(stderr=True)).print(f"{PROGRAM}: {one_line(line, 1000)}", soft_wrap=True)


def print_table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), indent: int = 0) -> None:
    """Print rows of cells in columns; on a narrow terminal, long cells continue on the next line."""
    from rich.padding import Padding
    from rich.table import Table

    cells = list(rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(head))
    for name in head or [""] * len(cells[0]):
        table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*row)
    made = console()
    with made.capture() as printed:
        made.print(Padding(table, (0, 0, 0, indent), expand=False))
    print("\n".join(line.rstrip() for line in printed.get().rstrip("\n").split("\n")), flush=True)


class ProgressBar:
    """The progress of a run on stderr, with the time left: a bar on a terminal, a line now and then in a file.

    Attributes:
        done: how many pairs of an image and a class are finished.
    """

    def __init__(self, name: str, *, hidden: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.done = 0
        self._name, self._hidden, self._console = name, hidden, console(stderr=True)
        name_column = TextColumn("{task.description}", markup=False)
        columns = (name_column, BarColumn(), MofNCompleteColumn(), TextColumn("pairs,"), TimeRemainingColumn())
        self._drawn = self._console.is_terminal and not hidden
        self._progress = Progress(*columns, TextColumn("left"), console=self._console, disable=not self._drawn)
        self._printed = time.monotonic()

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` pairs are finished; nothing is shown where there is nothing to do."""
        if not total:
            return
        if not self._progress.tasks:
            self._progress.add_task(self._name, total=total)
        self.done = done
        task = self._progress.tasks[0]
        self._progress.update(task.id, completed=done)
        now = time.monotonic()
        if not (self._drawn or self._hidden) and (done == total or now - self._printed >= _SECONDS_BETWEEN_LINES):
            self._printed = now
            left = "unknown" if task.time_remaining is None else f"{task.time_remaining:.0f} s"
            self._console.print(f"{self._name}: {task.percentage:.0f}%, {done} of {total} pairs, {left} left")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        say(line, self._console)
