"""The network that an evaluation asks, and how an image of a data set becomes its input."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captum_extremal.cli._classifier import LONG
from captum_extremal.cli._console import StopError
from captum_extremal.cli._weights import loaded_classifier

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

DIGITS = "digits"


@dataclass(frozen=True)
class Network:
    """A classifier as an evaluation uses it.

    Attributes:
        name: torchvision's, or "digits".
        model: from (N, 3, H, W) to scores (N, K).
        categories: the names of its K classes.
        normalise: from RGB (..., 3, H, W) in [0, 1] to what the model takes.
        resize: from RGB (3, H, W) and a size to RGB of this size.
        side: the shorter side in pixels that images are resized to; None leaves them as they are.
        square: whether they are squeezed into a square.
        device: the model's.
    """

    name: str
    model: nn.Module
    categories: list[str]
    normalise: Callable[[Tensor], Tensor]
    resize: Callable[[Tensor, list[int]], Tensor]
    side: int | None
    square: bool
    device: torch.device

    def prepare(self, pixels: Tensor) -> Tensor:
        """The model's input (3, H, W) for RGB (3, H', W') in [0, 1]."""
        size = fitted_size(pixels.shape[1], pixels.shape[2], self.side, self.square)
        resized = pixels if size == list(pixels.shape[1:]) else self.resize(pixels, size).clamp(0, 1)
        return self.normalise(resized.to(self.device))

    def example(self) -> Tensor:
        """An input, (1, 3, H, W)."""
        import torch

        side = self.side or 128
        return torch.zeros(1, 3, side, side, device=self.device)

    def about(self) -> dict[str, Any]:
        """What decides its answers, as plain values."""
        return {
            "model": self.name,
            "weights": checksum(self.model),
            "shorter_side": self.side,
            "square": self.square,
        }

    def index_of(self, classes: tuple[str, ...], given: dict[str, int]) -> dict[str, int]:
        """The network's index of each class of a data set.

        As given; else by the class's name; where some have none and the network has as many outputs as there are
        classes, in the data set's order.
        """
        unknown = sorted(set(given) - set(classes))
        if unknown:
            raise StopError(f"--classes: the data has no class {', '.join(unknown)}; it has {', '.join(classes)}")
        count = len(self.categories)
        names = [name.lower() for name in self.categories]
        own = {name: index for index, name in enumerate(names) if names.count(name) == 1}  # ImageNet has two cranes
        found = {name: own[name.lower()] for name in classes if name.lower() in own} | given
        if len(found) < len(classes) == count:
            found = dict(zip(classes, range(count))) | given
        missing = [name for name in classes if name not in found]
        if missing:
            raise StopError(
                f"--classes: {self.name} has no class named {', '.join(missing)}: give its number, "
                f"such as {missing[0]}=104"
            )
        wrong = [f"{name}={index}" for name, index in found.items() if not 0 <= index < count]
        if wrong:
            raise StopError(f"--classes: {self.name} has the classes 0 to {count - 1}, got {', '.join(wrong)}")
        return {name: found[name] for name in classes}


def fitted_size(height: int, width: int, side: int | None, square: bool) -> list[int]:
    """Rows and columns for an image with this shorter side; one longer than LONG:1 gets the pixels of such a one."""
    if square:
        return [side or min(height, width)] * 2
    if side is None:
        return [height, width]
    scale = min(side / min(height, width), side * math.sqrt(LONG / (height * width)))
    return [int(length * scale + 1e-6) for length in (height, width)]  # as torchvision rounds


def loaded_network(
    name: str,
    weights: str,
    device: torch.device,
    *,
    side: int | None,
    square: bool,
    convolutional: bool,
) -> Network:
    """The network that the arguments name."""
    if name == DIGITS:
        _check_digits(weights, convolutional)
        return _digits(device, side, square)
    from torchvision.transforms import functional

    classifier = loaded_classifier(name, weights, None, device)
    preset = classifier.preset
    model = _convolutional(classifier.model) if convolutional else classifier.model

    def resize(pixels: Tensor, size: list[int]) -> Tensor:
        return functional.resize(pixels, size, interpolation=preset.interpolation, antialias=preset.antialias)

    return Network(
        name=classifier.name + ("-convolutional" if convolutional else ""),
        model=_channels_last(model),
        categories=classifier.categories,
        normalise=classifier.normalised,
        resize=resize,
        side=side or classifier.shorter_side,
        square=square,
        device=device,
    )


def _channels_last(model: nn.Module) -> nn.Module:
    """The same, its weights in the order in which convolutions are fastest on a CPU and in half precision."""
    import torch

    return model.to(memory_format=torch.channels_last)


def _check_digits(weights: str, convolutional: bool) -> None:
    if weights != "DEFAULT":
        raise StopError(f"--weights: {DIGITS} comes with its own, got {weights}")
    if convolutional:
        raise StopError(f"--fully-convolutional: {DIGITS} is so already")


def _digits(device: torch.device, side: int | None, square: bool) -> Network:
    import torch
    from torchvision.transforms import functional

    from captum_extremal.datasets.digits import MEAN, STD, digit_network

    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return Network(
        name=DIGITS,
        model=digit_network().requires_grad_(False).to(device),
        categories=[str(digit) for digit in range(10)],
        normalise=lambda pixels: (pixels - mean) / std,
        resize=lambda pixels, size: functional.resize(pixels, size, antialias=True),
        side=side,
        square=square,
        device=device,
    )


def _convolutional(model: nn.Module) -> nn.Module:
    from captum_extremal.evaluation.fully_convolutional import fully_convolutional

    try:
        return fully_convolutional(model)
    except ValueError as error:
        raise StopError(f"--fully-convolutional: {error}") from error


def checksum(model: nn.Module) -> str:
    """A hash of a model's weights."""
    import torch

    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
