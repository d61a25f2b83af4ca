"""Scenes of handwritten digits on cluttered backgrounds, with every digit's pixels known.

Shapes: C colour channels (3), H rows and W columns of pixels, D digits in a scene.
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

from captum_extremal.datasets.digits import _paint

__all__ = ["MEAN", "STD", "DigitScene", "DigitScenes", "to_rgb"]

MEAN: tuple[float, float, float] = (0.485, 0.485, 0.485)
"""RGB of the mean colour of scenes: a normalised image is 0 where it has this colour."""

STD: tuple[float, float, float] = (0.2, 0.2, 0.2)
"""Spread of each channel over scenes; a normalised image is (RGB - MEAN) / STD."""

DATA_FILE = Path(__file__).with_name("digits_test.npz")
HELD_OUT_PER_CLASS = 40
SMALLEST_SIDE = 64
CLASSES = 10

_SPLITS = ("train", "test")
_GAP = 4
_MARGIN = 2
_LAYOUT_TRIES = 40
_SPOT_TRIES = 30


@dataclass(frozen=True, eq=False)
class DigitScene:
    """One picture and the digits in it, from left to right.

    Attributes:
        image: (3, H, W) float32, normalised by :data:`MEAN` and :data:`STD`: 0 is the mean colour.
            See :func:`to_rgb` for display.
        labels: The D digits shown, each 0 to 9, no digit twice.
        boxes: (D, 4) int64, the tight box of each digit's ink as x0, y0, x1, y1 in pixels, x1 and
            y1 exclusive.
        masks: (D, H, W) bool, the pixels of each digit's own ink.
    """

    image: torch.Tensor
    labels: tuple[int, ...]
    boxes: torch.Tensor
    masks: torch.Tensor


class DigitScenes(Dataset[DigitScene]):
    """A map-style data set of :class:`DigitScene`, drawn when asked for.

    Scene i depends on `seed`, `split`, i, `size` and `digits_per_scene` alone, and drawing it
    neither reads nor changes the global random state. Handwritten digits are drawn as smooth
    shapes, bright or dark, at random places without overlap, each about 0.19 to 0.375 of the
    image's shorter side (but 24 to 56 pixels) in height.

    The test split's handwriting ships with the package, and :func:`digit_network` has seen none
    of it in training. The train split's comes with scikit-learn, which must be installed.

    Args:
        length: How many scenes there are, 1 or more.
        size: (H, W) in pixels, each at least 64.
        digits_per_scene: The least and the greatest number of digits in a scene, 0 to 10 and no
            more than have room.
        seed: 0 or more; another seed gives other scenes.
        split: "test" or "train".

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a value not allowed above.
        ImportError: If `split` is "train" and scikit-learn is not installed.
    """

    def __init__(
        self,
        length: int,
        size: tuple[int, int] = (128, 128),
        digits_per_scene: tuple[int, int] = (2, 4),
        seed: int = 0,
        split: str = "test",
    ) -> None:
        self.length = _checked_integer("length", length, least=1)
        self.size = _checked_pair("size", size, least=SMALLEST_SIDE)
        self.digits_per_scene = _checked_digits(digits_per_scene, self.size)
        self.seed = _checked_integer("seed", seed, least=0)
        self.split = _checked_split(split)
        digit_bank(split)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex) -> DigitScene:
        """The scene at `index`; a negative index counts from the end.

        Raises:
            TypeError: If `index` is no integer.
            IndexError: If there is no such scene.
        """
        position = operator.index(index)
        if not -self.length <= position < self.length:
            raise IndexError(f"index {position} is out of range for {self.length} scenes")
        key = (self.seed, _SPLITS.index(self.split), position % self.length)
        return _draw(np.random.default_rng(key), self.split, self.size, self.digits_per_scene)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(length={self.length}, size={self.size}, "
            f"digits_per_scene={self.digits_per_scene}, seed={self.seed}, split={self.split!r})"
        )


def to_rgb(image: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation, for display.

    Args:
        image: (..., 3, H, W), normalised as :attr:`DigitScene.image` is.

    Returns:
        RGB of the same shape, clamped to [0, 1].

    Raises:
        TypeError: If `image` is no floating-point tensor.
        ValueError: If `image` has not the shape (..., 3, H, W).
    """
    if not isinstance(image, torch.Tensor):
        raise TypeError(f"image must be a torch.Tensor, got {type(image).__name__}")
    if not image.is_floating_point():
        raise TypeError(f"image must be of a floating-point dtype, got {image.dtype}")
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"image must have shape (..., 3, H, W), got {tuple(image.shape)}")
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image * std + mean).clamp(0.0, 1.0)


def held_out(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which digits make the test split: 40 of each class, evenly spread over the data's order.

    The rule has no random numbers, so that training and the shipped file can never disagree.
    """
    chosen = []
    for label in range(CLASSES):
        (members,) = np.nonzero(labels == label)
        chosen.append(members[np.arange(HELD_OUT_PER_CLASS) * len(members) // HELD_OUT_PER_CLASS])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def all_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All of scikit-learn's digits: images (N, 8, 8) of values 0 to 16, and labels (N,).

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError('DigitScenes(split="train") needs scikit-learn: pip install scikit-learn') from error
    bundle = load_digits()
    return bundle.images.astype(np.uint8), bundle.target.astype(np.int64)


@lru_cache(maxsize=len(_SPLITS))
def digit_bank(split: str) -> tuple[NDArray[np.uint8], ...]:
    """The handwriting of a split: for each class 0 to 9 its images (N, 8, 8), values 0 to 16."""
    if split == "test":
        with np.load(DATA_FILE, allow_pickle=False) as data:
            images, labels = data["images"], data["labels"]
    else:
        images, labels = all_digits()
        kept = np.setdiff1d(np.arange(len(labels)), held_out(labels))
        images, labels = images[kept], labels[kept]
    return tuple(images[labels == label] for label in range(CLASSES))


def digit_sides(size: tuple[int, int]) -> tuple[int, int]:
    """The least and the greatest length of a digit's longer side, in pixels, at a scene size."""
    side = min(size)
    least, greatest = round(0.1875 * side), round(0.375 * side)
    return min(max(least, 24), 40), min(max(greatest, 28), 56)


def _checked_integer(name: str, value: object, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return int(value)


def _checked_pair(name: str, value: object, *, least: int) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a pair of integers, got {value!r} of type {type(value).__name__}")
    if len(value) != 2:
        raise ValueError(f"{name} must have two entries, got {value!r}")
    first, second = (_checked_integer(f"{name}[{i}]", entry, least=least) for i, entry in enumerate(value))
    return first, second


def _checked_digits(value: object, size: tuple[int, int]) -> tuple[int, int]:
    least, greatest = _checked_pair("digits_per_scene", value, least=0)
    room = min(CLASSES, len(_grid_spots(size)))
    if least > greatest:
        raise ValueError(f"digits_per_scene must be (least, greatest), got {(least, greatest)}")
    if greatest > room:
        raise ValueError(f"digits_per_scene must be at most {room} in a scene of size {size}, got {greatest}")
    return least, greatest


def _checked_split(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"split must be a str, got {value!r} of type {type(value).__name__}")
    if value not in _SPLITS:
        raise ValueError(f"split must be 'train' or 'test', got {value!r}")
    return value


class _Placed(NamedTuple):
    """A digit's ink (rows, columns) in [0, 1], and where its left upper corner lies."""

    x: int
    y: int
    label: int
    ink: _paint.Array

    @property
    def box(self) -> _paint.Box:
        rows, columns = self.ink.shape
        return self.x, self.y, self.x + columns, self.y + rows


def _draw(
    rng: np.random.Generator,
    split: str,
    size: tuple[int, int],
    digits_per_scene: tuple[int, int],
) -> DigitScene:
    height, width = size
    count = int(rng.integers(digits_per_scene[0], digits_per_scene[1] + 1))
    labels = [int(label) for label in rng.permutation(CLASSES)[:count]]
    placed = sorted(_laid_out(rng, split, size, labels), key=lambda digit: digit[:2])
    picture = _paint.background(rng, height, width)
    _paint.shapes(rng, picture, [digit.box for digit in placed])
    masks = np.zeros((count, height, width), dtype=bool)
    for digit, mask in zip(placed, masks, strict=True):
        x0, y0, x1, y1 = digit.box
        _paint_digit(rng, picture, digit)
        mask[y0:y1, x0:x1] = digit.ink > 0.5
    noise = rng.normal(0.0, rng.uniform(0.01, 0.03), picture.shape)
    rgb = np.clip(picture + noise, 0.0, 1.0)
    normalised = (rgb - np.array(MEAN)) / np.array(STD)
    return DigitScene(
        image=torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1), np.float32)),
        labels=tuple(digit.label for digit in placed),
        boxes=torch.tensor([_tight_box(mask) for mask in masks], dtype=torch.int64).reshape(-1, 4),
        masks=torch.from_numpy(masks),
    )


def _tight_box(mask: NDArray[np.bool_]) -> _paint.Box:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _paint_digit(rng: np.random.Generator, picture: _paint.Array, digit: _Placed) -> None:
    """Draw the digit brighter or darker than what lies behind it, with a soft opposite glow."""
    behind = float(_paint.luminance(_paint.region(picture, digit.box)).mean())
    # Behind medium brightness either tone stands out; elsewhere only one does.
    bright = behind < 0.42 or (behind < 0.56 and rng.random() < 0.5)
    tone, glow = ((0.9, 0.99), 0.1) if bright else ((0.05, 0.14), 0.9)
    chroma = (0.0, 0.25) if bright else (0.1, 0.4)
    ink = _paint.colour(rng, tone, chroma)
    _paint.paint_glow(picture, digit.ink, digit.box, glow)
    _paint.paint(_paint.region(picture, digit.box), digit.ink, ink)


def _laid_out(rng: np.random.Generator, split: str, size: tuple[int, int], labels: list[int]) -> list[_Placed]:
    """One digit of each label at random places, none within a few pixels of another."""
    bank = digit_bank(split)
    rasters = [bank[label][rng.integers(len(bank[label]))] for label in labels]
    least, greatest = digit_sides(size)
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
        for (x, y), label, raster, side in zip(spots, labels, rasters, sides, strict=True)
    ]


def _random_spots(rng: np.random.Generator, size: tuple[int, int], sides: list[int]) -> list[tuple[int, int]] | None:
    """Left upper corners (x, y) of squares apart from each other, or None if a few tries fail."""
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
    """Left upper corners (x, y) of a grid of the smallest digits, which always has room."""
    least, _ = digit_sides(size)
    rows, columns = (range(_MARGIN, length - least - _MARGIN + 1, least + _GAP) for length in size)
    return [(x, y) for y in rows for x in columns]
