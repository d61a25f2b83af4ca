"""Rows of results, one JSON object a line: a run that was stopped goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def completed(path: Path, keys: Iterable[tuple[Any, ...]], compute: Callable[..., Row]) -> list[Row]:
    """The rows of all keys, in their order: read where the file has them, computed and appended where not.

    Args:
        path: the file; a last line that was cut off is dropped.
        keys: what identifies a row, and what ``compute`` is called with.
        compute: from a key to its row.
    """
    rows = _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(_line(key, row) for key, row in rows.items()))
    with path.open("a") as file:
        for key in (wanted := list(keys)):
            if key not in rows:
                rows[key] = compute(*key)
                file.write(_line(key, rows[key]))
                file.flush()
    return [rows[key] for key in wanted]


def _line(key: tuple[Any, ...], row: Row) -> str:
    return json.dumps({"key": key, "row": row}) + "\n"


def _read(path: Path) -> dict[tuple[Any, ...], Row]:
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[tuple(entry["key"])] = entry["row"]
    return rows
