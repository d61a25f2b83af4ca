"""Which channels of the embedded network belong to which digit, and what removing them costs.

    python benchmarks/class_channels.py [--out FOLDER] [--images 20] [--count 5] [--threads 1]

Scenes of one digit each, a layer of 64 channels. The channels are found on some scenes, and removed in others. A run
that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_extremal import LayerExtremalPerturbation, class_channels
from captum_extremal.datasets import DigitScenes, digit_network

LAYER = 11  # of the network's features: the last
AREAS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("class-channels"))
    parser.add_argument("--images", type=int, default=20, help="of each digit")
    parser.add_argument("--count", type=int, default=5, help="channels to remove")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    network = digit_network()
    method = LayerExtremalPerturbation(network, network.features[LAYER])
    found = class_channels(
        method,
        DataLoader(scenes(options.images, seed=0), batch_size=10),
        path=options.out / f"rows-{options.images}.jsonl",
        areas=AREAS,
        score_threshold=lambda clean, perturbed: 0.9 * clean,
        show_progress=sys.stderr.isatty(),
    )
    drop = found.removal_drop(method, DataLoader(scenes(options.images, seed=1), batch_size=50), count=options.count)
    print(f"| digit | images | skipped | first {options.count} channels | its score falls by | that of the others by |")
    print("|---|---|---|---|---|---|")
    for row, label in enumerate(drop.removed):
        listed = ", ".join(str(int(channel)) for channel in drop.channels[row])
        counts = f"{found.used[found.classes.index(label)]} | {found.skipped[found.classes.index(label)]}"
        print(f"| {label} | {counts} | {listed} | {float(drop.own[row]):.2f} | {float(drop.others[row]):.2f} |")
    return 0


def scenes(images: int, seed: int) -> list[tuple[Tensor, int]]:
    """As many scenes of each digit, in the order of their number."""
    pairs: list[tuple[Tensor, int]] = []
    counts: Counter[int] = Counter()
    for scene in DigitScenes(length=100 * images, size=(64, 64), digits_per_scene=(1, 1), seed=seed):
        label = int(scene.labels[0])
        if counts[label] < images:
            counts[label] += 1
            pairs.append((scene.image, label))
        if len(pairs) == 10 * images:
            break
    return pairs


if __name__ == "__main__":
    sys.exit(main())
