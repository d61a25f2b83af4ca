"""The tensors of a result, which are in a tuple where the inputs were one, and their values as arrays."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def as_tuple(parts: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensor of each input."""
    return parts if isinstance(parts, tuple) else (parts,)


def as_array(values: Tensor) -> Array:
    """The values in float64."""
    return np.asarray(values.detach().cpu().double())
