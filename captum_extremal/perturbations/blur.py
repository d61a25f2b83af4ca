"""Gaussian blur, the perturbation of the paper (section 3.4)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal._checks import check_choice, check_count, check_number
from captum_extremal.masks import REFERENCE_SIDE
from captum_extremal.perturbations.pyramid import BoundPerturbation, Levels

_BLUR = 20.0  # px at 224: sigma_max
_TRUNCATE = 4.0  # in sigmas: where a Gaussian is cut


@dataclass(frozen=True)
class BlurPyramid:
    """Gaussian blur, the paper's perturbation: what is hidden keeps its mean colour and loses its detail.

    Args:
        sigma_max: standard deviation of the strongest blur in pixels; default 20 px at 224 px, scaled with the
            input's shorter side.
        levels: how many intensities the pyramid holds, the clean input and the strongest included.
        padding: how the input goes on beyond its border: "replicate", "reflect" or "zeros".

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range.
    """

    sigma_max: float | None = None
    levels: int = 8
    padding: str = "replicate"

    def __post_init__(self) -> None:
        if self.sigma_max is not None:
            check_number("sigma_max", self.sigma_max, above=0)
        check_count("levels", self.levels, at_least=2)
        check_choice("padding", self.padding, ("replicate", "reflect", "zeros"))

    def sigma_for(self, shape: tuple[int, ...]) -> float:
        """The standard deviation of the strongest blur, in pixels, for inputs of this spatial shape."""
        return self.sigma_max or _BLUR * min(shape) / REFERENCE_SIDE

    def bind(self, x: Tensor, baseline: Tensor) -> BoundPerturbation:
        """Blur x (N, C, *S) at every level once; the baseline plays no part."""
        sigma_max = self.sigma_for(tuple(x.shape[2:]))
        sigmas = [sigma_max * level / (self.levels - 1) for level in range(1, self.levels)]
        blurred = [gaussian_blur(x, sigma, self.padding) for sigma in sigmas]
        return Levels(torch.stack([x, *blurred], dim=1))


def gaussian_blur(x: Tensor, sigma: float, padding: str = "replicate", *, normalise: bool = False) -> Tensor:
    """Separable Gaussian blur over the positions of x (N, C, *S), sigma in pixels.

    Args:
        x: any floating type; sides of any length, also shorter than the Gaussian.
        sigma: standard deviation in pixels, above 0.
        padding: "replicate", "reflect" or "zeros".
        normalise: with "zeros", divide by the part of the Gaussian that lies inside.
    """
    for axis in range(2, x.dim()):
        matrix = _blur_matrix(x.shape[axis], sigma, padding)
        if normalise:
            matrix = matrix / matrix.sum(1, keepdim=True)
        x = (x.movedim(axis, -1) @ matrix.to(x).T).movedim(-1, axis)
    return x


def _blur_matrix(side: int, sigma: float, padding: str) -> Tensor:
    """The blur of one axis as a matrix (side, side) in float64: row u holds the weights of the pixels."""
    radius = max(1, math.ceil(_TRUNCATE * sigma))
    offsets = torch.arange(-radius, radius + 1, device="cpu")
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    weights = (weights / weights.sum()).expand(side, -1)
    taps = torch.arange(side, device="cpu")[:, None] + offsets
    if padding == "zeros":
        weights = weights.masked_fill((taps < 0) | (taps >= side), 0.0)
    if padding == "reflect":
        period = max(1, 2 * (side - 1))
        taps = taps.remainder(period)
        taps = torch.minimum(taps, period - taps)
    matrix = torch.zeros(side, side, dtype=torch.float64, device="cpu")
    return matrix.scatter_add_(1, taps.clamp(0, side - 1), weights)
