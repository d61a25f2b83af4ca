"""The threshold Phi_0 of equations 3 and 10: which value of the game is enough."""

from collections.abc import Callable

import torch
from torch import Tensor

from captum_extremal._checks import check_callable
from captum_extremal._state import as_tensor
from captum_extremal.search.games import Game

ScoreThreshold = float | Tensor | list[float] | tuple[float, ...] | Callable[[Tensor, Tensor], Tensor] | None


def threshold_of(score_threshold: ScoreThreshold, game: Game, clean: Tensor, perturbed: Tensor) -> Tensor:
    """Phi_0 (N,), in units of the game's value. The default is its value at the mask that keeps everything.

    Raises:
        TypeError, ValueError: the threshold is none of the kinds that the public methods name, or has the wrong length.
    """
    if score_threshold is None:
        return game.value(clean, perturbed)
    given: object = score_threshold
    must = "score_threshold must be"
    if callable(score_threshold):
        given, must = score_threshold(clean, perturbed), "score_threshold(clean, perturbed) must return"
    value = _threshold_tensor(given, len(clean), must).to(clean)
    return value.expand(clean.shape).clone()


def check_threshold(score_threshold: ScoreThreshold, images: int) -> None:
    """Check what can be known of a threshold before there are scores.

    Raises:
        TypeError, ValueError: as :func:`threshold_of`.
    """
    if callable(score_threshold):
        check_callable("score_threshold", score_threshold, "clean", "perturbed")
    elif score_threshold is not None:
        _threshold_tensor(score_threshold, images, "score_threshold must be None, callable as (clean, perturbed), or")


def _threshold_tensor(value: object, images: int, must: str) -> Tensor:
    rule = f"{must} one number, or one for each of {images} images, shape ({images},), none NaN"
    try:
        threshold = as_tensor(value)
        real = not threshold.is_complex() and threshold.dtype != torch.bool
        threshold = as_tensor(value, torch.float64 if real else None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{rule}, got {value!r}") from error
    if not real:
        raise TypeError(f"{rule}, got {threshold.dtype}")
    if threshold.dim() and threshold.shape != (images,):
        raise ValueError(f"{rule}, got shape {tuple(threshold.shape)}")
    if bool(threshold.isnan().any()):
        raise ValueError(f"{rule}, got {value!r}")
    return threshold.detach()
