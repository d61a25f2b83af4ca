"""``captum-extremal evaluate`` killed with ``kill -9`` at random moments, and on a full disk.

Each start goes on from the rows of those before it. In the end every pair must have exactly one row, the same as in a
run that nobody stopped, and so must a run whose disk was full on its way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from captum_extremal import cli
from captum_extremal.evaluation import read_rows

METHOD = """
import time


def make(model):
    def explain(x, target):
        time.sleep(0.02)
        weights = model.classifier.weight[target]
        return (model.features(x) * weights).sum(1, keepdim=True).detach()

    return explain
"""


def arguments_for(images: int, out: Path) -> list[str]:
    """Of a short run with many writes: one pair in a batch."""
    data = ["--data", f"digits:{images}", "--model", "digits", "--method", "slow_method:make"]
    return ["evaluate", *data, "--batch-size", "1", "--device", "cpu", "--out", str(out)]


def started(arguments: list[str], most_bytes: int | None = None) -> int:
    """The number of a new process of the command, which may write files of so many bytes each."""
    process = os.fork()
    if process:
        return process
    status = 70
    with contextlib.suppress(BaseException):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        status = cli.main(arguments)
    os._exit(status)


def ended(process: int) -> int:
    """The exit status of a process, minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def lines_of(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


def kill_at_random(r: random.Random, arguments: list[str], out: Path, kills: int) -> int:
    """Start the command and kill it, so many times; how many of the starts came to their end before.

    Each is killed a random time after it has written up to four more lines, the first of which has the settings.
    """
    in_time = 0
    for _ in range(kills):
        moment, later = lines_of(out) + r.randint(0, 4), r.uniform(0, 0.1)
        process = started(arguments)
        while lines_of(out) < moment and not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.001)
        time.sleep(later)
        os.kill(process, signal.SIGKILL)
        in_time += ended(process) != -signal.SIGKILL
    return in_time


def rows_of(folder: Path) -> dict[Any, Any]:
    """The values of each pair, without their times."""
    runs = read_rows([folder]).values() if folder.exists() else ()
    return {pair: row.values for kept in runs for pair, row in kept.rows.items()}


def twice(folder: Path) -> list[Any]:
    """The pairs with more than one whole row in the files of a folder."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines(keepends=True)]
    rows = [json.loads(line) for line in lines if line.endswith(b"\n") and b'"values"' in line]
    return [pair for pair, count in Counter((row["image"], row["class"]) for row in rows).items() if count > 1]


def check_same(out: Path, whole: Path) -> None:
    """Nothing is lost, and nothing is there twice."""
    found, expected = rows_of(out), rows_of(whole)
    assert found == expected, f"{len(expected.keys() - found.keys())} of {len(expected)} pairs are lost"
    assert not twice(out), f"twice: {twice(out)}"


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A file system of this size at a folder; whether it could be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disks", nargs="*", default=["4k", "8k", "12k", "16k", "20k"], metavar="SIZE")
    given = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        Path("slow_method.py").write_text(METHOD)
        sys.path.insert(0, str(folder))
        out, whole = folder / "out", folder / "whole"
        assert ended(started(arguments_for(given.images, whole))) == 0
        ends = kill_at_random(random.Random(given.seed), arguments_for(given.images, out), out, given.kills)
        before = len(rows_of(out))
        assert ended(started(arguments_for(given.images, out))) == 0
        check_same(out, whole)
        pairs, kills = len(rows_of(whole)), given.kills - ends
        print(f"killed {kills} times: {before} of {pairs} pairs then, all in the end, none twice", flush=True)
        for size in given.disks:
            fill_disk(folder / f"disk-{size}", size, given.images, whole)


def fill_disk(disk: Path, size: str, images: int, whole: Path) -> None:
    """Run the command on a disk of this size, which is too small, and again when it has become larger."""
    disk.mkdir()
    with small_disk(disk, size) as mounted:
        if not mounted:
            print("no small disk can be mounted here")
            return
        status = ended(started(arguments_for(images, disk)))
        before = len(rows_of(disk))
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert ended(started(arguments_for(images, disk))) == 0
        check_same(disk, whole)
    print(f"disk of {size}: exit status {status}, {before} pairs then, all in the end, none twice", flush=True)


if __name__ == "__main__":
    main()
