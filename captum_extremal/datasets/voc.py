"""PASCAL VOC, and plain folders of images that are annotated in its form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DTDForbidden
from defusedxml.ElementTree import fromstring
from torch import Tensor

from captum_extremal._checks import check_choice
from captum_extremal.datasets._reading import check_folder, load_annotated, of_image
from captum_extremal.datasets.annotated import AnnotatedImage, UnreadableError, in_one_line
from captum_extremal.metrics import mask_from_boxes

__all__ = ["FolderImages", "VOCImages"]

_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_SUFFIXES = (".jpg", ".jpeg", ".png")
_MOST_BYTES = 2**20  # of an XML file; VOC's own have a few thousand

_Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in VOC's pixels: the first is 1, and the last is inside."""


class _Annotation(NamedTuple):
    """The size (H, W) of the image, None where the file does not tell it, and the boxes of each class."""

    size: tuple[int, int] | None
    boxes: dict[str, list[_Box]]


class _XMLImages:
    """Images with one annotation file each.

    Args:
        name: of the data set.
        files: for each image its path and that of its annotation.
        classes: those of the data set, None for those that occur.
    """

    def __init__(self, name: str, files: Mapping[str, tuple[Path, Path]], classes: tuple[str, ...] | None) -> None:
        self.name = name
        self.unreadable: list[str] = []
        self._files = files
        self._present: dict[str, set[str]] = {}
        for image, (_, path) in files.items():
            try:
                present = set(_read_annotation(path).boxes)
                if classes is not None and not present <= set(classes):
                    raise UnreadableError(f"{path}: {min(present - set(classes))!r} is no class of {name}")
                self._present[image] = present
            except UnreadableError as error:
                self.unreadable.append(str(error))
        self.classes = classes if classes is not None else tuple(sorted(set().union(*self._present.values())))

    def pairs(self) -> list[tuple[str, str]]:
        """Every image with each class annotated in it, images and classes in the data set's order."""
        return [
            (image, label) for image, present in self._present.items() for label in self.classes if label in present
        ]

    def load(self, image: str) -> AnnotatedImage:
        """The image of this name, and the pixels inside the boxes of each class.

        Boxes are for the pixels as stored: EXIF orientation is ignored. They are cut off at the image's border.

        Raises:
            UnreadableError: the image or its annotation cannot be read, or they do not fit together.
            ValueError: there is no image of this name.
        """
        path, annotation_path = of_image(self._files, image)
        annotation = _read_annotation(annotation_path)
        return load_annotated(path, annotation.size, annotation.boxes, _inside)


class VOCImages(_XMLImages):
    """PASCAL VOC's detection images, in the folders that torchvision's ``VOCDetection`` expects.

    The regions are the boxes. Objects flagged <difficult> count as all others, for pointing at one is pointing at its
    class: the paper leaves none out, VOC's own detection score does. (The difficult subset of table 1 is another
    matter.) Images are named as in VOC, "000001".

    Args:
        root: the folder that holds ``VOCdevkit/VOC2007``. Nothing is downloaded.
        year: "2007" to "2012".
        split: "train", "val", "trainval", or "test" of 2007.

    Raises:
        TypeError: the root is no path.
        ValueError: there is no such folder, year or split, or the split's list names files outside of its folders.
    """

    def __init__(self, root: str | os.PathLike[str], year: str = "2007", split: str = "test") -> None:
        from torchvision.datasets import VOCDetection  # takes a second, which only VOC needs

        check_choice("year", year, [str(number) for number in range(2007, 2013)])
        check_choice("split", split, ["train", "val", "trainval", *(["test"] if year == "2007" else [])])
        folder = check_folder("root", root)
        try:
            listed = VOCDetection(folder, year, split)
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(f"root must hold VOC {year} and its list of {split} images, got {folder}") from error
        files = {}
        for image, annotation in zip(map(Path, listed.images), map(Path, listed.annotations)):
            # VOCDetection joins folder and name without a check: "../../other" would lead elsewhere.
            if image.parent.name != "JPEGImages" or annotation.parent.name != "Annotations":
                raise ValueError(f"root must hold a list of names without folders, got one of {image}")
            files[image.stem] = image, annotation
        super().__init__(f"voc{year}-{split}", files, _CLASSES)


class FolderImages(_XMLImages):
    """A folder of JPEG or PNG images, each with its annotation ``NAME.xml`` in VOC's form beside it.

    The regions are the boxes, as in :class:`VOCImages`; the classes are those that occur, sorted. Images are named
    ``NAME``. Images without an annotation are left out; an annotation without an image fails when it is loaded.

    Args:
        root: the folder; folders in it are not looked at.

    Raises:
        TypeError: the root is no path.
        ValueError: there is no such folder, or no XML file in it.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        folder = check_folder("root", root)
        paths = sorted(folder.iterdir())
        images = {path.stem: path for path in paths if path.suffix.lower() in _SUFFIXES}
        annotations = {path.stem: path for path in paths if path.suffix.lower() == ".xml"}
        if not annotations:
            raise ValueError(f"root must hold an XML file beside each image, got {folder} without any")
        files = {name: (images.get(name, folder / f"{name}.jpg"), path) for name, path in annotations.items()}
        super().__init__(folder.resolve().name, files, None)


def _inside(box: _Box, size: tuple[int, int]) -> Tensor:
    """The pixels (H, W) bool inside a box."""
    xmin, ymin, xmax, ymax = box
    return mask_from_boxes([(xmin - 1, ymin - 1, xmax, ymax)], size)


def _read_annotation(path: Path) -> _Annotation:
    """Read an XML file; ``<filename>`` and ``<path>`` in it are ignored.

    Raises:
        UnreadableError: there is no such file, it is no annotation, or it declares a document type, with which it could
            grow without limit or fetch other files.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        return _annotation(fromstring(content, forbid_dtd=True))
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: there is no such file") from error
    except (OSError, ValueError, LookupError, ParseError) as error:
        why = "a document type is declared" if isinstance(error, DTDForbidden) else in_one_line(error)
        raise UnreadableError(f"{path}: cannot be read as a VOC annotation: {why}") from error


def _annotation(root: Element) -> _Annotation:
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, not <annotation>")
    boxes: dict[str, list[_Box]] = {}
    for entry in root.iterfind("object"):
        xmin, ymin, xmax, ymax = (float(_text(entry, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
        boxes.setdefault(_text(entry, "name"), []).append((xmin, ymin, xmax, ymax))
    width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
    return _Annotation((height, width) if height and width else None, boxes)


def _text(entry: Element, path: str) -> str:
    text = " ".join(entry.findtext(path, "").split())
    if not text:
        raise ValueError(f"an object has no <{path}>")
    return text
