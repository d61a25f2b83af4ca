"""The masks of a search and their scores, after figures 1, 3 and 5 of the paper."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from torch import Tensor

from captum_extremal.explorer import enclosing_level
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw

_SATURATION = 1.25  # where the bars of figure 5 end: a quarter above the score of the whole image
_SIDE = 1.5  # inches, a panel's side in figure 5
_SHARES = "viridis"
_LABELS = {  # of the clean, the preserved, the deleted and the perturbed score
    "positions": ("whole image", "only the mask's region", "all but the mask's region", "fully perturbed"),
    "groups": ("all groups", "only the mask's groups", "all but the mask's groups", "no groups"),
    "channels": ("all channels", "only the mask's channels", "all but the mask's channels", "no channels"),
}


def show_mask(
    found: ExtremalMasks,
    images: Tensor,
    index: int = 0,
    *,
    input_index: int = 0,
    box: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """The image, and the mask of the smallest sufficient area a* over it (figure 1).

    What the mask hides is dark and grey; the model sees it perturbed instead. The outline encloses exactly the area; a
    nearly flat mask has none. The title has a*, the scores that the game weighs, and the clean score; below stands the
    game, and whether the mask is grey (its binariness is below 0.6), so that its outline says little. Where no area
    reached the threshold, it says so, and the largest mask is shown; where nothing is needed, everything is dark. A
    mask of a layer's positions (``mask="spatial"``) is resized to the image and shows which of them keep their
    activation.

    Args:
        box: (4,), the x0, y0, x1, y1 in pixels of what a detector has found, which is framed in both pictures.
    """
    view, corners = check.view(found, images, index, input_index), check.box(box)
    figure, (left, right) = draw.panels(view.rgb.shape, 2, title, base=3.3, least_width=2.2)
    draw.image(left, view.rgb, "image")
    draw_masked(right, view.rgb, view.best)
    draw.title(right, draw.summary(view.found))
    draw.write(right.set_xlabel, under_mask(view.found, view.best.mask), draw.SMALL)
    for ax in (left, right):
        draw.frame(ax, corners)
    return figure


def under_mask(one: ExtremalMasks, mask: check.Array) -> str:
    """The game, and whether the mask of a* is grey."""
    told = draw.game_text(one).replace("; ", "\n")
    binariness = float(np.square(mask).sum() / (mask.sum() or 1.0))
    is_grey = 0 < binariness < draw.GREY and bool(one.reached)
    return told + f"\ngrey mask: binariness {draw.number(binariness, '.2f')}" * is_grey


def show_targets(
    found: ExtremalMasks,
    images: Tensor,
    names: Sequence[str] | None = None,
    *,
    input_index: int = 0,
    title: str | None = None,
) -> Figure:
    """Several classes of one image: the image, and for each class the mask of its smallest sufficient area.

    Args:
        found: masks of one image repeated N times, each time with another target.
        images: the repeated image.
        names: N titles; default "target 1", "target 2", ...
    """
    count = len(check.result(found).clean_score)
    labels = check.names("names", names, [f"target {k + 1}" for k in range(count)], "target")
    views = [check.view(found, images, k, input_index) for k in range(count)]
    rgb = views[0].rgb
    figure, (first, *others) = draw.panels(rgb.shape, count + 1, title, base=2.5, least_width=1.6, most_columns=5)
    draw.image(first, rgb, "image")
    for ax, view, label in zip(others, views, labels):
        draw_masked(ax, view.rgb, view.best)
        draw.title(ax, f"{label}\n{draw.shown_text(view.found)}")
    return figure


def show_explanations(
    found: ExtremalMasks, images: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """The several explanations of one image: for each the mask of its a*, and how much it overlaps the earlier ones.

    Beneath stands how many of them are distinct (:attr:`~captum_extremal.ExtremalMasks.distinct`). A panel stays empty
    where the first explanation is enough and no further one is.
    """
    views = [check.view(one, images, index, input_index) for one in check.result(found).explanations]
    first, overlaps = views[0], views[0].found.optimal_overlap[0]
    figure, (left, *others) = draw.panels(
        first.rgb.shape, len(views) + 1, title, base=2.7, least_width=1.9, title_lines=3, most_columns=5
    )
    draw.image(left, first.rgb, "image")
    for k, (ax, view) in enumerate(zip(others, views)):
        if bool(first.found.reached) and not bool(view.found.reached):
            draw.blank(ax, first.rgb.shape[:2], "no further answer")
            continue
        draw_masked(ax, view.rgb, view.best)
        most = f"overlap {draw.number(float(overlaps[k, :k].max()), '.2f')}" if k else ""
        draw.title(ax, f"{draw.summary(view.found)}\n{most}")
    count = int(first.found.distinct[0])
    answers = "no answer" if not count else "one answer" if count == 1 else f"{count} distinct answers"
    draw.write(figure.supxlabel, f"{answers} at {draw.optimal_text(first.found)}", draw.SMALL)
    return figure


def show_sweep(
    found: ExtremalMasks,
    images: Tensor,
    index: int = 0,
    *,
    input_index: int = 0,
    agreement: bool = False,
    title: str | None = None,
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
    """
    view = check.view(check.with_areas(found, "show_mask draws the mask of a*"), images, index, input_index)
    if agreement and bool(view.found.agreement_score.isnan().all()):
        raise ValueError("found must know how far several searches agree for agreement=True, got NaN")
    *fractions, enough = _fractions(view, [panel.scores for panel in view.panels])
    meaning = _meaning(view)
    count, shape = 1 + len(fractions), view.rgb.shape
    below = (1.0, draw.panel_size(shape, _SIDE)[1] + 0.3) if agreement else (1.0,)
    figure, axes = draw.panels(shape, count, title, base=_SIDE, least_width=0.9, title_lines=1, below=below)
    draw.image(axes[0], view.rgb, "image")
    draw_areas(axes[1:count], view)
    _draw_bar(axes[count], 1.0, draw.FAINT, ["0", "1"])
    for ax, panel, fraction in zip(axes[count + 1 : 2 * count], view.panels, fractions):
        _draw_bar(ax, fraction, draw.MARK if panel.boxed else draw.BLUE)
    has_line = 0 < enough <= _SATURATION and not draw.same(enough, 1.0)
    for ax in axes[count : 2 * count] if has_line else ():
        ax.axhline(enough, color=draw.INK, linewidth=1.2, linestyle=":")
    if agreement:
        _draw_agreement(axes[2 * count :], view)
    is_boxed = any(panel.boxed for panel in view.panels)
    optimal = ("boxed: " if is_boxed else "") + draw.optimal_text(view.found)
    line = "; dotted: enough" * has_line
    bars, letters = f"bars, up to {_SATURATION:g}: {meaning}{line}", int(draw.SMALL_LETTERS * figure.get_figwidth())
    together = f"{bars}; {optimal}"
    caption = together if len(together) <= letters else f"{draw.wrapped(bars, letters)}\n{optimal}"
    draw.write(figure.supxlabel, caption, draw.SMALL)
    return figure


def show_order(
    found: ExtremalMasks, images: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """The order in which the pixels enter as the area grows, as one image.

    Each pixel of the grey image has the colour of the smallest area whose binary mask holds it, and stays grey where
    none does. The colour bar is in percent of the image. Pixels that this area's mask keeps by less than half are pale:
    they only fill it up, such as a frame around masks that had enough before.
    """
    view = check.view(check.with_areas(found, "show_mask draws the mask of a*"), images, index, input_index)
    areas = view.found.areas.tolist()
    binary = np.stack([panel.binary for panel in view.listed])  # (A, H, W)
    first_area = np.ma.masked_array(binary.argmax(0), mask=~binary.any(0))
    masks = np.stack([panel.mask for panel in view.listed])
    keeps = np.take_along_axis(masks, binary.argmax(0)[None], axis=0)[0]  # (H, W), how far at the area of entry
    pale = binary.any(0) & (keeps < 0.5)
    colours = ListedColormap(colormaps["viridis_r"](np.linspace(0.02, 1.0, len(areas))))
    width, height = draw.panel_size(view.rgb.shape, 3.6)
    figure = draw.new_figure(width + 1.1, height + 0.35)
    ax = figure.subplots()
    draw.image(ax, draw.grey(view.rgb), cmap="gray", vmin=0, vmax=1, interpolation=None)
    drawn = ax.imshow(
        first_area,
        cmap=colours,
        vmin=-0.5,
        vmax=len(areas) - 0.5,
        alpha=0.7,
        interpolation="nearest",
    )
    # More of the grey image, so that the colour is pale.
    paler: check.Array = np.ma.masked_array(draw.grey(view.rgb), mask=~pale)
    ax.imshow(paler, cmap="gray", vmin=0, vmax=1, alpha=0.6, interpolation="nearest")
    draw.write(ax.set_title, title or "order of entry", draw.LARGE if title else draw.NORMAL)
    bar = figure.colorbar(drawn, ax=ax, ticks=np.arange(-0.5, len(areas)), shrink=0.9, pad=0.03)
    bar.ax.set_yticklabels([draw.area_text(view.found, area) for area in [0.0, *areas]], fontsize=draw.SMALL)
    draw.write(bar.set_label, "area of the mask when the pixel enters", draw.SMALL)
    bar.outline.set_visible(False)
    if pale.any():
        draw.write(ax.set_xlabel, "pale: kept by less than half", draw.SMALL)
    return figure


def show_curves(found: ExtremalMasks, index: int = 0, *, title: str | None = None) -> Figure:
    """The score of what the masks keep, and of what remains without it, against their area (figure 3).

    The preserved score is blue, the deleted one orange, the clean one green, the fully perturbed one red. A dotted line
    is what is enough, where this is neither the clean score nor the fully perturbed one. A broad line marks a*, and
    diamonds its scores where it lies between the areas. ``found`` may also hold masks of channels: then the area is
    their number, on a logarithmic axis where the largest is 50 times the smallest or more.
    """
    one = check.with_areas(found, "show_mask draws the mask of a*").image(index)
    figure = draw.new_figure(6.4, 3.4)
    ax = figure.subplots()
    draw_curves(ax, one)
    # Beside the axes: within them it would hide one curve or the other.
    figure.legend(loc="outside right upper", fontsize=draw.SMALL, frameon=False)
    draw.write(ax.set_title, title or "", draw.LARGE)
    return figure


def draw_areas(axes: Iterable[Axes], view: check.View, before: str = "") -> None:
    """The image under each of its masks; the title is the area after ``before``, boxed at a*."""
    for ax, panel in zip(axes, view.panels):
        draw_masked(ax, view.rgb, panel, outline=panel.boxed)
        draw.title(ax, f"{before}{draw.area_text(view.found, panel.area)}", boxed=panel.boxed)


def draw_kept(ax: Axes, rgb: check.Array, mask: check.Array) -> None:
    """A picture (H, W, 3) under any mask (H, W): what is hidden is dark and grey."""
    kept = mask[..., None].clip(0, 1)
    hidden = 0.28 * draw.grey(rgb)[..., None]  # visible, but clearly not shown
    draw.image(ax, kept * rgb + (1 - kept) * hidden)


def draw_masked(ax: Axes, rgb: check.Array, panel: check.Panel, *, outline: bool = True) -> None:
    """A picture (H, W, 3) under the mask of a panel."""
    mask, binary = panel.mask, panel.binary
    draw_kept(ax, rgb, mask)
    if outline and (enclosed := enclosing_level(mask, binary)):
        values, level = enclosed
        # Dark under light, so that it shows on any picture.
        ax.contour(values, levels=[level], colors=["black"], linewidths=[2.4], alpha=0.6)
        ax.contour(values, levels=[level], colors=[draw.MARK], linewidths=[1.2])


def _fractions(view: check.View, scores: Sequence[tuple[float, float]]) -> list[float]:
    """The bars of figure 5, one for each panel, not yet saturated, and the height of what is enough (NaN if none)."""
    enough = draw.enough_score(view.found)
    side = int(draw.removes_only(view.found))
    heights = np.array([*(pair[side] for pair in scores), np.nan if enough is None else enough])
    clean, perturbed = float(view.found.clean_score), float(view.found.perturbed_score)
    if clean > 0:
        return list((heights / clean).tolist())
    if clean <= perturbed:
        return [0.0] * len(heights)
    return list(((heights - perturbed) / (clean - perturbed)).tolist())


def _meaning(view: check.View) -> str:
    """What the bars of figure 5 are."""
    what = "score without the region" if draw.removes_only(view.found) else "score"
    clean, perturbed = float(view.found.clean_score), float(view.found.perturbed_score)
    if clean > 0:
        return f"{what} / score of the whole image"
    if clean <= perturbed:
        return f"none: the whole image scores {draw.number(clean)}, no more than fully perturbed"
    return f"{what}, from fully perturbed (0) to the whole image (1)"


def _draw_agreement(axes: Sequence[Axes], view: check.View) -> None:
    """What the colours mean, then for each panel the grey image under the share of the searches that keep a pixel."""
    legend, *others = axes
    faded = 0.35 + 0.4 * draw.grey(view.rgb)[..., None].repeat(3, axis=2)
    for ax, panel in zip(others, view.panels):
        known = f"agree {draw.number(panel.agreement, '.2f')}" if panel.agreement == panel.agreement else ""
        if panel.shares is None:
            draw.blank(ax, view.rgb.shape[:2], "no map")
            draw.title(ax, known)
            continue
        opacity = 0.85 * (panel.shares > 0)[..., None]
        colours = colormaps[_SHARES](panel.shares)[..., :3]
        draw.image(ax, opacity * colours + (1 - opacity) * faded, known)
    legend.set_axis_off()
    draw.write(legend.set_title, "searches\nthat keep\na pixel", draw.SMALL, y=0.45)
    scale = legend.inset_axes((0.1, 0.3, 0.8, 0.1))
    scale.imshow(np.linspace(0, 1, 64)[None], cmap=_SHARES, aspect="auto", extent=(0, 1, 0, 1))
    draw.write(partial(scale.set_xticks, [0, 1]), ["0 %", "100 %"], draw.SMALL)
    scale.set_yticks([])
    scale.tick_params(length=0)
    scale.spines[:].set_visible(False)


def _draw_bar(ax: Axes, fraction: float, colour: str, ticks: Sequence[str] = ("", "")) -> None:
    ax.bar([0], [min(max(fraction, 0.0), _SATURATION)], width=0.55, color=colour)
    if fraction > _SATURATION:
        ax.plot([0], [_SATURATION], "^", color=colour, markersize=9, clip_on=False)  # it goes on
    ax.axhline(1.0, color=draw.GREEN, linewidth=1.0, linestyle="--")
    ax.set(xlim=(-0.8, 0.8), ylim=(0, _SATURATION))
    draw.write(partial(ax.set_xticks, [0]), [draw.number(fraction, ".2f")], draw.SMALL)
    draw.write(partial(ax.set_yticks, [0, 1]), list(ticks), draw.SMALL)
    ax.tick_params(length=0)
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.spines["bottom"].set_color(draw.FAINT)


def _draw_enough(ax: Axes, one: ExtremalMasks) -> None:
    """A line at what is enough, unless it is the clean score's, or that of the fully perturbed image."""
    enough, lines = draw.enough_score(one), (float(one.clean_score), float(one.perturbed_score))
    if enough is None:
        kept, removed = draw.game_of(one)
        what = "blue \N{MINUS SIGN} orange" if kept == -removed else "the game's value"
        ax.plot([], [], " ", label=f"enough: {what} = {draw.number(float(one.threshold))}")
    elif not any(draw.same(enough, line) for line in lines):
        ax.axhline(enough, color=draw.INK, linewidth=1.2, linestyle=":", label=f"enough: {draw.number(enough)}")


def draw_curves(ax: Axes, one: ExtremalMasks, *, faint: bool = False) -> None:
    """The curves of one image; ``faint`` is for the score that the game ignores, or the deleted one of two."""
    clean, kept, removed, perturbed = _LABELS[one.covers]
    channels, unit = draw.area_unit(one)
    sizes = [100 * area if channels is None else round(area * channels) for area in one.areas.tolist()]
    kept_scores, removed_scores = check.as_array(one.scores)[0], check.as_array(one.complement_scores)[0]
    ignored = 0.35 if faint else 1.0
    opacity = (ignored, 1.0) if draw.removes_only(one) else (1.0, ignored)
    ax.axhline(float(one.clean_score), color=draw.GREEN, linewidth=1.3, linestyle="--", label=clean)
    ax.plot(sizes, kept_scores, "-o", color=draw.BLUE, markersize=5, label=kept, alpha=opacity[0])
    ax.plot(sizes, removed_scores, "-s", color=draw.ORANGE, markersize=5, label=removed, alpha=opacity[1])
    ax.axhline(float(one.perturbed_score), color=draw.RED, linewidth=1.3, linestyle="--", label=perturbed)
    _draw_enough(ax, one)
    if bool(one.reached) and not bool(one.vacuous):
        optimal = round(float(one.optimal_area) * (channels or 100), 4)
        ax.axvline(optimal, color=draw.MARK, linewidth=6, alpha=0.3, zorder=0, label=draw.optimal_text(one))
        if not bool((one.areas == one.optimal_area).any()):
            diamond: dict[str, Any] = {"marker": "D", "markersize": 6, "markeredgecolor": draw.INK, "zorder": 3}
            ax.plot(optimal, float(one.optimal_score), color=draw.BLUE, alpha=opacity[0], **diamond)
            ax.plot(optimal, float(one.optimal_complement_score), color=draw.ORANGE, alpha=opacity[1], **diamond)
    else:
        ax.plot([], [], " ", label=draw.optimal_text(one))
    if channels is not None and min(sizes) > 0 and max(sizes) >= 50 * min(sizes):  # a linear axis would crowd the small
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        ax.set_xlim(left=0)
        if channels is not None:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw.grid(ax, "both")
    draw.write(ax.set_xlabel, f"area of the mask, {unit}" if channels is None else f"number of channels, of {channels}")
    draw.write(ax.set_ylabel, "score")
