"""The pieces of a second of sound that make it speech, for silero-vad's network.

    pip install 'captum-extremal[real]'  # and the program espeak-ng, of the operating system
    OMP_NUM_THREADS=1 python benchmarks/real_networks/speech.py [--out speech.png]

A word is said at a known place in noise. The network hears 32 pieces of 32 ms, and the score is the mean of its 32
probabilities of speech. Each piece is a group: it is kept, or other noise of the same loudness stands in its place. So
nothing is half as loud, which a smooth mask that fades to silence would make use of: in silence, speech at a tenth of
its loudness is still speech to this network.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter
from typing import Any

import torch
from matplotlib.figure import Figure
from silero_vad import load_silero_vad
from torch import Tensor
from voice import RATE, spoken

from captum_extremal import ExtremalPerturbation

PIECE, PIECES = 512, 32
NOISE = 0.01  # root mean square; that of the words is 0.03
WORDS = {"seven": 0.4, "hello": 0.1, "yellow": 0.5, "tomorrow": 0.25}  # and where they begin, in seconds


def probabilities(network: Any, signals: Tensor) -> Tensor:
    """Of speech in each piece, (N, 32), of signals (N, 1, L)."""
    network.reset_states()  # it remembers what it heard
    return torch.cat([network(piece, RATE) for piece in signals[:, 0].split(PIECE, dim=1)], dim=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="speech.png")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    network = load_silero_vad()
    figure = Figure(figsize=(10, 2.4 * len(WORDS)), layout="constrained")
    print("| word | its pieces | pieces kept | on the word | score, whole / kept / noise | minimal | seconds |")
    print("|---|---|---|---|---|---|---|")
    for number, (text, start) in enumerate(WORDS.items()):
        generator = torch.Generator().manual_seed(number)
        signal, other = NOISE * torch.randn(2, 1, 1, PIECE * PIECES, generator=generator)
        word = spoken(text, "en-us")[: PIECE * PIECES - int(start * RATE)]
        first, last = int(start * RATE), int(start * RATE) + len(word)
        signal[0, 0, first:last] += word
        pieces = (torch.arange(PIECE * PIECES) // PIECE).view(1, 1, -1)
        started = perf_counter()
        found = ExtremalPerturbation(lambda x: probabilities(network, x).mean(1)).extremal_masks(
            signal,
            baselines=other,
            feature_mask=pieces,
            areas="optimal",
            score_threshold=lambda clean, perturbed: 0.9 * clean,
        )
        seconds = perf_counter() - started
        kept = sorted(found.groups()[0].tolist())
        on_word = [piece for piece in kept if first < (piece + 1) * PIECE and piece * PIECE < last]
        scores = [float(one) for one in (found.clean_score, found.optimal_score, found.perturbed_score)]
        print(
            f"| {text} | {first // PIECE} to {(last - 1) // PIECE} | {', '.join(map(str, kept))} | "
            f"{len(on_word)} of {len(kept)} | {' / '.join(f'{one:.2f}' for one in scores)} | "
            f"{bool(found.minimal)} | {seconds:.0f} |",
            flush=True,
        )
        of_pieces = torch.isin(pieces, found.groups()[0])
        with torch.no_grad():
            heard = probabilities(network, torch.cat([signal, torch.where(of_pieces, signal, other)]))
        draw(
            figure.add_subplot(len(WORDS), 1, number + 1), signal[0, 0], heard, kept, (first / RATE, last / RATE), text
        )
    figure.savefig(out, dpi=90)
    return 0


def draw(ax: Any, signal: Tensor, heard: Tensor, kept: list[int], place: tuple[float, float], text: str) -> None:
    """The sound with the pieces kept, and what the network hears in all of it and in these alone, (2, 32)."""
    length = PIECE / RATE
    ax.plot(torch.arange(len(signal)) / RATE, signal / signal.abs().max(), color="0.6", lw=0.5)
    for k, piece in enumerate(kept):
        ax.axvspan(piece * length, (piece + 1) * length, color="C2", alpha=0.35, label="kept" if k == 0 else None)
    edges = [piece * length for piece in range(PIECES + 1)]
    for values, colour, label in zip(heard, ("C0", "C1"), ("speech, heard in all of it", "in the kept pieces alone")):
        ax.stairs(values, edges, color=colour, lw=1.5, label=label)
    for side in place:
        ax.axvline(side, color="k", ls=":", lw=1)
    ax.set(
        title=f"\u201c{text}\u201d, said between the dotted lines", xlim=(0, edges[-1]), ylim=(-1.05, 1.05), xlabel="s"
    )
    ax.legend(loc="lower right", fontsize=7, ncols=3)


if __name__ == "__main__":
    sys.exit(main())
