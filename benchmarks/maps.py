"""Which map of a search's masks points best, on other pairs than those of the tables of methods.

    python benchmarks/maps.py --data FOLDER [--network squeezenet] [--out FOLDER] [--scenes 40] [--mosaics 32]
      [--precision bfloat16]

Two sets of pairs: scenes of digits drawn from another seed than the tables', and mosaics of four photographs of which
one is explained by the network. The masks of each pair are searched once and kept, the mosaics' in OUT/NETWORK; a run
that was stopped goes on where it stopped. The table has a row a map, in per cent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from photographs import add_data_option, add_network_option, network, normalised, target_of
from torch import Tensor, nn
from torchvision.transforms import v2

from captum_extremal import ExtremalMasks, ExtremalPerturbation, PathSolver
from captum_extremal.datasets import DigitScenes, digit_network
from captum_extremal.evaluation import METHODS, make_method
from captum_extremal.metrics import energy_pointing_game, insertion_deletion, pointing_game
from captum_extremal.perturbations import gaussian_blur

SEED = 1
SIDE = 112  # px of a photograph in a mosaic
STEPS = 32  # of the curves of insertion and deletion
OTHERS = ("saliency", "guided_backprop", "grad_cam", "integrated_gradients")


@dataclass(frozen=True)
class Pair:
    """An image (1, C, H, W), a class in it, its pixels (H, W), the network, and the type that is searched in."""

    name: str
    model: nn.Module
    x: Tensor
    target: int
    truth: Tensor
    precision: torch.dtype | None


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    of_network = options.out / options.network
    sets = {
        "digits": [judged(pair, options.out) for pair in digits(options.scenes)],
        "mosaics": [judged(pair, of_network) for pair in mosaics(options)],
    }
    print(table(sets))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    add_network_option(parser)
    parser.add_argument("--out", type=Path, default=Path("maps"))
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--mosaics", type=int, default=32)
    parser.add_argument(
        "--precision", type=lambda name: getattr(torch, name), default=None, help="of the mosaics' search"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def digits(count: int) -> Iterator[Pair]:
    model = digit_network()
    for k, scene in enumerate(DigitScenes(count, seed=SEED)):
        for label, mask in zip(scene.labels, scene.masks):
            yield Pair(f"digits_{k:02d}_{label}", model, scene.image[None], label, mask, None)


def mosaics(options: argparse.Namespace) -> Iterator[Pair]:
    model, *norm = network(options.network, options.data)
    model.to(memory_format=torch.channels_last)
    photographs = sorted((options.data / "images").glob("*.jpg"))
    generator = torch.Generator().manual_seed(SEED)
    for k in range(options.mosaics):
        chosen = [photographs[i] for i in torch.randperm(len(photographs), generator=generator)[:4]]
        small = [v2.functional.resize(normalised(one, *norm), [SIDE, SIDE], antialias=True) for one in chosen]
        x = torch.cat([torch.cat(small[:2], 3), torch.cat(small[2:], 3)], 2)
        row, column = divmod(k % 4, 2)
        truth = torch.zeros(2 * SIDE, 2 * SIDE, dtype=torch.bool)
        truth[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = True
        x = x.contiguous(memory_format=torch.channels_last)
        yield Pair(f"mosaic_{k:02d}", model, x, target_of(chosen[k % 4]), truth, options.precision)


def masks_of(pair: Pair, folder: Path) -> ExtremalMasks:
    path = folder / f"{pair.name}.npz"
    if not path.exists():
        print(pair.name, file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        areas = METHODS["extremal"].options["areas"]
        solver = PathSolver(precision=pair.precision)
        method = ExtremalPerturbation(pair.model)
        method.extremal_masks(pair.x, target=pair.target, areas=areas, solver=solver).save(path)
    return ExtremalMasks.load(path)


MAPS: dict[str, Callable[[ExtremalMasks], Tensor]] = {
    "the paper's: sum of the masks, blurred": lambda found: found.saliency(),
    "mean of the masks": lambda found: weighted(found, 0),
    "... weighted by 1/a": lambda found: weighted(found, 1),
    "... by 1/a^2": lambda found: weighted(found, 2),
    "... by 1/a, times the contrast": lambda found: weighted(found, 1) * contrast(found),
    "mean, and the contrast where all masks agree": lambda found: weighted(found, 0) + agreed(found),
    "... the mean weighted by 1/a": lambda found: weighted(found, 1) + agreed(found),
    "... the mean weighted by 1/a^2: refined": lambda found: found.refined_saliency(),
    "... and squared": lambda found: found.refined_saliency() ** 2,
    "contrast alone": lambda found: contrast(found),
}


def weighted(found: ExtremalMasks, power: int) -> Tensor:
    weights = found.areas.view(1, -1, 1, 1, 1) ** -power
    return (found.masks * weights).sum(1) / weights.sum()


def contrast(found: ExtremalMasks) -> Tensor:
    """That of the result, blurred by 1 % of the shorter side, at most 1."""
    detail = gaussian_blur(found.contrast, 0.01 * min(found.contrast.shape[2:]), "zeros", normalise=True)
    return detail / detail.max().clamp(min=1e-30)


def agreed(found: ExtremalMasks) -> Tensor:
    return found.masks.prod(1) * contrast(found)


def judged(pair: Pair, folder: Path) -> list[list[float]]:
    """Pointing at 0 px, energy, insertion and deletion of each map."""
    found = masks_of(pair, folder)
    maps = [make(found) for make in MAPS.values()]
    maps += [make_method(name, pair.model)(pair.x, pair.target) for name in OTHERS]
    return [scores(pair, one.detach()) for one in maps]


def scores(pair: Pair, one: Tensor) -> list[float]:
    (pointing,) = pointing_game(one, ground_truth=[pair.truth], tolerance=0)
    (energy,) = energy_pointing_game(one, ground_truth=[pair.truth])
    curves = insertion_deletion(pair.model, one, pair.x, pair.target, steps=STEPS)
    return [pointing.value, energy.value, float(curves.insertion_auc), float(curves.deletion_auc)]


def table(sets: dict[str, list[list[list[float]]]]) -> str:
    head = [f"{len(rows)} {name}: 0 px | energy | insertion | deletion" for name, rows in sets.items()]
    lines = [f"| map | {' | '.join(head)} |", "|---" * (1 + 4 * len(sets)) + "|"]
    means = [torch.tensor(rows).mean(0) for rows in sets.values()]
    for k, name in enumerate([*MAPS, *OTHERS]):
        cells = [f"{100 * value:.1f}" for mean in means for value in mean[k].tolist()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
