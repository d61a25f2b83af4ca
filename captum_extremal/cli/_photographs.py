"""Photographs from files, as RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captum_extremal.cli.console import PhotoError

if TYPE_CHECKING:
    from PIL.Image import Image as ImageType


def read_photo(path: str) -> ImageType:
    """The photograph in a file as RGB, the right way up.

    Raises:
        PhotoError: there is no such file, or it cannot be read as an image.
    """
    from captum_extremal.datasets.annotated import UnreadableError
    from captum_extremal.datasets.image_files import read_image

    try:
        return read_image(path)
    except UnreadableError as error:
        raise PhotoError(str(error).removeprefix(f"{path}: ")) from error  # the command itself names the photograph
