"""Random calls of the public methods, good and bad, and what every call must keep to.

A call ends with a result that passes its invariants, or, if one of its arguments is bad, with a TypeError or ValueError
that names this argument. Afterwards the model, the inputs and PyTorch's global state are as before.

Shapes: N images, A areas, K channels, S positions.
"""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_extremal import (
    RISE,
    BlurPyramid,
    CenterAttribution,
    ContrastiveExcitationBackprop,
    ExcitationBackprop,
    ExtremalMasks,
    ExtremalPerturbation,
    FadePyramid,
    FeatureInversion,
    Game,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
    PenaltySolver,
    SmoothMask,
    class_channels,
)
from captum_extremal.metrics import (
    energy_pointing_game,
    insertion_deletion,
    monotone_evidence,
    pointing_game,
    top_masks,
    weight_randomisation,
)

CLASSES = 5
SIDES = {1: (4, 16, 24), 2: (3, 11, 16, 16), 3: (4, 8)}
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1}
_CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMALISATION = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
_GAMES = {"preserve": Game(1, 0), "delete": Game(0, -1), "hybrid": Game(1, -1)}
_PYRAMIDS = {"blur": BlurPyramid(), "fade": FadePyramid()}


class FaultError(Exception):
    """A call did what no call may do."""


def require(holds: Any, what: str) -> None:
    if not bool(holds):
        raise FaultError(what)


# What is explained


class Network(nn.Module):
    """Scores (N, 5) of x (N, C, *S), or of (N, *S, C) if ``last``.

    A "dense" network's scores are (N, 5, *S), those of "one score" (N,).
    """

    KINDS = ("plain", "in place", "normalised", "branching", "constant", "dense", "one score")
    TRAINS = ("dropping", "normalised by batch")

    def __init__(self, kind: str, dimensions: int, channels: int, last: bool = False) -> None:
        super().__init__()
        self.kind, self.last = kind, last
        normalised = kind.startswith("normalised")
        self.first = _CONVOLUTION[dimensions](channels, 4, 3, padding=1)
        self.normal = _NORMALISATION[dimensions](4) if normalised else nn.Identity()
        self.act = nn.ReLU(inplace=kind == "in place")
        self.drop = nn.Dropout(0.3)
        self.pool = _POOL[dimensions](1 if kind == "dense" else 2)
        self.read_out = nn.Linear(4 * 2**dimensions, CLASSES)
        self.dense = _CONVOLUTION[dimensions](4, CLASSES, 1)
        self.train(kind in self.TRAINS)

    def forward(self, x: Tensor, gain: Tensor | None = None, power: Any = None) -> Tensor:
        if self.kind == "in place":
            x.mul_(0.5)
        x = x.movedim(-1, 1) if self.last else x
        h = self.drop(self.act(self.normal(self.first(x))))
        if self.kind == "branching" and float(h.detach().sum()) > 1e9:  # which a tracer cannot follow
            h = 2 * h
        if self.kind == "constant":
            h = 0 * h
        scores = self.dense(h) if self.kind == "dense" else self.read_out(self.pool(h).flatten(1))
        if gain is not None:
            scores = scores * gain.view(-1, *[1] * (scores.dim() - 1))
        if power is not None:
            scores = scores * power
        return scores[:, 0] if self.kind == "one score" else scores


class TwoInputs(nn.Module):
    """The sum of two networks' scores, of an input each."""

    def __init__(self, one: Network, two: Network) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor, y: Tensor, gain: Tensor | None = None, power: Any = None) -> Tensor:
        scores: Tensor = self.one(x, gain, power) + self.two(y)
        return scores


@dataclass
class Scene:
    """A model with inputs for it, and what else each call of it needs."""

    model: nn.Module
    inputs: Any
    target: Any
    further: Any
    network: Network  # the model, or its first part
    steady: bool  # whether a score depends on the image alone
    wrapped: bool = False  # whether the methods see a function instead of the model

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)

    @property
    def channels_first(self) -> tuple[Tensor, ...]:
        """The inputs as (N, C, *S)."""
        return tuple(x.movedim(-1, 1) if self.network.last else x for x in self.tensors)

    @property
    def images(self) -> int:
        return len(self.tensors[0])

    @property
    def forward_func(self) -> Callable[..., Any]:
        return (lambda *given: self.model(*given)) if self.wrapped else self.model

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.tensors[0].dtype]

    def score(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Phi (N,) of inputs like the scene's."""
        further = self.further if isinstance(self.further, tuple) else (self.further,)
        given = () if self.further is None else further
        with torch.no_grad():
            output = self.model(*(x.detach().clone() for x in inputs), *given).double()
        if self.target is None:
            return output
        columns = np.asarray(self.target).reshape(-1).tolist()
        if isinstance(self.target, tuple):
            return output[(slice(None), *columns)]
        columns = columns * self.images if len(columns) == 1 else columns
        return torch.stack([row[column].mean() for row, column in zip(output, columns)])


def scene_of(
    r: random.Random,
    *,
    dimensions: int | None = None,
    channels: int | None = None,
    single: bool = False,
    may_be_last: bool = False,
) -> Scene:
    """A model and inputs; with ``may_be_last`` the channels are sometimes the last axis."""
    last = may_be_last and r.random() < 0.25
    dimensions = dimensions or r.choice((1, 2, 2, 2, 3))
    channels = channels or r.randint(1, 3)
    kind = r.choice((*Network.KINDS, *Network.TRAINS))
    images = r.randint(2 if kind == "normalised by batch" else 1, 3)
    dtype = r.choice((torch.float32,) * 5 + (torch.float64,) * 3 + (torch.bfloat16,))
    two = not single and kind not in ("dense", "one score") and r.random() < 0.2
    generator = torch.Generator().manual_seed(r.randrange(2**31))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(r.randrange(2**31))
        networks = [Network(kind, dimensions, channels, last).to(dtype) for _ in range(1 + two)]
    model = TwoInputs(*networks).train(networks[0].training) if two else networks[0]
    if r.random() < 0.3:
        model.requires_grad_(False)

    def make() -> Tensor:
        shape = (images, channels, *(r.choice(SIDES[dimensions]) for _ in range(dimensions)))
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return r.choice(LAYOUTS)(x.movedim(1, -1) if last else x)

    inputs = tuple(make() for _ in networks) if two or (not single and r.random() < 0.1) else make()
    return Scene(
        model,
        inputs,
        target_of(r, kind, images, dimensions),
        further_of(r, images, dtype, generator),
        networks[0],
        steady=kind not in Network.TRAINS,
        wrapped=r.random() < 0.2,
    )


def _in_inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x,
    lambda x: x.flip(-1).transpose(-1, -2).contiguous().transpose(-1, -2),
    lambda x: x[:1].expand_as(x),
    lambda x: x.clone().requires_grad_(),
    lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    _in_inference,
)


def target_of(r: random.Random, kind: str, images: int, dimensions: int) -> Any:
    columns = [r.randrange(CLASSES) for _ in range(images)]
    if kind == "one score":
        return None
    if kind == "dense":  # of which Captum takes one class for all, or an index for each
        return r.choice((columns[0], np.int32(columns[0]), (columns[0], *[1] * dimensions), [(c,) for c in columns]))
    kinds: list[Any] = [columns[0], np.int32(columns[0]), columns, torch.tensor(columns), torch.tensor(columns[0])]
    kinds += [np.array(columns), torch.tensor(columns, dtype=torch.int32)]
    return r.choice(kinds)


def further_of(r: random.Random, images: int, dtype: torch.dtype, generator: torch.Generator) -> Any:
    gain = 0.5 + torch.rand(images, generator=generator, dtype=torch.float64).to(dtype)
    return r.choice((None, None, None, gain, (gain,), (gain, 2.0), (None, torch.tensor(2.0, dtype=dtype))))


# Calls


@dataclass
class Call:
    """A call of one method: ``run(**given)``, and what its result must satisfy within the same context.

    Attributes:
        bad: the name of the argument that is bad, None for a valid call.
        context: entered around the call.
    """

    method: str
    scene: Scene
    run: Callable[..., Any]
    given: dict[str, Any]
    check: Callable[[Any], None]
    bad: str | None = None
    context: Callable[[], Any] = contextlib.nullcontext
    name: str = "plainly"

    def __repr__(self) -> str:
        scene = self.scene
        hidden = ("inputs", "target", "loader", "found", "attribution", "make_attribution", "method", "callback")
        given = {name: value for name, value in self.given.items() if name not in hidden}
        shapes = [(tuple(x.shape), str(x.dtype)) for x in scene.tensors]
        where = f"of a network {scene.network.kind!r}, inputs {shapes}, {self.name}"
        bad = f", bad: {self.bad}={self.given.get(self.bad)!r}" if self.bad else ""
        return f"{self.method}({given}, target={self.given.get('target')!r}) {where}{bad}"


@contextlib.contextmanager
def _default_double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "plainly": contextlib.nullcontext,
    "without gradients": torch.no_grad,
    "in inference mode": torch.inference_mode,
    "in autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "with doubles by default": _default_double,
}


def like_inputs(scene: Scene, low: float | None = None, high: float | None = None) -> Callable[[Any], None]:
    """A check of maps in the shapes and types of the inputs, within these bounds."""

    def check(maps: Any) -> None:
        require(isinstance(maps, tuple) == isinstance(scene.inputs, tuple), "maps are no tuple where inputs are one")
        for one, x in zip(maps if isinstance(maps, tuple) else (maps,), scene.tensors):
            check_map(one, x, low, high)

    return check


def like_layer(
    scene: Scene, layer: nn.Module, given: dict[str, Any], low: float | None = None, high: float | None = None
) -> Callable[[Any], None]:
    """A check of a map in the shape and type of the layer's activation, within these bounds."""
    return lambda one: check_map(one, activation_of(scene, layer, given), low, high)


def check_map(one: Tensor, x: Tensor, low: float | None, high: float | None) -> None:
    require((one.shape, one.dtype, one.device) == (x.shape, x.dtype, x.device), f"a map is {one.shape}, {one.dtype}")
    require(one.isfinite().all(), "a map is not finite")
    require(one.is_contiguous(), "a map is not contiguous")
    require(not one.requires_grad, "a map requires gradients")
    require(low is None or one.min() >= low, f"a map has values below {low}")
    require(high is None or one.max() <= high, f"a map has values above {high}")


def search_settings(r: random.Random, scene: Scene, *, counts: bool = False) -> dict[str, Any]:
    """Settings of a search, each left out half of the time but the solver, which is short."""
    solvers = [
        PathSolver(steps=4),
        PathSolver(steps=4, searches=2, refinement=r.choice((0.0, 1.0))),
        PathSolver(steps=3, sweeps=2, binary_weight=0.0, precision=r.choice((None, torch.bfloat16))),
        PenaltySolver(steps=3, flip=False),
    ]
    if not counts:
        solvers.append(PenaltySolver(steps=4))
    areas: list[Any] = [0.3, [0.25, 0.5], (0.3, 1.0), torch.tensor([0.25, 0.75])]
    if counts:
        areas += [[1, 3], 2]
    threshold = [r.uniform(-1, 1), 1e3, -1e3, [0.1] * scene.images, torch.linspace(-1, 1, scene.images)]
    threshold += [lambda clean, perturbed: perturbed + 0.5 * (clean - perturbed)]
    given = {
        "areas": r.choice(areas),
        "game": r.choice((*_GAMES, Game(1.0, -0.5), Game(-1.0, 0.0))),
        "score_threshold": r.choice(threshold),
        "perturbations_per_eval": r.randint(1, 4),
        "callback": lambda step, areas, values: None,
        "show_progress": True,
    }
    return {"solver": r.choice(solvers)} | half_of(r, given)


def half_of(r: random.Random, given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if r.random() < 0.5}


def perturbation_settings(r: random.Random, scene: Scene) -> dict[str, Any]:
    small = BlurPyramid(sigma_max=1.5, levels=3, padding=r.choice(("zeros", "reflect")))
    chosen = r.choice(("blur", "fade", small, FadePyramid()))
    x = scene.tensors[0]
    given: dict[str, Any] = {"perturbation": chosen}
    if not isinstance(scene.inputs, tuple):
        each = [
            0.5,
            -1,
            x.detach()[:1] * 0,
            torch.randn_like(x),
            x.detach().mean(tuple(range(2, x.dim())), keepdim=True),
        ]
        given["baselines"] = r.choice(each)
    return half_of(r, given)


def of_model(scene: Scene) -> dict[str, Any]:
    given = {"inputs": scene.inputs, "target": scene.target, "additional_forward_args": scene.further}
    return given | ({"channel_dim": -1} if scene.network.last else {})


def extremal_attribute(r: random.Random) -> Call:
    scene = scene_of(r, may_be_last=True)
    given = of_model(scene) | search_settings(r, scene) | perturbation_settings(r, scene)
    given |= half_of(r, {"mask": SmoothMask(step=2.0)}) | {"reduce": r.choice(("extremal", "sum", "refined"))}
    high = {"extremal": 1.0, "refined": 2.02}.get(given["reduce"])
    run = ExtremalPerturbation(scene.forward_func).attribute
    return Call("ExtremalPerturbation.attribute", scene, run, given, like_inputs(scene, 0.0, high))


def extremal_masks(r: random.Random) -> Call:
    scene = scene_of(r, may_be_last=True)
    given = of_model(scene) | search_settings(r, scene) | perturbation_settings(r, scene)
    given |= half_of(r, {"mask": SmoothMask(step=2.0, temperature=r.choice((0, 0.1)))})
    if r.random() < 0.2:
        given["areas"] = "optimal"
    run = ExtremalPerturbation(scene.forward_func).extremal_masks
    return Call(
        "ExtremalPerturbation.extremal_masks", scene, run, given, lambda found: check_found(found, scene, given)
    )


def robustness(r: random.Random) -> Call:
    """Of masks that were found before."""
    scene = scene_of(r, may_be_last=True)
    chosen = perturbation_settings(r, scene)
    settings = {"areas": r.choice(((0.25, 0.5), "optimal", None)), "solver": PathSolver(steps=3)}
    game = r.choice(tuple(_GAMES))
    method = ExtremalPerturbation(scene.forward_func)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        found = method.extremal_masks(**of_model(scene), **chosen, **settings, game=game)
    given = {"found": found} | of_model(scene) | {n: v for n, v in chosen.items() if n == "baselines"}
    given |= half_of(r, {"perturbations_per_eval": r.randint(1, 3)})

    def check(robust: Any) -> None:
        require(robust.soft.shape == (scene.images, len(found.areas) + 1, len(robust.names)), "soft has another shape")
        require(robust.soft.isfinite().all() and robust.binary.isfinite().all(), "values are not finite")
        if scene.steady:
            near(robust.soft[:, :-1, 0], found.values, scene.tolerance, "the own way's values are not the search's")

    return Call("ExtremalPerturbation.robustness", scene, method.robustness, given, check)


def layer_settings(r: random.Random, scene: Scene) -> tuple[dict[str, Any], nn.Module]:
    layer = r.choice((scene.network.first, scene.network.act))
    given = of_model(scene) | search_settings(r, scene, counts=True)
    given |= {"channel_dim": 1, "mask": r.choice(("channels", "channels", "spatial"))}
    if r.random() < 0.3 and layer is scene.network.act:
        given["attribute_to_layer_input"] = True
    return given, layer


def layer_attribute(r: random.Random) -> Call:
    scene = scene_of(r)
    given, layer = layer_settings(r, scene)
    given |= half_of(r, {"multiply_by_activation": True})
    bounds = (None, None) if given.get("multiply_by_activation") else (0.0, 1.0)
    check = like_layer(scene, layer, given, *bounds)
    run = LayerExtremalPerturbation(scene.forward_func, layer).attribute
    return Call("LayerExtremalPerturbation.attribute", scene, run, given, check)


def layer_masks(r: random.Random) -> Call:
    scene = scene_of(r)
    given, layer = layer_settings(r, scene)
    if r.random() < 0.2:
        given["areas"] = "optimal"
    run = LayerExtremalPerturbation(scene.forward_func, layer).extremal_masks
    return Call(
        "LayerExtremalPerturbation.extremal_masks",
        scene,
        run,
        given,
        lambda found: check_found(found, scene, given, layer),
    )


def activation_of(scene: Scene, layer: nn.Module, given: dict[str, Any]) -> Tensor:
    seen: list[Tensor] = []
    if given.get("attribute_to_layer_input"):
        handle = layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    else:
        handle = layer.register_forward_hook(lambda module, arguments, output: seen.append(output.clone()))
    modes = [(module, module.training) for module in scene.model.modules()]
    with handle:
        scene.model.eval()
        scene.score(scene.tensors)
        for module, training in modes:
            module.training = training
    return seen[0]


def meaningful(r: random.Random) -> Call:
    scene = scene_of(r, may_be_last=True)
    given = of_model(scene) | {"steps": r.randint(1, 3)} | perturbation_settings(r, scene)
    others = {"game": r.choice(tuple(_GAMES)), "learning_rate": 0.3, "area_weight": 0.0, "variation_weight": 1.0}
    given |= half_of(r, others | {"variation_power": 2, "seed": r.randrange(100), "show_progress": True})
    run = MeaningfulPerturbation(scene.forward_func).attribute
    return Call("MeaningfulPerturbation.attribute", scene, run, given, like_inputs(scene, 0.0, 1.0))


def rise(r: random.Random) -> Call:
    scene = scene_of(r, may_be_last=True)
    given = of_model(scene) | {"n_samples": r.randint(1, 6)}
    others = {"cells": r.randint(1, 8), "probability": 0.3, "seed": r.randrange(100), "show_progress": True}
    given |= half_of(r, others | {"perturbations_per_eval": r.randint(1, 4)})
    return Call("RISE.attribute", scene, RISE(scene.forward_func).attribute, given, like_inputs(scene))


def center(r: random.Random) -> Call:
    scene = scene_of(r)
    run = CenterAttribution(scene.forward_func).attribute
    return Call("CenterAttribution.attribute", scene, run, of_model(scene), like_inputs(scene, 0.0, 1.0))


def excitation(r: random.Random) -> Call:
    kind = r.choice((ExcitationBackprop, ContrastiveExcitationBackprop))
    scene = scene_of(r)
    layer = r.choice((None, scene.network.first, scene.network.act))
    low = 0.0 if kind is ExcitationBackprop else None
    check = like_inputs(scene, low) if layer is None else like_layer(scene, layer, {}, low)
    run = kind(scene.forward_func, layer).attribute
    return Call(f"{kind.__name__}.attribute", scene, run, of_model(scene), check)


def inversion(r: random.Random) -> Call:
    scene = scene_of(r, dimensions=2, channels=3, single=True)
    scene.further = None
    method = FeatureInversion(scene.forward_func, r.choice((scene.network.first, scene.network.act)))
    given: dict[str, Any] = {"steps": r.randint(1, 2)}
    given |= half_of(r, {"cosine_power": 0.0, "learning_rate": 0.2, "seed": r.randrange(100), "show_progress": True})
    if r.random() < 0.5:
        given |= {"inputs": scene.inputs} | half_of(r, {"channel_mask": torch.rand(scene.images, 4)})
        images, shape, name, run = scene.images, tuple(scene.inputs.shape[2:]), "invert", method.invert
    else:
        given |= {"channels": r.choice((0, [1, 3], torch.tensor([2]))), "size": r.choice((16, (12, 20)))}
        images, name, run = np.asarray(given["channels"]).size, "invert_channels", method.invert_channels
        shape = (16, 16) if given["size"] == 16 else given["size"]

    def check(found: Any) -> None:
        require(found.images.shape == (images, 3, *shape), f"images are {found.images.shape}")
        require(((found.images >= 0) & (found.images <= 1)).all(), "images are not in [0, 1]")
        require(found.dot_products.isfinite().all(), "dot products are not finite")

    return Call(f"FeatureInversion.{name}", scene, run, given, check)


def _any_map(x: Tensor, target: Any = None, **further: Any) -> Tensor:
    return x.detach().mean(1)


def curves(r: random.Random) -> Call:
    scene = scene_of(r, single=True)
    given = {"attribution": _any_map} | of_model(scene) | {"steps": r.randint(1, 4)}
    given |= half_of(r, {"blur": 1.0, "perturbations_per_eval": r.randint(1, 4)})
    if scene.network.kind == "one score":
        given["softmax"] = False

    def check(found: Any) -> None:
        require(found.insertion.shape == found.deletion.shape == (scene.images, given["steps"] + 1), "curves' shape")
        require(found.insertion_auc.isfinite().all() and found.deletion_auc.isfinite().all(), "areas are not finite")
        if scene.steady:
            near(found.insertion[:, -1], found.deletion[:, 0], scene.tolerance, "the whole input has two scores")

    run = lambda **given: insertion_deletion(scene.forward_func, **given)  # noqa: E731
    return Call("insertion_deletion", scene, run, given, check)


def tops(r: random.Random) -> Call:
    scene = scene_of(r, single=True)
    given = {"attribution": _any_map} | of_model(scene) | half_of(r, {"areas": (0.3, 0.6)})
    given |= perturbation_settings(r, scene)

    def check(found: Any) -> None:
        require(((found.masks == 0) | (found.masks == 1)).all(), "masks are not binary")
        positions = found.masks[0, 0].numel()
        near(found.masks.flatten(2).mean(2), found.areas.expand(scene.images, -1), 0.51 / positions, "areas")
        require(monotone_evidence(found).holds.shape == (scene.images,), "evidence has another shape")

    return Call("top_masks", scene, lambda **given: top_masks(scene.forward_func, **given), given, check)


def pointing(r: random.Random) -> Call:
    scene = scene_of(r, dimensions=2, single=True)
    game = r.choice((pointing_game, energy_pointing_game))
    pixels = torch.zeros(scene.images, r.choice((8, 21)), 17, dtype=torch.bool)
    pixels[:, : r.randint(0, 8), 3:9] = True
    further = {"tolerance": r.uniform(0, 5), "blur": r.choice((0, 0.1))} if game is pointing_game else {}
    given = {"attribution": _any_map, "ground_truth": pixels} | of_model(scene) | half_of(r, further)
    if scene.network.kind == "dense":
        given["labels"] = ["cat"] * scene.images  # for targets that are tuples

    def check(outcomes: Any) -> None:
        require(len(outcomes) == scene.images, "there is no outcome for each image")
        require(all(one.value is None or 0 <= one.value <= 1 for one in outcomes), "values are not in [0, 1]")

    return Call(game.__name__, scene, game, given, check)


def randomisation(r: random.Random) -> Call:
    scene = scene_of(r, dimensions=2, single=True)
    scene.inputs = torch.randn(scene.images, scene.inputs.shape[1], 12, 11, dtype=scene.inputs.dtype)
    given = {"make_attribution": lambda net: RISE(net)} | of_model(scene)
    given["make_attribution"] = lambda net: lambda x, **how: RISE(net).attribute(x, n_samples=2, **how)
    given |= half_of(r, {"mode": r.choice(("cascading", "independent")), "seed": r.randrange(100)})

    def check(found: Any) -> None:
        require(found.maps.isfinite().all(), "maps are not finite")
        require(len(found.maps) == len(found.layers) + 1, "there is no map for each layer")

    return Call("weight_randomisation", scene, lambda **given: weight_randomisation(scene.model, **given), given, check)


def channels_of_classes(r: random.Random) -> Call:
    scene = scene_of(r, single=True)
    scene.further = None
    if scene.network.kind in ("dense", "one score"):  # which have no class for each image
        scene.network.kind = "plain"
        scene.network.pool = _POOL[scene.inputs.dim() - 2](2)
    scene.target = [r.randrange(CLASSES) for _ in range(scene.images)]
    method = LayerExtremalPerturbation(scene.forward_func, scene.network.act)
    batch = (scene.inputs.detach(), torch.tensor(scene.target))
    given = {"method": method, "loader": [batch, batch], "channel_dim": 1, "solver": PathSolver(steps=3)}
    given |= half_of(r, {"score_threshold": r.choice((0.0, 1e3)), "areas": [1, 4], "game": "hybrid"})
    with_path = r.random() < 0.5

    def run(**given: Any) -> Any:
        with TemporaryDirectory() as folder:
            path = {"path": Path(folder, "rows.jsonl")} if with_path else {}
            found = class_channels(**given, **path)
            if with_path:
                again = class_channels(**given, **path)
                require(torch.equal(again.masks.nan_to_num(-1), found.masks.nan_to_num(-1)), "a file's rows differ")
            return found

    def check(found: Any) -> None:
        require(found.classes == tuple(sorted(set(scene.target))), f"the classes are {found.classes}")
        require(found.masks.shape == (len(found.classes), 4), f"masks are {found.masks.shape}")
        require(sum(found.used) + sum(found.skipped) == 2 * scene.images, "not every image is counted")

    return Call("class_channels", scene, run, given, check)


METHODS = (
    *(extremal_attribute, extremal_masks, extremal_masks, robustness, layer_attribute, layer_masks, meaningful, rise),
    *(center, excitation, inversion, curves, tops, pointing, randomisation, channels_of_classes),
)


# Results of searches


def near(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    scale = 1 + float(expected.abs().nan_to_num().max()) if expected.numel() else 1.0
    difference = (found.double() - expected.double()).abs().nan_to_num()
    worst = float(difference.max()) if difference.numel() else 0.0
    require(found.shape == expected.shape and worst <= tolerance * scale, f"{what}: off by {worst:.3g}")


def check_found(found: ExtremalMasks, scene: Scene, given: dict[str, Any], layer: nn.Module | None = None) -> None:
    """Areas are exact, values finite, and scores what the model says of the masks, asked once more."""
    n, a = scene.images, len(found.areas)
    each = found.masks if isinstance(found.masks, tuple) else (found.masks,)
    best = found.optimal_masks if isinstance(found.optimal_masks, tuple) else (found.optimal_masks,)
    require(isinstance(found.masks, tuple) == (isinstance(scene.inputs, tuple) and layer is None), "masks are no tuple")
    for masks, optimal in zip(each, best):
        require(masks.dtype == torch.float32 and masks.shape[:2] == (n, a), f"masks are {masks.shape}, {masks.dtype}")
        require(((masks >= 0) & (masks <= 1)).all(), "masks are not in [0, 1]")
        near(masks.double().flatten(2).mean(2), found.areas.expand(n, a), 1e-3, "areas are not exact")
        sure = found.reached
        near(optimal.double().flatten(1).mean(1)[sure], found.optimal_area[sure], 1e-3, "a* is not its mask's area")
        require(not optimal[found.vacuous].any(), "a vacuous mask is not zero")
    for name in ("scores", "complement_scores", "values", "clean_score", "perturbed_score", "optimal_value"):
        require(getattr(found, name).isfinite().all(), f"{name} are not finite")
    game = given.get("game", "preserve")
    game = _GAMES.get(game, game)
    near(game.value(found.scores, found.complement_scores), found.values, 1e-6, "values are not the game's")
    require((found.optimal_value[found.reached] >= found.threshold[found.reached]).all(), "a* is not enough")
    if not scene.steady or given["solver"].precision is not None:
        return
    if isinstance(given.get("areas"), (list, tuple, float, int, Tensor)) and a:
        check_listed(found)
    phi = measured_at(scene, given, layer)
    kept, removed = (found.scores, found.complement_scores)
    near(phi(tuple(torch.ones_like(one) for one in best)), found.clean_score, scene.tolerance, "the clean score")
    near(phi(tuple(torch.zeros_like(one) for one in best)), found.perturbed_score, scene.tolerance, "all hidden")
    near(phi(best), found.optimal_score, scene.tolerance, "the score at a*")
    for k in range(a):
        near(phi(tuple(one[:, k] for one in each)), kept[:, k], scene.tolerance, f"the score at area {k}")
        near(phi(tuple(1 - one[:, k] for one in each)), removed[:, k], scene.tolerance, f"the complement at area {k}")


def check_listed(found: ExtremalMasks) -> None:
    """a* is the smallest of the areas that is enough, 0 where nothing is needed."""
    enough = found.values >= found.threshold[:, None]
    for n in range(len(found)):
        areas = found.areas[enough[n]].tolist()
        expected = 0.0 if found.vacuous[n] else (areas or [float("nan")])[0]
        got = float(found.optimal_area[n])
        require(got == expected or (got != got and expected != expected), f"a* is {got}, not {expected}")


def measured_at(scene: Scene, given: dict[str, Any], layer: nn.Module | None) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """Phi (N,) of masks, one tensor for each input or for the layer."""
    if layer is not None:
        return lambda masks: _score_at(scene, layer, masks[0], bool(given.get("attribute_to_layer_input")))
    perturbation = given.get("perturbation", "blur")
    chosen = _PYRAMIDS.get(perturbation, perturbation) if isinstance(perturbation, str) else perturbation

    def phi(masks: tuple[Tensor, ...]) -> Tensor:
        shown = []
        for own, x, mask in zip(scene.tensors, scene.channels_first, masks):
            wide = torch.promote_types(x.dtype, torch.float32)
            baseline = torch.as_tensor(given.get("baselines", 0.0)).detach().to(wide).expand_as(own)
            baseline = baseline.movedim(-1, 1) if scene.network.last else baseline
            one = chosen.bind(x.detach().clone().to(wide), baseline)(mask.to(wide)).to(x.dtype)
            shown.append(one.movedim(1, -1) if scene.network.last else one)
        return scene.score(tuple(shown))

    return phi


def _score_at(scene: Scene, layer: nn.Module, mask: Tensor, to_input: bool) -> Tensor:
    def masked(x: Tensor) -> Tensor:
        shape = mask.shape if mask.dim() == x.dim() else (*mask.shape, *[1] * (x.dim() - 2))
        return x * mask.view(shape).to(x.dtype)

    if to_input:
        handle = layer.register_forward_pre_hook(lambda module, arguments: (masked(arguments[0]),))
    else:
        handle = layer.register_forward_hook(lambda module, arguments, output: masked(output))
    with handle:
        return scene.score(scene.tensors)


# Bad arguments


def bad_values(argument: str, scene: Scene) -> list[Any]:
    """Values that every method refuses for an argument of this name; none for arguments that are not known here."""
    x = scene.tensors[0].detach()
    counts: list[Any] = [0, -1, 1.5, "2", True, float("nan")]
    numbers: list[Any] = [-1.0, float("nan"), float("inf"), "a", True, [1.0]]
    wrong: dict[str, list[Any]] = {
        "inputs": [None, "image", [x], x.long(), x[:0], x / 0, x[0, 0], (x, "a"), (), x.to(torch.complex64)],
        "target": [1.5, "a", [0] * (len(x) + 1), 99, -99, True, torch.rand(len(x)), {}, [None] * len(x), (99,)],
        "additional_forward_args": [torch.zeros(len(x) + 1), (torch.zeros(len(x) + 1),)],
        "baselines": ["a", x[..., :3], x / 0, float("inf"), [0.0], True, (0.0,) * 3, 1j],
        "areas": [0, -0.1, 1.5, float("nan"), "many", [], [0.5, 0.2], [0.2, 0.2], True, [[0.1]], {}, [1, 0.5], 1e-9],
        "game": ["win", 3, Game, ["delete"]],
        "solver": ["newton", PathSolver, 3, {}],
        "score_threshold": ["high", float("nan"), [1.0] * (len(x) + 1), lambda clean: clean, True, 1j, {}],
        "perturbations_per_eval": counts,
        "callback": [3, lambda: None, "print"],
        "perturbation": ["smear", 3, BlurPyramid, ["blur"]],
        "mask": ["smooth", 3, SmoothMask],
        "reduce": ["mean", 3, ["sum"]],
        "steps": counts,
        "n_samples": counts,
        "cells": [*counts, 99],
        "probability": [*numbers, 0.0, 1.0],
        "learning_rate": [*numbers, 0],
        "area_weight": numbers,
        "variation_weight": numbers,
        "variation_power": [*numbers, 0.5],
        "seed": [1.5, "a", True],
        "cosine_power": numbers,
        "channel_mask": ["a", torch.rand(scene.images + 1, 4), torch.full((scene.images, 4), 2.0), 1],
        "channels": ["a", -1, 1.5, [], 99, [0, True]],
        "size": [0, -4, 1.5, "a", (1, 2, 3), True],
        "channel_dim": ["a", 1.5, 0, 99, True],
        "found": [None, "a", 3],
        "tolerance": numbers,
        "blur": numbers,
        "ground_truth": [None, torch.ones(scene.images), torch.ones(scene.images + 1, 8, 8, dtype=torch.bool), 3],
        "attribution": [None, 3, "a", torch.rand(3), lambda x, target=None: x * float("nan"), lambda: None],
        "make_attribution": [None, 3, lambda: None],
        "mode": ["all", 3],
        "method": [None, ExtremalPerturbation(scene.model), 3],
        "loader": [None, 3, [scene.inputs], []],
        "attribute_to_layer_input": [],
    }
    return wrong.get(argument, [])


BAD_OUTPUTS: tuple[Callable[[Tensor], Any], ...] = (
    lambda y: None,
    lambda y: [y],
    lambda y: y.detach().cpu().float().numpy(),
    lambda y: y.long(),
    lambda y: y * float("nan"),
    lambda y: y[:0],
    lambda y: torch.cat([y, y[:1]]),
    lambda y: y.sum(),
)


def spoil(call: Call, r: random.Random) -> None:
    """Make one argument of a call bad."""
    scene = call.scene
    names = (*OPTIONAL.get(call.method, ()), *call.given)
    known = {name: values for name in names if (values := bad_values(name, scene))}
    if scene.further is None:
        known.pop("additional_forward_args", None)
    if scene.network.kind == "one score" or call.method in NO_TARGET:
        known.pop("target", None)  # which says more than the score has
    call.bad = r.choice(sorted(known))
    call.given[call.bad] = r.choice(known[call.bad])


OPTIONAL: dict[str, tuple[str, ...]] = {
    "ExtremalPerturbation.attribute": ("areas", "game", "perturbation", "mask", "baselines", "callback"),
    "ExtremalPerturbation.extremal_masks": ("areas", "game", "perturbation", "mask", "baselines", "score_threshold"),
}
NO_TARGET = ("CenterAttribution.attribute", "pointing_game", "energy_pointing_game")


def random_call(r: random.Random) -> Call:
    """A call that is valid nearly two times out of three."""
    call = r.choice(METHODS)(r)
    call.name = r.choice(("plainly", "plainly", *CONTEXTS))
    if call.name == "in autocast":
        call.scene.steady = False  # the score is then measured without it
    call.context = CONTEXTS[call.name]
    if r.random() < 0.36:
        spoil(call, r)
    return call


# What is left behind


def traces(scene: Scene) -> dict[str, Any]:
    """Everything that a call must not change."""
    model = scene.model
    modules = dict(model.named_modules())
    found: dict[str, Any] = {
        "tensors of the model": {name: value.clone() for name, value in model.state_dict().items()},
        "flags": {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in modules.items()},
        "classes": {name: type(module) for name, module in modules.items()},
        "hooks": {
            name: [len(part) for part in vars(module).values() if "hook" in str(type(part)) or isinstance(part, dict)]
            for name, module in modules.items()
        },
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "inputs": [x.detach().clone() for x in scene.tensors],
        "inputs' flags": [(x.requires_grad, x.grad, x.is_inference()) for x in scene.tensors],
        "random states": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "defaults": (torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()),
    }
    return found


def changed(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return not torch.equal(before, after)
    if isinstance(before, dict):
        return before.keys() != after.keys() or any(changed(before[name], after[name]) for name in before)
    if isinstance(before, (list, tuple)):
        return len(before) != len(after) or any(map(changed, before, after))
    return bool(before != after)


@contextlib.contextmanager
def leaving_nothing(scene: Scene) -> Iterator[None]:
    """FaultError if anything is left behind, also after an exception."""
    before = traces(scene)
    try:
        yield
    finally:
        after = traces(scene)
        left = [name for name in before if changed(before[name], after[name])]
        require(not left, f"left behind: {', '.join(left)}")


def ending_of(call: Call) -> str:
    """How a call ends: "result", or the name of the error that refuses a bad argument.

    Raises:
        FaultError: it ends in another way, or leaves something behind.
    """
    try:
        with warnings.catch_warnings(record=True) as told, contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("always")
            with call.context():
                with leaving_nothing(call.scene):
                    found = call.run(**call.given)
                require_warnings_to_be_ours(told)
                if call.bad is None:
                    call.check(found)
                    return "result"
    except (TypeError, ValueError) as error:
        require(call.bad is not None, f"a valid call is refused: {type(error).__name__}: {error}")
        # Inputs without a batch dimension have another number of examples than what comes with them.
        named = ("inputs", "target", "additional_forward_args", "baselines") if call.bad == "inputs" else (call.bad,)
        require(
            any(name in str(error) for name in named),
            f"the error does not name {call.bad}: {type(error).__name__}: {error}",
        )
        return type(error).__name__
    except FaultError:
        raise
    except Exception as error:
        raise FaultError(f"{type(error).__name__}: {error}") from error
    raise FaultError(f"a bad {call.bad} is taken: {call.given[call.bad]!r}")


def require_warnings_to_be_ours(told: list[warnings.WarningMessage]) -> None:
    """Every warning is a UserWarning that shows the line which called the package."""
    for one in told:
        require(
            one.category is UserWarning and "captum_extremal/" not in one.filename and "/torch/" not in one.filename,
            f"{one.category.__name__} at {one.filename}:{one.lineno}: {one.message}",
        )
