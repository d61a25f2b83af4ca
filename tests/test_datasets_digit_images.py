"""The digit scenes in the form of the other data sets."""

from __future__ import annotations

import pytest
import torch

from captum_extremal.datasets import AnnotatedImages, DigitImages, DigitScenes
from captum_extremal.datasets.digits import to_rgb


def test_scenes_are_those_of_the_seed() -> None:
    data: AnnotatedImages = DigitImages(3, seed=5, size=(96, 128))
    scenes = DigitScenes(3, (96, 128), seed=5)
    assert (data.name, data.classes) == ("digits-96x128", tuple("0123456789"))
    assert (data.unreadable, data.pairs()) == (
        [],
        [(f"5-{index}", str(label)) for index in range(3) for label in sorted(scenes[index].labels)],
    )
    found = data.load("5-2")
    assert torch.equal(found.pixels, to_rgb(scenes[2].image))
    assert list(found.regions) == [str(label) for label in scenes[2].labels]
    assert torch.equal(torch.stack(list(found.regions.values())), scenes[2].masks)
    assert found.difficult == set(found.regions)  # a digit's ink is little of a scene, and others are there


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="length must be at least 1"):
        DigitImages(0)
    with pytest.raises(ValueError, match=r"image must be one of those in pairs\(\), got '1-0'"):
        DigitImages(1).load("1-0")
