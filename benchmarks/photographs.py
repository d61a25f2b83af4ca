"""The real network and photographs that the measurements are made on.

A data folder holds ``models/squeezenet1_0_imagenet_fp16.pth`` and ``images/NNNN_name.jpg``, NNNN being the class.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def add_data_option(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("CAPTUM_EXTREMAL_DATA", "../shared")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the network and the photographs")


def squeezenet(data: Path) -> nn.Module:
    model = models.squeezenet1_0(weights=None)
    state = torch.load(data / "models" / "squeezenet1_0_imagenet_fp16.pth", weights_only=True)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


def rgb(photograph: Path) -> Tensor:
    """The photograph (3, 224, 224) in [0, 1], resized to 256 on its shorter side and cropped at its centre."""
    image = ImageOps.exif_transpose(Image.open(photograph)).convert("RGB")
    resize = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.PILToTensor()])
    return resize(image).float() / 255


def normalised(photograph: Path) -> Tensor:
    """The photograph as the network takes it, (1, 3, 224, 224)."""
    return v2.functional.normalize(rgb(photograph), MEAN, STD)[None]


def target_of(photograph: Path) -> int:
    return int(photograph.name.split("_")[0])
