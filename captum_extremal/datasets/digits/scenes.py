"""Scenes of handwritten digits on cluttered backgrounds, with the pixels of every digit known."""

import operator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from captum_extremal._checks import check_choice, check_count
from captum_extremal.datasets.annotated import AnnotatedImage, of_image, with_difficult
from captum_extremal.datasets.digits import _paint

__all__ = ["MEAN", "STD", "DigitImages", "DigitScene", "DigitScenes", "to_rgb"]

MEAN, STD = (0.485, 0.485, 0.485), (0.2, 0.2, 0.2)
"""RGB of the mean colour of scenes, and the spread of each channel; a normalised image is (RGB - MEAN) / STD."""

DATA_FILE = Path(__file__).with_name("digits_test.npz")
SMALLEST_SIDE, CLASSES = 64, 10
_SPLITS = ("train", "test")
_GAP, _MARGIN = 4, 2  # pixels between digits, and between them and the border
_LAYOUT_TRIES, _SPOT_TRIES = 40, 30


@dataclass(frozen=True, eq=False)
class DigitScene:
    """One picture and the digits in it, from left to right.

    Attributes:
        image: (3, H, W) float32, normalised by :data:`MEAN` and :data:`STD`. See :func:`to_rgb` for display.
        labels: the D digits shown, each 0 to 9, no digit twice unless the scenes are ``repeated``.
        boxes: (D, 4) int64, the tight box of each digit's ink as x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        masks: (D, H, W) bool, the pixels of each digit's own ink.
    """

    image: Tensor
    labels: tuple[int, ...]
    boxes: Tensor
    masks: Tensor


@dataclass(eq=False)
class DigitScenes(Dataset[DigitScene]):
    """A map-style data set of :class:`DigitScene`, drawn on access.

    Scene i depends only on i and the settings but `length`; drawing it neither reads nor changes the global random
    state. Digits are smooth shapes, bright or dark, at random places without overlap. Their longer side
    is about 0.19 to 0.375 of the image's shorter side, but 24 to 56 pixels.

    Args:
        length: number of scenes, at least 1.
        size: (H, W) in pixels, each at least 64.
        digits_per_scene: least and greatest number of digits in a scene, 0 to 10 and no more than there is room for.
        seed: at least 0; another seed gives other scenes.
        repeated: whether one of the digits is shown twice, in two handwritings; then a scene needs two digits at least.
        split: "test", with handwriting on which :func:`digit_network` was not trained; or "train", with scikit-learn's.

    Raises:
        TypeError, ValueError: an argument has another type or value than above.
        ImportError: `split` is "train" and scikit-learn is not installed.
    """

    length: int
    size: tuple[int, int] = (128, 128)
    digits_per_scene: tuple[int, int] = (2, 4)
    seed: int = 0
    split: str = "test"
    repeated: bool = False

    def __post_init__(self) -> None:
        check_count("length", self.length)
        self.length = int(self.length)
        self.size = _checked_pair("size", self.size, at_least=SMALLEST_SIDE)
        least, greatest = self.digits_per_scene = _checked_pair("digits_per_scene", self.digits_per_scene, at_least=0)
        room = min(CLASSES, len(_grid_spots(self.size)))
        if least > greatest:
            raise ValueError(f"digits_per_scene must be (least, greatest), got {(least, greatest)}")
        if greatest > room:
            raise ValueError(f"digits_per_scene must be at most {room} in a scene of size {self.size}, got {greatest}")
        if not isinstance(self.repeated, bool):
            raise TypeError(f"repeated must be True or False, got {self.repeated!r}")
        if self.repeated and least < 2:
            raise ValueError(f"digits_per_scene must be at least 2 to show one digit twice, got {(least, greatest)}")
        check_count("seed", self.seed, at_least=0)
        check_choice("split", self.split, _SPLITS)
        _handwriting(self.split)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex) -> DigitScene:
        """The scene at `index`, from the end if negative. Raises TypeError or IndexError as a list does."""
        position = operator.index(index)
        if not -self.length <= position < self.length:
            raise IndexError(f"index {position} is out of range for {self.length} scenes")
        rng = np.random.default_rng((self.seed, _SPLITS.index(self.split), position % self.length))
        count = int(rng.integers(self.digits_per_scene[0], self.digits_per_scene[1] + 1))
        labels = [int(label) for label in rng.permutation(CLASSES)[:count]]
        if self.repeated:
            labels[1] = labels[0]
        placed = sorted(_laid_out(rng, self.split, self.size, labels), key=lambda digit: digit[0])
        picture = _paint.background(rng, *self.size)
        _paint.clutter(rng, picture, [box for box, _, _ in placed])
        masks = np.zeros((count, *self.size), dtype=bool)
        boxes = torch.zeros(count, 4, dtype=torch.int64, device="cpu")
        for ((x0, y0, x1, y1), _, ink), mask, box in zip(placed, masks, boxes):
            _paint.digit(rng, picture, ink, (x0, y0, x1, y1))
            mask[y0:y1, x0:x1] = ink > 0.5
            rows, columns = np.nonzero(mask)
            box[:] = box.new_tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        noise = rng.normal(0.0, rng.uniform(0.01, 0.03), picture.shape)
        normalised = (np.clip(picture + noise, 0.0, 1.0) - np.array(MEAN)) / np.array(STD)
        image = torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1), np.float32))
        return DigitScene(image, tuple(label for _, label, _ in placed), boxes, torch.from_numpy(masks))


class DigitImages:
    """:class:`DigitScenes` of the test split as :class:`AnnotatedImages`; the classes are "0" to "9".

    The regions are the pixels of the digits' ink. Images are named "seed-index"; none is unreadable.

    Args:
        count: how many scenes.
        seed: another seed gives other scenes.
        size: (H, W) in pixels, each at least 64.

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
        return [(image, str(label)) for image, i in self._index.items() for label in sorted(self._scenes[i].labels)]

    def load(self, image: str) -> AnnotatedImage:
        """The scene of this name, and the ink of each digit. Raises ValueError if there is none."""
        scene = self._scenes[of_image(self._index, image)]
        return with_difficult(to_rgb(scene.image), {str(label): mask for label, mask in zip(scene.labels, scene.masks)})


def to_rgb(image: Tensor) -> Tensor:
    """Undo the normalisation of an image (..., 3, H, W), for display: RGB of the same shape, clamped to [0, 1].

    Raises:
        TypeError: `image` is no floating-point tensor.
        ValueError: `image` is not of shape (..., 3, H, W).
    """
    if not (isinstance(image, Tensor) and image.is_floating_point()):
        found = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"image must be a floating-point torch.Tensor, got {found}")
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"image must have shape (..., 3, H, W), got {tuple(image.shape)}")
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image * std + mean).clamp(0.0, 1.0)


def _checked_pair(name: str, value: object, *, at_least: int) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a pair of integers, got {value!r} of type {type(value).__name__}")
    if len(value) != 2:
        raise ValueError(f"{name} must have two entries, got {value!r}")
    for i, entry in enumerate(value):
        check_count(f"{name}[{i}]", entry, at_least=at_least)
    return int(value[0]), int(value[1])


@lru_cache(maxsize=len(_SPLITS))
def _handwriting(split: str) -> tuple[NDArray[np.uint8], ...]:
    """The digits of a split: for each class 0 to 9 its images (N, 8, 8), values 0 to 16."""
    with np.load(DATA_FILE, allow_pickle=False) as data:
        images, labels, held_out = data["images"], data["labels"], data["indices"]
    if split == "train":
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError('DigitScenes(split="train") needs scikit-learn: pip install scikit-learn') from error
        all_digits = load_digits()
        images = np.delete(all_digits.images.astype(np.uint8), held_out, axis=0)
        labels = np.delete(all_digits.target, held_out)
    return tuple(images[labels == label] for label in range(CLASSES))


def _laid_out(
    rng: np.random.Generator, split: str, size: tuple[int, int], labels: list[int]
) -> list[tuple[_paint.Box, int, _paint.Array]]:
    """The box, label and ink of one digit of each label, at random places, at least a gap apart."""
    rasters = [rng.choice(_handwriting(split)[label]) for label in labels]
    least, greatest = _digit_sides(size)
    for attempt in range(_LAYOUT_TRIES):
        # Where large digits find no room, later tries take smaller ones.
        longest = greatest - (greatest - least) * attempt / _LAYOUT_TRIES
        sides = [round(rng.uniform(least, longest)) for _ in labels]
        spots = _random_spots(rng, size, sides)
        if spots is not None:
            break
    else:
        sides = [least] * len(labels)
        grid = _grid_spots(size)
        spots = [grid[i] for i in rng.permutation(len(grid))[: len(labels)]]
    inks = [_paint.glyph(rng, raster, side) for raster, side in zip(rasters, sides)]
    boxes = [(x, y, x + ink.shape[1], y + ink.shape[0]) for (x, y), ink in zip(spots, inks)]
    return list(zip(boxes, labels, inks))


def _digit_sides(size: tuple[int, int]) -> tuple[int, int]:
    """The least and the greatest length of a digit's longer side, in pixels, in a scene of this size."""
    return min(max(round(0.1875 * min(size)), 24), 40), min(max(round(0.375 * min(size)), 28), 56)


def _random_spots(rng: np.random.Generator, size: tuple[int, int], sides: list[int]) -> list[tuple[int, int]] | None:
    """Upper left corners (x, y) of squares at least a gap apart, or None if a few tries fail."""
    taken: list[tuple[int, int, int]] = []
    for side in sides:
        for _ in range(_SPOT_TRIES):
            x, y = (int(rng.integers(_MARGIN, length - side - _MARGIN + 1)) for length in (size[1], size[0]))
            reach = side + _GAP
            if not any(-reach < x - u < other + _GAP and -reach < y - v < other + _GAP for u, v, other in taken):
                taken.append((x, y, side))
                break
        else:
            return None
    return [(x, y) for x, y, _ in taken]


def _grid_spots(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of a grid of the smallest digits, which always has room."""
    least, _ = _digit_sides(size)
    rows, columns = (range(_MARGIN, length - least - _MARGIN + 1, least + _GAP) for length in size)
    return [(x, y) for y in rows for x in columns]
