"""The sweep that every extremal attribution makes: search all areas, measure what was found, keep the record."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import captum
import torch
from torch import Tensor

from captum_extremal._captum import progress_bar
from captum_extremal._state import warn_caller
from captum_extremal._version import own_version
from captum_extremal.masks import BoundMask
from captum_extremal.objective import Objective
from captum_extremal.results import ExtremalMasks, ScoreThreshold, threshold_of
from captum_extremal.search.area import mask_of_area
from captum_extremal.search.games import Game
from captum_extremal.search.problem import Search, Solver

Callback = Callable[[int, Tensor, Tensor], None]
"""Told of each step: its number, the areas (R,) and the game's values (N, R) at them."""


@dataclass(frozen=True)
class Sweep:
    """One search over all areas of a batch.

    Args:
        objective: the model on its inputs.
        bounds: for each area, the mask family of each input tensor.
        areas: increasing fractions.
        game, solver: what is maximised, and how.
        score_threshold: Phi_0, as the public methods take it.
        callback: told of every step, or None.
        show_progress: whether to draw a progress bar.
        description: the progress bar's.
    """

    objective: Objective
    bounds: list[tuple[BoundMask, ...]]
    areas: tuple[float, ...]
    game: Game
    solver: Solver
    score_threshold: ScoreThreshold
    callback: Callback | None
    show_progress: bool
    description: str

    def run(self, is_tuple: bool, settings: dict[str, Any]) -> ExtremalMasks:
        """Search, meet the areas exactly, measure the scores anew on the final masks."""
        objective, game = self.objective, self.game
        # A bad threshold should not cost a search.
        threshold = threshold_of(self.score_threshold, game, objective.clean, objective.perturbed)
        started = time.perf_counter()
        steps, found = self._search()
        masks = [
            tuple(mask_of_area(p, area, bound) for p, bound in zip(parameters, bounds))
            for parameters, area, bounds in zip(found, self.areas, self.bounds)
        ]
        scores, complements = self._measure(masks)
        by_input = tuple(torch.stack(of_areas, dim=1).float() for of_areas in zip(*masks))
        sigma = torch.tensor([[bound.sigma for bound in bounds] for bounds in self.bounds])
        about = {
            "game": asdict(game),
            "solver": repr(self.solver),
            "steps": steps,
            "seconds": time.perf_counter() - started,
            "versions": _versions(),
        }
        return ExtremalMasks(
            masks=by_input if is_tuple else by_input[0],
            areas=scores.new_tensor(self.areas),
            scores=scores,
            complement_scores=complements,
            clean_score=objective.clean,
            perturbed_score=objective.perturbed,
            values=game.reward(scores, complements),
            threshold=threshold,
            sigma=sigma if is_tuple else sigma[:, 0],
            settings=settings | about,
        )

    def _search(self) -> tuple[int, list[tuple[Tensor, ...]]]:
        def reward(masks: tuple[Tensor, ...], **how: Any) -> Tensor:
            return self.objective.reward(masks, self.game, **how)

        def report(step: int, areas: Tensor, rewards: Tensor) -> None:
            bar.update(1)
            if self.callback is not None:
                self.callback(step, areas, rewards.T)

        search = Search(reward, self.game, self.areas, self.bounds, self.objective.images, report)
        steps = self.solver.total_steps(search)
        with progress_bar(self.show_progress, steps, self.description) as bar, torch.enable_grad():
            return steps, self.solver.solve(search)

    def _measure(self, masks: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        """Scores (N, A) of what the masks keep and of what is left, one area after another to bound the memory."""
        measured = [self.objective.measure(of_area) for of_area in masks]
        scores, complements = (torch.cat(rows).T.contiguous() for rows in zip(*measured))
        if self.areas[-1] == 1:
            # The mask of area 1 is the input itself: its score is the one the threshold comes from, to the bit.
            scores[:, -1] = self.objective.clean
            complements[:, -1] = self.objective.perturbed
        return scores, complements


def warn_unreached(found: ExtremalMasks) -> None:
    """Say once how many images reach the threshold nowhere."""
    missing = int((~found.reached).sum())
    if missing:
        warn_caller(
            f"{missing} of {len(found.reached)} images do not reach the score threshold at any area up to "
            f"{float(found.areas[-1]):g}; their attribution is the mask of that area. Add larger areas (1.0 always "
            "reaches the default threshold) or lower score_threshold"
        )


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "captum": str(captum.__version__),
        "captum_extremal": own_version(),
    }
