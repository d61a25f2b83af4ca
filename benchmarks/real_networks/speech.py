"""The part of a second of sound that makes it speech, for silero-vad's network.

    pip install 'captum-extremal[real]'  # and the program espeak-ng, of the operating system
    OMP_NUM_THREADS=1 python benchmarks/real_networks/speech.py [--out speech.png]

A word is said at a known place in noise. The score is the mean of the network's probability of speech over the second's
32 pieces; hidden samples are silence.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter
from typing import Any

import torch
from silero_vad import load_silero_vad
from torch import Tensor
from voice import RATE, spoken

from captum_extremal import ExtremalPerturbation, SmoothMask
from captum_extremal.visualization import show_signal

PIECE, PIECES = 512, 32
START, NOISE = 0.4, 0.003  # seconds, root mean square


def speech_score(network: Any, signals: Tensor) -> Tensor:
    """The mean probabilities (N,) of signals (N, 1, L). The network remembers what it heard, so it is reset first."""
    network.reset_states()
    return torch.cat([network(piece, RATE) for piece in signals[:, 0].split(PIECE, dim=1)], dim=1).mean(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="speech.png")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    network = load_silero_vad()
    word = spoken("seven", "en-us")
    signal = NOISE * torch.randn(1, 1, PIECE * PIECES, generator=torch.Generator().manual_seed(0))
    first, last = int(START * RATE), int(START * RATE) + len(word)
    signal[0, 0, first:last] += word
    started = perf_counter()
    found = ExtremalPerturbation(lambda x: speech_score(network, x)).extremal_masks(
        signal,
        areas="optimal",
        mask=SmoothMask(step=256, sigma=768),
        perturbation="fade",
        score_threshold=lambda clean, perturbed: 0.9 * clean,
    )
    seconds = perf_counter() - started
    mask = found.optimal_mask()[0, 0]
    inside = mask[first:last].sum() / mask.sum()
    print(f"the word is at {first / RATE:.2f} to {last / RATE:.2f} s, {len(word) / signal.numel():.1%} of the sound")
    print(
        f"a* {float(found.optimal_area):.3f}, score {float(found.optimal_score):.3f} of {float(found.clean_score):.3f}"
        f", of silence {float(found.perturbed_score):.3f}"
    )
    print(f"{float(inside):.1%} of the mask is on the word; {seconds:.0f} seconds")
    title = f"a word at samples {first} to {last}"
    show_signal(found, signal, title=title).savefig(out, dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
