"""The one reader of image files: RGB, at the orientation in which they are displayed."""

import contextlib
import os
import textwrap
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

__all__ = ["UnreadableError", "in_one_line", "is_image_name", "read_image", "reading"]

_OTHER_PROGRAMS = {"EPS", "WMF"}  # formats whose files Pillow hands to other programs
_WHITES = {"I": (255, 65535), "F": (1, 255, 65535)}  # what may be white in 32-bit integers and in floats


def is_image_name(name: str) -> bool:
    """Whether a file of this name is one that :func:`read_image` reads, by its suffix."""
    Image.init()
    return Image.EXTENSION.get(os.path.splitext(name)[1].lower()) in set(Image.OPEN) - _OTHER_PROGRAMS


class UnreadableError(Exception):
    """A file that cannot be used; the message names it and says why, in one line."""


def in_one_line(error: object) -> str:
    """The text of an error without line breaks, cut to 300 characters: it may quote a file at length."""
    return textwrap.shorten(str(error), 300)


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn every error into an UnreadableError that says that the file is missing, or cannot be read as this kind."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: there is no such file") from error
    except Exception as error:  # Pillow's readers raise nearly any kind for a broken file
        raise UnreadableError(f"{path}: cannot be read as {kind}: {in_one_line(error)}") from error


def read_image(
    path: str | os.PathLike[str], *, upright: bool = True, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Read an image file as RGB, of an animation the first frame.

    Transparent pixels are laid on white. Grey images of more than 8 bits are scaled: with 16 bits, 65535 is white; with
    32-bit integers 255 or 65535, and with floats 1, 255 or 65535, the smallest that no value exceeds. Where the
    brightest value is above one of them and below a sixteenth of the next (1.02, or 1023 of 10 bits), the white is not
    known, and the image is refused.

    Args:
        path: of the file.
        upright: whether to turn the image as its EXIF orientation says; otherwise the pixels are as stored.
        formats: those allowed, such as ("JPEG", "PNG"); None for all that Pillow reads without another program.

    Raises:
        UnreadableError: there is no such file, it is no image of these formats, it is truncated or broken, it has more
            than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, or its values are outside of the ranges above.
    """
    Image.init()  # registers all of Pillow's formats
    allowed = formats or [name for name in Image.ID if name not in _OTHER_PROGRAMS]
    with reading(path, " or ".join(formats or ["an image"])), Image.open(path, formats=allowed) as file:
        limit = Image.MAX_IMAGE_PIXELS  # above it Pillow only warns, up to twice as many pixels
        if limit is not None and file.width * file.height > limit:
            raise ValueError(f"{file.width} x {file.height} pixels, more than Pillow's limit of {limit}")
        return _as_rgb(ImageOps.exif_transpose(file) if upright else file, file.format)


def _as_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    """An image of any of Pillow's modes as RGB."""
    # Pillow may give 16 bits as mode I, and its convert would clip them.
    of_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM"))
    if whites := (65535,) if of_16_bits else _WHITES.get(image.mode):
        values = np.asarray(image, np.float64)
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= whites[-1]:
            raise ValueError(f"grey values must be from 0 to {whites[-1]}, got {low:g} to {high:g}")
        below, white = next((below, white) for below, white in zip((0, *whites), whites) if high <= white)
        if 0 < below < high < white / 16:
            raise ValueError(f"grey values must reach near 1, 255 or 65535, got a maximum of {high:g}: scale them")
        image = Image.fromarray((values * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
