"""What metrics are given, as tensors: a batch to explain, and maps with one number per position."""

from __future__ import annotations

import reprlib
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


def as_tensor(rule: str, value: object, dtype: torch.dtype | None = None) -> Tensor:
    """The value as a tensor; ``rule`` says what it must be in the TypeError that is raised if it cannot be one."""
    try:
        return torch.as_tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{rule}, got {reprlib.repr(value)}") from error


def check_explanation(explanation: Explanation, name: str = "attribution") -> None:
    """Raise TypeError unless this is an attribution, a function or maps, ValueError unless maps have a batch axis."""
    if isinstance(explanation, Tensor):
        if explanation.dim() < 2:
            raise ValueError(f"{name} must hold maps (N, *S) or (N, C, *S), got shape {tuple(explanation.shape)}")
        return
    got = type(explanation).__name__
    if isinstance(explanation, type):
        got = f"the class {explanation.__name__}: construct it with a model"
    elif isinstance(explanation, nn.Module) and not hasattr(explanation, "attribute"):
        got += " itself: a model is not an explanation"
    elif callable(getattr(explanation, "attribute", explanation)):
        return
    raise TypeError(
        f"{name} must be a Captum attribution, a function (inputs, target=...), or a tensor of maps, got {got}"
    )


def check_batch(
    inputs: Tensor | tuple[Tensor, ...], target: TargetType, additional_forward_args: object = None
) -> TargetType:
    """Check one tensor (N, C, *S), its target and its arguments; return the target in one of Captum's forms."""
    if isinstance(inputs, tuple):
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
    """The attributions (N, C', *S'), detached, in float32 or float64; C' is 1 for maps without channels.

    The random states, and the buffers of a model in train mode, are restored afterwards. The inputs (N, C, *S) may be
    None if the explanation is a tensor of maps of images; ``name`` is what error messages call it.
    """
    check_explanation(explanation, name)
    made: Any = explanation
    found = made
    if not isinstance(made, Tensor):
        further = {} if additional_forward_args is None else {"additional_forward_args": additional_forward_args}
        # Detached: a gradient method sets requires_grad on its input, which must not reach the caller's tensor.
        x = cast(Tensor, inputs).detach()
        with preserve_state(getattr(made, "forward_func", made), x.device):
            found = getattr(made, "attribute", made)(x, target=target, **further)
    if not isinstance(found, Tensor) or found.is_complex():
        raise TypeError(f"{name} must give a tensor of real numbers, got {getattr(found, 'dtype', type(found))}")
    spatial = 2 if inputs is None else inputs.dim() - 2
    maps = found.detach().to(torch.promote_types(found.dtype, torch.float32))
    if maps.dim() == spatial + 1:
        maps = maps.unsqueeze(1)
    if maps.dim() != spatial + 2 or not maps.numel() or (inputs is not None and len(maps) != len(inputs)):
        count = "N" if inputs is None else len(inputs)
        raise ValueError(
            f"{name} must give maps ({count}, *S) or ({count}, C, *S) with {spatial} spatial dimensions, "
            f"got shape {tuple(found.shape)}"
        )
    if not bool(maps.isfinite().all()):
        raise ValueError(f"{name} must give finite maps, got NaN or infinite values")
    return maps


def positions(attributions: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """One map per image (N, *S): the mean of (N, C', *S') over the channels, resized if a shape *S is given."""
    maps = attributions.mean(1)
    return maps if shape is None else resize(maps, shape)


def resize(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps (N, *S') at the positions *S, linearly interpolated between pixel centres.

    Images are antialiased when they shrink, so that every pixel of the map counts.
    """
    if tuple(maps.shape[1:]) == tuple(shape):
        return maps
    mode = _LINEAR[len(shape)]
    shrinks = mode == "bilinear" and any(side < before for side, before in zip(shape, maps.shape[1:]))
    return functional.interpolate(maps.unsqueeze(1), shape, mode=mode, align_corners=False, antialias=shrinks)[:, 0]


def rank_from_top(
    explanation: Explanation, inputs: Tensor, target: TargetType = None, additional_forward_args: object = None
) -> Tensor:
    """For each position of the inputs how many come before it, (N, *S); equal values of a map in memory order."""
    maps = positions(explain(explanation, inputs, target, additional_forward_args), tuple(inputs.shape[2:]))
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view_as(maps).to(inputs.device)
