"""Settings as plain values of JSON: equal settings have equal descriptions in every process, different ones do not."""

import dataclasses
import hashlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor


def describe(name: str, value: Any) -> Any:
    """A canonical description of the setting of this name.

    Numbers, strings, booleans and None stay as they are; lists and tuples become lists, and dictionaries with strings
    as keys stay dictionaries. Anything else becomes a dictionary with one key, ``<module.Type>``: of dataclasses the
    fields, of tensors and arrays a checksum, of functions and classes that can be imported their name and a checksum of
    their source. A description is its own description.

    Raises:
        TypeError: the value, or a part of it, is of another kind, so that its state cannot be told.
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
    return _digest(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data for tensor in tensors)


def _state(name: str, value: Any) -> Any:
    """What tells a value from others of its type."""
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), checksum([value])]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return [str(value.dtype), list(value.shape), _digest([value.tobytes()])]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: describe(f"{name}.{field.name}", getattr(value, field.name)) for field in fields}
    # A lambda, or a function in another one, may have bound other values: a name must stand for it.
    if isinstance(value, type) or inspect.isroutine(value):
        with suppress(AttributeError, ImportError, ValueError):
            if pkgutil.resolve_name(f"{value.__module__}:{value.__qualname__}") is value:
                source = None  # for what is written in C
                with suppress(OSError, TypeError):
                    source = _digest([inspect.getsource(value).encode()])
                return [_qualified(value), source]
    raise TypeError(
        f"{name} must be told apart from other settings by its values, got {value!r} of type {type(value).__name__}: "
        "use a frozen dataclass, a function or class at the top level of a module, numbers, strings or tensors"
    )


def _qualified(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _digest(contents: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for content in contents:
        found.update(content)
    return found.hexdigest()[:16]
