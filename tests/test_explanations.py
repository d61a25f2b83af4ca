"""Several explanations of one input, where it is known how many there are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_extremal import ExtremalMasks, ExtremalPerturbation, GroupMask, LayerExtremalPerturbation, PathSolver
from captum_extremal import visualization as vis
from captum_extremal.datasets.digits import DigitScenes, digit_network
from captum_extremal.masks.binary import overlap
from captum_extremal.objective import Objective
from captum_extremal.perturbations import FadePyramid
from figures import drawn, titles
from squares import SIDE, SQUARE

CORNERS = [[(3, 4), (18, 17)], [(20, 2), (4, 19)], [(11, 12)], []]
"""For each image x and y of its squares, each of which is enough."""


def images_of_squares() -> Tensor:
    images = torch.zeros(len(CORNERS), 3, SIDE, SIDE)
    for image, corners in zip(images, CORNERS):
        for x, y in corners:
            image[0, y : y + SQUARE, x : x + SQUARE] = 1
    return images


def most_like_a_square(images: Tensor) -> Tensor:
    return F.avg_pool2d(images[:, :1], SQUARE, 1).flatten(1).amax(1)


def settings(**more: Any) -> dict[str, Any]:
    areas, threshold = (0.05, 0.1, 0.3), lambda clean, perturbed: 0.7 * clean
    shared = {"areas": areas, "score_threshold": threshold, "solver": PathSolver(steps=12), "perturbation": "fade"}
    return shared | {"explanations": 2} | more


@pytest.fixture(scope="module")
def found() -> ExtremalMasks:
    torch.manual_seed(0)
    return ExtremalPerturbation(most_like_a_square).extremal_masks(images_of_squares(), **settings())


def share(mask: Tensor, corner: tuple[int, int]) -> float:
    (x, y), m = corner, mask[0]
    return float(m[y : y + SQUARE, x : x + SQUARE].sum() / m.sum())


def squares_found(found: ExtremalMasks, index: int) -> list[int]:
    """The number of the square on which each explanation of an image lies, -1 for none."""
    best = []
    for one in found.explanations:
        shares = [share(torch.as_tensor(one.optimal_mask())[index], corner) for corner in CORNERS[index]]
        best.append(shares.index(max(shares)) if max(shares) > 0.6 else -1)
    return best


def test_two_explanations_lie_on_two_squares(found: ExtremalMasks) -> None:
    assert sorted(squares_found(found, 0)) == sorted(squares_found(found, 1)) == [0, 1]
    assert found.explanations[0] is found
    assert found.distinct.tolist() == [2, 2, 1, 1]  # the image of no square needs nothing, which is one answer
    assert all(one.areas.tolist() == found.areas.tolist() for one in found.explanations)
    assert all(bool(one.reached[:2].all()) for one in found.explanations)
    assert f"distinct={[2, 2, 1, 1]}" in repr(found)


def test_a_single_square_has_no_second_explanation(found: ExtremalMasks) -> None:
    (second,) = found.others
    assert squares_found(found, 2)[0] == 0
    assert not bool(second.reached[2]) or float(found.optimal_overlap[2, 0, 1]) > 0.3
    assert bool(found.vacuous[3])
    assert bool(second.vacuous[3])


def test_scores_of_later_explanations_are_those_of_their_masks(found: ExtremalMasks) -> None:
    images = images_of_squares()
    for one in found.explanations:
        kept = torch.stack([most_like_a_square(images * mask) for mask in torch.as_tensor(one.masks).unbind(1)], dim=1)
        torch.testing.assert_close(one.scores, kept)


def test_an_optimum_between_the_areas_of_each() -> None:
    images = images_of_squares()[[3, 0, 2]]
    found = ExtremalPerturbation(most_like_a_square).extremal_masks(images, **settings(areas="optimal"))
    (second,) = found.others
    assert found.reached.tolist() == [True, True, True]
    assert second.reached.tolist() == [True, True, False]
    assert float(found.optimal_overlap[1, 0, 1]) < 0.1
    assert abs(float(second.optimal_area[1]) - float(found.optimal_area[1])) < 0.02
    assert (found.distinct[[0, 2]] == 1).all()


def test_overlaps_are_those_of_the_binary_masks(found: ExtremalMasks) -> None:
    assert found.overlap.shape == (4, 3, 2, 2)
    kept = [torch.as_tensor(one.binary_masks()) for one in found.explanations]
    for image in range(4):
        for area in range(3):
            sets = [set(mask[image, area].flatten().nonzero()[:, 0].tolist()) for mask in kept]
            expected = [[len(one & other) / len(one | other) for other in sets] for one in sets]
            torch.testing.assert_close(found.overlap[image, area], torch.tensor(expected))


def test_the_overlap_of_nothing_with_nothing_is_whole() -> None:
    kept = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 1]]).bool()
    third = 1 / 3
    expected = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, third], [0.0, 0.0, third, 1.0]]
    torch.testing.assert_close(overlap(kept), torch.tensor(expected))


def test_explanations_are_saved_and_taken_image_by_image(found: ExtremalMasks, tmp_path: Path) -> None:
    found.save(tmp_path / "found.npz")
    for read, expected in ((ExtremalMasks.load(tmp_path / "found.npz"), found), (found.image(1), found.image(1))):
        assert len(read.explanations) == 2
        assert read.settings == expected.settings
        for one, other in zip(read.explanations, expected.explanations):
            assert torch.equal(torch.as_tensor(one.masks), torch.as_tensor(other.masks))
            assert one.settings == other.settings
    one = found.image(1)
    assert torch.equal(torch.as_tensor(one.others[0].masks), torch.as_tensor(found.others[0].masks)[1:2])
    assert torch.equal(one.overlap, found.overlap[1:2])


def test_a_file_of_several_explanations_is_read_once(
    found: ExtremalMasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found.save(tmp_path / "found.npz")
    read, load = [], np.load
    monkeypatch.setattr(np, "load", lambda *given, **how: read.append(given) or load(*given, **how))
    assert len(ExtremalMasks.load(tmp_path / "found.npz").explanations) == 2
    assert len(read) == 1


def test_attribute_returns_the_first_and_seeks_no_more(counted: type) -> None:
    model, images = counted(most_like_a_square), images_of_squares()[:2]
    first = ExtremalPerturbation(model).attribute(images, **settings(explanations=1))
    calls, model.rows = model.calls, []
    assert torch.equal(ExtremalPerturbation(model).attribute(images, **settings(explanations=3)), first)
    assert model.calls == calls


def test_what_a_mask_must_not_use_counts_nothing() -> None:
    x, masks, forbidden = torch.rand(2, 1, 8, 8), torch.rand(6, 1, 8, 8), torch.rand(2, 1, 8, 8)
    weights = torch.rand(1, 8, 8)

    def score(x: Tensor) -> Tensor:
        return (x * weights).sum((1, 2, 3)).square()

    objective = Objective(score, (x,), (FadePyramid().bind(x, 0 * x),), (0 * x,))
    apart = objective.apart_from((forbidden,))
    value, (gradient,) = apart.value_and_grad((masks,), 1.0, -1.0)
    leaf = masks.clone().requires_grad_()
    allowed = leaf * (1 - forbidden.repeat(3, 1, 1, 1))
    kept, removed = score(x.repeat(3, 1, 1, 1) * allowed), score(x.repeat(3, 1, 1, 1) * (1 - allowed))
    expected = kept - removed
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    torch.testing.assert_close(value.flatten(), expected.detach())
    torch.testing.assert_close(gradient, slope)
    torch.testing.assert_close(apart.value((masks,), 1.0, -1.0), value)
    assert torch.equal(objective.value((masks,)), objective.value((masks,)))
    assert not torch.equal(objective.value((masks,)), apart.value((masks,)))


class EitherChannel(nn.Module):
    """Channel 1 or channel 4 of the layer is enough."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(*self.layer(x).mean((2, 3))[:, [1, 4]].unbind(1))


def test_channels_have_several_explanations_too() -> None:
    model, x = EitherChannel().eval(), torch.ones(2, 6, 4, 4)
    x[0, 4] = x[1, 1] = 0.95  # so that no search begins between two answers
    found = LayerExtremalPerturbation(model, model.layer).extremal_masks(
        x, areas=[1, 3], explanations=2, solver=PathSolver(steps=10), score_threshold=0.7
    )
    kept = [torch.as_tensor(one.optimal_mask()).argmax(1).tolist() for one in found.explanations]
    assert kept == [[1, 4], [4, 1]]
    assert found.distinct.tolist() == [2, 2]


def test_several_inputs_have_one_overlap() -> None:
    x = images_of_squares()[:1]
    found = ExtremalPerturbation(lambda one, other: most_like_a_square(one) + 0 * other.mean((1, 2, 3))).extremal_masks(
        (x, x), **settings(areas=[0.1])
    )
    assert found.overlap.shape == (1, 1, 2, 2)
    flat = [torch.cat([m.flatten() for m in one.binary_masks()]) for one in found.explanations]
    expected = float((flat[0] & flat[1]).sum() / (flat[0] | flat[1]).sum())
    assert float(found.overlap[0, 0, 0, 1]) == pytest.approx(expected)


@pytest.mark.parametrize(("count", "error"), [(0, ValueError), (1.0, TypeError), (True, TypeError)])
def test_a_bad_number_of_explanations_is_refused(count: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^explanations must be"):
        ExtremalPerturbation(most_like_a_square).extremal_masks(images_of_squares(), explanations=count)


def test_the_figure_says_how_many_answers_there_are(found: ExtremalMasks) -> None:
    images = images_of_squares()
    figure = drawn(vis.show_explanations(found, images, 0, title="a square"))
    image, first, second = titles(figure)
    assert image == "image"
    assert first.startswith("a* = 10 %\nscore ")
    assert second.endswith(f"\noverlap {float(found.optimal_overlap[0, 1, 0]):.2f}")
    assert figure.get_supxlabel() == "2 distinct answers at a* = 10 %"
    missing = dataclasses.replace(found.others[0], optimal_area=torch.full((4,), torch.nan))
    alone = dataclasses.replace(found, others=(missing,))
    figure = drawn(vis.show_explanations(alone, images, 2))
    assert figure.get_supxlabel() == "one answer at a* = 10 %"
    assert [text.get_text() for text in figure.axes[2].texts] == ["no further answer"]


def test_the_answers_lie_on_the_two_digits_of_a_class() -> None:
    scenes = DigitScenes(10, size=(64, 64), digits_per_scene=(2, 2), repeated=True)
    twice = [max(scene.labels, key=scene.labels.count) for scene in scenes]
    found = ExtremalPerturbation(digit_network()).extremal_masks(
        torch.stack([scene.image for scene in scenes]),
        target=twice,
        areas=[0.06],
        explanations=2,
        solver=PathSolver(steps=10),
    )
    right = 0
    for n, (scene, label) in enumerate(zip(scenes, twice)):
        boxes = [box for box, one in zip(scene.boxes.tolist(), scene.labels) if one == label]
        masks = [torch.as_tensor(one.masks)[n, 0, 0] for one in found.explanations]
        shares = [[float(m[y0:y1, x0:x1].sum() / m.sum()) for x0, y0, x1, y1 in boxes] for m in masks]
        right += sorted(part.index(max(part)) for part in shares) == [0, 1] and min(map(max, shares)) > 0.5
    assert right >= 9


def test_answers_over_groups_are_sets_of_their_own() -> None:
    x, ids = torch.tensor([[1.0, 1, 1, 1]], dtype=torch.float64), torch.tensor([[0, 1, 2, 2]])

    def either(x: Tensor) -> Tensor:
        return 2 * torch.maximum(x[:, 0], x[:, 1])[:, None]

    found = ExtremalPerturbation(either).extremal_masks(
        x, target=0, feature_mask=ids, mask=GroupMask(weights="size"), areas="optimal", explanations=2
    )
    first, second = found.explanations
    assert sorted(group.tolist() for group in (first.groups()[0], second.groups()[0])) == [[0], [1]]
    assert found.optimal_overlap[0, 0, 1] == 0
    assert found.distinct.tolist() == [2]


def test_answers_over_groups_are_saved_and_attributed(tmp_path: Path, counted: type) -> None:
    x, ids = torch.ones(2, 4, dtype=torch.float64), torch.tensor([[5, 7, 9, 9]])
    model = counted(lambda x: 2 * torch.maximum(x[:, 0], x[:, 1])[:, None])
    how: dict[str, Any] = {"target": 0, "feature_mask": ids, "solver": PathSolver(steps=12)}
    found = ExtremalPerturbation(model).extremal_masks(x, areas="optimal", explanations=2, **how)
    found.save(tmp_path / "found.npz")
    back = ExtremalMasks.load(tmp_path / "found.npz")
    assert repr(back) == repr(found)
    for one, other in zip(back.explanations, found.explanations):
        assert [group.tolist() for group in one.groups()] == [group.tolist() for group in other.groups()]
        assert one.minimal is not None
        assert one.minimal.tolist() == [True, True]
    kept = [[group.tolist() for group in one.groups()] for one in back.explanations]
    assert [sorted(first + second) for first, second in zip(*kept)] == [[5, 7], [5, 7]]
    assert [group.tolist() for group in back.image(1).others[0].groups()] == [kept[1][1]]
    method, model.rows = ExtremalPerturbation(model), []
    first = method.attribute(x, **how)
    calls, model.rows = model.calls, []
    assert torch.equal(method.attribute(x, explanations=2, **how), first)
    assert model.calls == calls
    for row, (only,) in zip(first, kept[0]):
        assert torch.equal(row, (ids[0] == only).to(row))


def test_a_further_answer_that_does_not_exist_is_not_reached() -> None:
    found = ExtremalPerturbation(lambda x: 2 * x[:, :1]).extremal_masks(
        torch.ones(1, 4), target=0, areas="optimal", explanations=2
    )
    assert found.groups()[0].tolist() == [0]
    assert found.explanations[1].reached.tolist() == [False]
    assert found.distinct.tolist() == [1]
