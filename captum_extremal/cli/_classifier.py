"""One of torchvision's classifiers: its classes by name, and a photograph as it takes it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from captum_extremal.cli._console import PhotoError, StopError
from captum_extremal.cli._photographs import length

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

TOP = "top1"
LONG = 3  # longer side : shorter side; what is longer is made smaller, to as many pixels as this has
TOO_LONG = 48  # makes the shorter side a quarter of the weights' own, the least that every classifier takes
_MOST_CANDIDATES = 12


@dataclass(frozen=True)
class Classifier:
    """One of torchvision's classifiers, with what its weights' transforms say of its inputs."""

    name: str
    weights: str
    model: nn.Module
    preset: Any
    categories: list[str]
    device: torch.device

    def index_of(self, text: str) -> int | None:
        """The class that ``--target`` names: its index, or None for the predicted one."""
        if text.lower() == TOP:
            return None
        if re.fullmatch(r"[+-]?\d+", text):
            if not 0 <= int(text) < len(self.categories):
                raise StopError(f"--target: {self.name} has the classes 0 to {len(self.categories) - 1}, got {text}")
            return int(text)
        return self._index_of_name(text)

    def _index_of_name(self, text: str) -> int:
        wanted = _plain(text)
        names = [_plain(name) for name in self.categories]
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

        It is cropped only if the model refuses it whole: nothing else tells whether a model takes any size.
        """
        import torch

        if length(photo) > TOO_LONG:
            raise PhotoError(f"{photo.width} x {photo.height} px are longer than {TOO_LONG}:1: crop it first")
        try:
            whole = self._as_tensor(self._resized(photo, LONG))
            return whole, self._logits(whole), False
        except torch.cuda.OutOfMemoryError as error:
            raise PhotoError(f"too large for {self.device}: {error}") from error
        except (RuntimeError, ValueError, AssertionError):
            cropped = self._as_tensor(self._cropped(self._resized(photo, TOO_LONG)))
        try:
            return cropped, self._logits(cropped), True
        except (RuntimeError, ValueError, AssertionError) as error:
            raise PhotoError(f"{self.name} cannot take it: {error}") from error

    def normalised(self, picture: Tensor) -> Tensor:
        from torchvision.transforms import functional

        normalised: Tensor = functional.normalize(picture, list(self.preset.mean), list(self.preset.std))
        return normalised

    def takes(self, picture: Tensor) -> bool:
        """Whether the model accepts a picture of this size."""
        try:
            self._logits(picture)
        except (RuntimeError, ValueError, AssertionError):
            return False
        return True

    def _logits(self, picture: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            logits: Tensor = self.model(self.normalised(picture))[0].float().cpu()
        return logits

    @property
    def shorter_side(self) -> int:
        """What the weights' transforms resize the shorter side to, in pixels."""
        return int(min(self.preset.resize_size))

    @property
    def crop_size(self) -> tuple[int, int]:
        """The rows and columns that the weights' transforms crop to, in pixels: every classifier takes these."""
        sides = tuple(self.preset.crop_size)
        return int(sides[0]), int(sides[-1])

    def _resized(self, photo: Image, longest: float) -> Image:
        """The photograph with the weights' shorter side; one longer than ``longest`` with the pixels of such a one."""
        from torchvision.transforms import functional

        size, ratio = self.preset.resize_size, length(photo)
        if ratio > longest:
            scale = self.shorter_side * math.sqrt(longest / ratio) / min(photo.size)
            size = [int(photo.height * scale), int(photo.width * scale)]
        how = {"interpolation": self.preset.interpolation, "antialias": self.preset.antialias}
        resized: Any = functional.resize(cast(Any, photo), size, **how)
        return cast("Image", resized)

    def _cropped(self, photo: Image) -> Image:
        from torchvision.transforms import functional

        cropped: Any = functional.center_crop(cast(Any, photo), self.preset.crop_size)
        return cast("Image", cropped)

    def _as_tensor(self, photo: Image) -> Tensor:
        from torchvision.transforms import functional

        return functional.pil_to_tensor(photo).unsqueeze(0).to(self.device).float() / 255


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
