"""Attribution methods by name, each as a function from inputs and targets to maps.

The paper's method and its baselines (:data:`METHODS`), the methods of Captum that explain an input or a layer at a
target, used as Captum has them, and the user's own.

Shapes: N images, C channels, K channels of a layer, H rows and W columns of pixels.
"""

import inspect
import math
import os
import pkgutil
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

import captum.attr
import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor, nn

from captum_extremal import attr
from captum_extremal._captum import TargetType, run_forward
from captum_extremal._state import preserve_state
from captum_extremal.hooks import on_every_output

_Options = dict[str, Any]
Explain = Callable[[Tensor, TargetType], Tensor]
"""From inputs (N, C, H, W) and targets to maps (N, 1, H, W) or (N, C, H, W)."""

POINTING_AREAS = (0.025, 0.05, 0.1, 0.2)
"""The areas of section 4.2 for PASCAL VOC; for COCO they are 0.018, 0.025, 0.05, 0.1."""

_WINDOWS = 8  # of occlusion along the shorter side, and cells that are hidden or shown together
_STEPS_AT_ONCE = 4  # steps from the baseline per image; all of them at once would fill the memory


def _largest(attributions: Tensor) -> Tensor:
    """The largest absolute value over the channels (Simonyan et al. 2014)."""
    return attributions.abs().amax(1, keepdim=True)


def _summed(attributions: Tensor) -> Tensor:
    return attributions.sum(1, keepdim=True)


@dataclass(frozen=True)
class Method:
    """How maps are made with a Captum attribution."""

    attribution: type[Any]  # its class, called with the model, or the model and a layer
    to_maps: Callable[[Tensor], Tensor] | None = None  # of attributions (N, K, h, w); None if they are the maps
    options: Mapping[str, Any] = field(default_factory=dict)  # of attribute, that differ from its defaults
    of_probabilities: bool = False  # whether the softmax of the model's output is explained

    @property
    def needs_layer(self) -> bool:
        """Whether it explains a layer."""
        return "layer" in inspect.signature(self.attribution).parameters

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The arguments of ``attribute`` other than inputs and target."""
        every = inspect.signature(self.attribution.attribute).parameters
        return {name: every[name] for name in every if name not in ("self", "inputs", "target")}


METHODS = {
    "extremal": Method(attr.ExtremalPerturbation, options={"areas": (*POINTING_AREAS, 0.4), "reduce": "refined"}),
    "extremal_paper": Method(attr.ExtremalPerturbation, options={"areas": POINTING_AREAS, "reduce": "sum"}),
    "rise": Method(attr.RISE, options={"perturbations_per_eval": 4}, of_probabilities=True),
    "meaningful_perturbation": Method(attr.MeaningfulPerturbation, of_probabilities=True),
    "excitation_backprop": Method(attr.ExcitationBackprop, _summed),
    "contrastive_excitation_backprop": Method(
        attr.ContrastiveExcitationBackprop, lambda attributions: _summed(attributions).clamp(min=0)
    ),
    "center": Method(attr.CenterAttribution),
    "saliency": Method(captum.attr.Saliency, _largest),
    "deconvolution": Method(captum.attr.Deconvolution, _largest),
    "guided_backprop": Method(captum.attr.GuidedBackprop, _largest),
    "grad_cam": Method(captum.attr.LayerGradCam, _summed, options={"relu_attributions": True}),
}
"""The methods of table 1 and this package's own, by name."""

_OF_CAPTUM = (
    "IntegratedGradients, DeepLift, DeepLiftShap, InputXGradient, GuidedGradCam, FeatureAblation, Occlusion, "
    "ShapleyValueSampling, Lime, LRP, KernelShap, GradientShap, LayerConductance, LayerGradientXActivation, "
    "InternalInfluence, LayerDeepLift, LayerDeepLiftShap, LayerGradientShap, LayerIntegratedGradients, LayerLRP"
)


def _of_captum(name: str) -> tuple[str, Method]:
    """The name in snake case, and the method."""
    attribution = getattr(captum.attr, name)
    snake_case = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return snake_case, Method(attribution, _summed if issubclass(attribution, LayerAttribution) else None)


_KNOWN = {**METHODS, **dict(map(_of_captum, _OF_CAPTUM.split(", ")))}


def method_names() -> list[str]:
    """Every name that :func:`make_method` knows: those of :data:`METHODS`, then other methods of Captum."""
    return [*_KNOWN]


def find_method(name: str) -> Method:
    """The method of a name; ValueError if there is none."""
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
            :func:`last_spatial_layer` of the inputs.
        options: keyword arguments of the method's ``attribute``, or of the user's callable.

    Raises:
        ValueError: there is no such method or layer, the method has no such option or takes no layer, or the user's
            callable does not take the model and the options, or returns no function.
    """
    given = dict(options or {})
    method = None if ":" in name else find_method(name)
    if layer is not None and (method is None or not method.needs_layer):
        raise ValueError(f"layer must not be given to {name}, which explains none, got {layer!r}")
    if method is None:
        folder = os.getcwd()
        sys.path.insert(0, folder)
        try:
            return _users_own(name, model, given)
        finally:
            if folder in sys.path:  # the user's module may have removed it
                sys.path.remove(folder)
    if unknown := sorted(given.keys() - method.parameters):
        raise ValueError(f"options of {name} must be among {', '.join(method.parameters)}, got {', '.join(unknown)}")
    if layer is not None:
        _submodule(model, layer)  # which refuses other names
    return partial(_explain, method, model, layer, given)


def _explain(
    method: Method, model: nn.Module, layer: str | None, given: _Options, inputs: Tensor, target: TargetType = None
) -> Tensor:
    parts = [_submodule(model, layer or last_spatial_layer(model, inputs))] if method.needs_layer else []
    attribution = method.attribution((lambda x: model(x).softmax(1)) if method.of_probabilities else model, *parts)
    x = inputs.detach().clone()
    if issubclass(method.attribution, GradientAttribution):
        x.requires_grad_()  # which Captum would do with a warning
    how = {**_needed(method, x), **method.options, **given}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting (forward, )?backward hooks|You are providing multiple inputs")
        found = attribution.attribute(x, target=target, **how).detach()
    maps: Any = method.to_maps(found) if method.to_maps else found
    return maps if maps.shape[2:] == x.shape[2:] else LayerAttribution.interpolate(maps, x.shape[2:], "bilinear")


def _needed(method: Method, x: Tensor) -> dict[str, Any]:
    """Arguments that a method of Captum needs for images: windows, cells, baselines, and a small batch of steps."""
    wanted, (channels, height, width) = method.parameters, x.shape[1:]
    side = math.ceil(min(height, width) / _WINDOWS)
    how: dict[str, Any] = {}
    if "sliding_window_shapes" in wanted:
        how["sliding_window_shapes"] = (channels, side, side)
        how["strides"] = (channels, max(1, side // 2), max(1, side // 2))
    if "feature_mask" in wanted and not issubclass(method.attribution, attr.ExtremalPerturbation):
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
    explain: Explain = make(model, **given)
    if not callable(explain):
        raise ValueError(f"method must return a function (inputs, target), got {type(explain).__name__} of {name!r}")
    return explain


def _submodule(model: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if not layer or layer not in modules:
        near = ", ".join(get_close_matches(layer, modules, 3))
        raise ValueError(f"layer must be a module of the model, got {layer!r}" + (f"; near it: {near}" if near else ""))
    return modules[layer]


def last_spatial_layer(model: nn.Module, inputs: Tensor) -> str:
    """The name of the layer that methods such as Grad-CAM look at where none is given; ValueError if there is none.

    It is the last layer whose output still has positions, and is not yet the scores of the classes: for torchvision's
    VGG16 ``features.29``, for its ResNets ``layer4``. Layers that run more than once, dropout and layers that return
    the output of a pooling layer are left out. The inputs (N, C, H, W) are examples of the model's.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    seen: list[tuple[str, Any]] = []
    record = on_every_output(modules.items(), lambda name, output: seen.append((name, output)))
    with torch.no_grad(), preserve_state(model, inputs.device), record:
        classes = run_forward(model, (inputs[:1],), None, None).shape[1]
    calls = Counter(name for name, _ in seen)
    pooled = {id(output) for name, output in seen if "Pool" in type(modules[name]).__name__}
    found = [
        name
        for name, output in seen
        if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1
        if output.shape[1] != classes and calls[name] == 1
        if id(output) not in pooled and "Dropout" not in type(modules[name]).__name__
    ]
    if not found:
        raise ValueError("layer must be given: no layer of the model has an output (N, K, h, w) with several positions")
    return found[-1]
