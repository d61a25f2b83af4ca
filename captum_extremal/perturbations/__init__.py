"""Perturbations: from a mask to a perturbed input (section 3.4). One operator a file."""

from captum_extremal.perturbations.blur import BlurPyramid, gaussian_blur
from captum_extremal.perturbations.fade import FadePyramid
from captum_extremal.perturbations.pyramid import BoundPerturbation, Perturbation
from captum_extremal.perturbations.samples import SamplePerturbation, of_each_input

__all__ = [
    "BlurPyramid",
    "BoundPerturbation",
    "FadePyramid",
    "Perturbation",
    "SamplePerturbation",
    "gaussian_blur",
    "of_each_input",
]
