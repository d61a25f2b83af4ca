"""What the tests of figures share: results to draw, and what a figure shows."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from by_hand import result_by_hand
from captum_extremal import Game

HEIGHT, WIDTH = 24, 40
PRESERVE, DELETE = {"kept": 1.0, "removed": 0.0}, {"kept": 0.0, "removed": -1.0}


def make_result(masks, areas, kept, removed, *, clean=10.0, perturbed=1.0, threshold=None, game=None, sigma=3.0, **how):
    """Masks (N, A, ...) of which all images have the same scores, of the A areas."""
    images = len(masks)
    return result_by_hand(
        masks,
        areas,
        torch.tensor([kept] * images),
        torch.tensor([removed] * images),
        clean=torch.full((images,), clean),
        perturbed=torch.full((images,), perturbed),
        threshold=torch.full((images,), clean if threshold is None else threshold),
        game=Game(**(game or PRESERVE)),
        sigma=sigma,
        settings={"game": game or PRESERVE},
        **how,
    )


def make_images(count: int = 2, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def drawn(figure: Figure) -> Figure:
    """The figure, laid out. It leaves pyplot alone."""
    figure.draw_without_rendering()
    assert plt.get_fignums() == []
    assert mpl.get_backend().lower() == "agg"  # as conftest.py sets it
    return figure


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def picture(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def overlap(boxes) -> bool:
    return any(box.overlaps(other) for k, box in enumerate(boxes) for other in boxes[k + 1 :])
