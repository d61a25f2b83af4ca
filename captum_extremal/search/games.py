"""Games: from the scores of what is kept and what is removed to the reward to maximise (section 3.2)."""

from dataclasses import dataclass

from torch import Tensor

from captum_extremal._checks import check_choice, check_number


@dataclass(frozen=True)
class Game:
    r"""A weighted sum of :math:`\Phi(m \otimes x)` and :math:`\Phi((1 - m) \otimes x)`.

    Args:
        kept: weight of the score of what the mask keeps.
        removed: weight of the score of what is left when the mask's region is removed.

    Raises:
        TypeError, ValueError: a weight is no finite number, or both are 0.
    """

    kept: float
    removed: float

    def __post_init__(self) -> None:
        check_number("kept", self.kept)
        check_number("removed", self.removed)
        if not self.kept and not self.removed:
            raise ValueError("a game must weigh something: kept and removed are both 0")

    def value(self, kept: Tensor, removed: Tensor) -> Tensor:
        """The game's value, from scores of any one shape."""
        # A score of weight 0 does not count, also where it is infinite.
        parts = [weight * score for weight, score in ((self.kept, kept), (self.removed, removed)) if weight]
        return sum(parts[1:], parts[0])


PRESERVE = Game(kept=1.0, removed=0.0)
"""Keep the score with as little of the input as the area allows: equation 2."""
DELETE = Game(kept=0.0, removed=-1.0)
"""Lose the score by removing as little of the input as the area allows."""
HYBRID = Game(kept=1.0, removed=-1.0)
"""Both at once."""

_BY_NAME = {"preserve": PRESERVE, "delete": DELETE, "hybrid": HYBRID}
_ELSEWHERE = {"dual": "hybrid"}  # TorchRay


def as_game(game: str | Game) -> Game:
    """The game of this name; a :class:`Game` is returned as it is.

    Raises:
        ValueError: there is no game of this name.
    """
    if isinstance(game, Game):
        return game
    check_choice("game", game, _BY_NAME, _ELSEWHERE)
    return _BY_NAME[game]
