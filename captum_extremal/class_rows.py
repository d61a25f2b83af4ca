"""The file of rows that :func:`~captum_extremal.class_channels` continues, a row an image, and its repair."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal._jsonl import DAMAGE, FORMAT, DamagedError, JsonLines, set_aside, whole_lines
from captum_extremal._state import warn_caller
from captum_extremal.results import ExtremalMasks

KIND = "class_channels"
Image = tuple[int, int, str]
"""Its position in the loader, its class, and a checksum of the inputs."""
Batch = tuple[tuple[Tensor, ...], list[int], list[str]]
"""Inputs, labels, and a checksum of the inputs of each image."""


@dataclass(frozen=True)
class ImageRow:
    """What is kept of one image in the file of a run that can be continued."""

    index: int
    label: int
    checksum: str
    optimal_area: float | None  # a*; None where no area reaches the threshold
    clean: float  # the score of the whole activation
    perturbed: float  # the score of none of it
    threshold: float  # Phi_0
    mask: Tensor  # (K,) float32, m_a*; the largest area's mask where there is no a*

    def as_json(self) -> dict[str, Any]:
        """Plain values; the mask is base64 of its little-endian bytes."""
        return {**vars(self), "mask": base64.b64encode(self.mask.numpy().astype("<f4").tobytes()).decode()}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> ImageRow:
        """The row of such values; raises almost any error if they are others."""
        mask = np.frombuffer(base64.b64decode(values.pop("mask"), validate=True), "<f4")
        row = cls(mask=torch.from_numpy(mask.astype(np.float32)), **values)
        for name, value in (("index", row.index), ("label", row.label)):
            check_count(name, value, at_least=0)
        if row.optimal_area is not None:
            check_number("optimal_area", row.optimal_area)
        for score in (row.clean, row.perturbed, row.threshold):  # which may be infinite
            if type(score) is not float or math.isnan(score):
                raise ValueError(f"a score must be a number, got {score!r}")
        if not isinstance(row.checksum, str) or not mask.size or not np.isfinite(mask).all():
            raise ValueError("a row must have a checksum and a finite mask")
        return row


def rows_of(found: ExtremalMasks, images: list[Image]) -> list[ImageRow]:
    """What is kept of a search of these images."""
    masks = found.optimal_mask()
    if isinstance(masks, tuple):
        raise ValueError(f"the layer must have one tensor, got {len(masks)}: choose a layer inside of it")
    areas = [None if math.isnan(area) else area for area in found.optimal_area.tolist()]
    scores = (found.clean_score.tolist(), found.perturbed_score.tolist(), found.threshold.tolist())
    return [ImageRow(*image, *values) for image, *values in zip(images, areas, *scores, masks.cpu())]


class RowsOnFile:
    """The rows of a file, of which only the places are held: a mask may have thousands of channels.

    Raises:
        DamagedError: the file has damaged lines.
    """

    def __init__(self, file: JsonLines) -> None:
        self._file = file
        self._starts: dict[int, int] = {}  # of the lines, by the position of their images in the loader
        channels: dict[int, int] = {}
        try:
            start = file.position
            for row in file.read(partial(_parsed, channels)):
                self._starts[row.index], start = start, file.position
            for index in _odd(channels):
                raise DamagedError(
                    f"{file.name} is damaged: image {index} has a mask of another number of channels than most, "
                    f"{channels[index]}"
                )
        except DamagedError as error:
            raise DamagedError(f"{error}; repair=True sets damaged lines aside, and keeps all others") from error

    def of(self, images: list[Image]) -> dict[int, ImageRow]:
        """The rows of those of the images that have one, by the position of the image in the loader."""
        starts = ((index, self._starts[index]) for index, *_ in images if index in self._starts)
        return {index: ImageRow.of_json(self._file.value_at(start)) for index, start in starts}


def _parsed(channels: dict[int, int], line: dict[str, Any]) -> ImageRow:
    """The row of a line, whose number of channels is noted; raises almost any error if the line is damaged."""
    row = ImageRow.of_json(line)
    if row.index in channels:
        raise ValueError(f"image {row.index} has a row already")
    channels[row.index] = len(row.mask)
    return row


def _odd(channels: dict[int, int]) -> list[int]:
    """The images whose masks have another number of channels than most."""
    usual = Counter(channels.values()).most_common(1)
    return [index for index, count in channels.items() if count != usual[0][0]]


def are_of_class_channels(lines: list[bytes]) -> bool:
    """Whether the first of the lines of a file is the header that :func:`class_channels` writes."""
    try:
        return bool(json.loads(lines[0])[KIND] == FORMAT)
    except (IndexError, *DAMAGE):
        return False


def good_rows(lines: list[bytes]) -> list[bytes]:
    """The lines that are good rows of :func:`class_channels`."""
    return _good(lines)[1]


def _good(lines: list[bytes]) -> tuple[dict[int, ImageRow], list[bytes]]:
    """The good rows, by the position of their images in the loader, and their lines."""
    good: dict[int, tuple[ImageRow, bytes]] = {}
    channels: dict[int, int] = {}
    for line in lines:
        with suppress(*DAMAGE):
            row = _parsed(channels, json.loads(line))
            good[row.index] = row, line
    for index in _odd(channels):
        del good[index]
    return {index: row for index, (row, _) in good.items()}, [line for _, line in good.values()]


def repaired(
    path: Path, header: bytes, batches: Iterator[Batch], confirm: Callable[[dict[int, ImageRow], Batch, int], bool]
) -> Iterator[Batch]:
    """Set damaged lines of a file of rows aside, of which the header may be one, and give the batches again."""
    lines = whole_lines(path) if path.is_file() else []
    headed = are_of_class_channels(lines)
    rows, good = _good(lines[1:] if headed else lines)
    whole = [lines[0] if headed else header, *good]
    if not rows or whole == lines:  # a file without any row may be another one
        return batches
    why = ""
    if not headed:
        why = "; the header is damaged, and the rows are taken for those of these settings"
        try:
            batches = _confirmed(rows, batches, confirm)
        except ValueError as error:
            raise ValueError(f"{path} has a damaged header, and its rows do not fit this call: {error}") from error
    set_aside(path, whole)
    count = len(lines) - headed - len(good)
    warn_caller(f"{path}: damaged lines set aside: {count}; the file as it was is beside it{why}")
    return batches


def _confirmed(
    rows: dict[int, ImageRow], batches: Iterator[Batch], confirm: Callable[[dict[int, ImageRow], Batch, int], bool]
) -> Iterator[Batch]:
    """The batches again, after the first with an image of the rows has confirmed them; ValueError if none has."""
    seen: list[Batch] = []
    start = 0
    for batch in batches:
        seen.append(batch)
        if confirm(rows, batch, start):
            return chain(seen, batches)
        start += len(batch[1])
    raise ValueError("loader has none of their images")
