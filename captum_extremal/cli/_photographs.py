"""Photographs as RGB and upright."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captum_extremal.cli._console import PhotoError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_photo(path: str) -> Image:
    """A photograph as RGB, upright."""
    from captum_extremal.datasets.annotated import UnreadableError
    from captum_extremal.datasets.image_files import read_image

    try:
        return read_image(path)
    except UnreadableError as error:
        raise PhotoError(str(error).removeprefix(f"{path}: ")) from error  # the command itself names the photograph


def length(photo: Image) -> float:
    """Longer side : shorter side."""
    return max(photo.size) / min(photo.size)
