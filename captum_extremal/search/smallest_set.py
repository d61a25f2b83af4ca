r"""The smallest set of feature groups that is enough (equation 3 for groups, which are kept or not kept).

A search over soft masks says in which order the groups matter. From there, whole sets are tried by forward passes of
the ordinary objective, for each example on its own:

1. The shortest start of an order that is enough.
2. Groups that can be left out are left out, those first whose loss is least, until no single one can: the proof.
3. While passes are left, a smaller set is sought: all of them where they are few; else by adding the best group again
   and again to nothing; else by swapping one group for another, uphill, from the set without one of its groups. The
   derivative by the mask recommends what to try. A smaller set goes through step 2 again.

Shapes: N examples, G groups, R sets of an example at a time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal.batch_parts import AnyObjective
from captum_extremal.objective import Objective
from captum_extremal.search.games import Game

MOST_PROVEN = 512
"""Groups in a set, above which no proof is tried."""

Values = NDArray[np.float64]
Set = NDArray[np.bool_]
"""(G,), or (R, G) of several sets."""
Numbers = NDArray[np.int64]

_ROWS = 32  # that go through the model at once where the caller does not say how many
_EVERY_START = 64  # groups up to which all starts of an order are tried; above, about as many, spread geometrically
_PASSES_OF_SLOPES = 3  # what a forward and a backward pass take
_TRIED = 12  # of the groups or swaps that the slopes recommend
_SMALLER = 1 - 1e-9  # times an area: what is smaller, and not by rounding alone
_ROUNDING = 16  # times the type's epsilon: what a model's value may lose when the batch has another size


@dataclass(frozen=True)
class Asked:
    """What is asked of the model.

    Attributes:
        objective: of masks (N, G).
        objective_of: from rows (n,), numbers of examples, to that of these examples.
        game: which value of the scores counts.
        threshold: Phi_0 (N,).
        whole: the game's value (N,) with every group kept that may be.
        perturbations_per_eval: sets of an example that are tried at once; None for 32.
    """

    objective: Objective
    objective_of: Callable[[Tensor], AnyObjective]
    game: Game
    threshold: Tensor
    whole: Tensor
    perturbations_per_eval: int | None

    @property
    def slack(self) -> Tensor:
        """(N,), what a value may lose when the batch has another size."""
        nothing = self.game.value(self.objective.perturbed, self.objective.clean)
        scale = torch.stack([self.whole.abs(), nothing.abs(), self.threshold.abs()]).amax(0)
        return _ROUNDING * torch.finfo(self.threshold.dtype).eps * scale

    def of_example(self, n: int) -> AnyObjective:
        """The objective of one example."""
        return self.objective if len(self.threshold) == 1 else self.objective_of(self.threshold.new_tensor([n]).long())

    def value(self, masks: Tensor) -> Tensor:
        """The value (N,) of masks (N, G), as the result measures it."""
        return self.game.value(*(scores[0] for scores in self.objective.measure((masks,))))


class _Case:
    """One example: what its groups weigh, what is enough, and the values of the sets tried.

    Args:
        asked: of all examples.
        objective: of this one.
        weights: (G,), 0 where the example lacks a group.
        threshold: the least value that is enough.
        passes: what step 3 may take.
    """

    def __init__(self, asked: Asked, objective: AnyObjective, weights: Values, threshold: float, passes: int) -> None:
        self.weights, self.threshold, self.passes = weights, threshold, passes
        self.present: Numbers = np.flatnonzero(weights)
        self._objective, self._game = objective, (asked.game.kept, asked.game.removed)
        self._at_once = asked.perturbations_per_eval or max(1, _ROWS // objective.samples)
        self._known: dict[bytes, float] = {}

    def area(self, sets: Set) -> Any:
        """The areas (R,) of sets (R, G), or that of one."""
        return sets @ self.weights

    def values(self, sets: Set) -> Values:
        """The values (R,) of sets (R, G), each tried once."""
        keys = [one.tobytes() for one in sets]
        new = {key: one for key, one in zip(keys, sets) if key not in self._known}
        if new:
            masks = self._as_masks(np.stack(list(new.values())))
            values = [self._objective.value((part,), *self._game)[:, 0] for part in torch.split(masks, self._at_once)]
            self._known.update(zip(new, torch.cat(values).tolist()))
        return np.array([self._known[key] for key in keys])

    def values_if_cheap(self, sets: Set) -> Values | None:
        """:meth:`values`, where passes are left for them."""
        count = len({one.tobytes() for one in sets} - self._known.keys())
        return self.values(sets) if len(sets) and self._takes(count) else None

    def slopes_if_cheap(self, one: Set) -> Values | None:
        """The derivatives (G,) of the value by the mask at a set (G,), where passes are left for them."""
        if not self._takes(_PASSES_OF_SLOPES):
            return None
        _, (slopes,) = self._objective.value_and_grad((self._as_masks(one[None]),), *self._game)
        return slopes[0].double().cpu().numpy()

    def losses(self, one: Set) -> Values:
        """What the value of a set (G,) loses without each of its groups (G,).

        NaN for other groups, and for all where some were not tried.
        """
        losses, whole = np.full(len(one), np.nan), self._known.get(one.tobytes(), np.nan)
        values = np.array([self._known.get(smaller.tobytes(), np.nan) for smaller in _without_each(one)])
        if not np.isnan(values).any():
            losses[np.flatnonzero(one)] = whole - values
        return losses

    def is_minimal(self, one: Set) -> bool:
        """Whether the set is enough, and without each single group was tried and was not."""
        values = [self._known.get(smaller.tobytes(), np.inf) for smaller in _without_each(one)]
        is_enough = self._known.get(one.tobytes(), -np.inf) >= self.threshold
        return is_enough and all(value < self.threshold for value in values)

    def _as_masks(self, sets: Set) -> Tensor:
        return torch.from_numpy(sets).to(self._objective.clean)

    def _takes(self, count: int) -> bool:
        """Take passes, where there are so many."""
        enough = count <= self.passes
        self.passes -= count * enough
        return enough


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


def smallest_sets(asked: Asked, weights: Tensor, orders: Sequence[Tensor], passes: int) -> SmallestSets:
    """The smallest set of groups of each example whose value reaches its threshold.

    Args:
        asked: what is asked of the model.
        weights: (N, G) or (1, G), each group's share of the area; 0 where an example lacks it.
        orders: masks (N, G), whose highest values come first.
        passes: of each example for step 3.
    """
    objective, threshold = asked.objective, asked.threshold
    whole = asked.whole
    nothing = asked.game.value(objective.perturbed, objective.clean)
    vacuous = nothing >= threshold
    shares = weights.expand(len(threshold), -1).cpu().double().numpy()
    masks = torch.from_numpy(shares > 0).to(threshold).masked_fill(vacuous[:, None], 0)
    areas = torch.ones_like(threshold).masked_fill(whole < threshold, torch.nan).masked_fill(vacuous, 0)
    minimal, losses = vacuous.clone(), torch.full_like(masks, torch.nan)
    slack = asked.slack
    rest = (~vacuous).nonzero()[:, 0].tolist()
    # A set of the first try may be enough by rounding alone. The second takes no chances.
    for least in (threshold - slack, threshold):
        sets, tried = {}, masks.clone()
        for n in rest:
            case = _Case(asked, asked.of_example(n), shares[n], float(least[n]), passes)
            found = _smallest(case, [order[n].cpu().double().numpy() for order in orders])
            if found is not None:
                sets[n] = (case, found)
                tried[n] = torch.from_numpy(found).to(masks)
        enough = asked.value(tried) >= threshold
        for n, (case, found) in sets.items():
            if bool(enough[n]):
                masks[n], areas[n] = tried[n], float(case.area(found)) if found.sum() < len(case.present) else 1.0
                minimal[n], losses[n] = case.is_minimal(found), torch.from_numpy(case.losses(found)).to(losses)
        rest = [n for n in sets if not bool(enough[n])]
        if not rest:
            break
    return SmallestSets(masks, areas, minimal, losses)


def proof(asked: Asked, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each single group of given masks (N, G) is needed.

    Returns:
        (N,) bool, whether the mask is enough and is not without any single group; and (N, G), what the value loses
        without each single group that the mask keeps, NaN for the others. Masks of more than 512 groups are not tried.
    """
    minimal = torch.zeros_like(masks[:, 0], dtype=torch.bool)
    losses = torch.full_like(masks, torch.nan)
    for n, mask in enumerate(masks):
        one: Any = mask.double().cpu().numpy()  # at most one of its values lies between 0 and 1
        if 0 < (one > 0).sum() <= MOST_PROVEN:
            least = float(asked.threshold[n] - asked.slack[n])
            case = _Case(asked, asked.of_example(n), np.ones(len(one)), least, 0)
            case.values(np.concatenate([one[None], _without_each(one)]))
            minimal[n], losses[n] = case.is_minimal(one), torch.from_numpy(case.losses(one)).to(losses)
    return minimal, losses


def _smallest(case: _Case, orders: Sequence[Values]) -> Set | None:
    """The smallest set found from some orders (G,), with its proof; None where no set is enough."""
    smaller, best = _shortest_start(case, orders), None
    if smaller is None:
        smaller = _grown(case, math.inf)
    while smaller is not None:
        best = _without_needless(case, smaller)
        smaller = _smaller(case, best)
    return best


def _shortest_start(case: _Case, orders: Sequence[Values]) -> Set | None:
    """The smallest of the sets of the highest groups of the orders that is enough."""
    best: Set | None = None
    for order in orders:
        ranked = case.present[np.argsort(-order[case.present], kind="stable")]
        low, high, count = 0, len(ranked), len(ranked)  # between low and high lies the shortest start, as far as known
        while True:
            tried = np.arange(1, count + 1) if count <= _EVERY_START else _spread_out(low, high)
            starts = _first(ranked, tried, len(order))
            enough = case.values(starts) >= case.threshold
            if not enough.any():
                break
            shortest = int(np.argmax(enough))
            if best is None or case.area(starts[shortest]) < case.area(best):
                best = starts[shortest]
            low, high = int(tried[shortest - 1]) if shortest else low, int(tried[shortest])
            if count <= _EVERY_START or high - low <= 1:
                break
    return best


def _spread_out(low: int, high: int) -> Numbers:
    """Sizes above ``low`` up to ``high``, spread geometrically."""
    return np.unique(np.geomspace(low + 1, high, _EVERY_START // 2).round().astype(np.int64))


def _first(ranked: Numbers, sizes: Numbers, groups: int) -> Set:
    """The sets (R, G) of the first groups, as many as each size says."""
    rank = np.full(groups, groups)
    rank[ranked] = np.arange(len(ranked))
    return rank[None] < sizes[:, None]


def _without_needless(case: _Case, best: Set) -> Set:
    """The set without groups that can be left out, so that at the end each single one is tried and needed."""
    while 0 < best.sum() <= MOST_PROVEN:
        values = case.values(_without_each(best))
        needless = np.flatnonzero(values >= case.threshold)
        if not len(needless):
            break
        # Those first whose loss is least; several at once, as long as the rest is enough.
        groups = np.flatnonzero(best)[needless[np.argsort(-values[needless], kind="stable")]]
        rest = best & ~_first(groups, np.arange(1, len(groups) + 1), len(best))
        best = rest[np.flatnonzero(case.values(rest) >= case.threshold)[-1]]
    return best


def _without_each(one: Set) -> Set:
    """The sets (R, G) without each single group of a set."""
    return _changed(one, np.flatnonzero(one), False)


def _changed(one: Set, groups: Numbers, kept: bool) -> Set:
    """The sets (R, G) in which each single one of some groups is kept, or is not."""
    sets = np.repeat(one[None], len(groups), axis=0)
    sets[np.arange(len(groups)), groups] = kept
    return sets


def _smaller(case: _Case, best: Set) -> Set | None:
    """A set of a smaller area that is enough, found with the passes that are left; None if there was none."""
    area, below = float(case.area(best)), _all_below(case, best)
    if below is not None and (values := case.values_if_cheap(below)) is not None:
        enough: list[Set] = list(below[values >= case.threshold])
        return min(enough, key=case.area, default=None)
    found = _grown(case, area)
    # The groups whose loss was least are left out first.
    for group in np.argsort(case.losses(best), kind="stable")[: int(best.sum())]:
        if found is not None or not case.passes:
            break
        start = best.copy()
        start[group] = False
        found = _climbed(case, start, area)
    return found


def _all_below(case: _Case, best: Set) -> Set | None:
    """All sets of a smaller area, (R, G); None if there may be more than passes are left."""
    count, equal = len(case.present), len(np.unique(case.weights[case.present])) == 1
    sizes = range(1, int(best.sum()) if equal else count)
    if any(total > case.passes for total in accumulate(math.comb(count, size) for size in sizes)):
        return None
    members = [list(one) for size in sizes for one in combinations(case.present.tolist(), size)]
    sets = np.zeros((len(members), len(best)), dtype=np.bool_)
    for one, groups in zip(sets, members):
        one[groups] = True
    smaller: Set = sets[case.area(sets) < case.area(best) * _SMALLER]
    return smaller


def _grown(case: _Case, area: float) -> Set | None:
    """A set of less than an area that is enough, by adding the best group again and again; None if there was none."""
    here: Set = np.zeros(len(case.weights), dtype=np.bool_)
    while (slopes := case.slopes_if_cheap(here)) is not None:
        outside = np.setdiff1d(case.present, np.flatnonzero(here))
        chosen = outside[np.argsort(-slopes[outside], kind="stable")[:_TRIED]]
        larger = _changed(here, chosen, True)
        larger = larger[case.area(larger) < area * _SMALLER]
        values = case.values_if_cheap(larger)
        if values is None:
            break
        here = larger[np.argmax(values)]
        if values.max() >= case.threshold:
            return here
    return None


def _climbed(case: _Case, here: Set, area: float) -> Set | None:
    """A set of less than an area that is enough, by swaps that raise the value; None if there was none."""
    value = -np.inf
    while (slopes := case.slopes_if_cheap(here)) is not None:
        inside, outside = np.flatnonzero(here), np.setdiff1d(case.present, np.flatnonzero(here))
        if not len(inside) or not len(outside):
            break
        gain = (slopes[outside][None, :] - slopes[inside][:, None]).ravel()
        chosen = np.argsort(-gain, kind="stable")[:_TRIED]
        swapped = _changed(here, outside[chosen % len(outside)], True)
        swapped[np.arange(len(chosen)), inside[chosen // len(outside)]] = False
        swapped = swapped[case.area(swapped) < area * _SMALLER]
        values = case.values_if_cheap(swapped)
        if values is None or values.max() <= value:
            break
        here, value = swapped[np.argmax(values)], float(values.max())
        if value >= case.threshold:
            return here
    return None
