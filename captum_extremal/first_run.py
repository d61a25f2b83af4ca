"""The first run of a model, whose output is checked in full, and what it says where it refuses its inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from captum_extremal._captum import TargetType, select_target
from captum_extremal._memory import is_out_of_memory

Tensors = tuple[Tensor, ...]
"""One tensor for each input tensor of the model."""
MODEL_ERRORS = (RuntimeError, ValueError, IndexError, AssertionError)
"""What code of models raises for inputs of another shape than it expects."""
_CALLING = ("captum_extremal._captum", "captum_extremal.session")  # whose own errors are of a call that does not fit


def first_run(run: Callable[[Tensors, Any], Any], inputs: Tensors, arguments: Any) -> Any:
    """What a model returns in its first run. An error that comes again names the inputs, and what may be wrong.

    Errors of other kinds than models raise for unfit inputs, and of memory, are the model's own and stay as they are.

    Raises:
        TypeError, ValueError: the model refuses the inputs, which may be an image without a batch dimension or have
            another number of channels, or it takes one example at a time.
    """
    try:
        return run(inputs, arguments)
    except (*MODEL_ERRORS, TypeError) as error:
        if is_out_of_memory(error) or _names_an_argument(error) or not fails(partial(run, inputs, arguments)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(_refusal(run, inputs, arguments, error)) from error


def _names_an_argument(error: Exception) -> bool:
    """Whether an error is one of this package, such as of an objective around the model or of a layer's hook."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.startswith("captum_extremal.") and module not in _CALLING


def _refusal(run: Callable[[Tensors, Any], Any], inputs: Tensors, arguments: Any, error: Exception) -> str:
    """Why a model may refuse its inputs."""
    x = inputs[0]
    misshapen = x.is_floating_point() and not isinstance(error, TypeError)
    if misshapen and x.dim() == 2:
        return (
            f"inputs of shape {tuple(x.shape)} are {x.shape[0]} examples of {x.shape[1]} features, which forward_func "
            f"refuses; images need a batch and a channel dimension: {error}"
        )
    if misshapen and x.dim() == 3:
        return (
            f"inputs of shape {tuple(x.shape)} are {x.shape[0]} signals of {x.shape[1]} channels, which forward_func "
            f"refuses; one image needs a batch dimension, x[None]: {error}"
        )
    alone = [(tuple(one[n : n + 1] for one in inputs), _row(arguments, n, len(x))) for n in range(len(x))]
    if len(x) > 1 and not any(fails(partial(run, *one)) for one in alone):
        return (
            f"forward_func must take {len(x)} examples at once, but it takes one: call the method for each, "
            f"x[n : n + 1], with perturbations_per_eval=1: {error}"
        )
    shapes = ", ".join(f"{tuple(one.shape)} {one.dtype}" for one in inputs)
    others = "" if arguments is None or arguments == () else " and additional_forward_args"
    return f"forward_func must take the inputs {shapes}{others}, but it raises {type(error).__name__}: {error}"


def _row(arguments: Any, row: int, images: int) -> Any:
    """The additional arguments of one example."""
    if isinstance(arguments, tuple):
        return tuple(_row(part, row, images) for part in arguments)
    by_example = isinstance(arguments, Tensor) and arguments.dim() and len(arguments) == images
    return arguments[row : row + 1] if by_example else arguments


def fails(run: Callable[[], Any]) -> bool:
    """Whether a call of the model raises an error as models do."""
    try:
        run()
    except (*MODEL_ERRORS, TypeError):
        return True
    return False


def select_checked(output: Tensor, target: TargetType, images: int) -> Tensor:
    """The output at the target.

    Raises:
        TypeError, ValueError: the output cannot be explained, or does not contain the target.
    """
    if not output.is_floating_point():
        raise TypeError(f"forward_func must return a floating tensor, got {output.dtype}")
    if output.dim() == 0 or len(output) != images:
        raise ValueError(
            "forward_func must return one row for each example of its input, "
            f"got shape {tuple(output.shape)} for {images} examples"
        )
    if target is None:
        if output.dim() > 1 and output.shape[1] != 1:
            raise ValueError(
                "target None needs one score for each example, got an output of shape "
                f"{tuple(output.shape)}: give target=..., by keyword"
            )
        return output
    try:
        return select_target(output, target)
    except (AssertionError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"target must lie within the output, whose shape is {tuple(output.shape)}, got {target!r}: {error}"
        ) from error


def mean_over_positions(scores: Tensor) -> Tensor:
    """One score per row (N,), from scores (N, ...) that may still have positions."""
    return scores.flatten(1).mean(1) if scores.dim() > 1 else scores
