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


def text(ax: Axes) -> str:
    return " ".join(one.get_text() for one in ax.texts).replace("\n", " ")


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
    told = "2 of 5 groups are enough, and none can be left out\nscore 6.00, enough 5.84, clean 7.30"
    assert ax.get_title() == told
    assert "how far the score falls without the group" in ax.get_xlabel().replace("\n", " ")


def test_groups_without_a_name_have_their_id() -> None:
    ax = shown(make_groups(), names={0: "first"}, title="an example")
    assert names(ax) == ["first", "group 1", "group 2", "group 3", "group 4"]
    assert ax.get_title().startswith("an example\n5 of 40 groups are enough, and none can be left out")
    assert dashed(ax) == [0.5]


def test_only_the_first_groups_of_many_have_a_bar() -> None:
    ax = shown(make_groups(count=38))
    assert len(widths(ax)) == 30
    assert "38 of 40 groups are enough, and none can be left out; 30 are drawn" in ax.get_title().replace("\n", " ")


def test_where_no_set_is_enough_none_is_drawn() -> None:
    ax = shown(make_groups(long=True))
    assert widths(ax) == []
    assert text(ax).startswith("no set of groups was found that is enough the largest tried: score 10.0,")


def test_a_set_of_which_groups_can_be_left_out_says_so() -> None:
    found = replace(make_groups(), minimal=torch.tensor([False, False]))
    assert shown(found).get_title().startswith("5 of 40 groups are enough, and some can be left out\n")


def test_removed_groups_are_named_so() -> None:
    weights = torch.tensor([0.1, 4.0, 0.2, 2.0, 1.0])
    found = ExtremalPerturbation(lambda rows: (rows * weights).sum(1, keepdim=True)).extremal_masks(
        torch.ones(1, 5), target=0, areas="optimal", game="delete", score_threshold=lambda clean, hidden: -0.5 * clean
    )
    ax = shown(found)
    assert (
        ax.get_title()
        == "removing 1 of 5 groups is enough, and none can be left out\nwithout it 3.30, enough 3.65, clean 7.30"
    )
    assert "game's value" in ax.get_xlabel()


def test_groups_that_were_not_tried_are_listed() -> None:
    found = make_groups()
    ax = shown(replace(found, removal_losses=torch.full((2, 40), torch.nan), minimal=torch.tensor([False, False])))
    assert widths(ax) == []
    assert "which of them are needed was not tried" in text(ax)
    assert text(ax).endswith("group 0, group 1, group 2, group 3, group 4")


def test_an_example_that_needs_nothing_has_no_groups() -> None:
    def constant(x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) * 0 + 1

    with pytest.warns(UserWarning, match="score"):
        found = ExtremalPerturbation(constant).extremal_masks(torch.ones(1, 4), target=0, areas="optimal")
    ax = shown(found)
    assert text(ax).startswith("nothing is needed")


def test_only_masks_over_groups_are_drawn() -> None:
    with pytest.raises(ValueError, match=r"found must hold masks over groups, .* got masks of positions"):
        vis.show_groups(make_found())
    with pytest.raises(ValueError, match="show_groups draws masks over groups"):
        vis.show_mask(make_groups(), make_images())
    with pytest.raises(TypeError, match="found must be an ExtremalMasks"):
        vis.show_groups(torch.ones(2))
    with pytest.raises(TypeError, match=r"names must be a dict of ids and names, such as dict\(enumerate"):
        vis.show_groups(make_groups(), names=["age"])
    with pytest.raises(ValueError, match=r"names must be of the groups' ids, such as \[0, 1, 2\], got 'age'"):
        vis.show_groups(make_groups(), names={"age": 0})
    with pytest.raises(ValueError, match="show_groups draws the set of a"):
        vis.show_curves(replace(make_groups(), areas=torch.empty(0)))
    with pytest.raises(IndexError, match="2"):
        vis.show_groups(make_groups(), 2)
