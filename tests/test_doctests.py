"""The examples in docstrings run, with stand-ins for the model, inputs and loader that they take for granted."""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
from pathlib import Path

import numpy as np
import pytest
import torch

import captum_extremal
from stand_ins import SIDE, shorten_searches, stand_ins

PACKAGE = Path(captum_extremal.__file__).parent


def docstrings_with_examples() -> list[tuple[str, str]]:
    """Where a docstring with examples stands, and the docstring."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                docstring = ast.get_docstring(node) or ""
                if ">>>" in docstring:
                    place = path.relative_to(PACKAGE).as_posix()
                    found.append((f"{place}:{getattr(node, 'name', 'module')}", docstring))
    return found


EXAMPLES = docstrings_with_examples()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.filterwarnings("ignore:.*threshold")  # short searches may find no mask that is enough
@pytest.mark.parametrize("docstring", [text for _, text in EXAMPLES], ids=[place for place, _ in EXAMPLES])
def test_examples_run(docstring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shorten_searches(monkeypatch)
    names = stand_ins()
    if "quantus" in docstring:
        names["quantus"] = pytest.importorskip("quantus")
        rng = np.random.default_rng(0)
        names |= {"x": rng.normal(size=(2, 3, SIDE, SIDE)).astype("float32"), "y": np.array([207, 281])}
        names["masks"] = np.ones((2, 1, SIDE, SIDE), dtype=bool)
    from captum.attr import LayerAttribution

    from captum_extremal import metrics

    names |= {"LayerAttribution": LayerAttribution, **{name: getattr(metrics, name) for name in metrics.__all__}}
    checker = doctest.OutputChecker()
    for example in doctest.DocTestParser().get_examples(docstring):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(example.source, "<example>", "single"), names)
        if example.want:
            assert checker.check_output(example.want, printed.getvalue(), doctest.ELLIPSIS), printed.getvalue()
    assert torch.is_grad_enabled()
