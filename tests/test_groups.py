"""Masks over groups of features: the smallest sets of models whose best set is known, and their proofs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import sensitivity_max
from torch import Tensor, nn

from captum_extremal import (
    ExtremalMasks,
    ExtremalPerturbation,
    GroupMask,
    LayerExtremalPerturbation,
    PathSolver,
    PenaltySolver,
    SamplePerturbation,
    SmoothMask,
)
from captum_extremal.masks import FeatureGroups
from captum_extremal.settings import InputSearchSettings, LayerSearchSettings
from captum_extremal.visualization import show_curves, show_mask

# Thresholds out of reach and images without a gradient are warned of, which is tested elsewhere.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*do not reach the score threshold even:UserWarning"),
    pytest.mark.filterwarnings("ignore:forward_func has no gradient:UserWarning"),
]

DOUBLE = torch.float64
QUICK = PathSolver(steps=12)
WEIGHTS = (3.0, 0.0, 0.5, 2.0, 0.0, 1.0, -1.0)


def linear(x: Tensor) -> Tensor:
    """One score: the weighted sum of the features."""
    return (x * x.new_tensor(WEIGHTS)).sum(1, keepdim=True)


def table(examples: int = 2) -> Tensor:
    return torch.ones(examples, len(WEIGHTS), dtype=DOUBLE)


def search(model: Callable[..., Any], *inputs: Tensor, **how: Any) -> ExtremalMasks:
    how = {"target": 0, "areas": "optimal", "solver": QUICK} | how
    return ExtremalPerturbation(model).extremal_masks(inputs if len(inputs) > 1 else inputs[0], **how)


def ids_of(found: ExtremalMasks) -> list[list[int]]:
    return [one.tolist() for one in found.groups()]


def single(part: Any) -> Tensor:
    assert isinstance(part, Tensor)
    return part


class Counting:
    """A model that counts its calls and the rows of its largest batch."""

    def __init__(self, model: Callable[..., Tensor]) -> None:
        self.model, self.calls, self.largest = model, 0, 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.calls += 1
        self.largest = max(self.largest, len(inputs[0]))
        return self.model(*inputs)


# The smallest set, in closed form


@pytest.mark.parametrize(
    ("threshold", "expected"), [(2.5, [0]), (4.9, [0, 3]), (5.9, [0, 3, 5]), (6.4, [0, 3, 5, 2]), (-0.5, [])]
)
def test_table_without_a_mask_keeps_the_fewest_columns(threshold: float, expected: list[int]) -> None:
    found = search(linear, table(), score_threshold=threshold)
    assert ids_of(found) == [expected] * 2
    assert found.group_ids is not None
    assert found.group_ids.tolist() == list(range(7))
    torch.testing.assert_close(found.optimal_area, torch.full((2,), len(expected) / 7, dtype=DOUBLE))
    assert found.minimal is not None
    assert found.minimal.tolist() == [True, True]
    assert found.vacuous.tolist() == [not expected] * 2


def test_losses_are_what_each_single_group_is_worth() -> None:
    found = search(linear, table(1), score_threshold=5.9)
    nan = float("nan")
    expected = torch.tensor([[3.0, nan, nan, 2.0, nan, 1.0, nan]], dtype=DOUBLE)
    torch.testing.assert_close(found.removal_losses, expected, equal_nan=True)


def test_score_of_the_whole_input_is_the_default_threshold() -> None:
    found = search(linear, table(1))
    assert found.threshold.tolist() == [5.5]
    assert len(ids_of(found)[0]) == 3
    assert float(found.optimal_score) >= 5.5


def product_beside_a_sum(x: Tensor) -> Tensor:
    """Two features are worth most together and nothing alone; three others look better one by one."""
    return (0.6 * x[:, 0] + 0.5 * x[:, 1] + 0.4 * x[:, 2] + 1.5 * x[:, 3] * x[:, 4])[:, None]


def test_pair_is_found_that_no_ranking_of_single_features_has() -> None:
    x = torch.ones(1, 9, dtype=DOUBLE)
    assert sorted(ids_of(search(product_beside_a_sum, x, score_threshold=1.45))[0]) == [3, 4]


def network(features: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(features, 12), nn.Tanh(), nn.Linear(12, 3)]
    return nn.Sequential(*layers).to(DOUBLE).requires_grad_(False).eval()


def score_of(model: nn.Module, x: Tensor, kept: list[int]) -> float:
    mask = torch.zeros_like(x)
    mask[kept] = 1
    return float(model((mask * x)[None])[0, 1])


@pytest.mark.parametrize("seed", range(4))
def test_with_enough_passes_no_set_is_smaller(seed: int) -> None:
    model = network(8, seed)
    x = torch.randn(3, 8, dtype=DOUBLE)
    found = search(model, x, target=1, mask=GroupMask(passes=300))
    for n, one in enumerate(x):
        enough = [
            len(kept)
            for count in range(9)
            for kept in combinations(range(8), count)
            if score_of(model, one, list(kept)) >= float(found.threshold[n])
        ]
        assert round(float(found.optimal_area[n]) * 8) == min(enough)


@pytest.mark.parametrize("passes", [0, 40])
@pytest.mark.parametrize("features", [8, 90])
def test_proof_holds_when_every_removal_is_tried_again(features: int, passes: int) -> None:
    model = network(features)
    x = torch.randn(4, features, dtype=DOUBLE)
    found = search(model, x, target=1, mask=GroupMask(passes=passes))
    assert found.minimal is not None
    assert bool(found.minimal.all())
    for n, kept in enumerate(ids_of(found)):
        whole = score_of(model, x[n], kept)
        assert whole >= float(found.threshold[n]) - 1e-12
        assert whole == pytest.approx(float(found.optimal_score[n]))
        losses = [whole - score_of(model, x[n], [other for other in kept if other != one]) for one in kept]
        assert all(whole - loss < float(found.threshold[n]) for loss in losses)
        assert losses == sorted(losses, reverse=True)


def test_more_passes_make_sets_smaller() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(60, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)]
    model = nn.Sequential(*layers).to(DOUBLE).eval()
    x = torch.randn(6, 60, dtype=DOUBLE)
    more: dict[str, Any] = {"target": 1, "score_threshold": lambda clean, perturbed: clean + 0.1}
    areas = [search(model, x, mask=GroupMask(passes=passes), **more).optimal_area for passes in (0, 100, 400)]
    some, many, most = (area.nan_to_num(2.0) for area in areas)
    assert bool((many <= some).all())
    assert bool((most <= many).all())
    assert int((most < some).sum()) >= 2


def test_a_set_may_be_enough_where_the_whole_input_is_not() -> None:
    found = search(linear, table(1), score_threshold=6.2)  # all: 5.5; without the last: 6.5
    assert sorted(ids_of(found)[0]) == [0, 2, 3, 5]


def test_a_batch_finds_what_its_examples_find_alone() -> None:
    model, x = network(12), torch.randn(5, 12, dtype=DOUBLE)
    together = ids_of(search(model, x, target=1))
    assert together == [ids_of(search(model, one[None], target=1))[0] for one in x]


@pytest.mark.parametrize("per_eval", [1, 3])
def test_perturbations_per_eval_changes_the_memory_alone(per_eval: int) -> None:
    model, x = network(12), torch.randn(3, 12, dtype=DOUBLE)
    counted = Counting(model)
    found = search(counted, x, target=1, perturbations_per_eval=per_eval)
    assert counted.largest <= 3 * per_eval
    assert torch.equal(single(found.optimal_masks), single(search(model, x, target=1).optimal_masks))


def test_without_a_set_that_is_enough_nothing_is_proven() -> None:
    found = search(linear, table(), score_threshold=torch.tensor([100.0, 2.5]))
    assert found.minimal is not None
    assert found.minimal.tolist() == [False, True]
    assert found.reached.tolist() == [False, True]
    assert ids_of(found) == [list(range(7)), [0]]
    with pytest.warns(UserWarning, match="1 of 2 examples do not reach"):
        ExtremalPerturbation(linear).attribute(table(), target=0, score_threshold=[100.0, 2.5], solver=QUICK)


def test_sets_of_too_many_groups_are_not_proven() -> None:
    x = torch.ones(1, 600, dtype=DOUBLE)
    found = search(lambda x: x.sum(1, keepdim=True), x)
    assert found.minimal is not None
    assert found.minimal.tolist() == [False]
    assert found.optimal_area.tolist() == [1.0]
    assert found.groups()[0].tolist() == list(range(600))
    few = search(lambda x: x.sum(1, keepdim=True), x, score_threshold=300.0)
    assert few.minimal is not None
    assert few.minimal.tolist() == [True]
    assert float(few.optimal_area) == 0.5


# Games


def test_delete_removes_the_fewest_groups_without_which_the_score_is_lost() -> None:
    found = search(linear, table(1), game="delete", score_threshold=-2.6)  # 5.5 without 3 is 2.5
    assert ids_of(found) == [[0]]
    assert float(found.optimal_complement_score) == 2.5


def test_hybrid_counts_both_scores() -> None:
    found = search(linear, table(1), game="hybrid", score_threshold=4.0)  # 2 (3 + 2) - 5.5 = 4.5
    assert sorted(ids_of(found)[0]) == [0, 3]
    assert float(found.optimal_value) == pytest.approx(4.5)


# Feature masks


IDS = torch.tensor([[40, 7, 7, 40, 900, 900, 900]])


def test_ids_need_not_be_consecutive_and_are_shared_by_all_examples() -> None:
    found = search(linear, table(), feature_mask=IDS, score_threshold=4.9)
    assert found.group_ids is not None
    assert found.group_ids.tolist() == [7, 40, 900]
    assert ids_of(found) == [[40], [40]]
    torch.testing.assert_close(found.optimal_area, torch.full((2,), 1 / 3, dtype=DOUBLE))
    attribution = ExtremalPerturbation(linear).attribute(
        table(), target=0, feature_mask=IDS, score_threshold=4.9, solver=QUICK
    )
    assert torch.equal(attribution, (IDS == 40).double().expand(2, -1))
    assert attribution.is_contiguous()


def test_examples_may_lack_groups_which_then_do_not_count() -> None:
    ids = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [8, 8, 8, 9, 9, 9, 9]])
    found = search(linear, table(), feature_mask=ids, score_threshold=2.9, areas=None)
    assert ids_of(found) == [[0], [8]]
    torch.testing.assert_close(found.optimal_area, torch.tensor([1 / 7, 1 / 2], dtype=DOUBLE))
    lacking = torch.tensor([[False] * 7 + [True] * 2, [True] * 7 + [False] * 2])
    masks = single(found.masks)
    assert bool((masks.transpose(1, 2)[lacking] == 0).all())
    means = torch.stack([masks[0, :, :7].mean(1), masks[1, :, 7:].mean(1)])
    torch.testing.assert_close(means, found.areas.float().expand(2, -1), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"areas must be fractions for examples of \[2, 7\] groups, got \(1, 2\)"):
        search(linear, table(), feature_mask=ids, areas=(1, 2))


def test_examples_of_different_groups_search_on_when_others_have_left() -> None:
    model, x = network(6), torch.randn(4, 6, dtype=DOUBLE)
    ids = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5], [5, 5, 6, 6, 7, 7], [1, 2, 3, 4, 5, 6]])
    how = {"target": 1, "solver": PathSolver(steps=40, searches=2), "score_threshold": [-9.0, -0.5, 0.0, 0.1]}
    together = search(model, x, feature_mask=ids, **how)
    for n, one in enumerate(x):
        alone = how | {"score_threshold": how["score_threshold"][n]}
        assert ids_of(search(model, one[None], feature_mask=ids[n : n + 1], **alone))[0] == ids_of(together)[n]


def test_one_group_spans_an_image_and_its_metadata() -> None:
    def model(image: Tensor, facts: Tensor) -> Tensor:
        return (image[:, 0, :2].mean((1, 2)) * facts[: len(image), 1] + 0.1 * image.mean((1, 2, 3)))[:, None]

    image, facts = torch.ones(2, 3, 4, 4, dtype=DOUBLE), torch.ones(2, 3, dtype=DOUBLE)
    of_image = torch.tensor([5, 5, 6, 6]).view(1, 1, 4, 1).expand(1, 1, 4, 4)
    of_facts = torch.tensor([[6, 5, 8]])
    how: dict[str, Any] = {"feature_mask": (of_image, of_facts), "score_threshold": 1.0, "target": 0, "solver": QUICK}
    found = search(model, image, facts, **how)
    assert ids_of(found) == [[5], [5]]
    assert single(found.optimal_masks).shape == (2, 3)
    maps = ExtremalPerturbation(model).attribute((image, facts), **how)
    assert torch.equal(maps[0], (of_image == 5).double().expand(2, 3, 4, 4))
    assert torch.equal(maps[1], (of_facts == 5).double().expand(2, 3))
    alone = ExtremalPerturbation(lambda image: model(image, facts)).attribute(
        (image,), **how | {"feature_mask": (of_image,)}
    )
    assert isinstance(alone, tuple)


def test_tables_of_a_tuple_are_numbered_through() -> None:
    found = search(lambda x, y: x[:, :1] + y[:, 1:2], table(), table(), score_threshold=2.0)
    assert found.group_ids is not None
    assert found.group_ids.tolist() == list(range(14))
    assert [sorted(one) for one in ids_of(found)] == [[0, 8], [0, 8]]


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 9), (2, 2, 4, 4), (2, 1, 2, 3, 4), (2, 2, 2, 2, 2, 2)])
def test_inputs_of_every_rank(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, dtype=DOUBLE)
    ids = (torch.arange(x[0].numel()) % 5).view(1, *shape[1:])

    def model(x: Tensor) -> Tensor:
        return (x * (ids == 3)).flatten(1).sum(1, keepdim=True)

    found = search(model, x, feature_mask=ids)
    assert ids_of(found) == [[3], [3]]
    attribution = ExtremalPerturbation(model).attribute(x, target=0, feature_mask=ids, solver=QUICK)
    assert torch.equal(attribution, (ids == 3).double().expand_as(x))


def test_group_mask_without_ids_takes_every_element() -> None:
    found = search(lambda x: x[:, 1, 2:3], torch.ones(1, 2, 3, dtype=DOUBLE), mask=GroupMask())
    assert ids_of(found) == [[5]]


def test_size_counts_elements() -> None:
    x, ids = torch.ones(1, 10, dtype=DOUBLE), torch.tensor([[0] * 7 + [1, 1, 2]])

    def model(x: Tensor) -> Tensor:
        return torch.maximum(x[:, 0], torch.minimum(x[:, 7], x[:, 9]))[:, None]

    by_count = search(model, x, feature_mask=ids)
    by_size = search(model, x, feature_mask=ids, mask=GroupMask(weights="size"))
    assert ids_of(by_count) == [[0]]
    assert sorted(ids_of(by_size)[0]) == [1, 2]
    assert float(by_size.optimal_area) == pytest.approx(0.3)
    listed = search(model, x, feature_mask=ids, mask=GroupMask(weights="size"), areas=(3, 8))
    assert listed.areas.tolist() == pytest.approx([0.3, 0.8])
    torch.testing.assert_close(single(listed.masks) @ torch.tensor([0.7, 0.2, 0.1]), listed.areas.float()[None])


# Areas


def test_listed_areas_are_met_exactly_and_at_most_one_group_is_kept_in_part() -> None:
    found = search(linear, table(), areas=(0.2, 0.5, 0.9), score_threshold=4.9)
    masks = single(found.masks)
    torch.testing.assert_close(masks.mean(2), found.areas.float().expand(2, -1))
    assert bool((((masks > 0) & (masks < 1)).sum(2) <= 1).all())
    assert found.binary_masks().sum(2).tolist() == [[1, 4, 6]] * 2  # type: ignore[union-attr]


def test_integer_areas_are_numbers_of_groups_and_the_best_ones_are_kept() -> None:
    found = search(linear, table(1), areas=(1, 2, 5), score_threshold=4.9)
    assert found.areas.tolist() == pytest.approx([1 / 7, 2 / 7, 5 / 7])
    kept = [mask.nonzero()[:, 0].tolist() for mask in single(found.masks)[0]]
    assert kept[:2] == [[0], [0, 3]]
    assert len(kept[2]) == 5
    assert found.scores[0, :2].tolist() == [3.0, 5.0]


def test_the_smallest_listed_area_may_have_more_groups_than_are_needed() -> None:
    found = search(linear, table(1), areas=(1, 5), score_threshold=4.9)
    assert found.minimal is not None
    assert found.optimal_area.tolist() == pytest.approx([5 / 7])
    assert found.minimal.tolist() == [False]
    assert ids_of(found)[0][:2] == [0, 3]
    assert search(linear, table(1), areas=(1, 2), score_threshold=4.9).minimal.tolist() == [True]  # type: ignore[union-attr]


def test_default_areas_are_those_of_channels_and_a_star() -> None:
    found = search(linear, table(1), areas=None, score_threshold=4.9)
    assert found.areas.tolist() == pytest.approx([1 / 7, 5 / 7, 1.0])
    assert sorted(ids_of(found)[0]) == [0, 3]
    total = found.saliency()
    torch.testing.assert_close(single(total), single(found.masks).sum(1))
    assert single(found.order_of_entry())[0, 0] == pytest.approx(1 / 7)
    summed = ExtremalPerturbation(linear).attribute(table(1), target=0, reduce="sum", solver=QUICK)
    assert summed.shape == (1, 7)


@pytest.mark.parametrize("columns", [1, 2])
def test_tables_of_few_columns(columns: int) -> None:
    found = search(lambda x: x[:, -1:], torch.ones(2, columns, dtype=DOUBLE))
    assert ids_of(found) == [[columns - 1]] * 2


def test_penalty_solver_starts_the_search_for_sets_too() -> None:
    assert InputSearchSettings(mask=GroupMask(), solver="penalty").chosen_solver() == PenaltySolver.channels()
    found = search(linear, table(1), solver=replace(PenaltySolver.channels(), steps=20), score_threshold=4.9)
    assert sorted(ids_of(found)[0]) == [0, 3]
    with pytest.raises(ValueError, match="solver must not flip"):
        search(linear, table(1), solver=PenaltySolver())


def test_agreement_of_several_searches() -> None:
    found = search(linear, table(1), areas=(1, 2), solver=PathSolver(steps=12, searches=3))
    assert found.agreement_score.tolist() == [[1.0, 1.0]]
    assert single(found.agreement)[0].tolist() == [[1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0]]


@pytest.mark.parametrize("weights", ["count", "size"])
def test_filled_masks_have_the_area_and_the_highest_values(weights: str) -> None:
    ids = torch.tensor([[0, 0, 1, 2, 2, 2], [0, 1, 1, 1, 3, 3]])
    groups = FeatureGroups.of(GroupMask(weights=weights), (ids,), (torch.zeros(2, 6),))
    values, area = torch.rand(6, 4, dtype=DOUBLE), torch.rand(6, dtype=DOUBLE)
    masks = groups.filled(values, area)
    torch.testing.assert_close((masks * groups.weights.repeat(3, 1)).sum(1), area)
    for mask, value, present in zip(masks, values, groups.present.repeat(3, 1)):
        assert bool((mask[~present] == 0).all())
        ranked = mask[present][value[present].argsort(descending=True)]
        assert bool((ranked[:-1] >= ranked[1:]).all())
        assert int(((mask > 0) & (mask < 1)).sum()) <= 1


# Perturbations


def test_baselines_are_what_hidden_groups_become() -> None:
    found = search(linear, table(1), baselines=-1.0, score_threshold=4.4)  # -5.5 and twice what is kept
    assert float(found.perturbed_score) == -5.5
    assert sorted(ids_of(found)[0]) == [0, 3]


def test_blur_of_superpixels_needs_positions() -> None:
    image = torch.rand(1, 3, 12, 12, dtype=DOUBLE)
    ids = (torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4)[None, None]

    def model(x: Tensor) -> Tensor:
        return -(x - image)[:, :, :4, :4].abs().sum((1, 2, 3))[:, None]

    found = search(model, image, feature_mask=ids, perturbation="blur")
    assert ids_of(found) == [[0]]
    assert "BlurPyramid" in found.settings["perturbation"]
    with pytest.raises(ValueError, match="perturbation 'blur' needs inputs"):
        search(linear, table(), perturbation="blur")


BACKGROUND = torch.tensor([[0.0] * 7, [1.0] * 7, [-4.0] * 7], dtype=DOUBLE)


def squared(x: Tensor) -> Tensor:
    return (x[:, :3] ** 2).sum(1, keepdim=True) + 0.2 * x.prod(1, keepdim=True)


def test_samples_stand_in_for_what_is_hidden_and_scores_are_averaged() -> None:
    x = torch.rand(2, 7, dtype=DOUBLE)
    found = search(squared, x, areas=(1, 3), perturbation=SamplePerturbation(BACKGROUND))
    for n, of_areas in enumerate(single(found.masks).double()):
        for area, mask in enumerate(of_areas):
            kept = squared(mask * x[n] + (1 - mask) * BACKGROUND).mean()
            removed = squared((1 - mask) * x[n] + mask * BACKGROUND).mean()
            assert float(found.scores[n, area]) == pytest.approx(float(kept))
            assert float(found.complement_scores[n, area]) == pytest.approx(float(removed))
    assert found.perturbed_score.tolist() == pytest.approx([float(squared(BACKGROUND).mean())] * 2)
    assert found.settings["perturbation"] == "SamplePerturbation(background=(3, 7))"


@pytest.mark.parametrize("per_eval", [1, 2, 7])
def test_samples_count_as_perturbations_and_change_nothing(per_eval: int) -> None:
    x = torch.rand(2, 7, dtype=DOUBLE)
    how: dict[str, Any] = {"perturbation": SamplePerturbation(BACKGROUND), "areas": (1, 3), "game": "hybrid"}
    counted = Counting(squared)
    found = search(counted, x, perturbations_per_eval=per_eval, **how)
    assert counted.largest <= 2 * per_eval
    expected = search(squared, x, **how)
    torch.testing.assert_close(single(found.masks), single(expected.masks), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-9)


def test_samples_of_a_tuple_belong_together() -> None:
    both = SamplePerturbation((BACKGROUND, BACKGROUND.flip(0)))
    x = torch.rand(1, 7, dtype=DOUBLE)
    found = search(lambda x, y: x[:, :1] * y[:, :1], x, x, perturbation=both)
    expected = (BACKGROUND[:, 0] * BACKGROUND.flip(0)[:, 0]).mean()
    assert float(found.perturbed_score) == pytest.approx(float(expected))


def test_samples_hide_parts_of_images_too() -> None:
    image = torch.rand(1, 1, 8, 8, dtype=DOUBLE)
    samples = SamplePerturbation(torch.rand(3, 1, 8, 8, dtype=DOUBLE))
    found = search(lambda x: x.mean((2, 3)), image, areas=(0.5,), perturbation=samples)
    mask = single(found.masks)[0].double()
    expected = (mask * image + (1 - mask) * single(samples.background)).mean()
    assert float(found.scores) == pytest.approx(float(expected), abs=1e-6)


# Layers


class Words(nn.Module):
    """A score for each of two classes, of token ids: the embeddings' sum."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(9, 4)
        self.embeddings.weight = nn.Parameter(torch.zeros(9, 4))
        for token, worth in ((3, 2.0), (5, 1.0), (6, -1.0)):
            self.embeddings.weight.data[token, 1] = worth

    def forward(self, tokens: Tensor) -> Tensor:
        total = self.embeddings(tokens).sum((1, 2))
        return torch.stack([total, -total], dim=1)


TOKENS = torch.tensor([[3, 1, 5, 6], [5, 3, 2, 2]])
WORD_IDS = torch.tensor([[0, 0, 1, 2], [0, 10, 4, 4]])[..., None]


def test_words_of_token_ids_through_the_embedding() -> None:
    model = Words().eval()
    method = LayerExtremalPerturbation(model, model.embeddings)
    how: dict[str, Any] = {"target": 0, "layer_mask": WORD_IDS, "score_threshold": 2.0, "solver": QUICK}
    found = method.extremal_masks(TOKENS, areas="optimal", **how)
    assert ids_of(found) == [[0], [10]]
    assert found.optimal_area.tolist() == pytest.approx([1 / 3, 1 / 3])
    attribution = single(method.attribute(TOKENS, **how))
    assert attribution.shape == (2, 4, 4)
    assert attribution[..., 0].tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]
    heat = single(method.attribute(TOKENS, multiply_by_activation=True, **how))
    assert heat.sum((1, 2)).tolist() == [2.0, 2.0]


def test_layer_baselines_are_what_hidden_values_become() -> None:
    model = Words().eval()
    method = LayerExtremalPerturbation(model, model.embeddings)
    baseline = torch.full((1, 4, 4), -0.25)  # -1 for each hidden token
    how: dict[str, Any] = {"target": 0, "layer_mask": WORD_IDS[:1], "layer_baselines": baseline, "areas": "optimal"}
    how |= {"solver": QUICK}
    found = method.extremal_masks(TOKENS[:1], score_threshold=0.5, **how)
    assert found.perturbed_score.tolist() == [-4.0]
    assert sorted(ids_of(found)[0]) == [0, 1]  # 2 + 1 - 1; the first word alone has 2 - 2
    per_example = how | {"layer_baselines": baseline.repeat(2, 1, 1), "layer_mask": WORD_IDS}
    both = method.extremal_masks(TOKENS, score_threshold=0.5, **per_example)
    assert ids_of(both)[0] == ids_of(found)[0]
    channels = method.extremal_masks(
        TOKENS[:1], target=0, areas=(4,), channel_dim=-1, layer_baselines=-0.25, solver=QUICK
    )
    assert channels.perturbed_score.tolist() == [-4.0]


def test_group_mask_on_a_layer_without_ids_takes_every_value() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 3)
    found = LayerExtremalPerturbation(model, model[0]).extremal_masks(
        x, target=1, mask=GroupMask(), areas=(1, 4), solver=QUICK
    )
    assert single(found.masks).shape == (2, 2, 4)
    assert found.covers == "groups"


MANY_IDS = torch.arange(2**15 + 1).view(1, -1, 1)
BAD_LAYER: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "negative": ({"layer_mask": WORD_IDS - 8}, ValueError, "layer_mask must hold ids of at least 0"),
    "too many": ({"layer_mask": MANY_IDS}, ValueError, "layer_mask must hold at most 32768 different ids, got 32769"),
    "spatial": ({"mask": "spatial"}, ValueError, r"mask must be GroupMask\(\) where layer_mask names groups"),
    "floating": ({"layer_mask": WORD_IDS.float()}, TypeError, "layer_mask must be a tensor of integers"),
    "shape": ({"layer_mask": WORD_IDS[..., 0]}, ValueError, r"layer_mask must have the shape of what it groups"),
    "two": ({"layer_mask": (WORD_IDS, WORD_IDS)}, ValueError, "layer_mask must be one tensor for each of 1"),
    "baselines": (
        {"layer_baselines": torch.zeros(1, 4, 5)},
        ValueError,
        "layer_baselines must have the shape of the layer's activation",
    ),
}


@pytest.mark.parametrize("case", BAD_LAYER)
def test_bad_arguments_of_a_layer_are_named(case: str) -> None:
    bad, error, message = BAD_LAYER[case]
    model, calls = Words().eval(), []
    model.register_forward_pre_hook(lambda module, given: calls.append(given))
    with pytest.raises(error, match=message):
        LayerExtremalPerturbation(model, model.embeddings).extremal_masks(
            TOKENS, **{"target": 0, "layer_mask": WORD_IDS} | bad
        )
    # The activation's shape is known only when the model has run.
    assert bool(calls) == (case in ("shape", "two", "baselines"))


# Precision, Captum's wrappers, files


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x = table().to(dtype)
    assert sorted(ids_of(search(linear, x, score_threshold=4.9))[0]) == [0, 3]
    attribution = ExtremalPerturbation(linear).attribute(x, target=0, score_threshold=4.9, solver=QUICK)
    assert attribution.dtype == dtype
    samples = SamplePerturbation(BACKGROUND[:1])
    for per_eval in (None, 1):
        found = search(linear, x, score_threshold=4.9, perturbation=samples, perturbations_per_eval=per_eval)
        assert sorted(ids_of(found)[0]) == [0, 3]


def test_captums_wrappers_take_groups() -> None:
    method, x = ExtremalPerturbation(linear), table().float()
    ids = IDS.expand(2, -1)
    how: dict[str, Any] = {"target": 0, "feature_mask": ids, "solver": QUICK, "score_threshold": 3.0}
    smooth = NoiseTunnel(method).attribute(x, nt_samples=2, stdevs=0.01, **how)
    assert torch.equal(smooth, (ids == 40).float())
    how |= {"feature_mask": IDS}
    assert sensitivity_max(method.attribute, x, n_perturb_samples=2, **how).tolist() == [0.0, 0.0]


def test_saved_results_come_back(tmp_path: Path) -> None:
    found = search(linear, table(), feature_mask=IDS, score_threshold=torch.tensor([4.9, 100.0]))
    path = tmp_path / "found.npz"
    found.save(path)
    back = ExtremalMasks.load(path)
    for name in ("group_ids", "minimal", "removal_losses", "optimal_masks"):
        torch.testing.assert_close(getattr(back, name), getattr(found, name), equal_nan=True)
    assert ids_of(back) == ids_of(found)
    one = back.image(1)
    assert ids_of(one) == [ids_of(found)[1]]
    assert one.minimal is not None
    assert one.minimal.tolist() == [False]
    assert "minimal=[True, False]" in repr(found)


def test_results_over_positions_have_no_groups() -> None:
    found = search(lambda x: x.mean((2, 3)), torch.rand(1, 1, 8, 8), areas=(0.5,))
    assert (found.group_ids, found.minimal, found.removal_losses) == (None, None, None)
    with pytest.raises(ValueError, match="groups needs masks of feature groups, this result has masks of positions"):
        found.groups()


def test_nothing_of_the_callers_changes() -> None:
    model, x = network(7), table()
    before, state, rng = copy.deepcopy(model.state_dict()), x.clone(), torch.get_rng_state()
    search(model, x, perturbation=SamplePerturbation(BACKGROUND))
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_figures_of_scores_take_groups() -> None:
    found = search(linear, table(), areas=(1, 2, 5), score_threshold=4.9)
    (ax,) = show_curves(found, None, 1).axes
    labels = [str(line.get_label()) for line in ax.lines]
    assert "only the mask's groups" in labels
    assert "a* = 28.6 % of the groups" in labels
    assert ax.get_xlabel() == "area of the mask, % of the groups"
    with pytest.raises(ValueError, match="show_curves draws the scores of any"):
        show_mask(found, torch.rand(2, 3, 8, 8))


# Bad input

BAD: dict[str, tuple[dict[str, Any], Any, str]] = {
    "negative": ({"feature_mask": IDS - 8}, ValueError, "feature_mask must hold ids of at least 0, got -1"),
    "floating": ({"feature_mask": IDS.float()}, TypeError, "feature_mask must be a tensor of integers.*float32"),
    "bool": ({"feature_mask": IDS > 7}, TypeError, "feature_mask must be a tensor of integers.*bool"),
    "list": ({"feature_mask": [0, 1]}, TypeError, "feature_mask must be a tensor of integers, got list"),
    "two": ({"feature_mask": (IDS, IDS)}, ValueError, "feature_mask must be one tensor for each of 1 tensors, got 2"),
    "none": ({"feature_mask": ()}, ValueError, "feature_mask must hold at least one tensor"),
    "empty": ({"feature_mask": IDS[:0]}, ValueError, "feature_mask must not be empty"),
    "width": ({"feature_mask": IDS[:, :6]}, ValueError, r"feature_mask must have the shape .*\(2, 7\).*got \(1, 6\)"),
    "rank": ({"feature_mask": IDS[0]}, ValueError, r"feature_mask must have the shape .*got \(7,\)"),
    "rows": ({"feature_mask": IDS.repeat(3, 1)}, ValueError, r"feature_mask must have the shape .*got \(3, 7\)"),
    "mask": ({"feature_mask": IDS, "mask": SmoothMask()}, ValueError, r"mask must be GroupMask\(\) where feature_mask"),
    "smooth": ({"mask": SmoothMask()}, ValueError, r"inputs must be \(N, C, \*S\).*feature_mask=... names groups"),
    "baselines": ({"baselines": torch.zeros(2, 6)}, ValueError, "baselines must have the shape of its input"),
    "too many": ({"areas": (1, 8)}, ValueError, r"areas must be at most 7 groups, got \(1, 8\)"),
    "too small": ({"areas": 0.1}, ValueError, "areas must be at least that of the smallest mask, 0.143 of the groups"),
    "background": (
        {"perturbation": SamplePerturbation(torch.zeros(3, 6))},
        ValueError,
        r"background must have rows of the inputs' shape \(7,\), got \(3, 6\)",
    ),
    "backgrounds": (
        {"perturbation": SamplePerturbation((torch.zeros(3, 7), torch.zeros(3, 7)))},
        ValueError,
        "background must be one tensor for each of 1 inputs, got 2",
    ),
    "integers": ({"x": torch.ones(2, 7, dtype=torch.int64)}, TypeError, "LayerExtremalPerturbation"),
    "no columns": ({"x": torch.ones(2, 0)}, ValueError, r"inputs"),
    "nothing to cover": ({"x": torch.ones(2, 0), "feature_mask": IDS[:, :1]}, ValueError, r"inputs"),
    "baseline of another type": ({"baselines": "zero"}, TypeError, "baselines"),
    "baselines of a tuple": ({"baselines": (0.0, 1.0)}, (TypeError, ValueError), "baselines"),
    "one dimension": ({"x": torch.ones(7), "feature_mask": IDS[0]}, ValueError, "at least two dimensions"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_the_first_forward(case: str) -> None:
    bad, error, message = BAD[case]
    counted, given = Counting(linear), dict(bad)
    x = given.pop("x", table())
    with pytest.raises(error, match=message):
        search(counted, x, **given)
    assert counted.calls == 0


def test_refined_maps_are_for_positions() -> None:
    counted = Counting(linear)
    with pytest.raises(ValueError, match="reduce must be 'extremal' or 'sum' for masks over groups"):
        ExtremalPerturbation(counted).attribute(table(), target=0, reduce="refined")
    assert counted.calls == 0


def test_too_many_groups_are_named() -> None:
    x = torch.zeros(1, 2**15 + 1)
    counted = Counting(lambda x: x[:, :1])
    with pytest.raises(ValueError, match="feature_mask must be given for inputs of more than 32768 elements, got None"):
        search(counted, x)
    with pytest.raises(ValueError, match="feature_mask must hold at most 32768 different ids, got 32769"):
        search(counted, x, feature_mask=torch.arange(2**15 + 1)[None])
    assert counted.calls == 0


@pytest.mark.parametrize(
    ("background", "error", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), TypeError, "background must be a floating tensor.*int64"),
        ([[0.0]], TypeError, "background must be a floating tensor, or a tuple of them, got list"),
        ((), TypeError, "background must be a floating tensor"),
        (torch.zeros(3), ValueError, "background must have M rows"),
        (torch.zeros(0, 3), ValueError, "background must have M rows"),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), ValueError, "as many in each tensor"),
        (torch.tensor([[torch.inf]]), ValueError, "background must be finite"),
    ],
)
def test_bad_backgrounds_are_named(background: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SamplePerturbation(background)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"weights": "area"}, ValueError, "weights must be one of 'count', 'size'"),
        ({"passes": -1}, ValueError, "passes must be at least 0"),
        ({"passes": 1.5}, TypeError, "passes must be an integer"),
    ],
)
def test_bad_settings_of_group_masks_are_named(how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GroupMask(**how)


@pytest.mark.parametrize("given", [{"channel_dim": -1}, {"prefix_tokens": 1}, {"token_grid": (1, 2)}])
def test_where_channels_lie_says_nothing_of_groups(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(given))} must be .* for masks over groups"):
        LayerSearchSettings(mask=GroupMask(), **given)


def test_baselines_of_a_background_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="baselines are not used by SamplePerturbation"):
        ExtremalPerturbation(linear).attribute(
            torch.ones(1, 7), 0.5, 0, perturbation=SamplePerturbation(torch.zeros(2, 7)), solver=QUICK
        )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("weights", ["size", "count"])
def test_few_groups_of_any_sizes_have_the_smallest_set_of_all(seed: int, weights: str) -> None:
    torch.manual_seed(seed)
    sizes, values = [1, 2, 2, 3], torch.rand(16)  # the score of each of the 16 sets
    values[0], values[15] = 0.0, 0.8
    ids = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))[None]
    firsts = [0, 1, 3, 5]

    def score(x: Tensor) -> Tensor:
        kept = (x[:, firsts] > 0.5).long() @ torch.tensor([1, 2, 4, 8])
        return values[kept] + 0 * x.sum(1)

    found = ExtremalPerturbation(score).extremal_masks(
        torch.ones(1, 8), feature_mask=ids, mask=GroupMask(weights), areas="optimal", perturbation="fade"
    )
    shares = [size / 8 if weights == "size" else 1 / 4 for size in sizes]
    areas = [sum(share for bit, share in enumerate(shares) if code >> bit & 1) for code in range(16)]
    least = min(area for area, value in zip(areas, values.tolist()) if value >= values[15])
    assert float(found.optimal_area) == pytest.approx(least)
    assert bool(found.minimal)


@pytest.mark.parametrize("samples", [3, 7, 100])
@pytest.mark.parametrize("game", ["preserve", "hybrid"])
def test_mean_of_equal_scores_is_that_score(samples: int, game: str) -> None:
    rows, background = torch.rand(20, 8) + 1, torch.rand(samples, 8)
    found = ExtremalPerturbation(lambda x: x[:, 0] + 2 * x[:, 1]).extremal_masks(
        rows, areas="optimal", game=game, perturbation=SamplePerturbation(background)
    )
    assert found.optimal_area.tolist() == [0.25] * 20
    assert bool(found.minimal.all())
