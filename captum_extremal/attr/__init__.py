"""Attribution methods, one a file."""

from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation

__all__ = ["ExtremalPerturbation"]
