"""Known truths in series, videos and volumes: the mask lies on what the model looks at."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from captum_extremal import ExtremalPerturbation, PathSolver, SmoothMask, SpaceTimeMask


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with closed-form models."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return import_module("space_time")


@pytest.mark.parametrize("make", ["motif_in_series", "features_last"])
def test_mask_lies_on_the_motif_of_a_series(scenes: Any, make: str) -> None:
    """And better than integrated gradients do, whose values at a motif's zeros are zero."""
    scene = getattr(scenes, make)(0)
    iou, energy = scenes.judged(scenes.extremal(scene), scene.truth)
    assert iou > 0.75
    assert energy > 0.75
    assert iou > scenes.judged(scenes.integrated_gradients(scene), scene.truth)[0]


@pytest.mark.parametrize(
    ("settings", "iou"),
    [
        ({"size": (5, 20, 8), "seen": (0, 5)}, 0.7),  # a short clip: a mask for each frame
        ({"size": (9, 20, 8), "seen": (0, 9), "moves": False, "mask": SmoothMask(hold=0)}, 0.7),
        ({"size": (20, 12, 6), "seen": (6, 14), "moves": False, "mask": SpaceTimeMask()}, 0.5),
        ({"size": (20, 12, 12), "seen": (6, 14), "moves": False, "mask": SmoothMask(hold=(1, 2))}, 0.9),
    ],
    ids=["moves", "stands", "is there for a while", "is there for a while, everywhere"],
)
def test_mask_lies_on_the_square_of_a_video(scenes: Any, settings: dict[str, Any], iou: float) -> None:
    scene = scenes.square_in_video(0, solver=PathSolver(steps=24), **settings)
    found = scenes.judged(scenes.extremal(scene), scene.truth)
    assert found[0] > iou
    assert found[1] > 0.6
    by_chance = float(scene.truth.double().mean())
    assert found[0] > 1.5 * by_chance


def test_mask_lies_on_the_ball_of_a_volume(scenes: Any) -> None:
    scene = scenes.ball_in_volume(0, side=11, radius=3)
    iou, energy = scenes.judged(scenes.extremal(scene), scene.truth)
    assert iou > 0.6
    assert energy > 0.6


def test_judgement_by_hand(scenes: Any) -> None:
    truth = torch.tensor([[True, True, False, False]])
    assert scenes.judged(torch.tensor([[0.9, 0.1, 0.6, 0.4]]), truth) == pytest.approx((1 / 3, 0.5))


@pytest.mark.parametrize("hold", [5, (0, 1)])
def test_a_plane_that_is_held_whole_is_refused_by_its_own_name(hold: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="space must hold one of its two axes at most, got hold="):
        ExtremalPerturbation(lambda x: x.mean((1, 2, 3, 4))).attribute(
            torch.rand(1, 3, 8, 9, 9), mask=SpaceTimeMask(space=SmoothMask(hold=hold))
        )
