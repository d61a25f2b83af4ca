"""The options that commands share, and how values are read from text.

A default of None stands for the default of the library, which is read only when the command runs. ``OWN`` has these
defaults for the help texts, which do not import the library; a test compares the two.
"""

import json
import math
import re
import sys
from collections.abc import Callable
from itertools import chain
from typing import Annotated, Any, Literal

import typer

TOP, DEFAULT, DIGITS, LIST = "top1", "DEFAULT", "digits", "list"
CLASSIFICATION, DETECTION = "classification", "detection"
METRICS = ("pointing", "energy", "insertion_deletion")
LONG = 3  # aspect ratio; a longer picture is made smaller, to as many pixels as a picture of this ratio has
TOO_LONG = 48  # aspect ratio; gives a quarter of the weights' shorter side, the least that every classifier takes
OWN = {
    "areas": "0.05, 0.1, 0.2, 0.4, 0.6, 0.8",
    "counts": "1, 5, 10, 20, 25, 35, 40, 50, 60, 70, 80, 90, 100, 150, 200, ... and all",
    "perturbation": "blur",
    "game": "preserve",
    "steps": "46",
    "inversion_steps": "192",
    "metric": "pointing",
    "tolerance": "15",
    "curve_steps": "224",
    "batch_size": "8",
}
_CLASS = re.compile(r"([^=]+)=(\d+)(?:,|$)")


def option(
    text: str, metavar: str | None = None, *names: str, several: Callable[[str], list[Any]] | None = None, **how: Any
) -> Any:
    """An option with this help text; ``several`` reads a list from text, and the option may be repeated."""
    if several is not None:
        how |= {"parser": several, "callback": lambda given: [*chain(*given)] if given else None}
    return typer.Option(*names, help=text, metavar=metavar, **how)


def number(text: str, low: float = -math.inf, high: float = math.inf, rule: str = "a number") -> float:
    """A number from ``low`` to ``high``, so not NaN."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise typer.BadParameter(f"must be {rule}, got {text!r}")
    return value


def fraction(text: str) -> float:
    """A number above 0 and at most 1."""
    return number(text, math.ulp(0.0), 1, "a fraction above 0 and at most 1, such as 0.9")


def _pixels(text: str) -> float:
    return number(text, 0, sys.float_info.max, "a number of pixels of at least 0")


def numbers(text: str) -> list[int | float]:
    """Comma-separated numbers; those without a point are integers."""
    return [int(part) if re.fullmatch(r"\s*[+-]?\d+\s*", part) else number(part.strip()) for part in text.split(",")]


def metrics(text: str) -> list[str]:
    """Comma-separated names of metrics."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in METRICS:
            raise typer.BadParameter(f"must be one of {', '.join(METRICS)}, got {name!r}")
    return names


def setting(text: str) -> tuple[str, Any]:
    """``NAME=JSON``; a word needs no quotes."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise typer.BadParameter(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def indices(text: str) -> list[tuple[str, int]]:
    """Comma-separated ``NAME=INDEX``; a name may have commas."""
    found = _CLASS.findall(text)
    if _CLASS.sub("", text) or not found:
        raise typer.BadParameter(f"must be NAME=INDEX, such as kangaroo=104, got {text!r}")
    return [(name.strip(), int(index)) for name, index in found]


def _channels(text: str) -> tuple[float, ...]:
    """Three comma-separated numbers, of red, green and blue."""
    found = tuple(numbers(text))
    if len(found) != 3:
        raise typer.BadParameter(f"must be three numbers, of red, green and blue, got {text!r}")
    return found


def _means(text: str) -> tuple[float, ...]:
    found = _channels(text)
    if not all(0 <= value <= 1 for value in found):
        raise typer.BadParameter(f"must be in [0, 1], which is 255 of 8 bits, got {text!r}")
    return found


def _deviations(text: str) -> tuple[float, ...]:
    found = _channels(text)
    if min(found) <= 0:
        raise typer.BadParameter(f"must be above 0, got {text!r}")
    return found


PHOTOS = typer.Argument(metavar="PHOTO", help="Image files of any kind that Pillow reads, or folders of them.")
_WEIGHTS = "torchvision's, downloaded once, or a file with a state dict, of any number of classes."
_TARGET = "A class: number, name, unique part of a name, or top1, which the model predicts (top1). Repeatable."
_GAME = f"Keep the score with little, lose it by removing little, or both ({OWN['game']})."
SCORE_FRACTION = "What is enough: 0 is the score of nothing, 1 that of the whole image (for --game delete, reversed)."
_TOLERANCE = f"Distance to the object in the annotated image that still hits in the pointing game ({OWN['tolerance']})."
REPAIR = "sets damaged lines of the files of rows aside, and keeps all others"
_STEPS = f"Steps of a search; more take longer ({OWN['steps']})."
_MODEL = "One of torchvision.models.list_models(), timm:NAME, or a function of yours that returns a network."
_MEAN = "Of red, green and blue in [0, 1], which is subtracted (that of the weights)."
_SIZE = "Shorter side to which photographs are resized (that of the weights)."
Model = Annotated[str, option(_MODEL, "NAME|timm:NAME|MODULE:FUNCTION")]
Mean = Annotated[Any, option(_MEAN, "R,G,B", parser=_means)]
Std = Annotated[Any, option("By which they are divided then (that of the weights).", "R,G,B", parser=_deviations)]
Size = Annotated[int | None, option(_SIZE, "PX", min=1)]
Weights = Annotated[str, option(_WEIGHTS, "DEFAULT|FILE")]
Classes = Annotated[str | None, option("Text file with one class name per line (those of the weights).", "FILE")]
Target = Annotated[list[str] | None, option(_TARGET, f"INDEX|NAME|{TOP}")]
Game = Annotated[Literal["preserve", "delete", "hybrid"] | None, option(_GAME)]
ScoreFraction = Annotated[float, option(SCORE_FRACTION, "FRACTION", parser=fraction)]
Steps = Annotated[int | None, option(_STEPS, min=1)]
Device = Annotated[str, option('"cpu", "cuda", "cuda:1", ...; auto: a GPU if there is one, else the CPU.', "NAME")]
Out = Annotated[str, option("Folder to write to.", "DIR")]
Repair = Annotated[bool, option(f"{REPAIR[0].upper()}{REPAIR[1:]}.", None, "--repair")]
Tolerance = Annotated[float | None, option(_TOLERANCE, "PIXELS", parser=_pixels)]
