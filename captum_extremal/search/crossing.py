"""Where a path of shrinking areas passes a* (equation 3): the bracket that comes with the path.

Shapes: N images, n of them still on the path, D parameters of a mask, R searches; rows (R n, D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_extremal.search.problem import Goal, Parameters, Record

_EFFECT = 0.3  # change of the value, as a share of the whole input's, when the area changes by a factor of e
FLAT = 0.01  # of the change of an area's logarithm: what is missing is less, and says little of the way
_WELL_BELOW = 0.25  # of the range between Phi_0 and nothing: a path that has fallen so far is behind a*
_PATIENCE = 3  # steps that a path must stay well below
_NEVER_BEFORE = 0.5  # area above which no path is behind a*: its first masks hold no information yet


class Crossing:
    """For each image the smallest area at which masks were seen to be enough, and the best start where none was.

    Args:
        goal: what is enough.
        start: parameters of N masks, whose values are of no matter.
    """

    def __init__(self, goal: Goal, start: Parameters) -> None:
        self._goal = goal
        self._below = torch.zeros_like(goal.threshold, dtype=torch.int64)
        self.area = torch.full_like(goal.threshold, torch.inf)
        self.parameters = start
        self.found = torch.zeros_like(self._below, dtype=torch.bool)  # (N,), whether any mask was enough
        self._expected = torch.full_like(goal.threshold, torch.inf)
        self._values = torch.full_like(goal.threshold, -torch.inf)
        self._flat = torch.zeros_like(self.found)
        self.every: Parameters | None = None  # (R, N, D), of all searches, where there are several
        self.forked_at = 0.0  # the largest area at which there were several

    def see(self, area: float, every: Parameters, record: Record, rows: Tensor) -> None:
        """Take note of masks of one area, for the images of some rows (n,).

        Args:
            area: of the masks.
            every: the parameters (R n, D) of all searches.
            record: the best of them.
            rows: the images' numbers.
        """
        values, searches = record.value, len(every[0]) // len(rows)
        goal = self._goal.of_images(rows)
        enough = values >= goal.threshold
        missing = missing_change(goal, values)
        expected = torch.where(enough, area, area * torch.exp(missing))
        # Of a saturated score, values alone tell which mask is nearer to Phi_0.
        flat = ~enough & (missing < FLAT)
        nearer = torch.where(flat & self._flat[rows], values > self._values[rows], expected < self._expected[rows])
        # A mask that is enough comes before any that is not.
        better = (enough & ~self.found[rows]) | ((enough == self.found[rows]) & nearer)
        self._flat[rows] = torch.where(better, flat, self._flat[rows])
        self._values[rows] = torch.where(better, values, self._values[rows])
        self.found[rows] |= enough
        self.area[rows] = self.area[rows].masked_fill(better, area)
        self._expected[rows] = torch.where(better, expected, self._expected[rows])
        for ours, theirs in zip(self.parameters, record.parameters):
            ours[rows] = torch.where(better[:, None], theirs, ours[rows])
        if searches > 1:  # before the fork there is one, whose masks are of larger areas
            self.forked_at = max(self.forked_at, area)
            self._note_searches(every, searches, rows, better)
        far = goal.threshold - _WELL_BELOW * (goal.threshold - goal.nothing).abs()
        below = (values < far) & (area < _NEVER_BEFORE)
        self._below[rows] = torch.where(below, self._below[rows] + 1, 0)

    def _note_searches(self, every: Parameters, searches: int, rows: Tensor, better: Tensor) -> None:
        """Keep the masks of all searches where the best of them is the start so far, and the first ones elsewhere."""
        if self.every is None:
            self.every = tuple(p.new_full((searches, len(self.area), p.shape[1]), torch.nan) for p in every)
        noted = (better | self.every[0][0, rows, 0].isnan())[:, None]
        for ours, theirs in zip(self.every, every):
            ours[:, rows] = torch.where(noted, theirs.view(searches, len(rows), -1), ours[:, rows])

    @property
    def passed(self) -> Tensor:
        """(N,) bool: whether the path lies behind a*, or there is nothing to find."""
        vacuous = self._goal.nothing >= self._goal.threshold
        return (self._below >= _PATIENCE) | vacuous


def missing_change(goal: Goal, values: Tensor) -> Tensor:
    """The change of the areas' logarithms (N,) that would bring the values (N,) to Phi_0; infinite for NaN."""
    scale = (goal.whole - goal.nothing).abs()
    scale = torch.where(scale.isfinite(), scale, (goal.whole - goal.threshold).abs())
    return ((goal.threshold - values) / (_EFFECT * scale.clamp(min=1e-30))).nan_to_num(torch.inf, torch.inf, -torch.inf)
