"""ExtremalMasks: what is read off the masks and scores that were found, and that files of it are safe."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from by_hand import optimum_by_hand, result_by_hand
from captum_extremal import ExtremalMasks, ExtremalPerturbation, Game, PathSolver
from captum_extremal.results import Measured, threshold_of
from captum_extremal.results.maps import is_grey
from captum_extremal.search.games import DELETE, HYBRID, PRESERVE

AREAS = [0.1, 0.25, 0.5]


def result_of(
    masks: Tensor | tuple[Tensor, ...] | None = None,
    values: list[list[float]] | None = None,
    threshold: list[float] | None = None,
    areas: list[float] | None = None,
    **how: Any,
) -> ExtremalMasks:
    """A result by hand: what is not given is plain."""
    areas = AREAS if areas is None else areas
    if masks is None:
        masks = torch.rand(len(values) if values else 2, len(areas), 1, 10, 12)
    first = masks[0] if isinstance(masks, tuple) else masks
    shape = first.shape[:2]
    return result_by_hand(
        masks,
        areas,
        torch.zeros(shape) if values is None else torch.tensor(values),
        torch.randn(shape),
        clean=torch.randn(shape[0]),
        perturbed=torch.full(shape[:1], -100.0),
        threshold=torch.zeros(shape[0]) if threshold is None else torch.tensor(threshold),
        settings={"game": {"kept": 1.0, "removed": 0.0}, "steps": 7},
        **how,
    )


@pytest.fixture
def found(network: nn.Module, images: Tensor) -> ExtremalMasks:
    return ExtremalPerturbation(network).extremal_masks(images, target=1, areas=AREAS, solver=PathSolver(steps=6))


@pytest.mark.parametrize(
    ("values", "threshold", "area"),
    [
        ([3.0, 4.0, 5.0], 3.5, 0.25),
        ([3.0, 4.0, 5.0], 4.0, 0.25),
        ([3.0, 4.0, 5.0], 2.0, 0.1),
        ([3.0, 4.0, 5.0], 5.1, math.nan),
        ([5.0, 1.0, 5.0], 4.5, 0.1),
        ([1.0, 1.0, 5.0], 4.5, 0.5),
        ([-3.0, -2.0, -1.0], -2.5, 0.25),
        ([math.nan, math.nan, 5.0], 4.5, 0.5),
    ],
)
def test_optimal_area_is_the_smallest_that_reaches_the_threshold(
    values: list[float], threshold: float, area: float
) -> None:
    found = result_of(values=[[9.0, 9.0, 9.0], values], threshold=[0.0, threshold])
    assert found.optimal_area.tolist() == pytest.approx([0.1, area], nan_ok=True)
    assert found.reached.tolist() == [True, not math.isnan(area)]
    index = 2 if math.isnan(area) else AREAS.index(area)
    assert torch.equal(found.optimal_mask(), torch.stack([found.masks[0, 0], found.masks[1, index]]))


def test_optimal_masks_of_a_tuple_are_a_tuple_at_the_same_areas() -> None:
    parts = (torch.rand(2, 3, 1, 9), torch.rand(2, 3, 1, 8, 10))
    found = result_of(parts, values=[[1.0, 5.0, 5.0], [0.0, 0.0, 0.0]], threshold=[2.0, 2.0])
    expected = tuple(torch.stack([part[0, 1], part[1, 2]]) for part in parts)
    assert all(torch.equal(one, other) for one, other in zip(found.optimal_mask(), expected))


def test_a_star_may_lie_between_the_areas() -> None:
    best = optimum_by_hand(torch.rand(3, 1, 10, 12), [0.2, 0.4, 0.2], [4.5, 4.5, 3.5], [0.0, 1.0, 2.0])
    found = result_of(values=[[3.0, 4.0, 5.0], [3.0, 4.2, 5.0], [3.0, 4.0, 5.0]], threshold=[4.2] * 3, others=[best])
    # The first is the smallest, the second larger than one of the list, the third is not enough.
    assert found.optimal_area.tolist() == pytest.approx([0.2, 0.25, 0.5])
    assert found.optimal_score.tolist() == found.optimal_value.tolist() == pytest.approx([4.5, 4.2, 5.0])
    assert float(found.optimal_complement_score[0]) == 0
    assert found.optimal_complement_score[1:].tolist() == found.complement_scores[[1, 2], [1, 2]].tolist()
    assert found.optimal_sigma.tolist() == [4, 2, 2]
    expected = torch.stack([best.masks[0][0], found.masks[1, 1], found.masks[2, 2]])
    assert torch.equal(found.optimal_mask(), expected)
    assert found.areas.tolist() == pytest.approx(AREAS)


def test_keeping_nothing_may_be_enough() -> None:
    found = result_of(values=[[3.0, 4.0, 5.0]] * 2, threshold=[-101.0, -99.0])
    assert found.vacuous.tolist() == [True, False]
    assert found.reached.tolist() == [True, True]
    assert found.optimal_area.tolist() == pytest.approx([0.0, 0.1])
    assert not found.optimal_masks[0].any()
    assert found.optimal_score.tolist() == [-100, 3]
    assert float(found.optimal_complement_score[0]) == float(found.clean_score[0])


def alone() -> ExtremalMasks:
    """a* without masks of areas."""
    best = optimum_by_hand(torch.rand(2, 1, 10, 12), [0.2, math.nan], [4.5, 1.0], [0.0, 1.0], agreement=[0.75, 0.5])
    found = result_of(torch.rand(2, 0, 1, 10, 12), areas=[], others=[best])
    return replace(found, contrast=torch.rand(2, 1, 10, 12))


def test_a_star_alone_has_no_areas() -> None:
    found = alone()
    assert [t.shape for t in (found.masks, found.areas, found.scores, found.binariness, found.sigma)] == [
        (2, 0, 1, 10, 12),
        (0,),
        (2, 0),
        (2, 0),
        (0,),
    ]
    assert found.optimal_area.tolist() == pytest.approx([0.2, math.nan], nan_ok=True)
    assert found.reached.tolist() == [True, False]
    assert found.optimal_agreement.tolist() == [0.75, 0.5]
    assert found.optimal_score.tolist() == [4.5, 1.0]
    assert repr(found) == (
        "ExtremalMasks(masks=(2, 0, 1, 10, 12), areas=[], optimal_area=[0.2, nan], optimal_agreement=[0.75, 0.5])"
    )


@pytest.mark.parametrize("method", ["saliency", "refined_saliency", "binary_masks", "order_of_entry"])
def test_what_needs_masks_of_areas_says_so(method: str) -> None:
    with pytest.raises(ValueError, match=rf"^{method} needs masks of areas.*search with areas=\[\.\.\.\]$"):
        getattr(alone(), method)()


def test_repr_tells_what_is_known() -> None:
    found = result_of(values=[[3.0, 4.0, 5.0]] * 2, threshold=[-101.0, 6.0])
    assert repr(found) == (
        "ExtremalMasks(masks=(2, 3, 1, 10, 12), areas=[0.1, 0.25, 0.5], optimal_area=[0.0, nan], vacuous=[True, False])"
    )


CLEAN, PERTURBED = torch.tensor([4.0, -2.0, 1.0]), torch.tensor([1.0, -3.0, 5.0])


@pytest.mark.parametrize(
    ("threshold", "game", "expected"),
    [
        (None, PRESERVE, [4.0, -2.0, 1.0]),
        (None, DELETE, [-1.0, 3.0, -5.0]),
        (None, HYBRID, [3.0, 1.0, -4.0]),
        (None, Game(2.0, 1.0), [9.0, -7.0, 7.0]),
        (0.5, HYBRID, [0.5, 0.5, 0.5]),
        (3, PRESERVE, [3.0, 3.0, 3.0]),
        ([1.0, 2.0, 3.0], DELETE, [1.0, 2.0, 3.0]),
        ((1.0, 2.0, 3.0), DELETE, [1.0, 2.0, 3.0]),
        (torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), PRESERVE, [1.0, 2.0, 3.0]),
        (torch.tensor(2.0), PRESERVE, [2.0, 2.0, 2.0]),
        (lambda clean, perturbed: 0.9 * clean, PRESERVE, [3.6, -1.8, 0.9]),
        (lambda clean, perturbed: (clean + perturbed) / 2, DELETE, [2.5, -2.5, 3.0]),
        (lambda clean, perturbed: 0.25, PRESERVE, [0.25, 0.25, 0.25]),
    ],
)
def test_thresholds_come_in_every_form(threshold: Any, game: Game, expected: list[float]) -> None:
    found = threshold_of(threshold, game, CLEAN, PERTURBED)
    assert found.dtype == CLEAN.dtype
    torch.testing.assert_close(found, torch.tensor(expected))
    found += 1  # nobody else's memory
    assert CLEAN.tolist() == [4.0, -2.0, 1.0]


@pytest.mark.parametrize(
    ("threshold", "error"),
    [
        ("0.9", TypeError),
        (object(), TypeError),
        ([1.0, 2.0], ValueError),
        (torch.ones(3, 1), ValueError),
        (torch.tensor([1.0, math.nan, 2.0]), ValueError),
        (math.nan, ValueError),
        (lambda clean, perturbed: clean[:2], ValueError),
        (lambda clean, perturbed: "high", TypeError),
        (lambda clean, perturbed: None, TypeError),
        (lambda clean, perturbed: clean > 0, TypeError),
        (lambda clean, perturbed: clean * 1j, TypeError),
        (lambda clean, perturbed: clean * math.nan, ValueError),
        (True, TypeError),
        ([True, False, True], TypeError),
    ],
)
def test_bad_thresholds_are_named(threshold: Any, error: type[Exception]) -> None:
    must = r"\(clean, perturbed\) must return" if callable(threshold) else " must be"
    with pytest.raises(error, match=f"^score_threshold{must} one number, or one for each of 3 images.*, got "):
        threshold_of(threshold, PRESERVE, CLEAN, PERTURBED)


def test_default_threshold_of_every_game_is_its_value_at_area_one(network: nn.Module, images: Tensor) -> None:
    for game in ("preserve", "delete", "hybrid"):
        found = ExtremalPerturbation(network).extremal_masks(
            images, target=1, areas=(0.2, 1.0), game=game, solver=PathSolver(steps=4)
        )
        assert torch.equal(found.threshold, found.values[:, -1])


@pytest.mark.parametrize(
    "masks",
    [torch.rand(2, 3, 1, 10, 12), torch.ones(2, 3, 1, 9), torch.rand(2, 3, 7)],
    ids=["image", "ties", "channels"],
)
def test_binary_masks_have_exactly_the_area_in_whole_positions(masks: Tensor) -> None:
    binary = result_of(masks).binary_masks()
    assert binary.dtype == torch.bool
    assert binary.shape == masks.shape
    positions = masks[0, 0].numel()
    assert binary.flatten(2).sum(2).tolist() == [[round(area * positions) for area in AREAS]] * 2


def test_binary_masks_hold_the_highest_values() -> None:
    masks = torch.rand(2, 3, 1, 10, 12)
    for mask, binary in zip(masks.flatten(0, 1), result_of(masks).binary_masks().flatten(0, 1)):
        assert float(mask[binary].min()) >= float(mask[~binary].max())


def test_order_of_entry_is_the_first_area_that_holds_a_position() -> None:
    ramp = torch.linspace(1, 0, 20).view(1, 1, 1, 20).repeat(1, 3, 1, 1)
    order = result_of(ramp).order_of_entry()
    assert order.shape == (1, 1, 20)
    assert order[0, 0].tolist() == pytest.approx([0.1] * 2 + [0.25] * 3 + [0.5] * 5 + [1.0] * 10)


def test_order_of_entry_takes_the_smallest_area_where_masks_are_not_nested() -> None:
    masks = torch.zeros(1, 3, 1, 20)
    masks[0, 0, 0, :2] = masks[0, 1, 0, 5:10] = masks[0, 2, 0, 8:18] = 1
    order = result_of(masks).order_of_entry()[0, 0]
    assert order.tolist() == pytest.approx([0.1] * 2 + [1.0] * 3 + [0.25] * 5 + [0.5] * 8 + [1.0] * 2)


def test_saliency_is_the_sum_of_the_masks_before_blurring() -> None:
    masks = torch.rand(2, 3, 1, 10, 12)
    torch.testing.assert_close(result_of(masks).saliency(blur=0), masks.sum(1))


def test_saliency_is_blurred_by_9_percent_of_the_shorter_side() -> None:
    masks = torch.zeros(1, 3, 1, 100, 140)
    masks[0, 1, 0, 50, 70] = 1
    saliency = result_of(masks).saliency()[0, 0]
    assert saliency.shape == (100, 140)
    assert int(saliency.argmax()) == 50 * 140 + 70
    offsets = torch.arange(140, dtype=torch.float64) - 70
    profile = (saliency[50] / saliency[50, 70]).double()
    torch.testing.assert_close(profile, torch.exp(-(offsets**2) / (2 * 9.0**2)), rtol=0, atol=1e-3)
    wider = result_of(masks).saliency(blur=0.18)[0, 0]
    assert float(wider[50, 70]) == pytest.approx(float(saliency[50, 70]) / 4, rel=0.02)


@pytest.mark.parametrize("shape", [(30,), (20, 31), (8, 9, 10)], ids=str)
def test_saliency_of_a_constant_is_constant_up_to_the_border(shape: tuple[int, ...]) -> None:
    saliency = result_of(torch.full((2, 3, 1, *shape), 0.5)).saliency()
    torch.testing.assert_close(saliency, torch.full((2, 1, *shape), 1.5), rtol=0, atol=1e-5)


def test_saliency_of_channels_is_not_blurred() -> None:
    masks = torch.rand(2, 3, 7)
    torch.testing.assert_close(result_of(masks).saliency(), masks.sum(1))


def with_contrast(masks: Tensor, contrast: Tensor) -> ExtremalMasks:
    return replace(result_of(masks), contrast=contrast)


def densities(masks: Tensor) -> Tensor:
    """The sum of m_a / a^2 over that of 1 / a^2, area by area."""
    total = sum(masks[:, row].double() / area**2 for row, area in enumerate(AREAS))
    return (total / sum(1 / area**2 for area in AREAS)).to(masks)


def test_refined_saliency_is_the_masks_densities_where_some_mask_keeps_nothing() -> None:
    masks = torch.rand(2, 3, 1, 10, 12)
    masks[:, 0, :, :, 6:] = 0
    refined = with_contrast(masks, torch.rand(2, 1, 10, 12)).refined_saliency()
    torch.testing.assert_close(refined[..., 6:], densities(masks)[..., 6:])
    assert bool((refined[..., :6] > densities(masks)[..., :6]).all())


def test_refined_saliency_adds_the_contrast_times_what_all_masks_keep() -> None:
    masks = torch.rand(2, 3, 1, 10, 12)
    contrast = torch.rand(2, 1, 10, 12)
    added = with_contrast(masks, contrast).refined_saliency() - densities(masks)
    # A blur of 0.1 px leaves every pixel by itself.
    expected = masks.prod(1) * contrast / contrast.amax((2, 3), keepdim=True)
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-6)


def test_refined_saliency_gives_smaller_masks_a_larger_share() -> None:
    masks = torch.zeros(1, 3, 1, 10, 20)
    for row, (area, column) in enumerate(zip(AREAS, (0, 2, 10))):  # beside each other, each of exactly its area
        masks[0, row, 0, :, column : column + round(20 * area)] = 1
    refined = with_contrast(masks, torch.zeros(1, 1, 10, 20)).refined_saliency()
    shares = [float(refined[masks[:, row].bool()].sum() / refined.sum()) for row in range(3)]
    assert shares == pytest.approx([1 / area / sum(1 / one for one in AREAS) for area in AREAS])


def test_refined_saliency_points_at_what_the_perturbation_takes_within_a_disk() -> None:
    masks = torch.zeros(1, 3, 1, 100, 100)
    for index, radius in enumerate((10, 20, 40)):
        masks[0, index, 0, 50 - radius : 50 + radius, 50 - radius : 50 + radius] = 1
    contrast = torch.zeros(1, 1, 100, 100)
    contrast[0, 0, 44:49, 57:59] = 1  # within the smallest mask, off its centre
    contrast[0, 0, 5:15, 5:15] = 3  # the image's strongest, which no mask keeps
    refined = with_contrast(masks, contrast).refined_saliency()[0, 0]
    row, column = divmod(int(refined.argmax()), 100)
    assert 44 <= row < 49
    assert 57 <= column < 59


@pytest.mark.parametrize("shape", [(30,), (20, 31), (8, 9, 10)], ids=str)
def test_refined_saliency_of_an_image_without_contrast_is_the_masks_densities(shape: tuple[int, ...]) -> None:
    masks = torch.rand(2, 3, 1, *shape)
    refined = with_contrast(masks, torch.zeros(2, 1, *shape)).refined_saliency()
    torch.testing.assert_close(refined, densities(masks))


def test_refined_saliency_of_a_tuple_is_a_tuple() -> None:
    parts = (torch.rand(2, 3, 1, 9), torch.rand(2, 3, 1, 8, 10))
    contrast = (torch.rand(2, 1, 9), torch.rand(2, 1, 8, 10))
    found = replace(result_of(parts), contrast=contrast).refined_saliency()
    for refined, masks, part in zip(found, parts, contrast):
        assert torch.equal(refined, with_contrast(masks, part).refined_saliency())


def test_refined_saliency_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="contrast"):
        result_of(torch.rand(2, 3, 7)).refined_saliency()


@pytest.mark.parametrize(("blur", "error"), [("9%", TypeError), (-0.1, ValueError), (math.nan, ValueError)])
def test_bad_blur_is_named(blur: float, error: type[Exception]) -> None:
    with pytest.raises(error, match="blur"):
        result_of().saliency(blur)


def test_binariness_is_one_for_binary_masks_and_the_area_for_flat_ones() -> None:
    masks = torch.zeros(1, 3, 1, 20)
    masks[0, 0, 0, :2] = 1
    masks[0, 1] = 0.25
    masks[0, 2, 0, :10] = 0.5
    found = result_of(masks)
    assert found.binariness.tolist() == [pytest.approx([1.0, 0.25, 0.5])]
    best = replace(found, optimal_masks=masks[:, 1])
    assert best.optimal_binariness.tolist() == [pytest.approx(0.25)]


@pytest.mark.parametrize(
    ("binariness", "area", "grey"),
    [(0.2, 0.2, True), (0.7, 0.2, False), (0.88, 0.87, True), (0.98, 0.87, False), (0, 0, False)],
)
def test_mask_is_grey_nearer_to_a_constant_one_than_to_a_binary_one(binariness: float, area: float, grey: bool) -> None:
    assert is_grey(binariness, area) is grey


@pytest.mark.parametrize("index", [0, 1, -1, -2])
def test_one_image_is_a_result_of_its_own(found: ExtremalMasks, index: int) -> None:
    one = found.image(index)
    row = index % 2
    for name in (
        field.name for field in fields(ExtremalMasks) if field.name not in ("areas", "sigma", "settings", "others")
    ):
        expected = getattr(found, name)
        if expected is None:  # what only masks over groups have
            assert getattr(one, name) is None
            continue
        expected = expected[row : row + 1]
        torch.testing.assert_close(getattr(one, name), expected, rtol=0, atol=0, equal_nan=True, msg=name)
    assert torch.equal(one.areas, found.areas)
    assert torch.equal(one.sigma, found.sigma)
    assert one.settings == found.settings
    assert torch.equal(one.refined_saliency(), found.refined_saliency()[row : row + 1])
    assert_same(found[index], one)
    assert_same(found[np.int64(index)], one)


def test_one_image_of_a_tuple_is_a_tuple() -> None:
    parts = (torch.rand(2, 3, 1, 9), torch.rand(2, 3, 1, 8, 10))
    contrast = (torch.rand(2, 1, 9), torch.rand(2, 1, 8, 10))
    one = replace(result_of(parts), contrast=contrast).image(1)
    pairs = [*zip(one.masks, parts), *zip(one.contrast, contrast)]
    assert all(torch.equal(mine, part[1:]) for mine, part in pairs)


@pytest.mark.parametrize("index", [torch.tensor(1), np.int64(1), torch.tensor(-1, dtype=torch.int32)])
def test_an_index_may_be_of_any_library(found: ExtremalMasks, index: Any) -> None:
    for one in (found[index], found.image(index)):
        assert torch.equal(one.masks, found.masks[1:])


def test_settings_of_one_image_are_its_own(found: ExtremalMasks) -> None:
    before = dict(found.settings)
    found[0].settings["note"] = found.to("cpu").settings["note"] = "changed"
    assert found.settings == before


@pytest.mark.parametrize(
    ("index", "error"),
    [(2, IndexError), (-3, IndexError), (0.0, TypeError), (None, TypeError), (torch.tensor(0.0), TypeError)],
)
def test_image_that_is_not_there_is_named(found: ExtremalMasks, index: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="index"):
        found.image(index)
    with pytest.raises(error, match="index"):
        found[index]


def test_results_have_a_length_and_are_sliced_and_followed_image_by_image() -> None:
    found = result_of(torch.rand(3, 2, 1, 8, 10), areas=[0.1, 0.4], values=[[3.0, 4.0], [1.0, 2.0], [5.0, 6.0]])
    assert len(found) == 3
    for part, rows in ((found[1:], [1, 2]), (found[:2], [0, 1]), (found[::2], [0, 2]), (found[-1:], [2])):
        assert len(part) == len(rows)
        for name in (
            field.name for field in fields(ExtremalMasks) if field.name not in ("areas", "sigma", "settings", "others")
        ):
            whole = getattr(found, name)
            if whole is not None:
                torch.testing.assert_close(getattr(part, name), whole[rows], rtol=0, atol=0, equal_nan=True, msg=name)
        assert_same(part[0], found[rows[0]])
    assert [float(one.optimal_value) for one in found] == found.optimal_value.tolist()
    with pytest.raises(TypeError, match="index must be an integer"):
        found[torch.tensor([0, 1])]  # type: ignore[index]


def test_results_move_to_a_device_with_every_field() -> None:
    parts, contrast = (torch.rand(2, 3, 1, 9), torch.rand(2, 3, 1, 8)), (torch.rand(2, 1, 9), torch.rand(2, 1, 8))
    for found in (replace(result_of(parts, searches=2), contrast=contrast), result_of()):
        moved = found.to("meta")
        for name in (field.name for field in fields(ExtremalMasks) if field.name != "settings"):
            there, here = (
                (one if isinstance(one, tuple) else (one,)) for one in (getattr(moved, name), getattr(found, name))
            )
            pairs = [pair for pair in zip(there, here) if pair[1] is not None]
            assert all(one.is_meta and not other.is_meta and one.shape == other.shape for one, other in pairs), name
        assert moved.settings == found.settings
        assert_same(found.to(torch.device("cpu")), found)
    with pytest.raises(ValueError, match="device must be one of PyTorch's, got 'nowhere'"):
        found.to("nowhere")


def assert_same(one: ExtremalMasks, other: ExtremalMasks) -> None:
    assert one.settings == other.settings
    for name in (field.name for field in fields(ExtremalMasks) if field.name != "settings"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert type(mine) is type(theirs), name
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


def test_saved_result_is_loaded_as_it_was(found: ExtremalMasks, tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    found.save(path)
    assert_same(ExtremalMasks.load(path), found)
    assert_same(ExtremalMasks.load(str(path)), found)
    assert [file.name for file in tmp_path.iterdir()] == ["masks.npz"]


def test_everything_that_is_known_is_saved(tmp_path: Path) -> None:
    parts = (torch.rand(2, 3, 1, 9), torch.rand(2, 3, 7))
    for result in (
        alone(),
        alone().image(1),
        result_of(values=[[3.0, 4.0, 5.0]] * 2, threshold=[-101.0, 6.0], searches=3),
        result_of(parts, searches=2),
        result_of(tuple(part[:, :0] for part in parts), areas=[], others=[tuple_optimum()]),
    ):
        result.save(tmp_path / "masks.npz")
        assert_same(ExtremalMasks.load(tmp_path / "masks.npz"), result)


def tuple_optimum() -> Measured:
    return optimum_by_hand((torch.rand(2, 1, 9), torch.rand(2, 7)), [0.2, 0.3], [4.5, 1.0], [0.0, 1.0])


def test_files_of_the_first_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    result_of().save(path)
    path.write_bytes(with_about(path.read_bytes(), format=1))
    with pytest.raises(ValueError, match="its format is 1, this version reads 2: it was written by an earlier version"):
        ExtremalMasks.load(path)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_saved_tuples_are_loaded_as_tuples(tmp_path: Path, count: int) -> None:
    parts = tuple(torch.rand(2, 3, 1, 8 + k) for k in range(count))
    result = result_of(parts, values=[[math.nan, 1.0, math.inf]] * 2)
    for contrast in (None, tuple(part[:, 0] for part in parts)):
        result = replace(result, contrast=contrast)
        result.save(tmp_path / "masks")
        assert_same(ExtremalMasks.load(tmp_path / "masks"), result)


def test_saved_result_is_loaded_on_any_device(device: torch.device, tmp_path: Path) -> None:
    result = result_of((torch.rand(2, 3, 1, 8), torch.rand(2, 3, 1, 9)))
    result = replace(result, contrast=(torch.rand(2, 1, 8), torch.rand(2, 1, 9)))
    result.save(tmp_path / "masks.npz")
    loaded = ExtremalMasks.load(tmp_path / "masks.npz", device)
    assert {part.device.type for part in (*loaded.masks, *loaded.contrast, loaded.areas, loaded.scores)} == {
        device.type
    }


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    result_of().save(path)
    other = result_of()
    other.save(path)
    assert_same(ExtremalMasks.load(path), other)


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    old = result_of()
    old.save(path)
    with pytest.raises(TypeError):
        replace(old, settings={"not": object()}).save(path)
    assert_same(ExtremalMasks.load(path), old)
    assert [file.name for file in tmp_path.iterdir()] == ["masks.npz"]


class Malicious:
    """Unpickling it leaves a trace."""

    trace = "unpickled"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return open, (self.trace, "w")


def npz_bytes(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def changed(saved: bytes, **arrays: np.ndarray | None) -> bytes:
    """A saved file with some arrays replaced, or left out."""
    with np.load(io.BytesIO(saved)) as file:
        kept = {name: file[name] for name in file.files} | arrays
    return npz_bytes(**{name: array for name, array in kept.items() if array is not None})


def with_about(saved: bytes, **entries: object) -> bytes:
    with np.load(io.BytesIO(saved)) as file:
        about = json.loads(str(file["about"])) | entries
    return changed(saved, about=np.array(json.dumps({k: v for k, v in about.items() if v is not ...})))


def with_damaged_contents(saved: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        info = archive.getinfo("masks.npy")
        start = info.header_offset + 30 + len(info.filename) + 20
    return saved[:start] + bytes(40) + saved[start + 40 :]


FOREIGN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda saved: b"",
    "text": lambda saved: b"not an archive",
    "pickle": lambda saved: pickle.dumps(Malicious()),
    "npy": lambda saved: (lambda file: (np.save(file, np.ones(3)), file.getvalue())[1])(io.BytesIO()),
    "truncated": lambda saved: saved[: len(saved) // 2],
    "damaged contents": with_damaged_contents,
    "another npz": lambda saved: npz_bytes(x=np.ones(3)),
    "pickled about": lambda saved: changed(saved, about=np.array(Malicious(), dtype=object)),
    "pickled masks": lambda saved: changed(saved, masks=np.array([Malicious()], dtype=object)),
    "about is no json": lambda saved: changed(saved, about=np.array("{")),
    "about is a list": lambda saved: changed(saved, about=np.array("[1]")),
    "about is a number": lambda saved: changed(saved, about=np.array("3")),
    "no settings": lambda saved: with_about(saved, settings=...),
    "tuples are no lengths": lambda saved: with_about(saved, tuples={"masks": "two"}),
    "more inputs than masks": lambda saved: with_about(saved, tuples={"masks": 2}),
    "a later format": lambda saved: with_about(saved, format=99),
    "the first format": lambda saved: with_about(saved, format=1),
    "no masks": lambda saved: changed(saved, masks=None),
    "no scores": lambda saved: changed(saved, scores=None),
    "masks of strings": lambda saved: changed(saved, masks=np.array(["a"])),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused_and_run_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "masks.npz"
    result_of().save(path)
    path.write_bytes(FOREIGN[kind](path.read_bytes()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path must be a file written by save"):
        ExtremalMasks.load(path)
    with pytest.raises(ValueError, match=r"^((?!unsafe).)*$"):  # NumPy's advice is none for these files
        ExtremalMasks.load(path)
    assert [file.name for file in tmp_path.iterdir()] == ["masks.npz"]


def test_a_number_is_no_path() -> None:  # it would be a descriptor of an open file
    with pytest.raises(TypeError, match="path must be a path, got 0"):
        ExtremalMasks.load(0)  # type: ignore[arg-type]


def test_file_that_is_not_there_is_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ExtremalMasks.load(tmp_path / "masks.npz")


def test_settings_say_how_the_masks_were_made(network: nn.Module, images: Tensor) -> None:
    found = ExtremalPerturbation(network).extremal_masks(
        images, target=1, areas=AREAS, game="hybrid", solver=PathSolver(steps=6)
    )
    assert found.settings["game"] == {"kept": 1.0, "removed": -1.0}
    assert "steps=6" in found.settings["solver"]
    assert "BlurPyramid" in found.settings["perturbation"]
    assert "SmoothMask" in found.settings["mask"]
    assert found.settings["steps"] >= 6
    assert set(found.settings["versions"]) >= {"python", "torch", "captum", "captum_extremal"}
    assert json.loads(json.dumps(found.settings)) == found.settings
