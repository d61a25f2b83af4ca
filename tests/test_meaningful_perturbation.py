"""Meaningful perturbations against the method written out, and on models whose best mask is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_extremal import BlurPyramid, FadePyramid, Game, MeaningfulPerturbation, SamplePerturbation
from captum_extremal.perturbations import gaussian_blur


def attribute(forward_func: Callable[..., Any], inputs: Any, *given: Any, **settings: Any) -> Any:
    return MeaningfulPerturbation(forward_func).attribute(inputs, *given, **({"steps": 4} | settings))


# The method, written out


def moved(x: Tensor, rows: int, columns: int) -> Tensor:
    """A picture (H, W) moved down and to the right, its border repeated."""
    height, width = x.shape[-2:]
    row = [min(max(r - rows, 0), height - 1) for r in range(height)]
    column = [min(max(c - columns, 0), width - 1) for c in range(width)]
    return x[..., row, :][..., column]


def literal_mask(
    score: Callable[[Tensor], Tensor], x: Tensor, steps: int, area: float, variation: float, power: float, seed: int
) -> Tensor:
    """The deletion mask (H, W) of one image (C, H, W), with Adam and every sum by hand."""
    height, width = x.shape[1:]
    scale = min(height, width) / 224
    count = [round(side / max(1.0, 8 * scale)) for side in (height, width)]
    pyramid = BlurPyramid(sigma_max=10 * scale).bind(x[None], x[None])

    def enlarged(cells: Tensor) -> Tensor:
        large = F.interpolate(cells[None, None], size=(height, width), mode="bilinear", align_corners=False)
        return gaussian_blur(large, 5 * scale)[0, 0]

    def without(cells: Tensor, rows: int = 0, columns: int = 0) -> Tensor:
        kept = moved(1 - enlarged(cells), -rows, -columns)
        return score(moved(pyramid(kept[None, None])[0], rows, columns))

    distance = torch.tensor(
        [[math.hypot(r - (count[0] - 1) / 2, c - (count[1] - 1) / 2) for c in range(count[1])] for r in range(count[0])]
    ).double()
    shortest, longest = float(distance.min()), float(distance.max())
    clean, hidden = score(x), score(pyramid(torch.zeros(1, 1, height, width).double())[0])
    for k in range(20):
        cells = (distance <= shortest + (longest - shortest) * k / 19 + 1e-9).double()
        if without(cells) <= clean - 0.99 * (clean - hidden):
            break

    generator = torch.Generator().manual_seed(seed)
    mean, square = torch.zeros_like(cells), torch.zeros_like(cells)
    for step in range(1, steps + 1):
        rows, columns, _ = (int(part * max(2, 4 * scale)) for part in torch.rand(3, generator=generator).tolist())
        cells = cells.detach().requires_grad_()
        rough = (cells[1:] - cells[:-1]).abs() ** power, (cells[:, 1:] - cells[:, :-1]).abs() ** power
        loss = area * cells.sum() + variation * (rough[0].sum() + rough[1].sum()) + without(cells, rows, columns)
        (gradient,) = torch.autograd.grad(loss, cells)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        change = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        cells = (cells.detach() - 0.05 * change).clamp(0, 1)
    return enlarged(cells)


@pytest.mark.parametrize("size", [(120, 130), (40, 33)], ids=str)
def test_mask_is_the_written_out_methods(make_network: Callable[..., nn.Module], size: tuple[int, int]) -> None:
    network = make_network(2, 3)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    settings = {"area_weight": 2e-4, "variation_weight": 3e-2, "variation_power": 2.5, "seed": 5}
    found = attribute(network, x, target=[1, 4], steps=6, learning_rate=0.05, **settings)
    for n, target in enumerate([1, 4]):

        def score(image: Tensor, target: int = target) -> Tensor:
            return network(image[None])[0, target]

        expected = literal_mask(score, x[n], 6, 2e-4, 3e-2, 2.5, 5)
        torch.testing.assert_close(found[n], expected.detach().expand(3, -1, -1), rtol=0, atol=1e-8)
        assert float(expected.std()) > 0.01


@pytest.mark.parametrize("shape", [(120, 130), (17, 23), (9, 8, 11), (60,)], ids=str)
def test_shifts_follow_the_seed(make_network: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    network, x = make_network(len(shape), 3), torch.randn(1, 3, *shape, dtype=torch.float64)
    one, same, other = (attribute(network, x, target=1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# Masks that are known


def in_square(x: Tensor) -> Tensor:
    """A probability that only the middle of the upper left quarter decides, once an image has 1 everywhere."""
    return x[:, 0, 4:12, 6:14].mean((1, 2))


@pytest.mark.parametrize("game", ["delete", "preserve", "hybrid", Game(0.5, -0.5)], ids=str)
def test_mask_finds_the_square_that_the_score_needs(game: Any) -> None:
    x = torch.ones(2, 1, 32, 40)
    found = attribute(in_square, x, game=game, perturbation="fade", steps=150, area_weight=5e-4)
    outside = found[0, 0].clone()
    outside[:20, :22] = 0
    assert float(found[0, 0, 5:11, 7:13].min()) > 0.9
    assert float(outside.max()) < 0.1
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_baselines_are_what_fading_leads_to() -> None:
    x = torch.ones(1, 1, 32, 40)
    settings = {"perturbation": "fade", "steps": 60, "area_weight": 5e-4}
    assert float(attribute(in_square, x, 1.0, **settings).max()) < 0.05  # nothing can be taken away
    expected = attribute(in_square, x, 0.0, **settings)
    torch.testing.assert_close(attribute(in_square, x, torch.zeros_like(x), **settings), expected, rtol=0, atol=0)
    named = attribute(in_square, x, perturbation=FadePyramid(), **{k: settings[k] for k in ("steps", "area_weight")})
    torch.testing.assert_close(named, expected, rtol=0, atol=0)


def test_samples_are_averaged_also_of_tuples() -> None:
    """The score's mean over the background is that of an input faded to the mean row, for a linear score."""
    x, y = torch.rand(2, 1, 16, 16, dtype=torch.float64), torch.rand(2, 2, 20, dtype=torch.float64)
    weights = torch.rand(1, 16, 16, dtype=torch.float64), torch.rand(2, 20, dtype=torch.float64)

    def model(x: Tensor, y: Tensor) -> Tensor:
        return (x * weights[0]).sum((1, 2, 3)) + (y * weights[1]).sum((1, 2))

    rows = tuple(torch.randn(3, *part.shape[1:], dtype=torch.float64) for part in (x, y))
    how: dict[str, Any] = {"steps": 5, "area_weight": 1e-2}
    method = MeaningfulPerturbation(model)
    found = method.attribute((x, y), perturbation=SamplePerturbation(rows), **how)
    means = tuple(part.mean(0, keepdim=True) for part in rows)
    expected = method.attribute((x, y), means, perturbation="fade", **how)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
        assert float(one.std()) > 0


def test_the_weights_weigh() -> None:
    x = torch.ones(1, 1, 32, 40)
    settings = {"perturbation": "fade", "steps": 60}
    plain = attribute(in_square, x, **settings)
    assert float(attribute(in_square, x, area_weight=1.0, **settings).max()) == 0
    assert float(attribute(in_square, x, area_weight=0.0, **settings).sum()) > float(plain.sum())
    smooth = attribute(in_square, x, variation_weight=10.0, variation_power=2.0, **settings)
    assert float(smooth.diff(dim=-1).abs().max()) < 0.5 * float(plain.diff(dim=-1).abs().max())


# Beyond the contract


@pytest.mark.parametrize("shape", [(60,), (17, 23), (9, 8, 11)], ids=str)
def test_batch_is_explained_as_its_images_are(make_network: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    network, x = make_network(len(shape)), torch.randn(3, 3, *shape, dtype=torch.float64)
    found = attribute(network, x, target=[0, 4, 2], game="hybrid")
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    for n, target in enumerate([0, 4, 2]):
        alone = attribute(network, x[n : n + 1], target=target, game="hybrid")
        torch.testing.assert_close(found[n : n + 1], alone, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_finds_the_square(dtype: torch.dtype) -> None:
    x = torch.ones(1, 1, 32, 40, dtype=dtype)
    found = attribute(in_square, x, perturbation="fade", steps=150, area_weight=5e-4)
    assert found.dtype == dtype
    assert float(found[0, 0, 6:10, 8:12].min()) > 0.9
    assert float(found[0, 0, 20:].max()) < 0.1


def test_model_sees_one_batch_a_step(network: nn.Module, images: Tensor, counted: type) -> None:
    model = counted(network)
    attribute(model, images, target=1)
    assert model.rows == [2] * (2 + 20 + 4)  # clean, hidden, the disks, the steps


BAD_INPUT: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "no steps": ("steps", ValueError, {"steps": 0}),
    "half a step": ("steps", TypeError, {"steps": 1.5}),
    "no learning": ("learning_rate", ValueError, {"learning_rate": 0}),
    "learning in words": ("learning_rate", TypeError, {"learning_rate": "fast"}),
    "negative area weight": ("area_weight", ValueError, {"area_weight": -1}),
    "infinite variation weight": ("variation_weight", ValueError, {"variation_weight": math.inf}),
    "power below one": ("variation_power", ValueError, {"variation_power": 0.5}),
    "half a seed": ("seed", TypeError, {"seed": 0.5}),
    "unknown perturbation": ("perturbation", ValueError, {"perturbation": "noise"}),
    "no perturbation": ("perturbation", TypeError, {"perturbation": object()}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named_before_any_forward(network: nn.Module, counted: type, case: str) -> None:
    name, error, changes = BAD_INPUT[case]
    model = counted(network)
    with pytest.raises(error, match=f"^{name}"):
        MeaningfulPerturbation(model).attribute(
            **({"inputs": torch.zeros(2, 3, 16, 16).double(), "target": 0} | changes)
        )
    assert model.calls == 0
