"""A layer of a model: its name, and the tensors that it returns or is given.

Shapes: N images; activations (N, ...).
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import gather

from captum_extremal._reach import modules_of
from captum_extremal.hooks import on_output, unwrap

Tensors = tuple[Tensor, ...]


def check_layer(forward_func: Callable[..., Any], layer: object) -> None:
    """Raise TypeError unless ``layer`` is a module, ValueError unless it is one of the model's, where that is known."""
    if not isinstance(layer, nn.Module):
        raise TypeError(
            f"layer must be a torch.nn.Module of the model, got {layer!r} of type {type(layer).__name__}: "
            "model.get_submodule(name) finds one by its name"
        )
    if isinstance(forward_func, nn.Module) and not any(module is layer for module in forward_func.modules()):
        if any(module is forward_func for module in layer.modules()):
            raise ValueError(
                "forward_func must be the model and layer one of its modules, but they are swapped: got the layer "
                f"{type(forward_func).__name__} as forward_func, and the {type(layer).__name__} that holds it as layer"
            )
        raise ValueError(f"layer must be a part of the model, got a {type(layer).__name__} that is none of its modules")


def name_of(forward_func: Callable[..., Any], layer: nn.Module) -> str:
    """The layer's name in the model and its class, such as "layer4.1 BasicBlock"; the class alone without a name."""
    models = [cast(nn.Module, unwrap(model)) for model in modules_of(unwrap(forward_func))]
    names = (name for model in models for name, module in model.named_modules() if module is layer)
    return f"{next(filter(None, names), '')} {type(layer).__name__}".strip()


def capture(
    layer: nn.Module, run: Callable[[], object], hook: Callable[..., Any] = on_output, stop: bool = False
) -> dict[torch.device, Any]:
    """Copy what a layer returns, or is given where ``hook`` is ``on_input``, while ``run`` calls the model once.

    With ``stop``, the run ends at the layer. The result holds one value per device, because ``DataParallel`` runs a
    copy of the layer on each. A layer that is not called, or more than once, raises ValueError.
    """
    seen: dict[torch.device, Any] = {}
    calls: Counter[torch.device] = Counter()

    def see(value: Any) -> None:
        calls[device_of(value)] += 1
        # A layer behind may overwrite the value in place.
        seen.setdefault(device_of(value), map_tensors(torch.clone, value))
        if stop:
            raise _Reached

    with hook(layer, see), suppress(_Reached):
        run()
    name = type(layer).__name__
    if not calls:
        raise ValueError(f"layer must be called by the model, but its {name} was not")
    if (most := max(calls.values())) > 1:
        raise ValueError(f"layer must be called once in a forward of the model, but its {name} was called {most} times")
    return seen


class _Reached(BaseException):
    """Ends a run at the layer. It is no Exception, so that a model does not catch it as its own error."""


def gathered(seen: dict[torch.device, Any], device_ids: list[int]) -> Any:
    """One value from those of several devices, in the order in which ``DataParallel`` splits the batch."""
    if len(seen) == 1:
        return next(iter(seen.values()))
    devices = [torch.device("cuda", index) for index in device_ids]
    return gather([seen[device] for device in devices if device in seen], devices[0])


def unpack(value: Any, images: int, name: str) -> tuple[Tensors, Callable[[Tensors], Any]]:
    """The tensors (N, ...) of a layer's output, and a function that puts others in their places.

    The output must be a floating tensor, or a tuple or list of such tensors and None.
    """
    container = type(value) if type(value) in (tuple, list) else None
    parts = value if container else (value,)
    if not all(isinstance(part, Tensor) or (container and part is None) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(f"{name} must be a tensor or a tuple of tensors, got {kinds}: choose a layer inside of it")
    places = [k for k, part in enumerate(parts) if part is not None]
    if not places:
        raise TypeError(f"{name} must hold a tensor, got {value!r}")
    for place in places:
        check_activation(parts[place], images, name)
    count = len(parts)  # not the parts themselves, which would be kept in memory

    def pack(tensors: Tensors) -> Any:
        by_place = dict(zip(places, tensors))
        return container(by_place.get(k) for k in range(count)) if container else tensors[0]

    return tuple(parts[place] for place in places), pack


def check_activation(tensor: Tensor, images: int, name: str = "the layer's output") -> None:
    """Raise TypeError unless a tensor is floating, ValueError unless its shape is (N, ...) with N ``images``."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {tensor.dtype}")
    if tensor.dim() < 2 or len(tensor) != images:
        rule = f"{name} must have a row for each of {images} images and at least one more dimension"
        raise ValueError(f"{rule}, got shape {tuple(tensor.shape)}")


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The value with the function applied to its tensors, inside of tuples and lists too."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(map_tensors(function, part) for part in value) if type(value) in (tuple, list) else value


def device_of(value: Any) -> torch.device:
    """The device of the first tensor of what a layer returns."""
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return next((part.device for part in parts if isinstance(part, Tensor)), torch.device("cpu"))
