"""``captum-extremal evaluate`` killed at random moments, and out of space: nothing is lost, nothing is there twice.

``benchmarks/kill_evaluate.py`` does the same more often, and on a disk that is really full.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LINES = """
import random, sys
from pathlib import Path
from kill_evaluate import METHOD, arguments_for, check_same, ended, kill_at_random, rows_of, started

folder = Path.cwd()
Path("slow_method.py").write_text(METHOD)
sys.path.insert(0, str(folder))
out, whole, full = folder / "out", folder / "whole", folder / "full"
assert ended(started(arguments_for(3, whole))) == 0
assert kill_at_random(random.Random(0), arguments_for(3, out), out, 3) < 3
assert ended(started(arguments_for(3, out))) == 0
check_same(out, whole)

assert ended(started(arguments_for(3, full), most_bytes=1500)) == 1
assert 0 < len(rows_of(full)) < len(rows_of(whole))
assert ended(started(arguments_for(3, full))) == 0
check_same(full, whole)
"""


def python(lines: str, folder: Path) -> None:
    paths = os.pathsep.join(map(str, (BENCHMARKS.parent, BENCHMARKS)))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    how = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run([sys.executable, "-c", lines], check=False, **how)
    assert done.returncode == 0, done.stderr


def test_killed_or_out_of_space_evaluate_loses_nothing(tmp_path: Path) -> None:
    python(LINES, tmp_path)


LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""
CHANNELS = f"""{LIMITED}
import torch
from torch import nn
from captum_extremal import LayerExtremalPerturbation, PathSolver, class_channels

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
loader = [(torch.randn(2, 1, 8, 8), torch.tensor([0, 2])) for _ in range(4)]
method, how = LayerExtremalPerturbation(model, model[1]), {{"solver": PathSolver(steps=3)}}
expected = class_channels(method, loader, **how)
limit(1200)  # bytes
try:
    class_channels(method, loader, path="rows", **how)
except OSError:
    limit(2**20)
else:
    raise AssertionError("the file was not too large")
lines = open("rows", "rb").read().count(b"\\n")
assert 1 < lines < 9, lines
found = class_channels(method, loader, path="rows", **how)
assert open("rows", "rb").read().count(b"\\n") == 9
torch.testing.assert_close(found.masks, expected.masks)
assert found.used == expected.used
"""


def test_class_channels_out_of_space_goes_on(tmp_path: Path) -> None:
    python(CHANNELS, tmp_path)


SAVED = f"""{LIMITED}
import os, torch
from captum_extremal import ExtremalMasks, ExtremalPerturbation, PathSolver

method = ExtremalPerturbation(lambda x: x.sum((1, 2, 3)))
found = method.extremal_masks(torch.rand(1, 1, 16, 16), solver=PathSolver(steps=3))
found.save("found.npz")
limit(2000)
try:
    found.save("found.npz")
except OSError:
    assert os.listdir() == ["found.npz"], os.listdir()
    assert torch.equal(ExtremalMasks.load("found.npz").masks, found.masks)
else:
    raise AssertionError("the file was not too large")
"""


def test_a_result_that_finds_no_space_leaves_the_former_file(tmp_path: Path) -> None:
    python(SAVED, tmp_path)
