"""How much a search's scores vary when the photograph moves by one pixel.

    OMP_NUM_THREADS=1 python benchmarks/shifts.py --data FOLDER [--network squeezenet] [--precision bfloat16]

Each photograph is explained where it is and moved by one pixel up, down, left and right (the border repeated). Its
spread is the standard deviation of the five scores over their mean: a perfect search of a model that does not mind the
shift would have none. The clean scores' own spread stands beside it. The evaluator is that of ``speed.py``.
"""

from __future__ import annotations

import argparse
import sys

import torch
import torch.nn.functional as F
from photographs import add_data_option, add_network_option, network, normalised, target_of
from speed import FOUND, HELD_OUT, TUNED, blend, blurred_levels, highest
from torch import Tensor

from captum_extremal import ExtremalPerturbation, PathSolver

SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    model, *norm = network(options.network, options.data)
    method = ExtremalPerturbation(model.to(memory_format=torch.channels_last))
    solver = PathSolver(precision=getattr(torch, options.precision) if options.precision else None)
    found = []
    for stem in options.photographs:
        path = options.data / "images" / f"{stem}.jpg"
        target = target_of(path)
        scores = []
        for shift in SHIFTS:
            x = shifted(normalised(path, *norm), shift).to(memory_format=torch.channels_last)
            masks = method.extremal_masks(x, target=target, areas=FOUND, solver=solver).masks[0, :, 0]
            binary = torch.stack([highest(mask, area) for mask, area in zip(masks, FOUND)])
            levels = blurred_levels(x.contiguous())
            with torch.no_grad():
                soft, hard, clean = (model(y)[:, target] for y in (blend(levels, masks), blend(levels, binary), x))
            scores.append(torch.cat([soft, hard, clean]))
        found.append(torch.stack(scores))
        print(stem, file=sys.stderr)
    print(table(torch.stack(found)))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    add_network_option(parser)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["bfloat16"], help="of the search")
    parser.add_argument("--photographs", nargs="*", default=[*TUNED, *HELD_OUT], metavar="STEM")
    return parser.parse_args()


def shifted(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """The image (1, C, H, W) moved by whole pixels, the border repeated."""
    down, right = shift
    wide = F.pad(x, [1, 1, 1, 1], mode="replicate")
    height, width = x.shape[-2:]
    return wide[..., 1 - down : 1 - down + height, 1 - right : 1 - right + width]


def table(scores: Tensor) -> str:
    """Of scores (photographs, shifts, soft and binary of each area and clean)."""
    spread = (scores.std(1) / scores.mean(1).abs()).mean(0).tolist()
    areas = len(FOUND)
    lines = ["| score | " + " | ".join(f"area {area}" for area in FOUND) + " |", "|---" * (areas + 1) + "|"]
    for name, values in (("soft", spread[:areas]), ("binary", spread[areas : 2 * areas])):
        lines.append(f"| {name} | " + " | ".join(f"{value:.1%}" for value in values) + " |")
    return "\n".join([*lines, "", f"Clean: {spread[-1]:.1%}. {len(scores)} photographs, {len(SHIFTS)} places each."])


if __name__ == "__main__":
    sys.exit(main())
