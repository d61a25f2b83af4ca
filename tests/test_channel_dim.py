"""Inputs whose channels lie on another axis than 1, and axes that are too short for disks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import (
    RISE,
    BlurPyramid,
    ExtremalPerturbation,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
    SmoothMask,
    SpaceTimeMask,
    perturbed_inputs,
)

METHODS: dict[str, tuple[type, dict[str, Any]]] = {
    "extremal": (ExtremalPerturbation, {"solver": PathSolver(steps=8), "perturbation": "fade"}),
    "sum": (ExtremalPerturbation, {"solver": PathSolver(steps=6), "reduce": "sum", "areas": (0.4, 0.6)}),
    "meaningful": (MeaningfulPerturbation, {"steps": 5}),
    "rise": (RISE, {"n_samples": 20, "cells": 3, "perturbations_per_eval": 4}),
}
SHAPES = {"signal": (12, 3), "image": (12, 10, 3), "video": (9, 8, 10, 3)}


def network(rank: int) -> nn.Module:
    """A small differentiable model of (N, 3, *S)."""
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    return nn.Sequential(conv(3, 5, 3, padding=1), nn.Tanh(), conv(5, 4, 3, padding=1), Mean()).double().eval()


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


class ChannelsLast(nn.Module):
    """The same for (N, *S, 3); asks for contiguous inputs, as ``view`` does."""

    def __init__(self, model: nn.Module, axis: int = -1) -> None:
        super().__init__()
        self.model, self.axis = model, axis
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x.view(-1)
        return self.model(x.movedim(self.axis, 1).contiguous())


@pytest.fixture(params=SHAPES)
def channels_last(request: pytest.FixtureRequest) -> Tensor:
    return torch.rand(2, *SHAPES[request.param], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:.*reach the score threshold")
@pytest.mark.parametrize("name", METHODS)
def test_channels_last_give_the_maps_of_channels_first(channels_last: Tensor, name: str) -> None:
    kind, settings = METHODS[name]
    model = network(channels_last.dim() - 2)
    x = channels_last.movedim(-1, 1)
    expected = kind(model).attribute(x, target=[1, 2], channel_dim=1, **settings)
    for channel_dim in (-1, channels_last.dim() - 1):
        found = kind(ChannelsLast(model)).attribute(channels_last, target=[1, 2], channel_dim=channel_dim, **settings)
        assert found.shape == channels_last.shape
        assert found.is_contiguous()
        assert torch.equal(found, expected.movedim(1, -1))


def test_masks_cover_all_axes_but_the_channels(channels_last: Tensor) -> None:
    found = ExtremalPerturbation(ChannelsLast(network(channels_last.dim() - 2))).extremal_masks(
        channels_last, target=1, channel_dim=-1, areas=(0.2, 0.5), solver=PathSolver(steps=6)
    )
    assert found.masks.shape == (2, 2, 1, *channels_last.shape[1:-1])
    assert found.contrast.shape == (2, 1, *channels_last.shape[1:-1])


def test_baselines_and_others_lie_as_the_inputs_do() -> None:
    x, baseline, others = (torch.rand(n, 12, 10, 3, dtype=torch.float64) for n in (2, 1, 3))
    settings = {"areas": (0.2, 0.5), "perturbation": "fade", "solver": PathSolver(steps=6)}
    model, results = network(2), []
    for forward, axis in ((ChannelsLast(model), -1), (model, 1)):
        method = ExtremalPerturbation(forward)
        first, second, third = (part.movedim(-1, axis) for part in (x, baseline, others))
        found = method.extremal_masks(first, second, target=1, channel_dim=axis, **settings)
        robust = method.robustness(found, first, second, target=1, others=third, channel_dim=axis)
        results.append((found.masks, found.scores, robust.soft, robust.binary))
    for one, other in zip(*results):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*reach the score threshold")
def test_tuples_share_the_axis_counted_from_the_end() -> None:
    signal, image = torch.rand(2, 12, 3).double(), torch.rand(2, 9, 10, 3).double()
    of_signal, of_image = ChannelsLast(network(1)), ChannelsLast(network(2))
    rows = []

    def forward(one: Tensor, other: Tensor, offset: Tensor) -> Tensor:
        rows.append((one.shape[1:], other.shape[1:], offset.shape))
        return of_signal(one) + of_image(other) + offset[:, None]

    method, offset = ExtremalPerturbation(forward), torch.zeros(2).double()
    maps = method.attribute(
        (signal, image), (0, 0.5), 1, offset, channel_dim=-1, perturbation="fade", solver=PathSolver(steps=6)
    )
    assert [one.shape for one in maps] == [signal.shape, image.shape]
    assert {(one, other) for one, other, _ in rows} == {(signal.shape[1:], image.shape[1:])}


@pytest.mark.parametrize("kind", [ExtremalPerturbation, MeaningfulPerturbation, RISE])
@pytest.mark.parametrize(
    ("channel_dim", "error"), [(0, ValueError), (-4, ValueError), (4, ValueError), ("C", TypeError), (1.0, TypeError)]
)
def test_an_axis_that_is_none_is_named_before_any_forward(
    kind: Any, channel_dim: object, error: type[Exception], counted: type
) -> None:
    model = counted(network(2))
    with pytest.raises(error, match=r"^channel_dim must be"):
        kind(model).attribute(torch.rand(2, 3, 9, 9).double(), target=0, channel_dim=channel_dim)
    assert model.calls == 0


@pytest.mark.parametrize("kind", [ExtremalPerturbation, MeaningfulPerturbation, RISE])
@pytest.mark.parametrize("shape", [(30, 5), (30, 9, 5), (24, 24, 3), (20, 30, 1)], ids=str)
def test_channels_that_look_like_positions_are_warned_of(kind: Any, shape: tuple[int, ...]) -> None:
    x = torch.rand(1, *shape)
    settings = {ExtremalPerturbation: {"reduce": "sum", "areas": 1.0, "solver": PathSolver(2)}, RISE: {"n_samples": 1}}
    arguments = settings.get(kind, {"steps": 1})
    with pytest.warns(UserWarning, match=rf"taken to have {shape[0]} channels.*channel_dim=-1"):
        kind(lambda x: x.flatten(1).sum(1)).attribute(x, **arguments)
    for channel_dim in (1, -1):  # said, not guessed
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind(lambda x: x.flatten(1).sum(1)).attribute(x, channel_dim=channel_dim, **arguments)


@pytest.mark.parametrize("shape", [(3, 9, 9), (1, 40), (16, 16, 16), (3, 4, 9, 9), (2, 30, 4)], ids=str)
def test_ordinary_channels_are_not_warned_of(shape: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RISE(lambda x: x.flatten(1).sum(1)).attribute(torch.rand(1, *shape), n_samples=1)


class Swin(nn.Module):
    """An image (N, 3, H, W), then a block of (N, H, W, C)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.embed, self.block = nn.Conv2d(3, 12, 2, 2), block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2))


@pytest.mark.parametrize("mask", ["channels", "spatial"])
@pytest.mark.parametrize(
    ("block", "size"), [(nn.Identity(), (8, 8)), (nn.LayerNorm(12), (8, 12)), (nn.Linear(12, 16), (12, 8))]
)
def test_a_layer_with_its_channels_last_is_warned_of(mask: str, block: nn.Module, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, x = Swin(block).eval(), torch.rand(1, 3, *size)
    method = LayerExtremalPerturbation(model, model.block)
    settings: dict[str, Any] = {"target": 0, "areas": 0.5, "mask": mask, "solver": PathSolver(steps=2)}
    with pytest.warns(UserWarning, match=rf"taken to have {size[0] // 2} channels, on axis 1: give channel_dim=-1"):
        method.extremal_masks(x, **settings)
    for channel_dim in (-1, 1):
        method.extremal_masks(x, channel_dim=channel_dim, **settings)


@pytest.mark.parametrize("mask", ["channels", "spatial"])
@pytest.mark.parametrize("size", [(8, 8), (8, 16), (6, 20)], ids=str)
def test_layers_of_convolutions_are_not_warned_of(mask: str, size: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * size[0] * size[1], 2))
    LayerExtremalPerturbation(model.eval(), model[1]).extremal_masks(
        torch.rand(1, 3, *size), target=0, areas=0.4, mask=mask, solver=PathSolver(steps=2)
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "shape", [(4, 12, 10), (1, 9, 9), (9, 9, 5), (4, 40), (5, 5), (2, 3, 4), (3,)], ids=lambda shape: str(shape)
)
def test_short_axes_are_masked_too(shape: tuple[int, ...], name: str) -> None:
    kind, settings = METHODS[name]
    x = torch.rand(1, 3, *shape, dtype=torch.float64)
    weight = torch.rand(3, *shape, dtype=torch.float64)
    arguments = {"channel_dim": 1} | settings
    found = kind(lambda x: (x * weight).flatten(1).sum(1)).attribute(x, **arguments)
    assert found.shape == x.shape
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("frame", [0, 2])
def test_the_frame_that_counts_is_found_in_a_clip_of_four(frame: int) -> None:
    """Each frame has a mask of its own, so a quarter of the clip is enough."""
    x = torch.rand(1, 2, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    found = ExtremalPerturbation(lambda x: x[:, :, frame].flatten(1).mean(1)).extremal_masks(
        x, areas=(0.1, 0.25), perturbation="fade"
    )
    shares = found.masks[0, 1, 0].flatten(1).sum(1) / found.masks[0, 1].sum()
    assert int(shares.argmax()) == frame
    assert float(shares[frame]) > 0.95


def test_every_slice_of_a_volume_of_five_has_its_own_mask() -> None:
    x = torch.ones(1, 1, 5, 16, 16, dtype=torch.float64)
    weight = torch.zeros(5, 16, 16, dtype=torch.float64)
    weight[1, :8], weight[3, 8:] = 1, 1
    found = ExtremalPerturbation(lambda x: (x[:, 0] * weight).flatten(1).sum(1)).extremal_masks(
        x, areas=0.2, perturbation="fade"
    )
    binary = found.binary_masks()[0, 0, 0]
    expected = weight > 0
    assert float((binary & expected).sum() / (binary | expected).sum()) > 0.9


HELD = {
    "space": (SmoothMask(hold=0), (0,)),
    "time": (SmoothMask(hold=(1, 2)), (1, 2)),
    "product": (SpaceTimeMask(), ()),
    "product of time and rows": (SpaceTimeMask(space=SmoothMask(hold=1)), (2,)),
    "time last": (SpaceTimeMask(space=SmoothMask(hold=-2), time_axis=-1), (0,)),
}


@pytest.mark.parametrize("name", HELD)
def test_default_blur_is_along_the_axes_that_masks_vary_along(name: str) -> None:
    mask, hold = HELD[name]
    x, weight = (torch.rand(1, 2, 9, 12, 10, dtype=torch.float64) for _ in range(2))
    method = ExtremalPerturbation(lambda x: (x * weight).flatten(1).sum(1))
    settings: dict[str, Any] = {"areas": (0.2, 0.5), "mask": mask, "solver": PathSolver(steps=6)}
    found = method.extremal_masks(x, **settings)
    same = method.extremal_masks(x, perturbation=BlurPyramid(hold=hold), **settings)
    assert torch.equal(found.masks, same.masks)
    assert torch.equal(found.perturbed_score, same.perturbed_score)
    varies = [axis for axis in range(3) if float(found.masks[0, 0, 0].std(axis).max()) > 1e-6]
    assert varies == [axis for axis in range(3) if axis not in hold]
    robust = method.robustness(found, x)  # the settings tell it the same blur
    torch.testing.assert_close(robust.soft[:, :2, 0], found.values, rtol=0, atol=1e-5)


def test_settings_of_another_number_of_axes_are_named_before_any_forward(counted: Callable[..., Any]) -> None:
    model = counted(network(2))
    for mask in (SmoothMask(step=(1.0, 2.0, 3.0)), SmoothMask(hold=2), SpaceTimeMask(time_axis=2)):
        with pytest.raises(ValueError, match=r"step|hold|time_axis"):
            ExtremalPerturbation(model).attribute(torch.rand(1, 3, 9, 9).double(), target=0, mask=mask)
    with pytest.raises(ValueError, match="sigma_max must have one number for each axis"):
        ExtremalPerturbation(model).attribute(
            torch.rand(1, 3, 9, 9).double(), target=0, perturbation=BlurPyramid(sigma_max=(1.0, 2.0, 3.0))
        )
    assert model.calls == 0


def test_perturbed_inputs_have_the_channels_where_the_inputs_have_them() -> None:
    x = torch.rand(2, 3, 12, 9).double()
    found = ExtremalPerturbation(network(2)).extremal_masks(x, target=1, areas=[0.3], solver=PathSolver(steps=4))
    expected = perturbed_inputs(found, x, optimum=True)
    seen = perturbed_inputs(found, x.movedim(1, -1), optimum=True, channel_dim=-1)
    assert seen.shape == (2, 2, 12, 9, 3)
    torch.testing.assert_close(seen.movedim(-1, 2), expected)
