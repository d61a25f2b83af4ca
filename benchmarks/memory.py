"""The peak memory of a sweep, beside that of a bare forward and backward pass of the same images.

    OMP_NUM_THREADS=1 python benchmarks/memory.py [--network squeezenet1_0] [--images 1 8 32] [--device cpu]

Every measurement is a process of its own, and the median of three: on a CPU, how much of the freed memory fits what is
asked for next is a matter of luck. On a CPU the figures are of the resident set, on CUDA of what torch has allocated;
both are above what the process held after a small search, which loads what a first search loads.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

import torch
from growth import bare, network

from captum_extremal import ExtremalPerturbation, PathSolver

SWEEPS = {
    "default": {},
    "searches=3": {"searches": 3},
    "searches=3, perturbations_per_eval=1": {"searches": 3, "perturbations_per_eval": 1},
}
BARE = "bare pass"
STEPS = 6
REPEATS = 3
AREAS = (0.05, 0.1, 0.2, 0.4)


def main() -> int:
    options = parse()
    if options.worker:
        print(peak(options))
        return 0
    print("| images | " + " | ".join([BARE, *SWEEPS]) + " |")
    print("|---" * (len(SWEEPS) + 2) + "|")
    for images in options.images:
        found = [measured(images, name) for name in (BARE, *SWEEPS)]
        cells = [f"{found[0]:.0f} MB", *(f"{one:.0f} MB ({one / found[0]:.2f})" for one in found[1:])]
        print(f"| {images} | " + " | ".join(cells) + " |", flush=True)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="squeezenet1_0")
    parser.add_argument("--images", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(images: int, name: str) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--images", str(images), "--worker", name]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(REPEATS)]
    return statistics.median(float(stdout.split()[-1]) for stdout in runs)


def peak(options: argparse.Namespace) -> float:
    """Megabytes above what was held before."""
    torch.set_num_threads(1)
    device = torch.device(options.device)
    model = network(options.network, device)
    x = torch.rand(options.images[0], 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    bare(model, x[:1, :, :64, :64])  # what torch loads on its first pass
    ExtremalPerturbation(model).extremal_masks(x[:1, :, :64, :64], target=0, areas=AREAS, solver=PathSolver(steps=1))
    before = held(device)
    if options.worker == BARE:
        bare(model, x)
    else:
        settings = dict(SWEEPS[options.worker])
        solver = PathSolver(steps=STEPS, searches=settings.pop("searches", 1))
        ExtremalPerturbation(model).extremal_masks(x, target=0, areas=AREAS, solver=solver, **settings)
    return held(device) - before


def held(device: torch.device) -> float:
    """The peak so far, in megabytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    sys.exit(main())
