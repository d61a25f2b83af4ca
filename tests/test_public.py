"""The public names, and the rules of the house: who may import whom."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import captum_extremal

PACKAGE = Path(captum_extremal.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PUBLIC = [
    "BlurPyramid",
    "CenterAttribution",
    "ChannelMask",
    "ClassChannels",
    "ContrastiveExcitationBackprop",
    "ExcitationBackprop",
    "ExtremalMasks",
    "ExtremalPerturbation",
    "FadePyramid",
    "FeatureInversion",
    "Game",
    "GroupMask",
    "ImagePrior",
    "InvertedFeatures",
    "LayerExtremalPerturbation",
    "MeaningfulPerturbation",
    "PathSolver",
    "PenaltySolver",
    "RISE",
    "RemovalDrop",
    "Robustness",
    "SamplePerturbation",
    "SmoothMask",
    "SpaceTimeMask",
    "TextExplanation",
    "TokenExplainer",
    "area_loss",
    "class_channels",
    "perturbed_inputs",
]


STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
PUBLIC_IN = {
    alias.name: str(node.module) for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names
}
"""The module of each public name."""


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports_of(path: Path) -> list[tuple[str, str | None]]:
    """(module, name) of every import in a file, wherever it stands; the name is None for ``import module``."""
    found: list[tuple[str, str | None]] = []
    package = ["captum_extremal", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(module, alias.name) for alias in node.names]
    return found


def modules_imported(path: Path) -> set[str]:
    """The package's own top-level modules that a file imports, whether by their names or by a public name of theirs."""
    modules = set()
    for module, name in imports_of(path):
        parts = [*module.split("."), *([name] if name else [])]
        if parts[0] == "captum_extremal":
            modules.add(PUBLIC_IN.get(".".join(parts[1:2]), ".".join(parts[1:2])))
    return modules


def import_order(package: Path) -> list[str]:
    """The package's modules in the order that its docstring states."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    _, found, rest = docstring.partition("Order of imports:")
    assert found, "the package's docstring must have a line 'Order of imports: ...'"
    return [name.strip() for name in rest.split("\n\n")[0].split(",")]


def imports_against_the_order(package: Path) -> list[str]:
    """Every import of a module that does not stand before the importing one."""
    order = import_order(package)
    against = []
    for path in sorted(package.rglob("*.py")):
        here = path.relative_to(package).with_suffix("").parts[0]
        if here == "__init__":  # of the package, which has the public names
            continue
        for other in sorted(modules_imported(path) - {here}):
            if other not in order[: order.index(here)]:
                against.append(f"{path.relative_to(package).as_posix()} imports {other or 'captum_extremal'}")
    return against


def test_public_names_are_these() -> None:
    assert sorted(captum_extremal.__all__) == PUBLIC
    assert len(set(captum_extremal.__all__)) == len(captum_extremal.__all__)
    assert all(hasattr(captum_extremal, name) for name in PUBLIC)


def test_public_names_are_imported_when_they_are_used() -> None:
    lines = [
        "import sys, captum_extremal",
        "assert 'torch' not in sys.modules",
        "assert set(captum_extremal.__all__) <= set(dir(captum_extremal))",
        "from captum_extremal import *",
        "assert class_channels is captum_extremal.class_channels and issubclass(PathSolver, object)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=PACKAGE.parent, timeout=120)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = captum_extremal.Nothing


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name: str) -> None:
    thing = getattr(captum_extremal, name)
    assert len(inspect.getdoc(thing) or "") > 40
    methods = {} if inspect.isfunction(thing) else vars(thing)
    for method_name, method in methods.items():
        if not method_name.startswith("_") and (
            inspect.isfunction(method) or isinstance(method, (property, classmethod))
        ):
            assert inspect.getdoc(getattr(thing, method_name)), f"{name}.{method_name}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_order_of_imports_names_every_module_once() -> None:
    modules = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES} - {"__init__"}
    assert sorted(import_order(PACKAGE)) == sorted(modules)


def test_imports_follow_the_order() -> None:
    assert imports_against_the_order(PACKAGE) == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_matplotlib_is_imported_where_things_are_drawn_only(path: Path) -> None:
    uses = any(module.split(".")[0] == "matplotlib" for module, _ in imports_of(path))
    assert not uses or path.relative_to(PACKAGE).with_suffix("").parts[0] in ("visualization", "cli")


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_captums_private_names_are_imported_in_one_file_only(path: Path) -> None:
    private = [
        f"{module} {name}"
        for module, name in imports_of(path)
        if module.split(".")[0] == "captum" and any(part.startswith("_") for part in (*module.split("."), name or ""))
    ]
    assert not private or relative(path) == "_captum.py"


def test_the_rules_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "attr").mkdir()
    (tmp_path / "__init__.py").write_text('"""About.\n\nOrder of imports:\n    masks,\n    attr, i\n\nMore.\n"""')
    (tmp_path / "masks.py").write_text("import captum_extremal.attr")
    lines = [
        "import a.b",
        "from c import d as e",
        "def f():",
        " from ..masks import g",
        " from . import h",
        " from .. import i",
        " import captum_extremal",
    ]
    (tmp_path / "attr" / "x.py").write_text("\n".join(lines))
    assert sorted(imports_of(tmp_path / "attr" / "x.py"), key=str) == [
        ("a.b", None),
        ("c", "d"),
        ("captum_extremal", "i"),
        ("captum_extremal", None),
        ("captum_extremal.attr", "h"),
        ("captum_extremal.masks", "g"),
    ]
    assert import_order(tmp_path) == ["masks", "attr", "i"]
    assert imports_against_the_order(tmp_path) == [
        "attr/x.py imports captum_extremal",
        "attr/x.py imports i",
        "masks.py imports attr",
    ]


@pytest.mark.parametrize("path", [p for p in FILES if "__all__ =" in p.read_text(encoding="utf-8")], ids=relative)
def test_names_that_files_declare_exist(path: Path) -> None:
    parts = ["captum_extremal", *path.relative_to(PACKAGE).with_suffix("").parts]
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    assert module.__all__
    assert all(hasattr(module, name) for name in module.__all__)
