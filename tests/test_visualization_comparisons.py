"""The figures that put methods side by side show their own maps, masks and numbers, and leave pyplot alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from matplotlib.text import Text
from torch import Tensor

from captum_extremal import ExtremalMasks
from captum_extremal import visualization as vis
from captum_extremal.metrics import WeightRandomisation, top_masks, weight_randomisation
from captum_extremal.visualization._text import length, wrapped
from figures import HEIGHT, WIDTH, crowded, drawn, make_images, make_result, overlap, picture, titles

AREAS = (0.05, 0.1, 0.2)
LAYERS = ("classifier.1", "features.12", "features.0")


def make_found(images: int = 3, threshold: float = 10.0) -> ExtremalMasks:
    """Masks that grow from the left; the threshold of 10 is reached at 20 %."""
    share = (torch.arange(WIDTH) + 0.5) / WIDTH
    masks = ((torch.tensor(AREAS)[:, None] - share) * 40).sigmoid().view(1, 3, 1, 1, WIDTH)
    masks = masks.expand(images, -1, -1, HEIGHT, -1)
    return make_result(masks, AREAS, [2.0, 8.0, 11.0], [8.0, 2.0, -1.0], threshold=threshold)


def make_run(images: int = 2, layers: tuple[str, ...] = LAYERS, seed: int = 3) -> WeightRandomisation:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(1 + len(layers), images, HEIGHT, WIDTH, generator=generator)
    signed, absolute, alike = torch.rand(3, len(layers), images, generator=generator)
    return WeightRandomisation(layers, maps, signed, absolute, alike)


@pytest.fixture
def images() -> Tensor:
    return make_images(3)


# Figure 2: rows of images


def test_compare_has_a_row_an_image(images):
    attributions = {"one": torch.rand(3, 1, HEIGHT, WIDTH), "another": torch.rand(3, 3, HEIGHT, WIDTH)}
    how = {"method": "heat_map", "outlier_perc": 0}
    figure = drawn(
        vis.compare(make_found(), images, index=[2, 0], attributions=attributions, names=["cat", "dog"], **how)
    )
    assert len(figure.axes) == 8
    assert titles(figure) == ["cat", "extremal, a* = 20 %", "one", "another", "dog", "extremal, a* = 20 %", "", ""]
    unnamed = vis.compare(make_found(), images, index=[2, 0], attributions=attributions)
    assert [unnamed.axes[k].get_title() for k in (0, 4)] == ["image", ""]
    for row, index in ((0, 2), (4, 0)):
        np.testing.assert_allclose(picture(figure.axes[row]), images[index].permute(1, 2, 0), atol=1e-6)
        summed = attributions["another"][index].sum(0)
        np.testing.assert_allclose(picture(figure.axes[row + 3]), summed / summed.max(), rtol=1e-5)
    tops = [ax.get_window_extent().y1 for ax in figure.axes]
    assert min(tops[:4]) > max(tops[4:])


def test_compare_is_brightest_where_a_signed_map_points(images):
    signed = torch.zeros(3, 1, HEIGHT, WIDTH)
    signed[:, :, 3, 4], signed[:, :, 9, 30] = 0.5, -1.0
    figure = drawn(
        vis.compare(make_found(), images, attributions={"signed": signed}, method="heat_map", outlier_perc=0)
    )
    assert divmod(int(picture(figure.axes[2]).argmax()), WIDTH) == (3, 4)


def test_the_highest_values_of_a_map_are_not_called_extremal(images, network, tmp_path):
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    found = top_masks(network, x[:, 0], x, 2, areas=(0.1, 0.4))
    found.save(tmp_path / "found.npz")
    for one in (found, ExtremalMasks.load(tmp_path / "found.npz")):
        assert vis.compare(one, images[:1, :, :16, :16], attributions={}).axes[1].get_title().startswith("highest, ")
        assert vis.compare_masks(one, images[:1, :, :16, :16], masks={}).axes[1].get_title() == "highest\n10 %"


def test_no_word_in_the_settings_changes_a_figure(images):
    found = dataclasses.replace(make_found(), settings=make_found().settings | {"masks": "of a search"})
    assert vis.compare(found, images, attributions={}).axes[1].get_title() == "extremal, a* = 20 %"


def test_compare_of_one_image_wraps_its_panels_and_of_several_does_not(images):
    attributions = {f"method {k}": images for k in range(8)}
    lines = {}
    for index in (1, range(3)):
        figure = drawn(vis.compare(make_found(), images, index=index, attributions=attributions))
        lines[index] = len({round(ax.get_window_extent().y1) for ax in figure.axes})
    assert lines == {1: 2, range(3): 3}


def test_long_names_in_rows_do_not_overlap(images):
    names = ["contrastive_excitation_backprop", "meaningful_perturbation", "excitation_backprop"]
    found = make_found(threshold=99.0)  # a* not reached, the longest title of a mask
    cut = {name: getattr(found, name)[..., :HEIGHT] for name in ("masks", "optimal_masks", "agreement")}
    square = dataclasses.replace(found, **cut)
    pictures = images[..., :HEIGHT]
    figure = drawn(vis.compare(square, pictures, index=range(3), attributions=dict.fromkeys(names, pictures)))
    boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    assert not overlap(boxes)
    assert max(box.y1 for box in boxes) <= figure.bbox.y1


def test_names_of_images_stay_over_them(images):
    names = ["a rather long class name, and another, and one more", "contrastive_excitation_backprop", "cat"]
    figure = drawn(vis.compare(make_found(), images, index=range(3), attributions={"a": images}, names=names))
    rows = [figure.axes[3 * row] for row in range(3)]
    assert [ax.get_title().replace("\n", " ").replace("_ ", "_") for ax in rows] == names
    assert not crowded(figure)


def test_compare_of_no_or_wrong_images_is_refused(images):
    attributions = {"a": images}
    with pytest.raises(ValueError, match="index must name at least one image"):
        vis.compare(make_found(), images, index=[], attributions=attributions)
    with pytest.raises(IndexError, match="index must be from -3 to 2, got 3"):
        vis.compare(make_found(), images, index=[0, 3], attributions=attributions)
    with pytest.raises(TypeError, match="index must be an integer, got '01'"):
        vis.compare(make_found(), images, index="01", attributions=attributions)
    with pytest.raises(ValueError, match="names must be 2, one for each image, got 1"):
        vis.compare(make_found(), images, index=[0, 1], attributions=attributions, names=["cat"])


# Figure 6: masks


def test_masks_are_drawn_alike_and_say_their_areas(images):
    other = torch.linspace(0, 1, WIDTH).expand(3, 3, HEIGHT, WIDTH)
    figure = drawn(vis.compare_masks(make_found(), images, index=1, masks={"other": other}, title="cat"))
    assert titles(figure) == ["image", "other\n50 %", "extremal\n5 %", "extremal\n10 %", "extremal\n20 %"]
    assert figure.get_suptitle() == "cat"
    boxed = [ax.get_title() for ax in figure.axes if ax.title.get_bbox_patch() is not None]
    assert boxed == ["extremal\n20 %"]
    rgb = images[1].permute(1, 2, 0).double().numpy()
    hidden = picture(figure.axes[1])[:, 0]  # where the other mask is 0
    for column, mask in ((1, other[1, 0, 0]), (2, make_found().masks[1, 0, 0, 0])):
        kept = mask.double().numpy()[None, :, None]
        dark = 0.28 * (rgb @ [0.299, 0.587, 0.114])[..., None]
        np.testing.assert_allclose(picture(figure.axes[column]), kept * rgb + (1 - kept) * dark, atol=1e-6)
    assert hidden.max() < 0.29


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda x: x, TypeError, "masks must be a dict of names and tensors, got Tensor"),
        (lambda x: {"a": x.numpy()}, TypeError, r"masks\['a'\] must be a tensor, got ndarray"),
        (lambda x: {"a": x[:2]}, ValueError, r"masks\['a'\] must be \(3, C, 24, 40\), got shape \(2, 3, 24, 40\)"),
        (lambda x: {"a": x / 0}, ValueError, r"masks\['a'\] must be finite"),
        (lambda x: {"a": x + 0.1}, ValueError, r"masks\['a'\] must be a mask in \[0, 1\], got values from 0.1 to 1.1"),
        (lambda x: {"b": x, "a": x - 1}, ValueError, r"masks\['a'\] must be a mask in \[0, 1\]"),
    ],
)
def test_what_is_no_mask_is_refused(images, bad, error, message):
    masks = torch.linspace(0, 1, WIDTH).expand(3, 3, HEIGHT, WIDTH)
    with pytest.raises(error, match=message):
        vis.compare_masks(make_found(), images, masks=bad(masks))


# Figure 7: randomisation


def test_randomisation_has_a_row_a_method_and_a_column_a_layer(images):
    runs = {"first": make_run(), "another method": make_run(seed=4)}
    figure = drawn(vis.show_randomisation(runs, images[:2], 1, title="cat"))
    image, *maps = figure.axes
    np.testing.assert_allclose(picture(image), images[1].permute(1, 2, 0), atol=1e-6)
    assert len(maps) == 2 * 4
    assert [ax.get_title() for ax in maps] == ["first\nlearned weights", *LAYERS, "another method", "", "", ""]
    assert figure.get_suptitle() == "cat"
    for row, run in enumerate(runs.values()):
        for step in range(4):
            ax = maps[4 * row + step]
            np.testing.assert_allclose(picture(ax), run.maps[step, 1], rtol=1e-6)
            assert ax.images[0].get_clim() == (0, pytest.approx(float(run.maps[step, 1].max())))
            alike = [] if step == 0 else [run.rank_correlation_absolute[step - 1, 1], run.ssim[step - 1, 1]]
            assert ax.get_xlabel() == " / ".join(f"{float(value):.2f}" for value in alike)


def test_randomisation_of_many_layers_with_long_names_is_readable(images):
    layers = tuple(f"features.denseblock{k}.denselayer16.conv2" for k in range(12))
    runs = {"contrastive_excitation_backprop": make_run(layers=layers), "b": make_run(layers=layers)}
    figure = drawn(vis.show_randomisation(runs, images[:2]))
    assert titles(figure)[12 + 1] == "features.denseblock11.\ndenselayer16.conv2"
    assert not crowded(figure)
    panels = [ax.get_window_extent() for ax in figure.axes]
    assert max(panel.width for panel in panels) < 1.01 * min(panel.width for panel in panels)
    assert figure.bbox.width < 2 * 14 * min(panel.width for panel in panels)


def test_randomisation_of_signed_and_of_empty_maps(images):
    run = make_run(layers=LAYERS[:2])
    run.maps[0] -= 0.25
    run.maps[2] = 0
    run.rank_correlation_absolute[0] = -0.004
    run.rank_correlation_absolute[1] = torch.nan
    _, signed, positive, empty = drawn(vis.show_randomisation({"a": run}, images[:2], -1)).axes
    largest = float(run.maps[0, -1].abs().max())
    assert signed.images[0].get_clim() == pytest.approx((-largest, largest))
    assert positive.images[0].get_clim()[0] == 0
    assert [text.get_text() for text in empty.texts] == ["all zero"]
    assert empty.get_xlabel() == "none"
    assert positive.get_xlabel().startswith("0.00 / ")


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
def test_randomisation_that_was_made_here(network):
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    run = weight_randomisation(network, Saliency, x, 2)
    figure = drawn(vis.show_randomisation({"gradient": run}, torch.rand(1, 1, 16, 16)))
    assert [ax.get_title() for ax in figure.axes] == ["image", "gradient\nlearned weights", "4", "0"]


def test_bad_randomisations_are_refused(images):
    run, two = make_run(), images[:2]
    with pytest.raises(TypeError, match="found must be a dict of names and WeightRandomisation, got WeightRandomisa"):
        vis.show_randomisation(run, two)
    with pytest.raises(ValueError, match="found must hold at least one method"):
        vis.show_randomisation({}, two)
    with pytest.raises(TypeError, match=r"found\['a'\] must be a WeightRandomisation, got Tensor"):
        vis.show_randomisation({"a": run.maps}, two)
    with pytest.raises(ValueError, match=r"the same layers and images, got 'a' of classifier.1, .* 'b' of c, b, a "):
        vis.show_randomisation({"a": run, "b": make_run(layers=("c", "b", "a"))}, two)
    with pytest.raises(ValueError, match=r"the same layers and images.*\(4, 2, 24, 40\), .*maps \(4, 1, 24, 40\)"):
        vis.show_randomisation({"a": run, "b": make_run(images=1)}, two)
    with pytest.raises(ValueError, match=r"images must be \(2, 3, H, W\)"):
        vis.show_randomisation({"a": run}, images)
    with pytest.raises(IndexError, match="index must be from -2 to 1, got 2"):
        vis.show_randomisation({"a": run}, two, 2)
    with pytest.raises(TypeError, match="index must be an integer"):
        vis.show_randomisation({"a": run}, two, 0.0)


# Bars


def test_bars_are_means_with_intervals():
    values = {"ours": (0.9, 0.8, 0.95), "theirs": (0.4, 0.25, 0.6), "neither": (0.0, 0.0, 0.0)}
    figure = drawn(vis.show_bars(values, ylabel="pointing game"))
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.patches] == [0.9, 0.4, 0.0]
    assert [list(line.get_xdata()) for line in ax.lines[:3]] == [[0.8, 0.95], [0.25, 0.6], [0.0, 0.0]]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(values)
    assert [text.get_text() for text in ax.texts] == ["0.90", "0.40", "0"]
    assert ax.get_xlabel() == "pointing game"
    assert ax.yaxis_inverted()  # the first at the top
    low, high = ax.get_xlim()
    assert low == 0
    assert high > 0.95


@pytest.mark.parametrize(
    "values",
    [
        {"a": (-0.4, -0.6, -0.3), "b": (0.2, 0.1, 0.3)},
        {"a": (-0.4, -0.6, -0.3)},
        {"a": (0.0, 0.0, 0.0)},
        {"a": (1e-7, 0.0, 2e-7)},
        {"a": (3e6, 1e6, 4e6)},
        {"a": (0.5, 0.6, 0.7)},  # an interval of percentiles need not hold the mean
    ],
)
def test_bars_of_any_size_and_sign_lie_within_the_axes(values):
    (ax,) = drawn(vis.show_bars(values, ylabel="score")).axes
    low, high = ax.get_xlim()
    assert low <= 0 <= high
    assert low < high
    for text, numbers in zip(ax.texts, values.values()):
        assert low <= min(numbers)
        assert max(numbers) <= high
        box, place = text.get_window_extent(), ax.get_window_extent()
        assert place.x0 <= box.x0 + 1
        assert box.x1 <= place.x1 + 1


def test_names_of_bars_do_not_overlap_and_stay_in_the_figure():
    names = ["contrastive_excitation_backprop layer=features.12.expand3x3", "extremal", "meaningful_perturbation"]
    figure = drawn(vis.show_bars(dict.fromkeys(names, (0.5, 0.4, 0.6)), ylabel="energy", title="a title"))
    assert not crowded(figure)
    assert figure.axes[0].get_window_extent().width > 250  # pixels, of 100 an inch


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([("a", 1, 0, 2)], TypeError, r"values must be a dict of names and \(mean, low, high\), got list"),
        ({}, ValueError, "values must hold at least one bar"),
        ({"a": 0.5}, TypeError, r"values\['a'\] must be \(mean, low, high\), got 0.5"),
        ({"a": (0.5, 0.4)}, ValueError, r"values\['a'\] must be \(mean, low, high\), got 2 numbers"),
        ({"a": (0.5, "0.4", 0.6)}, TypeError, r"values\['a'\]'s low must be a number"),
        ({"a": (float("nan"), 0.4, 0.6)}, ValueError, r"values\['a'\]'s mean must be finite"),
        ({"a": (0.5, 0.6, 0.4)}, ValueError, r"values\['a'\]'s low must be at most its high, got 0.6 and 0.4"),
    ],
)
def test_bad_bars_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        vis.show_bars(values, ylabel="score")


def test_a_label_that_is_none_is_refused():
    with pytest.raises(TypeError, match="ylabel must be a string, got None"):
        vis.show_bars({"a": (0.5, 0.4, 0.6)}, ylabel=None)


def test_lines_end_at_spaces_and_after_signs_and_fit():
    def broken(text, longest):
        lines = wrapped(text, length(longest, 10) + 0.01, 10).split("\n")
        assert max(length(line, 10) for line in lines) <= length(longest, 10) + 0.01
        return lines

    assert broken("excitation_backprop", "excitation_") == ["excitation_", "backprop"]
    assert broken("a short name", "a short name") == ["a short name"]
    assert broken("a_ b_c", "a_ b_") == ["a_ b_", "c"]
    assert broken("features.12.expand3x3", "features.12.") == ["features.12.", "expand3x3"]
    assert broken("the area a* = 20 %", "the area a* = 20") == ["the area", "a* = 20 %"]
    assert broken("score 1.5, clean 10.0", "score 1.5, clean") == ["score 1.5,", "clean 10.0"]
    assert broken("iiiiiiii WWWW", "iiiiiiii") == ["iiiiiiii", "WW", "WW"]  # measured, not counted
    assert broken("a Wire-haired dog", "a Wire-") == ["a Wire-", "haired", "dog"]
    assert wrapped("one\ntwo", 5.0, 10) == "one\ntwo"
    assert wrapped("ab", 0.0, 10) == "a\nb"


# Text from outside


def test_names_and_titles_are_drawn_literally(images):
    name = r"$\frac{ costs 5$"  # as a formula it cannot be parsed
    found, run = make_found(), make_run(images=3)
    runs, values = {name: dataclasses.replace(run, layers=(name, *LAYERS[1:]))}, {name: (0.5, 0.4, 0.6)}
    channels = dataclasses.replace(found, masks=torch.rand(3, 3, 7))
    heat_maps = torch.rand(3, 6, 10)
    for figure in (
        vis.show_mask(found, images, title=name),
        vis.show_targets(found, images, names=[name] * 3, title=name),
        vis.show_sweep(found, images, title=name),
        vis.show_order(found, images, title=name),
        vis.show_curves(found, title=name),
        vis.compare(found, images, attributions={name: images}, names=[name], title=name),
        vis.compare_masks(found, images, masks={name: images}, title=name),
        vis.show_channels(channels, images, heat_maps=heat_maps, title=name),
        vis.show_inversions(images, heat_maps, images, images, titles=[name] * 3, title=name),
        vis.show_class_channel(images[0], images, title=name),
        vis.show_randomisation(runs, images, title=name),
        vis.show_bars(values, ylabel=name),
    ):
        texts = [text for text in drawn(figure).findobj(Text) if "5$" in text.get_text()]
        assert texts
        assert not any(text.get_parse_math() for text in texts)
