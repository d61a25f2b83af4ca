"""What holds for every figure function: its arguments, where it draws, its style, and the room for its texts."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import colors, style
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from skimage.color import deltaE_ciede2000, rgb2lab

from captum_extremal import visualization as vis
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _style
from every_figure import CALLS, NAME, OF_ONE_AXES, at_five_inches, make_channels, make_found, make_robustness
from figures import crowded, make_images, overlap, picture

SHEET_NAME = "captum_extremal.visualization.captum_extremal"
OF_ONE_RESULT = dict.fromkeys(CALLS, "images") | {"show_signal": "signals", "show_volume": "volumes"}
COMPARED = {
    "compare": ["attributions", "index"],
    "compare_masks": ["masks", "index"],
    "show_targets": ["names"],
}
"""Of those that compare, what comes after the images."""
for other in ("show_bars", "show_groups", "show_robustness", "show_inversions", "show_class_channel"):
    del OF_ONE_RESULT[other]


@pytest.fixture
def images() -> torch.Tensor:
    return make_images()


def test_no_figure_is_left_out() -> None:
    assert sorted(CALLS) == sorted(vis.__all__)


# Arguments


@pytest.mark.parametrize("name", OF_ONE_RESULT)
def test_figures_of_one_result_are_called_alike(name: str) -> None:
    parameters = inspect.signature(getattr(vis, name)).parameters.values()
    by_position = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert by_position == ["found", OF_ONE_RESULT[name], *COMPARED.get(name, ["index"])]
    defaults = {one.name: one.default for one in parameters}
    assert defaults["index"] == (None if name == "show_targets" else 0)


@pytest.mark.parametrize("name", CALLS)
def test_every_figure_takes_a_place_and_a_title_by_name(name: str) -> None:
    parameters = inspect.signature(getattr(vis, name)).parameters
    place = "ax" if name in OF_ONE_AXES else "fig"
    for keyword in (place, "title"):
        assert parameters[keyword].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[keyword].default is None


@pytest.mark.parametrize(
    "call",
    [
        lambda found, x: vis.show_curves(found, 1),
        lambda found, x: vis.show_channels(make_channels(), x[:, :1], x),
        lambda found, x: vis.show_channels(make_channels(), x[:, :1], x, 1),
    ],
)
def test_former_orders_of_arguments_are_refused(images: torch.Tensor, call: Any) -> None:
    rule = r"images must be a tensor|positional argument|required keyword"
    with pytest.raises(TypeError, match=rule):
        call(make_found(), images)


@pytest.mark.parametrize("name", CALLS)
def test_a_place_that_is_none_is_refused(name: str) -> None:
    place, other = ("ax", Figure()) if name in OF_ONE_AXES else ("fig", Figure().subplots())
    rule = f"{place} must be a matplotlib (Axes|Figure or SubFigure), or None, got (Figure|Axes)"
    with pytest.raises(TypeError, match=rule):
        CALLS[name](False, **{place: other})


# Places


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("name", CALLS)
def test_texts_have_their_room_at_five_inches(name: str, long: bool) -> None:
    assert crowded(at_five_inches(name, long, title=NAME if long else None)) == []


def test_texts_without_room_are_found() -> None:
    """The test above can fail."""
    figure = Figure(figsize=(5, 3))
    left, right = figure.subplots(1, 2)
    left.set_title("a title that is too long for its panel")
    right.set_title("and another of such a length")
    right.set_yticks([])
    left.set_xticks([0, 5], ["shown", "outside of the axes"])
    left.set_xlim(0, 1)
    figure.text(-0.1, 0.5, "outside")
    told = crowded(figure)
    assert "'outside' leaves the figure" in told
    assert "'a title that is too long for its panel' and 'and another of such a length' overlap" in told
    assert not any("outside of the axes" in one for one in told)
    left.set_title("short")
    figure.texts[0].set_x(0.5)
    assert crowded(figure) == []


@pytest.mark.parametrize("name", CALLS)
def test_a_part_of_a_figure_is_drawn_on_and_the_rest_left(name: str) -> None:
    figure = Figure(figsize=(12, 7), layout="constrained")
    left, right = figure.subfigures(1, 2)
    other = left.subplots()
    place: dict[str, Any] = {"ax": right.subplots()} if name in OF_ONE_AXES else {"fig": right}
    assert CALLS[name](False, **place) is figure
    assert left.axes == [other]
    assert not other.has_data()
    assert right.axes
    assert crowded(figure) == []
    assert figure.get_size_inches().tolist() == [12, 7]


@pytest.mark.parametrize("name", CALLS)
def test_pyplots_figures_stay_open(name: str) -> None:
    opened, other = plt.figure(figsize=(8, 6)), plt.figure()
    try:
        place: dict[str, Any] = {"ax": opened.subplots()} if name in OF_ONE_AXES else {"fig": opened}
        assert CALLS[name](False, **place) is opened
        assert plt.get_fignums() == [opened.number, other.number]
        assert plt.gcf() is other
    finally:
        plt.close("all")


def test_a_figure_without_a_layout_gets_one_and_another_is_kept(images: torch.Tensor) -> None:
    none, tight = Figure(), Figure(layout="tight")
    engine = tight.get_layout_engine()
    for figure in (none, tight):
        vis.show_mask(make_found(), images, fig=figure)
    assert type(none.get_layout_engine()).__name__ == "ConstrainedLayoutEngine"
    assert tight.get_layout_engine() is engine


def test_panels_are_arranged_to_fit(images: torch.Tensor) -> None:
    rows = {}
    for size in ((12, 3), (4, 12)):
        figure = vis.show_targets(make_found(4), make_images(4), fig=Figure(figsize=size))
        figure.draw_without_rendering()
        rows[size] = len({round(ax.get_position().y0, 2) for ax in figure.axes})
    assert rows == {(12, 3): 1, (4, 12): 5}


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_any_backend_draws_them(kind: str, images: torch.Tensor) -> None:
    for place in ({}, {"fig": Figure(figsize=(5, 4))}):
        file = io.BytesIO()
        vis.show_mask(make_found(), images, **place).savefig(file, format=kind)
        assert file.tell() > 1000


# The picture beside the curves


@pytest.mark.parametrize("laid_out", [False, True])
def test_curves_with_images_have_the_mask_beside_them(images: torch.Tensor, laid_out: bool) -> None:
    found = make_found()
    figure = Figure(figsize=(7, 4), layout="constrained" if laid_out else None)
    axes = figure.subplots(1, 2)
    vis.show_curves(found, images, 1, ax=axes[0])
    figure.draw_without_rendering()
    curves, other, beside = figure.axes
    assert (curves, other) == tuple(axes)
    expected = picture(vis.show_mask(found, images, 1).axes[1])
    np.testing.assert_array_equal(picture(beside), expected)
    assert beside.get_title() == "a* = 15 %"
    places = [ax.get_window_extent() for ax in (curves, beside, other)]
    assert not overlap(places)
    assert places[0].x1 < places[1].x0 < places[2].x0


def test_curves_with_images_of_axes_that_are_in_no_grid(images: torch.Tensor) -> None:
    figure = Figure(figsize=(7, 4))
    ax = figure.add_axes((0.1, 0.2, 0.8, 0.7))
    vis.show_curves(make_found(), images, ax=ax, title="a title")
    figure.draw_without_rendering()
    _, beside = figure.axes
    assert ax.get_position().x1 < beside.get_position().x0 < beside.get_position().x1 == pytest.approx(0.9)
    assert ax.get_legend() is not None


def test_curves_without_images_are_alone() -> None:
    assert len(vis.show_curves(make_found()).axes) == len(vis.show_curves(make_found(), None, 1).axes) == 1


def test_curves_of_what_is_no_image_take_none(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="show_curves draws the scores of any, without images"):
        vis.show_curves(make_channels(), images)
    with pytest.raises(TypeError, match=r"images must be a tensor \(N, 3, H, W\), or None, got ndarray"):
        vis.show_curves(make_found(), images.numpy())


def test_targets_of_some_of_the_rows() -> None:
    shown = {
        index: vis.show_targets(make_found(4), make_images(4), index=index).axes for index in (None, -1, range(1, 3))
    }
    names = {index: [ax.get_title().split("\n")[0] for ax in axes[1:]] for index, axes in shown.items()}
    assert names == {
        None: ["target 1", "target 2", "target 3", "target 4"],
        -1: ["target 4"],
        range(1, 3): ["target 2", "target 3"],
    }


# Style


def pixels(name: str) -> np.ndarray:
    canvas = FigureCanvasAgg(CALLS[name](False))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize("name", ["show_bars", "show_curves", "show_order", "show_robustness", "show_signal"])
def test_settings_of_the_caller_change_no_figure(name: str) -> None:
    """Also those that matplotlib reads when it draws, such as the sizes of ticks."""
    torch.manual_seed(0)
    plain = pixels(name)
    large = {f"{axis}.{part}": 30 for axis in ("xtick", "ytick") for part in ("labelsize", "major.size", "major.pad")}
    wild = {"axes.titlesize": 40, "font.size": 30, "axes.grid": True, "legend.frameon": True, "lines.linewidth": 9}
    with mpl.rc_context(), style.context(["dark_background", large | wild]):
        np.testing.assert_array_equal(pixels(name), plain)


@pytest.mark.parametrize("name", CALLS)
def test_settings_of_the_caller_are_not_changed(name: str) -> None:
    before = dict(mpl.rcParams)
    CALLS[name](False)
    assert dict(mpl.rcParams) == before


def test_settings_of_the_caller_are_not_changed_by_an_error(images: torch.Tensor) -> None:
    before = dict(mpl.rcParams)
    with pytest.raises(IndexError):
        vis.show_mask(make_found(), images, 7)
    assert dict(mpl.rcParams) == before


def test_the_style_sheet_is_in_the_package_and_has_a_name() -> None:
    with style.context(SHEET_NAME):
        assert {key: mpl.rcParams[key] for key in _style.SHEET} == dict(_style.SHEET)
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"visualization/*.mplstyle"' in pyproject


def test_fonts_and_colours_stand_in_the_style_sheet_alone() -> None:
    folder = Path(vis.__file__).parent
    by_hand = re.compile(r"#[0-9a-fA-F]{6}\b|fontsize=\d|labelsize=\d|\"C\d\"|rcParams\[|pyplot as|tab:")
    assert by_hand.search('color="#0072b2"')
    found = {path.name: by_hand.findall(path.read_text(encoding="utf-8")) for path in folder.glob("*.py")}
    found["__init__.py"] = []  # which tells of pyplot
    assert {name: what for name, what in found.items() if what} == {}


CONES = {  # Machado, Oliveira and Fernandes 2009, of linear RGB, for people who lack one kind of cones
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def least_difference(palette: list[str], cones: str) -> float:
    """The CIEDE2000 of the two colours that are most alike to these eyes: 2 is just noticeable side by side."""
    rgb = np.array([colors.to_rgb(colour) for colour in palette])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(CONES[cones]).T).clip(0, 1)
    shown = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(shown[None])[0]
    return min(float(deltaE_ciede2000(one, two)) for k, one in enumerate(lab) for two in lab[k + 1 :])


@pytest.mark.parametrize("cones", CONES)
def test_the_colour_blind_can_tell_the_colours_apart(cones: str) -> None:
    assert least_difference(_style.SHEET["axes.prop_cycle"].by_key()["color"], cones) > 10
    assert least_difference(["#1b8a3d", "#c5283d"], "no middle") < 3  # a green and a red that they cannot


# Tables


def test_a_table_of_many_columns_has_smaller_numbers() -> None:
    sizes = {}
    for width in (4, 9):
        figure = vis.show_robustness(make_robustness(), fig=Figure(figsize=(width, 5)))
        assert crowded(figure) == []
        sizes[width] = figure.axes[0].texts[0].get_fontsize()
    assert sizes[4] < sizes[9] == _style.SMALL


def test_a_picture_beside_the_curves_leaves_the_current_axes_and_knows_its_room() -> None:
    figure = Figure(figsize=(10, 8), layout="constrained")
    nested = figure.add_gridspec(2, 2)[0, 0].subgridspec(1, 2)[0].subgridspec(1, 2)[0]
    ax = figure.add_subplot(nested)
    assert layout.room(ax) == pytest.approx((10 / 8, 4))
    layout.beside(ax, 0.5)
    assert figure.gca() is ax
