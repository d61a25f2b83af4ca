"""The command, from its arguments to the files that it writes."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import math
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

from captum_extremal import (
    BlurPyramid,
    ChannelMask,
    ExtremalMasks,
    ExtremalPerturbation,
    FeatureInversion,
    PathSolver,
    cli,
)
from captum_extremal._version import own_version
from captum_extremal.areas import AREAS
from captum_extremal.cli import app, cases, console, demo, explain, options, output, photo_run
from captum_extremal.cli.classifier import Classifier, loaded_classifier
from captum_extremal.cli.weights import from_file, untrained
from captum_extremal.datasets import DigitScenes
from captum_extremal.evaluation import Evaluation
from captum_extremal.evaluation.metrics import TOLERANCE
from captum_extremal.masks import read_axes
from captum_extremal.search.games import as_game
from captum_extremal.settings import InputSearchSettings
from cli_photos import (
    NETWORK,
    one_line,
    picture,
    read_summary,
    run_quietly,
    tiny_classifier,
    untrained_network,
    whole_logits,
)
from explorers import data_of, pixels

QUICK = ["--steps", "2", "--areas", "0.2,0.5"]


@pytest.fixture(scope="module")
def state():
    return untrained_network(1000).state_dict()


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "half.pth"
    torch.save({key: value.half() for key, value in state.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def explained(weights, tmp_path_factory):
    """One run over photographs good and bad: (exit status, folder, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "other").mkdir()
    picture(48, 40).convert("RGBA").save(folder / "a.png")
    picture(48, 40, 1).save(folder / "other" / "A.jpg", exif=_turned())
    picture(64, 64).save(folder / "whole.jpg")
    (folder / "broken.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-200])
    (folder / "text.jpg").write_text("no image")
    photos = [folder / "missing.jpg", folder / "a.png", folder / "broken.jpg", folder / "text.jpg"]
    photos = [*map(str, photos), str(folder / "other" / "A.jpg")]
    out = folder / "new" / "out"
    arguments = [*photos, "--model", NETWORK, "--weights", weights, "--target", "top1", "--target", "goldfish", *QUICK]
    status, stdout, stderr = run_quietly("explain", *arguments, "--out", out, "--device", "cpu")
    return status, out, stdout, stderr, photos


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return exif


def test_explain_goes_on_past_unreadable_photos(explained):
    status, out, stdout, stderr, photos = explained
    assert status == 1
    lines = stderr.splitlines()
    begun = [line for line in lines if line.startswith("captum-extremal: photo ")]
    assert begun == [f"captum-extremal: photo {k} of 5: {photo}" for k, photo in enumerate(photos, 1)]
    told = [line for line in lines if line not in begun]
    assert len(told) == 3
    for line, photo, why in zip(told, (photos[0], *photos[2:4]), ("no such file", "truncated", "cannot identify")):
        assert photo in line
        assert why in line
    failed = read_summary(out)["failed"]
    assert [entry["photo"] for entry in failed] == [photos[0], *photos[2:4]]
    assert [line.partition(": ")[0] for line in stdout.splitlines() if " px; " in line] == [photos[1], photos[4]]
    assert str(out.resolve()) in stdout


def test_explain_summary_has_a_row_a_target(explained):
    _, out, _, _, photos = explained
    summary = read_summary(out)
    assert summary["complete"] is True
    assert (summary["model"], summary["photos"], summary["game"]) == (NETWORK, 5, "preserve")
    assert (summary["classes"], summary["score_fraction"]) == (1000, 1.0)
    rows = summary["rows"]
    assert [row["photo"] for row in rows] == [photos[1], photos[1], photos[4], photos[4]]
    assert [row["size"] for row in rows] == [[256, 307]] * 2 + [[307, 256]] * 2  # the second photograph is upright
    assert [row["predicted"] for row in rows] == [True, False, True, False]
    assert [row["name"] for row in rows[1::2]] == ["goldfish"] * 2
    assert [row["target"] for row in rows[1::2]] == [1, 1]
    for row in rows:
        assert row["cropped"] is row["reduced"] is False
        assert row["photo_size"] == ([40, 48] if row["folder"] == "a" else [48, 40])
        assert row["areas"] == [0.2, 0.5]
        assert len(row["scores"]) == len(row["complement_scores"]) == 2
        assert row["optimal_area"] in (None, 0, 0.2, 0.5)
        assert row["vacuous"] is (row["optimal_area"] == 0) is (row["perturbed_score"] >= row["threshold"])
        assert row["optimal_score"] in (row["perturbed_score"], *row["scores"])
        assert row["agreement"] is None  # one search has nobody to agree with
        assert row["seconds"] > row["search_seconds"] > 0
        assert 0 < row["probability"] < 1
    assert rows[0]["clean_score"] > rows[1]["clean_score"]
    assert rows[0]["probability"] > rows[1]["probability"]


def test_explain_files_belong_to_the_rows(explained):
    _, out, _, _, _ = explained
    rows = read_summary(out)["rows"]
    assert [row["folder"] for row in rows] == ["a", "a", "A-2", "A-2"]  # two of one stem, apart without case too
    for row in rows:
        folder = out / row["folder"]
        assert set(row["files"]) == {"mask", "sweep", "curves", "order", "masks"}
        assert (folder / "targets.png").is_file()
        for kind, name in row["files"].items():
            assert name.startswith(f"{row['target']:03d}-")
            if kind != "masks":
                with Image.open(folder / name) as figure:
                    assert min(figure.size) > 100
        found = ExtremalMasks.load(folder / row["files"]["masks"])
        assert found.masks.shape == (1, 2, 1, *row["size"])
        assert found.scores[0].tolist() == row["scores"]
        assert float(found.clean_score) == row["clean_score"]
    assert not list(out.rglob("*.partial"))
    assert plt.get_fignums() == []


def test_explain_writes_the_explorer_where_it_is_asked_for(weights, tmp_path):
    picture(48, 40).save(tmp_path / "a.png")
    arguments = [tmp_path / "a.png", "--model", NETWORK, "--weights", weights, "--target", "1", "--target", "7", *QUICK]
    how = ["--device", "cpu", "--html", "--perturbation", "fade"]
    status, stdout, _ = run_quietly("explain", *arguments, "--out", tmp_path / "out", *how)
    assert status == 0
    assert "explorer.html" in stdout
    rows = read_summary(tmp_path / "out")["rows"]
    shown = data_of(tmp_path / "out" / rows[0]["folder"] / rows[0]["files"]["explorer"])["explanations"][0]["rows"]
    assert [one["name"] for one in shown] == [row["name"] for row in rows]
    for one, row in zip(shown, rows):
        assert [mask["score"] for mask in one["masks"] if mask["area"] in (0.2, 0.5)] == pytest.approx(row["scores"])
    # A fade goes to the mean colour of the weights' pictures, also in what is shown of it.
    preset = torchvision.models.get_model_weights(NETWORK).DEFAULT.transforms()
    found = ExtremalMasks.load(tmp_path / "out" / rows[0]["folder"] / rows[0]["files"]["masks"])
    seen = pixels(shown[0]["masks"][0]["seen"]) / 63
    hidden = found.masks[0, 0, 0].numpy() == 0
    np.testing.assert_allclose(seen[hidden], np.broadcast_to(preset.mean, seen[hidden].shape), atol=0.5 / 63 + 1e-6)


def test_explain_tells_robustness_where_it_is_asked_for(weights, tmp_path):
    picture(48, 40).save(tmp_path / "a.png")
    arguments = [tmp_path / "a.png", "--model", NETWORK, "--weights", weights, "--target", "7", *QUICK]
    status, stdout, stderr = run_quietly("explain", *arguments, "--out", tmp_path, "--device", "cpu", "--robustness")
    assert status == 0
    assert stderr.startswith(f"captum-extremal: photo 1 of 1: {tmp_path / 'a.png'}\n")
    assert "CLASS-robustness.png" in stdout
    lines = stdout.splitlines()
    for row in read_summary(tmp_path)["rows"]:
        assert (tmp_path / row["folder"] / row["files"]["robustness"]).is_file()
        robust = row["robustness"]
        assert robust["names"] == ["own", "fade", "half blur", "blur", "double blur", "noise"]  # one photograph
        assert np.shape(robust["soft"]) == np.shape(robust["binary"]) == (3, 6)
        assert [values[0] for values in robust["soft"][:2]] == pytest.approx(row["scores"], abs=1e-4)
        assert robust["all_hidden"][0] == pytest.approx(row["perturbed_score"], abs=1e-4)
        head = next(
            k for k, line in enumerate(lines) if line.startswith(f"  {row['target']} {row['name']}: the game's")
        )
        assert f"{row['threshold']:.2f} is enough" in lines[head]
        printed = [line.rsplit(maxsplit=3) for line in lines[head + 2 : head + 8]]
        assert [cells[0].strip() for cells in printed] == robust["names"]
        expected = zip(robust["soft"][-1], robust["binary"][-1], robust["all_hidden"])
        assert [cells[1:] for cells in printed] == [[f"{value:.2f}" for value in values] for values in expected]


def test_robustness_of_a_photo_that_needs_nothing_is_told(tmp_path, monkeypatch):
    run, _ = run_of(tmp_path, monkeypatch, areas=None, robustness=True)
    monkeypatch.setattr(explain, "write_results", lambda *_: {})
    monkeypatch.setattr(run, "threshold", lambda clean, perturbed: perturbed - 1)
    picture(32, 32).save(tmp_path / "a.png")
    run.explain(str(tmp_path / "a.png"))
    (row,) = read_summary(tmp_path)["rows"]
    assert row["optimal_area"] == 0
    robust = row["robustness"]
    assert np.shape(robust["soft"]) == (1 + len(AREAS), len(robust["names"]))
    assert robust["soft"][-1] == robust["binary"][-1] == pytest.approx(robust["all_hidden"])


def test_explain_scores_are_those_of_the_model(explained, state):
    """Preprocessing as torchvision's own, but for the crop."""
    _, out, _, _, photos = explained
    _, _, logits = whole_logits(photos[1], {key: value.half().float() for key, value in state.items()})
    row, goldfish = read_summary(out)["rows"][:2]
    assert row["target"] == int(logits.argmax())
    assert row["clean_score"] == pytest.approx(float(logits.max()), abs=1e-4)
    assert goldfish["clean_score"] == pytest.approx(float(logits[1]), abs=1e-4)
    assert goldfish["probability"] == pytest.approx(float(logits.softmax(0)[1]), rel=1e-3)


def test_interrupted_run_keeps_its_rows(weights, tmp_path, monkeypatch, capsys):
    picture(40, 40).save(tmp_path / "one.png")
    read, count = photo_run.read_image, iter(range(9))

    def interrupted(path):
        if next(count) == 1:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(photo_run, "read_image", interrupted)
    how = ["--model", NETWORK, "--weights", weights, "--out", str(tmp_path), *QUICK]
    assert cli.main(["explain", *[str(tmp_path / "one.png")] * 3, *how]) == 130
    *begun, last = capsys.readouterr().err.splitlines(keepends=True)
    assert len(begun) == 2
    assert "interrupted" in one_line(last)
    summary = read_summary(tmp_path)
    assert len(summary["rows"]) == 1
    assert summary["complete"] is False


def test_summary_is_replaced_whole(tmp_path, monkeypatch):
    summary = output.Summary(tmp_path, {"model": "m"})
    summary.write()

    def fails(*_):
        raise KeyboardInterrupt

    summary.rows.append({"photo": "p"})
    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(KeyboardInterrupt):
        summary.write()
    assert read_summary(tmp_path)["rows"] == []


def explain_missing(weights, out, *arguments):
    missing = ["explain", "missing.jpg", "missing.jpg", "--model", NETWORK, "--weights", weights, "--out", str(out)]
    return cli.main([*missing, *arguments])


def test_a_run_that_explains_nothing_writes_why(weights, tmp_path, capsys):
    assert explain_missing(weights, tmp_path) == 1
    assert f"no photo could be explained; see {tmp_path / 'summary.json'}" in capsys.readouterr().err
    assert len(read_summary(tmp_path)["failed"]) == 2
    assert read_summary(tmp_path)["complete"] is True


def test_a_run_that_explains_nothing_keeps_earlier_results(weights, tmp_path, capsys, monkeypatch):
    earlier = tmp_path / "summary.json"
    earlier.write_text('{"rows": ["dear"]}')
    assert explain_missing(weights, tmp_path) == 1
    assert f"no photo could be explained; {earlier} of an earlier run is kept" in capsys.readouterr().err

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(photo_run, "read_image", interrupted)
    assert explain_missing(weights, tmp_path) == 130
    assert "interrupted; nothing was found so far" in capsys.readouterr().err
    assert earlier.read_text() == '{"rows": ["dear"]}'
    assert list(tmp_path.iterdir()) == [earlier]


def test_earlier_results_are_replaced_by_the_first_row(tmp_path):
    (tmp_path / "summary.json").write_text('{"rows": ["old"]}')
    summary = output.Summary(tmp_path, {"model": "m"})
    summary.write()
    assert read_summary(tmp_path)["rows"] == ["old"]
    summary.rows.append({"photo": "p"})
    summary.write()
    assert read_summary(tmp_path)["rows"] == [{"photo": "p"}]


class _OnlySquares(nn.Module):
    """Like a vision transformer, it takes 224 x 224 only."""

    def forward(self, x):
        if x.shape[2:] != (224, 224):
            raise AssertionError(f"Wrong image height! Expected 224 but got {x.shape[2]}!")
        return x.mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0])


CATEGORIES = ["crane", "great white shark", "hammerhead", "crane", "tiger", "tiger shark", "Indian_elephant"]


NOT_PLAIN = [
    *("..", "...", "-rf", "con", "e\u0301", "a\nb", "\u202egpj", "$HOME", "Ba$$in", "\U0001f600", "x" * 200, " ")
]


def test_nothing_is_written_outside_of_the_folder(tmp_path, monkeypatch):
    """Whatever photographs and classes are called."""
    monkeypatch.setattr(sys.modules[__name__], "CATEGORIES", CATEGORIES.copy())
    run, _ = run_of(tmp_path / "new" / "out", monkeypatch, target=["0"], steps=1, areas=(1.0,))
    monkeypatch.setattr(explain, "write_results", lambda found, images, k, base, *_: base.touch() or {})
    photos = tmp_path / "photos"
    photos.mkdir()
    for k, name in enumerate(NOT_PLAIN):
        run.classifier.categories[0] = f"../../{name}"
        picture(32, 32, k).save(photos / f"{name}.png", "PNG")
        run.explain(str(photos / f"{name}.png"))
    assert not run.summary.failed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "photos"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    folders = [row["folder"] for row in run.summary.rows]
    assert len({name.casefold() for name in folders}) == len(NOT_PLAIN)
    assert all(len(list((tmp_path / "new" / "out" / name).iterdir())) == 1 for name in folders)


def test_a_folder_is_its_images_in_the_order_of_their_names(tmp_path, monkeypatch):
    for name in ("b.png", "a.JPG", "c.bmp"):
        picture(32, 32).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "drawing.eps").write_text("%!PS")
    (tmp_path / "inner.png").mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert [Path(path).name for path in photo_run.photos_at(str(tmp_path))] == ["a.JPG", "b.png", "c.bmp"]
    run, found = run_of(tmp_path / "out", monkeypatch, photos=[str(tmp_path)], steps=1, areas=(1.0,))
    assert (run.run(), len(found), read_summary(tmp_path / "out")["photos"]) == (0, 3, 3)
    with pytest.raises(console.StopError, match=r"PHOTO: the folder .*empty holds no image"):
        run_of(tmp_path / "other", monkeypatch, photos=[str(empty)])


@pytest.mark.parametrize(
    "place", ["https://example.org/cat.jpg", "http://x/a.png", "s3://bucket/key.jpg", "file:///a.jpg"]
)
def test_an_address_is_no_photograph(tmp_path, monkeypatch, place):
    run, _ = run_of(tmp_path, monkeypatch)
    run.explain(place)
    (failed,) = run.summary.failed
    assert failed["error"] == "is an address: download it first, and give the file or its folder"


@pytest.mark.parametrize(
    "error", [UserWarning("twice"), KeyError("name"), ValueError("$x$"), MemoryError(), AssertionError()]
)
def test_an_error_costs_its_photograph_alone(tmp_path, monkeypatch, capsys, error):
    run, found = run_of(tmp_path, monkeypatch)
    search, calls = run._search, iter(range(9))

    def fails_once(view, **shared):
        if next(calls) == 0:
            raise error
        return search(view, **shared)

    monkeypatch.setattr(run, "_search", fails_once)
    for name in ("a.png", "b.png"):
        picture(32, 32).save(tmp_path / name)
    assert run.over([str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 1
    summary = read_summary(tmp_path)
    assert [Path(row["photo"]).name for row in summary["rows"]] == ["b.png"]
    (failed,) = summary["failed"]
    assert failed["error"].startswith("cannot be explained: ")
    assert str(error.args[0] if error.args else "") in failed["error"]
    assert len(found) == 1


def test_files_of_an_earlier_run_go_with_its_summary(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        picture(32, 32).save(tmp_path / name)
    out = tmp_path / "out"

    def write(found, images, k, base, name, box):
        Path(f"{base}-mask.png").touch()
        return {"mask": f"{base.name}-mask.png"}

    def explained(*photos, **settings):
        run, _ = run_of(out, monkeypatch, **settings, steps=1, areas=(1.0,))
        monkeypatch.setattr(explain, "write_results", write)
        run.over([str(tmp_path / photo) for photo in photos])
        return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())

    two = ["0", "3"]
    names = ["000-crane-mask.png", "003-crane-mask.png"]
    both = explained("a.png", "b.png", target=two)
    assert both == [*(f"{x}/{name}" for x in "ab" for name in [*names, "targets.png"]), "summary.json"]
    (out / "a" / "mine.txt").touch()
    assert explained("missing.png", target=["4"]) == sorted([*both, "a/mine.txt"])  # kept, as nothing replaces them
    assert explained("missing.png", "b.png", target=["4"]) == ["a/mine.txt", "b/004-tiger-mask.png", "summary.json"]
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["a", "b"] or (out / "b").is_dir()


def test_a_summary_from_elsewhere_removes_nothing_outside(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    outside = tmp_path / "dear.png"
    outside.touch()
    files = {"a": "../dear.png", "b": str(outside), "c": "..", "d": "", "e": "."}
    rows = [{"folder": folder, "files": files} for folder in ("", "..", "../..", str(tmp_path))]
    for content in ({"rows": rows}, {"rows": [{"files": {"a": "dear.png"}, "folder": ".."}]}, [], {"rows": [3]}):
        (out / "summary.json").write_text(json.dumps(content))
        output.Summary(out, {}).replace_older()
        assert outside.exists()
        assert (out / "summary.json").exists()


def make_classifier(model=None):
    preset = torchvision.models.get_model_weights(NETWORK).DEFAULT.transforms()
    return Classifier("net", "file", model or nn.Identity(), preset, CATEGORIES, torch.device("cpu"))


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (90, 30, (256, 768)),
        (30, 90, (768, 256)),
        (120, 30, (221, 886)),  # the pixels of 256 x 768: 256 * sqrt(3 / 4) = 221.7
        (30, 120, (886, 221)),
        (480, 10, (64, 3072)),
    ],
)
def test_long_photos_are_made_smaller(width, height, size):
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    rgb, _, cropped = make_classifier(Mean()).fitted(picture(width, height))
    assert not cropped
    assert rgb.shape == (1, 3, *size)


@pytest.mark.parametrize("model", [_OnlySquares(), nn.Identity()], ids=["fixed size", "any size"])
def test_photos_that_are_too_long_are_refused(model):
    with pytest.raises(console.PhotoError, match="490 x 10 px are longer than 48:1: crop it first"):
        make_classifier(model).fitted(picture(490, 10))


@pytest.mark.parametrize(("width", "height"), [(80, 50), (300, 10)])
def test_fixed_size_models_get_the_crop_of_their_weights(width, height):
    """A long photograph is not made smaller before."""
    classifier = make_classifier(_OnlySquares())
    rgb, logits, cropped = classifier.fitted(picture(width, height))
    assert cropped
    assert rgb.shape == (1, 3, 224, 224)
    expected = classifier.preset(picture(width, height)).mean((1, 2)) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


def run_of(folder, monkeypatch, **settings):
    """A run of a tiny classifier whose weights want a shorter side of 32 px, and what it finds, photo by photo."""
    layers = lambda: nn.Sequential(nn.Conv2d(3, 7, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())  # noqa: E731
    classifier, found = tiny_classifier(layers, CATEGORIES), []
    monkeypatch.setattr(explain, "write_results", lambda masks, *_: found.append(masks) or {})
    given = {"photos": [], "out": folder, "target": None, "game": None, "score_fraction": 1.0, "steps": 4}
    given |= {"areas": (0.3, 0.6), "perturbation": None, "robustness": False, "html": False} | settings
    return explain.ImageRun(SimpleNamespace(**given), classifier), found


def test_a_star_is_told_with_the_agreement_of_searches(tmp_path, monkeypatch, capsys):
    run, _ = run_of(tmp_path, monkeypatch, target=["tiger"])
    picture(32, 32).save(tmp_path / "a.png")
    search = run._search
    known = {"optimal_area": 0.213, "optimal_agreement": 0.826, "vacuous": False}

    def searched(view, **shared):
        found = search(view, **shared)
        return dataclasses.replace(
            found, **{name: torch.full_like(getattr(found, name), v) for name, v in known.items()}
        )

    monkeypatch.setattr(run, "_search", searched)
    assert run.over([str(tmp_path / "a.png")]) == 0
    _, head, line, *_ = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1] == "searches agree"
    assert line.split()[-3:] == ["21.3", "%", "0.83"]
    (row,) = read_summary(tmp_path)["rows"]
    assert (row["optimal_area"], row["agreement"]) == (pytest.approx(0.213), pytest.approx(0.826))


@pytest.mark.parametrize(
    ("scores", "probabilities"),
    [
        ([0.0, 0.0], [0.5, 0.5]),
        ([0.25, 0.75], [0.25, 0.75]),  # they are probabilities already
        ([0.25, 0.7], torch.tensor([0.25, 0.7]).softmax(0).tolist()),
        ([-0.5, 1.5], torch.tensor([-0.5, 1.5]).softmax(0).tolist()),
        ([3.0], [math.nan]),
    ],
)
def test_scores_may_be_probabilities(scores, probabilities):
    classifier = tiny_classifier(nn.Identity, CATEGORIES)
    torch.testing.assert_close(
        classifier.probabilities(torch.tensor(scores)), torch.tensor(probabilities), equal_nan=True
    )


@pytest.mark.filterwarnings("default:nothing to go by:UserWarning")
def test_a_warning_names_its_photo(tmp_path, monkeypatch, capsys):
    run, _ = run_of(tmp_path, monkeypatch)
    monkeypatch.setattr(run, "_search", lambda *_, **__: warnings.warn("nothing to go by", stacklevel=1) or 1 / 0)
    picture(32, 32).save(tmp_path / "a.png")
    assert run.over([str(tmp_path / "a.png")]) == 1
    told = capsys.readouterr().err
    assert f"{tmp_path / 'a.png'}: nothing to go by" in told
    assert "UserWarning" not in told


def test_what_need_not_be_removed_is_told(tmp_path, monkeypatch, capsys):
    run, _ = run_of(tmp_path, monkeypatch, game="delete")
    monkeypatch.setattr(run, "threshold", lambda clean, perturbed: -clean - 1)
    picture(32, 32).save(tmp_path / "a.png")
    assert run.over([str(tmp_path / "a.png")]) == 0
    assert "a* is 0 for 1 of 1: the score is lost with nothing removed" in capsys.readouterr().out


def test_photos_that_need_nothing_are_counted(tmp_path, monkeypatch, capsys):
    run, found = run_of(tmp_path, monkeypatch)
    monkeypatch.setattr(run, "threshold", lambda clean, perturbed: perturbed - 1)
    picture(32, 32).save(tmp_path / "a.png")
    assert run.over([str(tmp_path / "a.png")]) == 0
    printed = capsys.readouterr().out
    assert "a* is 0 for 1 of 1: the score is reached with nothing kept" in printed
    (row,) = read_summary(tmp_path)["rows"]
    assert (row["vacuous"], row["reached"], row["optimal_area"]) == (True, True, 0)
    assert float(found[0].optimal_masks.sum()) == 0


@pytest.mark.parametrize(("value", "told"), [(0.3, True), (1.0, False)])
def test_photos_whose_mask_is_grey_are_counted(tmp_path, monkeypatch, capsys, value, told):
    run, _ = run_of(tmp_path, monkeypatch)
    search = run._search

    def searched(view, **shared):
        found = search(view, **shared)
        masks, area = torch.zeros_like(found.optimal_masks), torch.tensor([0.1])
        masks[..., :16, :] = value
        never = torch.zeros_like(found.vacuous)
        return dataclasses.replace(found, optimal_masks=masks, optimal_area=area, vacuous=never)

    monkeypatch.setattr(run, "_search", searched)
    picture(32, 32).save(tmp_path / "a.png")
    assert run.over([str(tmp_path / "a.png")]) == 0
    assert ("The mask of a* is grey for 1 of 1" in capsys.readouterr().out) is told
    assert read_summary(tmp_path)["rows"][0]["optimal_binariness"] == pytest.approx(value)


def test_the_words_for_figures_are_those_of_the_game():
    assert "keeps of it" in output.figures("preserve")["mask"]
    assert "removes from it" in output.figures("delete")["mask"]
    assert "keeps" not in output.figures("delete")["mask"]
    assert "without the mask's region" in output.figures("delete")["sweep"]


def test_explain_without_areas_looks_for_a_star_between_them(tmp_path, monkeypatch):
    run, found = run_of(tmp_path, monkeypatch, areas=None)
    assert run.how["areas"] is None
    picture(32, 32).save(tmp_path / "a.png")
    run.explain(str(tmp_path / "a.png"))
    assert found[0].areas.tolist() == pytest.approx(AREAS)


def test_seconds_are_those_of_the_whole_photograph(tmp_path, monkeypatch, capsys):
    """From reading it to writing its last file, for all its targets."""
    run, found = run_of(tmp_path, monkeypatch, target=["0", "1"])
    read, nap = photo_run.read_image, 0.3
    monkeypatch.setattr(photo_run, "read_image", lambda path: time.sleep(nap) or read(path))
    monkeypatch.setattr(explain, "write_results", lambda masks, *_: time.sleep(nap) or found.append(masks) or {})
    picture(40, 40).save(tmp_path / "a.png")
    run.explain(str(tmp_path / "a.png"))
    first, second = read_summary(tmp_path)["rows"]
    assert first["search_seconds"] == second["search_seconds"] == found[0].settings["seconds"]
    assert first["seconds"] == second["seconds"] >= first["search_seconds"] + 3 * nap  # one reading, two targets
    shown = [f"{first[name]:.1f} s" for name in ("seconds", "search_seconds")]
    assert "32 x 32 px; {}, of which {} are the search".format(*shown) in capsys.readouterr().out


@pytest.mark.parametrize("perturbation", ["blur", "fade"])
def test_masks_of_long_photos_have_the_usual_lengths(tmp_path, monkeypatch, capsys, perturbation):
    run, found = run_of(tmp_path, monkeypatch, perturbation=perturbation)
    for name, width, height in (("long.png", 300, 25), ("usual.png", 75, 25)):
        picture(width, height).save(tmp_path / name)
        run.explain(str(tmp_path / name))
    long, usual = read_summary(tmp_path)["rows"]
    assert (long["reduced"], long["photo_size"], long["size"]) == (True, [25, 300], [16, 192])
    assert (usual["reduced"], usual["photo_size"], usual["size"]) == (False, [25, 75], [32, 96])
    assert "192 x 16 px, its shorter side reduced as it is longer than 3:1" in capsys.readouterr().out
    assert found[0].settings["mask"].startswith("SmoothMask(step=1.0, sigma=3.0")
    assert torch.equal(found[0].sigma, found[1].sigma)
    blur = f"sigma_max={20 * 32 / 224!r}"
    assert (blur in found[0].settings["perturbation"]) is (perturbation == "blur")
    assert found[0].masks.flatten(2).mean(2)[0].tolist() == [pytest.approx(area, abs=2e-3) for area in (0.3, 0.6)]


@pytest.mark.parametrize("game", ["preserve", "delete", "hybrid"])
def test_threshold_is_a_fraction_of_the_way(tmp_path, monkeypatch, game):
    picture(40, 40).save(tmp_path / "a.png")
    whole, half, fifth = (
        _threshold_row(tmp_path, monkeypatch, game=game, score_fraction=fraction) for fraction in (1.0, 0.5, 0.2)
    )
    clean, hidden = whole["clean_score"], whole["perturbed_score"]
    assert clean > hidden
    ends = {"preserve": (hidden, clean), "delete": (-clean, -hidden), "hybrid": (hidden - clean, clean - hidden)}
    nothing, everything = ends[game]
    assert whole["threshold"] == pytest.approx(everything, abs=1e-6)
    assert half["threshold"] == pytest.approx((nothing + everything) / 2, abs=1e-6)
    assert fifth["threshold"] == pytest.approx(0.8 * nothing + 0.2 * everything, abs=1e-6)


def _threshold_row(folder, monkeypatch, **settings):
    run, _ = run_of(folder, monkeypatch, perturbation="fade", **settings)
    run.explain(str(folder / "a.png"))
    return run.summary.rows[0]


@pytest.mark.parametrize("fraction", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("game", ["preserve", "delete", "hybrid"])
def test_the_whole_image_is_always_enough(game, fraction, tmp_path, monkeypatch):
    clean, perturbed = torch.tensor([3.1, -0.7, 1e-3]), torch.tensor([-2.3, 5.9, 0.3])
    whole = as_game(game).value(clean, perturbed)
    run, _ = run_of(tmp_path, monkeypatch, game=game, score_fraction=fraction)
    threshold = run.threshold(clean, perturbed)
    assert (whole >= threshold).all()
    assert torch.equal(whole, threshold) is (fraction == 1)


class _Fails(nn.Module):
    """Fails where ``refuses`` says so, with the number of the call in the message."""

    def __init__(self, refuses):
        super().__init__()
        self.refuses, self.calls = refuses, 0

    def forward(self, x):
        self.calls += 1
        if self.refuses(x, self.calls):
            raise RuntimeError(f"in call {self.calls}")
        return x.mean((2, 3))


@pytest.mark.parametrize(
    "refuses",
    [
        lambda x, call: True,
        lambda x, call: call == 1,  # by chance
        lambda x, call: x.std((2, 3)).max() > 0.1 and x.shape[2] > 224,  # some contents; a grey picture has no spread
    ],
    ids=["always", "once", "contents"],
)
def test_an_error_that_is_not_about_the_size_is_the_models_own(refuses):
    with pytest.raises(console.PhotoError, match=r"net cannot take it: in call 1$"):
        make_classifier(_Fails(refuses)).fitted(picture(80, 50))


TARGETS = ["top1", "TOP1", "2", "6", "Hammerhead", "tiger", "TIGER  shark", "great", "indian elephant", "great_white"]


@pytest.mark.parametrize(("text", "index"), [*zip(TARGETS, [None, None, 2, 6, 2, 4, 5, 1, 6, 1])])
def test_targets_by_number_and_name(text, index):
    assert make_classifier().index_of(text) == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7", "the classes 0 to 6, got 7"),
        ("-1", "the classes 0 to 6, got -1"),
        ("shark", r"'shark' may be great white shark \(1\), tiger shark \(5\): give more of the name"),
        ("crane", r"'crane' may be crane \(0\), crane \(3\)"),
        ("zebra", "no class named 'zebra'"),
        ("hammerheat", r"no class named 'hammerheat'; near it: hammerhead \(2\)"),
        ("  ", "no class named"),
    ],
)
def test_targets_that_are_none(text, message):
    with pytest.raises(console.StopError, match=message):
        make_classifier().index_of(text)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "squeezenet9"], 2, "no classifier named 'squeezenet9'; near it: squeezenet1_"),
        (["--model", "fcn_resnet50"], 2, "no classifier named 'fcn_resnet50'"),
        (["--device", "cuda:99"], 2, "--device: 'cuda:99' is not available"),
        (["--device", "gpu"], 2, "--device: 'gpu' is not available"),
        (["--device", "meta"], 2, "--device: 'meta' is not available"),
        (["--device", "mps"], 2, "--device: 'mps' is not available: Could not run"),
        (["--areas", "0.5,0.2"], 2, "--areas: areas must be strictly increasing"),
        (["--areas", "0", "--areas", "0.2"], 2, r"--areas: areas must be fractions in (0, 1]"),
        (["--target", "no such thing"], 2, "no class named 'no such thing'"),
        (["--target", "1000"], 2, "has the classes 0 to 999, got 1000"),
        (["--weights", "nowhere.pth"], 1, "there is no file nowhere.pth"),
        (["--classes", "nowhere.txt"], 1, "--classes: nowhere.txt cannot be read"),
        (["--classes", __file__], 1, "must name each of 1000 classes, one a line, got "),
        (["--out", __file__], 1, "cannot make the folder"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments, status, message, weights, capsys, tmp_path):
    photo = tmp_path / "a.png"
    picture(40, 40).save(photo)
    usual = ["explain", str(photo), "--model", NETWORK, "--weights", weights, "--out", str(tmp_path / "out")]
    assert cli.main([*usual, *arguments]) == status
    assert message in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


WRONG = "--steps 0, --game chess, --areas many, --score-fraction 90, --score-fraction 0, --score-fraction nan"


@pytest.mark.parametrize("wrong", ["", "explain", "demo --seed -1", "demo --seed x", "nothing", *WRONG.split(", ")])
def test_usage_errors_look_like_the_others(wrong, capsys):
    assert cli.main([*("explain a.jpg" if wrong.startswith("--") else "").split(), *wrong.split()]) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith("captum-extremal: error: ")
    assert re.search(r"; see captum-extremal( explain| demo)? --help$", line)
    named = re.search(r"--[a-z-]+", wrong)
    assert not named or line.startswith(f"captum-extremal: error: {named[0]}: ")


def python(*arguments, path=()):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, path), str(Path(cli.__file__).parents[2])])}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False, env=environment
    )


ANSWER = """
import sys
from captum_extremal.cli import main

wrong = [], ["explain"], ["explain", "a.jpg", "--areas", "many"], ["channels", "--layer", "x"], ["demo", "--seed", "-1"]
assert [main(arguments) for arguments in wrong] == [2] * len(wrong)
commands = [], ["demo"], ["explain"], ["channels"], ["evaluate"], ["compare"]
right = [["--version"], *([*command, "--help"] for command in commands)]
assert [main(arguments) for arguments in right] == [0] * len(right)
heavy = {"torch", "torchvision", "captum", "matplotlib", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_and_wrong_arguments_are_answered_without_pytorch():
    done = python("-c", ANSWER)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_ctrl_c_while_pytorch_is_imported(tmp_path):
    handler = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job ignores the signal
    interrupt = f"import os, signal, time\n{handler}\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "torch.py").write_text(interrupt)
    done = python("-m", "captum_extremal.cli", "demo", "--out", str(tmp_path / "out"), path=[tmp_path])
    assert done.returncode == 130
    assert done.stderr == "captum-extremal: interrupted\n"


def test_defaults_are_those_of_the_library(weights, tmp_path):
    assert explain_missing(weights, tmp_path) == 1
    own = inspect.signature(ExtremalPerturbation.extremal_masks).parameters
    summary = read_summary(tmp_path)
    assert tuple(summary["areas"]) == AREAS
    assert summary["game"] == own["game"].default
    assert (own["perturbation"].default, summary["perturbation"]) == (None, "blur")
    assert summary["steps"] == PathSolver().steps


def test_help_shows_the_librarys_defaults(capsys):
    how = {name: field.default for name, field in Evaluation.__dataclass_fields__.items()}
    counts = ChannelMask().layout(read_axes(torch.zeros(1, 250, 1, 1))).default_areas
    own = {
        "areas": ", ".join(map(str, AREAS)),
        "counts": ", ".join(map(str, counts[:-1])) + ", ... and all",
        "perturbation": {BlurPyramid(): "blur"}[InputSearchSettings().chosen_perturbation()],
        "game": InputSearchSettings.game,
        "steps": PathSolver().steps,
        "inversion_steps": inspect.signature(FeatureInversion.invert).parameters["steps"].default,
        "metric": ", ".join(how["metrics"]),
        "tolerance": f"{TOLERANCE:g}",
        "curve_steps": how["steps"],
        "batch_size": how["batch_size"],
    }
    assert {name: str(value) for name, value in own.items()} == options.OWN
    shown = ""
    for command in ("explain", "channels", "evaluate", "compare"):
        assert cli.main([command, "--help"]) == 0
        shown += " ".join(capsys.readouterr().out.split())
    assert [name for name, value in options.OWN.items() if f"({value})" not in shown] == []


def test_choices_are_those_of_the_library():
    method = ExtremalPerturbation(lambda x: x.mean((2, 3)))
    hints = get_type_hints(app.explain)
    for name in ("game", "perturbation"):
        with pytest.raises(ValueError, match="must be one of") as raised:
            method.attribute(torch.zeros(1, 3, 8, 8), target=0, **{name: "chess"})
        choices = get_args(get_args(hints[name])[0])
        assert set(re.findall(r"'(\w+)'", str(raised.value))) == {*choices, "chess"}


LITERAL = "[red]a[/red] :smile: [1] \\[b]"


def test_names_from_outside_are_printed_literally(capsys):
    console.say(LITERAL)
    console.print_table([(LITERAL, "b")], (LITERAL, "c"))
    console.print_files(LITERAL, {LITERAL: LITERAL})
    with console.ProgressBar(LITERAL) as progress:
        progress(1, 1)
        console.say(LITERAL, progress.console)
    stdout, stderr = capsys.readouterr()
    assert stdout.count(LITERAL) == 5
    assert stderr.count(LITERAL) == 3


def terminal(monkeypatch, stream, columns):
    """What is written to a terminal that takes the place of a stream."""
    file = io.StringIO()
    file.isatty = lambda: True
    monkeypatch.setattr(sys, stream, file)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    return file


def test_a_progress_bar_on_a_terminal_shows_names_literally(monkeypatch):
    file = terminal(monkeypatch, "stderr", 120)
    with console.ProgressBar(LITERAL) as progress:
        progress(3, 4)
    assert LITERAL in file.getvalue()
    assert "3/4" in file.getvalue()


def test_a_file_has_whole_lines_without_control_codes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name = "/a folder/" + "long " * 40 + ".png"
    console.say(f"error: {name}")
    console.print_table([(name, name), ("b", "c")], ("file", "text"))
    with console.ProgressBar(name) as progress:
        progress(1, 2)
        progress(2, 2)
    stdout, stderr = capsys.readouterr()
    assert stderr.splitlines() == [f"captum-extremal: error: {name}", f"{name}: 100%, 2 of 2 pairs, 0 s left"]
    assert [line.split() for line in stdout.splitlines()] == [["file", "text"], [*name.split() * 2], ["b", "c"]]
    assert "\x1b" not in stdout + stderr


def test_a_console_without_some_signs_prints_their_codes(tmp_path):
    name = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    for encoding in ("latin-1:strict", "ascii:strict", "utf-8:strict"):
        code = (
            "import sys; from captum_extremal.cli.console import *\nwith printing_anything(): print('\\u732b\\udce9')"
        )
        environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
        assert done.stdout == (b"\xe7\x8c\xab" if encoding.startswith("utf") else b"\\u732b") + b"\\udce9\n"
    before = sys.stdout.errors, sys.stderr.errors
    assert cli.main(["explain", str(name), "--device", "none"]) == 2
    assert (sys.stdout.errors, sys.stderr.errors) == before


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe that closes")
def test_a_reader_that_has_gone_ends_the_command_quietly():
    """As after "| head -1"."""
    code = "import sys, types; from captum_extremal.cli import console, main\n"
    code += "run = lambda given: [console.print_table([('x' * 999,)]) for _ in range(999)]\n"
    code += "sys.modules['captum_extremal.cli.compare'] = types.SimpleNamespace(run=run)\n"
    code += "sys.exit(main(['compare', '.']))"
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    with subprocess.Popen([sys.executable, "-c", code], **how) as process:
        assert process.stdout.readline().startswith(b"xxx")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == console.UNREAD


def test_a_warning_made_an_error_is_told_in_a_line(monkeypatch, capsys):
    def warned(given):
        raise DeprecationWarning("gone\nsoon")

    monkeypatch.setattr(demo, "run", warned)
    assert cli.main(["demo"]) == 1
    assert "a warning was made an error: DeprecationWarning: gone soon" in one_line(capsys.readouterr().err)


def test_work_that_takes_long_is_told_now_and_then_in_a_file(monkeypatch, capsys):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.05)
    with console.telling("photo 1: {:.1f} s so far".format):
        time.sleep(0.3)
    told = capsys.readouterr().err.splitlines()
    assert 2 <= len(told) <= 6
    assert all(re.fullmatch(r"captum-extremal: photo 1: 0\.\d s so far", line) for line in told)
    time.sleep(0.15)
    assert capsys.readouterr().err == ""  # it has ended
    file = terminal(monkeypatch, "stderr", 80)
    with console.telling("photo 1: {:.1f} s so far".format):
        time.sleep(0.15)
    assert file.getvalue() == ""  # which has a bar


def test_a_table_on_a_narrow_terminal_loses_nothing(monkeypatch):
    file = terminal(monkeypatch, "stdout", 40)
    console.print_table([("x" * 30, "y" * 50)])
    printed = file.getvalue()
    assert max(map(len, printed.splitlines())) <= 40
    assert (printed.count("x"), printed.count("y")) == (30, 50)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"captum-extremal {own_version()}\n"


def test_runs_as_a_module():
    done = python("-m", "captum_extremal.cli", "demo", "--seed", "none")
    assert done.returncode == 2
    assert "captum-extremal: error: --seed: " in one_line(done.stderr)


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch, capsys):
    def offline(*_, **__):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert cli.main(["explain", "a.jpg", "--model", NETWORK, "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    error = lines[-1]
    assert all(line.startswith("Downloading") for line in lines[:-1])  # torch.hub's
    assert f"those of {NETWORK} cannot be downloaded" in error
    assert "name resolution" in error


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_forms_of_a_weights_file(state, tmp_path, wrap, prefix):
    torch.save(wrap({f"{prefix}{key}": value.half() for key, value in state.items()}), tmp_path / "w.pth")
    model, classes = from_file(NETWORK, str(tmp_path / "w.pth"), 1000)
    assert classes == 1000
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, state[key].half().float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", [NETWORK, "resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("classes", [1, 4])
def test_fine_tuned_weights_of_any_number_of_classes(tmp_path, name, classes):
    tuned = torchvision.models.get_model(name, weights=None, num_classes=classes)
    torch.save(tuned.state_dict(), tmp_path / "w.pth")
    classifier = loaded_classifier(name, str(tmp_path / "w.pth"), None, "cpu")
    assert classifier.categories == [f"class {k}" for k in range(classes)]
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(x), tuned.eval()(x))
    assert classifier.index_of("class 0") == 0
    with pytest.raises(console.StopError, match=f"the classes 0 to {classes - 1}, got 7"):
        classifier.index_of("7")


def test_names_of_classes_from_a_file(tmp_path):
    torch.save(torchvision.models.get_model(NETWORK, num_classes=3).state_dict(), tmp_path / "w.pth")
    names = tmp_path / "names.txt"

    def loaded():
        return loaded_classifier(NETWORK, str(tmp_path / "w.pth"), str(names), "cpu")

    names.write_text("Käfer\r\n  red wine \nhouse\n\n", encoding="utf-8")
    assert loaded().categories == ["Käfer", "red wine", "house"]
    assert loaded().index_of("wine") == 1
    for content, message in (
        (b"one\ntwo", "must name each of 3 classes, one a line, got 2"),
        (b"\xff", "cannot be read"),
    ):
        names.write_bytes(content)
        with pytest.raises(console.StopError, match=message) as raised:
            loaded()
        assert raised.value.status == 1


def test_inputs_are_transformed_as_beside_torchvisions_own_weights():
    assert untrained("googlenet", 2).transform_input is True


def lightning(state):
    ema = {f"ema_model.{key}": torch.zeros_like(value) for key, value in state.items()}
    return {
        "state_dict": ema | {f"model.{key}": value for key, value in state.items()} | {"loss.weight": torch.ones(2)}
    }


def averaged(state):
    return {"model_ema": {key: value * 0 for key, value in state.items()}, "model": state, "optimizer": {"state": {}}}


SAVED = {
    "PyTorch's tutorial": (
        lambda s: {"epoch": 3, "model_state_dict": s, "loss": 0.1},
        "model_state_dict; left epoch, loss",
    ),
    "compiled": (lambda s: {f"_orig_mod.{key}": value for key, value in s.items()}, None),
    "compiled, parallel": (
        lambda s: {f"module._orig_mod.{key}": v for key, v in s.items()},
        "names begin with module.",
    ),
    "parallel features": (lambda s: {key.replace("features.", "features.module."): v for key, v in s.items()}, None),
    "Lightning": (lightning, "state_dict, whose names begin with model.; left ema_model, loss"),
    "averaged beside": (averaged, "from model; left model_ema, optimizer"),
    "averaged alone": (lambda s: {"ema": {"module": s}, "step": 7}, "from ema.module; left step"),
    "averaged by PyTorch": (
        lambda s: {"n_averaged": torch.tensor(3)} | {f"module.{key}": value for key, value in s.items()},
        "names begin with module.; left n_averaged",
    ),
    "a backbone's name": (lambda s: {"net": {f"encoder.{key}": value for key, value in s.items()}}, "from net, whose"),
}


@pytest.mark.parametrize(("save", "told"), SAVED.values(), ids=SAVED)
def test_checkpoints_as_people_save_them(state, tmp_path, capsys, save, told):
    torch.save(save(dict(state)), tmp_path / "w.pth")
    model, _ = from_file(NETWORK, str(tmp_path / "w.pth"), 1000)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    said = capsys.readouterr().err
    assert said == "" if told is None else told in one_line(said)
    assert told is None or f"took {len(state)} tensors" in said


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("aux", [False, True])
def test_heads_that_only_training_uses_may_be_missing(tmp_path, capsys, name, aux):
    with torch.random.fork_rng():
        tuned = torchvision.models.get_model(
            name, num_classes=3, aux_logits=aux, init_weights=False, transform_input=True
        )
    torch.save(tuned.state_dict(), tmp_path / "w.pth")
    model, classes = from_file(name, str(tmp_path / "w.pth"), 1000)
    assert classes == 3
    assert all(torch.equal(value, tuned.state_dict()[key]) for key, value in model.state_dict().items())
    left = {"googlenet": "; left aux1, aux2", "inception_v3": "; left AuxLogits"}[name]
    assert (left in capsys.readouterr().err) is aux


def test_weights_of_a_larger_network_of_the_kind_do_not_fit(tmp_path):
    torch.save({"model": torchvision.models.resnet34().state_dict()}, tmp_path / "w.pth")
    with pytest.raises(console.StopError, match=r"(?s)does not fit resnet18: .*layer1.2.conv1.weight"):
        from_file("resnet18", str(tmp_path / "w.pth"), 1000)


def test_files_that_hold_no_weights_are_told(tmp_path):
    path = tmp_path / "w.pth"
    picture(8, 8).save(tmp_path / "photo.jpg")
    for content in (b"", b"no weights", b"101", (tmp_path / "photo.jpg").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(console.StopError, match=r"w.pth is no file that torch.save wrote"):
            from_file(NETWORK, str(path), 1000)
    torch.save({"state_dict": {"a": torch.ones(1)}, "hyper_parameters": SimpleNamespace()}, path)
    with pytest.raises(
        console.StopError, match=r"holds more than a state dict, types.SimpleNamespace: save model.state"
    ):
        from_file(NETWORK, str(path), 1000)


def test_a_class_file_may_begin_with_a_byte_order_mark(tmp_path):
    torch.save(torchvision.models.get_model(NETWORK, num_classes=2).state_dict(), tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("first\nsecond\n", encoding="utf-8-sig")
    classifier = loaded_classifier(NETWORK, str(tmp_path / "w.pth"), str(tmp_path / "names.txt"), "cpu")
    assert classifier.index_of("first") == 0
    assert classifier.categories == ["first", "second"]


def test_weights_files_that_do_not_fit(state, tmp_path):
    path = tmp_path / "w.pth"
    other = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=10)
    for content, message in (
        (dict(list(state.items())[1:]), r"(?s)does not fit squeezenet1_0: .*features.0.weight"),
        (other.state_dict(), r"(?s)does not fit squeezenet1_0: .*features"),
        (nn.Linear(2, 2), "holds more than a state dict"),
        *((content, "holds no state dict") for content in ({"epoch": 3}, torch.ones(3), {}, {0: torch.ones(3)}, [1])),
    ):
        torch.save(content, path)
        with pytest.raises(console.StopError, match=message) as raised:
            from_file(NETWORK, str(path), 1000)
        assert raised.value.status == 1
    for content in (b"", b"no weights", b"PK\x03\x04 cut short"):
        path.write_bytes(content)
        with pytest.raises(console.StopError, match=r"w\.pth"):
            from_file(NETWORK, str(path), 1000)


def test_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cases, "_DIGIT_STEPS", 20)
    out = tmp_path / "a folder" / "demo"
    threads = torch.get_num_threads()
    assert cli.main(["demo", "--seed", "0", "--out", str(out)]) == 0
    assert torch.get_num_threads() == threads
    summary, printed = read_summary(out), capsys.readouterr().out
    assert str(out.resolve()) in printed
    assert summary["complete"] is True
    assert (out / "overview.png").is_file()
    rows = summary["rows"]
    assert [row["target"] for row in rows] == summary["targets"]
    assert len(rows) >= 2
    scene = DigitScenes(1, seed=0)[0]
    for row in rows:
        assert row["clean_score"] > 0 > row["perturbed_score"]
        assert row["reached"]
        box = torch.zeros(128, 128)
        x0, y0, x1, y1 = scene.boxes[scene.labels.index(row["target"])].tolist()
        box[y0:y1, x0:x1] = 1
        mask = ExtremalMasks.load(out / row["files"]["masks"]).optimal_mask()[0, 0]
        assert row["share_in_box"] == pytest.approx(float((mask * box).sum() / mask.sum()), rel=1e-4)
        assert row["share_in_box"] > 2.5 * float(box.mean())  # far more than chance would put there
        assert set(row["files"]) == {"mask", "sweep", "curves", "order", "overview", "masks", "explorer"}
        assert all((out / name).stat().st_size > 1000 for name in row["files"].values())
        assert f"{row['clean_score']:.2f}" in printed
        assert ExtremalMasks.load(out / row["files"]["masks"]).masks.shape == (1, 6, 1, 128, 128)
        assert row["optimal_area"] not in row["areas"]  # a* lies between them
    assert plt.get_fignums() == []
    assert printed.index(str(out.resolve() / "explorer.html")) < printed.index("overview.png")  # it is named first


def test_demo_is_deterministic_and_its_seed_chooses_the_scene(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "_DIGIT_STEPS", 2)
    monkeypatch.setattr(output, "write_figure", lambda figure, path: Path(path).name)
    monkeypatch.setattr(output, "write_results", lambda *_: {})
    monkeypatch.setattr("captum_extremal.visualization.compare", lambda *_, **__: None)
    summaries = []
    for run, seed in enumerate((0, 0, 1)):
        torch.manual_seed(run)
        assert cli.main(["demo", "--out", str(tmp_path / str(run)), "--seed", str(seed)]) == 0
        summaries.append(read_summary(tmp_path / str(run)))
    assert summaries[0]["rows"] == summaries[1]["rows"]
    assert summaries[0]["rows"] != summaries[2]["rows"]


def test_demo_can_be_interrupted(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "write_results", interrupted)
    monkeypatch.setattr(cases, "_DIGIT_STEPS", 1)
    assert cli.main(["demo", "--seed", "0", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "captum-extremal: interrupted"  # after the bar's lines
