"""What the tests of figures share: results to draw, and what a figure shows."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
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


def drawn_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Each text that is really drawn, not labels of ticks outside of their axes, and the box around it in pixels."""
    texts: list[Text] = []
    draw = Text.draw

    def record(text: Text, renderer: RendererBase) -> None:
        if text.get_visible() and text.get_text().strip():
            texts.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.draw_without_rendering()
    patches = {id(text): text.get_bbox_patch() for text in texts}
    unique = {id(text): text for text in texts}.values()
    return [(one.get_text(), (patches[id(one)] or one).get_window_extent()) for one in unique]


def crowded(figure: Figure) -> list[str]:
    """The texts that are drawn over one another, or leave the figure; by more than a pixel."""
    boxes = [(text, box.padded(-0.5)) for text, box in drawn_texts(figure)]
    room = figure.bbox
    outside = [
        f"{text!r} leaves the figure"
        for text, box in boxes
        if box.x0 < room.x0 or box.y0 < room.y0 or box.x1 > room.x1 or box.y1 > room.y1
    ]
    return outside + [
        f"{text!r} and {other!r} overlap"
        for k, (text, box) in enumerate(boxes)
        for other, second in boxes[k + 1 :]
        if box.overlaps(second)
    ]
