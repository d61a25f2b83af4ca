"""Scores of masks over one input tensor, outside any search."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import TargetType
from captum_extremal._state import ForwardPrecision, preserve_state
from captum_extremal.objective import Objective
from captum_extremal.perturbations import BoundPerturbation


@contextlib.contextmanager
def scores_of(
    forward_func: Callable[..., Any],
    inputs: Tensor,
    target: TargetType,
    additional_forward_args: object,
    seen_as: Callable[..., Any] | None = None,
) -> Iterator[tuple[Tensor, Callable[[BoundPerturbation], Objective]]]:
    """The inputs as plain tensors in the masks' precision, and what makes an objective of a perturbation of them.

    The caller's modes are put aside and the model is found again as it was.

    Args:
        forward_func: what is left as it was found.
        inputs: (N, C, *S).
        target, additional_forward_args: as Captum takes them.
        seen_as: what is called in its place, such as its softmax.
    """
    caller = ForwardPrecision(inputs.device)
    with torch.inference_mode(False), torch.no_grad(), caller.ours(), preserve_state(forward_func, inputs.device):
        plain = inputs.detach()
        precise = plain.to(torch.promote_types(plain.dtype, torch.float32))

        def objective(perturbation: BoundPerturbation) -> Objective:
            return Objective(
                seen_as or forward_func,
                (plain,),
                (perturbation,),
                (perturbation(precise.new_zeros(len(precise), 1, *precise.shape[2:])),),
                target=target,
                additional_forward_args=additional_forward_args,
                caller=caller,
                differentiable=False,
            )

        yield precise, objective


def kept_scores(objective: Objective, masks: Tensor) -> Tensor:
    """Scores (R, N) of what the masks (R, N, *S), of 0 and 1 or bool, keep."""
    rows = masks.flatten(0, 1).unsqueeze(1).to(objective.clean.dtype)
    return objective.value((rows,))
