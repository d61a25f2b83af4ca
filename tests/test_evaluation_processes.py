"""Several processes: one that is killed, one that is slow, and a folder that shows late what another one wrote."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from captum_extremal.evaluation import Processes, evaluate, read_rows, runner
from test_evaluation_runner import ALONE, SETTINGS, made, noisy, rows_in, without_time

# Three processes share a run. The first one is slow, the second is killed once it has written rows.
THREE = """
import os, signal, sys, time
from pathlib import Path
import torch
from captum_extremal.evaluation import evaluate, processes_of
from test_evaluation_runner import SETTINGS, made, noisy

folder, port = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)

def share(rank):
    os.environ.update(RANK=str(rank), WORLD_SIZE="3", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    calls = iter(range(99))

    def explain(x, target):
        if rank == 0:
            time.sleep(0.05)
        if rank == 1 and next(calls) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy(x, target)

    with processes_of(torch.device("cpu")) as processes:
        evaluate(made(explain=explain, batch_size=2), SETTINGS, folder, processes)

children = []
for rank in range(3):
    children.append(os.fork())
    if not children[-1]:
        try:
            share(rank)
        except RuntimeError as error:
            os._exit(3 if "a process of this run has ended" in str(error) else 4)
        os._exit(0)
print([os.waitpid(child, 0)[1] for child in children])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_one_of_three_processes_is_killed(tmp_path: Path) -> None:
    """The others finish their shares and say so; a new start does what is left, and the end is one in one go."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (out := tmp_path / "out").mkdir()
    (whole := tmp_path / "whole").mkdir()
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", THREE, str(out), port],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip() == str([3 << 8, 9, 3 << 8]), done.stderr
    left = rows_in(out)
    assert len(list(out.glob("*.jsonl"))) == 3
    evaluate(made(explain=noisy, batch_size=2), SETTINGS, whole, ALONE)
    assert 0 < len(left) < len(rows_in(whole))
    explained: list[int] = []

    def counted(x: torch.Tensor, target: object) -> torch.Tensor:
        explained.append(len(x))
        return noisy(x, target)

    evaluate(made(explain=counted, batch_size=2), SETTINGS, out, ALONE)
    assert without_time(rows_in(out).values()) == without_time(rows_in(whole).values())
    assert sum(explained) == len(rows_in(whole)) - len(left)


@dataclass(frozen=True)
class WithAnother(Processes):
    """The first process of two, whose other one has written a file of this name and size."""

    name: str = ""
    size: int = 0

    def gathered(self, own: dict[str, int]) -> list[dict[str, int]]:  # type: ignore[override]
        return [own, {self.name: self.size}]


def test_rows_that_a_shared_folder_shows_late_are_waited_for(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (out := tmp_path / "out").mkdir()
    evaluate(made(), SETTINGS, elsewhere, ALONE)
    (written,) = elsewhere.glob("*.jsonl")
    late = threading.Timer(0.3, lambda: written.rename(out / written.name))
    processes = WithAnother(0, 2, torch.device("cpu"), written.name, written.stat().st_size)
    reported: list[str] = []
    late.start()
    evaluate(made(), SETTINGS, out, processes, report=reported.append)
    assert len(read_rows([out])[SETTINGS.key].rows) == 12
    assert not any("yet" in line for line in reported)
    late.join()


def test_rows_that_a_shared_folder_never_shows_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LONGEST_DELAY", 0.1)
    reported: list[str] = []
    evaluate(made(), SETTINGS, tmp_path, WithAnother(0, 2, torch.device("cpu"), "x", 1), report=reported.append)
    assert reported[-1] == f"{tmp_path} does not show the rows of all processes yet: start the same command once more"
