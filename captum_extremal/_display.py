"""Checks of what is displayed: pictures in [0, 1], and names, which are drawn literally."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

Shape = tuple[int | str, ...]  # a letter stands for any size

_ROUNDING = 0.01  # undoing a normalisation may leave [0, 1] by rounding


def tensor(
    name: str, value: Any, *shapes: Shape, display: bool = False, floating: bool = True, rule: str = "", hint: str = ""
) -> Tensor:
    """A finite tensor of one of these shapes, not empty, in [0, 1] for ``display``; a ``hint`` ends the message."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if floating and not value.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor{' in [0, 1]' if display else ''}, got {value.dtype}")
    fits = [value.dim() == len(s) and all(isinstance(b, str) or a == b for a, b in zip(value.shape, s)) for s in shapes]
    if not value.numel() or not any(fits):
        allowed = " or ".join(f"({', '.join(map(str, shape))})" for shape in shapes)
        raise ValueError(f"{name} must be {rule}{allowed}, got shape {tuple(value.shape)}{hint}")
    low, high = value.min().item(), value.max().item()
    if display and not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN fails both comparisons
        rule = "in [0, 1], for display: undo the model's normalisation"
        raise ValueError(f"{name} must be {rule}; got values from {low:.3g} to {high:.3g}")
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return value


def images(name: str, given: object, count: int | str = "N", size: Shape = ("H", "W"), rule: str = "") -> Tensor:
    return tensor(name, given, (count, 3, *size), (count, 1, *size), display=True, rule=rule)


def names(name: str, given: Any, default: list[str], each: str) -> list[str]:
    """Strings, one for ``each`` image, target, ..."""
    if given is None:
        return default
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise TypeError(f"{name} must be a sequence of strings, got {given!r}")
    return as_many(name, given, len(default), each)


def as_many(name: str, given: Sequence[Any], count: int, each: str) -> list[Any]:
    if len(given) != count:
        raise ValueError(f"{name} must be {count}, one for each {each}, got {len(given)}")
    return list(given)
