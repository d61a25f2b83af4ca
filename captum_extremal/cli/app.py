"""The command ``captum-extremal`` and its subcommands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from captum_extremal.cli.channels import channels
from captum_extremal.cli.classifier import ABOUT_SIZES
from captum_extremal.cli.compare import compare
from captum_extremal.cli.console import FAILED, INTERRUPTED, PROGRAM, StopError, say
from captum_extremal.cli.data_sets import ABOUT_DATA
from captum_extremal.cli.demo import demo
from captum_extremal.cli.evaluate import evaluate
from captum_extremal.cli.explain import explain

# Commands import PyTorch, torchvision and matplotlib only when they run, so that the help and a wrong argument are
# answered at once.


class _Commands(TyperGroup):
    """Turns what a command returns or raises into an exit status."""

    def invoke(self, ctx: Any) -> None:
        try:
            status = super().invoke(ctx) or 0
        except (StopError, OSError) as error:
            say(f"error: {error}")
            status = error.status if isinstance(error, StopError) else FAILED
        except KeyboardInterrupt:
            say("interrupted")
            status = INTERRUPTED
        raise typer.Exit(status)


app = typer.Typer(name=PROGRAM, cls=_Commands, add_completion=False, rich_markup_mode=None)
app.command()(demo)
app.command(epilog=ABOUT_SIZES)(explain)
app.command(epilog=ABOUT_SIZES)(channels)
app.command(epilog=ABOUT_DATA)(evaluate)
app.command()(compare)


def _print_version(wanted: bool) -> None:
    if wanted:
        from captum_extremal._version import own_version

        typer.echo(f"{PROGRAM} {own_version()}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Extremal perturbations: which smallest part of an image is enough for a network's output."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; default those of the process.

    Returns:
        the exit status.
    """
    command = typer.main.get_command(app)
    try:
        command.main(args=None if argv is None else list(argv), prog_name=PROGRAM)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
