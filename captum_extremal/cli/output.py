"""What the commands write: summary.json, the figures and the masks of each target."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_extremal.cli.console import FAILED, StopError, print_table, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from captum_extremal.results import ExtremalMasks

SUMMARY = "summary.json"
DPI = 150
FIGURES = {
    "mask": "the image, and only what the mask of the smallest sufficient area a* keeps of it",
    "sweep": "the masks of all areas; bars: the score as a fraction of the whole image's",
    "curves": "the scores of what the masks keep and of what they remove, against their area",
    "order": "the order in which the pixels enter as the area grows",
}
MASKS_FILE = "the masks and their scores, for ExtremalMasks.load"


def made_folder(path: str | Path) -> Path:
    """The folder, made if it does not exist."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StopError(f"--out: cannot make the folder {folder}: {error.strerror}", FAILED) from error
    return folder


@dataclass
class Summary:
    """summary.json: the settings, one row for each target of each photograph, and what failed.

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
        """Replace the file as a whole, so that nobody ever reads half of one, even after an interruption."""
        content = self.about | {"complete": complete, "rows": self.rows, "failed": self.failed}
        partial = self.folder / f"{SUMMARY}.partial"
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        if self.older and not self.rows:
            partial.unlink()  # written all the same, so that a folder without write access is noticed before the search
        else:
            os.replace(partial, self.folder / SUMMARY)


def scores(one: ExtremalMasks) -> dict[str, Any]:
    """The numbers of one image as plain values, None for a missing one."""
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


def area_text(row: dict[str, Any]) -> str:
    """The a* of a row in per cent."""
    return f"{100 * row['optimal_area']:.3g} %" if row["reached"] else "none"


def write_results(
    found: ExtremalMasks, images: Tensor, index: int, folder: Path, base: str, title: str
) -> dict[str, str]:
    """Write the masks and the figures of one target; kind -> file name within the folder."""
    from captum_extremal import visualization

    title = shortened(title, 48)
    figures = {
        "mask": visualization.show_mask(found, images, index, title=title),
        "sweep": visualization.show_sweep(found, images, index, title=title),
        "curves": visualization.show_curves(found, index, title=title),
        "order": visualization.show_order(found, images, index, title=title),
    }
    files = {kind: write_figure(figure, folder / f"{base}-{kind}.png") for kind, figure in figures.items()}
    found.image(index).save(folder / f"{base}.npz")
    return files | {"masks": f"{base}.npz"}


def write_figure(figure: Figure, path: Path) -> str:
    """Write the figure; the file's name."""
    figure.savefig(path, dpi=DPI)
    return path.name


def print_files(where: str, files: dict[str, str]) -> None:
    """Print what has been written, and where."""
    print(f"Written to {where}:")
    print_table(files.items(), indent=2)
