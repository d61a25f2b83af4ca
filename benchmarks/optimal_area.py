"""How small a* is, and whether something smaller would have been enough.

    OMP_NUM_THREADS=1 python benchmarks/optimal_area.py --data FOLDER [--network squeezenet] [--images 44] [--sweep]
      [--penalty] [--out FOLDER]

For each photograph: a* with its passes and seconds. With ``--sweep`` also the smallest area of a sweep of 24 areas that
is enough. With ``--penalty`` also whether 0.9 a* is enough for the paper's solver (800 steps at this one area): the
share of such photographs is the honest error of the minimum. Rows are appended to ``OUT/NETWORK.jsonl``, a row a
photograph and question; a run that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from photographs import add_data_option, add_network_option, network, normalised, target_of
from rows import Row, completed
from torch import Tensor

from captum_extremal import ExtremalPerturbation, PenaltySolver

SWEEP = tuple(round(0.02 * 1.185**k, 4) for k in range(24))  # 0.02 to 0.99
SMALLER = 0.9


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    model, *norm = network(options.network, options.data)
    model.to(memory_format=torch.channels_last)
    passes = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal passes
        passes += len(x)
        return model(x)

    method = ExtremalPerturbation(counted)

    def row(question: str, name: str) -> Row:
        nonlocal passes
        print(question, name, file=sys.stderr)
        path, passes = options.data / "images" / name, 0
        x, target = normalised(path, *norm).to(memory_format=torch.channels_last), target_of(path)
        if question == "penalty":
            area = SMALLER * optimal[name]
            found = method.extremal_masks(x, target=target, areas=area, solver=PenaltySolver.released())
        else:
            found = method.extremal_masks(x, target=target, areas="optimal" if question == "a*" else SWEEP)
        return {
            "area": float(found.optimal_area),
            "share": float(found.optimal_value / found.clean_score),
            "passes": passes,
            "seconds": found.settings["seconds"],
        }

    names = [path.name for path in sorted((options.data / "images").glob("*.jpg"))][: options.images]
    rows, out = {}, options.out / f"{options.network}.jsonl"
    asked = ["a*", *(["sweep"] if options.sweep else []), *(["penalty"] if options.penalty else [])]
    keys = [(question, name) for question in asked for name in names]
    first = completed(out, keys[: len(names)], row)
    optimal = {name: found["area"] for name, found in zip(names, first)}
    rows = completed(out, keys, row)
    print(table(asked, rows, len(names)))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    add_network_option(parser)
    parser.add_argument("--images", type=int, default=None, help="how many photographs, from the first")
    parser.add_argument("--sweep", action="store_true", help="compare with a sweep of 24 areas")
    parser.add_argument("--penalty", action="store_true", help="try 0.9 a* with the paper's solver")
    parser.add_argument("--out", type=Path, default=Path("optimal-area"))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def table(asked: list[str], rows: list[Row], images: int) -> str:
    lines = ["| | photographs that reach Phi_0 | mean area | median | passes | seconds |", "|---|---|---|---|---|---|"]
    for k, question in enumerate(asked):
        found = rows[k * images : (k + 1) * images]
        areas = torch.tensor([row["area"] for row in found if row["area"] == row["area"]])
        passes, seconds = (sum(row[name] for row in found) / images for name in ("passes", "seconds"))
        reached = f"{len(areas)}/{images}"
        lines.append(
            f"| {question} | {reached} | {areas.mean():.3f} | {areas.median():.3f} | {passes:.0f} | {seconds:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
