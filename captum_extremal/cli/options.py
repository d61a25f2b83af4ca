"""The options that several commands share, and the values that they take.

A default of None stands for the default of the library, which is read only when the command runs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from captum_extremal.cli.console import StopError

if TYPE_CHECKING:
    import torch

TOP = "top1"


def option(
    text: str,
    metavar: str | None = None,
    name: str | None = None,
    several: Callable[[str], list[Any]] | None = None,
    **how: Any,
) -> Any:
    """An option with this help text.

    Args:
        text: of the help.
        metavar: what the value is called in the help.
        name: for an option that is not named after its parameter.
        several: for a repeatable option that becomes one list: from text to values. See :func:`comma_separated`.
        how: other settings of ``typer.Option``.
    """
    if several is not None:
        how |= {"parser": several, "callback": _flattened}
    return typer.Option(*([name] if name else []), help=text, metavar=metavar, **how)


def _flattened(given: list[list[Any]] | None) -> list[Any] | None:
    return [value for values in given for value in values] if given else None


def comma_separated(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """The function from comma-separated text to values that reads one value with ``read``."""
    return lambda text: [read(part.strip()) for part in text.split(",")]


def number(text: str) -> float:
    """A number that is not NaN."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise typer.BadParameter(f"must be a number, got {text!r}")
    return value


def _fraction(text: str) -> float:
    value = number(text)
    if not 0 < value <= 1:
        raise typer.BadParameter(f"must be a fraction above 0 and at most 1, such as 0.9, got {text!r}")
    return value


def _pixels(text: str) -> float:
    value = number(text)
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"must be a number of pixels of at least 0, got {text!r}")
    return value


PHOTOS = typer.Argument(metavar="PHOTO", help="Image files of any kind that Pillow reads.")
Model = Annotated[str, option("As in torchvision.models.list_models().", "NAME")]
_WEIGHTS = "torchvision's, downloaded once, or a file with a state dict, of any number of classes."
Weights = Annotated[str, option(_WEIGHTS, "DEFAULT|FILE")]
Classes = Annotated[str | None, option("Text file with one class name per line (those of the weights).", "FILE")]
_TARGET = (
    "A class: its number, its name, a part of the name that no other class has, or top1 for the class that the model "
    "predicts (top1). Repeatable."
)
Target = Annotated[list[str] | None, option(_TARGET, f"INDEX|NAME|{TOP}")]
Game = Annotated[
    Literal["preserve", "delete", "hybrid"] | None,
    option("Keep the score with little, lose it by removing little, or both (the library's own)."),
]
_SCORE_FRACTION = (
    "The score that is enough for a*: 0 is the score where nothing is kept, 1 that of the whole image (the other way "
    "round with --game delete). 0.9 asks for a little less, so that a* is smaller."
)
ScoreFraction = Annotated[float, option(_SCORE_FRACTION, "FRACTION", parser=_fraction)]
Steps = Annotated[int | None, option("Steps of a search; more take longer (the solver's own).", min=1)]
Device = Annotated[str, option('"cpu", "cuda", "cuda:1", ...; auto: a GPU if there is one, else the CPU.', "NAME")]
Out = Annotated[str, option("Folder to write to.", "DIR")]
_TOLERANCE = (
    "Distance to the object, in pixels of the annotated image, that still hits in the pointing game (the library's "
    "own). Only the table depends on it, the maps do not."
)
Tolerance = Annotated[float | None, option(_TOLERANCE, "PIXELS", parser=_pixels)]


def with_defaults(function: Callable[..., Any], **given: Any) -> dict[str, Any]:
    """The arguments that were given, and the function's own default for each that is None."""
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default if value is None else value for name, value in given.items()}


def checked_device(name: str) -> torch.device:
    """The device of this name, after a first use of it."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # PyTorch raises any of these for a device that is missing.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise StopError(f"--device: {name!r} is not available: {error}") from error
    return device
