"""The digit scenes, the network that reads them, and the tool that trains it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from captum_extremal.datasets import DigitScenes, digit_network
from captum_extremal.datasets.digits import scenes, to_rgb
from captum_extremal.datasets.digits.scenes import DATA_FILE


def test_a_scene_knows_its_digits() -> None:
    for scene in DigitScenes(4, (96, 160), (1, 4), seed=3):  # type: ignore[attr-defined]
        assert scene.image.shape == (3, 96, 160)
        assert 1 <= len(scene.labels) == len(set(scene.labels)) <= 4
        assert scene.masks.sum(0).max() == 1  # no overlap
        for mask, (x0, y0, x1, y1) in zip(scene.masks, scene.boxes.tolist()):
            rows, columns = mask.nonzero(as_tuple=True)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
            assert 20 <= max(x1 - x0, y1 - y0) <= 56
        assert scene.boxes[:, 0].tolist() == sorted(scene.boxes[:, 0].tolist())


def test_a_scene_depends_on_its_arguments_only() -> None:
    found = DigitScenes(3, seed=1)
    torch.manual_seed(0)
    first, state = found[2], torch.get_rng_state()
    np.random.seed(5)  # noqa: NPY002
    again = DigitScenes(9, seed=1)[2]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.image, found[-1].image)
    assert not torch.equal(first.image, DigitScenes(3, seed=2)[2].image)
    assert (
        repr(found)
        == "DigitScenes(length=3, size=(128, 128), digits_per_scene=(2, 4), seed=1, split='test', repeated=False)"
    )


def test_the_train_split_has_other_handwriting() -> None:
    pytest.importorskip("sklearn")
    test, train = (scenes._handwriting(split) for split in ("test", "train"))
    assert sum(map(len, test)) == 400
    assert sum(map(len, train)) == 1797 - 400
    assert not {image.tobytes() for images in test for image in images} & {
        i.tobytes() for images in train for i in images
    }
    assert len(DigitScenes(1, split="train")[0].labels) >= 2


def test_the_drawing_is_the_one_that_the_figures_were_made_with() -> None:
    scene = DigitScenes(1)[0]
    assert scene.labels == (7, 1, 5)
    assert scene.boxes.tolist() == [[2, 82, 38, 123], [11, 6, 28, 45], [78, 3, 95, 27]]
    assert float(scene.image.mean()) == pytest.approx(-0.15202, abs=1e-4)


def test_the_network_reads_scenes() -> None:
    network, shown = digit_network(), list(DigitScenes(20, seed=1))  # type: ignore[call-overload]
    with torch.no_grad():
        read = network(torch.stack([scene.image for scene in shown])) > 0
    expected = torch.zeros(20, 10, dtype=torch.bool)
    for row, scene in zip(expected, shown):
        row[list(scene.labels)] = True
    assert (read == expected).float().mean() > 0.95
    with pytest.raises(ValueError, match=r"images must have shape \(N, 3, H, W\) with H and W at least 64, got"):
        network(torch.zeros(1, 3, 64, 63))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"length": 0}, ValueError, "length must be at least 1, got 0"),
        ({"length": 1.0}, TypeError, "length must be an integer, got 1.0"),
        ({"size": 128}, TypeError, "size must be a pair of integers, got 128"),
        ({"size": (128,)}, ValueError, "size must have two entries"),
        ({"size": (128, 63)}, ValueError, r"size\[1\] must be at least 64, got 63"),
        ({"digits_per_scene": (3, 2)}, ValueError, r"digits_per_scene must be \(least, greatest\), got \(3, 2\)"),
        ({"digits_per_scene": (0, 5), "size": (64, 64)}, ValueError, "digits_per_scene must be at most 4 in a scene"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"split": "val"}, ValueError, "split must be one of 'test', 'train', got 'val'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DigitScenes(**({"length": 2} | arguments))


def test_bad_positions_and_images() -> None:
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"index {index} is out of range for 2 scenes"):
            DigitScenes(2)[index]
    with pytest.raises(TypeError, match="image must be a floating-point"):
        to_rgb(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"image must have shape \(..., 3, H, W\), got \(4, 4, 3\)"):
        to_rgb(torch.zeros(4, 4, 3))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/train_digits.py, which is not installed."""
    pytest.importorskip("sklearn")
    path = Path(__file__).resolve().parents[1] / "tools" / "train_digits.py"
    specification = importlib.util.spec_from_file_location("train_digits", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "train_digits", module)  # its dataclass looks up its own module
        specification.loader.exec_module(module)
    return module


def test_the_tool_writes_the_data_that_ship(tool: ModuleType, tmp_path: Path) -> None:
    tool.write_data(tmp_path / "again.npz")
    with np.load(DATA_FILE) as shipped, np.load(tmp_path / "again.npz") as again:
        assert shipped.files == again.files
        for name in shipped.files:
            np.testing.assert_array_equal(shipped[name], again[name])


def test_the_tool_trains_a_network(tool: ModuleType) -> None:
    network = tool.train(steps=2, pool_size=8, workers=0)
    assert [type(layer).__name__ for layer in network.features] == ["Conv2d", "ReLU"] * 6
    assert not network.training
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


def test_the_tool_has_help(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--help"])
    assert "--steps" in capsys.readouterr().out


def test_repeated_scenes_show_one_digit_twice() -> None:
    scenes = DigitScenes(6, digits_per_scene=(2, 4), repeated=True)
    for scene, plain in zip(scenes, DigitScenes(6, digits_per_scene=(2, 4))):
        counts = sorted(scene.labels.count(label) for label in set(scene.labels))
        assert counts == [1] * (len(scene.labels) - 2) + [2]
        assert len(plain.labels) == len(set(plain.labels)) == len(scene.labels)
        assert not bool((scene.masks.sum(0) > 1).any())  # they do not overlap


@pytest.mark.parametrize(("repeated", "least", "error"), [(1, 2, TypeError), (True, 1, ValueError)])
def test_scenes_that_cannot_repeat_are_refused(repeated: object, least: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"repeated must be|at least 2 to show one digit twice"):
        DigitScenes(1, digits_per_scene=(least, 4), repeated=repeated)
