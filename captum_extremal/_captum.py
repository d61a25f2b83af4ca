"""The only file that touches Captum's private names, so that a change of theirs is one edit here."""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from captum._utils.common import (
    _expand_additional_forward_args,
    _expand_target,
    _format_additional_forward_args,
    _format_output,
    _run_forward,
    _select_targets,
)
from captum._utils.progress import NullProgress, progress
from captum._utils.typing import BaselineType, TargetType, TensorOrTupleOfTensorsGeneric
from captum.log import log_usage as _log_usage
from torch import Tensor

__all__ = [
    "BaselineType",
    "TargetType",
    "TensorOrTupleOfTensorsGeneric",
    "format_output",
    "log_usage",
    "own_copies",
    "progress_bar",
    "repeat_arguments",
    "repeat_target",
    "run_forward",
    "select_target",
]


_Method = TypeVar("_Method", bound=Callable[..., Any])


def log_usage(part_of_slo: bool = False) -> Callable[[_Method], _Method]:
    """Captum's decorator, with a type."""
    return cast(Callable[[_Method], _Method], _log_usage(part_of_slo=part_of_slo))


def run_forward(
    forward_func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    target: TargetType,
    additional_forward_args: object,
) -> Any:
    """The model's output at the target, called as every Captum method calls it.

    This is the one place that calls a model. It gets copies of all tensors, because it may overwrite what it is given.
    """
    return _run_forward(forward_func, own_copies(inputs), target, own_copies(additional_forward_args))


def own_copies(value: Any) -> Any:
    """The value with copies of its tensors, also of those in tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        parts = [own_copies(part) for part in value]
        return value if all(map(operator.is_, parts, value)) else type(value)(parts)
    if type(value) is dict:
        entries = {name: own_copies(part) for name, part in value.items()}
        return value if all(entries[name] is part for name, part in value.items()) else entries
    return value


def select_target(output: Tensor, target: TargetType) -> Tensor:
    """The part of an output that the target names, by Captum's rules."""
    return _select_targets(output, target)


def repeat_target(target: TargetType, times: int) -> TargetType:
    """The targets of a batch for ``times`` copies of it, copy after copy."""
    return _expand_target(target, times)


def repeat_arguments(additional_forward_args: object, times: int) -> object:
    """The additional arguments of a batch for ``times`` copies of it: tensors are repeated, the rest is kept."""
    formatted = _format_additional_forward_args(additional_forward_args)
    return _expand_additional_forward_args(formatted, times)


def format_output(is_tuple: bool, output: tuple[Tensor, ...]) -> Any:
    """A tuple where the inputs were a tuple, else its only tensor."""
    return _format_output(is_tuple, output)


@contextmanager
def progress_bar(show: bool, total: int, description: str) -> Iterator[Any]:
    """Captum's progress bar, or a stand-in that shows nothing. It ends full, also after fewer steps than ``total``."""
    bar: Any
    with progress(total=total, desc=description) if show else NullProgress() as bar:
        yield bar
        if hasattr(bar, "n"):  # tqdm's
            bar.total = bar.n
            bar.refresh()
