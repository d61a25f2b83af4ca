"""What the examples of the README and of docstrings take for granted: a model, inputs, a loader."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import captum_extremal
from captum_extremal import PathSolver, objectives
from words import PieceTokenizer, WordCounter

CLASSES, CHANNELS, SIDE = 400, 20, 32  # examples name classes up to 388 and channels up to 17


class StandIn(nn.Module):
    """A network with the parts that examples name."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, stride=4)]
        for _ in range(5):
            layers += [nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 1)]
        self.features = nn.Sequential(*layers)
        self.layer3 = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 400) of images (N, 3, H, W)."""
        scores: Tensor = self.head(self.layer3(self.features(x)))
        return scores


def detector(images: Tensor) -> list[dict[str, Tensor]]:
    """One detection in each image."""
    box, label = torch.tensor([[4.0, 4.0, 20.0, 20.0]]), torch.ones(1, dtype=torch.int64)
    return [{"boxes": box, "labels": label, "scores": score[None]} for score in images.mean((1, 2, 3)).sigmoid()]


def segmenter(images: Tensor) -> dict[str, Tensor]:
    """Logits of nine classes, of which the last is the likeliest."""
    return {"out": images[:, :1] * torch.arange(9.0)[:, None, None] + torch.arange(9.0)[:, None, None] * 9}


def features(x: Tensor) -> Tensor:
    """Features (N, 3) of images (N, 3, H, W), or of tokens (T, 3, L)."""
    return x.flatten(2).mean(2)


def stand_ins() -> dict[str, Any]:
    """The names that examples use without making them, and the public names of the package."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = StandIn().eval()
        images, labels = torch.randn(2, 3, SIDE, SIDE), torch.tensor([207, 281])
    folder = TensorDataset(images, labels)
    tokenizer = PieceTokenizer(["film", "good"])
    return {
        **{name: getattr(captum_extremal, name) for name in captum_extremal.__all__},
        **{name: getattr(objectives, name) for name in objectives.__all__},
        "DataLoader": DataLoader,
        "torch": torch,
        "model": model,
        "x": images[:1],
        "images": images,
        "detector": detector,
        "segmenter": segmenter,
        "tokenizer": tokenizer,
        "classifier": WordCounter(tokenizer, {"film": 0.5, "good": 2.0}),
        "clip": SimpleNamespace(get_image_features=features, get_text_features=features),
        "tokens": torch.randn(2, 3, 4),
        "mean": torch.zeros(3, 1, 1),
        "std": torch.ones(3, 1, 1),
        "folder": folder,
        "loader": DataLoader(folder, batch_size=2),
    }


def shorten_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search of the path solver takes few steps, whatever its settings."""
    plan = PathSolver.plan
    monkeypatch.setattr(PathSolver, "plan", lambda solver, search: plan(replace(solver, steps=5, searches=2), search))
