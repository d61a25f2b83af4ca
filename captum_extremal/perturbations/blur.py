"""Gaussian blur, the perturbation of the paper (section 3.4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from captum_extremal._checks import check_choice, check_count
from captum_extremal.masks import REFERENCE_SIDE
from captum_extremal.masks.lengths import Hold, check_hold, check_lengths, each_axis, held_axes, one_or_each, scales
from captum_extremal.perturbations.pyramid import BoundPerturbation, Levels

_BLUR = 20.0  # px at 224: sigma_max
_TRUNCATE = 4.0  # in sigmas: where a Gaussian is cut
_LONG = 2**13  # entries of a row that is transformed in phases
_PHASES = 32


@dataclass(frozen=True)
class BlurPyramid:
    """Gaussian blur, the paper's perturbation: what is hidden keeps its mean colour and loses its detail.

    Args:
        sigma_max: standard deviation of the strongest blur in positions, a number or one for each axis of S. Default
            20 px at 224 px, scaled with the shorter side of an image, and along each axis of a volume or a video with
            its own side.
        levels: how many intensities the pyramid holds, the clean input and the strongest included.
        padding: how the input goes on beyond its border: "replicate", "reflect" or "zeros".
        hold: the axes of S that are not blurred, as in :class:`~captum_extremal.SmoothMask`.

    Raises:
        TypeError, ValueError: a setting has the wrong type or is out of range.
    """

    sigma_max: float | tuple[float, ...] | None = None
    levels: int = 8
    padding: str = "replicate"
    hold: Hold = ()

    def __post_init__(self) -> None:
        check_lengths("sigma_max", self.sigma_max)
        check_count("levels", self.levels, at_least=2)
        check_choice("padding", self.padding, ("replicate", "reflect", "zeros"))
        check_hold(self.hold)

    def sigma_for(self, shape: tuple[int, ...]) -> float | tuple[float, ...]:
        """The standard deviation of the strongest blur for inputs whose positions have this shape.

        It is one number, or one for each axis where they differ: 0 where the axis is not blurred.
        """
        held = held_axes(self.hold, shape)
        if self.sigma_max is None:
            sigmas = tuple(_BLUR * side / REFERENCE_SIDE for side in scales(shape, held))
        else:
            sigmas = each_axis("sigma_max", self.sigma_max, shape)
        return one_or_each([0.0 if axis in held else sigma for axis, sigma in enumerate(sigmas)])

    def bind(self, x: Tensor, baseline: Tensor) -> BoundPerturbation:
        """Blur x (N, C, *S) at every level once; the baseline plays no part."""
        shape = tuple(x.shape[2:])
        strongest = each_axis("sigma_max", self.sigma_for(shape), shape)
        levels = x.new_empty(len(x), self.levels, *x.shape[1:])  # filled in place, or the memory would be twice this
        levels[:, 0] = x
        for level in range(self.levels - 1, 0, -1):
            sigmas = [sigma * level / (self.levels - 1) for sigma in strongest]
            levels[:, level] = gaussian_blur(x, sigmas, self.padding)
        return Levels(levels)


def gaussian_blur(
    x: Tensor, sigma: float | Sequence[float], padding: str = "replicate", *, normalise: bool = False
) -> Tensor:
    """Separable Gaussian blur over the positions of x (N, C, *S), sigma in positions.

    Time and memory grow with the number of positions, and hardly with sigma.

    Args:
        x: any floating type; sides of any length, also shorter than the Gaussian.
        sigma: standard deviation, at least 0, a number or one for each axis; 0 leaves the axis as it is.
        padding: "replicate", "reflect" or "zeros".
        normalise: with "zeros", divide by the part of the Gaussian that lies inside.

    Returns:
        the blurred positions, in the shape and the type of x.
    """
    sigmas = (sigma,) * (x.dim() - 2) if isinstance(sigma, (int, float)) else sigma
    blurred = x.to(torch.promote_types(x.dtype, torch.float32))
    for axis, along in enumerate(sigmas, start=2):
        if along:
            rows = blurred.movedim(axis, -1)
            blurred = _blurred_rows(rows, along, padding).movedim(-1, axis)
            if normalise:
                inside = _blurred_rows(rows.new_ones(rows.shape[-1]), along, padding)
                blurred = (blurred.movedim(axis, -1) / inside).movedim(-1, axis)
    return blurred.to(x.dtype)


def _blurred_rows(rows: Tensor, sigma: float, padding: str) -> Tensor:
    """The blur (..., W) along the last axis of rows (..., W), by the convolution theorem."""
    side, weights = rows.shape[-1], _weights(sigma)
    if side >= _LONG:
        return _blurred_long_rows(rows, weights, padding)
    radius = len(weights) - 1
    length: int = cast(Any, next_fast_len)(side + 2 * radius, real=True)
    spectrum: Tensor = torch.fft.rfft(_extended(rows, radius, padding), n=length)
    spectrum *= _response(weights, 0, 1, length, rows).real  # the Gaussian around the first entry is symmetric
    blurred: Tensor = torch.fft.irfft(spectrum, n=length)
    return blurred[..., radius : radius + side]


def _blurred_long_rows(rows: Tensor, weights: Tensor, padding: str) -> Tensor:
    """The same for long rows, of which every 32nd entry is transformed at a time.

    A transform has a workspace of several times its length, which of one long row would be more than its pyramid.
    """
    side, radius = rows.shape[-1], len(weights) - 1
    first = -(-radius // _PHASES)  # entries of each phase that lie before the row
    count = -(-side // _PHASES) + 2 * first
    length: int = cast(Any, next_fast_len)(count, real=True)
    at = torch.arange(count, device=rows.device) * _PHASES - first * _PHASES
    kind = torch.complex128 if rows.dtype == torch.float64 else torch.complex64
    spectra = rows.new_empty(_PHASES, *rows.shape[:-1], length // 2 + 1, dtype=kind)
    for q in range(_PHASES):
        spectra[q] = torch.fft.rfft(_taken(rows, at + q, padding), n=length)
    responses = [_response(weights, shift, _PHASES, length, rows) for shift in range(_PHASES)]
    blurred = torch.empty_like(rows, memory_format=torch.contiguous_format)
    for p in range(_PHASES):
        spectrum = torch.zeros_like(spectra[0])
        for q in range(_PHASES):
            # The weights are symmetric, so that those of -shift are those of shift in the opposite order.
            spectrum.addcmul_(spectra[q], responses[p - q] if p >= q else responses[q - p].conj())
        of_phase = blurred[..., p::_PHASES]
        of_phase.copy_(torch.fft.irfft(spectrum, n=length)[..., first : first + of_phase.shape[-1]])
    return blurred


def _weights(sigma: float) -> Tensor:
    """The Gaussian from its middle on, in float64; both sides add up to 1."""
    radius = max(1, math.ceil(_TRUNCATE * sigma))
    weights = torch.arange(radius + 1, dtype=torch.float64, device="cpu").div_(sigma).square_().mul_(-0.5).exp_()
    return weights.div_(2 * weights.sum() - 1)


def _response(weights: Tensor, shift: int, step: int, length: int, like: Tensor) -> Tensor:
    """What every so many-th weight does to each of the frequencies of rows of this length.

    The weights are those of the offsets i ``step`` + ``shift``.
    """
    radius = len(weights) - 1
    i = torch.arange(-((radius + shift) // step), (radius - shift) // step + 1, device="cpu")
    kernel = torch.zeros(length, dtype=like.dtype, device="cpu")
    kernel[i] = weights[(i * step + shift).abs()].to(like.dtype)
    spectrum: Tensor = torch.fft.rfft(kernel)
    return spectrum.to(like.device)


def _extended(rows: Tensor, radius: int, padding: str) -> Tensor:
    """Rows (..., W) with ``radius`` more entries at both ends."""
    side = rows.shape[-1]
    if padding == "zeros":
        return F.pad(rows, (radius, radius))
    if padding == "replicate":
        first, last = (rows[..., end].expand(*rows.shape[:-1], radius) for end in (slice(0, 1), slice(-1, None)))
        return torch.cat([first, rows, last], dim=-1)
    return _taken(rows, torch.arange(-radius, side + radius, device=rows.device), padding)


def _taken(rows: Tensor, at: Tensor, padding: str) -> Tensor:
    """The entries of rows (..., W) at these places, which may lie beyond the ends."""
    side = rows.shape[-1]
    if padding == "reflect":
        period = max(1, 2 * (side - 1))
        at = at.remainder(period)
        at = torch.minimum(at, period - at)
    taken = rows.index_select(-1, at.clamp(0, side - 1))
    return taken * ((at >= 0) & (at < side)) if padding == "zeros" else taken
