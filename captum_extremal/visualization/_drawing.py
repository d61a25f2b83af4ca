"""Figures and their panels, an image in a panel, and the words and numbers that are told of a result."""

import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import Array, as_tuple, shown_area

SMALL, NORMAL, LARGE = 8.5, 10.0, 11.5  # points
INK, FAINT = "#222222", "#8a8a8a"
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e08214", "#1b8a3d", "#c5283d"  # figure 3's; told apart by the colour-blind too
MARK = "#e0a800"  # a*: its box and its outline
BOX = {"boxstyle": "round,pad=0.25", "facecolor": "#fff3cd", "edgecolor": MARK, "linewidth": 1.4}  # of a*'s title
LETTERS, SMALL_LETTERS = 12, 14  # of normal and of small size that fit along an inch
GREY = 0.6  # a mask that is less binary than this says little of which pixels are enough


def panel_size(shape: Sequence[int], base: float) -> tuple[float, float]:
    """Width and height in inches of a panel for an image (H, W, ...), of the area of a square of side ``base``."""
    ratio = min(max(shape[1] / shape[0], 0.4), 2.5)
    return base * ratio**0.5, base / ratio**0.5


def panels(
    shape: Sequence[int],
    count: int,
    title: str | None,
    *,
    base: float,
    least_width: float,
    title_lines: int = 2,
    below: Sequence[float] = (),
    most_columns: int = 8,
) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels for images of this shape (H, W, ...), in reading order.

    A square panel has sides of ``base`` inches; a column of narrow pictures has ``least_width``, for titles of
    ``title_lines``. For each height in ``below`` as many axes follow, each under its panel.
    """
    # As few rows as fit, and then rows of about equal length.
    rows = -(-count // most_columns)
    columns = -(-count // rows)
    width, height = panel_size(shape, base)
    heights = [height + 0.1 + 0.17 * title_lines, *below]
    tall = rows * sum(heights) + 0.1 + (0.3 if title else 0) + (0.3 if below else 0)
    figure = new_figure(columns * (max(width, least_width) + 0.1) + 0.1, tall, title)
    lattice = figure.subplots(rows * len(heights), columns, squeeze=False, height_ratios=heights * rows)
    lines = [lattice[line :: len(heights)].flatten().tolist() for line in range(len(heights))]
    for unused in [ax for axes in lines for ax in axes[count:]]:
        unused.remove()
    return figure, [ax for axes in lines for ax in axes[:count]]


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """A figure of this size in inches that pyplot does not know."""
    figure = Figure(figsize=(width, height), dpi=100)
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.06, wspace=0.01, hspace=0.01)
    if title:
        write(figure.suptitle, title, LARGE)
    return figure


def write(set_text: Callable[..., object], text: str | list[str], size: float = NORMAL, **style: Any) -> None:
    """Set a title or a label, for example, literally: ``$`` in the name of a class does not begin a formula."""
    told = literal(text) if isinstance(text, str) else list(map(literal, text))
    set_text(told, fontsize=size, color=INK, parse_math=False, usetex=False, **style)


def literal(text: str) -> str:
    """The text, with the codes of the signs that matplotlib's fonts lack: it would warn of them and draw boxes."""
    paths = tuple(font_manager.findfont(FontProperties(family=[name])) for name in FontProperties().get_family())
    known = _signs(paths)
    return "".join(sign if sign == "\n" or ord(sign) in known else _code(sign) for sign in text.expandtabs(1))


@cache
def _signs(paths: tuple[str, ...]) -> frozenset[int]:
    """The signs of these files of fonts."""
    return frozenset[int]().union(*(font_manager.get_font(path).get_charmap() for path in paths))


def _code(sign: str) -> str:
    return sign.encode("ascii", "backslashreplace").decode() if ord(sign) > 127 else f"\\x{ord(sign):02x}"


def title(ax: Axes, text: str, *, boxed: bool = False) -> None:
    write(ax.set_title, text, bbox=BOX if boxed else None)


def row_name(ax: Axes, name: str, height: float) -> None:
    """A name at the left of a row's first panel, in lines as long as the panel is high (in inches)."""
    write(ax.set_ylabel, wrapped(name, int(LETTERS * height)))


def image(ax: Axes, picture: Array, name: str = "", **how: Any) -> None:
    """A picture without ticks or frame, and its title; ``how`` goes to ``imshow``."""
    ax.imshow(picture, **{"interpolation": "nearest", **how})
    no_ticks(ax)
    if name:
        title(ax, name)


def frame(ax: Axes, corners: Sequence[float]) -> None:
    """The frame of a box of these x0, y0, x1, y1 in pixels; none where there are no corners."""
    if corners:
        x0, y0, x1, y1 = corners
        for colour, width in (("black", 3.0), (BLUE, 1.6)):  # light on dark, so that it shows on any picture
            # Pixels are squares around whole numbers, the corners of a box lie between them.
            ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, lw=width))


def blank(ax: Axes, shape: Sequence[int], text: str) -> None:
    """A grey panel with a text, in place of an image (H, W) that has nothing to show."""
    image(ax, np.full((*shape, 3), 0.93))
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=NORMAL, color=INK)


def grey(rgb: Array) -> Array:
    """The luminance (H, W) of a picture (H, W, 3)."""
    return np.asarray(rgb @ [0.299, 0.587, 0.114])


def no_ticks(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[], anchor="N")  # at the top of its place, where the layout expects the title
    ax.spines[:].set_visible(False)


def grid(ax: Axes, axis: Literal["both", "y"]) -> None:
    """Small labels, and grid lines behind the data."""
    ax.tick_params(labelsize=SMALL, colors=INK)
    ax.grid(axis=axis, color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["right", "top"]].set_visible(False)


def number(value: float, form: str = "") -> str:
    """A number in this format, by default with two digits or more, and with the typographic minus sign."""
    size = abs(value)
    form = form or (".0f" if size >= 100 else ".1f" if size >= 10 else ".2f" if size >= 0.1 else ".2g")
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def wrapped(text: str, letters: int, after: str = "_") -> str:
    """The text in lines of at most ``letters``, broken at spaces and after the sign ``after``."""
    return textwrap.fill(text.replace(after, f"{after} "), letters).replace(f"{after} ", after)


def area_unit(found: ExtremalMasks) -> tuple[int | None, str]:
    """K and "of K channels" if all masks are of K channels, else None and the words for percent."""
    if found.covers != "channels":
        return None, "% of the groups" if found.covers == "groups" else "%"
    sizes = {masks.shape[-1] for masks in as_tuple(found.masks)}
    return (None, "% of the channels") if len(sizes) > 1 else (count := sizes.pop(), f"of {count} channels")


def area_text(found: ExtremalMasks, area: float) -> str:
    """The area in percent, or as the number of channels of the binary mask, at least 1 of any mask that keeps some."""
    count, unit = area_unit(found)
    return f"{100 * area:.3g} {unit}" if count is None else f"{max(round(area * count), int(area > 0))} {unit}"


def removes_only(found: ExtremalMasks) -> bool:
    """Whether the game scores only what remains without the mask's region."""
    return game_of(found)[0] == 0


def game_of(found: ExtremalMasks) -> tuple[float, float]:
    """The weights in the game of the score that the mask keeps, and of that without its region."""
    game = found.settings.get("game", {})
    return game.get("kept", 1.0), game.get("removed", 0.0)


def game_text(found: ExtremalMasks) -> str:
    """What was asked of the masks."""
    kept, removed = game_of(found)
    if removed == 0:
        return "game: keep the score (preserve)"
    if kept == 0:
        return "game: lose the score (delete); bright is what is removed"
    return "game: keep and lose the score (hybrid)" if kept == -removed else f"game: {kept:g} kept, {removed:g} removed"


def enough_score(one: ExtremalMasks) -> float | None:
    """The score at which a mask is enough (Phi_0): of what is kept, or what remains; None where it is one of both."""
    (kept, removed), threshold = game_of(one), float(one.threshold)
    if kept and removed:
        return None
    return threshold / (kept or removed)


def same(one: float, other: float) -> bool:
    """Whether two scores are drawn at the same place."""
    return abs(one - other) <= 1e-5 * max(1.0, abs(one), abs(other))


def optimal_text(one: ExtremalMasks) -> str:
    if bool(one.vacuous):
        return f"a* = {area_text(one, 0.0)}, nothing needed"
    return f"a* = {area_text(one, float(one.optimal_area))}" if bool(one.reached) else "a* not reached"


def shown_text(one: ExtremalMasks) -> str:
    """The area that is shown: a*, or the largest area where a* is not reached."""
    largest = "" if bool(one.reached) else f"{area_text(one, shown_area(one))}, "
    return f"{largest}{optimal_text(one)}"


def summary(one: ExtremalMasks) -> str:
    """The area shown, and its score under the game beside the clean score."""
    kept, removed = game_of(one)
    told = [f"score {number(float(one.optimal_score))}"] * bool(kept)
    told += [f"without it {number(float(one.optimal_complement_score))}"] * bool(removed)
    return f"{shown_text(one)}\n{', '.join([*told, f'clean {number(float(one.clean_score))}'])}"
