"""Channels of real photographs that are enough: a* at three layers of SqueezeNet, against a simple rule.

    python benchmarks/layers.py --data FOLDER [--out FOLDER] [--images 44] [--precision bfloat16] [--threads 1]

The rule ranks the channels by gradient times activation, summed over the positions, and keeps the first. Both are
judged on the same numbers of channels, ours by the masks that the search found and by the binary masks of exactly as
many channels; the rule's masks are binary. Then the cost of a step: of the layers behind the hooked one, and of the
whole model with a hook. A run that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from captum.attr import LayerGradientXActivation
from photographs import add_data_option, normalised, squeezenet, target_of
from rows import Row, completed
from torch import Tensor, nn

from captum_extremal import LayerExtremalPerturbation, PathSolver
from captum_extremal.layers import LayerTail

LAYERS = (7, 10, 12)
COST_STEPS = 20


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    model = squeezenet(options.data).to(memory_format=torch.channels_last)
    photographs = sorted((options.data / "images").glob("*.jpg"))[: options.images]

    def row(layer: int, stem: str) -> Row:
        print(f"features.{layer} {stem}", file=sys.stderr)
        photograph = options.data / "images" / f"{stem}.jpg"
        return explain(model, model.features[layer], photograph, options.precision)

    keys = [(layer, photograph.stem) for layer in LAYERS for photograph in photographs]
    rows = completed(options.out / "layers.jsonl", keys, row)
    by_layer = {layer: rows[k * len(photographs) : (k + 1) * len(photographs)] for k, layer in enumerate(LAYERS)}
    print(summary(by_layer))
    print(curves(by_layer))
    print(cost(model, photographs[0]))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--out", type=Path, default=Path("layers"))
    parser.add_argument("--images", type=int, default=None, help="how many photographs, from the first")
    parser.add_argument(
        "--precision", type=lambda name: getattr(torch, name), default=None, help="of the search, such as bfloat16"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def explain(model: nn.Module, layer: nn.Module, photograph: Path, precision: torch.dtype | None) -> Row:
    x = normalised(photograph).to(memory_format=torch.channels_last)
    target = target_of(photograph)
    started = time.perf_counter()
    method = LayerExtremalPerturbation(model, layer)
    found = method.extremal_masks(x, target=target, solver=PathSolver(precision=precision))
    seconds = time.perf_counter() - started
    masks: Any = found.binary_masks()
    counts = masks[0].sum(1).tolist()
    tail = LayerTail(model, layer, (x,))
    return {
        "clean": float(found.clean_score),
        "counts": counts,
        "soft": found.scores[0].tolist(),
        "binary": scores(tail, masks[0].float(), target),
        "rule": scores(tail, first_channels(model, layer, x, target, counts), target),
        "seconds": seconds,
    }


def first_channels(model: nn.Module, layer: nn.Module, x: Tensor, target: int, counts: list[int]) -> Tensor:
    """Masks (A, K) of the channels whose gradient times activation is largest."""
    value = LayerGradientXActivation(model, layer).attribute(x, target=target).detach().sum((2, 3))[0]
    rank = value.argsort(descending=True).argsort()
    return (rank < torch.tensor(counts)[:, None]).float()


def scores(tail: LayerTail, masks: Tensor, target: int) -> list[float]:
    with torch.no_grad():
        kept = [tail(tail.activation[0] * mask[None, :, None, None]) for mask in masks]
    return [float(output[0, target]) for output in kept]


def enough(row: Row, kind: str) -> int:
    """The smallest number of channels that reaches the clean score; the layer's last number is all of them."""
    reaching = [n for n, score in zip(row["counts"], row[kind]) if score >= row["clean"]]
    return reaching[0] if reaching else row["counts"][-1]


def is_monotone(row: Row) -> bool:
    """Whether the score rises with the number of channels up to a* (equation 8)."""
    below = [score for n, score in zip(row["counts"], row["soft"]) if n < enough(row, "soft")]
    return all(after >= before for before, after in pairwise(below))


def summary(by_layer: dict[int, list[Row]]) -> str:
    lines = [
        "| layer | photographs | channels | mean a* | ... of binary masks | ... of the rule | binary / rule "
        "| no more than the rule | monotone below a* | median seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for layer, rows in by_layer.items():
        soft, binary, rule = (torch.tensor([float(enough(row, k)) for row in rows]) for k in ("soft", "binary", "rule"))
        cells: list[Any] = [f"features.{layer}", len(rows), rows[0]["counts"][-1]]
        cells += [f"{float(counts.mean()):.1f}" for counts in (soft, binary, rule)]
        cells += [f"{float((binary / rule).mean()):.2f}", f"{float((binary <= rule).float().mean()):.1%}"]
        cells += [f"{sum(map(is_monotone, rows))}/{len(rows)}"]
        cells += [f"{float(torch.tensor([row['seconds'] for row in rows]).median()):.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def curves(by_layer: dict[int, list[Row]]) -> str:
    lines = ["Mean score as a share of the clean score, of masks as found / of binary masks / of the rule's:", ""]
    shown = (1, 5, 10, 20, 40, 80, 150, 250)
    lines += ["| layer | " + " | ".join(f"{n} channels" for n in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for layer, rows in by_layer.items():
        cells = []
        for n in shown:
            at = rows[0]["counts"].index(n)
            shares = (
                sum(row[kind][at] / row["clean"] for row in rows) / len(rows) for kind in ("soft", "binary", "rule")
            )
            cells.append(" / ".join(f"{share:.2f}" for share in shares))
        lines.append(f"| features.{layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cost(model: nn.Module, photograph: Path) -> str:
    """Milliseconds of a step of the same search: split at the layer, and with a hook."""
    x, target = normalised(photograph).to(memory_format=torch.channels_last), target_of(photograph)
    lines = ["| layer | a step with the layers behind | with the whole model | ratio |", "|---|---|---|---|"]
    solver = PathSolver(steps=COST_STEPS, refinement=0)
    for layer in LAYERS:
        seconds = []
        # torch.fx cannot look into a function, so that the model in one is run whole.
        for forward in (model, lambda images: model(images)):
            method = LayerExtremalPerturbation(forward, model.features[layer])
            method.extremal_masks(x, target=target, areas=(0.1,), solver=PathSolver(steps=2))  # warm up
            seconds.append(method.extremal_masks(x, target=target, areas=(0.1,), solver=solver).settings["seconds"])
        split, whole = (1000 * s / COST_STEPS for s in seconds)
        lines.append(f"| features.{layer} | {split:.1f} ms | {whole:.1f} ms | {whole / split:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
