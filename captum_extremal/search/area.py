r"""The area of a mask: the paper's ranking loss (equation 4) and the exact constraint (equation 2).

Equation 4 replaces the constraint ``mean(m) = a`` of equation 2 by a penalty. :func:`area_loss` is that penalty, usable
in any training loop. :func:`fit_area` and :func:`project` meet the constraint itself.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from captum_extremal._checks import check_number
from captum_extremal.masks import BoundMask


def area_loss(masks: Tensor, areas: Tensor | float) -> Tensor:
    r"""The ranking area loss of equation 4, :math:`R_a(m) = \frac1{|\Omega|} \|vecsort(m) - r_a\|^2`.

    The values of each mask are sorted and compared with the sorted values of a binary mask of the area: zeros, then
    ones. The loss is 0 exactly for binary masks of that area. Where an area is not a whole number of positions, one
    position is compared with the remaining fraction. The paper writes the sum over positions, but its weights of 300
    and 1500 belong to the mean, which is returned.

    The loss can serve wherever a number of things is chosen: the share of a feature map that an attention may use, the
    share of pixels that a weakly supervised segmentation may mark, the number of channels that pruning may keep. Add
    it to the training loss with a weight that grows during training.

    Args:
        masks: (..., *S) with values in [0, 1]; all dimensions but the first are one mask's positions (a 1-D tensor
            is one mask).
        areas: fraction of the positions, a number or one for each mask, (B,).

    Returns:
        one loss per mask, (B,), or a scalar for a 1-D tensor; differentiable.

    Raises:
        TypeError: ``masks`` is not a floating tensor, or ``areas`` is neither a number nor a tensor.
        ValueError: ``masks`` is empty or 0-D, an area is outside [0, 1], or there is not one area per mask.
    """
    if not isinstance(masks, Tensor) or not masks.is_floating_point():
        raise TypeError(f"masks must be a floating tensor, got {_describe(masks)}")
    if masks.dim() == 0 or masks.numel() == 0:
        raise ValueError(f"masks must have positions, got shape {tuple(masks.shape)}")
    values = masks.flatten(1) if masks.dim() > 1 else masks
    return ranking_loss(values, _as_areas(areas, values))


def ranking_loss(values: Tensor, areas: Tensor) -> Tensor:
    """:func:`area_loss` of values (B, positions) and areas (B,), which it does not check: no device is waited for."""
    ranked = values.sort(dim=-1).values
    return (ranked - _ranked_binary(values.shape[-1], areas)).square().mean(-1)


def _as_areas(areas: Tensor | float, values: Tensor) -> Tensor:
    if not isinstance(areas, Tensor):
        check_number("areas", areas)
        areas = torch.tensor(float(areas), dtype=torch.float64, device="cpu")
    if areas.dim() and areas.shape != values.shape[:-1]:
        raise ValueError(
            f"areas must be one number or one per mask, {tuple(values.shape[:-1])}, got shape {tuple(areas.shape)}"
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
    logits: Tensor, area: float | Tensor, bound: BoundMask, shift: Tensor | None = None, steps: int = 40
) -> tuple[Tensor, Tensor]:
    r"""Parameters whose mask has exactly the area: :math:`p = sigmoid(z - \tau)`, solved for the shift :math:`\tau`.

    The area falls as the shift grows, and its log-odds fall almost linearly, so Newton's method on the log-odds needs
    two steps from a neighbouring solution and a handful from anywhere else.

    Args:
        logits: z (B, D).
        area: fraction of the input, one for all rows or one for each (B,), at most ``fit_limit(bound)``.
        bound: the mask family on the input's positions.
        shift: (B,), where to start, such as the shift of a previous call.
        steps: the largest number of Newton steps.

    Returns:
        parameters (B, D) in (0, 1), and the shift (B,).
    """
    steps = steps if _tests_convergence(logits) else min(steps, _UNTESTED_STEPS)
    shift = _solve_shift(logits, area, bound, _logistic, shift, steps)
    return torch.sigmoid(logits - shift[:, None]), shift


def at_fixed_area(gradient: Tensor, by_area: Tensor, free: Tensor | None = None) -> Tensor:
    r"""The part of a gradient along which the area stays: :math:`g - c \sum g / \sum c`.

    By the implicit function theorem this is the derivative through :func:`fit_area`, whose shift answers a change
    :math:`dz` of the logits with :math:`d\tau = \sum c\, dz / \sum c`.

    Args:
        gradient: g (B, D).
        by_area: c (B, D), the derivative of the area by the same variables.
        free: (B, D) bool, the variables that the sums take in; None for all.
    """
    if free is None:
        return gradient - by_area * (gradient.sum(1, keepdim=True) / positive_sum(by_area))
    return gradient - by_area * ((gradient * free).sum(1, keepdim=True) / positive_sum(by_area * free))


def positive_sum(by_area: Tensor) -> Tensor:
    """The sums (B, 1) of derivatives (B, D) of the area, safe to divide by."""
    return by_area.sum(1, keepdim=True).clamp(min=1e-30)


_LOGIT_EPS = 1e-4  # parameters of exactly 0 or 1 would have no finite logit
_MARGIN = 0.02  # below the family's largest area, where the shift is well conditioned


def at_area(p: Tensor, area: float | Tensor, bound: BoundMask) -> Tensor:
    """Parameters p (B, D), shifted in their logits so that their masks have the area, or ``fit_limit`` if it is larger.

    The area is one for all rows, or one for each (B,). Rows that already have it do not change: their parameters of
    exactly 0 and 1 have no finite logits.
    """
    area = _by_row(area, p).clamp(max=fit_limit(bound))
    logits = torch.logit(p, eps=_LOGIT_EPS)
    fitted = fit_area(logits, area, bound, shift=torch.zeros_like(logits[:, 0]))[0]
    excess = torch.logit(bound.area(bound.grid_values(p)), eps=1e-12) - torch.logit(area)
    return torch.where((excess.abs() < _LOOSE * _TOLERANCE[p.dtype])[:, None], p, fitted)


def project(values: Tensor, area: float | Tensor, bound: BoundMask) -> Tensor:
    r"""Parameters (B, D) in [0, 1] whose masks have the area: the values less a shift, :math:`clamp(v - \tau, 0, 1)`.

    Where the area is linear in the parameters and all have the same weight, this is the Euclidean projection of the
    values (B, D). The area, one for all rows or one for each (B,), is at most ``fit_limit(bound)``.
    """
    steps = _PROJECTION_STEPS if _tests_convergence(values) else _UNTESTED_PROJECTION_STEPS
    start = torch.zeros_like(values[:, 0])
    return _clipped(values - _solve_shift(values, area, bound, _clipped, start, steps)[:, None])[0]


def mask_of_area(p: Tensor, area: float | Tensor, bound: BoundMask) -> Tensor:
    """The masks of parameters p (B, D), shifted to have exactly the area, one for all rows or one for each (B,).

    The family's largest mask keeps a little less than everything, because its smooth maximum stays below 1. Masks of
    areas near 1 are moved towards all ones, which area 1 reaches exactly.
    """
    grid_values = bound.grid_values(at_area(p, area, bound))
    mask, area = bound.expand(grid_values), _by_row(area, p)
    covered = bound.area(grid_values)
    lift = ((area - covered) / (1 - covered)).where(area > fit_limit(bound), 0)
    return torch.lerp(mask, torch.ones_like(mask), lift.view(-1, *[1] * (mask.dim() - 1)))


def fit_limit(bound: BoundMask) -> float:
    """The largest area that :func:`fit_area` meets."""
    return bound.largest_area - _MARGIN


_FIRST_TEST = 2  # the step at which convergence is first tested
_UNTESTED_STEPS = 12  # taken instead on another device, where each test would wait for it; few rows need more than 8
_TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}  # of the area's log-odds: about their rounding error
_LOOSE = 10.0  # times the tolerance, for masks that are not to change if they have the area already
_PROJECTION_STEPS, _UNTESTED_PROJECTION_STEPS = 20, 6  # the next projection corrects what is left of the last one


def _by_row(area: float | Tensor, rows: Tensor) -> Tensor:
    """An area for each of the rows (B, D), (B,)."""
    if isinstance(area, Tensor):
        return area.to(rows).expand(len(rows))
    return rows.new_full((len(rows),), area)  # which, unlike a tensor made of a number, no device is waited for


def _tests_convergence(rows: Tensor) -> bool:
    """Whether a solution stops as soon as all rows have converged, and not after a fixed number of steps."""
    return rows.device.type == "cpu"


_Curve = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From shifted values to parameters in [0, 1] and their derivatives."""


def _logistic(shifted: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.sigmoid(shifted)
    return p, p * (1 - p)


def _clipped(shifted: Tensor) -> tuple[Tensor, Tensor]:
    p = shifted.clamp(0, 1)
    return p, (p == shifted).to(p)


def _solve_shift(
    values: Tensor, area: float | Tensor, bound: BoundMask, curve: _Curve, shift: Tensor | None, steps: int
) -> Tensor:
    """The shift (B,) that gives the masks of curve(values - shift) the area."""
    goal = torch.logit(_by_row(area, values))
    low, high = values.amin(1) - 20, values.amax(1) + 20  # everything kept, nothing kept
    shift = values.mean(1) if shift is None else shift.clamp(low, high)
    before = torch.full_like(shift, math.inf)
    for step in range(steps):
        p, by_value = curve(values - shift[:, None])
        here = bound.linearised(p)
        covered = here.area
        excess = torch.logit(covered, eps=1e-12) - goal
        found = excess.abs() < _TOLERANCE[values.dtype]
        if step >= _FIRST_TEST and _tests_convergence(values) and bool(found.all()):
            break
        (gradient,) = here.gradients(here.area_by_grid)
        slope = -(gradient * by_value).sum(1)
        odds = covered * (1 - covered)
        low, high = torch.where(excess > 0, shift, low), torch.where(excess < 0, shift, high)
        newton = shift - excess * odds / slope.clamp(max=-1e-30)
        # Newton's steps may oscillate between two distant points. Where the last one did harm, halve the interval.
        trusted = (newton > low) & (newton < high) & (excess.abs() < before)
        before = excess.abs()
        shift = torch.where(found, shift, torch.where(trusted, newton, (low + high) / 2))
    return shift
