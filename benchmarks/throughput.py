"""Pairs of an image and a class explained in a second, on a GPU: networks, batches and precisions.

    python benchmarks/throughput.py [--device cuda] [--networks vgg16 resnet50 vit_b_16] [--batches 1 8 64]

Each cell is one whole sweep of four areas with the default solver, after a short one that warms up, on random weights
and noise, which changes no time. Beside it stand the overhead of a step over the bare forward and backward pass of as
many images, in the same precision, and how long the 7306 pairs of VOC 2007's 4952 test images would take.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from itertools import pairwise
from time import perf_counter

import torch
from growth import bare, network, synchronise, timed
from torch import Tensor, nn

from captum_extremal import ExtremalPerturbation, PathSolver

AREAS = (0.05, 0.1, 0.2, 0.4)
VOC_PAIRS = 7306
REPEATS = 5


def main() -> int:
    options = parse()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device: --device cpu measures here")
    print("| network | images | precision | seconds a sweep | pairs a second | overhead | VOC 2007 test, minutes |")
    print("|---|---|---|---|---|---|---|")
    for name in options.networks:
        model = network(name, device)
        for images in options.batches:
            x = torch.rand(images, 3, options.side, options.side, device=device).to(memory_format=torch.channels_last)
            for precision in (None, torch.bfloat16):
                print(row(name, model, x, precision, options.steps), flush=True)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="*", default=["vgg16", "resnet50", "vit_b_16"])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--side", type=int, default=224, help="of the images in pixels")
    parser.add_argument("--steps", type=int, default=PathSolver().steps, help="of the solver, for a quick try")
    return parser.parse_args()


def row(name: str, model: nn.Module, x: Tensor, precision: torch.dtype | None, steps: int) -> str:
    seconds, step = sweep(model, x, precision, steps)
    autocast = torch.autocast(x.device.type, precision) if precision else contextlib.nullcontext()
    with autocast:
        alone = statistics.median(timed(lambda: bare(model, x), x.device) for _ in range(REPEATS))
    pairs = len(x) / seconds
    named = str(precision or torch.float32).removeprefix("torch.")
    cells = [name, str(len(x)), named, f"{seconds:.3g}", f"{pairs:.3g}", f"{step / alone:.2f}"]
    return "| " + " | ".join([*cells, f"{VOC_PAIRS / pairs / 60:.3g}"]) + " |"


def sweep(model: nn.Module, x: Tensor, precision: torch.dtype | None, steps: int) -> tuple[float, float]:
    """Seconds of a whole sweep, and of one of its first steps, which pass each image once."""
    ends: list[float] = []

    def tick(*_: object) -> None:
        synchronise(x.device)
        ends.append(perf_counter())

    def explain(solver: PathSolver, callback: object = None) -> None:
        ExtremalPerturbation(model).extremal_masks(x, target=0, areas=AREAS, solver=solver, callback=callback)

    explain(PathSolver(steps=2, precision=precision))
    explain(PathSolver(steps=10, precision=precision), tick)
    step = statistics.median(after - before for before, after in pairwise(ends[1:4]))
    return timed(lambda: explain(PathSolver(steps=steps, precision=precision)), x.device), step


if __name__ == "__main__":
    sys.exit(main())
