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
    kept = one.groups()[0].tolist()
    losses = dict(zip(ids, cast(Tensor, one.removal_losses)[0].tolist()))
    shown = [losses[group] for group in kept[:_MOST]] if bool(one.reached) else []
    told = [title] if title else []
    if not shown or any(loss != loss for loss in shown):
        ax = layout.one_axes(ax, *_TEXT_ONLY)
        listed = ", ".join(named[group] for group in kept[:_MOST])
        told += _told(one, len(kept), listed=listed if shown else "")
        draw.blank(ax, (25, 100), "\n".join(told))
        return layout.root(ax)
    told += _told(one, len(kept))
    spare = float(one.optimal_value - one.threshold)
    bars = [(loss, loss, loss) for loss in shown]
    called = [named[group] for group in kept[:_MOST]]
    return draw_bars(called, bars, _label(one, spare), "\n".join(told), ax, spare if spare > 0 else None)


def _checked(names: object, ids: list[int]) -> dict[int, str]:
    if names is None:
        return {}
    if not isinstance(names, Mapping):
        got = type(names).__name__
        raise TypeError(f"names must be a dict of ids and names, such as dict(enumerate(columns)), got {got}")
    if unknown := [key for key in names if key not in ids]:
        raise ValueError(f"names must be of the groups' ids, such as {ids[:3]}, got {unknown[0]!r}")
    return {key: str(name) for key, name in names.items()}


def _told(one: ExtremalMasks, count: int, listed: str = "") -> list[str]:
    """What was found, and its scores."""
    scores = words.summary(one).split("\n")[1]
    enough = words.enough_score(one)
    if enough is not None:
        scores = scores.replace(", clean", f", enough {words.number(enough)}, clean")
    if not bool(one.reached):
        return ["no set of groups was found that is enough", f"the largest tried: {scores}"]
    if bool(one.vacuous):
        return ["nothing is needed", scores]
    of = f"{count} of {len(cast(Tensor, one.group_ids))} groups"
    head = f"removing {of} is enough" if words.removes_only(one) else f"{of} are enough"
    if listed:
        return [f"{head}; which of them are needed was not tried", scores, listed + ", ..." * (count > _MOST)]
    head += ", and none can be left out" if bool(one.minimal) else ", and some can be left out"
    return [f"{head}; {_MOST} are drawn" if count > _MOST else head, scores]


def _label(one: ExtremalMasks, spare: float) -> str:
    value = "score" if words.game_of(one) == (1, 0) else "game's value"
    line = "; beyond the dashed line, the others are not enough" if spare > 0 else ""
    return f"how far the {value} falls without the group{line}"
