"""Every method on a device that is not the CPU: the CPU's own numbers, results where the inputs are, few reads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from captum_extremal import (
    RISE,
    CenterAttribution,
    ContrastiveExcitationBackprop,
    ExcitationBackprop,
    ExtremalMasks,
    ExtremalPerturbation,
    FeatureInversion,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
    PenaltySolver,
    SamplePerturbation,
    SpaceTimeMask,
    TokenExplainer,
    area_loss,
    class_channels,
    perturbed_inputs,
)
from captum_extremal.metrics import (
    energy_pointing_game,
    insertion_deletion,
    monotone_evidence,
    pointing_game,
    quantus_explainer,
    top_masks,
    weight_randomisation,
)
from captum_extremal.objectives import BoxScore, RegionScore, Similarity
from captum_extremal.search.path import checkpoint_interval
from stand_in_device import DEVICE, StandIn, to_device
from words import PieceTokenizer, WordCounter

Call = Callable[[nn.Module, Any], Any]
FAST = PathSolver(steps=3, refinement=0.7)
THREE = PathSolver(steps=4, refinement=0.5, searches=3)
SWEEP_READS, OPTIMUM_READS = 6, 8  # as benchmarks/README.md says
LEFT = (torch.arange(40) < 20).expand(3, 32, 40)


class Network(nn.Module):
    """Two convolutions and a head, for images (N, 3, H, W), and a number that is added to each example's scores."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)
        self.eval()

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(self.features(x).mean((2, 3)))
        return scores if added is None else scores + added[:, None]


class Detector(nn.Module):
    """Finds one object in each image, half of it wide and high, whose score and class the network gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        scores = self.network(images).sigmoid()
        box = torch.tensor([[0.0, 0.0, 20.0, 16.0]], device=images.device)
        labels = torch.arange(scores.shape[1], device=images.device)
        return [{"boxes": box.expand(len(one), 4), "labels": labels, "scores": one} for one in scores]


class Batch:
    """Three images with everything that may come with them."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(3, 3, 32, 40, generator=generator)
        self.target = torch.tensor([0, 2, 3])
        self.baseline = torch.randn(1, 3, 32, 40, generator=generator)
        self.added = torch.tensor([1.0, 2.0, 3.0])
        self.groups = torch.arange(40).div(10, rounding_mode="floor").expand(1, 1, 32, 40)
        self.background = torch.randn(5, 3, 32, 40, generator=generator)

    def on(self, move: Callable[[Tensor], Tensor], *names: str) -> Batch:
        """A copy, with some of its tensors moved."""
        moved = copy.copy(self)
        for name in names:
            setattr(moved, name, move(getattr(self, name)))
        return moved


def _drop(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda clean, perturbed: factor * clean + (1 - factor) * perturbed


def _told(found: ExtremalMasks) -> list[Any]:
    masks = [found.optimal_mask(), found.saliency(), found.refined_saliency(), found.binary_masks()]
    numbers = [found.reached, found.binariness, found.order_of_entry(), found[:2].scores, found.optimal_area]
    return [*masks, *numbers, found.agreement]


def _told_of_groups(found: ExtremalMasks) -> list[Any]:
    return [found.masks, found.optimal_mask(), found.optimal_area, found.minimal, *found.groups()]


def _seen(m: nn.Module, b: Batch) -> Any:
    found = ExtremalPerturbation(m).extremal_masks(b.images, target=b.target, areas=[0.3], solver=FAST)
    return perturbed_inputs(found, b.images)


CALLS: dict[str, Call] = {
    "attribute": lambda m, b: ExtremalPerturbation(m).attribute(
        b.images, target=b.target, solver=FAST, score_threshold=_drop(0.5)
    ),
    "pointing map": lambda m, b: ExtremalPerturbation(m).attribute(
        b.images, target=b.target, reduce="sum", areas=[0.1, 0.3], solver=FAST
    ),
    "refined": lambda m, b: ExtremalPerturbation(m).attribute(
        b.images, target=b.target, reduce="refined", areas=[0.1, 0.3], solver=FAST
    ),
    "hybrid with fade": lambda m, b: ExtremalPerturbation(m).attribute(
        b.images, b.baseline, b.target, (b.added,), game="hybrid", perturbation="fade", areas=[0.2], solver=FAST
    ),
    "delete": lambda m, b: ExtremalPerturbation(m).attribute(
        b.images, target=b.target, game="delete", areas=[0.2], solver=FAST
    ),
    "searches": lambda m, b: (
        ExtremalPerturbation(m).extremal_masks(b.images, target=b.target, areas=[0.1, 0.3], solver=THREE).agreement
    ),
    "penalty": lambda m, b: ExtremalPerturbation(m).attribute(
        b.images, target=b.target, areas=[0.3], solver=PenaltySolver(steps=12)
    ),
    "robustness": lambda m, b: (
        ExtremalPerturbation(m)
        .robustness(
            ExtremalPerturbation(m).extremal_masks(b.images, target=b.target, areas=[0.3], solver=FAST),
            b.images,
            target=b.target,
        )
        .soft
    ),
    "channels": lambda m, b: LayerExtremalPerturbation(m, m.features[3]).attribute(
        b.images, b.target, (b.added,), areas=[2, 4], solver=FAST
    ),
    "layer's positions": lambda m, b: LayerExtremalPerturbation(m, m.features[1]).attribute(
        b.images, b.target, mask="spatial", areas=[0.3], solver=FAST
    ),
    "meaningful": lambda m, b: MeaningfulPerturbation(m).attribute(b.images, target=b.target, steps=8),
    "rise": lambda m, b: RISE(m).attribute(b.images, b.baseline, b.target, n_samples=12, perturbations_per_eval=5),
    "excitation": lambda m, b: ExcitationBackprop(m).attribute(b.images, b.target),
    "contrastive": lambda m, b: ContrastiveExcitationBackprop(m, m.features[1]).attribute(b.images, b.target),
    "centre": lambda m, b: CenterAttribution(m).attribute(b.images, b.target),
    "inversion": lambda m, b: FeatureInversion(m, m.features[1]).invert(b.images, steps=4).images,
    "insertion": lambda m, b: (
        insertion_deletion(
            m, torch.rand(3, 1, 32, 40, generator=torch.Generator().manual_seed(1)), b.images, b.target, steps=5
        ).insertion
    ),
    "top masks": lambda m, b: (
        top_masks(
            m, torch.rand(3, 1, 32, 40, generator=torch.Generator().manual_seed(1)), b.images, b.target, areas=[0.2]
        ).scores
    ),
    "pointing": lambda m, b: torch.tensor(
        [
            one.value
            for one in pointing_game(
                ExtremalPerturbation(m).attribute(b.images, target=b.target, reduce="sum", areas=[0.2], solver=FAST),
                b.images,
                b.target,
                ground_truth=LEFT,
            )
        ]
    ),
    "what a result tells": lambda m, b: _told(
        ExtremalPerturbation(m).extremal_masks(b.images, target=b.target, areas=[0.1, 0.3], solver=FAST)
    ),
    "channels last": lambda m, b: ExtremalPerturbation(lambda x: m(x.movedim(-1, 1))).attribute(
        b.images.movedim(1, -1), target=b.target, channel_dim=-1, areas=[0.2], solver=FAST
    ),
    "space and time": lambda m, b: ExtremalPerturbation(lambda x: m(x.mean(2))).attribute(
        b.images[:, :, None].repeat(1, 1, 8, 1, 1), target=b.target, mask=SpaceTimeMask(), areas=[0.2], solver=FAST
    ),
    "class channels": lambda m, b: (
        class_channels(
            LayerExtremalPerturbation(m, m.features[3]), [(b.images, b.target)], areas=[2, 4], solver=FAST
        ).masks
    ),
    "region": lambda m, b: ExtremalPerturbation(
        RegionScore(m.features, torch.ones(1, 32, 40, dtype=torch.bool), 1)
    ).attribute(b.images, areas=[0.2], solver=FAST),
    "similarity": lambda m, b: ExtremalPerturbation(Similarity(m, torch.eye(4))).attribute(
        b.images, target=b.target, areas=[0.2], solver=FAST
    ),
    "box": lambda m, b: ExtremalPerturbation(BoxScore(Detector(m))).attribute(b.images, areas=[0.2], solver=FAST),
    "groups": lambda m, b: _told_of_groups(
        ExtremalPerturbation(m).extremal_masks(
            b.images, b.baseline, b.target, areas=[2], feature_mask=b.groups, solver=FAST, score_threshold=_drop(0.5)
        )
    ),
    "groups by samples": lambda m, b: ExtremalPerturbation(m).attribute(
        b.images,
        target=b.target,
        feature_mask=b.groups,
        perturbation=SamplePerturbation(b.background),
        solver=FAST,
        score_threshold=_drop(0.5),
    ),
    "groups of a layer": lambda m, b: LayerExtremalPerturbation(m, m.features[1]).attribute(
        b.images,
        b.target,
        layer_mask=b.groups[..., :15, :19],
        layer_baselines=0.5,
        solver=FAST,
        score_threshold=_drop(0.5),
    ),
    "explanations": lambda m, b: [
        (one.masks, one.scores)
        for one in ExtremalPerturbation(m)
        .extremal_masks(b.images, target=b.target, areas=[0.2], explanations=2, solver=FAST)
        .explanations
    ],
    "what the model saw": _seen,
    "removal": lambda m, b: (
        class_channels(LayerExtremalPerturbation(m, m.features[3]), [(b.images, b.target)], areas=[2, 4], solver=FAST)
        .removal_drop(LayerExtremalPerturbation(m, m.features[3]), [(b.images, b.target)])
        .drops
    ),
    "quantus": lambda m, b: torch.from_numpy(
        quantus_explainer(CenterAttribution)(m, b.images.cpu().numpy(), b.target.cpu().numpy(), device=b.images.device)
    ),
    "area loss": lambda m, b: area_loss(b.images.sigmoid(), 0.3),
    "energy": lambda m, b: torch.tensor(
        [
            one.value
            for one in energy_pointing_game(
                CenterAttribution(m).attribute(b.images, b.target),
                ground_truth=LEFT,
            )
        ]
    ),
    "evidence": lambda m, b: (
        monotone_evidence(
            ExtremalPerturbation(m).extremal_masks(b.images, target=b.target, areas=[0.1, 0.3], solver=FAST)
        ).largest_drop
    ),
    "randomisation": lambda m, b: (
        weight_randomisation(
            m, lambda other: ExcitationBackprop(other), b.images, b.target, layers=["head"]
        ).rank_correlation
    ),
}
TABLES = {"pointing", "energy", "class channels", "removal", "quantus", "randomisation"}  # which lie on the CPU


@pytest.fixture
def device() -> Any:
    with StandIn() as stand_in:
        yield stand_in


def _values(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_result_is_that_of_the_cpu(name: str, device: StandIn) -> None:
    model, batch, call = Network(), Batch(), CALLS[name]
    expected = _values(call(copy.deepcopy(model), batch))
    to_device(model)
    for beside_the_inputs in ([], ["target", "baseline", "added", "groups", "background"]):
        found = _values(call(model, batch.on(to_device, "images", *beside_the_inputs)))
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected):
            assert one.device == (torch.device("cpu") if name in TABLES else DEVICE)
            torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
def test_words_are_those_of_the_cpu(device: StandIn) -> None:
    weights = {"good": 2.0, "bad": -1.0, "not": 1.0}
    pieces = PieceTokenizer(["It", "is", *weights])
    model = WordCounter(pieces, weights).eval()

    def explained() -> list[list[str]]:
        found = TokenExplainer(model, pieces).explain(["It is not bad", "It is good"], 0, solver=FAST)
        return found.kept_words

    expected = explained()
    to_device(model)
    assert explained() == expected


def _transfers(solver: Any, targets: str = "tensor", **settings: Any) -> tuple[int, int]:
    """How many values a search reads from the device, and how many it sends there."""
    with StandIn() as device:
        model, batch = to_device(Network()), Batch().on(to_device, "images", "target")
        target = Batch().target.tolist() if targets == "list" else batch.target
        device.reads.clear(), device.sent.clear()
        ExtremalPerturbation(model).extremal_masks(batch.images, target=target, solver=solver, **settings)
    return sum(device.reads.values()), sum(device.sent.values())


SOLVERS = {
    "path": lambda steps: PathSolver(steps=steps, refinement=0.7),
    "searches": lambda steps: PathSolver(steps=steps, refinement=0.7, searches=2),
    "penalty": PenaltySolver,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("solver", "targets"), [("path", "tensor"), ("path", "list"), ("searches", "tensor"), ("penalty", "list")]
)
def test_host_waits_for_a_sweep_as_often_however_long_it_is(solver: str, targets: str) -> None:
    short, long = (_transfers(SOLVERS[solver](steps=steps), targets, areas=[0.1, 0.3]) for steps in (3, 6))
    assert short[0] == long[0] <= SWEEP_READS
    assert short[1] == long[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("drop", [0.5, 0.9])
def test_host_reads_few_values_of_a_search_for_a_star(drop: float) -> None:
    reads, _ = _transfers(PathSolver(steps=10), areas="optimal", score_threshold=_drop(drop))
    assert reads <= SWEEP_READS + OPTIMUM_READS


@pytest.mark.parametrize("length", [1, 8, 46, 90, 1000])
def test_images_leave_a_long_path_as_seldom_as_a_short_one(length: int) -> None:
    assert len(range(0, length, checkpoint_interval(length))) <= 9


def test_the_stand_in_finds_a_tensor_of_the_cpu(device: StandIn) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        to_device(torch.ones(3)) + torch.ones(3)
    assert float(to_device(torch.ones(3)).sum()) == 3
    assert sum(device.reads.values()) == 1
