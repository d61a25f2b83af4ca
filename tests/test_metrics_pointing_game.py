"""The pointing games against slow literal references and by hand, and the ground truth that they are played on."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captum_extremal.datasets import DigitScenes
from captum_extremal.metrics import (
    PointingOutcome,
    difficult_classes,
    energy_pointing_game,
    mask_from_boxes,
    pointing_game,
    summarise,
)


def one_hot(size: tuple[int, int], row: int, column: int) -> Tensor:
    """A map, or a mask by ``.bool()``, of a single pixel."""
    hot = torch.zeros(size)
    hot[row, column] = 1
    return hot


# The literal references: loops over pixels.


def literal_resize(one: Tensor, size: tuple[int, int]) -> Tensor:
    """A triangle around every new pixel's centre, as wide as two pixels of the coarser grid, cut off at the border."""
    out = torch.zeros(size, dtype=torch.float64)
    for row in range(size[0]):
        for column in range(size[1]):
            weights = []
            for at, new, old in ((row, size[0], one.shape[0]), (column, size[1], one.shape[1])):
                centre, reach = (at + 0.5) * old / new, max(old / new, 1.0)
                triangle = [max(0.0, 1 - abs(k + 0.5 - centre) / reach) for k in range(old)]
                weights.append([weight / sum(triangle) for weight in triangle])
            for r, of_row in enumerate(weights[0]):
                for c, of_column in enumerate(weights[1]):
                    out[row, column] += of_row * of_column * float(one[r, c])
    return out


def literal_blur(one: Tensor, sigma: float) -> Tensor:
    """A Gaussian normalised over the pixels inside."""
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in one.shape)
    out = torch.zeros_like(one)
    for row in range(one.shape[0]):
        for column in range(one.shape[1]):
            squared = (rows[:, None] - row) ** 2 + (columns[None] - column) ** 2
            weights = torch.exp(-squared / (2 * sigma**2))
            out[row, column] = (weights * one).sum() / weights.sum()
    return out


def literal_point(one: Tensor) -> tuple[int, int]:
    return divmod(int(one.argmax()), one.shape[1])


def literal_distance(point: tuple[int, int], mask: Tensor) -> float:
    pixels = [(r, c) for r in range(mask.shape[0]) for c in range(mask.shape[1]) if mask[r, c]]
    return min(math.hypot(r - point[0], c - point[1]) for r, c in pixels)


@pytest.mark.parametrize("blur", [0.0, 0.09, 0.25])
@pytest.mark.parametrize("size", [(16, 24), (21, 9), (5, 7), (2, 3), (8, 6)], ids=str)
def test_maps_are_resized_then_blurred_then_pointed(size: tuple[int, int], blur: float) -> None:
    maps = torch.rand(3, 8, 6, dtype=torch.float64)
    masks = torch.rand(3, *size) < 0.05
    masks[:, -1, -1] = True
    found = pointing_game(maps, ground_truth=masks, blur=blur)
    for one, mask, outcome in zip(maps, masks, found):
        at_image = literal_resize(one, size)
        expected = literal_point(literal_blur(at_image, blur * min(size)) if blur else at_image)
        assert outcome.point == expected
        assert outcome.distance == pytest.approx(literal_distance(expected, mask), abs=1e-12)


@pytest.mark.parametrize(("offset", "distance"), [((0, 0), 0.0), ((0, 1), 1.0), ((3, 4), 5.0), ((9, 12), 15.0)])
def test_a_distance_equal_to_the_tolerance_hits(offset: tuple[int, int], distance: float) -> None:
    maps = one_hot((40, 50), 20, 30)[None]
    mask = one_hot((40, 50), 20 - offset[0], 30 + offset[1]).bool()
    (outcome,) = pointing_game(maps, ground_truth=[mask], tolerance=distance)
    assert (outcome.point, outcome.distance, outcome.value) == ((20, 30), distance, 1.0)
    if distance:
        assert pointing_game(maps, ground_truth=[mask], tolerance=distance - 1e-6)[0].value == 0.0
    assert outcome.within(0).value == float(distance == 0)
    assert outcome.within(0).within(distance) == outcome


def test_tolerance_is_15_px_of_the_annotated_image() -> None:
    corner = one_hot((8, 8), 0, 0)[None].expand(2, -1, -1)
    masks = [one_hot((32, 32), 0, 15).bool(), one_hot((32, 32), 0, 16).bool()]
    found = pointing_game(corner, ground_truth=masks)
    assert [(one.point, one.distance, one.value) for one in found] == [((0, 0), 15.0, 1.0), ((0, 0), 16.0, 0.0)]


def test_of_equal_maxima_the_first_in_reading_order_points() -> None:
    one = torch.zeros(9, 9)
    one[2, 6] = one[3, 1] = one[8, 8] = 5
    masks = torch.zeros(1, 9, 9, dtype=torch.bool)
    masks[0, 3, 1] = True
    (outcome,) = pointing_game(one[None], ground_truth=masks, tolerance=0)
    assert (outcome.point, outcome.value) == ((2, 6), 0.0)


@pytest.mark.parametrize("side", [10, 14, 18, 20])
def test_ties_that_differ_by_rounding_are_ties(side: int) -> None:
    """The pixels on either side of the middle are equally high, however their interpolation is rounded."""
    spot = 0.3 * one_hot((3, 3), 1, 1).double()
    (outcome,) = pointing_game(spot[None], ground_truth=[torch.ones(side, side, dtype=torch.bool)])
    assert outcome.point == (side // 2 - 1, side // 2 - 1)


@pytest.mark.parametrize("value", [0.0, -1.5, 0.1])
def test_a_constant_map_points_nowhere_and_misses(value: float) -> None:
    (outcome,) = pointing_game(torch.full((1, 8, 8), value), ground_truth=torch.ones(1, 21, 21).bool(), blur=0.1)
    assert (outcome.point, outcome.distance, outcome.value) == (None, None, 0.0)
    assert outcome.within(1e9).value == 0.0


def test_a_map_larger_than_the_annotated_image_loses_no_pixel() -> None:
    corner = one_hot((8, 8), 7, 7)[None]
    truth = torch.zeros(1, 2, 2, dtype=torch.bool)
    truth[0, 0, 0] = True
    (outcome,) = pointing_game(corner, ground_truth=truth, tolerance=0)
    assert (outcome.point, outcome.value) == ((1, 1), 0.0)
    assert energy_pointing_game(corner, ground_truth=~truth)[0].value == 1.0


def test_a_map_that_is_constant_once_it_is_resized_points_nowhere() -> None:
    stripes = torch.arange(8.0).remainder(2).expand(1, 8, 8)
    (outcome,) = pointing_game(stripes, ground_truth=torch.ones(1, 8, 1, dtype=torch.bool))
    assert (outcome.point, outcome.value) == (None, 0.0)


def test_empty_ground_truth_is_skipped_and_counted_and_never_a_hit() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0] = True
    found = pointing_game(torch.rand(3, 8, 8), ground_truth=masks, labels=["a", "a", "b"], tolerance=1000)
    assert [one.value for one in found] == [1.0, None, None]
    assert [one.within(5).value for one in found] == [1.0, None, None]
    assert found[1].distance is None
    summary = summarise(found)
    assert (summary.mean, summary.by_class, summary.pairs, summary.skipped) == (1.0, {"a": 1.0}, 1, 2)
    energy = energy_pointing_game(torch.rand(3, 8, 8), ground_truth=masks)
    assert [one.value for one in energy] == [1.0, None, None]


def test_annotated_images_may_differ_in_size() -> None:
    maps = torch.stack([one_hot((10, 10), 5, 5), one_hot((10, 10), 0, 9)])
    masks = [one_hot((10, 10), 5, 6).bool(), one_hot((31, 21), 3, 20).bool()]
    assert [one.distance for one in pointing_game(maps, ground_truth=masks)] == [1.0, 3.0]
    assert [one.point for one in pointing_game(maps, ground_truth=masks)] == [(5, 5), (0, 20)]


def test_pairs_are_named_by_rows_and_targets() -> None:
    maps, masks = torch.rand(3, 8, 8), torch.ones(3, 8, 8, dtype=torch.bool)
    named = pointing_game(
        maps, None, None, ground_truth=masks, images=["x", "x", "y"], labels=[4, 5, 4], difficult=[True, False, True]
    )
    assert [(one.image, one.label, one.difficult) for one in named] == [("x", 4, True), ("x", 5, False), ("y", 4, True)]
    for target, labels in [
        (7, [7, 7, 7]),
        ([1, 2, 3], [1, 2, 3]),
        (torch.tensor([1, 2, 3]), [1, 2, 3]),
        (torch.tensor([4]), [4, 4, 4]),
        (torch.tensor(4), [4, 4, 4]),
        (np.array([1, 2, 3]), [1, 2, 3]),
        (None, [0, 0, 0]),
    ]:
        plain = energy_pointing_game(maps, None, target, ground_truth=masks)
        assert [one.label for one in plain] == labels
        assert [one.image for one in plain] == [None] * 3
    widths = pointing_game(
        maps, ground_truth=masks, images=np.arange(3), labels=torch.arange(3), difficult=masks[:, 0, 0]
    )
    assert json.loads(json.dumps([asdict(one) for one in widths]))[2]["image"] == 2


def test_outcomes_survive_json() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 3] = True
    found = pointing_game(torch.rand(2, 8, 8), None, 3, ground_truth=masks)
    for outcome in found:
        row = json.loads(json.dumps(asdict(outcome), allow_nan=False))
        row["point"] = tuple(row["point"])
        assert PointingOutcome(**row) == outcome


@pytest.mark.parametrize("size", [(8, 6), (15, 11), (5, 4), (2, 2)], ids=str)
def test_energy_is_the_share_of_what_is_positive(size: tuple[int, int]) -> None:
    maps, masks = torch.randn(3, 8, 6, dtype=torch.float64), torch.rand(3, *size) < 0.3
    masks[:, 0, 0] = True
    for one, mask, outcome in zip(maps, masks, energy_pointing_game(maps, ground_truth=masks)):
        inside = whole = 0.0
        at_image = literal_resize(one, size)
        for row in range(size[0]):
            for column in range(size[1]):
                energy = max(float(at_image[row, column]), 0.0)
                whole += energy
                inside += energy * bool(mask[row, column])
        assert outcome.value == pytest.approx(inside / whole, rel=1e-12)


def test_energy_by_hand() -> None:
    one = torch.tensor([[1.0, 3.0, -8.0], [0.0, 4.0, 0.0]])
    mask = torch.tensor([[True, False, True], [True, True, True]])
    assert energy_pointing_game(one[None], ground_truth=[mask])[0].value == pytest.approx(5 / 8)
    assert energy_pointing_game(-one[None].abs(), ground_truth=[mask])[0].value == 0.0
    assert energy_pointing_game(one[None] * 1e6, ground_truth=[mask])[0].value == pytest.approx(5 / 8)


def test_a_map_of_the_object_itself_has_all_energy_and_hits() -> None:
    scene = DigitScenes(1, seed=3)[0]
    found = energy_pointing_game(scene.masks.float(), ground_truth=scene.masks)
    assert [one.value for one in found] == [1.0] * len(scene.labels)
    points = pointing_game(scene.masks.float(), ground_truth=scene.masks, labels=scene.labels, tolerance=0)
    assert summarise(points).mean == 1.0
    swapped = pointing_game(scene.masks.float().flip(0), ground_truth=scene.masks, labels=scene.labels, tolerance=0)
    assert summarise(swapped).overall == (0.0 if len(scene.labels) % 2 == 0 else 1 / len(scene.labels))


def test_half_precision_maps_and_other_devices(device: torch.device) -> None:
    maps = one_hot((12, 12), 4, 7)[None].to(device, torch.float16)
    mask = one_hot((12, 12), 4, 8).bool()
    assert pointing_game(maps, ground_truth=[mask.to(device)])[0].distance == 1.0
    assert energy_pointing_game(maps, ground_truth=[mask])[0].value == 0.0


# Ground truth.


def test_boxes_cover_from_their_first_pixel_to_before_their_last_corner() -> None:
    mask = mask_from_boxes([[1, 2, 4, 5]], (6, 8))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[2:5, 1:4] = True
    assert torch.equal(mask, expected)
    assert bool(mask_from_boxes(torch.tensor([[0, 0, 8, 6]]), (6, 8)).all())
    assert not bool(mask_from_boxes(torch.zeros(0, 4), (6, 8)).any())
    assert not bool(mask_from_boxes([], (6, 8)).any())


def test_boxes_are_united_and_cut_off() -> None:
    mask = mask_from_boxes([[-5, -5, 2, 1], [1, 0, 3, 2], [7, 5, 100, 100]], (6, 8))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[0, :2] = expected[0:2, 1:3] = True
    expected[5, 7] = True
    assert torch.equal(mask, expected)


def test_boxes_between_pixels_cover_the_centres_inside() -> None:
    mask = mask_from_boxes([[0.6, 0.5, 2.5, 1.51]], (3, 4))
    assert mask.nonzero().tolist() == [[0, 1], [1, 1]]


@given(
    st.lists(st.tuples(*[st.integers(-3, 12)] * 4), min_size=1, max_size=4),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_boxes_of_whole_pixels_are_slices(boxes: list[tuple[int, ...]], size: tuple[int, int]) -> None:
    ordered = [(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)) for x0, y0, x1, y1 in boxes]
    expected = torch.zeros(size, dtype=torch.bool)
    for x0, y0, x1, y1 in ordered:
        expected[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    assert torch.equal(mask_from_boxes(ordered, size), expected)


def test_boxes_of_digits_hold_their_masks() -> None:
    scene = DigitScenes(1, seed=5)[0]
    for box, mask in zip(scene.boxes, scene.masks):
        covered = mask_from_boxes(box[None], tuple(mask.shape))
        assert bool(covered[mask].all())
        rows, columns = mask.nonzero().T
        assert int(covered.sum()) == int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ({"a": 24}, {"a": False}),
        ({"a": 24, "b": 1}, {"a": True, "b": True}),
        ({"a": 25, "b": 1}, {"a": False, "b": True}),
        ({"a": 24, "b": 0}, {"a": False, "b": True}),
        ({"a": 24, "b": 100}, {"a": True, "b": False}),
        ({}, {}),
    ],
)
def test_difficult_is_less_than_a_quarter_beside_another_class(
    masks: dict[str, int], expected: dict[str, bool]
) -> None:
    drawn = {label: (torch.arange(100) < pixels).view(10, 10) for label, pixels in masks.items()}
    assert difficult_classes(drawn) == expected


MAPS, MASKS = torch.rand(2, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"ground_truth": MASKS[:1]}, ValueError, "ground_truth"),
        ({"ground_truth": MASKS.float()}, TypeError, "ground_truth"),
        ({"ground_truth": MASKS[:, None]}, ValueError, "ground_truth"),
        ({"ground_truth": [MASKS[0], "mask"]}, TypeError, r"ground_truth\[1\]"),
        ({"ground_truth": None}, TypeError, "ground_truth"),
        ({"ground_truth": [MASKS[0], torch.ones(0, 3).bool()]}, ValueError, r"ground_truth\[1\]"),
        ({"images": ["a"]}, ValueError, "images"),
        ({"images": [1.5, 2]}, TypeError, "images"),
        ({"labels": [1, 2, 3]}, ValueError, "labels"),
        ({"labels": [None, 1]}, TypeError, "labels"),
        ({"labels": [True, False]}, TypeError, "labels"),
        ({"target": [(1, 2), (3, 4)]}, TypeError, "labels"),
        ({"difficult": [True]}, ValueError, "difficult"),
        ({"difficult": [0, 1]}, TypeError, "difficult"),
    ],
)
@pytest.mark.parametrize("game", [pointing_game, energy_pointing_game])
def test_bad_arguments_are_named_before_anything_is_explained(
    game: Any, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    def never(inputs: Tensor, target: object) -> Tensor:
        raise AssertionError("explained")

    arguments: dict[str, Any] = {"ground_truth": MASKS, "target": None} | changes
    with pytest.raises(error, match=match):
        game(never, torch.rand(2, 3, 8, 8), **arguments)


@pytest.mark.parametrize("name", ["tolerance", "blur"])
@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (math.nan, ValueError), ("9%", TypeError)])
def test_bad_numbers_are_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        pointing_game(MAPS, ground_truth=MASKS, **{name: value})
    if name == "tolerance":
        with pytest.raises(error, match=name):
            pointing_game(MAPS, ground_truth=MASKS)[0].within(value)


@pytest.mark.parametrize(
    ("boxes", "size", "error", "match"),
    [
        ([[1, 2, 3]], (5, 5), ValueError, "boxes"),
        ([1, 2, 3, 4], (5, 5), ValueError, "boxes"),
        ([[3, 0, 2, 4]], (5, 5), ValueError, "boxes"),
        ([[0, math.nan, 2, 4]], (5, 5), ValueError, "boxes"),
        ("box", (5, 5), TypeError, "boxes"),
        ([[0, 0, 1, 1]], (0, 5), ValueError, "size"),
        ([[0, 0, 1, 1]], (5, 2.5), TypeError, "size"),
        ([[0, 0, 1, 1]], 5, TypeError, "size"),
        ([[0, 0, 1, 1]], (5, 5, 3), TypeError, "size"),
    ],
)
def test_bad_boxes_are_named(boxes: Any, size: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        mask_from_boxes(boxes, size)


def test_bad_masks_of_classes_are_named() -> None:
    with pytest.raises(TypeError, match="masks\\['dog'\\]"):
        difficult_classes({"dog": torch.ones(3, 3)})
    with pytest.raises(ValueError, match="masks\\[3\\]"):
        difficult_classes({3: torch.ones(1, 3, 3).bool()})


def test_signals_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs"):
        pointing_game(lambda inputs, target: inputs, torch.rand(2, 3, 16), ground_truth=MASKS)
