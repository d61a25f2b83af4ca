"""Insertion and deletion against a loop over steps, closed forms, and what must not change."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal.metrics import InsertionDeletion, insertion_deletion
from captum_extremal.perturbations import gaussian_blur


def literal_curves(
    model: Callable[[Tensor], Tensor],
    one_map: Tensor,
    x: Tensor,
    target: int,
    baseline: Tensor,
    sigma: float,
    steps: int,
) -> tuple[list[float], list[float]]:
    """Pixel after pixel: the insertion and the deletion curve of one image (C, H, W)."""
    height, width = x.shape[1:]
    order = sorted(range(height * width), key=lambda at: -float(one_map[at // width, at % width]))
    shown, left = gaussian_blur(x[None], sigma)[0], x.clone()
    curves: tuple[list[float], list[float]] = ([], [])
    done = 0
    for step in range(steps + 1):
        for at in order[done : round(step * height * width / steps)]:
            row, column = at // width, at % width
            shown[:, row, column] = x[:, row, column]
            left[:, row, column] = baseline[:, row, column]
        done = round(step * height * width / steps)
        for curve, image in zip(curves, (shown, left)):
            curve.append(float(model(image[None]).detach().softmax(1)[0, target]))
    return curves


def trapezoids(curve: list[float]) -> float:
    return (sum(curve) - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)


@pytest.mark.parametrize("steps", [1, 8, 192])
def test_curves_are_those_of_pixel_after_pixel(network: nn.Module, steps: int) -> None:
    x, baseline = torch.randn(2, 2, 3, 16, 12, dtype=torch.float64)
    maps = torch.rand(2, 16, 12, dtype=torch.float64).mul(50).round()  # with ties
    found = insertion_deletion(network, maps, x, [1, 3], baselines=baseline, blur=2.0, steps=steps)
    assert found.insertion.shape == found.deletion.shape == (2, steps + 1)
    for row, target in enumerate([1, 3]):
        insertion, deletion = literal_curves(network, maps[row], x[row], target, baseline[row], 2.0, steps)
        assert found.insertion[row].tolist() == pytest.approx(insertion, abs=1e-12)
        assert found.deletion[row].tolist() == pytest.approx(deletion, abs=1e-12)
        assert float(found.insertion_auc[row]) == pytest.approx(trapezoids(insertion), abs=1e-12)
        assert float(found.deletion_auc[row]) == pytest.approx(trapezoids(deletion), abs=1e-12)


def test_both_curves_start_and_end_exactly(network: nn.Module, images: Tensor) -> None:
    found = insertion_deletion(network, torch.rand(2, 16, 16), images, 2, baselines=0.5, steps=7)
    clean = network(images).softmax(1)[:, 2]
    blurred = network(gaussian_blur(images, 5 * 16 / 224)).softmax(1)[:, 2]
    baseline = network(torch.full_like(images, 0.5)).softmax(1)[:, 2]
    ends = [found.insertion[:, 0], found.insertion[:, -1], found.deletion[:, 0], found.deletion[:, -1]]
    torch.testing.assert_close(torch.stack(ends), torch.stack([blurred, clean, clean, baseline]), rtol=0, atol=1e-13)
    assert (found.fractions[0], found.fractions[-1]) == (0, 1)


def test_steps_that_do_not_divide_the_positions_take_whole_ones(network: nn.Module) -> None:
    found = insertion_deletion(network, torch.rand(1, 9, 11), torch.randn(1, 3, 9, 11).double(), 0, steps=7)
    taken = found.fractions * 99
    torch.testing.assert_close(taken, taken.round())
    assert taken.round().int().tolist() == [0, 14, 28, 42, 57, 71, 85, 99]
    assert float(found.insertion_auc) == pytest.approx(float(torch.trapezoid(found.insertion, found.fractions)))


@pytest.mark.parametrize(("shape", "steps"), [((9, 10), 90), ((128,), 128), ((15, 15), 224)], ids=str)
def test_there_are_224_steps_or_as_many_as_positions(
    make_network: Callable[..., nn.Module], shape: tuple[int, ...], steps: int
) -> None:
    x = torch.randn(1, 3, *shape, dtype=torch.float64)
    found = insertion_deletion(make_network(len(shape)), x.sum(1), x, 1, perturbations_per_eval=64)
    assert found.fractions.shape == (steps + 1,)
    expected = insertion_deletion(make_network(len(shape)), x.sum(1), x, 1, steps=steps)
    torch.testing.assert_close(found.insertion, expected.insertion)


def test_a_linear_model_falls_as_the_logistic_curve() -> None:
    """Every pixel adds as much to the one logit, so that the order plays no part."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)) * 4, torch.zeros(len(x), dtype=x.dtype)], dim=1)

    ones = torch.ones(1, 1, 10, 10, dtype=torch.float64)
    found = insertion_deletion(model, torch.rand(1, 10, 10), ones, 0, steps=100)
    expected = torch.sigmoid(4 * torch.linspace(1, 0, 101, dtype=torch.float64))
    torch.testing.assert_close(found.deletion[0], expected)
    integral = (math.log1p(math.exp(4)) - math.log(2)) / 4
    assert float(found.deletion_auc) == pytest.approx(integral, abs=1e-4)
    assert float(found.insertion_auc) == pytest.approx(float(expected[0]))  # blurring a constant changes nothing


def test_the_right_order_beats_its_reverse_and_chance(images: Tensor) -> None:
    weight = torch.randn(3, 16, 16, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        score = (x * weight).sum((1, 2, 3))
        return torch.stack([score, -score], dim=1)

    evidence = (images * weight).sum(1)
    best, chance, worst = (
        insertion_deletion(model, maps, images, 0, steps=32) for maps in (evidence, torch.rand(2, 16, 16), -evidence)
    )
    assert bool((best.deletion_auc < chance.deletion_auc).all())
    assert bool((chance.deletion_auc < worst.deletion_auc).all())
    detail = ((images - gaussian_blur(images, 5 * 16 / 224)) * weight).sum(1)
    best, worst = (insertion_deletion(model, maps, images, 0, steps=32) for maps in (detail, -detail))
    assert bool((best.insertion_auc > worst.insertion_auc).all())


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_perturbations_per_eval_changes_the_memory_alone(
    network: nn.Module, images: Tensor, counted: Any, at_once: int
) -> None:
    maps = torch.rand(2, 16, 16)
    expected = insertion_deletion(network, maps, images, [1, 2], steps=10)
    model = counted(network)
    found = insertion_deletion(model, maps, images, [1, 2], steps=10, perturbations_per_eval=at_once)
    torch.testing.assert_close(found.insertion, expected.insertion, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.deletion, expected.deletion, rtol=0, atol=1e-13)
    assert max(model.rows) == 2 * min(at_once, 11)
    assert sum(model.rows) == 2 * 2 * (2 + 11)


def test_maps_of_a_layer_are_resized(network: nn.Module, images: Tensor) -> None:
    small = torch.rand(2, 5, 4, dtype=torch.float64)
    large = nn.functional.interpolate(small[:, None], size=(16, 16), mode="bilinear")[:, 0]
    one, other = (insertion_deletion(network, maps, images, 1, steps=5) for maps in (small, large))
    assert torch.equal(one.insertion, other.insertion)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_signals_images_and_volumes(make_network: Callable[..., nn.Module], dimensions: int) -> None:
    x = torch.randn(2, 3, *[9, 8, 10][:dimensions], dtype=torch.float64)
    network = make_network(dimensions)
    found = insertion_deletion(network, x.abs(), x, 1, steps=4)
    torch.testing.assert_close(found.insertion[:, -1], network(x).softmax(1)[:, 1])


def test_probabilities_are_taken_as_they_are(network: nn.Module, images: Tensor) -> None:
    maps = torch.rand(2, 16, 16)
    one = insertion_deletion(network, maps, images, 1, steps=4)
    other = insertion_deletion(lambda x: network(x).softmax(1), maps, images, 1, steps=4, softmax=False)
    torch.testing.assert_close(one.insertion, other.insertion)
    torch.testing.assert_close(one.deletion, other.deletion)


def test_a_second_softmax_is_warned_of_once(network: nn.Module, images: Tensor) -> None:
    with pytest.warns(UserWarning, match="softmax=False") as caught:
        insertion_deletion(lambda x: network(x).softmax(1), images.sum(1), images, 1, steps=9)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_outputs_with_positions_are_probabilities_there_then_averaged(images: Tensor) -> None:
    torch.manual_seed(3)
    model = nn.Conv2d(3, 4, 3).double().eval()
    found = insertion_deletion(model, torch.rand(2, 16, 16), images, 2, steps=3)
    torch.testing.assert_close(found.insertion[:, -1], model(images).softmax(1)[:, 2].mean((1, 2)))


def test_additional_forward_args_go_with_their_images(network: nn.Module, images: Tensor) -> None:
    shift = torch.tensor([0.0, 2.0], dtype=torch.float64)

    def model(x: Tensor, shift: Tensor, scale: float) -> Tensor:
        return network(x) * scale + nn.functional.one_hot(torch.tensor(1), 5) * shift[:, None]

    maps = torch.rand(2, 16, 16)
    found = insertion_deletion(model, maps, images, 1, (shift, 0.5), steps=5, perturbations_per_eval=2)
    for row in range(2):
        alone = insertion_deletion(
            lambda x, row=row: model(x, shift[row].expand(len(x)), 0.5),
            maps[row : row + 1], images[row : row + 1], 1, steps=5,
        )  # fmt: skip
        torch.testing.assert_close(found.insertion[row], alone.insertion[0])


def test_a_network_without_a_score_for_nothing_is_measured(network: nn.Module, images: Tensor) -> None:
    def standardised(x: Tensor) -> Tensor:  # NaN where all of an image is of one colour
        axes = (1, 2, 3)
        return network((x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True))

    with pytest.warns(UserWarning, match="output is NaN for 2 of 2 examples .* counts as that of the step") as told:
        found = insertion_deletion(standardised, images, images, 1, steps=4)
    assert [one.filename for one in told] == [__file__]
    assert found.deletion.isnan().tolist() == [[False] * 4 + [True]] * 2
    assert found.insertion.isfinite().all()
    expected = [trapezoids([*curve[:4], curve[3]]) for curve in found.deletion.tolist()]
    assert found.deletion_auc.tolist() == pytest.approx(expected)

    flat = InsertionDeletion(found.fractions, found.deletion.flip(1), found.deletion)
    assert flat.insertion_auc.tolist() == pytest.approx(expected)


def test_models_need_not_be_differentiable(network: nn.Module, images: Tensor) -> None:
    maps = torch.rand(2, 16, 16)
    found = insertion_deletion(lambda x: network(x).detach(), maps, images, 1, steps=4)
    assert torch.equal(found.insertion, insertion_deletion(network, maps, images, 1, steps=4).insertion)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(make_network: Callable[..., nn.Module], dtype: torch.dtype) -> None:
    x, maps = torch.randn(2, 3, 16, 16), torch.rand(2, 16, 16)
    found = insertion_deletion(make_network(dtype=dtype), maps, x.to(dtype), 1, steps=4)
    expected = insertion_deletion(make_network(dtype=torch.float32), maps, x, 1, steps=4)
    assert found.insertion.dtype == torch.float32
    torch.testing.assert_close(found.insertion, expected.insertion, rtol=0, atol=0.02)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_modes_of_the_caller_do_not_matter(network: nn.Module, images: Tensor, mode: Any) -> None:
    maps = torch.rand(2, 16, 16)
    expected = insertion_deletion(network, maps, images, 1, steps=4)
    with mode():
        found = insertion_deletion(network, maps, images.clone(), 1, steps=4)
    assert torch.equal(found.deletion, expected.deletion)
    assert not found.insertion.requires_grad


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_on_the_model(images: Tensor, fails: bool) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(768, 3)).double()
    calls = 0

    def forward(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if fails and calls == 4:
            raise ZeroDivisionError
        return model(x)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, given = torch.get_rng_state(), images.clone()
    raised = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
    with pytest.warns(UserWarning, match="train mode"), raised:
        insertion_deletion(forward, images.sum(1), images, 1, steps=5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, given)
    assert not images.requires_grad
    assert model.training


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"steps": 0}, ValueError, "steps"),
        ({"steps": 257}, ValueError, "steps"),
        ({"steps": 4.0}, TypeError, "steps"),
        ({"blur": 0}, ValueError, "blur"),
        ({"blur": "5 px"}, TypeError, "blur"),
        ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval"),
        ({"baselines": torch.zeros(3, 4, 4)}, ValueError, "baselines"),
        ({"baselines": "black"}, TypeError, "baselines"),
        ({"additional_forward_args": torch.zeros(3)}, ValueError, "additional_forward_args"),
    ],
)
def test_bad_arguments_are_named_before_the_first_forward(
    images: Tensor, counted: Any, network: nn.Module, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    model = counted(network)
    with pytest.raises(error, match=match):
        insertion_deletion(model, lambda x, target: model(x), images, 1, **({"steps": 5} | changes))
    assert model.calls == 0


@pytest.mark.parametrize("output", [lambda x: x.mean((1, 2, 3)), lambda x: x.mean((1, 2, 3))[:, None]])
def test_softmax_needs_classes(images: Tensor, output: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="two classes"):
        insertion_deletion(output, torch.rand(2, 16, 16), images, 0, steps=3)
    found = insertion_deletion(
        lambda x: output(x).sigmoid(), torch.rand(2, 16, 16), images, None, softmax=False, steps=3
    )
    assert found.insertion.shape == (2, 4)


@pytest.mark.parametrize(
    ("forward", "error"),
    [(lambda x: [x, x], TypeError), (lambda x: x.sum((2, 3)).int(), TypeError), (lambda x: x[:1], ValueError)],
)
def test_outputs_that_are_no_scores_are_named(images: Tensor, forward: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="forward_func"):
        insertion_deletion(forward, torch.rand(2, 16, 16), images, 0, steps=3)


def test_target_outside_the_output_is_named(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="target"):
        insertion_deletion(network, torch.rand(2, 16, 16), images, 5, steps=3)
    with pytest.raises(ValueError, match="target None"):
        insertion_deletion(network, torch.rand(2, 16, 16), images, steps=3)
