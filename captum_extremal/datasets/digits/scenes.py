"""Scenes of handwritten digits on cluttered backgrounds, with the pixels of every digit known.

Shapes: 3 colour channels, H rows and W columns of pixels, D digits in a scene.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from captum_extremal._checks import check_choice, check_count
from captum_extremal.datasets.digits import _paint

__all__ = ["MEAN", "STD", "DigitScene", "DigitScenes", "to_rgb"]

MEAN: tuple[float, float, float] = (0.485, 0.485, 0.485)
"""RGB of the mean colour of scenes: a normalised image is 0 where it has this colour."""

STD: tuple[float, float, float] = (0.2, 0.2, 0.2)
"""Spread of each channel over scenes; a normalised image is (RGB - MEAN) / STD."""

DATA_FILE = Path(__file__).with_name("digits_test.npz")
SMALLEST_SIDE = 64
CLASSES = 10

_SPLITS = ("train", "test")
# Pixels between digits, and between them and the border.
_GAP, _MARGIN = 4, 2
_LAYOUT_TRIES, _SPOT_TRIES = 40, 30


@dataclass(frozen=True, eq=False)
class DigitScene:
    """One picture and the digits in it, from left to right.

    Attributes:
        image: (3, H, W) float32, normalised by :data:`MEAN` and :data:`STD`. See :func:`to_rgb` for display.
        labels: the D digits shown, each 0 to 9, no digit twice.
        boxes: (D, 4) int64, the tight box of each digit's ink as x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        masks: (D, H, W) bool, the pixels of each digit's own ink.
    """

    image: torch.Tensor
    labels: tuple[int, ...]
    boxes: torch.Tensor
    masks: torch.Tensor


@dataclass(eq=False)
class DigitScenes(Dataset[DigitScene]):
    """A map-style data set of :class:`DigitScene`, drawn on access.

    Scene i depends only on `seed`, `split`, i, `size` and `digits_per_scene`; drawing it neither reads nor changes the
    global random state. Digits are drawn as smooth shapes, bright or dark, at random places without overlap. Their
    longer side is about 0.19 to 0.375 of the image's shorter side, but 24 to 56 pixels.

    The test split's handwriting ships with the package; :func:`digit_network` was trained on none of it. The train
    split's comes with scikit-learn, which must be installed.

    Args:
        length: number of scenes, at least 1.
        size: (H, W) in pixels, each at least 64.
        digits_per_scene: least and greatest number of digits in a scene, 0 to 10 and no more than there is room for.
        seed: at least 0; another seed gives other scenes.
        split: "test" or "train".

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value not allowed above.
        ImportError: `split` is "train" and scikit-learn is not installed.
    """

    length: int
    size: tuple[int, int] = (128, 128)
    digits_per_scene: tuple[int, int] = (2, 4)
    seed: int = 0
    split: str = "test"

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
        check_count("seed", self.seed, at_least=0)
        check_choice("split", self.split, _SPLITS)
        _handwriting(self.split)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex) -> DigitScene:
        """The scene at `index`; a negative index counts from the end.

        Raises:
            TypeError: `index` is no integer.
            IndexError: there is no such scene.
        """
        position = operator.index(index)
        if not -self.length <= position < self.length:
            raise IndexError(f"index {position} is out of range for {self.length} scenes")
        rng = np.random.default_rng((self.seed, _SPLITS.index(self.split), position % self.length))
        return _draw(rng, self.split, self.size, self.digits_per_scene)


def to_rgb(image: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation, for display.

    Args:
        image: (..., 3, H, W), normalised as :attr:`DigitScene.image` is.

    Returns:
        RGB of the same shape, clamped to [0, 1].

    Raises:
        TypeError: `image` is no floating-point tensor.
        ValueError: `image` is not of shape (..., 3, H, W).
    """
    if not isinstance(image, torch.Tensor) or not image.is_floating_point():
        found = image.dtype if isinstance(image, torch.Tensor) else type(image).__name__
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


class _Placed(NamedTuple):
    """A digit's ink (rows, columns) in [0, 1], and its upper left corner in pixels."""

    x: int
    y: int
    label: int
    ink: _paint.Array

    @property
    def box(self) -> _paint.Box:
        rows, columns = self.ink.shape
        return self.x, self.y, self.x + columns, self.y + rows


def _draw(rng: np.random.Generator, split: str, size: tuple[int, int], digits_per_scene: tuple[int, int]) -> DigitScene:
    count = int(rng.integers(digits_per_scene[0], digits_per_scene[1] + 1))
    labels = [int(label) for label in rng.permutation(CLASSES)[:count]]
    placed = sorted(_laid_out(rng, split, size, labels), key=lambda digit: digit[:2])
    picture = _paint.background(rng, *size)
    _paint.clutter(rng, picture, [digit.box for digit in placed])
    masks = np.zeros((count, *size), dtype=bool)
    boxes = torch.zeros(count, 4, dtype=torch.int64)
    for digit, mask, box in zip(placed, masks, boxes):
        x0, y0, x1, y1 = digit.box
        _paint.digit(rng, picture, digit.ink, digit.box)
        mask[y0:y1, x0:x1] = digit.ink > 0.5
        rows, columns = np.nonzero(mask)
        box[:] = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    noise = rng.normal(0.0, rng.uniform(0.01, 0.03), picture.shape)
    normalised = (np.clip(picture + noise, 0.0, 1.0) - np.array(MEAN)) / np.array(STD)
    return DigitScene(
        image=torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1), np.float32)),
        labels=tuple(digit.label for digit in placed),
        boxes=boxes,
        masks=torch.from_numpy(masks),
    )


def _laid_out(rng: np.random.Generator, split: str, size: tuple[int, int], labels: list[int]) -> list[_Placed]:
    """One digit of each label at random places, at least a gap apart."""
    members = [_handwriting(split)[label] for label in labels]
    rasters = [images[rng.integers(len(images))] for images in members]
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
    return [
        _Placed(x, y, label, _paint.glyph(rng, raster, side))
        for (x, y), label, raster, side in zip(spots, labels, rasters, sides)
    ]


def _digit_sides(size: tuple[int, int]) -> tuple[int, int]:
    """The least and the greatest length of a digit's longer side, in pixels, in a scene of this size."""
    least, greatest = round(0.1875 * min(size)), round(0.375 * min(size))
    return min(max(least, 24), 40), min(max(greatest, 28), 56)


def _random_spots(rng: np.random.Generator, size: tuple[int, int], sides: list[int]) -> list[tuple[int, int]] | None:
    """Upper left corners (x, y) of squares at least a gap apart, or None if a few tries fail."""
    height, width = size
    taken: list[tuple[int, int, int]] = []
    for side in sides:
        for _ in range(_SPOT_TRIES):
            x = int(rng.integers(_MARGIN, width - side - _MARGIN + 1))
            y = int(rng.integers(_MARGIN, height - side - _MARGIN + 1))
            if all(
                x >= u + other + _GAP or u >= x + side + _GAP or y >= v + other + _GAP or v >= y + side + _GAP
                for u, v, other in taken
            ):
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
