"""The randomisation cascade: what is randomised when, how alike the maps are, and that the model stays as it was."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from torch import Tensor, nn

from captum_extremal import ExtremalPerturbation, PathSolver
from captum_extremal.metrics import rank_correlation, ssim, weight_randomisation

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
X = torch.randn(2, 3, 16, 13, generator=torch.Generator().manual_seed(5))


class Stack(nn.Module):
    """Three layers, registered from the output down, and a parameter of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)
        self.body = nn.Sequential(nn.Conv2d(5, 6, 3), nn.ReLU())
        self.stem = nn.Conv2d(3, 5, 3)
        self.unused = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.rand(5, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body((self.stem(x) * self.scale).relu()).mean((2, 3)))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed_names(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    return {name for name in one if not torch.equal(one[name], other[name])}


def gradient(model: nn.Module) -> Callable[..., Tensor]:
    return lambda inputs, target: Saliency(model).attribute(inputs, target=target, abs=False)


class Recorded:
    """Makes gradients, and remembers the weights of every model that it was given."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def __call__(self, model: nn.Module) -> Callable[..., Tensor]:
        self.weights.append(snapshot(model))
        return gradient(model)

    def steps(self) -> list[set[str]]:
        return [changed_names(before, after) for before, after in zip(self.weights, self.weights[1:])]


TOP_DOWN = ["head", "body.0", "stem", "(model)"]


def test_cascade_randomises_one_more_layer_at_each_step_from_the_output_down() -> None:
    model, recorded = Stack().eval(), Recorded()
    found = weight_randomisation(model, recorded, X, 1)
    assert list(found.layers) == TOP_DOWN
    assert recorded.steps() == [
        {"head.weight", "head.bias"},
        {"body.0.weight", "body.0.bias"},
        {"stem.weight", "stem.bias"},
        {"scale", "unused.weight", "unused.bias"},
    ]
    assert changed_names(recorded.weights[0], recorded.weights[-1]) == set(model.state_dict())


def test_independent_randomisation_keeps_all_other_layers() -> None:
    model, recorded, cascade = Stack().eval(), Recorded(), Recorded()
    found = weight_randomisation(model, recorded, X, 1, mode="independent")
    weight_randomisation(model, cascade, X, 1)
    assert list(found.layers) == TOP_DOWN
    learned = snapshot(model)
    names = [changed_names(learned, weights) for weights in recorded.weights[1:]]
    assert names == cascade.steps()
    for step, of_step in enumerate(names, start=1):  # the same chance in both modes
        assert all(torch.equal(recorded.weights[step][name], cascade.weights[step][name]) for name in of_step)


def test_layers_may_be_named_in_any_order_and_hold_others() -> None:
    recorded = Recorded()
    found = weight_randomisation(Stack().eval(), recorded, X, 1, layers=["stem", "body"])
    assert found.layers == ("stem", "body")
    assert recorded.steps() == [{"stem.weight", "stem.bias"}, {"body.0.weight", "body.0.bias"}]
    everything = Recorded()
    weight_randomisation(Stack().eval(), everything, X, 1, layers=[""])
    assert everything.steps() == [set(Stack().state_dict())]


def test_what_its_parent_applies_by_itself_is_randomised_with_it() -> None:
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))

    recorded = Recorded()
    model = Attentive().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)  # biases of zeros have no spread
    found = weight_randomisation(model, recorded, X, 1)
    assert found.layers == ("head", "attention")
    assert {"attention.in_proj_weight", "attention.out_proj.weight"} <= recorded.steps()[1]


def test_a_layer_called_twice_counts_where_it_is_nearest_to_the_output() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Conv2d(3, 3, 3, padding=1)
            self.between = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.between(self.shared(x).relu()).relu()).mean((2, 3))

    assert weight_randomisation(Twice().eval(), gradient, X, 1).layers == ("shared", "between")


def test_random_weights_keep_their_scale() -> None:
    recorded = Recorded()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 13, 40), nn.Linear(40, 5)).eval()
    with torch.no_grad():
        model[1].weight.uniform_(2.0, 5.0)
        model[2].bias.fill_(0.5)
    weight_randomisation(model, recorded, X, 1)
    drawn = recorded.weights[-1]["1.weight"]
    assert float(drawn.mean()) == pytest.approx(3.5, abs=0.02)
    assert float(drawn.std()) == pytest.approx(3 / 12**0.5, rel=0.02)
    assert abs(float(rank_correlation(drawn[None], model[1].weight.detach()[None]))) < 0.03
    assert recorded.weights[-1]["2.bias"].tolist() == pytest.approx([0.5] * 5)


def test_layers_with_nothing_to_lose_are_left_out() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(4 * 14 * 11, 3)]
    model = nn.Sequential(*layers).eval()
    assert weight_randomisation(model, gradient, X, 1).layers == ("4", "0")
    with pytest.raises(ValueError, match="layers must have parameters of more than one value, got '2'"):
        weight_randomisation(model, gradient, X, 1, layers=["2", "0"])
    constant = nn.Sequential(nn.PReLU(), nn.Flatten()).eval()
    with pytest.raises(ValueError, match="model must have parameters to randomise, of more than one value"):
        weight_randomisation(constant, gradient, X, 1)


def test_in_train_mode_every_map_has_the_same_chances_and_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 11, 3))
    recorded, state = Recorded(), torch.get_rng_state()

    def explain(copied: nn.Module) -> Callable[..., Tensor]:
        recorded(copied)

        def attribute(inputs: Tensor, target: object) -> Tensor:
            copied(inputs)
            return nn.functional.dropout(inputs)

        return attribute

    with pytest.warns(UserWarning, match="train mode|no map changed"):
        found = weight_randomisation(model, explain, X, 1)
    assert torch.equal(found.maps, found.maps[:1].expand_as(found.maps))
    assert all(torch.equal(one["1.running_mean"], model[1].running_mean) for one in recorded.weights)
    assert torch.equal(torch.get_rng_state(), state)


def test_statistics_of_batch_normalisation_stay() -> None:
    recorded = Recorded()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 11, 3)).eval()
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
        model[1].running_mean.uniform_()
    weight_randomisation(model, recorded, X, 1)
    changed = changed_names(recorded.weights[0], recorded.weights[-1])
    assert "1.weight" in changed
    assert not any("running" in name or "num_batches" in name for name in changed)


def test_a_map_that_ignores_the_model_does_not_change() -> None:
    with pytest.warns(UserWarning, match="no map changed at all"):
        found = weight_randomisation(Stack().eval(), lambda model: lambda inputs, target: inputs.square(), X, 1)
    ones = torch.ones(4, 2, dtype=torch.float64)
    for value in (found.rank_correlation, found.rank_correlation_absolute, found.ssim):
        torch.testing.assert_close(value, ones)
    torch.testing.assert_close(found.maps, X.square().mean(1).double().expand(5, -1, -1, -1))


def test_explaining_the_model_from_outside_is_warned_of() -> None:
    model = Stack().eval()
    with pytest.warns(UserWarning, match="must explain the model that it is given"):
        weight_randomisation(model, lambda _: gradient(model), X, 1)


def test_gradients_of_a_linear_model_are_its_old_and_new_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 13, 4)).eval()
    recorded = Recorded()
    found = weight_randomisation(model, recorded, X, [0, 2])
    maps = [w["1.weight"][[0, 2]].view(2, 3, 16, 13) for w in recorded.weights]
    for k in range(2):
        torch.testing.assert_close(found.maps[k], maps[k].mean(1).double())
    torch.testing.assert_close(found.rank_correlation[0], rank_correlation(maps[1].mean(1), maps[0].mean(1)))
    absolute = [one.abs().mean(1).double() for one in maps]
    torch.testing.assert_close(found.rank_correlation_absolute[0], rank_correlation(absolute[1], absolute[0]))
    low, high = ([getattr(one, f"a{end}")((1, 2), keepdim=True) for one in absolute] for end in ("min", "max"))
    stretched = [(one - a) / (b - a) for one, a, b in zip(absolute, low, high)]
    torch.testing.assert_close(found.ssim[0], ssim(stretched[1], stretched[0]))
    assert float(found.rank_correlation.abs().max()) < 0.3
    assert float(found.ssim.max()) < 0.5


def test_the_sign_counts_in_one_correlation_only() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(624, 2)).eval()
    maps = X.mean(1, keepdim=True)
    signs = iter([1.0, -1.0])
    found = weight_randomisation(model, lambda _: maps * next(signs), X, 1)
    assert found.rank_correlation.tolist() == [pytest.approx([-1.0, -1.0])]
    assert found.rank_correlation_absolute.tolist() == [pytest.approx([1.0, 1.0])]
    assert found.ssim.tolist() == [pytest.approx([1.0, 1.0])]


def test_constant_maps_are_nan_and_alike_to_nothing() -> None:
    maps = iter([X, torch.ones(2, 1, 16, 13)])
    model = nn.Sequential(nn.Flatten(), nn.Linear(624, 2)).eval()
    found = weight_randomisation(model, lambda _: next(maps), X, 1)
    assert bool(found.rank_correlation.isnan().all())
    assert float(found.ssim.max()) < 0.5


def test_our_masks_change_with_the_weights() -> None:
    def explain(model: nn.Module) -> Callable[..., Tensor]:
        extremal = ExtremalPerturbation(model)
        settings: dict[str, Any] = {"areas": (0.1, 0.3), "solver": PathSolver(steps=10), "game": "hybrid"}
        return lambda inputs, target: extremal.attribute(inputs, target=target, reduce="sum", **settings)

    found = weight_randomisation(Stack().eval(), explain, X, 1)
    assert float(found.rank_correlation[-1].mean()) < 0.8


def test_maps_of_a_layer_are_resized_to_the_input() -> None:
    found = weight_randomisation(Stack().eval(), lambda model: LayerGradCam(model, model.body), X, 1)
    assert found.maps.shape == (5, 2, 16, 13)
    assert found.ssim.shape == (4, 2)


def test_batch_equals_one_by_one() -> None:
    model = Stack().eval()
    together = weight_randomisation(model, gradient, X, [1, 3])
    for row, target in enumerate([1, 3]):
        alone = weight_randomisation(model, gradient, X[row : row + 1], target)
        torch.testing.assert_close(alone.maps[:, 0], together.maps[:, row])
        torch.testing.assert_close(alone.ssim[:, 0], together.ssim[:, row], rtol=1e-4, atol=1e-4)


def test_chance_is_seeded_and_the_global_state_is_left_alone() -> None:
    model = Stack().eval()
    first = weight_randomisation(model, gradient, X, 1)
    torch.rand(5)
    state = torch.get_rng_state()
    again = weight_randomisation(model, gradient, X, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.maps, again.maps)
    assert not torch.equal(first.maps[1:], weight_randomisation(model, gradient, X, 1, seed=1).maps[1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_precision(dtype: torch.dtype) -> None:
    found = weight_randomisation(Stack().to(dtype).eval(), gradient, X.to(dtype), 1)
    assert bool(found.rank_correlation.isfinite().all())


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_model_is_left_as_it_was(fails: bool) -> None:
    model = Stack().eval()
    model.stem.requires_grad_(False)
    calls = 0
    model.body.register_forward_hook(lambda *_: None)
    before, flags = snapshot(model), [parameter.requires_grad for parameter in model.parameters()]
    given = X.clone()

    def explain(copied: nn.Module) -> Callable[..., Tensor]:
        nonlocal calls
        calls += 1
        assert copied is not model
        assert not any(module._forward_pre_hooks for module in copied.modules())
        if fails and calls == 3:
            raise ZeroDivisionError
        return gradient(copied)

    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        weight_randomisation(model, explain, X, 1)
    assert not changed_names(before, snapshot(model))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert len(model.body._forward_hooks) == 1
    assert torch.equal(X, given)


def test_additional_forward_args_reach_model_and_attribution() -> None:
    class Shifted(Stack):
        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return super().forward(x) + shift[:, None]

    found = weight_randomisation(Shifted().eval(), Saliency, X, 1, torch.tensor([1.0, 2.0]))
    assert list(found.layers) == TOP_DOWN


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"model": lambda x: x}, TypeError, "model"),
        ({"model": nn.Flatten()}, ValueError, "model"),
        ({"make_attribution": None}, TypeError, "make_attribution"),
        ({"make_attribution": lambda: None}, TypeError, "make_attribution"),
        ({"inputs": torch.rand(2, 3, 10, 20)}, ValueError, "inputs"),
        ({"inputs": torch.rand(2, 3, 20)}, ValueError, "inputs"),
        ({"inputs": None}, TypeError, "inputs"),
        ({"target": [1, 2, 3]}, ValueError, "target"),
        ({"mode": "bottom-up"}, ValueError, "mode"),
        ({"layers": ["neck"]}, ValueError, "layers"),
        ({"layers": ["body.1"]}, ValueError, "layers"),
        ({"layers": "head"}, TypeError, "layers"),
        ({"layers": []}, TypeError, "layers"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": None}, TypeError, "seed"),
    ],
)
def test_bad_arguments_are_named_before_the_first_forward(
    changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    model = Stack().eval()
    calls: list[object] = []
    model.head.register_forward_hook(lambda *_: calls.append(0))
    arguments: dict[str, Any] = {"model": model, "make_attribution": gradient, "inputs": X, "target": 1} | changes
    with pytest.raises(error, match=match):
        weight_randomisation(**arguments)
    assert not calls


def test_a_result_that_explains_nothing_is_named() -> None:
    with pytest.raises(TypeError, match="make_attribution's result"):
        weight_randomisation(Stack().eval(), lambda model: 3, X, 1)


# Rank correlation and structural similarity: by hand and against their literal definitions


def rounded_maps(*shape: int) -> Tensor:
    """Random maps with many equal values."""
    return (torch.rand(shape, dtype=torch.float64) * 8).round() / 8


def test_rank_correlation_sees_the_order_alone() -> None:
    maps = torch.rand(3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(rank_correlation(maps, maps.exp()), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(rank_correlation(maps, -(maps**3)), -torch.ones(3, dtype=torch.float64))


def test_equal_values_share_their_mean_rank() -> None:
    one, other = torch.tensor([[1.0, 2.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0, 4.0]])
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, sums of squares 4.5 and 5
    assert float(rank_correlation(one, other)) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_rank_correlation_of_a_constant_is_nan() -> None:
    found = rank_correlation(torch.stack([torch.ones(4, 4), torch.rand(4, 4)]), torch.rand(2, 4, 4))
    assert found.isnan().tolist() == [True, False]


@pytest.mark.parametrize("make", [rounded_maps, torch.rand], ids=["ties", "no ties"])
@pytest.mark.parametrize("shape", [(3, 17), (3, 9, 6), (2, 4, 5, 3), (1, 1)], ids=str)
def test_rank_correlation_is_pearsons_of_mean_ranks(shape: tuple[int, ...], make: Any) -> None:
    """SciPy's definition is the literal one: a rank is how many values are smaller, and half of the equal ones."""
    maps, others = make(*shape).flatten(1), make(*shape).flatten(1)
    maps[0] = maps[0, 0]  # a constant map
    one, other = (
        (part[:, :, None] > part[:, None]).double().sum(2) + (part[:, :, None] == part[:, None]).double().sum(2) / 2
        for part in (maps, others)
    )
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    expected = (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()
    assert bool(expected[0].isnan())
    found = rank_correlation(maps.view(shape), others.view(shape))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, equal_nan=True)


def test_ssim_of_equal_maps_is_one_and_symmetric_otherwise() -> None:
    maps, others = rounded_maps(2, 14, 12), rounded_maps(2, 14, 12)
    torch.testing.assert_close(ssim(maps, maps), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(ssim(maps, others), ssim(others, maps))
    assert float(ssim(maps, others).max()) < 0.9


def test_ssim_of_constants_compares_their_brightness() -> None:
    found = ssim(torch.full((1, 11, 13), 0.2), torch.full((1, 11, 13), 0.6))
    assert float(found) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))


@pytest.mark.parametrize("make", [rounded_maps, torch.rand, torch.zeros], ids=["ties", "no ties", "constant"])
def test_ssim_is_the_formula_of_its_paper(make: Any) -> None:
    """scikit-image's definition is the literal one, with the weights of a Gaussian that sum to 1 in every window."""
    one, other = make(2, 13, 12).double(), rounded_maps(2, 13, 12)
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    weights = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    x, y = (part.unfold(1, 11, 1).unfold(2, 11, 1) for part in (one, other))  # (N, rows, columns, 11, 11)

    def mean(windows: Tensor) -> Tensor:
        return (weights * windows).sum((3, 4))

    mean_x, mean_y = mean(x), mean(y)
    off_x, off_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
    alike = (2 * mean_x * mean_y + 1e-4) * (2 * mean(off_x * off_y) + 9e-4)
    expected = alike / ((mean_x**2 + mean_y**2 + 1e-4) * (mean(off_x**2) + mean(off_y**2) + 9e-4))
    torch.testing.assert_close(ssim(one, other), expected.mean((1, 2)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("compare", [rank_correlation, ssim])
@pytest.mark.parametrize(
    ("maps", "others", "error"),
    [
        (torch.rand(2, 12, 12), torch.rand(2, 12, 13), ValueError),
        (torch.rand(0, 12, 12), torch.rand(0, 12, 12), ValueError),
        (torch.rand(12), torch.rand(12), ValueError),
        (torch.ones(2, 12, 12).int(), torch.rand(2, 12, 12), TypeError),
        (torch.rand(2, 12, 12), np.ones((2, 12, 12)), TypeError),
    ],
)
def test_bad_maps_are_named(compare: Any, maps: Any, others: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"maps|others"):
        compare(maps, others)


def test_ssim_needs_room_for_its_window() -> None:
    with pytest.raises(ValueError, match="11"):
        ssim(torch.rand(1, 10, 30), torch.rand(1, 10, 30))
