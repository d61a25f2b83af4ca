"""The masks of images, after figures 1 and 5 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import array, check_found, check_names
from captum_extremal.visualization._masked import View, draw_masked, view_of
from captum_extremal.visualization._panels import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    LARGE,
    MARK,
    NORMAL,
    SMALL,
    bare,
    box_title,
    draw_image,
    new_figure,
    panel_size,
    panels,
)
from captum_extremal.visualization._wording import (
    number,
    optimal_index,
    optimal_text,
    percent,
    removes_only,
    score_text,
)

SATURATION = 1.25
"""Where the bars of figure 5 end: a quarter above the score of the whole image."""


def show_mask(
    found: ExtremalMasks, images: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """The image, and the mask of the smallest sufficient area a* over it (figure 1).

    What the mask hides is dark and grey; the model sees it perturbed instead. The outline encloses exactly the area; a
    nearly flat mask has none.

    Args:
        found: masks of images.
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        index: which of the N images.
        input_index: which of the inputs, where they were a tuple.
        title: a line above the figure, such as the target's name.

    Returns:
        a figure of two panels; the second's title has a*, the score and the clean score, or says that no area reached
        the threshold, and then shows the largest one's mask.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    view = view_of(found, images, index, input_index)
    figure, ((left, right),) = panels(view.shape, 2, base=3.3, title=title, title_lines=2, least_width=2.2)
    draw_image(left, view.rgb, "image")
    draw_masked(right, view, view.optimal)
    right.set_title(f"{optimal_text(view.found)}\n{score_text(view.found)}", fontsize=NORMAL, color=INK)
    return figure


def show_targets(
    found: ExtremalMasks,
    images: Tensor,
    names: Sequence[str] | None = None,
    *,
    input_index: int = 0,
    title: str | None = None,
) -> Figure:
    """Several classes of one image: the image, and for each the mask of its smallest sufficient area.

    Args:
        found: masks of one image repeated N times, each time with another target.
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1]: the repeated image.
        names: N titles; default "target 1", "target 2", ...
        input_index: which of the inputs, where they were a tuple.
        title: a line above the figure.

    Returns:
        a figure of N + 1 panels.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
    """
    count = len(check_found(found).clean_score)
    default = [f"target {k + 1}" for k in range(count)]
    labels = default if names is None else check_names("names", names, count, "target")
    views = [view_of(found, images, k, input_index) for k in range(count)]
    figure, rows = panels(
        views[0].shape, count + 1, base=2.5, title=title, title_lines=2, least_width=1.6, most_columns=5
    )
    axes = [ax for row in rows for ax in row]
    draw_image(axes[0], views[0].rgb, "image")
    for ax, view, label in zip(axes[1:], views, labels):
        draw_masked(ax, view, view.optimal)
        ax.set_title(f"{label}\n{optimal_text(view.found)}", fontsize=NORMAL, color=INK)
    return figure


def show_sweep(
    found: ExtremalMasks, images: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """The masks of all areas, and what each does to the score (figure 5).

    Under each mask a bar shows the score as a fraction of the clean score: that of what the mask keeps, or for a game
    that only removes, that of what is left without it. Bars end at 1.25; the number beneath goes on. Where the clean
    score is not above 0 (log-probabilities), a fraction of it would mean nothing, and the bar is the share of the way
    from the fully perturbed score to the clean one.

    Args: as :func:`show_mask`.

    Returns:
        a figure with, for the whole image and then for each area, a picture and a bar; that of a* is boxed.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    view = view_of(found, images, index, input_index)
    fractions, meaning = _fractions(view.found)
    areas = view.found.areas.tolist()
    figure, rows = panels(view.shape, len(areas) + 1, base=1.5, title=title, title_lines=1, least_width=0.9, below=1.0)
    pictures = [ax for row in rows[0::2] for ax in row]
    bars = [ax for row in rows[1::2] for ax in row]
    draw_image(pictures[0], view.rgb, "image")
    _draw_bar(bars[0], 1.0, FAINT, first=True)
    best = optimal_index(view.found)
    for k, area in enumerate(areas):
        draw_masked(pictures[k + 1], view, k, outline=k == best)
        box_title(pictures[k + 1], percent(area), boxed=k == best)
        _draw_bar(bars[k + 1], fractions[k], BLUE if k != best else MARK, first=False)
    figure.supxlabel(f"bars, up to {SATURATION:g}: {meaning}{_boxed_text(view.found)}", fontsize=SMALL, color=INK)
    return figure


def show_order(
    found: ExtremalMasks, images: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """The order in which the pixels enter as the area grows, as one image.

    Args: as :func:`show_mask`.

    Returns:
        a figure of the grey image under the colours of the areas: each pixel has that of the smallest area whose binary
        mask holds it, and stays grey where none does. The colour bar is in fractions of the image.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    view = view_of(found, images, index, input_index)
    step = _entry_step(view)
    count = len(view.found.areas)
    colours = ListedColormap(colormaps["viridis_r"](np.linspace(0.02, 1.0, count)))
    width, height = panel_size(view.shape, 3.6)
    figure = new_figure(width + 1.1, height + 0.35)
    ax = figure.subplots()
    ax.imshow(view.rgb @ GREY, cmap="gray", vmin=0, vmax=1)
    drawn = ax.imshow(step, cmap=colours, vmin=-0.5, vmax=count - 0.5, alpha=0.7, interpolation="nearest")
    bare(ax)
    ax.set_title(title or "order of entry", fontsize=LARGE if title else NORMAL, color=INK)
    bar = figure.colorbar(drawn, ax=ax, ticks=np.arange(-0.5, count), shrink=0.9, pad=0.03)
    bar.ax.set_yticklabels([percent(area) for area in [0.0, *view.found.areas.tolist()]], fontsize=SMALL)
    bar.set_label("area of the mask when the pixel enters", fontsize=SMALL, color=INK)
    bar.outline.set_visible(False)
    return figure


def _boxed_text(found: ExtremalMasks) -> str:
    return f"; boxed: a* = {percent(float(found.optimal_area))}" if bool(found.reached) else "; a* not reached"


def _fractions(found: ExtremalMasks) -> tuple[list[float], str]:
    """The bars of figure 5, (A,), not yet saturated, and what they are."""
    removes = removes_only(found)
    scores = array(found.complement_scores if removes else found.scores)[0]
    what = "score without the region" if removes else "score"
    clean, perturbed = float(found.clean_score), float(found.perturbed_score)
    if clean > 0:
        return (scores / clean).tolist(), f"{what} / score of the whole image"
    if clean > perturbed:
        share = (scores - perturbed) / (clean - perturbed)
        return share.tolist(), f"{what}, from fully perturbed (0) to the whole image (1)"
    return [0.0] * len(scores), f"none: the whole image scores {number(clean)}, no more than fully perturbed"


def _draw_bar(ax: Axes, fraction: float, colour: str, *, first: bool) -> None:
    ax.bar([0], [min(max(fraction, 0.0), SATURATION)], width=0.55, color=colour)
    ax.axhline(1.0, color=GREEN, linewidth=1.0, linestyle="--")
    ax.set(xlim=(-0.8, 0.8), ylim=(0, SATURATION))
    ax.set_xticks([0], [f"{fraction:.2f}".replace("-", "\N{MINUS SIGN}")], fontsize=SMALL, color=INK)
    ax.set_yticks([0, 1], ["0", "1"] if first else ["", ""], fontsize=SMALL, color=INK)
    ax.tick_params(length=0)
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.spines["bottom"].set_color(FAINT)


def _entry_step(view: View) -> np.ma.MaskedArray[Any, Any]:
    """Which of the areas a pixel enters with, (H, W), masked where it never does."""
    areas = array(view.found.areas)
    step = np.searchsorted(areas - 1e-9, view.entry, side="right") - 1
    return np.ma.masked_array(step, mask=~view.binary.any(0))
