"""Robustness against closed forms of a linear model, and what it must not do: differentiate, draw, leave traces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import (
    BlurPyramid,
    ExtremalMasks,
    ExtremalPerturbation,
    FadePyramid,
    LayerExtremalPerturbation,
    PathSolver,
    Robustness,
    SamplePerturbation,
    perturbed_inputs,
)
from captum_extremal.perturbations import gaussian_blur
from captum_extremal.search import as_game

AREAS = (0.1, 0.3)
QUICK = PathSolver(steps=4, searches=1)
SIGMA = 20 * 16 / 224  # of the default blur of images of 16 px
NAMES = ("own", "fade", "half blur", "blur", "double blur", "others", "noise")
EXACT = {"rtol": 0, "atol": 1e-9}


class Linear(nn.Module):
    """One score, linear in the input: sum w x."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(1)


class Replaced:
    """A perturbation of one's own: hidden positions are 3."""

    def bind(self, x: Tensor, baseline: Tensor) -> Callable[[Tensor], Tensor]:
        return FadePyramid().bind(x, torch.full_like(x, 3.0))


def find(model: Callable[..., Any], inputs: Any, **settings: Any) -> ExtremalMasks:
    return ExtremalPerturbation(model).extremal_masks(inputs, **{"areas": AREAS, "solver": QUICK} | settings)


def measure(model: Callable[..., Any], found: ExtremalMasks, inputs: Any, **how: Any) -> Robustness:
    return ExtremalPerturbation(model).robustness(found, inputs, **how)


def noise_of(x: Tensor) -> Tensor:
    drawn = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.mean((2, 3), keepdim=True) + x.std((2, 3), correction=0, keepdim=True) * drawn


def shown(name: str, mask: Tensor, x: Tensor, baseline: float) -> Tensor:
    """What the model sees of images (N, C, H, W) under masks (N, 1, H, W), written out."""
    factor = {"own": 1.0, "half blur": 0.5, "blur": 1.0, "double blur": 2.0}.get(name)
    if factor is None:
        other = {"fade": torch.full_like(x, baseline), "others": x.roll(1, 0), "noise": noise_of(x)}[name]
        return mask * x + (1 - mask) * other
    levels = [x, *(gaussian_blur(x, factor * SIGMA * k / 7) for k in range(1, 8))]
    depth = (1 - mask) * 7
    return sum(((1 - (depth - k).abs()).clamp(min=0) * level for k, level in enumerate(levels)), torch.zeros_like(x))


def binary_at_optimum(found: ExtremalMasks) -> Tensor:
    """The binary masks (N, 1, *S) of a*, or of the largest area where it is not reached: the highest values."""
    binary = torch.zeros_like(found.optimal_masks)
    for mask, kept, area in zip(found.optimal_masks, binary, found.optimal_area.tolist()):
        count = round((float(mask.mean()) if math.isnan(area) else area) * mask.numel())
        kept.view(-1)[mask.flatten().sort(descending=True, stable=True).indices[:count]] = 1
    return binary


@pytest.mark.parametrize("game", ["preserve", "delete", "hybrid"])
def test_values_of_a_linear_model_are_those_of_the_formula(images: Tensor, game: str) -> None:
    model = Linear(3, 16, 16)
    found = find(model, images, game=game)
    robust = measure(model, found, images, baselines=0.5)
    assert robust.names == NAMES
    assert robust.soft.shape == robust.binary.shape == (2, 3, 7)
    masks = torch.cat([found.masks, found.optimal_mask()[:, None]], 1).double()
    binary = torch.cat([found.binary_masks(), binary_at_optimum(found)[:, None]], 1).double()
    value = as_game(game).value
    for kind, measured in ((masks, robust.soft), (binary, robust.binary)):
        for way, name in enumerate(NAMES):
            for k in range(3):
                kept, removed = (model(shown(name, mask, images, 0.5)) for mask in (kind[:, k], 1 - kind[:, k]))
                torch.testing.assert_close(measured[:, k, way], value(kept, removed).detach(), **EXACT)
    for way, name in enumerate(NAMES):
        hidden, clean = model(shown(name, torch.zeros(2, 1, 16, 16).double(), images, 0.5)), model(images)
        everything = value(clean, hidden) if game == "delete" else value(hidden, clean)
        torch.testing.assert_close(robust.all_hidden[:, way], everything.detach(), **EXACT)


@pytest.mark.parametrize("areas", [AREAS, None, "optimal"], ids=str)
def test_own_way_repeats_what_the_search_found(network: nn.Module, images: Tensor, areas: Any) -> None:
    for perturbation in ("fade", BlurPyramid(sigma_max=3.0, levels=3, padding="zeros")):
        settings: dict[str, Any] = {"target": 1, "score_threshold": lambda clean, perturbed: 0.9 * clean}
        if perturbation == "fade":
            settings["baselines"] = 0.3
        found = find(network, images, perturbation=perturbation, areas=areas, **settings)
        robust = measure(network, found, images, target=1, baselines=0.3)
        torch.testing.assert_close(robust.soft[:, :-1, 0], found.values, rtol=0, atol=1e-6)
        torch.testing.assert_close(robust.soft[:, -1, 0], found.optimal_value, rtol=0, atol=1e-6)
        held = torch.cat([found.areas.expand(2, -1), found.optimal_area[:, None]], 1)
        torch.testing.assert_close(robust.areas, held, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(robust.clean_score, network(images)[:, 1].detach())


def test_binary_masks_have_exactly_the_area() -> None:
    """Of an image of ones the mean is the kept share where the rest fades to 0."""
    x = torch.ones(1, 1, 15, 15, dtype=torch.float64)
    model: Any = lambda x: x.mean((1, 2, 3))  # noqa: E731
    found = find(model, x, perturbation="fade", score_threshold=0.25)
    robust = measure(model, found, x)
    assert robust.binary[0, :, 1].tolist() == pytest.approx([round(a * 225) / 225 for a in (0.1, 0.3, 0.3)])
    assert robust.soft[0, :, 1].tolist() == pytest.approx([0.1, 0.3, 0.3], abs=1e-6)
    torch.testing.assert_close(robust.soft_percent, 100 * robust.soft)
    torch.testing.assert_close(robust.soft[0, :, 3], torch.ones(3).double())  # a blur leaves what is constant
    torch.testing.assert_close(robust.soft[0, :, -1], torch.ones(3).double())  # and so does noise without spread


@pytest.mark.parametrize(("areas", "largest"), [(AREAS, 0.3), (None, 1.0), ("optimal", 1.0)], ids=str)
@pytest.mark.filterwarnings("ignore:. of . examples do not reach the score threshold even")
def test_a_star_that_is_not_reached_is_the_largest_area(areas: Any, largest: float) -> None:
    x = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    model: Any = lambda x: x.mean((1, 2, 3))  # noqa: E731
    found = find(model, x, perturbation="fade", areas=areas, score_threshold=2.0)
    robust = measure(model, found, x)
    assert math.isnan(robust.areas[0, -1])
    assert float(robust.soft[0, -1, 1]) == pytest.approx(largest, abs=2e-3)
    assert float(robust.binary[0, -1, 1]) == pytest.approx(round(largest * 256) / 256)
    if areas == AREAS:
        assert torch.equal(robust.soft[0, -1], robust.soft[0, -2])


OTHER_VALUES = "have other values than the search measured"


@pytest.mark.parametrize("how", [{"baselines": 0.5}, {"perturbation": "blur"}])
def test_another_hiding_than_the_searchs_is_told(images: Tensor, how: dict[str, Any]) -> None:
    model = Linear(3, 16, 16)
    found = find(model, images, perturbation="fade")
    measure(model, found, images)  # no warning, which would be an error here
    with pytest.warns(UserWarning, match=rf"examples \[0, 1\] {OTHER_VALUES}: give robustness the same"):
        measure(model, found, images, **how)


@pytest.mark.filterwarnings(f"ignore:.*{OTHER_VALUES}:UserWarning")
def test_a_star_between_the_areas_has_its_own_mask() -> None:
    x = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    model: Any = lambda x: x.mean((1, 2, 3))  # noqa: E731
    found = find(model, x, perturbation="fade")
    between = replace(found, optimal_area=torch.tensor([0.2]), optimal_masks=torch.rand(1, 1, 16, 16))
    robust = measure(model, between, x)
    assert robust.areas[0].tolist() == pytest.approx([0.1, 0.3, 0.2])
    assert float(robust.soft[0, -1, 1]) == pytest.approx(float(between.optimal_masks.mean()))
    assert float(robust.binary[0, -1, 1]) == pytest.approx(round(0.2 * 256) / 256)


@pytest.mark.parametrize("game", ["preserve", "delete", "hybrid"])
def test_a_star_alone_has_the_values_it_has_after_areas(images: Tensor, game: str) -> None:
    model = Linear(3, 16, 16)
    found = find(model, images, game=game)
    names = ("masks", "agreement", "scores", "complement_scores", "values", "agreement_score")
    cut: dict[str, Any] = {name: getattr(found, name)[:, :0] for name in names}
    alone = replace(found, areas=found.areas[:0], sigma=found.sigma[:0], **cut)
    whole, robust = measure(model, found, images), measure(model, alone, images)
    assert robust.soft.shape == robust.binary.shape == (2, 1, 7)
    for name in ("soft", "binary", "areas"):
        expected = getattr(whole, name)[:, -1:]
        torch.testing.assert_close(getattr(robust, name), expected, equal_nan=True, **EXACT)
    assert robust.to_frame()["mask"].tolist() == ["a*"] * 14


@pytest.mark.parametrize("areas", [AREAS, "optimal"], ids=str)
@pytest.mark.parametrize("game", ["preserve", "delete", "hybrid"])
def test_where_nothing_is_needed_nothing_is_shown(images: Tensor, game: str, areas: Any) -> None:
    """Soft and binary alike, the mask of a* = 0 hides all in every way, and removes nothing."""
    model = Linear(3, 16, 16)
    found = find(model, images, game=game, areas=areas, score_threshold=-1e6)
    assert bool(found.vacuous.all())
    robust = measure(model, found, images)
    assert robust.areas[:, -1].tolist() == [0, 0]
    zeros, value = torch.zeros(2, 1, 16, 16).double(), as_game(game).value
    for way, name in enumerate(NAMES):
        expected = value(model(shown(name, zeros, images, 0.0)), model(images)).detach()
        torch.testing.assert_close(robust.soft[:, -1, way], expected, **EXACT)
    assert torch.equal(robust.soft[:, -1], robust.binary[:, -1])
    if game != "delete":
        torch.testing.assert_close(robust.soft[:, -1], robust.all_hidden, **EXACT)


@pytest.mark.filterwarnings("ignore:.*do not reach the score threshold even:UserWarning")
def test_a_star_of_a_tuple_alone_and_of_nothing(images: Tensor) -> None:
    first, second = Linear(3, 16, 16), Linear(2, 20)
    inputs = (images, torch.randn(2, 2, 20, dtype=torch.float64))
    model: Any = lambda x, y: first(x) + second(y)  # noqa: E731
    threshold = torch.tensor([-1e6, 1e6])  # nothing is needed, and not reached
    found = find(model, inputs, areas="optimal", score_threshold=threshold)
    robust = measure(model, found, inputs)
    assert robust.soft.shape == (2, 1, 7)
    assert robust.areas[0].tolist() == [0]
    assert math.isnan(robust.areas[1])
    torch.testing.assert_close(robust.soft[:, 0, 0], found.optimal_value, rtol=0, atol=1e-4)
    assert bool(robust.binary.isfinite().all())


# The ways of hiding


def test_others_are_averaged(network: nn.Module, images: Tensor) -> None:
    found, others = find(network, images, target=1), torch.randn(3, 3, 16, 16)
    robust = measure(network, found, images, target=1, others=others)
    way = robust.names.index("others")
    alone = [measure(network, found, images, target=1, others=others[k : k + 1]) for k in range(3)]
    for name in ("soft", "binary", "all_hidden"):
        mean = torch.stack([getattr(one, name) for one in alone]).mean(0)
        torch.testing.assert_close(getattr(robust, name)[..., way], mean[..., way], **EXACT)
    faded = measure(network, found, images, target=1, baselines=others[:1].double())
    torch.testing.assert_close(alone[0].soft[..., way], faded.soft[..., 1], **EXACT)


def test_one_image_has_no_others(network: nn.Module, images: Tensor) -> None:
    robust = measure(network, find(network, images[:1], target=1), images[:1], target=1)
    assert robust.names == tuple(name for name in NAMES if name != "others")
    with_others = measure(network, find(network, images[:1], target=1), images[:1], target=1, others=images[1:])
    assert with_others.names == NAMES


def test_a_repeated_image_is_no_other_image(network: nn.Module, images: Tensor) -> None:
    """Several classes of one image: its own content would hide nothing."""
    repeated, targets = images[:1].expand(3, -1, -1, -1), [0, 1, 2]
    assert "others" not in measure(network, find(network, repeated, target=targets), repeated, target=targets).names
    batch = images[[0, 0, 1]]
    found = find(network, batch, target=targets)
    robust = measure(network, found, batch, target=targets)
    way = robust.names.index("others")
    for row, other in enumerate((1, 1, 0)):
        how = {"target": targets[row], "others": images[other : other + 1]}
        one = measure(network, found.image(row), batch[row : row + 1], **how)
        torch.testing.assert_close(robust.soft[row, :, way], one.soft[0, :, way], **EXACT)


def test_noise_has_the_images_own_statistics_and_no_global_draw(images: Tensor) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return x.mean((1, 2, 3))

    x = 2 + 3 * images
    found = find(model, x)
    state = torch.random.get_rng_state()
    first = measure(model, found, x)
    assert torch.equal(torch.random.get_rng_state(), state)
    noise = seen[-2]  # all hidden, and then the masks
    torch.testing.assert_close(noise.mean((2, 3)), x.mean((2, 3)), rtol=0, atol=1.0)
    torch.testing.assert_close(noise.std((2, 3)), x.std((2, 3)), rtol=0.2, atol=0)
    assert float((noise - x).abs().mean()) > 1
    torch.manual_seed(7)
    again = measure(model, found.image(1), x[1:])  # neither the seed nor the batch plays a part
    torch.testing.assert_close(again.soft[0, :, -1], first.soft[1, :, -1], **EXACT)


def test_a_perturbation_of_ones_own_must_be_given_again(
    network: nn.Module, images: Tensor, counted: Any, tmp_path: Path
) -> None:
    found = find(network, images, target=1, perturbation=Replaced())
    found.save(tmp_path / "masks.npz")
    found, model = ExtremalMasks.load(tmp_path / "masks.npz"), counted(network)
    with pytest.raises(ValueError, match=r"perturbation must be given .*Replaced"):
        measure(model, found, images, target=1)
    assert model.calls == 0
    robust = measure(model, found, images, target=1, perturbation=Replaced())
    torch.testing.assert_close(robust.soft[:, :-1, 0], found.values, rtol=0, atol=1e-6)


# Models and inputs of all kinds


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("dimensions", "shape"), [(1, (40,)), (2, (17, 23)), (3, (8, 9, 10))], ids=str)
def test_signals_images_and_volumes(
    make_network: Callable[..., nn.Module], dimensions: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(2, 3, *shape).to(dtype)
    model = make_network(dimensions, dtype=dtype)
    found = find(model, x, target=1)
    robust = measure(model, found, x, target=1)
    assert robust.soft.dtype == found.values.dtype
    torch.testing.assert_close(robust.soft[:, :-1, 0], found.values, rtol=0, atol=1e-6)
    assert bool(robust.soft.isfinite().all())


def test_masks_and_others_may_lie_on_another_device(network: nn.Module, images: Tensor, device: torch.device) -> None:
    found = find(network, images, target=1)  # on the CPU, as a file is loaded
    expected = measure(network, found, images, target=1, others=images)
    robust = measure(network.to(device), found, images.to(device), target=1, others=images)
    assert robust.soft.device.type == robust.areas.device.type == device.type
    for name in ("soft", "binary", "all_hidden"):
        torch.testing.assert_close(getattr(robust, name).cpu(), getattr(expected, name), **EXACT)


def test_tuples_of_inputs_are_hidden_together(images: Tensor) -> None:
    first, second = Linear(3, 16, 16), Linear(2, 20)
    inputs = (images, torch.randn(2, 2, 20, dtype=torch.float64))

    def model(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return (first(x) + second(y)) * scale

    scale = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = find(model, inputs, additional_forward_args=scale)
    robust = measure(model, found, inputs, additional_forward_args=scale)
    assert robust.names == NAMES
    hidden = [x.roll(1, 0) for x in inputs]
    kept = [[masks.double()[:, k] for masks in found.masks] for k in range(2)]
    for k in range(2):
        seen = [m * x + (1 - m) * other for m, x, other in zip(kept[k], inputs, hidden)]
        expected = model(*seen, scale).detach()
        torch.testing.assert_close(robust.soft[:, k, NAMES.index("others")], expected, **EXACT)
    given = measure(model, found, inputs, additional_forward_args=scale, others=tuple(x[:1] for x in inputs))
    torch.testing.assert_close(given.soft[1, :, 5], robust.soft[1, :, 5], **EXACT)


def test_samples_of_a_tuple_belong_to_their_inputs(images: Tensor) -> None:
    inputs = (images, torch.randn(2, 2, 20, dtype=torch.float64))
    samples = SamplePerturbation(tuple(torch.randn(3, *x.shape[1:], dtype=torch.float64) for x in inputs))
    first, second = Linear(3, 16, 16), Linear(2, 20)

    def model(x: Tensor, y: Tensor) -> Tensor:
        return first(x) * second(y)

    found = find(model, inputs, perturbation=samples)
    robust = measure(model, found, inputs, perturbation=samples)
    torch.testing.assert_close(robust.soft[:, :-1, 0], found.values, rtol=1e-6, atol=1e-6)
    calls: list[Tensor] = []
    with pytest.raises(ValueError, match=r"perturbation must be given where found.settings do not tell all"):
        measure(lambda x, y: calls.append(x), found, inputs)
    other = SamplePerturbation(torch.randn(3, 3, 16, 16))
    with pytest.raises(ValueError, match="background must be one tensor for each of 2 inputs, got 1"):
        measure(lambda x, y: calls.append(x), found, inputs, perturbation=other)
    assert not calls
    with pytest.raises(ValueError, match="perturbation must give one input for each mask, not samples of several"):
        perturbed_inputs(found, inputs, perturbation=samples)
    one = SamplePerturbation(tuple(part[:1] for part in samples.background))
    seen = perturbed_inputs(found, inputs, perturbation=one)
    for x, part, masks, background in zip(inputs, seen, found.masks, one.background):
        m = masks.double()
        torch.testing.assert_close(part, m * x[:, None] + (1 - m) * background[None], rtol=0, atol=1e-6)


def test_the_model_need_not_be_differentiable(images: Tensor) -> None:
    model = Linear(3, 16, 16)
    found = find(model, images)
    robust = measure(lambda x: torch.from_numpy(model(x).detach().numpy().copy()), found, images)
    torch.testing.assert_close(robust.soft, measure(model, found, images).soft, **EXACT)
    assert not robust.soft.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(measure(model, found, images.clone()).soft, robust.soft, **EXACT)


@pytest.mark.parametrize("game", ["preserve", "hybrid"])
@pytest.mark.parametrize("at_once", [1, 4])
def test_perturbations_per_eval_limits_the_rows(
    network: nn.Module, images: Tensor, counted: Any, game: str, at_once: int
) -> None:
    found, model = find(network, images, target=1, game=game), counted(network)
    robust = measure(model, found, images, target=1)
    assert max(model.rows) == 2 * 2 * 3 * (2 if game == "hybrid" else 1)
    assert model.calls == 7 * 3  # for each way the clean inputs, all hidden, and the masks
    limited = counted(network)
    less = measure(limited, found, images, target=1, perturbations_per_eval=at_once)
    assert max(limited.rows) == 2 * at_once
    torch.testing.assert_close(less.soft, robust.soft, **EXACT)


@pytest.mark.filterwarnings("ignore:the model is in train mode")
@pytest.mark.filterwarnings(f"ignore:.*{OTHER_VALUES}:UserWarning")
def test_nothing_is_left_on_the_model(images: Tensor) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    found = find(model, images, target=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, x = torch.random.get_rng_state(), images.clone()
    measure(model, found, x, target=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(x, images)
    assert not x.requires_grad
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


# Per cent, and the table


def by_hand(soft: list[float], clean: list[float]) -> Robustness:
    """One mask, that of a*, and two ways of hiding for each image."""
    values = torch.tensor(soft).view(len(clean), 1, 2)
    areas, score = torch.full((len(clean), 1), 0.2), torch.tensor(clean)
    return Robustness(("own", "fade"), areas, values, values / 2, values[:, 0] / 4, score)


def test_percent_is_of_the_clean_score() -> None:
    robust = by_hand([5.0, 8.0, -1.0, 3.0], [10.0, 2.0])
    assert robust.soft_percent.flatten().tolist() == pytest.approx([50, 80, -50, 150])
    assert robust.binary_percent.flatten().tolist() == pytest.approx([25, 40, -25, 75])
    assert robust.all_hidden_percent.flatten().tolist() == pytest.approx([12.5, 20, -12.5, 37.5])


@pytest.mark.parametrize("clean", [0.0, -4.0, 1e-4])
def test_there_is_no_percent_of_a_clean_score_about_0(clean: float) -> None:
    robust = by_hand([5.0, 8.0, 1.0, 2.0], [clean, 1.0])
    assert robust.soft_percent[0].isnan().all()
    assert robust.all_hidden_percent[0].isnan().all()
    assert robust.binary_percent[1].flatten().tolist() == pytest.approx([50, 100])


def test_text_shows_the_numbers_of_a_star_in_three_lines_an_image() -> None:
    robust = by_hand([5.0, 8.0, 1.0, 2.0], [10.0, -4.0])
    assert [line.split() for line in repr(robust).splitlines()] == [
        ["Robustness", "(N", "=", "2,", "A", "=", "0),", "the", "game's", "values", "at", "a*:"],
        ["own", "fade"],
        ["image", "0,", "a*", "0.2:", "masks,", "%", "of", "the", "clean", "score", "50", "80"],
        ["binary", "forms", "of", "image", "0", "25", "40"],
        ["all", "hidden", "of", "image", "0", "12", "20"],
        ["image", "1,", "a*", "0.2:", "masks,", "clean", "score", "-4", "1", "2"],
        ["binary", "forms", "of", "image", "1", "0.5", "1"],
        ["all", "hidden", "of", "image", "1", "0.25", "0.5"],
    ]
    many = by_hand([1.0, 2.0] * 70, [1.0] * 70)
    assert len(repr(many).splitlines()) == 2 + 3 * 4 + 1
    assert repr(many).endswith("... and 66 more images")
    never = replace(robust, areas=torch.full((2, 1), torch.nan))
    assert "image 0, a* not reached: masks" in repr(never)


@pytest.mark.filterwarnings(f"ignore:.*{OTHER_VALUES}:UserWarning")
@pytest.mark.parametrize(("shown", "percent"), [(1.0, -100.0), (0.0, 0.0)], ids=["worst", "best"])
def test_deletion_goes_from_minus_100_percent_to_0(images: Tensor, shown: float, percent: float) -> None:
    def brightness(x: Tensor) -> Tensor:
        return x[:, 0, 6:10, 6:10].mean((1, 2))

    x = torch.ones_like(images)
    found = find(brightness, x, game="delete", perturbation="fade", areas=[0.5])
    masks = torch.full_like(found.masks, 1 - shown)  # what the deletion leaves is 1 - m
    robust = measure(brightness, replace(found, masks=masks), x)
    assert robust.soft_percent[:, 0, 1].tolist() == pytest.approx([percent] * 2)


def test_a_network_without_a_score_for_nothing_has_the_other_ways(network: nn.Module, images: Tensor) -> None:
    def standardised(x: Tensor) -> Tensor:  # NaN where all of an image is of one colour
        axes = (1, 2, 3)
        scores: Tensor = network((x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True))
        return scores

    robust = measure(standardised, find(standardised, images, target=1), images, target=1)
    fade = torch.tensor([name == "fade" for name in robust.names])
    assert robust.all_hidden.isnan().tolist() == [fade.tolist()] * 2
    assert robust.soft.isfinite().all()
    assert robust.binary.isfinite().all()


def test_table_has_a_row_for_each_value(network: nn.Module, images: Tensor) -> None:
    robust = measure(network, find(network, images, target=1), images, target=1)
    frame = robust.to_frame()
    assert list(frame) == ["image", "mask", "area", "hiding", "soft", "binary", "soft_percent", "binary_percent"]
    assert len(frame) == 2 * 3 * 7
    for _, row in frame.iterrows():
        at = (row["image"], ["0.1", "0.3", "a*"].index(row["mask"]), NAMES.index(row["hiding"]))
        for name in ("soft", "binary", "soft_percent", "binary_percent"):
            assert row[name] == pytest.approx(float(getattr(robust, name)[at]), nan_ok=True)
        assert row["area"] == pytest.approx(float(robust.areas[at[:2]]), nan_ok=True)
    pivot = frame[frame["image"] == 0].pivot(index="hiding", columns="mask", values="soft")
    assert (list(pivot.index), list(pivot)) == (list(NAMES), ["0.1", "0.3", "a*"])


# Bad arguments


def of_groups(found: ExtremalMasks) -> ExtremalMasks:
    return replace(found, masks=found.masks.flatten(2)[..., :4], group_ids=torch.arange(4))


def altered(found: ExtremalMasks, **settings: Any) -> ExtremalMasks:
    return replace(found, settings=found.settings | settings)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda found, x: {"found": None}, TypeError, "found must be ExtremalMasks"),
        (lambda found, x: {"found": found.image(0)}, ValueError, r"found must hold .*\(2, 2, 1, 16, 16\), got .*\(1, "),
        (lambda found, x: {"inputs": x[..., :12]}, ValueError, "found must hold the masks of these inputs"),
        (lambda found, x: {"inputs": (x,)}, ValueError, "found must hold .* a tuple of"),
        (lambda found, x: {"found": of_groups(found)}, ValueError, "found must hold masks over positions, got masks"),
        (lambda found, x: {"found": replace(found, masks=torch.rand(2, 2, 3))}, ValueError, r"one tensor \(2, 2, 3\)"),
        (lambda found, x: {"found": altered(found, game=None)}, ValueError, "which game"),
        (lambda found, x: {"found": altered(found, perturbation=None)}, ValueError, "perturbation must be given"),
        (lambda found, x: {"found": altered(found, perturbation="open('a')")}, ValueError, "must be given"),
        (lambda found, x: {"found": altered(found, perturbation="BlurPyramid(levels=1)")}, ValueError, "must be given"),
        (lambda found, x: {"perturbation": "smear"}, ValueError, "perturbation must be one of"),
        (lambda found, x: {"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval must be at least 1"),
        (lambda found, x: {"others": x[:, :2]}, ValueError, r"others must be floating tensors \(M, C, \*S\)"),
        (lambda found, x: {"others": x[0]}, ValueError, r"others must be floating tensors \(M, C, \*S\)"),
        (lambda found, x: {"others": x.int()}, ValueError, "others must be floating"),
        (lambda found, x: {"others": x[:0]}, ValueError, "others must have one row"),
        (lambda found, x: {"others": x / 0}, ValueError, "others must be finite"),
        (lambda found, x: {"others": (x,)}, TypeError, "others must be a tensor"),
        (lambda found, x: {"others": 0}, TypeError, "others must be a tensor"),
        (lambda found, x: {"baselines": x[:, :2]}, ValueError, "baselines must have the shape"),
        (lambda found, x: {"target": [1]}, ValueError, "target must be a list of 2"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_before_the_model_runs(
    network: nn.Module, images: Tensor, counted: Any, change: Any, error: type[Exception], message: str
) -> None:
    found, model = find(network, images, target=1), counted(network)
    given: Any = {"found": found, "inputs": images, "target": 1} | change(found, images)
    with pytest.raises(error, match=message):
        ExtremalPerturbation(model).robustness(**given)
    assert model.calls == 0


def test_masks_of_channels_are_refused(network: nn.Module, images: Tensor, counted: Any) -> None:
    channels = LayerExtremalPerturbation(network, network[0]).extremal_masks(images, target=1, areas=[1, 2])
    model = counted(network)
    with pytest.raises(ValueError, match="found must hold masks of inputs, got masks of the layer"):
        measure(model, channels, images, target=1)
    assert model.calls == 0
