"""How alike the masks of two runs are, which differ in what should make no difference.

    OMP_NUM_THREADS=1 python benchmarks/stability.py --data FOLDER [--network squeezenet] [--images 32] [--out FOLDER]

Each photograph is explained alone, and three times more: multiplied by 1 + 1e-6 ("rounding"), in a batch with seven
others ("batch"), and cut out 2 px further down and right ("shift"). Printed are the mean IoU of the binary masks with
those of the first run, where both see the photograph, and the rank correlation of the saliency maps. A centred prior
would be steady too. So the scores of what the masks keep and of what they leave stand beside these, as shares of the
clean score.

A row a photograph is appended to ``OUT/NETWORK-SEARCHES.jsonl``; a run that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import cast

import torch
from photographs import add_data_option, add_network_option, network, normalised, target_of
from rows import Row, completed
from scipy.stats import spearmanr
from torch import Tensor

from captum_extremal import ExtremalMasks, ExtremalPerturbation, PathSolver
from captum_extremal.masks.binary import binarised

AREAS = (0.05, 0.1, 0.2, 0.4)
BATCH = 8
SHIFT = 2  # px
CHANGES = ("rounding", "batch", "shift")


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    model, *norm = network(options.network, options.data)
    method = ExtremalPerturbation(model.to(memory_format=torch.channels_last))
    paths = sorted((options.data / "images").glob("*.jpg"))[: options.images]

    def search(chosen: list[Path], shift: int = 0, factor: float = 1.0) -> ExtremalMasks:
        x = factor * torch.cat([normalised(path, *norm, shift=shift) for path in chosen])
        targets = [target_of(path) for path in chosen]
        solver = PathSolver(searches=options.searches)
        return method.extremal_masks(
            x.to(memory_format=torch.channels_last), target=targets, solver=solver, areas=AREAS
        )

    @cache
    def batch(first: int) -> ExtremalMasks:
        return search([paths[(first + k) % len(paths)] for k in range(BATCH)])

    def row(name: str) -> Row:
        print(name, file=sys.stderr)
        index = [path.name for path in paths].index(name)
        alone, place = [paths[index]], index % BATCH
        first = search(alone)
        together = batch(index - place).image(place)
        others = [search(alone, factor=1 + 1e-6), together, search(alone, shift=SHIFT)]
        clean = float(first.clean_score)
        return {
            "iou": [overlaps(first, other, shift) for other, shift in zip(others, (0, 0, SHIFT))],
            "rank": [correlation(first, other, shift) for other, shift in zip(others, (0, 0, SHIFT))],
            "kept": (first.scores[0] / clean).tolist(),
            "left": (first.complement_scores[0] / clean).tolist(),
        }

    keys = [(path.name,) for path in paths]
    print(table(completed(options.out / f"{options.network}-{options.searches}.jsonl", keys, row)))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    add_network_option(parser)
    parser.add_argument("--images", type=int, default=32, help="how many photographs, from the first")
    parser.add_argument("--searches", type=int, default=1, help="of the path solver")
    parser.add_argument("--out", type=Path, default=Path("stability"))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def overlaps(first: ExtremalMasks, other: ExtremalMasks, shift: int) -> list[float]:
    """The IoU of the binary masks of each area, where both see the photograph."""
    one, two = (
        seen_by_both(binarised(cast(Tensor, found.masks), found.areas)[0, :, 0], shift, which)
        for which, found in enumerate((first, other))
    )
    return ((one & two).flatten(1).sum(1) / (one | two).flatten(1).sum(1)).tolist()


def correlation(first: ExtremalMasks, other: ExtremalMasks, shift: int) -> float:
    one, two = (seen_by_both(found.saliency()[0], shift, which).flatten() for which, found in enumerate((first, other)))
    return float(spearmanr(one.numpy(), two.numpy()).statistic)


def seen_by_both(maps: Tensor, shift: int, which: int) -> Tensor:
    """Maps (A, H, W) without the rows and columns that one of two cuts lacks; the second is ``shift`` px further."""
    side = maps.shape[-1]
    near, far = (slice(shift, side), slice(0, side - shift))
    cut = far if which else near
    return maps[..., cut, cut]


def table(rows: list[Row]) -> str:
    heads = [f"{area:g}" for area in AREAS]
    lines = ["| | " + " | ".join(heads) + " | mean | rank correlation |", "|---" * (len(AREAS) + 3) + "|"]
    iou = torch.tensor([row["iou"] for row in rows]).mean(0)
    rank = torch.tensor([row["rank"] for row in rows]).mean(0)
    for name, by_area, correlated in zip(CHANGES, iou, rank.tolist()):
        cells = [*by_area.tolist(), float(by_area.mean()), correlated]
        lines.append(f"| IoU, {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    for name in ("kept", "left"):
        shares = torch.tensor([row[name] for row in rows]).mean(0)
        lines.append(
            f"| {name} | " + " | ".join(f"{share:.2f}" for share in [*shares.tolist(), float(shares.mean())]) + " | |"
        )
    return "\n".join([*lines, "", f"{len(rows)} photographs."])


if __name__ == "__main__":
    sys.exit(main())
