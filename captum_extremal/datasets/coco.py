"""COCO's instances: images and one JSON file with the outlines of all their objects."""

import contextlib
import json
import os
import re
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_masks
from torch import Tensor

from captum_extremal.datasets.annotated import AnnotatedFiles, Annotation, check_folder, check_path, stated_size
from captum_extremal.datasets.image_files import in_one_line

__all__ = ["COCOImages"]

_MOST_BYTES = 2**28  # val2014 has 160 million
_LONGEST_OUTLINE = 2**22  # pixels; pycocotools takes about 100 bytes for each
_RULE = "annotations must be a JSON file of COCO instances"


class COCOImages(AnnotatedFiles):
    """COCO's images and instances, in the form that torchvision's ``CocoDetection`` expects.

    The regions are the objects' segmentations (polygons or run lengths, as a list or compressed), as pycocotools'
    ``annToMask`` gives them. A crowd (``iscrowd``) counts as an object of its class, so that pointing at it is a hit;
    COCO's own detection score leaves crowds out. Images are named by their ``file_name`` in its shortest form ("a.jpg"
    for "./a.jpg"), and are in the file's order; classes are in the order of their category numbers. The data set is
    named after the annotations: "coco-val2014".

    Args:
        root: the folder of the images. Nothing is downloaded.
        annotations: such as ``instances_val2014.json``.

    Raises:
        TypeError: an argument is no path.
        ValueError: there is no such folder or file, the file is no JSON of instances, two categories share an id or a
            name, or no image can be used. What is wrong with one image costs that one alone, which ``unreadable``
            names: a path outside of the folder, an id or a name that another image has too, or an object without a
            segmentation or a known class.
    """

    def __init__(self, root: str | os.PathLike[str], annotations: str | os.PathLike[str]) -> None:
        folder, path = check_folder("root", root), check_path("annotations", annotations)
        if not path.is_file():
            raise ValueError(f"{_RULE}, got no file: {path}")
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{_RULE} of at most {_MOST_BYTES} bytes, got {path.stat().st_size} in {path}")
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=_with_arrays)
            labels = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
            if len({*labels.values()}) < len(content["categories"]):
                raise ValueError("two categories of one id or one name")
            classes = tuple(labels[number] for number in sorted(labels))
            images = _Images(folder, content["images"])
            for number, entry in enumerate(content["annotations"]):
                images.add_object(f"annotations[{number}]", entry, labels)
            images.check_any()
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{_RULE}, got {path}: {in_one_line(repr(error))}") from error
        super().__init__(f"coco-{path.stem.removeprefix('instances_')}", classes, images.by_name, _segmented)
        self.unreadable += [f"{path}: {line}" for line in images.strays]


class _Images:
    """The annotations of a file's images. What is wrong with one entry costs its image alone."""

    def __init__(self, folder: Path, entries: list[dict[str, Any]]) -> None:
        self._entries = len(entries)
        self.by_name: dict[str, Annotation] = {}
        self.strays: list[str] = []  # of entries that are no image, or belong to none
        self._names: dict[Any, str | None] = {}  # by id; None where its entry is no image
        for number, entry in enumerate(entries):
            try:
                self._add(folder, entry)
            except (KeyError, TypeError, ValueError) as error:
                self.strays.append(in_one_line(f"images[{number}] is no image: {error!r}"))

    def _add(self, folder: Path, entry: dict[str, Any]) -> None:
        """Add an image. Those that share an id are all refused, because their objects cannot be told apart."""
        key = entry["id"]
        shared, other = key in self._names, self._names.setdefault(key, None)
        if shared and other is not None:
            self._refuse(other, f"another image has its id, {key!r}")
        name = _inside(entry["file_name"])
        known = name in self.by_name
        self._names[key] = name
        self.by_name.setdefault(name, Annotation(folder / name, None, {}))
        if known or shared:
            self._refuse(name, "another image has its name" if known else f"another image has its id, {key!r}")
        try:
            size = stated_size(entry.get("height"), entry.get("width"))
        except (TypeError, ValueError) as error:
            self._refuse(name, str(error))
        else:
            self.by_name[name] = self.by_name[name]._replace(size=size)

    def add_object(self, where: str, entry: Any, labels: dict[Any, str]) -> None:
        """Add an object to its image; ``where`` is the place of the entry in the file."""
        try:
            name = self._names[entry["image_id"]]
        except (KeyError, TypeError) as error:
            self.strays.append(in_one_line(f"{where} belongs to no image: {error!r}"))
            return
        if name is None or self.by_name[name].unreadable:
            return
        try:
            label, mark = labels[entry["category_id"]], entry["segmentation"]
        except (KeyError, TypeError) as error:
            self._refuse(name, f"{where} has no known category_id or no segmentation: {error!r}")
        else:
            self.by_name[name].objects.setdefault(label, []).append(mark)

    def check_any(self) -> None:
        """Raise ValueError if there are images and none can be used."""
        if self._entries and all(one.unreadable for one in self.by_name.values()):
            why = [one.unreadable for one in self.by_name.values()] + self.strays
            raise ValueError(f"none of {self._entries} images can be used: {why[0]}")

    def _refuse(self, name: str, why: str) -> None:
        path, known = self.by_name[name].path, self.by_name[name].unreadable
        why = known or in_one_line(f"{path}: cannot be used as annotated: {why}")
        self.by_name[name] = Annotation(path, None, {}, why)


def _inside(name: str) -> str:
    """The name of an image in one form, if it is that of a file inside of the folder."""
    inner = PurePath(name)
    if inner.anchor or ".." in inner.parts or not inner.parts:
        raise ValueError(f"file_name {name!r} is no file inside of the folder")
    return inner.as_posix()


def _with_arrays(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of the file, its outlines as arrays where possible: they take half of the memory."""
    if isinstance(entry.get("segmentation"), list):
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # reported when the image is loaded
            entry["segmentation"] = [np.asarray(outline, np.float64) for outline in entry["segmentation"]]
    return entry


def _segmented(segmentation: Any, size: tuple[int, int]) -> Tensor:
    """The pixels (H, W) bool of an object, given by polygons x0, y0, x1, y1, ... or a dictionary of run lengths."""
    if isinstance(segmentation, list):
        _check_outlines(segmentation)
        if not segmentation:
            return torch.zeros(size, dtype=torch.bool, device="cpu")
        segmentation = coco_masks.merge(coco_masks.frPyObjects(segmentation, *size))
    elif not isinstance(segmentation, dict):
        raise ValueError(f"a segmentation must be polygons or run lengths, got {type(segmentation).__name__}")
    counts = _run_lengths(segmentation, size)
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return torch.from_numpy(inside.reshape(size, order="F").copy())


def _check_outlines(outlines: list[Any]) -> None:
    """Refuse what pycocotools would take for a box, and what would overflow its memory or its integers."""
    length = 0.0
    for outline in outlines:
        if not isinstance(outline, np.ndarray) or outline.ndim != 1 or outline.size < 6 or outline.size % 2:
            raise ValueError("a polygon must be a list of three or more pairs of numbers")
        if not (np.abs(outline) <= _LONGEST_OUTLINE).all():  # nor NaN
            raise ValueError(f"a polygon must be finite and within {_LONGEST_OUTLINE} pixels of the corner")
        corners = outline.reshape(-1, 2)
        length += np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum()
    if length > _LONGEST_OUTLINE:
        raise ValueError(f"a segmentation must be outlined by at most {_LONGEST_OUTLINE} pixels, got {length:.0f}")


def _run_lengths(runs: dict[str, Any], size: tuple[int, int]) -> list[int]:
    """How many pixels are out, in, out, ..., down the columns one after another."""
    # pycocotools' own decoder is not used: where the runs of a file end early, it leaves memory unset.
    if runs.get("size") != list(size):
        raise ValueError(f"run lengths must be for the image's size {list(size)}, got {runs.get('size')!r}")
    counts = runs.get("counts")
    if isinstance(counts, (str, bytes)):
        counts = _uncompressed(counts if isinstance(counts, str) else counts.decode())
    if not isinstance(counts, list):
        raise ValueError(f"run lengths must be a list or a string, got {type(counts).__name__}")
    pixels = size[0] * size[1]
    if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != pixels:
        raise ValueError(f"run lengths must be integers from 0 that add up to the image's {pixels} pixels")
    return counts


def _uncompressed(text: str) -> list[int]:
    """COCO's compressed run lengths as numbers."""
    # A character holds 5 bits, the lowest first, and whether more follow. From the fourth number on, what is stored is
    # the difference to the last but one.
    if not re.fullmatch("([P-o]{0,6}[0-O])*", text):
        raise ValueError("compressed run lengths must be groups of at most seven of COCO's characters")
    counts: list[int] = []
    for group in re.findall("[P-o]*[0-O]", text):
        number = sum((ord(character) - 48 & 31) << 5 * place for place, character in enumerate(group))
        if ord(group[-1]) - 48 & 16:
            number -= 1 << 5 * len(group)
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
    return counts
