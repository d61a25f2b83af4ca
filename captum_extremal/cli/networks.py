"""The network that an evaluation uses, and how an image of a data set becomes its input."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from captum_extremal.cli.classifier import Classifier, fitted_size
from captum_extremal.cli.console import StopError
from captum_extremal.cli.weights import DEFAULT, loaded_classifier

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

DIGITS = "digits"


@dataclass(frozen=True)
class Network:
    """A classifier as an evaluation uses it.

    Attributes:
        classifier: torchvision's, or "digits".
        side: the shorter side in pixels to which images are resized; None leaves them as they are.
        square: whether images are squeezed into a square.
    """

    classifier: Classifier
    side: int | None
    square: bool

    @property
    def model(self) -> nn.Module:
        """From (N, 3, H, W) to scores (N, K)."""
        return self.classifier.model

    def size_for(self, height: int, width: int) -> list[int]:
        """The rows and columns of the input for an image of this size."""
        if self.square:
            return [self.side or min(height, width)] * 2
        return [height, width] if self.side is None else fitted_size(height, width, self.side)

    def prepare(self, pixels: Tensor) -> Tensor:
        """The model's input (3, H, W) for RGB (3, H', W') in [0, 1]."""
        size = self.size_for(*pixels.shape[1:])
        resized = pixels if size == list(pixels.shape[1:]) else self.classifier.resize(pixels, size).clamp(0, 1)
        return self.classifier.normalised(resized.to(self.classifier.device))

    def example(self) -> Tensor:
        """An input, (1, 3, H, W)."""
        import torch

        side = self.side or 128
        return torch.zeros(1, 3, side, side, device=self.classifier.device)

    def about(self) -> dict[str, Any]:
        """What decides its scores, as plain values."""
        about = {"model": self.classifier.name, "weights": _checksum(self.model)}
        return about | {"shorter_side": self.side, "square": self.square}

    def index_of(self, classes: tuple[str, ...], given: dict[str, int]) -> dict[str, int]:
        """The network's index of each class of a data set.

        As given; else by the class's name; if some classes have no index and the network has as many outputs as there
        are classes, in the data set's order.
        """
        unknown = sorted(set(given) - set(classes))
        if unknown:
            raise StopError(f"--classes: the data has no class {', '.join(unknown)}; it has {', '.join(classes)}")
        count = len(self.classifier.categories)
        names = [name.lower() for name in self.classifier.categories]
        own = {name: index for index, name in enumerate(names) if names.count(name) == 1}  # ImageNet has two cranes
        found = {name: own[name.lower()] for name in classes if name.lower() in own} | given
        if len(found) < len(classes) == count:
            found = dict(zip(classes, range(count))) | given
        missing = [name for name in classes if name not in found]
        if missing:
            raise StopError(
                f"--classes: {self.classifier.name} has no class named {', '.join(missing)}: give its number, "
                f"such as {missing[0]}=104"
            )
        wrong = [f"{name}={index}" for name, index in found.items() if not 0 <= index < count]
        if wrong:
            raise StopError(
                f"--classes: {self.classifier.name} has the classes 0 to {count - 1}, got {', '.join(wrong)}"
            )
        return {name: found[name] for name in classes}


def loaded_network(
    name: str, weights: str, device: torch.device, *, side: int | None, square: bool, convolutional: bool
) -> Network:
    """The network that the options name."""
    import torch

    if name == DIGITS:
        if weights != DEFAULT:
            raise StopError(f"--weights: {DIGITS} comes with its own, got {weights}")
        if convolutional:
            raise StopError(f"--fully-convolutional: {DIGITS} is so already")
        return Network(_digits(device), side, square)
    classifier = loaded_classifier(name, weights, None, str(device))
    if convolutional:
        classifier = _convolutional(classifier)
    # The order in which convolutions are fastest on a CPU and in half precision.
    classifier.model.to(memory_format=torch.channels_last)
    return Network(classifier, side or classifier.shorter_side, square)


def _digits(device: torch.device) -> Classifier:
    from torchvision.transforms import InterpolationMode

    from captum_extremal.datasets.digits import MEAN, STD, digit_network

    preset = SimpleNamespace(mean=MEAN, std=STD, interpolation=InterpolationMode.BILINEAR, antialias=True)
    model = digit_network().requires_grad_(False).to(device)
    return Classifier(DIGITS, "the package's", model, preset, [str(digit) for digit in range(10)], device)


def _convolutional(classifier: Classifier) -> Classifier:
    from captum_extremal.evaluation import fully_convolutional

    try:
        model = fully_convolutional(classifier.model)
    except ValueError as error:
        raise StopError(f"--fully-convolutional: {error}") from error
    return replace(classifier, name=f"{classifier.name}-convolutional", model=model)


def _checksum(model: nn.Module) -> str:
    """A hash of the weights of a model."""
    import torch

    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
