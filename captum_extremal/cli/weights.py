"""Weights from a file: the state dict in any of the forms in which people save it.

A checkpoint may hold it under a name of its own, beside an optimizer's state or averaged weights, and its keys may
begin with the names of wrappers, as DataParallel, torch.compile and Lightning write them.
"""

import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision import models

from captum_extremal.cli.console import FAILED, StopError, one_line, say, stopping

_MODELS: Any = models  # its functions have no types
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|(?<=\.)module\.")
_AVERAGED = re.compile(r"ema|swa|averag|teacher", re.IGNORECASE)
DETECTORS: list[str] = _MODELS.list_models(module=_MODELS.detection)
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_DEEPEST = 4  # dictionaries within dictionaries
_MOST_NAMED = 6


class StateDict(NamedTuple):
    """A state dict in a file."""

    state: dict[str, Tensor]  # with the model's keys, as far as it has them
    place: str  # in the file, such as "checkpoint.model"; "" for the file itself
    prefix: str  # of its keys, such as "module."
    left: list[str]  # what else the file holds


def from_file(
    name: str, path: str, usual: int, make: Callable[[int], nn.Module] | None = None
) -> tuple[nn.Module, int]:
    """The model with the weights in a file, and how many classes it has: ``usual``, or as many as the file says.

    ``make`` makes it for a number of classes; by default it is torchvision's of this name.
    """
    make = make or partial(untrained, name)
    model, count = make(usual), usual
    own = model.state_dict()
    found = _found(_read(path), own, path)
    rows = {  # the lengths of those tensors that have one row per class
        len(value)
        for key, value in found.state.items()
        if key in own and own[key].shape[:1] == (usual,) and value.dim() and value.shape[1:] == own[key].shape[1:]
    }
    if len(rows) == 1 and rows != {usual}:
        (count,) = rows
        model = make(count)
    with stopping(f"--weights: {path} does not fit {name}", RuntimeError):
        model.load_state_dict(found.state)  # copies into the model's float32 parameters, whatever type the file has
    if found.place or found.prefix or found.left:
        say(f"--weights: {path}: {_told(found)}")
    return model, count


def untrained(name: str, classes: int) -> nn.Module:
    """The torchvision model of this name with random weights, without the heads that only training uses."""
    how: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name in _WITH_AUXILIARY else {}
    if name in DETECTORS:
        how["weights_backbone"] = None  # which would be downloaded
    with warnings.catch_warnings():
        # Some models announce that their random start will change; it is overwritten anyway.
        warnings.simplefilter("ignore", FutureWarning)
        model = _MODELS.get_model(name, weights=None, num_classes=classes, **how)
    if hasattr(model, "transform_input"):
        model.transform_input = True  # as with torchvision's own weights, from which others are usually trained
    return cast(nn.Module, model)


def _read(path: str) -> Any:
    """What torch.load finds in a file of tensors and plain values."""
    try:
        with Path(path).open("rb") as file:
            known = file.read(2).startswith((b"PK", b"\x80"))  # of torch.save: a zip archive, once a pickle
        if not known:
            raise StopError(f"--weights: {path} is no file that torch.save wrote", FAILED)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StopError(f"--weights: there is no file {path}", FAILED) from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds more than a state dict{f', {named[1]}' * bool(named)}" if named else "cannot be read"
        raise StopError(f"--weights: {path} {what}: save model.state_dict() alone", FAILED) from error
    # A file that is damaged can fail in any of these ways.
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, AttributeError, TypeError, IndexError) as error:
        raise StopError(f"--weights: {path} cannot be read: {one_line(repr(error), 200)}", FAILED) from error


def _found(loaded: Any, own: Mapping[str, Tensor], path: str) -> StateDict:
    """The state dict that has most of the model's keys, its own weights before averaged ones."""
    every = list(_dictionaries(loaded))
    if not every:
        raise StopError(f"--weights: {path} holds no state dict", FAILED)
    ranked: list[tuple[int, bool, int, str, str, dict[str, Tensor]]] = []
    for place, tensors in every:
        for prefix, count in _prefixes(tensors, own).items():
            ranked.append((-count, bool(_AVERAGED.search(f"{place}.{prefix}")), len(ranked), place, prefix, tensors))
    _, _, _, place, prefix, tensors = min(ranked, key=lambda one: one[:3])
    state, left = {}, []
    parts = {key.partition(".")[0] for key in own}
    for key, value in tensors.items():
        inner = key.removeprefix(prefix)
        # A tensor beside the model's may be left; one of a layer within it says that the model is another.
        if key.startswith(prefix) and inner.partition(".")[0] in parts:
            state[inner] = value
        else:
            left.append(key)
    top = place.partition(".")[0]
    others = [str(key) for key in loaded if key != top] if place else []
    return StateDict(state, place, prefix, [*others, *dict.fromkeys(key.split(".")[0] for key in left)])


def _dictionaries(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dictionaries with tensors in a file, by their places, the names of wrappers removed from their keys."""
    if not isinstance(value, dict) or depth > _DEEPEST:
        return
    tensors = {_WRAPPERS.sub("", key): one for key, one in value.items() if isinstance(key, str) and _is_dense(one)}
    if tensors:
        yield place, tensors
    for key, one in value.items():
        yield from _dictionaries(one, f"{place}.{key}" if place else str(key), depth + 1)


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_sparse


def _prefixes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Counter[str]:
    """What the keys begin with: each prefix with the number of the model's keys that follow it; "" always."""
    found = Counter({"": 0})
    for key in tensors:
        starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
        found.update(key[:start] for start in starts if key[start:] in own)
    return found


def _told(found: StateDict) -> str:
    """What was taken of the file, and what was left."""
    where = f" from {found.place}" if found.place else ""
    prefix = f", whose names begin with {found.prefix}" if found.prefix else ""
    named = ", ".join(found.left[:_MOST_NAMED]) + ", ..." * (len(found.left) > _MOST_NAMED)
    return f"took {len(found.state)} tensors{where}{prefix}" + (f"; left {named}" if named else "")
