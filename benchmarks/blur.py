"""Seconds and memory of the default blur of large inputs, beside the memory of the pyramid that it fills.

    OMP_NUM_THREADS=1 python benchmarks/blur.py [--shapes 1x48000 3x2048x2048 1x64x128x128]

Every measurement is a process of its own. The memory is the peak of the resident set above what the process held when
the input had been made, and a small one had been blurred: what the libraries load on their first call does not grow
with the input (1.5 MB more for a long row). The error is the largest difference, at 256 places, to the blur weight by
weight in float64, measured along each axis on noise in [0, 1].
"""

from __future__ import annotations

import argparse
import ctypes
import math
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from captum_extremal import BlurPyramid
from captum_extremal.perturbations import gaussian_blur

PLACES = 256
SHAPES = ["1x48000", "3x2048x2048", "1x64x128x128"]


def main() -> int:
    options = parse()
    if options.worker:
        print(*measure(shape_of(options.worker)))
        return 0
    print("| shape (C, *S) | seconds | pyramid, MB | peak, MB | peak / pyramid | error |")
    print("|---|---|---|---|---|---|")
    for text in options.shapes:
        command = [sys.executable, __file__, "--worker", text]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds, pyramid, peak, error = map(float, found)
        print(
            f"| {text} | {seconds:.2f} | {pyramid:.1f} | {peak:.1f} | {peak / pyramid:.2f} | {error:.0e} |", flush=True
        )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def shape_of(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def measure(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Seconds, megabytes of the pyramid and of the peak, and the largest error."""
    torch.set_num_threads(1)
    pyramid = BlurPyramid()
    small = torch.rand(1, 1, *([9000] if len(shape) == 2 else [16] * (len(shape) - 1)))
    pyramid.bind(small, small)
    x = torch.rand(1, *shape)
    forget_peak()
    before, started = held(), perf_counter()
    pyramid.bind(x, x)
    seconds, peak = perf_counter() - started, held() - before
    sigmas = pyramid.sigma_for(shape[1:])
    by_axis = sigmas if isinstance(sigmas, tuple) else (sigmas,) * (len(shape) - 1)
    errors = [error_of(side, sigma) for side, sigma in zip(shape[1:], by_axis)]
    return seconds, pyramid.levels * x.numel() * x.element_size() / 1e6, peak, max(errors)


def error_of(side: int, sigma: float) -> float:
    row, at = torch.rand(1, 1, side), torch.linspace(0, side - 1, PLACES).long()
    return float((gaussian_blur(row, sigma)[0, 0, at] - dense(row[0, 0].double(), sigma, at)).abs().max())


def dense(row: Tensor, sigma: float, at: Tensor) -> Tensor:
    """The blur of a row (W,) with a replicated border at some places, weight by weight."""
    radius = max(1, math.ceil(4 * sigma))
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    return row[(at[:, None] + offsets).clamp(0, len(row) - 1)] @ (weights / weights.sum())


def forget_peak() -> None:
    """Give free memory back, and begin a new peak of the resident set (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def held() -> float:
    """The peak of the resident set since :func:`forget_peak`, in megabytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    sys.exit(main())
