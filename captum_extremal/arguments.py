"""The arguments that all methods share, checked before the model runs for the first time.

A bad argument raises TypeError or ValueError, with its name, the rule and what came.

Shapes: N examples; inputs (N, ...), with C channels on one axis and positions S on the others where a method masks
positions.
"""

import math
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType
from captum_extremal._state import warn_caller
from captum_extremal.masks import check_axes

_SPATIAL_RANKS = (1, 2, 3)
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_COLOURS = 4  # channels of an image

Tensors = tuple[Tensor, ...]


def check_features(inputs: object) -> Tensors:
    """Inputs of which groups of features are masked, as a tuple of tensors (N, ...)."""
    tensors = _as_tensors(inputs, "inputs")
    for name, x in _named("inputs", inputs, tensors):
        _check_floating(name, x)
        if x.dim() < 2:
            raise ValueError(f"{name} must be (N, ...) with at least two dimensions, got shape {tuple(x.shape)}")
    return check_examples(inputs)


def check_inputs(inputs: object, channel_dim: object = 1) -> Tensors:
    """Inputs whose positions are masked, as a tuple of tensors.

    Args:
        inputs: (N, C, *S), or with the channels on another axis.
        channel_dim: their axis, counted with N; None for 1 where a caller may say another, with a warning where that
            is likely.
    """
    tensors = _as_tensors(inputs, "inputs")
    check_axes(channel_dim)
    for name, x in _named("inputs", inputs, tensors):
        _check_floating(name, x)
        if x.dim() - 2 not in _SPATIAL_RANKS:
            raise ValueError(
                f"{name} must be (N, C, *S) with one to three spatial dimensions, got shape {tuple(x.shape)}: "
                "feature_mask=... names groups of features of tensors of any shape"
            )
        positions = positions_of(x, channel_dim, name)
        if x.numel() and math.prod(positions) < 2:
            raise ValueError(f"{name} must have at least 2 positions, got shape {tuple(x.shape)}")
        if channel_dim is None and x.numel():
            warn_of_layout(name, x)
    return check_examples(inputs)


def positions_of(x: Tensor, channel_dim: Any, name: str = "inputs") -> tuple[int, ...]:
    """S, the sides of all axes of x (N, ...) but the first and that of the channels.

    Raises:
        ValueError: ``channel_dim`` is none of the axes behind the first.
    """
    rank, axis = x.dim(), 1 if channel_dim is None else int(channel_dim)
    if not (1 <= axis < rank or -rank < axis <= -1):
        raise ValueError(
            f"channel_dim must be one of the {rank - 1} dimensions of {name} behind the first, got {axis} for shape "
            f"{tuple(x.shape)}"
        )
    return tuple(side for at, side in enumerate(x.shape) if at not in (0, axis % rank))


def warn_of_layout(name: str, x: Tensor) -> None:
    """Warn where the axis that is taken for the channels looks like positions."""
    channels, *positions = x.shape[1:]
    colours_last = x.dim() == 4 and positions[-1] <= _MOST_COLOURS < min(channels, positions[0])
    if channels > max(positions) or colours_last:
        warn_caller(
            f"{name} of shape {tuple(x.shape)} are taken to have {channels} channels, and masks cover the other axes "
            f"{tuple(positions)}: give channel_dim=-1 where the channels are the last axis, such as the features of "
            "(N, T, F) or the colours of (N, H, W, C), or channel_dim=1 where they are the second"
        )


def _check_floating(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be a floating tensor, got {x.dtype}: convert and normalise it as the model expects; of "
            "integers such as token ids, mask an embedding layer with LayerExtremalPerturbation"
        )


def check_examples(inputs: object, argument: str = "inputs") -> Tensors:
    """A model's inputs as a tuple of dense tensors with N rows each, of any shape.

    Raises:
        TypeError, ValueError: an input is no dense tensor with values, or of a type that PyTorch does not compute with.
    """
    tensors = _as_tensors(inputs, argument)
    for name, x in _named(argument, inputs, tensors):
        if x.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got {x.layout}: give x.to_dense()")
        if x.is_floating_point() and x.dtype not in _FLOATING:
            raise TypeError(
                f"{name} must be a tensor of a type that PyTorch computes with, got {x.dtype}: give x.float()"
            )
        if x.is_meta:
            raise ValueError(f"{name} must hold values, got a tensor on the device meta")
        if not x.dim() or not x.numel():
            raise ValueError(f"{name} must have one row per example and not be empty, got shape {tuple(x.shape)}")
        if len(x) != len(tensors[0]) or x.device != tensors[0].device:
            raise ValueError(
                f"{name} must have as many examples as {argument}[0], {len(tensors[0])}, on the same device, "
                f"got {len(x)} on {x.device}"
            )
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinite values in shape {tuple(x.shape)}")
    return tensors


def _as_tensors(inputs: object, argument: str) -> Tensors:
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors:
        raise ValueError(f"{argument} must hold at least one tensor, got an empty tuple")
    for name, x in _named(argument, inputs, tensors):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor or a tuple of tensors, got {type(x).__name__}")
    return tensors


def check_baselines(inputs: Tensors, baselines: BaselineType, is_tuple: bool, argument: str = "baselines") -> Tensors:
    """The baseline of each input tensor, broadcast to its shape: 0 where none is given."""
    if baselines is None:
        baselines = (0.0,) * len(inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        raise ValueError(f"{argument} must be one for each of {len(inputs)} inputs, got {len(given)}")
    names = [f"{argument}[{k}]" if is_tuple else argument for k in range(len(inputs))]
    return tuple(_baseline(name, x, value) for name, x, value in zip(names, inputs, given))


def _baseline(name: str, x: Tensor, value: object) -> Tensor:
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        hint = ": give the target by keyword, target=..." if isinstance(value, list) else ""
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}{hint}")
    if not isinstance(value, Tensor):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
        return torch.full_like(x[:1], float(value)).expand_as(x)
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be real numbers, got {value.dtype}")
    fits = all(side in (1, full) for side, full in zip(value.shape, x.shape))
    if value.dim() != x.dim() or not fits:
        whose = "the layer's activation" if name.startswith("layer_") else "its input"
        raise ValueError(
            f"{name} must have the shape of {whose}, {tuple(x.shape)}, with any side 1 to be repeated, such as one "
            f"example of it, got {tuple(value.shape)}"
        )
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return value.detach().to(x).expand_as(x)


def check_target(target: object, images: int, device: torch.device) -> TargetType:
    """The target in one of the forms that Captum accepts, of the right length, tensors on the device.

    Integers may be Python's, NumPy's or PyTorch's, of any width. Captum itself takes Python's and int64 tensors.
    """
    if target is None:
        return None
    if _is_index(target):
        return cast(TargetType, _plain_index(target))
    if isinstance(target, (Tensor, np.ndarray)):
        return _target_of_array(target, images, device)
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


def _target_of_array(target: Tensor | np.ndarray[Any, Any], images: int, device: torch.device) -> TargetType:
    """A tensor stays a tensor, and an array becomes a list; a single number is read once, and not at every pass."""
    name = str(target.dtype)
    if "int" not in name:
        raise TypeError(f"target must be a tensor or array of integers, got {name}")
    one = math.prod(target.shape) == 1
    if not one and tuple(target.shape) != (images,):
        raise ValueError(
            f"target must be one integer or one for each of {images} examples, shape ({images},), "
            f"got shape {tuple(target.shape)}"
        )
    if isinstance(target, Tensor) and not one:
        return target.to(device, torch.int64)
    return int(target.item()) if one else cast("list[int]", target.tolist())


def _is_index(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(_is_index(part) and not isinstance(part, tuple) for part in value)
    return isinstance(value, Integral) and not isinstance(value, bool)


def _plain_index(value: Any) -> Any:
    """An index, or a tuple of them, as Python's own integers."""
    return tuple(map(int, value)) if isinstance(value, tuple) else int(value)


def check_arguments(additional_forward_args: object, images: int) -> None:
    """Every tensor needs one row per example, because it is repeated with the inputs."""
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


def on_device(value: Any, device: torch.device) -> Any:
    """Tensors, and tuples of them, on the device; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(on_device(part, device) for part in value)
    return value.to(device) if isinstance(value, Tensor) else value


def _named(name: str, given: object, parts: tuple[Any, ...]) -> list[tuple[str, Any]]:
    if isinstance(given, tuple):
        return [(f"{name}[{k}]", part) for k, part in enumerate(parts)]
    return [(name, parts[0])]


def target_of_rows(target: TargetType, rows: Tensor) -> TargetType:
    """The checked target of some examples alone, rows (n,)."""
    if isinstance(target, Tensor):
        return target[rows] if len(rows) > 1 else int(target[rows])
    return [target[row] for row in rows.tolist()] if isinstance(target, list) else target


def arguments_of_rows(additional_forward_args: Any, rows: Tensor) -> Any:
    """The additional arguments of some examples alone, rows (n,)."""
    if isinstance(additional_forward_args, tuple):
        return tuple(arguments_of_rows(part, rows) for part in additional_forward_args)
    by_example = isinstance(additional_forward_args, Tensor) and additional_forward_args.dim() > 0
    return additional_forward_args[rows] if by_example else additional_forward_args
