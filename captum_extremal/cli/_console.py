"""What the command says on stderr, what ends it, and its exit status."""

from __future__ import annotations

import sys

PROGRAM = "captum-extremal"
FAILED, WRONG_ARGUMENT, INTERRUPTED = 1, 2, 130


class StopError(Exception):
    """What ends the command with one line."""

    def __init__(self, message: str, status: int = WRONG_ARGUMENT) -> None:
        super().__init__(message)
        self.status = status


class PhotoError(Exception):
    """What ends the work on one photograph, and not on the others."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def one_line(error: object, limit: int = 400) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def shortened(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"
