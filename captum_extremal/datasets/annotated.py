"""Images whose classes are annotated: what an evaluation asks of a data set.

Shapes: 3 colour channels, H rows and W columns of pixels.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["AnnotatedImage", "AnnotatedImages", "UnreadableError"]


class UnreadableError(Exception):
    """A file that cannot be used; the message names it and says why, in one line."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedImage:
    """One image and where its classes are.

    Attributes:
        pixels: (3, H, W) float32, RGB in [0, 1].
        regions: for each annotated class, the pixels (H, W) bool of all its objects.
        difficult: the classes in the difficult subset, see :func:`~captum_extremal.metrics.difficult_classes`.
    """

    pixels: Tensor
    regions: dict[str, Tensor]
    difficult: frozenset[str]


class AnnotatedImages(Protocol):
    """A data set of images with annotated classes.

    Attributes:
        name: such as "voc2007-test".
        classes: names, in the order of the class indices of a network trained on the data set.
        unreadable: one line for each annotation file that cannot be read; its image is in no pair.
    """

    name: str
    classes: tuple[str, ...]
    unreadable: list[str]

    def pairs(self) -> list[tuple[str, str]]:
        """Every image with each class annotated in it, by name, in a fixed order; no image is decoded."""

    def load(self, image: str) -> AnnotatedImage:
        """The image of this name.

        Raises:
            UnreadableError: the image or its annotation cannot be read, or they do not fit together.
            ValueError: there is no image of this name.
        """


def in_one_line(error: object) -> str:
    """The text of an error without line breaks, cut to 300 characters: it may quote a file at length."""
    return textwrap.shorten(str(error), 300)
