"""``captum-extremal evaluate``: how well a method explains a network on the images of a data set."""

import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode

from captum_extremal import datasets, evaluation
from captum_extremal._describe import checksum
from captum_extremal._jsonl import DamagedError
from captum_extremal.cli import compare
from captum_extremal.cli.classifier import Classifier, checked_device, fitted_size, loaded_classifier
from captum_extremal.cli.console import (
    FAILED,
    INTERRUPTED,
    WRONG_ARGUMENT,
    ProgressBar,
    StopError,
    one_line,
    say,
    stopping,
    telling,
)
from captum_extremal.cli.networks import Look
from captum_extremal.cli.options import DEFAULT, DIGITS, METRICS, REPAIR
from captum_extremal.cli.output import made_folder
from captum_extremal.datasets.annotated import AnnotatedFiles, Annotation, check_folder
from captum_extremal.datasets.digits import MEAN, STD, digit_network
from captum_extremal.evaluation import Evaluation, Kept, Processes, Settings
from captum_extremal.search import PathSolver

_NUMBERED = re.compile(r"[0-9]{4}_.*\.(jpg|jpeg|png)", re.IGNORECASE)


@dataclass(frozen=True)
class Network(Classifier):
    """A classifier as an evaluation uses it."""

    side: int | None  # the shorter side in pixels to which images are resized; None leaves them as they are
    square: bool  # whether images are squeezed into a square

    def size_for(self, height: int, width: int) -> list[int]:
        """The rows and columns of the input for an image of this size."""
        if self.square:
            return [self.side or min(height, width)] * 2
        return [height, width] if self.side is None else fitted_size(height, width, self.side)

    def prepare(self, pixels: Tensor) -> Tensor:
        """The model's input (3, H, W) for RGB (3, H', W') in [0, 1]."""
        size = self.size_for(*pixels.shape[1:])
        resized = pixels if size == list(pixels.shape[1:]) else self.resize(pixels, size).clamp(0, 1)
        return self.normalised(resized.to(self.device))

    def indices_of(self, classes: tuple[str, ...], given: dict[str, int]) -> dict[str, int]:
        """The network's index of each class: as given, by its name, or in their order if both have as many."""
        if unknown := sorted(set(given) - set(classes)):
            raise StopError(f"--classes: the data has no class {', '.join(unknown)}; it has {', '.join(classes)}")
        name, count = self.name, len(self.categories)
        names = [category.lower() for category in self.categories]
        own = {known: index for index, known in enumerate(names) if names.count(known) == 1}  # ImageNet has two cranes
        found = {label: own[label.lower()] for label in classes if label.lower() in own} | given
        if len(found) < len(classes) == count:
            found = dict(zip(classes, range(count))) | given
        if missing := [label for label in classes if label not in found]:
            hint = f"give its number, such as {missing[0]}=104"
            raise StopError(f"--classes: {name} has no class named {', '.join(missing)}: {hint}")
        if wrong := [f"{label}={index}" for label, index in found.items() if not 0 <= index < count]:
            raise StopError(f"--classes: {name} has the classes 0 to {count - 1}, got {', '.join(wrong)}")
        return {label: found[label] for label in classes}


def loaded_network(given: Any, device: torch.device) -> Network:
    """The network that the options name."""
    if given.model == DIGITS:
        if given.weights != DEFAULT:
            raise StopError(f"--weights: {DIGITS} comes with its own, got {given.weights}")
        if given.fully_convolutional:
            raise StopError(f"--fully-convolutional: {DIGITS} is so already")
        if any(Look.of(given)):
            raise StopError(f"--mean, --std, --size: {DIGITS} has its own")
        preset = SimpleNamespace(mean=MEAN, std=STD, interpolation=InterpolationMode.BILINEAR, antialias=True)
        model, names = digit_network().requires_grad_(False).to(device), [str(digit) for digit in range(10)]
        return Network(DIGITS, "own", model, preset, names, device, given.shorter_side, given.square)
    classifier = loaded_classifier(given.model, given.weights, None, str(device), look=Look.of(given))
    own: Any = vars(classifier) | {"side": given.shorter_side or classifier.shorter_side, "square": given.square}
    if given.fully_convolutional:
        with stopping("--fully-convolutional", ValueError, status=WRONG_ARGUMENT):
            own |= {"name": f"{own['name']}-convolutional", "model": evaluation.fully_convolutional(classifier.model)}
    # The order in which convolutions are fastest on a CPU and in half precision.
    own["model"].to(memory_format=torch.channels_last)
    return Network(**own)


def run(given: Any) -> int:
    """Evaluate the method; the exit status."""
    device = checked_device(given.device)
    if device.type == "cuda" and given.device in ("auto", "cuda"):  # each process has a GPU of its own
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with evaluation.processes_of(device) as processes:
        data, data_checksum = loaded_data(given.data)
        numbered = {name: int(name) for name in data.classes} if isinstance(data, NumberedImages) else {}
        if numbered and set(given.metric or ()) != {"insertion_deletion"}:
            raise StopError(f"--data: {given.data} has no regions: needs --metric insertion_deletion alone")
        if isinstance(data, datasets.DigitImages) and given.model != DIGITS and given.weights == DEFAULT:
            raise StopError(f"--data: {given.data} needs --model {DIGITS}, or --weights of a network that knows digits")
        network = loaded_network(given, processes.device)
        index_of = network.indices_of(data.classes, numbered | dict(given.classes or []))
        explain, about = _explanation(given, network)
        metrics = tuple(name for name in METRICS if name in (given.metric or ())) or None
        chosen = {"metrics": metrics, "steps": given.steps, "batch_size": given.batch_size}
        made: Any = {"prepare": network.prepare, "index_of": index_of, "explain": explain}
        made |= {name: value for name, value in chosen.items() if value is not None}
        if given.autocast:
            about["autocast"], made["autocast"] = given.autocast, getattr(torch, given.autocast)
        judged = Evaluation(data=data, model=network.model, **made)
        about |= {"model": network.name, "weights": checksum(network.model.state_dict().values())}
        about |= {"shorter_side": network.side, "square": network.square, "data": data.name}
        about |= {name: list(values) for name, values in (("mean", given.mean), ("std", given.std)) if values}
        about |= {"data_checksum": data_checksum, "classes": index_of, "metrics": judged.metrics}
        if "insertion_deletion" in judged.metrics:
            about["steps"] = judged.steps
        folder = made_folder(given.out)
        settings = Settings(about)
        if given.repair:
            processes.agreed(lambda: compare.repaired([folder], [Kept(settings, len(data.pairs()))]))
        try:
            _evaluate(judged, settings, folder, processes)
        except KeyboardInterrupt:
            say(f"interrupted; the same command goes on from the rows in {folder}")
            return INTERRUPTED
        if processes.first:
            given.rows, given.against = [folder], None
            compare.run(given)
    return 0


def _explanation(given: Any, network: Network) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The function that explains, and the settings of the method as plain values."""
    method, layer, options = given.method, given.layer, dict(given.method_options or [])
    about: dict[str, Any] = {"method": method, "options": options}
    taken: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    try:
        if ":" not in method:
            found = evaluation.find_method(method)
            about["options"] = {**found.options, **options}
            if layer is None and found.needs_layer:
                example = torch.zeros(1, 3, *[network.side or 128] * 2, device=network.device)
                layer = evaluation.last_spatial_layer(network.model, example)
            if "solver" in taken:
                must = '--option: solver must be PathSolver\'s settings, such as {"steps": 50}'
                with stopping(must, TypeError, ValueError, status=WRONG_ARGUMENT):
                    taken["solver"] = PathSolver(**taken["solver"])
        explain = evaluation.make_method(method, network.model, layer=layer, options=taken)
    except ValueError as error:
        raise StopError(one_line(error, 1000)) from error
    if ":" in method:
        about["source_checksum"] = None
        with suppress(OSError, TypeError):  # where no file holds the caller's own method
            source = inspect.getsource(sys.modules[method.partition(":")[0]])
            about["source_checksum"] = hashlib.sha256(source.encode()).hexdigest()[:16]
    return explain, about | {"layer": layer}


def _evaluate(judged: Evaluation, settings: Settings, folder: Path, processes: Processes) -> None:
    method, unreadable = settings.about["method"], judged.data.unreadable
    for line in (f"annotations that cannot be read: {len(unreadable)}", *unreadable) if unreadable else ():
        if processes.first:
            say(line)
    with ProgressBar(method, hidden=not processes.first) as progress:
        try:
            with telling(progress.line) if processes.first else nullcontext():
                report = partial(say, where=progress.console)
                evaluation.evaluate(judged, settings, folder, processes, progress, report)
        except DamagedError as error:
            raise StopError(f"{error}; --repair {REPAIR}", FAILED) from error
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            kept = "; the rows so far are kept" if progress.done else ""
            raise StopError(f"{method}: {one_line(error)}{kept}", FAILED) from error


def loaded_data(text: str) -> tuple[datasets.AnnotatedImages, str]:
    """The data set that ``--data`` names, and a hash of its pairs and of the names and sizes of its files.

    It does not depend on the paths, so that a run can be resumed on another machine that has the same files.
    """
    kind, _, where = text.partition(":")
    if not where:
        raise StopError(f"--data: must be a kind and a place, such as folder:ROOT, got {text!r}")
    data: datasets.AnnotatedImages
    folders, files = [Path(where)], []
    with stopping("--data", ValueError, TypeError):
        if kind == "voc":
            data, folder = datasets.VOCImages(where), Path(where, "VOCdevkit", "VOC2007")
            folders = [folder / "JPEGImages", folder / "Annotations"]
        elif kind == "coco":
            root, comma, annotations = where.rpartition(",")
            if not comma:
                raise ValueError(f"coco needs ROOT,FILE, the folder of the images and their JSON file, got {where!r}")
            data, folders = datasets.COCOImages(root, annotations), []
            files = [Path(annotations), *(Path(root, image) for image in dict(data.pairs()))]
        elif kind == "folder":
            data = datasets.FolderImages(where)
        elif kind == "images":
            data = NumberedImages(where)
        elif kind == "digits":
            if not where.isdecimal() or int(where) < 1:
                raise ValueError(f"must be an integer of at least 1, got {where!r}")
            data, folders = datasets.DigitImages(int(where)), []
        else:
            raise StopError(f"--data: must be one of voc, coco, folder, digits and images, got {kind!r}")
    images = dict(data.pairs())  # the names of files, with or without a suffix
    if not images:
        why = f": {data.unreadable[0]}" if data.unreadable else ""
        raise StopError(f"--data: {text} has no image with a class{why}", FAILED)
    every = (path for folder in folders for path in sorted(folder.iterdir()))
    files += [path for path in every if path.stem in images or path.name in images]
    sizes = [(path.name, path.stat().st_size if path.exists() else None) for path in files]
    return data, hashlib.sha256(json.dumps([data.pairs(), sizes]).encode()).hexdigest()[:16]


class NumberedImages(AnnotatedFiles):
    """Images ``NNNN_name.jpg`` of the class with the index NNNN, without regions."""

    def __init__(self, root: str) -> None:
        folder = check_folder("ROOT", root)
        paths = [path for path in sorted(folder.iterdir()) if _NUMBERED.fullmatch(path.name)]
        if not paths:
            raise ValueError(f"{root} must hold images named NNNN_name.jpg, got none")
        found = {path.name: Annotation(path, None, {str(int(path.name[:4])): [None]}) for path in paths}
        classes = dict.fromkeys(label for annotation in found.values() for label in annotation.objects)
        super().__init__(folder.resolve().name, classes, found, lambda mark, size: torch.zeros(size, dtype=torch.bool))
