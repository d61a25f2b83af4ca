"""Scores against the area of the masks, after figure 3 of the paper, and of channels after figure 8."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import array, check_found
from captum_extremal.visualization._panels import (
    BLUE,
    GREEN,
    INK,
    LARGE,
    MARK,
    NORMAL,
    ORANGE,
    RED,
    SMALL,
    new_figure,
)
from captum_extremal.visualization._wording import Extent, extent_of, removes_only

_LOGARITHMIC = 50  # from the smallest to the largest number of channels: beyond, a linear axis crowds the few
_FAINT = 0.35  # opacity of the score that the game does not look at


def show_curves(found: ExtremalMasks, index: int = 0, *, title: str | None = None) -> Figure:
    """The score of what the masks keep, and of what is left without it, against their area (figure 3).

    The area is in percent; of masks of channels it is their number, on a logarithmic axis where the largest is 50 times
    the smallest or more.

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
        ax.set_title(title, fontsize=LARGE, color=INK)
    return figure


def draw_curves(ax: Axes, one: ExtremalMasks, *, faint: bool = False) -> None:
    """The curves of one image, labelled for a legend.

    Args:
        faint: draw the score that the game does not look at faintly; for a game that looks at both, what is left.
    """
    extent = extent_of(one)
    named = _CHANNELS if extent.over_channels else _POSITIONS
    sizes = [extent.on_axis(area) for area in one.areas.tolist()]
    ignored = _FAINT if faint else 1.0
    kept_opacity, removed_opacity = (ignored, 1.0) if removes_only(one) else (1.0, ignored)
    preserved, deleted = array(one.scores)[0], array(one.complement_scores)[0]
    ax.axhline(float(one.clean_score), color=GREEN, linewidth=1.3, linestyle="--", label=named.clean)
    ax.plot(sizes, preserved, "-o", color=BLUE, markersize=5, label=named.kept, alpha=kept_opacity)
    ax.plot(sizes, deleted, "-s", color=ORANGE, markersize=5, label=named.removed, alpha=removed_opacity)
    ax.axhline(float(one.perturbed_score), color=RED, linewidth=1.3, linestyle="--", label=named.perturbed)
    _mark_optimal(ax, one, extent)
    _scale_sizes(ax, sizes, extent)
    _style(ax, extent)


@dataclass(frozen=True)
class _Names:
    """What a legend calls the lines."""

    clean: str
    kept: str
    removed: str
    perturbed: str


_POSITIONS = _Names("whole image", "only the mask's region", "all but the mask's region", "fully perturbed")
_CHANNELS = _Names("all channels", "only the mask's channels", "all but the mask's channels", "no channels")


def _mark_optimal(ax: Axes, one: ExtremalMasks, extent: Extent) -> None:
    if bool(one.reached):
        area = float(one.optimal_area)
        label = f"a* = {extent.text(area)}"
        ax.axvline(extent.on_axis(area), color=MARK, linewidth=6, alpha=0.3, zorder=0, label=label)
    else:
        ax.plot([], [], " ", label="a* not reached")


def _scale_sizes(ax: Axes, sizes: list[float], extent: Extent) -> None:
    if extent.channels is not None and min(sizes) > 0 and max(sizes) >= _LOGARITHMIC * min(sizes):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        ax.set_xlim(left=0)
        if extent.channels is not None:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _style(ax: Axes, extent: Extent) -> None:
    ax.set_xlabel(extent.axis_label(), fontsize=NORMAL, color=INK)
    ax.set_ylabel("score", fontsize=NORMAL, color=INK)
    ax.tick_params(labelsize=SMALL, colors=INK)
    ax.grid(color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["right", "top"]].set_visible(False)
