"""Checks of the figures' arguments, and the arrays that are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from captum.attr import LayerAttribution
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal._display import Shape, as_many
from captum_extremal._display import images as images
from captum_extremal._display import names as names
from captum_extremal._display import tensor as tensor
from captum_extremal.masks.binary import binarised
from captum_extremal.results import ExtremalMasks

Array = NDArray[np.float64]


class Panel(NamedTuple):
    """One mask over an image."""

    area: float
    mask: Array  # (H, W)
    binary: NDArray[np.bool_]  # (H, W)
    scores: tuple[float, float]  # of what the mask keeps, and of what it removes
    boxed: bool  # whether the area is a*
    agreement: float  # of independent searches; NaN where it is not known
    shares: Array | None  # (H, W), of the searches that keep each pixel; None for a mask between the areas


class View(NamedTuple):
    """What the figures draw of one image."""

    found: ExtremalMasks  # of this image alone
    rgb: Array  # (H, W, 3) in [0, 1]
    best: Panel  # the mask of a*, or of the largest area where a* is not reached
    listed: list[Panel]  # of the areas of the result

    @property
    def panels(self) -> list[Panel]:
        """Those of the areas and, where a* lies between them, that of a*, in the order of the areas."""
        is_between = self.best.boxed and self.best.area > 0 and not any(panel.boxed for panel in self.listed)
        both = [*self.listed, self.best]
        return sorted(both, key=lambda panel: panel.area) if is_between or not self.listed else self.listed


def view(found: ExtremalMasks, given: Tensor, index: int, input_index: int) -> View:
    """What is drawn of one image; the masks of a layer's positions are enlarged to it."""
    of_inputs = as_tuple(result(found).masks)
    check_count("input_index", input_index, at_least=0)
    if input_index >= len(of_inputs):
        raise ValueError(f"input_index must be below {len(of_inputs)}, the number of masks, got {input_index}")
    masks = of_inputs[input_index]
    if masks.dim() != 5:
        kinds = {3: "show_channels draws masks of channels", 4: "show_signal draws those of signals"}
        others = f"{(kinds | {6: 'show_volume draws those of volumes'})[masks.dim()]}, "
        others += "show_curves draws the scores of any"
        raise ValueError(f"found must hold masks of images, (N, A, 1, H, W), got {tuple(masks.shape)}: {others}")
    one = found.image(index)
    if "layer" in one.settings:
        pictures = images("images", given, len(masks))
    else:
        pictures = images("images", given, len(masks), tuple(masks.shape[3:]), "of the masks' size, ")
    size = tuple(pictures.shape[2:])
    best, listed = _optimal_panel(one, input_index, size), _listed_panels(one, input_index, size)
    return View(one, as_rgb(pictures[index]), best, listed)


def box(given: object) -> list[float]:
    """The corners x0, y0, x1, y1 of a box (4,), [] for None."""
    if given is None:
        return []
    if not isinstance(given, Tensor):
        raise TypeError(f"box must be a tensor (4,), got {type(given).__name__}")
    if given.shape != (4,) or not bool(given.isfinite().all() & (given[:2] < given[2:]).all()):
        raise ValueError(f"box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {given.tolist()}")
    return [float(corner) for corner in given]


def _optimal_panel(one: ExtremalMasks, input_index: int, size: tuple[int, ...]) -> Panel:
    mask, area = _resized(as_tuple(one.optimal_masks)[input_index], size), shown_area(one)
    binary = binarised(mask, mask.new_tensor([area]))[0, 0].cpu().numpy()
    scores = (float(one.optimal_score), float(one.optimal_complement_score))
    return Panel(area, as_array(mask[0, 0]), binary, scores, bool(one.reached), float(one.optimal_agreement), None)


def _listed_panels(one: ExtremalMasks, input_index: int, size: tuple[int, ...]) -> list[Panel]:
    if not len(one.areas):
        return []
    found, optimal, known = (as_tuple(t)[input_index][0] for t in (one.masks, one.optimal_masks, one.agreement))
    boxed = (one.areas == one.optimal_area) & one.reached & (found == optimal).flatten(1).all(1)
    masks, shares = (_resized(of_areas, size)[:, 0] for of_areas in (found, known))  # (A, H, W)
    binary = binarised(masks[None], one.areas)[0]
    scores = zip(one.scores[0].tolist(), one.complement_scores[0].tolist())
    numbers = zip(one.areas.tolist(), scores, boxed.tolist(), one.agreement_score[0].tolist())
    return [
        Panel(area, as_array(masks[k]), binary[k].cpu().numpy(), of_mask, is_best, agreement, as_array(shares[k]))
        for k, (area, of_mask, is_best, agreement) in enumerate(numbers)
    ]


def _resized(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Masks (M, 1, h, w) in the images' size, which only those of a layer's positions do not have already."""
    return masks if masks.shape[2:] == size else LayerAttribution.interpolate(masks, size, "bilinear")


def shown_area(one: ExtremalMasks) -> float:
    """a*, or the largest area's where a* is not reached: the area of the optimal mask."""
    return float(one.optimal_area if bool(one.reached) else as_tuple(one.optimal_masks)[0].mean())


def with_areas(found: ExtremalMasks, instead: str) -> ExtremalMasks:
    if not len(result(found).areas):
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


def as_tuple(tensors: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)


def as_rgb(one: Tensor) -> Array:
    """A picture (H, W, 3) in [0, 1] of an image (3, H, W) or (1, H, W)."""
    return as_array(one.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1))


def as_array(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu().double())
