"""What ``--data`` names: a data set of images and classes."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

from captum_extremal.cli._arguments import positive
from captum_extremal.cli._console import FAILED, StopError

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.datasets.annotated import AnnotatedImage, AnnotatedImages

ABOUT_DATA = (
    "voc:ROOT is PASCAL VOC 2007 test, ROOT the folder that holds VOCdevkit; coco:ROOT,FILE a folder of COCO's images "
    "and their instances_*.json; folder:ROOT images with VOC's XML beside them; digits:COUNT scenes of digits, for "
    "--model digits; images:ROOT images named NNNN_anything.jpg after their class's index, without regions, for "
    "insertion and deletion."
)


def loaded_data(text: str) -> AnnotatedImages:
    """The data set that ``--data`` names."""
    from captum_extremal import datasets

    kind, _, where = text.partition(":")
    if not where:
        raise StopError(f"--data: must be a kind and a place, such as folder:ROOT, got {text!r}")
    try:
        if kind == "voc":
            return datasets.VOCImages(where)
        if kind == "coco":
            root, _, annotations = where.rpartition(",")
            return datasets.COCOImages(root, annotations)
        if kind == "folder":
            return datasets.FolderImages(where)
        if kind == "digits":
            return datasets.DigitImages(positive(where))
        if kind == "images":
            return NumberedImages(where)
    except (ValueError, TypeError, ArgumentTypeError) as error:
        raise StopError(f"--data: {error}", FAILED) from error
    raise StopError(f"--data: must be one of voc, coco, folder, digits and images, got {kind!r}")


class NumberedImages:
    """Images ``NNNN_name.jpg`` of the class with the index NNNN, whose regions are not known."""

    def __init__(self, root: str) -> None:
        self._paths = {path.name: path for path in sorted(Path(root).iterdir()) if path.name[:4].isdecimal()}
        if not self._paths:
            raise ValueError(f"{root} must hold images named NNNN_name.jpg, got none")
        self.name = Path(root).resolve().name
        self.classes = tuple(dict.fromkeys(self._class_of(name) for name in self._paths))
        self.unreadable: list[str] = []

    def pairs(self) -> list[tuple[str, str]]:
        """Every image with its class."""
        return [(name, self._class_of(name)) for name in self._paths]

    def load(self, image: str) -> AnnotatedImage:
        """The image of this name, nothing of its class annotated.

        Raises:
            UnreadableError: it cannot be read.
        """
        import torch

        from captum_extremal.datasets._reading import load_annotated

        def nothing(mark: None, size: tuple[int, int]) -> Tensor:
            return torch.zeros(size, dtype=torch.bool)

        return load_annotated(self._paths[image], None, {self._class_of(image): [None]}, nothing)

    @staticmethod
    def _class_of(name: str) -> str:
        return str(int(name[:4]))
