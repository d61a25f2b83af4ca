"""The style sheet of the figures: fonts and colours stand in ``captum_extremal.mplstyle`` alone."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, cast

from matplotlib import rc_params_from_file, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

P = ParamSpec("P")

_FILE = Path(__file__).with_name("captum_extremal.mplstyle")
SHEET: dict[str, Any] = dict(cast(Any, rc_params_from_file)(_FILE, use_default_template=False))
# The scores of what is kept and of what is removed, the clean score, the fully perturbed one, and a*.
BLUE, ORANGE, GREEN, PURPLE, GOLD = SHEET["axes.prop_cycle"].by_key()["color"]
INK, FAINT = SHEET["text.color"], SHEET["axes.edgecolor"]
SMALL, NORMAL, LARGE = SHEET["axes.labelsize"], SHEET["axes.titlesize"], SHEET["figure.titlesize"]  # points
TINT = (GOLD, 0.2)  # behind what belongs to a*
BOX = {"boxstyle": "round,pad=0.25", "facecolor": TINT, "edgecolor": GOLD, "linewidth": 1.4}  # of a*'s title


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style sheet; the caller's settings of matplotlib are as before, also after an error."""

    @wraps(draw)
    def drawn(*arguments: P.args, **named: P.kwargs) -> Figure:
        with style.context(SHEET):
            return draw(*arguments, **named)

    return drawn


def keep_ticks(ax: Axes) -> None:
    """Fix the style of the ticks: matplotlib makes them when the figure is drawn, without the style sheet."""
    for axis, name in ((ax.xaxis, "xtick"), (ax.yaxis, "ytick")):
        sizes = {key: SHEET[f"{name}.major.{key}"] for key in ("size", "width", "pad")}
        length = {"length": sizes.pop("size"), "direction": SHEET[f"{name}.direction"]}
        axis.set_tick_params(labelsize=SHEET[f"{name}.labelsize"], color=INK, labelcolor=INK, **sizes, **length)
