"""Equation 3: a*, the smallest area that is enough, chosen among masks whose scores were measured.

Shapes: N images, A areas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_extremal.objective import Objective
from captum_extremal.results.extremal_masks import ExtremalMasks
from captum_extremal.search.games import Game

Tensors = tuple[Tensor, ...]
"""One tensor for each input tensor."""


@dataclass(frozen=True)
class Measured:
    """One mask for each of N images, and its scores.

    Attributes:
        masks: (N, *mask_shape) for each input tensor.
        area: (N,); NaN where the search says that no area is enough.
        score, complement: (N,), the scores of what the masks keep and of what they remove.
        sigma: (N, inputs), the radius in pixels of the masks' disks.
        agreement: (N,), the mean pairwise IoU of independent searches; NaN for fewer than two.
        shares: the share of the searches that keep each position, (N, *mask_shape) for each input tensor; None where
            it is not known.
    """

    masks: Tensors
    area: Tensor
    score: Tensor
    complement: Tensor
    sigma: Tensor
    agreement: Tensor
    shares: Tensors | None = None

    @classmethod
    def by(
        cls,
        objective: Objective,
        masks: Tensors,
        area: Tensor,
        sigma: Tensor,
        agreement: Tensor | None = None,
        shares: Tensors | None = None,
    ) -> Measured:
        """The scores of masks by an objective."""
        kept, removed = objective.measure(masks)
        # The mask of area 1 is the input itself. Its score is the one that the threshold comes from, to the bit.
        whole, area = area == 1, area.to(kept)
        score, complement = kept[0].where(~whole, objective.clean), removed[0].where(~whole, objective.perturbed)
        agreement = torch.full_like(area, torch.nan) if agreement is None else agreement.to(kept)
        return cls(masks, area, score, complement, sigma.to("cpu", torch.float32), agreement, shares)

    @classmethod
    def nothing(cls, like: Tensors, perturbed_score: Tensor, clean_score: Tensor) -> Measured:
        """The mask that keeps nothing, in the shapes of masks (N, *mask_shape)."""
        sigma = torch.full((len(clean_score), len(like)), torch.nan, dtype=torch.float32, device="cpu")
        unknown = torch.full_like(clean_score, torch.nan)
        masks = tuple(map(torch.zeros_like, like))
        return cls(masks, torch.zeros_like(clean_score), perturbed_score, clean_score, sigma, unknown)

    @classmethod
    def chosen(cls, candidates: Sequence[Measured], choice: list[int]) -> Measured:
        """For each image its mask of one of the candidates."""

        def rows(of_candidates: Sequence[Tensor]) -> Tensor:
            return torch.stack([of_candidates[k][n] for n, k in enumerate(choice)])

        names = ("area", "score", "complement", "sigma", "agreement")
        numbers: dict[str, Any] = {name: rows([getattr(one, name) for one in candidates]) for name in names}
        return cls(masks=tuple(map(rows, zip(*(one.masks for one in candidates)))), **numbers)


def assemble(
    listed: Sequence[Measured],
    others: Sequence[Measured] = (),
    *,
    among_listed: bool = True,
    game: Game,
    clean_score: Tensor,
    perturbed_score: Tensor,
    threshold: Tensor,
    is_tuple: bool,
    settings: dict[str, Any],
    contrast: Tensors | None = None,
) -> ExtremalMasks:
    """The result of measured masks.

    a* is the smallest area of any of them whose value reaches the threshold, 0 where the value of keeping nothing does.
    Where none does, the optimal mask is that of the last of ``others``, or without these of ``listed``.

    Args:
        listed: the masks of each area of the result.
        others: more candidates for a*, such as masks between the areas. There is at least one mask in both.
        among_listed: whether the masks of the areas are candidates too.
        game, clean_score, perturbed_score, threshold: as the result has them.
        is_tuple: whether the tensors of the inputs are in tuples.
        settings, contrast: of the result.
    """
    nothing = Measured.nothing([*listed, *others][0].masks, perturbed_score, clean_score)
    inputs = len(nothing.masks)
    # Of equal areas the first: what a search found for a* comes before the masks of the list.
    candidates = [nothing, *others, *(listed if among_listed else ())]
    enough = torch.stack([_is_enough(one, game, threshold) for one in candidates])  # (candidates, N)
    areas = torch.stack([one.area for one in candidates]).masked_fill(~enough, torch.inf)
    last = len(others) or len(listed)
    best = Measured.chosen(candidates, areas.argmin(0).masked_fill(~enough.any(0), last).tolist())

    def of_inputs(parts: Iterable[Tensor]) -> Any:
        return tuple(parts) if is_tuple else next(iter(parts))

    def by_area(name: str) -> Tensor:  # (N, A)
        return _stacked([getattr(one, name) for one in listed], clean_score)

    sigma = _stacked([one.sigma for one in listed], nothing.sigma)[0]
    scores, complements = by_area("score"), by_area("complement")
    return ExtremalMasks(
        masks=of_inputs(_stacked([one.masks[k] for one in listed], nothing.masks[k]).float() for k in range(inputs)),
        areas=by_area("area")[0],
        scores=scores,
        complement_scores=complements,
        values=game.value(scores, complements),
        sigma=sigma if is_tuple else sigma[:, 0],
        agreement=of_inputs(
            _stacked([_shares(one, k) for one in listed], nothing.masks[k]).float() for k in range(inputs)
        ),
        agreement_score=by_area("agreement"),
        clean_score=clean_score,
        perturbed_score=perturbed_score,
        threshold=threshold,
        optimal_area=best.area.masked_fill(~enough.any(0), torch.nan),
        optimal_masks=of_inputs(mask.float() for mask in best.masks),
        optimal_score=best.score,
        optimal_complement_score=best.complement,
        optimal_value=game.value(best.score, best.complement),
        optimal_sigma=best.sigma if is_tuple else best.sigma[:, 0],
        optimal_agreement=best.agreement,
        vacuous=enough[0],
        settings=settings,
        contrast=None if contrast is None else of_inputs(contrast),
    )


def _is_enough(one: Measured, game: Game, threshold: Tensor) -> Tensor:
    return (game.value(one.score, one.complement) >= threshold) & ~one.area.isnan()


def _stacked(by_area: Sequence[Tensor], like: Tensor) -> Tensor:
    """Tensors (N, ...) of A areas, each in the shape of ``like``, as (N, A, ...)."""
    return torch.stack(list(by_area), dim=1) if by_area else like[:, None][:, :0]


def _shares(one: Measured, k: int) -> Tensor:
    """The shares of the k-th input's masks; NaN, in no memory of its own, where they are not known."""
    if one.shares is None:
        return torch.tensor(torch.nan, device=one.area.device).expand_as(one.masks[k])
    return one.shares[k]
