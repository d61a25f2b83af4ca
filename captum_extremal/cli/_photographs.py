"""Photographs of any kind that Pillow reads, as RGB and upright."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from captum_extremal.cli.console import PhotoError

if TYPE_CHECKING:
    from PIL.Image import Image

_UNSAFE = {"EPS", "WMF"}  # for which Pillow runs other programs


def read_photo(path: str) -> Image:
    """A photograph as RGB, upright."""
    from PIL import Image, ImageOps

    Image.init()  # or Pillow would not know all of its formats yet
    formats = [name for name in Image.ID if name not in _UNSAFE]
    try:
        with Image.open(path, formats=formats) as file:
            return _as_rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise PhotoError("there is no such file") from error
    # Pillow's readers tell a broken file in all of these ways.
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, Image.DecompressionBombError) as error:
        raise PhotoError(f"cannot be read as an image: {error}") from error


def _as_rgb(photo: Image) -> Image:
    """Any of Pillow's modes as RGB: 16-bit grey scaled to 8 bits, what is transparent laid on white."""
    import numpy as np
    from PIL import Image

    if photo.mode == "I" or photo.mode.startswith("I;16"):
        # Pillow would clip at 255.
        photo = Image.fromarray((np.asarray(photo).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    if photo.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in photo.info:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")
