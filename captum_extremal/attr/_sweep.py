"""The sweep of every extremal attribution: search all areas, measure the masks found, keep the record."""

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import captum
import torch
from torch import Tensor

from captum_extremal._captum import progress_bar
from captum_extremal._state import warn_caller
from captum_extremal._version import own_version
from captum_extremal.masks import Layout, MaskFamily
from captum_extremal.objective import Objective
from captum_extremal.results import ExtremalMasks, threshold_of
from captum_extremal.search import Search, as_game
from captum_extremal.search.area import mask_of_area
from captum_extremal.session import Session
from captum_extremal.settings import SearchSettings


def sweep(
    session: Session,
    objective: Objective,
    family: MaskFamily,
    layouts: Sequence[Layout],
    settings: SearchSettings,
    name: str,
    about: dict[str, Any],
    contrast: tuple[Tensor, ...] | None = None,
) -> ExtremalMasks:
    """One search over all areas of a batch, with the family's masks on each input.

    Args:
        session, objective, family, layouts, settings: the inputs, the score of masks, the masks, and the search.
        name: of the method, for the progress bar.
        about: what the result's settings say besides those of the search.
        contrast: of the result, one for each input.
    """
    game, solver = as_game(settings.game), settings.chosen_solver()
    areas = settings.fractions(layouts, family)
    # A bad threshold should not cost a search.
    threshold = threshold_of(settings.score_threshold, game, objective.clean, objective.perturbed)
    started = time.perf_counter()
    bounds = list(zip(*(family.bind_areas(layout.shape, session.device, session.dtype, areas) for layout in layouts)))

    def report(step: int, at: Tensor, values: Tensor) -> None:
        bar.update(1)
        if settings.callback is not None:
            settings.callback(step, at, values.T)

    plan = solver.plan(Search(objective, game, areas, bounds, report))
    with progress_bar(settings.show_progress, plan.steps, name) as bar:
        found = plan.run()
    masks = [
        tuple(mask_of_area(one, area, bound) for one, bound in zip(parameters, of_area))
        for parameters, area, of_area in zip(found, areas, bounds)
    ]
    measured = [objective.measure(of_area) for of_area in masks]  # area by area, to limit the memory
    scores, complements = (torch.cat(rows).T.contiguous() for rows in zip(*measured))
    if areas[-1] == 1:
        # The mask of area 1 is the input itself. Its score is the one that the threshold comes from, to the bit.
        scores[:, -1], complements[:, -1] = objective.clean, objective.perturbed
    by_input = tuple(torch.stack(of_areas, dim=1).float() for of_areas in zip(*masks))
    sigma = torch.tensor([[bound.sigma for bound in of_area] for of_area in bounds])
    return ExtremalMasks(
        masks=by_input if session.is_tuple else by_input[0],
        areas=scores.new_tensor(areas),
        scores=scores,
        complement_scores=complements,
        clean_score=objective.clean,
        perturbed_score=objective.perturbed,
        values=game.value(scores, complements),
        threshold=threshold,
        sigma=sigma if session.is_tuple else sigma[:, 0],
        settings={
            **about,
            "mask": repr(family),
            "game": asdict(game),
            "solver": repr(solver),
            "steps": plan.steps,
            "seconds": time.perf_counter() - started,
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "captum": str(captum.__version__),
                "captum_extremal": own_version(),
            },
        },
        contrast=contrast if session.is_tuple or contrast is None else contrast[0],
    )


def warn_unreached(found: ExtremalMasks) -> None:
    """Warn once, with the number of images that do not reach the threshold."""
    missing = int((~found.reached).sum())
    if missing:
        warn_caller(
            f"{missing} of {len(found.reached)} images do not reach the score threshold at any area up to "
            f"{float(found.areas[-1]):g}; their attribution is the mask of that area. Add larger areas (1.0 always "
            "reaches the default threshold) or lower score_threshold"
        )
