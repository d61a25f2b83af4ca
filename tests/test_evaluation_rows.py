"""Rows on disk: nothing is lost, nothing counts twice, and a file from elsewhere can do no harm."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from captum_extremal.evaluation import Kept, Row, RowFile, Settings, read_rows, repair

SETTINGS = Settings({"method": "center", "data": "some", "layer": None})
ROWS = [
    Row(image="a", label="cat", difficult=True, seconds=0.5, values={"distance": 3.25, "energy": 0.1}),
    Row(image="a", label="dög", difficult=False, seconds=0.5, values={"distance": None}),
    Row(image="b\n\x1b\udcff", label="cat", difficult=False, seconds=1.0, values={}),
]


def written(folder: Path, *batches: list[Row], settings: Settings = SETTINGS) -> Path:
    """A new file with these batches."""
    before = set(folder.iterdir())
    with RowFile(folder, settings, 3) as file:
        for rows in batches:
            file.append(rows)
    (path,) = set(folder.iterdir()) - before
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written(tmp_path, ROWS[:2], ROWS[2:])
    (kept,) = read_rows([tmp_path]).values()
    assert (kept.settings, kept.pairs, list(kept.rows.values())) == (SETTINGS, 3, ROWS)
    assert list(kept.rows) == [("a", "cat"), ("a", "dög"), (ROWS[2].image, "cat")]


def test_a_run_that_finds_nothing_leaves_no_file(tmp_path: Path) -> None:
    with RowFile(tmp_path, SETTINGS, 3):
        pass
    assert not list(tmp_path.iterdir())
    assert read_rows([tmp_path]) == {}


def test_a_file_cut_anywhere_holds_its_whole_rows(tmp_path: Path) -> None:
    content = written(tmp_path, ROWS).read_bytes()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    cut = tmp_path / "cut.jsonl"
    for length in range(0, len(content) + 1, 3):
        cut.write_bytes(content[:length])
        whole = sum(end <= length for end in ends)
        runs = read_rows([cut])
        assert len(runs) == min(whole, 1)
        assert [row for kept in runs.values() for row in kept.rows.values()] == ROWS[: max(0, whole - 1)]


def test_rows_of_several_files_merge_by_pair_and_settings(tmp_path: Path) -> None:
    first = written(tmp_path, ROWS[:2])
    again = Row(image="a", label="cat", difficult=True, seconds=9.0, values={"distance": 99.0})
    second = written(tmp_path, [again, ROWS[2]])
    other = Settings({**SETTINGS.about, "layer": "x"})
    written(tmp_path, [again], settings=other)
    runs = read_rows([tmp_path])
    assert list(runs[SETTINGS.key].rows.values()) == ROWS
    assert list(runs[other.key].rows.values()) == [again]
    assert other.key != SETTINGS.key
    together = tmp_path / "together"
    together.write_bytes(second.read_bytes() + first.read_bytes())  # as cat does
    assert list(read_rows([together])[SETTINGS.key].rows.values()) == [again, ROWS[2], ROWS[1]]


def test_each_process_and_each_start_has_a_file_of_its_own(tmp_path: Path) -> None:
    with RowFile(tmp_path, SETTINGS, 3) as one, RowFile(tmp_path, SETTINGS, 3) as other:
        one.append(ROWS[:1])
        other.append(ROWS[1:])
        assert len(list(tmp_path.iterdir())) == 2
        assert len(read_rows([tmp_path])[SETTINGS.key].rows) == 3  # flushed: readers need not wait for the end


def test_runs_come_in_the_order_in_which_they_were_started(tmp_path: Path) -> None:
    several = [Settings({"method": str(number)}) for number in range(20)]
    for settings in several:
        written(tmp_path, ROWS, settings=settings)
    assert list(read_rows([tmp_path])) == [settings.key for settings in several]


def test_images_that_could_not_be_used_are_forgotten_once_they_can(tmp_path: Path) -> None:
    with RowFile(tmp_path, SETTINGS, 3) as file:
        file.note_unreadable("a", "a.jpg: truncated")
        file.note_unreadable("z", "z.jpg: no such file")
        file.note_unreadable("z", "z.jpg: no such file")
    assert read_rows([tmp_path])[SETTINGS.key].unreadable == {"a": "a.jpg: truncated", "z": "z.jpg: no such file"}
    written(tmp_path, ROWS[:1])
    assert list(read_rows([tmp_path])[SETTINGS.key].unreadable) == ["z"]


def header(**changes: Any) -> dict[str, Any]:
    return {"evaluation": 1, "settings": SETTINGS.key, "about": SETTINGS.about, "pairs": 3} | changes


def row(**changes: Any) -> dict[str, Any]:
    line = {"settings": SETTINGS.key, "image": "a", "class": "b", "difficult": False, "seconds": 1, "values": {}}
    return line | changes


DAMAGED = {
    "no JSON": "nothing",
    "no object": "[]",
    "nested deeply": "[" * 200_000,
    "a number of too many digits": json.dumps(row()).replace("1", "1" * 5000),
    "no settings": json.dumps({"image": "a"}),
    "other settings": json.dumps(row(settings="0" * 16)),
    "another format": json.dumps(header(evaluation=2)),
    "settings with another key": json.dumps(header(about={"method": "rise"})),
    "settings that are none": json.dumps(header(about=[1])),
    "no count": json.dumps(header(pairs=-1)),
    "a name that is none": json.dumps(row(**{"class": 3})),
    "a flag that is none": json.dumps(row(difficult=1)),
    "seconds that are none": json.dumps(row(seconds=True)),
    "an infinite value": json.dumps(row(values={"energy": math.inf})),
    "an infinite number": json.dumps(row()).replace('"seconds": 1', '"seconds": 1e999'),
    "a value that is none": json.dumps(row(values={"energy": "__import__('os').system('true')"})),
    "values that are none": json.dumps(row(values=[1])),
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(header())}\n{json.dumps(row())}\n{line}\n{json.dumps(row())}\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged, or no file of rows, at line 3"):
        read_rows([path])


@pytest.mark.parametrize("line", [*DAMAGED.values(), "\0" * 2**20], ids=[*DAMAGED, "nothing for long"])
def test_damaged_lines_are_set_aside_and_all_others_kept(line: str, tmp_path: Path) -> None:
    path, lines = tmp_path / "rows.jsonl", [json.dumps(one) for one in (header(), row(), row(image="z"))]
    before = "\n".join([*lines[:2], line, lines[2], '{"unfinished'])
    path.write_text(before)
    assert repair([tmp_path]) == {path: 1}
    assert path.read_text() == "\n".join([*lines, ""])
    assert (tmp_path / "rows.jsonl.damaged").read_text() == before
    assert len(read_rows([tmp_path])[SETTINGS.key].rows) == 2
    assert repair([tmp_path]) == {}
    path.write_text(before)
    repair([path])
    assert len([*tmp_path.glob("*.damaged*")]) == 2


def test_a_damaged_header_costs_no_row_where_its_run_is_known(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    content = path.read_bytes()
    path.write_bytes(b"x" + content[1:])
    assert repair([tmp_path], [Kept(SETTINGS, 3)]) == {path: 1}
    assert path.read_bytes() == content
    path.write_bytes(b"x" + content[1:])
    written(tmp_path, ROWS[:1])  # another file has the header
    assert repair([tmp_path]) == {path: 1}
    assert path.read_bytes() == content
    assert list(read_rows([tmp_path])[SETTINGS.key].rows.values()) == ROWS


def test_files_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = tmp_path / "endless.jsonl"
    with endless.open("wb") as file:
        file.truncate(2**40)  # of zeros, which take no room on the disk
    with pytest.raises(ValueError, match="has a line longer than a row can be, 1048576 bytes"):
        read_rows([endless])
    monkeypatch.setattr("captum_extremal.evaluation.rows._LARGEST_FILE", 300)
    path = written(tmp_path, ROWS)
    with pytest.raises(ValueError, match="is larger than a file of rows can be, 300 bytes"):
        read_rows([path])


def test_values_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    with RowFile(tmp_path, SETTINGS, 3) as file, pytest.raises(ValueError, match="JSON"):
        file.append([Row(image="a", label="b", difficult=False, seconds=1.0, values={"energy": math.nan})])
