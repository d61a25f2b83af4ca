"""Rows of a background set in the place of what is hidden, with the score averaged over them.

SHAP calls this the interventional baseline: what is hidden has no value of its own, but the distribution of the data.

Shapes: N inputs (N, ...), M background rows (M, ...), R masks an input as rows (R N, ...).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal._state import as_plain
from captum_extremal.perturbations.pyramid import BoundPerturbation, Perturbation


@dataclass(frozen=True, eq=False, repr=False)
class SamplePerturbation:
    """Replace what is hidden by each of M background rows in turn, and average the scores over them.

    A mask costs M passes of the model. ``baselines`` play no part.

    Args:
        background: (M, ...) in the inputs' shape after the first dimension, such as rows of the training data, with the
            channels on axis 1 whatever ``channel_dim`` is; a tuple where the inputs are one, whose rows of the same
            number belong together.

    Raises:
        TypeError, ValueError: it is no floating tensor or tuple of them with as many rows each, or is not finite.
    """

    background: Tensor | tuple[Tensor, ...]

    def __post_init__(self) -> None:
        parts = self.background if isinstance(self.background, tuple) else (self.background,)
        for part in parts or (None,):
            if not isinstance(part, Tensor) or not part.is_floating_point():
                kind = f"a tensor of {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
                raise TypeError(f"background must be a floating tensor, or a tuple of them, got {kind}")
            if part.dim() < 2 or not part.numel() or len(part) != len(parts[0]):
                shapes = [tuple(one.shape) for one in parts]
                raise ValueError(f"background must have M rows (M, ...), as many in each tensor, got {shapes}")
            if not bool(part.isfinite().all()):
                raise ValueError("background must be finite, got NaN or infinite values")

    def __repr__(self) -> str:
        parts = self.background if isinstance(self.background, tuple) else (self.background,)
        return f"SamplePerturbation(background={', '.join(str(tuple(part.shape)) for part in parts)})"

    def of_inputs(self, count: int) -> list[SamplePerturbation]:
        """The perturbation of each of a number of input tensors.

        Raises:
            ValueError: there is not one background for each of them.
        """
        parts = self.background if isinstance(self.background, tuple) else (self.background,)
        if len(parts) != count:
            raise ValueError(f"background must be one tensor for each of {count} inputs, got {len(parts)}")
        return [SamplePerturbation(part) for part in parts]

    def bind(self, x: Tensor, baseline: Tensor) -> BoundPerturbation:
        """Prepare to replace parts of x (N, ...); the baseline plays no part."""
        background = self.background
        if not isinstance(background, Tensor):
            return self.of_inputs(1)[0].bind(x, baseline)
        if background.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"background must have rows of the inputs' shape {tuple(x.shape[1:])}, got {tuple(background.shape)}"
            )
        return _Replaced(x, as_plain(background.detach()).to(x))


def of_each_input(perturbation: Perturbation, count: int) -> list[Perturbation]:
    """The perturbation of each of a number of input tensors: the same, or its own part of a background.

    Raises:
        ValueError: there is not one background for each of them.
    """
    if isinstance(perturbation, SamplePerturbation):
        return [*perturbation.of_inputs(count)]
    return [perturbation] * count


class _Replaced:
    """Inputs (M R N, ...), sample-major, of masks (R N, ...)."""

    def __init__(self, x: Tensor, background: Tensor) -> None:
        self._x, self._background = x, background[:, None, None]
        self.samples = len(background)

    def __call__(self, mask: Tensor) -> Tensor:
        rows = mask.view(1, -1, len(self._x), *mask.shape[1:])
        return torch.lerp(self._background, self._x, rows).flatten(0, 2)
