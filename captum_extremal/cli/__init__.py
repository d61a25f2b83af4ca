"""The command ``captum-extremal``: a demo, explanations of one's own photographs, and evaluations on data sets.

``captum-extremal demo`` needs no network and no files. ``captum-extremal explain PHOTO...`` finds the smallest part of
a photograph that is enough for any of torchvision's classifiers, ``captum-extremal channels PHOTO... --layer NAME``
the fewest channels of a layer. All write figures, the masks and a summary to a folder whose path they print.
``captum-extremal evaluate`` judges a method on a data set; ``captum-extremal compare`` puts evaluations side by side.

Exit status: 0; 1 where something could not be read (but for images of a data set), fetched or written; 2 for a wrong
argument; 130 after Ctrl-C.

Shapes: T targets of one photograph, K classes or channels, H rows and W columns of pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from captum_extremal.cli._channels import add_channels
from captum_extremal.cli._compare import add_compare
from captum_extremal.cli._console import FAILED, INTERRUPTED, PROGRAM, StopError, one_line, say
from captum_extremal.cli._demo import add_demo
from captum_extremal.cli._evaluate import add_evaluate
from captum_extremal.cli._explain import add_explain

# torchvision and matplotlib are imported by the functions that need them, so that a wrong argument is told at once.

__all__ = ["main"]


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
    except StopError as error:
        say(f"{PROGRAM}: error: {one_line(error)}")
        return error.status
    except OSError as error:
        say(f"{PROGRAM}: error: {one_line(error)}")
        return FAILED
    except KeyboardInterrupt:
        say(f"{PROGRAM}: interrupted")
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    from captum_extremal._version import own_version

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Extremal perturbations: which smallest part of an image is enough for a network's output.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {own_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_demo(commands)
    add_explain(commands)
    add_channels(commands)
    add_evaluate(commands)
    add_compare(commands)
    return parser
