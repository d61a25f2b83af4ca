"""The command ``captum-extremal``: its subcommands, and their options.

Each subcommand runs the module of its name, which imports PyTorch and is imported only then, so that help and wrong
arguments are answered at once.
"""

import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import typer

from captum_extremal._version import own_version
from captum_extremal.cli import options
from captum_extremal.cli.console import (
    FAILED,
    INTERRUPTED,
    PROGRAM,
    UNREAD,
    WRONG_ARGUMENT,
    StopError,
    one_line,
    printing_anything,
    say,
)
from captum_extremal.cli.options import DEFAULT, DETECTION, LIST, LONG, METRICS, OWN, SCORE_FRACTION, TOO_LONG, option

_ABOUT_SIZES = (
    "The shorter side of a photograph is resized to the size that the weights' transforms name. The photograph is "
    f"cropped only if the model refuses its size. A photograph longer than {LONG}:1 is made smaller, to the pixels "
    f"that one of {LONG}:1 would have; one longer than {TOO_LONG}:1 is refused."
)
_ABOUT_DATA = (
    "voc:ROOT is PASCAL VOC 2007 test, ROOT the folder that holds VOCdevkit; coco:ROOT,FILE a folder of COCO's images "
    "and their instances_*.json; folder:ROOT images with VOC's XML beside them; digits:COUNT scenes of digits, for "
    "--model digits; images:ROOT images named NNNN_anything.jpg after their class's index, without regions, for "
    "--metric insertion_deletion."
)
_ABOUT_SECONDS = (
    "The seconds of a photograph are those of all its classes, from reading it to writing its last file; the search's "
    "are a part of them."
)
_FRACTIONS = f"Increasing fractions of the image ({OWN['areas']}). If given, a* is one of them."
_ENOUGH = f"{SCORE_FRACTION} By default 1, and 0.9 for detection, whose boxes move a little under any mask."
_ROBUSTNESS = "Also hide the rest in other ways, to see whether the masks still hold."
_HTML = "Also write a page for each photograph, to explore its masks in a browser without a network."
_LAYER = f"As in model.named_modules(), such as layer3.5; {LIST} prints the model's layers and their outputs."
_COUNTS = (
    f"Increasing numbers of channels, or fractions: 1 is one channel, 1.0 all of them ({OWN['counts']}). "
    "If given, a* is one of them."
)
_CHANNEL_DIM = "Which dimension of the layer's output holds the channels (1); -1 for a transformer's tokens."
_INVERSION_SIDE = "Shorter side of the inversions (the photograph's, if it is shorter or the model takes no other)."
_OPTION = "A keyword argument of the method, such as areas=[0.1,0.2] or 'solver={\"steps\": 50}'. Repeatable."
_METRIC = f"Of {', '.join(METRICS)} ({OWN['metric']})."
_TASK = f"What the model does; {DETECTION} needs one of torchvision's detectors, and explains each class's best box."
_HIDES = f"What hides pixels ({OWN['perturbation']})."
_INVERSION_STEPS = f"Passes of each inversion ({OWN['inversion_steps']})."
_CURVE_STEPS = f"Of insertion's and deletion's curves ({OWN['curve_steps']})."
_BATCH_SIZE = f"Taken together ({OWN['batch_size']})."
_INDICES = "The network's number of a class of the data (by name, or in the data's order if they are as many)."
_CONVOLUTIONAL = "Slide the linear layers of a VGG, AlexNet or ResNet over the positions, and average their scores."
_FULL = (errno.ENOSPC, errno.EDQUOT)
_USAGE_ERROR: Any = typer.BadParameter.__base__  # of every wrong argument; typer exports its subclass only
app = typer.Typer(name=PROGRAM, add_completion=False, rich_markup_mode=None)


def _runs_module(declared: Callable[..., None]) -> Callable[..., None]:
    """The command with these options, and these checks: it calls ``run`` of the module of the function's name."""

    @functools.wraps(declared)
    def command(**given: Any) -> None:
        try:
            declared(**given)
            status = import_module(f"captum_extremal.cli.{declared.__name__}").run(SimpleNamespace(**given)) or 0
            print(end="", flush=True)
        except BrokenPipeError:  # nobody reads any more, as after "| head"
            _drop_output()
            status = UNREAD
        except Warning as error:
            say(f"error: a warning was made an error: {type(error).__name__}: {one_line(error)}")
            status = FAILED
        except (StopError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in _FULL
            say(f"error: {error}" + (f": make room in {given['out']}, and give the same command again" if full else ""))
            status = error.status if isinstance(error, StopError) else FAILED
        except KeyboardInterrupt:
            say("interrupted")
            status = INTERRUPTED
        raise typer.Exit(status)

    return command


def _drop_output() -> None:
    """Send what is still to be printed nowhere, or Python would complain of it at the end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@app.command()
@_runs_module
def demo(
    out: options.Out = "captum-extremal-demo",
    seed: Annotated[int | None, option("A scene of digits in place of photographs: 0, 1, 2, ...", min=0)] = None,
    html: Annotated[bool, option("Write the page to explore the masks with.", None, "--html/--no-html")] = True,
) -> None:
    """Explain a photograph of a cat and one of a coffee, or a scene of digits.

    The photographs need the extra demo (pip install 'captum-extremal[demo]'). Without it there is a scene of digits,
    with the small network in the package. Nothing is downloaded; it takes less than a minute.
    """


@app.command(epilog=f"{_ABOUT_SIZES}\n\n{_ABOUT_SECONDS}")
@_runs_module
def explain(
    photos: Annotated[list[str], options.PHOTOS],
    model: options.Model = "resnet50",
    weights: options.Weights = DEFAULT,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    classes: options.Classes = None,
    target: options.Target = None,
    areas: Annotated[list[float] | None, option(_FRACTIONS, "AREA,...", several=options.numbers)] = None,
    perturbation: Annotated[Literal["blur", "fade"] | None, option(_HIDES)] = None,
    game: options.Game = None,
    score_fraction: Annotated[float | None, option(_ENOUGH, "FRACTION", parser=options.fraction)] = None,
    steps: options.Steps = None,
    robustness: Annotated[bool, option(_ROBUSTNESS, None, "--robustness")] = False,
    html: Annotated[bool, option(_HTML, None, "--html")] = False,
    task: Annotated[Literal["classification", "detection"], option(_TASK)] = "classification",
    device: options.Device = "auto",
    out: options.Out = "captum-extremal-explain",
) -> None:
    """Explain photographs with one of torchvision's classifiers, or detectors."""


@app.command(epilog=f"{_ABOUT_SIZES}\n\n{_ABOUT_SECONDS}")
@_runs_module
def channels(
    layer: Annotated[str, option(_LAYER, "NAME")],
    photos: Annotated[list[str] | None, options.PHOTOS] = None,
    model: options.Model = "resnet50",
    weights: options.Weights = DEFAULT,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    classes: options.Classes = None,
    target: options.Target = None,
    areas: Annotated[list[float] | None, option(_COUNTS, "AREA,...", several=options.numbers)] = None,
    channel_dim: Annotated[int | None, option(_CHANNEL_DIM, "DIM")] = None,
    prefix_tokens: Annotated[int, option("Tokens before the image's, such as a class token.", "N", min=0)] = 0,
    no_inversion: Annotated[bool, option("Do not show what the channels have seen.", None, "--no-inversion")] = False,
    inversion_steps: Annotated[int | None, option(_INVERSION_STEPS, "N", min=1)] = None,
    inversion_side: Annotated[int, option(_INVERSION_SIDE, "PX", min=1)] = 128,
    game: options.Game = None,
    score_fraction: options.ScoreFraction = 1.0,
    steps: options.Steps = None,
    html: Annotated[bool, option(_HTML, None, "--html")] = False,
    device: options.Device = "auto",
    out: options.Out = "captum-extremal-channels",
) -> None:
    """Find the fewest channels of a layer that are enough for a class.

    The figures show where the channels look and what they have seen.
    """
    if layer != LIST and not photos:
        raise StopError("PHOTO: at least one photograph must be given")


@app.command(epilog=_ABOUT_DATA)
@_runs_module
def evaluate(
    data: Annotated[str, option("voc, coco, folder, digits or images, see below.", "KIND:PLACE")],
    method: Annotated[str, option("What explains; a wrong name lists all names.", "NAME|MODULE:CALLABLE")],
    method_options: Annotated[
        list[Any] | None, option(_OPTION, "NAME=JSON", "--option", parser=options.setting)
    ] = None,
    layer: Annotated[str | None, option("For methods that use one (the last with positions).", "NAME")] = None,
    metric: Annotated[list[str] | None, option(_METRIC, "NAME,...", several=options.metrics)] = None,
    tolerance: options.Tolerance = None,
    steps: Annotated[int | None, option(_CURVE_STEPS, min=1)] = None,
    model: options.Model = "resnet50",
    weights: options.Weights = DEFAULT,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    classes: Annotated[list[Any] | None, option(_INDICES, "NAME=INDEX,...", several=options.indices)] = None,
    fully_convolutional: Annotated[bool, option(_CONVOLUTIONAL, None, "--fully-convolutional")] = False,
    shorter_side: Annotated[int | None, option("Of the resized images (that of the weights).", "PIXELS", min=1)] = None,
    square: Annotated[bool, option("Squeeze images into a square.", None, "--square")] = False,
    autocast: Annotated[
        Literal["bfloat16", "float16"] | None, option("Type in which the network makes the maps.")
    ] = None,
    batch_size: Annotated[int | None, option(_BATCH_SIZE, "PAIRS", min=1)] = None,
    repair: options.Repair = False,
    device: options.Device = "auto",
    out: options.Out = "captum-extremal-evaluate",
) -> None:
    """Judge an attribution method on the images of a data set.

    Every pair of an image and a class in it is a row in files in --out. A command that was stopped, in whatever way,
    resumes when it is given again; commands with other methods may share the folder, whose table then compares them.
    Images that cannot be read are named, counted and skipped. torchrun -m captum_extremal.cli evaluate ... shares the
    work between processes and machines; the next start may have another number of them.
    """


@app.command()
@_runs_module
def compare(
    rows: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files of rows, or folders of evaluate.")],
    tolerance: options.Tolerance = None,
    against: Annotated[str | None, option("A run in the table: its lead over each other, by pairs.", "METHOD")] = None,
    repair: options.Repair = False,
    out: options.Out = "captum-extremal-compare",
) -> None:
    """Put evaluations side by side.

    There is a table on the console, as CSV and as JSON, and one figure per metric. Rows of the same pair and the same
    settings count once, however many files they come from.
    """


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {own_version()}")
        raise typer.Exit


_VERSION = typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")


@app.callback()
def _program(version: Annotated[bool, _VERSION] = False) -> None:
    """Extremal perturbations: which smallest part of an image is enough for a network's output."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command with these arguments, or those of the process."""
    try:
        with printing_anything():
            return int(typer.main.get_command(app).main(args=argv, prog_name=PROGRAM, standalone_mode=False) or 0)
    except _USAGE_ERROR as error:
        # In the form of the commands' own errors: the option, the rule, what came.
        what = re.sub(r"^Invalid value for '(.*?)': (Value error, )?", r"\1: ", error.format_message())
        say(f"error: {what.rstrip('.')}; see {error.ctx.command_path if error.ctx else PROGRAM} --help")
        return WRONG_ARGUMENT
