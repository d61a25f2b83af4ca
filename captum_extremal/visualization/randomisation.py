"""The maps of several methods while a model's weights are randomised, after figure 7 of the paper.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from captum_extremal.metrics import WeightRandomisation
from captum_extremal.results.tensors import Array, as_array
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import SMALL, styled

_BASE, _LEAST_WIDTH = 1.15, 1.2  # inches: the side of a randomised model's map, and the room for its title


@styled
def show_randomisation(
    found: Mapping[str, WeightRandomisation],
    images: Tensor,
    index: int = 0,
    *,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """The maps of one image while layer after layer is randomised (figure 7).

    A row per method has the learned model's map under the method's name, and then one map per layer. Each map has its
    own range of colours: from 0 to its maximum where it has no negative value, else blue below and red above 0, up to
    its largest magnitude. Under it stand the rank correlation and the structural similarity with the learned model's
    map, of absolute attributions: near 1, the map does not depend on what was learned; near 0 or below it, it does.
    Under a constant map stands "none". Maps that are empty almost everywhere are structurally similar whatever they
    show.

    Args:
        found: name -> result of :func:`~captum_extremal.metrics.weight_randomisation`, of the same layers and images.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, or the results are of different layers
            or images.
        IndexError: there is no such image.
    """
    runs = check.named("found", found, "WeightRandomisation", at_least_one="method")
    layers, (_, count, *size) = _shared(runs)
    pictures = check.images("images", images, count)
    row = check.row_of("index", index, count)
    columns, width = 2 + len(layers), max(layout.panel_size(size, _BASE)[0], _LEAST_WIDTH)
    firsts = [method if k else f"{method}\nlearned weights" for k, method in enumerate(runs)]
    lines = max(1 + text.wrapped(name, width, SMALL).count("\n") for name in (*layers, *firsts))
    at: dict[str, Any] = {"base": _BASE, "least_width": _LEAST_WIDTH, "title_lines": lines, "columns": columns}
    place, axes = layout.panels(fig, size, len(runs) * columns, headed=bool(title), **at)
    text.suptitle(place, title)
    draw.image(axes[0], check.as_rgb(pictures[row]), "image")
    for ax in axes[columns::columns]:
        ax.remove()
    for k, (first, run) in enumerate(zip(firsts, runs.values())):
        maps = axes[k * columns + 1 : (k + 1) * columns]
        alike = map(_similarity, run.rank_correlation_absolute[:, row].tolist(), run.ssim[:, row].tolist())
        for ax, values, under in zip(maps, as_array(run.maps[:, row]), ["", *alike]):
            _draw_map(ax, values)
            text.under(ax, under)
        text.title(maps[0], first, SMALL)
    for ax, name in zip(axes[2:columns], layers):
        text.title(ax, name, SMALL)
    text.caption(
        place, "above: the layer randomised last; below each map: rank correlation / SSIM with the learned model's"
    )
    return layout.finished(place, fig)


def _draw_map(ax: Axes, values: Array) -> None:
    largest = float(np.abs(values).max())
    colours, least = ("RdBu_r", -largest) if (values < 0).any() else ("inferno", 0)
    if largest == 0:
        draw.blank(ax, values.shape, "all zero")
    else:
        draw.image(ax, values, cmap=colours, vmin=least, vmax=largest, interpolation=None)


def _shared(runs: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The layers, and the maps' shape (1 + L, N, H, W), which must be the same for all methods."""
    told = {}
    for name, run in runs.items():
        if not isinstance(run, WeightRandomisation):
            raise TypeError(f"found[{name!r}] must be a WeightRandomisation, got {type(run).__name__}")
        shape = tuple(run.maps.shape)
        told[run.layers, shape] = f"{name!r} of {', '.join(run.layers)} with maps {shape}"
    if len(told) > 1:
        raise ValueError(f"found must hold methods of the same layers and images, got {', '.join(told.values())}")
    return next(iter(told))


def _similarity(*rank_and_ssim: float) -> str:
    told = [words.number(round(value, 2) + 0.0, ".2f") for value in rank_and_ssim]  # + 0.0: no -0.00
    return "none" if told[0] == "nan" else " / ".join(told)
