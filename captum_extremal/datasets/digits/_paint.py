"""Drawing of digit scenes: colours, backgrounds, clutter, and digits as smooth shapes.

Pictures are NumPy arrays (H, W, 3), RGB in [0, 1]; lengths are in pixels. All random numbers come from the generator
that a function is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = ["Array", "Box", "background", "clutter", "digit", "glyph"]

Array = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""
_Range = tuple[float, float]

_REFERENCE_SIDE = 128.0
# An 8 x 8 raster is upscaled to this many pixels per cell before it takes its final size.
_CELL = 4
_PADDING_CELLS = 3
# Widths, in cells, of the blur that rounds the raster's steps, and of the wider one of which a share is subtracted: the
# coarse raster half fills the holes of 4s, 8s and 9s, and the subtraction opens them.
_ROUNDING, _SURROUND, _SURROUND_SHARE = 0.28, 1.3, 0.9
# Ink is where the result is above this level: a lower one fills the holes, a higher one breaks thin strokes.
_INK_LEVEL = 0.13


def background(rng: np.random.Generator, height: int, width: int) -> Array:
    """A colourful picture of medium brightness: a gradient, soft blobs, stripes and long strokes."""
    picture = _gradient(rng, height, width)
    picture += _blobs(rng, height, width, cells=3, strength=0.1)
    picture += _blobs(rng, height, width, cells=7, strength=0.07)
    np.clip(picture, 0.12, 0.85, out=picture)
    for _ in range(int(rng.integers(1, 3))):
        _paint_stripes(rng, picture)
    for _ in range(int(rng.integers(3, 7))):
        _paint_stroke(rng, picture)
    return picture


def clutter(rng: np.random.Generator, picture: Array, keep_clear: Sequence[Box]) -> None:
    """Paint filled shapes on the picture, in place. Only pale ones may lie on the boxes in `keep_clear`."""
    height, width, _ = picture.shape
    unit = _unit(height, width)
    share = height * width / (unit * _REFERENCE_SIDE) ** 2
    for _ in range(max(2, round(rng.uniform(3.0, 6.0) * share))):
        radius = rng.uniform(8.0, 22.0) * unit
        _paint_shape(rng, picture, radius, (0.3, 0.65), 0.55, _anywhere(rng, height, width))
    for _ in range(max(2, round(rng.uniform(4.0, 9.0) * share))):
        radius = rng.uniform(3.5, 9.0) * unit
        centre = _free_spot(rng, height, width, radius, keep_clear)
        if centre is not None:
            tone = (0.8, 0.95) if rng.random() < 0.5 else (0.04, 0.18)
            _paint_shape(rng, picture, radius, tone, 0.9, centre)


def digit(rng: np.random.Generator, picture: Array, ink: Array, box: Box) -> None:
    """Paint a digit's ink (opacity) in its box, in place, brighter or darker than the picture there."""
    behind = float(_luminance(_region(picture, box)).mean())
    # On medium brightness both tones stand out, elsewhere only one does.
    bright = behind < 0.42 or (behind < 0.56 and rng.random() < 0.5)
    tone, chroma, glow = ((0.9, 0.99), (0.0, 0.25), 0.1) if bright else ((0.05, 0.14), (0.1, 0.4), 0.9)
    colour = _colour(rng, tone, chroma)
    _paint_glow(picture, ink, box, glow)
    _paint(_region(picture, box), ink, colour)


def glyph(rng: np.random.Generator, raster: NDArray[np.uint8], side: int) -> Array:
    """The ink of an 8 x 8 raster (values 0 to 16) as a smooth shape, slightly rotated, slanted and stretched at random.

    Returns:
        Opacity in [0, 1], cropped to the ink; its longer side has `side` pixels.
    """
    field = _upscaled(rng, raster)
    rows, columns = np.nonzero(field.numpy() > _INK_LEVEL)
    cropped = field[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = side / max(cropped.shape)
    shape = [max(2, round(length * scale)) for length in cropped.shape]
    resized = F.interpolate(cropped[None, None], size=shape, mode="bilinear", align_corners=False, antialias=True)[0, 0]
    # The soft edge is about a pixel wide at any size, since the field rises by about 1 in one cell. In large digits it
    # is a little wider, which keeps the shading of their strokes.
    softness = max(0.45 / (_CELL * scale), 0.07)
    ink = ((resized - _INK_LEVEL) / (2.0 * softness) + 0.5).clamp(0.0, 1.0)
    return ink.numpy()


def _upscaled(rng: np.random.Generator, raster: NDArray[np.uint8]) -> torch.Tensor:
    """The raster under a small random affine map, strokes sharpened, on a finer grid."""
    padded = F.pad(torch.from_numpy(raster.astype(np.float32) / 16.0), [_PADDING_CELLS] * 4)[None, None]
    angle = math.radians(rng.uniform(-10.0, 10.0))
    slant, stretch = rng.uniform(-0.12, 0.12), rng.uniform(0.88, 1.15)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    theta = torch.zeros(1, 2, 3)
    theta[0, :, :2] = torch.from_numpy(rotation @ np.array([[stretch, slant], [0.0, 1.0]]))
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


def _luminance(picture: Array) -> Array:
    """Perceived brightness in [0, 1]: (..., 3) to (...)."""
    return np.asarray((picture * np.array([0.299, 0.587, 0.114], np.float32)).sum(axis=-1))


def _colour(rng: np.random.Generator, brightness: _Range, chroma: _Range) -> Array:
    """A random hue with brightness and colourfulness in the given ranges, as RGB (3,)."""
    hue = rng.uniform(0.0, 6.0)
    pure = np.array([abs(hue - 3.0) - 1.0, 2.0 - abs(hue - 2.0), 2.0 - abs(hue - 4.0)], np.float32).clip(0.0, 1.0)
    tint = pure - _luminance(pure)
    drawn = np.float32(rng.uniform(*brightness)) + np.float32(rng.uniform(*chroma)) * tint
    return np.asarray(np.clip(drawn, 0.0, 1.0))


def _paint(picture: Array, cover: Array, colour: Array) -> None:
    """Lay a colour (3,) over the picture in place, with opacity `cover` (H, W)."""
    picture += cover[..., None] * (colour - picture)


def _region(picture: Array, box: Box, margin: int = 0) -> Array:
    """The view of the picture within a box widened by a margin, cut at the border."""
    x0, y0, x1, y1 = box
    return picture[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]


def _paint_glow(picture: Array, ink: Array, box: Box, brightness: float) -> None:
    """Lay a faint blurred copy of the ink, grey of the given brightness, under it, in place."""
    margin = 4
    around = _region(picture, box, margin)
    spread = np.zeros(around.shape[:2], dtype=np.float32)
    left, top = min(margin, box[0]), min(margin, box[1])
    spread[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    blurred = torch.from_numpy(spread)[None, None]
    for _ in range(2):
        blurred = F.avg_pool2d(blurred, 5, stride=1, padding=2)
    _paint(around, (0.6 * blurred[0, 0]).numpy(), np.full(3, brightness, np.float32))


def _unit(height: int, width: int) -> float:
    """The size of clutter relative to that in a picture of 128 pixels; it grows about as digits do."""
    return min(max(min(height, width) / _REFERENCE_SIDE, 0.75), 1.35)


def _rotated(height: int, width: int, centre: tuple[float, float], angle: float) -> tuple[Array, Array]:
    """Coordinates (H, W) of pixel centres along and across a direction, from a centre (x, y)."""
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5) - np.float32(centre[0])
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5) - np.float32(centre[1])
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine


def _anywhere(rng: np.random.Generator, height: int, width: int) -> tuple[float, float]:
    return rng.uniform(0.0, width), rng.uniform(0.0, height)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Array:
    along, _ = _rotated(height, width, (width / 2, height / 2), rng.uniform(0.0, 2.0 * math.pi))
    share = (0.5 + along / np.float32(math.hypot(height, width)))[..., None]
    first, second = (_colour(rng, (0.3, 0.68), (0.15, 0.45)) for _ in range(2))
    return np.asarray(first + share * (second - first))


def _blobs(rng: np.random.Generator, height: int, width: int, *, cells: int, strength: float) -> Array:
    """Smooth colour noise (H, W, 3) around 0, about `cells` blobs along the shorter side."""
    rows, columns = (max(2, round(cells * n / min(height, width))) for n in (height, width))
    noise = rng.normal(0.0, strength, (1, 3, rows + 1, columns + 1)).astype(np.float32)
    smooth = F.interpolate(torch.from_numpy(noise), size=(height, width), mode="bicubic", align_corners=False)
    return np.asarray(smooth[0].permute(1, 2, 0).numpy())


def _paint_stroke(rng: np.random.Generator, picture: Array) -> None:
    """A wavy line from edge to edge: a short straight one might look like a 1."""
    height, width, _ = picture.shape
    unit = _unit(height, width)
    along, across = _rotated(height, width, _anywhere(rng, height, width), rng.uniform(0.0, math.pi))
    wave = 2.0 * math.pi / (rng.uniform(50.0, 160.0) * unit)
    swing = rng.uniform(0.0, 9.0) * unit
    phase = along * np.float32(wave) + np.float32(rng.uniform(0.0, 2.0 * math.pi))
    slope = np.float32(swing * wave) * np.cos(phase)
    distance = np.abs(across - np.float32(swing) * np.sin(phase)) / np.sqrt(1.0 + slope**2)
    half_width = np.float32(rng.uniform(0.5, 1.6))
    cover = np.clip(half_width - distance + 0.5, 0.0, 1.0) * np.float32(rng.uniform(0.4, 0.8))
    _paint(picture, cover, _colour(rng, (0.2, 0.8), (0.2, 0.7)))


def _paint_stripes(rng: np.random.Generator, picture: Array) -> None:
    """A round patch of faint parallel stripes with a soft border."""
    height, width, _ = picture.shape
    along, across = _rotated(height, width, _anywhere(rng, height, width), rng.uniform(0.0, math.pi))
    radius = np.float32(rng.uniform(18.0, 40.0) * _unit(height, width))
    inside = np.clip((radius - np.hypot(along, across)) / (0.3 * radius), 0.0, 1.0)
    stripes = 0.5 + 0.5 * np.sin(along * np.float32(2.0 * math.pi / rng.uniform(5.0, 11.0)))
    cover = (inside * stripes * np.float32(rng.uniform(0.15, 0.4))).astype(np.float32)
    _paint(picture, cover, _colour(rng, (0.25, 0.75), (0.2, 0.6)))


def _paint_shape(
    rng: np.random.Generator, picture: Array, radius: float, tone: _Range, opacity: float, centre: tuple[float, float]
) -> None:
    """A filled disc, half disc, polygon, star or cross of about the given radius around a centre (x, y)."""
    x, y = centre
    # No shape reaches beyond twice its radius; the rest of the picture is left out.
    reach = math.ceil(2.0 * radius) + 1
    left, top = max(0, math.floor(x) - reach), max(0, math.floor(y) - reach)
    part = picture[top : math.floor(y) + reach, left : math.floor(x) + reach]
    rows, columns, _ = part.shape
    along, across = _rotated(rows, columns, (x - left, y - top), rng.uniform(0.0, 2.0 * math.pi))
    distance = _shape_distance(rng, along, across, radius)
    cover = (np.clip(0.5 - distance, 0.0, 1.0) * np.float32(opacity)).astype(np.float32)
    _paint(part, cover, _colour(rng, tone, (0.3, 0.8)))


def _shape_distance(rng: np.random.Generator, along: Array, across: Array, radius: float) -> Array:
    """Roughly the signed distance (H, W) to a random shape's outline, negative inside."""
    kind = rng.integers(0, 6)
    if kind <= 1:  # disc, half disc
        disc = np.hypot(along, across) - np.float32(radius)
        return np.asarray(disc if kind == 0 else np.maximum(disc, across))
    if kind == 2:  # star
        triangles = (_polygon_distance(sign * along, sign * across, 3, 0.55 * radius) for sign in (1, -1))
        return np.asarray(np.minimum(*triangles))
    if kind == 3:  # cross
        arm, end = np.float32(0.35 * radius), np.float32(radius)
        bars = (np.maximum(np.abs(u) - end, np.abs(v) - arm) for u, v in ((along, across), (across, along)))
        return np.asarray(np.minimum(*bars))
    # A polygon, stretched only a little: a long thin bar might look like a 1.
    stretched = along * np.float32(rng.uniform(0.7, 1.0))
    return _polygon_distance(stretched, across, int(rng.integers(3, 6)), 0.75 * radius)


def _polygon_distance(along: Array, across: Array, sides: int, inner_radius: float) -> Array:
    angles = 2.0 * math.pi * np.arange(sides) / sides
    edges = [along * np.float32(math.cos(angle)) + across * np.float32(math.sin(angle)) for angle in angles]
    return np.asarray(np.maximum.reduce(edges) - np.float32(inner_radius))


def _free_spot(
    rng: np.random.Generator, height: int, width: int, radius: float, keep_clear: Sequence[Box]
) -> tuple[float, float] | None:
    """A centre (x, y) whose disc overlaps no box, or None where a few tries find none."""
    reach = 1.2 * radius + 2.0
    for _ in range(12):
        x, y = _anywhere(rng, height, width)
        if all(x < x0 - reach or x > x1 + reach or y < y0 - reach or y > y1 + reach for x0, y0, x1, y1 in keep_clear):
            return x, y
    return None
