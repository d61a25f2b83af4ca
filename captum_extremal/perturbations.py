r"""Perturbations: from a mask to a perturbed input (section 3.4).

.. math::

    (m \otimes x)(u) = \pi(x; u, \sigma_{max} (1 - m(u)))

A *pyramid* holds the input at a few intensities of the perturbation, from none to the strongest; the mask
chooses a level at each position, and between two levels the result is interpolated linearly. A pyramid is
frozen and knows no input; ``pyramid.bind(x, baseline)`` gives the function from masks to perturbed inputs.
Anything with such a ``bind`` can take a pyramid's place.

Shapes: N inputs (N, C, *S), R masks an input: rows (R N, 1, *S), mask-major (the masks of one input are N apart).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from captum_extremal._checks import check_choice, check_count, check_number
from captum_extremal.masks import REFERENCE_SIDE

_BLUR = 20.0  # px at 224: sigma_max
_TRUNCATE = 4.0  # in sigmas: where a Gaussian is cut

BoundPerturbation = Callable[[Tensor], Tensor]
"""From masks (R N, 1, *S) to perturbed inputs (R N, C, *S)."""


@runtime_checkable
class Perturbation(Protocol):
    """What can stand in ``perturbation=``: 1 in the mask must keep a position, 0 must perturb it fully."""

    def bind(self, x: Tensor, baseline: Tensor) -> BoundPerturbation:
        """Prepare the perturbation of inputs x (N, C, *S); ``baseline`` (N, C, *S) is what ``baselines`` gave."""


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

    def bind(self, x: Tensor, baseline: Tensor) -> BoundPerturbation:
        """Blur x (N, C, *S) at every level once; the baseline plays no part."""
        shape = x.shape[2:]
        sigma_max = self.sigma_max or _BLUR * min(shape) / REFERENCE_SIDE
        sigmas = [sigma_max * level / (self.levels - 1) for level in range(1, self.levels)]
        blurred = [gaussian_blur(x, sigma, self.padding) for sigma in sigmas]
        return _Levels(torch.stack([x, *blurred], dim=1))


@dataclass(frozen=True)
class FadePyramid:
    """Fade to the baseline (footnote 2; 0, the default baseline, is the mean colour of a normalised image).

    A fade is linear in its intensity, so that two levels, the input and the baseline, are the whole pyramid.
    """

    def bind(self, x: Tensor, baseline: Tensor) -> BoundPerturbation:
        """Prepare to fade x (N, C, *S) to the baseline of the same shape."""
        return _Levels(torch.stack([x, baseline], dim=1))


class _Levels:
    """The levels (N, L, C, *S) of a pyramid, from the clean input to the strongest perturbation."""

    def __init__(self, levels: Tensor) -> None:
        self._levels = levels

    def __call__(self, mask: Tensor) -> Tensor:
        perturbed: Tensor = _Interpolate.apply(mask, self._levels)
        return perturbed


class _Interpolate(torch.autograd.Function):
    """Linear interpolation between a pyramid's levels at the depth 1 - m; the slope is the levels' difference.

    Written out because it runs once a step: autograd would keep and scatter into the whole pyramid.
    """

    @staticmethod
    def forward(ctx: Any, mask: Tensor, levels: Tensor) -> Tensor:
        last = levels.shape[1] - 1
        rows = mask.view(-1, len(levels), *mask.shape[1:])  # (R, N, 1, *S)
        depth = (1 - rows).clamp(0, 1) * last
        below = depth.floor().clamp(max=last - 1)
        lower, upper = _take_level(levels, below), _take_level(levels, below + 1)
        ctx.save_for_backward(upper - lower)
        ctx.last = last
        # lerp returns its ends exactly for the weights 0 and 1, so both ends of the mask are met exactly.
        return torch.lerp(lower, upper, depth - below).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        grad = grads[0].reshape(slope.shape)
        return (grad * slope).sum(2, keepdim=True).mul_(-ctx.last).flatten(0, 1), None


def _take_level(levels: Tensor, level: Tensor) -> Tensor:
    """The level (R, N, 1, *S) of each position, from levels (N, L, C, *S): (R, N, C, *S)."""
    rows = levels.expand(len(level), *levels.shape)
    index = level.to(torch.int64).unsqueeze(3).expand(-1, -1, -1, levels.shape[2], *level.shape[3:])
    return rows.gather(2, index).squeeze(2)


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
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    weights = (weights / weights.sum()).expand(side, -1)
    taps = torch.arange(side)[:, None] + offsets
    if padding == "zeros":
        weights = weights.masked_fill((taps < 0) | (taps >= side), 0.0)
    if padding == "reflect":
        period = max(1, 2 * (side - 1))
        taps = taps.remainder(period)
        taps = torch.minimum(taps, period - taps)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, taps.clamp(0, side - 1), weights)
