"""Figures and their panels: sizes, colours, and an image drawn in one."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]

SMALL, NORMAL, LARGE = 8.5, 10.0, 11.5  # points
INK, FAINT = "#222222", "#8a8a8a"
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e08214", "#1b8a3d", "#c5283d"  # figure 3's; apart for the colour-blind too
MARK = "#e0a800"  # a*: its box and its outline
LETTERS = 12  # of normal size that fit along an inch
GREY = np.array([0.299, 0.587, 0.114])  # luminance

_MOST_COLUMNS = 8


def panel_size(shape: tuple[int, int], base: float) -> tuple[float, float]:
    """Width and height in inches of a panel whose area is that of a square of ``base``, whatever its proportions."""
    ratio = min(max(shape[1] / shape[0], 0.4), 2.5)
    return base * ratio**0.5, base / ratio**0.5


def panels(
    shape: tuple[int, int],
    count: int,
    *,
    base: float,
    title: str | None,
    title_lines: int,
    least_width: float,
    below: float = 0.0,
    most_columns: int = _MOST_COLUMNS,
) -> tuple[Figure, list[list[Axes]]]:
    """A grid of ``count`` panels for images of this shape (H, W), the places left over switched off.

    Args:
        base: side in inches of a square panel.
        title_lines: of each panel's own title.
        least_width: of a column, in inches.
        below: height in inches of a second, smaller axes under each panel: then rows alternate.
    """
    # As few rows as fit, and then rows of about equal length.
    bands = -(-count // most_columns)
    columns = -(-count // bands)
    width, height = panel_size(shape, base)
    row = height + 0.1 + 0.17 * title_lines
    tall = bands * (row + below) + 0.1 + (0.3 if title else 0) + (0.3 if below else 0)
    # A narrow picture still needs room for its title.
    figure = new_figure(columns * (max(width, least_width) + 0.1) + 0.1, tall)
    if title:
        figure.suptitle(title, fontsize=LARGE, color=INK)
    heights = [row, below] * bands if below else [row] * bands
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    rows: list[list[Axes]] = [list(axes) for axes in grid]
    for place in range(count, bands * columns):
        band, column = divmod(place, columns)
        for line in [2 * band, 2 * band + 1] if below else [band]:
            figure.delaxes(rows[line][column])
    for line, axes in enumerate(rows):
        band = line // 2 if below else line
        del axes[max(0, count - band * columns) :]
    return figure, rows


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches that pyplot does not know."""
    figure = Figure(figsize=(width, height), dpi=100)
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.06, wspace=0.01, hspace=0.01)
    return figure


def bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    # At the top of its place, where the layout expects the title.
    ax.set_anchor("N")


def draw_image(ax: Axes, rgb: Array, title: str) -> None:
    ax.imshow(rgb, interpolation="nearest")
    bare(ax)
    ax.set_title(title, fontsize=NORMAL, color=INK)


def draw_blank(ax: Axes, shape: tuple[int, ...], sign: str, *, all_zero: bool) -> None:
    ax.imshow(np.full((*shape, 3), 0.93))
    text = "all zero" if all_zero else f"no {sign} values"
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=NORMAL, color=INK)
    bare(ax)


def box_title(ax: Axes, text: str, *, boxed: bool) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": "#fff3cd", "edgecolor": MARK, "linewidth": 1.4}
    ax.set_title(text, fontsize=NORMAL, color=INK, bbox=box if boxed else None)
