"""Mask families: from free parameters to a mask. One family a file."""

from captum_extremal.masks.channels import BoundChannelMask, ChannelMask
from captum_extremal.masks.family import BoundMask, Linearised, MaskFamily
from captum_extremal.masks.smooth import REFERENCE_SIDE, BoundSmoothMask, SmoothMask, kernel

__all__ = [
    "REFERENCE_SIDE",
    "BoundChannelMask",
    "BoundMask",
    "BoundSmoothMask",
    "ChannelMask",
    "Linearised",
    "MaskFamily",
    "SmoothMask",
    "kernel",
]
