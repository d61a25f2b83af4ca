"""Extremal perturbations for Captum: which smallest part of an input is enough for a model's output."""

from captum_extremal.area import area_loss
from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
from captum_extremal.games import Game
from captum_extremal.masks import SmoothMask
from captum_extremal.perturbations import BlurPyramid, FadePyramid
from captum_extremal.results import ExtremalMasks
from captum_extremal.solvers import PathSolver, PenaltySolver

__all__ = [
    "BlurPyramid",
    "ExtremalMasks",
    "ExtremalPerturbation",
    "FadePyramid",
    "Game",
    "PathSolver",
    "PenaltySolver",
    "SmoothMask",
    "area_loss",
]
