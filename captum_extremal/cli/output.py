"""What the commands write: summary.json, the figures and the masks of each target."""

import json
import math
import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal import visualization
from captum_extremal.cli.console import shortened, stopping
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
    with stopping(f"--out: cannot make the folder {folder}", OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


class Summary:
    """summary.json: the settings, one row for each target of each photograph, and what failed."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.rows: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self.older = (folder / SUMMARY).exists()  # an earlier run's stays until there is a row to replace it with

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
    area, agreement = float(one.optimal_area), float(one.optimal_agreement)
    return {
        "clean_score": float(one.clean_score),
        "perturbed_score": float(one.perturbed_score),
        "threshold": float(one.threshold),
        "reached": bool(one.reached),
        "vacuous": bool(one.vacuous),
        "optimal_area": None if math.isnan(area) else round(area, 6),
        "optimal_score": float(one.optimal_score),
        "agreement": None if math.isnan(agreement) else round(agreement, 6),
        "areas": [round(float(area), 6) for area in one.areas],
        "scores": one.scores[0].tolist(),
        "complement_scores": one.complement_scores[0].tolist(),
    }


def area_text(row: dict[str, Any]) -> str:
    """The a* of a row in per cent, or in channels."""
    if "channels" in row:
        return f"{row['optimal_channels'] if row['reached'] else 'none'} of {row['channels']}"
    return f"{100 * row['optimal_area']:.3g} %" if row["reached"] else "none"


def agreement_text(row: dict[str, Any]) -> str:
    """How far independent searches agree at a*, where it is known."""
    return "" if row["agreement"] is None else f"{row['agreement']:.2f}"


def write_results(found: ExtremalMasks, images: Tensor, index: int, base: Path, title: str) -> dict[str, str]:
    """Write the masks and the figures of one target; kind -> file name. The names begin with ``base``."""
    title, agrees = shortened(title, 48), not bool(found.agreement_score[index].isnan().all())
    figures = {
        "mask": visualization.show_mask(found, images, index, title=title),
        "sweep": visualization.show_sweep(found, images, index, agreement=agrees, title=title),
        "curves": visualization.show_curves(found, index, title=title),
        "order": visualization.show_order(found, images, index, title=title),
    }
    found.image(index).save(f"{base}.npz")
    files = {kind: write_figure(figure, f"{base}-{kind}.png") for kind, figure in figures.items()}
    return files | {"masks": f"{base.name}.npz"}


def write_figure(figure: Figure, path: str | Path) -> str:
    """Write the figure; the file's name."""
    figure.savefig(path, dpi=DPI)
    return Path(path).name
