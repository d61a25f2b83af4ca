"""What every data set of files checks and reads alike, whoever has written the files."""

from __future__ import annotations

import functools
import operator
import os
import struct
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captum_extremal.datasets.annotated import AnnotatedImage, UnreadableError
from captum_extremal.metrics import difficult_classes

_FORMATS = ("JPEG", "PNG")  # for some others Pillow runs another program
_MOST_MASKED = 2**31  # bytes of the masks of one image
_Mark = TypeVar("_Mark")
_Value = TypeVar("_Value")


def check_path(name: str, value: object) -> Path:
    """A path, whether or not anything is there.

    Raises:
        TypeError: the value is no path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {value!r} of type {type(value).__name__}")
    return Path(value)


def check_folder(name: str, value: object) -> Path:
    """The path of a folder.

    Raises:
        TypeError, ValueError: the value is no path, or there is no such folder.
    """
    folder = check_path(name, value)
    if not folder.is_dir():
        raise ValueError(f"{name} must be a folder, got {folder}")
    return folder


def of_image(known: Mapping[str, _Value], image: str) -> _Value:
    """What is known of the image of this name.

    Raises:
        ValueError: there is none.
    """
    if image not in known:
        raise ValueError(f"image must be one of those in pairs(), got {image!r}")
    return known[image]


def load_annotated(
    path: Path,
    size: tuple[int, int] | None,
    marks: Mapping[str, Sequence[_Mark]],
    region_of: Callable[[_Mark, tuple[int, int]], Tensor],
) -> AnnotatedImage:
    """An image and its regions, which belong to the pixels as stored: a camera's note of its orientation is ignored.

    Args:
        path: of the image.
        size: (H, W) of the image that was annotated, None where the annotation does not tell.
        marks: for each class its objects.
        region_of: the pixels (H, W) bool of an object; a ValueError says what is wrong with it.

    Raises:
        UnreadableError: the image or its annotation cannot be used, or one does not fit the other.
    """
    pixels = _read_pixels(path)
    height, width = pixels.shape[1:]
    if size is not None and size != (height, width):
        raise UnreadableError(f"{path}: is {width} x {height} pixels, but annotated as {size[1]} x {size[0]}")
    if len(marks) * height * width > _MOST_MASKED:
        raise UnreadableError(f"{path}: {len(marks)} classes are too many for {width} x {height} pixels")
    try:
        regions = {
            label: functools.reduce(operator.ior, (region_of(mark, (height, width)) for mark in objects))
            for label, objects in marks.items()
        }
    except ValueError as error:
        raise UnreadableError(f"{path}: cannot be used as annotated: {in_one_line(error)}") from error
    difficult = frozenset(label for label, is_so in difficult_classes(regions).items() if is_so)
    return AnnotatedImage(pixels=pixels, regions=regions, difficult=difficult)


def _read_pixels(path: Path) -> Tensor:
    """RGB (3, H, W) in [0, 1] of a JPEG or PNG file, as stored."""
    try:
        with Image.open(path, formats=_FORMATS) as photo:
            most = Image.MAX_IMAGE_PIXELS  # Pillow itself warns, and refuses twice as many
            if most is not None and photo.width * photo.height > most:
                raise ValueError(f"{photo.width} x {photo.height} pixels, more than Pillow's limit of {most}")
            if photo.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of more than 8 bits (mode {photo.mode})")  # which convert would clip
            rgb = np.array(photo.convert("RGB"))
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: there is no such file") from error
    # Pillow's readers tell a broken file in all of these ways.
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise UnreadableError(f"{path}: cannot be read as JPEG or PNG: {in_one_line(error)}") from error
    return torch.from_numpy(rgb).permute(2, 0, 1).float().div(255).contiguous()


def in_one_line(error: Exception) -> str:
    """What an exception says, without line breaks, and not at the length that a file may have given it."""
    return textwrap.shorten(str(error), 300)
