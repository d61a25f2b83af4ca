"""Images whose classes are annotated: what an evaluation asks of a data set, and what data sets of files share."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from captum_extremal.datasets.image_files import UnreadableError, in_one_line, read_image
from captum_extremal.metrics import difficult_classes

__all__ = ["AnnotatedFiles", "AnnotatedImage", "AnnotatedImages", "Annotation", "UnreadableError", "load_annotated"]

RegionOf = Callable[[Any, tuple[int, int]], Tensor]
"""Gives the pixels (H, W) bool of an object in an image of size (H, W); raises ValueError if the object is unfit."""

_MOST_MASKED = 2**31  # bytes of the masks of one image
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedImage:
    """One image and where its classes are.

    Attributes:
        pixels: (3, H, W) float32, RGB in [0, 1].
        regions: for each annotated class, the pixels (H, W) bool of all its objects.
        difficult: the classes in the difficult subset, see :func:`~captum_extremal.metrics.difficult_classes`.
    """

    pixels: Tensor
    regions: dict[str, Tensor]
    difficult: frozenset[str]


class AnnotatedImages(Protocol):
    """A data set of images with annotated classes.

    Attributes:
        name: such as "voc2007-test".
        classes: names, in the order of the class indices of a network trained on the data set.
        unreadable: one line for each annotation file that cannot be read; its image is in no pair.
    """

    name: str
    classes: tuple[str, ...]
    unreadable: list[str]

    def pairs(self) -> list[tuple[str, str]]:
        """Every image with each class annotated in it, by name, in a fixed order; no image is decoded."""

    def load(self, image: str) -> AnnotatedImage:
        """The image of this name.

        Raises:
            UnreadableError: the image or its annotation cannot be read, or they do not fit together.
            ValueError: there is no image of this name.
        """


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


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """The size (H, W) in an annotation, of numbers or text such as "100.0"; None where it is left open.

    Raises ValueError if a side is no whole number of pixels.
    """
    sides = (_stated_side(height), _stated_side(width))
    return sides if all(sides) else None


def _stated_side(value: Any) -> int:
    """A number of pixels, 0 where none is stated."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return 0
    if not isinstance(value, (int, float, str)) or not float(value).is_integer() or float(value) < 0:
        raise ValueError(f"a size must be a whole number of pixels, got {value!r}")
    return int(float(value))


def of_image(known: Mapping[str, _Value], image: str) -> _Value:
    """The entry of the image of this name. Raises ValueError if there is none."""
    if image not in known:
        raise ValueError(f"image must be one of those in pairs(), got {image!r}")
    return known[image]


def with_difficult(pixels: Tensor, regions: dict[str, Tensor]) -> AnnotatedImage:
    """An image (3, H, W) and its regions, with the classes of the difficult subset."""
    difficult = frozenset(label for label, is_difficult in difficult_classes(regions).items() if is_difficult)
    return AnnotatedImage(pixels=pixels, regions=regions, difficult=difficult)


class Annotation(NamedTuple):
    """The path of a JPEG or PNG file, its size (H, W) if known, and the objects of each class; or why there are none.

    Objects are for the pixels as stored: EXIF orientation is ignored.
    """

    path: Path
    size: tuple[int, int] | None
    objects: dict[str, list[Any]]
    unreadable: str = ""


def load_annotated(annotation: Annotation, region_of: RegionOf) -> AnnotatedImage:
    """Read an image. Raises UnreadableError if it or its annotation cannot be used, or if they do not fit together."""
    path, stated, objects, unreadable = annotation
    if unreadable:
        raise UnreadableError(unreadable)
    rgb = np.array(read_image(path, upright=False, formats=("JPEG", "PNG")))
    height, width = size = rgb.shape[:2]
    if stated is not None and stated != size:
        raise UnreadableError(f"{path}: is {width} x {height} pixels, but annotated as {stated[1]} x {stated[0]}")
    if len(objects) * height * width > _MOST_MASKED:
        raise UnreadableError(f"{path}: {len(objects)} classes are too many for {width} x {height} pixels")
    regions: dict[str, Tensor] = {}
    for label, marks in objects.items():
        for number, mark in enumerate(marks, 1):
            try:
                region = region_of(mark, size)
            except ValueError as error:
                why = in_one_line(f"{error} (object {number} of class {label!r})")
                raise UnreadableError(f"{path}: cannot be used as annotated: {why}") from error
            regions[label] = regions[label] | region if label in regions else region
    return with_difficult(torch.from_numpy(rgb).permute(2, 0, 1).float().div(255).contiguous(), regions)


class AnnotatedFiles:
    """:class:`AnnotatedImages` from files, given the annotation of each image; subclasses read the annotations."""

    def __init__(self, name: str, classes: Iterable[str], found: dict[str, Annotation], region_of: RegionOf) -> None:
        self.name, self.classes, self._found, self._region_of = name, tuple(classes), found, region_of
        self.unreadable = [annotation.unreadable for annotation in found.values() if annotation.unreadable]

    def pairs(self) -> list[tuple[str, str]]:
        """Every image with each class annotated in it, images and classes in the data set's order."""
        found = self._found.items()
        return [(image, label) for image, annotation in found for label in self.classes if label in annotation.objects]

    def load(self, image: str) -> AnnotatedImage:
        """The image of this name, and the pixels of each class; see :meth:`AnnotatedImages.load`."""
        return load_annotated(of_image(self._found, image), self._region_of)
