"""What the attributions share: what they tell Captum about themselves, and linear interpolation."""

import re

import torch.nn.functional as F
from captum.attr import Attribution
from torch import Tensor


class BaseAttribution(Attribution):
    """Put this before Captum's own base class in the list of bases."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: an attribution says what matters, and is no score that was multiplied by the input."""
        return False

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    @classmethod
    def get_name(cls) -> str:
        """The name of the class in words; acronyms stay whole."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__)


def upsample(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Enlarge x (B, C, *S) to a shape of one to three dimensions, by linear interpolation."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    return F.interpolate(x, size=shape, mode=mode, align_corners=False)
