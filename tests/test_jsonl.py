"""The store of rows: a process that is killed loses at most its last line, and other files are left alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from captum_extremal._jsonl import JsonLines, read_lines, set_aside

ABOUT = {"size": 3}
KILLED = """
import os, signal, sys
from captum_extremal._jsonl import JsonLines
with JsonLines(sys.argv[1], "numbers", {"size": 3}) as file:
    known = list(file.read(int))
    for number in range(len(known), len(known) + 4):
        file.append([number])
    file._file.write(b"12")
    file._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def numbers(path: Path) -> list[int]:
    with path.open("rb") as file:
        return list(read_lines(file, lambda value: value if isinstance(value, int) else -1))


def test_a_killed_process_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for starts in (1, 2):
        done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert path.read_bytes().endswith(b"\n12")
        assert numbers(path) == [-1, *range(4 * starts)]  # readers skip the unfinished line, and leave it
    with JsonLines(path, "numbers", ABOUT) as file:
        assert list(file.read(int)) == [*range(8)]
        file.append([8])
        file.append([9, 10])
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"numbers": 1, "size": 3}, *range(11)]


def test_a_file_without_values_is_empty(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "file", "numbers", ABOUT) as file:
        assert list(file.read(int)) == []
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("cut", [1, 10, 24])
def test_an_unfinished_header_is_written_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "file"
    with JsonLines(path, "numbers", ABOUT) as file:
        file.append([1])
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    with JsonLines(path, "numbers", ABOUT) as file:
        assert list(file.read(int)) == []
        file.append([1])
    assert path.read_bytes() == whole


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with JsonLines(path, "numbers", ABOUT) as file:
        file.append([1])
    whole = path.read_bytes()
    with pytest.raises(ValueError, match=r"path must be a file of these settings, got .* with size 3 instead of 4"):
        JsonLines(path, "numbers", {"size": 4})
    with pytest.raises(ValueError, match="path must be a new file or one of words"):
        JsonLines(path, "words", ABOUT)
    assert path.read_bytes() == whole
    path.write_bytes(b'{"words": 2}\n')
    with pytest.raises(ValueError, match=r"path must be a file of these settings, got .* with words 2 instead of 1"):
        JsonLines(path, "words", {})
    others = (b"x", b"[1]\n", b"1,2\n3,4\n", b'{"epoch": 1}\n', b"\x89PNG\r\n\x1a\n\xff\xfe")
    for content in (*others, b"[" * 100_000 + b"\n", b"\0" * 2**21):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path must be a new file or one of words"):
            JsonLines(path, "words", ABOUT)
        assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["x", "[", "{}", "1 2", "1" * 400 + "e999999999"])
def test_damaged_lines_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file"
    path.write_text(f'{{"numbers": 1, "size": 3}}\n1\n{damage}\n2\n')
    with (
        JsonLines(path, "numbers", ABOUT) as file,
        pytest.raises(ValueError, match=r"file is damaged, or no file of rows, at line 3"),
    ):
        list(file.read(int))


@pytest.mark.parametrize("fails", ["shutil.copy2", "Path.write_bytes"])
def test_a_full_disk_leaves_a_damaged_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1\nx\n")

    def full(*given: object) -> None:
        with open(str(given[1] if fails == "shutil.copy2" else given[0]), "w") as file:
            file.write("1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(f"captum_extremal._jsonl.{fails}", full)
        with pytest.raises(OSError, match="No space left"):
            set_aside(path, [b"1\n"])
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"1\nx\n")]
    set_aside(path, [b"1\n"])
    contents = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert contents == {"file": b"1\n", "file.damaged": b"1\nx\n"}
