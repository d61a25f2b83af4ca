"""The public names, and the rules of the house: who may import whom."""

from __future__ import annotations

import ast
import importlib
import inspect
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
    "ImagePrior",
    "InvertedFeatures",
    "LayerExtremalPerturbation",
    "MeaningfulPerturbation",
    "PathSolver",
    "PenaltySolver",
    "RISE",
    "RemovalDrop",
    "SmoothMask",
    "area_loss",
    "class_channels",
]
# Data flows one way: what stands further down may import what stands above it.
ORDER = [
    "masks",
    "perturbations",
    "objective",
    "search",
    "results",
    "layers",
    "settings",
    "session",
    "inversion",
    "attr",
]
HELPERS = {"_captum", "_checks", "_rows", "_state", "_version", "arguments", "hooks"}


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


def rooms_imported(path: Path) -> set[str]:
    """The package's own top-level modules that a file imports."""
    rooms = set()
    for module, name in imports_of(path):
        parts = module.split(".")
        if parts[0] == "captum_extremal":
            rooms.add(parts[1] if len(parts) > 1 else str(name))
    return rooms


def test_public_names_are_these() -> None:
    assert sorted(captum_extremal.__all__) == PUBLIC
    assert len(set(captum_extremal.__all__)) == len(captum_extremal.__all__)
    assert all(hasattr(captum_extremal, name) for name in PUBLIC)


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


@pytest.mark.parametrize("room", ORDER[:-1])
def test_imports_go_one_way(room: str) -> None:
    earlier = set(ORDER[: ORDER.index(room)])
    for path in [*PACKAGE.glob(f"{room}.py"), *PACKAGE.glob(f"{room}/*.py")]:
        assert rooms_imported(path) <= earlier | HELPERS | {room}, relative(path)


@pytest.mark.parametrize("helper", sorted(HELPERS))
def test_helpers_import_no_room(helper: str) -> None:
    assert rooms_imported(PACKAGE / f"{helper}.py") <= HELPERS


@pytest.mark.parametrize(
    "path", [*sorted((PACKAGE / "attr").glob("*.py")), PACKAGE / "class_channels.py"], ids=relative
)
def test_attributions_import_no_front_end(path: Path) -> None:
    assert rooms_imported(path) <= {*ORDER, *HELPERS}


# Behind the attributions: what measures them, what they are measured on, the evaluation of both, and the front ends.
LATER = ["metrics", "datasets", "evaluation", "visualization", "cli"]


@pytest.mark.parametrize("room", LATER)
def test_what_measures_and_shows_imports_one_way(room: str) -> None:
    further_along = set(LATER[LATER.index(room) + 1 :])
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        assert not rooms_imported(path) & further_along, relative(path)


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
    """The parser of imports sees every form of them."""
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "attr").mkdir()
    lines = [
        "import a.b",
        "from c import d as e",
        "def f():",
        " from ..masks import g",
        " from . import h",
        " from .. import i",
    ]
    (tmp_path / "attr" / "x.py").write_text("\n".join(lines))
    assert sorted(imports_of(tmp_path / "attr" / "x.py"), key=str) == [
        ("a.b", None),
        ("c", "d"),
        ("captum_extremal", "i"),
        ("captum_extremal.attr", "h"),
        ("captum_extremal.masks", "g"),
    ]
    assert rooms_imported(tmp_path / "attr" / "x.py") == {"masks", "attr", "i"}


@pytest.mark.parametrize("path", [p for p in FILES if "__all__ =" in p.read_text(encoding="utf-8")], ids=relative)
def test_names_that_files_declare_exist(path: Path) -> None:
    parts = ["captum_extremal", *path.relative_to(PACKAGE).with_suffix("").parts]
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    assert module.__all__
    assert all(hasattr(module, name) for name in module.__all__)
