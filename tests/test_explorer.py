"""The explorer's page has the result's own numbers and pictures, and what comes from outside does no harm."""

from __future__ import annotations

import html.parser
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.measure import grid_points_in_poly

from captum_extremal import BlurPyramid, ExtremalPerturbation, FadePyramid, GroupMask, perturbed_inputs
from captum_extremal.explorer import as_path
from captum_extremal.masks.binary import binarised
from explorers import AREAS, NASTY, SIDE, data_of, disks, make_found, pictures, pixels


def written(found, tmp_path, *arguments, **how):
    path = tmp_path / "page.html"
    found.to_html(path, *arguments, **how)
    assert list(tmp_path.iterdir()) == [path]
    return data_of(path)


def test_rows_have_the_numbers_of_the_result(tmp_path):
    found = make_found()
    (explanation,) = written(found, tmp_path, pictures(), names=["cat", "dog"])["explanations"]
    assert [row["name"] for row in explanation["rows"]] == ["cat", "dog"]
    row = explanation["rows"][0]
    assert [mask["area"] for mask in row["masks"]] == pytest.approx([0.1, 0.2, 0.25, 0.5])
    assert [mask["score"] for mask in row["masks"]] == pytest.approx([1.2345, 8.25, 5.5, 9.5])
    assert [mask["complement"] for mask in row["masks"]] == pytest.approx([7.0, 2.0, 4.0, 1.0])
    assert [mask["optimum"] for mask in row["masks"]] == [False, True, False, False]
    assert [mask["enough"] for mask in row["masks"]] == [False, True, False, True]
    assert (row["clean_score"], row["perturbed_score"], row["threshold"]) == (8.0, 0.5, 8.0)
    assert row["optimal_area"] == pytest.approx(0.2)
    assert [mask["agreement"] for mask in row["masks"]] == [None] * 4


def test_pictures_and_masks_are_those_of_the_result(tmp_path):
    found, images = make_found(), pictures()
    data = written(found, tmp_path, images)
    for n, row in enumerate(data["explanations"][0]["rows"]):
        shown = pixels(data["pictures"][row["picture"]])
        np.testing.assert_allclose(shown / 255, images[n].permute(1, 2, 0), atol=0.5 / 255 + 1e-6)
        own = [found.masks[n, k, 0] for k in range(3)]
        own.insert([mask["optimum"] for mask in row["masks"]].index(True), found.optimal_masks[n, 0])
        for mask, values in zip(row["masks"], own):
            np.testing.assert_allclose(pixels(mask["mask"]) / 255, values, atol=0.5 / 255 + 1e-6)


def test_the_order_is_the_first_mask_that_keeps_a_pixel(tmp_path):
    found = make_found(between=False)
    for n, row in enumerate(written(found, tmp_path)["explanations"][0]["rows"]):
        order, kept = pixels(row["order"]), found.binary_masks()[n, :, 0].numpy()
        areas = np.array([*AREAS, 1.0])[np.where(order == 255, 3, order)]
        np.testing.assert_allclose(areas, found.order_of_entry()[n, 0], rtol=1e-6)
        assert (order == 255).any()
        assert kept.any()


def test_agreement_is_shown_where_it_is_known(tmp_path):
    found = make_found(between=False)
    for n, row in enumerate(written(found, tmp_path)["explanations"][0]["rows"]):
        for k, mask in enumerate(row["masks"]):
            np.testing.assert_allclose(pixels(mask["shares"]) / 255, found.agreement[n, k, 0], atol=0.5 / 255 + 1e-6)
            assert mask["agreement"] == pytest.approx(float(found.agreement_score[n, k]), rel=1e-6)


@pytest.mark.parametrize("optimum", [False, True])
def test_perturbed_pictures_come_back_from_their_differences(tmp_path, optimum):
    found, images = make_found(settings={"perturbation": repr(BlurPyramid())}), pictures()
    seen = perturbed_inputs(found, images, optimum=optimum)
    assert seen.shape == (2, 3 + optimum, 3, SIDE, SIDE + 4)
    for n, row in enumerate(written(found, tmp_path, images, perturbed=seen)["explanations"][0]["rows"]):
        places = [mask["area"] for mask in row["masks"]]
        assert ["seen" in mask for mask in row["masks"]] == [optimum or not mask["optimum"] for mask in row["masks"]]
        picture = np.zeros((SIDE, SIDE + 4, 3), np.uint8)
        for mask in (mask for mask in row["masks"] if "seen" in mask):
            picture = picture + pixels(mask["seen"])  # modulo 256
            k = 3 if mask["optimum"] else AREAS.index(round(mask["area"], 4))
            np.testing.assert_allclose(picture / 63, seen[n, k].permute(1, 2, 0), atol=0.5 / 63 + 1e-6)
        assert places == sorted(places)


def test_perturbed_inputs_are_those_of_the_search():
    images = torch.rand(2, 3, 16, 16)
    seen = []

    def model(x):
        seen.append(x.clone())
        return x.mean((1, 2, 3))[:, None]

    for perturbation, own in (("blur", BlurPyramid()), ("fade", FadePyramid())):
        found = ExtremalPerturbation(model).extremal_masks(
            images, target=0, areas=[0.2, 0.5], perturbation=perturbation, solver="path", score_threshold=1e-9
        )
        made = perturbed_inputs(found, images, optimum=True)
        rows = torch.cat([found.masks, found.optimal_masks[:, None]], 1).transpose(0, 1).flatten(0, 1)
        expected = own.bind(images, torch.zeros_like(images))(rows).unflatten(0, (3, 2)).transpose(0, 1)
        torch.testing.assert_close(made, expected)
        # The masks are measured at the end: what the model was given then is among it.
        flat = made[:, :2].transpose(0, 1)
        assert any(len(x) == 2 and torch.allclose(x, one, atol=1e-6) for x in seen for one in flat)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"found": 3}, TypeError, "found must be ExtremalMasks"),
        ({"inputs": torch.rand(2, 3, 20, 20)}, ValueError, "found must hold the masks of these inputs"),
        ({}, ValueError, "perturbation must be given"),
        ({"perturbation": "blurr"}, ValueError, "perturbation must be one of"),
        ({"perturbation": "fade", "baselines": "no"}, TypeError, "baselines must be a number"),
    ],
)
def test_bad_arguments_of_perturbed_inputs(change, error, message):
    with pytest.raises(error, match=message):
        perturbed_inputs(**({"found": make_found(), "inputs": pictures()} | change))


class _Reader(html.parser.HTMLParser):
    """The elements of a page, and what would be loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.tags, self.loaded, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "data") and value != "data:,"]

    def handle_data(self, data):
        self.text.append(data)


def test_text_from_outside_is_text(tmp_path):
    data = written(make_found(), tmp_path, names=[NASTY, "</title>"], title=NASTY, others={NASTY: make_found()})
    assert data["title"] == NASTY
    assert [row["name"] for row in data["explanations"][0]["rows"]] == [NASTY, "</title>"]
    assert [one["name"] for one in data["explanations"]] == ["this result", NASTY]
    reader = _Reader()
    reader.feed((tmp_path / "page.html").read_text(encoding="ascii"))
    assert reader.tags.count("script") == 2
    assert reader.loaded == []
    assert reader.text.count(NASTY) == 2  # the title and the heading


def test_an_outline_encloses_the_binary_mask(tmp_path):
    mask = disks()[0, 1, 0]
    binary = binarised(mask[None, None], torch.tensor([0.25]))[0, 0].numpy()
    path = as_path(mask.double().numpy(), binary)
    points = np.array([[float(v) for v in point.split()] for point in re.split("[ML]", path) if point])
    inside = grid_points_in_poly(binary.shape, points[:, ::-1] - 0.5)
    assert (inside != binary).sum() <= 2  # of 120 pixels: the line is simplified
    assert as_path(np.full((8, 8), 0.5), np.eye(8, dtype=bool)) == ""  # flat


def test_channels_have_their_maps_and_inversions(tmp_path):
    masks = torch.zeros(2, 3, 12)
    masks[:, 0, 3], masks[:, 1, 3:6], masks[:, 2, :6] = 1.0, 0.9, 0.8
    found = make_found(masks, between=False, settings={"layer": "features.0"})
    activations, inverted = torch.randn(2, 12, 5, 4), torch.rand(2, 3, 16, 16)
    data = written(found, tmp_path, pictures(), activations=activations, inversions={"whole": inverted})
    (explanation,) = data["explanations"]
    assert (explanation["count"], explanation["unit"]) == (12, "channels")
    row = explanation["rows"][1]
    assert row["masks"][0]["columns"] == [[3, 1.0]]
    assert {k for k, _ in row["masks"][2]["columns"]} == set(range(6))
    heat = (activations[1] * masks[1, 1][:, None, None]).sum(0)
    shown = (pixels(row["masks"][1]["heat"]["url"]).astype(float) - 128) / 127
    np.testing.assert_allclose(shown, heat / heat.abs().max(), atol=0.5 / 127 + 1e-6)
    assert set(row["maps"]) == {str(k) for k in range(6)}
    ((name, place),) = row["inversions"]
    assert name == "whole"
    np.testing.assert_allclose(pixels(data["pictures"][place]) / 255, inverted[1].permute(1, 2, 0), atol=0.003)


def test_groups_are_named_by_their_ids(tmp_path, network, images, quick):
    ids = torch.arange(4).repeat_interleave(4)[None, None, None].expand(1, 3, 16, 16) * 10
    found = ExtremalPerturbation(network).extremal_masks(
        images, target=0, feature_mask=ids.contiguous(), mask=GroupMask(), areas=[1, 3], solver=quick
    )
    (explanation,) = written(found, tmp_path)["explanations"]
    assert explanation["unit"] == "groups"
    listed = {k for row in explanation["rows"] for mask in row["masks"] for k, _ in mask["columns"]}
    assert listed
    assert listed <= {0, 10, 20, 30}


@pytest.mark.parametrize("shape", [(12,), (6, 6, 6)])
def test_signals_and_volumes_have_curves(tmp_path, shape):
    found = make_found(torch.rand(2, 3, 1, *shape), between=False)
    data = written(found, tmp_path)
    assert {row["kind"] for row in data["explanations"][0]["rows"]} == {"signal" if len(shape) == 1 else "volume"}
    assert data["pictures"] == []
    with pytest.raises(ValueError, match="images must be None for masks of signals"):
        written(found, tmp_path, torch.rand(2, 3, 8, 8))


def test_a_tuple_has_a_row_for_each_input(tmp_path):
    found = make_found((disks(), torch.rand(2, 3, 1, 12)), between=False)
    rows = written(found, tmp_path, (pictures(), None), names=["a", "b"])["explanations"][0]["rows"]
    assert [row["name"] for row in rows] == ["a, input 1", "a, input 2", "b, input 1", "b, input 2"]
    assert [row["kind"] for row in rows] == ["image", "signal"] * 2


def test_a_star_alone_and_results_without_it(tmp_path):
    found = make_found()
    empty = {name: getattr(found, name)[:, :0] for name in ("masks", "scores", "complement_scores", "values")}
    known = {"agreement": found.agreement[:, :0], "agreement_score": found.agreement_score[:, :0]}
    alone = replace(found, **empty, **known, areas=found.areas[:0])
    rows = written(alone, tmp_path)["explanations"][0]["rows"]
    assert [[mask["optimum"] for mask in row["masks"]] for row in rows] == [[True], [True]]
    never = replace(found, optimal_area=torch.full((2,), torch.nan))
    rows = written(never, tmp_path)["explanations"][0]["rows"]
    assert [len(row["masks"]) for row in rows] == [3, 3]
    assert [(row["reached"], row["optimal_area"]) for row in rows] == [(False, None)] * 2


@pytest.mark.parametrize(
    ("images", "how", "error", "message"),
    [
        (torch.rand(2, 3, 8, 8), {}, ValueError, "images must be of the masks' size"),
        (pictures() * 3, {}, ValueError, r"images must be in \[0, 1\]"),
        (None, {"names": "ab"}, TypeError, "names must be a sequence of strings"),
        (None, {"names": ["a"]}, ValueError, "names must be 2"),
        (None, {"others": [3]}, TypeError, "must be an ExtremalMasks, got int"),
        (None, {"others": 3}, TypeError, "others must be a sequence or a dict"),
        (None, {"others": [make_found().image(0)]}, ValueError, "must be of the same 2 images, got 1"),
        (None, {"perturbed": torch.rand(2, 2, 3, 20, 24)}, ValueError, "perturbed must be"),
        (None, {"activations": torch.rand(2, 3, 4, 4)}, ValueError, "activations must be None"),
        (None, {"inversions": {"a": torch.rand(2, 3, 4, 4)}}, ValueError, "inversions must be None"),
        (None, {"title": 3}, TypeError, "title must be a string"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, images, how, error, message):
    with pytest.raises(error, match=message):
        make_found().to_html(tmp_path / "page.html", images, **how)
    assert list(tmp_path.iterdir()) == []


def test_notebooks_show_masks_and_curves_without_scripts():
    shown = make_found()._repr_html_()
    assert shown.count("<img ") == 8
    assert shown.count("<svg ") == 2
    assert "score 8.25" in shown
    reader = _Reader()
    reader.feed(shown)
    assert "script" not in reader.tags
    assert all(value.startswith("data:image/png") for value in reader.loaded)
    assert "<svg" in make_found(torch.rand(2, 3, 7), between=False)._repr_html_()
