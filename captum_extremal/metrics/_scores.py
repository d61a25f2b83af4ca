"""Scores of masks over one input tensor, outside any search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import TargetType
from captum_extremal._state import ForwardPrecision, preserve_state
from captum_extremal.objective import Objective
from captum_extremal.perturbations import BoundPerturbation


@contextmanager
def scores_of(
    forward_func: Callable[..., Any],
    inputs: Tensor,
    target: TargetType,
    additional_forward_args: object,
    called_as: Callable[..., Any] | None = None,
) -> Iterator[tuple[Tensor, Callable[[BoundPerturbation], Objective]]]:
    """Give the inputs in the masks' precision, and a function that makes an objective of a perturbation of them.

    The caller's grad mode and autocast do not apply inside, and the model's state is restored afterwards. What is
    called is ``called_as`` if it is given, such as the softmax of the model. Inputs (N, C, *S).
    """
    caller = ForwardPrecision(inputs.device)
    with torch.inference_mode(False), torch.no_grad(), caller.ours(), preserve_state(forward_func, inputs.device):
        x, called = inputs.detach(), called_as or forward_func
        settings: dict[str, Any] = {"target": target, "additional_forward_args": additional_forward_args}
        settings |= {"caller": caller, "differentiable": False}
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        yield precise, lambda perturbation: Objective(called, (x,), (perturbation,), **settings)
