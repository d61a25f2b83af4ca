"""A result as the plain values that the explorer shows (see ``explorer/explorer.js``).

Shapes: N images, A areas, K channels or groups, P input tensors; pictures (N, 3, H, W) in [0, 1].
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extremal import explorer
from captum_extremal.masks.binary import binarised
from captum_extremal.results.extremal_masks import ExtremalMasks
from captum_extremal.results.shown import Shown, resized, shown_masks
from captum_extremal.results.tensors import Array, as_array, as_tuple

Pictures = Sequence[Tensor | None]
"""For each input tensor its pictures, or None where it has none."""

_KINDS = {3: "columns", 4: "signal", 5: "image", 6: "volume"}  # by the dimensions of the masks
_COLUMNS = 8  # channels in a list
_MAP_SIDE = 28  # pixels, of a channel's map in the list
_LARGE = 128  # pixels, of a mask's longer side
_NEVER = 255  # in the map of the order: kept by no mask
_ABOUT = ("layer", "mask", "perturbation", "solver", "steps", "seconds", "precision", "versions")


@dataclass(frozen=True)
class Extras:
    """What is shown besides the masks of a result, as ``ExtremalMasks.to_html`` takes it."""

    perturbed: Pictures = ()
    activations: Tensor | None = None
    inversions: Mapping[str, Tensor] = field(default_factory=dict)


class Gallery:
    """Pictures, each once, however many rows show it."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._places: dict[bytes, int] = {}

    def place_of(self, picture: Tensor) -> int:
        """The number of a picture (3, H, W) or (1, H, W)."""
        values = explorer.as_bytes(_rgb(picture))
        key = repr(values.shape).encode() + values.tobytes()
        if key not in self._places:
            self._places[key] = len(self.urls)
            self.urls.append(explorer.data_url(values))
        return self._places[key]


def explanation(
    name: str, found: ExtremalMasks, rows: Sequence[str], pictures: Pictures, gallery: Gallery, extras: Extras
) -> dict[str, Any]:
    """One result: its rows, an image of one input tensor each, and what is the same for all of them."""
    parts = as_tuple(found.masks)
    kinds = {_KINDS[part.dim()] for part in parts}
    columns = kinds == {"columns"} and len({part.shape[-1] for part in parts}) == 1
    shown = []
    for n, row in enumerate(rows):
        one = found.image(n)
        for p in range(len(parts)):
            label = f"{row}, input {p + 1}" if len(parts) > 1 else row
            of_input = pictures[p]
            of_image = None if of_input is None else of_input[n]
            shown.append(_row(label, one, n, p, of_image, gallery, extras))
    return {
        "name": name,
        "count": parts[0].shape[-1] if columns else None,
        "unit": found.covers,
        "game": found.settings.get("game", {"kept": 1.0, "removed": 0.0}),
        "about": [[key, _text(found.settings[key])] for key in _ABOUT if found.settings.get(key) is not None],
        "rows": shown,
    }


def _row(
    name: str, one: ExtremalMasks, n: int, part: int, picture: Tensor | None, gallery: Gallery, extras: Extras
) -> dict[str, Any]:
    kind, masks = _KINDS[as_tuple(one.masks)[part].dim()], shown_masks(one, part)
    numbers = {key: number(getattr(one, key)) for key in ("clean_score", "perturbed_score", "threshold")}
    drawn: list[dict[str, Any]] = [{} for _ in masks]
    row: dict[str, Any] = {"name": name, "kind": kind} | numbers
    row |= {"picture": None if picture is None else gallery.place_of(picture)}
    row |= {"optimal_area": number(one.optimal_area), "reached": bool(one.reached), "vacuous": bool(one.vacuous)}
    if kind == "image":
        size = None if picture is None else tuple(picture.shape[1:])
        drawn, row["order"] = _drawn_masks(masks, size)
        _add_seen(drawn, masks, extras.perturbed[part] if extras.perturbed else None, n)
    elif kind == "signal":
        drawn = [{"mask": explorer.data_url(explorer.as_bytes(as_array(shown.mask)))} for shown in masks]
    elif kind == "columns":
        drawn = [{"columns": _columns(shown.mask, one.group_ids)} for shown in masks]
        if extras.activations is not None:
            row["maps"] = _add_maps(drawn, masks, extras.activations[n])
        row["inversions"] = [[key, gallery.place_of(of_all[n])] for key, of_all in extras.inversions.items()]
    row["masks"] = [_numbers(shown, one) | more for shown, more in zip(masks, drawn)]
    return row


def _numbers(shown: Shown, one: ExtremalMasks) -> dict[str, Any]:
    numbers = {key: number(getattr(shown, key)) for key in ("area", "score", "complement", "value", "agreement")}
    return numbers | {"enough": shown.value >= float(one.threshold), "optimum": shown.is_optimum}


def _drawn_masks(masks: Sequence[Shown], size: tuple[int, ...] | None) -> tuple[list[dict[str, Any]], str | None]:
    """The pictures of masks (1, h, w), enlarged to the picture's size, and the order in which the pixels enter."""
    drawn, entered = [], []
    for shown in masks:
        mask = resized(shown.mask, size)
        binary = binarised(mask[None], mask.new_tensor([shown.area]))[0, 0].cpu().numpy()
        values = as_array(mask[0])
        one = {
            "mask": explorer.data_url(explorer.as_bytes(as_array(_halved(mask)[0]))),
            "outline": explorer.as_path(values, binary),
        }
        if shown.shares is not None:
            one["shares"] = explorer.data_url(explorer.as_bytes(as_array(resized(shown.shares, size)[0])))
        drawn.append(one)
        entered.append(binary)
    kept = np.stack(entered)
    first = np.where(kept.any(0), kept.argmax(0), _NEVER).astype(np.uint8)
    return drawn, explorer.data_url(first) if 1 < len(masks) < _NEVER else None


def _add_seen(drawn: list[dict[str, Any]], masks: Sequence[Shown], perturbed: Tensor | None, n: int) -> None:
    """Add the perturbed pictures (A, C, H, W) or (A + 1, C, H, W) of the masks that have one."""
    if perturbed is None:
        return
    known = [(one, perturbed[n, shown.place]) for one, shown in zip(drawn, masks) if shown.place < perturbed.shape[1]]
    for (one, _), url in zip(known, explorer.differences([_rgb(picture) for _, picture in known])):
        one["seen"] = url


def _columns(mask: Tensor, ids: Tensor | None) -> list[list[Any]]:
    """The channels or groups with the highest values of a mask (K,), and these; groups by their ids (K,)."""
    values, indices = mask.topk(min(_COLUMNS, int((mask > 0).sum())))
    named = indices if ids is None else ids.to(indices.device)[indices]
    return [[k, number(value)] for k, value in zip(named.tolist(), values)]


def _add_maps(drawn: list[dict[str, Any]], masks: Sequence[Shown], activation: Tensor) -> dict[str, Any]:
    """Add the heat maps of equation 11 of masks (K,); those of the listed channels by their numbers."""
    for one, shown in zip(drawn, masks):
        summed = torch.einsum("k,khw->hw", shown.mask.to(activation), activation)
        one["heat"] = _signed(summed)
    side = min(_MAP_SIDE / max(activation.shape[1:]), 1)
    height, width = (max(1, round(side * length)) for length in activation.shape[1:])
    small = F.adaptive_avg_pool2d(activation, (height, width))
    return {str(k): _signed(small[k]) for k in sorted({k for one in drawn for k, _ in one["columns"]})}


def _signed(values: Tensor) -> dict[str, Any]:
    array = as_array(values)
    return {"url": explorer.data_url(explorer.signed_bytes(array)), "signed": bool((array < 0).any())}


def _halved(mask: Tensor) -> Tensor:
    """A mask (1, H, W) of half the size where it is large: the browser enlarges it, and its outline is exact."""
    height, width = mask.shape[1:]
    if max(height, width) <= _LARGE:
        return mask
    return F.adaptive_avg_pool2d(mask, (-(-height // 2), -(-width // 2)))


def _rgb(picture: Tensor) -> Array:
    """A picture (3, H, W) or (1, H, W) as (H, W, 3)."""
    return as_array(picture.expand(3, -1, -1).permute(1, 2, 0))


def number(value: Any) -> float | None:
    """A number with the digits of float32; None where it is not finite."""
    plain = float(value)
    return float(f"{plain:.7g}") if math.isfinite(plain) else None


def _text(value: object) -> str:
    return ", ".join(_pairs(value.items())) if isinstance(value, dict) else str(value)


def _pairs(items: Iterable[tuple[Any, Any]]) -> list[str]:
    return [f"{key} {value}" for key, value in items]
