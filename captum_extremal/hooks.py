"""Hooks: the only file that registers hooks on a model, and that looks through the wrappers around it.

Every hook is registered by a context manager and removed when it ends, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import nn

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile``, ``DataParallel`` and the like; anything else as it is.

    A hook on a module inside runs once in a forward of the module that is returned.
    """
    if isinstance(forward_func, _WRAPPERS):
        return unwrap(forward_func.module)
    original = uncompiled(forward_func)
    return forward_func if original is forward_func else unwrap(original)


def uncompiled(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile``; anything else as it is."""
    original = getattr(forward_func, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else forward_func


@contextmanager
def on_output(module: nn.Module, see: Callable[[Any], Any]) -> Iterator[None]:
    """Call ``see`` with what the module returns; what ``see`` returns replaces it, unless it is None."""

    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        return see(output)

    handle = module.register_forward_hook(hook)
    try:
        with _run_as_written():
            yield
    finally:
        handle.remove()


@contextmanager
def on_input(module: nn.Module, see: Callable[[Any], Any]) -> Iterator[None]:
    """Call ``see`` with what the module is given, a tuple if that is not one argument; otherwise as ``on_output``."""

    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) != 1:
            return see(arguments)
        replaced = see(arguments[0])
        return None if replaced is None else (replaced,)

    handle = module.register_forward_pre_hook(hook)
    try:
        with _run_as_written():
            yield
    finally:
        handle.remove()


def on_every_output(
    modules: Iterable[tuple[str, nn.Module]], see: Callable[[str, Any], None]
) -> AbstractContextManager[None]:
    """Call ``see`` with the name and the output of each of these modules, in the order in which they return."""
    return _on_every(on_output, modules, see)


def on_every_input(
    modules: Iterable[tuple[str, nn.Module]], see: Callable[[str, Any], None]
) -> AbstractContextManager[None]:
    """Call ``see`` with the name and the input of each of these modules, in the order in which they are called."""
    return _on_every(on_input, modules, see)


@contextmanager
def _on_every(
    on_one: Callable[..., AbstractContextManager[None]],
    modules: Iterable[tuple[str, nn.Module]],
    see: Callable[[str, Any], None],
) -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in modules:
            stack.enter_context(on_one(module, partial(see, name)))
        yield


def _run_as_written() -> AbstractContextManager[Any]:
    """Compiled parts of a model run as they were written, because compiled code does not notice later hooks."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # since PyTorch 2.6
    return nullcontext() if set_stance is None else cast("AbstractContextManager[Any]", set_stance("force_eager"))
