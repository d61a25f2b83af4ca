"""The figures of layers show the result's own numbers, heat maps and images, and leave pyplot alone."""

from __future__ import annotations

import dataclasses

import matplotlib as mpl
import numpy as np
import pytest
import torch

from by_hand import optimum_by_hand
from captum_extremal import ExtremalMasks, PathSolver
from captum_extremal import visualization as vis
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from figures import DELETE, HEIGHT, WIDTH, drawn, make_images, make_result, overlap, picture

CHANNELS = 100
COUNTS = (1, 5, 25, 100)
LUMINANCE = np.array([0.299, 0.587, 0.114])


def make_found(images=2, counts=COUNTS, *, channels=CHANNELS, **how):
    """Masks of channels that reach the clean score of 10 with 25 of them."""
    masks = (torch.arange(channels) < torch.tensor(counts)[:, None]).float().expand(images, -1, -1)
    kept, removed = ([2.0, 8.0, 11.0, 10.0], [9.0, 6.0, 3.0, 0.5])
    areas, given = [count / channels for count in counts], len(counts)
    return make_result(masks, areas, kept[:given], removed[:given], perturbed=0.5, sigma=float("nan"), **how)


@pytest.fixture
def images():
    return make_images()


@pytest.fixture
def heat_maps():
    return torch.rand(2, 1, 6, 10, generator=torch.Generator().manual_seed(2)) + 0.5


def grey(image):
    return (image.expand(3, -1, -1).double().permute(1, 2, 0).numpy() @ LUMINANCE)[..., None].repeat(3, axis=2)


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


def ramp(low, high):
    """One heat map (1, 1, HEIGHT, WIDTH) that grows from left to right."""
    return torch.linspace(low, high, WIDTH).expand(1, 1, HEIGHT, WIDTH)


# Heat maps over images


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_positive_heat_map_hides_the_grey_image_in_proportion(scale):
    image = make_images(1)
    shown = picture(vis.show_channels(make_found(1), image, heat_maps=ramp(0, 4).double() * scale).axes[0])
    background = grey(image[0])
    np.testing.assert_allclose(shown[:, 0], background[:, 0], atol=1e-6)  # nothing at 0
    for column in (10, WIDTH - 1):
        strength = column / (WIDTH - 1)
        colour = np.array(mpl.colormaps["inferno"](strength))[:3]
        expected = 0.85 * strength * colour + (1 - 0.85 * strength) * background[:, column]
        np.testing.assert_allclose(shown[:, column], expected, atol=1e-5)


def test_signed_heat_map_is_red_above_zero_and_blue_below():
    image = torch.full((1, 1, HEIGHT, WIDTH), 0.5)
    shown = picture(vis.show_channels(make_found(1), image, heat_maps=ramp(-1, 2)).axes[0])
    most, least = shown[0, -1], shown[0, 0]
    assert most[0] > 2 * most[2]
    assert least[2] > 1.4 * least[0]
    # The negative end is half as large, so that half as much of it shows.
    np.testing.assert_allclose(least, 0.425 * np.array([0, 0x72, 0xB2]) / 255 + 0.575 * 0.5, atol=1e-6)
    nearest_to_zero = shown[0, 13]
    np.testing.assert_allclose(nearest_to_zero, 0.5, atol=0.01)


def test_constant_heat_maps():
    image = make_images(1)
    zero = vis.show_channels(make_found(1), image, heat_maps=torch.zeros(1, 3, 5)).axes[0]
    np.testing.assert_allclose(picture(zero), grey(image[0]), atol=1e-6)
    assert zero.get_xlabel() == "heat map: all zero"
    constant = vis.show_channels(make_found(1), image, heat_maps=torch.full((1, 3, 5), 7.0)).axes[0]
    top = np.array(mpl.colormaps["inferno"](1.0))[:3]
    np.testing.assert_allclose(picture(constant), 0.85 * top + 0.15 * grey(image[0]), atol=1e-6)
    assert constant.get_xlabel() == ""


def test_heat_map_is_resized_bilinearly_to_the_image():
    image = torch.zeros(1, 1, 4, 4)
    small = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    shown = picture(vis.show_channels(make_found(1), image, heat_maps=small).axes[0])
    # The centres of the small map's two columns lie at a quarter and at three quarters of the width.
    strength = np.array([0.0, 0.25, 0.75, 1.0])
    colours = np.array(mpl.colormaps["inferno"](strength))[:, :3]
    np.testing.assert_allclose(shown[2], 0.85 * strength[:, None] * colours, atol=1e-6)


@pytest.mark.parametrize("index", [0, 1, -1])
def test_the_image_of_the_index_is_drawn_with_its_own_heat_map(images, heat_maps, index):
    with_channel = picture(vis.show_channels(make_found(), images, index, heat_maps=heat_maps).axes[0])
    without = picture(vis.show_channels(make_found(), images, index, heat_maps=heat_maps[:, 0]).axes[0])
    alone = picture(vis.show_channels(make_found(1), images[index][None], heat_maps=heat_maps[index][None]).axes[0])
    np.testing.assert_array_equal(with_channel, without)
    np.testing.assert_array_equal(with_channel, alone)


def test_grey_half_precision_and_graph_tensors(images, heat_maps):
    one, maps = images[:, :1].half().requires_grad_(), heat_maps.half().requires_grad_()
    shown = picture(vis.show_channels(make_found(), one, heat_maps=maps).axes[0])
    tripled = picture(vis.show_channels(make_found(), one.expand(-1, 3, -1, -1), heat_maps=maps).axes[0])
    assert shown.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(shown, tripled, atol=1e-12)


def test_tensors_of_any_device(device, images, heat_maps):
    x, maps, values = images.to(device), heat_maps.to(device), torch.tensor([1.0, 2.0], device=device)
    tensors = {f.name: getattr(make_found(), f.name) for f in dataclasses.fields(ExtremalMasks)}
    found = ExtremalMasks(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in tensors.items()})
    drawn(vis.show_channels(found, x, heat_maps=maps))
    drawn(vis.show_curves(found))
    drawn(vis.show_inversions(x, maps, x, x))
    drawn(vis.show_class_channel(x[0], x, values=values))


# Scores against the number of channels


def test_channels_show_a_star_and_the_scores(images, heat_maps):
    figure = drawn(vis.show_channels(make_found(), images, 1, heat_maps=heat_maps, title="a name"))
    left, right = figure.axes
    assert figure.get_suptitle() == "a name"
    assert left.get_title() == "a* = 25 of 100 channels\nscore 11.0, clean 10.0"
    lines = lines_of(right)
    np.testing.assert_allclose(lines["only the mask's channels"].get_xdata(), COUNTS)
    np.testing.assert_allclose(lines["only the mask's channels"].get_ydata(), [2, 8, 11, 10])
    np.testing.assert_allclose(lines["all but the mask's channels"].get_ydata(), [9, 6, 3, 0.5])
    assert set(lines["all channels"].get_ydata()) == {10.0}
    assert lines["all channels"].get_linestyle() == "--"
    assert set(lines["no channels"].get_ydata()) == {0.5}
    assert set(lines["a* = 25 of 100 channels"].get_xdata()) == {25}
    assert right.get_xlabel() == "number of channels, of 100"
    assert len(figure.legends[0].get_texts()) == 5


@pytest.mark.parametrize(
    ("game", "faint"), [(None, "all but the mask's channels"), (DELETE, "only the mask's channels")]
)
def test_the_score_that_the_game_does_not_look_at_is_faint(images, heat_maps, game, faint):
    found = make_found(game=game, threshold=-4.0)
    opacity = {
        name: line.get_alpha()
        for name, line in lines_of(vis.show_channels(found, images, heat_maps=heat_maps).axes[1]).items()
    }
    both = {"all but the mask's channels", "only the mask's channels"}
    (other,) = both - {faint}
    assert opacity[faint] < 0.5 < opacity[other]
    assert {lines_of(vis.show_curves(found).axes[0])[name].get_alpha() for name in both} == {1.0}


def test_a_deletion_has_the_score_without_its_channels(images, heat_maps):
    figure = vis.show_channels(make_found(game=DELETE, threshold=-4.0), images, heat_maps=heat_maps)
    assert figure.axes[0].get_title() == "a* = 25 of 100 channels\nwithout it 3.00, clean 10.0"


def test_channels_without_a_star(images, heat_maps):
    figure = drawn(vis.show_channels(make_found(threshold=99.0), images, heat_maps=heat_maps))
    assert figure.axes[0].get_title() == "100 of 100 channels, a* not reached\nscore 10.0, clean 10.0"
    assert "a* not reached" in lines_of(figure.axes[1])


def test_one_area(images, heat_maps):
    figure = drawn(vis.show_channels(make_found(counts=(25,), threshold=2.0), images, heat_maps=heat_maps))
    assert list(lines_of(figure.axes[1])["only the mask's channels"].get_xdata()) == [25]


@pytest.mark.parametrize(
    ("counts", "channels", "scale"),
    [((1, 50), 50, "log"), ((1, 49), 50, "linear"), ((2, 99), 100, "linear"), ((512,), 512, "linear")],
)
def test_the_axis_is_logarithmic_where_the_numbers_span_much(counts, channels, scale):
    found = make_found(counts=counts, channels=channels)
    for figure in (vis.show_curves(found), vis.show_channels(found, make_images(), heat_maps=torch.rand(2, 3, 5))):
        assert drawn(figure).axes[-1].get_xscale() == scale
        low, high = figure.axes[-1].get_xlim()
        shown = [tick for tick in figure.axes[-1].get_xticks() if low <= tick <= high]
        assert len(shown) > 1
        assert all(float(tick).is_integer() for tick in shown)


def test_fractions_are_told_as_the_numbers_of_the_binary_masks():
    found = make_found(counts=(1, 2), channels=10)
    found = dataclasses.replace(found, areas=torch.tensor([0.04, 0.26]))  # none of 10 channels, and 3
    ax = drawn(vis.show_curves(found)).axes[0]
    sizes = lines_of(ax)["only the mask's channels"].get_xdata()
    assert list(sizes) == found.binary_masks()[0].sum(1).tolist() == [0, 3]


def test_curves_of_layers_with_several_tensors():
    found = make_found()
    same = dataclasses.replace(found, masks=(found.masks, found.masks))
    assert vis.show_curves(same).axes[0].get_xlabel() == "number of channels, of 100"
    ax = vis.show_curves(dataclasses.replace(found, masks=(found.masks, found.masks[..., :7]))).axes[0]
    assert ax.get_xlabel() == "area of the mask, % of the channels"
    assert set(lines_of(ax)["a* = 25 % of the channels"].get_xdata()) == {25.0}


# Inversions and class channels


def test_inversions_are_a_row_an_image(images, heat_maps):
    whole, masked = torch.rand(2, 3, 8, 12), torch.rand(2, 3, 8, 12)
    names = ["cat", "a name of many words, long enough for a second line"]
    figure = drawn(vis.show_inversions(images, heat_maps, whole, masked, titles=names, title="a title"))
    assert figure.get_suptitle() == "a title"
    assert len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes] == [
        names[0],
        "inversion, whole activation",
        "inversion, masked activation",
        figure.axes[3].get_title(),
        *[""] * 2,
    ]
    assert figure.axes[3].get_title().replace("\n", " ") == names[1]
    untitled = vis.show_inversions(images, heat_maps, whole, masked)
    assert [untitled.axes[k].get_title() for k in (0, 3)] == ["image and heat map", ""]
    for k in range(2):
        left, middle, right = figure.axes[3 * k : 3 * k + 3]
        alone = vis.show_channels(make_found(), images, k, heat_maps=heat_maps).axes[0]
        np.testing.assert_array_equal(picture(left), picture(alone))
        np.testing.assert_allclose(picture(middle), whole[k].permute(1, 2, 0))
        np.testing.assert_allclose(picture(right), masked[k].permute(1, 2, 0))
    assert "\n" in figure.axes[3].get_title()


def test_inversions_of_some_of_the_images(images, heat_maps):
    figure = drawn(vis.show_inversions(images, heat_maps, images, images, -1, titles=["the last"]))
    left, *others = figure.axes
    assert left.get_title() == "the last"
    for ax in others:
        np.testing.assert_allclose(picture(ax), images[-1].permute(1, 2, 0))
    assert len(vis.show_inversions(images, heat_maps, images, images, [1, 0]).axes) == 6
    with pytest.raises(IndexError, match="index must be from -2 to 1, got 2"):
        vis.show_inversions(images, heat_maps, images, images, 2)


def test_class_channel_comes_first_and_the_values_stand_under_the_examples(images):
    inversion = torch.rand(3, 16, 16)
    figure = drawn(vis.show_class_channel(inversion, images, values=[12.34, -0.5], title="a channel"))
    assert figure.get_suptitle() == "a channel"
    first, *others = figure.axes
    assert first.get_title() == "inversion"
    np.testing.assert_allclose(picture(first), inversion.permute(1, 2, 0))
    for ax, example in zip(others, images, strict=True):
        np.testing.assert_allclose(picture(ax), example.permute(1, 2, 0))
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "12.3", "\N{MINUS SIGN}0.50"]
    from_tensor = vis.show_class_channel(inversion, images, values=torch.tensor([12.34, -0.5]))
    assert [ax.get_xlabel() for ax in from_tensor.axes] == ["", "12.3", "\N{MINUS SIGN}0.50"]
    assert [ax.get_xlabel() for ax in vis.show_class_channel(inversion, images).axes] == [""] * 3


def test_many_examples_wrap():
    figure = drawn(vis.show_class_channel(torch.rand(1, 9, 9), torch.rand(12, 1, 9, 9), values=range(12)))
    assert len(figure.axes) == 13
    assert len({round(ax.get_position().y0, 3) for ax in figure.axes}) == 2


# Layout


@pytest.mark.parametrize("transposed", [False, True])
def test_panels_have_the_proportions_of_the_image_and_titles_their_room(images, heat_maps, transposed):
    x, maps = (images.transpose(2, 3), heat_maps.transpose(2, 3)) if transposed else (images, heat_maps)
    figures = [
        vis.show_channels(make_found(threshold=99.0), x, heat_maps=maps, title="a title"),
        vis.show_inversions(x, maps, x, x, titles=["one", "two"]),
        vis.show_class_channel(x[0], x, values=[1e5, 1e-5], title="a title"),
    ]
    for figure in figures:
        drawn(figure)
        for ax in figure.axes:
            if ax.images:
                box = ax.get_window_extent()
                rows, columns = picture(ax).shape[:2]
                assert box.height / box.width == pytest.approx(rows / columns, rel=0.01)
                assert box.height * box.width > 60**2  # large enough to see
        boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
        boxes += [figure._suptitle.get_window_extent()] if figure.get_suptitle() else []
        boxes += [legend.get_window_extent() for ax in figure.axes if (legend := ax.get_legend())]
        assert not overlap(boxes)
        for box in boxes:
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1


def test_a_real_search_can_be_drawn(network, images):
    x = images.double()
    method = LayerExtremalPerturbation(network, network[1])
    options = {"target": [0, 1], "areas": [1, 2, 4], "solver": PathSolver(steps=4)}
    found = method.extremal_masks(x, **options)
    heat_maps = method.attribute(x, **options, multiply_by_activation=True).sum(1, keepdim=True)
    figure = drawn(vis.show_channels(found, images, 1, heat_maps=heat_maps))
    lines = lines_of(figure.axes[1])
    assert list(lines["only the mask's channels"].get_xdata()) == [1, 2, 4]
    np.testing.assert_allclose(lines["only the mask's channels"].get_ydata(), found.scores[1])


# Bad arguments

BAD_IMAGES = [
    (lambda x: x.numpy(), TypeError, "{} must be a tensor, got ndarray"),
    (lambda x: (x * 255).byte(), TypeError, r"{} must be a floating tensor in \[0, 1\], got torch.uint8"),
    (lambda x: x.permute(0, 2, 3, 1), ValueError, r"{} must be .*got shape \(2, 24, 40, 3\)"),
    (lambda x: x[:, :, :0], ValueError, r"{} must be .*got shape \(2, 3, 0, 40\)"),
    (lambda x: x[0], ValueError, r"{} must be .*got shape \(3, 24, 40\)"),
    (lambda x: x * 4 - 2, ValueError, r"{} must be in \[0, 1\], for display"),
    (lambda x: x * float("nan"), ValueError, r"{} must be in \[0, 1\]"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_IMAGES)
def test_bad_images(images, heat_maps, bad, error, message):
    wrong = bad(images)
    with pytest.raises(error, match=message.format("images")):
        vis.show_channels(make_found(), wrong, heat_maps=heat_maps)
    with pytest.raises(error, match=message.format("images")):
        vis.show_inversions(wrong, heat_maps, images, images)
    with pytest.raises(error, match=message.format("whole")):
        vis.show_inversions(images, heat_maps, wrong, images)
    with pytest.raises(error, match=message.format("masked")):
        vis.show_inversions(images, heat_maps, images, wrong)
    with pytest.raises(error, match=message.format("examples")):
        vis.show_class_channel(images[0], wrong)


def test_as_many_images_as_masks(images, heat_maps):
    with pytest.raises(
        ValueError, match=r"images must be \(2, 3, H, W\) or \(2, 1, H, W\), got shape \(1, 3, 24, 40\)"
    ):
        vis.show_channels(make_found(), images[:1], heat_maps=heat_maps)
    with pytest.raises(
        ValueError, match=r"masked must be \(2, 3, H, W\) or \(2, 1, H, W\), got shape \(1, 3, 24, 40\)"
    ):
        vis.show_inversions(images, heat_maps, images, images[:1])


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda x: x.numpy(), TypeError, "heat_maps must be a tensor, got ndarray"),
        (lambda x: x.long(), TypeError, "heat_maps must be a floating tensor, got torch.int64"),
        (lambda x: x[:1], ValueError, r"heat_maps must be \(2, 1, h, w\) or \(2, h, w\), got shape \(1, 1, 6, 10\)"),
        (lambda x: x.expand(2, 3, 6, 10), ValueError, r"got shape \(2, 3, 6, 10\): the masked activation summed"),
        (lambda x: x[0, 0], ValueError, r"got shape \(6, 10\)"),
        (lambda x: x[..., :0], ValueError, r"got shape \(2, 1, 6, 0\)"),
        (lambda x: x / 0, ValueError, r"heat_maps must be finite, got NaN or infinite values"),
    ],
)
def test_bad_heat_maps(images, heat_maps, bad, error, message):
    wrong = bad(heat_maps)
    with pytest.raises(error, match=message):
        vis.show_channels(make_found(), images, heat_maps=wrong)
    with pytest.raises(error, match=message):
        vis.show_inversions(images, wrong, images, images)


def test_masks_of_channels_and_of_images_have_their_own_figures(images, heat_maps):
    channels = make_found()
    positions = dataclasses.replace(channels, masks=torch.rand(2, len(COUNTS), 1, HEIGHT, WIDTH))
    both = dataclasses.replace(channels, masks=(channels.masks, positions.masks))
    assert [one.covers for one in (channels, positions, both)] == ["channels", "positions", "positions"]
    with pytest.raises(ValueError, match=r"found must hold masks of channels, \(N, A, K\), got \(2, 4, 1, 24, 40\)"):
        vis.show_channels(positions, images, heat_maps=heat_maps)
    with pytest.raises(ValueError, match="found must hold masks of channels"):
        vis.show_channels(both, images, heat_maps=heat_maps)
    rule = (
        r"found must hold masks of images, \(N, A, 1, H, W\), got \(2, 4, 100\): show_channels draws masks of channels"
    )
    for show in (vis.show_mask, vis.show_sweep, vis.show_order, vis.show_targets):
        with pytest.raises(ValueError, match=rule):
            show(channels, images)
    with pytest.raises(ValueError, match=rule):
        vis.compare(channels, images, attributions={})


def test_bad_arguments(images, heat_maps):
    with pytest.raises(TypeError, match=r"found must be an ExtremalMasks, .* got Tensor"):
        vis.show_channels(images, images, heat_maps=heat_maps)
    with pytest.raises(IndexError, match="index must be below 2, got 2"):
        vis.show_channels(make_found(), images, 2, heat_maps=heat_maps)
    with pytest.raises(TypeError, match="index must be an integer"):
        vis.show_channels(make_found(), images, 0.5, heat_maps=heat_maps)
    with pytest.raises(ValueError, match="titles must be 2, one for each image, got 1"):
        vis.show_inversions(images, heat_maps, images, images, titles=["cat"])
    for titles in ("ab", [1, 2], 3):
        with pytest.raises(TypeError, match="titles must be a sequence of strings, got"):
            vis.show_inversions(images, heat_maps, images, images, titles=titles)


@pytest.mark.parametrize(
    ("inversion", "error", "message"),
    [
        (np.zeros((3, 4, 4)), TypeError, "inversion must be a tensor, got ndarray"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, "inversion must be a floating tensor"),
        (
            torch.zeros(1, 3, 4, 4),
            ValueError,
            r"inversion must be \(3, H, W\) or \(1, H, W\), got shape \(1, 3, 4, 4\)",
        ),
        (torch.zeros(3, 4, 0), ValueError, r"inversion must be .* got shape \(3, 4, 0\)"),
        (torch.full((3, 4, 4), 2.0), ValueError, r"inversion must be in \[0, 1\]"),
    ],
)
def test_bad_inversion_of_a_channel(images, inversion, error, message):
    with pytest.raises(error, match=message):
        vis.show_class_channel(inversion, images)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0], ValueError, "values must be 2, one for each example, got 1"),
        (torch.ones(3), ValueError, "values must be 2, one for each example, got 3"),
        (torch.ones(2, 1), ValueError, r"values must be \(2,\), got shape \(2, 1\)"),
        (3.0, TypeError, r"values must be a sequence of numbers or a tensor \(2,\), got 3.0"),
        ("ab", TypeError, "values must be a sequence of numbers"),
        ([1.0, "b"], TypeError, r"values\[1\] must be a number, got 'b'"),
        ([1.0, float("nan")], ValueError, r"values\[1\] must be finite, got nan"),
        (torch.tensor([True, False]), TypeError, r"values\[0\] must be a number, got True"),
    ],
)
def test_bad_values_of_examples(images, values, error, message):
    with pytest.raises(error, match=message):
        vis.show_class_channel(images[0], images, values=values)


def test_channels_of_a_star_alone_have_no_curves(images, heat_maps):
    found = make_found()
    best = optimum_by_hand(found.masks[:, 1], [0.25] * 2, [11.0] * 2, [3.0] * 2)
    alone = make_result(found.masks[:, :0], [], [], [], others=[best])
    with pytest.raises(ValueError, match=r"found must hold masks of areas, got a\* alone"):
        vis.show_channels(alone, images, heat_maps=heat_maps)


def test_a_star_between_the_areas_is_a_number_of_channels(images, heat_maps):
    best = optimum_by_hand(make_found().masks[:, 1], [0.172] * 2, [10.5] * 2, [3.0] * 2)
    left, right = drawn(vis.show_channels(make_found(others=[best]), images, heat_maps=heat_maps)).axes
    assert left.get_title() == "a* = 17 of 100 channels\nscore 10.5, clean 10.0"
    assert lines_of(right)["a* = 17 of 100 channels"].get_xdata()[0] == pytest.approx(17.2)


def test_channels_that_are_not_needed(images, heat_maps):
    left, right = drawn(vis.show_channels(make_found(threshold=0.5), images, heat_maps=heat_maps)).axes
    assert left.get_title().startswith("a* = 0 of 100 channels, nothing needed")
    assert "a* = 0 of 100 channels, nothing needed" in lines_of(right)
