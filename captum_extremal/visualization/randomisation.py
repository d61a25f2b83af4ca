"""Maps of a model whose weights are randomised, after figure 7 of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.metrics import WeightRandomisation
from captum_extremal.visualization._arguments import Array, as_array, as_rgb, check_dict, check_images, check_index
from captum_extremal.visualization._panels import (
    NORMAL,
    SMALL,
    draw_blank,
    draw_image,
    panel_size,
    panels,
    write,
    write_row_name,
)
from captum_extremal.visualization._wording import with_minus, wrapped

_BASE, _LEAST_WIDTH = 1.15, 1.2  # inches: a map's side, and the room for its title
_SMALL_LETTERS = 14  # that fit along an inch


def show_randomisation(
    found: Mapping[str, WeightRandomisation], images: Tensor, index: int = 0, *, title: str | None = None
) -> Figure:
    """The maps of one image while layer after layer is randomised, one row per method (figure 7).

    Each map has its own range of colours: from 0 to its maximum where it has no negative value, else blue below and red
    above 0, up to its largest magnitude. Under it stand the rank correlation and the structural similarity with the
    learned model's map, of absolute attributions: near 1, the map does not depend on what was learned; near 0 or below
    it, it does. The rank correlation of a constant map is "none". Maps that are empty almost everywhere are
    structurally similar whatever they show.

    Args:
        found: name -> what :func:`~captum_extremal.metrics.weight_randomisation` gives, all of the same layers and
            images.
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        index: which of the N images.
        title: a line above the figure, such as the target's name.

    Returns:
        a figure of the image, and one row of 1 + L maps per method: the learned model's, then one per layer.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, or the methods were not randomised in
            the same layers.
        IndexError: there is no such image.
    """
    runs = check_dict("found", found, "WeightRandomisation", at_least_one="method")
    _check_runs(runs)
    one = next(iter(runs.values()))
    _, count, *size = one.maps.shape
    pictures = check_images("images", images, count)
    check_index(index, count)
    shape = size[0], size[1]
    width, height = panel_size(shape, _BASE)
    letters = int(_SMALL_LETTERS * max(width, _LEAST_WIDTH))
    names = ["image", *(wrapped(name, letters, after=".") for name in ("learned weights", *one.layers))]
    columns = len(names)
    figure, axes = panels(
        shape,
        len(runs) * columns,
        base=_BASE,
        least_width=_LEAST_WIDTH,
        title=title,
        title_lines=1 + max(name.count("\n") for name in names),
        most_columns=columns,
    )
    for ax, name, size_of_name in zip(axes, names, [NORMAL, *[SMALL] * columns]):
        write(ax.set_title, name, size_of_name)
    for row, (method, run) in enumerate(runs.items()):
        first, *others = axes[row * columns : (row + 1) * columns]
        if row == 0:
            draw_image(first, as_rgb(pictures[index]))
        else:
            first.remove()
        write_row_name(others[0], method, height)
        for step, ax in enumerate(others):
            _draw_map(ax, as_array(run.maps[step, index]))
            write(ax.set_xlabel, _similarity_text(run, step, index), SMALL)
    what = "above: the layer randomised last; below each map: rank correlation / SSIM with the learned model's"
    write(figure.supxlabel, what, SMALL)
    return figure


def _check_runs(runs: Mapping[str, object]) -> None:
    """Refuse methods that were not randomised in the same layers for the same images."""
    first: tuple[str, WeightRandomisation] | None = None
    for name, run in runs.items():
        if not isinstance(run, WeightRandomisation):
            raise TypeError(f"found[{name!r}] must be a WeightRandomisation, got {type(run).__name__}")
        first = first or (name, run)
        if run.layers != first[1].layers or run.maps.shape != first[1].maps.shape:
            both = (
                f"{key!r} of {', '.join(of.layers)} with maps {tuple(of.maps.shape)}"
                for key, of in (first, (name, run))
            )
            raise ValueError(f"found must hold methods of the same layers and images, got {', '.join(both)}")


def _draw_map(ax: Axes, values: Array) -> None:
    largest = float(np.abs(values).max())
    if largest == 0:
        draw_blank(ax, values.shape, "all zero")
    elif (values < 0).any():
        draw_image(ax, values, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation=None)
    else:
        draw_image(ax, values, cmap="inferno", vmin=0, vmax=largest, interpolation=None)


def _similarity_text(run: WeightRandomisation, step: int, index: int) -> str:
    if step == 0:
        return ""
    rank, similarity = (float(of[step - 1, index]) for of in (run.rank_correlation_absolute, run.ssim))
    return "none" if math.isnan(rank) else f"{_decimals(rank)} / {_decimals(similarity)}"


def _decimals(value: float) -> str:
    return with_minus(f"{round(value, 2) + 0.0:.2f}")  # + 0.0: no -0.00
