"""What every method checks of its caller's arguments before the model runs for the first time."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType
from captum_extremal._checks import check_choice, check_count
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


def check_target(target: TargetType, images: int) -> None:
    """One of the forms that Captum accepts, of the right length.

    Raises:
        TypeError: no index, tuple of indices, list of either, or tensor of integers.
        ValueError: not one target an example.
    """
    if target is None or _is_index(target):
        return
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TypeError(f"target must be a tensor of integers, got {target.dtype}")
        if target.numel() != 1 and tuple(target.shape) != (images,):
            raise ValueError(
                f"target must be one integer or one for each of {images} examples, shape ({images},), "
                f"got shape {tuple(target.shape)}"
            )
        return
    if not isinstance(target, list):
        raise TypeError(
            "target must be None, an integer, a tuple of integers, a list of either, or a tensor of integers, "
            f"got {target!r} of type {type(target).__name__}"
        )
    if len(target) != images:
        raise ValueError(f"target must be a list of {images}, one for each example, got {len(target)}")
    for entry in target:
        if not _is_index(entry) or isinstance(entry, tuple) != isinstance(target[0], tuple):
            raise TypeError(f"target must be a list of integers or of tuples of integers, got {target!r}")


def _is_index(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(_is_index(part) and not isinstance(part, tuple) for part in value)
    return isinstance(value, int) and not isinstance(value, bool)


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
        raise ValueError(f"areas must be fractions in (0, 1], got {values}")
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
        TypeError: it cannot be called.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable as (step, areas, scores), got {callback!r}")


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
        TypeError: the object has no ``bind``.
    """
    if isinstance(perturbation, str):
        check_choice("perturbation", perturbation, _PERTURBATIONS)
        return _PERTURBATIONS[perturbation]
    if not isinstance(perturbation, Perturbation) or isinstance(perturbation, type):
        raise TypeError(f"perturbation must be a name or an object with bind(x, baseline), got {perturbation!r}")
    return perturbation


def bind_perturbation(perturbation: Perturbation, x: Tensor, baseline: Tensor) -> BoundPerturbation:
    """The perturbation of one input tensor, tried once on a mask that keeps everything.

    Raises:
        ValueError: what it returns does not have the input's shape.
    """
    bound = perturbation.bind(x, baseline)
    kept = bound(x.new_ones(len(x), 1, *x.shape[2:]))
    if not isinstance(kept, Tensor) or kept.shape != x.shape:
        got = tuple(kept.shape) if isinstance(kept, Tensor) else type(kept).__name__
        raise ValueError(f"perturbation must turn one mask an image into inputs of shape {tuple(x.shape)}, got {got}")
    return bound


def _named(name: str, given: object, tensors: tuple[Tensor, ...]) -> list[tuple[str, Tensor]]:
    if isinstance(given, tuple):
        return [(f"{name}[{k}]", x) for k, x in enumerate(tensors)]
    return [(name, tensors[0])]
