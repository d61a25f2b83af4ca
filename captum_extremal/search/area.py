r"""The area of a mask: the paper's ranking loss (equation 4) and the exact constraint (equation 2).

Equation 4 replaces the constraint ``mean(m) = a`` of equation 2 by a penalty. :func:`area_loss` is that penalty,
usable in any training loop. :func:`fit_area` meets the constraint itself: it shifts the logits of the mask's
parameters until the mask has the area, and is differentiable through that shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_extremal._checks import check_number
from captum_extremal.masks import BoundMask


def area_loss(masks: Tensor, areas: Tensor | float) -> Tensor:
    r"""The ranking area loss of equation 4, :math:`R_a(m) = \frac1{|\Omega|} \|vecsort(m) - r_a\|^2`.

    The values of each mask are sorted and compared with the sorted values of a binary mask of the area: zeros,
    then ones. It is 0 exactly for binary masks of that area, so it asks for the area and for a binary mask at once,
    with no parameter of its own. Where an area is not a whole number of positions, the one position in between is
    compared with the fraction that is left. The paper writes the sum over positions; its weights of 300 and 1500
    belong to the mean, which is returned.

    It can serve wherever a number of things is to be chosen: the share of a feature map that an attention may use,
    the share of pixels that a weakly supervised segmentation may mark, the number of channels that pruning may keep.
    Add it to the loss with a weight that grows during training.

    Args:
        masks: (..., *S) with values in [0, 1]; all dimensions but the first are one mask's positions (a 1-D tensor
            is one mask).
        areas: fraction of the positions, a number or one for each mask, (B,).

    Returns:
        one loss a mask, (B,), or a scalar for a 1-D tensor; differentiable.

    Raises:
        TypeError: ``masks`` is not a floating tensor, or ``areas`` is neither a number nor a tensor.
        ValueError: ``masks`` is empty or 0-D, an area is outside [0, 1], or there is not one area a mask.
    """
    if not isinstance(masks, Tensor) or not masks.is_floating_point():
        raise TypeError(f"masks must be a floating tensor, got {_describe(masks)}")
    if masks.dim() == 0 or masks.numel() == 0:
        raise ValueError(f"masks must have positions, got shape {tuple(masks.shape)}")
    values = masks.flatten(1) if masks.dim() > 1 else masks
    target = _as_areas(areas, values)
    ranked = values.sort(dim=-1).values
    return (ranked - _ranked_binary(values.shape[-1], target)).square().mean(-1)


def _as_areas(areas: Tensor | float, values: Tensor) -> Tensor:
    if not isinstance(areas, Tensor):
        check_number("areas", areas)
        areas = torch.tensor(float(areas), dtype=torch.float64)
    if areas.dim() and areas.shape != values.shape[:-1]:
        raise ValueError(
            f"areas must be one number or one a mask, {tuple(values.shape[:-1])}, got shape {tuple(areas.shape)}"
        )
    if not bool(((areas >= 0) & (areas <= 1)).all()):
        raise ValueError(f"areas must be fractions in [0, 1], got {areas.tolist()}")
    return areas.to(values)


def _ranked_binary(count: int, areas: Tensor) -> Tensor:
    """r_a: the sorted values (..., count) of a binary mask with ``areas`` (...) of its positions at 1."""
    from_top = torch.arange(count - 1, -1, -1, device=areas.device, dtype=areas.dtype)
    return (areas.unsqueeze(-1) * count - from_top).clamp(0, 1)


def _describe(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{type(value).__name__}"


def fit_area(
    logits: Tensor, area: float, bound: BoundMask, shift: Tensor | None = None, steps: int = 40
) -> tuple[Tensor, Tensor]:
    r"""Parameters whose mask has exactly the area: :math:`p = sigmoid(z - \tau)`, the shift :math:`\tau` solved for.

    The area falls as the shift grows, and its log-odds fall almost linearly, so Newton's method on the log-odds
    needs two steps from a neighbouring solution and a handful from anywhere else.

    Differentiable by the logits, through the shift as well: with c the derivative of the area by the parameters,
    :math:`d\tau / dz_i = c_i p_i' / \sum_j c_j p_j'` (implicit function theorem), so that no step along the
    gradient changes the area.

    Args:
        logits: z (B, D).
        area: fraction of the input, at most ``fit_limit(bound)``.
        bound: the mask family on the input's positions.
        shift: (B,), where to start, such as the shift of a previous call.
        steps: how many Newton steps at most; iteration also ends when nothing changes any more, unless the number of
            steps is small enough that looking would cost more than it saves.

    Returns:
        parameters (B, D) in (0, 1), and the shift (B,), which carries no gradient.
    """
    with torch.no_grad():
        shift = _solve_shift(logits, area, bound, _logistic, shift, steps)
    parameters: Tensor = _AtExactArea.apply(logits, shift, bound)
    return parameters, shift


_LOGIT_EPS = 1e-4  # parameters of exactly 0 or 1 would have no finite logit
_MARGIN = 0.02  # so far below the family's largest area the shift is well conditioned


def at_area(p: Tensor, area: float, bound: BoundMask, sharpness: float = 1.0) -> Tensor:
    """Parameters (B, D) whose masks have the area, or the largest that is fitted: those of p (B, D), shifted.

    A sharpness above 1 multiplies the logits first, which moves the parameters towards 0 and 1. Otherwise rows that
    have the area stay as they are: finite logits would take parameters of 0 and 1 away from there.
    """
    area = min(area, fit_limit(bound))
    logits = sharpness * torch.logit(p, eps=_LOGIT_EPS)
    fitted = fit_area(logits, area, bound, shift=torch.zeros_like(logits[:, 0]))[0]
    if sharpness != 1:
        return fitted
    excess = torch.logit(bound.area(bound.grid_values(p)), eps=1e-12) - math.log(area / (1 - area))
    return torch.where((excess.abs() < _MET * _CLOSE[p.dtype])[:, None], p, fitted)


def project(values: Tensor, area: float, bound: BoundMask) -> Tensor:
    r"""Parameters (B, D) in [0, 1] whose masks have the area: the values less a shift, :math:`clamp(v - \tau, 0, 1)`.

    Where the area is linear in the parameters and all weigh the same, these are the nearest to the values (B, D)
    that there are. The area is at most ``fit_limit(bound)``.
    """
    start = torch.zeros_like(values[:, 0])
    return _clipped(values - _solve_shift(values, area, bound, _clipped, start, _PROJECTION_STEPS)[:, None])[0]


def mask_of_area(p: Tensor, area: float, bound: BoundMask) -> Tensor:
    """The masks (B, 1, *S) that are nearest to those of the parameters p (B, D) and have exactly the area.

    The family's largest mask keeps a little less than everything, because its smooth maximum stays below 1. Areas
    near 1 are met by lifting a mask towards all ones, which area 1 reaches exactly.
    """
    grid_values = bound.grid_values(at_area(p, area, bound))
    mask = bound.expand(grid_values)
    if area <= fit_limit(bound):
        return mask
    covered = bound.area(grid_values)
    lift = (area - covered) / (1 - covered)
    return torch.lerp(mask, torch.ones_like(mask), lift.view(-1, *[1] * (mask.dim() - 1)))


def fit_limit(bound: BoundMask) -> float:
    """The largest area that parameters are fitted to."""
    return bound.largest_area - _MARGIN


_LOOK_FROM = 2  # steps from which testing for convergence, which waits for the device, pays
_MET = 10.0  # so many times as far off counts as met where nothing is solved for
_CLOSE = {torch.float32: 2e-6, torch.float64: 1e-12}  # in log-odds of the area: what can be told from rounding


_PROJECTION_STEPS = 20
_Curve = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From shifted values to parameters in [0, 1] and their derivatives."""


def _logistic(shifted: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.sigmoid(shifted)
    return p, p * (1 - p)


def _clipped(shifted: Tensor) -> tuple[Tensor, Tensor]:
    p = shifted.clamp(0, 1)
    return p, (p == shifted).to(p)


def _solve_shift(
    values: Tensor, area: float, bound: BoundMask, curve: _Curve, shift: Tensor | None, steps: int
) -> Tensor:
    """The shift (B,) that gives the masks of curve(values - shift) the area."""
    goal = torch.logit(torch.tensor(area, dtype=values.dtype, device=values.device))
    low, high = values.amin(1) - 20, values.amax(1) + 20  # everything kept, nothing kept
    shift = values.mean(1) if shift is None else shift.clamp(low, high)
    before = torch.full_like(shift, math.inf)
    for step in range(steps):
        p, by_value = curve(values - shift[:, None])
        here = bound.linearised(p)
        covered = here.area
        (gradient,) = here.gradients(here.area_by_grid)
        slope = -(gradient * by_value).sum(1)
        odds = covered * (1 - covered)
        excess = torch.logit(covered, eps=1e-12) - goal
        low, high = torch.where(excess > 0, shift, low), torch.where(excess < 0, shift, high)
        newton = shift - excess * odds / slope.clamp(max=-1e-30)
        # Newton's steps may jump to and fro between two far places: where the last one did harm, halve the interval.
        trusted = (newton > low) & (newton < high) & (excess.abs() < before)
        before = excess.abs()
        found = before < _CLOSE[values.dtype]
        if step >= _LOOK_FROM and bool(found.all()):
            break
        shift = torch.where(found, shift, torch.where(trusted, newton, (low + high) / 2))
    return shift


class _AtExactArea(torch.autograd.Function):
    """sigmoid(z - tau(z)), where tau keeps the area as it is."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, shift: Tensor, bound: BoundMask) -> Tensor:
        p = torch.sigmoid(logits - shift[:, None])
        ctx.save_for_backward(p)
        ctx.bound = bound
        return p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        slope = p * (1 - p)
        through_p = grads[0] * slope
        here = ctx.bound.linearised(p)
        share = here.gradients(here.area_by_grid)[0] * slope
        share = share / share.sum(1, keepdim=True).clamp(min=1e-30)
        return through_p - share * through_p.sum(1, keepdim=True), None, None
