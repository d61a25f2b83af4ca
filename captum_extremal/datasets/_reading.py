"""What all data sets of files check and read in the same way."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from captum_extremal.datasets.annotated import AnnotatedImage, UnreadableError, in_one_line
from captum_extremal.datasets.image_files import read_image
from captum_extremal.metrics import difficult_classes

_MOST_MASKED = 2**31  # bytes of the masks of one image
_Mark = TypeVar("_Mark")
_Value = TypeVar("_Value")


def check_path(name: str, value: object) -> Path:
    """The value as a path. Raises TypeError if it is none; the file need not exist."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {value!r} of type {type(value).__name__}")
    return Path(value)


def check_folder(name: str, value: object) -> Path:
    """The value as the path of a folder. Raises TypeError if it is no path, ValueError if there is no such folder."""
    folder = check_path(name, value)
    if not folder.is_dir():
        raise ValueError(f"{name} must be a folder, got {folder}")
    return folder


def of_image(known: Mapping[str, _Value], image: str) -> _Value:
    """The entry of the image of this name. Raises ValueError if there is none."""
    if image not in known:
        raise ValueError(f"image must be one of those in pairs(), got {image!r}")
    return known[image]


def with_difficult(pixels: Tensor, regions: dict[str, Tensor]) -> AnnotatedImage:
    """An image (3, H, W) and its regions, with the classes of the difficult subset."""
    difficult = frozenset(label for label, is_difficult in difficult_classes(regions).items() if is_difficult)
    return AnnotatedImage(pixels=pixels, regions=regions, difficult=difficult)


def load_annotated(
    path: Path,
    size: tuple[int, int] | None,
    marks: Mapping[str, Sequence[_Mark]],
    region_of: Callable[[_Mark, tuple[int, int]], Tensor],
) -> AnnotatedImage:
    """A JPEG or PNG file and its regions. Both are for the pixels as stored: EXIF orientation is ignored.

    Args:
        path: of the image.
        size: (H, W) of the image that was annotated, None if unknown.
        marks: for each class, the annotations of its objects.
        region_of: gives the pixels (H, W) bool of an object, or raises a ValueError that says what is wrong with it.

    Raises:
        UnreadableError: the image or its annotation cannot be used, or they do not fit together.
    """
    rgb = np.array(read_image(path, upright=False, formats=("JPEG", "PNG")))
    height, width = rgb.shape[:2]
    if size is not None and size != (height, width):
        raise UnreadableError(f"{path}: is {width} x {height} pixels, but annotated as {size[1]} x {size[0]}")
    if len(marks) * height * width > _MOST_MASKED:
        raise UnreadableError(f"{path}: {len(marks)} classes are too many for {width} x {height} pixels")

    def region(label: str, number: int, mark: _Mark) -> Tensor:
        try:
            return region_of(mark, (height, width))
        except ValueError as error:
            why = in_one_line(f"{error} (object {number} of class {label!r})")
            raise UnreadableError(f"{path}: cannot be used as annotated: {why}") from error

    regions = {
        label: functools.reduce(operator.ior, (region(label, number, mark) for number, mark in enumerate(objects, 1)))
        for label, objects in marks.items()
    }
    return with_difficult(torch.from_numpy(rgb).permute(2, 0, 1).float().div(255).contiguous(), regions)
