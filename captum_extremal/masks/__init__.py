"""Mask families: from free parameters to a mask. One family a file."""

from captum_extremal.masks.axes import Axes, check_axes, read_axes
from captum_extremal.masks.channels import BoundChannelMask, ChannelMask
from captum_extremal.masks.family import BoundMask, Family, Layout, Linearised, MaskFamily
from captum_extremal.masks.groups import FeatureGroups, GroupMask, check_ids, check_ids_fit
from captum_extremal.masks.lengths import REFERENCE_SIDE
from captum_extremal.masks.smooth import BoundSmoothMask, SmoothMask
from captum_extremal.masks.smooth_maximum import kernel
from captum_extremal.masks.space_time import SpaceTimeMask

__all__ = [
    "REFERENCE_SIDE",
    "Axes",
    "BoundChannelMask",
    "BoundMask",
    "BoundSmoothMask",
    "ChannelMask",
    "Family",
    "FeatureGroups",
    "GroupMask",
    "Layout",
    "Linearised",
    "MaskFamily",
    "SmoothMask",
    "SpaceTimeMask",
    "check_axes",
    "check_ids",
    "check_ids_fit",
    "kernel",
    "read_axes",
]
