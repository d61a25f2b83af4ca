"""Numbers of several methods with their intervals, as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.figure import Figure

from captum_extremal._checks import check_number
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw
from captum_extremal.visualization import _wording as words

_NAME = 28  # letters in a line of a bar's name
_LETTER, _LINE = 0.075, 0.14  # inches, of a bar's name
_BAR = 0.75  # inches, with the space to the next
_ROOM = 0.12  # of the axis, above and below the intervals, for the numbers


def show_bars(values: Mapping[str, tuple[float, float, float]], *, ylabel: str) -> Figure:
    """Means with their intervals, one bar per method.

    Args:
        values: name -> (mean, low, high), such as ``summarise(outcomes).mean`` and the 95 % interval over images of
            ``bootstrap_interval(outcomes)``, both of :mod:`captum_extremal.metrics`.
        ylabel: what the numbers are.

    Returns:
        a figure of a bar from 0 to each mean, its number, and the interval as a line, in the order given.

    Raises:
        TypeError: ``values`` is no dict of names and numbers, or the label no string.
        ValueError: there is no bar, a bar is not three finite numbers, or its interval ends below its beginning.
    """
    given = check.named("values", values, "(mean, low, high)", at_least_one="bar")
    bars = [_check_bar(f"values[{name!r}]", bar) for name, bar in given.items()]
    names = [words.wrapped(name, _NAME) for name in given]
    if not isinstance(ylabel, str):
        raise TypeError(f"ylabel must be a string, got {ylabel!r}")
    figure = draw.new_figure(1.0 + _BAR * max(4, len(bars)), 2.6 + max(map(_room_below, names)))
    ax = figure.subplots()
    for place, (mean, low, high) in enumerate(bars):
        ax.bar(place, mean, width=0.6, color=draw.BLUE)
        ax.plot([place, place], [low, high], "-_", color=draw.INK, linewidth=1.2, markersize=7)
        end, offset, side = (max(mean, high), 4, "bottom") if mean >= 0 else (min(mean, low), -4, "top")
        where = {"xy": (place, end), "xytext": (0, offset), "textcoords": "offset points", "ha": "center", "va": side}
        draw.write(ax.annotate, words.number(mean), draw.SMALL, **where)
    ax.axhline(0, color=draw.FAINT, linewidth=0.8)
    lowest, highest = min(0.0, *map(min, bars)), max(0.0, *map(max, bars))
    room = _ROOM * ((highest - lowest) or 1.0)
    ax.set_ylim(lowest - room if lowest < 0 else 0, highest + room if highest > 0 or lowest == 0 else 0)
    draw.grid(ax, "y")
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(axis="x", length=0)
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    draw.write(partial(ax.set_xticks, range(len(names))), names, draw.SMALL, **slanted)
    draw.write(ax.set_ylabel, ylabel)
    return figure


def _check_bar(name: str, bar: object) -> tuple[float, float, float]:
    if not isinstance(bar, Sequence) or isinstance(bar, str):
        raise TypeError(f"{name} must be (mean, low, high), got {bar!r}")
    if len(bar) != 3:
        raise ValueError(f"{name} must be (mean, low, high), got {len(bar)} numbers")
    for part, value in zip(("mean", "low", "high"), bar):
        check_number(f"{name}'s {part}", value)
    mean, low, high = map(float, bar)
    if low > high:
        raise ValueError(f"{name}'s low must be at most its high, got {low:g} and {high:g}")
    return mean, low, high


def _room_below(name: str) -> float:
    """Inches for a name that stands at 45 degrees."""
    lines = name.split("\n")
    return (_LETTER * max(map(len, lines)) + _LINE * len(lines)) * 0.71
