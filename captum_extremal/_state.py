"""The caller's state, which no method may change: random states, buffers, modes, autocast."""

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Hashable, Iterator
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from captum_extremal._reach import modules_of
from captum_extremal.hooks import noticing_calls

_LARGEST_STATE = 2**20  # entries of a buffer that a model's own code may change in eval mode; tables have more
_LIBRARIES = {"captum", "captum_extremal", "contextlib", "torch"}
_TRAINS = (
    "the model is in train mode: dropout and batch normalisation make its scores depend on chance and on the rest of "
    "the batch; call model.eval() first"
)
_NORMALISES_BY_BATCH = (
    "the model normalises by the statistics of each batch in eval mode too, because it has batch normalisation without "
    "running statistics: its scores depend on the other images and masks in the batch; explain one image at a time "
    "with perturbations_per_eval=1, or train it with track_running_stats=True"
)


def warn_caller(message: str) -> None:
    """A UserWarning at the line that called into this package, past all decorators, wrappers and the model itself."""
    packages, frame = [], inspect.currentframe()
    while frame is not None:
        packages.append(frame.f_globals.get("__name__", "").split(".")[0])
        frame = frame.f_back
    level = max(k for k, package in enumerate(packages) if package == "captum_extremal")
    while level + 1 < len(packages) and packages[level] in _LIBRARIES:
        level += 1
    warnings.warn(message, stacklevel=level + 1)


def as_device(device: object) -> torch.device:
    """The device that an argument names.

    Raises:
        TypeError, ValueError: it is no device.
    """
    try:
        return torch.device(cast(Any, device))
    except (RuntimeError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        reason = str(error).partition("\n")[0]
        raise kind(f"device must be one of PyTorch's, got {device!r}: {reason}") from error


@contextlib.contextmanager
def preserve_state(forward_func: Callable[..., Any], device: torch.device) -> Iterator[None]:
    """Restore the random states, the modes and the buffers that a forward may change, also after an exception.

    In eval mode, of a module that is not PyTorch's own these are the buffers of up to 2^20 entries.

    One warning tells of the first module that runs in train mode, or normalises by its batch, so that scores depend on
    the rest of the batch or on chance.

    Raises:
        ValueError: the parameters were made under ``torch.inference_mode()``, so that nothing can be
            differentiated through them.
    """
    roots = modules_of(forward_func)
    _check_parameters(roots)
    modules = [module for root in roots for module in root.modules()]
    modes = [(module, module.training) for module in modules if not _has_no_mode(module)]
    saved = [
        (module._buffers, name, buffer, None if buffer.is_inference() else buffer.detach().clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
        if not nn.parameter.is_lazy(buffer) and _may_change(module, buffer)
    ]
    devices = [device] if device.type == "cuda" else []
    try:
        with _warned_of(modules), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training
        with torch.no_grad():
            for buffers, name, buffer, value in saved:
                if value is not None:  # an inference tensor cannot have been written to
                    buffer.data.copy_(value)  # for autograd the same version: graphs of the caller may hold it
                buffers[name] = buffer  # which the model may have exchanged


def may_mix_examples(forward_func: Callable[..., Any]) -> bool:
    """Whether a module of the model makes scores depend on the rest of the batch, or on chance."""
    return any(_fault_of(module) for root in modules_of(forward_func) for module in root.modules())


def _has_no_mode(module: nn.Module) -> bool:
    """Whether a module is frozen, as by ``torch.jit.freeze``, so that it has lost its mode."""
    return isinstance(module, torch.jit.ScriptModule) and not hasattr(module, "training")


def _may_change(module: nn.Module, buffer: Tensor) -> bool:
    """Whether a forward may change a buffer: in train mode, of a normalisation, or by code other than PyTorch's own."""
    if buffer.layout != torch.strided:  # which no module of PyTorch changes in place
        return False
    repeated = any(step == 0 and side > 1 for step, side in zip(buffer.stride(), buffer.shape))
    if _has_no_mode(module) or repeated:  # which cannot be written to
        return False
    own = not type(module).__module__.startswith("torch.nn.")
    return module.training or isinstance(module, _NormBase) or (own and buffer.numel() <= _LARGEST_STATE)


@contextlib.contextmanager
def _warned_of(modules: list[nn.Module]) -> Iterator[None]:
    """Warn of the first of the modules that is called and depends on the rest of the batch or on chance."""
    suspects = [module for module in modules if _fault_of(module)]
    if any(map(_runs_unseen, modules)):
        for module in suspects[:1]:
            warn_caller(_fault_of(module))
        suspects = []
    told: list[nn.Module] = []

    def see(module: nn.Module) -> None:
        if not told and (fault := _fault_of(module)):  # the model may have changed its mode by itself
            told.append(module)
            warn_caller(fault)

    with noticing_calls(suspects, see):
        yield


def _fault_of(module: nn.Module) -> str:
    """What to warn of where this module runs; empty if its scores depend on nothing but its inputs."""
    if isinstance(module, _BatchNorm) and module.running_mean is None and module.running_var is None:
        return _TRAINS if module.training else _NORMALISES_BY_BATCH
    return _TRAINS if trains(module) else ""


def trains(module: nn.Module) -> bool:
    """Whether a module is in train mode, and does something else there."""
    return not _has_no_mode(module) and module.training and _depends_on_mode(module)


def _depends_on_mode(module: nn.Module) -> bool:
    """Whether a module does something else in train mode. A container, or a convolution, does not."""
    if isinstance(module, torch.jit.ScriptModule):
        return True
    if isinstance(module, _WRAPPERS):
        return False
    chance = getattr(module, "dropout", getattr(module, "p", None))
    if type(module).__module__.startswith("torch.nn.") and isinstance(chance, (int, float)):
        return chance > 0
    own = vars(module).get("forward")
    if isinstance(own, FunctionType):
        return "training" in own.__code__.co_names
    return _reads_mode(cast(Hashable, type(module)))


_WRAPPERS = (
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
    nn.TransformerEncoder,  # their layers drop out, and they only choose a faster way
    nn.TransformerEncoderLayer,
)


@functools.lru_cache(maxsize=1024)
def _reads_mode(kind: Hashable) -> bool:
    """Whether the code of a class of modules asks for ``training``."""
    above = dir(nn.Module)
    functions = [inspect.getattr_static(kind, name) for name in dir(kind) if name == "forward" or name not in above]
    return any("training" in one.__code__.co_names for one in functions if isinstance(one, FunctionType))


def _runs_unseen(module: nn.Module) -> bool:
    """Whether code runs this module, or modules inside of it, without Python."""
    compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
    return compiled or isinstance(module, torch.jit.ScriptModule)


def _check_parameters(modules: list[nn.Module]) -> None:
    for module in modules:
        for name, parameter in module.named_parameters():
            if not nn.parameter.is_lazy(parameter) and parameter.is_inference():
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


def as_tensor(value: Any, dtype: torch.dtype | None = None) -> Tensor:
    """``torch.as_tensor`` on the value's own device, or on the CPU, whatever the caller's default device is."""
    return torch.as_tensor(value, dtype=dtype, device=value.device if isinstance(value, Tensor) else "cpu")


def as_plain(value: Any) -> Any:
    """A copy of an inference tensor that autograd accepts; anything else, and tuples of it, as it is."""
    if isinstance(value, tuple):
        return tuple(as_plain(part) for part in value)
    if isinstance(value, Tensor) and value.is_inference():
        return value.clone()
    return value
