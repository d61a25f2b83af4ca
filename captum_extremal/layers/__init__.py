"""Layers of a network: the activation of one layer, and the rest of the network behind it (section 5)."""

from captum_extremal.layers.activations import check_layer, name_of
from captum_extremal.layers.tail import LayerTail

__all__ = ["LayerTail", "check_layer", "name_of"]
