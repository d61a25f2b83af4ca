"""Trains the digit network: `python tools/train_digits.py`.

Writes the held-out handwriting (digits_test.npz) and the weights (digit_network.pt), and evaluates the network on test
scenes. Needs scikit-learn, for the handwriting; takes a few minutes on two CPU cores. It is not installed with the
package.

The network is made to be explained by hiding parts of a picture, so it is trained on blurred, faded and partly hidden
scenes as well. A digit that is mostly hidden counts as absent, a half-hidden one is ignored.

Shapes: N scenes, C colour channels (3), H = W = S pixels per side, K classes (10).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader

from captum_extremal.datasets.digits.network import WEIGHTS_FILE, DigitNetwork
from captum_extremal.datasets.digits.scenes import CLASSES, DATA_FILE, DigitScene, DigitScenes

HELD_OUT_PER_CLASS = 40
SIDE = 128
STRONG_BLUR = 20.0 / 224.0
"""Width of the blur that hides everything, as a share of the picture's side."""

_BATCH = 32
_LEARNING_RATE = 4e-3
# A digit counts as present above, and as absent below, these shares of visible ink ...
_VISIBLE, _HIDDEN = 0.7, 0.2
# ... of contrast left ...
_FADED_LEGIBLE, _FADED_GONE = 0.4, 0.1
# ... and, the other way round, widths of blur as a share of the digit's height.
_BLURRED_LEGIBLE, _BLURRED_GONE = 0.05, 0.17


@dataclass(frozen=True)
class Scenes:
    """Many scenes of one size as tensors.

    Attributes:
        images: (N, C, S, S) float32 (or float16 to save room), normalised.
        inks: (N, S, S) uint8, 1 + the digit whose ink a pixel is, 0 elsewhere.
        boxes: (N, K, 4) int64, the box of each class's digit; all 0 for an absent one.
    """

    images: torch.Tensor
    inks: torch.Tensor
    boxes: torch.Tensor

    @property
    def present(self) -> torch.Tensor:
        """(N, K) bool, which digits a scene shows."""
        return self.boxes[:, :, 3] > 0

    @property
    def heights(self) -> torch.Tensor:
        """(N, K) float32, the longer side of each digit's box in pixels."""
        return (self.boxes[:, :, 2:] - self.boxes[:, :, :2]).amax(dim=2).float()

    def __getitem__(self, index: torch.Tensor) -> Scenes:
        return Scenes(self.images[index].float(), self.inks[index], self.boxes[index])


def collate(scenes: Sequence[DigitScene]) -> Scenes:
    """Stack scenes of one size."""
    inks = torch.zeros(len(scenes), *scenes[0].image.shape[1:], dtype=torch.uint8)
    boxes = torch.zeros(len(scenes), CLASSES, 4, dtype=torch.int64)
    for n, scene in enumerate(scenes):
        for label, mask, box in zip(scene.labels, scene.masks, scene.boxes, strict=True):
            inks[n][mask] = label + 1
            boxes[n, label] = box
    return Scenes(torch.stack([scene.image for scene in scenes]).half(), inks, boxes)


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with a replicated border.

    Args:
        images: (N, C, S, S).
        sigma: (N,), the width of each image's blur in pixels, above 0.

    Returns:
        (N, C, S, S).
    """
    # As a product with one S x S matrix per side: its cost does not depend on the width.
    side = images.shape[-1]
    reach = int(4.0 * sigma.max()) + 1
    to = torch.arange(side, dtype=torch.float32)
    source = torch.arange(-reach, side + reach, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((to[:, None] - source) / sigma[:, None, None]) ** 2)
    weights = weights / weights.sum(dim=2, keepdim=True)
    matrix = weights[:, :, reach : reach + side].clone()
    matrix[:, :, 0] += weights[:, :, :reach].sum(dim=2)
    matrix[:, :, -1] += weights[:, :, reach + side :].sum(dim=2)
    return matrix[:, None] @ images @ matrix[:, None].transpose(2, 3)


def perturbed(batch: Scenes, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Randomly blurred, faded, partly hidden and untouched versions of scenes.

    Returns:
        images (N, C, S, S); targets (N, K) of 0 and 1; weights (N, K), 0 where it is unclear whether the digit can
        still be recognised.
    """
    count, side = len(batch.images), batch.images.shape[-1]
    kind = torch.rand(count, generator=generator)
    whole_blur, whole_fade = kind < 0.12, (kind >= 0.12) & (kind < 0.22)
    partly = (kind >= 0.22) & (kind < 0.65)
    strongest = STRONG_BLUR * side
    sigma = strongest * _uniform(generator, count, 0.75, 1.4)
    gentle = 0.5 * (2.0 * strongest) ** torch.rand(count, generator=generator)
    sigma = torch.where(whole_blur & (kind < 0.06), gentle, sigma)
    to_mean = (_uniform(generator, count, 0.0, 1.0) < 0.4) & ~whole_blur | whole_fade
    hidden = blur(batch.images, sigma) * (~to_mean)[:, None, None, None]

    kept = torch.ones(count, side, side)
    kept[partly] = _random_masks(batch[partly], generator)
    kept[whole_blur] = 0.0
    contrast = _uniform(generator, count, 0.0, 1.0) ** 2
    kept[whole_fade] = contrast[whole_fade, None, None]
    mixed = kept[:, None] * batch.images + (1.0 - kept[:, None]) * hidden

    shown = _visible_share(batch.inks, kept)
    legible, gone = shown > _VISIBLE, shown < _HIDDEN
    legible[whole_fade] = (contrast[whole_fade] > _FADED_LEGIBLE)[:, None]
    gone[whole_fade] = (contrast[whole_fade] < _FADED_GONE)[:, None]
    relative = sigma[:, None] / batch.heights.clamp(min=1.0)
    legible[whole_blur] = (relative < _BLURRED_LEGIBLE)[whole_blur]
    gone[whole_blur] = (relative > _BLURRED_GONE)[whole_blur]
    targets = batch.present & legible
    weights = ~batch.present | legible | gone
    return mixed, targets.float(), weights.float()


def _uniform(generator: torch.Generator, count: int, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _visible_share(inks: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The mean of masks `kept` (N, S, S) over the ink of each digit, (N, K); 0 for absent digits."""
    flat = inks.flatten(1).long()
    sums, areas = torch.zeros(2, len(inks), CLASSES + 1)
    sums.scatter_add_(1, flat, kept.flatten(1))
    areas.scatter_add_(1, flat, torch.ones_like(kept).flatten(1))
    shares: torch.Tensor = sums / areas.clamp(min=1.0)
    return shares[:, 1:]


def _random_masks(batch: Scenes, generator: torch.Generator) -> torch.Tensor:
    """Masks (N, S, S) in [0, 1], 1 where the scene is kept: smooth blobs, or the digits' boxes."""
    side = batch.images.shape[-1]
    masks = torch.zeros(len(batch.images), side, side)
    for n, mask in enumerate(masks):
        choice, cells, share, sharpness, invert = torch.rand(5, generator=generator).tolist()
        if choice < 0.6:
            grid = 2 + int(10.0 * cells)
            noise = torch.randn(1, 1, grid, grid, generator=generator)
            field = F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)
            level = noise.quantile(0.1 + 0.85 * share)
            mask.copy_(torch.sigmoid((field[0, 0] - level) * 20.0**sharpness))
            continue
        margin = int(8.0 * share) - 1
        for x0, y0, x1, y1 in batch.boxes[n][batch.present[n]].tolist():
            if torch.rand((), generator=generator) < 0.5:
                left, top = max(0, x0 - margin), max(0, y0 - margin)
                mask[top : y1 + margin, left : x1 + margin] = 1.0
        if invert < 0.6:
            mask.neg_().add_(1.0)
    return masks


def _recoloured(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The images with channels in a random order, half of them as negatives, with new noise."""
    count = len(images)
    order = torch.rand(count, images.shape[1], generator=generator).argsort(dim=1)
    images = images[torch.arange(count)[:, None], order]
    sign = 1.0 - 2.0 * (torch.rand(count, generator=generator) < 0.5).float()
    strength = sign * _uniform(generator, count, 0.8, 1.15)
    noise = torch.randn(images.shape, generator=generator)
    noise = noise * _uniform(generator, count, 0.0, 0.1)[:, None, None, None]
    return images * strength[:, None, None, None] + noise


def _resized(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """All images at one random size, so that digits also have the sizes that other scene sizes give them."""
    sides = (108, 116, 128, 128, 128, 140, 150)
    side = sides[int(torch.randint(len(sides), (), generator=generator))]
    if side == images.shape[-1]:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def _with_batch_norm(network: DigitNetwork) -> nn.Sequential:
    """The network's features with a batch normalisation after every convolution."""
    layers: list[nn.Module] = []
    for layer in network.features:
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels))
    return nn.Sequential(*layers)


def _folded(features: nn.Sequential) -> nn.Sequential:
    """The same features with every batch normalisation merged into its convolution."""
    layers: list[nn.Module] = []
    for layer in features.eval():
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            assert isinstance(convolution, nn.Conv2d)
            layer = fuse_conv_bn_eval(convolution, layer)
        layers.append(layer)
    return nn.Sequential(*layers)


def drawn(scenes: DigitScenes, workers: int) -> Scenes:
    """All scenes of a data set, drawn by `workers` processes (0: in this one)."""
    loader = DataLoader(scenes, batch_size=100, num_workers=workers, collate_fn=collate)
    parts = list(loader)
    return Scenes(
        torch.cat([part.images for part in parts]),
        torch.cat([part.inks for part in parts]),
        torch.cat([part.boxes for part in parts]),
    )


def train(steps: int = 1500, seed: int = 0, *, pool_size: int = 6000, workers: int = 2) -> DigitNetwork:
    """Train a network on scenes of the train split.

    Args:
        steps: number of batches of 32 scenes.
        seed: of the scenes, the initial weights and the perturbations.
        pool_size: number of different scenes.
        workers: number of processes that draw them.

    Returns:
        The network in evaluation mode.
    """
    start = time.monotonic()
    pool = drawn(DigitScenes(pool_size, (SIDE, SIDE), (0, 4), seed, "train"), workers)
    print(f"drew {pool_size} scenes in {time.monotonic() - start:.0f} s", flush=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitNetwork()
    # Near the log-odds of a rare digit spread over some 256 places.
    nn.init.constant_(network.classifier.bias, -7.0)  # type: ignore[arg-type, unused-ignore]
    network.features = _with_batch_norm(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps, pct_start=0.15)
    running = 0.0
    for step in range(1, steps + 1):
        batch = pool[torch.randint(pool_size, (_BATCH,), generator=generator)]
        images, targets, weights = perturbed(batch, generator)
        images = _resized(_recoloured(images, generator), generator)
        losses = F.binary_cross_entropy_with_logits(network(images), targets, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running += loss.item()
        if step % 100 == 0:
            spent = time.monotonic() - start
            print(f"step {step} of {steps}: loss {running / 100:.4f}, {spent:.0f} s", flush=True)
            running = 0.0
    network.features = _folded(network.features)
    return network.eval()


@torch.no_grad()
def evaluate(network: DigitNetwork, scenes: DigitScenes) -> dict[str, float]:
    """How well a network reads scenes, and whether it stops reading digits that are hidden.

    A digit counts as read if its logit is above 0. For the "hidden" figures, the box of one digit that is read (and 2
    pixels around it) is replaced by a strong blur; for the "alone" figures, all the rest of the scene is.
    """
    pool = drawn(scenes, 0)
    images = pool.images.float()
    strong = STRONG_BLUR * images.shape[-1]
    blurred = blur(images, torch.full((len(images),), strong))
    logits, present = network(images), pool.present
    read = logits > 0
    true = (read & present).sum().item()
    figures = {
        "label accuracy": (read == present).float().mean().item(),
        "scenes all right": (read == present).all(dim=1).float().mean().item(),
        "precision": true / max(1, int(read.sum())),
        "recall": true / max(1, int(present.sum())),
        "F1": 2 * true / max(1, int(read.sum() + present.sum())),
    }
    for name, hidden in (("blurred", blurred), ("faded", torch.zeros_like(images))):
        highest = network(hidden).sigmoid().amax(dim=1)
        figures[f"{name}: mean highest probability"] = highest.mean().item()
        figures[f"{name}: greatest probability"] = highest.max().item()
    numbers, labels = (read & present).nonzero(as_tuple=True)
    boxed = torch.zeros(len(numbers), 1, *images.shape[2:])
    for mask, box in zip(boxed, pool.boxes[numbers, labels].tolist(), strict=True):
        mask[:, max(0, box[1] - 2) : box[3] + 2, max(0, box[0] - 2) : box[2] + 2] = 1.0
    rows = torch.arange(len(numbers))
    without = network(torch.where(boxed > 0, blurred[numbers], images[numbers])) > 0
    alone = network(torch.where(boxed > 0, images[numbers], blurred[numbers])) > 0
    others = (read & present)[numbers]
    others[rows, labels] = False
    figures["hidden: no longer read"] = (~without[rows, labels]).float().mean().item()
    figures["hidden: others still read"] = without[others].float().mean().item()
    figures["alone: still read"] = alone[rows, labels].float().mean().item()
    alone[rows, labels] = False
    figures["alone: anything else read"] = alone.any(dim=1).float().mean().item()
    return figures


def held_out(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of the test split: 40 of each class, evenly spread over the data's order."""
    chosen = []
    for label in range(CLASSES):
        (members,) = np.nonzero(labels == label)
        chosen.append(members[np.arange(HELD_OUT_PER_CLASS) * len(members) // HELD_OUT_PER_CLASS])
    return np.sort(np.concatenate(chosen))


def write_data(path: Path) -> None:
    """Write the handwriting of the test split, with its source and licence."""
    digits = load_digits()
    indices = held_out(digits.target)
    np.savez_compressed(
        path,
        images=digits.images[indices].astype(np.uint8),
        labels=digits.target[indices].astype(np.uint8),
        indices=indices.astype(np.uint16),
        source=np.array(
            "Optical Recognition of Handwritten Digits, test part; E. Alpaydin and C. Kaynak, "
            "UCI Machine Learning Repository, 1998; https://doi.org/10.24432/C50P49; "
            "by way of scikit-learn's load_digits, rows as in indices; values 0 to 16"
        ),
        licence=np.array("CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, write the two files and print the evaluation."""
    parser = argparse.ArgumentParser(description="Train the digit network.")
    parser.add_argument("--out", type=Path, default=WEIGHTS_FILE.parent, help="folder (default: the package's)")
    parser.add_argument("--steps", type=int, default=1500, help="batches of 32 scenes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    write_data(options.out / DATA_FILE.name)
    network = train(options.steps, options.seed)
    torch.save(network.state_dict(), options.out / WEIGHTS_FILE.name)
    print("on 500 test scenes:")
    for name, figure in evaluate(network, DigitScenes(500, seed=1)).items():
        print(f"  {name}: {figure:.4f}")
    clutter = drawn(DigitScenes(200, digits_per_scene=(0, 0), seed=1), 0).images.float()
    with torch.no_grad():
        highest = network(clutter).sigmoid().amax(dim=1)
    print(f"  clutter alone: mean highest probability: {highest.mean():.4f}")


if __name__ == "__main__":
    main()
