"""What ``explain`` and ``channels`` share: photographs in turn, and a summary that survives an interruption."""

from __future__ import annotations

import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from captum_extremal.cli._photographs import read_photo
from captum_extremal.cli.classifier import LONG, Classifier, aspect_ratio
from captum_extremal.cli.console import FAILED, INTERRUPTED, PhotoError, one_line, print_table, say
from captum_extremal.cli.options import TOP, with_defaults
from captum_extremal.cli.output import SUMMARY, Summary, made_folder, print_files, scores

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.results import ExtremalMasks


@dataclass(frozen=True)
class Question:
    """What is asked about each photograph.

    Attributes:
        targets: classes; None for the predicted one.
        score_fraction: the score that is enough, as ``--score-fraction`` takes it.
        steps: of the path solver.
    """

    classifier: Classifier
    targets: list[int | None]
    game: str
    score_fraction: float
    steps: int

    @classmethod
    def asked(
        cls,
        search: Callable[..., ExtremalMasks],
        classifier: Classifier,
        target: list[str] | None,
        game: str | None,
        score_fraction: float,
        steps: int | None,
    ) -> Question:
        """The question that the options ask, with the defaults of the method whose ``extremal_masks`` is given."""
        from captum_extremal.search import PathSolver

        targets = [classifier.index_of(text) for text in target or [TOP]]
        chosen = with_defaults(search, game=game) | with_defaults(PathSolver, steps=steps)
        return cls(classifier, targets, chosen["game"], score_fraction, chosen["steps"])

    def about(self) -> dict[str, Any]:
        """What the summary says of it."""
        return {
            "model": self.classifier.name,
            "weights": self.classifier.weights,
            "classes": len(self.classifier.categories),
            "device": str(self.classifier.device),
            "game": self.game,
            "score_fraction": self.score_fraction,
            "steps": self.steps,
        }

    def threshold(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """Phi_0: the game's value at this fraction of the way from nothing kept to everything kept."""
        from captum_extremal.search.games import as_game

        reward = as_game(self.game).value
        nothing, everything = reward(perturbed, clean), reward(clean, perturbed)
        # Where the perturbation raises the score, the point on the way would be above what everything gives.
        return everything.minimum(nothing.lerp(everything, self.score_fraction))

    def arguments(self, view: View) -> dict[str, Any]:
        """The keyword arguments of ``extremal_masks`` that do not depend on the method."""
        from captum_extremal.search import PathSolver

        return {
            "inputs": self.classifier.normalised(view.repeated()),
            "target": view.targets,
            "game": self.game,
            "score_threshold": self.threshold,
            "solver": PathSolver(steps=self.steps),
            "show_progress": sys.stderr.isatty(),
        }


@dataclass(frozen=True)
class View:
    """A photograph as the model sees it, and the classes for which it is explained.

    Attributes:
        picture: RGB (1, 3, H, W) in [0, 1].
        targets: T different classes.
        names: their names.
        reduced: whether the shorter side is smaller than the weights want.
    """

    picture: Tensor
    targets: list[int]
    names: list[str]
    reduced: bool

    def repeated(self) -> Tensor:
        """The picture once per target, (T, 3, H, W)."""
        return self.picture.repeat(len(self.targets), 1, 1, 1)

    def base(self, index: int) -> str:
        """The beginning of the names of a target's files."""
        name = re.sub(r"[^a-z0-9]+", "-", self.names[index].lower()).strip("-")[:40]
        return f"{self.targets[index]:03d}-{name}".rstrip("-")


@dataclass
class PhotoRun(ABC):
    """One call of a command: the question, and the summary of the answers."""

    question: Question
    summary: Summary
    folders: set[str] = field(default_factory=lambda: {SUMMARY}, kw_only=True)

    everything: ClassVar[str]
    """The area that is always enough, in words."""

    @abstractmethod
    def _search(self, view: View) -> ExtremalMasks:
        """The masks of all targets of one photograph, as one batch."""

    @abstractmethod
    def _write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        """Write the results; for each target an addition to its row, with "files": kind -> name within the folder."""

    @abstractmethod
    def _files(self) -> dict[str, str]:
        """What is written for each target: name -> content."""

    @abstractmethod
    def _optimal_text(self, row: dict[str, Any]) -> str:
        """The a* of a row, as printed."""

    def over(self, photos: Sequence[str]) -> int:
        """Explain the photographs in turn; the exit status."""
        folder = self.summary.folder.resolve()
        self.summary.write()
        try:
            for number, photo in enumerate(photos, 1):
                print(f"photo {number} of {len(photos)}: {photo}", flush=True)
                self.explain(photo)
        except KeyboardInterrupt:
            self.summary.write()
            found = f"what was found so far is in {folder}" if self.summary.rows else "nothing was found so far"
            say(f"interrupted; {found}")
            return INTERRUPTED
        self.summary.write(complete=True)
        if not self.summary.rows:
            path = folder / SUMMARY
            which = f"{path} of an earlier run is kept" if self.summary.older else f"see {path}"
            say(f"no photo could be explained; {which}")
            return FAILED
        files = self._files() | {f"../{SUMMARY}": "all numbers"}
        print_files(f"{folder}, a folder for each photo", files)
        print_hint(self.summary.rows, self.question.score_fraction, self.everything)
        return FAILED if self.summary.failed else 0

    def explain(self, photo: str) -> None:
        """Explain one photograph and add its rows to the summary, or print why it cannot be explained."""
        try:
            rows = self._rows(photo)
        except PhotoError as error:
            self.summary.failed.append({"photo": photo, "error": one_line(error)})
            say(f"{photo}: {one_line(error)}")
        else:
            self.summary.rows.extend(rows)
            self._print(rows)
        self.summary.write()

    def _rows(self, photo: str) -> list[dict[str, Any]]:
        started = time.perf_counter()
        image = read_photo(photo)
        classifier = self.question.classifier
        picture, logits, cropped = classifier.fitted(image)
        predicted = int(logits.argmax())
        targets = list(dict.fromkeys(predicted if target is None else target for target in self.question.targets))
        names = [classifier.categories[target] for target in targets]
        view = View(picture, targets, names, reduced=not cropped and aspect_ratio(image) > LONG)
        try:
            found = self._search(view)
        except (ValueError, RuntimeError) as error:
            raise PhotoError(f"cannot be explained: {error}") from error
        seconds = (time.perf_counter() - started) / len(targets)
        probabilities = logits.softmax(0)
        folder = self._folder(photo)
        about = {
            "photo": photo,
            "photo_size": [image.height, image.width],
            "size": list(picture.shape[2:]),
            "cropped": cropped,
            "reduced": view.reduced,
            "seconds": seconds,
        }
        return [
            about
            | {"target": target, "name": names[k], "predicted": target == predicted}
            | {"probability": float(probabilities[target])}
            | scores(found.image(k))
            | {"folder": folder.name}
            | written
            for k, (target, written) in enumerate(zip(targets, self._write(found, view, folder)))
        ]

    def _folder(self, photo: str) -> Path:
        """A new folder named after the photograph; two photographs of one name do not share it."""
        stem = Path(photo).stem
        name, count = stem, 1
        while name.lower() in self.folders:  # some file systems ignore case
            count += 1
            name = f"{stem}-{count}"
        self.folders.add(name.lower())
        return made_folder(self.summary.folder / name)

    def _print(self, rows: list[dict[str, Any]]) -> None:
        (height, width), first = rows[0]["size"], rows[0]
        reduced = f", smaller as it is longer than {LONG}:1" if first["reduced"] else ""
        crop = ", centre crop" if first["cropped"] else reduced
        print(f"  {width} x {height} px{crop}, {first['seconds']:.1f} s per class")
        numbers = [
            (
                f"{row['target']} {row['name']}",
                f"{row['clean_score']:.2f}",
                f"{row['probability']:.2f}",
                self._optimal_text(row),
            )
            for row in rows
        ]
        print_table(numbers, ("class", "score", "probability", "a*"), indent=2)


def print_hint(rows: list[dict[str, Any]], fraction: float, everything: str) -> None:
    """Print what to do if no area is enough for some rows."""
    missing = sum(not row["reached"] for row in rows)
    if missing:
        print(
            f"a* is none for {missing} of {len(rows)}: no area is enough, and the figures show the largest. Add larger "
            f"--areas ({everything}, is always enough), or ask for less with a --score-fraction below {fraction:g}."
        )
