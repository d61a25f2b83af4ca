"""Charts: scores against the area of the masks, after figures 3 and 8 of the paper, and bars of several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from captum_extremal._checks import check_number
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw
from captum_extremal.visualization import _wording as words

_LOGARITHMIC = 50  # from this ratio of the largest to the smallest number of channels, a linear axis crowds the small
_FAINT = 0.35  # opacity of the score that the game does not look at
_LABELS = {  # of the clean, the preserved, the deleted and the perturbed score
    "positions": ("whole image", "only the mask's region", "all but the mask's region", "fully perturbed"),
    "channels": ("all channels", "only the mask's channels", "all but the mask's channels", "no channels"),
}
_NAME = 28  # letters in a line of a bar's name
_LETTER, _LINE = 0.075, 0.14  # inches, of a bar's name
_BAR = 0.75  # inches, with the space to the next
_ROOM = 0.12  # of the axis, above and below the intervals, for the numbers


def show_curves(found: ExtremalMasks, index: int = 0, *, title: str | None = None) -> Figure:
    """The score of what the masks keep, and of what remains without it, against their area (figure 3).

    The area is in percent; for masks of channels it is their number, on a logarithmic axis where the largest is 50
    times the smallest or more.

    Args:
        found: masks of any kind, also of channels.
        index, title: as :func:`show_mask`.

    Returns:
        a figure with the preserved (blue) and the deleted (orange) score, and lines for the clean (green) and the fully
        perturbed score (red) and for a*.

    Raises: as :func:`show_mask`.
    """
    one = check.result(found).image(index)
    figure = draw.new_figure(6.4, 3.4)
    ax = figure.subplots()
    draw_curves(ax, one)
    # Beside the axes: within them it would hide one curve or the other.
    figure.legend(loc="outside right upper", fontsize=draw.SMALL, frameon=False)
    draw.write(ax.set_title, title or "", draw.LARGE)
    return figure


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
    lines = [name.split("\n") for name in names]
    room_below = max(_LETTER * max(map(len, of_name)) + _LINE * len(of_name) for of_name in lines) * 0.71  # at 45 degrees
    figure = draw.new_figure(1.0 + _BAR * max(4, len(bars)), 2.6 + room_below)
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
    _draw_grid(ax, "y")
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(axis="x", length=0)
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    draw.write(partial(ax.set_xticks, range(len(names))), names, draw.SMALL, **slanted)
    draw.write(ax.set_ylabel, ylabel)
    return figure


def draw_curves(ax: Axes, one: ExtremalMasks, *, faint: bool = False) -> None:
    """The curves of one image, labelled for a legend.

    Args:
        faint: draw the score that the game does not look at faintly; for a game that looks at both, the deleted score.
    """
    clean, kept, removed, perturbed = _LABELS[one.covers]
    sizes = [words.area_value(one, area) for area in one.areas.tolist()]
    ignored = _FAINT if faint else 1.0
    kept_opacity, removed_opacity = (ignored, 1.0) if words.removes_only(one) else (1.0, ignored)
    preserved, deleted = check.as_array(one.scores)[0], check.as_array(one.complement_scores)[0]
    ax.axhline(float(one.clean_score), color=draw.GREEN, linewidth=1.3, linestyle="--", label=clean)
    ax.plot(sizes, preserved, "-o", color=draw.BLUE, markersize=5, label=kept, alpha=kept_opacity)
    ax.plot(sizes, deleted, "-s", color=draw.ORANGE, markersize=5, label=removed, alpha=removed_opacity)
    ax.axhline(float(one.perturbed_score), color=draw.RED, linewidth=1.3, linestyle="--", label=perturbed)
    if bool(one.reached):
        optimal = words.area_value(one, float(one.optimal_area))
        ax.axvline(optimal, color=draw.MARK, linewidth=6, alpha=0.3, zorder=0, label=words.optimal_text(one))
    else:
        ax.plot([], [], " ", label=words.optimal_text(one))
    channels = words.channels(one)
    if channels is not None and min(sizes) > 0 and max(sizes) >= _LOGARITHMIC * min(sizes):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        ax.set_xlim(left=0)
        if channels is not None:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _draw_grid(ax, "both")
    in_percent = f"area of the mask, {words.percent_unit(one)}"
    draw.write(ax.set_xlabel, in_percent if channels is None else f"number of channels, of {channels}")
    draw.write(ax.set_ylabel, "score")


def _draw_grid(ax: Axes, axis: Literal["both", "y"]) -> None:
    """Small labels, and grid lines behind the data."""
    ax.tick_params(labelsize=draw.SMALL, colors=draw.INK)
    ax.grid(axis=axis, color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["right", "top"]].set_visible(False)


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
