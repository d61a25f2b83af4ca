"""``captum-extremal explain --task detection``: boxes, and the masks that are enough for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from matplotlib.image import imread
from PIL import Image
from torch import Tensor, nn

from captum_extremal import ExtremalMasks
from captum_extremal.cli.detector import loaded_detector
from cli_photos import one_line, picture, read_summary, run_quietly
from squares import SQUARE, find_squares

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"
X, Y = 17, 5  # of the square


class Squares(nn.Module):
    """Finds red squares, which are of class 1, in pictures of 32 x 32 px."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = SimpleNamespace(min_size=(32,))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return find_squares(images)


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command's first arguments, with a detector of squares and a photograph of one."""
    from captum_extremal.cli import detector

    def load(*given: Any, **how: Any) -> Any:
        names, device = ["background", "square", "circle"], torch.device("cpu")
        return SimpleNamespace(name=NAME, weights="file", model=Squares().eval(), categories=names, device=device)

    monkeypatch.setattr(detector, "loaded_classifier", load)
    values = np.zeros((32, 32, 3), dtype=np.uint8)
    values[Y : Y + SQUARE, X : X + SQUARE, 0] = 255
    Image.fromarray(values).save(tmp_path / "photo.png")
    how = ["--task", "detection", "--model", NAME, "--steps", "12", "--perturbation", "fade", "--device", "cpu"]
    return ["explain", str(tmp_path / "photo.png"), *how, "--out", str(tmp_path / "out")]


def test_the_mask_of_a_box_lies_on_it_and_both_are_drawn(squares: list[str], tmp_path: Path) -> None:
    status, printed, said = run_quietly(*squares, "--areas", "0.1,0.3", "--robustness")
    assert status == 0, said
    (row,) = read_summary(tmp_path / "out")["rows"]
    assert row["box"] == [X, Y, X + SQUARE, Y + SQUARE]
    assert (row["target"], row["name"], row["predicted"]) == (1, "square", True)
    assert row["probability"] == pytest.approx(row["clean_score"]) == pytest.approx(1 / (1 + np.exp(-5)))
    assert row["threshold"] == pytest.approx(0.9 * row["clean_score"])
    assert row["robustness"]["names"]
    assert "square" in printed
    folder = tmp_path / "out" / row["folder"]
    mask = torch.as_tensor(ExtremalMasks.load(folder / row["files"]["masks"]).optimal_mask())[0, 0]
    assert float(mask[Y : Y + SQUARE, X : X + SQUARE].sum() / mask.sum()) > 0.8
    drawn = imread(folder / row["files"]["mask"])[..., :3]
    blue = np.abs(drawn - np.array([0x00, 0x72, 0xB2]) / 255).max(axis=2) < 0.05
    assert blue.sum() > 50  # the frame


def test_a_class_that_is_not_found_is_named(squares: list[str], tmp_path: Path) -> None:
    status, _, said = run_quietly(*squares, "--target", "circle", "--target", "square")
    assert status == 1
    assert f"{NAME} finds no circle in it" in said
    assert read_summary(tmp_path / "out")["failed"][0]["error"] == f"{NAME} finds no circle in it"


def test_a_photograph_in_which_nothing_is_found(squares: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    status, _, said = run_quietly(*squares)
    assert status == 1
    assert f"{NAME} finds nothing in it" in said


def test_torchvisions_detector_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    how: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 3}
    model = torchvision.models.get_model(NAME, **how).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    detector = loaded_detector(NAME, str(tmp_path / "weights.pth"))
    assert (detector.categories, detector.shorter_side) == (["class 0", "class 1", "class 2"], 320)
    photo = picture(360, 340)
    whole, scores, cropped = detector.fitted(photo)
    assert (tuple(whole.shape), cropped) == ((1, 3, 320, 338), False)
    with torch.no_grad():
        (found,) = model(whole)
    expected = [
        max([float(s) for s, k in zip(found["scores"], found["labels"]) if k == c], default=0.0) for c in (0, 1, 2)
    ]
    assert scores.tolist() == pytest.approx(expected)
    assert max(expected) > 0
    assert torch.equal(detector.normalised(whole), whole)


@pytest.mark.parametrize("name", ["resnet50", "fasterrcnn"])
def test_an_unknown_detector_is_answered_with_all_names(name: str) -> None:
    status, _, said = run_quietly("explain", "photo.png", "--task", "detection", "--model", name)
    assert status == 2
    assert f"torchvision has no detector named '{name}'; near it: {NAME}, " in one_line(said)
