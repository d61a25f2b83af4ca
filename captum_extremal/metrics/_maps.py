"""From whatever explains a model to maps: one number a position, for every metric in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from captum.attr import Attribution
from torch import Tensor, nn
from torch.nn import functional

from captum_extremal import arguments as check
from captum_extremal._captum import TargetType
from captum_extremal._state import preserve_state

Explanation = Tensor | Attribution | Callable[..., Tensor]
"""Maps (N, *S) or (N, C, *S), or what makes them: a Captum attribution, or a function ``(inputs, target=...)``."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def check_explanation(explanation: Explanation, name: str = "attribution") -> None:
    """Raise TypeError unless it can explain something, ValueError where maps are none."""
    if isinstance(explanation, Tensor):
        if explanation.dim() < 2:
            raise ValueError(f"{name} must hold maps (N, *S) or (N, C, *S), got shape {tuple(explanation.shape)}")
    elif _is_slip(explanation) or not callable(_call(explanation)):
        raise TypeError(
            f"{name} must be a Captum attribution, a function (inputs, target=...), or a tensor of maps, "
            f"got {_what(explanation)}"
        )


def _is_slip(explanation: object) -> bool:
    """Whether this is the model, or a class of attributions, in the place of what explains."""
    model = isinstance(explanation, nn.Module) and not hasattr(explanation, "attribute")
    return model or isinstance(explanation, type)


def _what(explanation: object) -> str:
    if isinstance(explanation, type):
        return f"the class {explanation.__name__}: make one, of a model"
    module = " itself: a model explains nothing" if isinstance(explanation, nn.Module) else ""
    return type(explanation).__name__ + module


def check_batch(inputs: Tensor, target: TargetType, additional_forward_args: object = None) -> TargetType:
    """One tensor (N, C, *S) that can be explained, and what goes with it; the target in one of Captum's forms.

    Raises:
        TypeError, ValueError: the inputs cannot be explained, or there is not one target or argument an example.
    """
    given: object = inputs
    if isinstance(given, tuple):
        raise TypeError("inputs must be one tensor (N, C, *S), got a tuple")
    check.check_inputs(inputs)
    check.check_arguments(additional_forward_args, len(inputs))
    return check.check_target(target, len(inputs), inputs.device)


def explain(
    explanation: Explanation,
    inputs: Tensor | None,
    target: TargetType = None,
    additional_forward_args: object = None,
    name: str = "attribution",
) -> Tensor:
    """The attributions (N, C', *S') as they come, detached, in float32 or float64; C' is 1 where there are no channels.

    The random states, and the buffers of a model in train mode, are as they were afterwards.

    Args:
        explanation: maps, or what makes them. It is called as ``attribute(inputs, target=target)``, with
            ``additional_forward_args`` where there are any.
        inputs: (N, C, *S), or None beside maps of images.
        target, additional_forward_args: as Captum takes them.
        name: what the caller knows the explanation as.

    Raises:
        TypeError: what comes back is no tensor of numbers.
        ValueError: it does not have one map an example, or a value is not finite.
    """
    found: Any = explanation
    if not isinstance(explanation, Tensor):
        further = {} if additional_forward_args is None else {"additional_forward_args": additional_forward_args}
        # Detached, so that a flag which a gradient method sets is not set on the caller's tensor.
        x = cast(Tensor, inputs).detach()
        seen: Any = getattr(explanation, "forward_func", explanation)
        with preserve_state(seen, x.device):
            found = _call(explanation)(x, target=target, **further)
    if not isinstance(found, Tensor) or found.is_complex():
        got = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"{name} must give a tensor of real numbers, got {got}")
    spatial = 2 if inputs is None else inputs.dim() - 2
    maps: Tensor = found.detach().to(torch.promote_types(found.dtype, torch.float32))
    if maps.dim() == spatial + 1:
        maps = maps.unsqueeze(1)
    if maps.dim() != spatial + 2 or not maps.numel() or (inputs is not None and len(maps) != len(inputs)):
        wanted = "N" if inputs is None else len(inputs)
        raise ValueError(
            f"{name} must give maps ({wanted}, *S) or ({wanted}, C, *S) with {spatial} spatial dimensions, "
            f"got shape {tuple(maps.shape)}"
        )
    if not bool(maps.isfinite().all()):
        raise ValueError(f"{name} must give finite maps, got NaN or infinite values")
    return maps


def _call(explanation: object) -> Any:
    return getattr(explanation, "attribute", explanation)


def positions(attributions: Tensor) -> Tensor:
    """One map an image (N, *S'), from attributions (N, C', *S'): their mean over the channels, signs kept."""
    return attributions.mean(1)


def resize(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps (N, *S') at the positions S, linearly interpolated between pixel centres.

    Where an image's map is to become smaller, every pixel has a part in what is left of it.
    """
    if tuple(maps.shape[1:]) == tuple(shape):
        return maps
    mode = _LINEAR[len(shape)]
    shrinks = mode == "bilinear" and any(side < before for side, before in zip(shape, maps.shape[1:]))
    resized: Tensor = functional.interpolate(
        maps.unsqueeze(1), size=tuple(shape), mode=mode, align_corners=False, antialias=shrinks
    )
    return resized.squeeze(1)


def rank_from_top(maps: Tensor) -> Tensor:
    """For each position (N, *S) how many come before it, highest first; equal values in memory order."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view_as(maps)
