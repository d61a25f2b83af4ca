r"""The model's side: masks in, scores out.

An :class:`Objective` knows how the model is called, which of its outputs is :math:`\Phi`, how many perturbed inputs go
through it at once, and in which precision. It knows nothing about the search.

Shapes: N inputs (N, C, *S), R masks an input as rows (R N, 1, *S), mask-major; scores (R, N). For the channels of a
layer the inputs are its activations, and the rows (R N, K). Of feature groups there is one tensor of masks for all
inputs together, rows (R N, G). A perturbation of M samples turns R N rows into M R N inputs, sample-major.
"""

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

_GRADIENT_SCALE = 256.0  # lifts the gradients of a half-precision forward out of the subnormal range

Tensors = tuple[Tensor, ...]
"""One tensor for each input tensor of the model."""


class Objective:
    """The score of a model at its target, as a function of masks over its inputs.

    Args:
        forward_func: the model or a wrapper of it, as Captum takes it.
        inputs: the input tensors, each (N, C, *S).
        perturbations: how each of them is perturbed by its masks.
        hidden: the fully perturbed inputs, in the shapes of ``inputs``, or M N of them.
        target, additional_forward_args: as Captum takes them, for the N examples.
        perturbations_per_eval: how many perturbed copies of every image go through the model at once; None for all.
        caller: the autocast state in which the model runs; None for the present one.
        differentiable: whether the scores must carry a gradient. False where they are only measured.
        spread: from the masks to one tensor for each input; None where they are that already.

    Attributes:
        clean: the score (N,) of the inputs.
        perturbed: the score (N,) of the fully perturbed inputs.
        hidden: the fully perturbed inputs.
        samples: M, how many perturbed copies of an image each mask needs.

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
        spread: Callable[[Tensors], Tensors] | None = None,
    ) -> None:
        self._forward_func = forward_func
        self._inputs = inputs
        self._perturbations = perturbations
        self._spread = spread
        self.samples = max(samples_of(perturb) for perturb in perturbations)
        self._target = target
        self._arguments = additional_forward_args
        self._at_once = perturbations_per_eval
        self._precision = caller or ForwardPrecision(inputs[0].device)
        self.images = len(inputs[0])
        self.hidden = hidden
        self.clean = self._checked_clean_score(differentiable)
        with torch.no_grad():
            rows = tuple(h.to(x.dtype) for h, x in zip(hidden, inputs))
            self.perturbed = self._averaged(self._scores(rows, None).to(self.clean))[0]
        if bool(self.perturbed.isnan().any()):
            raise ValueError(
                f"forward_func's output for the fully perturbed inputs must not be NaN, got {self.perturbed.tolist()}"
            )

    def measure(self, masks: Tensors) -> tuple[Tensor, Tensor]:
        """Scores (R, N) of what the masks keep and of what they remove, without gradients."""
        return self.value(masks), self.value(masks, kept=0.0, removed=1.0)

    @torch.no_grad()
    def value(
        self, masks: Tensors, kept: float = 1.0, removed: float = 0.0, *, precision: torch.dtype | None = None
    ) -> Tensor:
        """The value (R, N) of :meth:`value_and_grad` alone."""
        rows, factors = _sides(masks, kept, removed)
        scores = [self._scores(self._perturbed(chunk, flip=False), precision) for chunk in self._chunks(rows)]
        averaged = torch.cat([self._averaged(of_chunk.to(masks[0].dtype)) for of_chunk in scores])
        return _combined(averaged, factors)

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
        rows, factors = _sides(masks, kept, removed)
        scores, gradients = [], []
        for chunk in self._chunks(rows):
            score, gradient = self._score_and_gradients(chunk, precision, flip)
            scores.append(score)
            gradients.append(gradient)
        by_side = [torch.cat(parts) for parts in zip(*gradients)]
        # The removed masks are 1 - m, whose derivative by m is -1. A weight of 0 has no rows, so no factor.
        by_mask = [kept, -removed] if len(factors) > 1 else [kept or -removed]
        return _combined(torch.cat(scores), factors), tuple(_combined(part, by_mask) for part in by_side)

    def _chunks(self, masks: Tensors) -> list[Tensors]:
        at_once = len(masks[0]) if self._at_once is None else max(1, self._at_once // self.samples) * self.images
        return list(zip(*(torch.split(mask, at_once) for mask in masks)))

    def _perturbed(self, masks: Tensors, flip: bool) -> Tensors:
        """The inputs (M R N, ...) under one chunk of masks."""
        spread = masks if self._spread is None else self._spread(masks)
        perturbed = tuple(
            perturb(mask).to(x.dtype) for perturb, mask, x in zip(self._perturbations, spread, self._inputs)
        )
        return tuple(x.flip(-1) for x in perturbed) if flip else perturbed

    def _score_and_gradients(self, masks: Tensors, precision: torch.dtype | None, flip: bool) -> tuple[Tensor, Tensors]:
        """The scores (R, N) of one chunk of masks, and their gradients by the masks."""
        with torch.enable_grad():
            leaves = tuple(mask.detach().requires_grad_() for mask in masks)
            perturbed = self._perturbed(leaves, flip)
            if len(self._parts(perturbed)) == 1:
                score = self._averaged(self._call(perturbed, precision).to(masks[0].dtype))
                return score.detach(), _gradients(score, leaves)
            # So many samples that they go through the model in parts, whose memory is that of one part.
            scores, by_input = [], []
            for part in self._parts(perturbed):
                rows = tuple(x.detach().requires_grad_() for x in part)
                score = self._call(tuple(map(torch.clone, rows)), precision).to(masks[0].dtype)
                by_input.append(_gradients(score / self.samples, rows))
                scores.append(score.detach())
            gradients = tuple(map(torch.cat, zip(*by_input)))
            by_mask = torch.autograd.grad(perturbed, leaves, gradients, allow_unused=True)
        found = tuple(torch.zeros_like(mask) if one is None else one for mask, one in zip(masks, by_mask))
        return self._averaged(torch.cat(scores)), found

    def _scores(self, inputs: Tensors, precision: torch.dtype | None) -> Tensor:
        """One score for each row (M R N, ...) of the inputs, without gradients."""
        return torch.cat([self._call(part, precision) for part in self._parts(inputs)])

    def _parts(self, inputs: Tensors) -> list[Tensors]:
        """The rows (M R N, ...) of the inputs, as many at once as the model may be given."""
        at_once = len(inputs[0]) if self._at_once is None or self.samples == 1 else self._at_once * self.images
        return list(zip(*(torch.split(x, at_once) for x in inputs)))

    def _averaged(self, scores: Tensor) -> Tensor:
        """The mean over the samples of scores (M R N,): (R, N)."""
        return scores.view(self.samples, -1, self.images).mean(0) if self.samples > 1 else scores.view(-1, self.images)

    def _call(self, inputs: Tensors, precision: torch.dtype | None) -> Tensor:
        """One score for each row of the inputs. Outputs with positions are averaged over them."""
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
        """The score of the unperturbed inputs, the only forward whose output is checked in full."""
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


def samples_of(perturb: BoundPerturbation) -> int:
    """M, how many perturbed inputs a perturbation makes of one mask."""
    return int(getattr(perturb, "samples", 1))


def mean_over_positions(scores: Tensor) -> Tensor:
    """One score per row (N,), from scores (N, ...) that may still have positions."""
    return scores.flatten(1).mean(1) if scores.dim() > 1 else scores


def select_checked(output: Any, target: TargetType, images: int) -> Tensor:
    """The output at the target.

    Raises:
        TypeError, ValueError: the output cannot be explained, or does not contain the target.
    """
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
    every later step.
    """
    scaled = torch.autograd.grad(scores.sum() * _GRADIENT_SCALE, masks, allow_unused=True)
    return tuple(
        torch.zeros_like(mask) if part is None else torch.nan_to_num(part / _GRADIENT_SCALE, 0.0, 0.0, 0.0)
        for mask, part in zip(masks, scaled)
    )
