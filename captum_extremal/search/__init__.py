"""The search for extremal masks: areas, games, and the solvers of equations 2 and 4."""

from captum_extremal._checks import check_choice
from captum_extremal.search.area import area_loss
from captum_extremal.search.games import Game, as_game
from captum_extremal.search.path import PathSolver
from captum_extremal.search.penalty import PenaltySolver
from captum_extremal.search.problem import Search, Solver

__all__ = ["Game", "PathSolver", "PenaltySolver", "Search", "Solver", "area_loss", "as_game", "as_solver"]

_BY_NAME: dict[str, Solver] = {"path": PathSolver(), "penalty": PenaltySolver()}


def as_solver(solver: str | Solver) -> Solver:
    """The solver of this name; an object with ``solve`` and ``total_steps`` is returned as it is.

    Raises:
        ValueError: there is no solver of this name.
        TypeError: the object is no solver.
    """
    if isinstance(solver, str):
        check_choice("solver", solver, _BY_NAME)
        return _BY_NAME[solver]
    if not isinstance(solver, Solver) or isinstance(solver, type):
        raise TypeError(f"solver must be a name or an object with solve and total_steps, got {solver!r}")
    return solver
