"""What the tests of the explorer share: results by hand, their pages, and the data in a page."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import torch
from PIL import Image

from by_hand import optimum_by_hand, result_by_hand
from captum_extremal import ExtremalMasks

AREAS, SIDE = [0.1, 0.25, 0.5], 20
NASTY = "a </script><script>alert(1)</script> & $title \N{SNOWMAN}"


def disks(images: int = 2) -> torch.Tensor:
    """Smooth masks (N, 3, 1, 20, 24) around a place of each image."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(float(SIDE)), torch.arange(SIDE + 4.0), indexing="ij")
    places = 5 + 8 * torch.rand(images, 2, generator=generator)
    distance = ((rows - places[:, 0, None, None]) ** 2 + (columns - places[:, 1, None, None]) ** 2).sqrt()
    radii = torch.tensor([4.0, 6.2, 8.8])[None, :, None, None]
    return (radii + 1 - distance[:, None]).clamp(0, 1)[:, :, None]


def make_found(masks: torch.Tensor | None = None, *, between: bool = True, settings=None) -> ExtremalMasks:
    masks = disks() if masks is None else masks
    others = [optimum_by_hand(masks[:, 1] * 0.9, [0.2, 0.3], [8.25, 7.5], [2.0, 3.0])] if between else []
    return result_by_hand(
        masks,
        AREAS,
        torch.tensor([[1.2345, 5.5, 9.5], [2.0, 4.0, 8.0]]),
        torch.tensor([[7.0, 4.0, 1.0], [8.0, 4.0, 0.5]]),
        clean=torch.tensor([8.0, 7.0]),
        perturbed=torch.tensor([0.5, 0.25]),
        threshold=torch.tensor([8.0, 7.0]),
        settings={"game": {"kept": 1.0, "removed": 0.0}} | (settings or {}),
        others=others,
        searches=0 if between else 3,
    )


def pictures(images: int = 2) -> torch.Tensor:
    return torch.rand(images, 3, SIDE, SIDE + 4, generator=torch.Generator().manual_seed(1))


def data_of(path) -> dict:
    text = path.read_text(encoding="ascii")
    return json.loads(re.search(r'id="result">(.*?)</script>', text, re.DOTALL).group(1))


def pixels(url: str) -> np.ndarray:
    head, _, coded = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(coded))) as image:
        return np.array(image)
