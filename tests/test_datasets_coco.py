"""COCO's instances against literal references, and what a file from elsewhere cannot do."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from captum_extremal.datasets import AnnotatedImages, COCOImages, UnreadableError, coco

WIDTH, HEIGHT = 12, 9
SQUARE = [[2.0, 3.0, 6.0, 3.0, 6.0, 7.0, 2.0, 7.0]]


def content(*segmentations: Any, file_name: str = "b.jpg") -> dict[str, Any]:
    """Image a.jpg without and b.jpg with the segmentations, all of the class "cat"."""
    sizes = {"height": HEIGHT, "width": WIDTH}
    return {
        "images": [{"id": 9, "file_name": file_name, **sizes}, {"id": 4, "file_name": "a.jpg", **sizes}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": number, "image_id": 9, "category_id": 17, "iscrowd": int(isinstance(one, dict)), "segmentation": one}
            for number, one in enumerate(segmentations)
        ],
    }


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Any], COCOImages]:
    """The data set of a file's content, beside two images."""
    for name in ("a.jpg", "b.jpg"):
        Image.effect_noise((WIDTH, HEIGHT), 100).save(tmp_path / name)

    def make(of: Any) -> COCOImages:
        path = tmp_path / "instances_val2014.json"
        path.write_text(of if isinstance(of, str) else json.dumps(of))
        return COCOImages(tmp_path, path)

    return make


Make = Callable[[Any], COCOImages]


def runs(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths of a mask, literally: down the columns, beginning with what is out."""
    counts, inside = [], False
    for value, group in itertools.groupby(bool(mask[row, column]) for column, row in np.ndindex(mask.shape[::-1])):
        if value != inside and not counts:
            counts.append(0)
        counts.append(len(list(group)))
        inside = value
    return {"size": list(mask.shape), "counts": counts}


def test_pairs_follow_the_file_and_the_category_numbers(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    of = content(SQUARE)
    of["annotations"] += [
        {"image_id": 4, "category_id": 17, "segmentation": SQUARE},
        {"image_id": 9, "category_id": 1, "segmentation": SQUARE},
        {"image_id": 9, "category_id": 17, "segmentation": SQUARE},
    ]
    data: AnnotatedImages = made(of)
    assert (data.name, data.classes, data.unreadable) == ("coco-val2014", ("person", "cat"), [])
    assert data.pairs() == [("b.jpg", "person"), ("b.jpg", "cat"), ("a.jpg", "cat")]


def test_regions_are_all_objects_of_a_class_crowds_as_well(made: Make) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[7:, 10:] = True
    data = made(content(SQUARE, runs(crowd)))
    found = data.load("b.jpg")
    expected = torch.from_numpy(crowd)
    expected[3:7, 2:6] = True
    assert torch.equal(found.regions["cat"], expected)
    assert found.difficult == frozenset()
    assert data.load("a.jpg").regions == {}


def ann_to_mask(segmentation: Any, size: tuple[int, int]) -> list[list[bool]]:
    """What pycocotools makes of an annotation."""
    reference = COCO()
    reference.imgs = {1: {"height": size[0], "width": size[1]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # which pycocotools 2.0.11 gives with numpy 2
        mask = reference.annToMask({"image_id": 1, "segmentation": segmentation})
    found: list[list[bool]] = mask.astype(bool).tolist()
    return found


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
def test_run_lengths_of_both_kinds_give_their_mask(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    compressed = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    compressed["counts"] = compressed["counts"].decode()
    for segmentation in (runs(mask), compressed):
        assert coco._segmented(segmentation, (height, width)).tolist() == mask.tolist()
        assert ann_to_mask(segmentation, (height, width)) == mask.tolist()


def test_long_run_lengths_are_read_as_pycocotools_reads_them() -> None:
    mask = np.zeros((700, 900), bool)
    mask[:, 300:] = True
    mask[5, 7] = mask[600:, 800:] = False
    segmentation = coco_masks.encode(np.asfortranarray(mask, np.uint8)) | {"size": [700, 900]}
    assert coco._segmented(segmentation, (700, 900)).tolist() == mask.tolist()


corner = st.tuples(st.floats(-2 * WIDTH, 3 * WIDTH), st.floats(-2 * HEIGHT, 3 * HEIGHT))
outlines = st.lists(corner, min_size=3, max_size=7).map(lambda corners: [float(x) for pair in corners for x in pair])


@given(st.lists(outlines, min_size=1, max_size=3))
def test_polygons_are_those_of_pycocotools_also_beyond_the_image(polygons: list[list[float]]) -> None:
    read = coco._with_arrays({"segmentation": polygons})["segmentation"]
    assert coco._segmented(read, (HEIGHT, WIDTH)).tolist() == ann_to_mask(polygons, (HEIGHT, WIDTH))


def test_a_polygon_that_leaves_the_image_keeps_its_slope() -> None:
    # From (0, 0) to (100, 100): corners moved to the image's border would make another slope.
    triangle = [np.array([0.0, 0, 100, 100, 0, 100])]
    inside = coco._segmented(triangle, (HEIGHT, WIDTH))
    assert inside.tolist() == [[column <= row for column in range(WIDTH)] for row in range(HEIGHT)]


def by_crossings(outline: list[float], size: tuple[int, int]) -> np.ndarray:
    """The pixels whose middle is inside of a polygon: a ray to the right crosses its outline an odd number of times."""
    y, x = (axis + 0.5 for axis in np.indices(size))
    corners = np.asarray(outline).reshape(-1, 2)
    inside = np.zeros(size, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, 1, axis=0)):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (x1 - x0) * (y - y0) / (y1 - y0))
    return inside


@pytest.mark.parametrize("reach", [10, 100, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_a_polygon_that_leaves_the_image_keeps_its_outline(reach: int, seed: int) -> None:
    outline = np.random.default_rng(seed).uniform(-reach, 60 + reach, 8)
    found = coco._segmented([outline], (60, 60)).numpy()
    assert (found != by_crossings(outline, (60, 60))).sum() <= 30  # pixels that the outline cuts


def test_no_polygons_are_no_pixels() -> None:
    assert not coco._segmented([], (HEIGHT, WIDTH)).any()


UNFIT = {
    "two corners": [[1, 1, 2, 2]],
    "half a corner": [[1, 1, 2, 2, 3, 3, 4]],
    "words": [["one", 1, 2, 2, 3, 3]],
    "not flat": [[[1, 1], [2, 2], [3, 3]]],
    "a number": [3],
    "not a number": [[math.nan, 1, 2, 2, 3, 3]],
    "infinite": [[math.inf, 1, 2, 2, 3, 3]],
    "huge integer": [[10**400, 1, 2, 2, 3, 3]],
    "nothing": None,
    "text": "1, 1, 2, 2",
    "empty runs": {},
    "too few runs": {"size": [HEIGHT, WIDTH], "counts": [1, 2]},
    "runs beyond the image": {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH + 1]},
    "endless runs": {"size": [HEIGHT, WIDTH], "counts": [0, 2**62, 2**62, 2**62, 2**62]},
    "runs beyond integers": {"size": [HEIGHT, WIDTH], "counts": [10**30]},
    "runs that make up": {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
    "fractions": {"size": [HEIGHT, WIDTH], "counts": [0.5, HEIGHT * WIDTH - 0.5]},
    "nested runs": {"size": [HEIGHT, WIDTH], "counts": [[HEIGHT * WIDTH]]},
    "ragged runs": {"size": [HEIGHT, WIDTH], "counts": [[1], [1, 2]]},
    "another size": {"size": [2**20, 2**20], "counts": [2**40]},
    "sides exchanged": {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]},
    "runs of nothing": {"size": [HEIGHT, WIDTH], "counts": None},
    "too few compressed runs": {"size": [HEIGHT, WIDTH], "counts": "R00"},
    "compressed runs beyond the image": {"size": [HEIGHT, WIDTH], "counts": "0PPPPP1"},
    "compressed runs below 0": {"size": [HEIGHT, WIDTH], "counts": "O"},
    "cut off compressed runs": {"size": [HEIGHT, WIDTH], "counts": "0P"},
    "compressed runs of other characters": {"size": [HEIGHT, WIDTH], "counts": "0\N{SNOWMAN}"},
    "compressed runs without an end": {"size": [HEIGHT, WIDTH], "counts": "P" * 100_000},
    "far away": [[1e300, 1e300, -1e300, 2e300, 3e300, 3e300]],
    "too far for integers": [[5e8, 1, 5e8, 2, 5e8, 3]],
    "endless outline": [[0, 0, 4e6, 0] * 3],
    "endless outlines": [[0, 0, 1e6, 0, 0, 1]] * 3,
}


@pytest.mark.parametrize("segmentation", UNFIT.values(), ids=UNFIT.keys())
def test_segmentations_that_do_not_fit_are_refused(made: Make, segmentation: Any) -> None:
    data = made(content(SQUARE, segmentation))
    with pytest.raises(UnreadableError, match=r"b.jpg: cannot be used as annotated: (a|.*run) .*must be") as e:
        data.load("b.jpg")
    assert "\n" not in str(e.value)
    assert str(e.value).endswith("(object 2 of class 'cat')")
    assert data.load("a.jpg").regions == {}


def test_images_that_do_not_fit_are_named(made: Make, tmp_path: Path) -> None:
    data = made(content(SQUARE))
    Image.new("RGB", (3, 4)).save(tmp_path / "b.jpg")
    with pytest.raises(UnreadableError, match=r"b.jpg: is 3 x 4 pixels, but annotated as 12 x 9"):
        data.load("b.jpg")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UnreadableError, match=r"a.jpg: there is no such file"):
        data.load("a.jpg")
    with pytest.raises(ValueError, match=r"image must be one of those in pairs\(\), got '../a.jpg'"):
        data.load("../a.jpg")


@pytest.mark.parametrize("name", ["../b.jpg", "/b.jpg", "folder/../../b.jpg", "..", "", ".", 3, None, ["b.jpg"]])
def test_files_outside_of_the_folder_are_refused(made: Make, name: Any) -> None:
    of = content(SQUARE, file_name=name)
    of["annotations"].append({"image_id": 4, "category_id": 17, "segmentation": SQUARE})
    data = made(of)
    assert data.pairs() == [("a.jpg", "cat")]
    (line,) = data.unreadable
    assert "instances_val2014.json: images[0] is no image: " in line


def test_files_in_folders_of_the_folder_are_read(made: Make, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "b.jpg").rename(tmp_path / "inner" / "b.jpg")
    data = made(content(SQUARE, file_name="inner/b.jpg"))
    assert data.pairs() == [("inner/b.jpg", "cat")]
    assert data.load("inner/b.jpg").regions["cat"].sum() == 16


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in content(SQUARE).items() if name != key}


BROKEN = {
    "not JSON": "{",
    "nothing": "",
    "not UTF-8": "\udcff",
    "too deep": "[" * 200_000,
    "too deep dictionaries": '{"a":' * 200_000,
    "endless number": '{"images": ' + "9" * 100_000 + "}",
    "a list": [],
    "a number": 3,
    "no images": without("images"),
    "no categories": without("categories"),
    "no annotations": without("annotations"),
    "images as a number": content() | {"images": 3},
    "entries as text": content() | {"images": ["b.jpg"]},
    "images outside": content() | {"images": [{"id": 1, "file_name": "../a.jpg"}]},
    "two images of one name alone": content(file_name="a.jpg"),
    "two categories of one id": content() | {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
    "two categories of one name": content() | {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
    "category numbers of two kinds": content() | {"categories": [{"id": 1, "name": "a"}, {"id": "2", "name": "b"}]},
}


@pytest.mark.parametrize("of", BROKEN.values(), ids=BROKEN.keys())
def test_files_that_are_no_instances_are_refused(made: Make, tmp_path: Path, of: Any) -> None:
    if of == "\udcff":
        (tmp_path / "broken.json").write_bytes(b"\xff")
        with pytest.raises(ValueError, match=r"annotations must be a JSON file of COCO instances, got .*broken.json: "):
            COCOImages(tmp_path, tmp_path / "broken.json")
        return
    with pytest.raises(ValueError, match=r"annotations must be a JSON file of COCO instances, got .*val2014.json: "):
        made(of)


ONE_BAD = {
    "no segmentation": {"image_id": 4, "category_id": 1, "bbox": [1, 2, 3, 4]},
    "unknown category": {"image_id": 4, "category_id": 3, "segmentation": SQUARE},
    "no category": {"image_id": 4, "segmentation": SQUARE},
    "a list as a category": {"image_id": 4, "category_id": [1], "segmentation": SQUARE},
}


@pytest.mark.parametrize("entry", ONE_BAD.values(), ids=ONE_BAD.keys())
def test_a_bad_annotation_costs_its_image_alone(made: Make, entry: Any) -> None:
    of = content(SQUARE)
    of["annotations"] += [entry, {"image_id": 4, "category_id": 1, "segmentation": SQUARE}]
    data = made(of)
    assert data.pairs() == [("b.jpg", "cat")]
    assert data.load("b.jpg").regions["cat"].sum() == 16
    (line,) = data.unreadable
    assert "a.jpg: cannot be used as annotated: annotations[1] has no known category_id or no segmentation: " in line
    with pytest.raises(UnreadableError) as raised:
        data.load("a.jpg")
    assert str(raised.value) == line


@pytest.mark.parametrize("entry", [{"image_id": 3, "category_id": 1, "segmentation": []}, {}, "text", {"image_id": []}])
def test_an_annotation_of_no_image_is_named(made: Make, entry: Any) -> None:
    of = content(SQUARE)
    of["annotations"].insert(0, entry)
    data = made(of)
    assert data.pairs() == [("b.jpg", "cat")]
    (line,) = data.unreadable
    assert "instances_val2014.json: annotations[0] belongs to no image: " in line


@pytest.mark.parametrize(("size", "known"), [("12", True), ("12.0", True), (12.0, True), ("", False), (None, False)])
def test_sizes_are_read_as_people_write_them(made: Make, tmp_path: Path, size: Any, known: bool) -> None:
    of = content(SQUARE)
    of["images"][0]["width"] = size
    data = made(of)
    assert data.load("b.jpg").regions["cat"].sum() == 16
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(tmp_path / "b.jpg")
    if known:
        with pytest.raises(UnreadableError, match=r"b.jpg: is 13 x 9 pixels, but annotated as 12 x 9"):
            data.load("b.jpg")
    else:
        assert data.load("b.jpg").regions["cat"].shape == (HEIGHT, WIDTH + 1)


@pytest.mark.parametrize("size", ["wide", 1.5, [], "nan", -3])
def test_a_size_that_is_none_costs_its_image_alone(made: Make, size: Any) -> None:
    of = content(SQUARE)
    of["images"][1]["width"] = size
    data = made(of)
    assert data.pairs() == [("b.jpg", "cat")]
    assert "a.jpg: cannot be used as annotated: " in data.unreadable[0]


@pytest.mark.parametrize("outside", [False, True])
def test_two_images_of_one_id_cost_these_alone(made: Make, outside: bool) -> None:
    of = content(SQUARE)
    name = "../c.jpg" if outside else "c.jpg"
    of["images"].append({"id": 9, "file_name": name, "height": HEIGHT, "width": WIDTH})
    of["annotations"].append({"image_id": 4, "category_id": 17, "segmentation": SQUARE})
    for images in (of["images"], of["images"][::-1]):
        data = made(of | {"images": images})
        assert data.pairs() == [("a.jpg", "cat")]
        assert len(data.unreadable) == 2
        for photograph in ("b.jpg", "../c.jpg' is no file" if outside else "c.jpg"):
            assert any(photograph in line for line in data.unreadable)
        assert any(
            "b.jpg: cannot be used as annotated: another image has its id, 9" in line for line in data.unreadable
        )
        with pytest.raises(UnreadableError, match="another image has its id, 9"):
            data.load("b.jpg")


@pytest.mark.parametrize("again", ["c.jpg", "./c.jpg", ".//c.jpg"])
def test_two_images_of_one_name_cost_this_alone(made: Make, again: str) -> None:
    of = content(SQUARE, file_name="c.jpg")
    of["images"].append({"id": 5, "file_name": again})
    of["annotations"].append({"image_id": 4, "category_id": 17, "segmentation": SQUARE})
    data = made(of)
    assert data.pairs() == [("a.jpg", "cat")]
    assert ["another image has its name" in line for line in data.unreadable] == [True]


def test_where_no_image_has_an_id_of_its_own_the_file_is_refused(made: Make) -> None:
    of = content(SQUARE)
    of["images"][1]["id"] = of["images"][0]["id"]
    with pytest.raises(ValueError, match=r"none of 2 images can be used: .*b.jpg: .*another image has its id, 9"):
        made(of)


def test_where_objects_cost_every_image_the_file_is_refused(made: Make) -> None:
    of = content(SQUARE, None)
    for entry, image in zip(of["annotations"], (9, 4)):
        entry |= {"image_id": image, "category_id": 3}
    with pytest.raises(ValueError, match=r"none of 2 images can be used: .*b.jpg: .*annotations\[0\] has no known"):
        made(of)


def test_a_byte_order_mark_is_no_fault(made: Make) -> None:
    assert made("\ufeff" + json.dumps(content(SQUARE))).pairs() == [("b.jpg", "cat")]


def test_endless_files_are_refused(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "_MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"annotations must be .* of at most 100 bytes, got \d+ in "):
        made(content(SQUARE))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: COCOImages(3, folder / "x.json"), TypeError, "root must be a path, got 3"),
        (lambda folder: COCOImages(folder / "nowhere", folder), ValueError, "root must be a folder, got .*nowhere"),
        (lambda folder: COCOImages(folder, None), TypeError, "annotations must be a path, got None"),
        (lambda folder: COCOImages(folder, folder / "x.json"), ValueError, "annotations must be .*, got no file: .*x"),
    ],
)
def test_bad_arguments(tmp_path: Path, make: Callable[[Path], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(tmp_path)
