"""Masks of series, videos and volumes where the truth is known, beside integrated gradients.

    OMP_NUM_THREADS=1 python benchmarks/space_time.py [--seeds 5]

The models are closed forms, matched filters whose largest answer is the score, so that what they look at is known:

- series: a motif in noise; (1, 1, 256).
- series, features last: the same as (1, 256, 3) with ``channel_dim=-1``, the motif in one of the features.
- video: a bright square that moves through noise; (1, 1, 12, 24, 24).
- still video: a square that stands in the same place in all frames, with one mask for all frames (``hold=0``).
- event: a square that is there in a few frames, with a mask that is a product of time and space.
- volume: a ball in noise; (1, 1, 16, 16, 16).

Each method has the area of the truth: *IoU* is that of its highest values, as many as the truth has positions, and
*energy* the share of the map's sum that lies on the truth (of integrated gradients' absolute values).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import Tensor
from torch.nn import functional as F

from captum_extremal import ExtremalPerturbation, SmoothMask, SpaceTimeMask

NOISE = 0.3
FADE = {"perturbation": "fade"}  # a blur leaves much of a bright square or ball
SHARPNESS = 20.0  # of the smooth maximum over places


@dataclass(frozen=True)
class Scene:
    """A model, an input, and what the model looks at.

    Attributes:
        model: from inputs (N, ...) to scores (N,).
        x: one input.
        truth: bool, in the shape of the positions.
        settings: of the search.
    """

    model: Callable[[Tensor], Tensor]
    x: Tensor
    truth: Tensor
    settings: dict[str, Any] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    print("| scene | method | IoU | energy | seconds |")
    print("|---|---|---|---|---|")
    for name, make in SCENES.items():
        scenes = [make(seed) for seed in range(seeds)]
        for title, method in METHODS.items():
            started = perf_counter()
            maps = [method(scene) for scene in scenes]
            seconds = (perf_counter() - started) / seeds
            found = torch.tensor([judged(one, scene.truth) for one, scene in zip(maps, scenes)]).mean(0).tolist()
            print(f"| {name} | {title} | {found[0]:.2f} | {found[1]:.2f} | {seconds:.2f} |", flush=True)
    return 0


def extremal(scene: Scene) -> Tensor:
    """The mask of the truth's area."""
    area = float(scene.truth.double().mean())
    found = ExtremalPerturbation(scene.model).extremal_masks(scene.x, areas=area, **scene.settings)
    return found.masks[0, 0, 0]


def integrated_gradients(scene: Scene) -> Tensor:
    """The absolute values, summed over the channels."""
    found = IntegratedGradients(scene.model).attribute(scene.x, n_steps=50).abs()[0]
    return found.sum(scene.settings.get("channel_dim", 1) % scene.x.dim() - 1)


METHODS = {"extremal": extremal, "integrated gradients": integrated_gradients}


def judged(values: Tensor, truth: Tensor) -> tuple[float, float]:
    """IoU at the truth's area, and energy."""
    kept = torch.zeros(truth.numel(), dtype=torch.bool)
    kept[values.flatten().topk(int(truth.sum())).indices] = True
    wanted = truth.flatten()
    iou = (kept & wanted).sum() / (kept | wanted).sum()
    return float(iou), float(values[truth].sum() / values.sum())


def peak(answers: Tensor) -> Tensor:
    """The smooth maximum (N,) over all places of answers (N, ...)."""
    return torch.logsumexp(SHARPNESS * answers.flatten(1), dim=1) / SHARPNESS


def motif_in_series(seed: int) -> Scene:
    generator, length, width = torch.Generator().manual_seed(seed), 256, 32
    motif = torch.sin(torch.arange(width) * 0.9) * torch.hann_window(width)
    x = NOISE * torch.randn(1, 1, length, generator=generator)
    start = int(torch.randint(length - width, (1,), generator=generator))
    x[0, 0, start : start + width] += motif
    kernel = (motif / motif.square().sum()).view(1, 1, -1)
    return Scene(lambda x: peak(F.conv1d(x, kernel)), x, within((length,), (start,), (width,)))


def features_last(seed: int) -> Scene:
    plain = motif_in_series(seed)
    generator = torch.Generator().manual_seed(seed)
    x = NOISE * torch.randn(1, 256, 3, generator=generator)
    x[..., 1] = plain.x[:, 0]
    return Scene(lambda x: plain.model(x[..., 1].unsqueeze(1)), x, plain.truth, {"channel_dim": -1})


def square_in_video(
    seed: int,
    moves: bool = True,
    seen: tuple[int, int] = (0, 12),
    size: tuple[int, int, int] = (12, 24, 8),
    **settings: Any,
) -> Scene:
    """The size is that of the frames, their number first, and of the square."""
    generator, (frames, side, width) = torch.Generator().manual_seed(seed), size
    x = NOISE * torch.randn(1, 1, frames, side, side, generator=generator)
    truth = torch.zeros(frames, side, side, dtype=torch.bool)
    row, column = torch.randint(side - width + 1, (2,), generator=generator).tolist()
    for frame in range(*seen):
        left = round(frame * (side - width) / (frames - 1)) if moves else column
        truth[frame, row : row + width, left : left + width] = True
    x[0, 0, truth] += 1
    kernel = torch.full((1, 1, width, width), 1 / width**2)

    def model(x: Tensor) -> Tensor:
        answers = F.conv2d(x.transpose(1, 2).flatten(0, 1), kernel)
        return peak(answers).view(len(x), -1)[:, slice(*seen)].mean(1)

    return Scene(model, x, truth, FADE | settings)


def ball_in_volume(seed: int, side: int = 16, radius: int = 4) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(-radius, radius + 1) ** 2
    ball = offsets[:, None, None] + offsets[:, None] + offsets <= radius**2
    corner = torch.randint(side - 2 * radius, (3,), generator=generator).tolist()
    truth = torch.zeros(side, side, side, dtype=torch.bool)
    truth[tuple(slice(first, first + 2 * radius + 1) for first in corner)] = ball
    x = NOISE * torch.randn(1, 1, side, side, side, generator=generator)
    x[0, 0, truth] += 1
    kernel = ball[None, None] / ball.sum()
    return Scene(lambda x: peak(F.conv3d(x, kernel)), x, truth, FADE)


def within(shape: tuple[int, ...], corner: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    truth = torch.zeros(shape, dtype=torch.bool)
    truth[tuple(slice(first, first + length) for first, length in zip(corner, size))] = True
    return truth


SCENES: dict[str, Callable[[int], Scene]] = {
    "series": motif_in_series,
    "series, features last": features_last,
    "video": lambda seed: square_in_video(seed, mask=SmoothMask(step=(1, 3, 3), sigma=(1, 4, 4))),
    "still video": lambda seed: square_in_video(seed, moves=False, mask=SmoothMask(hold=0)),
    "event": lambda seed: square_in_video(seed, moves=False, seen=(4, 8), mask=SpaceTimeMask()),
    "volume": ball_in_volume,
}


if __name__ == "__main__":
    sys.exit(main())
