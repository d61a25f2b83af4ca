"""The options that several commands share, and the values that they take.

A default of None stands for the default of the library, which is read only when the command runs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_extremal.cli.console import StopError

if TYPE_CHECKING:
    import torch

TOP = "top1"


class Game(str, Enum):
    """The games of section 3.2 by name."""

    preserve = "preserve"
    delete = "delete"
    hybrid = "hybrid"


def list_of(part: Callable[[str], Any]) -> dict[str, Any]:
    """The settings of an option of several values, which is repeated or comma-separated."""

    def parse(text: str) -> list[Any]:
        return [part(value.strip()) for value in text.split(",")]

    return {"parser": parse, "callback": flattened}


def flattened(parts: list[list[Any]] | None) -> list[Any] | None:
    """The values of all repetitions of an option; None where it was not given."""
    return [value for part in parts for value in part] if parts else None


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
Model = Annotated[str, typer.Option(metavar="NAME", help="As in torchvision.models.list_models().")]
Weights = Annotated[
    str,
    typer.Option(
        metavar="DEFAULT|FILE",
        help="torchvision's, downloaded once, or a file with a state dict, for any number of classes.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A text file with one class name per line (default: those of the weights)."),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        metavar=f"INDEX|NAME|{TOP}",
        help="A class: its number, its name, a part of the name that no other class has, or top1 for the class that "
        f"the model predicts ({TOP}). Repeatable.",
    ),
]
GameOption = Annotated[
    Game | None,
    typer.Option("--game", help="Keep the score with little, lose it by removing little, or both (the library's own)."),
]
ScoreFraction = Annotated[
    float,
    typer.Option(
        parser=_fraction,
        metavar="FRACTION",
        help="The score that is enough for a*, as a fraction of the way from the score where nothing is kept, 0, to "
        "the score of the whole image, 1 (with --game delete, of the way back). 0.9 asks for less, so that a* is "
        "smaller.",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of a search; more take longer (the solver's own).")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help='"cpu", "cuda", "cuda:1", ...; auto: a GPU if there is one, else the CPU.')
]
Out = Annotated[str, typer.Option(metavar="DIR", help="Folder to write to.")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        parser=_pixels,
        metavar="PIXELS",
        help="Distance to the object, in pixels of the annotated image, that still hits in the pointing game (the "
        "library's own). Only the table depends on it, the maps do not.",
    ),
]


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
