"""The sanity check of figure 7 (Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018).

A map that explains a model must change when the model's weights do. Layer by layer, from the output down, the learned
weights are replaced by random ones, and each new map is compared with the original.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_extremal._captum import TargetType, run_forward
from captum_extremal._checks import check_callable, check_choice, check_count
from captum_extremal._state import preserve_state, warn_caller
from captum_extremal.hooks import on_every_input
from captum_extremal.metrics import _maps
from captum_extremal.metrics._maps import Explanation
from captum_extremal.metrics.similarity import WINDOW, rank_correlation, ssim

WHOLE = "(model)"
"""The name of the layer with the parameters that belong to no called module but the model itself."""


@dataclass(frozen=True, eq=False)
class WeightRandomisation:
    """The maps of N images as L layers are randomised.

    Attributes:
        layers: names of the L layers, from the output down.
        maps: (L + 1, N, H, W), the channels' mean: the original, then one map per layer.
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

    Every entry of a parameter is drawn from a normal distribution with the mean and the standard deviation of that
    parameter's own entries, so that signals keep their scale. Layers whose parameters have one value each, such as a
    fresh batch normalisation, would not change and are left out. Buffers, such as the statistics of batch
    normalisation, stay.

    Args:
        model: is not changed: a copy of it is.
        make_attribution: from a model to a Captum attribution or a function ``(inputs, target=...)``, such as
            ``lambda net: RISE(lambda x: net(x).softmax(1))``. Maps are resized to the input. A warning is given if no
            map changes at all.
        inputs: (N, C, H, W), at least 11 px a side.
        target, additional_forward_args: as Captum takes them.
        mode: "cascading" randomises one more layer at each step and ends with all of them; "independent" randomises
            one layer at each step and keeps the others as they were learned.
        layers: names of modules of the model in the order in which they are randomised, each with all that is in it;
            default every module with parameters of its own that would change, the last to be called first. One that
            is never called, because its parent applies it by itself, goes with the nearest called module around it.
        seed: of the random weights, which do not depend on the global random state.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before the model runs), or a map is not finite.
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
    changed = copy.deepcopy(model)
    units = _units(changed, layers, inputs, additional_forward_args)
    generator = torch.Generator().manual_seed(seed)

    def explain() -> Tensor:
        with preserve_state(changed, inputs.device):  # every map is made with the same random numbers and statistics
            made = make_attribution(changed)
            return _maps.explain(made, inputs, target, additional_forward_args, "make_attribution's result")

    found = [explain()]
    for parameters in units.values():
        if mode == "independent":
            _assign(changed.parameters(), model.parameters())
        _assign(parameters, [_random_like(parameter.detach(), generator) for parameter in parameters])
        found.append(explain())
    if all(torch.equal(one, found[0]) for one in found):
        warn_caller(
            "no map changed at all: what make_attribution makes must explain the model that it is given, not one from "
            "outside, and look at its weights"
        )
    return _compare(tuple(units), found, tuple(inputs.shape[2:]))


def _units(
    model: nn.Module, layers: Sequence[str] | None, inputs: Tensor, additional_forward_args: object
) -> dict[str, list[nn.Parameter]]:
    """The parameters of each layer, in the order in which the layers are randomised."""
    if not _changes(model.parameters()):
        raise ValueError("model must have parameters to randomise, of more than one value, got none")
    if layers is None:
        return _called_units(model, inputs, additional_forward_args)
    if isinstance(layers, str) or not layers:
        raise TypeError(f"layers must be names of the model's modules, got {layers!r}")
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            raise ValueError(f"layers must be names of the model's modules, got {name!r}")
        if not _changes(modules[name].parameters()):
            raise ValueError(f"layers must have parameters of more than one value, got {name!r} without any")
    return {name or WHOLE: list(modules[name].parameters()) for name in layers}


def _changes(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether drawing the parameters again changes any: constants are drawn as themselves."""
    return any(parameter.numel() and bool((parameter != parameter.flatten()[0]).any()) for parameter in parameters)


def _called_units(model: nn.Module, inputs: Tensor, additional_forward_args: object) -> dict[str, list[nn.Parameter]]:
    """The parameters of each module that has some of its own, or of the called one around it; last called first."""
    calls: list[str] = []
    noted = on_every_input(model.named_modules(), lambda name, _: calls.append(name))
    with torch.no_grad(), preserve_state(model, inputs.device), noted:
        run_forward(model, (inputs.detach(),), None, additional_forward_args)
    last_call = {name: order for order, name in enumerate(calls)}
    units: dict[str, list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        if own := list(module.parameters(recurse=False)):
            while name and name not in last_call:
                name = name.rpartition(".")[0]
            units.setdefault(name, []).extend(own)
    changing = [name for name, parameters in units.items() if _changes(parameters)]
    return {name or WHOLE: units[name] for name in sorted(changing, key=lambda name: -last_call.get(name, 0))}


def _random_like(learned: Tensor, generator: torch.Generator) -> Tensor:
    learned = learned.double().cpu()
    noise = torch.randn(learned.shape, generator=generator, dtype=torch.float64)
    return learned.mean() + learned.std(correction=0) * noise


def _assign(parameters: Iterable[nn.Parameter], values: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values):
            parameter.copy_(value)


def _compare(layers: tuple[str, ...], found: list[Tensor], shape: tuple[int, ...]) -> WeightRandomisation:
    """Every step's attributions (N, C, h, w) against the first, at the input's size."""
    signed = [_maps.positions(one, shape).cpu().double() for one in found]
    absolute = [_maps.positions(one.abs(), shape).cpu().double() for one in found]

    def by_step(compare: Callable[[Tensor, Tensor], Tensor], maps: list[Tensor]) -> Tensor:
        return torch.stack([compare(one, maps[0]) for one in maps[1:]])

    return WeightRandomisation(
        layers=layers,
        maps=torch.stack(signed),
        rank_correlation=by_step(rank_correlation, signed),
        rank_correlation_absolute=by_step(rank_correlation, absolute),
        ssim=by_step(ssim, [_unit_range(one) for one in absolute]),
    )


def _unit_range(maps: Tensor) -> Tensor:
    """Each map (N, H, W) stretched to [0, 1]; a constant one becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, math.inf)
