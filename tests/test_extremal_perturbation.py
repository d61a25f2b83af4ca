"""ExtremalPerturbation: the interface whole, what it says of bad input, and that it leaves nothing behind."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import SqueezeNet1_0_Weights, squeezenet1_0

from captum_extremal import (
    BlurPyramid,
    ExtremalMasks,
    ExtremalPerturbation,
    FadePyramid,
    LayerExtremalPerturbation,
    MeaningfulPerturbation,
    PathSolver,
    PenaltySolver,
    SmoothMask,
)
from captum_extremal.metrics import top_masks
from captum_extremal.search.problem import Found, Optimum, Search

# Untrained networks often score a blurred image as high as the image.
pytestmark = pytest.mark.filterwarnings("ignore:.* reach the score threshold with nothing kept:UserWarning")

AREAS = (0.1, 0.3, 1.0)
QUICK = PathSolver(steps=8)
GAMES = ["preserve", "delete", "hybrid"]
WITHIN = {"rtol": 0, "atol": 1e-6}  # masks are float32


def find(forward_func: Callable[..., Any], inputs: Any, *given: Any, **settings: Any) -> ExtremalMasks:
    settings = {"areas": AREAS, "solver": QUICK} | settings
    return ExtremalPerturbation(forward_func).extremal_masks(inputs, *given, **settings)


def attribute(forward_func: Callable[..., Any], inputs: Any, *given: Any, **settings: Any) -> Any:
    settings = {"areas": AREAS, "solver": QUICK} | settings
    return ExtremalPerturbation(forward_func).attribute(inputs, *given, **settings)


def assert_same(one: ExtremalMasks, other: ExtremalMasks, atol: float = 1e-6) -> None:
    for name in ("masks", "scores", "complement_scores", "clean_score", "perturbed_score", "values", "threshold"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=atol, msg=f"{name} differ")


# What comes back


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("dimensions", "shape"), [(1, (40,)), (2, (17, 23)), (3, (8, 9, 10))], ids=str)
def test_attribution_is_a_mask_for_all_channels(
    make_network: Callable[..., nn.Module], dimensions: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(2, 3, *shape).to(dtype)
    found = attribute(make_network(dimensions, dtype=dtype), x, target=1, game="hybrid")
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.equal(found, found[:, :1].expand_as(found))


@pytest.mark.parametrize("game", GAMES)
def test_result_holds_what_it_says(network: nn.Module, images: Tensor, game: str) -> None:
    found = find(network, images, target=[1, 3], game=game)
    assert found.masks.shape == (2, 3, 1, 16, 16)
    assert found.masks.dtype == torch.float32
    assert found.areas.tolist() == pytest.approx(AREAS)
    assert found.masks.flatten(2).double().mean(2).tolist() == [pytest.approx(AREAS, abs=1e-4)] * 2

    with torch.no_grad():
        picked = [
            network(x)[torch.arange(2), [1, 3]]
            for x in (images, BlurPyramid().bind(images, images)(torch.zeros(2, 1, 16, 16).double()))
        ]
        kept, removed = (
            torch.stack(
                [
                    network(BlurPyramid().bind(images, images)(m.double()))[torch.arange(2), [1, 3]]
                    for m in side.unbind(1)
                ],
                1,
            )
            for side in (found.masks, 1 - found.masks)
        )
    torch.testing.assert_close(found.clean_score, picked[0], **WITHIN)
    torch.testing.assert_close(found.perturbed_score, picked[1], **WITHIN)
    torch.testing.assert_close(found.scores, kept, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.complement_scores, removed, rtol=0, atol=1e-5)
    value = {
        "preserve": found.scores,
        "delete": -found.complement_scores,
        "hybrid": found.scores - found.complement_scores,
    }
    torch.testing.assert_close(found.values, value[game], **WITHIN)


def test_attribution_is_the_mask_of_the_smallest_sufficient_area(network: nn.Module, images: Tensor) -> None:
    settings = {"target": 1, "score_threshold": lambda clean, perturbed: 0.9 * clean + 0.1 * perturbed}
    expected = find(network, images, **settings).optimal_mask()
    torch.testing.assert_close(
        attribute(network, images, **settings), expected.expand_as(images).double(), rtol=0, atol=0
    )


@pytest.mark.parametrize("reduce", ["sum", "refined"])
def test_maps_of_all_areas_are_read_off_the_masks(network: nn.Module, images: Tensor, reduce: str) -> None:
    result = find(network, images, target=1, areas=(0.1, 0.3))
    expected = result.saliency() if reduce == "sum" else result.refined_saliency()
    found = attribute(network, images, target=1, areas=(0.1, 0.3), reduce=reduce)
    torch.testing.assert_close(found, expected.expand_as(images).double(), rtol=0, atol=0)


@pytest.mark.parametrize("perturbation", ["blur", "fade"])
def test_contrast_is_the_distance_from_what_hides_a_position_and_from_the_mean(
    network: nn.Module, images: Tensor, perturbation: str
) -> None:
    baselines = torch.full_like(images, 0.25)
    given = baselines if perturbation == "fade" else None
    result = find(network, images, given, target=1, areas=(0.3,), perturbation=perturbation)
    family = BlurPyramid() if perturbation == "blur" else FadePyramid()
    perturbed = family.bind(images, baselines)(torch.zeros_like(images[:, :1]))
    assert result.contrast.dtype == torch.float32
    for image, hiding, found in zip(images.double(), perturbed.double(), result.contrast):
        mean = torch.stack([channel.sum() / channel.numel() for channel in image]).view(-1, 1, 1)
        distances = [(image - other).square().sum(0).sqrt() for other in (hiding, mean)]
        torch.testing.assert_close(found[0], (distances[0] * distances[1]).sqrt().float())


def test_refined_map_points_at_a_ring_and_not_at_its_hole() -> None:
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    radii = (rows - 40).hypot(columns - 50)
    ring = ((radii > 4) & (radii < 16)).float()
    image = ring.repeat(1, 3, 1, 1)
    found = ExtremalPerturbation(lambda x: (x * ring).sum((1, 2, 3))[:, None]).extremal_masks(
        image, target=0, areas=(0.1, 0.2)
    )
    hiding = BlurPyramid().bind(image, torch.zeros(1, 3, 1, 1))(torch.zeros(1, 1, 96, 96))
    assert float(radii.flatten()[(hiding - image).norm(dim=1).argmax()]) <= 4  # the blur changes the hole most
    assert ring.flatten()[found.refined_saliency().argmax()] == 1


def test_one_area_may_be_a_number(network: nn.Module, images: Tensor) -> None:
    expected = find(network, images, target=1, areas=(0.3,))
    for areas in (
        0.3,
        [0.3],
        torch.tensor(0.3, dtype=torch.float64),
        torch.tensor([0.3], dtype=torch.float64),
        np.array([0.3]),
    ):
        assert_same(find(network, images, target=1, areas=areas), expected)


# One image, many images


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("solver", [PathSolver(steps=25), PenaltySolver(steps=25)], ids=["path", "penalty"])
def test_batch_is_as_many_separate_calls(network: nn.Module, solver: PathSolver, game: str) -> None:
    x = torch.randn(3, 3, 16, 19, dtype=torch.float64)
    target, scale = [1, 4, 0], torch.tensor([[1.0], [30.0], [-0.1]], dtype=torch.float64)
    areas = (0.05, 0.2, 0.6)

    def forward(x: Tensor, scale: Tensor) -> Tensor:
        return network(x) * scale

    together = find(forward, x, None, target, scale, areas=areas, solver=solver, game=game)
    for n in range(3):
        alone = find(forward, x[n : n + 1], None, target[n], scale[n : n + 1], areas=areas, solver=solver, game=game)
        assert_same(together.image(n), alone, atol=1e-4)


def test_penalty_of_several_areas_is_as_many_separate_calls(network: nn.Module, images: Tensor) -> None:
    together = find(network, images, target=1, areas=(0.1, 0.5), solver=PenaltySolver(steps=20))
    for index, area in enumerate((0.1, 0.5)):
        alone = find(network, images, target=1, areas=area, solver=PenaltySolver(steps=20))
        torch.testing.assert_close(together.masks[:, index : index + 1], alone.masks, rtol=0, atol=1e-4)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("at_once", [1, 2, 7])
@pytest.mark.parametrize("solver", [QUICK, PenaltySolver(steps=8)], ids=["path", "penalty"])
def test_perturbations_per_eval_changes_nothing(
    network: nn.Module, images: Tensor, solver: PathSolver, at_once: int, game: str
) -> None:
    settings = {"target": [1, 2], "solver": solver, "game": game}
    expected = find(network, images, **settings)
    assert_same(find(network, images, perturbations_per_eval=at_once, **settings), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("at_once", "most"),
    [(None, 6), (1, 2), (2, 4)],
)
def test_perturbations_per_eval_bounds_what_goes_through_the_model(
    network: nn.Module, images: Tensor, counted: type, at_once: int | None, most: int
) -> None:
    model = counted(network)
    find(model, images, target=1, solver=PenaltySolver(steps=3), perturbations_per_eval=at_once)
    assert max(model.rows) == most


def test_forwards_are_the_steps_and_a_few_to_measure(network: nn.Module, images: Tensor, counted: type) -> None:
    for game in GAMES:
        model = counted(network)
        found = find(model, images, target=1, game=game, solver=PathSolver(steps=50))
        few = 2 + 2 * len(AREAS)  # both ends, and what the masks keep and remove
        assert found.settings["steps"] <= model.calls <= found.settings["steps"] + few


# What the model may be


def spatial(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Scores (N, 4, 8, 8)."""
    return lambda x: network[:2](x).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))


@pytest.mark.parametrize(
    "target",
    [[1, 3], torch.tensor([1, 3]), torch.tensor([1, 3], dtype=torch.int32), [(1,), (3,)], np.array([1, 3], np.uint16)],
    ids=repr,
)
def test_every_form_of_many_targets_is_the_same(network: nn.Module, images: Tensor, target: Any) -> None:
    together = find(network, images, target=target, game="hybrid")
    for n, one in enumerate((1, 3)):
        assert_same(together.image(n), find(network, images[n : n + 1], target=one, game="hybrid"))


@pytest.mark.parametrize(
    ("target", "picked"),
    [
        ((2, 3, 4), lambda out: out[:, 2, 3, 4]),
        ([(2, 3, 4), (1, 0, 7)], lambda out: torch.stack([out[::2, 2, 3, 4], out[1::2, 1, 0, 7]], 1).flatten()),
        (2, lambda out: out[:, 2].mean((1, 2))),
    ],
    ids=["tuple", "list of tuples", "mean over positions"],
)
def test_outputs_may_have_positions(
    network: nn.Module, images: Tensor, target: Any, picked: Callable[[Tensor], Tensor]
) -> None:
    forward = spatial(network)
    found = find(forward, images, target=target, game="hybrid")
    assert_same(found, find(lambda x: picked(forward(x)), images, game="hybrid"))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 2, 3)], ids=str)
def test_one_score_an_example_needs_no_target(network: nn.Module, images: Tensor, shape: tuple[int, ...]) -> None:
    found = find(lambda x: network(x)[:, 1].view(-1, *[1] * len(shape)).expand(-1, *shape), images)
    assert_same(found, find(network, images, target=1))


def test_one_additional_argument_needs_no_tuple(network: nn.Module, images: Tensor) -> None:
    scale = torch.tensor([[2.0], [-1.0]]).double()
    one, of_tuple = (
        find(lambda x, scale: network(x) * scale, images, target=1, additional_forward_args=given)
        for given in (scale, (scale,))
    )
    assert_same(one, of_tuple)


def test_fade_goes_to_the_baselines_in_every_form(network: nn.Module, images: Tensor) -> None:
    constant = torch.full_like(images, 0.5)
    expected = find(network, images, constant, target=1, perturbation="fade")
    torch.testing.assert_close(expected.perturbed_score, network(constant)[:, 1].detach(), **WITHIN)
    for baselines in (0.5, (0.5,), constant[:1], (constant,), constant.float()):
        assert_same(find(network, images, baselines, target=1, perturbation="fade"), expected)
    assert_same(
        find(network, images, target=1, perturbation="fade"), find(network, images, 0, target=1, perturbation="fade")
    )


BLURRED: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "result": lambda network, x: find(network, x, 7.0, target=1),
    "attribution": lambda network, x: attribute(network, x, 7.0, target=1, reduce="sum"),
    "meaningful perturbation": lambda network, x: MeaningfulPerturbation(network).attribute(x, 7.0, 1, steps=1),
    "metric": lambda network, x: top_masks(network, x, x, 1, baselines=7.0),
}


@pytest.mark.parametrize("method", BLURRED)
def test_baselines_that_the_blur_does_not_use_are_warned_of(network: nn.Module, images: Tensor, method: str) -> None:
    with pytest.warns(UserWarning, match="baselines are not used by the blur: give perturbation='fade'") as told:
        BLURRED[method](network, images)
    assert [one.filename for one in told] == [__file__]


@pytest.mark.filterwarnings("ignore:baselines are not used")
def test_blur_does_not_look_at_the_baselines(network: nn.Module, images: Tensor) -> None:
    assert_same(find(network, images, 7.0, target=1), find(network, images, target=1))


def test_baselines_are_broadcast_to_the_inputs(network: nn.Module, images: Tensor) -> None:
    colour = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(1, 3, 1, 1)
    expected = find(network, images, colour.expand_as(images), target=1, perturbation="fade")
    for baselines in (colour, colour.float(), colour.expand(2, -1, -1, 16)):
        assert_same(find(network, images, baselines, target=1, perturbation="fade"), expected, atol=1e-6)


def two_inputs(make_network: Callable[..., nn.Module]) -> tuple[Callable[..., Tensor], tuple[Tensor, Tensor]]:
    of_image, of_signal = make_network(2), make_network(1, 2)
    inputs = (torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.randn(2, 2, 30, dtype=torch.float64))
    return (lambda image, signal: of_image(image) + of_signal(signal)), inputs


@pytest.mark.parametrize("solver", [QUICK, PenaltySolver(steps=4)], ids=["path", "penalty"])
def test_every_input_of_a_tuple_has_a_mask_of_each_area(
    make_network: Callable[..., nn.Module], solver: PathSolver
) -> None:
    forward, inputs = two_inputs(make_network)
    found = find(forward, inputs, target=1, solver=solver, game="hybrid")
    assert isinstance(found.masks, tuple)
    assert [mask.shape for mask in found.masks] == [(2, 3, 1, 16, 16), (2, 3, 1, 30)]
    for mask in found.masks:
        assert mask.flatten(2).double().mean(2).tolist() == [pytest.approx(AREAS, abs=1e-4)] * 2
    assert found.sigma.shape == (3, 2)
    assert [part.shape for part in found.optimal_mask()] == [(2, 1, 16, 16), (2, 1, 30)]
    attributions = attribute(forward, inputs, target=1, solver=solver, game="hybrid")
    assert isinstance(attributions, tuple)
    assert [one.shape for one in attributions] == [x.shape for x in inputs]


def test_baselines_of_a_tuple_are_one_an_input(make_network: Callable[..., nn.Module]) -> None:
    forward, inputs = two_inputs(make_network)
    baselines = (0.5, torch.ones(1, 2, 30, dtype=torch.float64))
    found = find(forward, inputs, baselines, target=1, perturbation="fade")
    hidden = forward(torch.full_like(inputs[0], 0.5), torch.ones_like(inputs[1]))
    torch.testing.assert_close(found.perturbed_score, hidden[:, 1].detach(), **WITHIN)


def test_result_of_a_tuple_of_one_holds_tuples_of_one(network: nn.Module, images: Tensor) -> None:
    found = find(network, (images,), target=1)
    assert isinstance(found.masks, tuple)
    assert found.sigma.shape == (3, 1)


def test_several_classes_of_one_image_are_an_expanded_batch(network: nn.Module, images: Tensor) -> None:
    found = find(network, images[:1].expand(3, -1, -1, -1), target=[0, 1, 2])
    for n in range(3):
        assert_same(found.image(n), find(network, images[:1], target=n))


# What is told, and warned of


def test_callback_is_told_of_each_step_with_scores_by_image(network: nn.Module, images: Tensor) -> None:
    told: list[tuple[int, Tensor, Tensor]] = []
    found = find(
        network, images, target=1, callback=lambda *report: told.append(report), areas=(0.1, 0.3), game="hybrid"
    )
    assert [step for step, _, _ in told] == list(range(found.settings["steps"]))
    assert all(areas.shape == values.shape == (2, 1) for _, areas, values in told)
    at_end = told[-1]
    assert at_end[1][:, 0].tolist() == pytest.approx([0.3, 0.3])  # the areas settle in their order
    torch.testing.assert_close(at_end[2][:, 0], found.values[:, 1], rtol=0.1, atol=0.05)


def test_callback_changes_nothing(network: nn.Module, images: Tensor) -> None:
    assert_same(find(network, images, target=1, callback=lambda *report: None), find(network, images, target=1), atol=0)


def test_same_call_gives_the_same_bits(network: nn.Module, images: Tensor) -> None:
    for game in GAMES:
        first = find(network, images, target=1, game=game)
        torch.randn(10)
        assert_same(find(network, images, target=1, game=game), first, atol=0)


@pytest.mark.parametrize("threshold", [1e9, [1e9, 1e9]])
def test_one_warning_counts_the_images_that_reach_no_area(network: nn.Module, images: Tensor, threshold: Any) -> None:
    with pytest.warns(UserWarning, match="2 of 2 examples do not reach the score threshold at any area") as told:
        found = attribute(network, images, target=1, score_threshold=threshold, areas=(0.1, 0.3))
    assert len(told) == 1
    assert told[0].filename == __file__
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.full((2,), 0.3).double(), rtol=0, atol=1e-4)


def test_one_warning_each_counts_unreached_and_vacuous_images(network: nn.Module, images: Tensor) -> None:
    with pytest.warns(UserWarning, match="1 of 2 examples") as told:
        found = attribute(network, images, target=1, score_threshold=[1e9, -1e9], areas=(0.1, 0.3))
    assert [str(one.message).split(" the score")[0] for one in told] == [
        "1 of 2 examples do not reach",
        "1 of 2 examples reach",
    ]
    assert {one.filename for one in told} == {__file__}
    assert float(found[0].mean()) == pytest.approx(0.3, abs=1e-4)
    assert not found[1].any()


def test_pointing_map_and_result_do_not_warn_of_areas_that_are_not_reached(network: nn.Module, images: Tensor) -> None:
    attribute(network, images, target=1, score_threshold=1e9, areas=0.1, reduce="sum")
    found = find(network, images, target=1, score_threshold=lambda clean, perturbed: clean, areas=0.01, solver=QUICK)
    assert not found.reached.any()
    assert found.optimal_area.isnan().all()


@pytest.mark.parametrize("game", GAMES)
def test_one_warning_counts_thresholds_that_the_whole_input_does_not_reach(
    network: nn.Module, images: Tensor, game: str
) -> None:
    above = [1e9, -1e9]
    with pytest.warns(UserWarning, match="1 of 2 examples do not reach the score threshold even with") as told:
        found = find(network, images, target=1, game=game, score_threshold=above, areas=(0.1, 1.0))
    with pytest.warns(UserWarning, match="1 of 2 examples do not reach the score threshold even with everything"):
        LayerExtremalPerturbation(network, network[0]).extremal_masks(
            images, target=1, game=game, score_threshold=above, areas=(1, 4), solver=QUICK
        )
    assert [one.filename for one in told] == [__file__]
    assert found.reached.tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("game", GAMES)
def test_area_one_always_reaches(make_network: Callable[..., nn.Module], game: str, dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 16, 16, dtype=dtype)
    found = find(make_network(dtype=dtype), x, target=1, game=game, areas=(0.02, 1.0))
    assert found.reached.all()
    assert torch.equal(found.masks[:, -1], torch.ones(4, 1, 16, 16))
    assert torch.equal(found.scores[:, -1], found.clean_score)
    assert torch.equal(found.complement_scores[:, -1], found.perturbed_score)
    attribute(make_network(dtype=dtype), x, target=1, game=game, areas=(0.02, 1.0))  # and so does not warn


@pytest.mark.parametrize(
    "threshold",
    [0.5, [0.5, 0.5], (0.5, 0.5), torch.tensor([0.5, 0.5]), lambda clean, perturbed: torch.full_like(clean, 0.5)],
    ids=["number", "list", "tuple", "tensor", "callable"],
)
@pytest.mark.filterwarnings("ignore:. of . examples do not reach the score threshold even")
def test_thresholds_come_in_every_form(network: nn.Module, images: Tensor, threshold: Any) -> None:
    assert find(network, images, target=1, score_threshold=threshold).threshold.tolist() == [0.5, 0.5]


@pytest.mark.filterwarnings("ignore:. of . examples do not reach the score threshold even")
def test_callable_threshold_sees_the_clean_and_the_perturbed_score(network: nn.Module, images: Tensor) -> None:
    found = find(
        network, images, target=1, score_threshold=lambda clean, perturbed: 2 * clean - perturbed, game="delete"
    )
    torch.testing.assert_close(found.threshold, 2 * found.clean_score - found.perturbed_score, **WITHIN)


# Real photographs


def test_mask_of_a_photograph_keeps_more_than_boxes_of_its_area(shared_data: Path, photographs: list[Path]) -> None:
    network = squeezenet1_0(weights=None)
    weights = shared_data / "models" / "squeezenet1_0_imagenet_fp16.pth"
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.float().eval()
    prepare = SqueezeNet1_0_Weights.IMAGENET1K_V1.transforms()
    x = prepare(Image.open(photographs[0]).convert("RGB"))[None]
    target = int(photographs[0].name[:4])
    found = find(network, x, target=target, areas=(0.1, 0.3), solver=PathSolver(steps=25))
    assert found.masks.flatten(2).mean(2).tolist() == [pytest.approx([0.1, 0.3], abs=2e-3)]

    boxes = torch.zeros(9, 1, 224, 224)
    side = round(224 * 0.1**0.5)
    for box, (row, column) in zip(boxes, np.ndindex(3, 3)):
        at = [round(place * (224 - side) / 2) for place in (row, column)]
        box[0, at[0] : at[0] + side, at[1] : at[1] + side] = 1
    with torch.no_grad():
        in_boxes = network(BlurPyramid().bind(x, x)(boxes))[:, target]
    assert float(found.scores[0, 0]) > float(in_boxes.max())
    assert float(found.scores[0, 1]) > 0.5 * float(found.clean_score)
    assert float(found.binariness.min()) > 0.6


# Bad input


def _x() -> Tensor:
    return torch.randn(2, 3, 16, 16, dtype=torch.float64)


class Bind:
    """A perturbation of the user's own."""

    def __init__(self, bind: Callable[..., Any]) -> None:
        self.bind = bind


BAD_INPUT: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "areas of 0": ("areas", ValueError, {"areas": (0.0, 0.5)}),
    "negative areas": ("areas", ValueError, {"areas": -0.1}),
    "areas above 1": ("areas", ValueError, {"areas": (0.5, 1.01)}),
    "areas of NaN": ("areas", ValueError, {"areas": (math.nan,)}),
    "no areas": ("areas", ValueError, {"areas": ()}),
    "equal areas": ("areas", ValueError, {"areas": (0.2, 0.2)}),
    "falling areas": ("areas", ValueError, {"areas": (0.5, 0.2)}),
    "areas below a cell": ("areas", ValueError, {"areas": (0.003, 0.2)}),
    "areas in words": ("areas must be numbers, None or 'optimal'", ValueError, {"areas": "0.1"}),
    "areas an image": ("areas", ValueError, {"areas": [[0.1], [0.2]]}),
    "no game": ("game", ValueError, {"game": None}),
    "unknown perturbation": ("perturbation", ValueError, {"perturbation": "noise"}),
    "no perturbation": ("perturbation", TypeError, {"perturbation": object()}),
    "perturbation's class": ("perturbation", TypeError, {"perturbation": BlurPyramid}),
    "perturbation of a wrong shape": ("perturbation", ValueError, {"perturbation": Bind(lambda *_: lambda mask: mask)}),
    "perturbation without a baseline": (r"perturbation\.bind", TypeError, {"perturbation": Bind(lambda x: None)}),
    "perturbation that is no bind": (r"perturbation\.bind", TypeError, {"perturbation": Bind(3)}),
    "perturbation that binds nothing": (r"perturbation\.bind's result", TypeError, {"perturbation": Bind(torch.add)}),
    "perturbation of no mask": (r"perturbation\.bind's result", TypeError, {"perturbation": Bind(lambda *_: _x)}),
    "unknown solver": ("solver", ValueError, {"solver": "adam"}),
    "no solver": ("solver", TypeError, {"solver": object()}),
    "solver's class": ("solver", TypeError, {"solver": PathSolver}),
    "mask in words": ("mask", TypeError, {"mask": "smooth"}),
    "mask's class": ("mask", TypeError, {"mask": SmoothMask}),
    "unknown reduce": ("reduce", ValueError, {"reduce": "mean"}),
    "a baseline of NaN": ("baselines", ValueError, {"baselines": math.nan, "perturbation": "fade"}),
    "too many thresholds": ("score_threshold", ValueError, {"score_threshold": [1.0, 2.0, 3.0]}),
    "too many thresholds in a tensor": ("score_threshold", ValueError, {"score_threshold": torch.ones(3)}),
    "threshold in words": ("score_threshold", TypeError, {"score_threshold": "high"}),
    "threshold of NaN": ("score_threshold", ValueError, {"score_threshold": math.nan}),
    "threshold of truth": ("score_threshold", TypeError, {"score_threshold": True}),
    "threshold of one score": ("score_threshold", TypeError, {"score_threshold": lambda clean: clean}),
    "threshold of three scores": ("score_threshold", TypeError, {"score_threshold": lambda clean, perturbed, x: clean}),
    "threshold by keyword": ("score_threshold", TypeError, {"score_threshold": lambda *, clean, perturbed: clean}),
    "callback that cannot be called": ("callback", TypeError, {"callback": 3}),
    "callback of one argument": ("callback", TypeError, {"callback": lambda step: None}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named_before_any_forward(network: nn.Module, counted: type, case: str) -> None:
    name, error, changes = BAD_INPUT[case]
    model = counted(network)
    settings = {"inputs": _x(), "target": 0, "areas": (0.2, 0.5), "solver": QUICK} | changes
    with pytest.raises(error, match=rf"^{name}(?!\w)"):
        ExtremalPerturbation(model).attribute(**settings)
    assert model.calls == 0


@pytest.mark.parametrize("returned", ["high", None, [1.0, 2.0, 3.0], True], ids=repr)
def test_bad_return_of_a_threshold_is_named_before_the_search(
    network: nn.Module, images: Tensor, counted: type, returned: Any
) -> None:
    model = counted(network)
    with pytest.raises((TypeError, ValueError), match=r"^score_threshold\(clean, perturbed\) must return .*, got"):
        find(model, images, target=1, score_threshold=lambda clean, perturbed: returned)
    assert model.calls == 2


def test_callables_whose_signature_is_unknown_are_tried(network: nn.Module, images: Tensor) -> None:
    found = find(network, images[:1], target=1, score_threshold=max)  # written in C
    assert torch.equal(found.threshold, torch.maximum(found.clean_score, found.perturbed_score))


@pytest.mark.parametrize(
    "settings", [{"game": "hybrid"}, {"solver": PenaltySolver(steps=2)}], ids=["hybrid", "penalty"]
)
def test_sum_over_a_batch_of_one_is_not_taken_for_a_score_an_example(
    network: nn.Module, settings: dict[str, Any]
) -> None:
    x = _x()[:1]
    with pytest.warns(UserWarning, match="fails for 2 masks of each image at once, so .* one at a time"):
        found = attribute(lambda x: network(x)[:, 1].sum().view(1), x, areas=(0.3, 1.0), **settings)
    expected = attribute(network, x, target=1, areas=(0.3, 1.0), perturbations_per_eval=1, **settings)
    torch.testing.assert_close(found, expected, **WITHIN)


# Nothing is left behind


class Trainable(nn.Module):
    """A network whose batch normalisation and dropout change in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x)).relu()).mean((2, 3)))

    def scores(self, x: Tensor) -> Tensor:
        return self(x)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_grad_mode_is_left_as_it_was_after_an_error(network: nn.Module, images: Tensor, grad: Any) -> None:
    with grad():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with pytest.raises(ValueError, match="areas"):
            attribute(network, images, target=1, areas=2.0)
        with pytest.raises(ValueError, match="target"):
            attribute(network, images, target=9)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


class Caller:
    """A callable that is no module and holds one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


WRAPPERS: dict[str, Callable[[Trainable], Callable[..., Tensor]]] = {
    "module": lambda model: model,
    "bound method": lambda model: model.scores,
    "closure": lambda model: lambda x: model(x),
    "partial": lambda model: functools.partial(lambda model, x: model(x), model),
    "partial of the module": lambda model: functools.partial(model),
    "sequential": lambda model: nn.Sequential(nn.Identity(), model),
    "callable object": Caller,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_batch_norm_of_a_wrapped_model_is_found_and_restored(wrapper: str) -> None:
    model = Trainable().train()
    before = copy.deepcopy(model.norm.state_dict())
    with pytest.warns(UserWarning, match="train mode"):
        attribute(WRAPPERS[wrapper](model), torch.randn(2, 3, 16, 16), target=1)
    assert all(torch.equal(value, before[name]) for name, value in model.norm.state_dict().items())


def test_train_mode_is_repeatable_and_its_warning_points_to_the_caller() -> None:
    model, x = Trainable().train(), torch.randn(2, 3, 16, 16)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        with pytest.warns(UserWarning, match="train mode") as told:
            found.append(ExtremalPerturbation(model).attribute(x, target=1, areas=AREAS, solver=QUICK, reduce="sum"))
        assert len(told) == 1
        assert told[0].filename == __file__
    assert torch.equal(*found)


def test_settings_and_arguments_are_left_alone(network: nn.Module, images: Tensor) -> None:
    scale = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    given = {"areas": [0.1, 0.3], "target": [1, 2], "score_threshold": [0.0, 0.0], "additional_forward_args": (scale,)}
    before = copy.deepcopy(given)
    attribute(lambda x, scale: network(x) * scale, images, **given)
    assert str(given) == str(before)
    assert scale.grad is None


# Areas and a*


@dataclasses.dataclass(frozen=True)
class Seeker:
    """A solver that returns what a test says, and remembers what it was asked. Its masks are ramps over the lattice."""

    optimum: Optimum | None = None
    searches: int = 0
    finds_optimum: bool = True
    flips: bool = False
    asked: list[Search] = dataclasses.field(default_factory=list)

    def plan(self, search: Search) -> Any:
        self.asked.append(search)
        return SimpleNamespace(steps=10, run=lambda: self.run(search))

    def run(self, search: Search) -> Found:
        search.report(0, torch.tensor([0.5]), torch.zeros(1, search.images))
        last_is_finished = torch.tensor([[0.25] * search.images, [0.75] * (search.images - 1) + [torch.nan]])
        search.report(1, last_is_finished, 2 * last_is_finished)
        rows = [tuple(map(ramp, bounds, [search.images] * len(bounds))) for bounds in search.bounds]
        repeated = [tuple(p.repeat(self.searches, 1) for p in of_area) for of_area in rows]
        return Found(rows, self.optimum, repeated if self.searches else None)


def ramp(bound: Any, images: int) -> Tensor:
    p = bound.new_parameters(images)
    return torch.linspace(1, 0, p.shape[1]).expand_as(p).to(p)


def flat_optimum(area: list[float], kept: list[float]) -> Optimum:
    """Masks of one value for each image."""
    masks = torch.tensor(kept).view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    return Optimum((), (masks,), torch.tensor(area), torch.tensor([[3.0], [4.0]]), torch.tensor([0.5, 0.75]))


def mean_of_ones(method: str = "extremal_masks", **settings: Any) -> Any:
    """On ones that fade to 0, the score of what a mask keeps is its area."""
    extremal = ExtremalPerturbation(lambda x: x.mean((2, 3))[:, :1])
    ones = torch.ones(2, 3, 16, 16)
    return getattr(extremal, method)(ones, perturbation="fade", **({"score_threshold": 0.22} | settings))


LISTED = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def test_a_star_beyond_the_areas_is_measured() -> None:
    seeker = Seeker(flat_optimum([0.25, 0.3], [0.25, 0.3]))
    found = mean_of_ones(solver=seeker)
    (search,) = seeker.asked
    assert search.areas == LISTED
    assert search.goal is not None
    assert search.goal.threshold.tolist() == pytest.approx([0.22, 0.22])
    assert found.areas.tolist() == pytest.approx(LISTED)
    for name in ("optimal_area", "optimal_score", "optimal_value"):
        assert getattr(found, name).tolist() == pytest.approx([0.25, 0.3]), name
    assert found.optimal_complement_score.tolist() == pytest.approx([0.75, 0.7])
    assert found.optimal_sigma.tolist() == [3, 4]
    assert found.optimal_agreement.tolist() == [0.5, 0.75]
    assert found.optimal_masks.mean((1, 2, 3)).tolist() == pytest.approx([0.25, 0.3])
    assert found.optimal_masks.dtype == torch.float32


def test_a_star_that_falls_short_is_the_next_area_that_is_enough() -> None:
    found = mean_of_ones(solver=Seeker(flat_optimum([0.21, 0.25], [0.1, 0.25])))
    assert found.optimal_area.tolist() == pytest.approx([0.4, 0.25])
    assert torch.equal(found.optimal_masks[0], found.masks[0, 3])
    assert float(found.optimal_score[0]) == float(found.scores[0, 3]) == pytest.approx(0.4)
    assert math.isnan(float(found.optimal_agreement[0]))


@pytest.mark.parametrize("areas", [None, "optimal"], ids=str)
@pytest.mark.filterwarnings("ignore:. of . examples do not reach the score threshold even")
def test_where_no_area_is_enough_the_mask_is_the_largest_areas(areas: str | None) -> None:
    found = mean_of_ones(areas=areas, score_threshold=2.0, solver=Seeker(flat_optimum([math.nan] * 2, [1.0, 1.0])))
    assert found.optimal_area.isnan().all()
    assert not found.reached.any()
    assert found.optimal_score.tolist() == [1, 1]
    assert torch.equal(found.optimal_masks, torch.ones(2, 1, 16, 16))


def test_an_area_of_the_list_that_is_enough_is_a_star_where_the_search_found_none() -> None:
    found = mean_of_ones(solver=Seeker(flat_optimum([math.nan, 0.5], [1.0, 0.5])))
    assert found.optimal_area.tolist() == pytest.approx([0.4, 0.4])


def test_a_star_alone_is_searched_without_areas() -> None:
    seeker = Seeker(flat_optimum([0.25, 0.3], [0.25, 0.3]))
    found = mean_of_ones(areas="optimal", solver=seeker)
    assert [search.areas for search in seeker.asked] == [()]
    assert seeker.asked[0].goal is not None
    assert (found.masks.shape, found.scores.shape, found.sigma.shape) == ((2, 0, 1, 16, 16), (2, 0), (0,))
    assert found.optimal_area.tolist() == pytest.approx([0.25, 0.3])
    attribution = mean_of_ones("attribute", solver=seeker)
    assert seeker.asked[1].areas == ()
    torch.testing.assert_close(attribution, found.optimal_masks.expand(-1, 3, -1, -1))


def test_other_solvers_choose_a_star_among_the_areas() -> None:
    seeker = Seeker(finds_optimum=False)
    swept, alone = mean_of_ones(solver=seeker), mean_of_ones(areas="optimal", solver=seeker)
    assert [(search.areas, search.goal) for search in seeker.asked] == [(LISTED, None)] * 2
    assert swept.optimal_area.tolist() == alone.optimal_area.tolist() == pytest.approx([0.4, 0.4])
    assert torch.equal(swept.optimal_masks, alone.optimal_masks)
    assert alone.masks.shape == (2, 0, 1, 16, 16)


def test_a_list_of_areas_is_all_that_a_star_can_be() -> None:
    seeker = Seeker(flat_optimum([0.25, 0.3], [0.25, 0.3]))
    found = mean_of_ones(areas=[0.1, 0.3, 0.6], solver=seeker)
    assert seeker.asked[0].goal is None
    assert found.optimal_area.tolist() == pytest.approx([0.3, 0.3])
    assert torch.equal(found.optimal_masks, found.masks[:, 1])
    assert torch.equal(found.optimal_score, found.scores[:, 1])


@pytest.mark.parametrize("reduce", ["sum", "refined"])
def test_maps_of_a_sweep_need_no_a_star(reduce: str) -> None:
    seeker = Seeker()
    mean_of_ones("attribute", solver=seeker, reduce=reduce)
    assert (seeker.asked[0].areas, seeker.asked[0].goal) == (LISTED, None)


def test_attribute_needs_no_word_for_a_star_alone() -> None:
    with pytest.raises(ValueError, match=r"areas must be numbers, or None for the default of attribute, got 'optimal'"):
        mean_of_ones("attribute", areas="optimal")


def test_masks_without_a_score_are_told() -> None:
    def function(x: Tensor) -> Tensor:
        score = x.mean((1, 2, 3))
        return torch.where((score > 0.3) & (score < 0.7), torch.nan, score)

    method = ExtremalPerturbation(function)
    with pytest.warns(UserWarning, match=r"score is NaN under masks of the examples \[0, 1\]"):
        found = method.extremal_masks(
            torch.ones(2, 1, 16, 16), perturbation="fade", areas=[0.2, 0.5], solver=PathSolver(steps=4)
        )
    assert found.scores.isnan().tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_word_for_nothing_needed_is_of_the_game(game: str) -> None:
    method = ExtremalPerturbation(lambda x: -x.mean((1, 2, 3)))
    x = torch.ones(1, 1, 16, 16)
    what = {"preserve": "nothing kept.*hide more", "delete": r"nothing removed, .*Raise score_threshold, or explain"}
    with pytest.warns(UserWarning, match=what[game]):
        method.attribute(x, perturbation="fade", areas=[0.2, 0.5], game=game, solver=PathSolver(steps=4))


@pytest.mark.parametrize("areas", [None, "optimal", [0.1, 0.5]], ids=str)
def test_nothing_is_needed_where_the_perturbed_input_is_enough(areas: Any) -> None:
    found = mean_of_ones(areas=areas, score_threshold=[0.0, 0.22], solver=Seeker(finds_optimum=False))
    assert found.vacuous.tolist() == [True, False]
    assert found.reached.tolist() == [True, True]
    assert float(found.optimal_area[0]) == 0
    assert not found.optimal_masks[0].any()
    assert (float(found.optimal_score[0]), float(found.optimal_complement_score[0])) == (0, 1)
    assert math.isnan(float(found.optimal_sigma[0]))


def test_agreement_is_that_of_the_searches() -> None:
    found = mean_of_ones(solver=Seeker(searches=3))
    assert torch.equal(found.agreement, found.binary_masks().float())  # three searches with the same masks
    assert torch.equal(found.agreement_score, torch.ones(2, 6))
    assert found.optimal_agreement.tolist() == [1, 1]
    for searches in (0, 1):
        found = mean_of_ones(solver=Seeker(searches=searches))
        assert found.agreement.shape == found.masks.shape
        assert found.agreement.isnan().all()
        assert found.agreement_score.isnan().all()


def test_searches_of_the_path_agree_to_a_share_below_the_fork(network: nn.Module, images: Tensor) -> None:
    how = {"target": 1, "areas": (0.1, 0.3, 0.8)}
    one, three = (find(network, images, solver=PathSolver(steps=12, searches=count), **how) for count in (1, 3))
    assert one.agreement_score.isnan().all()
    assert three.agreement_score[:, 2].isnan().all()
    assert bool(((three.agreement_score[:, :2] >= 0) & (three.agreement_score[:, :2] <= 1)).all())
    assert {round(3 * share, 4) for share in three.agreement[:, :2].unique().tolist()} <= {0, 1, 2, 3}


def test_callback_has_the_areas_of_each_image() -> None:
    told: list[tuple[int, Tensor, Tensor]] = []
    found = mean_of_ones(solver=Seeker(), callback=lambda *report: told.append(report))
    assert found.settings["steps"] == len(told) == 2  # of the 10 that the plan allowed
    assert told[0][1].tolist() == [[0.5], [0.5]]
    assert told[1][1].shape == told[1][2].shape == (2, 2)
    torch.testing.assert_close(told[1][1], torch.tensor([[0.25, 0.75], [0.25, torch.nan]]), equal_nan=True)
    torch.testing.assert_close(told[1][2], 2 * told[1][1], equal_nan=True)
