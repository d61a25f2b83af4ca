"""Outlines of masks: lines that enclose exactly the area of the binary mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import measure

Array = NDArray[np.float64]

_FLAT = 0.25  # the outline of a mask whose inside and outside differ by less would follow its ripples
_PRECISION = 0.1  # pixels


def enclosing_level(mask: Array, binary: NDArray[np.bool_]) -> tuple[Array, float] | None:
    """Values (H, W) and a level that encloses exactly the binary mask (H, W); None where it has no clear outline."""
    if not 0 < binary.mean() < 1 or mask[binary].mean() - mask[~binary].mean() < _FLAT:
        return None
    least, most = float(mask[binary].min()), float(mask[~binary].max())
    if least > most:
        return mask, (least + most) / 2
    # Equal values on both sides: no level separates them, but the binary mask does.
    return binary.astype(np.float64), 0.5


def as_path(mask: Array, binary: NDArray[np.bool_]) -> str:
    """The outline as the ``d`` of an SVG path in pixels from the upper left corner; empty where there is none."""
    found = enclosing_level(mask, binary)
    if found is None or min(mask.shape) < 2:  # a line of pixels has no contour
        return ""
    skimage: Any = measure
    lines = [skimage.approximate_polygon(line, _PRECISION) for line in skimage.find_contours(*found)]
    # Contours are in (row, column), and pixel centres at whole numbers.
    return "".join("M" + "L".join(f"{x + 0.5:.1f} {y + 0.5:.1f}" for y, x in line) for line in lines)
