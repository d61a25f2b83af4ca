"""What every method checks of its caller's arguments before the model runs for the first time."""

from __future__ import annotations

import math
from itertools import pairwise
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType
from captum_extremal._checks import check_callable, check_choice, check_count
from captum_extremal.masks import MaskFamily, SmoothMask
from captum_extremal.perturbations import BlurPyramid, BoundPerturbation, FadePyramid, Perturbation

SMALLEST_SIDE = 8
_SPATIAL_RANKS = (1, 2, 3)
_PERTURBATIONS: dict[str, Perturbation] = {"blur": BlurPyramid(), "fade": FadePyramid()}


def check_inputs(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs as a tuple of tensors (N, C, *S).

    Raises:
        TypeError: they are no floating tensors.
        ValueError: a rank, a size, a device or a value that cannot be explained.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors:
        raise ValueError("inputs must hold at least one tensor, got an empty tuple")
    for name, x in _named("inputs", inputs, tensors):
        _check_input(name, x)
        if len(x) != len(tensors[0]) or x.device != tensors[0].device:
            raise ValueError(
                f"{name} must have as many examples as inputs[0], {len(tensors[0])}, on the same device, "
                f"got {len(x)} on {x.device}"
            )
    return tensors


def _check_input(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor or a tuple of tensors, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be a floating tensor, got {x.dtype}: convert and normalise it as the model expects"
        )
    if x.dim() - 2 not in _SPATIAL_RANKS:
        raise ValueError(f"{name} must be (N, C, *S) with one to three spatial dimensions, got shape {tuple(x.shape)}")
    if not x.numel():
        raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}")
    if min(x.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(f"{name} must have spatial sides of at least {SMALLEST_SIDE}, got shape {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite values in shape {tuple(x.shape)}")


def check_baselines(inputs: tuple[Tensor, ...], baselines: BaselineType, is_tuple: bool) -> tuple[Tensor, ...]:
    """The baseline of each input tensor, in its shape: 0 where none is given.

    Raises:
        TypeError: a baseline is neither a number nor a tensor.
        ValueError: there is not one baseline an input, or one does not have its input's shape (N or 1 examples).
    """
    if baselines is None:
        baselines = (0.0,) * len(inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        raise ValueError(f"baselines must be one for each of {len(inputs)} inputs, got {len(given)}")
    label = "baselines"
    return tuple(
        _baseline(f"{label}[{k}]" if is_tuple else label, x, value) for k, (x, value) in enumerate(zip(inputs, given))
    )


def _baseline(name: str, x: Tensor, value: object) -> Tensor:
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    if not isinstance(value, Tensor):
        value = torch.full_like(x[:1], float(value))
    if value.dim() != x.dim() or value.shape[1:] != x.shape[1:] or len(value) not in (1, len(x)):
        raise ValueError(
            f"{name} must have the shape of its input, {tuple(x.shape)}, or one example of it, got {tuple(value.shape)}"
        )
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return value.detach().to(x).expand_as(x)


def check_target(target: object, images: int) -> TargetType:
    """The target in one of the forms that Captum accepts, of the right length.

    Integers may be Python's, NumPy's or PyTorch's, of any width: Captum itself takes Python's and int64 tensors.

    Raises:
        TypeError: no index, tuple of indices, list of either, or tensor or array of integers.
        ValueError: not one target an example.
    """
    if target is None:
        return None
    if _is_index(target):
        return cast(TargetType, _plain_index(target))
    if isinstance(target, (Tensor, np.ndarray)):
        return _target_of_array(target, images)
    if not isinstance(target, list):
        raise TypeError(
            "target must be None, an integer, a tuple of integers, a list of either, or a tensor or array of "
            f"integers, got {target!r} of type {type(target).__name__}"
        )
    if len(target) != images:
        raise ValueError(f"target must be a list of {images}, one for each example, got {len(target)}")
    for entry in target:
        if not _is_index(entry) or isinstance(entry, tuple) != isinstance(target[0], tuple):
            raise TypeError(f"target must be a list of integers or of tuples of integers, got {target!r}")
    return [_plain_index(entry) for entry in target]


def _target_of_array(target: Tensor | np.ndarray[Any, Any], images: int) -> TargetType:
    """A tensor stays one, where it is; an array becomes a number or a list, which fit an output on any device."""
    name = str(target.dtype)
    if "int" not in name:
        raise TypeError(f"target must be a tensor or array of integers, got {name}")
    one = math.prod(target.shape) == 1
    if not one and tuple(target.shape) != (images,):
        raise ValueError(
            f"target must be one integer or one for each of {images} examples, shape ({images},), "
            f"got shape {tuple(target.shape)}"
        )
    if isinstance(target, Tensor):
        return target.to(torch.int64)
    return int(target.item()) if one else cast("list[int]", target.tolist())


def _is_index(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(_is_index(part) and not isinstance(part, tuple) for part in value)
    return isinstance(value, Integral) and not isinstance(value, bool)


def _plain_index(value: Any) -> Any:
    """An index, or a tuple of them, as Python's own integers."""
    return tuple(map(int, value)) if isinstance(value, tuple) else int(value)


def check_arguments(additional_forward_args: object, images: int) -> None:
    """Every tensor has a row an example, because it is repeated with them; what has no rows is passed on as it is.

    Raises:
        ValueError: a tensor of at least one dimension has another number of rows.
    """
    name = "additional_forward_args"
    given = [(name, additional_forward_args)]
    if isinstance(additional_forward_args, tuple):
        given = [(f"{name}[{k}]", part) for k, part in enumerate(additional_forward_args)]
    for label, part in given:
        if isinstance(part, Tensor) and part.dim() and len(part) != images:
            raise ValueError(
                f"{label} must have a row for each of {images} examples, got shape "
                f"{tuple(part.shape)}: what all of them share goes into forward_func itself"
            )


def check_areas(areas: object, smallest: float) -> tuple[float, ...]:
    """Increasing fractions of the input, none below the smallest mask.

    Raises:
        TypeError: no number or sequence of numbers.
        ValueError: empty, outside (0, 1], not increasing, or below ``smallest``.
    """
    if isinstance(areas, (bool, str, bytes)):
        raise TypeError(f"areas must be numbers, got {areas!r}")
    try:
        values = torch.as_tensor(areas, dtype=torch.float64).tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"areas must be a number or a sequence of numbers, got {areas!r}") from error
    values = values if isinstance(values, list) else [values]
    if not values:
        raise ValueError("areas must not be empty")
    if any(isinstance(value, list) for value in values):
        raise ValueError(f"areas must be one set of numbers for all images, got {areas!r}")
    if not all(0 < value <= 1 for value in values):
        raise ValueError(f"areas must be fractions in (0, 1], 0.05 for 5 %, got {values}")
    if any(after <= before for before, after in pairwise(values)):
        raise ValueError(f"areas must be strictly increasing, got {values}")
    if values[0] < smallest:
        raise ValueError(
            f"areas must be at least one cell of the mask's lattice, {smallest:.2g} of this input, got {values[0]}"
        )
    return tuple(values)


def check_perturbations_per_eval(value: int | None) -> None:
    """None or an integer of at least 1."""
    if value is not None:
        check_count("perturbations_per_eval", value)


def check_callback(callback: object) -> None:
    """None or something to call.

    Raises:
        TypeError: it cannot be called with a step, areas and scores.
    """
    if callback is not None:
        check_callable("callback", callback, "step", "areas", "scores")


def as_family(mask: MaskFamily | None) -> MaskFamily:
    """The family of masks; by default smooth ones.

    Raises:
        TypeError: the object is no family of masks.
    """
    if mask is None:
        return SmoothMask()
    if not isinstance(mask, MaskFamily) or isinstance(mask, type):
        raise TypeError(f"mask must be an object with bind_areas and smallest_area, such as SmoothMask(), got {mask!r}")
    return mask


def as_perturbation(perturbation: str | Perturbation) -> Perturbation:
    """The perturbation of this name; an object with ``bind`` is returned as it is.

    Raises:
        ValueError: there is no perturbation of this name.
        TypeError: the object has no ``bind``, or not one of an input and its baseline.
    """
    if isinstance(perturbation, str):
        check_choice("perturbation", perturbation, _PERTURBATIONS)
        return _PERTURBATIONS[perturbation]
    if not isinstance(perturbation, Perturbation) or isinstance(perturbation, type):
        raise TypeError(f"perturbation must be a name or an object with bind(x, baseline), got {perturbation!r}")
    check_callable("perturbation.bind", perturbation.bind, "x", "baseline")
    return perturbation


def bind_perturbation(perturbation: Perturbation, x: Tensor, baseline: Tensor) -> BoundPerturbation:
    """The perturbation of one input tensor, tried once on a mask that keeps everything.

    Raises:
        TypeError: what ``bind`` returns is no function of masks.
        ValueError: what that function returns does not have the input's shape.
    """
    bound = perturbation.bind(x, baseline)
    check_callable("perturbation.bind's result", bound, "mask")
    kept = bound(x.new_ones(len(x), 1, *x.shape[2:]))
    if not isinstance(kept, Tensor) or kept.shape != x.shape:
        got = tuple(kept.shape) if isinstance(kept, Tensor) else type(kept).__name__
        raise ValueError(f"perturbation must turn one mask an image into inputs of shape {tuple(x.shape)}, got {got}")
    return bound


def _named(name: str, given: object, tensors: tuple[Tensor, ...]) -> list[tuple[str, Tensor]]:
    if isinstance(given, tuple):
        return [(f"{name}[{k}]", x) for k, x in enumerate(tensors)]
    return [(name, tensors[0])]
