"""Drawing of digit scenes: colours, backgrounds, clutter, and digits as smooth shapes.

Pictures here are NumPy arrays of shape (H, W, 3), RGB in [0, 1]; lengths are in pixels. Every
function draws its random numbers from the generator it is given and from nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Box",
    "background",
    "colour",
    "glyph",
    "luminance",
    "paint",
    "paint_glow",
    "region",
    "shapes",
]

Array = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_REFERENCE_SIDE = 128.0
# An 8 x 8 raster is upscaled to this many pixels a cell before it takes its final size.
_CELL = 4
_PADDING_CELLS = 3
# Widths in cells of the blur that rounds the raster's steps, and of the wider one of which a share
# is taken away: the coarse raster half fills the holes of 4s, 8s and 9s, and this opens them.
_ROUNDING, _SURROUND, _SURROUND_SHARE = 0.28, 1.3, 0.9
# Ink is where the result is above this: lower fills the holes, higher breaks thin strokes.
_INK_LEVEL = 0.13


def luminance(picture: Array) -> Array:
    """Perceived brightness in [0, 1]: (..., 3) to (...)."""
    brightness: Array = (picture * _LUMINANCE).sum(axis=-1)
    return brightness


def colour(rng: np.random.Generator, brightness: tuple[float, float], chroma: tuple[float, float]) -> Array:
    """A random hue of the given range of brightness and of colourfulness, as RGB of shape (3,)."""
    hue = rng.uniform(0.0, 6.0)
    pure = np.array([abs(hue - 3.0) - 1.0, 2.0 - abs(hue - 2.0), 2.0 - abs(hue - 4.0)], dtype=np.float32).clip(0.0, 1.0)
    tint = pure - luminance(pure)
    drawn = np.float32(rng.uniform(*brightness)) + np.float32(rng.uniform(*chroma)) * tint
    clipped: Array = np.clip(drawn, 0.0, 1.0)
    return clipped


def paint(picture: Array, cover: Array, paint_colour: Array) -> None:
    """Lay a colour (3,) over the picture (H, W, 3) in place, with opacity `cover` (H, W)."""
    picture += cover[..., None] * (paint_colour - picture)


def region(picture: Array, box: Box, margin: int = 0) -> Array:
    """The view of the picture (H, W, 3) within a box widened by a margin, cut at the border."""
    x0, y0, x1, y1 = box
    return picture[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]


def paint_glow(picture: Array, ink: Array, box: Box, brightness: float) -> None:
    """Lay a faint blurred copy of the ink, grey of the given brightness, under it, in place."""
    margin = 4
    x0, y0, _, _ = box
    left, top = min(margin, x0), min(margin, y0)
    around = region(picture, box, margin)
    rows, columns, _ = around.shape
    spread = np.zeros((rows, columns), dtype=np.float32)
    spread[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    blurred = torch.from_numpy(spread)[None, None]
    for _ in range(2):
        blurred = F.avg_pool2d(blurred, 5, stride=1, padding=2)
    cover: Array = (0.6 * blurred[0, 0]).numpy()
    paint(around, cover, np.full(3, brightness, np.float32))


def background(rng: np.random.Generator, height: int, width: int) -> Array:
    """A colourful picture (H, W, 3) of medium brightness: a gradient, soft blobs, long strokes."""
    picture = _gradient(rng, height, width)
    picture += _blobs(rng, height, width, cells=3, strength=0.1)
    picture += _blobs(rng, height, width, cells=7, strength=0.07)
    np.clip(picture, 0.12, 0.85, out=picture)
    for _ in range(int(rng.integers(1, 3))):
        _paint_stripes(rng, picture)
    for _ in range(int(rng.integers(3, 7))):
        _paint_stroke(rng, picture)
    return picture


def shapes(rng: np.random.Generator, picture: Array, keep_clear: Sequence[Box]) -> None:
    """Paint filled shapes that are no digits on the picture (H, W, 3), in place.

    Strongly coloured ones stay off the boxes in `keep_clear`, so that they hide no digit; pale
    ones may lie anywhere.
    """
    height, width, _ = picture.shape
    unit = _unit(height, width)
    share = height * width / (unit * _REFERENCE_SIDE) ** 2
    for _ in range(max(2, round(rng.uniform(3.0, 6.0) * share))):
        _paint_shape(rng, picture, rng.uniform(8.0, 22.0) * unit, (0.3, 0.65), 0.55)
    for _ in range(max(2, round(rng.uniform(4.0, 9.0) * share))):
        radius = rng.uniform(3.5, 9.0) * unit
        centre = _free_spot(rng, height, width, radius, keep_clear)
        if centre is not None:
            tone = (0.8, 0.95) if rng.random() < 0.5 else (0.04, 0.18)
            _paint_shape(rng, picture, radius, tone, 0.9, centre)


def glyph(rng: np.random.Generator, digit: NDArray[np.uint8], side: int) -> Array:
    """An 8 x 8 digit (values 0 to 16) as a smooth shape, its longer side about `side` pixels.

    The digit is slightly turned, slanted and stretched at random. Returns the opacity of its ink,
    of shape (H, W) and in [0, 1], cropped to the ink.
    """
    field = _upscaled(rng, digit)
    rows, columns = np.nonzero(field.numpy() > _INK_LEVEL)
    cropped = field[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = side / max(cropped.shape)
    shape = [max(2, round(length * scale)) for length in cropped.shape]
    resized = F.interpolate(cropped[None, None], size=shape, mode="bilinear", align_corners=False, antialias=True)[0, 0]
    # About a pixel of soft edge whatever the size, as the field rises by about 1 in one cell; a
    # little more in large digits keeps the shading of their strokes.
    softness = max(0.45 / (_CELL * scale), 0.07)
    ink = ((resized - _INK_LEVEL) / (2.0 * softness) + 0.5).clamp(0.0, 1.0)
    return ink.numpy()


def _upscaled(rng: np.random.Generator, digit: NDArray[np.uint8]) -> torch.Tensor:
    """The digit under a small random affine map, strokes sharpened, on a finer grid."""
    raster = torch.from_numpy(digit.astype(np.float32) / 16.0)
    padded = F.pad(raster, [_PADDING_CELLS] * 4)[None, None]
    angle = math.radians(rng.uniform(-10.0, 10.0))
    slant, stretch = rng.uniform(-0.12, 0.12), rng.uniform(0.88, 1.15)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[stretch, slant], [0.0, 1.0]])
    theta = torch.zeros(1, 2, 3)
    theta[0, :, :2] = torch.from_numpy(matrix)
    side = padded.shape[-1] * _CELL
    grid = F.affine_grid(theta, [1, 1, side, side], align_corners=False)
    smooth = F.grid_sample(padded, grid, mode="bicubic", align_corners=False)
    sharp = _blurred(smooth, _ROUNDING) - _SURROUND_SHARE * _blurred(smooth, _SURROUND)
    return sharp[0, 0]


def _blurred(field: torch.Tensor, cells: float) -> torch.Tensor:
    """The field (1, 1, H, W) under a Gaussian blur, its width given in raster cells."""
    reach = math.ceil(3.0 * cells * _CELL)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / (cells * _CELL)) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    across = F.conv2d(field, kernel[..., None], padding=(reach, 0))
    return F.conv2d(across, kernel[:, :, None], padding=(0, reach))


def _unit(height: int, width: int) -> float:
    """The size of clutter relative to that in a picture of 128 pixels, about as digits' sizes."""
    return min(max(min(height, width) / _REFERENCE_SIDE, 0.75), 1.35)


def _pixel_grid(height: int, width: int) -> tuple[Array, Array]:
    """The x (1, W) and y (H, 1) of pixel centres, in pixels."""
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    return x, y


def _turned(height: int, width: int, centre: tuple[float, float], angle: float) -> tuple[Array, Array]:
    """Coordinates (H, W) along and across a direction, from a centre (x, y), in pixels."""
    x, y = _pixel_grid(height, width)
    x, y = x - np.float32(centre[0]), y - np.float32(centre[1])
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine


def _anywhere(rng: np.random.Generator, height: int, width: int) -> tuple[float, float]:
    return rng.uniform(0.0, width), rng.uniform(0.0, height)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Array:
    along, _ = _turned(height, width, (width / 2, height / 2), rng.uniform(0.0, 2.0 * math.pi))
    share = (0.5 + along / np.float32(math.hypot(height, width)))[..., None]
    first = colour(rng, (0.3, 0.68), (0.15, 0.45))
    second = colour(rng, (0.3, 0.68), (0.15, 0.45))
    mixed: Array = first + share * (second - first)
    return mixed


def _blobs(rng: np.random.Generator, height: int, width: int, *, cells: int, strength: float) -> Array:
    """Smooth colour noise (H, W, 3) around 0, about `cells` blobs to the shorter side."""
    rows, columns = (max(2, round(cells * n / min(height, width))) for n in (height, width))
    coarse = rng.normal(0.0, strength, (1, 3, rows + 1, columns + 1)).astype(np.float32)
    fine = F.interpolate(torch.from_numpy(coarse), size=(height, width), mode="bicubic", align_corners=False)
    blobs: Array = fine[0].permute(1, 2, 0).numpy()
    return blobs


def _paint_stroke(rng: np.random.Generator, picture: Array) -> None:
    """A wavy line from edge to edge: a short straight one might pass for a 1."""
    height, width, _ = picture.shape
    unit = _unit(height, width)
    centre = _anywhere(rng, height, width)
    along, across = _turned(height, width, centre, rng.uniform(0.0, math.pi))
    wave = 2.0 * math.pi / (rng.uniform(50.0, 160.0) * unit)
    swing = rng.uniform(0.0, 9.0) * unit
    phase = along * np.float32(wave) + np.float32(rng.uniform(0.0, 2.0 * math.pi))
    slope = np.float32(swing * wave) * np.cos(phase)
    distance = np.abs(across - np.float32(swing) * np.sin(phase)) / np.sqrt(1.0 + slope**2)
    half_width = np.float32(rng.uniform(0.5, 1.6))
    cover = np.clip(half_width - distance + 0.5, 0.0, 1.0) * np.float32(rng.uniform(0.4, 0.8))
    paint(picture, cover, colour(rng, (0.2, 0.8), (0.2, 0.7)))


def _paint_stripes(rng: np.random.Generator, picture: Array) -> None:
    """A round patch of faint parallel stripes with a soft border."""
    height, width, _ = picture.shape
    unit = _unit(height, width)
    centre = _anywhere(rng, height, width)
    along, across = _turned(height, width, centre, rng.uniform(0.0, math.pi))
    radius = np.float32(rng.uniform(18.0, 40.0) * unit)
    inside = np.clip((radius - np.hypot(along, across)) / (0.3 * radius), 0.0, 1.0)
    stripes = 0.5 + 0.5 * np.sin(along * np.float32(2.0 * math.pi / rng.uniform(5.0, 11.0)))
    cover = (inside * stripes * np.float32(rng.uniform(0.15, 0.4))).astype(np.float32)
    paint(picture, cover, colour(rng, (0.25, 0.75), (0.2, 0.6)))


def _paint_shape(
    rng: np.random.Generator,
    picture: Array,
    radius: float,
    tone: tuple[float, float],
    opacity: float,
    centre: tuple[float, float] | None = None,
) -> None:
    """A filled disc, half disc, polygon, star or cross of about the given radius."""
    height, width, _ = picture.shape
    x, y = _anywhere(rng, height, width) if centre is None else centre
    # No shape reaches beyond twice its radius, and the rest of the picture need not be worked on.
    reach = math.ceil(2.0 * radius) + 1
    left, top = max(0, math.floor(x) - reach), max(0, math.floor(y) - reach)
    part = picture[top : math.floor(y) + reach, left : math.floor(x) + reach]
    rows, columns, _ = part.shape
    along, across = _turned(rows, columns, (x - left, y - top), rng.uniform(0.0, 2.0 * math.pi))
    distance = _shape_distance(rng, along, across, radius)
    cover = (np.clip(0.5 - distance, 0.0, 1.0) * np.float32(opacity)).astype(np.float32)
    paint(part, cover, colour(rng, tone, (0.3, 0.8)))


def _shape_distance(rng: np.random.Generator, along: Array, across: Array, radius: float) -> Array:
    """Roughly the signed distance (H, W) to a random shape's outline, negative inside."""
    kind = rng.integers(0, 6)
    distance: Array
    if kind <= 1:
        distance = np.hypot(along, across) - np.float32(radius)
        return distance if kind == 0 else np.asarray(np.maximum(distance, across))
    if kind == 2:
        first = _polygon_distance(along, across, 3, 0.55 * radius)
        distance = np.minimum(first, _polygon_distance(-along, -across, 3, 0.55 * radius))
        return distance
    if kind == 3:
        arm, end = np.float32(0.35 * radius), np.float32(radius)
        first = np.maximum(np.abs(along) - end, np.abs(across) - arm)
        distance = np.minimum(first, np.maximum(np.abs(across) - end, np.abs(along) - arm))
        return distance
    # Little stretch: a long thin bar might pass for a 1.
    stretched = along * np.float32(rng.uniform(0.7, 1.0))
    return _polygon_distance(stretched, across, int(rng.integers(3, 6)), 0.75 * radius)


def _polygon_distance(along: Array, across: Array, sides: int, inner_radius: float) -> Array:
    angles = 2.0 * math.pi * np.arange(sides) / sides
    edges = [along * np.float32(math.cos(angle)) + across * np.float32(math.sin(angle)) for angle in angles]
    farthest: Array = np.maximum.reduce(edges) - np.float32(inner_radius)
    return farthest


def _free_spot(
    rng: np.random.Generator, height: int, width: int, radius: float, keep_clear: Sequence[Box]
) -> tuple[float, float] | None:
    """A centre (x, y) whose disc stays off every box, or None where a few tries find none."""
    reach = 1.2 * radius + 2.0
    for _ in range(12):
        x, y = _anywhere(rng, height, width)
        if all(x < x0 - reach or x > x1 + reach or y < y0 - reach or y > y1 + reach for x0, y0, x1, y1 in keep_clear):
            return x, y
    return None
