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
from collections import Counter
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
    GroupMask,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
    PenaltySolver,
    SamplePerturbation,
    SmoothMask,
    SpaceTimeMask,
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
from captum_extremal.objectives import BoxScore, RegionScore, Similarity

CLASSES = 5
SIDES = {0: (1,), 1: (4, 16, 24), 2: (3, 11, 16, 16), 3: (4, 8)}  # by the number of dimensions
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1}
_CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMALISATION = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {0: nn.Identity, 1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
_GAMES = {"preserve": Game(1, 0), "delete": Game(0, -1), "hybrid": Game(1, -1)}
_PYRAMIDS = {"blur": BlurPyramid(), "fade": FadePyramid()}


class FaultError(Exception):
    """A call did what no call may do."""


def require(holds: Any, what: str) -> None:
    if not bool(holds):
        raise FaultError(what)


# What is explained


class Network(nn.Module):
    """Scores (N, 5) of x (N, C, *S), or of (N, *S, C) if ``last``; of tables (N, C) without dimensions.

    A "dense" network's scores are (N, 5, *S), those of "one score" (N,).
    """

    KINDS = ("plain", "in place", "normalised", "branching", "constant", "dense", "one score")
    TRAINS = ("dropping", "normalised by batch")

    def __init__(self, kind: str, dimensions: int, channels: int, last: bool = False) -> None:
        super().__init__()
        self.kind, self.last = kind, last
        normalised = kind.startswith("normalised")
        self.entry = nn.Identity()
        if dimensions:
            self.first: nn.Module = _CONVOLUTION[dimensions](channels, 4, 3, padding=1)
        else:
            self.first = nn.Linear(channels, 4)
        self.normal = _NORMALISATION[dimensions](4) if normalised else nn.Identity()
        self.act = nn.ReLU(inplace=kind == "in place")
        self.drop = nn.Dropout(0.3)
        self.pool = _POOL[dimensions](1 if kind == "dense" else 2)
        self.read_out = nn.Linear(4 * 2**dimensions, CLASSES)
        self.dense = _CONVOLUTION[dimensions](4, CLASSES, 1) if dimensions else nn.Identity()
        self.train(kind in self.TRAINS)

    def forward(self, x: Tensor, gain: Tensor | None = None, power: Any = None) -> Tensor:
        if self.kind == "in place":
            x.mul_(0.5)
        x = self.entry(x)
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


class Detector(nn.Module):
    """Three detections of each image, of fixed boxes and classes, whose scores are a network's."""

    BOXES = torch.tensor([[0.0, 0, 2, 2], [0, 1, 3, 3], [1, 0, 2, 3]])
    LABELS = torch.tensor([0, 1, 1])

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        scores = self.network(x)[:, :3].sigmoid()
        return [{"boxes": self.BOXES.to(x), "labels": self.LABELS, "scores": one} for one in scores]


def _overlap(box: Tensor, other: Tensor) -> float:
    """The intersection over union of two boxes."""
    size = (torch.minimum(box[2:], other[2:]) - torch.maximum(box[:2], other[:2])).clamp(min=0)
    areas = [float((one[2:] - one[:2]).prod()) for one in (box, other)]
    return float(size.prod()) / (sum(areas) - float(size.prod()))


@dataclass
class Scene:
    """A model with inputs for it, and what else each call of it needs.

    Attributes:
        steady: whether a score depends on the image alone.
        wrapped: whether the methods see a function instead of the model.
        objective: what the methods see around the model, one of the package's own.
        literal: the scores that it must give, of the model's output.
        spoil: what is done to the output, where a bad one is tried.
    """

    model: nn.Module
    inputs: Any
    target: Any
    further: Any
    network: Network  # the model, or its first part
    steady: bool
    wrapped: bool = False
    objective: Callable[..., Any] | None = None
    literal: Callable[[Any], Tensor] = lambda output: output
    spoil: Callable[[Any], Any] = lambda output: output

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
        if self.objective is not None:
            return self.objective
        return (lambda *given: self.spoil(self.model(*given))) if self.wrapped else self.model

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.tensors[0].dtype]

    def score(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Phi (N,) of inputs like the scene's."""
        further = self.further if isinstance(self.further, tuple) else (self.further,)
        given = () if self.further is None else further
        with torch.no_grad():
            output = self.literal(self.model(*(x.detach().clone() for x in inputs), *given)).double()
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
    may_score: bool = False,
) -> Scene:
    """A model and inputs.

    Args:
        dimensions: S has so many axes; 0 for tables. None for one to three.
        channels: C; None for one to three, and two to nine of tables.
        single: no tuple of inputs.
        may_be_last: the channels are sometimes the last axis.
        may_score: an objective of the package is sometimes around the model.
    """
    if may_score and r.random() < 0.12:
        return with_objective(r, scene_of(r, dimensions=2, channels=channels, single=True))
    last = may_be_last and r.random() < 0.25
    dimensions = r.choice((1, 2, 2, 2, 3)) if dimensions is None else dimensions
    channels = channels or (r.randint(1, 3) if dimensions else r.randint(2, 9))
    kind = r.choice((*Network.KINDS, *Network.TRAINS))
    if not dimensions and kind in ("dense", "normalised by batch"):  # which takes no single row, and has no position
        kind = "plain"
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


def with_objective(r: random.Random, scene: Scene) -> Scene:
    """The scene of images with one of the package's objectives around its network."""
    network, n = scene.network, scene.images
    shape, dtype = scene.tensors[0].shape[2:], scene.tensors[0].dtype
    chosen = r.choice(("region", "similarity", "box"))
    if network.kind in ("dense", "one score") or chosen == "region":
        network.kind = "dense" if chosen == "region" else "plain"
        network.pool = _POOL[2](1 if chosen == "region" else 2)
    scene.further, scene.wrapped = None, False
    if chosen == "similarity":
        texts = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(r.randrange(99)), dtype=torch.float64)
        scene.objective = Similarity(network, texts.to(dtype))
        scene.literal = lambda y: torch.cosine_similarity(y.double()[:, None], texts.to(dtype).double()[None], dim=-1)
        scene.target = r.choice((1, [r.randrange(3) for _ in range(n)]))
        return scene
    scene.target, labels = None, [r.randrange(2) for _ in range(n)]
    if chosen == "region":
        region = torch.zeros(n, *shape)
        region[:, : r.randint(1, shape[0]), 1:] = r.choice((1.0, 0.5))
        scene.objective = RegionScore(network, region, r.choice((labels[0], torch.tensor(labels))))
        which = scene.objective.label.expand(n).tolist()
        scene.literal = lambda y: torch.stack(
            [(y.double()[k, which[k]] * region[k]).sum() / region[k].sum() for k in range(n)]
        )
        return scene
    scene.model, box = Detector(network), torch.tensor([0.0, 0, 2, 3])
    scene.model.train(network.training)
    scene.objective = BoxScore(scene.model, box[None], torch.tensor(labels))
    overlaps = [_overlap(box, one) for one in Detector.BOXES]
    scene.literal = lambda found: torch.stack(
        [
            torch.stack(
                [overlaps[j] * one["scores"][j].double() for j in range(3) if Detector.LABELS[j] == label]
            ).max()
            for one, label in zip(found, labels)
        ]
    )
    return scene


def _in_inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x,
    lambda x: (
        x.flip(-1).transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 2 else x.flip(-1).t().clone().t()
    ),
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


def search_settings(
    r: random.Random, scene: Scene, *, areas: list[Any] | None = None, smallest: float = 0.0, flips: bool = True
) -> dict[str, Any]:
    """Settings of a search, each left out half of the time but the solver, which is short.

    Args:
        areas: one of these is chosen; None for fractions.
        smallest: what fractions are at least.
        flips: whether a solver may mirror the inputs.
    """
    solvers = [
        PathSolver(steps=4),
        PathSolver(steps=4, searches=2, refinement=r.choice((0.0, 1.0))),
        PathSolver(steps=3, sweeps=2, binary_weight=0.0, precision=r.choice((None, torch.bfloat16))),
        PenaltySolver(steps=3, flip=False),
    ]
    if flips and areas is None:
        solvers.append(PenaltySolver(steps=4))
    fractions: list[Any] = [0.3, [0.25, 0.5], (0.3, 1.0), torch.tensor([0.25, 0.75]), 0.6, [0.6, 1.0]]
    areas = areas or [one for one in fractions if float(np.min(np.asarray(one))) >= smallest]
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


def perturbation_settings(r: random.Random, scene: Scene, samples: bool = False) -> dict[str, Any]:
    small = BlurPyramid(sigma_max=1.5, levels=3, padding=r.choice(("zeros", "reflect")))
    chosen = r.choice(("blur", "fade", small, FadePyramid(), background_of(r, scene) if samples else "fade"))
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


def masks_of_positions(r: random.Random, scene: Scene) -> tuple[dict[str, Any], float]:
    """A family of smooth masks, or none, and the smallest area that it has on the inputs."""
    kinds: list[Any] = [None, None, SmoothMask(step=2.0, temperature=r.choice((0, 0.1)))]
    shapes = [tuple(x.shape[2:]) for x in scene.channels_first]
    if len(shapes[0]) == 3:
        kinds += [SpaceTimeMask(), SmoothMask(hold=0), SpaceTimeMask(space=SmoothMask(step=2.0), time_axis=-1)]
    mask = r.choice(kinds)
    smallest = max((SmoothMask() if mask is None else mask).smallest_area(shape) for shape in shapes)
    return ({} if mask is None else {"mask": mask}), smallest


def groups_of(r: random.Random, shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """Ids of groups for tensors of these shapes (N, ...), each repeated along some of the dimensions."""
    found = []
    for shape in shapes:
        repeated = [r.random() < 0.8, *(r.random() < 0.4 for _ in shape[1:])]
        sides = [1 if one else side for one, side in zip(repeated, shape)]
        most = r.choice((3, 6))
        ids = np.array([2 * r.randrange(most) + 1 for _ in range(int(np.prod(sides)))])
        found.append(torch.tensor(ids.reshape(sides), dtype=r.choice((torch.int64, torch.int32))))
    return tuple(found)


def shares_of(ids: tuple[Tensor, ...], tensors: tuple[Tensor, ...], weights: str) -> list[dict[int, float]]:
    """Each group's share of the area, example by example."""
    found = []
    for n in range(len(tensors[0])):
        sizes: Counter[int] = Counter()
        for one, x in zip(ids, tensors):
            sizes.update(one.expand_as(x)[n].flatten().tolist())
        counted = {one: float(size if weights == "size" else 1) for one, size in sizes.items()}
        found.append({one: size / sum(counted.values()) for one, size in sorted(counted.items())})
    return found


def group_settings(
    r: random.Random, tensors: tuple[Tensor, ...], is_tuple: bool, argument: str, may_be_none: bool
) -> tuple[dict[str, Any], list[Any]]:
    """The argument that names groups and their mask family, and areas that masks of them can have.

    Args:
        tensors: what is grouped, each (N, ...).
        may_be_none: whether every element can be a group where no ids are given.
    """
    mask = GroupMask(weights=r.choice(("count", "size")), passes=r.choice((0, 20)))
    given: dict[str, Any] = half_of(r, {"mask": mask})
    weights = given.get("mask", GroupMask()).weights
    if may_be_none and r.random() < 0.3:
        ids, first = [], 0
        for x in tensors:
            ids.append(first + torch.arange(x[0].numel()).view(1, *x.shape[1:]))
            first += x[0].numel()
        every = tuple(ids)
    else:
        every = groups_of(r, [tuple(x.shape) for x in tensors])
        given[argument] = every if is_tuple else every[0]
    shares = shares_of(every, tensors, weights)
    smallest = max(min(one.values()) for one in shares)
    areas: list[Any] = [one for one in (0.3, [0.25, 0.5], 0.6, [0.6, 1.0], 1.0) if np.min(one) >= smallest]
    if weights == "count" and len({len(one) for one in shares}) == 1:
        areas += [1] if len(shares[0]) == 1 else [1, [1, 2]]
    return given, areas


def extremal_group_settings(r: random.Random, scene: Scene, reduce: bool) -> dict[str, Any]:
    """Settings of a search over groups of the inputs' features."""
    is_table = all(x.dim() == 2 for x in scene.tensors)
    groups, areas = group_settings(r, scene.tensors, isinstance(scene.inputs, tuple), "feature_mask", is_table)
    given = of_model(scene) | search_settings(r, scene, areas=areas) | groups
    given |= half_of(r, {"perturbation": r.choice(("fade", background_of(r, scene)))})
    if not isinstance(scene.inputs, tuple):
        given |= half_of(r, {"baselines": 0.5})
    return given | ({"reduce": r.choice(("extremal", "sum"))} if reduce else {})


def background_of(r: random.Random, scene: Scene) -> SamplePerturbation:
    """Two or three rows for each of the inputs."""
    rows = r.randint(2, 3)
    first = tuple(torch.randn_like(x.detach()[:1].repeat(rows, *[1] * (x.dim() - 1))) for x in scene.channels_first)
    return SamplePerturbation(first if isinstance(scene.inputs, tuple) else first[0])


def extremal_scene(r: random.Random) -> tuple[Scene, bool]:
    """A scene, and whether groups of its features are masked."""
    if r.random() < 0.25:
        return scene_of(r, dimensions=r.choice((0, 1, 2)), may_score=True), True
    return scene_of(r, may_be_last=True, may_score=True), False


def extremal_settings(r: random.Random, scene: Scene, grouped: bool, reduce: bool = False) -> dict[str, Any]:
    if grouped:
        return extremal_group_settings(r, scene, reduce)
    mask, smallest = masks_of_positions(r, scene)
    given = (
        of_model(scene)
        | search_settings(r, scene, smallest=smallest)
        | perturbation_settings(r, scene, samples=True)
        | mask
    )
    return given | ({"reduce": r.choice(("extremal", "sum", "refined"))} if reduce else {})


def extremal_attribute(r: random.Random) -> Call:
    scene, grouped = extremal_scene(r)
    given = extremal_settings(r, scene, grouped, reduce=True)
    high = {"extremal": 1.0, "refined": 2.02}.get(given["reduce"])
    run = ExtremalPerturbation(scene.forward_func).attribute
    return Call("ExtremalPerturbation.attribute", scene, run, given, like_inputs(scene, 0.0, high))


def extremal_masks(r: random.Random) -> Call:
    scene, grouped = extremal_scene(r)
    given = extremal_settings(r, scene, grouped) | half_of(r, {"explanations": r.choice((1, 2))})
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
    """Settings of a search at a layer; the first layer of a network whose channels are last has them there too."""
    layer = r.choice((scene.network.first, scene.network.act, *([scene.network.entry] if scene.network.last else [])))
    given = of_model(scene) | {"channel_dim": -1 if layer is scene.network.entry else 1}
    if r.random() < 0.3 and layer is not scene.network.first:
        given["attribute_to_layer_input"] = True
    activation = activation_of(scene, layer, given)
    if r.random() < 0.25:
        given.pop("channel_dim")
        groups, areas = group_settings(r, (activation,), False, "layer_mask", may_be_none=False)
        given |= groups | search_settings(r, scene, areas=areas)
    else:
        mask = r.choice(("channels", "channels", "spatial"))
        axis = given["channel_dim"] % activation.dim()
        positions = tuple(side for k, side in enumerate(activation.shape[1:], 1) if k != axis)
        if mask == "spatial":
            chosen = search_settings(r, scene, smallest=SmoothMask().smallest_area(positions), flips=False)
        else:
            fractions = [one for one in (0.3, [0.25, 0.5], [0.5, 1.0]) if np.min(one) * activation.shape[axis] >= 1]
            fewest = [1, [1, 3]] if activation.shape[axis] > 3 else [1]
            chosen = search_settings(r, scene, areas=[*fractions, *fewest])
        given |= {"mask": mask} | chosen
    given |= half_of(r, {"layer_baselines": r.choice((0.5, torch.randn_like(activation[:1])))})
    return given, layer


def layer_attribute(r: random.Random) -> Call:
    scene = scene_of(r, may_be_last=True, may_score=True)
    given, layer = layer_settings(r, scene)
    given |= half_of(r, {"multiply_by_activation": True})
    bounds = (None, None) if given.get("multiply_by_activation") else (0.0, 1.0)
    check = like_layer(scene, layer, given, *bounds)
    run = LayerExtremalPerturbation(scene.forward_func, layer).attribute
    return Call("LayerExtremalPerturbation.attribute", scene, run, given, check)


def layer_masks(r: random.Random) -> Call:
    scene = scene_of(r, may_be_last=True, may_score=True)
    given, layer = layer_settings(r, scene)
    given |= half_of(r, {"explanations": r.choice((1, 2))})
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
    scene = scene_of(r, may_be_last=True, may_score=True)
    given = of_model(scene) | {"steps": r.randint(1, 3)} | perturbation_settings(r, scene)
    others = {"game": r.choice(tuple(_GAMES)), "learning_rate": 0.3, "area_weight": 0.0, "variation_weight": 1.0}
    given |= half_of(r, others | {"variation_power": 2, "seed": r.randrange(100), "show_progress": True})
    run = MeaningfulPerturbation(scene.forward_func).attribute
    return Call("MeaningfulPerturbation.attribute", scene, run, given, like_inputs(scene, 0.0, 1.0))


def rise(r: random.Random) -> Call:
    scene = scene_of(r, may_be_last=True, may_score=True)
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
    scene = scene_of(r, single=True, may_score=True)
    given = {"attribution": _any_map} | of_model(scene) | {"steps": r.randint(1, 4)}
    given |= half_of(r, {"blur": 1.0, "perturbations_per_eval": r.randint(1, 4)})
    if scene.network.kind == "one score" or scene.target is None:
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


def _mean(masks: Tensor, first: int) -> Tensor:
    """Over all dimensions from the first on."""
    return masks.double().flatten(first).mean(-1)


def check_found(
    found: ExtremalMasks, scene: Scene, given: dict[str, Any], layer: nn.Module | None = None, main: bool = True
) -> None:
    """Areas are exact, values finite, and scores what the model says of the masks, asked once more.

    Args:
        main: whether this is the first explanation, whose a* does not depend on others.
    """
    if main:
        require(len(found.explanations) == given.get("explanations", 1), "there are not as many explanations")
        for other in found.explanations[1:]:
            check_found(other, scene, given, layer, main=False)
    n, a = scene.images, len(found.areas)
    each = found.masks if isinstance(found.masks, tuple) else (found.masks,)
    best = found.optimal_masks if isinstance(found.optimal_masks, tuple) else (found.optimal_masks,)
    groups = Groups.of(found, scene, given, layer)
    several = isinstance(scene.inputs, tuple) and layer is None and groups is None
    require(isinstance(found.masks, tuple) == several, "masks are no tuple")
    mean = groups.area if groups else _mean
    for masks, optimal in zip(each, best):
        require(masks.dtype == torch.float32 and masks.shape[:2] == (n, a), f"masks are {masks.shape}, {masks.dtype}")
        require(((masks >= 0) & (masks <= 1)).all(), "masks are not in [0, 1]")
        near(mean(masks, 2), found.areas.expand(n, a), 1e-3, "areas are not exact")
        sure = found.reached
        near(mean(optimal, 1)[sure], found.optimal_area[sure], 1e-3, "a* is not its mask's area")
        require(not optimal[found.vacuous].any(), "a vacuous mask is not zero")
    for name in ("scores", "complement_scores", "values", "clean_score", "perturbed_score", "optimal_value"):
        require(getattr(found, name).isfinite().all(), f"{name} are not finite")
    game = given.get("game", "preserve")
    game = _GAMES.get(game, game)
    near(game.value(found.scores, found.complement_scores), found.values, 1e-6, "values are not the game's")
    require((found.optimal_value[found.reached] >= found.threshold[found.reached]).all(), "a* is not enough")
    if not scene.steady or given["solver"].precision is not None:
        return
    if isinstance(given.get("areas"), (list, tuple, float, int, Tensor)) and a and main:
        check_listed(found)
    phi = measured_at(scene, given, layer, groups)
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


@dataclass
class Groups:
    """The groups of features of a result, by their literal meaning."""

    every: list[int]  # their ids, ascending
    ids: tuple[Tensor, ...]
    shares: list[dict[int, float]]  # by example

    @classmethod
    def of(cls, found: ExtremalMasks, scene: Scene, given: dict[str, Any], layer: nn.Module | None) -> Groups | None:
        """None where no groups are masked."""
        argument = "feature_mask" if layer is None else "layer_mask"
        tensors = scene.tensors if layer is None else (activation_of(scene, layer, given),)
        if argument in given:
            ids = given[argument] if isinstance(given[argument], tuple) else (given[argument],)
        elif layer is None and scene.tensors[0].dim() == 2:
            starts = np.cumsum([0, *(x[0].numel() for x in tensors)]).tolist()
            ids = tuple(start + torch.arange(x[0].numel())[None] for start, x in zip(starts, tensors))
        else:
            return None
        every = sorted({one for part in ids for one in part.flatten().tolist()})
        require(found.group_ids is not None and found.group_ids.tolist() == every, f"ids are {found.group_ids}")
        return cls(every, ids, shares_of(ids, tensors, given.get("mask", GroupMask()).weights))

    def area(self, masks: Tensor, first: int) -> Tensor:
        """Of masks (N, G), or (N, A, G)."""
        weights = torch.tensor([[one.get(k, 0.0) for k in self.every] for one in self.shares], dtype=torch.float64)
        return (masks.double() * weights.view(len(weights), *[1] * (masks.dim() - 2), -1)).sum(-1)

    def spread(self, masks: tuple[Tensor, ...], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """From masks (N, G) to one for each tensor, element by element."""
        (mask,), found = masks, []
        for one, x in zip(self.ids, tensors):
            own = torch.zeros(x.shape, dtype=mask.dtype)
            for g, number in enumerate(self.every):
                chosen = one.expand_as(x) == number
                own = torch.where(chosen, mask[:, g].view(-1, *[1] * (x.dim() - 1)), own)
            found.append(own)
        return tuple(found)


def measured_at(
    scene: Scene, given: dict[str, Any], layer: nn.Module | None, groups: Groups | None
) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """Phi (N,) of masks, one tensor for each input or for the layer."""
    if layer is not None:
        return lambda masks: _score_at(scene, layer, masks[0], given, groups)
    perturbation = given.get("perturbation", "fade" if groups else "blur")
    chosen = _PYRAMIDS.get(perturbation, perturbation) if isinstance(perturbation, str) else perturbation
    if groups is None and perturbation == "blur" and isinstance(given.get("mask"), SmoothMask):
        chosen = BlurPyramid(hold=given["mask"].hold)

    def phi(masks: tuple[Tensor, ...]) -> Tensor:
        last = scene.network.last and groups is None
        masks = masks if groups is None else groups.spread(masks, scene.tensors)
        shown = []
        for k, (own, mask) in enumerate(zip(scene.tensors, masks)):
            x = own.movedim(-1, 1) if last else own
            wide = torch.promote_types(x.dtype, torch.float32)
            if isinstance(chosen, SamplePerturbation):
                rows = chosen.background[k] if isinstance(chosen.background, tuple) else chosen.background
                faded = [x + (1 - mask.to(wide)) * (row[None].to(wide) - x) for row in rows]
                shown.append([one.to(x.dtype).movedim(1, -1) if last else one.to(x.dtype) for one in faded])
                continue
            baseline = torch.as_tensor(given.get("baselines", 0.0)).detach().to(wide).expand_as(own)
            baseline = baseline.movedim(-1, 1) if last else baseline
            one = chosen.bind(x.detach().clone().to(wide), baseline)(mask.to(wide)).to(x.dtype)
            shown.append([one.movedim(1, -1) if last else one])
        return torch.stack([scene.score(inputs) for inputs in zip(*shown)]).mean(0)

    return phi


def _score_at(scene: Scene, layer: nn.Module, mask: Tensor, given: dict[str, Any], groups: Groups | None) -> Tensor:
    axis = given.get("channel_dim", 1)

    def masked(x: Tensor) -> Tensor:
        baseline = torch.as_tensor(given.get("layer_baselines", 0.0)).to(x.dtype).expand_as(x)
        if groups is not None:
            (own,) = groups.spread((mask,), (x,))
        else:
            spatial = mask.dim() == x.dim()
            own = mask if spatial else mask.view(*mask.shape, *[1] * (x.dim() - 2))
            own = own.movedim(1, axis)
        return baseline + own.to(x.dtype) * (x - baseline)

    if given.get("attribute_to_layer_input"):
        handle = layer.register_forward_pre_hook(lambda module, arguments: (masked(arguments[0]),))
    else:
        handle = layer.register_forward_hook(lambda module, arguments, output: masked(output))
    with handle:
        return scene.score(scene.tensors)


# Bad arguments


BAD_OUTPUTS: tuple[Callable[[Tensor], Any], ...] = (
    lambda y: None,
    lambda y: [y, y],
    lambda y: y.detach().cpu().float().numpy(),
    lambda y: y.long(),
    lambda y: y * float("nan"),
    lambda y: y[:0],
    lambda y: torch.cat([y, y[:1]]),
    lambda y: y.sum(),
)


def bad_values(argument: str, scene: Scene) -> list[Any]:
    """Values that every method refuses for an argument of this name; none for arguments that are not known here."""
    x = scene.tensors[0].detach()
    counts: list[Any] = [0, -1, 1.5, "2", True, float("nan")]
    numbers: list[Any] = [-1.0, float("nan"), float("inf"), "a", True, [1.0]]
    wrong: dict[str, list[Any]] = {
        "inputs": [
            None,
            "image",
            [x],
            x.long(),
            x[:0],
            x / 0,
            x[0, 0] if x.dim() < 5 else x.flatten(),
            (x, "a"),
            (),
            x.to(torch.complex64),
        ],
        "target": [1.5, "a", [0] * (len(x) + 1), 99, -99, True, torch.rand(len(x)), {}, [None] * len(x), (99,)],
        "additional_forward_args": [torch.zeros(len(x) + 1), (torch.zeros(len(x) + 1),)],
        "baselines": ["a", torch.cat([x, x[..., :2]], -1), x / 0, float("inf"), [0.0], True, (0.0,) * 3, 1j],
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
        "feature_mask": ["a", x, 1, x.long() * 0 - 1, torch.cat([x, x[..., :2]], -1).long() * 0, (), [[0]]],
        "layer_mask": ["a", x, 1, torch.full((1, 4), -1), torch.zeros(1, 2, 3, 4, 5, dtype=torch.int64), ()],
        "layer_baselines": ["a", torch.zeros(1, 2, 3, 4, 5), float("inf"), True, [0.0], (0.0,) * 3],
        "explanations": counts,
        "forward_func": list(BAD_OUTPUTS),
    }
    return wrong.get(argument, [])


def spoil(call: Call, r: random.Random) -> None:
    """Make one argument of a call bad."""
    scene = call.scene
    names = (*OPTIONAL.get(call.method, ()), *call.given, "forward_func")
    known = {name: values for name in names if (values := bad_values(name, scene))}
    if scene.further is None or scene.objective is not None:
        known.pop("additional_forward_args", None)
    if (
        scene.network.kind == "one score"
        or call.method in NO_TARGET
        or isinstance(scene.objective, (BoxScore, RegionScore))
    ):
        known.pop("target", None)  # which says more than the score has
    if not scene.wrapped or scene.objective is not None or call.method not in MEASURING:
        known.pop("forward_func")
    call.bad = r.choice(sorted(known))
    if call.bad == "forward_func":
        scene.spoil = r.choice(known[call.bad])
        return
    if call.bad in ("feature_mask", "layer_mask"):  # which would contradict these
        call.given = {name: value for name, value in call.given.items() if name not in ("channel_dim", "mask")}
    call.given[call.bad] = r.choice(known[call.bad])


_OF_INPUTS = ("areas", "game", "perturbation", "mask", "baselines", "feature_mask", "channel_dim")
_OF_LAYERS = ("areas", "game", "mask", "layer_mask", "layer_baselines")
OPTIONAL: dict[str, tuple[str, ...]] = {
    "ExtremalPerturbation.attribute": (*_OF_INPUTS, "callback"),
    "ExtremalPerturbation.extremal_masks": (*_OF_INPUTS, "score_threshold", "explanations"),
    "LayerExtremalPerturbation.attribute": _OF_LAYERS,
    "LayerExtremalPerturbation.extremal_masks": (*_OF_LAYERS, "explanations"),
}
MEASURING = (  # which look at the model's output themselves
    "ExtremalPerturbation.attribute",
    "ExtremalPerturbation.extremal_masks",
    "MeaningfulPerturbation.attribute",
    "RISE.attribute",
    "insertion_deletion",
    "top_masks",
)
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
        # Inputs without a batch dimension have another number of examples or another size than what comes with them.
        beside = (
            "inputs",
            "target",
            "additional_forward_args",
            "baselines",
            "solver",
            "perturbation",
            "mask",
            "region",
        )
        named = beside if call.bad == "inputs" else (call.bad,)
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
