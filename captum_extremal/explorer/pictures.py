"""Pictures as compressed PNG in data URLs."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]

STEPS = 63  # of a channel of a perturbed picture; explorer.js has the same


def data_url(picture: Bytes) -> str:
    """A picture (H, W) or (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def as_bytes(values: NDArray[np.float64]) -> Bytes:
    """Values in [0, 1] in steps of 1 / 255."""
    return np.asarray(np.rint(values.clip(0, 1) * 255), dtype=np.uint8)


def signed_bytes(values: NDArray[np.float64]) -> Bytes:
    """Values of any sign in steps of 1 / 127 of the largest magnitude; 128 is zero."""
    largest = float(np.abs(values).max()) or 1.0
    return np.asarray(np.rint(128 + 127 * values / largest), dtype=np.uint8)


def differences(pictures: Sequence[NDArray[np.float64]]) -> list[str]:
    """The first picture in [0, 1], and of each other one its difference to the one before, modulo 256.

    Pictures under growing masks change in few places, so that their differences are small files. In steps of 1 / 63,
    of which a viewer sees nothing, they are half as large once more.
    """
    coarse = [np.rint(picture.clip(0, 1) * STEPS).astype(np.uint8) for picture in pictures]
    before = [np.zeros_like(picture) for picture in coarse[:1]] + coarse[:-1]
    return [data_url(picture - former) for picture, former in zip(coarse, before)]
