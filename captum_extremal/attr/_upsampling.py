"""Linear interpolation in one to three dimensions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def upsample(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Enlarge x (B, C, *S) to the spatial shape."""
    return F.interpolate(x, size=shape, mode=_MODES[len(shape)], align_corners=False)
