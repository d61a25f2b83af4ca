"""Scores against the area of the masks, after figure 3 of the paper, and of channels after figure 8."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import as_array, check_found
from captum_extremal.visualization._panels import (
    BLUE,
    GREEN,
    LARGE,
    MARK,
    ORANGE,
    RED,
    SMALL,
    new_figure,
    with_grid,
    write,
)
from captum_extremal.visualization._wording import AreaUnit, optimal_text, removes_only

_LOGARITHMIC = 50  # largest over smallest number of channels from which a linear axis crowds the small ones
_FAINT = 0.35  # opacity of the score that the game does not look at

_LABELS = {  # of the clean, the preserved, the deleted and the perturbed score
    "positions": ("whole image", "only the mask's region", "all but the mask's region", "fully perturbed"),
    "channels": ("all channels", "only the mask's channels", "all but the mask's channels", "no channels"),
}


def show_curves(found: ExtremalMasks, index: int = 0, *, title: str | None = None) -> Figure:
    """The score of what the masks keep, and of what remains without it, against their area (figure 3).

    The area is in percent; for masks of channels it is their number, on a logarithmic axis where the largest is at least
    50 times the smallest.

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
    one = check_found(found).image(index)
    figure = new_figure(6.4, 3.4)
    ax = figure.subplots()
    draw_curves(ax, one)
    # Beside the axes: within them it would hide one curve or the other.
    figure.legend(loc="outside right upper", fontsize=SMALL, frameon=False)
    if title:
        write(ax.set_title, title, LARGE)
    return figure


def draw_curves(ax: Axes, one: ExtremalMasks, *, faint: bool = False) -> None:
    """The curves of one image, labelled for a legend.

    Args:
        faint: draw the score that the game does not look at faintly; for a game that looks at both, the deleted score.
    """
    unit = AreaUnit(one)
    clean, kept, removed, perturbed = _LABELS[one.covers]
    sizes = [unit.value(area) for area in one.areas.tolist()]
    ignored = _FAINT if faint else 1.0
    kept_opacity, removed_opacity = (ignored, 1.0) if removes_only(one) else (1.0, ignored)
    preserved, deleted = as_array(one.scores)[0], as_array(one.complement_scores)[0]
    ax.axhline(float(one.clean_score), color=GREEN, linewidth=1.3, linestyle="--", label=clean)
    ax.plot(sizes, preserved, "-o", color=BLUE, markersize=5, label=kept, alpha=kept_opacity)
    ax.plot(sizes, deleted, "-s", color=ORANGE, markersize=5, label=removed, alpha=removed_opacity)
    ax.axhline(float(one.perturbed_score), color=RED, linewidth=1.3, linestyle="--", label=perturbed)
    if bool(one.reached):
        optimal = unit.value(float(one.optimal_area))
        ax.axvline(optimal, color=MARK, linewidth=6, alpha=0.3, zorder=0, label=optimal_text(one))
    else:
        ax.plot([], [], " ", label=optimal_text(one))
    _scale_sizes(ax, sizes, unit)
    with_grid(ax)
    write(ax.set_xlabel, unit.axis_label())
    write(ax.set_ylabel, "score")


def _scale_sizes(ax: Axes, sizes: list[float], unit: AreaUnit) -> None:
    if unit.channels is not None and min(sizes) > 0 and max(sizes) >= _LOGARITHMIC * min(sizes):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        ax.set_xlim(left=0)
        if unit.channels is not None:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
