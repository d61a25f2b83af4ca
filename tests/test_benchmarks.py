"""The throughput benchmark runs on the devices that there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
QUICK = ["--networks", "squeezenet1_0", "--batches", "1", "--steps", "2", "--side", "48"]


def printed(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(FOLDER / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()


def test_throughput_has_a_row_for_each_precision(device: torch.device) -> None:
    head, _, *rows = printed("throughput.py", "--device", str(device), *QUICK)
    assert len(rows) == 2
    for row, precision in zip(rows, ("float32", "bfloat16")):
        network, images, named, seconds, pairs, overhead, minutes = (cell.strip() for cell in row.strip("|").split("|"))
        assert (network, images, named) == ("squeezenet1_0", "1", precision)
        assert float(seconds) > 0
        assert float(pairs) == pytest.approx(1 / float(seconds), rel=0.02)
        assert float(overhead) > 0
        assert float(minutes) == pytest.approx(7306 / float(pairs) / 60, rel=0.02)
    assert head.count("|") == rows[0].count("|")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_throughput_without_a_gpu_says_so() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        printed("throughput.py")
    assert "no CUDA device" in failed.value.stderr
    assert "Traceback" not in failed.value.stderr
