"""The arguments that commands over photographs share, and the values they take."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from captum_extremal.cli._classifier import LONG, TOO_LONG, TOP
from captum_extremal.cli._console import StopError

if TYPE_CHECKING:
    import torch

STEPS = 100  # PathSolver's

ABOUT_SIZES = (
    "The shorter side of a photograph is resized to what the weights' transforms say, and it is cropped only if the "
    f"model refuses it whole. A photograph longer than {LONG}:1 is made smaller, to the pixels that one of {LONG}:1 "
    f"would have, and one longer than {TOO_LONG}:1 is refused."
)


def add_photographs(parser: argparse.ArgumentParser, *, least: str = "+") -> None:
    """Which photographs, which classifier and which of its classes; ``least`` is argparse's ``nargs``."""
    add = parser.add_argument
    add("photos", nargs=least, metavar="PHOTO", help="image files of any kind that Pillow reads")
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
        f"model predicts; repeatable ({TOP})",
    )


def add_search(parser: argparse.ArgumentParser, out: str) -> None:
    """What is asked of the search, where it runs, and the folder to write to."""
    add = parser.add_argument
    add(
        "--game",
        choices=("preserve", "delete", "hybrid"),
        default="preserve",
        help="keep the score with little, lose it by removing little, or both (%(default)s)",
    )
    add(
        "--score-threshold",
        type=fraction,
        default=1.0,
        metavar="FRACTION",
        help="what is enough for a*: how much of the way from the score where nothing is kept, 0, to the score of the "
        "whole image, 1 (with --game delete, of the way back); 0.9 asks for a little less, so that a* is smaller "
        "(%(default)g)",
    )
    add("--steps", type=positive, default=STEPS, help="of a search: more take longer (%(default)s)")
    add("--device", default="auto", help='"cpu", "cuda", "cuda:1", ... (auto: the first GPU, else the CPU)')
    add("--out", metavar="DIR", default=out, help="folder to write to (%(default)s)")


def natural(text: str) -> int:
    return _integer(text, 0)


def positive(text: str) -> int:
    return _integer(text, 1)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
    return value


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a fraction above 0 and at most 1, such as 0.9, got {text!r}")
    return value


def checked_device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # A device that is not there is told in many ways: PyTorch even asserts it.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise StopError(f"--device: {name!r} is not available: {error}") from error
    return device
