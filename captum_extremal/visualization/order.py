"""The order in which the pixels enter as the area grows.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.results.tensors import Array
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import LARGE, NORMAL, SMALL, keep_ticks, styled

_BAR = 1.1  # inches, the room of the colour bar


@styled
def show_order(
    found: ExtremalMasks,
    images: Tensor,
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The order in which the pixels enter as the area grows, as one image.

    Each pixel of the grey image has the colour of the smallest area whose binary mask holds it, and stays grey where
    none does. The colour bar is in percent of the image. Pixels that this area's mask keeps by less than half are pale:
    they only fill it up, such as a frame around masks that had enough before.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, or ``found`` holds a* alone.
        IndexError: there is no such image.
    """
    view = check.view(check.with_areas(found, "show_mask draws the mask of a*"), images, index, input_index)
    areas = view.found.areas.tolist()
    first_area, pale = _entries(view.listed)
    colours = ListedColormap(colormaps["viridis_r"](np.linspace(0.02, 1.0, len(areas))))
    width, height = layout.panel_size(view.rgb.shape, 3.6)
    ax = layout.one_axes(ax, width + _BAR, height + 0.35)
    shades: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    draw.image(ax, draw.grey(view.rgb), interpolation=None, **shades)
    limits: dict[str, Any] = {"vmin": -0.5, "vmax": len(areas) - 0.5}
    drawn = ax.imshow(first_area, cmap=colours, alpha=0.7, interpolation="nearest", **limits)
    # More of the grey image, so that the colour is pale.
    paler: Array = np.ma.masked_array(draw.grey(view.rgb), mask=~pale)
    ax.imshow(paler, alpha=0.6, interpolation="nearest", **shades)
    text.title(ax, title or "order of entry", LARGE if title else NORMAL, less=_BAR)
    bar = layout.root(ax).colorbar(drawn, ax=ax, shrink=0.9, pad=0.03)
    named = [words.area_text(view.found, area) for area in [0.0, *areas]]
    keep_ticks(bar.ax)
    text.write(partial(bar.ax.set_yticks, np.arange(-0.5, len(areas))), named, SMALL)
    text.write(bar.set_label, "area of the mask when the pixel enters", SMALL)
    bar.outline.set_visible(False)
    if pale.any():
        text.under(ax, f"pale: {'removed' if words.removes_only(view.found) else 'kept'} by less than half")
    return layout.root(ax)


def _entries(panels: list[check.Panel]) -> tuple[Array, NDArray[np.bool_]]:
    """(H, W): the place of the first area that holds a pixel, masked where none does; and whether it is pale."""
    binary = np.stack([panel.binary for panel in panels])  # (A, H, W)
    first: Array = np.ma.masked_array(binary.argmax(0), mask=~binary.any(0))
    masks = np.stack([panel.mask for panel in panels])
    keeps = np.take_along_axis(masks, binary.argmax(0)[None], axis=0)[0]  # how far at the area of entry
    return first, binary.any(0) & (keeps < 0.5)
