"""The command ``captum-extremal``: a demo, and explanations of one's own photographs.

``captum-extremal demo`` needs no network and no files. ``captum-extremal explain PHOTO...`` explains any of
torchvision's classifiers. Both write figures, the masks and a summary to a folder whose path they print.

Exit status: 0; 1 where something could not be read, fetched or written; 2 for a wrong argument; 130 after Ctrl-C.

Shapes: T targets of one photograph, K classes, H rows and W columns of pixels.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pickle
import re
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor, nn

    from captum_extremal.datasets import DigitScene
    from captum_extremal.results import ExtremalMasks

# torchvision and matplotlib are imported by the functions that need them, so that a wrong argument is told at once.

_PROGRAM = "captum-extremal"
_FAILED, _WRONG_ARGUMENT, _INTERRUPTED = 1, 2, 130
_SUMMARY = "summary.json"
_DPI = 150
_DEMO_AREAS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4)
_DEMO_STEPS = 100
_AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # ExtremalPerturbation's, known here without importing it
_STEPS = 150  # PathSolver's
_TOP = "top1"
_MOST_CANDIDATES = 12
_LONG = 3  # longer side : shorter side; what is longer is made smaller, to as many pixels as this has
_TOO_LONG = 48  # makes the shorter side a quarter of the weights' own, the least that every classifier takes
_BLUR = 20.0  # BlurPyramid's, px at 224
_FIGURES = {
    "mask": "the image, and only what the mask of the smallest sufficient area a* keeps of it",
    "sweep": "the masks of all areas; bars: the score as a fraction of the whole image's",
    "curves": "the score of what the masks keep, and of what is left without it, against their area",
    "order": "the order in which the pixels enter as the area grows",
}
_MASKS_FILE = "the masks and their scores, for ExtremalMasks.load"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; default those of the process.

    Returns:
        the exit status.
    """
    try:
        options = _parser().parse_args(argv)
        status: int = options.command(options)
    except SystemExit as stop:  # argparse has said all there is to say
        return int(stop.code or 0)
    except _StopError as error:
        _say(f"{_PROGRAM}: error: {_one_line(error)}")
        return error.status
    except OSError as error:
        _say(f"{_PROGRAM}: error: {_one_line(error)}")
        return _FAILED
    except KeyboardInterrupt:
        _say(f"{_PROGRAM}: interrupted")
        return _INTERRUPTED
    return status


class _StopError(Exception):
    """What ends the command with one line."""

    def __init__(self, message: str, status: int = _WRONG_ARGUMENT) -> None:
        super().__init__(message)
        self.status = status


class _PhotoError(Exception):
    """What ends the work on one photograph, and not on the others."""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _one_line(error: object, limit: int = 400) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _parser() -> argparse.ArgumentParser:
    from captum_extremal.attr._sweep import own_version

    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Extremal perturbations: which smallest part of an image is enough for a network's output.",
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {own_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_explain(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="explain a scene of digits with the small network in the package",
        description="Explain each digit of a scene with the small network in the package: no download, under a minute.",
    )
    demo.add_argument("--out", metavar="DIR", default="captum-extremal-demo", help="folder to write to (%(default)s)")
    demo.add_argument("--seed", type=_natural, default=0, help="which scene: 0, 1, 2, ... (%(default)s)")
    demo.set_defaults(command=_demo)


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="explain photographs with one of torchvision's classifiers",
        description="Explain photographs with one of torchvision's classifiers. Write the photographs first, "
        "then the options.",
        epilog="The shorter side of a photograph is resized to what the weights' transforms say, and it is cropped "
        f"only if the model refuses it whole. A photograph longer than {_LONG}:1 is made smaller, to the pixels that "
        f"one of {_LONG}:1 would have, and one longer than {_TOO_LONG}:1 is refused.",
    )
    add = explain.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="image files of any kind that Pillow reads")
    add("--model", metavar="NAME", default="resnet50", help="as in torchvision.models.list_models() (%(default)s)")
    add(
        "--weights",
        metavar="DEFAULT|FILE",
        default="DEFAULT",
        help="torchvision's, downloaded once, or a file with a state dict, of any number of classes (%(default)s)",
    )
    add("--classes", metavar="FILE", help="a text file with the name of each class, one a line (those of the weights)")
    add(
        "--target",
        metavar="INDEX|NAME|top1",
        action="append",
        help="a class: its number, its name or a part of the name that no other has, or top1 for the class that the "
        f"model predicts; repeatable ({_TOP})",
    )
    add(
        "--areas",
        type=float,
        nargs="+",
        default=list(_AREAS),
        metavar="AREA",
        help=f"increasing fractions of the image ({' '.join(map(str, _AREAS))})",
    )
    add(
        "--game",
        choices=("preserve", "delete", "hybrid"),
        default="preserve",
        help="keep the score with little, lose it by removing little, or both (%(default)s)",
    )
    add("--perturbation", choices=("blur", "fade"), default="blur", help="what hides pixels (%(default)s)")
    add(
        "--score-threshold",
        type=_fraction,
        default=1.0,
        metavar="FRACTION",
        help="what is enough for a*: how much of the way from the score of the image with all of it hidden, 0, to the "
        "score of the whole image, 1 (with --game delete, of the way back); 0.9 asks for a little less, so that a* is "
        "smaller (%(default)g)",
    )
    add("--steps", type=_positive, default=_STEPS, help="passes of a photograph through the model (%(default)s)")
    add("--device", default="auto", help='"cpu", "cuda", "cuda:1", ... (auto: the first GPU, else the CPU)')
    add("--out", metavar="DIR", default="captum-extremal-explain", help="folder to write to (%(default)s)")
    explain.set_defaults(command=_explain)


def _natural(text: str) -> int:
    return _integer(text, 0)


def _positive(text: str) -> int:
    return _integer(text, 1)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
    return value


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a fraction above 0 and at most 1, such as 0.9, got {text!r}")
    return value


def _demo(options: argparse.Namespace) -> int:
    from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
    from captum_extremal.datasets import DigitScenes, digit_network
    from captum_extremal.datasets.digits import to_rgb
    from captum_extremal.solvers import PathSolver
    from captum_extremal.visualization import compare, show_targets

    folder = _made_folder(options.out)
    scene = DigitScenes(1, seed=options.seed)[0]
    network = digit_network()
    # Several targets of one image: the image repeated, and a list of targets.
    inputs = scene.image.repeat(len(scene.labels), 1, 1, 1)
    print(f"Explaining the digits {', '.join(map(str, scene.labels))} of scene {options.seed} ...", flush=True)
    with _one_thread():
        found = ExtremalPerturbation(network).extremal_masks(
            inputs,
            target=list(scene.labels),
            areas=_DEMO_AREAS,
            solver=PathSolver(steps=_DEMO_STEPS),
            show_progress=sys.stderr.isatty(),
        )
    names = [f"digit {label}" for label in scene.labels]
    images, others = to_rgb(inputs), _other_attributions(network, inputs, list(scene.labels))
    summary = _Summary(folder, {"scene": options.seed, "digits": list(scene.labels), "settings": found.settings})
    _write_figure(show_targets(found, images, names), folder / "overview.png")
    for k, name in enumerate(names):
        base = name.replace(" ", "-")
        files = _write_results(found, images, k, folder, base, name)
        comparison = compare(found, images, others, k, title=name)
        files["compare"] = _write_figure(comparison, folder / f"{base}-compare.png")
        row = {"target": scene.labels[k], "name": name} | _scores(found.image(k))
        summary.rows.append(row | {"share_in_box": _share_in_box(found, scene, k), "files": files})
    summary.write(complete=True)
    _print_demo(summary.rows, folder)
    return 0


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The demo's tensors are too small to share: on a busy machine, threads would mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _other_attributions(network: Any, inputs: Tensor, target: list[int]) -> dict[str, Tensor]:
    """What Captum's own methods say of the same images: name -> (T, C, H, W)."""
    from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Saliency

    leaf = inputs.clone().requires_grad_()
    saliency, integrated = Saliency(network), cast(Any, IntegratedGradients(network))
    coarse = LayerGradCam(network, network.features).attribute(leaf, target, relu_attributions=True)
    side = tuple(inputs.shape[2:])
    return {
        "gradient": saliency.attribute(leaf, target),
        "integrated gradients": integrated.attribute(leaf, target=target, n_steps=32),
        "Grad-CAM": cast(Any, LayerAttribution.interpolate(cast(Any, coarse), side, "bilinear")).detach(),
    }


def _share_in_box(found: ExtremalMasks, scene: DigitScene, index: int) -> float:
    """How much of the mask at a* lies inside the box around the digit's ink."""
    mask = found.image(index).optimal_mask()[0][0]
    x0, y0, x1, y1 = scene.boxes[index].tolist()
    return float(mask[y0:y1, x0:x1].sum() / mask.sum())


def _print_demo(rows: list[dict[str, Any]], folder: Path) -> None:
    print()
    print("digit   clean score      a*   score at a*   share of the mask in the digit's box")
    for row in rows:
        print(
            f"{row['target']:>5}   {row['clean_score']:>11.2f}   {_area_text(row):>5}   {row['score']:>11.2f}"
            f"   {row['share_in_box']:>36.0%}"
        )
    print()
    print("a* is the smallest of the areas at which what the mask keeps scores as high as the whole image.")
    print(f"Written to {folder.resolve()}:")
    files = {"overview.png": "every digit's mask at a*; what it hides is dark, what it keeps is outlined"}
    files |= {f"digit-N-{kind}.png": text for kind, text in _FIGURES.items()}
    files |= {
        "digit-N-compare.png": "the mask beside other attributions from Captum",
        "digit-N.npz": _MASKS_FILE,
        _SUMMARY: "all numbers",
    }
    _print_files(files)


def _print_files(files: dict[str, str]) -> None:
    for name, text in files.items():
        print(f"  {name:<20} {text}")


def _explain(options: argparse.Namespace) -> int:
    areas = _checked_areas(options.areas)
    device = _checked_device(options.device)
    classifier = _loaded_classifier(options.model, options.weights, options.classes, device)
    targets = [classifier.index_of(text) for text in options.target or [_TOP]]
    folder = _made_folder(options.out)
    asked = {
        "model": classifier.name,
        "weights": classifier.weights,
        "classes": len(classifier.categories),
        "device": str(classifier.device),
        "areas": list(areas),
        "game": options.game,
        "perturbation": options.perturbation,
        "score_threshold": options.score_threshold,
        "steps": options.steps,
        "photos": len(options.photos),
    }
    run = _Run(
        classifier=classifier,
        targets=targets,
        areas=areas,
        game=options.game,
        perturbation=options.perturbation,
        score_threshold=options.score_threshold,
        steps=options.steps,
        summary=_Summary(folder, asked),
    )
    run.summary.write()
    try:
        for number, photo in enumerate(options.photos, 1):
            print(f"photo {number} of {len(options.photos)}: {photo}", flush=True)
            run.explain(photo)
    except KeyboardInterrupt:
        run.summary.write()
        found = f"what was found so far is in {folder.resolve()}" if run.summary.rows else "nothing was found so far"
        _say(f"{_PROGRAM}: interrupted; {found}")
        return _INTERRUPTED
    run.summary.write(complete=True)
    if not run.summary.rows:
        path = folder.resolve() / _SUMMARY
        which = f"{path} of an earlier run is kept" if run.summary.older else f"see {path}"
        _say(f"{_PROGRAM}: no photo could be explained; {which}")
        return _FAILED
    print(f"Written to {folder.resolve()}, a folder for each photo:")
    files = {f"CLASS-{kind}.png": text for kind, text in _FIGURES.items()}
    _print_files(files | {"CLASS.npz": _MASKS_FILE, f"../{_SUMMARY}": "all numbers"})
    _print_hint(run.summary.rows, options.score_threshold)
    return _FAILED if run.summary.failed else 0


def _print_hint(rows: list[dict[str, Any]], fraction: float) -> None:
    missing = sum(not row["reached"] for row in rows)
    if missing:
        print(
            f"a* is none for {missing} of {len(rows)}: no area is enough, and the figures show the largest. Add larger "
            "--areas (1, the whole image, is always enough), or ask for less with a --score-threshold below "
            f"{fraction:g}."
        )


@dataclass
class _Run:
    """One call of ``explain``: what was asked for, and the summary of what was found."""

    classifier: _Classifier
    targets: list[int | None]
    areas: tuple[float, ...]
    game: str
    perturbation: str
    score_threshold: float
    steps: int
    summary: _Summary
    folders: set[str] = field(default_factory=lambda: {_SUMMARY})

    def explain(self, photo: str) -> None:
        """Explain one photograph and add its rows to the summary, or name it and say why not."""
        try:
            rows = self._rows(photo)
        except _PhotoError as error:
            self.summary.failed.append({"photo": photo, "error": _one_line(error)})
            _say(f"{_PROGRAM}: {photo}: {_one_line(error)}")
        else:
            self.summary.rows.extend(rows)
            for row in rows:
                print(_row_text(row), flush=True)
        self.summary.write()

    def _rows(self, photo: str) -> list[dict[str, Any]]:
        started = time.perf_counter()
        image = _read_photo(photo)
        picture, logits, cropped = self.classifier.fitted(image)
        predicted = int(logits.argmax())
        targets = list(dict.fromkeys(predicted if target is None else target for target in self.targets))
        reduced = not cropped and _length(image) > _LONG
        found = self._found(picture, targets, self._lengths() if reduced else {})
        seconds = (time.perf_counter() - started) / len(targets)
        probabilities = logits.softmax(0)
        about = {
            "photo": photo,
            "photo_size": [image.height, image.width],
            "size": list(picture.shape[2:]),
            "cropped": cropped,
            "reduced": reduced,
            "seconds": seconds,
        }
        folder = self._folder(photo)
        names = [self.classifier.categories[target] for target in targets]
        files = self._write(found, picture, folder, targets, names)
        return [
            about
            | {"target": target, "name": names[k], "predicted": target == predicted}
            | {"probability": float(probabilities[target])}
            | _scores(found.image(k))
            | {"folder": folder.name, "files": files[k]}
            for k, target in enumerate(targets)
        ]

    def _lengths(self) -> dict[str, Any]:
        """Masks and blur of the lengths in pixels that they have at the weights' own shorter side.

        A photograph that was made smaller would otherwise have finer ones, and more of them: its search would last.
        """
        from captum_extremal.masks import REFERENCE_SIDE, SmoothMask
        from captum_extremal.perturbations import BlurPyramid

        side = self.classifier.shorter_side
        usual, square = SmoothMask(), (side, side)
        lengths: dict[str, Any] = {"mask": SmoothMask(usual.step_for(square), usual.sigma_for(square))}
        if self.perturbation == "blur":
            lengths["perturbation"] = BlurPyramid(sigma_max=_BLUR * side / REFERENCE_SIDE)
        return lengths

    def _found(self, picture: Tensor, targets: list[int], lengths: dict[str, Any]) -> ExtremalMasks:
        """The masks of all targets of one photograph, as one batch."""
        from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
        from captum_extremal.solvers import PathSolver

        try:
            return ExtremalPerturbation(self.classifier.model).extremal_masks(
                self.classifier.normalised(picture).repeat(len(targets), 1, 1, 1),
                target=targets,
                areas=self.areas,
                game=self.game,
                score_threshold=_threshold(self.game, self.score_threshold),
                solver=PathSolver(steps=self.steps),
                show_progress=sys.stderr.isatty(),
                **({"perturbation": self.perturbation} | lengths),
            )
        except (ValueError, RuntimeError) as error:
            raise _PhotoError(f"cannot be explained: {error}") from error

    def _folder(self, photo: str) -> Path:
        """A new folder named after the photograph: two of the same name do not share one."""
        stem = Path(photo).stem
        name, count = stem, 1
        # Compared without case, as some file systems do.
        while name.lower() in self.folders:
            count += 1
            name = f"{stem}-{count}"
        self.folders.add(name.lower())
        return _made_folder(self.summary.folder / name)

    def _write(
        self, found: ExtremalMasks, picture: Tensor, folder: Path, targets: list[int], names: list[str]
    ) -> list[dict[str, str]]:
        from captum_extremal.visualization import show_targets

        images = picture.repeat(len(targets), 1, 1, 1)
        if len(targets) > 1:
            _write_figure(show_targets(found, images, [_shortened(name) for name in names]), folder / "targets.png")
        return [
            _write_results(found, images, k, folder, f"{targets[k]:03d}-{_file_name(names[k])}".rstrip("-"), names[k])
            for k in range(len(targets))
        ]


def _threshold(game: str, fraction: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Phi_0 at this part of the way from the game's value where nothing is kept to that where everything is."""
    from captum_extremal.games import as_game

    reward = as_game(game).reward

    def threshold(clean: Tensor, perturbed: Tensor) -> Tensor:
        nothing, everything = reward(perturbed, clean), reward(clean, perturbed)
        # Where hiding raises the score, less than all of the way would be more than everything gives.
        return everything.minimum(nothing.lerp(everything, fraction))

    return threshold


def _row_text(row: dict[str, Any]) -> str:
    size = "{1} x {0} px".format(*row["size"])
    size += ", centre crop" if row["cropped"] else f", smaller as it is longer than {_LONG}:1" if row["reduced"] else ""
    return (
        f"    {row['target']:>4} {_shortened(row['name']):<28}  score {row['clean_score']:>7.2f}"
        f"  probability {row['probability']:>5.2f}  a* {_area_text(row):>6}   {row['seconds']:.1f} s, {size}"
    )


def _area_text(row: dict[str, Any]) -> str:
    return f"{100 * row['optimal_area']:.3g} %" if row["reached"] else "none"


def _shortened(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]


def _scores(one: ExtremalMasks) -> dict[str, Any]:
    """The numbers of one image, as plain values; None for what there is not."""
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


def _write_results(
    found: ExtremalMasks, images: Tensor, index: int, folder: Path, base: str, title: str
) -> dict[str, str]:
    """The masks and the figures of one target: kind -> file name within the folder."""
    from captum_extremal import visualization

    title = _shortened(title, 48)
    figures: dict[str, Figure] = {
        "mask": visualization.show_mask(found, images, index, title=title),
        "sweep": visualization.show_sweep(found, images, index, title=title),
        "curves": visualization.show_curves(found, index, title=title),
        "order": visualization.show_order(found, images, index, title=title),
    }
    files = {kind: _write_figure(figure, folder / f"{base}-{kind}.png") for kind, figure in figures.items()}
    found.image(index).save(folder / f"{base}.npz")
    return files | {"masks": f"{base}.npz"}


def _write_figure(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=_DPI)
    return path.name


def _made_folder(path: str | Path) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _StopError(f"--out: cannot make the folder {folder}: {error.strerror}", _FAILED) from error
    return folder


@dataclass
class _Summary:
    """summary.json: what was asked for, a row for each target of each photograph, and what failed.

    Attributes:
        older: whether an earlier run left one, which stays until there is a row to replace it with.
    """

    folder: Path
    about: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.older = (self.folder / _SUMMARY).exists()

    def write(self, *, complete: bool = False) -> None:
        """Replace the file whole, so that a reader, or an interrupted run, never sees half of one."""
        content = self.about | {"complete": complete, "rows": self.rows, "failed": self.failed}
        partial = self.folder / f"{_SUMMARY}.partial"
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        if self.older and not self.rows:
            partial.unlink()  # written all the same: a folder that cannot be written to is told before the search
        else:
            os.replace(partial, self.folder / _SUMMARY)


def _checked_areas(areas: list[float]) -> tuple[float, ...]:
    from captum_extremal.attr._inputs import check_areas

    try:
        return check_areas(areas, 0.0)
    except ValueError as error:
        raise _StopError(f"--areas: {error}") from error


def _checked_device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # A device that is not there is told in many ways: PyTorch even asserts it.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _StopError(f"--device: {name!r} is not available: {error}") from error
    return device


@dataclass(frozen=True)
class _Classifier:
    """One of torchvision's classifiers, with what its weights' transforms say of its inputs."""

    name: str
    weights: str
    model: nn.Module
    preset: Any
    categories: list[str]
    device: torch.device

    def index_of(self, text: str) -> int | None:
        """The class that ``--target`` names: its index, or None for the predicted one."""
        if text.lower() == _TOP:
            return None
        if re.fullmatch(r"[+-]?\d+", text):
            if not 0 <= int(text) < len(self.categories):
                raise _StopError(f"--target: {self.name} has the classes 0 to {len(self.categories) - 1}, got {text}")
            return int(text)
        return self._index_of_name(text)

    def _index_of_name(self, text: str) -> int:
        wanted = _plain(text)
        names = [_plain(name) for name in self.categories]
        matches = [k for k, name in enumerate(names) if name == wanted]
        matches = matches or [k for k, name in enumerate(names) if wanted and wanted in name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise _StopError(f"--target: {text!r} may be {self._listed(matches)}: give more of the name, or the number")
        close = [names.index(name) for name in get_close_matches(wanted, names, 3)]
        hint = f"; near it: {self._listed(close)}" if close else ""
        raise _StopError(f"--target: {self.name} has no class named {text!r}{hint}")

    def _listed(self, indices: list[int]) -> str:
        listed = ", ".join(f"{self.categories[k]} ({k})" for k in indices[:_MOST_CANDIDATES])
        more = len(indices) - _MOST_CANDIDATES
        return f"{listed} and {more} more" if more > 0 else listed

    def fitted(self, photo: Image) -> tuple[Tensor, Tensor, bool]:
        """The photograph as the model sees it, RGB (1, 3, H, W) in [0, 1]; its logits (K,); whether it was cropped.

        It is cropped only if the model refuses it whole: nothing else tells whether a model takes any size.
        """
        import torch

        if _length(photo) > _TOO_LONG:
            raise _PhotoError(f"{photo.width} x {photo.height} px are longer than {_TOO_LONG}:1: crop it first")
        try:
            whole = self._as_tensor(self._resized(photo, _LONG))
            return whole, self._logits(whole), False
        except torch.cuda.OutOfMemoryError as error:
            raise _PhotoError(f"too large for {self.device}: {error}") from error
        except (RuntimeError, ValueError, AssertionError):
            cropped = self._as_tensor(self._cropped(self._resized(photo, _TOO_LONG)))
        try:
            return cropped, self._logits(cropped), True
        except (RuntimeError, ValueError, AssertionError) as error:
            raise _PhotoError(f"{self.name} cannot take it: {error}") from error

    def normalised(self, picture: Tensor) -> Tensor:
        from torchvision.transforms import functional

        normalised: Tensor = functional.normalize(picture, list(self.preset.mean), list(self.preset.std))
        return normalised

    def _logits(self, picture: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            logits: Tensor = self.model(self.normalised(picture))[0].float().cpu()
        return logits

    @property
    def shorter_side(self) -> int:
        """What the weights' transforms resize the shorter side to, in pixels."""
        return int(min(self.preset.resize_size))

    def _resized(self, photo: Image, longest: float) -> Image:
        """The photograph with the weights' shorter side; one longer than ``longest`` with the pixels of such a one."""
        from torchvision.transforms import functional

        size, length = self.preset.resize_size, _length(photo)
        if length > longest:
            scale = self.shorter_side * math.sqrt(longest / length) / min(photo.size)
            size = [int(photo.height * scale), int(photo.width * scale)]
        how = {"interpolation": self.preset.interpolation, "antialias": self.preset.antialias}
        resized: Any = functional.resize(cast(Any, photo), size, **how)
        return cast("Image", resized)

    def _cropped(self, photo: Image) -> Image:
        from torchvision.transforms import functional

        cropped: Any = functional.center_crop(cast(Any, photo), self.preset.crop_size)
        return cast("Image", cropped)

    def _as_tensor(self, photo: Image) -> Tensor:
        from torchvision.transforms import functional

        return functional.pil_to_tensor(photo).unsqueeze(0).to(self.device).float() / 255


def _length(photo: Image) -> float:
    return max(photo.size) / min(photo.size)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _torchvision_models() -> Any:
    from torchvision import models

    return models


def _loaded_classifier(name: str, weights: str, classes: str | None, device: torch.device) -> _Classifier:
    models = _torchvision_models()
    name = name.lower()
    known = models.list_models(module=models)
    if name not in known:
        close = get_close_matches(name, known, 4)
        hint = f"; near it: {', '.join(close)}" if close else ""
        raise _StopError(f"--model: torchvision has no classifier named {name!r}{hint}")
    default = models.get_model_weights(name).DEFAULT
    downloads = weights.upper() == "DEFAULT"
    own = list(default.meta["categories"])
    model, count = (_downloaded(name, default), len(own)) if downloads else _from_file(name, weights, len(own))
    return _Classifier(
        name=name,
        weights=str(default) if downloads else weights,
        model=model.eval().requires_grad_(False).to(device),
        preset=default.transforms(),
        categories=_categories(classes, own, count),
        device=device,
    )


def _downloaded(name: str, weights: Any) -> nn.Module:
    models = _torchvision_models()
    try:
        model: nn.Module = models.get_model(name, weights=weights, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, HTTPException) as error:
        raise _StopError(
            f"--weights: those of {name} cannot be downloaded: {error}; a file may be given instead", _FAILED
        ) from error
    return model


def _categories(path: str | None, own: list[str], count: int) -> list[str]:
    """The names of the classes: from a file, or the weights' own, or numbers where the model has others."""
    if path is None:
        return own if count == len(own) else [f"class {k}" for k in range(count)]
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").strip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise _StopError(f"--classes: {path} cannot be read: {error}", _FAILED) from error
    if len(names) != count:
        raise _StopError(f"--classes: {path} must name each of {count} classes, one a line, got {len(names)}", _FAILED)
    return names


def _from_file(name: str, path: str, usual: int) -> tuple[nn.Module, int]:
    """The model with the weights in a file, and how many classes it has: ``usual``, or as many as the file says."""
    state = _read_state(path)
    model = _untrained(name, usual)
    count = _classes_in(state, model.state_dict(), usual)
    if count != usual:
        model = _untrained(name, count)
    try:
        # Copies into the model's float32 parameters, whatever type the file has.
        model.load_state_dict(state)
    except RuntimeError as error:
        raise _StopError(f"--weights: {path} does not fit {name}: {error}", _FAILED) from error
    return model, count


def _untrained(name: str, classes: int) -> nn.Module:
    models = _torchvision_models()
    with warnings.catch_warnings():
        # Some models announce that their random start will change; nothing of it stays.
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    if hasattr(model, "transform_input"):
        # As torchvision sets it beside its own weights, which others start from.
        cast(Any, model).transform_input = True
    return model


def _classes_in(state: dict[str, Tensor], own: dict[str, Tensor], usual: int) -> int:
    """How many classes a state dict is of: as a model's own, but for the length of what has a row a class."""
    rows = {
        len(value)
        for key, value in state.items()
        if key in own and own[key].shape[:1] == (usual,) and value.dim() and value.shape[1:] == own[key].shape[1:]
    }
    return rows.pop() if len(rows) == 1 else usual


def _read_state(path: str) -> dict[str, Tensor]:
    """The state dict in a file: itself, or within a checkpoint, with or without DataParallel's prefix."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise _StopError(f"--weights: there is no file {path}", _FAILED) from error
    except pickle.UnpicklingError as error:
        raise _StopError(f"--weights: {path} holds more than a state dict: save model.state_dict()", _FAILED) from error
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, AttributeError) as error:
        raise _StopError(f"--weights: {path} cannot be read: {error}", _FAILED) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    entries = loaded.items() if isinstance(loaded, dict) else ()
    if not entries or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in entries):
        raise _StopError(f"--weights: {path} holds no state dict", _FAILED)
    prefix = "module."
    if all(key.startswith(prefix) for key in loaded):
        return {key[len(prefix) :]: value for key, value in loaded.items()}
    return dict(loaded)


def _read_photo(path: str) -> Image:
    """A photograph as RGB, upright."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            return _as_rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise _PhotoError("there is no such file") from error
    # Pillow's readers tell a broken file in all of these ways.
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, Image.DecompressionBombError) as error:
        raise _PhotoError(f"cannot be read as an image: {error}") from error


def _as_rgb(photo: Image) -> Image:
    """Any of Pillow's modes as RGB: 16-bit grey scaled to 8 bits, what is transparent laid on white."""
    import numpy as np
    from PIL import Image

    if photo.mode == "I" or photo.mode.startswith("I;16"):
        # Pillow would clip at 255.
        photo = Image.fromarray((np.asarray(photo).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    if photo.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in photo.info:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
