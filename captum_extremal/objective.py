r"""The model's side: masks in, scores out.

An :class:`Objective` knows how the model is called, which of its outputs is :math:`\Phi`, how many perturbed inputs go
through it at once, and in which precision. It knows nothing about the search.

Shapes: N inputs (N, C, *S), R masks an input as rows (R N, 1, *S), mask-major; scores (R, N). For the channels of a
layer the inputs are its activations, and the rows (R N, K).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import (
    TargetType,
    repeat_arguments,
    repeat_target,
    run_forward,
    select_target,
)
from captum_extremal._state import ForwardPrecision
from captum_extremal.outputs import at_place, place_of_scores
from captum_extremal.perturbations import BoundPerturbation

_GRADIENT_SCALE = 256.0  # lifts the gradients of a half-precision forward out of the subnormal range

Tensors = tuple[Tensor, ...]
"""One tensor for each input tensor of the model."""


class Objective:
    """The score of a model at its target, as a function of masks over its inputs.

    Args:
        forward_func: the model or a wrapper of it, as Captum takes it.
        inputs: the input tensors, each (N, C, *S).
        perturbations: how each of them is perturbed by its masks.
        hidden: the fully perturbed inputs, in the shapes of ``inputs``.
        target, additional_forward_args: as Captum takes them, for the N examples.
        perturbations_per_eval: how many masks of every image go through the model at once; None for all.
        caller: the autocast state in which the model runs; None for the present one.
        differentiable: whether the scores must carry a gradient. False where they are only measured.

    Attributes:
        clean: the score (N,) of the inputs.
        perturbed: the score (N,) of the fully perturbed inputs.
        hidden: the fully perturbed inputs.

    Raises:
        TypeError, ValueError: the model's output for the unperturbed inputs is not a floating tensor with one row per
            example, does not contain the target, is not finite, or carries no gradient.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensors,
        perturbations: tuple[BoundPerturbation, ...],
        hidden: Tensors,
        target: TargetType = None,
        additional_forward_args: object = None,
        perturbations_per_eval: int | None = None,
        caller: ForwardPrecision | None = None,
        differentiable: bool = True,
    ) -> None:
        self._forward_func = forward_func
        self._inputs = inputs
        self._perturbations = perturbations
        self._target = target
        self._arguments = additional_forward_args
        self._at_once = perturbations_per_eval
        self._precision = caller or ForwardPrecision(inputs[0].device)
        self.images = len(inputs[0])
        self.hidden = hidden
        self._allowed: Tensors | None = None
        self.clean = self._checked_clean_score(differentiable)
        with torch.no_grad():
            self.perturbed = self._call(tuple(h.to(x.dtype) for h, x in zip(hidden, inputs)), None).to(self.clean)
        if bool(self.perturbed.isnan().any()):
            raise ValueError(
                f"forward_func's output for the fully perturbed inputs must not be NaN, got {self.perturbed.tolist()}"
            )

    def apart_from(self, forbidden: Tensors) -> Objective:
        """The same objective for masks m that count as m (1 - f), with f (N, *mask_shape) in [0, 1] for each input."""
        other = copy.copy(self)
        other._allowed = tuple(1 - part for part in forbidden)
        return other

    def measure(self, masks: Tensors) -> tuple[Tensor, Tensor]:
        """Scores (R, N) of what the masks keep and of what they remove, without gradients."""
        return self.value(masks), self.value(masks, kept=0.0, removed=1.0)

    @torch.no_grad()
    def value(
        self, masks: Tensors, kept: float = 1.0, removed: float = 0.0, *, precision: torch.dtype | None = None
    ) -> Tensor:
        """The value (R, N) of :meth:`value_and_grad` alone."""
        rows, factors = _sides(self._within(masks), kept, removed)
        scores = torch.cat([self._forward(chunk, precision, flip=False) for chunk in self._chunks(rows)])
        return _combined(scores, factors)

    def value_and_grad(
        self,
        masks: Tensors,
        kept: float = 1.0,
        removed: float = 0.0,
        *,
        precision: torch.dtype | None = None,
        flip: bool = False,
    ) -> tuple[Tensor, Tensors]:
        r"""The weighted sum of :math:`\Phi(m \otimes x)` and :math:`\Phi((1 - m) \otimes x)`, and its gradient.

        A score depends on its own row alone, so the gradient of the sum of all scores holds each row's own, and each
        chunk's gradient can be taken as soon as its forward is done. The memory is that of one chunk.

        Args:
            masks: R N rows for each input tensor.
            kept, removed: the weights of the two scores. A score of weight 0 is not computed.
            precision: autocast the model's forward to this type; None leaves the caller's choice.
            flip: mirror the perturbed inputs along their last axis.

        Returns:
            the value (R, N), and its gradient by each tensor of masks.
        """
        rows, factors = _sides(self._within(masks), kept, removed)
        scores, gradients = [], []
        for chunk in self._chunks(rows):
            with torch.enable_grad():
                leaves = tuple(mask.detach().requires_grad_() for mask in chunk)
                score = self._forward(leaves, precision, flip)
                gradients.append(_gradients(score, leaves))
            scores.append(score.detach())
        by_side = [torch.cat(parts) for parts in zip(*gradients)]
        # The removed masks are 1 - m, whose derivative by m is -1. A weight of 0 has no rows, so no factor.
        by_mask = [kept, -removed] if len(factors) > 1 else [kept or -removed]
        found = self._within(tuple(_combined(part, by_mask) for part in by_side))
        return _combined(torch.cat(scores), factors), found

    def _within(self, masks: Tensors) -> Tensors:
        """Masks, or gradients by them, where they count: all of them, or what is not forbidden."""
        if self._allowed is None:
            return masks
        each = (one.repeat(len(mask) // len(one), *[1] * (one.dim() - 1)) for mask, one in zip(masks, self._allowed))
        return tuple(mask * one for mask, one in zip(masks, each))

    def _chunks(self, masks: Tensors) -> list[Tensors]:
        rows = (self._at_once or len(masks[0])) * self.images
        return list(zip(*(torch.split(mask, rows) for mask in masks)))

    def _forward(self, masks: Tensors, precision: torch.dtype | None, flip: bool) -> Tensor:
        """Scores (R, N) of one chunk of masks, in the masks' precision."""
        perturbed = tuple(
            perturb(mask).to(x.dtype) for perturb, mask, x in zip(self._perturbations, masks, self._inputs)
        )
        if flip:
            perturbed = tuple(x.flip(-1) for x in perturbed)
        return self._call(perturbed, precision).to(masks[0].dtype).view(-1, self.images)

    def _call(self, inputs: Tensors, precision: torch.dtype | None) -> Tensor:
        """One score for each row of the inputs. Outputs with positions are averaged over them."""
        repeats = len(inputs[0]) // self.images
        with self._precision.forward(precision):
            output = run_forward(self._forward_func, inputs, None, repeat_arguments(self._arguments, repeats))
            scores = at_place(output, self._place)
            if scores.dim() == 0 or len(scores) != len(inputs[0]):
                raise ValueError(
                    "forward_func must return one row for each example of its input, got shape "
                    f"{tuple(scores.shape)} for {len(inputs[0])} perturbed examples"
                )
            score = select_target(scores, repeat_target(self._target, repeats))
        return mean_over_positions(score)

    def _checked_clean_score(self, differentiable: bool) -> Tensor:
        """The score of the unperturbed inputs, the only forward whose output is checked in full."""
        leaves = tuple(x.detach().requires_grad_(differentiable) for x in self._inputs)
        with torch.set_grad_enabled(differentiable), self._precision.forward():
            output = self._first_output(leaves)
            # Later outputs, for other numbers of rows, are read at the same place.
            self._place = place_of_scores(output, self.images)
            score = select_checked(at_place(output, self._place), self._target, self.images)
            if differentiable:
                _check_depends(score, leaves)
        score = mean_over_positions(score.detach())
        if not bool(score.isfinite().all()):
            raise ValueError(
                f"forward_func's output for the unperturbed inputs must be finite, got scores {score.tolist()}"
            )
        return score.to(torch.promote_types(self._inputs[0].dtype, torch.float32))  # the masks' precision

    def _first_output(self, inputs: Tensors) -> Any:
        try:
            return run_forward(self._forward_func, inputs, None, self._arguments)
        except RuntimeError as error:
            raise_hint_of_batch(inputs[0], error)
            raise


def raise_hint_of_batch(x: Tensor, error: RuntimeError) -> None:
    """Explain an error of the model that an image without a batch dimension may have caused.

    Raises:
        ValueError: the input is floating and has three dimensions.
    """
    if x.dim() == 3 and x.is_floating_point():
        raise ValueError(
            f"inputs of shape {tuple(x.shape)} are {x.shape[0]} signals of {x.shape[1]} channels, which forward_func "
            f"refuses; one image needs a batch dimension, x[None]: {error}"
        ) from error


def _check_depends(score: Tensor, leaves: Tensors) -> None:
    # The parameters alone can make a score require gradients: ask for the inputs' own.
    depends = score.requires_grad and torch.autograd.grad(score.sum(), leaves, allow_unused=True)
    if not depends or all(gradient is None for gradient in depends):
        raise ValueError(
            "forward_func must be differentiable by its inputs (or the activation of the layer that is explained), but "
            "its output carries no gradient: look for detach(), no_grad(), argmax or numpy inside it"
        )


def mean_over_positions(scores: Tensor) -> Tensor:
    """One score per row (N,), from scores (N, ...) that may still have positions."""
    return scores.flatten(1).mean(1) if scores.dim() > 1 else scores


def select_checked(output: Tensor, target: TargetType, images: int) -> Tensor:
    """The output at the target.

    Raises:
        TypeError, ValueError: the output cannot be explained, or does not contain the target.
    """
    if not output.is_floating_point():
        raise TypeError(f"forward_func must return a floating tensor, got {output.dtype}")
    if output.dim() == 0 or len(output) != images:
        raise ValueError(
            "forward_func must return one row for each example of its input, "
            f"got shape {tuple(output.shape)} for {images} examples"
        )
    if target is None:
        if output.dim() > 1 and output.shape[1] != 1:
            raise ValueError(
                "target None needs one score for each example, got an output of shape "
                f"{tuple(output.shape)}: give target=..., by keyword"
            )
        return output
    try:
        return select_target(output, target)
    except (AssertionError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"target must lie within the output, whose shape is {tuple(output.shape)}, got {target!r}: {error}"
        ) from error


def _sides(masks: Tensors, kept: float, removed: float) -> tuple[Tensors, list[float]]:
    """The masks of what is kept, then those of what is removed, and their weights; none of weight 0."""
    factors = [weight for weight in (kept, removed) if weight]
    if not removed:
        return masks, factors
    complements = tuple(1 - mask for mask in masks)
    return (tuple(map(torch.cat, zip(masks, complements))) if kept else complements), factors


def _combined(rows: Tensor, factors: list[float]) -> Tensor:
    """The sum of equal parts of the rows, each multiplied by its factor."""
    first, *rest = (factor * part for factor, part in zip(factors, rows.chunk(len(factors))))
    return first + rest[0] if rest else first


def _gradients(scores: Tensor, masks: Tensors) -> Tensors:
    """The gradients of a sum of scores. A mask that the model ignores gets zeros.

    So does a position whose gradient overflows in half precision: a missing step there does less harm than a NaN in
    every later step. And so do all masks under which nothing is left that the score depends on, as for a detector
    that finds nothing.
    """
    if not scores.requires_grad:
        return tuple(map(torch.zeros_like, masks))
    scaled = torch.autograd.grad(scores.sum() * _GRADIENT_SCALE, masks, allow_unused=True)
    return tuple(
        torch.zeros_like(mask) if part is None else torch.nan_to_num(part / _GRADIENT_SCALE, 0.0, 0.0, 0.0)
        for mask, part in zip(masks, scaled)
    )
