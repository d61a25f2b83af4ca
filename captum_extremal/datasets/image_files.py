"""The one reader of image files: RGB, at the orientation in which they are displayed."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps

from captum_extremal.datasets.annotated import UnreadableError, in_one_line

__all__ = ["read_image"]

_RUN_PROGRAMS = {"EPS", "WMF"}  # Pillow hands files of these formats to other programs
# What may be white in grey images of 32-bit integers and of floats. The smallest that no value exceeds is taken.
_WHITES = {"I": (255, 65535), "F": (1, 255, 65535)}


def read_image(
    path: str | os.PathLike[str], *, upright: bool = True, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Read an image file as RGB.

    Of an animation the first frame is read. Transparent pixels are laid on white. Grey images of more than 8 bits are
    scaled: with 16 bits, 65535 is white; with 32-bit integers, 255 is white if no value exceeds it and 65535 otherwise;
    with floats, 1, 255 or 65535 is white, the smallest that no value exceeds.

    Args:
        path: of the file.
        upright: whether to turn the image as its EXIF orientation says; otherwise the pixels are as stored.
        formats: the names of the formats allowed, such as ("JPEG", "PNG"); None for all of Pillow's that are read
            without running another program.

    Raises:
        UnreadableError: there is no such file, it is no image of these formats, it is truncated or broken, it has more
            than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, or its values are outside of the ranges above.
    """
    Image.init()  # registers all of Pillow's formats
    try:
        with Image.open(path, formats=formats or [name for name in Image.ID if name not in _RUN_PROGRAMS]) as file:
            limit = Image.MAX_IMAGE_PIXELS  # above it Pillow only warns, up to twice as many pixels
            if limit is not None and file.width * file.height > limit:
                raise ValueError(f"{file.width} x {file.height} pixels, more than Pillow's limit of {limit}")
            return _as_rgb(ImageOps.exif_transpose(file) if upright else file, file.format)
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: there is no such file") from error
    except Exception as error:  # Pillow's readers raise nearly any kind for a broken file
        kind = " or ".join(formats) if formats else "an image"
        raise UnreadableError(f"{path}: cannot be read as {kind}: {in_one_line(error)}") from error


def _as_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    """An image of any of Pillow's modes as RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        image = _as_8_bits(image, (65535,))  # Pillow may give 16 bits as mode I, and its convert would clip them
    elif image.mode in _WHITES:
        image = _as_8_bits(image, _WHITES[image.mode])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _as_8_bits(image: Image.Image, whites: tuple[int, ...]) -> Image.Image:
    values = np.asarray(image, np.float64)
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= whites[-1]:
        raise ValueError(f"grey values must be from 0 to {whites[-1]}, got {low:g} to {high:g}")
    white = next(white for white in whites if high <= white)
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
