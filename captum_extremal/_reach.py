"""What a function can reach: the modules and tensors behind closures, objects, containers and wrappers.

Nothing that is looked at runs: no property, no ``__getattr__``, no user's iterator.
"""

import copy
import dis
import functools
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import BuiltinMethodType, CellType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_MOST = 20_000  # objects that are looked at, so that a data set behind a function costs no minutes
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, np.generic)
_OPAQUE = {"torch", "numpy"}  # whose own objects, other than modules, are not looked into
# Whose code is not read. An assert in a file of tests, as pytest rewrites it, refers to all of pytest.
_LIBRARIES = {"captum", "captum_extremal", "_pytest", *_OPAQUE, *sys.stdlib_module_names}


def reachable(start: object) -> Iterator[Any]:
    """The object, and those that it refers to, the nearest first."""
    waiting, seen, kept = deque([start]), set[int](), list[Any]()
    while waiting and len(kept) < _MOST:
        value = waiting.popleft()
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        kept.append(value)  # so that no other object gets its id
        yield value
        waiting.extend(_parts(value)[:_MOST])


def modules_of(forward_func: Callable[..., Any]) -> list[nn.Module]:
    """The modules of a function, without those inside of one before them."""
    found: list[nn.Module] = []
    inside: set[int] = set()
    for value in reachable(forward_func):
        if isinstance(value, nn.Module) and id(value) not in inside:
            found.append(value)
            inside.update(map(id, value.modules()))
    return found


def constants_of(forward_func: Callable[..., Any]) -> list[Tensor]:
    """The tensors that functions hold themselves, past any module, such as a matrix in a closure."""
    held = [_parts(value) for value in reachable(forward_func) if isinstance(value, (FunctionType, functools.partial))]
    return [part for parts in held for part in parts if isinstance(part, Tensor)]


def lazy_parameter(module: nn.Module) -> str | None:
    """The name of a parameter or buffer that comes with the first forward; None if there is none."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return next((name for name, tensor in tensors if nn.parameter.is_lazy(tensor)), None)


def copied(model: nn.Module, share: bool = False) -> nn.Module:
    """A copy of a model; with ``share`` it has the model's own tensors.

    Tensors that the model computed and kept, as old weight normalisation does, are copied without their graph, which
    ``copy.deepcopy`` refuses.

    Raises:
        TypeError: the model holds what cannot be copied.
    """
    tensors = [value for value in reachable(model) if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(one): one for one in tensors} if share else {}
    if not share:
        memo.update({id(one): one.detach().clone() for one in tensors if not one.is_leaf})
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # of any kind: objects decide themselves how they are copied
        raise TypeError(f"model must be one that copy.deepcopy copies, but {type(error).__name__}: {error}") from error


def _parts(value: Any) -> list[Any]:
    """What an object refers to."""
    if isinstance(value, (Tensor, np.ndarray, torch.Size, ModuleType, CodeType)):
        return []
    if isinstance(value, type):
        return [] if _of_a(_LIBRARIES, value) else [*vars(value).values()]
    if isinstance(value, FunctionType):
        return _of_function(value)
    if isinstance(value, (MethodType, BuiltinMethodType)):
        return [getattr(value, "__func__", None), value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, dict):
        return [*dict.values(value), *_state(value)]
    containers: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
    for kind in containers:
        if isinstance(value, kind):
            return [*kind.__iter__(value), *_state(value)]
    if _of_a(_OPAQUE, type(value)) and not isinstance(value, nn.Module):
        return []
    return [*_state(value), *(kind for kind in type(value).__mro__ if not _of_a(_LIBRARIES, kind))]


def _of_a(packages: set[str], value: Any) -> bool:
    """Whether a function or class belongs to one of these packages."""
    return str(value.__module__).partition(".")[0] in packages


def _state(value: Any) -> list[Any]:
    """The attributes of an object itself, in its dictionary and in slots."""
    found: list[Any] = []
    with suppress(AttributeError, TypeError):
        found += object.__getattribute__(value, "__dict__").values()
    for kind in type(value).__mro__:
        slots = [member for member in vars(kind).values() if isinstance(member, MemberDescriptorType)]
        for member in slots if not _of_a(_LIBRARIES, kind) else ():
            with suppress(AttributeError):  # a slot that was never assigned
                found.append(member.__get__(value))
    return found


def _of_function(function: FunctionType) -> list[Any]:
    """Cells, defaults and attributes of a function, and the globals that its code reads."""
    found = [*map(_content, function.__closure__ or ())]
    found += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]
    if _of_a(_LIBRARIES, function):
        return found
    read, attributes = _names_in(function.__code__)
    for name in read:
        value = function.__globals__.get(name)
        found.append(value)
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in _LIBRARIES:
            found += [vars(value).get(attribute) for attribute in attributes]  # such as a file that holds the model
    return found


def _content(cell: CellType) -> Any:
    """What a cell of a closure holds; None for a name that was never assigned."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The globals that code reads, and the attributes, also in functions inside of it."""
    read, attributes = dict[str, None](), dict[str, None]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read[str(step.argval)] = None
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes[str(step.argval)] = None
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            for names, more in zip((read, attributes), _names_in(inner)):
                names.update(dict.fromkeys(more))
    return tuple(read), tuple(attributes)
