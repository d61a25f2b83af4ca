"""One of torchvision's classifiers: its classes by name, and a photograph as the model takes it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from captum_extremal.cli.console import PhotoError, StopError
from captum_extremal.cli.options import TOP

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

LONG = 3  # aspect ratio; a longer picture is made smaller, to as many pixels as a picture of this ratio has
TOO_LONG = 48  # aspect ratio; gives a quarter of the weights' shorter side, the least that every classifier takes
ABOUT_SIZES = (
    "The shorter side of a photograph is resized to the size that the weights' transforms name. The photograph is "
    f"cropped only if the model refuses its size. A photograph longer than {LONG}:1 is made smaller, to the pixels "
    f"that one of {LONG}:1 would have; one longer than {TOO_LONG}:1 is refused."
)
_MOST_CANDIDATES = 12
_MODEL_ERRORS = (RuntimeError, ValueError, AssertionError)


def aspect_ratio(photo: Image) -> float:
    """Longer side / shorter side."""
    return max(photo.size) / min(photo.size)


def fitted_size(height: int, width: int, side: int, longest: float = LONG) -> list[int]:
    """Rows and columns with this shorter side; a picture longer than ``longest`` gets the pixels of such a one."""
    scale = min(side / min(height, width), side * math.sqrt(longest / (height * width)))
    return [int(length * scale + 1e-6) for length in (height, width)]  # as torchvision rounds


@dataclass(frozen=True)
class Classifier:
    """A classifier of images.

    Attributes:
        name: of the architecture.
        weights: their name or file.
        model: from (N, 3, H, W) to scores (N, K).
        preset: the transforms of the weights, of which sizes, interpolation, mean and standard deviation are used.
        categories: the names of its K classes.
        device: the model's.
    """

    name: str
    weights: str
    model: nn.Module
    preset: Any
    categories: list[str]
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
        import torch
        from torchvision.transforms import functional

        if aspect_ratio(photo) > TOO_LONG:
            raise PhotoError(f"{photo.width} x {photo.height} px are longer than {TOO_LONG}:1: crop it first")
        whole = self._as_tensor(self._resized(photo, LONG))
        try:
            return whole, self._logits(whole), False
        except torch.cuda.OutOfMemoryError as error:
            raise PhotoError(f"too large for {self.device}: {error}") from error
        except _MODEL_ERRORS as error:
            refusal = error
        if not self.takes(torch.full_like(whole, 0.5)):
            crop: Any = functional.center_crop(self._resized(photo, TOO_LONG), self.preset.crop_size)
            cropped = self._as_tensor(crop)
            try:
                return cropped, self._logits(cropped), True
            except _MODEL_ERRORS:
                pass  # the crop is no help, so that the first error counts
        raise PhotoError(f"{self.name} cannot take it: {refusal}") from refusal

    def normalised(self, picture: Tensor) -> Tensor:
        """The model's input for RGB (..., 3, H, W) in [0, 1]."""
        from torchvision.transforms import functional

        normalised: Tensor = functional.normalize(picture, list(self.preset.mean), list(self.preset.std))
        return normalised

    def takes(self, picture: Tensor) -> bool:
        """Whether the model runs on a picture of this size."""
        try:
            self._logits(picture)
        except _MODEL_ERRORS:
            return False
        return True

    def _logits(self, picture: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            logits: Tensor = self.model(self.normalised(picture))[0].float().cpu()
        return logits

    @property
    def shorter_side(self) -> int:
        """The shorter side in pixels to which the weights' transforms resize."""
        return int(min(self.preset.resize_size))

    @property
    def crop_size(self) -> tuple[int, int]:
        """The rows and columns to which the weights' transforms crop, in pixels; every classifier takes these."""
        sides = tuple(self.preset.crop_size)
        return int(sides[0]), int(sides[-1])

    def resize(self, picture: Any, size: list[int]) -> Any:
        """A photograph, or RGB (..., 3, H, W), with these rows and columns."""
        from torchvision.transforms import functional

        preset = self.preset
        return functional.resize(picture, size, interpolation=preset.interpolation, antialias=preset.antialias)

    def _resized(self, photo: Image, longest: float) -> Any:
        return self.resize(photo, fitted_size(photo.height, photo.width, self.shorter_side, longest))

    def _as_tensor(self, photo: Image) -> Tensor:
        from torchvision.transforms import functional

        return functional.pil_to_tensor(photo).unsqueeze(0).to(self.device).float() / 255


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
