"""The figures and the masks of one target, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_extremal.cli._console import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from captum_extremal.results import ExtremalMasks

DPI = 150
FIGURES = {
    "mask": "the image, and only what the mask of the smallest sufficient area a* keeps of it",
    "sweep": "the masks of all areas; bars: the score as a fraction of the whole image's",
    "curves": "the score of what the masks keep, and of what is left without it, against their area",
    "order": "the order in which the pixels enter as the area grows",
}
MASKS_FILE = "the masks and their scores, for ExtremalMasks.load"


def write_results(
    found: ExtremalMasks, images: Tensor, index: int, folder: Path, base: str, title: str
) -> dict[str, str]:
    """The masks and the figures of one target: kind -> file name within the folder."""
    from captum_extremal import visualization

    title = shortened(title, 48)
    figures: dict[str, Figure] = {
        "mask": visualization.show_mask(found, images, index, title=title),
        "sweep": visualization.show_sweep(found, images, index, title=title),
        "curves": visualization.show_curves(found, index, title=title),
        "order": visualization.show_order(found, images, index, title=title),
    }
    files = {kind: write_figure(figure, folder / f"{base}-{kind}.png") for kind, figure in figures.items()}
    found.image(index).save(folder / f"{base}.npz")
    return files | {"masks": f"{base}.npz"}


def write_figure(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=DPI)
    return path.name


def area_text(row: dict[str, Any]) -> str:
    """A row's a* in percent."""
    return f"{100 * row['optimal_area']:.3g} %" if row["reached"] else "none"


def print_files(files: dict[str, str]) -> None:
    for name, text in files.items():
        print(f"  {name:<20} {text}")
