"""The site has a page for everything: its sources are put together here, without Sphinx."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import captum_extremal
from captum_extremal import visualization

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def build() -> Any:
    """The module that builds the site."""
    specification = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("site"))
    build.gather(folder)
    return folder


def test_every_public_name_is_in_the_reference(sources: Path, build: Any) -> None:
    page = (sources / "reference" / "captum_extremal.md").read_text(encoding="utf-8")
    assert [name for name in captum_extremal.__all__ if f":: captum_extremal.{name}\n" not in page] == []
    for name in build.SUBMODULES:
        module = importlib.import_module(f"captum_extremal.{name}")
        page = (sources / "reference" / f"captum_extremal.{name}.md").read_text(encoding="utf-8")
        known = [one for one in module.__all__ if f"{name}.{one}\n" in page or f"`{one}` is described" in page]
        assert known == list(module.__all__)


def test_every_module_that_the_guide_imports_from_is_in_the_reference(build: Any) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md")))
    imported = set(re.findall(r"from captum_extremal\.(\w+) import", text))
    assert {"metrics", "objectives", "visualization"} <= imported
    assert imported <= set(build.SUBMODULES)


def test_every_figure_is_on_the_page_of_the_figures_and_made_there() -> None:
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    shown = [
        ast.parse(cell.replace("%matplotlib inline", "")).body[-1] for cell in cells
    ]  # a cell displays its last value
    calls = [one.value.func for one in shown if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call)]
    made = [function.id for function in calls if isinstance(function, ast.Name)]
    assert sorted(made) == sorted(visualization.__all__)
    assert [
        name for name in visualization.__all__ if f"{{py:func}}`~captum_extremal.visualization.{name}`" not in page
    ] == []
    assert "execution_mode: force" in page


def test_links_lead_to_pages_of_the_site_or_to_the_source(sources: Path) -> None:
    made = {"reference/index.md", "benchmarks/index.md"}  # and what Sphinx finds by other ways than links
    for page in sorted(sources.rglob("*.md")):
        for link in re.findall(r"\]\((?!#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", link):
                source = link.partition("/blob/main/")[2]
                assert not source or (ROOT / source).exists(), f"{page}: {link}"
            else:
                place = (page.parent / link).resolve()
                known = place.exists() or place == sources / "index.md"
                assert known or place.relative_to(sources).as_posix() in made, f"{page}: {link}"


def test_links_of_pages_from_elsewhere_are_changed(build: Any) -> None:
    places = {"CHANGELOG.md": "changelog.md", "docs/a/b.md": "a/b.md", "benchmarks/README.md": "benchmarks/all.md"}
    text = "[x](docs/a/b.md#part), [y](setup.cfg), [z](https://e.org/a.md), [w](#here)"
    changed = "[x](a/b.md#part), [y](" + build.SOURCE + "setup.cfg), [z](https://e.org/a.md), [w](#here)"
    assert build.relinked(text, "CHANGELOG.md", places) == changed
    code = "```python\nf[0](x)\n```"
    assert build.relinked(f"{code}\n[y](setup.cfg)", "CHANGELOG.md", places).startswith(code)
    assert build.relinked("[x](../../benchmarks/README.md)", "docs/a/b.md", places) == "[x](../benchmarks/all.md)"


def test_the_first_page_has_a_place_for_the_explorer(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Explored:
        def to_html(self, path: Path, images: object, **_: object) -> None:
            path.write_text("explorer")

    page = tmp_path / "index.md"
    monkeypatch.setitem(vars(captum_extremal), "perturbed_inputs", lambda found, x: None)
    page.write_text("nothing")
    with pytest.raises(ValueError, match="explorer"):
        build.with_explorer(tmp_path, Explored(), None, [])
    page.write_text("before <!-- explorer --> after")
    build.with_explorer(tmp_path, Explored(), None, [])
    assert (tmp_path / "_static" / "explorer.html").read_text() == "explorer"
    assert "_static/explorer.html" in page.read_text()
