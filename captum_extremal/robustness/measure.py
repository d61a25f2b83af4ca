"""The measurement: the masks of a result and their binary forms, under each way of hiding."""

from dataclasses import replace

import torch
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal._state import warn_caller
from captum_extremal.arguments import Tensors
from captum_extremal.masks.binary import binarised
from captum_extremal.objective import Objective, same_scores
from captum_extremal.perturbations import Perturbation
from captum_extremal.perturbed import check_masks_of, searched_with
from captum_extremal.results import ExtremalMasks
from captum_extremal.results.tensors import as_tuple
from captum_extremal.robustness.result import Robustness
from captum_extremal.robustness.ways import Way, ways_of_hiding
from captum_extremal.search import Game
from captum_extremal.session import Session


def robustness_of(
    session: Session,
    found: ExtremalMasks,
    others: Tensor | Tensors | None,
    perturbation: str | Perturbation | None,
    perturbations_per_eval: int | None,
) -> Robustness:
    """The values of a result's masks, with the arguments of ``ExtremalPerturbation.robustness``."""
    check_masks_of(found, session.inputs, session.is_tuple)
    if perturbations_per_eval is not None:
        check_count("perturbations_per_eval", perturbations_per_eval)
    game, own = _game_of(found), searched_with(found, perturbation)
    ways = ways_of_hiding(session, own, others)
    areas, masks = _masks_of(found, session)
    measured = [_measured(session, way, masks, game, perturbations_per_eval) for way in ways.values()]
    values, all_hidden, clean = (torch.stack(parts, dim=-1) for parts in zip(*measured))
    soft, binary = values.chunk(2, dim=1)
    _warn_of_other_values(found, soft[..., 0])
    return Robustness(tuple(ways), areas, soft.contiguous(), binary.contiguous(), all_hidden, clean[:, 0])


def _warn_of_other_values(found: ExtremalMasks, own: Tensor) -> None:
    """Warn where the search's own way of hiding does not give the values (N, A + 1) that the search measured."""
    measured = torch.cat([found.values, found.optimal_value.unsqueeze(1)], dim=1).to(own)
    clean, perturbed = (score.to(own).unsqueeze(1) for score in (found.clean_score, found.perturbed_score))
    same = same_scores(own, clean, perturbed, measured) | own.isnan() | measured.isnan()
    if examples := (~same).any(1).nonzero()[:, 0].tolist():
        warn_caller(
            f"the masks of examples {examples} have other values than the search measured: give robustness the same "
            "model, target, inputs, baselines and perturbation as the search. A model in train mode may have others "
            "each time"
        )


def _masks_of(found: ExtremalMasks, session: Session) -> tuple[Tensor, Tensors]:
    """The areas (N, A + 1), and rows (2 (A + 1) N, 1, *S) of the soft masks and then of the binary ones."""
    listed = found.areas.to(session.device).expand(session.images, -1)
    optimal = found.optimal_area.to(listed)
    both = []
    for masks, best in zip(as_tuple(found.masks), as_tuple(found.optimal_masks)):
        soft = torch.cat([masks, best.unsqueeze(1)], dim=1).to(session.device)
        # Where a* is not reached, the mask is the largest area's.
        last = optimal.where(~optimal.isnan(), soft[:, -1].flatten(1).mean(1).to(optimal))
        binary = binarised(soft, torch.cat([listed, last.unsqueeze(1)], dim=1))
        both.append(torch.cat([soft, binary.to(soft)], dim=1).transpose(0, 1).flatten(0, 1).to(session.dtype))
    return torch.cat([listed, optimal.unsqueeze(1)], dim=1), tuple(both)


def _measured(
    session: Session, way: Way, masks: Tensors, game: Game, perturbations_per_eval: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The values (N, R) of rows of masks under one way of hiding, with all hidden (N,), and the clean scores (N,)."""
    values, all_hidden = [], []
    for baselines in way.baselines:
        objective = replace(session, baselines=baselines).objective(
            way.bind, perturbations_per_eval=perturbations_per_eval, differentiable=False
        )
        values.append(objective.value(masks, game.kept, game.removed).T)
        all_hidden.append(_value_of_all_hidden(objective, game))
    return torch.stack(values).mean(0), torch.stack(all_hidden).mean(0), objective.clean


def _value_of_all_hidden(objective: Objective, game: Game) -> Tensor:
    hidden, clean = objective.perturbed, objective.clean
    return game.value(hidden, clean) if game.kept else game.value(clean, hidden)


def _game_of(found: ExtremalMasks) -> Game:
    game = found.settings.get("game")
    if not isinstance(game, dict) or game.keys() != {"kept", "removed"}:
        raise ValueError(f"found must say in its settings which game it was found with, got {game!r}")
    return Game(**game)
