"""Files of results: arrays in one .npz, which nothing can make run code."""

import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from captum_extremal._replace import replaced

FORMAT = 2

Field = Tensor | tuple[Tensor, ...] | None
"""A tensor, one for each input tensor, or nothing."""


def write(path: str | os.PathLike[str], tensors: Mapping[str, Field], settings: dict[str, Any]) -> None:
    """Write the tensors and the settings. An interrupted call leaves no file, or the former one.

    A tuple of tensors is kept as the arrays NAME_0, NAME_1, ...
    """
    arrays: dict[str, Any] = {}
    for name, field in tensors.items():
        parts = {f"{name}_{k}": part for k, part in enumerate(field)} if isinstance(field, tuple) else {name: field}
        arrays |= {key: part.cpu().numpy() for key, part in parts.items() if part is not None}
    lengths = {name: len(field) for name, field in tensors.items() if isinstance(field, tuple)}
    about = json.dumps({"format": FORMAT, "tuples": lengths, "settings": settings})
    with replaced(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, about=np.array(about), **arrays)


class Stored:
    """What a file holds.

    Attributes:
        settings: as they were written.
    """

    def __init__(self, file: BinaryIO) -> None:
        about, self._arrays = _contents(file)
        self._tuples, self.settings = about["tuples"], about["settings"]

    def field(self, name: str, optional: bool) -> Field:
        """The tensors of a name; None where the file does not have what is optional."""
        if name in self._tuples:
            return tuple(torch.from_numpy(self._arrays[f"{name}_{k}"]) for k in range(self._tuples[name]))
        return None if optional and name not in self._arrays else torch.from_numpy(self._arrays[name])


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Stored]:
    """A file that :func:`write` wrote, read once.

    Raises:
        TypeError: the path is none.
        OSError: the file cannot be opened.
        ValueError: the file was not written by :func:`write`, or in another format, or has not what is asked for.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a path, got {path!r}")
    with open(path, "rb") as file:
        try:
            yield Stored(file)
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"path must be a file written by save, got {os.fspath(path)!r}: {error}") from error


def _contents(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says of itself, and its arrays."""
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no .npz archive")
    file.seek(0)
    with cast(Any, np.load(file, allow_pickle=False)) as archive:
        about = json.loads(str(archive["about"]))
        if about["format"] != FORMAT:
            older = ": it was written by an earlier version, search again" if about["format"] == 1 else ""
            raise ValueError(f"its format is {about['format']}, this version reads {FORMAT}{older}")
        return about, {name: archive[name] for name in archive.files if name != "about"}
