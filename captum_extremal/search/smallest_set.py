r"""The smallest set of feature groups that is enough (equation 3 for groups, which are kept or not kept).

A search over soft masks says in which order the groups matter. From there, whole sets are tried by forward passes of
the ordinary objective, for each example on its own:

1. The shortest start of an order that is enough.
2. Groups that can be left out are left out, those first whose loss is least, until no single one can. This is the proof.
3. While passes are left, a smaller set is sought: all of them where they are few; else by swapping one group for
   another, uphill, from the set without one of its groups. A smaller set goes through step 2 again.

Each example's search is a generator that yields sets (R, G) and is sent their values (R,). So all of them run side by
side, and the model gets one batch.

Shapes: N examples, G groups, R sets of an example at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal.objective import Objective
from captum_extremal.search.games import Game

MOST_PROVEN = 512
"""Groups in a set, above which no proof is tried."""

Values = NDArray[np.float64]
Set = NDArray[np.bool_]
"""(G,), or (R, G) of several sets."""
Asking = Generator[Set, Values, "Set | None"]
"""Yields sets (R, G), is sent their values (R,), and returns a set (G,), or None where there is none."""

_ROWS = 32  # that go through the model at once where the caller does not say how many
_EVERY_START = 64  # groups up to which all starts of an order are tried; above, about as many, spread geometrically
_CLIMBS = 4  # starts of the search by swaps
_ROUNDING = 16  # times the type's epsilon: what a model's value may lose when the batch has another size


@dataclass
class _Case:
    """One example: what its groups weigh, what is enough, and the values of the sets tried.

    Attributes:
        weights: (G,), 0 where the example lacks a group.
        threshold: the least value that is enough.
        passes: what step 3 may still take.
    """

    weights: Values
    threshold: float
    passes: int
    values: dict[bytes, float] = field(default_factory=dict)

    @property
    def present(self) -> NDArray[np.int64]:
        """The groups of the example."""
        return np.flatnonzero(self.weights)

    def area(self, sets: Set) -> Any:
        """The areas (R,) of sets (R, G), or that of one."""
        return sets @ self.weights

    def ask(self, sets: Set) -> Generator[Set, Values, Values]:
        """The values (R,) of sets (R, G), each tried once."""
        keys = [one.tobytes() for one in sets]
        new = {key: one for key, one in zip(keys, sets) if key not in self.values}
        if new:
            values = yield np.stack(list(new.values()))
            self.values.update(zip(new, values.tolist()))
        return np.array([self.values[key] for key in keys])

    def ask_if_cheap(self, sets: Set) -> Generator[Set, Values, Values | None]:
        """:meth:`ask`, where passes are left; it takes them."""
        count = len({one.tobytes() for one in sets} - self.values.keys())
        if count > self.passes:
            return None
        self.passes -= count
        return (yield from self.ask(sets))

    def losses(self, one: Set) -> Values:
        """What the value of a set (G,) loses without each of its groups (G,); NaN for other groups and untried ones."""
        losses, whole = np.full(len(one), np.nan), self.values.get(one.tobytes(), np.nan)
        for group, smaller in zip(np.flatnonzero(one), _without_each(one)):
            losses[group] = whole - self.values.get(smaller.tobytes(), np.nan)
        return losses

    def is_minimal(self, one: Set) -> bool:
        """Whether the set without each single group was tried, and was never enough."""
        values = [self.values.get(smaller.tobytes(), np.inf) for smaller in _without_each(one)]
        is_enough = self.values.get(one.tobytes(), -np.inf) >= self.threshold
        return is_enough and all(value < self.threshold for value in values)


@dataclass(frozen=True)
class SmallestSets:
    """The smallest sets found, one for each example.

    Attributes:
        masks: (N, G) of 0 and 1; ones where no set is enough.
        areas: (N,), NaN where no set is enough.
        minimal: (N,) bool, whether no single group can be left out, each of which was tried.
        losses: (N, G), what the value loses without each single group of the set; NaN elsewhere.
    """

    masks: Tensor
    areas: Tensor
    minimal: Tensor
    losses: Tensor


def smallest_sets(
    objective: Objective,
    objective_of: Callable[[Tensor], Objective],
    game: Game,
    threshold: Tensor,
    weights: Tensor,
    orders: Sequence[Tensor],
    passes: int,
    perturbations_per_eval: int | None,
) -> SmallestSets:
    """The smallest set of groups of each example whose value reaches its threshold.

    Args:
        objective: of masks (N, G).
        objective_of: from rows (n,), numbers of examples, to that of these examples alone.
        game: which value of the scores counts.
        threshold: Phi_0 (N,).
        weights: (N, G) or (1, G), each group's share of the area; 0 where an example lacks it.
        orders: masks (N, G), whose highest values come first.
        passes: of each example for step 3.
        perturbations_per_eval: sets of each example that are tried at once; None for as many as make 32 rows.
    """
    whole = game.value(objective.clean, objective.perturbed)
    nothing = game.value(objective.perturbed, objective.clean)
    shares = weights.expand(len(threshold), -1).cpu().double().numpy()
    ranked = [order.cpu().double().numpy() for order in orders]
    scale = torch.stack([whole.abs(), nothing.abs(), threshold.abs()]).amax(0)
    slack = _ROUNDING * torch.finfo(threshold.dtype).eps * scale
    together = _Together(objective, objective_of, game, perturbations_per_eval)
    proven: dict[int, tuple[_Case, Set]] = {}
    rest = (nothing < threshold).nonzero()[:, 0].tolist()
    # A set of the first try may be enough by rounding alone. The second takes no chances.
    for least in ((threshold - slack).tolist(), threshold.tolist()):
        cases = {n: _Case(shares[n], least[n], passes) for n in rest}
        sets = together.run({n: _smallest(case, [order[n] for order in ranked]) for n, case in cases.items()})
        tried = {n: (cases[n], one) for n, one in sets.items() if one is not None}
        masks = _everything(shares, threshold)
        for n, (_, one) in tried.items():
            masks[n] = torch.from_numpy(one).to(masks)
        value = game.value(*(scores[0] for scores in objective.measure((masks,))))
        proven |= {n: found for n, found in tried.items() if bool(value[n] >= threshold[n])}
        rest = [n for n in tried if n not in proven]
    return _result(proven, shares, threshold, whole >= threshold, nothing >= threshold)


def _everything(shares: Values, like: Tensor) -> Tensor:
    """The masks (N, G) of all groups that each example has."""
    return torch.from_numpy(shares > 0).to(like)


def _result(
    proven: dict[int, tuple[_Case, Set]], shares: Values, like: Tensor, whole_is_enough: Tensor, vacuous: Tensor
) -> SmallestSets:
    """Sets and their proofs; all groups where there is no set, and none where nothing is needed."""
    masks = _everything(shares, like).masked_fill(vacuous[:, None], 0)
    areas = torch.ones_like(like).masked_fill(~whole_is_enough, torch.nan).masked_fill(vacuous, 0)
    minimal, losses = vacuous.clone(), torch.full_like(masks, torch.nan)
    for n, (case, one) in proven.items():
        masks[n] = torch.from_numpy(one).to(masks)
        areas[n] = 1.0 if one.sum() == len(case.present) else float(case.area(one))
        minimal[n] = case.is_minimal(one)
        losses[n] = torch.from_numpy(case.losses(one)).to(losses)
    return SmallestSets(masks, areas, minimal, losses)


def proof(
    objective: Objective,
    objective_of: Callable[[Tensor], Objective],
    game: Game,
    threshold: Tensor,
    masks: Tensor,
    perturbations_per_eval: int | None,
) -> tuple[Tensor, Tensor]:
    """Whether each single group of given masks (N, G) is needed.

    Returns:
        (N,) bool, whether the mask is enough and is not without any single group; and (N, G), what the value loses
        without each single group that the mask keeps, NaN for the others. Masks of more than 512 groups are not tried.
    """
    sets: Any = masks.cpu().double().numpy()  # at most one value of each lies between 0 and 1
    cases = {n: _Case(np.ones(len(one)), float(threshold[n]), 0) for n, one in enumerate(sets)}
    together = _Together(objective, objective_of, game, perturbations_per_eval)
    together.run({n: _tried(case, sets[n]) for n, case in cases.items() if (sets[n] > 0).sum() <= MOST_PROVEN})
    minimal = [case.is_minimal(sets[n]) for n, case in cases.items()]
    losses = np.stack([case.losses(sets[n]) for n, case in cases.items()])
    return torch.tensor(minimal, device=masks.device), torch.from_numpy(losses).to(masks)


def _tried(case: _Case, one: Set) -> Asking:
    """Try a mask, and the mask without each single group."""
    yield from case.ask(np.concatenate([one[None], _without_each(one)]))
    return None


class _Together:
    """Runs the searches of several examples side by side, so that the model gets batches."""

    def __init__(
        self,
        objective: Objective,
        objective_of: Callable[[Tensor], Objective],
        game: Game,
        perturbations_per_eval: int | None,
    ) -> None:
        self._whole, self._objective_of, self._game = objective, objective_of, game
        self._at_once = perturbations_per_eval

    def run(self, searches: dict[int, Asking]) -> dict[int, Set | None]:
        """What each search returns."""
        self._objective, self._rows = self._whole, list(range(self._whole.images))
        found: dict[int, Set | None] = {}
        asked: dict[int, Set] = {}  # the sets of each example that have no value yet
        known: dict[int, list[float]] = {}  # the values of those before them

        def go_on(n: int, values: Values | None) -> None:
            try:
                asked[n], known[n] = searches[n].send(values) if values is not None else next(searches[n]), []
            except StopIteration as end:
                found[n] = end.value
                asked.pop(n, None)

        for n in searches:
            go_on(n, None)
        while asked:
            for n, values in self._values(asked).items():
                asked[n] = asked[n][len(values) :]
                known[n] += values
                if not len(asked[n]):
                    go_on(n, np.array(known[n]))
        return found

    def _values(self, asked: dict[int, Set]) -> dict[int, list[float]]:
        """The values of as many sets of each example as go through the model at once."""
        if 2 * len(asked) <= len(self._rows):  # examples that are done leave the batch
            self._rows = sorted(asked)
            self._objective = self._objective_of(torch.tensor(self._rows, device=self._whole.clean.device))
        rows = self._at_once or max(1, _ROWS // (len(self._rows) * self._objective.samples))
        count = min(rows, max(map(len, asked.values())))
        groups = next(iter(asked.values())).shape[1]
        batch = np.zeros((count, len(self._rows), groups))
        for place, n in enumerate(self._rows):
            some = asked.get(n, batch[:0, 0])[:count]
            batch[: len(some), place] = some
        masks = torch.from_numpy(batch).flatten(0, 1).to(self._whole.clean)
        values = self._objective.value((masks,), self._game.kept, self._game.removed).double().cpu()
        counts = {n: min(count, len(sets)) for n, sets in asked.items()}
        return {n: values[: counts[n], place].tolist() for place, n in enumerate(self._rows) if n in counts}


def _smallest(case: _Case, orders: Sequence[Values]) -> Asking:
    """The smallest set found from some orders (G,), with its proof; None where no set is enough."""
    best = yield from _shortest_start(case, orders)
    if best is None:
        return None
    best = yield from _without_needless(case, best)
    while True:
        smaller = yield from _smaller(case, best)
        if smaller is None:
            return best
        best = yield from _without_needless(case, smaller)


def _shortest_start(case: _Case, orders: Sequence[Values]) -> Asking:
    """The smallest of the sets of the highest groups of the orders that is enough."""
    best: Set | None = None
    for order in orders:
        ranked = case.present[np.argsort(-order[case.present], kind="stable")]
        count = len(ranked)
        low, high = 0, count  # between which the shortest start lies, as far as known
        sizes = np.arange(1, count + 1)
        while True:
            tried = sizes if count <= _EVERY_START else _spread_out(low, high)
            starts = _first(ranked, tried, len(order))
            enough = (yield from case.ask(starts)) >= case.threshold
            if not enough.any():
                break
            shortest = int(np.argmax(enough))
            if best is None or case.area(starts[shortest]) < case.area(best):
                best = starts[shortest]
            low, high = int(tried[shortest - 1]) if shortest else low, int(tried[shortest])
            if count <= _EVERY_START or high - low <= 1:
                break
    return best


def _spread_out(low: int, high: int) -> NDArray[np.int64]:
    """Sizes above ``low`` up to ``high``, spread geometrically."""
    return np.unique(np.geomspace(low + 1, high, _EVERY_START // 2).round().astype(np.int64))


def _first(ranked: NDArray[np.int64], sizes: NDArray[np.int64], groups: int) -> Set:
    """The sets (R, G) of the first groups, as many as each size says."""
    rank = np.full(groups, groups)
    rank[ranked] = np.arange(len(ranked))
    return rank[None] < sizes[:, None]


def _without_needless(case: _Case, best: Set) -> Generator[Set, Values, Set]:
    """The set without groups that can be left out, so that at the end each single one is tried and needed."""
    while 0 < best.sum() <= MOST_PROVEN:
        smaller = _without_each(best)
        values = yield from case.ask(smaller)
        needless = np.flatnonzero(values >= case.threshold)
        if not len(needless):
            break
        # Those first whose loss is least; several at once, as long as the rest is enough.
        groups = np.flatnonzero(best)[needless[np.argsort(-values[needless], kind="stable")]]
        rest = best & ~_first(groups, np.arange(1, len(groups) + 1), len(best))
        enough = (yield from case.ask(rest)) >= case.threshold
        best = rest[np.flatnonzero(enough)[-1]]
    return best


def _without_each(one: Set) -> Set:
    """The sets (R, G) without each single group of a set."""
    groups = np.flatnonzero(one)
    sets = np.repeat(one[None], len(groups), axis=0)
    sets[np.arange(len(groups)), groups] = False
    return sets


def _smaller(case: _Case, best: Set) -> Asking:
    """A set of a smaller area that is enough, found with the passes that are left; None if there was none."""
    below = _all_below(case, best)
    if below is not None:
        values = yield from case.ask_if_cheap(below)
        if values is not None:
            enough = below[values >= case.threshold]
            smallest: Set | None = enough[np.argmin(case.area(enough))] if len(enough) else None
            return smallest
    losses = case.losses(best)
    for group in np.argsort(losses, kind="stable")[: min(_CLIMBS, int(best.sum()))]:
        start = best.copy()
        start[group] = False
        found = yield from _climbed(case, start, case.area(best))
        if found is not None:
            return found
    return None


def _all_below(case: _Case, best: Set) -> Set | None:
    """All sets of fewer groups, (R, G), if no more than passes are left; None for groups of different weights."""
    count, size = len(case.present), int(best.sum())
    if len(np.unique(case.weights[case.present])) > 1 or sum(math.comb(count, k) for k in range(1, size)) > case.passes:
        return None
    members = [list(one) for k in range(1, size) for one in combinations(case.present.tolist(), k)]
    sets = np.zeros((len(members), len(best)), dtype=np.bool_)
    for one, groups in zip(sets, members):
        one[groups] = True
    return sets if len(sets) else None


def _climbed(case: _Case, start: Set, area: float) -> Asking:
    """A set of less than an area that is enough, by swaps that raise the value; None if there was none."""
    here = start
    while True:
        value = float((yield from case.ask(here[None]))[0])
        inside, outside = np.flatnonzero(here), np.setdiff1d(case.present, np.flatnonzero(here))
        with_each = np.repeat(here[None], len(outside), axis=0)
        with_each[np.arange(len(outside)), outside] = True
        both = yield from case.ask_if_cheap(np.concatenate([_without_each(here), with_each]))
        if both is None or not len(outside):
            return None
        less, more = both[: len(inside)], both[len(inside) :]
        # A swap is worth about its two halves. The best of them are tried.
        guess = (less[:, None] + more[None, :]).ravel()
        chosen = np.argsort(-guess, kind="stable")[: len(case.present)]
        swapped = np.repeat(here[None], len(chosen), axis=0)
        swapped[np.arange(len(chosen)), inside[chosen // len(outside)]] = False
        swapped[np.arange(len(chosen)), outside[chosen % len(outside)]] = True
        swapped = swapped[case.area(swapped) < area * (1 - 1e-9)]
        values = (yield from case.ask_if_cheap(swapped)) if len(swapped) else None
        if values is None or values.max() <= value:
            return None
        here = swapped[np.argmax(values)]
        if values.max() >= case.threshold:
            return here
