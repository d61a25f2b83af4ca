"""The centre of the image, whatever the model: how far photographers' habits go in the pointing game."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_extremal._captum import TargetType, TensorOrTupleOfTensorsGeneric, log_usage
from captum_extremal.arguments import check_arguments, check_inputs, check_target
from captum_extremal.session import like_inputs

_SIGMA = 0.25  # of each side


class CenterAttribution(Attribution):
    """A Gaussian in the middle of the image: the baseline "Cntr." of table 1, which every method should beat.

    The model is never called. What the method takes, and what it refuses, is what other methods do, so that it can
    stand in any one's place.

    Args:
        forward_func: any model.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        Attribution.__init__(self, forward_func)

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: the map does not depend on the input's values."""
        return False

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError("attribute_future is not implemented for CenterAttribution")

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel peels off one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: TargetType = None,
        additional_forward_args: object = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """The same map for every input of a shape.

        Args:
            inputs: (N, C, *S) with one to three spatial dimensions of at least 8 positions each, or a tuple of such
                tensors.
            target, additional_forward_args: checked, and without influence.

        Returns:
            a tensor like ``inputs`` (a tuple where they are one): same shape, type and device, contiguous. Values in
            (0, 1], largest at the centre: one position, or the two nearest along a side of even length (half precision
            rounds more of those around it to the same value).

        Raises:
            TypeError, ValueError: an argument is bad.
        """
        tensors = check_inputs(inputs)
        check_target(target, len(tensors[0]), tensors[0].device)
        check_arguments(additional_forward_args, len(tensors[0]))
        maps: TensorOrTupleOfTensorsGeneric = like_inputs(
            tuple(_centred_bump(x) for x in tensors), tensors, isinstance(inputs, tuple)
        )
        return maps


def _centred_bump(x: Tensor) -> Tensor:
    """A Gaussian (1, 1, *S) in float32 around the middle of x, each axis in units of its own length."""
    bump = torch.ones(1, 1, *[1] * (x.dim() - 2), device=x.device)
    for axis, side in enumerate(x.shape[2:], start=2):
        offset = torch.arange(side, device=x.device) - (side - 1) / 2
        profile = torch.exp(-0.5 * (offset / (_SIGMA * side)) ** 2)
        bump = bump * profile.view(-1, *[1] * (x.dim() - 1 - axis))
    return bump
