"""summary.json: what was asked for, and a row for each target of each photograph."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_extremal.cli._console import FAILED, StopError

if TYPE_CHECKING:
    from captum_extremal.results import ExtremalMasks

SUMMARY = "summary.json"


@dataclass
class Summary:
    """summary.json: what was asked for, a row for each target of each photograph, and what failed.

    Attributes:
        older: whether an earlier run left one, which stays until there is a row to replace it with.
    """

    folder: Path
    about: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.older = (self.folder / SUMMARY).exists()

    def write(self, *, complete: bool = False) -> None:
        """Replace the file whole, so that a reader, or an interrupted run, never sees half of one."""
        content = self.about | {"complete": complete, "rows": self.rows, "failed": self.failed}
        partial = self.folder / f"{SUMMARY}.partial"
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        if self.older and not self.rows:
            partial.unlink()  # written all the same: a folder that cannot be written to is told before the search
        else:
            os.replace(partial, self.folder / SUMMARY)


def scores(one: ExtremalMasks) -> dict[str, Any]:
    """The numbers of one image, as plain values; None for what there is not."""
    area = float(one.optimal_area)
    return {
        "clean_score": float(one.clean_score),
        "perturbed_score": float(one.perturbed_score),
        "threshold": float(one.threshold),
        "reached": bool(one.reached),
        "optimal_area": None if math.isnan(area) else round(area, 6),
        "score": float(one.scores[0, int(one.optimal_index)]),
        "areas": [round(float(area), 6) for area in one.areas],
        "scores": one.scores[0].tolist(),
        "complement_scores": one.complement_scores[0].tolist(),
    }


def made_folder(path: str | Path) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StopError(f"--out: cannot make the folder {folder}: {error.strerror}", FAILED) from error
    return folder
