"""Numbers of several methods with their intervals, as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_extremal._checks import check_number
from captum_extremal.visualization._panels import BLUE, FAINT, INK, NORMAL, SMALL, new_figure
from captum_extremal.visualization._wording import number, wrapped

_NAME = 28  # letters in a line of a bar's name
_LETTER = 0.075  # inches, of a bar's name
_LINE = 0.14  # inches
_BAR = 0.75  # inches, with the space to the next
_ROOM = 0.12  # of the axis, above and below the intervals, for the numbers

Bar = tuple[float, float, float]


def show_bars(values: Mapping[str, tuple[float, float, float]], *, ylabel: str) -> Figure:
    """Means with their intervals, a bar a method.

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
    bars = _check_bars(values)
    if not isinstance(ylabel, str):
        raise TypeError(f"ylabel must be a string, got {ylabel!r}")
    names = [wrapped(name, _NAME) for name in bars]
    figure = new_figure(1.0 + _BAR * max(4, len(bars)), 2.6 + _room_below(names))
    ax = figure.subplots()
    for place, (mean, low, high) in enumerate(bars.values()):
        ax.bar(place, mean, width=0.6, color=BLUE)
        ax.plot([place, place], [low, high], "-_", color=INK, linewidth=1.2, markersize=7)
        _write_number(ax, place, mean, low, high)
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=SMALL, color=INK)
    ax.set_ylabel(ylabel, fontsize=NORMAL, color=INK)
    _scale(ax, list(bars.values()))
    return figure


def _check_bars(values: object) -> dict[str, Bar]:
    if not isinstance(values, Mapping):
        raise TypeError(f"values must be a dict of names and (mean, low, high), got {type(values).__name__}")
    if not values:
        raise ValueError("values must hold at least one bar, got none")
    return {str(name): _check_bar(f"values[{name!r}]", bar) for name, bar in values.items()}


def _check_bar(name: str, bar: object) -> Bar:
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


def _room_below(names: list[str]) -> float:
    """Inches for names that stand at 45 degrees."""
    lines = [name.split("\n") for name in names]
    return max(_LETTER * max(map(len, of_name)) + _LINE * len(of_name) for of_name in lines) * 0.71


def _write_number(ax: Axes, place: int, mean: float, low: float, high: float) -> None:
    above = mean >= 0
    ax.annotate(
        number(mean),
        (place, max(mean, high) if above else min(mean, low)),
        xytext=(0, 4 if above else -4),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize=SMALL,
        color=INK,
    )


def _scale(ax: Axes, bars: list[Bar]) -> None:
    lowest, highest = (choose(0.0, *(choose(bar) for bar in bars)) for choose in (min, max))
    room = _ROOM * ((highest - lowest) or 1.0)
    ax.set_ylim(lowest - room if lowest < 0 else 0, highest + room if highest > 0 or lowest == 0 else 0)
    ax.tick_params(axis="y", labelsize=SMALL, colors=INK)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["right", "top", "bottom"]].set_visible(False)
