"""``captum-extremal explain``: the smallest part of a photograph that is enough for a class."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from captum_extremal.cli._arguments import ABOUT_SIZES, add_photographs, add_search
from captum_extremal.cli._console import StopError, shortened
from captum_extremal.cli._figures import FIGURES, MASKS_FILE, area_text, write_figure, write_results
from captum_extremal.cli._run import Question, Run, View
from captum_extremal.cli._summary import Summary, made_folder

if TYPE_CHECKING:
    from captum_extremal.results import ExtremalMasks

_AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # ExtremalPerturbation's, known here without importing it
_BLUR = 20.0  # BlurPyramid's, px at 224


def add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="explain photographs with one of torchvision's classifiers",
        description="Explain photographs with one of torchvision's classifiers. Write the photographs first, "
        "then the options.",
        epilog=ABOUT_SIZES,
    )
    add_photographs(explain)
    explain.add_argument(
        "--areas",
        type=float,
        nargs="+",
        default=list(_AREAS),
        metavar="AREA",
        help=f"increasing fractions of the image ({' '.join(map(str, _AREAS))})",
    )
    explain.add_argument(
        "--perturbation", choices=("blur", "fade"), default="blur", help="what hides pixels (%(default)s)"
    )
    add_search(explain, "captum-extremal-explain")
    explain.set_defaults(command=_explain)


def _explain(options: argparse.Namespace) -> int:
    areas = _checked_areas(options.areas)
    question = Question.of(options)
    about = {"areas": list(areas), "perturbation": options.perturbation, "photos": len(options.photos)}
    summary = Summary(made_folder(options.out), question.about() | about)
    return ImageRun(question, summary, areas, options.perturbation).over(options.photos)


def _checked_areas(areas: list[float]) -> tuple[float, ...]:
    from captum_extremal.settings import check_areas

    try:
        return cast("tuple[float, ...]", check_areas(areas, counts=False))
    except ValueError as error:
        raise StopError(f"--areas: {error}") from error


@dataclass
class ImageRun(Run):
    """Masks over the pixels of photographs."""

    areas: tuple[float, ...]
    perturbation: str

    everything = "1, the whole image"

    def search(self, view: View) -> ExtremalMasks:
        from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation

        classifier = self.question.classifier
        return ExtremalPerturbation(classifier.model).extremal_masks(
            classifier.normalised(view.repeated()),
            target=view.targets,
            areas=self.areas,
            game=self.question.game,
            score_threshold=self.question.threshold,
            solver=self.question.solver(),
            show_progress=sys.stderr.isatty(),
            **({"perturbation": self.perturbation} | (self._lengths() if view.reduced else {})),
        )

    def _lengths(self) -> dict[str, Any]:
        """Masks and blur of the lengths in pixels that they have at the weights' own shorter side.

        A photograph that was made smaller would otherwise have finer ones, and more of them: its search would last.
        """
        from captum_extremal.masks import REFERENCE_SIDE, SmoothMask
        from captum_extremal.perturbations import BlurPyramid

        side = self.question.classifier.shorter_side
        usual, square = SmoothMask(), (side, side)
        lengths: dict[str, Any] = {"mask": SmoothMask(usual.step_for(square), usual.sigma_for(square))}
        if self.perturbation == "blur":
            lengths["perturbation"] = BlurPyramid(sigma_max=_BLUR * side / REFERENCE_SIDE)
        return lengths

    def write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        from captum_extremal.visualization import show_targets

        images = view.repeated()
        if len(view.targets) > 1:
            names = [shortened(name) for name in view.names]
            write_figure(show_targets(found, images, names), folder / "targets.png")
        return [
            {"files": write_results(found, images, k, folder, view.base(k), name)} for k, name in enumerate(view.names)
        ]

    def files(self) -> dict[str, str]:
        several = {"targets.png": "every target's mask"} if len(self.question.targets) > 1 else {}
        return several | {f"CLASS-{kind}.png": text for kind, text in FIGURES.items()} | {"CLASS.npz": MASKS_FILE}

    def optimal_text(self, row: dict[str, Any]) -> str:
        return f"{area_text(row):>6}"
