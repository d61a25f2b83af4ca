"""Models that have no room for so many examples: fewer are sent, nothing is lost, and the result says so."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import (
    ExtremalMasks,
    ExtremalPerturbation,
    LayerExtremalPerturbation,
    PathSolver,
    _memory,
    objective,
)

N = 5
QUICK: dict[str, Any] = {"areas": [0.2, 0.5], "solver": PathSolver(steps=6, searches=3)}


class Small(nn.Module):
    """Scores (N, 4) of images and a number for each, with room for so many examples at once."""

    def __init__(self, room: int = 10**6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.room = room
        self.most = self.most_with_gradient = 0
        self.first = True  # the first run measures the images themselves
        self.double().eval()

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.most = max(self.most, len(x))
        if x.requires_grad and not self.first:
            self.most_with_gradient = max(self.most_with_gradient, len(x))
        self.first = False
        scores: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return scores if gain is None else scores * gain[:, None]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


GIVEN: dict[str, dict[str, Any]] = {
    "tensors": {"target": torch.arange(N) % 4, "additional_forward_args": (torch.arange(1.0, N + 1).double(),)},
    "lists": {"target": [3, 2, 1, 0, 1]},
    "tuples": {"target": [(3,), (2,), (1,), (0,), (1,)]},
    "one": {"target": 2},
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("room", [12, 7, 2, 1])
def test_search_goes_on_with_fewer_examples(room: int, given: str, x: Tensor) -> None:
    """Down to a part of the images; the result is that of a model with room for all."""
    expected = ExtremalPerturbation(Small()).extremal_masks(x, **GIVEN[given], **QUICK)
    found = ExtremalPerturbation(model := Small(room)).extremal_masks(x, **GIVEN[given], **QUICK)
    assert model.most <= room
    assert expected.settings["examples_at_once"] is None
    assert 1 <= found.settings["examples_at_once"] <= 2 * room
    torch.testing.assert_close(found.masks, expected.masks, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.clean_score, expected.clean_score)


@pytest.mark.parametrize("given", GIVEN)
def test_cpu_takes_gradients_of_a_few_examples_at_once(given: str, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is the same; scores are measured with the whole batch."""
    expected = ExtremalPerturbation(Small()).extremal_masks(x, **GIVEN[given], **QUICK)
    monkeypatch.setattr(objective, "_ENOUGH_AT_ONCE", 2 * x[0].numel())
    model = Small()
    found = ExtremalPerturbation(model).extremal_masks(x, **GIVEN[given], **QUICK)
    assert model.most_with_gradient == 2
    assert model.most >= N
    torch.testing.assert_close(found.masks, expected.masks, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("areas", [[0.1, 0.3], "optimal"])
def test_large_image_has_the_same_masks_alone_and_in_a_batch(areas: Any) -> None:
    """To the last bit: in float32 a search would amplify what rounding makes of another batch."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)),
    )
    x = torch.rand(3, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    settings: dict[str, Any] = {"areas": areas, "solver": PathSolver(steps=12)}
    batch = ExtremalPerturbation(model).extremal_masks(x, target=[0, 1, 2], **settings)
    for image in range(3):
        alone = ExtremalPerturbation(model).extremal_masks(x[image : image + 1], target=image, **settings)
        assert torch.equal(_masks(alone)[0], _masks(batch)[image])


def _masks(found: ExtremalMasks) -> Tensor:
    masks = found.masks if len(found.areas) else found.optimal_mask()
    assert isinstance(masks, Tensor)
    return masks


@pytest.mark.parametrize("argument", [torch.tensor(2.0).double(), [torch.full((N,), 2.0).double()]])
def test_arguments_that_cannot_be_cut_by_image_are_not(
    argument: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "_ENOUGH_AT_ONCE", 1)
    model = Small()

    def scaled(x: Tensor, gain: Any) -> Tensor:
        factor: Tensor = gain if isinstance(gain, Tensor) else gain[0][:, None]
        scores: Tensor = model(x) * factor
        return scores

    settings = {**QUICK, "solver": PathSolver(steps=6)}
    expected = ExtremalPerturbation(lambda x: 2 * Small()(x)).extremal_masks(x, target=1, **settings)
    found = ExtremalPerturbation(scaled).extremal_masks(x, target=1, additional_forward_args=(argument,), **settings)
    assert model.most_with_gradient == N
    torch.testing.assert_close(found.masks, expected.masks, rtol=0, atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_models_whose_examples_depend_on_each_other_get_all_of_them(
    training: bool, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "_ENOUGH_AT_ONCE", 1)
    seen: list[int] = []
    tail = [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()]
    model = nn.Sequential(*tail).double().train(training)
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ExtremalPerturbation(model).extremal_masks(x, target=1, areas=0.3, solver=PathSolver(steps=3))
    assert min(seen) == (N if training else 1)


def test_model_that_takes_no_part_of_its_images_gets_all_of_them(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "_ENOUGH_AT_ONCE", 1)
    model, gains, failed = Small(), torch.ones(N, dtype=torch.float64), []

    def forward(x: Tensor) -> Tensor:
        failed.extend([True] * (len(x) != N))
        scores: Tensor = model(x, gains)
        return scores

    found = ExtremalPerturbation(forward).extremal_masks(x, target=1, areas=0.3, solver=PathSolver(steps=3))
    assert len(failed) == 1
    assert found.scores.shape == (N, 1)


def test_a_wrong_target_of_many_images_takes_one_pass(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "_ENOUGH_AT_ONCE", 1)
    passes: list[int] = []
    model = Small()
    model.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    with pytest.raises(ValueError, match="target must lie within the output"):
        ExtremalPerturbation(model).extremal_masks(x, target=9, **QUICK)
    assert passes == [N]


def test_what_was_asked_for_is_not_changed(x: Tensor) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        ExtremalPerturbation(Small(7)).extremal_masks(x, target=1, perturbations_per_eval=2, **QUICK)


def test_one_example_that_has_no_room_is_an_error(x: Tensor) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        ExtremalPerturbation(Small(0)).extremal_masks(x, target=1, **QUICK)


def test_layer_takes_fewer_masks_but_all_images(x: Tensor) -> None:
    def searched(room: int) -> Any:
        model = Small(room)
        method = LayerExtremalPerturbation(lambda x: model(x), model.conv)
        return method.extremal_masks(x, 1, areas=[1, 2], solver=QUICK["solver"])

    torch.testing.assert_close(searched(7).masks, searched(100).masks, rtol=0, atol=1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        searched(3)


def test_free_memory_of_a_gpu_says_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 600)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1800, 10**6))
    assert _memory.held(gpu) == 100
    assert _memory.fitting_rows(gpu, 100, 5) == 16  # 0.8 of 1800 + 200, at 100 each
    assert _memory.fitting_rows(gpu, 100, 1) == 3
    assert _memory.fitting_rows(gpu, 590, 5) == 800
    assert _memory.fitting_rows(torch.device("cpu"), None, 5) is None
