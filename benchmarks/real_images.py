"""Extremal perturbations of real photographs: a*, scores and areas in each game, and whether evidence is monotone.

    python benchmarks/real_images.py --data FOLDER [--network squeezenet] [--out FOLDER] [--figures 10] [--images 44]
      [--precision bfloat16]

A row a photograph and game is appended to ``OUT/NETWORK/rows.jsonl``; a run that was stopped goes on where it stopped.
The summary is printed as Markdown, the way it stands in README.md beside this file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from photographs import add_data_option, add_network_option, network, normalised, rgb, target_of
from rows import Row, completed

from captum_extremal import ExtremalMasks, ExtremalPerturbation, PathSolver
from captum_extremal.visualization import show_curves, show_mask, show_order, show_sweep

GAMES = ("preserve", "delete", "hybrid")


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    out = options.out / options.network
    out.mkdir(parents=True, exist_ok=True)
    model, *norm = network(options.network, options.data)
    model.to(memory_format=torch.channels_last)
    photographs = sorted((options.data / "images").glob("*.jpg"))[: options.images]
    drawn = photographs[: options.figures]

    def row(name: str, game: str) -> Row:
        print(f"{game} {name}", file=sys.stderr)
        photograph = options.data / "images" / name
        x = normalised(photograph, *norm).to(memory_format=torch.channels_last)
        solver = PathSolver(precision=options.precision)
        found = ExtremalPerturbation(model).extremal_masks(x, target=target_of(photograph), game=game, solver=solver)
        if game == "preserve" and photograph in drawn:
            draw(out, photograph, found)
        return as_row(photograph, game, found)

    keys = [(photograph.name, game) for game in GAMES for photograph in photographs]
    print(summary(completed(out / "rows.jsonl", keys, row)))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    add_network_option(parser)
    parser.add_argument("--out", type=Path, default=Path("real-images"))
    parser.add_argument("--figures", type=int, default=10, help="photographs to draw")
    parser.add_argument("--images", type=int, default=None, help="how many photographs, from the first")
    parser.add_argument(
        "--precision", type=lambda name: getattr(torch, name), default=None, help="of the search, such as bfloat16"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def as_row(photograph: Path, game: str, found: ExtremalMasks) -> Row:
    assert isinstance(found.masks, torch.Tensor)
    assert isinstance(found.binariness, torch.Tensor)
    area = float(found.optimal_area)
    below = found.areas < (area if found.reached else torch.inf)
    return {
        "photograph": photograph.name,
        "game": game,
        "clean": float(found.clean_score),
        "perturbed": float(found.perturbed_score),
        "areas": found.areas.tolist(),
        "measured": found.masks[0].mean((1, 2, 3)).tolist(),
        "scores": found.scores[0].tolist(),
        "complements": found.complement_scores[0].tolist(),
        "binariness": found.binariness[0].tolist(),
        "optimal_area": area if found.reached else None,
        "optimal_score": float(found.optimal_score),
        "vacuous": bool(found.vacuous),
        "below": int(below.sum()),
        "monotone": bool((found.values[0][below].diff() >= 0).all()),
        "seconds": found.settings["seconds"],
    }


def draw(out: Path, photograph: Path, found: ExtremalMasks) -> None:
    image = rgb(photograph)[None]
    figures = {"mask": show_mask(found, image), "sweep": show_sweep(found, image), "order": show_order(found, image)}
    for name, figure in (figures | {"curves": show_curves(found)}).items():
        figure.savefig(out / f"{photograph.stem}_{name}.png", dpi=100)


def summary(rows: list[Row]) -> str:
    lines = [
        "| game | photographs | a* reached | median a* | worst area error | binariness | monotone below a* "
        "| ... of those with two areas there | median seconds a photograph |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [summary_row(game, [row for row in rows if row["game"] == game]) for game in GAMES]
    lines += ["", "Mean score of what is kept, as a share of the clean score, and of what is left:", ""]
    areas = rows[0]["areas"]
    lines.append("| game | " + " | ".join(f"{area:g}" for area in areas) + " |")
    lines.append("|---" * (len(areas) + 1) + "|")
    for game in GAMES:
        of_game = [row for row in rows if row["game"] == game]
        for label, key in (("kept", "scores"), ("left", "complements")):
            shares = torch.tensor([[score / row["clean"] for score in row[key]] for row in of_game]).mean(0)
            lines.append(f"| {game}, {label} | " + " | ".join(f"{share:.2f}" for share in shares.tolist()) + " |")
    return "\n".join(lines)


def summary_row(game: str, rows: list[Row]) -> str:
    reached = [row["optimal_area"] for row in rows if row["optimal_area"] is not None]
    errors = [abs(m - a) for row in rows for m, a in zip(row["measured"], row["areas"])]
    binariness = torch.tensor([row["binariness"] for row in rows]).mean()
    telling = [row["monotone"] for row in rows if row["below"] >= 2]
    monotone = sum(row["monotone"] for row in rows)
    seconds = torch.tensor([row["seconds"] for row in rows]).median()
    return (
        f"| {game} | {len(rows)} | {len(reached)} | {torch.tensor(reached or [torch.nan]).median():.2f} "
        f"| {max(errors):.1e} | {binariness:.2f} | {monotone}/{len(rows)} = {monotone / len(rows):.1%} "
        f"| {sum(telling)}/{len(telling)} = {sum(telling) / max(1, len(telling)):.1%} | {seconds:.1f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
