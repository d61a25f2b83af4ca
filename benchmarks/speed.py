"""Scores and seconds beside the released code (TorchRay): the same photographs, network, areas and cores.

    python benchmarks/speed.py --data FOLDER [--network squeezenet] [--out FOLDER] [--threads 1] [--reuse]
      [--contestants path ...]
    python benchmarks/speed.py --data FOLDER --beside path --contestants path-three

Each contestant runs in a process of its own, one after another. TorchRay (``pip install --no-deps torchray``) needs
minutes a photograph: its masks are kept, as OUT/NETWORK/torchray/STEM.npz with the arrays masks (A, 224, 224) and
seconds, and a rerun extrapolates its time from 40 steps on one photograph. Its masks come out larger than asked, so
ours are asked for the areas that they really have, photograph by photograph. Beside one of our own solvers nothing of
TorchRay's is needed, and the areas are those masks' means.

All masks are judged by one evaluator that shares no code with the package, in float32: the score of the soft mask, and
that of the binary mask of exactly its area. The solver was tuned on the first half of the photographs, with SqueezeNet;
the tables keep the halves apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from photographs import Triple, add_data_option, add_network_option, network, normalised, target_of
from torch import Tensor, nn

from captum_extremal import ExtremalPerturbation, PathSolver, PenaltySolver

TORCHRAY = "torchray"
ASKED = (0.05, 0.1, 0.2, 0.4)  # of TorchRay
FOUND = (0.082, 0.156, 0.29, 0.542)  # what its masks of twelve photographs have, on average
STEPS, TIMED_STEPS = 800, 40
TUNED = ("0001_goldfish", "0009_ostrich", "0069_trilobite", "0086_partridge", "0144_pelican", "0940_spaghetti_squash")
HELD_OUT = ("0045_Gila_monster", "0292_tiger", "0340_zebra", "0388_giant_panda", "0546_electric_guitar", "0618_ladle")
FLOAT32 = {
    "path": PathSolver(),
    "path-three": PathSolver(searches=3),
    "penalty": PenaltySolver.released(),
}
SOLVERS = FLOAT32 | {f"{name}-bf16": replace(solver, precision=torch.bfloat16) for name, solver in FLOAT32.items()}


def main() -> int:
    options = parse()
    if options.worker:
        torch.set_num_threads(options.threads)
        torchray(options) if options.worker == TORCHRAY else ours(options)
        return 0
    names = [options.beside, *options.contestants]
    for name in names:
        if name == TORCHRAY or wanted(options, name):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--worker", name], check=True)
    torch.set_num_threads(options.threads)
    judges = network(options.network, options.data)
    scores = {name: judge(*judges, options, name) for name in names}
    print(tables(options, scores))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    add_network_option(parser)
    parser.add_argument("--out", type=Path, default=Path("speed"), help="where masks and times are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--contestants", nargs="*", choices=list(SOLVERS), default=["path", "path-bf16", "penalty-bf16"]
    )
    parser.add_argument("--beside", choices=[TORCHRAY, *SOLVERS], default=TORCHRAY, help="what is 1 in the tables")
    parser.add_argument("--photographs", nargs="*", default=[*TUNED, *HELD_OUT], metavar="STEM")
    parser.add_argument("--reuse", action="store_true", help="judge the masks that OUT has instead of searching anew")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


# The contestants: each leaves its masks (A, 224, 224) and seconds in OUT/NETWORK/NAME/STEM.npz


def torchray(options: argparse.Namespace) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchray.attribution.extremal_perturbation import extremal_perturbation
    except ImportError as error:
        raise SystemExit(f"TorchRay is missing ({error}): pip install --no-deps torchray") from error
    model, *norm = network(options.network, options.data)

    def masks(x: Tensor, target: int, steps: int) -> Tensor:
        found: Tensor = extremal_perturbation(model, x, target, areas=list(ASKED), max_iter=steps)[0]
        return found.detach()

    for stem in options.photographs:
        if not kept(options, TORCHRAY, stem).exists():
            x, target = photograph(options, stem, *norm)
            started = time.perf_counter()
            keep(options, TORCHRAY, stem, masks(x, target, STEPS), started)
            print(f"{TORCHRAY}: {stem}", file=sys.stderr)
    x, target = photograph(options, options.photographs[0], *norm)
    started = time.perf_counter()
    masks(x, target, TIMED_STEPS)
    seconds = (time.perf_counter() - started) * STEPS / TIMED_STEPS
    seconds_of_torchray(options).write_text(json.dumps(seconds))


def ours(options: argparse.Namespace) -> None:
    stems = wanted(options, options.worker)
    model, *norm = network(options.network, options.data)
    method = ExtremalPerturbation(model.to(memory_format=torch.channels_last))
    solver = SOLVERS[options.worker]
    first = photograph(options, stems[0], *norm)[0].to(memory_format=torch.channels_last)
    method.extremal_masks(first, target=0, areas=ASKED, solver=PathSolver(steps=4, precision=torch.bfloat16))  # warm up
    for stem in stems:
        x, target = photograph(options, stem, *norm)
        x = x.to(memory_format=torch.channels_last)
        areas = areas_of(options, stem).tolist()
        started = time.perf_counter()
        found = method.extremal_masks(x, target=target, areas=areas, solver=solver)
        keep(options, options.worker, stem, found.masks, started)
        print(f"{options.worker}: {stem}", file=sys.stderr)


def wanted(options: argparse.Namespace, name: str) -> list[str]:
    """The photographs whose masks are still to be found."""
    return [stem for stem in options.photographs if not (options.reuse and kept(options, name, stem).exists())]


def photograph(options: argparse.Namespace, stem: str, mean: Triple, std: Triple) -> tuple[Tensor, int]:
    path = options.data / "images" / f"{stem}.jpg"
    return normalised(path, mean, std), target_of(path)


def kept(options: argparse.Namespace, name: str, stem: str) -> Path:
    return Path(options.out) / options.network / name / f"{stem}.npz"


def seconds_of_torchray(options: argparse.Namespace) -> Path:
    return kept(options, TORCHRAY, "seconds").with_suffix(".json")


def keep(options: argparse.Namespace, name: str, stem: str, masks: Any, started: float) -> None:
    seconds = time.perf_counter() - started
    path = kept(options, name, stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, masks=masks.reshape(len(ASKED), *masks.shape[-2:]).numpy(), seconds=seconds)
    partial.replace(path)


def areas_of(options: argparse.Namespace, stem: str) -> Tensor:
    """The areas (A,) that a photograph's masks are to have."""
    if options.beside != TORCHRAY:
        return torch.tensor(FOUND)
    areas: Tensor = load(options, TORCHRAY, stem)["masks"].mean((1, 2))
    return areas


def load(options: argparse.Namespace, name: str, stem: str) -> dict[str, Any]:
    with np.load(kept(options, name, stem)) as file:
        return {"masks": torch.from_numpy(file["masks"]), "seconds": float(file["seconds"])}


# The evaluator: nothing of the package's


def judge(
    model: nn.Module, mean: Triple, std: Triple, options: argparse.Namespace, name: str
) -> dict[str, dict[str, Tensor]]:
    """For each photograph the areas, soft and binary scores (A,), and seconds."""
    found = {}
    for stem in options.photographs:
        x, target = photograph(options, stem, mean, std)
        levels = blurred_levels(x)
        result = load(options, name, stem)
        masks, areas = result["masks"], areas_of(options, stem)
        binary = torch.stack([highest(mask, float(area)) for mask, area in zip(masks, areas)])
        with torch.no_grad():
            soft, hard = (model(blend(levels, m))[:, target] for m in (masks, binary))
        error = (masks.mean((1, 2)) - areas).abs()
        found[stem] = {"soft": soft, "binary": hard, "error": error, "seconds": torch.tensor(result["seconds"])}
    return found


def blurred_levels(x: Tensor) -> Tensor:
    """The image at 8 levels of blur up to 20 px, the border replicated: (8, 3, H, W)."""
    levels = [x[0]]
    for level in range(1, 8):
        sigma = 20 * level / 7
        radius = int(4 * sigma + 1)
        taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        taps = (taps / taps.sum()).expand(3, 1, 1, -1)
        wide = F.pad(x, [radius] * 4, mode="replicate")
        levels.append(F.conv2d(F.conv2d(wide, taps, groups=3), taps.transpose(2, 3), groups=3)[0])
    return torch.stack(levels)


def blend(levels: Tensor, masks: Tensor) -> Tensor:
    """Images (A, 3, H, W) from levels (8, 3, H, W) and masks (A, H, W): hat weights over the levels."""
    depth = (1 - masks) * 7
    weights = (1 - (depth[:, None] - torch.arange(8.0).view(8, 1, 1)).abs()).clamp(min=0)
    return torch.einsum("alhw,lchw->achw", weights, levels)


def highest(mask: Tensor, area: float) -> Tensor:
    binary = torch.zeros(mask.numel())
    binary[mask.flatten().topk(round(area * mask.numel())).indices] = 1
    return binary.view_as(mask)


# The tables


def tables(options: argparse.Namespace, scores: dict[str, dict[str, dict[str, Tensor]]]) -> str:
    halves = {
        "held out": [stem for stem in options.photographs if stem in HELD_OUT],
        "tuned on": [stem for stem in options.photographs if stem not in HELD_OUT],
        "all": options.photographs,
    }
    return "\n\n".join(f"{name}:\n\n{table(options, scores, stems)}" for name, stems in halves.items() if stems)


def table(options: argparse.Namespace, scores: dict[str, Any], stems: list[str]) -> str:
    seconds = {name: float(stack(found, stems, "seconds").mean()) for name, found in scores.items()}
    if options.beside == TORCHRAY:
        seconds[TORCHRAY] = json.loads(seconds_of_torchray(options).read_text())
    baseline = {kind: stack(scores[options.beside], stems, kind) for kind in ("soft", "binary")}
    lines = [
        f"| {len(stems)} photographs | soft score, {options.beside} = 1 | mean | wins | binary score | mean | wins "
        "| worst area error | seconds | times faster |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in scores.items():
        cells = [name]
        for kind in ("soft", "binary"):
            values = stack(found, stems, kind)
            ratio = values.mean(0) / baseline[kind].mean(0)
            wins = int((values > baseline[kind]).sum())
            cells += [" / ".join(f"{r:.2f}" for r in ratio), f"{float(ratio.mean()):.3f}", f"{wins}/{values.numel()}"]
        times = f"{seconds[options.beside] / seconds[name]:.3g}"
        cells += [f"{float(stack(found, stems, 'error').max()):.0e}", f"{seconds[name]:.1f}", times]
        lines.append("| " + " | ".join(cells) + " |")
    means = torch.stack([areas_of(options, stem) for stem in stems]).mean(0)
    return "\n".join([*lines, "", f"Mean areas: {' / '.join(f'{area:.3f}' for area in means.tolist())}."])


def stack(found: dict[str, dict[str, Tensor]], stems: list[str], kind: str) -> Tensor:
    return torch.stack([found[stem][kind] for stem in stems])


if __name__ == "__main__":
    sys.exit(main())
