"""The figure of groups: its bars, its texts, and what has no bars."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from captum_extremal import ExtremalPerturbation
from captum_extremal import visualization as vis
from every_figure import make_found, make_groups
from figures import drawn, make_images


def widths(ax: Axes) -> list[float]:
    return [bar.get_width() for bar in ax.patches]


def names(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def dashed(ax: Axes) -> list[float]:
    return [float(line.get_xdata()[0]) for line in ax.get_lines() if line.get_linestyle() == "--"]


def shown(found: Any, *arguments: Any, **how: Any) -> Axes:
    (ax,) = drawn(vis.show_groups(found, *arguments, **how)).axes
    return ax


def test_bars_are_what_the_score_loses_without_each_column() -> None:
    weights = torch.tensor([0.1, 4.0, 0.2, 2.0, 1.0])
    rows = torch.ones(2, 5)
    model: nn.Module = nn.Linear(5, 1, bias=False)
    model.weight.data = weights[None]
    found = ExtremalPerturbation(model).extremal_masks(
        rows, target=0, areas="optimal", score_threshold=lambda clean, hidden: 0.8 * clean + 0.2 * hidden
    )
    ax = shown(found, 1, names={1: "age", 3: "height"})
    assert names(ax) == ["age", "height"]  # 6.0 of 7.3, of which 5.84 is enough
    assert widths(ax) == pytest.approx([4, 2], abs=1e-5)
    assert dashed(ax) == pytest.approx([0.16], abs=1e-5)
    assert ax.get_title() == "2 of 5 groups are enough, and none can be left out\nscore 6.00, clean 7.30"
    assert "how far the score falls without the group" in ax.get_xlabel().replace("\n", " ")


def test_groups_without_a_name_have_their_id() -> None:
    ax = shown(make_groups(), names={0: "first"}, title="an example")
    assert names(ax) == ["first", "group 1", "group 2", "group 3", "group 4"]
    assert ax.get_title().startswith("an example\n5 of 40 groups are enough, and none can be left out")
    assert dashed(ax) == [0.5]


def test_only_the_first_groups_of_many_have_a_bar() -> None:
    ax = shown(make_groups(count=38))
    assert len(widths(ax)) == 30
    assert ax.get_title().endswith("and 8 more")


def test_a_set_that_is_not_enough_says_so() -> None:
    ax = shown(make_groups(long=True))
    assert ax.get_title().startswith("5 of 40 groups, and not enough\n")
    assert "game's value" in ax.get_xlabel()
    assert dashed(ax) == []


def test_a_set_of_which_one_group_can_be_left_out_claims_nothing_more() -> None:
    found = replace(make_groups(), minimal=torch.tensor([False, False]))
    assert shown(found).get_title().startswith("5 of 40 groups are enough\n")


def test_groups_that_were_not_tried_have_no_bars() -> None:
    found = make_groups()
    ax = shown(replace(found, removal_losses=torch.full((2, 40), torch.nan), minimal=torch.tensor([False, False])))
    assert widths(ax) == [0.0] * 5
    assert ax.get_xlabel() == "what each group adds was not tried"
    assert dashed(ax) == []


def test_an_example_that_needs_nothing_has_no_groups() -> None:
    def constant(x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) * 0 + 1

    with pytest.warns(UserWarning, match="score"):
        found = ExtremalPerturbation(constant).extremal_masks(torch.ones(1, 4), target=0, areas="optimal")
    ax = shown(found)
    assert any("nothing is needed" in text.get_text() for text in ax.texts)


def test_only_masks_over_groups_are_drawn() -> None:
    with pytest.raises(ValueError, match=r"found must hold masks over groups, .* got masks of positions"):
        vis.show_groups(make_found())
    with pytest.raises(ValueError, match="show_groups draws masks over groups"):
        vis.show_mask(make_groups(), make_images())
    with pytest.raises(TypeError, match="found must be an ExtremalMasks"):
        vis.show_groups(torch.ones(2))
    with pytest.raises(TypeError, match="names must be a dict"):
        vis.show_groups(make_groups(), names=["age"])
    with pytest.raises(IndexError, match="2"):
        vis.show_groups(make_groups(), 2)
