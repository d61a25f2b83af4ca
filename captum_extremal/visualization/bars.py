"""Horizontal bars: numbers of several methods with their intervals, or of groups of features."""

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captum_extremal._checks import check_number
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import BLUE, FAINT, GOLD, INK, NORMAL, SMALL, styled

Bar = tuple[float, float, float]  # a number, and the ends of its interval
_WIDTH, _NAMES = 6.4, 0.4  # inches, and of it at most for the names
_LINE, _GAP = 0.15, 0.17  # inches: of a name's line, and between bars
_PAD = 0.25  # inches, between names and bars, and at the right
_TICK = 0.6  # inches, the least distance of the axis' numbers


@styled
def show_bars(
    values: Mapping[str, tuple[float, float, float]],
    *,
    ylabel: str,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Means, as bars from 0, with their intervals, as lines: one bar per method, in the order given from the top.

    Args:
        values: name -> (mean, low, high), such as ``summarise(outcomes).mean`` and the 95 % interval over images of
            ``bootstrap_interval(outcomes)``, both of :mod:`captum_extremal.metrics`.
        ylabel: what the numbers are.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
    """
    given = check.named("values", values, "(mean, low, high)", at_least_one="bar")
    bars = [_check_bar(f"values[{name!r}]", bar) for name, bar in given.items()]
    if not isinstance(ylabel, str):
        raise TypeError(f"ylabel must be a string, got {ylabel!r}")
    return draw_bars(list(given), bars, ylabel, title, ax)


def draw_bars(
    names: Sequence[str],
    bars: Sequence[Bar],
    label: str,
    title: str | None,
    ax: Axes | None,
    mark: float | None = None,
) -> Figure:
    """Bars from 0, one beneath the other, with their names at the left, and a dashed line at the mark."""
    lines = sum(1 + text.wrapped(name, _NAMES * _WIDTH, SMALL).count("\n") for name in names)
    under = text.wrapped(label, _WIDTH / 2, SMALL).count("\n") + 1
    above = 0.2 * (text.wrapped(title, _WIDTH, NORMAL).count("\n") + 1) + 0.1 if title else 0.0
    height = 0.65 + _LINE * (lines + under) + _GAP * len(bars) + above
    own = ax is None
    ax = layout.one_axes(ax, _WIDTH, height)
    width = layout.room(ax)[0]
    shown = [text.wrapped(name, _NAMES * width, SMALL) for name in names]
    left = max(text.length(line, SMALL) for name in shown for line in name.split("\n"))
    for place, bar in enumerate(bars):
        _draw_bar(ax, place, *bar)
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set_xlim(*_limits(bars if mark is None else [*bars, (mark, mark, mark)], width - left))
    ax.set_ylim(len(bars) - 0.5, -0.5)
    if mark is not None:
        ax.axvline(mark, color=GOLD, linestyle="--", linewidth=1.4)
    ax.xaxis.set_major_locator(MaxNLocator(max(2, int((width - left) / _TICK)), steps=[1, 2, 2.5, 5, 10]))
    draw.grid(ax, "x")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    text.write(partial(ax.set_yticks, range(len(shown))), shown, SMALL)
    # Beside other panels, the names of theirs may take more of the width than ours do.
    taken = left + _PAD if own else max(left, _NAMES * width) + _PAD
    text.under(ax, label, less=taken)
    if title:
        text.title(ax, title, less=taken)
    return layout.root(ax)


def _draw_bar(ax: Axes, place: float, mean: float, low: float, high: float) -> None:
    """A bar, its interval, and its number beyond both."""
    ax.barh(place, mean, height=0.6, color=BLUE)
    if low < high:
        ax.plot([low, high], [place, place], "-|", color=INK, linewidth=1.2, markersize=7)
    end, offset, side = (max(mean, high), 4, "left") if mean >= 0 else (min(mean, low), -4, "right")
    where = {"xy": (end, place), "xytext": (offset, 0), "textcoords": "offset points", "ha": side, "va": "center"}
    text.write(ax.annotate, words.number(mean), SMALL, **where)


def _limits(bars: Sequence[Bar], width: float) -> tuple[float, float]:
    """The ends of an axis of this width in inches, with room for the numbers."""
    lowest, highest = min(0.0, *map(min, bars)), max(0.0, *map(max, bars))
    number = max(text.length(words.number(mean), SMALL) for mean, _, _ in bars) + 0.12
    share = min(number / max(width, number), 0.3)
    room = share / (1 - 2 * share) * ((highest - lowest) or 1.0)
    return lowest - room if lowest < 0 else 0.0, highest + room if highest > 0 or lowest == 0 else 0.0


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
