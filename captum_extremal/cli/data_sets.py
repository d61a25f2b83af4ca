"""The data set of images and classes that ``--data`` names."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from captum_extremal import datasets
from captum_extremal.cli.console import FAILED, StopError, stopping
from captum_extremal.datasets import AnnotatedImage, AnnotatedImages
from captum_extremal.datasets._reading import check_folder, load_annotated

_NUMBERED = re.compile(r"[0-9]{4}_.*\.(jpg|jpeg|png)", re.IGNORECASE)


def loaded_data(text: str) -> tuple[AnnotatedImages, str]:
    """The data set that ``--data`` names, and a hash of its pairs and of the names and sizes of its files.

    It does not depend on the paths, so that a run can be resumed on another machine that has the same files.
    """
    kind, _, where = text.partition(":")
    if not where:
        raise StopError(f"--data: must be a kind and a place, such as folder:ROOT, got {text!r}")
    with stopping("--data", ValueError, TypeError):
        data, files = _found(kind, where)
    if not data.pairs():
        why = f": {data.unreadable[0]}" if data.unreadable else ""
        raise StopError(f"--data: {text} has no image with a class{why}", FAILED)
    sizes = [(path.name, path.stat().st_size if path.exists() else None) for path in files]
    return data, hashlib.sha256(json.dumps([data.pairs(), sizes]).encode()).hexdigest()[:16]


def _found(kind: str, where: str) -> tuple[AnnotatedImages, Iterable[Path]]:
    """The data set, and its files."""
    data: AnnotatedImages
    if kind == "voc":
        data, folder = datasets.VOCImages(where), Path(where, "VOCdevkit", "VOC2007")
        folders = [folder / "JPEGImages", folder / "Annotations"]
    elif kind == "coco":
        root, comma, annotations = where.rpartition(",")
        if not comma:
            raise ValueError(f"coco needs ROOT,FILE, the folder of the images and their JSON file, got {where!r}")
        data = datasets.COCOImages(root, annotations)
        return data, [Path(annotations), *(Path(root, image) for image in dict(data.pairs()))]
    elif kind in ("folder", "images"):
        data, folders = datasets.FolderImages(where) if kind == "folder" else NumberedImages(where), [Path(where)]
    elif kind == "digits":
        if not where.isdecimal() or int(where) < 1:
            raise ValueError(f"must be an integer of at least 1, got {where!r}")
        data, folders = datasets.DigitImages(int(where)), []
    else:
        raise StopError(f"--data: must be one of voc, coco, folder, digits and images, got {kind!r}")
    images = dict(data.pairs())  # the names of files, with or without a suffix
    every = (path for folder in folders for path in sorted(folder.iterdir()))
    return data, [path for path in every if path.stem in images or path.name in images]


class NumberedImages:
    """Images ``NNNN_name.jpg`` of the class with the index NNNN, without regions."""

    def __init__(self, root: str) -> None:
        folder = check_folder("ROOT", root)
        self._paths = {path.name: path for path in sorted(folder.iterdir()) if _NUMBERED.fullmatch(path.name)}
        if not self._paths:
            raise ValueError(f"{root} must hold images named NNNN_name.jpg, got none")
        self.name = folder.resolve().name
        self.classes = tuple(dict.fromkeys(label for _, label in self.pairs()))
        self.unreadable: list[str] = []

    def pairs(self) -> list[tuple[str, str]]:
        """Every image with its class."""
        return [(name, str(int(name[:4]))) for name in self._paths]

    def load(self, image: str) -> AnnotatedImage:
        """The image of this name, without a region. Raises UnreadableError if it cannot be read."""
        no_region = {str(int(image[:4])): [None]}
        return load_annotated(
            self._paths[image], None, no_region, lambda mark, size: torch.zeros(size, dtype=torch.bool)
        )
