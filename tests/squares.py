"""A detector whose boxes are known: it finds red squares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, SQUARE = 32, 10


def find_squares(images: Tensor) -> list[dict[str, Tensor]]:
    """Squares of class 1 in images (N, 3, 32, 32), each found several times; scores below 0.3 are dropped."""
    rows, columns = SIDE - SQUARE + 1, SIDE - SQUARE + 1
    x, y = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
    boxes = torch.stack([x, y, x + SQUARE, y + SQUARE], dim=2).view(-1, 4).float()
    scores = torch.sigmoid(10 * (F.avg_pool2d(images[:, :1], SQUARE, 1).flatten(1) - 0.5))
    return [
        {"boxes": boxes[one > 0.3], "labels": torch.ones(int((one > 0.3).sum())).long(), "scores": one[one > 0.3]}
        for one in scores
    ]
