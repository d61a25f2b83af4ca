"""The model's side: masks in, scores out, and what is said of a model that cannot be explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import BlurPyramid, FadePyramid, Game
from captum_extremal.objective import Objective
from captum_extremal.search.games import DELETE, HYBRID, PRESERVE

GAMES = {"preserve": PRESERVE, "delete": DELETE, "hybrid": HYBRID, "own": Game(0.5, 2.0)}
PYRAMID = BlurPyramid(sigma_max=3.0)


def objective_of(
    forward_func: Callable[..., Any],
    *inputs: Tensor,
    target: Any = None,
    arguments: object = None,
    at_once: int | None = None,
) -> Objective:
    perturbations = tuple(PYRAMID.bind(x, torch.zeros_like(x)) for x in inputs)
    hidden = tuple(perturb(torch.zeros_like(x[:, :1])) for perturb, x in zip(perturbations, inputs))
    return Objective(forward_func, inputs, perturbations, hidden, target, arguments, at_once)


def masks_for(x: Tensor, masks: int = 3) -> Tensor:
    return torch.rand(masks * len(x), 1, *x.shape[2:], dtype=x.dtype)


def plain_scores(model: nn.Module, x: Tensor, masks: Tensor, targets: list[int]) -> Tensor:
    """Scores (R, N), one forward for each mask."""
    rows = []
    for row, mask in enumerate(masks):
        image = x[row % len(x)][None]
        output = model(PYRAMID.bind(image, torch.zeros_like(image))(mask[None]))
        rows.append(output[0, targets[row % len(x)]])
    return torch.stack(rows).view(-1, len(x))


def test_scores_are_the_models_on_each_masked_image(network: nn.Module, images: Tensor) -> None:
    masks = masks_for(images)
    kept, removed = objective_of(network, images, target=[1, 4]).measure((masks,))
    torch.testing.assert_close(kept, plain_scores(network, images, masks, [1, 4]).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(removed, plain_scores(network, images, 1 - masks, [1, 4]).detach(), rtol=0, atol=1e-12)
    assert not kept.requires_grad
    assert not removed.requires_grad


def test_clean_and_perturbed_scores_are_the_models(network: nn.Module, images: Tensor) -> None:
    objective = objective_of(network, images, target=2)
    nothing = torch.zeros(2, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(objective.clean, network(images)[:, 2].detach(), rtol=0, atol=1e-12)
    hidden = PYRAMID.bind(images, torch.zeros_like(images))(nothing)
    torch.testing.assert_close(objective.perturbed, network(hidden)[:, 2].detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("at_once", [None, 1, 2])
@pytest.mark.parametrize("game", GAMES)
def test_value_and_its_gradient_are_plain_autograds(
    network: nn.Module, images: Tensor, game: str, at_once: int | None
) -> None:
    masks, weights = masks_for(images), GAMES[game]
    objective = objective_of(network, images, target=[0, 3], at_once=at_once)
    value, (gradient,) = objective.value_and_grad((masks,), weights.kept, weights.removed)

    leaf = masks.clone().requires_grad_()
    kept, removed = (plain_scores(network, images, side, [0, 3]) for side in (leaf, 1 - leaf))
    expected = weights.kept * kept + weights.removed * removed
    (expected_gradient,) = torch.autograd.grad(expected.sum(), leaf)
    torch.testing.assert_close(value, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(objective.value((masks,), weights.kept, weights.removed), value, rtol=0, atol=1e-12)
    assert float(gradient.abs().max()) > 1e-6


@pytest.mark.parametrize("game", GAMES)
def test_flip_mirrors_what_the_model_sees(network: nn.Module, images: Tensor, game: str) -> None:
    masks, weights = (masks_for(images),), (GAMES[game].kept, GAMES[game].removed)
    plain = objective_of(lambda x: network(x.flip(-1)), images, target=1)
    flipped = objective_of(network, images, target=1)
    expected = plain.value_and_grad(masks, *weights)
    torch.testing.assert_close(flipped.value_and_grad(masks, *weights, flip=True), expected, rtol=0, atol=1e-12)
    assert not torch.equal(flipped.value_and_grad(masks, *weights)[0], expected[0])


def test_every_input_of_a_tuple_has_its_own_mask(make_network: Callable[..., nn.Module]) -> None:
    image, signal = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.randn(2, 2, 30, dtype=torch.float64)
    of_image, of_signal = make_network(2), make_network(1, 2)
    objective = objective_of(lambda a, b: of_image(a) + 2 * of_signal(b), image, signal, target=1)
    masks = (masks_for(image), masks_for(signal))
    kept, _ = objective.measure(masks)
    parts = [plain_scores(model, x, m, [1, 1]) for model, x, m in zip((of_image, of_signal), (image, signal), masks)]
    torch.testing.assert_close(kept, (parts[0] + 2 * parts[1]).detach(), rtol=0, atol=1e-12)


def test_mask_that_the_model_ignores_has_no_gradient(network: nn.Module, images: Tensor) -> None:
    objective = objective_of(lambda a, b: network(a), images, images.clone(), target=1)
    used, unused = objective.value_and_grad((masks_for(images), masks_for(images)))[1]
    assert float(used.abs().max()) > 0
    assert torch.equal(unused, torch.zeros_like(unused))


def spatial(x: Tensor) -> Tensor:
    """Scores (N, 3, H, W) of every position."""
    return torch.stack([x.sum(1), x.prod(1), x.cos().sum(1)], dim=1)


@pytest.mark.parametrize(
    ("forward", "target", "expected"),
    [
        (spatial, 1, lambda out: out[:, 1].flatten(1).mean(1)),
        (spatial, (2, 3, 4), lambda out: out[:, 2, 3, 4]),
        (spatial, [(0, 1, 2), (1, 0, 0)], lambda out: torch.stack([out[0, 0, 1, 2], out[1, 1, 0, 0]])),
        (lambda x: spatial(x).flatten(2), 2, lambda out: out[:, 2].mean(1)),
        (lambda x: spatial(x).flatten(2), (2, 7), lambda out: out[:, 2, 7]),
        (lambda x: spatial(x)[:, :1], None, lambda out: out.flatten(1).mean(1)),
        (lambda x: spatial(x)[:, 0, 0, 0], None, lambda out: out),
        (lambda x: spatial(x)[:, 0, 0, :1], None, lambda out: out[:, 0]),
        (lambda x: spatial(x)[:, :, 0, 0], -1, lambda out: out[:, 2]),
        (lambda x: spatial(x)[:, :, 0, 0], (1,), lambda out: out[:, 1]),
        (lambda x: spatial(x)[:, :, 0, 0], torch.tensor(1), lambda out: out[:, 1]),
        (lambda x: spatial(x)[:, :, 0, 0], torch.tensor([1]), lambda out: out[:, 1]),
        (lambda x: spatial(x)[:, :, 0, 0], torch.tensor([1, 2]), lambda out: torch.stack([out[0, 1], out[1, 2]])),
        (lambda x: spatial(x)[:, :, 0, 0], [1, 2], lambda out: torch.stack([out[0, 1], out[1, 2]])),
        (lambda x: spatial(x)[:, :, 0, 0], [(1,), (2,)], lambda out: torch.stack([out[0, 1], out[1, 2]])),
    ],
)
def test_targets_select_as_captum_does_and_positions_are_averaged(
    images: Tensor, forward: Callable[[Tensor], Tensor], target: Any, expected: Callable[[Tensor], Tensor]
) -> None:
    masks = masks_for(images)
    kept, removed = objective_of(forward, images, target=target).measure((masks,))
    for scores, side in ((kept, masks), (removed, 1 - masks)):
        perturbed = PYRAMID.bind(images, torch.zeros_like(images))(side)
        by_mask = torch.stack([expected(forward(rows)) for rows in perturbed.split(2)])
        torch.testing.assert_close(scores, by_mask, rtol=0, atol=1e-12)


def test_additional_arguments_follow_their_example(network: nn.Module, images: Tensor) -> None:
    scale, offset = torch.tensor([[2.0], [-3.0]], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)

    def forward(x: Tensor, scale: Tensor, offset: Tensor, name: str, flag: bool) -> Tensor:
        assert name == "as it is"
        assert len(scale) == len(x)
        assert offset.dim() == 0
        return network(x) * scale + (offset if flag else 0)

    masks = masks_for(images)
    arguments = (scale, offset, "as it is", True)
    kept, _ = objective_of(forward, images, target=1, arguments=arguments, at_once=2).measure((masks,))
    plain, _ = objective_of(network, images, target=1).measure((masks,))
    torch.testing.assert_close(kept, plain * scale.T + offset, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("game", "at_once", "rows"),
    [
        ("preserve", None, [6]),
        ("delete", None, [6]),
        ("hybrid", None, [12]),
        ("preserve", 1, [2, 2, 2]),
        ("preserve", 2, [4, 2]),
        ("hybrid", 4, [8, 4]),
        ("preserve", 100, [6]),
    ],
)
def test_forwards_are_as_few_as_their_size_allows(
    network: nn.Module, images: Tensor, counted: type, game: str, at_once: int | None, rows: list[int]
) -> None:
    model = counted(network)
    objective = objective_of(model, images, target=1, at_once=at_once)
    assert model.rows == [2, 2]  # the clean and the fully perturbed images
    model.rows.clear()
    objective.value_and_grad((masks_for(images),), GAMES[game].kept, GAMES[game].removed)
    assert model.rows == rows
    model.rows.clear()
    objective.value((masks_for(images),), GAMES[game].kept, GAMES[game].removed)
    assert model.rows == rows


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_perturbations_at_once_change_nothing(network: nn.Module, images: Tensor, at_once: int) -> None:
    masks = masks_for(images, masks=4)
    arguments = torch.tensor([[2.0], [-3.0]], dtype=torch.float64)
    results = [
        objective_of(lambda x, scale: network(x) * scale, images, target=[1, 2], arguments=arguments, at_once=size)
        for size in (None, at_once)
    ]
    all_at_once, in_parts = (torch.stack(objective.measure((masks,))) for objective in results)
    torch.testing.assert_close(in_parts, all_at_once, rtol=0, atol=1e-12)


def test_parameters_are_left_without_gradients(network: nn.Module, images: Tensor) -> None:
    objective_of(network, images, target=1).value_and_grad((masks_for(images),), 1.0, -1.0)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def nan_for_the_first(x: Tensor) -> Tensor:
    scores = spatial(x)[:, :, 0, 0]
    return torch.cat([scores[:1] * torch.nan, scores[1:]])


BAD_OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Any, type[Exception], str]] = {
    "several": (
        lambda x: {"out": spatial(x), "aux": spatial(x)},
        1,
        TypeError,
        r"one floating tensor .* each of 2 examples, got 2 of them in a dict with \['out'\].*model\(x\)\['out'\]",
    ),
    "no rows": (lambda x: (x.sum(), None), None, TypeError, r"got none in a tuple with \[0\] torch.float64 \(\)"),
    "no tensors": (lambda x: {}, None, TypeError, "forward_func must return a tensor, got dict"),
    "detections": (
        lambda x: [{"boxes": x[0, 0], "scores": x[0, 0, 0]} for _ in x],
        None,
        TypeError,
        "a list of 2 dictionaries: wrap a detector, as captum_extremal.objectives.BoxScore",
    ),
    "none": (lambda x: None, 1, TypeError, r"forward_func must return a tensor, got NoneType.*lambda x: model\(x\)"),
    "integers": (lambda x: spatial(x).argmax(1), None, TypeError, "forward_func must return a floating tensor"),
    "one score": (lambda x: spatial(x).sum(), None, ValueError, r"forward_func must return one row.*\(\) for 2"),
    "one row": (
        lambda x: spatial(x).sum((0, 2, 3))[None],
        1,
        ValueError,
        r"forward_func must return one row.*\(1, 3\)",
    ),
    "many rows": (lambda x: spatial(x).flatten(0, 1), 1, ValueError, "forward_func must return one row"),
    "nan": (nan_for_the_first, 1, ValueError, "forward_func's output .* must be finite"),
    "infinite": (lambda x: spatial(x)[:, :, 0, 0] / 0, 1, ValueError, "forward_func's output .* must be finite"),
    "detached": (lambda x: spatial(x).detach()[:, :, 0, 0], 1, ValueError, "forward_func must be differentiable"),
    "no target": (lambda x: spatial(x)[:, :, 0, 0], None, ValueError, r"target None .*\(2, 3\)"),
    "target too large": (lambda x: spatial(x)[:, :, 0, 0], 3, ValueError, r"target must lie .*\(2, 3\).* got 3"),
    "target too small": (lambda x: spatial(x)[:, :, 0, 0], -4, ValueError, "target must lie"),
    "tuple too large": (spatial, (0, 16, 0), ValueError, "target must lie"),
    "tuple too long": (spatial, (0, 0, 0, 0), ValueError, "target must lie"),
    "a list's entry too large": (lambda x: spatial(x)[:, :, 0, 0], [0, 3], ValueError, "target must lie"),
    "a tensor's entry too large": (
        lambda x: spatial(x)[:, :, 0, 0],
        torch.tensor([0, 3]),
        ValueError,
        "target must lie",
    ),
    "a list for positions": (spatial, [0, 1], ValueError, "target must lie"),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_bad_output_is_named_at_the_one_clean_forward(images: Tensor, counted: type, case: str) -> None:
    forward, target, error, message = BAD_OUTPUTS[case]
    model = counted(forward)
    with pytest.raises(error, match=message):
        objective_of(model, images, target=target)
    # Whether a score without a gradient is a constant is seen at the perturbed inputs.
    assert model.rows == ([2, 2] if case == "detached" else [2])


def test_model_cut_off_from_its_inputs_is_refused_though_its_parameters_have_gradients(
    network: nn.Module, images: Tensor
) -> None:
    with pytest.raises(ValueError, match="forward_func must be differentiable by its inputs"):
        objective_of(lambda x: network(x.detach()), images, target=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_scores_are_measured_in_float32_at_least(make_network: Callable[..., nn.Module], dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 16, 16).to(dtype)
    ours = torch.promote_types(dtype, torch.float32)
    perturb = PYRAMID.bind(x.to(ours), torch.zeros_like(x, dtype=ours))
    objective = Objective(make_network(dtype=dtype), (x,), (perturb,), (torch.zeros_like(x),), 1)
    value, (gradient,) = objective.value_and_grad((torch.rand(2, 1, 16, 16, dtype=ours),), 1.0, -1.0)
    for scores in (objective.clean, objective.perturbed, value, gradient):
        assert scores.dtype == ours
        assert bool(scores.isfinite().all())


def test_gradients_too_small_for_half_precision_are_found(device: torch.device) -> None:
    x = torch.rand(1, 1, 64, 64, device=device)
    mask = torch.rand(1, 1, 64, 64, device=device)
    nothing = torch.zeros_like(x)

    def forward(x: Tensor) -> Tensor:
        return 1e-4 * x.mean((2, 3))

    half = Objective(forward, (x.half(),), (FadePyramid().bind(x, nothing),), (nothing.half(),), 0)
    (gradient,) = half.value_and_grad((mask,))[1]
    torch.testing.assert_close(gradient, 1e-4 * x.half().float() / 64**2, rtol=0.02, atol=0)


def test_a_score_that_depends_on_nothing_any_more_has_gradients_of_zero() -> None:
    x = torch.ones(1, 1, 8, 8)

    def forward(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return mean if float(mean.detach()) > 0.1 else torch.zeros(len(x))

    objective = Objective(forward, (x,), (FadePyramid().bind(x, 0 * x),), (0 * x,))
    for level, slope in ((0.5, 1 / 64), (0.05, 0.0)):
        value, (gradient,) = objective.value_and_grad((torch.full((1, 1, 8, 8), level),))
        assert torch.equal(gradient, torch.full_like(x, slope))
        assert bool((value > 0).all()) == (slope > 0)
