"""``captum-extremal explain``: the smallest part of a photograph that is enough for a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from captum_extremal.cli import options
from captum_extremal.cli.console import StopError, shortened
from captum_extremal.cli.options import comma_separated, number, option
from captum_extremal.cli.output import FIGURES, MASKS_FILE, Summary, area_text, made_folder, write_figure, write_results
from captum_extremal.cli.photo_run import PhotoRun, Question, View
from captum_extremal.cli.weights import DEFAULT, loaded_classifier

if TYPE_CHECKING:
    from captum_extremal.results import ExtremalMasks


_AREAS = option("Increasing fractions of the image (the library's own).", "AREA,...", several=comma_separated(number))


def explain(
    photos: Annotated[list[str], options.PHOTOS],
    model: options.Model = "resnet50",
    weights: options.Weights = DEFAULT,
    classes: options.Classes = None,
    target: options.Target = None,
    areas: Annotated[list[float] | None, _AREAS] = None,
    perturbation: Annotated[Literal["blur", "fade"] | None, option("What hides pixels (the library's own).")] = None,
    game: options.Game = None,
    score_fraction: options.ScoreFraction = 1.0,
    steps: options.Steps = None,
    device: options.Device = "auto",
    out: options.Out = "captum-extremal-explain",
) -> int:
    """Explain photographs with one of torchvision's classifiers."""
    from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
    from captum_extremal.settings import AREAS, check_areas

    search = ExtremalPerturbation.extremal_masks
    chosen = options.with_defaults(search, perturbation=perturbation)
    try:
        chosen["areas"] = check_areas(areas or AREAS, counts=False)
    except ValueError as error:
        raise StopError(f"--areas: {error}") from error
    classifier = loaded_classifier(model, weights, classes, device)
    question = Question.asked(search, classifier, target, game, score_fraction, steps)
    about = {"areas": list(chosen["areas"]), "perturbation": chosen["perturbation"], "photos": len(photos)}
    summary = Summary(made_folder(out), question.about() | about)
    return ImageRun(question, summary, **chosen).over(photos)


@dataclass
class ImageRun(PhotoRun):
    """Masks over the pixels of photographs."""

    areas: tuple[float, ...]
    perturbation: str

    everything = "1, the whole image"

    def _search(self, view: View) -> ExtremalMasks:
        from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation

        how: dict[str, Any] = {"areas": self.areas, "perturbation": self.perturbation}
        if view.reduced:
            how |= self._usual_lengths()
        method = ExtremalPerturbation(self.question.classifier.model)
        return method.extremal_masks(**self.question.arguments(view), **how)

    def _usual_lengths(self) -> dict[str, Any]:
        """Mask and blur with the lengths in pixels that they have at the weights' own shorter side.

        They would be shorter for a photograph that was made smaller, and its masks would have many more parameters.
        """
        from captum_extremal.masks import SmoothMask
        from captum_extremal.perturbations import BlurPyramid

        side = self.question.classifier.shorter_side
        mask, square = SmoothMask(), (side, side)
        lengths: dict[str, Any] = {"mask": SmoothMask(mask.step_for(square), mask.sigma_for(square))}
        if self.perturbation == "blur":
            lengths["perturbation"] = BlurPyramid(sigma_max=BlurPyramid().sigma_for(square))
        return lengths

    def _write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        from captum_extremal.visualization import show_targets

        images = view.repeated()
        if len(view.targets) > 1:
            names = [shortened(name, 28) for name in view.names]
            write_figure(show_targets(found, images, names), folder / "targets.png")
        return [
            {"files": write_results(found, images, k, folder, view.base(k), name)} for k, name in enumerate(view.names)
        ]

    def _files(self) -> dict[str, str]:
        several = {"targets.png": "every target's mask"} if len(self.question.targets) > 1 else {}
        return several | {f"CLASS-{kind}.png": text for kind, text in FIGURES.items()} | {"CLASS.npz": MASKS_FILE}

    def _optimal_text(self, row: dict[str, Any]) -> str:
        return area_text(row)
