"""``captum-extremal explain``: the smallest part of a photograph that is enough for a class, or for a detection."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_extremal.areas import AREAS, check_areas
from captum_extremal.attr import ExtremalPerturbation
from captum_extremal.cli.classifier import Classifier, loaded_classifier
from captum_extremal.cli.console import WRONG_ARGUMENT, PhotoError, StopError, print_table, shortened, stopping
from captum_extremal.cli.detector import Detector, loaded_detector
from captum_extremal.cli.networks import Look
from captum_extremal.cli.options import DETECTION, OWN
from captum_extremal.cli.output import (
    EXPLORER,
    EXPLORER_FILE,
    MASKS_FILE,
    TARGETS,
    figures,
    write_explorer,
    write_figure,
    write_results,
)
from captum_extremal.cli.photo_run import PhotoRun, View
from captum_extremal.masks import SmoothMask
from captum_extremal.objectives import BoxScore
from captum_extremal.perturbations import BlurPyramid
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import show_robustness, show_targets

_AT_ONCE = 1  # masked copies of each image, as in the search
_ROBUSTNESS = "the value of the masks and of their binary forms under other ways of hiding"


def run(given: Any) -> int:
    """Explain the photographs; the exit status."""
    with stopping("--areas", ValueError, status=WRONG_ARGUMENT):
        given.areas = check_areas(given.areas, counts=False) if given.areas else None
    if given.score_fraction is None:
        given.score_fraction = 0.9 if given.task == DETECTION else 1.0
    model = given.model, given.weights, given.classes, given.device
    if given.task == DETECTION:
        if any(Look.of(given)):
            raise StopError("--mean, --std, --size: detectors resize and normalise photographs themselves")
        return DetectionRun(given, loaded_detector(*model)).run()
    return ImageRun(given, loaded_classifier(*model, look=Look.of(given))).run()


class ImageRun(PhotoRun):
    """Masks over the pixels of photographs."""

    everything = "1, the whole image"

    def __init__(self, given: Any, classifier: Classifier) -> None:
        self.how = {"areas": given.areas, "perturbation": given.perturbation or OWN["perturbation"]}
        super().__init__(given, classifier, self.how | {"areas": given.areas or AREAS})
        self.html = given.html
        pages = {EXPLORER: EXPLORER_FILE} if given.html else {}
        several = pages | ({TARGETS: "every target's mask, where they differ"} if len(set(self.targets)) > 1 else {})
        self.robustness = given.robustness
        kinds = figures(self.game) | ({"robustness": _ROBUSTNESS} if given.robustness else {})
        self.files = several | {f"CLASS-{kind}.png": text for kind, text in kinds.items()} | {"CLASS.npz": MASKS_FILE}

    def _search(self, view: View, **shared: Any) -> ExtremalMasks:
        how: dict[str, Any] = dict(self.how)
        if view.reduced:
            # Mask and blur keep the lengths in pixels that they have at the weights' own shorter side. They would be
            # shorter for this photograph, which was made smaller, and its masks would have many more parameters.
            square, mask = (self.classifier.shorter_side,) * 2, SmoothMask()
            how["mask"] = SmoothMask(mask.step_for(square), mask.sigma_for(square))
            if how["perturbation"] == "blur":
                how["perturbation"] = BlurPyramid(sigma_max=BlurPyramid().sigma_for(square))
        explained, shared["target"] = self._explained(view)
        return ExtremalPerturbation(explained).extremal_masks(**shared, **how)

    def _explained(self, view: View) -> tuple[Callable[..., Any], Any]:
        """The function that is explained, and its target."""
        return self.classifier.model, view.targets

    def _write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        images, names = view.images, view.names
        if len(names) > 1:
            figure = show_targets(found, images, [shortened(name, 28) for name in names])
            write_figure(figure, folder / TARGETS)
        boxes = self._boxes(view)
        written = [
            write_results(found, images, k, view.base(folder, k), name, box)
            for k, (name, box) in enumerate(zip(names, boxes))
        ]
        page = {"explorer": write_explorer(found, images, names, folder, self._hidden(images))} if self.html else {}
        rows = [{"files": files | page} for files in written]
        return self._with_robustness(rows, found, view, folder) if self.robustness else rows

    def _boxes(self, view: View) -> Any:
        """The box (4,) of each target that is framed in its figure; None for none."""
        return [None] * len(view.names)

    def _hidden(self, images: Tensor) -> Tensor:
        """The colour that a fade ends at, 0 after the normalisation, for images (T, 3, H, W)."""
        black, white = (self.classifier.normalised(torch.full_like(images, value)) for value in (0.0, 1.0))
        return black / (black - white)

    def _print(self, rows: list[dict[str, Any]]) -> None:
        super()._print(rows)
        for row in rows if self.robustness else ():
            found = row["robustness"]
            # Of the mask of a*, the last, or the largest area's where a* is not reached.
            values = zip(found["soft"][-1], found["binary"][-1], found["all_hidden"])
            cells = [[name, *(f"{value:.2f}" for value in of_way)] for name, of_way in zip(found["names"], values)]
            hidden = "what the mask removes" if self.game == "delete" else "what is not kept"
            head = (f"{hidden} is hidden by", "value of the mask", "of its binary form", "where all is hidden")
            print(f"  {row['target']} {row['name']}: the game's value at a*, {row['threshold']:.2f} is enough")
            print_table(cells, head, indent=4)

    def _with_robustness(
        self, rows: list[dict[str, Any]], found: ExtremalMasks, view: View, folder: Path
    ) -> list[dict[str, Any]]:
        """The rows with the values under other ways of hiding, of which a figure is written for each target."""
        explained, target = self._explained(view)
        extremal, inputs = ExtremalPerturbation(explained), self.classifier.normalised(view.images)
        robust = extremal.robustness(found, inputs, target=target, perturbations_per_eval=_AT_ONCE)
        values = {name: getattr(robust, name) for name in ("soft", "binary", "all_hidden")}
        more = []
        for k, (row, name) in enumerate(zip(rows, view.names)):
            figure = show_robustness(robust, k, title=shortened(name, 48))
            files = row["files"] | {"robustness": write_figure(figure, f"{view.base(folder, k)}-robustness.png")}
            numbers = {"names": list(robust.names)} | {
                key: _plain(tensor[k].tolist()) for key, tensor in values.items()
            }
            more.append(row | {"files": files, "robustness": numbers})
        return more


class DetectionRun(ImageRun):
    """Masks of what is enough for the best detection of each class."""

    classifier: Detector

    def _search(self, view: View, **shared: Any) -> ExtremalMasks:
        found = self.classifier.scores(view.images[:1])
        if not bool(found.any()):
            raise PhotoError(f"{self.classifier.name} finds nothing in it")
        if absent := [name for name, target in zip(view.names, view.targets) if not float(found[target])]:
            raise PhotoError(f"{self.classifier.name} finds no {' and no '.join(absent)} in it")
        best = BoxScore(self.classifier.model, labels=torch.tensor(view.targets))
        self._score = BoxScore(best.model, *best.of_images(view.images))
        return super()._search(view, **shared)

    def _explained(self, view: View) -> tuple[Callable[..., Any], Any]:
        return self._score, None

    def _boxes(self, view: View) -> Tensor:
        return self._score.of_images(view.images)[0]

    def _write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        rows = super()._write(found, view, folder)
        return [row | {"box": box} for row, box in zip(rows, self._boxes(view).tolist())]


def _plain(values: Any) -> Any:
    """Numbers, or lists of them, with None for NaN, which JSON does not have."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return None if math.isnan(values) else values
