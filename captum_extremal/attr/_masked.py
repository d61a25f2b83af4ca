"""A model on masked inputs, ready to be asked for scores: what every baseline that perturbs the input begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import BaselineType
from captum_extremal._state import ForwardPrecision, as_plain, preserve_state
from captum_extremal.attr import _inputs as check
from captum_extremal.objective import Objective
from captum_extremal.perturbations import BoundPerturbation

Bind = Callable[[Tensor, Tensor], BoundPerturbation]
"""From an input tensor and its baseline to its perturbation."""


@contextmanager
def masked_model(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    baselines: BaselineType,
    target: object,
    additional_forward_args: object,
    bind: Bind,
    *,
    perturbations_per_eval: int | None = None,
    differentiable: bool = True,
) -> Iterator[Objective]:
    """The objective of a model on checked inputs, outside of inference mode and of the caller's autocast.

    Args:
        forward_func, inputs, baselines, target, additional_forward_args: as the public methods take them.
        bind: how each input tensor is perturbed; it gets it in float32 at least.
        perturbations_per_eval: how many masks of every image go through the model at once; None for all.
        differentiable: whether the scores must carry a gradient.

    Raises:
        TypeError, ValueError: an argument is bad, or the model's output cannot be explained.
    """
    tensors = check.check_inputs(inputs)
    target = check.check_target(target, len(tensors[0]))
    check.check_arguments(additional_forward_args, len(tensors[0]))
    check.check_perturbations_per_eval(perturbations_per_eval)
    device = tensors[0].device
    caller = ForwardPrecision(device)
    with torch.inference_mode(False), torch.no_grad(), caller.ours():
        plain = tuple(as_plain(x.detach()) for x in tensors)
        references = check.check_baselines(plain, as_plain(baselines), isinstance(inputs, tuple))
        dtype = torch.promote_types(plain[0].dtype, torch.float32)
        perturb = tuple(bind(x.to(dtype), reference.to(dtype)) for x, reference in zip(plain, references))
        with preserve_state(forward_func, device):
            yield Objective(
                forward_func,
                plain,
                perturb,
                as_plain(target),
                as_plain(additional_forward_args),
                perturbations_per_eval,
                caller,
                differentiable,
            )
