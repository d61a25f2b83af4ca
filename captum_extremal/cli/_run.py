"""A command over photographs: one after another, past those that fail, with a summary that outlasts an interruption."""

from __future__ import annotations

import argparse
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from captum_extremal.cli._arguments import checked_device
from captum_extremal.cli._classifier import LONG, TOP, Classifier
from captum_extremal.cli._console import FAILED, INTERRUPTED, PROGRAM, PhotoError, one_line, say, shortened
from captum_extremal.cli._figures import print_files
from captum_extremal.cli._photographs import length, read_photo
from captum_extremal.cli._summary import SUMMARY, Summary, made_folder, scores
from captum_extremal.cli._weights import loaded_classifier

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.results import ExtremalMasks
    from captum_extremal.search import PathSolver


@dataclass(frozen=True)
class Question:
    """What is asked about each photograph.

    Attributes:
        targets: classes; None for the predicted one.
        score_threshold: what is enough, as ``--score-threshold`` takes it.
    """

    classifier: Classifier
    targets: list[int | None]
    game: str
    score_threshold: float
    steps: int

    @classmethod
    def of(cls, options: argparse.Namespace) -> Question:
        """The one that the arguments put, with the classifier loaded."""
        device = checked_device(options.device)
        classifier = loaded_classifier(options.model, options.weights, options.classes, device)
        targets = [classifier.index_of(text) for text in options.target or [TOP]]
        return cls(classifier, targets, options.game, options.score_threshold, options.steps)

    def about(self) -> dict[str, Any]:
        """The summary's words for it."""
        return {
            "model": self.classifier.name,
            "weights": self.classifier.weights,
            "classes": len(self.classifier.categories),
            "device": str(self.classifier.device),
            "game": self.game,
            "score_threshold": self.score_threshold,
            "steps": self.steps,
        }

    def threshold(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """Phi_0, as the attribution methods take it."""
        return threshold(self.game, self.score_threshold)(clean, perturbed)

    def solver(self) -> PathSolver:
        from captum_extremal.search import PathSolver

        return PathSolver(steps=self.steps)


@dataclass(frozen=True)
class View:
    """A photograph as the model sees it, and the classes it is explained for.

    Attributes:
        picture: RGB (1, 3, H, W) in [0, 1].
        targets: T classes, each once.
        names: theirs.
        reduced: whether the shorter side is less than the weights want.
    """

    picture: Tensor
    targets: list[int]
    names: list[str]
    reduced: bool

    def repeated(self) -> Tensor:
        """The picture once a target, (T, 3, H, W)."""
        return self.picture.repeat(len(self.targets), 1, 1, 1)

    def base(self, index: int) -> str:
        """What the names of a target's files begin with."""
        return f"{self.targets[index]:03d}-{_file_name(self.names[index])}".rstrip("-")


@dataclass
class Run(ABC):
    """One call of a command: what was asked for, and the summary of what was found."""

    question: Question
    summary: Summary
    folders: set[str] = field(default_factory=lambda: {SUMMARY}, kw_only=True)

    everything: ClassVar[str]
    """The area that is always enough, in words."""

    @abstractmethod
    def search(self, view: View) -> ExtremalMasks:
        """The masks of all targets of one photograph, as one batch."""

    @abstractmethod
    def write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        """Write what was found; what to add to each target's row, with its "files": kind -> name within the folder."""

    @abstractmethod
    def files(self) -> dict[str, str]:
        """What is written for each target: name -> what it holds."""

    @abstractmethod
    def optimal_text(self, row: dict[str, Any]) -> str:
        """A row's a*, as printed."""

    def over(self, photos: Sequence[str]) -> int:
        """Take the photographs in turn.

        Returns:
            the exit status.
        """
        folder = self.summary.folder.resolve()
        self.summary.write()
        try:
            for number, photo in enumerate(photos, 1):
                print(f"photo {number} of {len(photos)}: {photo}", flush=True)
                self.explain(photo)
        except KeyboardInterrupt:
            self.summary.write()
            found = f"what was found so far is in {folder}" if self.summary.rows else "nothing was found so far"
            say(f"{PROGRAM}: interrupted; {found}")
            return INTERRUPTED
        self.summary.write(complete=True)
        if not self.summary.rows:
            path = folder / SUMMARY
            which = f"{path} of an earlier run is kept" if self.summary.older else f"see {path}"
            say(f"{PROGRAM}: no photo could be explained; {which}")
            return FAILED
        print(f"Written to {folder}, a folder for each photo:")
        print_files(self.files() | {f"../{SUMMARY}": "all numbers"})
        print_hint(self.summary.rows, self.question.score_threshold, self.everything)
        return FAILED if self.summary.failed else 0

    def explain(self, photo: str) -> None:
        """Explain one photograph and add its rows to the summary, or name it and say why not."""
        try:
            rows = self._rows(photo)
        except PhotoError as error:
            self.summary.failed.append({"photo": photo, "error": one_line(error)})
            say(f"{PROGRAM}: {photo}: {one_line(error)}")
        else:
            self.summary.rows.extend(rows)
            for row in rows:
                print(self._row_text(row), flush=True)
        self.summary.write()

    def _rows(self, photo: str) -> list[dict[str, Any]]:
        started = time.perf_counter()
        image = read_photo(photo)
        classifier = self.question.classifier
        picture, logits, cropped = classifier.fitted(image)
        predicted = int(logits.argmax())
        targets = list(dict.fromkeys(predicted if target is None else target for target in self.question.targets))
        names = [classifier.categories[target] for target in targets]
        view = View(picture, targets, names, reduced=not cropped and length(image) > LONG)
        try:
            found = self.search(view)
        except (ValueError, RuntimeError) as error:
            raise PhotoError(f"cannot be explained: {error}") from error
        seconds = (time.perf_counter() - started) / len(targets)
        probabilities = logits.softmax(0)
        about = {
            "photo": photo,
            "photo_size": [image.height, image.width],
            "size": list(picture.shape[2:]),
            "cropped": cropped,
            "reduced": view.reduced,
            "seconds": seconds,
        }
        folder = self._folder(photo)
        written = self.write(found, view, folder)
        return [
            about
            | {"target": target, "name": names[k], "predicted": target == predicted}
            | {"probability": float(probabilities[target])}
            | scores(found.image(k))
            | {"folder": folder.name}
            | written[k]
            for k, target in enumerate(targets)
        ]

    def _folder(self, photo: str) -> Path:
        """A new folder named after the photograph: two of the same name do not share one."""
        stem = Path(photo).stem
        name, count = stem, 1
        # Compared without case, as some file systems do.
        while name.lower() in self.folders:
            count += 1
            name = f"{stem}-{count}"
        self.folders.add(name.lower())
        return made_folder(self.summary.folder / name)

    def _row_text(self, row: dict[str, Any]) -> str:
        rows, columns = row["size"]
        crop = (
            ", centre crop" if row["cropped"] else f", smaller as it is longer than {LONG}:1" if row["reduced"] else ""
        )
        return (
            f"    {row['target']:>4} {shortened(row['name']):<28}  score {row['clean_score']:>7.2f}"
            f"  probability {row['probability']:>5.2f}  a* {self.optimal_text(row)}"
            f"   {row['seconds']:.1f} s, {columns} x {rows} px{crop}"
        )


def threshold(game: str, fraction: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Phi_0 at this part of the way from the game's value where nothing is kept to that where everything is."""
    from captum_extremal.search.games import as_game

    reward = as_game(game).value

    def phi_0(clean: Tensor, perturbed: Tensor) -> Tensor:
        nothing, everything = reward(perturbed, clean), reward(clean, perturbed)
        # Where hiding raises the score, less than all of the way would be more than everything gives.
        return everything.minimum(nothing.lerp(everything, fraction))

    return phi_0


def print_hint(rows: list[dict[str, Any]], fraction: float, everything: str) -> None:
    missing = sum(not row["reached"] for row in rows)
    if missing:
        print(
            f"a* is none for {missing} of {len(rows)}: no area is enough, and the figures show the largest. Add larger "
            f"--areas ({everything}, is always enough), or ask for less with a --score-threshold below {fraction:g}."
        )


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
