"""What a model returns: the one tensor of scores within a dictionary, a tuple or a Hugging Face ``ModelOutput``."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor

Place: TypeAlias = tuple[Any, ...]
"""The keys and indices that lead from an output to one of its parts; () for the output itself."""


def place_of_scores(output: Any, examples: int) -> Place:
    """Where the only floating tensor with a row for each example is, in an output for so many examples.

    A tensor is its own scores, whatever its type and shape.

    Raises:
        TypeError: there is no such tensor, or there are several.
    """
    if isinstance(output, Tensor):
        return ()
    if not _parts(output):
        raise TypeError(
            f"forward_func must return a tensor, got {type(output).__name__}: wrap it, for example as "
            "lambda x: model(x).logits"
        )
    if not isinstance(output, Mapping) and all(isinstance(part, Mapping) for part in output):
        raise TypeError(
            f"forward_func must return a tensor, got a {type(output).__name__} of {len(output)} dictionaries: wrap a "
            "detector, as captum_extremal.objectives.BoxScore(model)"
        )
    tensors = list(_tensors(output))
    fitting = [(p, t) for p, t in tensors if t.is_floating_point() and t.dim() and len(t) == examples]
    if len(fitting) == 1:
        return fitting[0][0]
    found = f"{len(fitting)} of them" if fitting else "none"
    among = ", ".join(f"{_text(place)} {tensor.dtype} {tuple(tensor.shape)}" for place, tensor in fitting or tensors)
    raise TypeError(
        f"forward_func must return one floating tensor with a row for each of {examples} examples, got {found} in a "
        f"{type(output).__name__} with {among or 'no tensors'}: wrap it, for example as "
        f"lambda x: model(x){_text(fitting[0][0]) if fitting else '[...]'}"
    )


def at_place(output: Any, place: Place) -> Any:
    """The part of an output at a place."""
    for key in place:
        output = output[key]
    return output


def scores_in(output: Any, examples: int) -> Any:
    """The scores of an output at their place; raises TypeError as :func:`place_of_scores`."""
    return at_place(output, place_of_scores(output, examples))


def _parts(output: Any) -> dict[Any, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    return dict(enumerate(output)) if isinstance(output, (tuple, list)) else {}


def _tensors(output: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    if isinstance(output, Tensor):
        yield place, output
    for key, part in _parts(output).items():
        yield from _tensors(part, (*place, key))


def _text(place: Place) -> str:
    return "".join(f"[{key!r}]" for key in place)
