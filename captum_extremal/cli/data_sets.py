"""The data set of images and classes that ``--data`` names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from captum_extremal.cli.console import FAILED, StopError

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.datasets.annotated import AnnotatedImage, AnnotatedImages

ABOUT_DATA = (
    "voc:ROOT is PASCAL VOC 2007 test, ROOT the folder that holds VOCdevkit; coco:ROOT,FILE a folder of COCO's images "
    "and their instances_*.json; folder:ROOT images with VOC's XML beside them; digits:COUNT scenes of digits, for "
    "--model digits; images:ROOT images named NNNN_anything.jpg after their class's index, without regions, for "
    "--metric insertion_deletion."
)
_NUMBERED = re.compile(r"[0-9]{4}_.*\.(jpg|jpeg|png)", re.IGNORECASE)


def loaded_data(text: str) -> tuple[AnnotatedImages, str]:
    """The data set that ``--data`` names, and a hash of its pairs and of the names and sizes of its files.

    The hash does not depend on the paths, so that a run can be resumed on another machine that has the same files.
    """
    data, files = _found(text)
    if not data.pairs():
        why = f": {data.unreadable[0]}" if data.unreadable else ""
        raise StopError(f"--data: {text} has no image with a class{why}", FAILED)
    sizes = [(path.name, path.stat().st_size if path.exists() else None) for path in files]
    return data, hashlib.sha256(json.dumps([data.pairs(), sizes]).encode()).hexdigest()[:16]


def _found(text: str) -> tuple[AnnotatedImages, Iterable[Path]]:
    """The data set, and its files."""
    from captum_extremal import datasets

    kind, _, where = text.partition(":")
    if not where:
        raise StopError(f"--data: must be a kind and a place, such as folder:ROOT, got {text!r}")
    try:
        if kind == "voc":
            voc, folder = datasets.VOCImages(where), Path(where, "VOCdevkit", "VOC2007")
            return voc, [*_of_images(voc, folder / "JPEGImages"), *_of_images(voc, folder / "Annotations")]
        if kind == "coco":
            root, comma, annotations = where.rpartition(",")
            if not comma:
                raise ValueError(f"coco needs ROOT,FILE, the folder of the images and their JSON file, got {where!r}")
            coco = datasets.COCOImages(root, annotations)
            return coco, [Path(annotations), *(Path(root, image) for image in dict(coco.pairs()))]
        if kind == "folder":
            annotated = datasets.FolderImages(where)
            return annotated, _of_images(annotated, Path(where))
        if kind == "digits":
            if not where.isdecimal() or int(where) < 1:
                raise ValueError(f"must be an integer of at least 1, got {where!r}")
            return datasets.DigitImages(int(where)), []
        if kind == "images":
            numbered = NumberedImages(where)
            return numbered, [Path(where, image) for image in dict(numbered.pairs())]
    except (ValueError, TypeError) as error:
        raise StopError(f"--data: {error}", FAILED) from error
    raise StopError(f"--data: must be one of voc, coco, folder, digits and images, got {kind!r}")


def _of_images(data: AnnotatedImages, folder: Path) -> list[Path]:
    """The files of a folder that are named after an image, with any suffix."""
    images = {image for image, _ in data.pairs()}
    return [path for path in sorted(folder.iterdir()) if path.stem in images]


class NumberedImages:
    """Images ``NNNN_name.jpg`` of the class with the index NNNN, without regions.

    Attributes:
        index_of: the index of each class.
    """

    def __init__(self, root: str) -> None:
        from captum_extremal.datasets.annotated import check_folder

        folder = check_folder("ROOT", root)
        self._paths = {path.name: path for path in sorted(folder.iterdir()) if _NUMBERED.fullmatch(path.name)}
        if not self._paths:
            raise ValueError(f"{root} must hold images named NNNN_name.jpg, got none")
        self.name = folder.resolve().name
        self.classes = tuple(dict.fromkeys(self._class_of(name) for name in self._paths))
        self.index_of = {label: int(label) for label in self.classes}
        self.unreadable: list[str] = []

    def pairs(self) -> list[tuple[str, str]]:
        """Every image with its class."""
        return [(name, self._class_of(name)) for name in self._paths]

    def load(self, image: str) -> AnnotatedImage:
        """The image of this name, without a region.

        Raises:
            UnreadableError: it cannot be read.
        """
        import torch

        from captum_extremal.datasets.annotated import Annotation, load_annotated

        def nothing(mark: None, size: tuple[int, int]) -> Tensor:
            return torch.zeros(size, dtype=torch.bool)

        return load_annotated(Annotation(self._paths[image], None, {self._class_of(image): [None]}), nothing)

    @staticmethod
    def _class_of(name: str) -> str:
        return str(int(name[:4]))
