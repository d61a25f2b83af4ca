"""A Gaussian in the middle of the image: how well a map scores that ignores the image and the model."""

from functools import reduce
from typing import cast

import torch
from torch import Tensor

from captum_extremal._captum import TargetType, TensorOrTupleOfTensorsGeneric, log_usage
from captum_extremal.arguments import check_arguments, check_inputs, check_target
from captum_extremal.attr._base import BaseAttribution
from captum_extremal.session import like_inputs

_SIGMA = 0.25  # fraction of each side


class CenterAttribution(BaseAttribution):
    """A Gaussian in the middle of the image: the baseline "Cntr." of table 1, which every method should beat.

    The model, ``forward_func``, is never called. The arguments are checked as in other methods.
    """

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel removes one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: TargetType = None,
        additional_forward_args: object = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """The same map for every input of a shape.

        Args:
            inputs: (N, C, *S), S of one to three sides, or a tuple of these.
            target, additional_forward_args: checked, but not used.

        Returns:
            maps like ``inputs`` in shape and type, contiguous. Values in (0, 1], largest at the one or two central
            positions of each side; half precision rounds more positions to the largest value.
        """
        tensors = check_inputs(inputs)
        check_target(target, len(tensors[0]), tensors[0].device)
        check_arguments(additional_forward_args, len(tensors[0]))
        maps = tuple(map(_centred_gaussian, tensors))
        return cast(TensorOrTupleOfTensorsGeneric, like_inputs(maps, tensors, isinstance(inputs, tuple)))


def _centred_gaussian(x: Tensor) -> Tensor:
    """A Gaussian (1, 1, *S) in float32 around the middle of x, as wide along each axis as the axis is long."""
    profiles = []
    for side in x.shape[2:]:
        offset = torch.arange(side, dtype=torch.float32, device=x.device) - (side - 1) / 2
        profiles.append(torch.exp(-0.5 * (offset / (_SIGMA * side)) ** 2))
    return reduce(lambda gaussian, profile: gaussian[..., None] * profile, profiles)[None, None]
