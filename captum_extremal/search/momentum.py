"""Momentum along gradients of a normalised length, so that a learning rate does not depend on the model's scale."""

from torch import Tensor

_MEAN_SQUARE_MEMORY = 0.9


class Momentum:
    """The direction of each row of parameters (B, D), in units of a typical parameter's step.

    Args:
        memory: the fraction of the direction that is kept in a step.
        like: parameters (B, D).
    """

    def __init__(self, memory: float, like: Tensor) -> None:
        self._memory = memory
        self._velocity = like.new_zeros(like.shape)
        self._square = like.new_zeros(len(like), 1)
        self._steps = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        """The direction (B, D) after one more gradient (B, D), which is divided by its running root mean square."""
        self._steps += 1
        self._square.lerp_(gradient.square().mean(1, keepdim=True), 1 - _MEAN_SQUARE_MEMORY)
        typical = (self._square / (1 - _MEAN_SQUARE_MEMORY**self._steps)).sqrt()
        return self._velocity.lerp_(gradient / typical.clamp(min=1e-30), 1 - self._memory)

    def repeat(self, times: int) -> None:
        """Continue with every row repeated."""
        self._velocity, self._square = self._velocity.repeat(times, 1), self._square.repeat(times, 1)

    def keep(self, rows: Tensor) -> None:
        """Continue with some of the rows, their numbers (n,)."""
        self._velocity, self._square = self._velocity[rows], self._square[rows]
