"""The scores against the area, after figure 3 of the paper.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.results.tensors import as_array
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import BLUE, GOLD, GREEN, INK, LARGE, ORANGE, PURPLE, SMALL, styled

_PICTURE = 0.34  # of the width, for the mask of a*
_TICKS, _BENEATH, _BESIDE = 0.7, 0.42, 0.3  # inches, of the labels left of the axes, beneath and beside them
_TWO_COLUMNS = 4.5  # inches, from which on the legend has two
_LABELS = {  # of the clean, the preserved, the deleted and the perturbed score
    "positions": ("whole image", "only the mask's region", "all but the mask's region", "fully perturbed"),
    "groups": ("all groups", "only the mask's groups", "all but the mask's groups", "no groups"),
    "channels": ("all channels", "only the mask's channels", "all but the mask's channels", "no channels"),
}


@styled
def show_curves(
    found: ExtremalMasks,
    images: Tensor | None = None,
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The score of what the masks keep, and of what remains without it, against their area (figure 3).

    The preserved score is blue, the deleted one vermilion, the clean one green, the fully perturbed one purple. A
    dotted line is what is enough, where this is neither the clean score nor the fully perturbed one. A broad line marks
    a*, and diamonds its scores where it lies between the areas. ``found`` may also hold masks of channels: then the
    area is their number, on a logarithmic axis where the largest is 50 times the smallest or more.

    Args:
        found: masks of anything.
        images: the mask of a* is drawn over one of them, beside the curves. None for the curves alone.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, or ``found`` holds a* alone, or
            ``images`` come with masks of channels, groups, signals or volumes.
        IndexError: there is no such image.
    """
    one = check.with_areas(found, "show_mask draws the mask of a*").image(index)
    if images is not None and not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor (N, 3, H, W), or None, got {type(images).__name__}")
    view = None if images is None else check.view(found, images, index, input_index)
    is_new, ax = ax is None, layout.one_axes(ax, 6.4, 3.4 if view is None else 3.8)
    if view is not None:
        picture = layout.beside(ax, _PICTURE)
        draw.under_panel(picture, view.rgb, view.best)
        text.title(picture, words.shown_text(one), less=_BESIDE)
    draw_curves(ax, one)
    if title:
        text.title(ax, title, LARGE, less=_TICKS)
    if is_new:  # outside of the axes: within them it would hide one curve or the other
        at = {"loc": "outside right upper"} if view is None else {"loc": "outside lower center", "ncols": 2}
        layout.root(ax).legend(**at)
    else:
        _draw_legend(ax)
    return layout.root(ax)


def _draw_legend(ax: Axes) -> None:
    """The legend of the caller's axes: beneath them, if the figure has a layout that makes room for it."""
    if layout.root(ax).get_layout_engine() is None:
        ax.legend()
        return
    below = ax.transAxes + ScaledTranslation(0, -_BENEATH, layout.root(ax).dpi_scale_trans)
    columns = 2 if layout.room(ax)[0] >= _TWO_COLUMNS else 1
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below, ncols=columns)


def draw_curves(ax: Axes, one: ExtremalMasks, *, faint: bool = False) -> None:
    """The curves of one image; ``faint`` is for the score that the game ignores, or the deleted one of two."""
    clean, kept, removed, perturbed = _LABELS[one.covers]
    channels, unit = words.area_unit(one)
    sizes = [100 * area if channels is None else round(area * channels) for area in one.areas.tolist()]
    kept_scores, removed_scores = as_array(one.scores)[0], as_array(one.complement_scores)[0]
    ignored = 0.35 if faint else 1.0
    opacity = (ignored, 1.0) if words.removes_only(one) else (1.0, ignored)
    ax.axhline(float(one.clean_score), color=GREEN, linewidth=1.3, linestyle="--", label=clean)
    ax.plot(sizes, kept_scores, "-o", color=BLUE, label=kept, alpha=opacity[0])
    ax.plot(sizes, removed_scores, "-s", color=ORANGE, label=removed, alpha=opacity[1])
    ax.axhline(float(one.perturbed_score), color=PURPLE, linewidth=1.3, linestyle="-.", label=perturbed)
    _draw_enough(ax, one)
    if bool(one.reached) and not bool(one.vacuous):
        optimal = round(float(one.optimal_area) * (channels or 100), 4)
        ax.axvline(optimal, color=GOLD, linewidth=6, alpha=0.3, zorder=0, label=words.optimal_text(one))
        if not bool((one.areas == one.optimal_area).any()):
            diamond: dict[str, Any] = {"marker": "D", "markersize": 6, "markeredgecolor": INK, "zorder": 3}
            ax.plot(optimal, float(one.optimal_score), color=BLUE, alpha=opacity[0], **diamond)
            ax.plot(optimal, float(one.optimal_complement_score), color=ORANGE, alpha=opacity[1], **diamond)
    else:
        ax.plot([], [], " ", label=words.optimal_text(one))
    _scale_areas(ax, sizes, channels)
    draw.grid(ax, "both")
    areas = f"area of the mask, {unit}" if channels is None else f"number of channels, of {channels}"
    text.under(ax, areas, less=_TICKS)
    text.write(ax.set_ylabel, "score", SMALL)


def _draw_enough(ax: Axes, one: ExtremalMasks) -> None:
    """A line at what is enough, unless it is the clean score's, or that of the fully perturbed image."""
    enough, lines = words.enough_score(one), (float(one.clean_score), float(one.perturbed_score))
    if enough is None:
        kept, removed = words.game_of(one)
        what = "kept \N{MINUS SIGN} removed" if kept == -removed else "the game's value"
        ax.plot([], [], " ", label=f"enough: {what} = {words.number(float(one.threshold))}")
    elif not any(words.same(enough, line) for line in lines):
        ax.axhline(enough, color=INK, linewidth=1.2, linestyle=":", label=f"enough: {words.number(enough)}")


def _scale_areas(ax: Axes, sizes: list[float], channels: int | None) -> None:
    """The axis of the areas in percent, or of numbers of channels."""
    if channels is not None and min(sizes) > 0 and max(sizes) >= 50 * min(sizes):  # a linear axis would crowd the small
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        return
    ax.set_xlim(left=0)
    if channels is not None:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
