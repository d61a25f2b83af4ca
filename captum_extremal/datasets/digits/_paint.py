"""Drawing of digit scenes: colours, backgrounds, clutter, and digits as smooth shapes.

Pictures are arrays (H, W, 3), RGB in [0, 1]; lengths are in pixels. All random numbers come from `rng`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Array = NDArray[np.float32]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, the last two exclusive
_Pair = tuple[float, float]

_REFERENCE_SIDE = 128.0
_CELL, _PADDING_CELLS = 4, 3  # an 8 x 8 raster is upscaled to this many pixels per cell before it takes its final size
# Widths, in cells, of the blur that rounds the raster's steps, and of the wider one of which a share is subtracted: the
# coarse raster half fills the holes of 4s, 8s and 9s, and the subtraction opens them.
_ROUNDING, _SURROUND, _SURROUND_SHARE = 0.28, 1.3, 0.9
# Ink is where the result is above this level: a lower one fills the holes, a higher one breaks thin strokes.
_INK_LEVEL = 0.13


def background(rng: np.random.Generator, height: int, width: int) -> Array:
    """A colourful picture of medium brightness: a gradient, soft blobs, stripes and long strokes."""
    picture = np.zeros((height, width, 3), np.float32)
    along, _ = _axes(picture, (width / 2, height / 2), rng.uniform(0.0, 2.0 * math.pi))
    first, second = (_colour(rng, (0.3, 0.68), (0.15, 0.45)) for _ in range(2))
    picture += first + (0.5 + along / math.hypot(height, width))[..., None] * (second - first)
    for cells, strength in ((3, 0.1), (7, 0.07)):  # blobs along the shorter side
        rows, columns = (max(2, round(cells * side / min(height, width))) for side in (height, width))
        noise = torch.from_numpy(rng.normal(0.0, strength, (1, 3, rows + 1, columns + 1)).astype(np.float32))
        smooth = F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)
        picture += smooth[0].permute(1, 2, 0).numpy()
    np.clip(picture, 0.12, 0.85, out=picture)
    for _ in range(int(rng.integers(1, 3))):
        _paint_stripes(rng, picture)
    for _ in range(int(rng.integers(3, 7))):
        _paint_stroke(rng, picture)
    return picture


def clutter(rng: np.random.Generator, picture: Array, keep_clear: Sequence[Box]) -> None:
    """Paint filled shapes on the picture, in place. Only pale ones may lie on the boxes in `keep_clear`."""
    unit = _unit(picture)
    share = picture[..., 0].size / (unit * _REFERENCE_SIDE) ** 2
    for _ in range(max(2, round(rng.uniform(3.0, 6.0) * share))):
        _paint_shape(rng, picture, rng.uniform(8.0, 22.0) * unit, (0.3, 0.65), 0.55, *_anywhere(rng, picture))
    for _ in range(max(2, round(rng.uniform(4.0, 9.0) * share))):
        radius = rng.uniform(3.5, 9.0) * unit
        reach = 1.2 * radius + 2.0
        for x, y in (_anywhere(rng, picture) for _ in range(12)):
            near = (x0 - reach <= x <= x1 + reach and y0 - reach <= y <= y1 + reach for x0, y0, x1, y1 in keep_clear)
            if not any(near):
                tone = (0.8, 0.95) if rng.random() < 0.5 else (0.04, 0.18)
                _paint_shape(rng, picture, radius, tone, 0.9, x, y)
                break


def digit(rng: np.random.Generator, picture: Array, ink: Array, box: Box) -> None:
    """Paint a digit's ink (opacity) in its box, in place, brighter or darker than the picture there."""
    x0, y0, x1, y1 = box
    behind = float(_luminance(picture[y0:y1, x0:x1]).mean())
    # On medium brightness both tones stand out, elsewhere only one does.
    bright = behind < 0.42 or (behind < 0.56 and rng.random() < 0.5)
    tone, chroma, glow = ((0.9, 0.99), (0.0, 0.25), 0.1) if bright else ((0.05, 0.14), (0.1, 0.4), 0.9)
    # A faint blurred copy of the ink in grey goes under it.
    around = np.s_[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4]
    spread = np.zeros(picture.shape[:2], np.float32)
    spread[y0:y1, x0:x1] = ink
    blurred = torch.from_numpy(spread[around])[None, None]
    for _ in range(2):
        blurred = F.avg_pool2d(blurred, 5, stride=1, padding=2)
    _paint(picture[around], (0.6 * blurred[0, 0]).numpy(), np.full(3, glow, np.float32))
    _paint(picture[y0:y1, x0:x1], ink, _colour(rng, tone, chroma))


def glyph(rng: np.random.Generator, raster: NDArray[np.uint8], side: int) -> Array:
    """The ink of an 8 x 8 raster (values 0 to 16), smooth, slightly rotated, slanted and stretched at random.

    It is opacity in [0, 1], cropped so that the longer side has `side` pixels.
    """
    padded = F.pad(torch.from_numpy(raster.astype(np.float32) / 16.0), [_PADDING_CELLS] * 4)[None, None]
    angle = math.radians(rng.uniform(-10.0, 10.0))
    slant, stretch = rng.uniform(-0.12, 0.12), rng.uniform(0.88, 1.15)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    theta = F.pad(torch.from_numpy(rotation @ np.array([[stretch, slant], [0.0, 1.0]])).float(), (0, 1))[None]
    grid = F.affine_grid(theta, [1, 1, *[padded.shape[-1] * _CELL] * 2], align_corners=False)
    smooth = F.grid_sample(padded, grid, mode="bicubic", align_corners=False)
    field = (_blurred(smooth, _ROUNDING) - _SURROUND_SHARE * _blurred(smooth, _SURROUND))[0, 0]

    rows, columns = np.nonzero(field.numpy() > _INK_LEVEL)
    cropped = field[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = side / max(cropped.shape)
    shape = [max(2, round(length * scale)) for length in cropped.shape]
    resized = F.interpolate(cropped[None, None], size=shape, mode="bilinear", align_corners=False, antialias=True)[0, 0]
    # The soft edge is about a pixel wide at any size, since the field rises by about 1 in one cell. In large digits it
    # is a little wider, which keeps the shading of their strokes.
    softness = max(0.45 / (_CELL * scale), 0.07)
    return ((resized - _INK_LEVEL) / (2.0 * softness) + 0.5).clamp(0.0, 1.0).numpy()


def _blurred(field: torch.Tensor, cells: float) -> torch.Tensor:
    """The field (1, 1, H, W) under a Gaussian blur, its width given in raster cells."""
    reach = math.ceil(3.0 * cells * _CELL)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device="cpu")
    weights = torch.exp(-0.5 * (offsets / (cells * _CELL)) ** 2)
    kernel = (weights / weights.sum())[None, None]
    across = F.conv2d(field, kernel[..., None], padding=(reach, 0))
    return F.conv2d(across, kernel[:, :, None], padding=(0, reach))


def _luminance(picture: Array) -> Array:
    """Perceived brightness in [0, 1]: (..., 3) to (...)."""
    return np.asarray((picture * np.array([0.299, 0.587, 0.114], np.float32)).sum(axis=-1))


def _colour(rng: np.random.Generator, brightness: _Pair, chroma: _Pair) -> Array:
    """A random hue with brightness and colourfulness in the given ranges, as RGB (3,)."""
    hue = rng.uniform(0.0, 6.0)
    pure = np.array([abs(hue - 3.0) - 1.0, 2.0 - abs(hue - 2.0), 2.0 - abs(hue - 4.0)], np.float32).clip(0.0, 1.0)
    drawn = np.float32(rng.uniform(*brightness)) + np.float32(rng.uniform(*chroma)) * (pure - _luminance(pure))
    return np.asarray(np.clip(drawn, 0.0, 1.0))


def _paint(picture: Array, cover: Array, colour: Array) -> None:
    """Lay a colour (3,) over the picture in place, with opacity `cover` (H, W)."""
    picture += cover[..., None] * (colour - picture)


def _unit(picture: Array) -> float:
    """The size of clutter relative to that in a picture of 128 pixels; it grows about as digits do."""
    return float(np.clip(min(picture.shape[:2]) / _REFERENCE_SIDE, 0.75, 1.35))


def _anywhere(rng: np.random.Generator, picture: Array) -> _Pair:
    return rng.uniform(0.0, picture.shape[1]), rng.uniform(0.0, picture.shape[0])


def _axes(picture: Array, centre: _Pair, angle: float) -> tuple[Array, Array]:
    """Coordinates (H, W) of pixel centres along and across a direction, from a centre (x, y)."""
    x = np.arange(picture.shape[1], dtype=np.float32) + 0.5 - centre[0]
    y = np.arange(picture.shape[0], dtype=np.float32)[:, None] + 0.5 - centre[1]
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _paint_stroke(rng: np.random.Generator, picture: Array) -> None:
    """A wavy line from edge to edge: a short straight one might look like a 1."""
    along, across = _axes(picture, _anywhere(rng, picture), rng.uniform(0.0, math.pi))
    wave = 2.0 * math.pi / (rng.uniform(50.0, 160.0) * _unit(picture))
    swing = rng.uniform(0.0, 9.0) * _unit(picture)
    phase = along * wave + rng.uniform(0.0, 2.0 * math.pi)
    distance = np.abs(across - swing * np.sin(phase)) / np.sqrt(1.0 + (swing * wave * np.cos(phase)) ** 2)
    cover = np.clip(rng.uniform(0.5, 1.6) - distance + 0.5, 0.0, 1.0) * rng.uniform(0.4, 0.8)
    _paint(picture, cover, _colour(rng, (0.2, 0.8), (0.2, 0.7)))


def _paint_stripes(rng: np.random.Generator, picture: Array) -> None:
    """A round patch of faint parallel stripes with a soft border."""
    along, across = _axes(picture, _anywhere(rng, picture), rng.uniform(0.0, math.pi))
    radius = np.float32(rng.uniform(18.0, 40.0) * _unit(picture))
    inside = np.clip((radius - np.hypot(along, across)) / (0.3 * radius), 0.0, 1.0)
    stripes = 0.5 + 0.5 * np.sin(along * (2.0 * math.pi / rng.uniform(5.0, 11.0)))
    _paint(picture, inside * stripes * rng.uniform(0.15, 0.4), _colour(rng, (0.25, 0.75), (0.2, 0.6)))


def _paint_shape(
    rng: np.random.Generator, picture: Array, radius: float, tone: _Pair, opacity: float, x: float, y: float
) -> None:
    """A filled disc, half disc, polygon, star or cross of about the given radius around (x, y)."""
    # No shape reaches beyond twice its radius; the rest of the picture is left out.
    reach = math.ceil(2.0 * radius) + 1
    left, top = max(0, math.floor(x) - reach), max(0, math.floor(y) - reach)
    part = picture[top : math.floor(y) + reach, left : math.floor(x) + reach]
    along, across = _axes(part, (x - left, y - top), rng.uniform(0.0, 2.0 * math.pi))
    kind = rng.integers(0, 6)
    if kind <= 1:  # disc, half disc
        disc = np.hypot(along, across) - radius
        distance: Any = disc if kind == 0 else np.maximum(disc, across)
    elif kind == 2:  # star
        distance = np.minimum(*(_polygon(sign * along, sign * across, 3, 0.55 * radius) for sign in (1, -1)))
    elif kind == 3:  # cross
        u, v = np.abs(along), np.abs(across)
        distance = np.minimum(*(np.maximum(long - radius, wide - 0.35 * radius) for long, wide in ((u, v), (v, u))))
    else:  # a polygon, stretched only a little: a long thin bar might look like a 1
        distance = _polygon(along * rng.uniform(0.7, 1.0), across, int(rng.integers(3, 6)), 0.75 * radius)
    _paint(part, np.clip(0.5 - distance, 0.0, 1.0) * opacity, _colour(rng, tone, (0.3, 0.8)))


def _polygon(along: Array, across: Array, sides: int, inner_radius: float) -> Array:
    """The signed distance (H, W) to the lines of a regular polygon's sides, negative inside."""
    angles = (2.0 * math.pi * side / sides for side in range(sides))
    edges = [along * math.cos(angle) + across * math.sin(angle) for angle in angles]
    return np.asarray(np.maximum.reduce(edges) - inner_radius)
