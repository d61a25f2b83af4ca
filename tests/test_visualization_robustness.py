"""The table of robustness shows the result's own numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from captum_extremal import Robustness
from captum_extremal.visualization import show_robustness
from figures import drawn, overlap

NAMES = ("own", "fade", "half blur", "blur", "double blur", "others", "noise")


def make_robustness(areas=(0.05, 0.1, 0.4), optimal=0.1, clean=10.0, scale=10.0):
    values = torch.rand(2, len(areas) + 1, 7, generator=torch.Generator().manual_seed(0)) * scale
    held = torch.tensor([[*areas, optimal]] * 2)
    return Robustness(NAMES, held, values, values / 2, values[:, 0] / 10, torch.full((2,), clean))


def numbers(ax):
    return [text.get_text() for text in ax.texts]


def test_tables_have_the_percent_of_each_way_and_area():
    robust = make_robustness()
    figure = drawn(show_robustness(robust, 1, title="a $name$"))
    assert figure.get_suptitle() == "a $name$"
    assert figure.get_supxlabel() == "the game's value in % of the clean score, 10.0"
    for ax, masks in zip(figure.axes, (robust.soft_percent, robust.binary_percent)):
        expected = torch.cat([robust.all_hidden_percent[1][:, None], masks[1].T], dim=1)
        assert numbers(ax) == [f"{value:.0f}" for value in expected.flatten().tolist()]
        np.testing.assert_allclose(ax.images[0].get_array(), expected, rtol=1e-6)
        assert [label.get_text() for label in ax.get_yticklabels()] == list(NAMES)
        labels = ax.get_xticklabels()
        assert [label.get_text() for label in labels] == ["all\nhidden", "5 %", "10 %", "40 %", "a*\n10 %"]
        assert [label.get_bbox_patch() is not None for label in labels] == [False] * 4 + [True]
    boxes = [label.get_window_extent() for ax in figure.axes for label in ax.get_xticklabels()]
    assert not overlap(boxes)


def test_the_first_image_from_the_end_is_the_last():
    robust = make_robustness()
    first, last = (numbers(show_robustness(robust, index).axes[0]) for index in (1, -1))
    assert first == last
    assert numbers(show_robustness(robust).axes[0]) != last


@pytest.mark.parametrize(("scale", "limits"), [(30.0, (0.0, 100.0)), (-5.0, (-50.0, 0.0)), (5.0, (0.0, 50.0))])
def test_colours_are_of_at_most_100_percent(scale, limits):
    for ax in show_robustness(make_robustness(scale=scale)).axes:
        assert ax.images[0].get_clim() == pytest.approx(limits, abs=5.0)


def test_values_without_a_percent_are_shown_themselves():
    robust = make_robustness(clean=-3.25)
    figure = drawn(show_robustness(robust))
    assert figure.get_supxlabel() == "the game's value; the clean score is \N{MINUS SIGN}3.25"
    np.testing.assert_allclose(figure.axes[1].images[0].get_array()[:, 1:], robust.binary[0].T, rtol=1e-6)


def test_a_star_that_is_not_reached_and_no_other_areas():
    figure = drawn(show_robustness(make_robustness(areas=(), optimal=float("nan"))))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["all\nhidden", "a* not\nreached"]


def test_a_star_of_nothing_is_told_as_0_percent():
    figure = drawn(show_robustness(make_robustness(optimal=0.0)))
    assert figure.axes[1].get_xticklabels()[-1].get_text() == "a*\n0 %"


def test_values_that_are_all_equal_are_drawn():
    robust = make_robustness(scale=0.0)
    assert set(numbers(drawn(show_robustness(robust)).axes[0])) == {"0"}
    tiny = replace(robust, soft=robust.soft - 1e-3)
    assert set(numbers(show_robustness(tiny).axes[0])) == {"0"}  # no minus sign before 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("no",), TypeError, "robustness must be a Robustness, got str"),
        ((make_robustness(), 2), IndexError, "index must be from -2 to 1, got 2"),
        ((make_robustness(), 0.5), TypeError, "index must be an integer"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        show_robustness(*arguments)


def test_scores_that_the_model_does_not_have_are_told():
    robust = make_robustness()
    unknown = robust.all_hidden.clone()
    unknown[:, 1] = torch.nan
    ax = drawn(show_robustness(replace(robust, all_hidden=unknown))).axes[0]
    none = [text for text in ax.texts if text.get_text() == "none"]
    assert [text.get_position() for text in none] == [(0, 1)]
    assert none[0].get_color() != "white"
