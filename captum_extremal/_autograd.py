"""Gradients, with plain words where a model cannot give them: checkpoints, and values that it overwrites."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

_SWITCH_OFF = "switch gradient checkpointing off, which changes no value, or take"
_REASONS = {
    "use_reentrant=True": "forward_func must not use checkpoint(use_reentrant=True), which knows no gradient by the "
    f"inputs alone: {_SWITCH_OFF} use_reentrant=False",
    "modified by an inplace operation": "forward_func must be differentiable by its inputs, but it overwrites in place "
    "a value that a gradient needs: let it work on a clone() there, or out of place",
}
_INSIDE_CHECKPOINT = (
    "layer must not be inside of a checkpoint, which calls it once more in the backward pass, or of no_grad(): switch "
    "gradient checkpointing off, which changes no value, or explain another layer"
)
_RECORDED = (
    "forward_func must not use checkpoints, which compute it once more without the rules of excitation backprop: "
    "switch gradient checkpointing off, which changes no value"
)


def gradients(outputs: Any, inputs: Any, weights: Any = None, **how: Any) -> tuple[Tensor, ...]:
    """``torch.autograd.grad``.

    Raises:
        ValueError: the model computes the outputs in a way that has no gradient by the inputs.
    """
    try:
        found: tuple[Tensor, ...] = torch.autograd.grad(outputs, inputs, weights, **how)
        return found
    except RuntimeError as error:
        for words, reason in _REASONS.items():
            if words in str(error):
                raise ValueError(reason) from error
        raise


def saves_elsewhere() -> bool:
    """Whether what autograd saves goes through a hook here, as inside of ``checkpoint(use_reentrant=False)``."""
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("hooked"):
            return False
    except RuntimeError:
        return True


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Raise ValueError where a model enters ``checkpoint(use_reentrant=False)``."""
    with nullcontext() if saves_elsewhere() else torch.autograd.graph.disable_saved_tensors_hooks(_RECORDED):
        try:
            yield
        except RuntimeError as error:
            if _RECORDED in str(error):
                raise ValueError(_RECORDED) from error
            raise


def check_replaced(value: object, saved_elsewhere: bool) -> None:
    """Raise ValueError where the value in place of a layer's would lose its gradient, or get that of another value.

    ``saved_elsewhere`` is :func:`saves_elsewhere` outside of the model.
    """
    if _needs_gradient(value) and (not torch.is_grad_enabled() or (saves_elsewhere() and not saved_elsewhere)):
        raise ValueError(_INSIDE_CHECKPOINT)


def _needs_gradient(value: object) -> bool:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return any(map(_needs_gradient, value))
    return isinstance(value, Tensor) and value.requires_grad
