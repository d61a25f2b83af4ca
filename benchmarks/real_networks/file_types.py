"""The words of a file that give away its type, for magika's network.

    pip install 'captum-extremal[real]'
    OMP_NUM_THREADS=1 python benchmarks/real_networks/file_types.py [--out file_types.png]

The network reads 2048 bytes: 1024 from the file's beginning and 1024 from its end, both filled up with a sign of their
own. Its first matrix product is their embedding, on which ``layer_mask`` keeps or hides groups: a group is a word, a
run of other signs or a run of white space, in both halves. Hidden bytes get the embedding of the filling. Asked is for
the fewest groups that give the file's type a probability of one half. They are then put to the whole network as bytes,
with the filling in the place of all others.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from time import perf_counter

import magika
import onnx
import torch
from matplotlib.figure import Figure
from onnx2torch import convert
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import Tensor, nn

from captum_extremal import GroupMask, LayerExtremalPerturbation

FOLDER = Path(magika.__file__).parent / "models"
HALF, FILLING = 1024, 256  # bytes of the beginning and of the end, and what stands where the file has none
ENOUGH = 0.5

FILES = {
    "python": b'''"""Sums of squares."""

import math


def norm(values):
    total = 0.0
    for value in values:
        total += value * value
    return math.sqrt(total)


if __name__ == '__main__':
    print(norm([3, 4]))
''',
    "html": b"""<!DOCTYPE html>
<html>
<head><title>A page</title></head>
<body>
<p>A paragraph of plain words that says little.</p>
<p>Another paragraph, as plain as the first one.</p>
</body>
</html>
""",
    "c": b"""/* Sums of squares. */
#include <math.h>

static double norm(const double *values, int count) {
    double total = 0;
    for (int k = 0; k < count; k++)
        total += values[k] * values[k];
    return sqrt(total);
}
""",
}


class GlobalMaxPool(nn.Module):
    """The one operation of the network that onnx2torch does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(tuple(range(2, x.dim())), keepdim=True)


@add_converter(operation_type="GlobalMaxPool", version=1)
def _(node: onnx.NodeProto, graph: object) -> OperationConverterResult:
    return OperationConverterResult(GlobalMaxPool(), OnnxMapping(inputs=node.input_values, outputs=node.output_values))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="file_types.png")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    tool = magika.Magika()
    network = convert(onnx.load(next(FOLDER.glob("*/model.onnx")))).eval().requires_grad_(False)
    embedding = next(one for one in network.modules() if type(one).__name__ == "OnnxMatMul")
    files = [words_of(text) for text in FILES.values()]
    inputs = torch.stack([laid_out([list(word) for word in words], FILLING) for words in files]).int()
    ids = torch.stack([laid_out([[k] * len(word) for k, word in enumerate(words, 1)], 0) for words in files])
    target = network(inputs).argmax(1)
    started = perf_counter()
    found = LayerExtremalPerturbation(network, embedding).extremal_masks(
        inputs,
        target.tolist(),
        areas="optimal",
        mask=GroupMask(),
        layer_mask=ids.unsqueeze(-1),
        layer_baselines=embedded(network, embedding, torch.full_like(inputs[:1], FILLING)),
        score_threshold=ENOUGH,
    )
    seconds = perf_counter() - started
    kept = found.groups()
    shown = torch.stack([x.where(torch.isin(one, groups), FILLING) for x, one, groups in zip(inputs, ids, kept)])
    told = network(shown.int()).gather(1, target[:, None])
    for k, (name, words) in enumerate(zip(FILES, files)):
        label = tool.identify_bytes(FILES[name]).dl.label
        texts = " ".join(repr(words[one - 1].decode()) for one in kept[k].tolist())
        print(
            f"{name}: {label} by the package itself; {len(words)} groups, probability {float(found.clean_score[k]):.3f}"
        )
        print(f"  {len(kept[k])} groups are enough: {texts}")
        print(f"  probability {float(found.optimal_score[k]):.3f}, of the bytes alone {float(told[k]):.3f}")
        print(f"  no single group can be left out: {bool(found.minimal[k])}")
    print(f"{seconds:.0f} seconds")
    drawn(files, [set(groups.tolist()) for groups in kept]).savefig(out, dpi=90)
    return 0


def words_of(text: bytes) -> list[bytes]:
    """The groups, in their order; white space around the file is not seen by the network."""
    return re.findall(rb"\w+|\s+|[^\w\s]+", text.strip())


def laid_out(groups: list[list[int]], filling: int) -> Tensor:
    """The values of all bytes as the network reads them (2048,): from the beginning, then up to the end."""
    values = torch.tensor([value for group in groups for value in group])
    halves = torch.full((2, HALF), filling)
    halves[0, : len(values)] = values[:HALF]
    halves[1, HALF - min(HALF, len(values)) :] = values[-HALF:]
    return halves.flatten()


def embedded(network: nn.Module, embedding: nn.Module, inputs: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda module, given, output: seen.append(output))
    network(inputs)
    handle.remove()
    return seen[0]


def drawn(files: list[list[bytes]], kept: list[set[int]]) -> Figure:
    """The files as text, what is kept in blue on grey."""
    figure = Figure((6.5, 7), layout="constrained")
    for ax, name, words, groups in zip(figure.subplots(len(files), 1), FILES, files, kept):
        row = column = 0
        for k, word in enumerate(words, 1):
            is_kept = k in groups
            style = (
                {"color": "#1f4fd8", "weight": "bold", "backgroundcolor": "#dde6ff"}
                if is_kept
                else {"color": "#999999"}
            )
            for line, part in enumerate(word.decode().split("\n")):
                row, column = (row + 1, 0) if line else (row, column)
                mark = part.replace(" ", "\u00b7") if is_kept else part
                if mark:
                    ax.text(column, -row, mark, family="monospace", size=8, parse_math=False, va="top", **style)
                column += len(part)
        ax.set(xlim=(0, 72), ylim=(-row - 1, 0.5))
        ax.set_title(f"{name}: {len(groups)} of {len(words)} groups", size=9, loc="left")
        ax.axis("off")
    return figure


if __name__ == "__main__":
    sys.exit(main())
