"""Classifiers with torchvision's weights, or with those in a file, for any number of classes."""

from __future__ import annotations

import pickle
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from captum_extremal.cli.classifier import Classifier
from captum_extremal.cli.console import FAILED, StopError
from captum_extremal.cli.options import checked_device

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT = "DEFAULT"


def loaded_classifier(name: str, weights: str, classes: str | None, device: str) -> Classifier:
    """The classifier with the weights that ``--weights`` names and the classes that ``--classes`` names."""
    place, default = checked_device(device), _default_weights(name)
    name, downloads, own = name.lower(), weights.upper() == DEFAULT, list(default.meta["categories"])
    model, count = (_downloaded(name, default), len(own)) if downloads else from_file(name, weights, len(own))
    model = model.eval().requires_grad_(False).to(place)
    used = str(default) if downloads else weights
    return Classifier(name, used, model, default.transforms(), _categories(classes, own, count), place)


def untrained_classifier(name: str) -> Classifier:
    """The classifier before any training, on the CPU: its layers, without a download."""
    import torch

    default, name = _default_weights(name), name.lower()
    own = list(default.meta["categories"])
    return Classifier(name, "none", untrained(name, len(own)).eval(), default.transforms(), own, torch.device("cpu"))


def _default_weights(name: str) -> Any:
    models = _torchvision_models()
    name, known = name.lower(), models.list_models(module=models)
    if name not in known:
        close = get_close_matches(name, known, 4)
        hint = f"; near it: {', '.join(close)}" if close else ""
        raise StopError(f"--model: torchvision has no classifier named {name!r}{hint}")
    return models.get_model_weights(name).DEFAULT


def _torchvision_models() -> Any:
    from torchvision import models

    return models


def _downloaded(name: str, weights: Any) -> nn.Module:
    from http.client import HTTPException

    models = _torchvision_models()
    try:
        model: nn.Module = models.get_model(name, weights=weights, progress=sys.stderr.isatty())
        return model
    except (OSError, RuntimeError, HTTPException) as error:
        raise StopError(
            f"--weights: those of {name} cannot be downloaded: {error}; a file may be given instead", FAILED
        ) from error


def _categories(path: str | None, own: list[str], count: int) -> list[str]:
    """The names of the classes: from a file, or the weights' own, or numbers where the model has others."""
    if path is None:
        return own if count == len(own) else [f"class {k}" for k in range(count)]
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").strip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise StopError(f"--classes: {path} cannot be read: {error}", FAILED) from error
    if len(names) != count:
        raise StopError(f"--classes: {path} must name each of {count} classes, one a line, got {len(names)}", FAILED)
    return names


def from_file(name: str, path: str, usual: int) -> tuple[nn.Module, int]:
    """The model with the weights in a file, and how many classes it has: ``usual``, or as many as the file says."""
    state = _read_state(path)
    model = untrained(name, usual)
    count = _classes_in(state, model.state_dict(), usual)
    if count != usual:
        model = untrained(name, count)
    try:
        model.load_state_dict(state)  # copies into the model's float32 parameters, whatever type the file has
    except RuntimeError as error:
        raise StopError(f"--weights: {path} does not fit {name}: {error}", FAILED) from error
    return model, count


def untrained(name: str, classes: int) -> nn.Module:
    """The torchvision model of this name with random weights."""
    models = _torchvision_models()
    with warnings.catch_warnings():
        # Some models announce that their random start will change; it is overwritten anyway.
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    if hasattr(model, "transform_input"):
        # torchvision sets it with its own weights, from which other weights are usually trained.
        cast(Any, model).transform_input = True
    return model


def _classes_in(state: dict[str, Tensor], own: dict[str, Tensor], usual: int) -> int:
    """The number of classes of a state dict: the length of those tensors that have one row per class."""
    rows = {
        len(value)
        for key, value in state.items()
        if key in own and own[key].shape[:1] == (usual,) and value.dim() and value.shape[1:] == own[key].shape[1:]
    }
    return rows.pop() if len(rows) == 1 else usual


def _read_state(path: str) -> dict[str, Tensor]:
    """The state dict in a file: itself, or within a checkpoint, with or without DataParallel's prefix."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StopError(f"--weights: there is no file {path}", FAILED) from error
    except pickle.UnpicklingError as error:
        raise StopError(f"--weights: {path} holds more than a state dict: save model.state_dict()", FAILED) from error
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, AttributeError) as error:
        raise StopError(f"--weights: {path} cannot be read: {error}", FAILED) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    entries = loaded.items() if isinstance(loaded, dict) else ()
    if not entries or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in entries):
        raise StopError(f"--weights: {path} holds no state dict", FAILED)
    prefix = "module."
    if all(key.startswith(prefix) for key in loaded):
        return {key[len(prefix) :]: value for key, value in loaded.items()}
    return dict(loaded)
