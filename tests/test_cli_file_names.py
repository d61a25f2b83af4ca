"""Names of files from text that comes from outside."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from captum_extremal.cli.file_names import safe_name, slug

NAMES = [
    *("", ".", "..", "...", "....", " ", "  ..  ", "/", "//", "\\", "../..", "..\\..", "/etc/passwd", "C:\\boot.ini"),
    *(
        "C:",
        "a/b",
        "a\\b",
        "~",
        "~root",
        "-rf",
        "--out",
        ".hidden",
        "..jpg",
        "a.",
        "a ",
        "a. . ",
        "con",
        "CON",
        "con.txt",
    ),
    *("Aux", "nul.", "com1", "LPT9.tar.gz", "CONIN$", "a:b", 'a"b', "a<b>c", "a|b", "a?b*c", "a\0b", "a\nb", "a\r\n"),
    *(
        "\x1b[31mred",
        "\u202egpj.exe",
        "\u2028",
        "caf\udce9",
        "\udcff" * 9,
        "a" * 300,
        "\U0001f600" * 90,
        "e\u0301",
        "猫",
    ),
]


def test_there_are_at_least_fifty_names() -> None:
    assert len(set(NAMES)) >= 50


@pytest.mark.parametrize("text", NAMES, ids=ascii)
def test_a_safe_name_is_one_part_of_a_path(text: str, tmp_path: Path) -> None:
    name = safe_name(text)
    assert PurePosixPath(name).parts == PureWindowsPath(name).parts == (name,)
    assert not PureWindowsPath(name).drive
    assert PureWindowsPath(name).stem.upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9", "CONIN$"}
    assert name.isprintable()
    assert not name.startswith((".", "-", "~", " "))
    assert not name.endswith((".", " "))
    assert len(name.encode()) <= 81
    assert safe_name(name) == name
    folder = tmp_path / name
    folder.mkdir()
    assert folder.resolve().parent == tmp_path.resolve()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (folder / f"{name}-robustness.png").touch()


def test_names_that_are_safe_are_left_alone() -> None:
    for name in ("a", "A", "IMG_2031 (1)", "Käfer", "猫", "tabby, tabby cat", "a.b.c", "$HOME", "console", "auxiliary"):
        assert safe_name(name) == name
    assert safe_name("e\N{COMBINING ACUTE ACCENT}") == safe_name("é")  # some file systems take them for one
    assert safe_name("..", "photo") == "photo"


def test_slugs_are_words() -> None:
    assert slug("Tabby, tabby cat") == "tabby-tabby-cat"
    assert slug("../../etc") == "etc"
    assert slug("Käfer 猫_1") == "käfer-猫-1"
    assert slug("$?") == ""
