"""The value of masks under several ways of hiding, as a table in colours."""

from functools import partial

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from captum_extremal.results.tensors import Array, as_array
from captum_extremal.robustness import Robustness
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _text as text
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import BOX, SMALL, styled

_COLOURS = colormaps["Blues"]
_CELL, _TOP = (0.62, 0.3), 0.85  # inches: of a cell, of what stands above a table
_LEAST_WIDTH = 5.0


@styled
def show_robustness(
    robustness: Robustness,
    index: int = 0,
    *,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """The value of one image's masks and of their binary forms under each way of hiding.

    A table has a row for each way, the search's own first, and a column for each area, a* last and boxed. The numbers
    are per cent of the clean score; where this makes no sense (:attr:`Robustness.soft_percent`) they are the game's
    values. A mask that holds has the same colour from the top to the bottom of its column. The first column is the
    value where the whole input is hidden: masks that keep the score are far above it, and those that remove it
    (``game="delete"``) are about as good: there -100 % is the worst, and 0 % or more the best.

    Args:
        robustness: of ``ExtremalPerturbation.robustness``.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    if not isinstance(robustness, Robustness):
        raise TypeError(f"robustness must be a Robustness, got {type(robustness).__name__}")
    row = check.row_of("index", index, len(robustness.clean_score))
    tables, form, caption = _tables(robustness, row)
    colours, labels = _colour_range(tables, percent=bool(form)), _labels(robustness.areas[row])
    ways, columns = tables[0].shape
    names = max(text.length(name, SMALL) for name in robustness.names) + 0.3
    width = max(_LEAST_WIDTH, names + _CELL[0] * columns)
    place = layout.canvas(fig, width, 2 * (_TOP + _CELL[1] * ways) + 0.3 + (0.3 if title else 0))
    text.suptitle(place, title)
    size = _fitting_size([line for label in labels for line in label.split("\n")], place, names, columns)
    for ax, table, name in zip(place.subplots(2, 1), tables, ("masks", "their binary forms, of the same areas")):
        _draw_table(ax, table, colours, form, size)
        text.write(partial(ax.set_title, loc="left"), name)
        text.write(partial(ax.set_yticks, range(ways)), list(robustness.names), SMALL)
        _draw_labels(ax, labels, size)
    text.caption(place, caption)
    return layout.finished(place, fig)


def _fitting_size(lines: list[str], place: layout.Canvas, names: float, columns: int) -> float:
    """The size in points at which lines fit above the columns: small, or smaller where these are narrow."""
    cell = (layout.inches(place)[0] - names) / columns
    widest = max(text.length(line, SMALL) for line in [*lines, "\N{MINUS SIGN}100"]) + 0.1
    return float(SMALL * min(1.0, cell / widest))


def _tables(robustness: Robustness, row: int) -> tuple[list[Array], str, str]:
    """Of the soft and the binary masks (P, 1 + A + 1), first with all hidden; the numbers' format, and what they are.

    The format of values that are not per cent is empty.
    """
    clean = words.number(float(robustness.clean_score[row]))
    soft, binary, hidden = robustness.soft_percent, robustness.binary_percent, robustness.all_hidden_percent
    form, caption = ".0f", f"the game's value in % of the clean score, {clean}"
    if bool(soft[row].isnan().any()):
        soft, binary, hidden = robustness.soft, robustness.binary, robustness.all_hidden
        form, caption = "", f"the game's value; the clean score is {clean}"
    return [_table(hidden[row], masks[row]) for masks in (soft, binary)], form, caption


def _table(all_hidden: Tensor, masks: Tensor) -> Array:
    return np.concatenate([as_array(all_hidden)[:, None], as_array(masks).T], axis=1)


def _colour_range(tables: list[Array], *, percent: bool) -> Normalize:
    """From the lowest value to the highest; of per cent no further than 100, which is all, and -100."""
    low, high = float(np.nanmin(tables)), float(np.nanmax(tables))
    if percent:
        low, high = (min(max(end, -100.0), 100.0) for end in (low, high))
    return Normalize(low, high)


def _draw_table(ax: Axes, table: Array, colours: Normalize, form: str, size: float) -> None:
    ax.imshow(table, cmap=_COLOURS, norm=colours, aspect="auto", interpolation="nearest")
    for (way, column), value in np.ndenumerate(table):
        known = not np.isnan(value)  # a model may have no score for an image of one colour
        dark = known and float(draw.grey(np.asarray(_COLOURS(colours(value)))[:3])) < 0.55
        told = words.number(round(value, 0 if form else 6) + 0.0, form) if known else "none"  # + 0.0: no -0
        light = {"color": "white"} if dark else {}
        text.write(partial(ax.text, column, way), told, size, ha="center", va="center", **light)
    ways, columns = table.shape
    for at in np.arange(0.5, ways - 1):
        ax.axhline(at, color="white", linewidth=1.0)
    for at in np.arange(0.5, columns - 1):
        ax.axvline(at, color="white", linewidth=6.0 if at in (0.5, columns - 1.5) else 1.0)
    ax.axhline(0.5, color="white", linewidth=4.0)  # below the search's own way
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _labels(areas: Tensor) -> list[str]:
    """What stands above the columns, the areas (A + 1,) among it."""
    *listed, optimal = areas.tolist()
    last = "a* not\nreached" if np.isnan(optimal) else f"a*\n{100 * optimal:.3g} %"
    return ["all\nhidden", *(f"{100 * area:.3g} %" for area in listed), last]


def _draw_labels(ax: Axes, labels: list[str], size: float) -> None:
    """The labels above their columns, a* boxed."""
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    text.write(partial(ax.set_xticks, range(len(labels))), labels, size)
    ax.get_xticklabels()[-1].set_bbox(BOX)
