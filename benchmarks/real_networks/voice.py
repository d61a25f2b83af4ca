"""Sound with a known speaker and text, made by the operating system's espeak-ng."""

from __future__ import annotations

import io
import subprocess
import warnings

import numpy as np
import torch
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

RATE = 16000  # samples a second


def spoken(text: str, voice: str, loudness: float = 0.03) -> Tensor:
    """The samples (L,) of a text in a voice of espeak-ng, of this root mean square, with no silence at the ends."""
    command = ["espeak-ng", "-v", voice, "--stdout", text]
    written = io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # the length in its header is a guess
        rate, samples = wavfile.read(written)
    samples = resample_poly(samples / 2**15, RATE, rate)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    return torch.from_numpy(samples / np.sqrt(np.mean(samples**2)) * loudness).float()
