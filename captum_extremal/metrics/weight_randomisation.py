"""The sanity check of figure 7 (Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018).

A map that explains a model must change when the model's weights do. Layer by layer, from the output down, what was
learned is replaced by chance, and each new map is compared with the original.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_extremal._captum import TargetType, run_forward
from captum_extremal._checks import check_callable, check_choice, check_count
from captum_extremal._state import preserve_state, warn_caller
from captum_extremal.metrics import _maps
from captum_extremal.metrics._maps import Explanation
from captum_extremal.metrics.similarity import WINDOW, rank_correlation, ssim, unit_range

WHOLE = "(model)"
"""The name of the layer that holds what belongs to no called module but the model itself."""


@dataclass(frozen=True, eq=False)
class WeightRandomisation:
    """What became of the maps of N images as L layers were randomised.

    Attributes:
        layers: names of the L layers, from the output down.
        maps: (L + 1, N, H, W), the channels' mean: the original, then one map a layer.
        rank_correlation: (L, N), Spearman's, of each map with the original, signs kept; NaN where one is constant.
        rank_correlation_absolute: (L, N), the same of the absolute attributions.
        ssim: (L, N), structural similarity of the absolute attributions, each map stretched to [0, 1].
    """

    layers: tuple[str, ...]
    maps: Tensor
    rank_correlation: Tensor
    rank_correlation_absolute: Tensor
    ssim: Tensor


def weight_randomisation(
    model: nn.Module,
    make_attribution: Callable[[nn.Module], Explanation],
    inputs: Tensor,
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    mode: str = "cascading",
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> WeightRandomisation:
    """Randomise a copy of a model from its output layer down, and compare each step's maps with the original's.

    Every entry of a parameter is drawn again from a normal distribution with the mean and the standard deviation of
    that parameter's own entries, so that signals keep their scale and what is lost is what was learned. Layers with
    nothing to lose, whose parameters have one value each, such as a fresh batch normalisation, are left out. Buffers,
    such as the statistics of batch normalisation, stay.

    Args:
        model: left as it is: all happens on a copy.
        make_attribution: from a model to a Captum attribution or a function ``(inputs, target=...)``, such as
            ``lambda net: Saliency(net)`` or ``lambda net: RISE(lambda x: net(x).softmax(1))``. Maps are resized to
            the input. One that explains another model than the one it is given is warned of.
        inputs: (N, C, H, W), at least 11 px a side.
        target, additional_forward_args: as Captum takes them.
        mode: "cascading" randomises one more layer at each step and ends with all of them; "independent" randomises
            one layer at each step and keeps the others as they were learned.
        layers: names of modules of the model in the order in which they are randomised, each with all that is in it;
            default every module with parameters of its own that can lose something, the last to be called first. What
            is never called, such as a projection that its parent applies by itself, goes with the nearest module
            around it that is.
        seed: of the random weights, which the global random state has no part in.

    Returns:
        the maps, and how alike they are.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before the model runs), or what explains it gives no
            finite map.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, whose copy can be randomised, got {type(model).__name__}")
    check_callable("make_attribution", make_attribution, "model")
    check_choice("mode", mode, ("cascading", "independent"))
    check_count("seed", seed, at_least=0)
    target = _maps.check_batch(inputs, target, additional_forward_args)
    if inputs.dim() != 4 or min(inputs.shape[2:]) < WINDOW:
        raise ValueError(
            f"inputs must be images (N, C, H, W) with sides of at least {WINDOW} px, got shape {tuple(inputs.shape)}"
        )
    named = _check_layers(model, layers)
    changed = copy.deepcopy(model)
    units = _named_units(changed, named) if named else _called_units(changed, inputs, additional_forward_args)
    generator = torch.Generator().manual_seed(seed)

    def explain() -> Tensor:
        with preserve_state(changed, inputs.device):  # so that every map has the same chances, and the same statistics
            explanation = make_attribution(changed)
            _maps.check_explanation(explanation, "make_attribution's result")
            return _maps.explain(explanation, inputs, target, additional_forward_args, "make_attribution's result")

    found = [explain()]
    for parameters in units.values():
        learned = [parameter.detach().clone() for parameter in parameters]
        _randomise(parameters, generator)
        found.append(explain())
        if mode == "independent":
            _assign(parameters, learned)
    if all(torch.equal(one, found[0]) for one in found):
        warn_caller(
            "no map changed at all: what make_attribution makes must explain the model that it is given, not one from "
            "outside, and look at its weights"
        )
    return _compared(tuple(units), found, tuple(inputs.shape[2:]))


def _check_layers(model: nn.Module, layers: Sequence[str] | None) -> list[str]:
    """The names given, none where none are."""
    if not _can_lose(model.parameters()):
        raise ValueError("model must have parameters to randomise, of more than one value, got none")
    if layers is None:
        return []
    if isinstance(layers, str) or not layers:
        raise TypeError(f"layers must be names of the model's modules, got {layers!r}")
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            raise ValueError(f"layers must be names of the model's modules, got {name!r}")
        if not _can_lose(modules[name].parameters()):
            raise ValueError(f"layers must have parameters of more than one value, got {name!r} without any")
    return list(layers)


def _can_lose(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether drawing the parameters again changes any: it draws constants as themselves."""
    return any(parameter.numel() and bool((parameter != parameter.flatten()[0]).any()) for parameter in parameters)


_Units = dict[str, list[nn.Parameter]]
"""Parameters by the layer that they are randomised with, in that order."""


def _named_units(model: nn.Module, names: list[str]) -> _Units:
    return {name or WHOLE: list(model.get_submodule(name).parameters()) for name in names}


def _called_units(model: nn.Module, inputs: Tensor, additional_forward_args: object) -> _Units:
    """Every module with parameters of its own, or the called one around it; the last to be called first."""
    called = _order_of_calls(model, inputs, additional_forward_args)
    units: _Units = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            while name and name not in called:
                name = name.rpartition(".")[0]
            units.setdefault(name, []).extend(own)
    changing = [name for name, parameters in units.items() if _can_lose(parameters)]
    return {name or WHOLE: units[name] for name in sorted(changing, key=lambda name: -called.get(name, 0))}


def _order_of_calls(model: nn.Module, inputs: Tensor, additional_forward_args: object) -> dict[str, int]:
    """When the last call of each module began, in one forward of a model that is ours."""
    called: dict[str, int] = {}
    count = 0

    def note(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            nonlocal count
            called[name], count = count, count + 1

        return hook

    handles = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad(), preserve_state(model, inputs.device):
            run_forward(model, (inputs.detach(),), None, additional_forward_args)
    finally:
        for handle in handles:
            handle.remove()
    return called


def _randomise(parameters: list[nn.Parameter], generator: torch.Generator) -> None:
    drawn = []
    for parameter in parameters:
        learned = parameter.detach().double().cpu()
        noise = torch.randn(learned.shape, generator=generator, dtype=torch.float64)
        drawn.append(learned.mean() + learned.std(correction=0) * noise)
    _assign(parameters, drawn)


def _assign(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values):
            parameter.copy_(value)


def _compared(layers: tuple[str, ...], found: list[Tensor], shape: tuple[int, ...]) -> WeightRandomisation:
    """Every step's maps (N, C, h, w) against the first one's, at the input's size."""
    signed = [_maps.resize(_maps.positions(one), shape).cpu().double() for one in found]
    absolute = [_maps.resize(_maps.positions(one.abs()), shape).cpu().double() for one in found]
    stretched = [unit_range(one) for one in absolute]
    return WeightRandomisation(
        layers=layers,
        maps=torch.stack(signed),
        rank_correlation=torch.stack([rank_correlation(one, signed[0]) for one in signed[1:]]),
        rank_correlation_absolute=torch.stack([rank_correlation(one, absolute[0]) for one in absolute[1:]]),
        ssim=torch.stack([ssim(one, stretched[0]) for one in stretched[1:]]),
    )
