"""Attribution methods, one a file."""

from captum_extremal.attr.center_attribution import CenterAttribution
from captum_extremal.attr.excitation_backprop import ContrastiveExcitationBackprop, ExcitationBackprop
from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.attr.meaningful_perturbation import MeaningfulPerturbation
from captum_extremal.attr.rise import RISE

__all__ = [
    "RISE",
    "CenterAttribution",
    "ContrastiveExcitationBackprop",
    "ExcitationBackprop",
    "ExtremalPerturbation",
    "LayerExtremalPerturbation",
    "MeaningfulPerturbation",
]
