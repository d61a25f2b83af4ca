"""What each group of features adds to the smallest set that is enough.

The arguments that all figures share are described in :mod:`captum_extremal.visualization`.
"""

import math
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
_TEXT_ONLY = (6.4, 1.6)  # inches


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

    The bars are the first 30 of the result's ``removal_losses``, the largest first. A bar that passes the dashed line
    is of a group without which the others are not enough: the line is as far from 0 as the value is above the
    threshold. Without bars, a text says that nothing is needed, that no set is enough, or which groups were kept but
    not tried (see ``minimal``).

    Args:
        found: masks over groups, (N, A, G).
        names: of the groups by their ids, such as ``dict(enumerate(columns))``; "group 3" where one is missing.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values, such as masks of positions.
        IndexError: there is no such example.
    """
    if check.result(found).covers != "groups":
        raise ValueError(f"found must hold masks over groups, (N, A, G), got masks of {found.covers}: see show_mask")
    ids = cast(Tensor, found.group_ids).tolist()
    named = {group: f"group {group}" for group in ids} | _checked(names, ids)
    one = found.image(index)
    kept = one.groups()[0].tolist() if bool(one.reached) else []
    losses = dict(zip(ids, cast(Tensor, one.removal_losses)[0].tolist()))
    shown = kept[:_MOST]
    called, bars = [named[group] for group in shown], [(losses[group],) * 3 for group in shown]
    told = [title] if title else []
    if not shown or any(math.isnan(losses[group]) for group in shown):
        ax = layout.one_axes(ax, *_TEXT_ONLY)
        draw.blank(ax, (25, 100), "\n".join([*told, *_told_alone(one, len(kept), called)]))
        return layout.root(ax)
    spare = float(one.optimal_value - one.threshold)
    told += _told(one, len(kept))
    return draw_bars(called, bars, _label(one, spare), "\n".join(told), ax, spare if spare > 0 else None)


def _checked(names: object, ids: list[int]) -> dict[int, str]:
    if names is None:
        return {}
    if not isinstance(names, Mapping):
        got = type(names).__name__
        raise TypeError(f"names must be a dict of ids and names, such as dict(enumerate(columns)), got {got}")
    known = set(ids)
    if unknown := [key for key in names if key not in known]:
        raise ValueError(f"names must be of the groups' ids, such as {ids[:3]}, got {unknown[0]!r}")
    return {key: str(name) for key, name in names.items()}


def _told(one: ExtremalMasks, count: int) -> list[str]:
    """How many groups are enough, and their score."""
    more = f"; {_MOST} are drawn" if count > _MOST else ""
    minimal = "none can be left out" if bool(one.minimal) else "some can be left out"
    return [f"{_enough(one, count)}, and {minimal}{more}", words.scores_text(one, with_threshold=True)]


def _told_alone(one: ExtremalMasks, count: int, called: list[str]) -> list[str]:
    """What there is to say where there are no bars."""
    scores = words.scores_text(one, with_threshold=True)
    if not bool(one.reached):
        return ["no set of groups was found that is enough", f"the largest tried: {scores}"]
    if count == 0:
        return ["nothing is needed", scores]
    names = ", ".join([*called, "..."] if count > _MOST else called)
    return [f"{_enough(one, count)}; which of them are needed was not tried", scores, names]


def _enough(one: ExtremalMasks, count: int) -> str:
    of = f"{count} of {len(cast(Tensor, one.group_ids))} groups"
    return f"removing {of} is enough" if words.removes_only(one) else f"{of} are enough"


def _label(one: ExtremalMasks, spare: float) -> str:
    value = "score" if words.game_of(one) == (1, 0) else "game's value"
    line = "; beyond the dashed line, the others are not enough" if spare > 0 else ""
    return f"how far the {value} falls without the group{line}"
