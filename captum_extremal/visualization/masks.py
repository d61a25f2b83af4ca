"""The masks of a* over their images, after figure 1 of the paper: of one image, of several classes, of several answers.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import styled


@styled
def show_mask(
    found: ExtremalMasks,
    images: Tensor,
    index: int = 0,
    *,
    input_index: int = 0,
    box: Tensor | None = None,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """The image, and the mask of the smallest sufficient area a* over it (figure 1).

    What the mask hides is dark and grey; the model sees it perturbed instead. The outline encloses exactly the area; a
    nearly flat mask has none. The title has a*, the scores that the game weighs, and the clean score; below stands the
    game, and whether the mask is grey, nearer to a constant mask than to a binary one, so that its outline says little.
    Where no area reached the threshold, it says so, and the largest mask is shown; where nothing is needed, everything
    is dark. A mask of a layer's positions (``mask="spatial"``) is resized to the image and shows which of them keep
    their activation.

    Args:
        box: (4,), the x0, y0, x1, y1 in pixels of what a detector has found, which is framed in both pictures.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    view, corners = check.view(found, images, index, input_index), check.box(box)
    place, (left, right) = layout.panels(fig, view.rgb.shape, 2, base=3.3, least_width=2.2, headed=bool(title))
    text.suptitle(place, title)
    draw.image(left, view.rgb, "image")
    draw.under_panel(right, view.rgb, view.best)
    text.title(right, words.summary(view.found))
    text.under(right, words.mask_text(view.found, view.best.mask))
    for ax in (left, right):
        draw.frame(ax, corners)
    return layout.finished(place, fig)


@styled
def show_targets(
    found: ExtremalMasks,
    images: Tensor,
    names: Sequence[str] | None = None,
    *,
    index: int | Sequence[int] | None = None,
    input_index: int = 0,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """Several classes of one image: the image, and for each class the mask of its smallest sufficient area.

    Args:
        found: masks of one image repeated N times, each time with another target.
        images: the repeated image.
        names: of the targets that are drawn; default "target 1", "target 2", ...
        index: which of the N targets; all of them by default.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such target.
    """
    rows = check.rows_of("index", index, len(check.result(found).clean_score))
    labels = check.names("names", names, [f"target {row + 1}" for row in rows], "target")
    views = [check.view(found, images, row, input_index) for row in rows]
    rgb = views[0].rgb
    place, (first, *others) = layout.panels(
        fig, rgb.shape, 1 + len(rows), base=2.5, least_width=1.5, headed=bool(title), most_columns=5
    )
    text.suptitle(place, title)
    draw.image(first, rgb, "image")
    for ax, view, label in zip(others, views, labels):
        draw.under_panel(ax, view.rgb, view.best)
        text.title(ax, f"{label}\n{words.shown_text(view.found)}")
    if words.removes_only(found):
        text.caption(place, words.game_text(found))
    return layout.finished(place, fig)


def _answers(one: ExtremalMasks) -> str:
    """How many explanations of one image are distinct, and its a*."""
    optimum, count = words.optimal_text(one), int(one.distinct[0])
    if bool(one.vacuous) or not count:
        return optimum
    return f"{'one answer' if count == 1 else f'{count} distinct answers'} at {optimum}"


@styled
def show_explanations(
    found: ExtremalMasks,
    images: Tensor,
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """The several explanations of one image: for each the mask of its a*, and how much it overlaps the earlier ones.

    Beneath stands how many of them are distinct (:attr:`~captum_extremal.ExtremalMasks.distinct`). A panel stays empty
    where the first explanation is enough and no further one is.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    views = [check.view(one, images, index, input_index) for one in check.result(found).explanations]
    first, overlaps = views[0], views[0].found.optimal_overlap[0]
    place, (left, *others) = layout.panels(
        fig,
        first.rgb.shape,
        1 + len(views),
        base=2.7,
        least_width=1.9,
        headed=bool(title),
        title_lines=3,
        most_columns=5,
    )
    text.suptitle(place, title)
    draw.image(left, first.rgb, "image")
    for k, (ax, view) in enumerate(zip(others, views)):
        if bool(first.found.reached) and not bool(view.found.reached):
            draw.blank(ax, first.rgb.shape[:2], "no further answer")
            continue
        draw.under_panel(ax, view.rgb, view.best)
        most = f"\noverlap {words.number(float(overlaps[k, :k].max()), '.2f')}" if k else ""
        text.title(ax, f"{words.summary(view.found)}{most}")
    text.caption(place, "; ".join([_answers(first.found), *[words.game_text(found)] * words.removes_only(found)]))
    return layout.finished(place, fig)
