"""What the attributions are told about groups of features: the feature mask, checked before the model runs.

Shapes: N examples, G groups; inputs and activations (N, ...).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from captum_extremal.arguments import Tensors
from captum_extremal.masks import FeatureGroups, GroupMask, check_ids_fit


def with_group_mask(
    settings: Mapping[str, Any], default: object, ids: object, is_default: bool, argument: str
) -> Mapping[str, Any]:
    """The settings with a :class:`GroupMask` where groups are masked and no mask was asked for.

    Args:
        settings: as a method was given them.
        default: the mask that means none was asked for.
        ids: what ``argument``, "feature_mask" or "layer_mask", was given; None for nothing.
        is_default: whether groups are masked without ids too.

    Raises:
        ValueError: there are ids, but another mask was asked for.
    """
    mask = settings.get("mask", default)
    if ids is not None and mask != default and not isinstance(mask, GroupMask):
        raise ValueError(f"mask must be GroupMask() where {argument} names groups, got {mask!r}")
    grouped = mask == default and (ids is not None or is_default)
    return {**settings, "mask": GroupMask()} if grouped else settings


def has_columns_alone(inputs: object) -> bool:
    """Whether all inputs are tables (N, F), whose columns are groups where nothing else is said."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return bool(parts) and all(isinstance(x, Tensor) and x.dim() == 2 for x in parts)


def groups_of(mask: GroupMask, ids: Tensors | None, tensors: Tensors, argument: str) -> FeatureGroups:
    """The groups of tensors (N, ...), from ids that ``check_ids`` checked; None for a group of every element."""
    if ids is None:
        return FeatureGroups.of_every_column(mask, tensors)
    return FeatureGroups.of(mask, check_ids_fit(argument, ids, tensors), tensors)
