"""The sanity check of figure 7 (Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018).

A map that explains a model must change when its weights do: each new map is compared with the original.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import scipy
import skimage
import torch
from torch import Tensor, nn

from captum_extremal._captum import TargetType, run_forward
from captum_extremal._checks import check_callable, check_choice, check_count
from captum_extremal._reach import copied, lazy_parameter
from captum_extremal._state import preserve_state, warn_caller
from captum_extremal.first_run import first_run
from captum_extremal.hooks import on_every_input
from captum_extremal.metrics.explanations import Explanation, check_batch, explain, resize

_WHOLE = "(model)"  # the layer with the parameters that belong to no called module but the model itself
_WINDOW = 11  # px, the side of ssim's window, which a Gaussian of 1.5 px has in scikit-image


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


@torch.inference_mode(False)  # a copy that is made inside of it could not be randomised
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
    parameter's own entries, so that signals keep their scale. Layers whose parameters have one value each would not
    change and are left out. Buffers, such as the statistics of batch normalisation, stay.

    Args:
        make_attribution: from a model to a Captum attribution or a function ``(inputs, target=...)``, such as
            ``lambda net: RISE(lambda x: net(x).softmax(1))``. A warning is given if no map changes at all.
        inputs: (N, C, H, W), at least 11 px a side.
        target, additional_forward_args: as Captum takes them.
        mode: "cascading" randomises one more layer at each step and ends with all of them; "independent" randomises
            one layer at each step and keeps the others as they were learned.
        layers: names of modules of the model in the order in which they are randomised, each with all that is in it;
            default every module with parameters of its own that would change, the last to be called first. One that
            is never called, because its parent applies it by itself, goes with the nearest called module around it.
        seed: of the random weights.

    Raises:
        TypeError, ValueError: an argument breaks a rule above, or the model cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, whose copy can be randomised, got {type(model).__name__}")
    check_callable("make_attribution", make_attribution, "model")
    check_choice("mode", mode, ("cascading", "independent"))
    check_count("seed", seed, at_least=0)
    target = check_batch(inputs, target, additional_forward_args)
    if inputs.dim() != 4 or min(inputs.shape[2:]) < _WINDOW:
        raise ValueError(f"inputs must be (N, C, H, W) with sides of at least {_WINDOW} px, got {tuple(inputs.shape)}")
    if lazy := lazy_parameter(model):
        raise ValueError(
            f"model must have its parameters, but {lazy!r} comes with the first forward: call it once first"
        )
    changed = copied(model)
    units = _units(changed, layers, inputs, additional_forward_args)
    generator = torch.Generator().manual_seed(seed)

    def explained() -> Tensor:
        with preserve_state(changed, inputs.device):  # every map is made with the same random numbers and statistics
            made = make_attribution(changed)
            return explain(made, inputs, target, additional_forward_args, "make_attribution's result")

    found = [explained()]
    for parameters in units.values():
        if mode == "independent":
            changed.load_state_dict(model.state_dict())
        for parameter in parameters:
            _randomise(parameter, generator)
        found.append(explained())
    if all(torch.equal(one, found[0]) for one in found):
        rule = "what make_attribution makes must explain the model that it is given, not one from outside"
        warn_caller(f"no map changed at all: {rule}, and look at its weights")
    signed = torch.stack([resize(one.mean(1), inputs.shape[2:]).cpu().double() for one in found])
    absolute = torch.stack([resize(one.abs().mean(1), inputs.shape[2:]).cpu().double() for one in found])
    low, high = absolute.amin((2, 3), keepdim=True), absolute.amax((2, 3), keepdim=True)
    stretched = ((absolute - low) / (high - low)).nan_to_num()  # 0 for a constant map
    compared = (rank_correlation, signed), (rank_correlation, absolute), (ssim, stretched)
    alike = [torch.stack([compare(one, maps[0]) for one in maps[1:]]) for compare, maps in compared]
    return WeightRandomisation(tuple(units), signed, *alike)


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of maps (N, *S), by SciPy; equal values share their mean rank.

    It is (N,) float64 in [-1, 1], and NaN where either map is constant.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "An input array is constant")  # its NaN says so
        return _by_pair(lambda one, other: scipy.stats.spearmanr(one.ravel(), other.ravel())[0], maps, others)


def ssim(maps: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each pair of maps (Wang et al. 2004), by scikit-image.

    The window is that of the paper, a Gaussian of 1.5 px on 11 px, at every place where it lies inside the map, with
    the paper's constants for values between 0 and 1. Maps are (N, H, W), at least 11 px a side, in [0, 1]; the result
    is (N,) float64, 1 for equal maps.
    """
    if isinstance(maps, Tensor) and (maps.dim() != 3 or min(maps.shape[1:]) < _WINDOW):
        raise ValueError(f"maps must be (N, H, W) with sides of at least {_WINDOW} px, got {tuple(maps.shape)}")
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    return _by_pair(partial(skimage.metrics.structural_similarity, **gaussian), maps, others)


def _units(model: nn.Module, layers: Any, inputs: Tensor, further: object) -> dict[str, list[nn.Parameter]]:
    """The parameters of each layer, in the order in which the layers are randomised."""
    if not _changes(model.parameters()):
        raise ValueError("model must have parameters to randomise, of more than one value, got none")
    if layers is None:
        return _called_units(model, inputs, further)
    if isinstance(layers, str) or not layers:
        raise TypeError(f"layers must be names of the model's modules, got {layers!r}")
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            raise ValueError(f"layers must be names of the model's modules, got {name!r}")
        if not _changes(modules[name].parameters()):
            raise ValueError(f"layers must have parameters of more than one value, got {name!r} without any")
    return {name or _WHOLE: list(modules[name].parameters()) for name in layers}


def _changes(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether drawing the parameters again changes any: constants are drawn as themselves."""
    return any(parameter.numel() and bool((parameter != parameter.flatten()[0]).any()) for parameter in parameters)


def _called_units(model: nn.Module, inputs: Tensor, further: object) -> dict[str, list[nn.Parameter]]:
    """The parameters of each module that has some of its own, or of the called one around it; last called first."""
    calls: list[str] = []
    noted = on_every_input(model.named_modules(), lambda name, _: calls.append(name))
    with torch.no_grad(), preserve_state(model, inputs.device), noted:
        first_run(lambda given, others: run_forward(model, given, None, others), (inputs.detach(),), further)
    last_call = {name: order for order, name in enumerate(calls)}
    units: dict[str, list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        if own := list(module.parameters(recurse=False)):
            while name and name not in last_call:
                name = name.rpartition(".")[0]
            units.setdefault(name, []).extend(own)
    changing = [name for name, parameters in units.items() if _changes(parameters)]
    return {name or _WHOLE: units[name] for name in sorted(changing, key=lambda name: -last_call.get(name, 0))}


@torch.no_grad()
def _randomise(parameter: Tensor, generator: torch.Generator) -> None:
    learned = parameter.double().cpu()
    noise = torch.randn(learned.shape, generator=generator, dtype=torch.float64, device="cpu")
    parameter.copy_(learned.mean() + learned.std(correction=0) * noise)


def _by_pair(compare: Callable[[Any, Any], float], maps: Tensor, others: Tensor) -> Tensor:
    for name, part in {"maps": maps, "others": others}.items():
        if not isinstance(part, Tensor) or not part.is_floating_point():
            raise TypeError(f"{name} must be a floating tensor (N, *S), got {getattr(part, 'dtype', type(part))}")
    if maps.shape != others.shape or maps.dim() < 2 or not maps.numel():
        shapes = f"{tuple(maps.shape)} and {tuple(others.shape)}"
        raise ValueError(f"maps and others must be (N, *S) of one shape, got {shapes}")
    pairs = zip(*(part.detach().cpu().double().numpy() for part in (maps, others)))
    return torch.tensor([compare(*pair) for pair in pairs], dtype=torch.float64, device=maps.device)
