"""The product of a layer's activation and a mask (equation 9)."""

import torch
from torch import Tensor

from captum_extremal.perturbations.pyramid import BoundPerturbation


def masked(activation: Tensor, baseline: Tensor | None = None) -> BoundPerturbation:
    """The perturbation of a layer: from masks, R N rows, to their products with N activations.

    Args:
        activation: (N, ...). A mask of ones leaves it as it is. Masks have its shape, or 1 in dimensions over which
            they are repeated.
        baseline: (N, ...), to which a mask of zeros fades; None for 0.
    """

    def perturb(mask: Tensor) -> Tensor:
        rows = mask.view(-1, len(activation), *mask.shape[1:])
        return (rows * activation if baseline is None else torch.lerp(baseline, activation, rows)).flatten(0, 1)

    return perturb
