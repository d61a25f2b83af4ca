"""The sanity check of the paper's figure 7: what becomes of every method's maps as SqueezeNet is randomised.

    python benchmarks/randomisation.py --data FOLDER [--out FOLDER] [--images 2] [--methods NAME...] [--threads 1]

From the last layer down, one fire module or convolution more at each stage, until nothing learned is left. A row a
photograph and method is appended to ``rows.jsonl``; a run that was stopped goes on where it stopped. The table is
printed as Markdown, and figure 7 of each photograph is written to the folder.

The network's scores are taken before its last ReLU. Behind it, those of a randomised network are soon 0 whatever the
image, and every gradient with them: the maps would change because there is no score, not because it was not learned.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from photographs import add_data_option, normalised, rgb, squeezenet, target_of
from rows import Row, completed
from torch import Tensor, nn

from captum_extremal.evaluation import METHODS, make_method
from captum_extremal.metrics import WeightRandomisation, weight_randomisation
from captum_extremal.visualization import show_randomisation

COMPARED = [*METHODS, "integrated_gradients"]
# Fewer masks than its own default, which would take hours here: a photograph has eleven maps of each method.
OPTIONS: dict[str, dict[str, Any]] = {"rise": {"n_samples": 500}}


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    model = squeezenet(options.data)
    model.classifier[2] = nn.Identity().eval()
    stages = [f"{part}.{name}" for part in ("classifier", "features") for name in reversed(trained(model, part))]
    photographs = sorted((options.data / "images").glob("*.jpg"))[: options.images]

    def row(name: str, method: str) -> Row:
        print(f"{method} {name}", file=sys.stderr)
        photograph = options.data / "images" / name
        started = time.perf_counter()
        run = weight_randomisation(
            model, partial(explainer, method), normalised(photograph), target_of(photograph), layers=stages
        )
        seconds = time.perf_counter() - started
        torch.save(vars(run), kept(options.out, name, method))
        alike = {key: getattr(run, key)[:, 0].tolist() for key in ("rank_correlation_absolute", "ssim")}
        return {"method": method, "seconds": seconds / (1 + len(stages)), **alike}

    keys = [(photograph.name, method) for photograph in photographs for method in options.methods]
    rows = completed(options.out / "rows.jsonl", keys, row)
    for photograph in photographs:
        paths = {name: kept(options.out, photograph.name, name) for name in options.methods}
        runs = {name: WeightRandomisation(**torch.load(path, weights_only=True)) for name, path in paths.items()}
        figure = show_randomisation(runs, rgb(photograph)[None])
        figure.savefig(options.out / f"{photograph.stem}.png", dpi=100)
    print(table(rows, options.methods, stages))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--out", type=Path, default=Path("randomisation"))
    parser.add_argument("--images", type=int, default=2, help="how many photographs, from the first")
    parser.add_argument("--methods", nargs="+", choices=COMPARED, default=COMPARED, metavar="NAME")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def trained(model: nn.Module, part: str) -> list[str]:
    """Names of a part's modules that have parameters, in the order of the forward."""
    children = model.get_submodule(part).named_children()
    return [name for name, module in children if next(module.parameters(), None) is not None]


def explainer(method: str, model: nn.Module) -> Callable[..., Tensor]:
    return make_method(method, model, options=OPTIONS.get(method))


def kept(out: Path, photograph: str, method: str) -> Path:
    return out / f"{Path(photograph).stem}-{method}.pt"


def table(rows: list[Row], methods: list[str], stages: list[str]) -> str:
    lines = [
        "Rank correlation / SSIM of the absolute attributions with the learned model's, means over the photographs:",
        "",
        "| method | " + " | ".join(stages) + " | seconds a map |",
        "|---" * (2 + len(stages)) + "|",
    ]
    for method in methods:
        of_method = [row for row in rows if row["method"] == method]
        ranks, similarities = (mean(of_method, key) for key in ("rank_correlation_absolute", "ssim"))
        cells = [f"{rank} / {similarity}" for rank, similarity in zip(ranks, similarities)]
        seconds = sum(row["seconds"] for row in of_method) / len(of_method)
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {seconds:.2f} |")
    return "\n".join(lines)


def mean(rows: list[Row], key: str) -> list[str]:
    """For each stage; a constant map has no rank correlation and does not count."""
    values = torch.tensor([row[key] for row in rows]).nanmean(0).tolist()
    return ["none" if value != value else f"{value:.2f}" for value in values]


if __name__ == "__main__":
    sys.exit(main())
