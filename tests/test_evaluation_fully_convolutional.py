"""Linear layers slid over the positions: the same scores where the sizes fit, windows where they do not."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from captum_extremal.evaluation import fully_convolutional, make_method


@pytest.fixture
def resnet() -> nn.Module:
    model: nn.Module = torchvision.models.resnet18(weights=None, num_classes=6)
    return model.eval().double()


class SmallVGG(nn.Module):
    """The parts of a VGG for images of 16 px, in few channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.classifier = nn.Sequential(nn.Linear(64, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 5, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return scores


@pytest.mark.parametrize("size", [(64, 64), (70, 100)])
def test_a_resnet_keeps_its_scores_at_any_size(resnet: nn.Module, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    slid = fully_convolutional(resnet)
    torch.testing.assert_close(slid(x), resnet(x))
    assert not slid.training
    assert slid.get_submodule("layer4.1.conv2").weight is not resnet.get_submodule("layer4.1.conv2").weight


def test_a_vgg_sees_every_window() -> None:
    torch.manual_seed(4)
    model = SmallVGG().double().eval()
    slid = fully_convolutional(model)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(slid(x), model(x))
    wide = torch.randn(1, 3, 20, 28, dtype=torch.float64)
    features = model.features(wide)
    windows = [features[:, :, i : i + 4, j : j + 4] for i in range(2) for j in range(4)]
    expected = torch.stack([model.classifier(window.flatten(1)) for window in windows]).mean(0)
    torch.testing.assert_close(slid(wide), expected)
    assert [name for name, _ in slid.named_children()] == ["features", "classifier", "average"]


def test_torchvisions_vgg_has_these_parts() -> None:
    """On meta tensors: its first linear layer alone has a hundred million weights."""
    with torch.device("meta"):
        slid = fully_convolutional(torchvision.models.vgg16(weights=None, num_classes=20).train())
    assert slid.get_submodule("classifier.0").weight.shape == (4096, 512, 7, 7)
    assert slid.get_submodule("classifier.6").weight.shape == (20, 4096, 1, 1)
    assert slid.training


def test_methods_explain_it(resnet: nn.Module) -> None:
    slid, x = fully_convolutional(resnet), torch.randn(2, 3, 64, 80, dtype=torch.float64)
    for name in ("saliency", "grad_cam"):
        maps = make_method(name, slid, layer="layer4" if name == "grad_cam" else None)(x, [1, 2])
        expected = make_method(name, resnet, layer="layer4" if name == "grad_cam" else None)(x, [1, 2])
        torch.testing.assert_close(maps, expected)
    assert bool(make_method("contrastive_excitation_backprop", slid, layer="layer3")(x, [1, 2]).any())


@pytest.mark.parametrize(
    "model", [nn.Linear(3, 4), torchvision.models.squeezenet1_1(weights=None)], ids=["", "squeeze"]
)
def test_other_networks_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="model must be a VGG, AlexNet or ResNet of torchvision"):
        fully_convolutional(model)
