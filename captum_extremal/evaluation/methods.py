"""Attribution methods by name, each as a function from inputs and targets to maps.

The paper's method and its baselines (:data:`METHODS`), the methods of Captum that explain an input or a layer at a
target, used as Captum has them, and the user's own.

Shapes: N images, C channels, K channels of a layer, H rows and W columns of pixels.
"""

from __future__ import annotations

import inspect
import math
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, cast

import captum.attr
import torch
from captum.attr import Attribution, GradientAttribution, LayerAttribution
from torch import Tensor, nn

from captum_extremal._captum import TargetType
from captum_extremal.attr.center_attribution import CenterAttribution
from captum_extremal.attr.contrastive_excitation_backprop import ContrastiveExcitationBackprop
from captum_extremal.attr.excitation_backprop import ExcitationBackprop
from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
from captum_extremal.attr.meaningful_perturbation import MeaningfulPerturbation
from captum_extremal.attr.rise import RISE
from captum_extremal.evaluation.layers import last_spatial_layer

Explain = Callable[[Tensor, TargetType], Tensor]
"""From inputs (N, C, H, W) and targets to maps (N, 1, H, W) or (N, C, H, W)."""

POINTING_AREAS = (0.025, 0.05, 0.1, 0.2)
"""The areas of section 4.2 for PASCAL VOC; for COCO they are 0.018, 0.025, 0.05, 0.1."""

_REFINED_AREAS = (*POINTING_AREAS, 0.4)

_WINDOWS = 8  # of occlusion along the shorter side, and cells that are hidden or shown together
_STEPS_AT_ONCE = 4  # steps from the baseline per image; all of them at once would fill the memory


def _largest(attributions: Tensor) -> Tensor:
    """The largest absolute value over the channels (Simonyan et al. 2014)."""
    return attributions.abs().amax(1, keepdim=True)


def _summed(attributions: Tensor) -> Tensor:
    return attributions.sum(1, keepdim=True)


def _summed_positive(attributions: Tensor) -> Tensor:
    return attributions.sum(1, keepdim=True).clamp(min=0)


@dataclass(frozen=True)
class Method:
    """How maps are made with a Captum attribution.

    Attributes:
        attribution: its class, called with the model, or with the model and a layer.
        to_maps: from its attributions (N, C, H, W), or (N, K, h, w) of a layer, to maps (N, 1, ...); None if they are
            the maps.
        options: keyword arguments of ``attribute`` that differ from its defaults.
        of_probabilities: whether the softmax of the model's output is explained.
    """

    attribution: type[Attribution]
    to_maps: Callable[[Tensor], Tensor] | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    of_probabilities: bool = False

    @property
    def needs_layer(self) -> bool:
        """Whether it explains a layer."""
        return "layer" in inspect.signature(self.attribution).parameters

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The arguments of ``attribute`` other than inputs and target."""
        every = inspect.signature(cast(Any, self.attribution).attribute).parameters
        return {name: every[name] for name in every if name not in ("self", "inputs", "target")}


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "extremal": Method(ExtremalPerturbation, options={"areas": _REFINED_AREAS, "reduce": "refined"}),
        "extremal_paper": Method(ExtremalPerturbation, options={"areas": POINTING_AREAS, "reduce": "sum"}),
        "rise": Method(RISE, options={"perturbations_per_eval": 4}, of_probabilities=True),
        "meaningful_perturbation": Method(MeaningfulPerturbation, of_probabilities=True),
        "excitation_backprop": Method(ExcitationBackprop, _summed),
        "contrastive_excitation_backprop": Method(ContrastiveExcitationBackprop, _summed_positive),
        "center": Method(CenterAttribution),
        "saliency": Method(captum.attr.Saliency, _largest),
        "deconvolution": Method(captum.attr.Deconvolution, _largest),
        "guided_backprop": Method(captum.attr.GuidedBackprop, _largest),
        "grad_cam": Method(captum.attr.LayerGradCam, _summed, options={"relu_attributions": True}),
    }
)
"""The methods of table 1 and this package's own, by name."""

_INPUT_METHODS = (
    "IntegratedGradients, DeepLift, DeepLiftShap, InputXGradient, GuidedGradCam, FeatureAblation, Occlusion, "
    "ShapleyValueSampling, Lime, LRP, KernelShap, GradientShap"
)
_LAYER_METHODS = (
    "LayerConductance, LayerGradientXActivation, InternalInfluence, LayerDeepLift, LayerDeepLiftShap, "
    "LayerGradientShap, LayerIntegratedGradients, LayerLRP"
)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


_KNOWN = {
    **METHODS,
    **{_snake_case(name): Method(getattr(captum.attr, name)) for name in _INPUT_METHODS.split(", ")},
    **{_snake_case(name): Method(getattr(captum.attr, name), _summed) for name in _LAYER_METHODS.split(", ")},
}


def method_names() -> list[str]:
    """Every name that :func:`make_method` knows: those of :data:`METHODS`, then other methods of Captum."""
    return [*_KNOWN]


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in _KNOWN:
        near = ", ".join(get_close_matches(name, _KNOWN, 3))
        known = f"near it: {near}" if near else f"one of {', '.join(_KNOWN)}"
        raise ValueError(f"method must be a known name or module:callable, got {name!r}; {known}")
    return _KNOWN[name]


def make_method(
    name: str, model: nn.Module, *, layer: str | None = None, options: Mapping[str, Any] | None = None
) -> Explain:
    """A function that explains a model: by a method of the package, of Captum or of the user.

    Args:
        name: one of :func:`method_names`; or ``module:callable``, where the callable takes the model and returns a
            function ``(inputs, target)`` to maps (N, 1, H, W) or (N, C, H, W). The module is looked for in the working
            directory first, as ``python -m`` does.
        model: from (N, C, H, W) to scores (N, K).
        layer: for methods that explain a layer, its name in ``model.named_modules()``; None for
            :func:`~captum_extremal.evaluation.layers.last_spatial_layer` of the inputs.
        options: keyword arguments of the method's ``attribute``, or of the user's callable.

    Raises:
        ValueError: there is no such method or layer, the method has no such option or takes no layer, or the user's
            callable does not take the model and the options, or returns no function.
    """
    given = dict(options or {})
    if ":" in name:
        _refuse_layer(name, layer)
        with _working_directory_first():
            return _users_own(name, model, given)
    method = find_method(name)
    unknown = sorted(set(given) - set(method.parameters))
    if unknown:
        raise ValueError(f"options of {name} must be among {', '.join(method.parameters)}, got {', '.join(unknown)}")
    if not method.needs_layer:
        _refuse_layer(name, layer)
    elif layer is not None:
        _submodule(model, layer)  # which refuses other names
    return _explainer(method, model, layer, given)


def _explainer(method: Method, model: nn.Module, layer: str | None, given: dict[str, Any]) -> Explain:
    seen_as = (lambda x: model(x).softmax(1)) if method.of_probabilities else model

    def explain(inputs: Tensor, target: TargetType = None) -> Tensor:
        parts = [_submodule(model, layer or last_spatial_layer(model, inputs))] if method.needs_layer else []
        attribution = cast(Any, method.attribution)(seen_as, *parts)
        x = inputs.detach().clone()
        if issubclass(method.attribution, GradientAttribution):
            x.requires_grad_()  # which Captum would do with a warning
        how = {**_needed(method, x), **method.options, **given}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting (forward, )?backward hooks|You are providing multiple inputs")
            found = attribution.attribute(x, target=target, **how)
        maps: Any = method.to_maps(found.detach()) if method.to_maps else found.detach()
        size = tuple(x.shape[2:])
        return cast(Tensor, maps if maps.shape[2:] == size else LayerAttribution.interpolate(maps, size, "bilinear"))

    return explain


def _needed(method: Method, x: Tensor) -> dict[str, Any]:
    """Arguments that a method of Captum needs for images: windows, cells, baselines, and a small batch of steps."""
    wanted, (channels, height, width) = method.parameters, x.shape[1:]
    side = math.ceil(min(height, width) / _WINDOWS)
    how: dict[str, Any] = {}
    if "sliding_window_shapes" in wanted:
        how["sliding_window_shapes"] = (channels, side, side)
        how["strides"] = (channels, max(1, side // 2), max(1, side // 2))
    if "feature_mask" in wanted:
        rows, columns = (torch.arange(length, device=x.device) // side for length in (height, width))
        how["feature_mask"] = (rows[:, None] * (int(columns[-1]) + 1) + columns).expand(1, 1, -1, -1)
    if "baselines" in wanted and wanted["baselines"].default is inspect.Parameter.empty:
        how["baselines"] = torch.zeros_like(x[:1]).repeat(2, 1, 1, 1)  # Captum asks for several
    if "internal_batch_size" in wanted:
        how["internal_batch_size"] = _STEPS_AT_ONCE * len(x)
    return how


def _users_own(name: str, model: nn.Module, given: dict[str, Any]) -> Explain:
    try:
        make = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"method must be importable as module:callable, got {name!r}: {error}") from error
    if not callable(make):
        raise ValueError(f"method must name a callable that takes the model, got {name!r} of {type(make).__name__}")
    signature = inspect.signature(make)
    try:
        signature.bind(model, **given)
    except TypeError as error:
        takes = ", ".join(["model", *given])
        raise ValueError(f"method must take ({takes}), got {name!r} that takes {signature}") from error
    explain = make(model, **given)
    if not callable(explain):
        raise ValueError(f"method must return a function (inputs, target), got {type(explain).__name__} of {name!r}")
    return cast(Explain, explain)


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """Modules of the working directory can be imported; afterwards ``sys.path`` is as before."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _submodule(model: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if not layer or layer not in modules:
        near = ", ".join(get_close_matches(layer, modules, 3))
        raise ValueError(f"layer must be a module of the model, got {layer!r}" + (f"; near it: {near}" if near else ""))
    return modules[layer]


def _refuse_layer(name: str, layer: str | None) -> None:
    if layer is not None:
        raise ValueError(f"layer must not be given to {name}, which explains none, got {layer!r}")
