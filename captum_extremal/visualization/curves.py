"""Scores against the area of the masks, after figure 3 of the paper, and of channels after figure 8."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

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


def show_curves(found: ExtremalMasks, index: int = 0, *, title: str | None = None) -> Figure:
    """The score of what the masks keep, and of what remains without it, against their area (figure 3).

    The area is in percent; for masks of channels it is their number, on a logarithmic axis where the largest is 50
    times the smallest or more.

    Args:
        found: masks of any kind, also of channels.
        index: which of the N images.
        title: a line above the figure.

    Returns:
        a figure with the preserved (blue) and the deleted (orange) score, and lines for the clean (green) and the fully
        perturbed score (red) and for a*.

    Raises:
        TypeError: ``found`` is no :class:`~captum_extremal.ExtremalMasks`, or the index no integer.
        IndexError: there is no such image.
    """
    one = check.result(found).image(index)
    figure = draw.new_figure(6.4, 3.4)
    ax = figure.subplots()
    draw_curves(ax, one)
    # Beside the axes: within them it would hide one curve or the other.
    figure.legend(loc="outside right upper", fontsize=draw.SMALL, frameon=False)
    draw.write(ax.set_title, title or "", draw.LARGE)
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
    _scale_sizes(ax, sizes, whole_numbers=channels is not None)
    draw.grid(ax, "both")
    in_percent = f"area of the mask, {words.area_unit(one)}"
    draw.write(ax.set_xlabel, in_percent if channels is None else f"number of channels, of {channels}")
    draw.write(ax.set_ylabel, "score")


def _scale_sizes(ax: Axes, sizes: list[float], *, whole_numbers: bool) -> None:
    if whole_numbers and min(sizes) > 0 and max(sizes) >= _LOGARITHMIC * min(sizes):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        return
    ax.set_xlim(left=0)
    if whole_numbers:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
