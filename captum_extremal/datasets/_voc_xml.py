"""PASCAL VOC's annotation files, read so that a file from elsewhere can do no harm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from captum_extremal.datasets._reading import in_one_line
from captum_extremal.datasets.annotated import UnreadableError

_MOST_BYTES = 2**20  # VOC's own are a few thousand

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in VOC's pixels: the first is 1, and the last is inside."""


@dataclass(frozen=True)
class Annotation:
    """What one file says.

    Attributes:
        size: (H, W) of the image in pixels, None where the file tells none.
        boxes: for each class those of its objects.
    """

    size: tuple[int, int] | None
    boxes: dict[str, list[Box]]


def read_annotation(path: Path) -> Annotation:
    """Read a file; ``<filename>`` and ``<path>`` in it are not looked at.

    Raises:
        UnreadableError: there is no such file, it is no annotation, or it declares a document type, which could make
            it grow without limit or fetch other files.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        return _annotation(_parsed(content))
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: there is no such file") from error
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:
        raise UnreadableError(f"{path}: cannot be read as a VOC annotation: {in_one_line(error)}") from error


def _parsed(content: bytes) -> Element:
    """ElementTree's root. Entities can be declared in a DOCTYPE alone."""

    def refuse(name: str, *_: object) -> None:
        raise ValueError(f"a document type ({name}) is declared, which is not allowed")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(content, True)
    root: Element = builder.close()
    return root


def _annotation(root: Element) -> Annotation:
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, not <annotation>")
    boxes: dict[str, list[Box]] = {}
    for entry in root.iterfind("object"):
        xmin, ymin, xmax, ymax = (float(_text(entry, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
        boxes.setdefault(_text(entry, "name"), []).append((xmin, ymin, xmax, ymax))
    width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
    return Annotation((height, width) if height and width else None, boxes)


def _text(entry: Element, path: str) -> str:
    text = " ".join(entry.findtext(path, "").split())
    if not text:
        raise ValueError(f"an object has no <{path}>")
    return text
