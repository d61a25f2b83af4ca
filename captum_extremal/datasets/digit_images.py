"""The digit scenes as a data set with annotated classes."""

from __future__ import annotations

from captum_extremal.datasets._reading import of_image, with_difficult
from captum_extremal.datasets.annotated import AnnotatedImage
from captum_extremal.datasets.digits.scenes import CLASSES, DigitScenes, to_rgb

__all__ = ["DigitImages"]


class DigitImages:
    """Scenes of handwritten digits, which ship with the package; their classes are "0" to "9".

    The regions are the pixels of the digits' ink. Images are named "seed-index".

    Args:
        count: how many scenes.
        seed: another seed gives other scenes.
        size: (H, W) in pixels, each at least 64.

    Attributes:
        unreadable: empty, for there are no files.

    Raises:
        TypeError, ValueError: as :class:`DigitScenes`, whose ``length`` is the count.
    """

    def __init__(self, count: int, seed: int = 0, size: tuple[int, int] = (128, 128)) -> None:
        self._scenes = DigitScenes(count, size, seed=seed)
        self._index = {f"{seed}-{index}": index for index in range(count)}
        self.name = f"digits-{size[0]}x{size[1]}"
        self.classes = tuple(map(str, range(CLASSES)))
        self.unreadable: list[str] = []

    def pairs(self) -> list[tuple[str, str]]:
        """Every scene with each digit in it, in order."""
        return [
            (image, str(label)) for image, index in self._index.items() for label in sorted(self._scenes[index].labels)
        ]

    def load(self, image: str) -> AnnotatedImage:
        """The scene of this name, and the ink of each digit. Raises ValueError if there is none."""
        scene = self._scenes[of_image(self._index, image)]
        return with_difficult(to_rgb(scene.image), {str(label): mask for label, mask in zip(scene.labels, scene.masks)})
