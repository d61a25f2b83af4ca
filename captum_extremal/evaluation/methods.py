"""Attribution methods by name, each as a function from inputs and targets to maps.

The paper's and its baselines, every method of Captum that explains an input or a layer at a target, and one's own. What
a name stands for is in :data:`METHODS`; a method of Captum that is not there is used as Captum has it.

Shapes: N images, C channels, K channels of a layer, H rows and W columns of pixels.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping
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

_NEVER = (
    captum.attr.ShapleyValues,  # as many passes as there are subsets of cells
    captum.attr.FeaturePermutation,  # exchanges values between the images of a batch: nothing happens to one alone
)
_WINDOWS = 8  # of occlusion along the shorter side, and cells of what is hidden or shown as a whole
_STEPS_AT_ONCE = 4  # of the way from the baseline, of each image: all of them would fill the memory


def _as_found(attributions: Tensor) -> Tensor:
    return attributions


def _largest(attributions: Tensor) -> Tensor:
    """As Simonyan et al. 2014 make a map of a gradient: its largest absolute value over the channels."""
    return attributions.abs().amax(1, keepdim=True)


def _summed(attributions: Tensor) -> Tensor:
    return attributions.sum(1, keepdim=True)


def _summed_positive(attributions: Tensor) -> Tensor:
    return attributions.sum(1, keepdim=True).clamp(min=0)


@dataclass(frozen=True)
class Method:
    """How a map is made with an attribution of Captum's kind.

    Attributes:
        attribution: its class, made of the model, or of the model and a layer.
        to_maps: from its attributions (N, C, H, W), or (N, K, h, w) of a layer, to maps (N, 1, ...) or (N, C, ...).
        options: keyword arguments of ``attribute`` other than its defaults.
        of_probabilities: whether the softmax of the model's output is explained.
    """

    attribution: type[Attribution]
    to_maps: Callable[[Tensor], Tensor] = _as_found
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    of_probabilities: bool = False

    @property
    def needs_layer(self) -> bool:
        """Whether it looks at a layer."""
        return "layer" in inspect.signature(self.attribution).parameters

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The arguments of ``attribute``, but for inputs and target."""
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


def method_names() -> list[str]:
    """Every name that :func:`make_method` knows: those of :data:`METHODS`, then the rest of Captum's."""
    return [*METHODS, *_others()]


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        ValueError: there is none.
    """
    known = {**METHODS, **_others()}
    if name not in known:
        close = get_close_matches(name, known, 3)
        near = f"near it: {', '.join(close)}" if close else f"one of {', '.join(known)}"
        raise ValueError(f"method must be a known name or module:callable, got {name!r}; {near}")
    return known[name]


def make_method(
    name: str, model: nn.Module, *, layer: str | None = None, options: Mapping[str, Any] | None = None
) -> Explain:
    """What explains a model: a method of the package or of Captum, or one's own.

    Args:
        name: one of :func:`method_names`; or ``module:callable``, where the callable takes the model and returns a
            function ``(inputs, target)`` to maps (N, 1, H, W) or (N, C, H, W).
        model: from (N, C, H, W) to scores (N, K).
        layer: for methods that look at a layer, its name in ``model.named_modules()``; None for
            :func:`~captum_extremal.evaluation.layers.last_spatial_layer` of the inputs.
        options: keyword arguments of the method's ``attribute``, or of one's own callable.

    Raises:
        ValueError: there is no such method or layer, the method has no such option, or takes no layer; one's own does
            not take the model and the options, or returns no function.
    """
    given = dict(options or {})
    if ":" in name:
        _refuse_layer(name, layer)
        return _own(name, model, given)
    method = find_method(name)
    unknown = sorted(set(given) - set(method.parameters))
    if unknown:
        raise ValueError(f"options of {name} must be among {', '.join(method.parameters)}, got {', '.join(unknown)}")
    if not method.needs_layer:
        _refuse_layer(name, layer)
    elif layer is not None:
        _submodule(model, layer)
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
        maps: Tensor = method.to_maps(found.detach())
        if maps.shape[2:] == x.shape[2:]:
            return maps
        enlarged: Any = LayerAttribution.interpolate(cast(Any, maps), tuple(x.shape[2:]), "bilinear")
        return cast(Tensor, enlarged)

    return explain


def _needed(method: Method, x: Tensor) -> dict[str, Any]:
    """What a method of Captum needs on images: windows, cells hidden as a whole, baselines, few steps at once."""
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
        how["baselines"] = torch.zeros_like(x[:1]).repeat(2, 1, 1, 1)  # a distribution: Captum asks for more than one
    if "internal_batch_size" in wanted:
        how["internal_batch_size"] = _STEPS_AT_ONCE * len(x)
    return how


def _others() -> dict[str, Method]:
    """Captum's methods that are not in the table and explain an input or a layer at a target, by name."""
    listed = {method.attribution for method in METHODS.values()}.union(_NEVER)
    classes = [getattr(captum.attr, name) for name in captum.attr.__all__]
    return {
        _snake_case(one.__name__): Method(one, _summed if issubclass(one, LayerAttribution) else _as_found)
        for one in classes
        if inspect.isclass(one) and issubclass(one, Attribution) and one not in listed and _explains(one)
    }


def _explains(attribution: type[Attribution]) -> bool:
    """Whether it is made of a model and perhaps a layer, and gives attributions at a target."""
    attribute = getattr(attribution, "attribute", None)
    if not inspect.isfunction(attribute):
        return False
    wanted = inspect.signature(attribute).parameters
    return (
        _required(inspect.signature(attribution).parameters) <= {"forward_func", "model", "layer"}
        and _required(wanted) <= {"self", "inputs", "baselines", "sliding_window_shapes"}
        and {"inputs", "target"} <= set(wanted)
        and "layer_mask" not in wanted
    )


def _required(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name for name, one in parameters.items() if one.default is inspect.Parameter.empty and one.kind not in fixed
    }


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _own(name: str, model: nn.Module, given: dict[str, Any]) -> Explain:
    make = _imported(name)
    signature = inspect.signature(make)
    try:
        signature.bind(model, **given)
    except TypeError as error:
        takes = ", ".join(["model", *given])
        raise ValueError(f"method must take ({takes}), got {name!r} that takes {signature}") from error
    explain: Any = make(model, **given)
    if not callable(explain):
        raise ValueError(f"method must return a function (inputs, target), got {type(explain).__name__} of {name!r}")
    return cast(Explain, explain)


def _imported(name: str) -> Callable[..., Explain]:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"method must be importable as module:callable, got {name!r}: {error}") from error
    if not callable(found):
        raise ValueError(f"method must name a callable that takes the model, got {name!r} of {type(found).__name__}")
    return cast(Callable[..., Explain], found)


def _submodule(model: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if not layer or layer not in modules:
        close = get_close_matches(layer, modules, 3)
        near = f"; near it: {', '.join(close)}" if close else ""
        raise ValueError(f"layer must be a module of the model, got {layer!r}{near}")
    return modules[layer]


def _refuse_layer(name: str, layer: str | None) -> None:
    if layer is not None:
        raise ValueError(f"layer must not be given to {name}, which looks at none, got {layer!r}")
