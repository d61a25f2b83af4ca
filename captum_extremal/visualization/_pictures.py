"""A picture in a panel: as it is, under a mask, framed, or a grey panel in its place."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from captum_extremal.explorer import enclosing_level
from captum_extremal.results.tensors import Array
from captum_extremal.visualization._arguments import Panel
from captum_extremal.visualization._layout import room
from captum_extremal.visualization._style import BLUE, GOLD, SHEET, SMALL, keep_ticks
from captum_extremal.visualization._text import title, wrapped, write

_HIDDEN = 0.28  # of its brightness: visible, but clearly not shown


def image(ax: Axes, picture: Array, name: str = "", **how: Any) -> None:
    """A picture without ticks or frame, and its title; ``how`` goes to ``imshow``."""
    ax.imshow(picture, **{"interpolation": "nearest", **how})
    no_ticks(ax)
    if name:
        title(ax, name)


def under_mask(ax: Axes, rgb: Array, mask: Array) -> None:
    """A picture (H, W, 3) under any mask (H, W): what is hidden is dark and grey."""
    kept = mask[..., None].clip(0, 1)
    image(ax, kept * rgb + (1 - kept) * _HIDDEN * grey(rgb)[..., None])


def under_panel(ax: Axes, rgb: Array, panel: Panel, *, outline: bool = True) -> None:
    """A picture (H, W, 3) under the mask of a panel."""
    under_mask(ax, rgb, panel.mask)
    if outline and (enclosed := enclosing_level(panel.mask, panel.binary)):
        values, level = enclosed
        # Dark under light, so that it shows on any picture.
        ax.contour(values, levels=[level], colors=["black"], linewidths=[2.4], alpha=0.6)
        ax.contour(values, levels=[level], colors=[GOLD], linewidths=[1.2])


def frame(ax: Axes, corners: Sequence[float]) -> None:
    """The frame of a box of these x0, y0, x1, y1 in pixels; none where there are no corners."""
    if corners:
        x0, y0, x1, y1 = corners
        for colour, width in (("black", 3.0), (BLUE, 1.6)):  # light on dark, so that it shows on any picture
            # Pixels are squares around whole numbers, the corners of a box lie between them.
            ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, lw=width))


def blank(ax: Axes, shape: Sequence[int], text: str) -> None:
    """A grey panel with a text, in place of an image (H, W) that has nothing to show."""
    image(ax, np.full((*shape, 3), 0.93))
    middle = {"transform": ax.transAxes, "ha": "center", "va": "center"}
    write(partial(ax.text, 0.5, 0.5), wrapped(text, 0.8 * room(ax)[0], SMALL), SMALL, **middle)


def grey(rgb: Array) -> Array:
    """The luminance (H, W) of a picture (H, W, 3)."""
    return np.asarray(rgb @ [0.299, 0.587, 0.114])


def no_ticks(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[], anchor="N")  # at the top of its place, where the layout expects the title
    ax.spines[:].set_visible(False)


def grid(ax: Axes, axis: Literal["both", "x", "y"]) -> None:
    """Small labels, and grid lines behind the data."""
    keep_ticks(ax)
    lines = {name: SHEET[f"grid.{name}"] for name in ("color", "linestyle", "linewidth")}
    ax.grid(axis=axis, **lines)
    ax.set_axisbelow(True)
    ax.spines[["right", "top"]].set_visible(False)
