"""How well an image and a text fit each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from captum_extremal.outputs import scores_in


class Similarity:
    """The cosine of what an encoder makes of an image, and the features of each of T texts; ``target`` chooses a text.

    Neither side needs to be what its name says: with a text's encoder and the features of images, the parts of the text
    are explained.

    Args:
        image_encoder: from images (N, ...), and whatever ``additional_forward_args`` hold, to features (N, D), such as
            the ``encode_image`` or the ``get_image_features`` of an image-text model.
        text_features: (T, D), of any length; floating.

    Raises:
        TypeError, ValueError: an argument is bad; when called, the encoder's output is no features (N, D).

    Examples::

        >>> texts = clip.get_text_features(tokens)
        >>> found = ExtremalPerturbation(Similarity(clip.get_image_features, texts)).extremal_masks(images, target=1)
    """

    def __init__(self, image_encoder: Callable[..., Any], text_features: Tensor) -> None:
        if not callable(image_encoder):
            raise TypeError(f"image_encoder must be callable, got {image_encoder!r}")
        if not isinstance(text_features, Tensor) or not text_features.is_floating_point():
            got = getattr(text_features, "dtype", type(text_features).__name__)
            raise TypeError(f"text_features must be a floating tensor (T, D), got {got}")
        if text_features.dim() != 2 or not len(text_features):
            raise ValueError(f"text_features must be (T, D), got shape {tuple(text_features.shape)}")
        if not bool((text_features.isfinite().all(1) & text_features.any(1)).all()):
            raise ValueError("text_features must be finite, and no row may be all zeros")
        self.image_encoder = image_encoder
        self.text_features = F.normalize(text_features.detach(), dim=1)

    def __call__(self, images: Tensor, *arguments: Any) -> Tensor:
        """The cosines (N, T) of images (N, ...) and the texts."""
        features = scores_in(self.image_encoder(images, *arguments), len(images))
        if features.shape != (len(images), self.text_features.shape[1]):
            raise ValueError(
                f"image_encoder must return features ({len(images)}, {self.text_features.shape[1]}), as many as the "
                f"texts have, got shape {tuple(features.shape)}"
            )
        return F.linear(F.normalize(features, dim=1), self.text_features.to(features))
