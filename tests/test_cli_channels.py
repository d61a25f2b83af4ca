"""The command ``channels``, from its arguments to the files that it writes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from captum_extremal import ExtremalMasks, cli
from captum_extremal.cli import channels, console, options, photo_run
from captum_extremal.visualization import show_inversions
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
from explorers import data_of

COUNTS = [1, 40, 256]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(untrained_network(6).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    """One run over a photograph and one that is missing: (exit status, folder, stdout, stderr, the photograph)."""
    folder = tmp_path_factory.mktemp("photos")
    picture(48, 40).save(folder / "a.png")
    arguments = [str(folder / "a.png"), str(folder / "missing.png"), "--model", NETWORK, "--weights", weights]
    arguments += ["--layer", "features.7", "--target", "3", "--target", "4", "--areas", ",".join(map(str, COUNTS))]
    arguments += ["--steps", "8", "--score-fraction", "0.5", "--inversion-steps", "2", "--inversion-side", "64"]
    arguments += ["--device", "cpu"]
    status, stdout, stderr = run_quietly("channels", *arguments, "--out", folder / "out")
    return status, folder / "out", stdout, stderr, folder / "a.png"


def test_channels_goes_on_past_a_missing_photo(run):
    status, out, stdout, stderr, photo = run
    assert status == 1
    first, second, failure = stderr.splitlines()
    assert first == f"captum-extremal: photo 1 of 2: {photo}"
    assert second.startswith("captum-extremal: photo 2 of 2: ")
    assert "missing.png: there is no such file" in failure
    lines = stdout.splitlines()
    assert lines[0] == "features.7: 256 channels of 27 x 27 positions"
    assert "a* is none" not in stdout
    assert lines[1].startswith(f"{photo}: 307 x 256 px; ")
    assert lines[2].split() == ["class", "score", "probability", "a*"]
    for line, row in zip(lines[3:5], read_summary(out)["rows"]):
        assert f"class {row['target']}" in line
        assert line.endswith(f" {row['optimal_channels']} of 256")
    assert str(out.resolve()) in stdout


def test_channels_summary_has_a_row_a_target(run):
    _, out, _, _, photo = run
    summary = read_summary(out)
    assert summary["complete"] is True
    assert (summary["model"], summary["layer"], summary["channels"]) == (NETWORK, "features.7", 256)
    assert (summary["photos"], summary["inversion_steps"], len(summary["failed"])) == (2, 2, 1)
    assert summary["areas"] == [count / 256 for count in COUNTS]
    assert [row["target"] for row in summary["rows"]] == [3, 4]
    for row in summary["rows"]:
        assert row["photo"] == str(photo)
        assert row["channel_counts"] == COUNTS
        assert row["runs"] == "tail"
        assert row["reached"] is True  # with all channels at the latest
        assert row["scores"][-1] == row["clean_score"]
        assert row["optimal_channels"] == next(
            count for count, score in zip(COUNTS, row["scores"]) if score >= row["threshold"]
        )


def test_channels_files_belong_to_the_rows(run):
    _, out, _, _, _ = run
    for row in read_summary(out)["rows"]:
        folder = out / row["folder"]
        assert set(row["files"]) == {"channels", "inversion", "masks"}
        for kind in ("channels", "inversion"):
            assert row["files"][kind] == f"00{row['target']}-class-{row['target']}-{kind}.png"
            with Image.open(folder / row["files"][kind]) as figure:
                assert min(figure.size) > 100
        found = ExtremalMasks.load(folder / row["files"]["masks"])
        assert found.masks.shape == (1, 3, 256)
        assert found.scores[0].tolist() == row["scores"]
        best = found.masks[0, COUNTS.index(row["optimal_channels"])]
        listed = [entry["channel"] for entry in row["top_channels"]]
        assert len(set(listed)) == min(10, row["optimal_channels"])
        values = [entry["mask"] for entry in row["top_channels"]]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx(best[listed].tolist(), abs=1e-6)
        assert min(values) == pytest.approx(float(best.sort(descending=True).values[len(listed) - 1]), abs=1e-6)
        for which in ("whole", "masked"):
            assert -1 <= row["inversion"][which]["cosine_similarity"] <= 1
        assert row["inversion"]["whole"] != row["inversion"]["masked"]
    assert not list(out.rglob("*.partial"))
    assert plt.get_fignums() == []


def test_channels_scores_are_those_of_the_model(run, weights):
    _, out, _, _, photo = run
    model, x, logits = whole_logits(photo, torch.load(weights, weights_only=True), num_classes=6)
    row = read_summary(out)["rows"][1]
    found = ExtremalMasks.load(out / row["folder"] / row["files"]["masks"])
    assert row["clean_score"] == pytest.approx(float(logits[4]), abs=1e-4)
    with torch.no_grad():
        hidden = model.features[:8](x) * found.masks[0, 1].view(1, -1, 1, 1)
        kept = model.classifier(model.features[8:](hidden)).flatten(1)[0, 4]
    assert row["scores"][1] == pytest.approx(float(kept), abs=1e-3)


# With a network of a moment


class Tokens(nn.Module):
    """A class token before a grid of 4 x 4 tokens of 6 numbers, of images of 32 px; it takes no others."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, 8)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7)

    def forward(self, x):
        assert x.shape[2:] == (32, 32), "32 px only"
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1))
        return self.head(tokens.tanh().mean(1))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2)
        self.act = nn.ReLU()
        self.second = nn.Conv2d(8, 9, 3)
        self.last = nn.Identity()  # channels last
        self.unused = nn.ReLU()
        self.both = Both()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(9, 7)

    def forward(self, x):
        x = self.act(self.second(self.act(self.first(x))))
        x = self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.pool(self.both(x)[0]).flatten(1))


class Both(nn.Module):
    def forward(self, x):
        return x, x


def make_classifier(kind=Convolutions):
    return tiny_classifier(kind, [f"class {k}" for k in range(7)])


def make_run(folder, classifier, layer, *, areas=(0.5, 1.0), passes=None, side=16, target=None, html=False):
    given = {"photos": [], "out": folder, "target": target, "game": None, "score_fraction": 1.0, "steps": 3}
    given |= {"areas": areas, "no_inversion": passes is None, "inversion_steps": passes, "inversion_side": side}
    given["html"] = html
    return channels.ChannelRun(SimpleNamespace(**given), classifier, layer)


@pytest.mark.parametrize(
    ("kind", "name", "channel_dim", "prefix", "grid"),
    [
        (Convolutions, "first", None, 0, (14, 18)),
        (Convolutions, "last", -1, 0, (12, 16)),
        (Tokens, "norm", 2, 1, (4, 4)),
        (Tokens, "norm", 2, 0, None),
        (Convolutions, "pool", None, 0, None),
        (Convolutions, "head", None, 0, None),
    ],
)
def test_heat_maps_are_equation_11(kind, name, channel_dim, prefix, grid):
    classifier = make_classifier(kind)
    layer = channels.chosen_layer(classifier, name, channel_dim, prefix)
    x = torch.randn(1, 3, 32, 32 if kind is Tokens else 40)
    seen = []
    handle = layer.module.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        classifier.model(x)
    handle.remove()
    masks = torch.rand(2, layer.axes.channels)
    channels_maps = layer.maps(x)
    if grid is None:
        assert channels_maps is None
        return
    maps = channels.heat_maps(channels_maps, masks)
    assert maps.shape == (2, 1, *grid)
    activation = seen[0][0].movedim(0 if channel_dim is None else -1, 0).flatten(1)[:, prefix:]
    for mask, heat_map in zip(masks, maps):
        expected = sum(m * phi for m, phi in zip(mask, activation))
        torch.testing.assert_close(heat_map.flatten(), expected)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Convolutions, ("frist", None, 0), "net has no layer named 'frist'; near it: first; --layer list"),
        (Convolutions, ("zzz", None, 0), "no layer named 'zzz'; --layer list"),
        (Convolutions, ("", None, 0), "no layer named ''"),
        (Convolutions, ("unused", None, 0), "net does not call unused"),
        (Convolutions, ("act", None, 0), "act cannot be masked: called 2 times"),
        (Convolutions, ("both", None, 0), "both cannot be masked: 2 parts"),
        (Convolutions, ("first", 4, 0), "--channel-dim: channel_dim must be one of the layer's 3 dimensions"),
        (Convolutions, ("first", 0, 0), "--channel-dim: channel_dim must be one of"),
        (Convolutions, ("first", None, 1), "--prefix-tokens: first has no 1 tokens .* output is 8 x 14 x 14"),
        (Tokens, ("norm", None, 0), "--channel-dim: channel_dim must be given for a layer of three dimensions"),
        (Tokens, ("norm", -1, 17), "--prefix-tokens: norm has no 17 tokens .* output is 17 x 6"),
    ],
)
def test_layers_that_cannot_be_masked(kind, arguments, message):
    with pytest.raises(console.StopError, match=message) as raised:
        channels.chosen_layer(make_classifier(kind), *arguments)
    assert raised.value.status == 2


def test_a_model_that_fails_keeps_no_hook():
    class Breaks(nn.Identity):
        def forward(self, x):
            raise RuntimeError("never")

    broken = make_classifier(lambda: nn.Sequential(nn.ReLU(), Breaks()))
    with pytest.raises(console.StopError, match="net cannot run: never") as raised:
        channels.chosen_layer(broken, "0", None, 0)
    assert raised.value.status == 1
    assert not any(module._forward_hooks for module in broken.model.modules())


HINT = "; --prefix-tokens 1 leaves out a class token"
NO_MAP = ", no square: there will be no heat map"


@pytest.mark.parametrize(
    ("kind", "name", "how", "text"),
    [
        (Convolutions, "first", (None, 0), "first: 8 channels of 14 x 14 positions"),
        (Convolutions, "head", (None, 0), "head: 7 channels, without positions: there will be no heat map"),
        (Convolutions, "pool", (None, 0), "pool: 9 channels, without positions: there will be no heat map"),
        (Tokens, "norm", (-1, 1), "norm: 6 channels of 4 x 4 positions"),
        (
            Tokens,
            "norm",
            (-1, 0),
            f"norm: 6 channels of 17 positions{NO_MAP}; --prefix-tokens 1 leaves out a class token",
        ),
        (Tokens, "norm", (-1, 2), f"norm: 6 channels of 15 positions{NO_MAP}"),
    ],
)
def test_what_is_said_of_a_layer(kind, name, how, text):
    assert str(channels.chosen_layer(make_classifier(kind), name, *how)) == text


@pytest.mark.parametrize(("name", "how"), [("head", (None, 0)), ("norm", (-1, 0))])
def test_layers_without_a_map_get_the_curve_alone(tmp_path, name, how):
    kind = Convolutions if name == "head" else Tokens
    classifier = make_classifier(kind)
    layer = channels.chosen_layer(classifier, name, *how)
    picture(32, 32).save(tmp_path / "a.png")
    run = make_run(tmp_path, classifier, layer, passes=1, target=["2", "top1"])
    run.explain(str(tmp_path / "a.png"))
    rows = read_summary(tmp_path)["rows"]
    assert [set(row["files"]) for row in rows] == [{"curves", "masks"}] * len(rows)
    assert all("inversion" not in row for row in rows)
    assert sorted(run.files) == ["CLASS-curves.png", "CLASS.npz"]
    written = [(tmp_path / row["folder"] / row["files"]["curves"]) for row in rows]
    assert all(path.stat().st_size > 1000 for path in written)


def test_channels_of_tokens_have_a_map_on_the_grid(tmp_path, monkeypatch):
    sizes = []

    def drawn(images, heat_maps, whole, masked, **how):
        sizes.append([tuple(x.shape[2:]) for x in (images, heat_maps, whole, masked)])
        return show_inversions(images, heat_maps, whole, masked, **how)

    monkeypatch.setattr("captum_extremal.visualization.show_inversions", drawn)
    classifier = make_classifier(Tokens)
    layer = channels.chosen_layer(classifier, "norm", -1, 1)
    picture(48, 40).save(tmp_path / "a.png")
    run = make_run(tmp_path, classifier, layer, passes=2, target=["1", "3"])
    run.explain(str(tmp_path / "a.png"))
    rows = read_summary(tmp_path)["rows"]
    assert [set(row["files"]) for row in rows] == [{"channels", "inversion", "masks"}] * 2
    assert rows[0]["cropped"] is True
    # The model takes one size alone, so the inversion has it too.
    assert sizes == [[(32, 32), (4, 4), (32, 32), (32, 32)]] * 2


def inverted(folder, monkeypatch, masks, side=32, ruin=False):
    """Inversions of a picture of 32 x 40 px: rows, the images (whole, masked) by row, and those for the page."""
    images = []
    monkeypatch.setattr(
        "captum_extremal.visualization.show_inversions",
        lambda picture, heat_maps, *pair, title: images.append(pair) or Figure(),
    )
    classifier = make_classifier()
    layer = channels.chosen_layer(classifier, "first", None, 0)
    if ruin:
        layer.module.weight.data.fill_(torch.nan)
    view = photo_run.View(torch.rand(1, 3, 32, 40), [2, 4], ["two", "four"], False)
    rows = [{"files": {}} for _ in masks]
    run = make_run(folder, classifier, layer, passes=1, side=side)
    seen = run._add_inversions(rows, torch.rand(2, 1, 4, 4), masks, view, folder)
    return rows, images, seen


@pytest.mark.parametrize(("side", "size"), [(20, (20, 25)), (100, (32, 40))])
def test_side_of_the_inversions(side, size, tmp_path, monkeypatch):
    _, ((whole, masked),), _ = inverted(tmp_path, monkeypatch, torch.ones(1, 8), side)
    assert whole.shape == masked.shape == (1, 3, *size)
    torch.testing.assert_close(whole, masked)  # all channels are kept: the same image


@pytest.mark.parametrize(
    ("kind", "name", "how", "maps", "inversions"),
    [(Tokens, "norm", (-1, 1), 6, 2), (Convolutions, "head", (None, 0), None, 0)],
)
def test_the_page_shows_the_channels(tmp_path, kind, name, how, maps, inversions):
    classifier = make_classifier(kind)
    run = make_run(tmp_path, classifier, channels.chosen_layer(classifier, name, *how), passes=1, html=True)
    picture(32, 32).save(tmp_path / "a.png")
    run.explain(str(tmp_path / "a.png"))
    (written,) = read_summary(tmp_path)["rows"]
    assert next(iter(run.files)) == written["files"]["explorer"] == "explorer.html"
    data = data_of(tmp_path / written["folder"] / "explorer.html")
    assert data["title"] == f"Which channels of {name} are enough?"
    (shown,) = data["explanations"][0]["rows"]
    assert (len(shown["maps"]) if "maps" in shown else None) == maps
    assert len(shown["inversions"]) == inversions
    assert len(shown["masks"]) >= 2


def test_the_page_has_inversions_only_where_every_target_has_them(tmp_path, monkeypatch):
    kept = torch.stack([torch.zeros(8), torch.ones(8)])
    assert inverted(tmp_path, monkeypatch, kept)[2] == {}
    pages = inverted(tmp_path, monkeypatch, torch.ones(2, 8))[2]
    assert [tuple(images.shape) for images in pages.values()] == [(2, 3, 32, 40)] * 2


def test_a_mask_that_keeps_nothing_fails_its_own_inversion_only(tmp_path, monkeypatch, capsys):
    rows, *_ = inverted(tmp_path, monkeypatch, torch.stack([torch.zeros(8), torch.ones(8)]))
    assert "two: no inversion: " in one_line(capsys.readouterr().err)
    assert list(rows[0]["inversion"]) == ["error"]
    assert rows[1]["files"] == {"inversion": "004-four-inversion.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["004-four-inversion.png"]


def test_a_layer_that_cannot_be_inverted_has_no_inversions(tmp_path, monkeypatch, capsys):
    rows, images, _ = inverted(tmp_path, monkeypatch, torch.ones(2, 8), ruin=True)
    assert images == []
    assert all("must be finite" in row["inversion"]["error"] for row in rows)


def test_too_few_channels_are_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(photo_run.PhotoRun, "threshold", lambda self, clean, perturbed: clean + 1e6)
    classifier = make_classifier()
    layer = channels.chosen_layer(classifier, "first", None, 0)
    run = make_run(tmp_path, classifier, layer, areas=(1 / 8,))
    picture(40, 40).save(tmp_path / "a.png")
    assert run.over([str(tmp_path / "a.png")]) == 0
    printed = capsys.readouterr().out
    assert " none of 8\n" in printed
    assert "a* is none for 1 of 1" in printed
    assert "1.0, all channels, is always enough" in printed
    assert "ask for less with a --score-fraction below 1.\n" in printed
    row = read_summary(tmp_path)["rows"][0]
    assert row["optimal_channels"] is None
    assert len(row["top_channels"]) == 1


def test_layer_list_needs_no_weights(capsys, monkeypatch):
    def offline(*_, **__):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert cli.main(["channels", "--layer", "list", "--model", "resnet18"]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["layer", "kind", "output"]
    assert ["conv1", "Conv2d", "64 x 112 x 112"] in lines
    assert ["layer4", "Sequential", "512 x 7 x 7"] in lines
    assert ["layer1.0.relu", "ReLU", "called 2 times"] in lines
    assert ["fc", "Linear", "1000"] in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "features.77"], "squeezenet1_0 has no layer named 'features.77'; near it: features.7"),
        (["--layer", "classifier.1", "--areas", "1,7"], "--areas: areas must be at most the layer's 6 channels"),
        (["--layer", "features.7", "--areas", "1,0.5"], "--areas: areas must be all integers"),
        (["--layer", "features.7", "--areas", "0"], "--areas: areas must be strictly increasing numbers of channels"),
        (["--layer", "features.7", "--areas", "0.001"], "--areas: areas must be"),
        (["--layer", "features.7", "--areas", "1.5"], "--areas: areas must be fractions"),
        (["--layer", "features.7", "--target", "6"], "has the classes 0 to 5, got 6"),
        (["--layer", "list", "--model", "squeezenet9"], "no classifier named 'squeezenet9'"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments, message, weights, capsys, tmp_path):
    usual = ["channels", "a.png", "--model", NETWORK, "--weights", weights, "--out", str(tmp_path / "out")]
    assert cli.main([*usual, *arguments]) == 2
    assert message in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_photographs_are_needed(capsys):
    assert cli.main(["channels", "--layer", "features.7"]) == 2
    assert "PHOTO: at least one photograph must be given" in one_line(capsys.readouterr().err)


WRONG = "--areas many, --inversion-steps 0, --inversion-side -1, --prefix-tokens -1, --channel-dim last"


@pytest.mark.parametrize("wrong", WRONG.split(", "))
def test_usage_errors(wrong, capsys):
    assert cli.main(["channels", "a.jpg", "--layer", "x", *wrong.split()]) == 2
    assert cli.main(["channels", "a.jpg"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_counts_and_fractions_are_told_apart():
    values = options.numbers("1,1.0, 0.5,1e-1")
    assert values == [1, 1.0, 0.5, 0.1]
    assert [type(value) for value in values] == [int, float, float, float]
