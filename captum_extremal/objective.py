r"""The model's side: masks in, scores out.

An :class:`Objective` knows everything about the model and nothing about the search: how it is called, which output
is meant (:math:`\Phi`), how many perturbed inputs fit through it at once, and in which precision.

Shapes: N inputs (N, C, *S), R masks an input as rows (R N, 1, *S), mask-major; scores (R, N). For the channels of a
layer the inputs are its activations, and the rows (R N, K).
"""

from __future__ import annotations

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
from captum_extremal.perturbations import BoundPerturbation
from captum_extremal.search.games import Game

_GRADIENT_SCALE = 256.0  # lifts the gradients of a half-precision forward out of the subnormal range

Masks = tuple[Tensor, ...]
"""One tensor of masks for each input tensor."""


class Objective:
    """The score of a model at its target, as a function of masks over its inputs.

    Args:
        forward_func: the model or a wrapper of it, as Captum takes it.
        inputs: the input tensors, each (N, C, *S).
        perturbations: how each of them is perturbed by its masks.
        target, additional_forward_args: as Captum takes them, for the N examples.
        perturbations_per_eval: how many masks of every image go through the model at once; None for all.
        caller: the autocast state in which the model runs; None for the present one.
        differentiable: whether the scores must carry a gradient; not where they are only measured.
        mask_shapes: the shape of one mask of each input tensor; None for masks over its positions, (1, *S).

    Attributes:
        clean: the score (N,) of the inputs.
        perturbed: the score (N,) of the fully perturbed inputs.

    Raises:
        TypeError, ValueError: the model's output for the unperturbed inputs is not a floating tensor with one row an
            example, does not contain the target, is not finite, or carries no gradient.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: tuple[Tensor, ...],
        perturbations: tuple[BoundPerturbation, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        perturbations_per_eval: int | None = None,
        caller: ForwardPrecision | None = None,
        differentiable: bool = True,
        mask_shapes: tuple[tuple[int, ...], ...] | None = None,
    ) -> None:
        self._forward_func = forward_func
        self._inputs = inputs
        self._perturbations = perturbations
        self._target = target
        self._arguments = additional_forward_args
        self._at_once = perturbations_per_eval
        self._precision = caller or ForwardPrecision(inputs[0].device)
        self.images = len(inputs[0])
        self.clean = self._checked_clean_score(differentiable)
        shapes = mask_shapes or [(1, *x.shape[2:]) for x in inputs]
        nothing = tuple(self.clean.new_zeros(self.images, *shape) for shape in shapes)
        with torch.no_grad():
            self.perturbed = self._forward(nothing, None, False)[0]
        if bool(self.perturbed.isnan().any()):
            raise ValueError(
                f"forward_func's output for the fully perturbed inputs must not be NaN, got {self.perturbed.tolist()}"
            )

    def measure(self, masks: Masks) -> tuple[Tensor, Tensor]:
        """Scores (R, N) of what the masks keep and of what is left without it, carrying no gradient."""
        with torch.no_grad():
            return self._scores(masks, None, False), self._scores(_complement(masks), None, False)

    def reward(
        self,
        masks: Masks,
        game: Game,
        precision: torch.dtype | None = None,
        flip: bool = False,
    ) -> Tensor:
        """The game's value (R, N), differentiable by the masks.

        Args:
            masks: one tensor of rows for each input tensor.
            game: which scores count, and how.
            precision: autocast the model's forward to this type; None leaves the caller's choice.
            flip: mirror the perturbed inputs along their last axis.
        """
        sides = []
        if game.kept:
            sides.append(masks)
        if game.removed:
            sides.append(_complement(masks))
        rows = tuple(torch.cat(side) for side in zip(*sides))
        scores = self._scores(rows, precision, flip).chunk(len(sides))
        return game.reward(scores[0], scores[-1])

    def _scores(self, masks: Masks, precision: torch.dtype | None, flip: bool) -> Tensor:
        scores: Tensor = _Scores.apply(self, precision, flip, *masks)
        return scores

    def _chunks(self, masks: Masks) -> list[Masks]:
        rows = (self._at_once or len(masks[0])) * self.images
        return list(zip(*(torch.split(mask, rows) for mask in masks)))

    def _forward(self, masks: Masks, precision: torch.dtype | None, flip: bool) -> Tensor:
        """Scores (R, N) of one chunk of masks, in the masks' precision."""
        perturbed = tuple(
            perturb(mask).to(x.dtype) for perturb, mask, x in zip(self._perturbations, masks, self._inputs)
        )
        if flip:
            perturbed = tuple(x.flip(-1) for x in perturbed)
        return self._call(perturbed, precision).to(masks[0].dtype).view(-1, self.images)

    def _call(self, inputs: tuple[Tensor, ...], precision: torch.dtype | None) -> Tensor:
        """One score for each row of the inputs; outputs with positions are averaged over them."""
        repeats = len(inputs[0]) // self.images
        with self._precision.forward(precision):
            output = run_forward(
                self._forward_func,
                inputs,
                repeat_target(self._target, repeats),
                repeat_arguments(self._arguments, repeats),
            )
        if output.dim() == 0 or len(output) != len(inputs[0]):
            raise ValueError(
                "forward_func must return one row for each example of its input, got shape "
                f"{tuple(output.shape)} for {len(inputs[0])} perturbed examples"
            )
        return mean_over_positions(output)

    def _checked_clean_score(self, differentiable: bool) -> Tensor:
        """The one forward of the unperturbed inputs, after which nothing is checked any more."""
        leaves = tuple(x.detach().requires_grad_(differentiable) for x in self._inputs)
        with torch.set_grad_enabled(differentiable), self._precision.forward():
            output = self._first_output(leaves)
            score = select_checked(output, self._target, self.images)
            if differentiable:
                _check_depends(score, leaves)
        score = mean_over_positions(score.detach())
        if not bool(score.isfinite().all()):
            raise ValueError(
                f"forward_func's output for the unperturbed inputs must be finite, got scores {score.tolist()}"
            )
        return score.to(torch.promote_types(self._inputs[0].dtype, torch.float32))  # the masks' precision

    def _first_output(self, inputs: tuple[Tensor, ...]) -> Any:
        try:
            return run_forward(self._forward_func, inputs, None, self._arguments)
        except RuntimeError as error:
            raise_hint_of_batch(inputs[0], error)
            raise


def raise_hint_of_batch(x: Tensor, error: RuntimeError) -> None:
    """Say what is likely where a model refuses its input because it is one image without a batch dimension.

    Raises:
        ValueError: the input is floating and has three dimensions.
    """
    if x.dim() == 3 and x.is_floating_point():
        raise ValueError(
            f"inputs of shape {tuple(x.shape)} are {x.shape[0]} signals of {x.shape[1]} channels, which forward_func "
            f"refuses; one image needs a batch dimension, x[None]: {error}"
        ) from error


def _check_depends(score: Tensor, leaves: tuple[Tensor, ...]) -> None:
    # The parameters alone can make a score require gradients: ask for the inputs' own.
    depends = score.requires_grad and torch.autograd.grad(score.sum(), leaves, allow_unused=True)
    if not depends or all(gradient is None for gradient in depends):
        raise ValueError(
            "forward_func must be differentiable by its inputs (or the activation of the layer that is explained), but "
            "its output carries no gradient: look for detach(), no_grad(), argmax or numpy inside it"
        )


def mean_over_positions(scores: Tensor) -> Tensor:
    """One score a row, from scores (N, ...) that may still have positions."""
    return scores.flatten(1).mean(1) if scores.dim() > 1 else scores


def select_checked(output: Any, target: TargetType, images: int) -> Tensor:
    """The output at the target, or an error that says what is wrong with either."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"forward_func must return a tensor, got {type(output).__name__}: wrap it, for example as "
            "lambda x: model(x).logits, or model(x)[0], or model(x)['out']"
        )
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


def _complement(masks: Masks) -> Masks:
    return tuple(1 - mask for mask in masks)


def _gradients(scores: Tensor, masks: Masks) -> Masks:
    """The gradients of a sum of scores; a mask that the model ignores gets zeros.

    So does a position whose gradient overflows in half precision: better no step there than a NaN in every step after.
    """
    scaled = torch.autograd.grad(scores.sum() * _GRADIENT_SCALE, masks, allow_unused=True)
    return tuple(
        torch.zeros_like(mask) if part is None else torch.nan_to_num(part / _GRADIENT_SCALE, 0.0, 0.0, 0.0)
        for mask, part in zip(masks, scaled)
    )


class _Scores(torch.autograd.Function):
    """Scores of masks, chunk by chunk, each chunk's gradient taken as soon as its forward is done.

    So memory is that of one chunk, however many masks there are. Right because a score depends on its own row
    alone, so that the gradient of the sum of the scores holds each row's own.
    """

    @staticmethod
    def forward(ctx: Any, objective: Objective, precision: torch.dtype | None, flip: bool, *masks: Tensor) -> Tensor:
        differentiate = any(ctx.needs_input_grad)
        scores, gradients = [], []
        for chunk in objective._chunks(masks):
            if not differentiate:
                with torch.no_grad():
                    scores.append(objective._forward(chunk, precision, flip))
                continue
            with torch.enable_grad():
                leaves = tuple(mask.detach().requires_grad_() for mask in chunk)
                score = objective._forward(leaves, precision, flip)
                found = _gradients(score, leaves)
            scores.append(score.detach())
            gradients.append(found)
        ctx.save_for_backward(*(torch.cat(parts) for parts in zip(*gradients)))
        return torch.cat(scores)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        upstream = grads[0].flatten()
        by_mask = (gradient * upstream.view(-1, *[1] * (gradient.dim() - 1)) for gradient in ctx.saved_tensors)
        return None, None, None, *by_mask
