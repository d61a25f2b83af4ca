"""Results made by hand: masks with scores that no model gave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_extremal import ExtremalMasks, Game
from captum_extremal.results import Measured, assemble
from captum_extremal.search.games import PRESERVE


def result_by_hand(
    masks: Tensor | tuple[Tensor, ...],
    areas: list[float],
    scores: Tensor,
    complements: Tensor,
    *,
    clean: Tensor,
    perturbed: Tensor,
    threshold: Tensor,
    game: Game = PRESERVE,
    sigma: float = 2.0,
    settings: dict[str, Any] | None = None,
    others: list[Measured] | None = None,
    searches: int = 0,
) -> ExtremalMasks:
    """The result of masks (N, A, ...) with scores (N, A).

    ``others`` are further candidates for a*. With ``searches`` the agreement is known: random shares.
    """
    parts = masks if isinstance(masks, tuple) else (masks,)
    listed = [
        Measured(
            masks=tuple(part[:, k] for part in parts),
            area=torch.full_like(clean, area),
            score=scores[:, k],
            complement=complements[:, k],
            sigma=torch.full((len(clean), len(parts)), sigma),
            agreement=torch.rand_like(clean) if searches else torch.full_like(clean, torch.nan),
            shares=tuple(torch.randint_like(part[:, k], searches + 1) / searches for part in parts)
            if searches
            else None,
        )
        for k, area in enumerate(areas)
    ]
    return assemble(
        listed,
        others or [],
        game=game,
        clean_score=clean,
        perturbed_score=perturbed,
        threshold=threshold,
        is_tuple=isinstance(masks, tuple),
        settings=settings or {},
    )


def optimum_by_hand(
    masks: Tensor | tuple[Tensor, ...], area: list[float], score: list[float], complement: list[float], **known: Any
) -> Measured:
    """A candidate for a* (N, ...), as of a search between the areas."""
    parts = masks if isinstance(masks, tuple) else (masks,)
    numbers = {"area": area, "score": score, "complement": complement, "agreement": [torch.nan] * len(area)} | known
    tensors: dict[str, Any] = {name: torch.tensor(values) for name, values in numbers.items()}
    return Measured(masks=parts, sigma=torch.full((len(area), len(parts)), 4.0), **tensors)
