"""Checks of the figures' arguments, and the arrays that are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal.results import ExtremalMasks

Array = NDArray[np.float64]
Size = int | str
"""A size that a dimension must have, or a letter that stands for any."""

_ROUNDING = 0.01  # undoing a normalisation may leave [0, 1] by rounding


def check_found(found: object) -> ExtremalMasks:
    """The result of a search."""
    if not isinstance(found, ExtremalMasks):
        raise TypeError(f"found must be an ExtremalMasks, the result of extremal_masks(), got {type(found).__name__}")
    return found


def check_image(name: str, image: object) -> Tensor:
    """One image (3, H, W) or (1, H, W) in [0, 1]."""
    return _check_display(name, image, (3, "H", "W"), (1, "H", "W"))


def check_images(
    name: str, images: object, count: Size = "N", size: tuple[Size, Size] = ("H", "W"), rule: str = ""
) -> Tensor:
    """Images (N, 3, H, W) or (N, 1, H, W) in [0, 1]; ``rule`` names the sizes in the message."""
    return _check_display(name, images, (count, 3, *size), (count, 1, *size), rule=rule)


def check_heat_maps(heat_maps: object, count: int) -> Tensor:
    """Finite heat maps of ``count`` images, as (N, h, w)."""
    maps = _check_floating("heat_maps", heat_maps)
    shapes = (count, 1, "h", "w"), (count, "h", "w")
    _check_shape("heat_maps", maps, *shapes, hint=": the masked activation summed over its channels")
    _check_finite("heat_maps", maps)
    return maps.squeeze(1) if maps.dim() == 4 else maps


def check_attributions(name: str, given: object, count: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Finite attributions (N, C, H, W) of ``count`` images of this size, by name."""
    attributions = check_dict(name, given, "tensors")
    for key, values in attributions.items():
        one = f"{name}[{key!r}]"
        hint = ": captum.attr.LayerAttribution.interpolate brings a layer's map to the image's size"
        _check_shape(one, _check_tensor(one, values), (count, "C", *size), hint=hint)
        _check_finite(one, values)
    return attributions


def check_dict(name: str, given: object, values: str, at_least_one: str | None = None) -> dict[str, Any]:
    """A dict of names and ``values``, of ``at_least_one`` if there must be one."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict of names and {values}, got {type(given).__name__}")
    if at_least_one and not given:
        raise ValueError(f"{name} must hold at least one {at_least_one}, got none")
    return {str(key): value for key, value in given.items()}


def check_index(index: object, count: int) -> None:
    """The index of one of ``count`` images."""
    check_count("index", index, at_least=None)
    if not -count <= index < count:  # type: ignore[operator]
        raise IndexError(f"index must be from {-count} to {count - 1}, got {index}")


def check_names(name: str, names: Sequence[str], count: int, each: str) -> list[str]:
    """``count`` strings, one for each target, for example."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(one, str) for one in names):
        raise TypeError(f"{name} must be a sequence of strings, got {names!r}")
    return _check_length(name, names, count, each)


def check_values(name: str, values: object, count: int, each: str) -> list[float]:
    """``count`` finite numbers, one for each example, for example."""
    if isinstance(values, Tensor) and values.dim() != 1:
        raise ValueError(f"{name} must be ({count},), got shape {tuple(values.shape)}")
    listed = values.tolist() if isinstance(values, Tensor) else values
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise TypeError(f"{name} must be a sequence of numbers or a tensor ({count},), got {values!r}")
    for k, value in enumerate(_check_length(name, listed, count, each)):
        check_number(f"{name}[{k}]", value)
    return [float(value) for value in listed]


def as_tuple(tensors: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A result's tensors, one per input."""
    return tensors if isinstance(tensors, tuple) else (tensors,)


def as_rgb(image: Tensor) -> Array:
    """A picture (H, W, 3) in [0, 1] of an image (3, H, W) or (1, H, W)."""
    picture: Array = as_array(image).clip(0, 1).transpose(1, 2, 0).repeat(3 // image.shape[0], axis=2)
    return picture


def as_array(values: Tensor) -> Array:
    """The same numbers in NumPy, from any device."""
    found: Array = values.detach().cpu().double().numpy()
    return found


def _check_display(name: str, images: object, *shapes: tuple[Size, ...], rule: str = "") -> Tensor:
    given = _check_floating(name, images, " in [0, 1]")
    _check_shape(name, given, *shapes, rule=rule)
    low, high = given.min().item(), given.max().item()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN fails both comparisons
        raise ValueError(
            f"{name} must be in [0, 1], for display: undo the model's normalisation; "
            f"got values from {low:.3g} to {high:.3g}"
        )
    return given


def _check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    return value


def _check_floating(name: str, value: object, values: str = "") -> Tensor:
    tensor = _check_tensor(name, value)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor{values}, got {tensor.dtype}")
    return tensor


def _check_shape(name: str, tensor: Tensor, *shapes: tuple[Size, ...], rule: str = "", hint: str = "") -> None:
    """One of these shapes, of at least one value."""

    def fits(shape: tuple[Size, ...]) -> bool:
        pairs = zip(shape, tensor.shape)
        return len(shape) == tensor.dim() and all(isinstance(size, str) or size == got for size, got in pairs)

    if not tensor.numel() or not any(map(fits, shapes)):
        allowed = " or ".join(f"({', '.join(map(str, shape))})" for shape in shapes)
        raise ValueError(f"{name} must be {rule}{allowed}, got shape {tuple(tensor.shape)}{hint}")


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite values")


def _check_length(name: str, values: Sequence[Any], count: int, each: str) -> list[Any]:
    if len(values) != count:
        raise ValueError(f"{name} must be {count}, one for each {each}, got {len(values)}")
    return list(values)
