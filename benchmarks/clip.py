"""The peak memory of one clip through r3d_18 and of one volume through a 3-D U-Net, beside that of a bare pass.

    OMP_NUM_THREADS=1 python benchmarks/clip.py [--steps 2]

The clip has 16 frames of 112 px, the volume 32 x 64 x 64 voxels. Each figure is the peak of the resident set of a
process of its own, with torch and the network in it. Weights are random and one mask goes through the model at once
(``perturbations_per_eval=1``). The peak is that of the first steps, so that few steps tell it. Seconds are of the whole
search with so few steps.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.video import r3d_18

from captum_extremal import ExtremalPerturbation, PathSolver, SmoothMask, SpaceTimeMask

MASKS: dict[str, Any] = {
    "bare pass": None,
    "default": SmoothMask(),
    "one mask for all frames": SmoothMask(hold=0),
    "product": SpaceTimeMask(),
}


class UNet(nn.Module):
    """A small 3-D U-Net (N, 1, D, H, W) -> (N, 2, D, H, W) of three levels."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down = nn.ModuleList([convolved(1, width), convolved(width, 2 * width), convolved(2 * width, 4 * width)])
        self.up = nn.ModuleList([convolved(6 * width, 2 * width), convolved(3 * width, width)])
        self.head = nn.Conv3d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool3d(x, 2) if level else x)
            kept.append(x)
        for block, beside in zip(self.up, kept[-2::-1]):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), beside], dim=1))
        return self.head(x)


def convolved(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "r3d_18": (r3d_18, (1, 3, 16, 112, 112)),
    "U-Net": (UNet, (1, 1, 32, 64, 64)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(*measure(*options.worker, options.steps))
        return 0
    print("| network | mask | peak, MB | seconds |")
    print("|---|---|---|---|")
    for network in options.networks:
        for name in MASKS:
            command = [sys.executable, __file__, "--steps", str(options.steps), "--worker", network, name]
            peak, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            print(f"| {network} | {name} | {float(peak):.0f} | {float(seconds):.1f} |", flush=True)
    return 0


def measure(network: str, name: str, steps: int) -> tuple[float, float]:
    """The peak in MB, and the seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    model, x = make().eval().requires_grad_(False), torch.rand(shape)
    started = perf_counter()
    if MASKS[name] is None:
        model(x.requires_grad_())[0, 0].mean().backward()
    else:
        ExtremalPerturbation(model).extremal_masks(
            x,
            target=0,
            areas=0.1,
            mask=MASKS[name],
            solver=PathSolver(steps=steps, refinement=0.5),
            perturbations_per_eval=1,
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
