"""How the time of a sweep grows: with the images N, the areas A, the side in pixels, and the network.

    OMP_NUM_THREADS=1 python benchmarks/growth.py [--out FOLDER] [--threads 1] [--device cpu]

Networks have random weights and images are noise, which changes no time. A sweep is timed with a few steps of a
single search, beside the bare forward and backward of the same images in the same run; *overhead* is a step over the
bare pass. Each figure is the median of a few repetitions. The tables are printed and the curves drawn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision import models

from captum_extremal import ExtremalPerturbation, PathSolver

NETWORKS = ("squeezenet1_0", "mobilenet_v3_small", "resnet18", "resnet50", "vgg16", "vit_b_16")
IMAGES = (1, 2, 4, 8, 16, 32)
AREAS = (1, 2, 3, 6, 11, 21)
SIDES = (64, 96, 128, 160, 224, 320, 448)
STEPS, REPEATS = 6, 5
Row = tuple[float | str, ...]


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    small = network("squeezenet1_0", device)
    curves = {
        "N": [measured(small, n, 128, 4) for n in IMAGES],
        "A": [measured(small, 1, 128, a) for a in AREAS],
        "side (px)": [measured(small, 1, side, 4) for side in SIDES],
        "network": [measured(network(name, device), 1, 224, 4) for name in NETWORKS],
    }
    axes = {"N": IMAGES, "A": AREAS, "side (px)": SIDES, "network": NETWORKS}
    for name, rows in curves.items():
        print(table(name, [(at, *row) for at, row in zip(axes[name], rows)]), end="\n\n")
    options.out.mkdir(parents=True, exist_ok=True)
    draw({name: (axes[name], rows) for name, rows in curves.items()}).savefig(options.out / "growth.png", dpi=150)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("growth"), help="where the figure goes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def network(name: str, device: torch.device) -> nn.Module:
    made: nn.Module = models.get_model(name, weights=None).eval().requires_grad_(False)
    return made.to(device, memory_format=torch.channels_last)


def measured(model: nn.Module, images: int, side: int, areas: int) -> Row:
    """Seconds of a step and of what comes before and after, of the bare pass, and the step over the bare pass."""
    device = next(model.parameters()).device
    x = torch.rand(images, 3, side, side, device=device).to(memory_format=torch.channels_last)
    bare(model, x)
    passes, sweeps = [], []
    for _ in range(REPEATS):
        passes.append(timed(lambda: bare(model, x), device))
        sweeps.append(sweep(model, x, areas))
    step, rest = (statistics.median(column) for column in zip(*sweeps))
    alone = statistics.median(passes)
    return step, rest, alone, step / alone


def bare(model: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)


def sweep(model: nn.Module, x: Tensor, areas: int) -> tuple[float, float]:
    """Seconds of a step of one search, the median, and of all that is not steps."""
    ends: list[float] = []
    solver = PathSolver(steps=max(STEPS, 2 * areas))
    fractions = torch.linspace(0.05, 0.6, areas).tolist() if areas > 1 else [0.2]

    def tick(*_: object) -> None:
        synchronise(x.device)
        ends.append(time.perf_counter())

    explain = ExtremalPerturbation(model).extremal_masks
    whole = timed(lambda: explain(x, target=0, areas=fractions, solver=solver, callback=tick), x.device)
    step = statistics.median(after - before for before, after in pairwise(ends))
    return step, whole - (ends[-1] - ends[0])


def timed(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(name: str, rows: list[Row]) -> str:
    lines = [
        f"| {name} | ms a step | ms before and after the steps | ms of a bare pass | overhead |",
        "|---|---|---|---|---|",
    ]
    for at, step, rest, alone, ratio in rows:
        cells = [str(at), *(f"{1e3 * float(seconds):.1f}" for seconds in (step, rest, alone)), f"{float(ratio):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(curves: dict[str, tuple[tuple[float | str, ...], list[Row]]]) -> Figure:
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    for axis, (name, (at, rows)) in zip(figure.subplots(1, len(curves)), curves.items()):
        for label, column, style in (("step", 0, "o-"), ("bare pass", 2, "s--")):
            seconds = [1e3 * float(row[column]) for row in rows]
            if name == "network":
                axis.plot(seconds, range(len(at)), style[0], label=label)
                axis.set(yticks=range(len(at)), yticklabels=at, xlabel="ms", xscale="log")
            else:
                axis.plot(at, seconds, style, label=label)
                axis.set(xlabel=name, ylabel="ms")
        if name != "network":
            axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
