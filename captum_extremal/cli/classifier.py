"""A classifier: its weights, its classes by name, and a photograph as the model takes it."""

import math
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional

from captum_extremal.cli.console import FAILED, PhotoError, StopError, one_line, stopping
from captum_extremal.cli.networks import Found, Look, found_network
from captum_extremal.cli.options import CLASSIFICATION, DEFAULT, DETECTION, LONG, TOO_LONG, TOP
from captum_extremal.cli.weights import DETECTORS, from_file, untrained

_MODELS: Any = models  # its functions have no types
_MOST_CANDIDATES = 12
_ROUNDED = 0.01  # what the sum of probabilities may be off
_MODEL_ERRORS = (RuntimeError, ValueError, AssertionError)


def fitted_size(height: int, width: int, side: int, longest: float = LONG) -> list[int]:
    """Rows and columns with this shorter side; a picture longer than ``longest`` gets the pixels of such a one."""
    scale = min(side / min(height, width), side * math.sqrt(longest / (height * width)))
    return [int(length * scale + 1e-6) for length in (height, width)]  # as torchvision rounds


@dataclass(frozen=True)
class Classifier:
    """A classifier of images."""

    name: str  # of the architecture
    weights: str  # their name or file
    model: nn.Module  # from (N, 3, H, W) to scores (N, K)
    preset: Any  # the transforms of the weights: sizes, interpolation, mean and standard deviation
    categories: list[str]  # the names of its K classes
    device: torch.device

    def index_of(self, text: str) -> int | None:
        """The index of the class that ``--target`` names, None for the predicted one."""
        if text.lower() == TOP:
            return None
        if re.fullmatch(r"[+-]?\d+", text):
            if not 0 <= int(text) < len(self.categories):
                raise StopError(f"--target: {self.name} has the classes 0 to {len(self.categories) - 1}, got {text}")
            return int(text)
        wanted, names = _plain(text), [_plain(name) for name in self.categories]
        matches = [k for k, name in enumerate(names) if name == wanted]
        matches = matches or [k for k, name in enumerate(names) if wanted and wanted in name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise StopError(f"--target: {text!r} may be {self._listed(matches)}: give more of the name, or the number")
        close = [names.index(name) for name in get_close_matches(wanted, names, 3)]
        hint = f"; near it: {self._listed(close)}" if close else ""
        raise StopError(f"--target: {self.name} has no class named {text!r}{hint}")

    def _listed(self, indices: list[int]) -> str:
        listed = ", ".join(f"{self.categories[k]} ({k})" for k in indices[:_MOST_CANDIDATES])
        more = len(indices) - _MOST_CANDIDATES
        return f"{listed} and {more} more" if more > 0 else listed

    def fitted(self, photo: Image) -> tuple[Tensor, Tensor, bool]:
        """The photograph as the model sees it, RGB (1, 3, H, W) in [0, 1]; its logits (K,); whether it was cropped.

        Only a trial tells whether a model takes any size. Its error concerns the size if a grey picture of the same
        size fails too, and the centre crop does not. Any other error is the model's own.
        """
        if max(photo.size) > TOO_LONG * min(photo.size):
            raise PhotoError(f"{photo.width} x {photo.height} px are longer than {TOO_LONG}:1: crop it first")
        whole = self._as_tensor(photo, LONG)
        try:
            return whole, self.scores(whole), False
        except torch.cuda.OutOfMemoryError as error:
            raise PhotoError(f"too large for {self.device}: {error}") from error
        except _MODEL_ERRORS as error:
            refusal = error
        cropped = functional.center_crop(self._as_tensor(photo, TOO_LONG), self.preset.crop_size)
        if not self.takes(torch.full_like(whole, 0.5)) and self.takes(cropped):
            return cropped, self.scores(cropped), True
        raise PhotoError(f"{self.name} cannot take it: {refusal}") from refusal

    def normalised(self, picture: Tensor) -> Tensor:
        """The model's input for RGB (..., 3, H, W) in [0, 1]."""
        return functional.normalize(picture, list(self.preset.mean), list(self.preset.std))

    def takes(self, picture: Tensor) -> bool:
        """Whether the model runs on a picture of this size."""
        with suppress(*_MODEL_ERRORS):
            self.scores(picture)
            return True
        return False

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities (K,) of the classes, from scores that may be it already; NaN where K is 1."""
        if len(logits) == 1:
            return torch.full_like(logits, torch.nan)
        are_known = bool((logits >= 0).all()) and abs(float(logits.sum()) - 1) < _ROUNDED
        return logits if are_known else logits.softmax(0)

    @torch.no_grad()
    def scores(self, picture: Tensor) -> Tensor:
        """The scores (K,) of the classes for (1, 3, H, W)."""
        return cast(Tensor, self.model(self.normalised(picture))[0].float().cpu())

    @property
    def shorter_side(self) -> int:
        """The shorter side in pixels to which the weights' transforms resize."""
        return int(min(self.preset.resize_size))

    def resize(self, picture: Any, size: list[int]) -> Any:
        """A photograph, or RGB (..., 3, H, W), with these rows and columns."""
        preset = self.preset
        return functional.resize(picture, size, interpolation=preset.interpolation, antialias=preset.antialias)

    def _as_tensor(self, photo: Image, longest: float) -> Tensor:
        resized = self.resize(photo, fitted_size(photo.height, photo.width, self.shorter_side, longest))
        return functional.pil_to_tensor(resized).unsqueeze(0).to(self.device).float() / 255


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def checked_device(name: str) -> torch.device:
    """The device of this name, after a first use of it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    missing = RuntimeError, AssertionError, NotImplementedError  # PyTorch raises any of them for a missing device
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except missing as error:
        why = one_line(re.split(r"[.;:] |\n", str(error))[0], 100)
        raise StopError(f"--device: {name!r} is not available: {why}") from error
    return device


def loaded_classifier(
    name: str,
    weights: str | None,
    classes: str | None = None,
    device: str = "cpu",
    *,
    task: str = CLASSIFICATION,
    look: Look | None = None,
) -> Classifier:
    """The classifier with the weights and the names of classes of the options; weights None need no download.

    With the task of detection, it is a detector, which is no classifier yet.
    """
    place, look = checked_device(device), look or Look()
    if ":" in name and task == CLASSIFICATION:
        found = found_network(name, weights, look)
    else:
        name = name.lower()
        found = _of_torchvision(name, weights, task)
    own, count = found.categories, found.classes
    names = own if own and count == len(own) else [f"class {k}" for k in range(count)]
    if classes is not None:
        with stopping(f"--classes: {classes} cannot be read", OSError, UnicodeDecodeError):
            names = [line.strip() for line in Path(classes).read_text(encoding="utf-8-sig").strip().splitlines()]
        if len(names) != count:
            why = f"must name each of {count} classes, one a line, got {len(names)}"
            raise StopError(f"--classes: {classes} {why}", FAILED)
    model, preset = found.model.eval().requires_grad_(False).to(place), look.over(found.preset)
    return Classifier(name, found.weights, model, preset, names, place)


def _of_torchvision(name: str, weights: str | None, task: str) -> Found:
    known = DETECTORS if task == DETECTION else _MODELS.list_models(module=_MODELS)
    if name not in known:
        close = known if task == DETECTION else get_close_matches(name, known, 4)
        hint = f"; near it: {', '.join(close)}" if close else ""
        what = "detector" if task == DETECTION else "classifier"
        raise StopError(f"--model: torchvision has no {what} named {name!r}{hint}")
    default = _MODELS.get_model_weights(name).DEFAULT
    own = list(default.meta["categories"])
    used, count = weights or "none", len(own)
    if weights is None:
        model = untrained(name, count)
    elif weights.upper() == DEFAULT:
        used, what = str(default), f"--weights: those of {name} cannot be downloaded, but a file may be given instead"
        with stopping(what, OSError, RuntimeError, HTTPException):
            model = _MODELS.get_model(name, weights=default, progress=sys.stderr.isatty())
    else:
        model, count = from_file(name, weights, count)
    return Found(model, used, default.transforms(), own, count)
