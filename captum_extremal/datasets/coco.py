"""COCO's instances: images and one JSON file with the outlines of all their objects."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from captum_extremal.datasets._reading import check_folder, check_path, in_one_line, load_annotated, of_image
from captum_extremal.datasets.annotated import AnnotatedImage

__all__ = ["COCOImages"]

_MOST_BYTES = 2**28  # val2014 has 160 million
_RULE = "annotations must be a JSON file of COCO instances"


class _Image(NamedTuple):
    """Name, size (H, W), and for each class the segmentations of its objects."""

    name: str
    size: tuple[int, int]
    objects: dict[str, list[Any]]


class COCOImages:
    """COCO's images and instances, in the form that torchvision's ``CocoDetection`` expects.

    The regions are the objects' segmentations. A crowd (``iscrowd``) counts as an object of its class, so that pointing
    at it is no miss; COCO's own detection score leaves crowds out. Images are named by their ``file_name``; the classes
    come by the number of their category, COCO's 80 in the usual order.

    Args:
        root: the folder of the images. Nothing is downloaded.
        annotations: such as ``instances_val2014.json``.

    Attributes:
        name: of the annotations: "coco-val2014".
        unreadable: nothing, for there is one annotation file.

    Raises:
        TypeError: an argument is no path.
        ValueError: there is no such folder or file, the file is no JSON of instances, or it names an image outside of
            the folder.
    """

    def __init__(self, root: str | os.PathLike[str], annotations: str | os.PathLike[str]) -> None:
        self._root = check_folder("root", root)
        path = check_path("annotations", annotations)
        self.name = f"coco-{path.stem.removeprefix('instances_')}"
        self.unreadable: list[str] = []
        content = _read(path)
        try:
            labels = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
            self.classes = tuple(labels[number] for number in sorted(labels))
            images = {
                entry["id"]: _Image(_inside_folder(entry["file_name"]), (entry["height"], entry["width"]), {})
                for entry in content["images"]
            }
            self._images = {image.name: image for image in images.values()}
            if len(set(self.classes)) < len(labels) or len(self._images) < len(images):
                raise ValueError("two images or two categories of one name")
            for entry in content["annotations"]:
                objects = images[entry["image_id"]].objects
                objects.setdefault(labels[entry["category_id"]], []).append(entry["segmentation"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{_RULE}, got {path}: {error!r}") from error

    def pairs(self) -> list[tuple[str, str]]:
        """Every image with each class annotated in it, images in the file's order, classes in theirs."""
        return [
            (image, label) for image, found in self._images.items() for label in self.classes if label in found.objects
        ]

    def load(self, image: str) -> AnnotatedImage:
        """The image of this name, and the pixels of each class.

        Segmentations are for the pixels as stored: a camera's note of its orientation is ignored. What of an outline
        lies outside of the image is cut off.

        Raises:
            UnreadableError: the image cannot be read, or its annotation does not fit it.
            ValueError: there is no image of this name.
        """
        found = of_image(self._images, image)
        return load_annotated(self._root / found.name, found.size, found.objects, _segmented)


def _read(path: Path) -> Any:
    """The file's content, with outlines as arrays."""
    if not path.is_file():
        raise ValueError(f"{_RULE}, got no file: {path}")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{_RULE} of at most {_MOST_BYTES} bytes, got {path.stat().st_size} in {path}")
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=_compact)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_RULE}, got {path}: {in_one_line(error)}") from error


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of the file, its outlines as arrays where they are some: half of the memory."""
    if isinstance(entry.get("segmentation"), list):
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # said when the image is loaded
            entry["segmentation"] = [np.asarray(outline, np.float64) for outline in entry["segmentation"]]
    return entry


def _inside_folder(name: str) -> str:
    path = PurePath(name)
    if path.anchor or ".." in path.parts or not path.parts:
        raise ValueError(f"file_name {name!r} is no file inside of the folder")
    return name


def _segmented(segmentation: Any, size: tuple[int, int]) -> Tensor:
    """The pixels of an object.

    Args:
        segmentation: polygons, each x0, y0, x1, y1, ... in pixels from the image's upper left corner, or a dictionary
            of run lengths.
        size: (H, W) of the image.

    Returns:
        (H, W) bool, right to about a pixel along a polygon's outline; the smallest object has a pixel.

    Raises:
        ValueError: it is neither, or does not fit the image.
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, size)
    if not isinstance(segmentation, list):
        raise ValueError(f"a segmentation must be polygons or run lengths, got {type(segmentation).__name__}")
    canvas = Image.new("1", size[::-1])
    for outline in segmentation:
        ImageDraw.Draw(canvas).polygon(_corners(outline, size), fill=1)
    return torch.from_numpy(np.array(canvas))


def _corners(outline: Any, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The pixels (x, y) that a polygon's corners lie in, at most one outside of the image."""
    if not isinstance(outline, np.ndarray) or outline.ndim != 1 or outline.size < 6 or outline.size % 2:
        raise ValueError("a polygon must be a list of three or more pairs of numbers")
    if not np.isfinite(outline).all():
        raise ValueError("a polygon must be finite")
    pixels = np.floor(outline.reshape(-1, 2)).clip(-1, size[::-1])
    return [(int(x), int(y)) for x, y in pixels]


def _from_runs(runs: dict[str, Any], size: tuple[int, int]) -> Tensor:
    """COCO's uncompressed run lengths: how many pixels are out, in, out, ..., down the columns one after another."""
    if runs.get("size") != list(size):
        raise ValueError(f"run lengths must be for the image's size {list(size)}, got {runs.get('size')!r}")
    if not isinstance(runs.get("counts"), list):
        raise ValueError("run lengths must be a list: compressed ones are not read")
    counts, pixels = runs["counts"], size[0] * size[1]
    if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != pixels:
        raise ValueError(f"run lengths must be integers from 0 that add up to the image's {pixels} pixels")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return torch.from_numpy(inside.reshape(size, order="F").copy())
