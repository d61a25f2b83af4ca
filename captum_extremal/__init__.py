"""Extremal perturbations for Captum: which smallest part of an input is enough for a model's output.

Each module imports only modules that stand before it. ``tests/test_public.py`` reads the line and checks it.

Order of imports: _captum, _checks, _state, _version, _rows, hooks, masks, perturbations, search, objective, results,
layers, inversion, attr, class_channels, metrics, datasets, evaluation, visualization, cli
"""

from captum_extremal.attr.center_attribution import CenterAttribution
from captum_extremal.attr.contrastive_excitation_backprop import ContrastiveExcitationBackprop
from captum_extremal.attr.excitation_backprop import ExcitationBackprop
from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.attr.meaningful_perturbation import MeaningfulPerturbation
from captum_extremal.attr.rise import RISE
from captum_extremal.class_channels import ClassChannels, RemovalDrop, class_channels
from captum_extremal.inversion import FeatureInversion, InvertedFeatures
from captum_extremal.inversion.image_prior import ImagePrior
from captum_extremal.masks import ChannelMask, SmoothMask
from captum_extremal.perturbations import BlurPyramid, FadePyramid
from captum_extremal.results import ExtremalMasks
from captum_extremal.search import PathSolver, PenaltySolver, area_loss
from captum_extremal.search.games import Game

__all__ = [
    "RISE",
    "BlurPyramid",
    "CenterAttribution",
    "ChannelMask",
    "ClassChannels",
    "ContrastiveExcitationBackprop",
    "ExcitationBackprop",
    "ExtremalMasks",
    "ExtremalPerturbation",
    "FadePyramid",
    "FeatureInversion",
    "Game",
    "ImagePrior",
    "InvertedFeatures",
    "LayerExtremalPerturbation",
    "MeaningfulPerturbation",
    "PathSolver",
    "PenaltySolver",
    "RemovalDrop",
    "SmoothMask",
    "area_loss",
    "class_channels",
]
