"""What the commands write: summary.json, the figures and the masks of each target."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal import visualization
from captum_extremal._replace import replaced
from captum_extremal.cli.console import shortened, stopping
from captum_extremal.perturbed import perturbed_inputs
from captum_extremal.results import ExtremalMasks

SUMMARY, TARGETS = "summary.json", "targets.png"
DPI = 150
EXPLORER = "explorer.html"
EXPLORER_FILE = "a page to explore the masks with, in any browser and without a network"
MASKS_FILE = "the masks and their scores, for ExtremalMasks.load"


def made_folder(path: str | Path) -> Path:
    """The folder, made if it does not exist."""
    folder = Path(path)
    with stopping(f"--out: cannot make the folder {folder}", OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def figures(game: object = "preserve") -> dict[str, str]:
    """The kinds of figures of a target, and what they show."""
    does = "keeps of it"
    if game != "preserve":
        does = "removes from it, bright" if game == "delete" else "keeps in one copy and removes from another, bright"
    bars = "the score without the mask's region" if game == "delete" else "the score of what the mask keeps"
    return {
        "mask": f"the image, and only what the mask of the smallest sufficient area a* {does}",
        "sweep": f"the masks of all areas; bars: {bars}, as a fraction of the whole image's",
        "curves": "the scores of what the masks keep and of what they remove, against their area",
        "order": "the order in which the pixels enter as the area grows",
    }


class Summary:
    """summary.json: the settings, one row for each target of each photograph, and what failed.

    An earlier run's results stay until there is the first one to replace them with.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.rows: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self.older = (folder / SUMMARY).exists()

    def replace_older(self) -> None:
        """Remove the files of an earlier run, or they would stand beside the new ones."""
        if self.older:
            for path in _files_of(self.folder):
                path.unlink(missing_ok=True)
                with suppress(OSError):  # where somebody has put other files
                    path.parent.rmdir()
        self.older = False

    def write(self, *, complete: bool = False) -> None:
        """Replace the file as a whole, so that nobody ever reads half of one, even after an interruption."""
        content = self.about | {"complete": complete, "rows": self.rows, "failed": self.failed}
        # Without rows it is written all the same, so that a folder without write access is noticed before the search.
        name = f"{SUMMARY}.unused" if self.older and not self.rows else SUMMARY
        with replaced(self.folder / name) as partial:
            Path(partial).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        if name != SUMMARY:
            (self.folder / name).unlink()


def _files_of(folder: Path) -> list[Path]:
    """The files that a run has written, as its summary names them; none outside of the folder."""
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        named = [(str(row.get("folder", "")), str(file)) for row in content["rows"] for file in row["files"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # no summary of ours
    named += [(inner, TARGETS) for inner, _ in named if inner]
    inside = (pair for pair in dict.fromkeys(named) if pair[1] and all(one == Path(one).name != ".." for one in pair))
    return [folder / inner / file for inner, file in inside]


def scores(one: ExtremalMasks) -> dict[str, Any]:
    """The numbers of one image as plain values, None for a missing one."""
    area, agreement, mask = float(one.optimal_area), float(one.optimal_agreement), cast(Tensor, one.optimal_mask())
    return {
        "clean_score": float(one.clean_score),
        "perturbed_score": float(one.perturbed_score),
        "threshold": float(one.threshold),
        "reached": bool(one.reached),
        "vacuous": bool(one.vacuous),
        "optimal_area": None if math.isnan(area) else round(area, 6),
        "optimal_score": float(one.optimal_score),
        "optimal_complement_score": float(one.optimal_complement_score),
        # As ExtremalMasks.binariness: 1 for a binary mask, the area for a constant one.
        "optimal_binariness": float(mask.square().sum() / mask.sum()) if bool(mask.any()) else None,
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


def write_results(
    found: ExtremalMasks, images: Tensor, index: int, base: Path, title: str, box: Tensor | None = None
) -> dict[str, str]:
    """Write the masks and the figures of one target; kind -> file name. The names begin with ``base``.

    A box (4,) is framed in the figure of the mask.
    """
    title, agrees = shortened(title, 48), not bool(found.agreement_score[index].isnan().all())
    figures = {
        "mask": visualization.show_mask(found, images, index, box=box, title=title),
        "sweep": visualization.show_sweep(found, images, index, agreement=agrees, title=title),
        "curves": visualization.show_curves(found, images, index, title=title),
        "order": visualization.show_order(found, images, index, title=title),
    }
    found.image(index).save(f"{base}.npz")
    files = {kind: write_figure(figure, f"{base}-{kind}.png") for kind, figure in figures.items()}
    return files | {"masks": f"{base.name}.npz"}


def write_explorer(
    found: ExtremalMasks, images: Tensor, names: list[str], folder: Path, hidden: Tensor | float | None = None
) -> str:
    """Write the explorer of all targets of one picture, and what the model saw of it; the file's name.

    Args:
        images: the picture once per target, (T, 3, H, W) in [0, 1].
        hidden: the colour that a fade ends at, (T, 3, H, W); a blur has none.
    """
    seen = perturbed_inputs(found, images, hidden, optimum=True).clamp(0, 1)
    found.to_html(folder / EXPLORER, images, perturbed=seen, names=names)
    return EXPLORER


def write_figure(figure: Figure, path: str | Path) -> str:
    """Write the figure; the file's name."""
    with replaced(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png")
    return Path(path).name
