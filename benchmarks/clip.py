"""The peak memory of one clip of 16 frames at 112 px through r3d_18, beside that of its bare pass.

    OMP_NUM_THREADS=1 python benchmarks/clip.py [--steps 2]

Each figure is the peak of the resident set of a process of its own, with torch and the network in it. Weights are
random and one mask goes through the model at once (``perturbations_per_eval=1``). The peak is that of the first steps,
so that few steps tell it. Seconds are of the whole search with so few steps.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from time import perf_counter
from typing import Any

import torch
from torchvision.models.video import r3d_18

from captum_extremal import ExtremalPerturbation, PathSolver, SmoothMask, SpaceTimeMask

MASKS: dict[str, Any] = {
    "bare pass": None,
    "default": SmoothMask(),
    "one mask for all frames": SmoothMask(hold=0),
    "product": SpaceTimeMask(),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(*measure(options.worker, options.steps))
        return 0
    print("| mask | peak, MB | seconds |")
    print("|---|---|---|")
    for name in MASKS:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
        peak, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        print(f"| {name} | {float(peak):.0f} | {float(seconds):.1f} |", flush=True)
    return 0


def measure(name: str, steps: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, clip = r3d_18().eval().requires_grad_(False), torch.rand(1, 3, 16, 112, 112)
    started = perf_counter()
    if MASKS[name] is None:
        model(clip.requires_grad_())[0, 0].backward()
    else:
        ExtremalPerturbation(model).extremal_masks(
            clip,
            target=0,
            areas=0.1,
            mask=MASKS[name],
            solver=PathSolver(steps=steps, refinement=0.5),
            perturbations_per_eval=1,
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
