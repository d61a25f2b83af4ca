"""The figures show the result's own numbers and masks, and leave pyplot alone."""

from __future__ import annotations

import dataclasses
import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from by_hand import optimum_by_hand
from captum_extremal import visualization as vis
from captum_extremal.explorer import enclosing_level
from captum_extremal.visualization._arguments import view
from figures import DELETE, HEIGHT, WIDTH, drawn, make_images, make_result, overlap, picture, titles

AREAS = (0.05, 0.1, 0.2, 0.4)
HYBRID = {"kept": 1.0, "removed": -1.0}


def make_found(images=2, areas=AREAS, *, scores=(2.0, 8.0, 11.0, 14.0), **how):
    """Nested soft blobs, with scores that grow with the area: image 0 reaches its clean score at 20 %."""
    rank = torch.rand(images, 1, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    distance = ((rows - 8) ** 2 + (columns - 12) ** 2).float()
    order = (distance + 0.01 * rank).flatten(3).argsort(-1).argsort(-1).view_as(rank) / (HEIGHT * WIDTH)
    masks = ((torch.tensor(areas).view(1, -1, 1, 1, 1) - order) * 40).sigmoid()
    removed = [9.0, 6.0, 3.0, 0.5][: len(areas)] if len(areas) <= 4 else list(scores)
    return make_result(masks, areas, list(scores)[: len(areas)], removed, **how)


@pytest.fixture
def images():
    return make_images()


def test_mask_shows_what_is_kept_and_darkens_the_rest(images):
    found = make_found()
    figure = drawn(vis.show_mask(found, images, 1, title="a name"))
    left, right = figure.axes
    assert figure.get_suptitle() == "a name"
    assert titles(figure) == ["image", "a* = 20 %\nscore 11.0, clean 10.0"]
    np.testing.assert_allclose(picture(left), images[1].permute(1, 2, 0), atol=1e-6)
    shown, mask = picture(right), found.masks[1, 2, 0].numpy()
    np.testing.assert_allclose(shown[mask > 0.999], picture(left)[mask > 0.999], atol=2e-3)
    assert shown[mask < 1e-3].max() < 0.35
    assert np.ptp(shown[mask < 1e-3], axis=-1).max() < 2e-3  # grey
    assert len(right.collections) == 2  # the outline: light on dark


def of_layer(found):
    return dataclasses.replace(found, settings=found.settings | {"layer": "2 ReLU"})


def make_layer_found():
    """Masks of 2 x 4 positions of a layer that keep the left half."""
    masks = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(2, 1, 1, 2, 4)
    return of_layer(make_result(masks, (0.5,), [11.0], [1.0]))


def test_a_layers_mask_is_resized_to_the_image(images):
    figure = drawn(vis.show_mask(make_layer_found(), images))
    left, right = figure.axes
    image, shown = picture(left), picture(right)
    hidden = 0.28 * (image @ [0.299, 0.587, 0.114])[..., None]
    # The centres of the four columns are at 4.5, 14.5, 24.5 and 34.5 of 40: linear between the second and the third.
    kept = np.clip((24.5 - np.arange(WIDTH)) / 10, 0, 1)[:, None]
    np.testing.assert_allclose(shown, kept * image + (1 - kept) * hidden, atol=1e-5)
    assert titles(figure) == ["image", "a* = 50 %\nscore 11.0, clean 10.0"]
    assert len(right.collections) == 2  # the outline


@pytest.mark.parametrize("show", [vis.show_targets, vis.show_sweep, vis.show_order])
def test_every_figure_of_masks_takes_a_layers(images, show):
    assert drawn(show(make_layer_found(), images)).axes[0].images[0].get_array().shape[:2] == (HEIGHT, WIDTH)


def test_all_that_is_drawn_of_a_layer_has_the_images_size(images):
    """The masks of the areas, that of a* between them, and what the searches agree on."""
    areas, best = (0.25, 0.5), torch.rand(2, 1, 3, 5)
    candidate = optimum_by_hand(best, [0.375] * 2, [10.5] * 2, [4.0] * 2)
    found = of_layer(
        make_result(torch.rand(2, 2, 1, 3, 5), areas, [2.0, 11.0], [9.0, 1.0], others=[candidate], searches=3)
    )
    seen = view(found, images, 1, 0)
    assert [panel.shown.area for panel in seen.panels] == [0.25, 0.375, 0.5]
    masks, shares = (interpolate(t[1], (HEIGHT, WIDTH), mode="bilinear")[:, 0] for t in (found.masks, found.agreement))
    for k, panel in enumerate(seen.listed):
        np.testing.assert_allclose(panel.mask, masks[k], atol=1e-6)
        np.testing.assert_allclose(panel.shares, shares[k], atol=1e-6)
    np.testing.assert_allclose(seen.best.mask, interpolate(best, (HEIGHT, WIDTH), mode="bilinear")[1, 0], atol=1e-6)
    for panel in seen.panels:
        assert panel.binary.sum() == round(panel.shown.area * HEIGHT * WIDTH)
        assert panel.mask[panel.binary].min() >= panel.mask[~panel.binary].max()
    drawn(vis.show_sweep(found, images, 1, agreement=True))


def test_a_layers_a_star_alone_is_drawn(images):
    best = optimum_by_hand(torch.rand(2, 1, 3, 5), [0.4] * 2, [11.0] * 2, [3.0] * 2)
    found = of_layer(make_result(torch.zeros(2, 0, 1, 3, 5), [], [], [], others=[best]))
    figure = drawn(vis.show_mask(found, images))
    assert picture(figure.axes[1]).shape[:2] == (HEIGHT, WIDTH)
    assert "a* = 40 %" in figure.axes[1].get_title()


def test_outline_encloses_the_area():
    found = make_found()
    binary = found.binary_masks()[0, :, 0].numpy()
    for mask, inside in zip(found.masks[0, :, 0].double().numpy(), binary):
        values, level = enclosing_level(mask, inside)
        np.testing.assert_array_equal(values > level, inside)
    # A plateau has no level of that area.
    order = np.arange(16).reshape(4, 4)
    flat, inside = (order < 6).astype(float), order < 5
    values, level = enclosing_level(flat, inside)
    np.testing.assert_array_equal(values > level, inside)


def test_mask_says_when_a_star_was_not_reached(images):
    figure = vis.show_mask(make_found(threshold=99.0), images)
    # These masks have their areas to a thousandth only.
    assert figure.axes[1].get_title() == "40.1 %, a* not reached\nscore 14.0, clean 10.0"


def test_mask_of_a_deletion_has_the_score_without_it(images):
    figure = vis.show_mask(make_found(game=DELETE, threshold=-4.0), images)
    assert figure.axes[1].get_title() == "a* = 20 %\nwithout it 3.00, clean 10.0"


def test_mask_of_everything_has_no_outline(images):
    found = make_result(torch.ones(2, 1, 1, HEIGHT, WIDTH), [1.0], [10.0], [1.0])
    right = drawn(vis.show_mask(found, images)).axes[1]
    assert not right.collections
    np.testing.assert_allclose(picture(right), images[0].permute(1, 2, 0), atol=1e-6)


def test_flat_mask_has_no_outline(images):
    found = make_found()
    found = dataclasses.replace(found, optimal_masks=0.4 + 0.05 * torch.rand(2, 1, HEIGHT, WIDTH))
    assert not vis.show_mask(found, images).axes[1].collections


def test_sweep_bars_are_the_fractions_of_the_clean_score(images):
    found = make_found()
    figure = drawn(vis.show_sweep(found, images, 0))
    pictures = [ax for ax in figure.axes if ax.images]
    bars = [ax for ax in figure.axes if ax.patches]
    assert len(pictures) == len(bars) == 1 + len(AREAS)
    assert [ax.get_title() for ax in pictures] == ["image", "5 %", "10 %", "20 %", "40 %"]
    heights = [ax.patches[0].get_height() for ax in bars]
    np.testing.assert_allclose(heights, [1.0, 0.2, 0.8, 1.1, 1.25], rtol=1e-6)  # saturated at 1.25
    assert [ax.get_xticklabels()[0].get_text() for ax in bars] == ["1.00", "0.20", "0.80", "1.10", "1.40"]
    boxed = [ax.get_title() for ax in pictures if ax.title.get_bbox_patch() is not None]
    assert boxed == ["20 %"]
    assert "a* = 20 %" in figure.get_supxlabel()


def test_sweep_of_a_deletion_has_the_scores_without_the_region(images):
    figure = vis.show_sweep(make_found(game=DELETE, threshold=-4.0), images)
    heights = [ax.patches[0].get_height() for ax in figure.axes if ax.patches]
    np.testing.assert_allclose(heights, [1.0, 0.9, 0.6, 0.3, 0.05], rtol=1e-6)
    assert "without the region" in figure.get_supxlabel()


def test_sweep_of_negative_scores_is_the_way_from_perturbed_to_clean(images):
    found = make_found(scores=(-9.0, -5.0, -1.0, -0.5), clean=-1.0, perturbed=-9.0)
    figure = vis.show_sweep(found, images)
    heights = [ax.patches[0].get_height() for ax in figure.axes if ax.patches]
    np.testing.assert_allclose(heights, [1.0, 0.0, 0.5, 1.0, 1.0625], rtol=1e-6)
    assert "fully perturbed (0)" in figure.get_supxlabel()


def test_sweep_without_a_scale_and_without_a_star(images):
    found = make_found(scores=[-9.0] * 4, clean=-9.0, perturbed=-8.0, threshold=0.0)
    figure = drawn(vis.show_sweep(found, images))
    assert [ax.patches[0].get_height() for ax in figure.axes if ax.patches] == [1.0, 0, 0, 0, 0]
    assert "a* not reached" in figure.get_supxlabel()
    assert all(ax.title.get_bbox_patch() is None for ax in figure.axes)


def test_sweep_of_many_areas_wraps(images):
    areas = tuple(k / 20 for k in range(1, 20))
    found = make_found(areas=areas, scores=[float(k) for k in range(19)])
    figure = drawn(vis.show_sweep(found, images))
    assert sum(bool(ax.images) for ax in figure.axes) == sum(bool(ax.patches) for ax in figure.axes) == 20
    assert figure.get_size_inches()[0] < 16


def between(found, **known):
    """The same masks, and one of 15 % that is enough, as of a search between the areas."""
    best = optimum_by_hand(found.masks[:, 1], [0.15] * 2, [10.5] * 2, [4.0] * 2, **known)
    return make_found(others=[best])


def test_sweep_has_the_mask_of_a_star_between_the_areas(images):
    figure = drawn(vis.show_sweep(between(make_found()), images))
    pictures = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in pictures] == ["image", "5 %", "10 %", "15 %", "20 %", "40 %"]
    assert [ax.get_title() for ax in pictures if ax.title.get_bbox_patch() is not None] == ["15 %"]
    heights = [ax.patches[0].get_height() for ax in figure.axes if ax.patches]
    np.testing.assert_allclose(heights, [1.0, 0.2, 0.8, 1.05, 1.1, 1.25], rtol=1e-6)
    assert "boxed: a* = 15 %" in figure.get_supxlabel()


def test_curves_mark_a_star_between_the_areas():
    ax = drawn(vis.show_curves(between(make_found()))).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["a* = 15 %"].get_xdata(), 15, rtol=1e-6)
    diamonds = [line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(diamonds, [[15, 10.5], [15, 4]], rtol=1e-6)


def test_figures_of_vacuous_images_say_so(images):
    found = make_found(perturbed=12.0)
    mask, title = drawn(vis.show_mask(found, images)).axes[1], "a* = 0 %, nothing needed"
    assert mask.get_title() == f"{title}\nscore 12.0, clean 10.0"
    assert picture(mask).max() < 0.35
    sweep, curves = drawn(vis.show_sweep(found, images)), drawn(vis.show_curves(found))
    assert sweep.get_supxlabel().endswith(title)
    assert "boxed" not in sweep.get_supxlabel()
    assert len([ax for ax in sweep.axes if ax.images]) == 1 + len(AREAS)
    assert title in [line.get_label() for line in curves.axes[0].lines]


def test_sweep_shows_how_far_searches_agree(images):
    found = between(make_found(), agreement=[0.5, 0.25])
    found = dataclasses.replace(
        found, agreement=(3 * torch.rand(found.masks.shape)).round() / 3, agreement_score=torch.rand(2, len(AREAS))
    )
    figure = drawn(vis.show_sweep(found, images, 1, agreement=True))
    rows = [ax for ax in figure.axes if ax.images][6:]
    scores = [f"agree {score:.2f}" for score in found.agreement_score[1].tolist()]
    assert [ax.get_title() for ax in rows] == [*scores[:2], "agree 0.25", *scores[2:]]
    assert rows[2].texts[0].get_text() == "no map"  # between the areas
    shares, shown = found.agreement[1, 0, 0].numpy(), picture(rows[0])
    grey = picture(vis.show_order(found, images, 1).axes[0])
    faded = (0.35 + 0.4 * grey)[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(shown[shares == 0], faded[shares == 0], atol=1e-6)
    all_keep = 0.85 * np.array(mpl.colormaps["viridis"](1.0)[:3]) + 0.15 * faded
    np.testing.assert_allclose(shown[shares == 1], all_keep[shares == 1], atol=1e-6)
    legend = [ax for ax in figure.axes if "searches" in ax.get_title()]
    assert len(legend) == 1
    assert not overlap([ax.title.get_window_extent() for ax in [*rows, *legend]])


def test_agreement_that_is_not_known_is_no_row(images):
    with pytest.raises(ValueError, match="found must know how far several searches agree"):
        vis.show_sweep(make_found(), images, agreement=True)


@pytest.mark.parametrize(
    "figure",
    [vis.show_sweep, vis.show_order, lambda found, images: vis.show_curves(found)],
    ids=["sweep", "order", "curves"],
)
def test_figures_of_a_sweep_need_one(images, figure):
    with pytest.raises(
        ValueError, match=r"found must hold masks of areas, got a\* alone: search with areas=\[\.\.\.\]"
    ):
        figure(alone(), images)


def alone():
    """a* of 20 % without masks of areas."""
    found = make_found()
    best = optimum_by_hand(found.masks[:, 2], [0.2] * 2, [11.0] * 2, [3.0] * 2)
    return make_result(found.masks[:, :0], [], [], [], others=[best])


def test_figures_of_a_star_alone(images):
    for figure in (
        vis.show_mask(alone(), images),
        vis.show_targets(alone(), images),
        vis.compare(alone(), images, attributions={"a": images}),
        vis.compare_masks(alone(), images, masks={"a": images}),
    ):
        assert any("20 %" in title for title in titles(drawn(figure)))


def test_curves_are_the_scores(images):
    found = make_found()
    figure = drawn(vis.show_curves(found, None, 1, title="a name"))
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines}
    assert (ax.get_xlabel(), ax.get_xscale()) == ("area of the mask, %", "linear")
    percents = 100 * np.array(AREAS)
    kept, removed = lines["only the mask's region"], lines["all but the mask's region"]
    np.testing.assert_allclose(kept.get_xdata(), percents, rtol=1e-6)
    np.testing.assert_allclose(kept.get_ydata(), [2, 8, 11, 14])
    np.testing.assert_allclose(removed.get_ydata(), [9, 6, 3, 0.5])
    assert set(lines["whole image"].get_ydata()) == {10.0}
    assert set(lines["fully perturbed"].get_ydata()) == {1.0}
    np.testing.assert_allclose(lines["a* = 20 %"].get_xdata(), 20, rtol=1e-6)
    assert ax.get_title() == "a name"
    assert len(figure.legends[0].get_texts()) == 5


def test_curves_have_a_line_at_what_is_enough():
    """Where it is neither the clean score nor that of the fully perturbed image, which have lines of their own."""

    def enough(**how):
        lines = drawn(vis.show_curves(make_found(**how))).axes[0].lines
        return {line.get_label(): set(line.get_ydata()) for line in lines if str(line.get_label()).startswith("enough")}

    assert enough() == {}
    assert enough(threshold=7.5) == {"enough: 7.50": {7.5}}
    assert enough(threshold=-4.0, game=DELETE) == {"enough: 4.00": {4.0}}
    assert enough(threshold=-1.0, game=DELETE) == {}  # the score of the fully perturbed image
    assert enough(threshold=9.0, game=HYBRID) == {"enough: kept \N{MINUS SIGN} removed = 9.00": set()}
    assert enough(threshold=9.0, game={"kept": 2.0, "removed": 0.0}) == {"enough: 4.50": {4.5}}


def test_sweep_has_a_line_at_what_is_enough(images):
    for threshold, heights in ((10.0, []), (7.5, [0.75]), (20.0, [])):
        figure = drawn(vis.show_sweep(make_found(threshold=threshold), images))
        dotted = [list(line.get_ydata()) for ax in figure.axes for line in ax.lines if line.get_linestyle() == ":"]
        assert dotted == [[height] * 2 for height in heights] * 5
        assert ("dotted: enough" in figure.get_supxlabel()) is bool(heights)


def test_bars_that_are_cut_have_a_tip(images):
    figure = drawn(vis.show_sweep(make_found(), images))
    tips = [bool([line for line in ax.lines if line.get_marker() == "^"]) for ax in figure.axes if ax.patches]
    assert tips == [False, False, False, False, True]  # of scores 10 (the image), 2, 8, 11 and 14, of 10


def test_the_mask_tells_its_game_and_whether_it_is_grey(images):
    def told(found):
        return drawn(vis.show_mask(found, images)).axes[1]

    assert told(make_found()).get_xlabel().startswith("game: keep the score (preserve)")
    assert (
        "game: lose the score (delete)\nbright is what is removed"
        in told(make_found(game=DELETE, threshold=-4.0)).get_xlabel()
    )
    hybrid = told(make_found(game=HYBRID, threshold=8.0))
    assert hybrid.get_xlabel().startswith("game: keep and lose the score (hybrid)")
    assert hybrid.get_title() == "a* = 20 %\nscore 11.0, without it 3.00, clean 10.0"
    grey = torch.full((2, 1, 1, HEIGHT, WIDTH), 0.2)
    assert "grey mask: binariness 0.20" in told(make_result(grey, [0.2], [11.0], [3.0])).get_xlabel()
    binary = torch.zeros(2, 1, 1, HEIGHT, WIDTH)
    binary[..., : WIDTH // 5] = 1
    assert "grey" not in told(make_result(binary, [0.2], [11.0], [3.0])).get_xlabel()


@pytest.mark.parametrize(
    "title", ["Ba$$in", "R$^$", "50 % {x_1}", "\\alpha_{", "a & b", "#1 ~ ^", "$a$\n$b$", "\U0001f600"]
)
@pytest.mark.parametrize("usetex", [False, True])
def test_titles_are_drawn_literally(images, title, usetex):
    with mpl.rc_context({"text.usetex": usetex}), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = vis.show_mask(make_found(), images, title=title)
        text = figure._suptitle
        assert (text.get_text(), text.get_usetex(), text.get_parse_math()) == (title, False, False)
    figure = vis.show_mask(make_found(), images, title=title)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(figure)


def test_signs_that_no_font_has_are_drawn_as_their_codes(images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = drawn(vis.show_mask(make_found(), images, title="caf\udce9 \u732b\x07\tx"))
    assert figure.get_suptitle() == r"caf\udce9 \u732b\x07 x"


def test_no_text_leaves_a_small_figure(images):
    """The caption of few areas is as long as that of many."""
    two = make_found(areas=(0.2, 0.5), scores=(2.0, 3.0), threshold=7.5)
    alone = make_found(areas=(0.5,), scores=(20.0,), game=DELETE, threshold=-5.0, perturbed=-3.0, clean=-1.0)
    for found in (two, alone, make_found(areas=(0.5,), scores=(0.0,), clean=0.0, perturbed=0.0)):
        figure = drawn(vis.show_sweep(found, images))
        box, room = figure._supxlabel.get_window_extent(), figure.bbox
        assert room.x0 <= box.x0
        assert box.x1 <= room.x1


def test_a_star_of_zero_is_not_boxed(images):
    axes = drawn(vis.compare(make_found(perturbed=12.0), images, attributions={"a": images})).axes
    assert axes[1].get_title().endswith("nothing needed")
    assert axes[1].title.get_bbox_patch() is None
    boxed = drawn(vis.compare(make_found(), images, attributions={"a": images})).axes[1]
    assert boxed.title.get_bbox_patch() is not None


def test_pixels_that_only_fill_up_an_area_are_pale(images):
    masks = torch.zeros(2, 1, 1, HEIGHT, WIDTH)
    masks[..., : HEIGHT // 2, :] = 1  # half of the image, of an area of 75 %
    masks[..., HEIGHT // 2 :, :] = torch.linspace(0.4, 0, HEIGHT // 2)[:, None]
    found = make_result(masks, [0.75], [11.0], [3.0])
    ax = drawn(vis.show_order(found, images)).axes[0]
    pale = ~np.ma.getmaskarray(ax.images[2].get_array())
    assert pale.any(1).tolist() == [False] * 12 + [True] * 6 + [False] * 6
    assert ax.get_xlabel() == "pale: kept by less than half"
    masks[..., HEIGHT // 2 :, :] = torch.linspace(0.9, 0.6, HEIGHT // 2)[:, None]
    assert drawn(vis.show_order(make_result(masks, [0.75], [11.0], [3.0]), images)).axes[0].get_xlabel() == ""


def test_curves_say_when_a_star_was_not_reached():
    labels = [line.get_label() for line in vis.show_curves(make_found(threshold=99.0)).axes[0].lines]
    assert "a* not reached" in labels


def test_order_has_the_area_of_entry_of_each_pixel(images):
    found = make_found()
    figure = drawn(vis.show_order(found, images, 0))
    ax, bar = figure.axes
    step = ax.images[1].get_array()
    entry = found.order_of_entry()[0, 0].numpy()
    outside = ~found.binary_masks()[0].any(0)[0].numpy()
    np.testing.assert_array_equal(np.ma.getmaskarray(step), outside)
    np.testing.assert_allclose(np.array(AREAS)[step.compressed()], entry[~outside], rtol=1e-6)
    assert outside.mean() == pytest.approx(0.6, abs=0.01)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0 %", "5 %", "10 %", "20 %", "40 %"]
    assert len(set(ax.images[1].get_cmap().colors.round(3)[:, 0])) == len(AREAS)


def test_order_up_to_the_whole_image_leaves_nothing_out(images):
    found = make_found(areas=(0.5, 1.0), scores=(1.0, 10.0))
    step = vis.show_order(found, images).axes[0].images[1].get_array()
    assert not np.ma.getmaskarray(step).any()
    assert (np.asarray(step) == 0).mean() == pytest.approx(0.5)


def test_targets_have_a_panel_each(images):
    repeated = images[:1].repeat(2, 1, 1, 1)
    figure = drawn(vis.show_targets(make_found(), repeated, names=["cat", "dog"]))
    assert titles(figure) == ["image", "cat\na* = 20 %", "dog\na* = 20 %"]
    assert titles(vis.show_targets(make_found(), repeated))[1].startswith("target 1")


def test_compare_draws_each_attribution_and_says_which_are_empty(images):
    attributions = {
        "gradient": torch.randn(2, 3, HEIGHT, WIDTH) * 1e-9,  # as small as a saturated network's
        "one channel": torch.rand(2, 1, HEIGHT, WIDTH),
        "nothing": torch.zeros(2, 3, HEIGHT, WIDTH),
    }
    figure = drawn(vis.compare(make_found(), images, attributions=attributions, method="heat_map", outlier_perc=0))
    assert titles(figure) == ["image", "extremal, a* = 20 %", "gradient", "one channel", "nothing"]
    summed = attributions["gradient"][0].sum(0).clamp(min=0)
    np.testing.assert_allclose(picture(figure.axes[2]), summed / summed.max(), rtol=1e-5)
    assert [text.get_text() for text in figure.axes[4].texts] == ["all zero"]


def test_compare_keeps_signs_apart(images):
    attributions = {"negative only": -torch.rand(2, 1, HEIGHT, WIDTH)}
    figure = vis.compare(make_found(), images, attributions=attributions, sign="positive")
    assert [text.get_text() for text in figure.axes[2].texts] == ["no positive values"]
    figure = drawn(vis.compare(make_found(), images, attributions=attributions, sign="all"))
    assert len(figure.axes[2].images) == 2  # the heat map over the grey image


def test_panels_have_the_proportions_of_the_image(images):
    tall = make_found()
    turned = {name: getattr(tall, name).transpose(-2, -1) for name in ("masks", "optimal_masks", "agreement")}
    tall = dataclasses.replace(tall, **turned)
    for found, pictures in ((make_found(), images), (tall, images.transpose(2, 3))):
        for figure in (
            vis.show_mask(found, pictures),
            vis.show_sweep(found, pictures),
            vis.compare(found, pictures, attributions={"a": pictures}),
        ):
            for ax in drawn(figure).axes:
                if ax.images:
                    box = ax.get_window_extent()
                    rows, columns = ax.images[0].get_array().shape[:2]
                    assert box.height / box.width == pytest.approx(rows / columns, rel=0.01)
                    assert box.height * box.width > 60**2  # large enough to see


@pytest.mark.parametrize("names", [["cat", "dog"], ["a rather long class name", "another name as long"]])
def test_titles_do_not_overlap(images, names):
    figures = [
        vis.show_mask(make_found(threshold=99.0), images),
        vis.show_sweep(make_found(), images, title="a title"),
        vis.show_targets(make_found(threshold=99.0), images, names=names),
        vis.compare(make_found(threshold=99.0), images, attributions=dict.fromkeys(names, images)),
    ]
    for figure in figures:
        drawn(figure)
        boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
        assert not overlap(boxes)
        for box in boxes:
            assert box.x0 >= 0
            assert box.y1 <= figure.bbox.y1


def test_inputs_that_were_a_tuple(images):
    found = make_found()
    other = torch.rand(2, len(AREAS), 1, 9, 9)
    parts = {"masks": other, "agreement": other, "optimal_masks": other[:, 0]}
    pair = dataclasses.replace(found, **{name: (part, getattr(found, name)) for name, part in parts.items()})
    shown = picture(vis.show_mask(pair, images, input_index=1).axes[1])
    np.testing.assert_array_equal(shown, picture(vis.show_mask(found, images).axes[1]))
    with pytest.raises(ValueError, match=r"images must be of the masks' size, \(2, 3, 9, 9\)"):
        vis.show_mask(pair, images)
    with pytest.raises(ValueError, match="input_index must be below 2, the number of masks, got 2"):
        vis.show_mask(pair, images, input_index=2)


def test_grey_and_half_precision_images(images):
    grey = images[:, :1].half().requires_grad_()
    shown = picture(vis.show_mask(make_found(), grey).axes[0])
    assert shown.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(shown[..., 0], shown[..., 2])


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda x: x.numpy(), TypeError, "images must be a tensor, got ndarray"),
        (lambda x: (x * 255).byte(), TypeError, r"images must be a floating tensor in \[0, 1\], got torch.uint8"),
        (lambda x: x[:1], ValueError, r"images must be of the masks' size, .*got shape \(1, 3, 24, 40\)"),
        (lambda x: x.transpose(2, 3), ValueError, r"images must be of the masks' size, .*got shape \(2, 3, 40, 24\)"),
        (lambda x: x.permute(0, 2, 3, 1), ValueError, "images must be of the masks' size"),
        (lambda x: x * 4 - 2, ValueError, r"images must be in \[0, 1\], for display"),
        (lambda x: x * float("nan"), ValueError, r"images must be in \[0, 1\]"),
    ],
)
@pytest.mark.parametrize("show", [vis.show_mask, vis.show_sweep, vis.show_order, vis.show_targets])
def test_bad_images(images, show, bad, error, message):
    with pytest.raises(error, match=message):
        show(make_found(), bad(images))


def test_bad_arguments(images):
    found = make_found()
    with pytest.raises(TypeError, match=r"found must be an ExtremalMasks, .* got Tensor"):
        vis.show_mask(found.masks, images)
    with pytest.raises(TypeError, match="found must be an ExtremalMasks"):
        vis.show_curves(None)
    with pytest.raises(IndexError, match="index must be below 2, got 2"):
        vis.show_sweep(found, images, 2)
    with pytest.raises(TypeError, match="index must be an integer"):
        vis.show_curves(found, None, 0.5)
    with pytest.raises(ValueError, match="names must be 2, one for each target, got 1"):
        vis.show_targets(found, images, names=["cat"])
    with pytest.raises(TypeError, match="names must be a sequence of strings, got 'ab'"):
        vis.show_targets(found, images, names="ab")


def test_bad_attributions(images):
    found = make_found()
    with pytest.raises(TypeError, match="attributions must be a dict of names and tensors, got Tensor"):
        vis.compare(found, images, attributions=images)
    with pytest.raises(TypeError, match=r"attributions\['a'\] must be a tensor, got ndarray"):
        vis.compare(found, images, attributions={"a": images.numpy()})
    with pytest.raises(ValueError, match=r"attributions\['a'\] must be \(2, C, 24, 40\), got .*interpolate"):
        vis.compare(found, images, attributions={"a": torch.rand(2, 3, 6, 10)})
    with pytest.raises(ValueError, match=r"attributions\['a'\] must be finite"):
        vis.compare(found, images, attributions={"a": images / 0})
    with pytest.raises(ValueError, match="method must be one of"):
        vis.compare(found, images, attributions={"a": images}, method="masked_image")
    with pytest.raises(ValueError, match="sign must be one of"):
        vis.compare(found, images, attributions={"a": images}, sign="both")


def test_a_box_is_framed_in_both_pictures(images):
    figure = vis.show_mask(make_found(), images, box=torch.tensor([3.0, 4.0, 12.0, 10.0]))
    for ax in figure.axes:
        under, over = ax.patches  # light on dark
        assert under.get_bbox().extents.tolist() == over.get_bbox().extents.tolist()
        # The box's corners lie between pixels, whose centres are whole numbers.
        assert over.get_bbox().extents.tolist() == [2.5, 3.5, 11.5, 9.5]


@pytest.mark.parametrize(
    ("box", "error", "message"),
    [
        ([1, 2, 3, 4], TypeError, r"^box must be a tensor \(4,\), got list"),
        (torch.tensor([1.0, 2.0, 3.0]), ValueError, "^box must be x0, y0, x1, y1"),
        (torch.tensor([5.0, 2.0, 3.0, 4.0]), ValueError, "^box must be .* x0 < x1 and y0 < y1, got"),
    ],
)
def test_a_bad_box_is_refused(images, box, error, message):
    with pytest.raises(error, match=message):
        vis.show_mask(make_found(), images, box=box)
