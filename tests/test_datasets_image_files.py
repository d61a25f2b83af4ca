"""The one reader of image files: every kind of pixels as RGB, and what broken files lead to."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from captum_extremal.datasets import UnreadableError
from captum_extremal.datasets.image_files import read_image

GREY = np.arange(256, dtype=np.uint8).reshape(8, 32)
COLOUR = Image.fromarray(np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2))


def read(image: Image.Image, path: Path, **how: Any) -> np.ndarray:
    """The pixels (H, W, 3) of an image that is saved and read again."""
    image.save(path, **how)
    found = read_image(path)
    assert found.mode == "RGB"
    return np.asarray(found).astype(int)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None].astype(int), 3, axis=2)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "YCbCr", "HSV"])
def test_modes_of_8_bits_become_rgb_as_pillow_does(tmp_path: Path, mode: str) -> None:
    image = COLOUR.convert(mode)
    name = "a.jpg" if mode == "YCbCr" else "a.png"
    if mode == "HSV":
        image, name = image.convert("RGB"), "a.webp"
        how: dict[str, Any] = {"lossless": True}
    else:
        how = {"quality": 100, "subsampling": 0} if mode == "YCbCr" else {}
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert abs(read(image, tmp_path / name, **how) - expected).max() <= (4 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
def test_cmyk_keeps_its_colours(tmp_path: Path, name: str) -> None:
    flat = Image.new("RGB", (16, 16), (200, 100, 30))
    assert abs(read(flat.convert("CMYK"), tmp_path / name) - np.array([200, 100, 30])).max() <= 4


def deep(values: np.ndarray, dtype: Any) -> Image.Image:
    return Image.fromarray(values.astype(dtype))


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (deep(GREY.astype(int) * 257, np.uint16), "a.png"),
        (deep(GREY.astype(int) * 257, np.uint16), "a.tiff"),
        (deep(GREY.astype(int) * 257, ">u2"), "a.tiff"),
        (deep(GREY.astype(int) * 257, np.int32), "a.pgm"),
        (deep(GREY.astype(int) * 257, np.int32), "a.tiff"),
        (deep(GREY, np.int32), "a.tiff"),
        (deep(GREY / 255, np.float32), "a.tiff"),
        (deep(GREY, np.float32), "a.tiff"),
        (deep(GREY * 257.0, np.float32), "a.tiff"),
    ],
    ids=["png 16", "tiff 16", "big endian", "pgm", "tiff I of 16", "tiff I of 8", "F of 1", "F of 8", "F of 16"],
)
def test_grey_of_more_than_8_bits_is_scaled(tmp_path: Path, image: Image.Image, name: str) -> None:
    np.testing.assert_array_equal(read(image, tmp_path / name), as_rgb(GREY))


@pytest.mark.parametrize(
    ("values", "dtype"), [(GREY / 250, np.float32), (GREY * 4.0, np.float32), (GREY.astype(int) * 4, np.int32)]
)
def test_a_white_that_is_not_known_is_refused(tmp_path: Path, values: np.ndarray, dtype: Any) -> None:
    """Of 1.02, or of 10 bits: the next larger white would make the picture nearly black."""
    deep(values, dtype).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableError, match=r"a.tiff: .* grey values must reach near 1.*, got a maximum of 10?[.2]"):
        read_image(tmp_path / "a.tiff")


def test_dark_grey_of_16_bits_stays_dark(tmp_path: Path) -> None:
    for name in ("a.png", "a.pgm", "a.tiff"):
        assert read(Image.new("I;16", (4, 4), 255), tmp_path / name).max() == 1


@pytest.mark.parametrize("value", [-1.0, 65536.0, float("nan"), float("inf")])
def test_grey_values_without_a_scale_are_refused(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(
        UnreadableError, match=r"a.tiff: cannot be read as an image: grey values must be from 0 to 65535"
    ):
        read_image(tmp_path / "a.tiff")


def test_what_is_transparent_is_laid_on_white(tmp_path: Path) -> None:
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 100, 51))  # a fifth
    assert read(half, tmp_path / "a.png").tolist() == [[[200, 0, 0], [204, 204, 224]]]
    assert read(half.convert("LA"), tmp_path / "la.png")[0, 1].min() > 200
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 100, 0])
    palette.putpixel((1, 0), 1)
    for name in ("a.gif", "b.png"):
        assert read(palette, tmp_path / name, transparency=1).tolist() == [[[200, 0, 0], [255, 255, 255]]]
    keyed = Image.new("RGB", (1, 1), (1, 2, 3))
    assert read(keyed, tmp_path / "c.png", transparency=(1, 2, 3)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("white", "red", "blue")]
    assert read(frames[0], tmp_path / name, save_all=True, append_images=frames[1:]).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_they_are_displayed(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    COLOUR.save(tmp_path / "a.png", exif=exif)
    # The sides at which row 0 and column 0 of the file are displayed, from the EXIF standard.
    turned = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
        7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda x: x.transpose(1, 0, 2)[::-1],
    }[orientation]
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), turned(np.asarray(COLOUR)))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png", upright=False)), np.asarray(COLOUR))


def test_grey_of_16_bits_is_turned_as_well(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read(deep(GREY.astype(int) * 257, np.uint16), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(found, as_rgb(GREY.T[:, ::-1]))


def missing(path: Path) -> None:
    pass


def truncated(path: Path) -> None:
    Image.effect_noise((200, 200), 100).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-300])


def postscript(path: Path) -> None:
    COLOUR.save(path, "EPS")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (missing, "there is no such file"),
        (Path.mkdir, "cannot be read as an image: .*directory"),
        (Path.touch, "cannot be read as an image: cannot identify"),
        (truncated, "cannot be read as an image: image file is truncated"),
        (postscript, "cannot be read as an image: cannot identify"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "a.jpg"
    write(path)
    with pytest.raises(UnreadableError, match=f"a.jpg: {message}") as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_formats_not_asked_for_are_refused(tmp_path: Path) -> None:
    COLOUR.save(tmp_path / "a.gif")
    with pytest.raises(UnreadableError, match=r"a.gif: cannot be read as JPEG or PNG: cannot identify"):
        read_image(tmp_path / "a.gif", formats=("JPEG", "PNG"))


@pytest.mark.parametrize("side", [10, 20], ids=["Pillow warns", "Pillow refuses"])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_decompression_bombs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, action: Any
) -> None:
    Image.new("L", (side, side)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(UnreadableError, match=r"a.png: cannot be read as an image: .*pixels.*limit of \d+"):
            read_image(tmp_path / "a.png")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")
@given(
    name=st.sampled_from(["a.png", "a.jpg", "a.gif", "a.tiff", "a.bmp", "a.webp", "a.ico", "a.tga", "a.ppm", "a.jp2"]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
    kept=st.floats(0.1, 1),
)
def test_a_changed_file_is_read_or_refused(
    tmp_path: Path, name: str, changes: list[tuple[float, int]], kept: float
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    how = {"exif": exif} if name in ("a.png", "a.jpg", "a.tiff", "a.webp") else {}
    COLOUR.save(tmp_path / name, **how)
    content = bytearray((tmp_path / name).read_bytes())
    for share, value in changes:
        content[int(share**3 * len(content))] = value  # more of them in the header
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with contextlib.suppress(UnreadableError):
        assert read_image(tmp_path / name).mode == "RGB"
