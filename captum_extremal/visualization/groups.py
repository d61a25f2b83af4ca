"""What each group of features adds to the smallest set that is enough.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

from collections.abc import Mapping
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _layout as layout
from captum_extremal.visualization import _pictures as draw
from captum_extremal.visualization import _words as words
from captum_extremal.visualization._style import styled
from captum_extremal.visualization.bars import draw_bars

_MOST = 30  # bars
_EMPTY = (6.4, 1.2)  # inches


@styled
def show_groups(
    found: ExtremalMasks,
    index: int = 0,
    *,
    names: Mapping[int, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The groups of a*, such as columns of a table, and how far the game's value falls without each of them.

    The bars are the ``removal_losses`` of the result, the largest first. A bar that passes the dashed line is of a
    group without which the others are not enough. Where the groups were not tried (see ``minimal``), there are only
    names.

    Args:
        found: masks over groups, (N, A, G).
        names: of the groups by their ids, such as ``dict(enumerate(columns))``; "group 3" where one is missing.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, such as masks of positions.
        IndexError: there is no such example.
    """
    if check.result(found).covers != "groups":
        raise ValueError(f"found must hold masks over groups, (N, A, G), got masks of {found.covers}: see show_mask")
    named = {} if names is None else check.named("names", names, "strings")
    one = found.image(index)
    kept = one.groups()[0].tolist()
    told = "\n".join([*([title] if title else []), *_told(one, kept)])
    if not kept:
        ax = layout.one_axes(ax, *_EMPTY)
        draw.blank(ax, (20, 100), told)
        return layout.root(ax)
    losses = dict(zip(cast(Tensor, one.group_ids).tolist(), cast(Tensor, one.removal_losses)[0].tolist()))
    shown = [losses[group] for group in kept[:_MOST]]
    tried = all(loss == loss for loss in shown)
    bars = [(loss, loss, loss) if tried else (0.0, 0.0, 0.0) for loss in shown]
    spare = float(one.optimal_value - one.threshold)
    mark = spare if tried and spare > 0 else None
    called = [str(named.get(str(group), f"group {group}")) for group in kept[:_MOST]]
    return draw_bars(called, bars, _label(one, tried, marked=mark is not None), told, ax, mark)


def _told(one: ExtremalMasks, kept: list[int]) -> list[str]:
    """How many groups are enough, at which score; and how many are not drawn."""
    count = f"{len(kept)} of {len(cast(Tensor, one.group_ids))} groups"
    if bool(one.vacuous):
        head = "nothing is needed"
    elif bool(one.reached):
        head = f"{count} are enough" + ", and none can be left out" * bool(one.minimal)
    else:
        head = f"{count}, and not enough"
    scores = words.summary(one).split("\n")[1]
    return [head, scores, *[f"and {len(kept) - _MOST} more"][: len(kept) > _MOST]]


def _label(one: ExtremalMasks, tried: bool, marked: bool) -> str:
    if not tried:
        return "what each group adds was not tried"
    value = "score" if words.game_of(one) == (1, 0) else "game's value"
    line = "; beyond the dashed line, the others are not enough"
    return f"how far the {value} falls without the group{line if marked else ''}"
