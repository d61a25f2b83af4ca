"""What a GPU gives: pairs of an image and a class explained in a second, in one command.

    python benchmarks/gpu.py [--networks vgg16 resnet50 vit_b_16] [--batches 1 8 64] [--torchray] [--compile]
    python benchmarks/gpu.py --device cpu --networks squeezenet1_0 --batches 1 --steps 2 --side 48

Each row of the first table is one whole sweep of four areas and a* with the default solver, after a short one that
warms up, on random weights and noise, which changes no time. *passes* are those of one image. *overhead* is a step over
the bare forward and backward pass of as many images, in the same precision, and *memory* the peak over that of this
pass. *VOC* and *COCO* are the hours for the 7306 pairs of VOC 2007's 4952 test images, and for COCO 2014's 40504
validation images at its 3.5 categories an image. With ``--compile`` each network is compiled too, which captures CUDA
graphs and replays them, so that it shows what a compiled model gains.

The second table compares the masks of digits, by the package's own network, with those of the CPU in float32. The
search amplifies rounding, so that a mask may be another one, and yet as good. With ``--torchray`` the released code
(``pip install --no-deps torchray``) runs beside it on the same networks, one image at a time as it must, its 800 steps
extrapolated from 40.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import torch
from growth import bare, network, synchronise, timed
from torch import Tensor, nn

from captum_extremal import ExtremalMasks, ExtremalPerturbation, PathSolver
from captum_extremal.datasets import DigitScenes, digit_network

AREAS = (0.05, 0.1, 0.2, 0.4)
PAIRS = {"VOC": 7306, "COCO": 3.5 * 40504}
PRECISIONS = {
    "float32": (None, False),
    "tf32": (None, True),
    "bfloat16": (torch.bfloat16, True),
    "float16": (torch.float16, True),
}  # what the model is autocast to, and whether TF32 is allowed
REPEATS = 5
TORCHRAY_STEPS, TIMED_STEPS = 800, 40
GRAPHS = "inductor"


@dataclass(frozen=True)
class Precision:
    """A row's precision, by its name in the table."""

    name: str

    @property
    def autocast(self) -> torch.dtype | None:
        return PRECISIONS[self.name][0]

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """TF32, as it is, or not."""
        switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [switch.allow_tf32 for switch in switches]
        for switch in switches:
            switch.allow_tf32 = PRECISIONS[self.name][1]
        try:
            yield
        finally:
            for switch, value in zip(switches, before):
                switch.allow_tf32 = value


class Counted(nn.Module):
    """A model that counts the examples that go through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.examples = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.examples += len(x)
        scores: Tensor = self.model(x)
        return scores


def main() -> int:
    options = parse()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device: --device cpu measures here")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}\n")
    titles = ["network", "images", "precision", "seconds a sweep", "pairs a second", "passes", "overhead", "memory"]
    print_row([*titles, *(f"{name}, hours" for name in PAIRS)])
    print("|---" * (len(titles) + len(PAIRS)) + "|")
    for name in options.networks:
        model = network(name, device)
        for images in options.batches:
            x = torch.rand(images, 3, options.side, options.side, device=device).to(memory_format=torch.channels_last)
            for precision in map(Precision, options.precisions):
                with precision.allowed():
                    print_row([name, str(images), precision.name, *speed(model, x, precision, options.steps)])
                    if options.compile:
                        faster = compiled(model, options.compile)
                        title = f"{precision.name}, compiled"
                        print_row([name, str(images), title, *speed(faster, x, precision, options.steps)])
        if options.torchray:
            print_row([name, "1", "torchray", *released(model, options.side)])
    print()
    print_row(["digits", "score over the CPU's", "IoU with the CPU's masks", "difference of a*"])
    print("|---" * 4 + "|")
    how = (options.steps, options.scenes)
    cpu = digits_explained(torch.device("cpu"), None, *how)
    for precision in map(Precision, options.precisions):
        with precision.allowed():
            print_row([precision.name, *agreement(digits_explained(device, precision.autocast, *how), cpu)])
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="*", default=["vgg16", "resnet50", "vit_b_16"])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--side", type=int, default=224, help="of the images in pixels")
    parser.add_argument("--steps", type=int, default=PathSolver().steps, help="of the solver, for a quick try")
    parser.add_argument("--scenes", type=int, default=8, help="of digits, for the second table")
    parser.add_argument("--torchray", action="store_true", help="the released code beside it")
    told = "the networks compiled beside it"
    parser.add_argument("--compile", nargs="?", const=GRAPHS, metavar="BACKEND", help=told)
    return parser.parse_args()


def print_row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def compiled(model: nn.Module, backend: str) -> nn.Module:
    """The network compiled; with inductor its kernels are captured as CUDA graphs."""
    torch.compiler.reset()
    faster: nn.Module = torch.compile(model, backend=backend, mode="reduce-overhead" if backend == GRAPHS else None)
    return faster


def speed(model: nn.Module, x: Tensor, precision: Precision, steps: int) -> list[str]:
    """From the seconds of a sweep on."""
    counted, ends = Counted(model), []

    def tick(*_: object) -> None:
        synchronise(x.device)
        ends.append(perf_counter())

    def explain(steps: int, callback: object = None) -> None:
        solver = PathSolver(steps=steps, precision=precision.autocast)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random weights need not reach the threshold
            ExtremalPerturbation(counted).extremal_masks(x, target=0, areas=AREAS, solver=solver, callback=callback)

    explain(2)
    explain(10, tick)
    step = statistics.median(after - before for before, after in pairwise(ends[1:4]))
    counted.examples = 0
    memory = peak(x.device, lambda: explain(2))
    counted.examples = 0
    seconds = timed(lambda: explain(steps), x.device)
    with torch.autocast(x.device.type, precision.autocast) if precision.autocast else contextlib.nullcontext():
        alone = statistics.median(timed(lambda: bare(model, x), x.device) for _ in range(REPEATS))
        memory_alone = peak(x.device, lambda: bare(model, x))
    pairs, passes = len(x) / seconds, counted.examples / len(x)
    shown = f"{memory / memory_alone:.2f}" if memory_alone else "-"
    hours = [f"{count / pairs / 3600:.3g}" for count in PAIRS.values()]
    return [f"{seconds:.3g}", f"{pairs:.3g}", f"{passes:.0f}", f"{step / alone:.2f}", shown, *hours]


def peak(device: torch.device, work: Callable[[], None]) -> int:
    """The bytes that some work needs at once on a GPU; 0 on the CPU, where memory.py measures them."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def released(model: nn.Module, side: int) -> list[str]:
    """The same of the released code, for a sweep of the same areas of one image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchray.attribution.extremal_perturbation import extremal_perturbation
    except ImportError as error:
        raise SystemExit(f"TorchRay is missing ({error}): pip install --no-deps torchray") from error
    device = next(model.parameters()).device
    x = torch.rand(1, 3, side, side, device=device)

    def explain(steps: int) -> None:
        extremal_perturbation(copy.deepcopy(model), x, 0, areas=list(AREAS), max_iter=steps)

    explain(2)
    seconds = timed(lambda: explain(TIMED_STEPS), device) * TORCHRAY_STEPS / TIMED_STEPS
    memory, memory_alone = peak(device, lambda: explain(2)), peak(device, lambda: bare(model, x))
    shown = f"{memory / memory_alone:.2f}" if memory_alone else "-"
    hours = [f"{count * seconds / 3600:.3g}" for count in PAIRS.values()]
    return [f"{seconds:.3g}", f"{1 / seconds:.3g}", str(TORCHRAY_STEPS * len(AREAS)), "-", shown, *hours]


def digits_explained(device: torch.device, autocast: torch.dtype | None, steps: int, scenes: int) -> ExtremalMasks:
    """The masks of scenes of one digit, found on a device."""
    digits = DigitScenes(scenes, size=(64, 64), digits_per_scene=(1, 1))
    chosen = [digits[k] for k in range(scenes)]
    x = torch.stack([scene.image for scene in chosen])
    target = torch.tensor([scene.labels[0] for scene in chosen])
    solver = PathSolver(steps=steps, precision=autocast)
    explain = ExtremalPerturbation(digit_network().to(device)).extremal_masks
    return explain(x.to(device), target=target, score_threshold=half, solver=solver).to("cpu")


def agreement(ours: ExtremalMasks, cpu: ExtremalMasks) -> list[str]:
    """Of the masks of a device and those of the CPU in float32."""
    both = torch.stack([ours.binary_masks(), cpu.binary_masks()])
    overlap = both.all(0).flatten(2).sum(2) / both.any(0).flatten(2).sum(2)
    ratio = ours.scores.mean() / cpu.scores.mean()
    shift = (ours.optimal_area - cpu.optimal_area).abs().nanmean()
    return [f"{float(ratio):.3f}", f"{float(overlap.mean()):.2f}", f"{float(shift):.3f}"]


def half(clean: Tensor, perturbed: Tensor) -> Tensor:
    return (clean + perturbed) / 2


if __name__ == "__main__":
    sys.exit(main())
