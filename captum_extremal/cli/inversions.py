"""What the channels of a layer have seen of a photograph, as images (equation 12)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captum_extremal.cli.console import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.cli.classifier import Classifier
    from captum_extremal.cli.layers import Layer
    from captum_extremal.inversion import InvertedFeatures


@dataclass(frozen=True)
class Inverter:
    """How the images are made.

    Attributes:
        steps: passes of each image through the model up to the layer.
        side: the shorter side in pixels.
    """

    steps: int
    side: int

    def pairs(
        self, classifier: Classifier, layer: Layer, picture: Tensor, masks: Tensor
    ) -> Iterator[tuple[InvertedFeatures, InvertedFeatures] | str]:
        """For each mask the inversions of the whole activation and of the masked one, or why there are none.

        Args:
            picture: RGB (1, 3, H, W) in [0, 1].
            masks: (T, K).
        """
        picture = self._resized(classifier, picture)
        try:
            whole = self._inverted(classifier, layer, picture, None)
        except (ValueError, RuntimeError) as error:
            yield from [one_line(error)] * len(masks)
            return
        for mask in masks:
            try:
                yield whole, self._inverted(classifier, layer, picture, mask[None])
            except (ValueError, RuntimeError) as error:  # such as a mask of channels that are zero everywhere
                yield one_line(error)

    def _inverted(self, classifier: Classifier, layer: Layer, picture: Tensor, mask: Tensor | None) -> InvertedFeatures:
        from captum_extremal.inversion import FeatureInversion

        return FeatureInversion(classifier.model, layer.module).invert(
            classifier.normalised(picture),
            channel_mask=mask,
            channel_dim=layer.channel_dim,
            steps=self.steps,
            preprocess=classifier.normalised,
            show_progress=sys.stderr.isatty(),
        )

    def _resized(self, classifier: Classifier, picture: Tensor) -> Tensor:
        """The picture with the chosen side, unless it is smaller or the model refuses that size."""
        from torchvision.transforms import functional

        if self.side >= min(picture.shape[2:]):
            return picture
        resized: Tensor = functional.resize(picture, [self.side], antialias=True)
        return resized.clamp(0, 1) if classifier.takes(resized) else picture
