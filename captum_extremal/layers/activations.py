"""A layer of a model: its name, and the tensors that it returns or is given.

Shapes: N images; activations (N, ...).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Parts:
    """Which tensors of what a layer returns, or is given, are explained.

    Attributes:
        places: of the tensors in the tuple or list; None where the layer has a single tensor.
        others: what else it holds, place by place, as text.
    """

    places: tuple[int, ...] | None
    others: tuple[str, ...]

    @classmethod
    def of(cls, value: Any, images: int, name: str, twice: Any = None) -> Parts:
        """Those of a value: a floating tensor (N, ...), or all such tensors in a tuple or list.

        Args:
            twice: the same for two copies of the images, where it is known: a tensor that holds one row for each image
                then has twice as many.
        """
        if not isinstance(value, (tuple, list)):
            if not isinstance(value, Tensor):
                must = f"{name} must be a tensor or a tuple of tensors"
                raise TypeError(f"{must}, got {type(value).__name__}: choose a layer inside of it")
            check_activation(value, images, name)
            return cls(None, ())
        # A row for each image, by the shapes for one batch and, where they are known, for two.
        seen = zip(value, value if twice is None else twice)
        count = images if twice is None else 2 * images
        grows = [_is_activation(part, images) and _is_activation(other, count) for part, other in seen]
        places = [k for k, is_explained in enumerate(grows) if is_explained]
        others = [f"[{k}] {_kind(part)}" for k, part in enumerate(value) if k not in places and part is not None]
        if not places:
            rule = f"{name} must hold a tensor of floats, with a row for each of {images} images and one more dimension"
            first = next((part for part in value if isinstance(part, Tensor)), None)
            second = first is not None and first.dim() > 1 and first.shape[1] == images
            hint = "give the layer batch_first=True" if second else "choose a layer inside of it, or one behind it"
            raise TypeError(f"{rule}, got {', '.join(others) or repr(value)}: {hint}")
        return cls(tuple(places), tuple(others))

    def take(self, value: Any) -> Tensors:
        """The tensors that are explained."""
        return (value,) if self.places is None else tuple(value[k] for k in self.places)

    def put(self, tensors: Tensors, value: Any = None) -> Any:
        """The value with other tensors in their places."""
        if self.places is None:
            return tensors[0]
        by_place = dict(zip(self.places, tensors))
        return rebuilt(value, [by_place.get(k, part) for k, part in enumerate(value)])


def _is_activation(part: object, images: int) -> bool:
    return isinstance(part, Tensor) and part.is_floating_point() and part.dim() > 1 and len(part) == images


def _kind(part: object) -> str:
    if isinstance(part, (tuple, list)):
        return f"{type(part).__name__} of {', '.join(map(_kind, part))}"
    return f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__


def rebuilt(like: Any, parts: Iterable[Any]) -> Any:
    """The parts in a container of the type of another one, a tuple, a named tuple or a list."""
    make = getattr(type(like), "_make", type(like))
    return make(parts)


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
    if isinstance(value, (tuple, list)):
        return rebuilt(value, [map_tensors(function, part) for part in value])
    return value


def device_of(value: Any) -> torch.device:
    """The device of the first tensor of what a layer returns."""
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return next((part.device for part in parts if isinstance(part, Tensor)), torch.device("cpu"))
