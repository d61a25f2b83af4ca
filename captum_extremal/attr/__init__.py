"""Attribution methods, one a file."""

from captum_extremal.attr.center_attribution import CenterAttribution as CenterAttribution
from captum_extremal.attr.contrastive_excitation_backprop import (
    ContrastiveExcitationBackprop as ContrastiveExcitationBackprop,
)
from captum_extremal.attr.excitation_backprop import ExcitationBackprop as ExcitationBackprop
from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation as ExtremalPerturbation
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation as LayerExtremalPerturbation
from captum_extremal.attr.meaningful_perturbation import MeaningfulPerturbation as MeaningfulPerturbation
from captum_extremal.attr.rise import RISE as RISE
