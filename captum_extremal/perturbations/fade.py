"""Fade to a baseline (footnote 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal.perturbations.pyramid import BoundPerturbation, Levels


@dataclass(frozen=True)
class FadePyramid:
    """Fade to the baseline (footnote 2; 0, the default baseline, is the mean colour of a normalised image).

    A fade is linear in its intensity, so its pyramid has two levels: the input and the baseline.
    """

    def bind(self, x: Tensor, baseline: Tensor) -> BoundPerturbation:
        """Prepare to fade x (N, C, *S) to the baseline of the same shape."""
        return Levels(torch.stack([x, baseline], dim=1))
