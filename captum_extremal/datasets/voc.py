"""PASCAL VOC, and plain folders of images that are annotated in its form."""

import os
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml import DTDForbidden
from defusedxml.ElementTree import fromstring

from captum_extremal._checks import check_choice
from captum_extremal.datasets.annotated import (
    AnnotatedFiles,
    Annotation,
    UnreadableError,
    check_folder,
    stated_size,
)
from captum_extremal.datasets.image_files import reading
from captum_extremal.metrics import mask_from_boxes

__all__ = ["FolderImages", "VOCImages"]

_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_MOST_BYTES = 2**20  # of an XML file; VOC's own have a few thousand


class VOCImages(AnnotatedFiles):
    """PASCAL VOC's detection images, in the folders that torchvision's ``VOCDetection`` expects.

    The regions are the boxes, cut off at the image's border. Objects flagged <difficult> count as all others: the paper
    leaves none out, VOC's own detection score does. (The difficult subset of table 1 is another matter.) Images are
    named as in VOC, "000001".

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
        found = {}
        for image, annotation in zip(map(Path, listed.images), map(Path, listed.annotations)):
            # VOCDetection joins folder and name without a check: "../../other" would lead elsewhere.
            if image.parent.name != "JPEGImages" or annotation.parent.name != "Annotations":
                raise ValueError(f"root must hold a list of names without folders, got one of {image}")
            found[image.stem] = _annotation(image, annotation)
            if others := found[image.stem].objects.keys() - _CLASSES:
                why = f"{annotation}: {min(others)!r} is no class of voc{year}-{split}"
                found[image.stem] = Annotation(image, None, {}, why)
        super().__init__(f"voc{year}-{split}", _CLASSES, found, mask_from_boxes)


class FolderImages(AnnotatedFiles):
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
        images = {path.stem: path for path in paths if path.suffix.lower() in (".jpg", ".jpeg", ".png")}
        annotations = {path.stem: path for path in paths if path.suffix.lower() == ".xml"}
        if not annotations:
            raise ValueError(f"root must hold an XML file beside each image, got {folder} without any")
        found = {name: _annotation(images.get(name, folder / f"{name}.jpg"), annotations[name]) for name in annotations}
        classes = sorted(set[str]().union(*(annotation.objects for annotation in found.values())))
        super().__init__(folder.resolve().name, classes, found, mask_from_boxes)


def _annotation(image: Path, path: Path) -> Annotation:
    """The content of an XML file, or why it is unreadable; ``<filename>`` and ``<path>`` in it are ignored."""
    boxes: dict[str, list[Any]] = {}
    try:
        with reading(path, "a VOC annotation"):
            root = _root(path)
            for entry in root.iterfind("object"):
                x0, y0, x1, y1 = (float(_text(entry, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
                # VOC counts pixels from 1, and its last ones are inside.
                boxes.setdefault(_text(entry, "name"), []).append([(x0 - 1, y0 - 1, x1, y1)])
            size = stated_size(root.findtext("size/height"), root.findtext("size/width"))
    except UnreadableError as error:
        return Annotation(image, None, {}, str(error))
    return Annotation(image, size, boxes)


def _root(path: Path) -> Element:
    """The root of an XML file without a document type, with which it could grow without limit or fetch other files."""
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES} bytes")
    try:
        root: Element = fromstring(content, forbid_dtd=True)
    except DTDForbidden as error:
        raise ValueError("a document type is declared") from error
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, not <annotation>")
    return root


def _text(entry: Element, path: str) -> str:
    text = " ".join(entry.findtext(path, "").split())
    if not text:
        raise ValueError(f"an object has no <{path}>")
    return text
