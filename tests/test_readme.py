"""The README and the pages do what they say: their Python runs, and commands, options and linked files exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from stand_ins import SIDE, shorten_searches, stand_ins

ROOT = Path(__file__).parents[1]
GUIDE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*GUIDE, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
AS_IT_IS = "<!-- test: default settings -->"
"""Stands before a block whose searches are not made shorter."""


class Reader(torch.nn.Module):
    """Two scores of token ids (N, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(5, 3)
        self.output = torch.nn.Linear(3, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.output(self.embeddings(tokens).mean(1))
        return scores


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_blocks(page: Path) -> list[tuple[str, bool]]:
    """The Python of each block, after as many empty lines as stand before it, and whether it is marked."""
    text = page.read_text(encoding="utf-8")
    blocks = re.finditer(rf"(?P<mark>{AS_IT_IS}\n)?```python\n(?P<source>.*?)```", text, re.DOTALL)
    return [("\n" * text.count("\n", 0, b.start("source")) + b["source"], bool(b["mark"])) for b in blocks]


WITH_PYTHON = [page for page in GUIDE if python_blocks(page)]


def expected_lines(source: str) -> list[str]:
    """What a block says that it prints: the comments that are numbers."""
    return re.findall(r"^print\(.*\)  # ([\d.]+)$", source, re.MULTILINE)


def run_command(*arguments: str) -> str:
    """What a command of the package prints, on a terminal wide enough for every option."""
    environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "captum_extremal.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.filterwarnings("ignore:.*threshold")  # short searches may find no mask that is enough
@pytest.mark.filterwarnings("ignore:.*jit")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own
@pytest.mark.parametrize("page", WITH_PYTHON, ids=relative)
def test_python_blocks_run_one_after_another(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a reader would run them: with a model, inputs and the results of an evaluation of their own."""
    monkeypatch.chdir(tmp_path)
    if page.name == "evaluate.md":
        run_command("evaluate", "--data", "digits:2", "--model", "digits", "--method", "center", "--out", "runs")
    names = stand_ins()
    names |= {
        "segmenter": lambda x: {"out": x.mean(1, keepdim=True).expand(-1, 21, -1, -1)},
        "region": torch.ones(1, SIDE, SIDE),
        "other": torch.zeros_like(names["x"]),
        "classifier": torch.nn.Linear(5, 2).eval(),
        "rows": torch.rand(2, 5),
        "training_rows": torch.rand(4, 5),
        "superpixels": (torch.arange(SIDE) * 4 // SIDE).expand(1, 1, SIDE, SIDE),
        "reader": Reader().eval(),
        "sentences": torch.tensor([[1, 4, 2, 2]]),
    }
    for source, is_marked in python_blocks(page):
        with monkeypatch.context() as patched:
            if not is_marked:
                shorten_searches(patched)
            exec(compile(source, relative(page), "exec"), names)
        printed = capsys.readouterr().out
        assert not is_marked or printed.split() == expected_lines(source)
    plt.close("all")


def test_the_marked_block_says_what_it_prints() -> None:
    marked = [source for page in WITH_PYTHON for source, is_marked in python_blocks(page) if is_marked]
    assert [len(expected_lines(source)) for source in marked] == [1]


def test_the_readme_is_short() -> None:
    assert GUIDE[0].read_text(encoding="utf-8").count("\n") <= 130
    assert len(WITH_PYTHON) > 8


# Commands


def shell_lines() -> list[str]:
    """The lines of the pages' indented blocks, and ``captum-extremal ...`` in their sentences."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in GUIDE)
    indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\n", " ")
    return [*indented, *re.findall(r"`(captum-extremal [^`]*)`", prose)]


@cache
def options_of(command: str) -> frozenset[str]:
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z-]*", run_command(command, "--help")))


def commands() -> list[tuple[str, list[str]]]:
    """Each command of the package in the pages, and the options that it is given there."""
    found = []
    for line in shell_lines():
        for call in re.findall(r"captum-extremal ([a-z]+)([^&]*)", line):
            found.append((call[0], re.findall(r"(?<![\w-])--[a-z][a-z-]*", call[1])))
    return found


def test_commands_and_their_options_exist() -> None:
    assert {"demo", "explain", "channels", "evaluate", "compare"} <= {command for command, _ in commands()}
    for command, options in commands():
        assert set(options) <= options_of(command) | {"--help"}, command


def test_options_in_sentences_exist() -> None:
    known = frozenset().union(*(options_of(command) for command, _ in commands()))
    mentioned = [one for page in GUIDE for one in re.findall(r"`(--[a-z][a-z-]*)", page.read_text(encoding="utf-8"))]
    assert len(mentioned) > 10
    assert sorted(set(mentioned) - known) == []


# Pages


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@cache
def words_of_the_package() -> frozenset[str]:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "captum_extremal").rglob("*.py"))
    return frozenset(re.findall(r"\w+", " ".join(sources)))


def test_the_glossary_names_what_is_in_the_code() -> None:
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    names = [
        name for row in rows for code in re.findall(r"`([^`]+)`", row) for name in re.findall(r"[A-Za-z_]\w+", code)
    ]
    assert len(names) > 30
    assert sorted(set(names) - words_of_the_package()) == []


def test_the_guide_names_files_that_exist() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:captum_extremal|tests|docs|benchmarks|tutorials|\.ci|\.github)/[\w./-]*)`", guide)
    assert len(paths) > 5
    places = [ROOT / path.partition("NAME")[0] for path in paths]  # NAME is the reader's choice
    assert [place for place in places if not place.exists()] == []
