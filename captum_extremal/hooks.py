"""Hooks: the only file that registers hooks on a model, and that looks through the wrappers around one.

Each hook is registered by a context manager, which removes it at its end, also after an exception. A hook is for the
thread that registered it: the forwards of other threads, on the same model, pass it by.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from captum_extremal._autograd import check_replaced, saves_elsewhere

LOCK = threading.RLock()
"""Held while the hooks of a model change, or a model is copied."""
_OURS = "_of_captum_extremal"


def unwrap(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``; anything else as it is.

    In one forward of the module that is returned, a hook on one of its modules runs once, not once per device.
    """
    if isinstance(forward_func, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrap(forward_func.module)
    original = uncompiled(forward_func)
    return forward_func if original is forward_func else unwrap(original)


def uncompiled(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile``; anything else as it is."""
    original = getattr(forward_func, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else forward_func


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether a hook sees what goes into the module or comes out of it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def remove_copied(model: nn.Module) -> None:
    """Remove this file's hooks from a copy of a model that has them, in this thread or in another."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if hasattr(hook, _OURS)]:
                del hooks[key]


def on_output(module: nn.Module, see: Callable[[Any], Any]) -> AbstractContextManager[None]:
    """Call ``see`` with the output of the module. What ``see`` returns replaces the output, unless it is None."""
    return _hooked(module.register_forward_hook, lambda module, arguments, output: see(output))


def on_input(module: nn.Module, see: Callable[[Any], Any]) -> AbstractContextManager[None]:
    """Call ``see`` with the argument of the module, or with a tuple where there is not exactly one.

    Where there is a positional one, the keyword arguments do not count. What ``see`` returns replaces the argument or
    arguments, unless it is None.
    """

    def hook(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = positional or tuple(named.values())
        replaced = see(given[0] if len(given) == 1 else given)
        if replaced is None:
            return None
        values = (replaced,) if len(given) == 1 else tuple(replaced)
        return (values, named) if positional else ((), dict(zip(named, values)))

    return _hooked(partial(module.register_forward_pre_hook, with_kwargs=True), hook)


@contextmanager
def _on_every(
    hook: Callable[..., Any], modules: Iterable[tuple[str, nn.Module]], see: Callable[[str, Any], None]
) -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in modules:
            stack.enter_context(hook(module, partial(see, name)))
        yield


# Call ``see`` with the name and the output (or the input) of each of these modules, in the order of the calls.
on_every_output = partial(_on_every, on_output)
on_every_input = partial(_on_every, on_input)


def run_uncompiled() -> Any:
    """Run compiled parts of a model uncompiled, because compiled code does not notice hooks that come later."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # since PyTorch 2.6
    return set_stance("force_eager") if set_stance else nullcontext()


@contextmanager
def noticing_calls(modules: Iterable[nn.Module], see: Callable[[nn.Module], Any]) -> Iterator[None]:
    """Call ``see`` with each of these modules when it is called. Compiled code stays compiled, and is not noticed."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(_registered(module.register_forward_pre_hook, lambda module, _: see(module)))
        yield


@contextmanager
def _hooked(register: Callable[[Any], RemovableHandle], hook: Callable[..., Any]) -> Iterator[None]:
    with _registered(register, hook), run_uncompiled():
        yield


@contextmanager
def _registered(register: Callable[[Any], RemovableHandle], hook: Callable[..., Any]) -> Iterator[None]:
    owner, saved_elsewhere = threading.get_ident(), saves_elsewhere()

    def for_owner(module: nn.Module, *given: Any) -> Any:
        # DataParallel calls its replicas in threads of its own.
        if threading.get_ident() != owner and not getattr(module, "_is_replica", False):
            return None
        replaced = hook(module, *given)
        check_replaced(replaced, saved_elsewhere)
        return replaced

    for_owner.__dict__[_OURS] = True
    with LOCK:
        handle = register(for_owner)
    try:
        yield
    finally:
        with LOCK:
            handle.remove()
