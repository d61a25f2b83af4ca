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

_COLOURS = LinearSegmentedColormap.from_list("white to blue", ["#f7f7f7", "#9ecae8", draw.BLUE, "#003f66"])
_CELL, _NAMES, _TOP = (0.62, 0.3), 1.3, 0.85  # inches: of a cell, of the rows' names, of what stands above a table
_LEAST_WIDTH = 5.0
_WHOLE = 100.0  # per cent; what is beyond it has the colour of the end


def show_robustness(robustness: Robustness, index: int = 0, *, title: str | None = None) -> Figure:
    """The value of one image's masks and of their binary forms under each way of hiding.

    A table has a row for each way, the search's own first, and a column for each area, a* last and boxed. The numbers
    are per cent of the clean score; where this makes no sense (:attr:`Robustness.soft_percent`) they are the game's
    values. The first column is the value where the whole input is hidden: masks should be far above it. A mask that
    holds has the same colour from the top to the bottom of its column.

    Args:
        robustness: of ``ExtremalPerturbation.robustness``.
    """
    if not isinstance(robustness, Robustness):
        raise TypeError(f"robustness must be a Robustness, got {type(robustness).__name__}")
    row = check.row_of("index", index, len(robustness.clean_score))
    tables, caption = _tables(robustness, row)
    colours = _colour_range(tables)
    ways, columns = tables[0].shape
    width = max(_LEAST_WIDTH, _NAMES + _CELL[0] * columns)
    figure = draw.new_figure(width, 2 * (_TOP + _CELL[1] * ways) + 0.3 + (0.3 if title else 0), title)
    for ax, table, name in zip(figure.subplots(2, 1), tables, ("masks", "their binary forms, of the same areas")):
        _draw_table(ax, table, colours)
        draw.write(partial(ax.set_title, loc="left"), name)
        draw.write(partial(ax.set_yticks, range(ways)), list(robustness.names), draw.SMALL)
        _draw_areas(ax, robustness.areas[row])
    draw.write(figure.supxlabel, caption, draw.SMALL)
    return figure


def _tables(robustness: Robustness, row: int) -> tuple[list[check.Array], str]:
    """Of the soft and the binary masks (P, 1 + A + 1), first with all hidden; and what the numbers are."""
    clean = float(robustness.clean_score[row])
    soft, binary, hidden = robustness.soft_percent, robustness.binary_percent, robustness.all_hidden_percent
    caption = f"value of the game in % of the clean score, {draw.number(clean)}"
    if bool(soft[row].isnan().any()):
        soft, binary, hidden = robustness.soft, robustness.binary, robustness.all_hidden
        caption = f"value of the game; clean score {draw.number(clean)}"
    return [_table(hidden[row], masks[row]) for masks in (soft, binary)], caption


def _table(all_hidden: Tensor, masks: Tensor) -> check.Array:
    return np.concatenate([check.as_array(all_hidden)[:, None], check.as_array(masks).T], axis=1)


def _colour_range(tables: list[check.Array]) -> Normalize:
    """From the lowest to the highest value, within -100 and 100."""
    low, high = np.nanmin(tables), np.nanmax(tables)
    return Normalize(max(low, -_WHOLE), min(high, _WHOLE))


def _draw_table(ax: Axes, table: check.Array, colours: Normalize) -> None:
    ax.imshow(table, cmap=_COLOURS, norm=colours, aspect="auto", interpolation="nearest")
    for (way, column), value in np.ndenumerate(table):
        dark = float(draw.grey(np.asarray(_COLOURS(colours(value)))[:3])) < 0.5
        text = draw.number(value + 0.0)
        style = {"ha": "center", "va": "center", "fontsize": draw.SMALL, "color": "white" if dark else draw.INK}
        ax.text(column, way, text, parse_math=False, **style)
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
