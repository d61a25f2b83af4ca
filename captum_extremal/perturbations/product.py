"""The product of a layer's activation and a mask (equation 9)."""

from collections.abc import Callable

from torch import Tensor

from captum_extremal.perturbations.pyramid import BoundPerturbation


def masked(activation: Tensor, view: Callable[[Tensor], Tensor]) -> BoundPerturbation:
    """The perturbation of a layer: from masks, R N rows, to their products with N activations.

    Args:
        activation: (N, ...). A mask of ones leaves it as it is.
        view: from masks (B, ...) to what multiplies activations (B, ...), such as ``Axes.over_channels``.
    """

    def perturb(mask: Tensor) -> Tensor:
        rows = view(mask)
        return (rows.view(-1, len(activation), *rows.shape[1:]) * activation).flatten(0, 1)

    return perturb
