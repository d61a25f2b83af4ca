"""``captum-extremal evaluate``: how well a method explains a network on the images of a data set."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from captum_extremal.cli import options
from captum_extremal.cli.compare import report
from captum_extremal.cli.console import FAILED, INTERRUPTED, ProgressBar, StopError, one_line, say
from captum_extremal.cli.data_sets import NumberedImages, loaded_data
from captum_extremal.cli.networks import Network, loaded_network
from captum_extremal.cli.options import option
from captum_extremal.cli.output import made_folder
from captum_extremal.cli.weights import DEFAULT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from captum_extremal.evaluation import Evaluation, Processes, Settings

METRICS = ("pointing", "energy", "insertion_deletion")
_CLASS = re.compile(r"([^=]+)=(\d+)(?:,|$)")


def _metrics(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in METRICS:
            raise typer.BadParameter(f"must be one of {', '.join(METRICS)}, got {name!r}")
    return names


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise typer.BadParameter(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word needs no quotes


def _indices(text: str) -> list[tuple[str, int]]:
    found = _CLASS.findall(text)
    if _CLASS.sub("", text) or not found:
        raise typer.BadParameter(f"must be NAME=INDEX, such as kangaroo=104, got {text!r}")
    return [(name.strip(), int(index)) for name, index in found]


_ABOUT_METHOD = "What explains; a wrong name lists all names."
_ABOUT_OPTION = (
    "A keyword argument of the method, such as areas=[0.018,0.025,0.05,0.1] or n_samples=4000, or PathSolver's "
    "settings for the search of extremal: 'solver={\"steps\": 50}'. Repeatable."
)
_ABOUT_LAYER = "For methods that use a layer (the last whose output has positions)."
_ABOUT_METRIC = f"Of {', '.join(METRICS)} (the library's own)."
_ABOUT_STEPS = "Steps of the curves of insertion and deletion (the library's own)."
_ABOUT_CLASSES = (
    "The network's number of a class of the data (by name, or in the data's order where the network has as many "
    "classes)."
)
_ABOUT_CONVOLUTIONAL = (
    "Slide the linear layers of a VGG, AlexNet or ResNet over the positions, and average their scores."
)
_ABOUT_SIDE = "Shorter side to which images are resized (that of the weights)."
_ABOUT_SQUARE = "Squeeze images into a square, for networks that take one size only."
_ABOUT_AUTOCAST = "Floating type in which the network runs for the maps."


def evaluate(
    data: Annotated[str, option("voc, coco, folder, digits or images, see below.", "KIND:PLACE")],
    method: Annotated[str, option(_ABOUT_METHOD, "NAME|MODULE:CALLABLE")],
    method_options: Annotated[list[Any] | None, option(_ABOUT_OPTION, "NAME=JSON", "--option", parser=_option)] = None,
    layer: Annotated[str | None, option(_ABOUT_LAYER, "NAME")] = None,
    metric: Annotated[list[str] | None, option(_ABOUT_METRIC, "NAME,...", several=_metrics)] = None,
    tolerance: options.Tolerance = None,
    steps: Annotated[int | None, option(_ABOUT_STEPS, min=1)] = None,
    model: options.Model = "resnet50",
    weights: options.Weights = DEFAULT,
    classes: Annotated[list[Any] | None, option(_ABOUT_CLASSES, "NAME=INDEX,...", several=_indices)] = None,
    fully_convolutional: Annotated[bool, option(_ABOUT_CONVOLUTIONAL, name="--fully-convolutional")] = False,
    shorter_side: Annotated[int | None, option(_ABOUT_SIDE, "PIXELS", min=1)] = None,
    square: Annotated[bool, option(_ABOUT_SQUARE, name="--square")] = False,
    autocast: Annotated[Literal["bfloat16", "float16"] | None, option(_ABOUT_AUTOCAST)] = None,
    batch_size: Annotated[int | None, option("Taken together (the library's own).", "PAIRS", min=1)] = None,
    device: options.Device = "auto",
    out: options.Out = "captum-extremal-evaluate",
) -> int:
    """Judge an attribution method on the images of a data set.

    Every pair of an image and a class in it is a row in files in --out. A command that was stopped, in whatever way,
    resumes when it is given again; commands with other methods may share the folder, whose table then compares them.
    Images that cannot be read are named, counted and skipped. torchrun -m captum_extremal.cli evaluate ... shares the
    work between processes and machines; the next start may have another number of them.
    """
    import torch

    from captum_extremal.evaluation import Evaluation, Settings, processes_of

    given: dict[str, Any] = dict(method_options or [])
    with processes_of(_own_device(device)) as processes, _working_directory_importable():
        images, checksum = loaded_data(data)
        numbered = images.index_of if isinstance(images, NumberedImages) else {}
        if numbered and set(metric or ()) != {"insertion_deletion"}:
            raise StopError(f"--data: {data} has no regions: needs --metric insertion_deletion alone")
        network = loaded_network(
            model, weights, processes.device, side=shorter_side, square=square, convolutional=fully_convolutional
        )
        index_of = network.index_of(images.classes, numbered | dict(classes or []))
        explain, about = _explanation(method, layer, given, network)
        ordered = metric and tuple(name for name in METRICS if name in metric)
        chosen = options.with_defaults(Evaluation, metrics=ordered, steps=steps, batch_size=batch_size)
        evaluation = Evaluation(
            data=images,
            model=network.model,
            prepare=network.prepare,
            index_of=index_of,
            explain=explain,
            autocast=None if autocast is None else getattr(torch, autocast),
            **chosen,
        )
        about |= network.about() | {"data": images.name, "data_checksum": checksum, "classes": index_of}
        about["metrics"] = list(evaluation.metrics)
        if autocast:
            about["autocast"] = autocast
        if "insertion_deletion" in evaluation.metrics:
            about["steps"] = evaluation.steps
        folder = made_folder(out)
        try:
            _run(evaluation, Settings(about), folder, processes)
        except KeyboardInterrupt:
            say(f"interrupted; the same command goes on from the rows in {folder}")
            return INTERRUPTED
        processes.wait()
        if processes.first:
            report([folder], tolerance, folder)
    return 0


def _own_device(name: str) -> torch.device:
    """The device of this name; each process has a GPU of its own where there are several."""
    import torch

    device = options.checked_device(name)
    if device.type == "cuda" and name in ("auto", "cuda"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Find modules in the working directory, as ``python -m`` does, until the command ends."""
    added = os.getcwd()
    sys.path.insert(0, added)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the imported module may have removed it
            sys.path.remove(added)


def _explanation(
    method: str, layer: str | None, given: dict[str, Any], network: Network
) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The function that explains, and the settings of the method as plain values."""
    from captum_extremal.evaluation import find_method, last_spatial_layer, make_method

    about: dict[str, Any] = {"method": method}
    try:
        if ":" in method:
            defaults: Mapping[str, Any] = {}
        else:
            found = find_method(method)
            defaults = found.options
            if layer is None and found.needs_layer:
                layer = last_spatial_layer(network.model, network.example())
        explain = make_method(method, network.model, layer=layer, options=_as_taken(method, given))
    except ValueError as error:
        raise StopError(one_line(error, 1000)) from error
    if ":" in method:
        about["source_checksum"] = _source_checksum(method)
    return explain, about | {"layer": layer, "options": json.loads(json.dumps({**defaults, **given}))}


def _as_taken(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Options as the method takes them: lists as tuples, and the settings of a search of this package as a solver."""
    from captum_extremal.search import PathSolver

    taken: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if "solver" in taken and ":" not in method:
        try:
            taken["solver"] = PathSolver(**taken["solver"])
        except (TypeError, ValueError) as error:
            raise StopError(
                f'--option: solver must be PathSolver\'s settings, such as {{"steps": 50}}: {one_line(error)}'
            ) from error
    return taken


def _source_checksum(method: str) -> str | None:
    """A hash of the file that holds the caller's own method, None where there is no file."""
    try:
        source = inspect.getsource(sys.modules[method.partition(":")[0]])
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _run(evaluation: Evaluation, settings: Settings, folder: Path, processes: Processes) -> None:
    from captum_extremal.evaluation import evaluate

    method, unreadable = settings.about["method"], evaluation.data.unreadable
    lines = [f"annotations that cannot be read: {len(unreadable)}", *unreadable] if unreadable else []
    for line in lines if processes.first else []:
        say(line)
    with ProgressBar(method, hidden=not processes.first) as progress:
        try:
            evaluate(evaluation, settings, folder, processes, progress, progress.say)
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            kept = "; the rows so far are kept" if progress.done else ""
            raise StopError(f"{method}: {one_line(error)}{kept}", FAILED) from error
