r"""Perturbations: from a mask to a perturbed input (section 3.4).

.. math::

    (m \otimes x)(u) = \pi(x; u, \sigma_{max} (1 - m(u)))

A *pyramid* holds the input at a few intensities of the perturbation, from none to the strongest. The mask chooses a
level at each position, and between two levels the result is interpolated linearly. A pyramid holds settings only;
``pyramid.bind(x, baseline)`` returns the function from masks to perturbed inputs. Any object with such a ``bind`` can
replace a pyramid.

Shapes: N inputs (N, C, *S), R masks an input: rows (R N, 1, *S), mask-major (the masks of one input are N apart). The
masks of feature groups are in the shape of the inputs (N, ...), or 1 in dimensions over which they are repeated.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

BoundPerturbation = Callable[[Tensor], Tensor]
"""From masks (R N, 1, *S) to perturbed inputs (R N, C, *S)."""


@runtime_checkable
class Perturbation(Protocol):
    """What ``perturbation=`` accepts. A mask of 1 must keep a position, and 0 must perturb it fully."""

    def bind(self, x: Tensor, baseline: Tensor) -> BoundPerturbation:
        """Prepare the perturbation of inputs x (N, C, *S); ``baseline`` (N, C, *S) is what ``baselines`` gave.

        What is returned may have an integer attribute ``samples``, M. Then it returns (M R N, C, *S), sample-major, and
        the model's scores are averaged over the samples.
        """


class Levels:
    """The levels (N, L, C, *S) of a pyramid, from the clean input to the strongest perturbation."""

    def __init__(self, levels: Tensor) -> None:
        self._levels = levels

    def __call__(self, mask: Tensor) -> Tensor:
        """Perturbed inputs (R N, C, *S) of masks (R N, 1, *S)."""
        perturbed: Tensor = _Interpolate.apply(mask, self._levels)
        return perturbed


class _Interpolate(torch.autograd.Function):
    """Linear interpolation between a pyramid's levels at the depth 1 - m; the slope is the levels' difference.

    The derivative is written out, because autograd would keep the whole pyramid and scatter into it at every step.
    """

    @staticmethod
    def forward(ctx: Any, mask: Tensor, levels: Tensor) -> Tensor:
        last = levels.shape[1] - 1
        rows = mask.view(-1, len(levels), *mask.shape[1:])  # (R, N, 1, *S)
        depth = (1 - rows).clamp(0, 1) * last
        below = depth.floor().clamp(max=last - 1)
        lower, upper = _take_level(levels, below), _take_level(levels, below + 1)
        ctx.save_for_backward(upper - lower)
        ctx.last, ctx.shape = last, rows.shape
        # lerp returns its ends exactly for the weights 0 and 1, so both ends of the mask are met exactly.
        return torch.lerp(lower, upper, depth - below).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        grad = grads[0].reshape(slope.shape)
        return (grad * slope).sum_to_size(ctx.shape).mul(-ctx.last).flatten(0, 1), None


def _take_level(levels: Tensor, level: Tensor) -> Tensor:
    """The level (R, N, 1, *S) or (R, N, C, *S) of each value, from levels (N, L, C, *S): (R, N, C, *S)."""
    rows = levels.expand(len(level), *levels.shape)
    index = level.to(torch.int64).unsqueeze(2).expand(-1, -1, -1, *levels.shape[2:])
    return rows.gather(2, index).squeeze(2)
