"""The sweep of every extremal attribution: search the areas and a*, measure the masks found, keep the record."""

import math
import platform
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import captum
import torch
from torch import Tensor

from captum_extremal._captum import progress_bar
from captum_extremal._state import warn_caller
from captum_extremal._version import own_version
from captum_extremal.areas import Sought
from captum_extremal.batch_parts import AnyObjective, Parts
from captum_extremal.masks import Family, FeatureGroups, Layout
from captum_extremal.masks.binary import agreement, agreement_of
from captum_extremal.objective import Objective
from captum_extremal.results import ExtremalMasks, Measured, assemble, threshold_of
from captum_extremal.results.tensors import as_tuple
from captum_extremal.search import Game, Search, Solver, as_game
from captum_extremal.search.area import mask_of_area
from captum_extremal.search.precision import chosen_precision
from captum_extremal.search.problem import BoundMasks, Goal, Parameters
from captum_extremal.search.smallest_set import Asked, SmallestSets, proof, smallest_sets
from captum_extremal.session import Session
from captum_extremal.settings import SearchSettings

_RUNGS = (0.005, 0.01, 0.015, 0.02, 0.03)  # areas whose masks a* between the areas takes; above, all are the same


@dataclass(frozen=True)
class Task:
    """What is searched: masks of a family over inputs, of some areas, for an objective.

    Attributes:
        objective: of all images.
        objective_of: from rows (n,), numbers of images, to that of these images.
        family, layouts: the masks, and how they lie on each input.
        sought: the areas, and whether a* is sought beyond them.
        forbidden: (N, *mask_shape) in [0, 1] for each input, what counts nothing in the search; None for nothing.
    """

    objective: Objective
    objective_of: Parts
    family: Family
    layouts: Sequence[Layout]
    sought: Sought
    forbidden: tuple[Tensor, ...] | None = None

    @property
    def searched(self) -> Objective:
        """The objective of the search, in which what is forbidden does not count."""
        return self.objective if self.forbidden is None else self.objective.apart_from(self.forbidden)

    def searched_of(self, rows: Tensor) -> AnyObjective:
        """That of the images of some rows (n,)."""
        objective = self.objective_of(rows)
        return objective if self.forbidden is None else objective.apart_from(tuple(f[rows] for f in self.forbidden))

    @property
    def groups(self) -> FeatureGroups | None:
        """The family, where it is of groups of features."""
        return self.family if isinstance(self.family, FeatureGroups) else None

    def bind(self, areas: tuple[float, ...], session: Session) -> list[BoundMasks]:
        """The mask families of each area, one for each input."""
        bound = [self.family.bind_areas(at.shape, session.device, session.dtype, areas) for at in self.layouts]
        return list(zip(*bound))

    def goal(self, game: Game, threshold: Tensor, session: Session) -> Goal:
        """What the search for a* needs to know."""
        smallest = max(self.family.smallest_area(layout.shape) for layout in self.layouts)
        rungs = (*(area for area in _RUNGS if area > smallest), 1.0)
        bounds = self.bind(rungs, session)
        clean, perturbed = self.objective.clean, self.objective.perturbed
        return Goal(
            threshold=threshold,
            whole=self.whole(game),
            nothing=game.value(perturbed, clean),
            unit=1 / max(max(layout.counts or (math.prod(layout.shape),)) for layout in self.layouts),
            smallest=smallest,
            bounds_of=lambda area: bounds[bisect_left(rungs, area * (1 - 1e-9), hi=len(rungs) - 1)],
            objective_of=self.searched_of,
        )

    def whole(self, game: Game) -> Tensor:
        """The game's value (N,) of the mask that keeps everything, as the search sees it."""
        if self.forbidden is None:
            return game.value(self.objective.clean, self.objective.perturbed)
        kept, removed = self.searched.measure(tuple(map(torch.ones_like, self.forbidden)))
        return game.value(kept[0], removed[0])


def sweep(
    session: Session,
    task: Task,
    settings: SearchSettings,
    name: str,
    about: dict[str, Any],
    contrast: tuple[Tensor, ...] | None = None,
) -> ExtremalMasks:
    """The search of a batch, with the family's masks on each input, and those of its further explanations.

    Args:
        session, task, settings: the inputs, what is searched, and how.
        name: of the method, for the progress bar.
        about: what the result's settings say besides those of the search.
        contrast: of the result, one for each input.
    """
    found = [_sweep_once(session, task, settings, name, about, contrast)]
    for _ in range(settings.explanations - 1):
        kept = _union(task.forbidden, found[-1])
        task = replace(task, forbidden=tuple(one.to(session.dtype) for one in kept))
        found.append(_sweep_once(session, task, settings, name, about, contrast))
    return replace(found[0], others=tuple(found[1:]))


def _union(forbidden: tuple[Tensor, ...] | None, found: ExtremalMasks) -> tuple[Tensor, ...]:
    """What is forbidden, and what the mask of a* keeps; where no area is enough, the mask of the smallest area."""
    optimal, listed = map(as_tuple, (found.optimal_masks, found.masks))
    smallest = tuple(m[:, 0] if len(found.areas) else torch.zeros_like(best) for m, best in zip(listed, optimal))
    kept = tuple(
        torch.where(found.reached.view(-1, *[1] * (best.dim() - 1)), best, small)
        for best, small in zip(optimal, smallest)
    )
    return kept if forbidden is None else tuple(map(torch.maximum, forbidden, kept))


def _sweep_once(
    session: Session,
    task: Task,
    settings: SearchSettings,
    name: str,
    about: dict[str, Any],
    contrast: tuple[Tensor, ...] | None,
) -> ExtremalMasks:
    """One search of a batch, and the measured masks that it found."""
    game, solver, sought, objective = as_game(settings.game), settings.chosen_solver(), task.sought, task.objective
    # A bad threshold should not cost a search.
    threshold = threshold_of(settings.score_threshold, game, objective.clean, objective.perturbed)
    started, beyond = time.perf_counter(), sought.beyond and _finds_optimum(solver)
    areas = sought.areas if sought.areas or beyond else sought.instead
    bounds = task.bind(areas, session) if areas else []
    goal = task.goal(game, threshold, session) if beyond else None
    calls = 0

    def report(step: int, at: Tensor, values: Tensor) -> None:
        nonlocal calls
        calls += 1
        bar.update(1)
        if settings.callback is not None:
            by_row = at if at.dim() == values.dim() else at[:, None]
            settings.callback(step, by_row.expand_as(values).T.contiguous(), values.T)

    plan = solver.plan(Search(task.searched, game, areas, bounds, report, goal))
    with progress_bar(settings.show_progress, plan.steps, name) as bar:
        found = plan.run()
    # Area by area, to limit the memory.
    measured = [
        _measured(task, parameters, area, of_area, found.searches[k] if found.searches else None)
        for k, (parameters, area, of_area) in enumerate(zip(found.parameters, areas, bounds))
    ]
    best, sets = found.optimum if beyond else None, None
    optimum = [] if best is None else [Measured.by(objective, best.masks, best.area, best.sigma, best.agreement)]
    asked = Asked(task.searched, task.searched_of, game, threshold, task.whole(game), settings.perturbations_per_eval)
    if task.groups is not None and sought.beyond:
        sets = _smallest_sets(asked, task.groups, optimum, measured)
        optimum = [Measured.by(objective, (sets.masks,), sets.areas, torch.full((session.images, 1), torch.nan))]
    result = assemble(
        listed=measured if sought.areas else [],
        others=optimum if sought.areas or optimum else measured,
        among_listed=sets is None,
        game=game,
        clean_score=objective.clean,
        perturbed_score=objective.perturbed,
        threshold=threshold,
        is_tuple=session.is_tuple and task.groups is None,
        settings={
            **about,
            "mask": repr(task.family),
            "game": asdict(game),
            "solver": repr(solver),
            "precision": _precision(solver, session.device),
            "examples_at_once": objective.examples_at_once,
            "steps": calls,
            "seconds": time.perf_counter() - started,
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "captum": str(captum.__version__),
                "captum_extremal": own_version(),
            },
        },
        contrast=contrast,
    )
    if task.groups is None:
        return result
    if sets is None:
        minimal, losses = proof(asked, cast(Tensor, result.optimal_masks))
        minimal |= result.vacuous
    else:
        minimal, losses = sets.minimal, sets.losses
    return replace(result, group_ids=task.groups.ids, minimal=minimal, removal_losses=losses)


def _smallest_sets(
    asked: Asked, groups: FeatureGroups, optimum: list[Measured], measured: list[Measured]
) -> SmallestSets:
    """The smallest sets of groups, from the masks of a* and those of the smallest of the areas that is enough."""
    starts = list(optimum)
    if measured:
        values = [asked.game.value(one.score, one.complement) for one in measured]
        enough = torch.stack(values) >= asked.threshold  # (A, N)
        first = enough.int().argmax(0).masked_fill(~enough.any(0), len(measured) - 1)
        starts.append(Measured.chosen(measured, first.tolist()))
    return smallest_sets(asked, groups.weights, [one.masks[0] for one in starts], groups.mask.passes)


def _precision(solver: Solver, device: torch.device) -> str | None:
    """The type that the model was autocast to during the search; None for the caller's."""
    chosen = chosen_precision(getattr(solver, "precision", None), device)
    return None if chosen is None else str(chosen).removeprefix("torch.")


def _finds_optimum(solver: Solver) -> bool:
    return bool(getattr(solver, "finds_optimum", False))


def _measured(
    task: Task, parameters: Parameters, area: float, bounds: BoundMasks, searches: Parameters | None
) -> Measured:
    """The masks of one area (N, D) with their scores, and how far searches (R N, D) agree on them."""
    objective, groups = task.objective, task.groups
    masks = _masks_at(groups, parameters, area, bounds)
    areas = torch.full_like(objective.clean, area)
    sigma = torch.tensor([[bound.sigma for bound in bounds]] * objective.images, dtype=torch.float32, device="cpu")
    if searches is None:
        return Measured.by(objective, masks, areas, sigma)
    rows = _masks_at(groups, searches, area, bounds)
    if groups is None:
        shares, overlap = agreement(rows, area, objective.images)
    else:
        shares, overlap = agreement_of([rows[0].view(-1, *masks[0].shape) >= 0.5], rows[0].dtype)
    return Measured.by(objective, masks, areas, sigma, overlap, shares)


def warn_of_scores(found: ExtremalMasks) -> None:
    """Warn once of images whose masks have no score, and once of those whose threshold is above that of everything."""
    game = Game(**found.settings["game"])
    unknown = game.value(found.scores, found.complement_scores).isnan().any(1)
    beyond = (found.threshold > game.value(found.clean_score, found.perturbed_score)) & ~found.reached
    without_score, above = torch.stack([unknown, beyond]).tolist()  # another device is waited for once
    if examples := [n for n, is_unknown in enumerate(without_score) if is_unknown]:
        warn_caller(
            f"forward_func's score is NaN under masks of the examples {examples}; these masks do not count as enough"
        )
    if any(above):
        warn_caller(
            f"{sum(above)} of {len(found)} examples do not reach the score threshold even with everything "
            f"{_verb(found)}, so that a* is NaN at any area. Lower score_threshold, which is in units of the game's "
            "value"
        )


def _verb(found: ExtremalMasks) -> str:
    """What masks do with their region."""
    return "kept" if found.settings["game"]["kept"] else "removed"


def _masks_at(
    groups: FeatureGroups | None, parameters: Parameters, area: float, bounds: BoundMasks
) -> tuple[Tensor, ...]:
    """The masks of exactly an area."""
    masks = tuple(mask_of_area(p, area, bound) for p, bound in zip(parameters, bounds))
    return masks if groups is None else (groups.filled(masks[0], area),)


def warn_of_optimum(found: ExtremalMasks) -> None:
    """Warn once of images that do not reach the threshold, and once of those that reach it with nothing kept."""
    examples, empty = len(found.reached), int(found.vacuous.sum())
    if missing := int((~found.reached).sum()):
        warn_caller(
            f"{missing} of {examples} examples do not reach the score threshold at any area; their attribution is the "
            "mask of the largest area. Lower score_threshold, which is in units of the game's value, or, if you gave "
            "areas, add larger ones: 1.0 always reaches the default threshold"
        )
    if empty:
        hide = (
            " hide more (perturbation='fade', baselines=... or SamplePerturbation)," if _verb(found) == "kept" else ""
        )
        warn_caller(
            f"{empty} of {examples} examples reach the score threshold with nothing {_verb(found)}, so that a* is 0 "
            f"and their attribution is zero. Raise score_threshold,{hide} or explain another target"
        )
