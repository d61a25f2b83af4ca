"""Networks that ``--model`` names and that are not torchvision's, and what the options say of their pictures."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from captum_extremal import PathSolver, cli
from captum_extremal.cli import cases, console, demo
from captum_extremal.cli.classifier import loaded_classifier
from captum_extremal.cli.networks import Look
from captum_extremal.cli.sentences import interesting
from cli_photos import picture, read_summary, run_quietly

OWN = """
import torch
from torch import nn


class Kinds:
    @staticmethod
    def small(classes=3):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(8, classes))


small = Kinds.small


def no_network():
    return 3


def positions():
    return nn.Conv2d(3, 2, 3)


def broken():
    raise OSError("no weights\\nhere")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of one's own in the folder in which the command is given."""
    (tmp_path / "networks_of_ones_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield "networks_of_ones_own"
    sys.modules.pop("networks_of_ones_own", None)


def test_a_function_of_ones_own_is_explained(own, tmp_path):
    picture(60, 40).save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("cat\ndog\nhen\n")
    arguments = ["--model", f"{own}:Kinds.small", "--classes", "names.txt", "--size", "32", "--target", "dog"]
    looks = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.5,1"]
    how = ["--areas", "0.5", "--steps", "2", "--score-fraction", "0.5"]
    status, _, told = run_quietly("explain", "a.png", *arguments, *looks, *how, "--out", "out")
    assert status == 0, told
    summary = read_summary(tmp_path / "out")
    (row,) = summary["rows"]
    assert (summary["model"], summary["weights"], summary["classes"]) == (f"{own}:Kinds.small", "its own", 3)
    assert (row["target"], row["name"], row["size"]) == (1, "dog", [32, 48])
    x = loaded_classifier(f"{own}:small", "DEFAULT", look=Look(size=32)).fitted(Image.open("a.png"))[0]
    model = sys.modules[own].small().eval()
    shifted = (x - 0.5) / torch.tensor([0.25, 0.5, 1.0])[:, None, None]
    with torch.no_grad():
        assert row["clean_score"] == pytest.approx(float(model(shifted)[0, 1]), abs=1e-4)


def test_layers_of_a_function_of_ones_own_are_listed(own):
    status, printed, told = run_quietly("channels", "--layer", "list", "--model", f"{own}:small", "--size", "32")
    assert status == 0, told
    assert "8 x 8 x 8" in printed


def test_weights_of_any_number_of_classes_go_into_a_function_of_ones_own(own, tmp_path):
    loaded_classifier(f"{own}:small", "DEFAULT", look=Look(size=32))
    torch.save(sys.modules[own].small().state_dict(), tmp_path / "w.pth")
    read = loaded_classifier(f"{own}:small", "w.pth", look=Look(size=32))
    assert (read.weights, read.categories) == ("w.pth", ["class 0", "class 1", "class 2"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("networks_of_ones_own:nothing", "cannot be had: AttributeError"),
        ("no_such_module:f", "cannot be had: ModuleNotFoundError"),
        ("networks_of_ones_own:no_network", r"must return a torch.nn.Module, got int"),
        ("networks_of_ones_own:broken", "cannot be had: OSError: no weights here"),
        ("networks_of_ones_own:positions", r"must return scores \(N, K\), got \(1, 2, 30, 30\)"),
    ],
)
def test_functions_that_are_no_networks_are_told(own, name, message):
    path = list(sys.path)
    with pytest.raises(console.StopError, match=message):
        loaded_classifier(name, "DEFAULT", look=Look(size=32))
    assert sys.path == path


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--mean", "0.5", "three numbers"),
        ("--mean", "123.7,116.3,103.5", "[0, 1]"),
        ("--std", "1,0,1", "above 0"),
        ("--size", "0", "1"),
        ("--mean", "a,b,c", "a"),
    ],
)
def test_wrong_looks_are_told(option, value, rule):
    status, _, told = run_quietly("explain", "a.png", option, value)
    assert status == 2
    assert option in told
    assert rule in told


def test_detectors_and_the_digit_network_take_no_look(tmp_path):
    for command in (
        ["explain", "a.png", "--task", "detection", "--size", "64"],
        ["evaluate", "--data", "digits:1", "--model", "digits", "--method", "center", "--mean", "0,0,0"],
    ):
        status, _, told = run_quietly(*command, "--out", tmp_path / "out")
        assert status == 2
        assert "--mean, --std, --size" in told


# timm, of which a stand-in has what is used


@pytest.fixture
def timm(own, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def create_model(name, pretrained, num_classes=3):
        made.append((name, pretrained))
        model = __import__(own).small(num_classes)
        model.num_classes = num_classes
        return model

    how = {"input_size": (3, 28, 28), "crop_pct": 0.875, "mean": (0.1, 0.2, 0.3), "std": (1, 1, 1)}
    info = SimpleNamespace(label_descriptions=lambda: ["cat", "dog", "hen"])
    data = SimpleNamespace(
        resolve_model_data_config=lambda model: how | {"interpolation": "bicubic"},
        infer_imagenet_subset=lambda model: "small",
        ImageNetInfo=lambda subset: info,
    )
    listed = SimpleNamespace(list_models=lambda: ["vit_small"], create_model=create_model, data=data, made=made)
    monkeypatch.setitem(sys.modules, "timm", listed)
    return listed


def test_networks_of_timm_come_with_their_looks_and_names(timm):
    read = loaded_classifier("timm:vit_small.some_tag", "DEFAULT")
    assert timm.made == [("vit_small.some_tag", True)]
    assert (read.preset.resize_size, read.preset.crop_size, read.preset.mean) == ([32], [28], (0.1, 0.2, 0.3))
    assert read.categories == ["cat", "dog", "hen"]
    assert loaded_classifier("timm:vit_small", None, look=Look(mean=(0, 0, 1))).preset.mean == (0, 0, 1)
    assert timm.made[1:] == [("vit_small", False)]


def test_weights_of_ones_own_go_into_networks_of_timm(timm, own, tmp_path):
    torch.save(__import__(own).small(5).state_dict(), tmp_path / "w.pth")
    assert len(loaded_classifier("timm:vit_small", str(tmp_path / "w.pth")).categories) == 5


def test_wrong_names_of_timm_are_told(timm, monkeypatch):
    with pytest.raises(console.StopError, match="no model named 'vit_smal'; near it: vit_small"):
        loaded_classifier("timm:vit_smal", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(console.StopError, match="pip install timm"):
        loaded_classifier("timm:vit_small", None)


# The demo


@pytest.mark.skipif(not cases.has_photographs(), reason="needs the extra demo")
def test_demo_explains_both_photographs_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "_SIZE", (64, 96))
    monkeypatch.setattr(cases, "_QUICK", PathSolver(steps=2, refinement=0))
    status, printed, told = run_quietly("demo", "--out", tmp_path)
    assert status == 0, told
    rows = read_summary(tmp_path)["rows"]
    assert [row["photo"] for row in rows] == ["chelsea.png", "coffee.png"]
    page = tmp_path.resolve() / "explorer.html"
    assert page.is_file()
    assert all(str(page) in printed and row["files"]["explorer"] == page.name for row in rows)
    assert printed.index(str(page)) < printed.index("overview.png")  # the page is named first
    assert sum(line.startswith("- ") for line in printed.splitlines()) == 3


@pytest.mark.skipif(not cases.has_photographs(), reason="needs the extra demo")
def test_the_demos_network_is_the_one_that_was_trained(monkeypatch):
    quick = cases.lite0()
    monkeypatch.setattr(cases, "fuse_conv_bn_eval", lambda conv, norm: nn.Sequential(conv, norm))
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(quick(x), cases.lite0()(x), atol=1e-3, rtol=1e-3)


def test_lines_of_progress_are_a_bar(capsys):
    lines = console.LinesOfProgress(25)
    for step in range(30):  # the first image is finished, and then both are
        lines(step, torch.tensor([[torch.nan], [0.5 if step < 20 else torch.nan]]), torch.zeros(2, 1))
    lines.finish()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 10
    assert told[3].startswith("captum-extremal: [####......] 40 %, ")
    assert told[3].endswith("the masks keep 50 %")
    assert told[-2].startswith("captum-extremal: [#########.] 90 %, ")
    assert told[-1].startswith("captum-extremal: [##########] 100 %, ")
    assert "nan" not in "".join(told)


def test_the_demo_has_no_share_of_a_mask_that_keeps_nothing():
    empty = SimpleNamespace(optimal_mask=lambda: torch.zeros(1, 1, 8, 8))
    assert demo._share_within(torch.tensor([0, 0, 4, 4]), empty) is None


def test_demo_without_photographs_says_how_to_get_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cases, "has_photographs", lambda: False)
    monkeypatch.setattr("captum_extremal.cli.demo._explain", lambda case, folder, html: None)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0
    assert "captum-extremal[demo]" in capsys.readouterr().out


def row(name, area=0.1, clean=10.0, hidden=0.0, score=10.5, left=2.0, scores=(9.0, 10.5), **more):
    usual = {"reached": True, "vacuous": False, "optimal_area": area, "areas": [0.05, 0.1], "scores": list(scores)}
    usual |= {"clean_score": clean, "perturbed_score": hidden, "optimal_score": score}
    return usual | {"name": name, "optimal_complement_score": left} | more


def test_the_most_interesting_sentences_are_of_different_kinds():
    told = interesting([row("cat", left=9.5), row("cup", 0.02, scores=(14.0, 12.0), photo="/x/coffee.png")])
    assert len(told) == 3
    assert told[0].startswith("cup in coffee.png: 2 % of the image is enough")
    assert told[1].startswith("cat: without the part that is enough, the score is 9.5 instead of 10.0. So another ")
    (both,) = [text for text in interesting([row("cat", left=10.5)]) if "without the part" in text]
    assert both.endswith("So another part is enough too.")
    assert told[2].startswith("cup in coffee.png: 5 % of the image scores 14.0, more than all of it (10.0)")


def test_sentences_of_what_is_never_or_always_enough():
    assert "no part is needed" in interesting([row("cat", 0.0, vacuous=True)])[0]
    assert "none of the areas is enough" in interesting([row("cat", None, reached=False)])[0]
    assert interesting([]) == []
