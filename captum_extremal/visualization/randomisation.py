"""Maps of a model whose weights are randomised, after figure 7 of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.metrics import WeightRandomisation
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw
from captum_extremal.visualization import _wording as words
from captum_extremal.visualization._arguments import Array, as_array, as_rgb

_BASE, _LEAST_WIDTH = 1.15, 1.2  # inches: a map's side, and the room for its title
_SMALL_LETTERS = 14  # that fit along an inch


def show_randomisation(
    found: Mapping[str, WeightRandomisation], images: Tensor, index: int = 0, *, title: str | None = None
) -> Figure:
    """The maps of one image while layer after layer is randomised, one row per method (figure 7).

    Each map has its own range of colours: from 0 to its maximum where it has no negative value, else blue below and red
    above 0, up to its largest magnitude. Under it stand the rank correlation and the structural similarity with the
    learned model's map, of absolute attributions: near 1, the map does not depend on what was learned; near 0 or below
    it, it does. Under a constant map stands "none". Maps that are empty almost everywhere are structurally similar
    whatever they show.

    Args:
        found: name -> what :func:`~captum_extremal.metrics.weight_randomisation` gives, all of the same layers and
            images.
        images, index, title: as :func:`show_channels`.

    Returns:
        a figure of the image, and one row of 1 + L maps per method: the learned model's, then one per layer.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, or the methods were not randomised in
            the same layers.
        IndexError: there is no such image.
    """
    runs = check.named("found", found, "WeightRandomisation", at_least_one="method")
    layers, (_, count, *size) = _shared(runs)
    pictures = check.images("images", images, count)
    check.index(index, count)
    width, height = draw.panel_size(size, _BASE)
    letters = int(_SMALL_LETTERS * max(width, _LEAST_WIDTH))
    names = [words.wrapped(name, letters, after=".") for name in ("learned weights", *layers)]
    columns, lines = 1 + len(names), 1 + max(name.count("\n") for name in names)
    at: dict[str, Any] = {"base": _BASE, "least_width": _LEAST_WIDTH, "title_lines": lines, "most_columns": columns}
    figure, axes = draw.panels(size, len(runs) * columns, title, **at)
    draw.image(axes[0], as_rgb(pictures[index]), "image")
    for ax in axes[columns::columns]:
        ax.remove()
    for ax, name in zip(axes[1:], names):
        draw.write(ax.set_title, name, draw.SMALL)
    for row, (method, run) in enumerate(runs.items()):
        maps = axes[row * columns + 1 : (row + 1) * columns]
        draw.row_name(maps[0], method, height)
        for step, ax in enumerate(maps):
            _draw_map(ax, as_array(run.maps[step, index]))
            draw.write(ax.set_xlabel, _similarity(run, step, index) if step else "", draw.SMALL)
    what = "above: the layer randomised last; below each map: rank correlation / SSIM with the learned model's"
    draw.write(figure.supxlabel, what, draw.SMALL)
    return figure


def _shared(runs: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The layers, and the maps' shape (1 + L, N, H, W), which must be the same for all methods."""
    told: dict[tuple[tuple[str, ...], tuple[int, ...]], str] = {}
    for name, run in runs.items():
        if not isinstance(run, WeightRandomisation):
            raise TypeError(f"found[{name!r}] must be a WeightRandomisation, got {type(run).__name__}")
        shape = tuple(run.maps.shape)
        told.setdefault((run.layers, shape), f"{name!r} of {', '.join(run.layers)} with maps {shape}")
    if len(told) > 1:
        raise ValueError(f"found must hold methods of the same layers and images, got {', '.join(told.values())}")
    return next(iter(told))


def _draw_map(ax: Axes, values: Array) -> None:
    largest = float(np.abs(values).max())
    colours, least = ("RdBu_r", -largest) if (values < 0).any() else ("inferno", 0)
    if largest == 0:
        draw.blank(ax, values.shape, "all zero")
    else:
        draw.image(ax, values, cmap=colours, vmin=least, vmax=largest, interpolation=None)


def _similarity(run: WeightRandomisation, step: int, index: int) -> str:
    rank, similarity = (float(of[step - 1, index]) for of in (run.rank_correlation_absolute, run.ssim))
    text = f"{round(rank, 2) + 0.0:.2f} / {round(similarity, 2) + 0.0:.2f}"  # + 0.0: no -0.00
    return "none" if math.isnan(rank) else words.with_minus(text)
