"""Where figures are drawn: on a new figure or on the caller's, and their panels in rows.

Lengths are in inches.
"""

from collections.abc import Sequence
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

Canvas = Figure | SubFigure
_GAP = 0.1  # between panels, and at the edge


def canvas(fig: object, width: float, height: float) -> Canvas:
    """The caller's figure, or a new one of this size, which pyplot does not know."""
    if fig is None:
        return Figure(figsize=(width, height), layout="constrained")
    if not isinstance(fig, (Figure, SubFigure)):
        raise TypeError(f"fig must be a matplotlib Figure or SubFigure, or None, got {type(fig).__name__}")
    if fig.figure.get_layout_engine() is None:  # the texts around the panels need their room
        fig.figure.set_layout_engine("constrained")
    return fig


def one_axes(ax: object, width: float, height: float) -> Axes:
    """The caller's axes, or those of a new figure of this size, which pyplot does not know."""
    if ax is None:
        return canvas(None, width, height).subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes, or None, got {type(ax).__name__}")
    return ax


def root(place: Canvas | Axes) -> Figure:
    """The figure that is shown or saved."""
    figure: Figure = cast(Any, place.figure).figure  # of a part of a figure, the whole
    return figure


def finished(place: Canvas, fig: object) -> Figure:
    """The figure that is shown or saved, in which all texts have found their room."""
    figure = root(place)
    engine = figure.get_layout_engine()
    if fig is not None and engine is not None:  # where room is short, the layout settles in a second pass only
        engine.execute(figure)
    return figure


def inches(place: Canvas) -> tuple[float, float]:
    """Width and height."""
    dpi = place.figure.dpi
    return place.bbox.width / dpi, place.bbox.height / dpi


def room(ax: Axes) -> tuple[float, float]:
    """Width and height of an axes' place in its figure, with the texts around it."""
    width, height = inches(ax.figure)
    spec = ax.get_subplotspec()
    if spec is None:
        place = ax.get_position()
        return width * place.width, height * place.height
    while spec is not None:
        grid = spec.get_gridspec()
        width *= _share(grid.get_width_ratios(), spec.colspan)
        height *= _share(grid.get_height_ratios(), spec.rowspan)
        spec = getattr(grid, "_subplot_spec", None)  # in which a nested grid lies
    return width, height


def _share(ratios: Any, span: range) -> float:
    return float(sum(ratios[span.start : span.stop]) / sum(ratios))


def panel_size(shape: Sequence[int], base: float) -> tuple[float, float]:
    """Width and height of a panel for an image (H, W, ...), of the area of a square of side ``base``."""
    ratio = min(max(shape[1] / shape[0], 0.4), 2.5)
    return base * ratio**0.5, base / ratio**0.5


def panels(
    fig: object,
    shape: Sequence[int],
    count: int,
    *,
    base: float,
    least_width: float,
    headed: bool = False,
    title_lines: int = 2,
    below: Sequence[float] = (),
    most_columns: int = 8,
    columns: int | None = None,
) -> tuple[Canvas, list[Axes]]:
    """A figure with ``count`` panels for images of this shape (H, W, ...), in reading order.

    In a new figure a square panel has sides of ``base``; a column of narrow pictures has ``least_width``, for titles of
    ``title_lines``. In the caller's figure the panels are as large as they can be there. For each height in ``below``
    as many axes follow, each under its panel. A figure is ``headed`` where it has a title.
    """
    width, height = panel_size(shape, base)
    heights = [height + _GAP + 0.17 * title_lines, *below]
    column, row = max(width, least_width) + _GAP, sum(heights)
    around = _GAP + (0.3 if headed else 0) + (0.3 if below else 0)  # above and beneath all
    if columns is None:
        columns = _columns(count, most_columns) if fig is None else _fitting(fig, count, column, row, least_width)
    rows = -(-count // columns)
    place = canvas(fig, columns * column + _GAP, rows * row + around)
    lattice = place.subplots(rows * len(heights), columns, squeeze=False, height_ratios=heights * rows)
    lines = [lattice[line :: len(heights)].flatten().tolist() for line in range(len(heights))]
    for unused in [ax for axes in lines for ax in axes[count:]]:
        unused.remove()
    return place, [ax for axes in lines for ax in axes[:count]]


def _columns(count: int, most: int) -> int:
    """As few rows as fit, and then rows of about equal length."""
    return -(-count // -(-count // most))


def _fitting(fig: object, count: int, column: float, row: float, least_width: float) -> int:
    """How many columns make the panels largest in the caller's figure."""
    width, height = inches(canvas(fig, 0.0, 0.0))
    fit = [n for n in range(1, count + 1) if n == 1 or width / n >= least_width + _GAP]
    return max(fit, key=lambda n: min(width / n / column, height / -(-count // n) / row))


def beside(ax: Axes, share: float) -> Axes:
    """New axes at the right of these, which leave them a share of their width, as they would to a colour bar.

    The current axes of the figure stay so.
    """
    current = ax.figure.gca()
    added = _beside(ax, share)
    ax.figure.sca(current)
    return added


def _beside(ax: Axes, share: float) -> Axes:
    spec = ax.get_subplotspec()
    if spec is not None:
        halves = spec.subgridspec(1, 2, width_ratios=(1 - share, share))
        ax.set_subplotspec(halves[0])
        return ax.figure.add_subplot(halves[1])
    place = ax.get_position()
    ax.set_position((place.x0, place.y0, place.width * (1 - share - 0.05), place.height))
    return ax.figure.add_axes((place.x1 - place.width * share, place.y0, place.width * share, place.height))
