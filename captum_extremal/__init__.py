"""Extremal perturbations for Captum: which smallest part of an input is enough for a model's output.

The public names are imported when they are first used, so that the command line can print its help without PyTorch.

Data flows in one direction: a module imports only from those before it in this list.

Order of imports:
    _version, _captum, _checks, _state, hooks, _jsonl, masks, perturbations, objective, search, results, layers,
    settings, session, inversion, attr, class_channels, metrics, datasets, evaluation, visualization, cli
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

_MODULE_OF = {
    "RISE": "attr.rise",
    "BlurPyramid": "perturbations",
    "CenterAttribution": "attr.center_attribution",
    "ChannelMask": "masks",
    "ClassChannels": "class_channels",
    "ContrastiveExcitationBackprop": "attr.contrastive_excitation_backprop",
    "ExcitationBackprop": "attr.excitation_backprop",
    "ExtremalMasks": "results",
    "ExtremalPerturbation": "attr.extremal_perturbation",
    "FadePyramid": "perturbations",
    "FeatureInversion": "inversion",
    "Game": "search.games",
    "ImagePrior": "inversion.image_prior",
    "InvertedFeatures": "inversion",
    "LayerExtremalPerturbation": "attr.layer_extremal_perturbation",
    "MeaningfulPerturbation": "attr.meaningful_perturbation",
    "PathSolver": "search",
    "PenaltySolver": "search",
    "RemovalDrop": "class_channels",
    "SmoothMask": "masks",
    "area_loss": "search",
    "class_channels": "class_channels",
}

__all__ = list(_MODULE_OF)

if TYPE_CHECKING:  # for type checkers and editors; a test compares it with the table
    from captum_extremal.attr.center_attribution import CenterAttribution as CenterAttribution
    from captum_extremal.attr.contrastive_excitation_backprop import (
        ContrastiveExcitationBackprop as ContrastiveExcitationBackprop,
    )
    from captum_extremal.attr.excitation_backprop import ExcitationBackprop as ExcitationBackprop
    from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation as ExtremalPerturbation
    from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation as LayerExtremalPerturbation
    from captum_extremal.attr.meaningful_perturbation import MeaningfulPerturbation as MeaningfulPerturbation
    from captum_extremal.attr.rise import RISE as RISE
    from captum_extremal.class_channels import ClassChannels as ClassChannels
    from captum_extremal.class_channels import RemovalDrop as RemovalDrop
    from captum_extremal.class_channels import class_channels as class_channels
    from captum_extremal.inversion import FeatureInversion as FeatureInversion
    from captum_extremal.inversion import InvertedFeatures as InvertedFeatures
    from captum_extremal.inversion.image_prior import ImagePrior as ImagePrior
    from captum_extremal.masks import ChannelMask as ChannelMask
    from captum_extremal.masks import SmoothMask as SmoothMask
    from captum_extremal.perturbations import BlurPyramid as BlurPyramid
    from captum_extremal.perturbations import FadePyramid as FadePyramid
    from captum_extremal.results import ExtremalMasks as ExtremalMasks
    from captum_extremal.search import PathSolver as PathSolver
    from captum_extremal.search import PenaltySolver as PenaltySolver
    from captum_extremal.search import area_loss as area_loss
    from captum_extremal.search.games import Game as Game
else:

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULE_OF})


class _Package(ModuleType):
    """The type of this module, which keeps the function ``class_channels`` visible.

    After the import of a submodule, Python makes it an attribute of its package. The submodule ``class_channels``
    would hide the function of the same name.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
