"""COCO's instances against literal references, and what a file from elsewhere cannot do."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captum_extremal.datasets import AnnotatedImages, COCOImages, UnreadableError, coco

WIDTH, HEIGHT = 12, 9
SQUARE = [[2.0, 3.0, 5.5, 3.0, 5.5, 6.5, 2.0, 6.5]]


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
    expected[3:7, 2:6] = True  # a polygon takes in what its outline touches
    assert torch.equal(found.regions["cat"], expected)
    assert found.difficult == frozenset()
    assert data.load("a.jpg").regions == {}


@given(st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_run_lengths_give_the_mask_that_they_tell(height: int, width: int, random: Any) -> None:
    mask = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    assert coco._segmented(runs(mask), (height, width)).tolist() == mask.tolist()


def edges(polygon: list[tuple[float, float]]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    return list(zip(polygon, [*polygon[1:], polygon[0]]))


def holds(polygon: list[tuple[float, float]], x: float, y: float) -> bool:
    """Whether a point is inside, by the even-odd rule."""
    crossed = [(a, b) for a, b in edges(polygon) if (a[1] <= y) != (b[1] <= y)]
    return sum(x < a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1]) for a, b in crossed) % 2 == 1


def distance(polygon: list[tuple[float, float]], x: float, y: float) -> float:
    """From a point to the outline."""
    found = math.inf
    for (ax, ay), (bx, by) in edges(polygon):
        length = (bx - ax) ** 2 + (by - ay) ** 2
        along = min(1.0, max(0.0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) if length else 0.0
        found = min(found, math.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
    return found


@given(st.lists(st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)), min_size=3, max_size=6))
def test_polygons_are_right_to_about_a_pixel(polygon: list[tuple[float, float]]) -> None:
    inside = coco._segmented([np.array(polygon).ravel()], (HEIGHT, WIDTH))
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        x, y = column + 0.5, row + 0.5
        assert bool(inside[row, column]) == holds(polygon, x, y) or distance(polygon, x, y) < 1.5


def test_polygons_are_cut_off_at_the_image_and_never_vanish_in_it() -> None:
    def drawn(*corners: float) -> list[list[int]]:
        return coco._segmented([np.array(corners, float)], (HEIGHT, WIDTH)).nonzero().tolist()

    assert drawn(10, 7, 1e300, 7, 1e300, 1e300, 10, 1e300) == [[7, 10], [7, 11], [8, 10], [8, 11]]
    assert drawn(-5, -5, -1, -5, -1, 20, -5, 20) == []
    assert drawn(12, 0, 20, 0, 20, 9) == []
    assert drawn(2.1, 3.1, 2.3, 3.1, 2.3, 3.2) == [[3, 2]]


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
    "compressed": {"size": [HEIGHT, WIDTH], "counts": "R00"},
}


@pytest.mark.parametrize("segmentation", UNFIT.values(), ids=UNFIT.keys())
def test_segmentations_that_do_not_fit_are_refused(made: Make, segmentation: Any) -> None:
    data = made(content(SQUARE, segmentation))
    with pytest.raises(UnreadableError, match=r"b.jpg: cannot be used as annotated: (a|run) .*must be") as e:
        data.load("b.jpg")
    assert "\n" not in str(e.value)
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


@pytest.mark.parametrize("name", ["../b.jpg", "/b.jpg", "folder/../../b.jpg", "..", "", "."])
def test_files_outside_of_the_folder_are_refused(made: Make, name: str) -> None:
    with pytest.raises(ValueError, match=r"annotations must be .*val2014.json: ValueError\(.*is no file inside of the"):
        made(content(file_name=name))


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
    "unknown image": content() | {"annotations": [{"image_id": 3, "category_id": 1, "segmentation": []}]},
    "unknown category": content() | {"annotations": [{"image_id": 9, "category_id": 3, "segmentation": []}]},
    "no segmentation": content() | {"annotations": [{"image_id": 9, "category_id": 1}]},
    "file name as a number": content(file_name=3),  # type: ignore[arg-type]
    "two images of one name": content(file_name="a.jpg"),
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
