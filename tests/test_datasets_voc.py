"""VOC and folders in its form: what is read, in which order, and what files from elsewhere cannot do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from captum_extremal.datasets import AnnotatedImages, FolderImages, UnreadableError, VOCImages, annotated
from captum_extremal.datasets import voc as voc_module

WIDTH, HEIGHT = 12, 9
Object = tuple[str, tuple[Any, Any, Any, Any]]  # class, (xmin, ymin, xmax, ymax)
CAT: Object = ("cat", (2, 3, 5, 4))


def xml(*objects: Object, size: tuple[Any, Any] = (WIDTH, HEIGHT), difficult: int = 0) -> str:
    entries = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in objects
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>../../elsewhere.jpg</filename>{stated}{entries}</annotation>"


def photo() -> Image.Image:
    return Image.effect_noise((WIDTH, HEIGHT), 100).convert("RGB")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain folder whose image "one" holds a cat; tests put in what they are about."""
    photo().save(tmp_path / "one.png")
    (tmp_path / "one.xml").write_text(xml(CAT))
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """The root of VOC 2007 with two test images, of which the list names the second first."""
    devkit = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (devkit / name).mkdir(parents=True)
    for image, objects in {"000001": [("person", (1, 1, 2, 2)), CAT], "000002": [("dog", (1, 1, 12, 9))]}.items():
        photo().save(devkit / "JPEGImages" / f"{image}.jpg")
        (devkit / "Annotations" / f"{image}.xml").write_text(xml(*objects))
    (devkit / "ImageSets" / "Main" / "test.txt").write_text("000002\n000001\n")
    return tmp_path


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)


def test_voc_pairs_follow_the_list_and_the_classes(voc: Path, no_decoding: None) -> None:
    data: AnnotatedImages = VOCImages(voc)
    assert data.name == "voc2007-test"
    assert (len(data.classes), data.classes[0], data.classes[-1]) == (20, "aeroplane", "tvmonitor")
    assert list(data.classes) == sorted(data.classes)
    assert data.pairs() == [("000002", "dog"), ("000001", "cat"), ("000001", "person")]
    assert data.pairs() == data.pairs()
    assert data.unreadable == []


def test_boxes_begin_at_one_and_include_their_last_pixel(voc: Path) -> None:
    found = VOCImages(voc).load("000001")
    cat = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    cat[2:4, 1:5] = True
    assert torch.equal(found.regions["cat"], cat)
    assert found.regions["person"].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert bool(VOCImages(voc).load("000002").regions["dog"].all())
    assert found.difficult == {"cat", "person"}


def test_pixels_are_those_of_the_file(folder: Path) -> None:
    pixels = FolderImages(folder).load("one").pixels
    with Image.open(folder / "one.png") as file:
        stored = [[file.getpixel((x, y)) for x in range(WIDTH)] for y in range(HEIGHT)]
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, (torch.tensor(stored).float() / 255).permute(2, 0, 1))


def test_objects_of_a_class_are_one_region_and_difficult_ones_count(folder: Path) -> None:
    boxes: list[Object] = [("cat", (1, 1, 1, 1)), ("cat", (3, 1, 3, 1))]
    (folder / "one.xml").write_text(xml(*boxes, difficult=1))
    assert FolderImages(folder).load("one").regions["cat"].nonzero().tolist() == [[0, 0], [0, 2]]


def test_boxes_are_cut_off_at_the_image(folder: Path) -> None:
    boxes: list[Object] = [("cat", (11, 8, 400, 1e300)), ("dog", (-5, 0, 1, 1)), ("cow", (13, 1, 20, 5))]
    (folder / "one.xml").write_text(xml(*boxes))
    regions = FolderImages(folder).load("one").regions
    assert regions["cat"].nonzero().tolist() == [[7, 10], [7, 11], [8, 10], [8, 11]]
    assert regions["dog"].nonzero().tolist() == [[0, 0]]
    assert not bool(regions["cow"].any())


def test_boxes_belong_to_the_pixels_as_stored(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    (folder / "one.png").unlink()
    photo().save(folder / "one.jpg", exif=exif)
    assert FolderImages(folder).load("one").pixels.shape == (3, HEIGHT, WIDTH)
    (folder / "one.xml").write_text(xml(CAT, size=(HEIGHT, WIDTH)))
    with pytest.raises(UnreadableError, match=r"one.jpg: is 12 x 9 pixels, but annotated as 9 x 12"):
        FolderImages(folder).load("one")


@pytest.mark.parametrize("size", [(0, 0), (WIDTH, 0), ("", ""), (" ", HEIGHT), ("0.0", "9.0")])
def test_an_unstated_size_is_not_checked(folder: Path, size: tuple[int, int]) -> None:
    (folder / "one.xml").write_text(xml(CAT, size=size))
    assert FolderImages(folder).load("one").regions["cat"].sum() == 8


def test_numbers_may_be_written_as_floats(folder: Path) -> None:
    (folder / "one.xml").write_text(xml(("cat", ("2.0", "3.0", "5.0", "4.0")), size=(f"{WIDTH}.0", f"{HEIGHT}.00")))
    data = FolderImages(folder)
    assert data.load("one").regions["cat"].sum() == 8
    photo().resize((3, 4)).save(folder / "one.png")
    with pytest.raises(UnreadableError, match=r"one.png: is 3 x 4 pixels, but annotated as 12 x 9"):
        data.load("one")


def test_a_folder_has_the_classes_that_occur(folder: Path, no_decoding: None) -> None:
    (folder / "two.XML").write_text(xml(("zebra", (1, 1, 2, 2)), ("ant", (1, 1, 2, 2)), CAT))
    (folder / "empty.xml").write_text(xml())
    (folder / "no annotation.jpg").write_text("")
    data: AnnotatedImages = FolderImages(folder)
    assert (data.name, data.classes) == (folder.name, ("ant", "cat", "zebra"))
    assert data.pairs() == [("one", "cat"), ("two", "ant"), ("two", "cat"), ("two", "zebra")]
    with pytest.raises(ValueError, match=r"image must be one of those in pairs\(\), got 'no annotation'"):
        data.load("no annotation")


def test_the_truncated_kangaroo_is_named(shared_data: Path) -> None:
    data = FolderImages(shared_data / "kangaroo")
    assert (data.classes, len(data.pairs()), data.unreadable) == (("kangaroo",), 25, [])
    for image, _ in data.pairs():
        if image == "00090":
            with pytest.raises(UnreadableError, match=r"00090.jpg: cannot be read as JPEG or PNG: image file is trunc"):
                data.load(image)
        else:
            found = data.load(image)
            assert found.regions["kangaroo"].shape == found.pixels.shape[1:]
            assert bool(found.regions["kangaroo"].any())


def not_an_image(path: Path) -> None:
    path.write_text("not an image")


def another_format(path: Path) -> None:
    photo().save(path, "GIF")


def missing(path: Path) -> None:
    pass


@pytest.mark.parametrize("write", [not_an_image, another_format, missing, Path.mkdir])
def test_unreadable_images_are_named_in_one_line(folder: Path, write: Callable[[Path], None]) -> None:
    (folder / "one.png").unlink()
    write(folder / "one.jpg")
    data = FolderImages(folder)
    assert data.pairs() == [("one", "cat")]
    with pytest.raises(UnreadableError) as caught:
        data.load("one")
    assert str(caught.value).startswith(f"{folder / 'one.jpg'}: ")
    assert "\n" not in str(caught.value)


def test_masks_of_countless_classes_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "one.xml").write_text(xml(*((f"class {number}", (1, 1, 2, 2)) for number in range(11))))
    monkeypatch.setattr(annotated, "_MOST_MASKED", 10 * WIDTH * HEIGHT)
    with pytest.raises(UnreadableError, match="11 classes are too many for 12 x 9 pixels"):
        FolderImages(folder).load("one")


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
DOCTYPES = {
    "billion laughs": f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]>' + xml(CAT).replace("cat", "&a9;"),
    "another file": '<!DOCTYPE a [<!ENTITY x SYSTEM "secret.txt">]>' + xml(CAT).replace("cat", "&x;"),
    "another DTD": '<!DOCTYPE annotation SYSTEM "http://localhost/a.dtd">' + xml(CAT),
    "plain entity": '<!DOCTYPE a [<!ENTITY x "cat">]>' + xml(CAT).replace("cat", "&x;"),
}


@pytest.mark.parametrize("content", DOCTYPES.values(), ids=DOCTYPES.keys())
def test_document_types_are_refused(folder: Path, content: str) -> None:
    (folder / "secret.txt").write_text("secret")
    (folder / "two.xml").write_text(content)
    data = FolderImages(folder)
    assert data.pairs() == [("one", "cat")]
    (line,) = data.unreadable
    assert line.startswith(f"{folder / 'two.xml'}: ")
    assert "a document type" in line
    with pytest.raises(UnreadableError, match="a document type"):
        data.load("two")


BROKEN = {
    "not XML": "annotation",
    "nothing": "",
    "cut off": xml(CAT)[:-5],
    "unknown entity": xml(CAT).replace("cat", "&cat;"),
    "unknown encoding": '<?xml version="1.0" encoding="nonsense"?>' + xml(CAT),
    "null byte": xml(CAT).replace("cat", "c\0t"),
    "another root": "<html/>",
    "endless name": f"<{'a' * 10_000}/>",
    "no name": xml(("", (1, 1, 2, 2))),
    "no box": xml(CAT).replace("bndbox", "polygon"),
    "half a box": xml(("cat", (1, 1, "", 2))),
    "words": xml(("cat", ("one", 1, 2, 2))),
    "no size": xml(CAT, size=("wide", 9)),
    "half a pixel": xml(CAT, size=(12.5, 9)),
    "below nothing": xml(CAT, size=(-12, 9)),
    "endless size": xml(CAT, size=("inf", 9)),
    "too deep": "<a>" * 100_000 + "</a>" * 100_000,
    "too long": xml(CAT) + " " * voc_module._MOST_BYTES,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_unreadable_annotations_are_named_in_one_line(folder: Path, content: str) -> None:
    (folder / "two.xml").write_text(content)
    data = FolderImages(folder)
    assert data.pairs() == [("one", "cat")]
    (line,) = data.unreadable
    assert line.startswith(f"{folder / 'two.xml'}: cannot be read as a VOC annotation: ")
    assert "\n" not in line
    assert len(line) < 1000
    with pytest.raises(UnreadableError) as caught:
        data.load("two")
    assert str(caught.value) == line


@pytest.mark.parametrize("box", [(5, 1, 3, 2), (1, "nan", 2, 2), (1, 1, "inf", 2), (1, 1, 2, "1e999")])
def test_boxes_that_are_none_are_refused(folder: Path, box: Any) -> None:
    (folder / "one.xml").write_text(xml(("cat", box)))
    with pytest.raises(UnreadableError, match=r"one.png: cannot be used as annotated: boxes must be finite with x0"):
        FolderImages(folder).load("one")


def test_a_file_name_in_an_annotation_is_not_followed(voc: Path) -> None:
    annotation = voc / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml"
    assert "../../elsewhere.jpg" in annotation.read_text()
    assert VOCImages(voc).load("000001").pixels.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "name", ["../../secret", "../../x/JPEGImages/a", "../../x/Annotations/a", "/secret", "folder/secret"]
)
def test_lists_that_lead_elsewhere_are_refused(voc: Path, name: str) -> None:
    with (voc / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt").open("a") as file:
        file.write(f"{name}\n")
    with pytest.raises(ValueError, match="root must hold a list of names without folders"):
        VOCImages(voc)


def test_voc_names_missing_files_and_foreign_classes(voc: Path) -> None:
    devkit = voc / "VOCdevkit" / "VOC2007"
    (devkit / "ImageSets" / "Main" / "test.txt").write_text("000001\n000002\n000003\n")
    (devkit / "Annotations" / "000002.xml").write_text(xml(("kangaroo", (1, 1, 2, 2)), CAT))
    (devkit / "JPEGImages" / "000001.jpg").unlink()
    data = VOCImages(voc)
    assert data.unreadable == [
        f"{devkit / 'Annotations' / '000002.xml'}: 'kangaroo' is no class of voc2007-test",
        f"{devkit / 'Annotations' / '000003.xml'}: there is no such file",
    ]
    assert data.pairs() == [("000001", "cat"), ("000001", "person")]
    with pytest.raises(UnreadableError, match=r"000001.jpg: there is no such file"):
        data.load("000001")
    with pytest.raises(UnreadableError, match="'kangaroo' is no class of voc2007-test"):
        data.load("000002")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda root: VOCImages(3), TypeError, "root must be a path, got 3 of type int"),
        (lambda root: VOCImages(root / "nowhere"), ValueError, "root must be a folder"),
        (lambda root: VOCImages(root / "VOCdevkit"), ValueError, "root must hold VOC 2007 and its list of test images"),
        (lambda root: VOCImages(root, split="train"), ValueError, "root must hold VOC 2007 and its list of train"),
        (
            lambda root: VOCImages(root, "2012"),
            ValueError,
            "split must be one of 'train', 'trainval', 'val', got 'test",
        ),
        (lambda root: VOCImages(root, "2006"), ValueError, "year must be one of '2007', .* got '2006'"),
        (lambda root: FolderImages(None), TypeError, "root must be a path, got None"),
        (lambda root: FolderImages(root), ValueError, "root must hold an XML file beside each image"),
    ],
)
def test_bad_arguments(voc: Path, make: Callable[[Path], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(voc)
