"""The caller's state, which no method may change: random states, buffers, modes, autocast."""

import contextlib
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def modules_of(forward_func: Callable[..., Any]) -> list[nn.Module]:
    """The modules of a function: itself, what it is bound to, and what its closure, globals or attributes refer to."""
    if isinstance(forward_func, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return [forward_func.module]  # the wrapper's own mode has no effect
    compiled = getattr(forward_func, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return [compiled]
    if isinstance(forward_func, nn.Module):
        return [forward_func]
    if isinstance(forward_func, functools.partial):
        parts = (forward_func.func, *forward_func.args, *forward_func.keywords.values())
        return [module for part in parts if callable(part) for module in modules_of(part)]
    if inspect.ismethod(forward_func):
        values = [owner := forward_func.__self__, *getattr(owner, "__dict__", {}).values()]
    elif inspect.isfunction(forward_func):
        used = inspect.getclosurevars(forward_func)
        values = [*used.nonlocals.values(), *used.globals.values()]
    else:
        values = list(getattr(forward_func, "__dict__", {}).values())
        functions = (types.FunctionType, types.MethodType, functools.partial)
        inner = [value for value in values if isinstance(value, functions)]
        values += [module for function in inner for module in modules_of(function)]
    return [found for value in values if isinstance(value, nn.Module) for found in modules_of(value)]


def warn_caller(message: str) -> None:
    """A UserWarning at the line that called into this package, past all decorators and wrappers."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


_LIBRARIES = {"captum", "captum_extremal", "contextlib", "torch"}


@contextlib.contextmanager
def preserve_state(forward_func: Callable[..., Any], device: torch.device) -> Iterator[None]:
    """Restore the random states, and the buffers of modules in train mode, also after an exception.

    Modules in train mode are warned of, because their scores depend on the rest of the batch or on chance.

    Raises:
        ValueError: the parameters were made under ``torch.inference_mode()``, so that nothing can be
            differentiated through them.
    """
    modules = modules_of(forward_func)
    _check_parameters(modules)
    training = [m for module in modules for m in module.modules() if m.training]
    if training:
        warn_caller(
            "the model is in train mode: dropout and batch normalisation make its scores depend on chance and on "
            "the rest of the batch; call model.eval() first"
        )
    buffers = [b for module in training for b in module.buffers(recurse=False)]
    saved = [buffer.detach().clone() for buffer in buffers]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved):
                buffer.copy_(value)


def _check_parameters(modules: list[nn.Module]) -> None:
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.is_inference():
                raise ValueError(
                    f"forward_func's parameters must not be inference tensors, got {name!r} made under "
                    "torch.inference_mode(): build or load the model outside of it"
                )


class ForwardPrecision:
    """The autocast state of the caller. Only the model's forward runs in it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device.type
        self._enabled = torch.is_autocast_enabled(self._device)
        self._dtype = torch.get_autocast_dtype(self._device)

    def forward(self, precision: torch.dtype | None = None) -> torch.autocast:
        """Autocast to ``precision``; None for the caller's choice."""
        if precision is None:
            return torch.autocast(self._device, dtype=self._dtype, enabled=self._enabled)
        return torch.autocast(self._device, dtype=precision)

    def ours(self) -> torch.autocast:
        """No autocast."""
        return torch.autocast(self._device, enabled=False)


def as_plain(value: Any) -> Any:
    """A copy of an inference tensor that autograd accepts; anything else, and tuples of it, as it is."""
    if isinstance(value, tuple):
        return tuple(as_plain(part) for part in value)
    if isinstance(value, Tensor) and value.is_inference():
        return value.clone()
    return value
