"""The part of a recording in which a speaker is heard, for Resemblyzer's network.

    pip install --no-deps Resemblyzer  # for its weights; the package itself is not imported. And the program espeak-ng
    OMP_NUM_THREADS=1 python benchmarks/real_networks/speakers.py [--out speakers.png]

One voice speaks in the first half of the recording and another in the second. The network makes features of mel frames
(N, T, 40). The score of a voice is how much nearer, by the cosine, they are to its own features in another sentence
than to those of the other voice. (The cosines themselves are much alike: both voices are synthetic.) The recording is
explained for either voice, with time masked and hidden frames silent (``channel_dim=-1``), in the hybrid game: what is
kept must sound like the voice, and what is hidden must not.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from voice import RATE, spoken

from captum_extremal import ExtremalPerturbation
from captum_extremal.objectives import Similarity
from captum_extremal.visualization import show_signal

VOICES = {"a man": "en-us+m3", "a woman": "en-us+f2"}
AREA = 0.3  # of the recording; each voice speaks in half of it
FRAMES, MELS, WINDOW, STEP = 160, 40, 400, 160  # of the recording, of a frame, in samples


class VoiceEncoder(nn.Module):
    """Resemblyzer's network with its weights: frames (N, T, 40) to features (N, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(MELS, 256, 3, batch_first=True), nn.Linear(256, 256)
        package = find_spec("resemblyzer")
        if package is None or package.origin is None:
            raise ModuleNotFoundError("Resemblyzer's weights are missing: pip install --no-deps Resemblyzer")
        weights = Path(package.origin).with_name("pretrained.pt")
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        self.load_state_dict({name: state[name] for name in self.state_dict()})

    def forward(self, frames: Tensor) -> Tensor:
        return self.linear(self.lstm(frames)[1][0][-1]).relu()


def mel_frames(samples: Tensor) -> Tensor:
    """Samples (L,) as the frames (T, 40) that the network was trained with: powers in Slaney's mel bands."""
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(samples, WINDOW, STEP, window=window, pad_mode="constant", return_complex=True)
    return spectrum.abs().square().T @ _bands()


def _bands() -> Tensor:
    """The weights (F, 40) of each frequency in each band: triangles of the same area."""
    frequencies = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
    mels = torch.linspace(0, 15 + 27 * torch.log(torch.tensor(RATE / 2000)) / torch.log(torch.tensor(6.4)), MELS + 2)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    f = frequencies[:, None]
    return torch.minimum((f - left) / (middle - left), (right - f) / (right - middle)).clamp(min=0) * 2 / (right - left)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="speakers.png")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    encoder = VoiceEncoder().eval().requires_grad_(False)
    said = [mel_frames(spoken("The quick brown fox jumps over a lazy dog.", voice)) for voice in VOICES.values()]
    known = torch.cat([encoder(frames[None, :FRAMES]) for frames in said])
    half = FRAMES // 2
    recording = torch.cat(
        [mel_frames(spoken("We went home early in the evening", voice))[:half] for voice in VOICES.values()]
    )[None]
    cosines = Similarity(encoder, known)

    def nearer(frames: Tensor) -> Tensor:
        """(N, 2), for each voice its cosine less that of the other one."""
        found = cosines(frames)
        return found - found.flip(1)

    print(f"cosine of the two voices {float(F.cosine_similarity(known[:1], known[1:])):.3f}")
    started = perf_counter()
    found = ExtremalPerturbation(nearer).extremal_masks(
        recording.expand(2, -1, -1), target=[0, 1], areas=AREA, game="hybrid", perturbation="fade", channel_dim=-1
    )
    seconds = perf_counter() - started
    for k, name in enumerate(VOICES):
        mask = found.masks[k, 0, 0]
        own = mask[k * half : (k + 1) * half].sum() / mask.sum()
        print(
            f"{name}, in frames {k * half} to {(k + 1) * half}: {float(own):.1%} of a mask of {AREA:.0%} is there; "
            f"nearer by {float(found.scores[k, 0]):.2f} in what it keeps, {float(found.clean_score[k]):.2f} in all, "
            f"{float(found.complement_scores[k, 0]):.2f} in the rest"
        )
    print(f"{seconds:.0f} seconds")
    loudness = recording.sum(-1).sqrt()[:, None]
    for k, name in enumerate(VOICES):
        path = Path(out)
        figure = show_signal(
            found, loudness.expand(2, -1, -1), k, title=f"{name}, in frames {k * half} to {(k + 1) * half}"
        )
        figure.savefig(path.with_stem(f"{path.stem}_{k}"), dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
