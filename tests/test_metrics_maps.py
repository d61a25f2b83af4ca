"""What every metric takes as an explanation, and that explaining leaves no trace on the caller's things."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam, Occlusion, Saliency
from torch import Tensor, nn

from captum_extremal import ExtremalPerturbation, PathSolver
from captum_extremal.metrics import energy_pointing_game, insertion_deletion, pointing_game, top_masks
from captum_extremal.metrics.explanations import explain, rank_from_top, resize

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")


def score_of(metric: str, network: nn.Module, explanation: Any, images: Tensor | None, target: Any) -> Tensor:
    """One number an image, from any of the metrics that take a batch."""
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[:, 2:9, 3:12] = True
    if metric == "pointing":
        return torch.tensor([one.distance for one in pointing_game(explanation, images, target, ground_truth=masks)])
    if metric == "energy":
        return torch.tensor(
            [one.value for one in energy_pointing_game(explanation, images, target, ground_truth=masks)]
        )
    if metric == "insertion":
        return insertion_deletion(network, explanation, images, target, steps=6).insertion_auc
    return top_masks(network, explanation, images, target, areas=(0.1, 0.5)).scores.sum(1)


METRICS = ["pointing", "energy", "insertion", "top"]
FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "captum": Saliency,
    "method": lambda network: Saliency(network).attribute,
    "layer": lambda network: LayerGradCam(network, network[0]),
    "options": lambda network: partial(Occlusion(network).attribute, sliding_window_shapes=(3, 5, 5)),
    "ours": lambda network: partial(
        ExtremalPerturbation(network).attribute, areas=(0.2, 0.5), solver=PathSolver(steps=4), reduce="sum"
    ),
    "function": lambda network: lambda x, target: (x * target.view(-1, 1, 1, 1)).sum(1),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_its_own_maps_give(network: nn.Module, images: Tensor, metric: str, form: str) -> None:
    target = torch.tensor([1, 3])
    explanation = FORMS[form](network)
    maps = getattr(explanation, "attribute", explanation)(images, target=target)
    given = score_of(metric, network, explanation, images, target)
    torch.testing.assert_close(given, score_of(metric, network, maps, images, target), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_batch_equals_one_by_one(network: nn.Module, images: Tensor, metric: str) -> None:
    together = score_of(metric, network, Saliency(network), images, [1, 3])
    for row, target in enumerate([1, 3]):
        twice = images[row : row + 1].expand(2, -1, -1, -1)
        torch.testing.assert_close(score_of(metric, network, Saliency(network), twice, target)[0], together[row])


def test_maps_need_no_inputs(network: nn.Module, images: Tensor) -> None:
    maps = Saliency(network).attribute(images, target=1)
    for metric in ("pointing", "energy"):
        torch.testing.assert_close(
            score_of(metric, network, maps, None, None), score_of(metric, network, maps, images, 1)
        )


def test_channels_are_averaged_with_their_signs() -> None:
    attributions = torch.tensor([[[[1.0, -2.0]], [[3.0, 2.0]]]])
    first = torch.tensor([[[True, False]]])
    shares = [energy_pointing_game(one, ground_truth=first)[0].value for one in (attributions, attributions[:, 1])]
    assert shares == pytest.approx([1.0, 0.6])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.int64])
def test_maps_of_any_numbers_become_float32(dtype: torch.dtype) -> None:
    found = explain(torch.eye(4).to(dtype)[None], None)
    assert found.dtype == torch.float32
    assert torch.equal(found[0, 0], torch.eye(4))


@pytest.mark.parametrize("shape", [(9,), (6, 9), (4, 6, 9)])
def test_resizing_is_exact_for_ramps_away_from_the_border(shape: tuple[int, ...]) -> None:
    larger = tuple(2 * side for side in shape)
    ramp = torch.arange(shape[-1], dtype=torch.float64).expand(shape)[None]
    expected = (torch.arange(larger[-1], dtype=torch.float64) + 0.5) / 2 - 0.5
    assert torch.allclose(resize(ramp, larger)[..., 1:-1], expected[1:-1].expand(*larger[:-1], -1))
    assert resize(ramp, shape) is ramp


def test_ranks_are_from_the_top_and_ties_in_memory_order() -> None:
    ranks = rank_from_top(torch.tensor([[[1.0, 5.0], [1.0, 2.0]]]), torch.zeros(1, 3, 2, 2))
    assert ranks.tolist() == [[[2, 0], [3, 1]]]
    constant = rank_from_top(torch.ones(2, 20, 30), torch.zeros(2, 3, 20, 30))
    assert torch.equal(constant.flatten(1), torch.arange(600).expand(2, -1))


def test_additional_forward_args_reach_the_attribution(images: Tensor) -> None:
    seen: list[object] = []

    def attribute(inputs: Tensor, target: object, additional_forward_args: object) -> Tensor:
        seen.append(additional_forward_args)
        return inputs

    explain(attribute, images, 1, (3, "b"))
    assert seen == [(3, "b")]


@pytest.mark.parametrize("fails", [False, True])
def test_no_flag_is_left_on_the_inputs(network: nn.Module, images: Tensor, fails: bool) -> None:
    def attribute(inputs: Tensor, target: object) -> Tensor:
        inputs.requires_grad_()
        if fails:
            raise ZeroDivisionError
        return inputs.square()

    before = images.clone()
    try:
        explain(attribute, images, 1)
    except ZeroDivisionError:
        assert fails
    assert not images.requires_grad
    assert torch.equal(images, before)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", ["captum", "method", "partial", "function"])
def test_nothing_is_left_on_a_model_in_train_mode(images: Tensor, metric: str, form: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(784, 5))
    model.to(images)
    explanation: Any = {
        "captum": Saliency(model),
        "method": Saliency(model).attribute,
        "partial": partial(Saliency(model).attribute, abs=False),
        "function": lambda inputs, target: Saliency(model).attribute(inputs, target),
    }[form]
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    with pytest.warns(UserWarning, match="train mode"):
        score_of(metric, model, explanation, images, [1, 3])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


GOOD = torch.rand(2, 16, 16)
BAD_MAPS = {
    "nan": (GOOD.masked_fill(GOOD > 0.9, torch.nan), ValueError),
    "infinite": (GOOD.masked_fill(GOOD > 0.9, torch.inf), ValueError),
    "complex": (GOOD.to(torch.complex64), TypeError),
    "no batch": (torch.rand(16), ValueError),
    "too many dimensions": (torch.rand(2, 1, 1, 16, 16), ValueError),
    "empty": (torch.rand(2, 0, 16), ValueError),
    "another batch": (torch.rand(3, 16, 16), ValueError),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", BAD_MAPS)
def test_bad_maps_are_named(network: nn.Module, images: Tensor, metric: str, kind: str) -> None:
    maps, error = BAD_MAPS[kind]
    with pytest.raises(error, match="attribution"):
        score_of(metric, network, maps, images, 1)
    if maps.dim() > 1:
        with pytest.raises(error, match="attribution"):
            score_of(metric, network, lambda inputs, target: maps, images, 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("explanation", "inputs", "target", "error", "match"),
    [
        ("saliency", torch.rand(2, 3, 16, 16), 1, TypeError, "attribution"),
        (None, torch.rand(2, 3, 16, 16), 1, TypeError, "attribution"),
        (Saliency, torch.rand(2, 3, 16, 16), 1, TypeError, "attribution must .* got the class Saliency"),
        (nn.Flatten(), torch.rand(2, 3, 16, 16), 1, TypeError, "attribution must .* got Flatten itself"),
        (lambda inputs, target: [inputs], torch.rand(2, 3, 16, 16), 1, TypeError, "attribution"),
        (lambda inputs: inputs, torch.rand(2, 3, 16, 16), 1, TypeError, r"attribution must .*\(inputs, target="),
        (lambda inputs, target: inputs, torch.rand(2, 3, 16), 1, ValueError, None),
        (lambda inputs, target: inputs, torch.ones(2, 3, 16, 16, dtype=torch.int64), 1, TypeError, "inputs"),
        (lambda inputs, target: inputs, (torch.rand(2, 3, 16, 16),), 1, TypeError, "inputs"),
        (lambda inputs, target: inputs, torch.rand(2, 3, 1, 1), 1, ValueError, "inputs"),
        (lambda inputs, target: inputs, torch.rand(2, 3, 16, 16), [1, 2, 3], ValueError, "target"),
        (lambda inputs, target: inputs, torch.rand(2, 3, 16, 16), 1.5, TypeError, "target"),
    ],
)
def test_bad_batches_are_named(
    network: nn.Module,
    metric: str,
    explanation: Any,
    inputs: Any,
    target: Any,
    error: type[Exception],
    match: str | None,
) -> None:
    with pytest.raises(error, match=match):
        score_of(metric, network, explanation, inputs, target)


@pytest.mark.parametrize("metric", ["pointing", "energy"])
def test_a_function_without_inputs_is_refused(network: nn.Module, metric: str) -> None:
    with pytest.raises(TypeError, match="inputs"):
        score_of(metric, network, lambda inputs, target: inputs, None, 1)
