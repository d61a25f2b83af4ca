"""What becomes of maps as a model's weights are randomised, after figure 7 of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.metrics import WeightRandomisation
from captum_extremal.visualization._arguments import array, as_rgb, check_images, check_index
from captum_extremal.visualization._panels import (
    INK,
    LETTERS,
    NORMAL,
    SMALL,
    Array,
    bare,
    draw_blank,
    draw_image,
    panel_size,
    panels,
)
from captum_extremal.visualization._wording import wrapped

_BASE, _LEAST_WIDTH = 1.15, 1.2  # inches: a map's side, and the room for its title
_SMALL_LETTERS = 14  # that fit along an inch


def show_randomisation(
    found: Mapping[str, WeightRandomisation], images: Tensor, index: int = 0, *, title: str | None = None
) -> Figure:
    """The maps of one image while layer after layer is randomised, a row a method (figure 7).

    Each map has its own range of colours: from 0 to its maximum where it has no negative value, else blue below and red
    above 0 as far as its largest magnitude. Under it stand the rank correlation and the structural similarity with the
    learned model's map, of absolute attributions: near 1, the map does not depend on what was learned; near 0 or below
    it, it does. A constant map is like none, and maps that are empty almost everywhere are structurally similar
    whatever they show.

    Args:
        found: name -> what :func:`~captum_extremal.metrics.weight_randomisation` gives, all of the same layers and
            images.
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        index: which of the N images.
        title: a line above the figure, such as the target's name.

    Returns:
        a figure of the image, and of a row of 1 + L maps a method: the learned model's, then one a layer.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, or the methods were not randomised in
            the same layers.
        IndexError: there is no such image.
    """
    runs = _check_runs(found)
    layers, shape = _shared(runs)
    pictures = check_images("images", images, shape[0])
    check_index(index, len(pictures))
    size = (shape[1], shape[2])
    names = _column_names(layers, size)
    figure, rows = panels(
        size,
        len(runs) * (1 + len(names)),
        base=_BASE,
        title=title,
        title_lines=1 + max(name.count("\n") for name in names),
        least_width=_LEAST_WIDTH,
        most_columns=1 + len(names),
    )
    draw_image(rows[0][0], as_rgb(pictures[index]), "image")
    for row in rows[1:]:
        figure.delaxes(row[0])
    for (_, *axes), (method, run) in zip(rows, runs.items()):
        axes[0].set_ylabel(wrapped(method, int(LETTERS * panel_size(size, _BASE)[1])), fontsize=NORMAL, color=INK)
        _draw_maps(axes, run, index)
    for ax, name in zip(rows[0][1:], names):
        ax.set_title(name, fontsize=SMALL, color=INK)
    figure.supxlabel(
        "above: the layer randomised last; below each map: rank correlation / SSIM with the learned model's",
        fontsize=SMALL,
        color=INK,
    )
    return figure


def _check_runs(found: object) -> dict[str, WeightRandomisation]:
    if not isinstance(found, Mapping):
        raise TypeError(f"found must be a dict of names and WeightRandomisation, got {type(found).__name__}")
    if not found:
        raise ValueError("found must hold at least one method, got none")
    for name, run in found.items():
        if not isinstance(run, WeightRandomisation):
            raise TypeError(f"found[{name!r}] must be a WeightRandomisation, got {type(run).__name__}")
    return {str(name): run for name, run in found.items()}


def _shared(runs: Mapping[str, WeightRandomisation]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The layers and the maps' N, H and W, the same for all methods."""
    (first, one), *others = runs.items()
    for name, other in others:
        if other.layers != one.layers or other.maps.shape != one.maps.shape:
            raise ValueError(
                "found must hold methods of the same layers and images, got "
                f"{first!r} of {', '.join(one.layers)} with maps {tuple(one.maps.shape)}, "
                f"{name!r} of {', '.join(other.layers)} with maps {tuple(other.maps.shape)}"
            )
    return one.layers, tuple(one.maps.shape[1:])


def _column_names(layers: tuple[str, ...], size: tuple[int, int]) -> list[str]:
    width = max(panel_size(size, _BASE)[0], _LEAST_WIDTH)
    return [wrapped(name, int(_SMALL_LETTERS * width), after=".") for name in ("learned weights", *layers)]


def _draw_maps(axes: list[Axes], run: WeightRandomisation, index: int) -> None:
    for step, ax in enumerate(axes):
        _draw_map(ax, array(run.maps[step, index]))
        ax.set_xlabel(_alike_text(run, step, index), fontsize=SMALL, color=INK)


def _draw_map(ax: Axes, values: Array) -> None:
    largest = float(np.abs(values).max())
    if largest == 0:
        draw_blank(ax, values.shape, "", all_zero=True)
        return
    signed = bool((values < 0).any())
    ax.imshow(values, cmap="RdBu_r" if signed else "inferno", vmin=-largest if signed else 0, vmax=largest)
    bare(ax)


def _alike_text(run: WeightRandomisation, step: int, index: int) -> str:
    if step == 0:
        return ""
    rank, similarity = (float(alike[step - 1, index]) for alike in (run.rank_correlation_absolute, run.ssim))
    return "none" if math.isnan(rank) else f"{_decimals(rank)} / {_decimals(similarity)}"


def _decimals(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no -0.00
