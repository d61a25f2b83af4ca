"""Rows of images in a file that a stopped run leaves whole, and from which the next run goes on."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FORMAT = 1


@dataclass(frozen=True)
class Row:
    """What was found for one image: a line of JSON.

    Attributes:
        index: its place in the loader, from 0.
        label: its class.
        checksum: of the model's inputs.
        optimal_area: a*; None where no area reaches the threshold.
        clean, perturbed, threshold: the scores of the whole activation and of none of it, and Phi_0.
        mask: (K,) float32, m_a*, the largest area's where there is none; in the file base64 of little-endian bytes.
    """

    index: int
    label: int
    checksum: int
    optimal_area: float | None
    clean: float
    perturbed: float
    threshold: float
    mask: Tensor

    @property
    def reached(self) -> bool:
        return self.optimal_area is not None

    def line(self) -> bytes:
        mask = base64.b64encode(self.mask.numpy().astype("<f4").tobytes()).decode()
        return _line({**vars(self), "mask": mask})

    @classmethod
    def read(cls, line: bytes) -> Row:
        """The row of a line; an error of almost any kind if it is none."""
        values = json.loads(line)
        mask = np.frombuffer(base64.b64decode(values.pop("mask"), validate=True), "<f4")
        return cls(mask=torch.from_numpy(mask.astype(np.float32)), **values)


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


class Rows:
    """Keeps nothing."""

    def take(self, most: int) -> list[Row]:
        """The rows of the next images, as far as there are any."""
        return []

    def append(self, rows: list[Row]) -> None:
        """Keep the rows of the images behind those that were taken."""

    def __enter__(self) -> Rows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to close."""


class RowFile(Rows):
    """Rows in a file: a line of settings, then a line an image in the order of the loader.

    Lines are only ever appended, so whatever stops a run, all but the last are whole; a last one without its end is
    cut off when it is met. The settings are written with the first rows: a call that fails before leaves no trace.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path must be a string or a path, got {path!r} of type {type(path).__name__}")
        self._path, self._taken = os.fspath(path), 0
        self._header = _line({"class_channels": _FORMAT, **settings})
        self._file = open(path, "a+b")  # noqa: SIM115
        try:
            self._check_header()
        except BaseException:
            self._file.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def take(self, most: int) -> list[Row]:
        rows = list[Row]()
        while len(rows) < most and (line := self._whole_line()):
            try:
                row = Row.read(line)
            except (AttributeError, KeyError, TypeError, ValueError):
                row = None
            if row is None or row.index != self._taken:
                raise ValueError(f"path must hold a row an image, got {self._path!r} damaged at row {self._taken}")
            rows.append(row)
            self._taken += 1
        return rows

    def append(self, rows: list[Row]) -> None:
        header = b"" if self._file.tell() else self._header
        self._file.write(header + b"".join(row.line() for row in rows))
        self._file.flush()
        self._taken += len(rows)

    def _whole_line(self) -> bytes:
        start = self._file.tell()
        line = self._file.readline()
        if line.endswith(b"\n"):
            return line
        self._file.truncate(start)
        return b""

    def _check_header(self) -> None:
        self._file.seek(0)
        line = self._file.readline()
        if self._header.startswith(line):
            if line != self._header:
                self._file.truncate(0)  # empty, or stopped within its first line
                self._file.seek(0)
            return
        try:
            known = json.loads(line)
            known_format = known["class_channels"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"path must be a new file or one of class_channels, got {self._path!r}") from None
        if known_format != _FORMAT:
            raise ValueError(f"path must be a file of format {_FORMAT}, got {self._path!r} of {known_format!r}")
        others = [
            f"{name} {known.get(name)!r} instead of {value!r}"
            for name, value in json.loads(self._header).items()
            if known.get(name) != value
        ]
        raise ValueError(f"path must be a file of these settings, got {self._path!r} with {', '.join(others)}")
