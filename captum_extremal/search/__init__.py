"""The search for extremal masks: areas, games, and the solvers of equations 2 and 4."""

from captum_extremal.search.area import area_loss
from captum_extremal.search.games import Game, as_game
from captum_extremal.search.path import PathSolver
from captum_extremal.search.penalty import PenaltySolver
from captum_extremal.search.problem import Search, Solver

__all__ = ["Game", "PathSolver", "PenaltySolver", "Search", "Solver", "area_loss", "as_game"]
