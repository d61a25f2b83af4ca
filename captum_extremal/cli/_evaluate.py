"""``captum-extremal evaluate``: how well a method explains a network on the images of a data set."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_extremal.cli._arguments import checked_device, positive
from captum_extremal.cli._compare import add_tolerance
from captum_extremal.cli._console import FAILED, INTERRUPTED, PROGRAM, StopError, one_line, say
from captum_extremal.cli._data_sets import ABOUT_DATA, NumberedImages, loaded_data
from captum_extremal.cli._networks import Network, loaded_network
from captum_extremal.cli._report import report
from captum_extremal.cli._summary import made_folder

if TYPE_CHECKING:
    import torch

    from captum_extremal.evaluation import Evaluation, Processes, Settings

_TYPES = ("bfloat16", "float16")
_METRICS = ("pointing", "energy", "insertion_deletion")
STEPS = 224  # Evaluation's
_SECONDS = 0.5, 30.0  # between two lines of progress: on a terminal, in a file


def add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="judge an attribution method on a data set",
        description="Judge an attribution method on the images of a data set. Every pair of an image and a class in it "
        "is a row in files in --out: a command that was stopped, in whatever way, goes on when it is given again, and "
        "commands with other methods may share the folder, whose table then compares them. Images that cannot be read "
        "are named, counted and skipped. torchrun -m captum_extremal.cli evaluate ... shares the work between "
        "processes and machines; the next start may have another number of them.",
        epilog=ABOUT_DATA,
    )
    add = evaluate.add_argument
    add("--data", required=True, metavar="KIND:PLACE", help="voc, coco, folder, digits or images, see below")
    add("--method", required=True, metavar="NAME|MODULE:CALLABLE", help="what explains: a wrong name lists them all")
    add("--option", action="append", default=[], type=_option, metavar="NAME=JSON", help=_ABOUT_OPTION)
    add("--layer", metavar="NAME", help="for methods that look at a layer (the last whose output has positions)")
    add("--metric", nargs="+", choices=_METRICS, default=["pointing"], help="one or several (pointing)")
    add_tolerance(evaluate)
    add("--steps", type=positive, default=STEPS, help="of the curves of insertion and deletion (%(default)s)")
    add("--model", metavar="NAME", default="resnet50", help="torchvision's classifier, or digits (%(default)s)")
    add(
        "--weights",
        metavar="DEFAULT|FILE",
        default="DEFAULT",
        help="torchvision's, downloaded once, or a file with a state dict, of any number of classes (%(default)s)",
    )
    add(
        "--classes",
        nargs="+",
        type=_class,
        default=[],
        metavar="NAME=INDEX",
        help="the network's number of a class of the data (by name, or in the data's order where the network has as "
        "many classes)",
    )
    add(
        "--fully-convolutional",
        action="store_true",
        help="slide the linear layers of a VGG, AlexNet or ResNet over the positions, and average their scores",
    )
    add("--shorter-side", type=positive, metavar="PIXELS", help="that images are resized to (what the weights want)")
    add("--square", action="store_true", help="squeeze images into a square, for networks that take one size alone")
    add(
        "--autocast",
        choices=_TYPES,
        help="floating type in which the network runs for the maps, where the device gains from it",
    )
    add("--batch-size", type=positive, default=8, metavar="PAIRS", help="taken together (%(default)s)")
    add("--device", default="auto", help='"cpu", "cuda", "cuda:1", ... (auto: a GPU for each process, else the CPU)')
    add("--out", metavar="DIR", default="captum-extremal-evaluate", help="folder to write to (%(default)s)")
    evaluate.set_defaults(command=_evaluate)


_ABOUT_OPTION = (
    "a keyword argument of the method, such as areas=[0.018,0.025,0.05,0.1], n_samples=4000, or for the search of "
    "extremal PathSolver's: 'solver={\"steps\": 50}'; repeatable"
)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word needs no quotes


def _class(text: str) -> tuple[str, int]:
    name, _, index = text.rpartition("=")
    if not name or not index.isdecimal():
        raise argparse.ArgumentTypeError(f"must be NAME=INDEX, such as kangaroo=104, got {text!r}")
    return name, int(index)


def _evaluate(options: argparse.Namespace) -> int:
    from captum_extremal.evaluation import processes_of

    with processes_of(_own_device(options.device)) as processes:
        evaluation, settings = _asked(options, processes.device)
        folder = made_folder(options.out)
        try:
            _run(evaluation, settings, folder, processes)
        except KeyboardInterrupt:
            say(f"{PROGRAM}: interrupted; the same command goes on from the rows in {folder}")
            return INTERRUPTED
        processes.wait()
        if processes.first:
            report([folder], options.tolerance, folder)
    return 0


def _own_device(name: str) -> torch.device:
    """The device that is named; of several GPUs each process has its own."""
    import torch

    device = checked_device(name)
    if device.type == "cuda" and name in ("auto", "cuda"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def _asked(options: argparse.Namespace, device: torch.device) -> tuple[Evaluation, Settings]:
    """What the arguments ask for, and the settings that decide the rows."""
    import torch

    from captum_extremal.evaluation import Evaluation, Settings, make_method

    data, data_checksum = loaded_data(options.data)
    numbered = data.index_of if isinstance(data, NumberedImages) else {}
    if numbered and set(options.metric) != {"insertion_deletion"}:
        raise StopError(f"--data: {options.data} has no regions: needs --metric insertion_deletion alone")
    network = loaded_network(
        options.model,
        options.weights,
        device,
        side=options.shorter_side,
        square=options.square,
        convolutional=options.fully_convolutional,
    )
    index_of = network.index_of(data.classes, numbered | dict(options.classes))
    given = dict(options.option)
    if ":" in options.method:
        sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        layer = _layer(options.method, options.layer, network)
        explain = make_method(options.method, network.model, layer=layer, options=_as_taken(options.method, given))
        about = network.about() | {"options": _all_options(options.method, given), "layer": layer}
    except ValueError as error:
        raise StopError(one_line(error, 1000)) from error
    evaluation = Evaluation(
        data=data,
        model=network.model,
        prepare=network.prepare,
        index_of=index_of,
        explain=explain,
        metrics=tuple(name for name in _METRICS if name in options.metric),
        steps=options.steps,
        autocast=options.autocast and getattr(torch, options.autocast),
        batch_size=options.batch_size,
    )
    if options.autocast:
        about["autocast"] = options.autocast
    about |= {"data": data.name, "data_checksum": data_checksum, "classes": index_of}
    about |= {"method": options.method, "metrics": list(evaluation.metrics)}
    if ":" in options.method:
        about["source_checksum"] = _source_checksum(options.method)
    if "insertion_deletion" in evaluation.metrics:
        about["steps"] = evaluation.steps
    return evaluation, Settings(about)


def _as_taken(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Options as the method takes them: lists as tuples, and the settings of a search of this package as the search."""
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
    """A hash of the file that holds one's own method, None where there is none."""
    try:
        source = inspect.getsource(sys.modules[method.partition(":")[0]])
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _layer(method: str, layer: str | None, network: Network) -> str | None:
    from captum_extremal.evaluation import find_method, last_spatial_layer

    if layer is not None or ":" in method or not find_method(method).needs_layer:
        return layer
    return last_spatial_layer(network.model, network.example())


def _all_options(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Those given, and the method's own of this package, as JSON keeps them."""
    from captum_extremal.evaluation import find_method

    own = {} if ":" in method else find_method(method).options
    every: dict[str, Any] = json.loads(json.dumps({**own, **given}))
    return every


def _run(evaluation: Evaluation, settings: Settings, folder: Path, processes: Processes) -> None:
    from tqdm import tqdm

    from captum_extremal.evaluation import evaluate

    def tell(line: str) -> None:
        tqdm.write(f"{PROGRAM}: {one_line(line)}", file=sys.stderr)

    method, lost = settings.about["method"], evaluation.data.unreadable
    if processes.first and lost:
        tell(f"annotations that cannot be read: {len(lost)}")
        for line in lost:
            tell(line)
    progress = _Progress(method, hidden=not processes.first)
    try:
        with progress:
            evaluate(evaluation, settings, folder, processes, progress, tell)
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        kept = "; the rows so far are kept" if progress.done else ""
        raise StopError(f"{method}: {one_line(error)}{kept}", FAILED) from error


class _Progress(contextlib.ExitStack):
    """A bar on stderr with the time left, from the first call on.

    Attributes:
        done: how many pairs are.
    """

    def __init__(self, name: str, *, hidden: bool) -> None:
        super().__init__()
        interval = _SECONDS[0] if sys.stderr.isatty() else _SECONDS[1]
        self._how: dict[str, Any] = {"desc": name, "unit": "pair", "mininterval": interval, "disable": hidden}
        self._bar: Any = None
        self.done = 0

    def __call__(self, done: int, total: int) -> None:
        """How many pairs are done, and of how many."""
        from tqdm import tqdm

        if not total:
            return
        if self._bar is None:
            self._bar = self.enter_context(tqdm(total=total, **self._how))
        self._bar.update(done - self.done)
        self.done = done
