"""``captum-extremal evaluate`` and ``compare``: from arguments to tables, killed, resumed and shared."""

import csv
import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from matplotlib.figure import Figure
from PIL import Image

from captum_extremal import PathSolver, cli, visualization
from captum_extremal.cli import compare, console, evaluate, options
from captum_extremal.datasets import DigitImages, digit_network
from captum_extremal.evaluation import METRICS, Row, RowFile, Settings, make_method, read_rows
from captum_extremal.evaluation import metrics as judging
from captum_extremal.metrics import Outcome, bootstrap_interval, insertion_deletion, pointing_game, summarise
from cli_photos import one_line

DIGITS = ["evaluate", "--data", "digits:6", "--model", "digits", "--device", "cpu"]
POINTING = "pointing within 15 px, as a fraction"
SHOW_BARS = visualization.show_bars
OWN = """
import time


def make(model, seconds=0.0):
    def explain(x, target):
        time.sleep(seconds)
        weights = model.classifier.weight[target]
        return (model.features(x) * weights).sum(1, keepdim=True).detach()

    return explain


def name_type(model):
    def explain(x, target):
        with open("type.txt", "w") as file:
            file.write(str(model(x).dtype))
        return x[:, :1]

    return explain
"""

INTERRUPTED = """
calls = 0
def make(model):
    def explain(x, target):
        global calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return x[:, :1]
    return explain
"""


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """The figures that were asked for, by what they show; none is drawn."""
    asked = {}

    def show_bars(values, ylabel):
        asked[ylabel] = dict(values)
        return Figure()

    monkeypatch.setattr(visualization, "show_bars", show_bars)
    return asked


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder to stand in, with a method of one's own."""
    (tmp_path / "own_method.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_method", None)


def table(folder):
    return json.loads((folder / "table.json").read_text())["runs"]


def evaluated(out, *arguments):
    """The one run in a folder after an evaluation into it."""
    assert cli.main(["evaluate", *arguments, "--out", str(out)]) == 0
    (run,) = table(out)
    return run


def without_time(run):
    return {name: value for name, value in run.items() if "seconds" not in name}


def rows_of(folder):
    (kept,) = read_rows([folder]).values()
    return {pair: (row.values, row.difficult) for pair, row in kept.rows.items()}


def test_the_table_is_that_of_the_metrics(tmp_path, capsys, drawn):
    out = tmp_path / "out"
    arguments = ["--metric", "pointing,energy", "--tolerance", "2", "--out", str(out)]
    assert cli.main([*DIGITS, "--method", "grad_cam", *arguments]) == 0
    data, model = DigitImages(6), digit_network()
    explain = make_method("grad_cam", model, layer="features")
    outcomes = []
    for name, label in data.pairs():
        image = data.load(name)
        maps = explain(((image.pixels - 0.485) / 0.2)[None], int(label))
        (found,) = pointing_game(maps, ground_truth=[image.regions[label]], tolerance=2)
        difficult = label in image.difficult
        outcomes.append(Outcome(image=name, label=label, value=found.value, difficult=difficult))
    expected = summarise(outcomes)
    (run,) = table(out)
    pointing = run["scores"]["pointing"]["all"]
    assert pointing["mean"] == pytest.approx(expected.mean)
    assert pointing["by_class"] == pytest.approx(expected.by_class)
    assert [pointing["low"], pointing["high"]] == pytest.approx(bootstrap_interval(sorted(outcomes, key=repr)))
    assert run["about"]["layer"] == "features"
    assert run["about"]["options"] == {"relu_attributions": True}
    assert (run["rows"], run["pairs"], run["images"]) == (len(outcomes), len(outcomes), 6)
    lines = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert {(line["metric"], line["subset"]) for line in lines} >= {("pointing", "all"), ("energy", "all")}
    assert float(lines[0]["mean"]) == pointing["mean"]
    stdout, stderr = capsys.readouterr()
    assert "pointing within 2 px" in stdout
    assert f"{100 * pointing['mean']:.1f} [" in stdout
    assert "grad_cam: 100%" in stderr
    assert not drawn  # there is nothing to compare with
    assert cli.main(["compare", str(out), "--tolerance", "1000", "--out", str(tmp_path / "again")]) == 0
    assert table(tmp_path / "again")[0]["scores"]["pointing"]["all"]["mean"] == 1  # judged anew


@pytest.mark.parametrize(("given", "seen"), [([], "float32"), (["--autocast", "bfloat16"], "bfloat16")])
def test_the_network_runs_in_the_type_of_autocast(own, given, seen):
    assert cli.main([*DIGITS, "--method", "own_method:name_type", *given, "--out", "out"]) == 0
    assert Path("type.txt").read_text() == f"torch.{seen}"
    assert table(own / "out")[0]["about"].get("autocast") == (seen if given else None)


def test_several_methods_compare_in_one_folder_and_in_one_call(tmp_path, capsys, drawn):
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    for method, out in (("saliency", shared), ("center", shared), ("input_x_gradient", alone)):
        assert cli.main([*DIGITS, "--method", method, "--out", str(out)]) == 0
    assert [run["label"] for run in table(shared)] == ["saliency", "center"]
    assert set(drawn[POINTING]) == {"saliency", "center"}
    assert (shared / "pointing.png").exists()
    capsys.readouterr()
    files = [str(path) for path in alone.glob("*.jsonl")]
    assert cli.main(["compare", str(shared), *files, "--out", str(tmp_path / "all")]) == 0
    runs = table(tmp_path / "all")
    assert [run["label"] for run in runs] == ["saliency", "center", "input_x_gradient"]
    score = runs[2]["scores"]["pointing"]["all"]
    assert drawn[POINTING]["input_x_gradient"] == (score["mean"], score["low"], score["high"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:4]] == ["method", "saliency", "center", "input_x_gradient"]
    assert cli.main(["compare", str(shared), *files, "--against", "center", "--out", str(tmp_path / "all")]) == 0
    printed = capsys.readouterr().out.splitlines()
    start = printed.index("") + 1
    assert printed[start].split() == ["center", "ahead", "of", "pointing", "pairs"]
    saliency, center = (run["scores"]["pointing"]["all"]["mean"] for run in runs[:2])
    assert [line.split()[0] for line in printed[start + 1 : start + 3]] == ["saliency", "input_x_gradient"]
    assert float(printed[start + 1].split()[1]) == pytest.approx(100 * (center - saliency), abs=0.051)
    assert cli.main(["compare", str(shared), "--against", "rise", "--out", str(tmp_path / "all")]) == 2
    assert "--against: label must be that of one of the runs, saliency, center, got 'rise'" in capsys.readouterr().err


def test_methods_from_elsewhere_are_drawn_as_text(tmp_path, monkeypatch):
    monkeypatch.setattr(visualization, "show_bars", SHOW_BARS)
    values = {"distance": 3.0}
    for method in (r"a$\nothing{$:make", "b"):
        with RowFile(tmp_path, Settings({"method": method}), 1) as file:
            file.append([Row(image="a", label="b", difficult=False, seconds=1.0, values=values)])
    assert cli.main(["compare", str(tmp_path), "--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / "pointing.png") as figure:
        assert min(figure.size) > 100


def test_damaged_rows_are_set_aside_on_request(tmp_path, capsys):
    settings = Settings({"method": "m"})
    with RowFile(tmp_path, settings, 2) as file:
        for image in ("a", "b"):
            file.append([Row(image=image, label="b", difficult=False, seconds=1.0, values={"distance": 3.0})])
    (path,) = tmp_path.glob("*.jsonl")
    head, first, second = path.read_text().splitlines()
    path.write_text("\n".join([head, first, first[:20], second, ""]))
    assert cli.main(["compare", str(tmp_path), "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "is damaged, or no file of rows, at line 3" in told
    assert told.endswith("; --repair sets damaged lines of the files of rows aside, and keeps all others\n")
    assert cli.main(["compare", str(tmp_path), "--repair", "--out", str(tmp_path)]) == 0
    assert "damaged lines set aside: 1" in capsys.readouterr().err
    assert len(rows_of(tmp_path)) == 2


def test_a_damaged_run_goes_on_with_repair(own, capsys):
    """Also where the line of its settings is damaged."""
    arguments = [*DIGITS, "--method", "own_method:make", "--out", "out"]
    assert cli.main(arguments) == 0
    rows = rows_of(own / "out")
    (path,) = (own / "out").glob("*.jsonl")
    content = path.read_bytes()
    path.write_bytes(b"x" + content[1:-1] + b"\n\0\0\n")
    assert cli.main(arguments) == 1
    assert "; --repair sets damaged lines" in one_line(capsys.readouterr().err.splitlines(keepends=True)[-1])
    assert cli.main([*arguments, "--repair"]) == 0
    assert rows_of(own / "out") == rows
    assert path.read_bytes() == content


@pytest.mark.parametrize("what", ["as_frame", "Path.write_text"])
def test_a_full_disk_is_told_and_costs_no_earlier_result(tmp_path, monkeypatch, capsys, drawn, what):
    with RowFile(tmp_path, Settings({"method": "m"}), 1) as file:
        file.append([Row(image="a", label="b", difficult=False, seconds=1.0, values={"distance": 3.0})])
    arguments = ["compare", str(tmp_path), "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    capsys.readouterr()
    monkeypatch.setattr(f"captum_extremal.cli.compare.{what}", full)
    assert cli.main(arguments) == 1
    told = capsys.readouterr().err
    assert told.endswith(f"No space left on device: make room in {tmp_path}, and give the same command again\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_figures_of_an_earlier_comparison_are_removed(tmp_path, drawn):
    for method in ("a", "b"):
        with RowFile(tmp_path, Settings({"method": method}), 1) as file:
            file.append([Row(image="a", label="b", difficult=False, seconds=1.0, values={"distance": 3.0})])
    for name in ("energy.png", "mine.png"):
        (tmp_path / name).touch()
    assert cli.main(["compare", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["mine.png", "pointing.png"]


def test_labels_that_are_alike_once_they_are_cut_have_a_key(tmp_path, capsys, drawn):
    runs = [Settings({"method": "m" * 80, "layer": layer}) for layer in ("a", "b")]
    for settings in runs:
        with RowFile(tmp_path, settings, 1) as file:
            file.append([Row(image="a", label="b", difficult=False, seconds=1.0, values={"distance": 3.0})])
    assert cli.main(["compare", str(tmp_path), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(f"({settings.key})" in told for settings in runs)
    assert len(drawn[POINTING]) == 2


def run(own, *arguments):
    """A process of Python to its end: its exit status and what it said."""
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    how = {"cwd": own, "env": environment, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False, **how)
    return done.returncode, done.stdout + done.stderr


SLOWLY = [*DIGITS, "--method", "own_method:make", "--batch-size", "2"]
# Starts the command again and again, as a process of its own, and kills it once so many lines are there.
KILL = """
import os, pathlib, signal, sys, time
import torchvision.transforms
from captum_extremal import cli, evaluation

moments, folder, arguments = eval(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
for moment in moments:
    process = os.fork()
    if not process:
        os._exit(cli.main(arguments))
    while sum(path.read_bytes().count(b"\\n") for path in folder.glob("*.jsonl")) < moment:
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "it has ended"
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_process_killed_at_any_moment_loses_nothing(own):
    """Killed before anything is written, as soon as something is, and in the middle; the end is one in one go."""
    out, whole = own / "out", own / "whole"
    arguments = [*SLOWLY, "--option", "seconds=0.05"]
    moments = [0, 1, 4, 4, 9, 14]  # lines: of each start that comes to writing the first has the settings
    status, told = run(own, "-c", KILL, str(moments), str(out), *arguments, "--out", str(out))
    assert status == 0, told
    killed = rows_of(out)
    pairs = DigitImages(6).pairs()
    assert 9 <= len(killed) < len(pairs)
    assert 3 <= len(list(out.glob("*.jsonl"))) <= 5
    assert cli.main([*arguments, "--out", str(out)]) == 0
    assert cli.main([*arguments, "--out", str(whole)]) == 0
    assert sorted(rows_of(out)) == sorted(pairs)
    assert rows_of(out) == rows_of(whole)
    assert without_time(table(out)[0]) == without_time(table(whole)[0])
    lines = [line for path in out.glob("*.jsonl") for line in path.read_bytes().splitlines(keepends=True)]
    assert sum(b'"values"' in line and line.endswith(b"}\n") for line in lines) == len(pairs)


def test_two_processes_make_the_table_of_one(own):
    """And where one has been lost with its rows, one process alone picks up the rest."""
    out, whole = own / "out", own / "whole"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "captum_extremal.cli"]
    status, told = run(own, *torchrun, *SLOWLY, "--out", str(out))
    assert status == 0, told
    assert told.count("Per cent") == 1  # one of them speaks
    assert cli.main([*SLOWLY, "--out", str(whole)]) == 0
    assert without_time(table(out)[0]) == without_time(table(whole)[0])
    assert rows_of(out) == rows_of(whole)
    files = sorted(out.glob("*.jsonl"))
    shares = [set(rows_of(path)) for path in files]
    assert len(shares) == 2
    assert not shares[0] & shares[1]
    assert abs(len(shares[0]) - len(shares[1])) <= 2
    files[0].unlink()
    assert cli.main([*SLOWLY, "--out", str(out)]) == 0
    assert rows_of(out) == rows_of(whole)


def test_ctrl_c_leaves_rows_that_a_new_start_goes_on_from(own, monkeypatch, capsys, drawn):
    (own / "interrupted.py").write_text(INTERRUPTED)
    out = own / "out"
    arguments = [*DIGITS, "--method", "interrupted:make", "--batch-size", "4", "--out", str(out)]
    assert cli.main(arguments) == 130
    assert f"interrupted; the same command goes on from the rows in {out}" in capsys.readouterr().err
    assert len(rows_of(out)) == 8
    assert not (out / "table.json").exists()
    pairs = len(DigitImages(6).pairs())
    assert cli.main([*DIGITS, "--method", "center", "--out", str(own / "center")]) == 0
    assert cli.main(["compare", str(out), str(own / "center"), "--out", str(own / "both")]) == 0
    assert set(drawn[POINTING]) == {f"interrupted:make (8 of {pairs} pairs)", "center"}
    assert cli.main(arguments) == 0
    assert len(rows_of(out)) == pairs
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "pairs" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A ResNet of three classes that were not trained."""
    path = tmp_path_factory.mktemp("weights") / "three.pth"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.save(torchvision.models.resnet18(weights=None, num_classes=3).state_dict(), path)
    return str(path)


def resnet(weights):
    given = {"model": "resnet18", "weights": weights, "fully_convolutional": False, "shorter_side": None}
    given |= {"mean": None, "std": None, "size": None}
    return evaluate.loaded_network(SimpleNamespace(**given, square=False), torch.device("cpu"))


def photo(path, width=90, height=64, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize((width, height)).save(path)


@pytest.fixture
def numbered(tmp_path):
    """Images named after their class, one of them cut short."""
    folder = tmp_path / "numbered"
    folder.mkdir()
    for seed, name in enumerate(("0000_a.jpg", "0002_b.jpg", "0002_c.PNG", "readme.jpg", "00001.jpg")):
        photo(folder / name, seed=seed)
    (folder / "0001_a.xml").write_text("<annotation/>")
    content = (folder / "0002_b.jpg").read_bytes()
    (folder / "0002_b.jpg").write_bytes(content[: len(content) // 2])
    return folder


def test_images_without_regions_serve_insertion_and_deletion(numbered, weights, tmp_path, capsys):
    arguments = ["--data", f"images:{numbered}", "--model", "resnet18", "--weights", weights, "--shorter-side", "32"]
    arguments += ["--method", "saliency", "--metric", "insertion_deletion", "--fully-convolutional", "--square"]
    run = evaluated(tmp_path / "out", *arguments)
    assert list(run["scores"]) == ["insertion", "deletion"]
    assert set(run["scores"]["insertion"]["all"]["by_class"]) == {"all"}
    assert run["scores"]["insertion"]["all"]["pairs"] == 2
    assert (run["unreadable"], run["images"], run["pairs"]) == (1, 2, 3)
    assert run["about"]["model"] == "resnet18-convolutional"
    assert tells_changes(f"images:{numbered}", run["about"]["data_checksum"], numbered / "0000_a.jpg")
    stdout, stderr = capsys.readouterr()
    assert f"{numbered / '0002_b.jpg'}: cannot be read as JPEG or PNG" in stderr
    assert "images that could not be read: 1" in stdout


@pytest.mark.parametrize(("given", "steps"), [([], judging.STEPS), (["--steps", "3"], 3)])
def test_curves_have_the_steps_asked_for(given, steps, tmp_path, monkeypatch):
    seen = []

    def curves(*arguments, steps):
        seen.append(steps)
        return insertion_deletion(*arguments, steps=2)

    monkeypatch.setattr(judging, "insertion_deletion", curves)
    how = ["--data", "digits:1", "--model", "digits", "--method", "center", "--metric", "insertion_deletion"]
    assert evaluated(tmp_path, *how, *given)["about"]["steps"] == steps
    assert set(seen) == {steps}


@pytest.mark.parametrize("metrics", ["", "--metric energy", "--metric pointing --metric insertion_deletion"])
def test_images_without_regions_serve_nothing_else(metrics, numbered, weights, capsys):
    arguments = ["--data", f"images:{numbered}", "--model", "resnet18", "--weights", weights, "--method", "center"]
    assert "needs --metric insertion_deletion" in failed(capsys, "evaluate", *arguments, *metrics.split(), status=2)


@pytest.fixture
def twenty(tmp_path):
    """A network of as many classes as VOC has."""
    path = tmp_path / "twenty.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None, num_classes=20).state_dict(), path)
    return ["--model", "squeezenet1_1", "--weights", str(path), "--shorter-side", "48", "--method", "center"]


def annotate(path, label):
    box = "<bndbox><xmin>31</xmin><ymin>21</ymin><xmax>60</xmax><ymax>45</ymax></bndbox>"
    path.write_text(f"<annotation><object><name>{label}</name>{box}</object></annotation>")


def tells_changes(data, checksum, *files):
    """Whether the checksum is that of the data, and another one whenever a file has grown."""
    seen = [checksum]
    for path in files:
        assert evaluate.loaded_data(data)[1] == seen[-1]
        path.write_bytes(path.read_bytes() + b"\n")
        seen.append(evaluate.loaded_data(data)[1])
    return len(set(seen)) == 1 + len(files)


def test_voc_in_its_folders(twenty, tmp_path):
    voc = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    for name, label in (("000001", "aeroplane"), ("000002", "tvmonitor")):
        photo(voc / "JPEGImages" / f"{name}.jpg")
        annotate(voc / "Annotations" / f"{name}.xml", label)
    (voc / "ImageSets" / "Main" / "test.txt").write_text("000001\n000002\n")
    run = evaluated(tmp_path / "out", "--data", f"voc:{tmp_path}", *twenty)
    assert run["scores"]["pointing"]["all"]["by_class"] == {"aeroplane": 1.0, "tvmonitor": 1.0}
    assert list(run["about"]["classes"].values()) == list(range(20))
    files = voc / "JPEGImages" / "000001.jpg", voc / "Annotations" / "000002.xml"
    assert tells_changes(f"voc:{tmp_path}", run["about"]["data_checksum"], *files)


def test_coco_in_its_folders(twenty, tmp_path):
    (tmp_path / "val").mkdir()
    photo(tmp_path / "val" / "1.jpg")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 64, "width": 90}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 17, "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]},
            {"id": 6, "image_id": 1, "category_id": 18, "segmentation": [[30, 20, 60, 20, 60, 45, 30, 45]]},
        ],
    }
    (tmp_path / "instances_val2014.json").write_text(json.dumps(content))
    data = f"coco:{tmp_path / 'val'},{tmp_path / 'instances_val2014.json'}"
    run = evaluated(tmp_path / "out", "--data", data, *twenty, "--classes", "cat=3,dog=5")
    assert run["scores"]["pointing"]["all"]["by_class"] == {"cat": 0.0, "dog": 1.0}
    assert set(run["scores"]["pointing"]) == {"all", "difficult"}
    files = tmp_path / "val" / "1.jpg", tmp_path / "instances_val2014.json"
    assert tells_changes(data, run["about"]["data_checksum"], *files)


def photos(folder, *names, label="kangaroo", seed=0):
    """A folder of photographs that are annotated."""
    folder.mkdir(parents=True)
    for name in names:
        photo(folder / f"{name}.jpg", seed=seed)
        annotate(folder / f"{name}.xml", label)
    return folder


def test_another_folder_of_the_same_names_is_another_data_set(twenty, tmp_path, capsys):
    """And the same files elsewhere are the same one."""
    here, there = photos(tmp_path / "here" / "photos", "a"), photos(tmp_path / "there" / "photos", "a", seed=1)
    elsewhere = shutil.copytree(here, tmp_path / "elsewhere" / "photos")
    out = tmp_path / "out"
    for folder, files in ((here, 1), (elsewhere, 1), (there, 2)):
        arguments = ["evaluate", "--data", f"folder:{folder}", *twenty, "--classes", "kangaroo=7", "--out", str(out)]
        assert cli.main(arguments) == 0
        assert len(list(out.glob("*.jsonl"))) == files
    labels = [run["label"] for run in table(out)]
    assert len(set(labels)) == 2
    assert all(label.startswith("center data_checksum=") for label in labels)


def test_a_folder_whose_annotations_are_all_unreadable(twenty, tmp_path, capsys):
    folder = photos(tmp_path / "photos", "a")
    (folder / "a.xml").write_text("<annotation>")
    told = failed(capsys, "evaluate", "--data", f"folder:{folder}", *twenty, "--classes", "kangaroo=7", status=1)
    assert "has no image with a class: " in told
    assert "a.xml" in told


def test_a_method_whose_file_has_changed_is_another(own):
    arguments = [*DIGITS, "--method", "own_method:make", "--out", "out"]
    for comment, files in (("", 1), ("", 1), ("# changed", 2)):
        sys.modules.pop("own_method", None)
        (own / "own_method.py").write_text(OWN + comment)
        assert cli.main(arguments) == 0
        assert len(list((own / "out").glob("*.jsonl"))) == files


def test_the_order_of_the_metrics_makes_no_other_run(tmp_path):
    for metrics in (["energy", "pointing"], ["pointing", "energy"], ["energy", "pointing", "energy"]):
        assert cli.main([*DIGITS, "--method", "center", "--metric", ",".join(metrics), "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_the_search_is_an_option(tmp_path):
    arguments = ["--data", "digits:1", "--model", "digits", "--method", "extremal", "--option", "areas=[0.1,0.2]"]
    search = {"steps": 2, "searches": 1}
    run = evaluated(tmp_path, *arguments, "--option", f"solver={json.dumps(search)}")
    assert run["about"]["options"]["solver"] == search
    how = {"areas": (0.1, 0.2), "solver": PathSolver(**search)}
    data = DigitImages(1)
    (name, *_), labels = zip(*data.pairs())
    image = data.load(name)
    x = ((image.pixels - 0.485) / 0.2).expand(len(labels), -1, -1, -1)
    maps = make_method("extremal", digit_network(), options=how)(x, [int(label) for label in labels])
    found = pointing_game(maps, ground_truth=[image.regions[label] for label in labels])
    assert [rows_of(tmp_path)[name, label][0]["distance"] for label in labels] == [one.distance for one in found]


def test_a_folder_with_an_annotation_and_an_image_that_cannot_be_read(twenty, tmp_path, capsys):
    folder = photos(tmp_path / "photos", "a", "b", "c")
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-300])
    (folder / "c.xml").write_text("<annotation>")
    run = evaluated(tmp_path / "out", "--data", f"folder:{folder}", *twenty, "--classes", "kangaroo=7")
    assert (run["images"], run["pairs"], run["unreadable"]) == (1, 2, 1)
    stdout, stderr = capsys.readouterr()
    assert "truncated" in stderr
    assert "annotations that cannot be read: 1" in stderr
    assert "c.xml" in stderr
    assert "1 of 2" in stdout


def row_of(image, **values):
    return Row(image=image, label="b", difficult=False, seconds=1.0, values=values)


def test_pairs_that_do_not_count_are_told(tmp_path, capsys):
    with RowFile(tmp_path, Settings({"method": "m"}), 3) as file:
        file.append([row_of("a", distance=3.0), row_of("b"), row_of("c")])
    assert cli.main(["compare", str(tmp_path), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "m: pairs that do not count, because nothing of their class is annotated: 2." in told


def test_files_are_written_before_the_table_is_printed(tmp_path, monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    with RowFile(tmp_path, Settings({"method": "m"}), 1) as file:
        file.append([row_of("a", distance=3.0)])
    monkeypatch.setattr(compare, "print_table", closed)
    with pytest.raises(BrokenPipeError):
        compare.run(SimpleNamespace(rows=[tmp_path], out=tmp_path, tolerance=None, repair=False, against=None))
    assert {"table.csv", "table.json"} <= {file.name for file in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("size", "side", "square", "expected"),
    [
        ((60, 80), 30, False, (30, 40)),
        ((375, 500), 224, False, (224, 298)),
        ((80, 60), 30, True, (30, 30)),
        ((60, 80), None, False, (60, 80)),
        ((10, 1000), 100, False, (17, 1732)),
    ],
)
def test_sizes_are_those_of_the_shorter_side(size, side, square, expected):
    assert tuple(evaluate.Network(*[None] * 6, side, square).size_for(*size)) == expected


def test_a_photograph_is_prepared_as_the_weights_want(weights, tmp_path):
    network = resnet(weights)
    path = tmp_path / "photo.png"
    photo(path, 300, 400)
    with Image.open(path) as image:
        pixels = torchvision.transforms.functional.pil_to_tensor(image.convert("RGB")).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (torchvision.transforms.functional.resize(pixels, 256, antialias=True) - mean) / std
    torch.testing.assert_close(network.prepare(pixels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("classes", "given", "expected"),
    [
        (("b", "a", "x"), {}, {"b": 0, "a": 1, "x": 2}),  # in the data's order, where there are as many
        (("b", "a", "x"), {"a": 2}, {"b": 0, "a": 2, "x": 2}),
        (("Class 1", "class 0"), {}, {"Class 1": 1, "class 0": 0}),
    ],
)
def test_classes_of_the_data_have_an_index_each(classes, given, expected, weights):
    assert resnet(weights).indices_of(classes, given) == expected


def test_a_name_of_two_classes_is_none(weights):
    network = dataclasses.replace(resnet(weights), categories=["crane", "ant", "Crane"])
    assert network.indices_of(("ant",), {}) == {"ant": 1}
    with pytest.raises(console.StopError, match="has no class named crane: give its number"):
        network.indices_of(("crane",), {})


def test_a_digit_is_no_number_of_another_networks_class(weights, capsys):
    arguments = ["--data", "digits:2", "--model", "resnet18", "--weights", weights, "--method", "center"]
    assert "resnet18 has no class named 0, 1, 2" in failed(capsys, "evaluate", *arguments, status=2)


def failed(capsys, *arguments, status):
    assert cli.main(list(arguments)) == status
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data", "digits:0"], 1, "--data: must be an integer of at least 1"),
        (["--data", "digits:2", "--model", "resnet18"], 2, "digits:2 needs --model digits, or --weights of"),
        (["--data", "digits"], 2, "--data: must be a kind and a place"),
        (["--data", "imagenet:x"], 2, "--data: must be one of voc, coco, folder, digits and images, got 'imagenet'"),
        (["--data", "images:."], 1, "must hold images named NNNN_name.jpg"),
        (["--data", "images:nowhere"], 1, "--data: ROOT must be a folder, got nowhere"),
        (["--data", "coco:file.json"], 1, "--data: coco needs ROOT,FILE"),
        (["--method", "extremal", "--option", 'solver={"stps": 3}'], 2, "unexpected keyword argument 'stps'"),
        (["--method", "extremal", "--option", 'solver={"steps": 0}'], 2, "steps must be at least 1, got 0"),
        (["--method", "extremal", "--option", "solver=3"], 2, "solver must be PathSolver's settings, such as"),
        (["--method", "rise", "--option", 'solver={"steps": 3}'], 2, "options of rise must be among"),
        (["--method", "grad-cam"], 2, "near it: grad_cam"),
        (["--method", "no_such:thing"], 2, "must be importable"),
        (["--layer", "features"], 2, "layer must not be given to center"),
        (["--option", "3"], 2, "must be NAME=VALUE"),
        (["--option", "areas=3"], 2, "options of center must be among"),
        (["--classes", "0=x"], 2, "must be NAME=INDEX"),
        (["--classes", "cat=3"], 2, "the data has no class cat"),
        (["--classes", "0=10"], 2, "digits has the classes 0 to 9, got 0=10"),
        (["--metric", "beauty"], 2, "must be one of pointing, energy, insertion_deletion, got 'beauty'"),
        (["--tolerance", "-1"], 2, "must be a number of pixels"),
        (["--weights", "x.pth", "--model", "resnet18"], 1, "there is no file x.pth"),
        (["--weights", "x.pth"], 2, "--weights: digits comes with its own"),
        (["--fully-convolutional"], 2, "--fully-convolutional: digits is so already"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(arguments, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in failed(capsys, *DIGITS, "--method", "center", *arguments, status=status)


def test_metrics_are_those_of_the_library():
    assert set(options.METRICS) == set(METRICS)


def test_classes_have_names_with_commas():
    assert options.indices("bow tie, red=3,cat=5") == [("bow tie, red", 3), ("cat", 5)]


def test_the_path_of_modules_is_restored(own):
    before = list(sys.path)
    assert cli.main([*DIGITS, "--method", "own_method:make", "--out", "out"]) == 0
    assert cli.main([*DIGITS, "--method", "no_such:thing"]) == 2
    assert sys.path == before


SILENT = "def make(model):\n    return lambda x, target: None\n"
ONCE = "def make(model, calls=[]):\n    return lambda x, target: calls.append(1) or (x if len(calls) < 2 else None)\n"


@pytest.mark.parametrize(("source", "kept"), [(SILENT, 0), (ONCE, 8)])
def test_a_method_that_cannot_explain_the_network_is_told_in_a_line(source, kept, own, capsys):
    (own / "own_method.py").write_text(source)
    how = ["--method", "own_method:make", "--batch-size", "8", "--out", "out"]
    told = failed(capsys, *DIGITS, *how, status=1)
    assert re.search(r"own_method:make: explain must return maps \(\d, 1, H, W\) or .*, got NoneType", told)
    assert ("; the rows so far are kept" in told) is (kept > 0)
    assert not kept or len(rows_of(own / "out")) == kept


def test_a_method_of_ones_own_that_is_not_made_of_a_model_is_told_in_a_line(own, capsys):
    (own / "own_method.py").write_text("def explain(inputs, target):\n    return inputs\n")
    told = failed(capsys, *DIGITS, "--method", "own_method:explain", status=2)
    assert "must take (model), got 'own_method:explain' that takes (inputs, target)" in told


def test_weights_that_hold_code_are_refused(own, capsys):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(own / "ran"),)

    torch.save({"fc.weight": Code()}, own / "code.pth")
    arguments = ["--data", "digits:2", "--model", "resnet18", "--weights", "code.pth", "--method", "center"]
    assert "holds more than a state dict" in failed(capsys, "evaluate", *arguments, status=1)
    assert not (own / "ran").exists()


def test_a_damaged_file_of_rows_is_named(own, capsys):
    (own / "rows.jsonl").write_text("nothing\n")
    told = failed(capsys, "compare", "rows.jsonl", "--out", "out", status=1)
    assert "rows.jsonl is damaged, or no file of rows, at line 1" in told
    (own / "rows.jsonl").write_text("")
    assert "there is no row in rows.jsonl" in failed(capsys, "compare", "rows.jsonl", status=1)
    assert "there is no file or folder nowhere.jsonl" in failed(capsys, "compare", "nowhere.jsonl", status=1)
