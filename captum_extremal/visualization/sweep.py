"""The masks of all areas and what each does to the score, after figure 5 of the paper.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import BLUE, FAINT, GOLD, GREEN, INK, SMALL, styled

_SATURATION = 1.25  # where the bars end: a quarter above the score of the whole image
_SIDE = 1.5  # inches, a panel's side
_SHARES = "viridis"


@styled
def show_sweep(
    found: ExtremalMasks,
    images: Tensor,
    index: int = 0,
    *,
    input_index: int = 0,
    agreement: bool = False,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """The image and its masks of all areas, with a* boxed among them, and what each does to the score (figure 5).

    Under each picture a bar shows a score as a fraction of the clean score: the score of what the mask keeps, or for a
    game that only removes, the score of what remains without it. Bars end at 1.25, with a tip where they go on; the
    number beneath is exact. Where the clean score is not above 0 (log-probabilities), the bar is the share of the way
    from the fully perturbed score to the clean score. The dashed line is the whole image's score; a dotted one is what
    is enough, where it is another.

    Args:
        agreement: add a row that shows how far independent searches agree: the share of them whose binary mask keeps
            each pixel, and their mean pairwise IoU. ``found`` must know it.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, or ``found`` holds a* alone, or does not
            know how far searches agree.
        IndexError: there is no such image.
    """
    view = check.view(check.with_areas(found, "show_mask draws the mask of a*"), images, index, input_index)
    if agreement and bool(view.found.agreement_score.isnan().all()):
        raise ValueError("found must know how far several searches agree for agreement=True, got NaN")
    *fractions, enough = _fractions(view)
    count, shape = 1 + len(fractions), view.rgb.shape
    below = (1.0, layout.panel_size(shape, _SIDE)[1] + 0.3) if agreement else (1.0,)
    place, axes = layout.panels(
        fig, shape, count, base=_SIDE, least_width=0.9, headed=bool(title), title_lines=1, below=below
    )
    text.suptitle(place, title)
    draw.image(axes[0], view.rgb, "image")
    draw_areas(axes[1:count], view)
    _draw_bar(axes[count], 1.0, FAINT, ["0", "1"])
    for ax, panel, fraction in zip(axes[count + 1 : 2 * count], view.panels, fractions):
        _draw_bar(ax, fraction, GOLD if panel.shown.is_optimum else BLUE)
    has_line = 0 < enough <= _SATURATION and not words.same(enough, 1.0)
    for ax in axes[count : 2 * count] if has_line else ():
        ax.axhline(enough, color=INK, linewidth=1.2, linestyle=":")
    if agreement:
        _draw_agreement(axes[2 * count :], view)
    is_boxed = any(panel.shown.is_optimum for panel in view.panels)
    optimal = ("boxed: " if is_boxed else "") + words.optimal_text(view.found)
    bars = f"bars, up to {_SATURATION:g}: {_meaning(view)}{'; dotted: enough' * has_line}"
    text.caption(place, f"{bars}; {optimal}")
    return layout.finished(place, fig)


def draw_areas(axes: Iterable[Axes], view: check.View, before: str = "") -> None:
    """The image under each of its masks; the title is the area after ``before``, boxed at a*."""
    for ax, panel in zip(axes, view.panels):
        boxed, area = panel.shown.is_optimum, words.area_text(view.found, panel.shown.area)
        draw.under_panel(ax, view.rgb, panel, outline=boxed)
        text.title(ax, f"{before}{area}", boxed=boxed)


def _fractions(view: check.View) -> list[float]:
    """The bars, one for each panel, not yet saturated, and the height of what is enough (NaN if none)."""
    enough, removes = words.enough_score(view.found), words.removes_only(view.found)
    scores = [panel.shown.complement if removes else panel.shown.score for panel in view.panels]
    heights = np.array([*scores, np.nan if enough is None else enough])
    clean, perturbed = float(view.found.clean_score), float(view.found.perturbed_score)
    if clean > 0:
        return list((heights / clean).tolist())
    if clean <= perturbed:
        return [0.0] * len(heights)
    return list(((heights - perturbed) / (clean - perturbed)).tolist())


def _meaning(view: check.View) -> str:
    """What the bars are."""
    what = "score without the region" if words.removes_only(view.found) else "score"
    clean, perturbed = float(view.found.clean_score), float(view.found.perturbed_score)
    if clean > 0:
        return f"{what} / score of the whole image"
    if clean <= perturbed:
        return f"none: the whole image scores {words.number(clean)}, no more than fully perturbed"
    return f"{what}, from fully perturbed (0) to the whole image (1)"


def _draw_bar(ax: Axes, fraction: float, colour: str, ticks: Sequence[str] = ("", "")) -> None:
    ax.bar([0], [min(max(fraction, 0.0), _SATURATION)], width=0.55, color=colour)
    if fraction > _SATURATION:
        ax.plot([0], [_SATURATION], "^", color=colour, markersize=9, clip_on=False)  # it goes on
    ax.axhline(1.0, color=GREEN, linewidth=1.0, linestyle="--")
    ax.set(xlim=(-0.8, 0.8), ylim=(0, _SATURATION))
    text.write(partial(ax.set_xticks, [0]), [words.number(fraction, ".2f")], SMALL)
    text.write(partial(ax.set_yticks, [0, 1]), list(ticks), SMALL)
    ax.tick_params(length=0)
    ax.spines[["left", "right", "top"]].set_visible(False)


def _draw_agreement(axes: Sequence[Axes], view: check.View) -> None:
    """What the colours mean, then for each panel the grey image under the share of the searches that keep a pixel."""
    legend, *others = axes
    faded = 0.35 + 0.4 * draw.grey(view.rgb)[..., None].repeat(3, axis=2)
    for ax, panel in zip(others, view.panels):
        agreement = panel.shown.agreement
        known = f"agree {words.number(agreement, '.2f')}" if agreement == agreement else ""
        if panel.shares is None:
            draw.blank(ax, view.rgb.shape[:2], "no map")
            text.title(ax, known)
            continue
        opacity = 0.85 * (panel.shares > 0)[..., None]
        colours = colormaps[_SHARES](panel.shares)[..., :3]
        draw.image(ax, opacity * colours + (1 - opacity) * faded, known)
    legend.set_axis_off()
    text.write(legend.set_title, "searches\nthat keep\na pixel", SMALL, y=0.45)
    scale = legend.inset_axes((0.1, 0.3, 0.8, 0.1))
    scale.imshow(np.linspace(0, 1, 64)[None], cmap=_SHARES, aspect="auto", extent=(0, 1, 0, 1))
    text.write(partial(scale.set_xticks, [0, 1]), ["0 %", "100 %"], SMALL)
    scale.set_yticks([])
    scale.tick_params(length=0)
    scale.spines[:].set_visible(False)
