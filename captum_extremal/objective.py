r"""The model's side: masks in, scores out.

An :class:`Objective` knows how the model is called, which of its outputs is :math:`\Phi`, how many perturbed inputs go
through it at once, and in which precision. It knows nothing about the search.

Shapes: N inputs (N, C, *S), R masks an input as rows (R N, 1, *S), mask-major; scores (R, N). For the channels of a
layer the inputs are its activations, and the rows (R N, K). Of feature groups there is one tensor of masks for all
inputs together, rows (R N, G). A perturbation of M samples turns R N rows into M R N inputs, sample-major.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from captum_extremal._autograd import gradients
from captum_extremal._captum import (
    TargetType,
    repeat_arguments,
    repeat_target,
    run_forward,
    select_target,
)
from captum_extremal._memory import fitting_rows, held, is_out_of_memory
from captum_extremal._state import ForwardPrecision, warn_caller
from captum_extremal.first_run import MODEL_ERRORS, Tensors, fails, first_run, mean_over_positions, select_checked
from captum_extremal.outputs import at_place, place_of_scores
from captum_extremal.perturbations import BoundPerturbation

_GRADIENT_SCALE = 256.0  # lifts the gradients of a half-precision forward out of the subnormal range
# Values of the inputs. With more at once a CPU gains little and needs more memory, and rounding depends on the batch,
# which a search amplifies.
_ENOUGH_AT_ONCE = 3 * 224 * 224

_SAME = 0.02  # of a score's size: by less, a batch of another size may change it by rounding, in half precision too

_T = TypeVar("_T")


@dataclass
class Batching:
    """What is found out about a model: how many examples may go through it at once."""

    several: bool = True  # masks of each image
    apart: bool = True  # whether a search may send images one after the other,
    tried: bool = False  # as one image has shown
    rows: int | None = None  # the most examples that have room at once; None while all had

    def halve(self, tried: int, least: int) -> bool:
        """Send half as many examples at once as were tried, but no fewer than ``least``. Whether that is less."""
        tried = min(tried, self.rows or tried)
        self.rows = max(least, tried // 2)
        return self.rows < tried


@dataclass(frozen=True)
class Known:
    """What an objective of some of the images need not find out anew: the scores (n,), and where outputs have them."""

    clean: Tensor
    perturbed: Tensor
    place: Any


class Objective:
    """The score of a model at its target, as a function of masks over its inputs.

    Args:
        forward_func: the model or a wrapper of it, as Captum takes it.
        inputs: the input tensors, each (N, C, *S).
        perturbations: how each of them is perturbed by its masks.
        hidden: the fully perturbed inputs, in the shapes of ``inputs``, or M N of them.
        target, additional_forward_args: as Captum takes them, for the N examples.
        perturbations_per_eval: how many perturbed copies of every image go through the model at once; None for all that
            have room: after an error of memory, half as many examples are tried, down to a part of the images. A search
            on a CPU sends large inputs through the model one after the other.
        caller: the autocast state in which the model runs; None for the present one.
        differentiable: whether the scores must carry a gradient. False where they are only measured; then the fully
            perturbed inputs may have no score (NaN).
        may_be_constant: whether a score without any gradient is accepted where it is a constant, which the perturbed
            inputs tell.
        batching: what is known of the model, shared by objectives of the same one.
        spread: from the masks to one tensor for each input; None where they are that already.
        known: from an objective of more images, with which the model does not run, and nothing is checked.
        splits_images: whether a part of the images may go through the model alone.

    Attributes:
        clean: the score (N,) of the inputs.
        perturbed: the score (N,) of the fully perturbed inputs.
        hidden: the fully perturbed inputs.
        samples: M, how many perturbed copies of an image each mask needs.

    Raises:
        TypeError, ValueError: the model's output for the unperturbed inputs is not a floating tensor with one row per
            example, does not contain the target, is not finite, or carries no gradient, or the score of the fully
            perturbed inputs is NaN.
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
        may_be_constant: bool = True,
        batching: Batching | None = None,
        spread: Callable[[Tensors], Tensors] | None = None,
        known: Known | None = None,
        splits_images: bool = True,
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
        self._batching = batching or Batching()
        self.images = len(inputs[0])
        self.hidden = hidden
        self._allowed: Tensors | None = None
        self._least = 1 if splits_images else self.images
        self._enough_rows = self._enough_for_cpu() if perturbations_per_eval is None and splits_images else None
        if known is not None:
            self.clean, self.perturbed, self._place = known.clean, known.perturbed, known.place
            return
        before = held(inputs[0].device)
        self.clean, has_gradient = self._fitting(self.images, lambda: self._checked_clean_score(differentiable))
        if perturbations_per_eval is None and differentiable and self._batching.rows is None:
            self._batching.rows = fitting_rows(inputs[0].device, before, self.images)
        if differentiable and not may_be_constant:
            _check_depends(has_gradient is not None)
        with torch.no_grad():
            rows = tuple(h.to(x.dtype) for h, x in zip(hidden, inputs))
            scores = self._fitting(len(rows[0]), lambda: self._scores(rows, None))
            self.perturbed = self._averaged(scores.to(self.clean))[0]
        if differentiable:
            self._check_search(has_gradient)

    def known_of(self, rows: Tensor) -> Known:
        """What an objective of the images of some rows (n,) need not find out anew."""
        return Known(self.clean[rows], self.perturbed[rows], self._place)

    @property
    def examples_at_once(self) -> int | None:
        """The most examples that have room in the model at once; None while all had."""
        return self._batching.rows

    def _check_search(self, has_gradient: Tensor | None) -> None:
        """Check that masks can be sought, and warn of images whose clean score has no gradient.

        Args:
            has_gradient: (N,) bool; None for a score that depends on no input.
        """
        if bool(self.perturbed.isnan().any()):
            raise ValueError(
                "forward_func's output for the fully perturbed inputs must not be NaN, got "
                f"{self.perturbed.tolist()}: a model that standardises each image has none for an image of one colour, "
                "which a fade to a constant baseline makes and a blur does not"
            )
        # A constant, such as the score of a detector that finds nothing, has no gradient, and that is no fault.
        _check_depends(has_gradient is not None or not bool((self.perturbed != self.clean).any()))
        known = [False] * self.images if has_gradient is None else has_gradient.tolist()
        if rows := [n for n, found in enumerate(known) if not found]:
            warn_caller(
                f"forward_func has no gradient at examples {rows}: its score is constant there, as that of a detector "
                "that finds nothing, or saturated, or not differentiable; a search has little to go by"
            )

    @torch.no_grad()
    def score_of_inputs(self) -> Tensor:
        """The score (N,) of the inputs, measured once more."""
        return self._scores(self._inputs, None)

    def splits(self, alone: Callable[[int], Tensor]) -> bool:
        """Whether images may go through the model without the others, as one shows that has the same score (1,) alone.

        A function around a model may hold values for each image of the batch, and then fails or has another score.
        """
        known, last = self._batching, self.images - 1
        if known.apart and not known.tried:
            known.tried = True
            try:
                score = alone(last)
            except MODEL_ERRORS as error:
                if is_out_of_memory(error):
                    raise
                known.apart = False
            else:
                known.apart = bool(same_scores(score.to(self.clean), self.clean[last], self.perturbed[last]))
        return known.apart

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
        self,
        masks: Tensors,
        kept: float = 1.0,
        removed: float = 0.0,
        *,
        precision: torch.dtype | None = None,
        as_in_search: bool = False,
    ) -> Tensor:
        """The value (R, N) of :meth:`value_and_grad` alone.

        It is measured by the forward pass of all images together, or ``as_in_search`` by that of as many at once as
        gradients are taken of, so that a search compares values whose rounding does not depend on the batch.
        """
        rows, factors = _sides(self._within(masks), kept, removed)

        def score(chunk: Tensors) -> Tensor:
            return self._scores(self._perturbed(chunk, flip=False), precision, self._enough if as_in_search else None)

        scores = [
            self._fitting(len(chunk[0]) * self.samples, partial(score, chunk), as_in_search)
            for chunk in self._chunks(rows)
        ]
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
        rows, factors = _sides(self._within(masks), kept, removed)
        scores, slopes = [], []
        for chunk in self._chunks(rows):
            score, by_chunk = self._fitting(
                len(chunk[0]) * self.samples, partial(self._score_and_gradients, chunk, precision, flip), True
            )
            scores.append(score)
            slopes.append(by_chunk)
        by_side = [torch.cat(parts) for parts in zip(*slopes)]
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
        at_once = self._copies_at_once
        rows = len(masks[0]) if at_once is None else max(1, at_once // self.samples) * self.images
        return list(zip(*(torch.split(mask, rows) for mask in masks)))

    @property
    def _copies_at_once(self) -> int | None:
        """How many perturbed copies of every image go through the model at once; None for all."""
        return self._at_once if self._batching.several else 1

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
            parts = self._parts(perturbed, self._enough)
            if len(parts) == 1:
                score = self._averaged(self._call(perturbed, precision).to(masks[0].dtype))
                return score.detach(), _gradients(score, leaves)
            # They go through the model in parts, whose memory is that of one part.
            scores, by_input = [], []
            for first, part in parts:
                rows = tuple(x.detach().requires_grad_() for x in part)
                score = self._call(tuple(map(torch.clone, rows)), precision, first).to(masks[0].dtype)
                by_input.append(_gradients(score / self.samples, rows))
                scores.append(score.detach())
            weights = tuple(map(torch.cat, zip(*by_input)))
            by_mask = gradients(perturbed, leaves, weights, allow_unused=True)
        found = tuple(torch.zeros_like(mask) if one is None else one for mask, one in zip(masks, by_mask))
        return self._averaged(torch.cat(scores)), found

    def _scores(self, inputs: Tensors, precision: torch.dtype | None, enough: int | None = None) -> Tensor:
        """One score for each row (M R N, ...) of the inputs, without gradients."""
        return torch.cat([self._call(part, precision, first) for first, part in self._parts(inputs, enough)])

    def _enough_for_cpu(self) -> int | None:
        """How many examples at once are enough for a CPU; None elsewhere, or if arguments cannot be cut by example."""
        device = self._inputs[0].device
        if device.type != "cpu" or not _is_by_example(self._arguments):
            return None
        values = sum(x[0].numel() for x in self._inputs)
        return -(-_ENOUGH_AT_ONCE // max(1, values))

    @property
    def _enough(self) -> int | None:
        """How many examples at once a search sends through the model; None for all."""
        enough = self._enough_rows
        return enough if enough is None or enough >= self.images or self.splits(self._last_alone) else None

    @torch.no_grad()
    def _last_alone(self, last: int) -> Tensor:
        return self._run(tuple(x[last:] for x in self._inputs), None, last)

    def _parts(self, inputs: Tensors, enough: int | None = None) -> list[tuple[int, Tensors]]:
        """The rows (M R N, ...) of the inputs, as many at once as the model may be given, with the first's number.

        Args:
            inputs: the rows.
            enough: more than these at once are of no use; None where more are.
        """
        copies, limits = self._copies_at_once, [self._batching.rows, enough]
        at_once = len(inputs[0]) if copies is None or self.samples == 1 else copies * self.images
        for room in limits:
            if room is not None:
                at_once = min(at_once, room // self.images * self.images or max(room, self._least))
        parts = zip(*(torch.split(x, at_once) for x in inputs))
        return list(zip(range(0, len(inputs[0]), at_once), parts))

    def _fitting(self, tried: int, work: Callable[[], _T], as_in_search: bool = False) -> _T:
        """The result of some work that sends so many examples through the model, as many at once as have room.

        Where a search sends them in parts, an error may be that the model takes no part of its images.
        """
        while True:
            try:
                return work()
            except MODEL_ERRORS as error:
                if is_out_of_memory(error):
                    if self._at_once is not None or not self._batching.halve(tried, self._least):
                        raise
                elif not as_in_search or self._enough is None or tried <= self._enough:
                    raise
                else:
                    self._batching.apart = False
            # The error is gone here, and with it what it held of the memory.

    def _averaged(self, scores: Tensor) -> Tensor:
        """The mean over the samples of scores (M R N,): (R, N)."""
        if self.samples == 1:
            return scores.view(-1, self.images)
        # In float64 where there is one, so that the mean of equal scores is that score, which may be Phi_0.
        exact = scores.dtype if scores.device.type == "mps" else torch.float64
        return scores.view(self.samples, -1, self.images).mean(0, dtype=exact).to(scores.dtype)

    def _call(self, inputs: Tensors, precision: torch.dtype | None, first: int = 0) -> Tensor:
        """One score for each row of the inputs; one mask of each image at a time if the model takes no more."""
        repeats = len(inputs[0]) // self.images
        if repeats <= 1:
            return self._run(inputs, precision, first)
        if not self._batching.several:
            return self._one_by_one(inputs, precision)
        try:
            return self._run(inputs, precision)
        except MODEL_ERRORS as error:
            if is_out_of_memory(error):
                raise
            # Only an error that comes again, and not for one mask at a time, is one of the batch.
            if fails(lambda: self._one_by_one(inputs, precision)) or not fails(lambda: self._run(inputs, precision)):
                raise
            self._batching.several = False
            warn_caller(
                f"forward_func fails for {repeats} masks of each image at once, so they go through it one at a time, "
                f"as with perturbations_per_eval=1: {type(error).__name__}: {error}"
            )
        return self._one_by_one(inputs, precision)

    def _one_by_one(self, inputs: Tensors, precision: torch.dtype | None) -> Tensor:
        parts = zip(*(torch.split(x, self.images) for x in inputs))
        return torch.cat([self._run(part, precision) for part in parts])

    def _run(self, inputs: Tensors, precision: torch.dtype | None, first: int = 0) -> Tensor:
        """One score for each row of the inputs. Outputs with positions are averaged over them."""
        target, arguments = self._of_rows(first, len(inputs[0]))
        with self._precision.forward(precision):
            output = run_forward(self._forward_func, inputs, None, arguments)
            scores = at_place(output, self._place)
            if scores.dim() == 0 or len(scores) != len(inputs[0]):
                raise ValueError(
                    "forward_func must return one row for each example of its input, got shape "
                    f"{tuple(scores.shape)} for {len(inputs[0])} perturbed examples"
                )
            score = select_target(scores, target)
        return mean_over_positions(score).clone()  # which a later run may overwrite

    def _of_rows(self, first: int, count: int) -> tuple[TargetType, Any]:
        """The target and the additional arguments of so many rows from the first one on."""
        start = first % self.images
        repeats = -(-(start + count) // self.images)
        target, arguments = repeat_target(self._target, repeats), repeat_arguments(self._arguments, repeats)
        if start + count == repeats * self.images and not start:
            return target, arguments
        part = slice(start, start + count)
        return _sliced(target, part), _sliced(arguments, part)

    def _checked_clean_score(self, differentiable: bool) -> tuple[Tensor, Tensor | None]:
        """The score (N,) of the unperturbed inputs, the only forward whose output is checked in full.

        Returns:
            the score, and for ``differentiable`` ones what :func:`_has_gradient` says.
        """
        scores, found = zip(*(self._checked_part(*part, differentiable) for part in self._parts(self._inputs)))
        score, known = torch.cat(scores), [one for one in found if one is not None]
        has_gradient = torch.cat(known) if len(known) == len(found) else None
        if not bool(score.isfinite().all()):
            raise ValueError(
                f"forward_func's output for the unperturbed inputs must be finite, got scores {score.tolist()}"
            )
        precision = torch.promote_types(self._inputs[0].dtype, torch.float32)  # the masks'
        return score.to(precision), has_gradient

    def _checked_part(self, first: int, inputs: Tensors, differentiable: bool) -> tuple[Tensor, Tensor | None]:
        leaves = tuple(x.detach().requires_grad_(differentiable) for x in inputs)
        whole = len(inputs[0]) == self.images
        target, arguments = (self._target, self._arguments) if whole else self._of_rows(first, len(inputs[0]))

        def run(inputs: Tensors, arguments: Any) -> Any:
            return run_forward(self._forward_func, inputs, None, arguments)

        with torch.set_grad_enabled(differentiable), self._precision.forward():
            output = first_run(run, leaves, arguments)
            # Later outputs, for other numbers of rows, are read at the same place.
            self._place = place_of_scores(output, len(inputs[0]))
            score = select_checked(at_place(output, self._place), target, len(inputs[0])).clone()
            has_gradient = _has_gradient(score, leaves) if differentiable else None
        return mean_over_positions(score.detach()), has_gradient


def _sliced(value: Any, rows: slice) -> Any:
    """Some rows of what has one for each example: a list, a tensor, or tensors in a tuple of arguments."""
    if isinstance(value, tuple) and any(isinstance(part, Tensor) for part in value):
        return tuple(_sliced(part, rows) if isinstance(part, Tensor) else part for part in value)
    by_row = isinstance(value, list) or (isinstance(value, Tensor) and value.numel() > 1)
    return value[rows] if by_row else value


def _is_by_example(arguments: Any) -> bool:
    """Whether additional arguments can be cut by example: no tensor is a single value, or inside something else."""
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    return not any(
        isinstance(part, (list, dict, tuple)) or (isinstance(part, Tensor) and not part.dim()) for part in parts
    )


def _check_depends(depends: bool) -> None:
    if not depends:
        raise ValueError(
            "forward_func must be differentiable by its inputs (or the activation of the layer that is explained), but "
            "its output carries no gradient: look for detach(), no_grad(), argmax or numpy inside it, or a score that "
            "is constant for all these inputs, as of a detector that finds nothing"
        )


def _has_gradient(score: Tensor, leaves: Tensors) -> Tensor | None:
    """Which examples' scores have a gradient by an input that is not 0, (N,) bool; None where autograd sees none."""
    # The parameters alone can make a score require gradients: ask for the inputs' own.
    depends = gradients(score.sum() * _GRADIENT_SCALE, leaves, allow_unused=True) if score.requires_grad else ()
    found = [(gradient != 0).flatten(1).any(1) for gradient in depends if gradient is not None]
    return torch.stack(found).any(0) if found else None


def same_scores(scores: Tensor, clean: Tensor, perturbed: Tensor, expected: Tensor | None = None) -> Tensor:
    """Whether scores are the expected ones, the clean ones by default, but for the rounding of another batch."""
    scale = (clean - perturbed).abs().nan_to_num(posinf=0).maximum(clean.abs())
    return (scores - (clean if expected is None else expected)).abs() <= _SAME * scale


def samples_of(perturb: BoundPerturbation) -> int:
    """M, how many perturbed inputs a perturbation makes of one mask."""
    return int(getattr(perturb, "samples", 1))


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
    scaled = gradients(scores.sum() * _GRADIENT_SCALE, masks, allow_unused=True)
    return tuple(
        torch.zeros_like(mask) if part is None else torch.nan_to_num(part / _GRADIENT_SCALE, 0.0, 0.0, 0.0)
        for mask, part in zip(masks, scaled)
    )
