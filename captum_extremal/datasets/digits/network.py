"""A small fully convolutional network that says which digits a picture shows."""

from pathlib import Path

import torch
from torch import Tensor, nn

from captum_extremal.datasets.digits.scenes import CLASSES, SMALLEST_SIDE

__all__ = ["DigitNetwork", "digit_network"]

WEIGHTS_FILE = Path(__file__).with_name("digit_network.pt")
# Out channels, kernel side and stride of each convolution. Together they see 57 pixels, hardly more than a large digit.
_LAYERS = ((16, 5, 2), (32, 3, 2), (48, 3, 1), (64, 3, 2), (64, 3, 1), (64, 3, 1))


class DigitNetwork(nn.Module):
    """Ten digit detectors at each position of the picture, their evidence pooled by a log-sum-exp.

    `features` (convolutions and ReLUs) maps (N, 3, H, W) to (N, 64, H/8, W/8), rounded up; `classifier` (a 1 x 1
    convolution) gives the evidence (log-odds) of each digit at each position. The logit of a digit is the log-sum-exp
    of its evidence over all positions: the odds of all positions add up, and one position that shows the digit is
    enough. Training and evaluation mode are the same, and no layer works in place.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out_channels, kernel, stride in _LAYERS:
            layers += [nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2), nn.ReLU()]
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The log-odds (N, 10) that each digit 0 to 9 is in the picture; their sigmoid is its probability.

        Args:
            images: (N, 3, H, W), normalised as :attr:`DigitScene.image` is, H and W at least 64 pixels.

        Raises:
            ValueError: `images` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST_SIDE:
            rule = f"images must have shape (N, 3, H, W) with H and W at least {SMALLEST_SIDE}"
            raise ValueError(f"{rule}, got {tuple(images.shape)}")
        evidence: Tensor = self.classifier(self.features(images))
        return evidence.flatten(2).logsumexp(dim=2)


def digit_network() -> DigitNetwork:
    """The trained :class:`DigitNetwork`, on the CPU, in evaluation mode; ``tools/train_digits.py`` trains it anew."""
    network = DigitNetwork()
    network.load_state_dict(torch.load(WEIGHTS_FILE, map_location="cpu", weights_only=True))
    return network.eval()
