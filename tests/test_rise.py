"""RISE against a literal loop, and against its expectation on linear models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_extremal import RISE

GUIDE = (Path(__file__).parents[1] / "docs" / "guide" / "compare.md").read_text(encoding="utf-8")
WITHIN = {"rtol": 0, "atol": 1e-6}  # the masks are float32


def attribute(forward_func: Callable[..., Any], inputs: Any, *given: Any, **settings: Any) -> Any:
    return RISE(forward_func).attribute(inputs, *given, **({"n_samples": 12, "cells": 4} | settings))


def masks_seen(shape: tuple[int, ...], n_samples: int, **settings: Any) -> Tensor:
    """The masks (n, *S) themselves: what a model is shown of an image of ones, after the clean and the hidden one."""
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x[:, 0])
        return x.flatten(1).sum(1)

    attribute(forward, torch.ones(1, 1, *shape), n_samples=n_samples, **settings)
    assert float(seen[0].min()) == 1
    assert float(seen[1].max()) == 0
    return torch.cat(seen[2:])


def test_the_default_takes_as_many_passes_as_the_guide_says(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[int] = []

    def forward(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x.flatten(1).sum(1)

    RISE(forward).attribute(torch.ones(2, 1, 8, 8), perturbations_per_eval=1000, show_progress=True)
    passes = sum(rows) // 2
    assert passes == 4002
    assert f"`RISE` takes {passes} forward passes" in GUIDE
    assert "4000/4000" in capsys.readouterr().err


# The masks


@pytest.mark.parametrize("shape", [(30,), (16, 16), (17, 23), (9, 8, 11)], ids=str)
@pytest.mark.parametrize("cells", [1, 3, 7])
def test_masks_are_enlarged_grids_at_random_places(shape: tuple[int, ...], cells: int) -> None:
    masks = masks_seen(shape, 6, cells=cells, probability=0.4, seed=3)
    generator = torch.Generator().manual_seed(3)
    grids = (torch.rand(6, 1, *[cells] * len(shape), generator=generator) < 0.4).float()
    lengths = [math.ceil(side / cells) for side in shape]
    places = [torch.randint(0, length + 1, (6,), generator=generator) for length in lengths]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    for k, grid in enumerate(grids):
        large = F.interpolate(grid[None], size=[(cells + 1) * length for length in lengths], mode=mode)[0, 0]
        for axis, side in enumerate(shape):
            large = large.narrow(axis, int(places[axis][k]), side)
        torch.testing.assert_close(masks[k], large, **WITHIN)


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_every_position_is_shown_with_the_probability(probability: float) -> None:
    masks = masks_seen((12, 9), 4000, cells=3, probability=probability, perturbations_per_eval=500)
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1
    error = math.sqrt(probability * (1 - probability) / 4000)
    torch.testing.assert_close(masks.mean(0), torch.full((12, 9), probability), rtol=0, atol=5 * error)


def test_a_seed_gives_its_own_masks() -> None:
    one, same, other = (masks_seen((16, 16), 5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len({mask.numpy().tobytes() for mask in one}) == 5


# The map


@pytest.mark.parametrize("at_once", [1, 5, 12, 100])
def test_map_is_the_literal_sum(network: nn.Module, images: Tensor, at_once: int) -> None:
    masks = masks_seen((16, 16), 12, probability=0.3).double()
    baseline = torch.randn_like(images)
    expected = torch.zeros_like(images)
    for n, target in enumerate([3, 1]):
        for mask in masks:
            shown = mask * images[n] + (1 - mask) * baseline[n]
            expected[n] += network(shown[None])[0, target].detach() * mask / (12 * 0.3)
    found = attribute(network, images, baseline, [3, 1], probability=0.3, perturbations_per_eval=at_once)
    torch.testing.assert_close(found, expected, **WITHIN)


def test_map_of_a_linear_model_is_its_expectation() -> None:
    r"""For Phi(x) = sum_v c_v x_v it is sum_v c_v x_v E[M_v M_u] / E[M_u], with the masks' exact second moment."""
    side, cells, p = 8, 2, 0.4
    x, weights = torch.randn(1, 1, side, side), torch.randn(side * side, dtype=torch.float64)
    length = side // cells
    size = [(cells + 1) * length] * 2
    each = torch.eye(cells * cells).view(-1, 1, cells, cells)
    enlarged = F.interpolate(each, size=size, mode="bilinear")[:, 0].double()
    second = torch.zeros(side * side, side * side, dtype=torch.float64)
    places = list(itertools.product(range(length + 1), repeat=2))
    for row, column in places:
        of_cells = enlarged[:, row : row + side, column : column + side].flatten(1).T
        second += (p * p + p * (1 - p) * of_cells @ of_cells.T) / len(places)
    expected = (second @ (weights * x.double().flatten()) / p).view(1, 1, side, side)

    def forward(x: Tensor) -> Tensor:
        return x.flatten(1).double() @ weights

    found = attribute(forward, x, n_samples=40000, cells=cells, probability=p, perturbations_per_eval=4000)
    assert float((found - expected).abs().max()) < 0.03 * float(expected.abs().max())


def test_position_that_the_score_needs_is_the_maximum() -> None:
    x = torch.ones(1, 1, 20, 26)
    found = attribute(lambda x: x[:, 0, 5, 19], x, n_samples=600, cells=5, perturbations_per_eval=100)[0, 0]
    row, column = divmod(int(found.argmax()), 26)
    assert abs(row - 5) <= 1
    assert abs(column - 19) <= 1


# Beyond the contract


def test_tuple_of_inputs_has_masks_of_its_own(make_network: Callable[..., nn.Module]) -> None:
    """Of a sum of two scores, each input's map is its own score's and the noise of the other, which shrinks."""
    image, signal = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.randn(2, 2, 30, dtype=torch.float64)
    of_image, of_signal = make_network(2), make_network(1, 2)
    found = attribute(lambda a, b: of_image(a) + of_signal(b), (image, signal), (0.5, signal), target=1)
    assert [one.shape for one in found] == [image.shape, signal.shape]
    constant = of_signal(signal)[:, 1].detach()  # the signal fades to itself
    alone = attribute(lambda a: of_image(a)[:, 1] + constant.repeat(len(a) // 2), (image,), (0.5,))[0]
    torch.testing.assert_close(found[0], alone, **WITHIN)


def standardised(x: Tensor) -> Tensor:
    """The images with a mean of 0 and a standard deviation of 1; NaN where all of an image is of one colour."""
    axes = (1, 2, 3)
    return (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True)


def test_a_network_without_a_score_for_nothing_is_explained(network: nn.Module, images: Tensor) -> None:
    assert network(standardised(torch.zeros_like(images))).isnan().all()
    settings: dict[str, Any] = {"n_samples": 12, "cells": 2, "probability": 0.3, "perturbations_per_eval": 5}
    seen = masks_seen((16, 16), **{k: v for k, v in settings.items() if k != "perturbations_per_eval"})
    assert not seen.flatten(1).any(1).all()  # some masks show nothing
    scores = [network(standardised(mask * images))[:, 1].nan_to_num(0.0) for mask in seen]
    expected = sum(score.view(2, 1, 1, 1) * mask for score, mask in zip(scores, seen)) / (12 * 0.3)
    found = attribute(lambda x: network(standardised(x)), images, target=1, **settings)
    torch.testing.assert_close(found, expected.expand_as(images).detach(), rtol=0, atol=1e-6)


def test_a_score_of_nan_for_something_is_refused(network: nn.Module, images: Tensor) -> None:
    def of_whole_images(x: Tensor) -> Tensor:
        return network(x).where((x != 0).flatten(1).all(1, keepdim=True), torch.nan)

    with pytest.raises(ValueError, match="forward_func's output for the masked inputs must not be NaN"):
        attribute(of_whole_images, images, target=1, n_samples=4)


def test_model_need_not_be_differentiable(network: nn.Module, images: Tensor) -> None:
    def forward(x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return torch.from_numpy(network(x).numpy().round(6))

    expected = attribute(network, images, target=1)
    torch.testing.assert_close(attribute(forward, images, target=1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_near_to_double(make_network: Callable[..., nn.Module], images: Tensor, dtype: Any) -> None:
    expected = attribute(make_network(), images, target=1)
    found = attribute(make_network(dtype=dtype), images.to(dtype), target=1)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_model_is_called_for_so_many_masks_at_once(network: nn.Module, images: Tensor, counted: type) -> None:
    model = counted(network)
    attribute(model, images, target=1, perturbations_per_eval=5)
    assert model.rows == [2, 2, 10, 10, 4]  # clean, hidden, then the masks


BAD_INPUT: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "no masks": ("n_samples", ValueError, {"n_samples": 0}),
    "half a mask": ("n_samples", TypeError, {"n_samples": 1.5}),
    "no cells": ("cells", ValueError, {"cells": 0}),
    "more cells than positions": ("cells", ValueError, {"cells": 17}),
    "cells in words": ("cells", TypeError, {"cells": "many"}),
    "nothing is shown": ("probability", ValueError, {"probability": 0}),
    "all is shown": ("probability", ValueError, {"probability": 1.0}),
    "probability in words": ("probability", TypeError, {"probability": "half"}),
    "half a seed": ("seed", TypeError, {"seed": 0.5}),
    "perturbations per eval unknown": ("perturbations_per_eval", TypeError, {"perturbations_per_eval": None}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named_before_any_forward(network: nn.Module, counted: type, case: str) -> None:
    name, error, changes = BAD_INPUT[case]
    model = counted(network)
    with pytest.raises(error, match=f"^{name}"):
        RISE(model).attribute(**({"inputs": torch.zeros(2, 3, 16, 16).double(), "target": 0} | changes))
    assert model.calls == 0
