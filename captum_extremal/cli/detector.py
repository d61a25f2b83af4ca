"""One of torchvision's detectors, as ``explain --task detection`` takes it."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode

from captum_extremal.cli.classifier import Classifier, loaded_classifier
from captum_extremal.cli.options import DETECTION


class Detector(Classifier):
    """A detector of images, from (N, 3, H, W) in [0, 1] to N dictionaries; its classes' scores are their best ones."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """The scores (K,) themselves."""
        return logits

    @torch.no_grad()
    def scores(self, picture: Tensor) -> Tensor:
        """The highest score (K,) of each class among the detections in (1, 3, H, W), 0 where there is none."""
        (found,) = self.model(picture)
        best = torch.zeros(len(self.categories))
        return best.scatter_reduce(0, found["labels"].cpu(), found["scores"].float().cpu(), "amax")


def loaded_detector(name: str, weights: str | None, classes: str | None = None, device: str = "cpu") -> Detector:
    """The detector with the weights and the names of classes of the options."""
    read = loaded_classifier(name, weights, classes, device, task=DETECTION)
    # A detector resizes and normalises pictures itself. One of its own size passes as it is.
    model: Any = read.model
    side = [min(model.transform.min_size)]
    preset = SimpleNamespace(
        resize_size=side,
        crop_size=side,
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    return Detector(read.name, read.weights, read.model, preset, read.categories, read.device)
