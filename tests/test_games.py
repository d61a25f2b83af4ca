"""The three games of section 3.2, from the same two scores."""

from __future__ import annotations

import copy
import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from captum_extremal import Game
from captum_extremal.search.games import DELETE, HYBRID, PRESERVE, as_game

KEPT = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
REMOVED = torch.tensor([[1.0, 4.0], [0.0, -2.0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("preserve", KEPT), ("delete", -REMOVED), ("hybrid", KEPT - REMOVED)],
)
def test_games_by_name_are_the_papers(name: str, expected: torch.Tensor) -> None:
    assert torch.equal(as_game(name).value(KEPT, REMOVED), expected)


def test_users_own_game_weighs_both_scores() -> None:
    assert torch.equal(Game(kept=2.0, removed=-0.5).value(KEPT, REMOVED), 2 * KEPT - 0.5 * REMOVED)


@pytest.mark.parametrize("game", [PRESERVE, DELETE, HYBRID, Game(1, 3)])
def test_game_objects_are_taken_as_they_are(game: Game) -> None:
    assert as_game(game) is game


def test_names_are_the_named_games() -> None:
    assert (as_game("preserve"), as_game("delete"), as_game("hybrid")) == (PRESERVE, DELETE, HYBRID)


@pytest.mark.parametrize("name", ["keep", "", "Preserve", 3, None])
def test_unknown_games_are_refused(name: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"game must be .*'delete', 'hybrid', 'preserve'"):
        as_game(name)


@pytest.mark.parametrize(
    ("name", "meant"), [("dual", "hybrid"), ("Dual", "hybrid"), ("deletion", "delete"), ("Preserve", "preserve")]
)
def test_games_of_other_names_are_told(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"got '{name}': did you mean '{meant}'\?$"):
        as_game(name)


def test_a_name_like_no_game_gets_no_hint() -> None:
    with pytest.raises(ValueError, match=r"got 'chess'$"):
        as_game("chess")


@pytest.mark.parametrize(
    ("weights", "error", "named"),
    [
        ({"kept": "1", "removed": 0.0}, TypeError, "kept"),
        ({"kept": 1.0, "removed": None}, TypeError, "removed"),
        ({"kept": math.nan, "removed": 0.0}, ValueError, "kept"),
        ({"kept": 0.0, "removed": math.inf}, ValueError, "removed"),
        ({"kept": 0.0, "removed": 0.0}, ValueError, "both 0"),
    ],
    ids=str,
)
def test_bad_weights_are_named(weights: dict[str, object], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        Game(**weights)


def test_games_are_frozen_values() -> None:
    assert copy.deepcopy(HYBRID) == HYBRID == Game(1.0, -1.0)
    with pytest.raises(FrozenInstanceError):
        HYBRID.kept = 2.0
