"""Checks of the figures' arguments, and the arrays that are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal._display import Shape, as_many
from captum_extremal._display import images as images
from captum_extremal._display import names as names
from captum_extremal._display import tensor as tensor
from captum_extremal.masks.binary import binarised
from captum_extremal.results import ExtremalMasks
from captum_extremal.results.shown import Shown, resized, shown_masks, shown_optimum
from captum_extremal.results.tensors import Array, as_array, as_tuple


class Panel(NamedTuple):
    """One mask over an image, in the image's size."""

    shown: Shown  # its area and its scores
    mask: Array  # (H, W)
    binary: NDArray[np.bool_]  # (H, W)
    shares: Array | None  # (H, W), of the searches that keep each pixel; None where it is not known


class View(NamedTuple):
    """What the figures draw of one image."""

    found: ExtremalMasks  # of this image alone
    rgb: Array  # (H, W, 3) in [0, 1]
    best: Panel  # the mask of a*, or of the largest area where a* is not reached
    panels: list[Panel]  # those of the areas, and of a* where it lies between them

    @property
    def listed(self) -> list[Panel]:
        """Those of the areas of the result."""
        return [panel for panel in self.panels if panel.shown.place < len(self.found.areas)]


def view(found: ExtremalMasks, given: object, index: int, input_index: int) -> View:
    """What is drawn of one image; the masks of a layer's positions are enlarged to it."""
    masks = masks_of(found, input_index)
    if masks.dim() != 5:
        of_groups = {"groups": "show_groups draws masks over groups"}
        of_vectors = of_groups.get(found.covers, "show_channels draws masks of channels")
        kinds = {3: of_vectors, 4: "show_signal draws those of signals"}
        others = f"{(kinds | {6: 'show_volume draws those of volumes'})[masks.dim()]}, "
        others += "show_curves draws the scores of any, without images"
        raise ValueError(f"found must hold masks of images, (N, A, 1, H, W), got {tuple(masks.shape)}: {others}")
    one = found.image(index)
    if "layer" in one.settings:
        pictures = images("images", given, len(masks))
    else:
        pictures = images("images", given, len(masks), tuple(masks.shape[3:]), "of the masks' size, ")
    size = tuple(pictures.shape[2:])
    best, *others_of = (
        panel(shown, size) for shown in (shown_optimum(one, input_index), *shown_masks(one, input_index))
    )
    return View(one, as_rgb(pictures[index]), best, others_of)


def panel(shown: Shown, size: tuple[int, ...]) -> Panel:
    """A mask (1, *S) in the size of an input."""
    mask = resized(shown.mask, size)
    binary = binarised(mask[None], mask.new_tensor([shown.area]))[0, 0].cpu().numpy()
    shares = None if shown.shares is None else as_array(resized(shown.shares, size)[0])
    return Panel(shown, as_array(mask[0]), binary, shares)


def masks_of(found: ExtremalMasks, input_index: int) -> Tensor:
    """The masks (N, A, ...) of one of the inputs."""
    of_inputs = as_tuple(result(found).masks)
    check_count("input_index", input_index, at_least=0)
    if input_index >= len(of_inputs):
        raise ValueError(f"input_index must be below {len(of_inputs)}, the number of masks, got {input_index}")
    return of_inputs[input_index]


def box(given: object) -> list[float]:
    """The corners x0, y0, x1, y1 of a box (4,), [] for None."""
    if given is None:
        return []
    if not isinstance(given, Tensor):
        raise TypeError(f"box must be a tensor (4,), got {type(given).__name__}")
    if given.shape != (4,) or not bool(given.isfinite().all() & (given[:2] < given[2:]).all()):
        raise ValueError(f"box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {given.tolist()}")
    return [float(corner) for corner in given]


def with_areas(found: ExtremalMasks, instead: str) -> ExtremalMasks:
    if result(found).covers == "groups":
        instead = "show_groups draws the set of a*"
    if not len(found.areas):
        cure = "search with areas=[...], or with areas=None for the paper's"
        raise ValueError(f"found must hold masks of areas, got a* alone: {cure}; {instead}")
    return found


def result(found: object) -> ExtremalMasks:
    if not isinstance(found, ExtremalMasks):
        raise TypeError(f"found must be an ExtremalMasks, the result of extremal_masks(), got {type(found).__name__}")
    return found


def row_of(name: str, index: object, count: int) -> int:
    """An index from -count to count - 1, as the row from 0 that it names."""
    check_count(name, index, at_least=None)
    row = int(cast(int, index))
    if not -count <= row < count:
        raise IndexError(f"{name} must be from {-count} to {count - 1}, got {index}")
    return row % count


def rows_of(name: str, index: object, count: int) -> list[int]:
    """The rows from 0 that an index or a sequence of them names; all for None."""
    if index is None:
        return list(range(count))
    chosen = list(index) if isinstance(index, Sequence) and not isinstance(index, str) else [index]
    if not chosen:
        raise ValueError(f"{name} must name at least one image, got none")
    return [row_of(name, one, count) for one in chosen]


def heat_maps(given: object, count: int) -> Tensor:
    hint = ": the masked activation summed over its channels"
    return tensor("heat_maps", given, (count, 1, "h", "w"), (count, "h", "w"), hint=hint).flatten(0, -3)  # (N, h, w)


def attributions(name: str, given: object, count: int, size: tuple[int, ...]) -> dict[str, Tensor]:
    hint = ": captum.attr.LayerAttribution.interpolate brings a layer's map to the image's size"
    shape: Shape = (count, "C", *size)
    found = named(name, given, "tensors").items()
    return {key: tensor(f"{name}[{key!r}]", values, shape, floating=False, hint=hint) for key, values in found}


def named(name: str, given: object, values: str, at_least_one: str | None = None) -> dict[str, Any]:
    """A dict of names and ``values``; not empty if ``at_least_one`` says of what there must be one."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict of names and {values}, got {type(given).__name__}")
    if at_least_one and not given:
        raise ValueError(f"{name} must hold at least one {at_least_one}, got none")
    return {str(key): value for key, value in given.items()}


def numbers(name: str, given: Any, count: int, each: str) -> list[float]:
    if isinstance(given, Tensor) and given.dim() != 1:
        raise ValueError(f"{name} must be ({count},), got shape {tuple(given.shape)}")
    listed = given.tolist() if isinstance(given, Tensor) else given
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise TypeError(f"{name} must be a sequence of numbers or a tensor ({count},), got {given!r}")
    for k, value in enumerate(as_many(name, listed, count, each)):
        check_number(f"{name}[{k}]", value)
    return [float(value) for value in listed]


def as_rgb(one: Tensor) -> Array:
    """A picture (H, W, 3) in [0, 1] of an image (3, H, W) or (1, H, W)."""
    return as_array(one.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1))
