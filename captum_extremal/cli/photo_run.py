"""What ``explain`` and ``channels`` share: photographs in turn, and a summary that survives an interruption."""

import itertools
import os
import re
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from captum_extremal.cli.classifier import Classifier
from captum_extremal.cli.console import (
    FAILED,
    INTERRUPTED,
    PhotoError,
    StopError,
    one_line,
    print_files,
    print_table,
    say,
    telling,
)
from captum_extremal.cli.file_names import safe_name, slug
from captum_extremal.cli.options import LONG, TOP
from captum_extremal.cli.output import SUMMARY, Summary, agreement_text, area_text, made_folder, scores
from captum_extremal.datasets.image_files import UnreadableError, is_image_name, read_image
from captum_extremal.results import ExtremalMasks
from captum_extremal.results.maps import is_grey
from captum_extremal.search import PathSolver, as_game
from captum_extremal.settings import SearchSettings


def photos_at(place: str) -> list[str]:
    """The photograph at a path, or the images of a folder in the order of their names."""
    if not os.path.isdir(place):
        return [place]
    paths = [entry.path for entry in os.scandir(place) if entry.is_file() and is_image_name(entry.name)]
    if not paths:
        raise StopError(f"PHOTO: the folder {place} holds no image", FAILED)
    return sorted(paths, key=os.path.basename)


def _is_grey(row: dict[str, Any]) -> bool:
    """Whether there is a mask of a*, and it is nearer to a constant one than to a binary one."""
    return row["reached"] and is_grey(row["optimal_binariness"] or 0.0, row["optimal_area"])


class View(NamedTuple):
    """A photograph as the model sees it, and the T classes for which it is explained."""

    images: Tensor  # RGB (T, 3, H, W) in [0, 1], the photograph once per class
    targets: list[int]
    names: list[str]
    reduced: bool  # whether the shorter side is smaller than the weights want

    def base(self, folder: Path, index: int) -> Path:
        """The beginning of the paths of a target's files."""
        return folder / safe_name(f"{self.targets[index]:03d}-{slug(self.names[index])[:40]}".rstrip("-"))


_URL = re.compile(r"[a-z][a-z0-9+.-]+:/+", re.IGNORECASE)


class PhotoRun(ABC):
    """One call of a command: what is asked about each photograph, and the summary of the answers."""

    everything: ClassVar[str]  # the area that is always enough, in words
    files: dict[str, str]  # what is written for each target: name -> content

    def __init__(self, given: Any, classifier: Classifier, about: dict[str, Any]) -> None:
        self.classifier, self.fraction = classifier, given.score_fraction
        self.targets = [classifier.index_of(text) for text in given.target or [TOP]]
        self.game = given.game or SearchSettings.game
        self.solver = PathSolver() if given.steps is None else PathSolver(steps=given.steps)
        asked = {"model": classifier.name, "weights": classifier.weights, "classes": len(classifier.categories)}
        asked |= {"device": str(classifier.device), "game": self.game, "score_fraction": self.fraction}
        self.photos = [photo for given_one in given.photos for photo in photos_at(given_one)]
        asked |= {"steps": self.solver.steps, "photos": len(self.photos)}
        self.summary = Summary(made_folder(given.out), asked | about)
        self._folders = {SUMMARY}

    @abstractmethod
    def _search(self, view: View, **shared: Any) -> ExtremalMasks:
        """The masks of all targets of one photograph, with these arguments of ``extremal_masks``."""

    @abstractmethod
    def _write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        """Write the results; for each target an addition to its row, with "files": kind -> name within the folder."""

    def threshold(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """Phi_0: the game's value at this fraction of the way from nothing kept to everything kept."""
        value = as_game(self.game).value
        nothing, everything = value(perturbed, clean), value(clean, perturbed)
        # Where the perturbation raises the score, the point on the way would be above what everything gives.
        return everything.minimum(nothing.lerp(everything, self.fraction))

    def run(self) -> int:
        """Explain the photographs in turn; the exit status."""
        return self.over(self.photos)

    def over(self, photos: Sequence[str]) -> int:
        """Explain these photographs in turn; the exit status."""
        folder = self.summary.folder.resolve()
        self.summary.write()
        try:
            for number, photo in enumerate(photos, 1):
                which = f"photo {number} of {len(photos)}"
                say(f"{which}: {photo}")
                with telling(partial("{}: {:.0f} s so far".format, which)):
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
        print_files(f"{folder}, a folder for each photo", self.files | {f"../{SUMMARY}": "all numbers"})
        count = len(self.summary.rows)
        if grey := sum(_is_grey(row) for row in self.summary.rows):
            print(
                f"The mask of a* is grey for {grey} of {count}: it shows many pixels a little. This says less of where "
                "they are than a mask of few whole pixels does. Look at the scores of the other areas."
            )
        if empty := sum(row["vacuous"] for row in self.summary.rows):
            reached = "lost with nothing removed" if self.game == "delete" else "reached with nothing kept"
            print(f"a* is 0 for {empty} of {count}: the score is {reached}, so no part is needed.")
        if missing := sum(not row["reached"] for row in self.summary.rows):
            why, larger = "no area is enough, and the figures show the largest", f"{self.everything}, is always enough"
            print(
                f"a* is none for {missing} of {count}: {why}. Add larger --areas ({larger}), or ask "
                f"for less with a --score-fraction below {self.fraction:g}."
            )
        return FAILED if self.summary.failed else 0

    def explain(self, photo: str) -> None:
        """Explain one photograph and add its rows to the summary, or print why it cannot be explained."""
        try:
            rows = self._rows(photo)
        except (StopError, OSError):  # of the folder or the disk, as of all photographs
            raise
        except Exception as error:  # whatever it is, the next photograph may do without it
            known = isinstance(error, PhotoError)
            why = one_line(error if known else f"cannot be explained: {type(error).__name__}: {error}")
            self.summary.failed.append({"photo": photo, "error": why})
            self.summary.write()
            say(f"{photo}: {why}")
        else:
            self.summary.rows.extend(rows)
            self.summary.write()
            self._print(rows)

    def _rows(self, photo: str) -> list[dict[str, Any]]:
        started = time.perf_counter()
        if _URL.match(photo) and not os.path.exists(photo):
            raise PhotoError("is an address: download it first, and give the file or its folder")
        try:
            image = read_image(photo)
        except UnreadableError as error:  # the command itself names the photograph
            raise PhotoError(str(error).removeprefix(f"{photo}: ")) from error
        picture, logits, cropped = self.classifier.fitted(image)
        predicted = int(logits.argmax())
        targets = list(dict.fromkeys(predicted if target is None else target for target in self.targets))
        names, images = [self.classifier.categories[k] for k in targets], picture.repeat(len(targets), 1, 1, 1)
        view = View(images, targets, names, not cropped and max(image.size) > LONG * min(image.size))
        shared: dict[str, Any] = {"game": self.game, "score_threshold": self.threshold, "solver": self.solver}
        shared |= {"inputs": self.classifier.normalised(images), "target": targets}
        try:
            with warnings.catch_warnings():
                # The command says itself where a* is not reached.
                warnings.filterwarnings("ignore", ".*do not reach the score threshold even", UserWarning)
                warnings.showwarning = lambda message, *_, **__: say(f"{photo}: {message}")
                found = self._search(view, **shared, show_progress=sys.stderr.isatty())
        except (ValueError, RuntimeError) as error:
            raise PhotoError(f"cannot be explained: {error}") from error
        self.summary.replace_older()
        probabilities, folder = self.classifier.probabilities(logits), self._folder(photo)
        written = self._write(found, view, folder)
        about: Any = {"photo": photo, "photo_size": [image.height, image.width], "size": list(picture.shape[2:])}
        about |= {"cropped": cropped, "reduced": view.reduced}
        # Of all its targets: from reading the photograph to its last file, and of that the search.
        about |= {"seconds": time.perf_counter() - started, "search_seconds": found.settings["seconds"]}
        return [
            about
            | {"target": target, "name": names[k], "predicted": target == predicted}
            | {"probability": None if probabilities[target].isnan() else float(probabilities[target])}
            | scores(found.image(k))
            | {"folder": folder.name}
            | addition
            for k, (target, addition) in enumerate(zip(targets, written))
        ]

    def _folder(self, photo: str) -> Path:
        """A new folder named after the photograph; two photographs of one name do not share it."""
        stem = safe_name(Path(photo).stem, "photo")
        names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
        name = next(name for name in names if name.casefold() not in self._folders)  # some file systems ignore case
        self._folders.add(name.casefold())
        return made_folder(self.summary.folder / name)

    def _print(self, rows: list[dict[str, Any]]) -> None:
        first, (height, width) = rows[0], rows[0]["size"]
        crop = (
            ", centre crop"
            if first["cropped"]
            else f", its shorter side reduced as it is longer than {LONG}:1" * first["reduced"]
        )
        seconds = f"{first['seconds']:.1f} s, of which {first['search_seconds']:.1f} s are the search"
        print(f"{first['photo']}: {width} x {height} px{crop}; {seconds}")
        cells = []
        for row in rows:
            numbers = ["" if row[name] is None else f"{row[name]:.2f}" for name in ("clean_score", "probability")]
            cells.append([f"{row['target']} {row['name']}", *numbers, area_text(row), agreement_text(row)])
        names = ["class", "score", "probability", "a*", "searches agree"]
        if not any(cell[-1] for cell in cells):
            cells, names = [cell[:-1] for cell in cells], names[:-1]
        print_table(cells, names, indent=2)
