"""Settings as plain values of JSON: equal settings have equal descriptions in every process, different ones do not."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


def describe(name: str, value: object) -> Any:
    """A canonical description of a setting.

    Numbers, strings, booleans and None stay as they are; lists and tuples become lists, and dictionaries with strings
    as keys stay dictionaries. Anything else becomes a dictionary with one key, ``<module.Type>``: of dataclasses all
    fields, of tensors and arrays a checksum, of functions and classes their qualified name and a checksum of their
    source, with the values that a function has bound. A description is its own description.

    Args:
        name: of the setting, for errors.
        value: of the setting.

    Raises:
        TypeError: the value, or a part of it, is of another type, so that its state cannot be told.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(f"{name}[{k}]", part) for k, part in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: describe(f"{name}[{key!r}]", part) for key, part in value.items()}
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return describe(name, value.item())
    return {f"<{_qualified(type(value))}>": _state(name, value)}


def checksum(tensors: Iterable[Tensor]) -> str:
    """16 hexadecimal digits of the SHA-256 of the values."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def _state(name: str, value: Any) -> Any:
    """What tells a value from others of its type."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (torch.dtype, torch.device, PurePath)):
        return str(value)
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), checksum([value])]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return [str(value.dtype), list(value.shape), _digest(value.tobytes())]
    if isinstance(value, (set, frozenset)):
        return sorted((describe(name, part) for part in value), key=json.dumps)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, functools.partial):
        parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
    elif inspect.ismethod(value):
        parts = {"func": value.__func__, "self": value.__self__}
    elif inspect.isfunction(value) and value.__name__ != "<lambda>":
        bound = {"defaults": value.__defaults__, "keywords": value.__kwdefaults__}
        parts = {"name": _qualified(value), "source": _source(name, value), **bound}
        parts["closure"] = dict(inspect.getclosurevars(value).nonlocals)
    elif isinstance(value, type):
        parts = {"name": _qualified(value), "source": _source(name, value)}
    elif inspect.isbuiltin(value) and isinstance(value.__self__, (ModuleType, type)):
        return _qualified(value)
    else:
        raise TypeError(
            f"{name} must be told apart from other settings by plain values, got {value!r} of type "
            f"{type(value).__name__}: use a frozen dataclass, a function made with def, numbers, strings or tensors"
        )
    return {key: describe(f"{name}.{key}", part) for key, part in parts.items()}


def _qualified(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _source(name: str, value: Any) -> str | None:
    """A checksum of the source; None for what is written in C."""
    try:
        return _digest(inspect.getsource(value).encode())
    except (OSError, TypeError):
        if inspect.isfunction(value):
            raise TypeError(f"{name} must be a function with source code, got {value!r}") from None
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
