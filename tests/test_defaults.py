"""The caller's default device and default dtype change no result.

The default device of the tests is "meta", whose tensors hold no values: one that is made there cannot be used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
    SmoothMask,
    area_loss,
    class_channels,
)
from captum_extremal import metrics as m
from captum_extremal import visualization as v
from captum_extremal.datasets.digits import DigitScenes

SHORT = PathSolver(steps=4, searches=2)
POOLED = nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Flatten()).eval()


class Divided(nn.Module):
    """A network with the constants that excitation backprop follows."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(2 * x) / 3)
        return scores


@dataclasses.dataclass
class Given:
    """What the calls are about."""

    net: nn.Module
    x: Tensor
    signal: Tensor
    regions: list[Tensor]
    found: ExtremalMasks
    folder: Path
    known: dict[str, Any] = dataclasses.field(default_factory=dict)  # results by the calls' names

    @property
    def method(self) -> ExtremalPerturbation:
        return ExtremalPerturbation(self.net)

    @property
    def layer(self) -> LayerExtremalPerturbation:
        return LayerExtremalPerturbation(self.net, self.net.features)  # type: ignore[arg-type]


def saved(given: Given) -> ExtremalMasks:
    given.found.save(given.folder / "found.npz")
    return ExtremalMasks.load(given.folder / "found.npz")


def removal(given: Given) -> Any:
    batches = [(given.x, [1, 2])]
    drop = class_channels(given.layer, batches, solver=SHORT).removal_drop(given.layer, batches)
    return drop.drops, drop.own, drop.others


def figures(given: Given) -> None:
    images = given.x.sigmoid()
    v.show_sweep(given.found, images)
    v.show_curves(given.found)
    v.show_order(given.found, images)
    v.show_robustness(given.method.robustness(given.found, given.x, target=[1, 2]))


CALLS: dict[str, Callable[[Given], Any]] = {
    "a sweep": lambda g: g.method.extremal_masks(g.x, target=[1, 2], solver=SHORT),
    "a* alone": lambda g: g.method.extremal_masks(g.x, target=[1, 2], areas="optimal", solver=SHORT),
    "deletion": lambda g: g.method.extremal_masks(g.x, target=1, game="delete", areas=[0.1, 0.3], solver=SHORT),
    "sum": lambda g: g.method.attribute(g.x, 0.5, 1, game="hybrid", perturbation="fade", reduce="sum", solver=SHORT),
    "refined": lambda g: g.method.attribute(g.x, target=1, reduce="refined", areas=[0.1, 0.2], solver=SHORT),
    "thresholds": lambda g: g.method.attribute(g.x, target=1, score_threshold=[0.0, 0.01], areas=[0.9], solver=SHORT),
    "hard masks": lambda g: g.method.extremal_masks(
        g.x, target=1, areas=[0.2], mask=SmoothMask(temperature=0), solver=SHORT
    ),
    "penalty": lambda g: g.method.extremal_masks(g.x, target=1, areas=[0.1, 0.3], solver=PenaltySolver(steps=4)),
    "signals": lambda g: ExtremalPerturbation(
        nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Flatten()).eval()
    ).extremal_masks(g.signal, target=1, areas=[0.1, 0.3], solver=SHORT),
    "channels": lambda g: g.layer.extremal_masks(g.x, target=[1, 2], solver=SHORT),
    "channels, penalty": lambda g: g.layer.extremal_masks(
        g.x, target=1, areas=[2, 3], solver=dataclasses.replace(PenaltySolver.channels(), steps=5)
    ),
    "positions of a layer": lambda g: g.layer.extremal_masks(g.x, target=1, mask="spatial", solver=SHORT),
    "rise": lambda g: RISE(g.net).attribute(g.x, target=1, n_samples=5, perturbations_per_eval=2),
    "meaningful perturbation": lambda g: MeaningfulPerturbation(g.net).attribute(g.x, target=1, steps=4),
    "excitation backprop": lambda g: ExcitationBackprop(g.net).attribute(g.x, target=[1, 2]),
    "contrastive": lambda g: ContrastiveExcitationBackprop(g.net, g.layer.layer).attribute(g.x, target=1),
    "centre": lambda g: CenterAttribution(g.net).attribute(g.x, target=1),
    "inversion": lambda g: FeatureInversion(g.net, g.layer.layer).invert(g.x, steps=3),
    "inversion of channels": lambda g: FeatureInversion(g.net, g.layer.layer).invert_channels([1, 2], size=12, steps=3),
    "robustness": lambda g: g.method.robustness(g.found, g.x, target=[1, 2]),
    "robustness as a table": lambda g: g.method.robustness(g.found, g.x, target=[1, 2]).to_frame()["soft"].tolist(),
    "class channels": lambda g: class_channels(g.layer, [(g.x, [1, 2])], solver=SHORT),
    "removal": removal,
    "pointing game": lambda g: m.pointing_game(CenterAttribution(g.net), g.x, [1, 2], ground_truth=g.regions),
    "energy": lambda g: m.energy_pointing_game(g.x[:, :1], ground_truth=g.regions),
    "boxes": lambda g: m.mask_from_boxes([[0, 0, 4, 4]], (8, 8)),
    "difficult": lambda g: m.difficult_classes({1: g.regions[0], 2: g.regions[1]}),
    "insertion": lambda g: m.insertion_deletion(g.net, CenterAttribution(g.net), g.x, [1, 2], steps=5),
    "monotone evidence": lambda g: m.monotone_evidence(m.top_masks(g.net, CenterAttribution(g.net), g.x, 1)),
    "weight randomisation": lambda g: m.weight_randomisation(g.net, ExcitationBackprop, g.x, 1),
    "quantus": lambda g: m.quantus_explainer(CenterAttribution)(g.net, g.x.numpy(), [1, 2]).tolist(),
    "outcomes": lambda g: m.bootstrap_interval(m.outcomes_of([0.1, 0.2, 0.5], [1, 2, 1])),
    "maps of a result": lambda g: (g.found.saliency(), g.found.refined_saliency(), g.found.order_of_entry()),
    "file": saved,
    "figures": figures,
    "area loss": lambda g: area_loss(g.x, 0.3),
    "digits": lambda g: DigitScenes(2)[1],
}


@contextmanager
def defaults(device: str, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net, x = Divided().eval(), torch.randn(2, 3, 12, 12)
    found = ExtremalPerturbation(net).extremal_masks(x, target=[1, 2], areas=[0.1, 0.3], solver=SHORT)
    signal, regions = torch.linspace(0, 1, 64).view(1, 2, 32), [x[0, 0] > 0.5, x[1, 0] > 0.5]
    return Given(net, x, signal, regions, found, tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("meta", torch.bfloat16), ("cpu", torch.float64)],
    ids=["another device, less precision", "more precision"],
)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:. of 2 examples")
def test_defaults_of_device_and_dtype_change_nothing(given: Given, name: str, device: str, dtype: torch.dtype) -> None:
    if name not in given.known:
        given.known[name] = values_of(CALLS[name](given))
    with defaults(device, dtype):
        found = values_of(CALLS[name](given))
    assert len(found) == len(given.known[name])
    for one, other in zip(found, given.known[name]):
        if isinstance(other, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == other


def values_of(result: Any) -> list[Any]:
    """The tensors and plain values of a result, but for what its settings say of time."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = [getattr(result, field.name) for field in dataclasses.fields(result) if field.name != "settings"]
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        return [value for part in result for value in values_of(part)]
    return [result]
