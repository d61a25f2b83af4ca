"""Explanations of any kind as maps with one number per position, and for Quantus as its explanation functions."""

import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from captum_extremal import _state
from captum_extremal import arguments as check
from captum_extremal._captum import BaselineType, TargetType, own_copies
from captum_extremal._checks import check_callable
from captum_extremal._state import preserve_state

Explanation = Tensor | Attribution | Callable[..., Tensor]
"""Maps (N, *S) or (N, C, *S), or what makes them: a Captum attribution, or a function ``(inputs, target=...)``."""


def as_tensor(rule: str, value: object, dtype: torch.dtype | None = None) -> Tensor:
    """The value as a tensor; if it cannot be one, the TypeError tells the rule."""
    try:
        return _state.as_tensor(value, dtype)
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
    raise TypeError(f"{name} must be a Captum attribution, a function (inputs, target=...), or maps, got {got}")


def check_batch(inputs: Any, target: TargetType, further: object = None, baselines: BaselineType = None) -> TargetType:
    """Check one tensor (N, C, *S) and what comes with it; return the target in one of Captum's forms."""
    if isinstance(inputs, tuple):
        raise TypeError("inputs must be one tensor (N, C, *S), got a tuple")
    check.check_inputs(inputs)
    check.check_arguments(further, len(inputs))
    check.check_baselines((inputs,), baselines, False)
    return check.check_target(target, len(inputs), inputs.device)


def explain(
    explanation: Any, inputs: Tensor | None, target: object = None, further: object = None, name: str = "attribution"
) -> Tensor:
    """The attributions (N, C', *S'), detached, in float32 or float64; C' is 1 for maps without channels.

    The random states, and the buffers of a model in train mode, are restored afterwards. Maps of images need no inputs.
    """
    check_explanation(explanation, name)
    found = explanation
    if inputs is not None and not isinstance(explanation, Tensor):
        given = {"target": target} if further is None else {"target": target, "additional_forward_args": further}
        called = getattr(explanation, "attribute", explanation)
        check_callable(name, called, "inputs", by_name=given)
        with preserve_state(getattr(explanation, "forward_func", explanation), inputs.device):
            # A copy: a gradient method sets requires_grad on its input, and a model may overwrite it.
            found = called(inputs.detach().clone(), **own_copies(given))
    if not isinstance(found, Tensor) or found.is_complex():
        raise TypeError(f"{name} must give a tensor of real numbers, got {getattr(found, 'dtype', type(found))}")
    spatial, count = (2, "N") if inputs is None else (inputs.dim() - 2, len(inputs))
    maps = found.detach().to(torch.promote_types(found.dtype, torch.float32))
    if maps.dim() == spatial + 1:
        maps = maps.unsqueeze(1)
    if maps.dim() != spatial + 2 or not maps.numel() or (inputs is not None and len(maps) != count):
        rule = f"maps ({count}, *S) or ({count}, C, *S) with {spatial} spatial dimensions"
        raise ValueError(f"{name} must give {rule}, got shape {tuple(found.shape)}")
    if not bool(maps.isfinite().all()):
        raise ValueError(f"{name} must give finite maps, got NaN or infinite values")
    return maps


def resize(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps (N, *S') at the positions *S, linearly interpolated; antialiased when images shrink, so all pixels count."""
    if maps.shape[1:] == shape:
        return maps
    mode = ("linear", "bilinear", "trilinear")[len(shape) - 1]
    shrinks = mode == "bilinear" and any(side < before for side, before in zip(shape, maps.shape[1:]))
    return functional.interpolate(maps.unsqueeze(1), shape, mode=mode, align_corners=False, antialias=shrinks)[:, 0]


def rank_from_top(explanation: Any, inputs: Tensor, target: TargetType = None, further: object = None) -> Tensor:
    """For each position of the inputs how many come before it, (N, *S); equal values of a map in memory order."""
    maps = resize(explain(explanation, inputs, target, further).mean(1), inputs.shape[2:])
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view_as(maps).to(inputs.device)


def quantus_explainer(make_attribution: Callable[[nn.Module], Explanation]) -> Callable[..., NDArray[Any]]:
    """The ``explain_func`` with which Quantus' metrics call an attribution. Quantus itself is not imported.

    Args:
        make_attribution: from the model of each call to a Captum attribution or a function ``(inputs, target=...)``,
            such as ``lambda model: partial(ExtremalPerturbation(model).attribute, reduce="sum")``.

    Returns:
        ``explain(model, inputs, targets, device=None)``, from arrays (N, C, *S) and (N,) to maps (N, 1, *S): channels
        are averaged, and maps of a layer are resized to the input.

    Examples::

        >>> explain = quantus_explainer(ExtremalPerturbation)
        >>> quantus.PointingGame()(model, x, y, s_batch=masks, explain_func=explain, device="cpu")
    """
    check_callable("make_attribution", make_attribution, "model")

    def explain_func(model: nn.Module, inputs: Any, targets: Any, device: Any = None) -> NDArray[Any]:
        parameter = next(model.parameters(), torch.empty(0))
        x = torch.from_numpy(np.array(inputs)).to(device or parameter.device, parameter.dtype)
        target = torch.from_numpy(np.array(targets)).long().to(x.device)
        found = explain(make_attribution(model), x, target, name="make_attribution's result")
        return resize(found.mean(1), x.shape[2:]).unsqueeze(1).cpu().numpy()

    return explain_func
