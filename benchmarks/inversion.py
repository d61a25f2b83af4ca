"""Feature inversion of real photographs, beside noise, the mean image, and the same objective optimised over pixels.

    python benchmarks/inversion.py --data FOLDER [--out FOLDER] [--steps 192] [--threads 1]

Three photographs of 128 px, SqueezeNet. Prints the dot product of equation 12 as a multiple of its value at the
photograph itself, and the cosine similarity, both measured by a hook of the script's own; OUT/inversion.png shows the
images.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from photographs import MEAN, STD, add_data_option, rgb, squeezenet
from torch import Tensor, nn
from torchvision.utils import save_image

from captum_extremal import FeatureInversion

PHOTOGRAPHS = ("0001_goldfish", "0207_golden_retriever", "0546_electric_guitar")
LAYERS = (4, 7, 9, 12)
SIDE = 128


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--out", type=Path, default=Path("inversion"))
    parser.add_argument("--steps", type=int, default=192)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = squeezenet(options.data)
    images = torch.stack([photograph(options.data / "images" / f"{stem}.jpg") for stem in PHOTOGRAPHS])
    print("| layer | image | dot product, x's own = 1 | cosine similarity | seconds an image |\n|---|---|---|---|---|")
    shown = [images]
    for number in LAYERS:
        layer = model.get_submodule(f"features.{number}")
        for name, make in contestants(model, layer, images, options.steps).items():
            started = time.perf_counter()
            made = make()
            seconds = (time.perf_counter() - started) / len(images)
            dots, cosines = judged(model, layer, images, made)
            cells = [f"features.{number}", name, dots, cosines, f"{seconds:.1f}" if seconds > 0.1 else ""]
            print("| " + " | ".join(cells) + " |", flush=True)
            if "noise" not in name and "mean" not in name:
                shown.append(made)
    options.out.mkdir(parents=True, exist_ok=True)
    save_image(torch.cat(shown), options.out / "inversion.png", nrow=len(images))
    return 0


def photograph(path: Path) -> Tensor:
    return F.interpolate(rgb(path)[None], size=SIDE, mode="bilinear", antialias=True)[0]


def normalise(images: Tensor) -> Tensor:
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def contestants(model: nn.Module, layer: nn.Module, images: Tensor, steps: int) -> dict[str, Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator)
    return {
        "inversion": lambda: FeatureInversion(model, layer).invert(normalise(images), steps=steps).images,
        "pixels, equation 12 alone": lambda: over_pixels(model, layer, images, steps),
        "noise": lambda: noise,
        "mean image": lambda: torch.tensor(MEAN)[:, None, None].expand_as(images),
    }


def over_pixels(model: nn.Module, layer: nn.Module, images: Tensor, steps: int) -> Tensor:
    """Adam on the logits of the pixels: what equation 12 gives without a prior."""
    with torch.no_grad():
        target = activation(model, layer, images)
    logits = (0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    adam = torch.optim.Adam([logits], lr=0.1)
    for _ in range(steps):
        dot = (activation(model, layer, logits.sigmoid()) * target).flatten(1).sum(1)
        logits.grad = torch.autograd.grad(-(dot / target.flatten(1).square().sum(1)).sum(), logits)[0]
        adam.step()
    return logits.detach().sigmoid()


def activation(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    model(normalise(images))
    handle.remove()
    found: Tensor = seen[0]
    return found


def judged(model: nn.Module, layer: nn.Module, images: Tensor, made: Tensor) -> tuple[str, str]:
    """Equation 12 over its value at the photographs, and the cosine similarity, of each photograph."""
    with torch.no_grad():
        target, found = (activation(model, layer, one).flatten(1) for one in (images, made))
    dots = (found * target).sum(1) / target.square().sum(1)
    cosines = F.cosine_similarity(found, target)
    return tuple(" / ".join(f"{value:.2f}" for value in values.tolist()) for values in (dots, cosines))  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
