"""Layers of a network: which axes of an activation are masked, and the rest of the network behind it."""

from captum_extremal.layers.activations import check_layer, name_of
from captum_extremal.layers.axes import Axes, check_axes, masked, read_axes
from captum_extremal.layers.tail import LayerTail

__all__ = ["Axes", "LayerTail", "check_axes", "check_layer", "masked", "name_of", "read_axes"]
