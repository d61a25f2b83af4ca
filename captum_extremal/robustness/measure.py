"""The measurement: the masks of a result and their binary forms, under each way of hiding."""

import ast
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal.arguments import Tensors
from captum_extremal.masks.binary import binarised
from captum_extremal.objective import Objective
from captum_extremal.perturbations import BlurPyramid, FadePyramid, Perturbation
from captum_extremal.results import ExtremalMasks
from captum_extremal.robustness.result import Robustness
from captum_extremal.robustness.ways import Way, ways_of_hiding
from captum_extremal.search import Game
from captum_extremal.session import Session
from captum_extremal.settings import as_perturbation

_KNOWN: dict[str, Callable[..., Perturbation]] = {kind.__name__: kind for kind in (BlurPyramid, FadePyramid)}


def robustness_of(
    session: Session,
    found: ExtremalMasks,
    others: Tensor | Tensors | None,
    perturbation: str | Perturbation | None,
    perturbations_per_eval: int | None,
) -> Robustness:
    """The values of a result's masks, with the arguments of ``ExtremalPerturbation.robustness``."""
    _check_found(found, session)
    if perturbations_per_eval is not None:
        check_count("perturbations_per_eval", perturbations_per_eval)
    game, own = _game_of(found), _searched_with(found, perturbation)
    ways = ways_of_hiding(session, own, others)
    areas, masks = _masks_of(found, session)
    measured = [_measured(session, way, masks, game, perturbations_per_eval) for way in ways.values()]
    values, all_hidden, clean = (torch.stack(parts, dim=-1) for parts in zip(*measured))
    soft, binary = values.chunk(2, dim=1)
    return Robustness(tuple(ways), areas, soft.contiguous(), binary.contiguous(), all_hidden, clean[:, 0])


def _masks_of(found: ExtremalMasks, session: Session) -> tuple[Tensor, Tensors]:
    """The areas (N, A + 1), and rows (2 (A + 1) N, 1, *S) of the soft masks and then of the binary ones."""
    listed = found.areas.to(session.device).expand(session.images, -1)
    optimal = found.optimal_area.to(listed)
    both = []
    for masks, best in zip(_as_tuple(found.masks), _as_tuple(found.optimal_masks)):
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


def _check_found(found: object, session: Session) -> None:
    if not isinstance(found, ExtremalMasks):
        raise TypeError(f"found must be ExtremalMasks, the result of extremal_masks(), got {type(found).__name__}")
    given = [tuple(masks.shape) for masks in _as_tuple(found.masks)]
    wanted = [(session.images, len(found.areas), 1, *x.shape[2:]) for x in session.inputs]
    if given != wanted or isinstance(found.masks, tuple) != session.is_tuple:
        rule = f"the masks of these inputs, {_shapes_text(wanted, session.is_tuple)}"
        raise ValueError(f"found must hold {rule}, got {_shapes_text(given, isinstance(found.masks, tuple))}")


def _shapes_text(shapes: list[tuple[int, ...]], is_tuple: bool) -> str:
    return f"a tuple of {', '.join(map(str, shapes))}" if is_tuple else f"one tensor {shapes[0]}"


def _game_of(found: ExtremalMasks) -> Game:
    game = found.settings.get("game")
    if not isinstance(game, dict) or game.keys() != {"kept", "removed"}:
        raise ValueError(f"found must say in its settings which game it was found with, got {game!r}")
    return Game(**game)


def _searched_with(found: ExtremalMasks, perturbation: str | Perturbation | None) -> Perturbation:
    """The search's perturbation: the given one, or the one that the settings describe."""
    if perturbation is not None:
        return as_perturbation(perturbation)
    text = found.settings.get("perturbation")
    try:
        parsed: Any = ast.parse(str(text), mode="eval")
        given = {part.arg: ast.literal_eval(part.value) for part in parsed.body.keywords}
        return _KNOWN[parsed.body.func.id](**given)
    except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
        rule = "perturbation must be given where the search's is not one of this package's"
        raise ValueError(f"{rule}, got None for masks searched with {text!r}") from error


def _as_tuple(parts: Tensor | Tensors) -> Tensors:
    return parts if isinstance(parts, tuple) else (parts,)
