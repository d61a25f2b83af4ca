"""The value of masks under several ways of hiding, as a table in colours."""

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.robustness import Robustness
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw

_COLOURS = LinearSegmentedColormap.from_list("white to blue", ["#f4f7fa", "#a9d0ea", draw.BLUE])
_CELL, _NAMES, _TOP = (0.62, 0.3), 1.3, 0.85  # inches: of a cell, of the rows' names, of what stands above a table
_LEAST_WIDTH = 5.0


def show_robustness(robustness: Robustness, index: int = 0, *, title: str | None = None) -> Figure:
    """The value of one image's masks and of their binary forms under each way of hiding.

    A table has a row for each way, the search's own first, and a column for each area, a* last and boxed. The numbers
    are per cent of the clean score; where this makes no sense (:attr:`Robustness.soft_percent`) they are the game's
    values. A mask that holds has the same colour from the top to the bottom of its column. The first column is the
    value where the whole input is hidden: masks that keep the score are far above it, and those that remove it
    (``game="delete"``) are about as good: there 0 % is the best and -100 % the worst.

    Args:
        robustness: of ``ExtremalPerturbation.robustness``.
    """
    if not isinstance(robustness, Robustness):
        raise TypeError(f"robustness must be a Robustness, got {type(robustness).__name__}")
    row = check.row_of("index", index, len(robustness.clean_score))
    tables, form, caption = _tables(robustness, row)
    colours = _colour_range(tables, percent=bool(form))
    ways, columns = tables[0].shape
    width = max(_LEAST_WIDTH, _NAMES + _CELL[0] * columns)
    figure = draw.new_figure(width, 2 * (_TOP + _CELL[1] * ways) + 0.3 + (0.3 if title else 0), title)
    for ax, table, name in zip(figure.subplots(2, 1), tables, ("masks", "their binary forms, of the same areas")):
        _draw_table(ax, table, colours, form)
        draw.write(partial(ax.set_title, loc="left"), name)
        draw.write(partial(ax.set_yticks, range(ways)), list(robustness.names), draw.SMALL)
        _draw_areas(ax, robustness.areas[row])
    draw.write(figure.supxlabel, caption, draw.SMALL)
    return figure


def _tables(robustness: Robustness, row: int) -> tuple[list[check.Array], str, str]:
    """Of the soft and the binary masks (P, 1 + A + 1), first with all hidden; the numbers' format, and what they are.

    The format of values that are not per cent is empty.
    """
    clean = draw.number(float(robustness.clean_score[row]))
    soft, binary, hidden = robustness.soft_percent, robustness.binary_percent, robustness.all_hidden_percent
    form, caption = ".0f", f"the game's value in % of the clean score, {clean}"
    if bool(soft[row].isnan().any()):
        soft, binary, hidden = robustness.soft, robustness.binary, robustness.all_hidden
        form, caption = "", f"the game's value; the clean score is {clean}"
    return [_table(hidden[row], masks[row]) for masks in (soft, binary)], form, caption


def _table(all_hidden: Tensor, masks: Tensor) -> check.Array:
    return np.concatenate([check.as_array(all_hidden)[:, None], check.as_array(masks).T], axis=1)


def _colour_range(tables: list[check.Array], *, percent: bool) -> Normalize:
    """From the lowest value to the highest; of per cent no further than 100, which is all, and 100 wide at most."""
    low, high = float(np.nanmin(tables)), float(np.nanmax(tables))
    if percent:
        high = min(high, 100.0)
        low = max(low, high - 100.0)
    return Normalize(low, max(low, high))


def _draw_table(ax: Axes, table: check.Array, colours: Normalize, form: str) -> None:
    ax.imshow(table, cmap=_COLOURS, norm=colours, aspect="auto", interpolation="nearest")
    for (way, column), value in np.ndenumerate(table):
        known = not np.isnan(value)  # a model may have no score for an image of one colour
        dark = known and float(draw.grey(np.asarray(_COLOURS(colours(value)))[:3])) < 0.55
        text = draw.number(round(value, 0 if form else 6) + 0.0, form) if known else "none"  # + 0.0: no -0
        colour = "white" if dark else draw.INK
        ax.text(column, way, text, ha="center", va="center", fontsize=draw.SMALL, color=colour)
    ways, columns = table.shape
    for at in np.arange(0.5, ways - 1):
        ax.axhline(at, color="white", linewidth=1.0)
    for at in np.arange(0.5, columns - 1):
        ax.axvline(at, color="white", linewidth=6.0 if at in (0.5, columns - 1.5) else 1.0)
    ax.axhline(0.5, color="white", linewidth=4.0)  # below the search's own way
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _draw_areas(ax: Axes, areas: Tensor) -> None:
    """The areas (A + 1,) above their columns, a* boxed."""
    *listed, optimal = areas.tolist()
    last = "a* not\nreached" if np.isnan(optimal) else f"a*\n{100 * optimal:.3g} %"
    labels = ["all\nhidden", *(f"{100 * area:.3g} %" for area in listed), last]
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    draw.write(partial(ax.set_xticks, range(len(labels))), labels, draw.SMALL)
    ax.get_xticklabels()[-1].set_bbox(draw.BOX)
