"""A prior of natural images: a sum of waves, and random views in which an image must look alike to a network.

The amplitudes of the waves fall with their frequency and their colours are decorrelated, as in photographs. So a step
along a gradient changes an image smoothly, and at all scales at once.

References: A. Mordvintsev, N. Pezzotti, L. Schubert, C. Olah, *Differentiable Image Parameterizations*, Distill 2018;
C. Olah, A. Mordvintsev, L. Schubert, *Feature Visualization*, Distill 2017.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extremal._checks import check_number

# Luminance, red against blue, green against both: nearly the principal axes of the colours of photographs.
_COLOUR_AXES = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 2.0, -1.0))
_START = 0.1  # contrast of the first image, in logits: a nearly uniform grey


@dataclass(frozen=True)
class ImagePrior:
    """Which images are likely, and which of their views must excite the layer alike.

    Args:
        decay: the amplitudes of an image's waves fall with their frequency to this power; 1 for photographs.
        colour: relative standard deviations of luminance, of red against blue, and of green against both; the default
            is that of photographs.
        jitter: a view moves the image by up to this fraction of its shorter side,
        scale: scales it by a factor of up to 1 + scale, up or down,
        rotation: and turns it by up to this many degrees.
    """

    decay: float = 1.25
    colour: tuple[float, float, float] = (1.0, 0.3, 0.2)
    jitter: float = 0.03
    scale: float = 0.05
    rotation: float = 5.0

    def __post_init__(self) -> None:
        check_number("decay", self.decay, at_least=0)
        if not isinstance(self.colour, tuple) or len(self.colour) != len(_COLOUR_AXES):
            raise TypeError(f"colour must be a tuple of three numbers, got {self.colour!r}")
        for deviation in self.colour:
            check_number("colour", deviation, at_least=0)
        check_number("jitter", self.jitter, at_least=0, at_most=0.5)
        check_number("scale", self.scale, at_least=0, at_most=1)
        check_number("rotation", self.rotation, at_least=0, at_most=180)


class Canvas:
    """Images (N, 3, H, W) in [0, 1] from coefficients (N, 3, H, W // 2 + 1, 2) of their waves.

    Complex coefficients of variance 1 make logits whose luminance has a variance of about 1, at any size.
    """

    def __init__(self, prior: ImagePrior, shape: tuple[int, int], like: Tensor) -> None:
        self._shape = (height, width) = shape
        vertical = torch.fft.fftfreq(height, dtype=torch.float64, device="cpu")[:, None]
        horizontal = torch.fft.rfftfreq(width, dtype=torch.float64, device="cpu")
        # The mean colour, of frequency 0, may vary as much as the longest wave.
        frequency = (vertical**2 + horizontal**2).sqrt().clamp(min=1 / max(shape))
        amplitude = frequency**-prior.decay
        copies = torch.full_like(horizontal, 2)  # a wave of a real image and its mirror image share a coefficient
        copies[0] = 1
        if width % 2 == 0:
            copies[-1] = 1
        self._amplitude = (amplitude / (copies * amplitude**2).sum().sqrt()).to(like)
        axes = torch.tensor(_COLOUR_AXES, dtype=torch.float64, device="cpu")
        axes *= axes.new_tensor(prior.colour)[:, None] / axes.norm(dim=1, keepdim=True)
        self._colours = axes.T.to(like)
        self._coefficients = (3, *self._amplitude.shape, 2)

    def start(self, images: int, generator: torch.Generator) -> Tensor:
        """Coefficients of the first image, the same for all images of a batch."""
        first = _START * torch.randn(self._coefficients, generator=generator, dtype=torch.float64, device="cpu")
        return first.to(self._amplitude).repeat(images, 1, 1, 1, 1)

    def __call__(self, coefficients: Tensor) -> Tensor:
        """The images of these coefficients."""
        waves = torch.view_as_complex(coefficients) * self._amplitude
        decorrelated = torch.fft.irfft2(waves, s=self._shape, norm="forward")
        return torch.einsum("rc,nchw->nrhw", self._colours, decorrelated).sigmoid()


def random_view(prior: ImagePrior, shape: tuple[int, int], generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A function that moves, scales and turns images, all of a batch alike; borders are mirrored."""
    height, width = shape
    drawn = torch.rand(4, generator=generator, dtype=torch.float64, device="cpu")
    turn, zoom, down, right = (2 * drawn - 1).tolist()
    angle, factor = math.radians(prior.rotation) * turn, (1 + prior.scale) ** zoom
    cosine, sine = factor * math.cos(angle), factor * math.sin(angle)
    shift = 2 * prior.jitter * min(shape)
    # affine_grid counts in units in which both sides are 2 long.
    rows = [
        [cosine, -sine * height / width, shift * right / width],
        [sine * width / height, cosine, shift * down / height],
    ]

    def view(images: Tensor) -> Tensor:
        grid = F.affine_grid(images.new_tensor([rows]), [1, 1, height, width], align_corners=False)
        grid = grid.expand(len(images), -1, -1, -1)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    return view
