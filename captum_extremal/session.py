"""The session: the first steps of every method, which are the same for all of them.

:func:`open_session` checks the inputs and what comes with them, puts them on one device, leaves inference mode and the
caller's autocast, and guards the model's state. A method then asks the session for an objective, which reads the
clean score. A method that explains a layer moves the same session to that layer. A bad argument raises TypeError or
ValueError before the model runs, and so does an output that cannot be explained at its first run.

Shapes: N images; inputs (N, ...), with C channels and positions S where a method masks positions. Inside a session
they are (N, C, *S), whatever the axis of the channels is outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_extremal._captum import BaselineType, TargetType, format_output
from captum_extremal._checks import check_callable
from captum_extremal._state import ForwardPrecision, as_plain, may_mix_examples, preserve_state
from captum_extremal.arguments import (
    arguments_of_rows,
    check_arguments,
    check_baselines,
    check_examples,
    check_features,
    check_inputs,
    check_target,
    on_device,
    target_of_rows,
)
from captum_extremal.layers import LayerTail, check_layer
from captum_extremal.objective import Batching, Known, Objective, samples_of
from captum_extremal.objectives import PerImage
from captum_extremal.perturbations import BoundPerturbation

Tensors = tuple[Tensor, ...]
Bind = Callable[[Tensor, Tensor], BoundPerturbation]
"""From an input tensor (N, ...) and its baseline to its perturbation."""


@dataclass(frozen=True)
class Session:
    """A model and its checked inputs. Open one with :func:`open_session`.

    Attributes:
        forward_func: the model, or the part of it behind a layer.
        inputs: what is masked, each (N, ...), detached and on one device.
        baselines: one for each input, in its shape.
        channel_dims: the axis of the channels in each of the caller's inputs, counted from 0 with N.
        is_tuple: whether the caller's inputs were a tuple, or the layer has several tensors.
        target, arguments: as Captum takes them.
        caller: the autocast state in which the model runs.
        batching: what is found out about the model.
    """

    forward_func: Callable[..., Any]
    inputs: Tensors
    baselines: Tensors
    channel_dims: tuple[int, ...]
    is_tuple: bool
    target: TargetType
    arguments: object
    caller: ForwardPrecision
    batching: Batching = field(default_factory=Batching)

    @property
    def images(self) -> int:
        """N."""
        return len(self.inputs[0])

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the masks: float64 where the inputs are, else float32."""
        return torch.float64 if self.inputs[0].dtype == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """The inputs' device."""
        return self.inputs[0].device

    def of_images(self, rows: Tensor) -> Session:
        """The same session for the images of some rows (n,) alone."""
        return replace(
            self,
            inputs=tuple(x[rows] for x in self.inputs),
            baselines=tuple(baseline[rows] for baseline in self.baselines),
            target=target_of_rows(self.target, rows),
            arguments=arguments_of_rows(self.arguments, rows),
        )

    def at_layer(self, layer: nn.Module, to_input: bool, device_ids: list[int] | None) -> Session:
        """The same session on a layer: its tensors are the inputs, and the model is what lies behind it."""
        tail = LayerTail(self.forward_func, layer, self.inputs, self.arguments, to_input, device_ids, self.caller)
        activation = tail.activation
        return replace(
            self,
            forward_func=tail,
            inputs=activation,
            baselines=tuple(torch.zeros_like(x) for x in activation),
            channel_dims=(1,) * len(activation),
            is_tuple=len(activation) > 1,
            arguments=None,
        )

    def objective(
        self,
        bind: Bind | Sequence[Bind],
        mask_shapes: Sequence[tuple[int, ...]] | None = None,
        spread: Callable[[Tensors], Tensors] | None = None,
        *,
        perturbations_per_eval: int | None = None,
        differentiable: bool = True,
        known: Known | None = None,
    ) -> Objective:
        """The model's score as a function of masks, after a forward of the inputs and one of the perturbed inputs.

        Args:
            bind: makes the perturbation of one input tensor and its baseline; one for each input where they differ.
            mask_shapes: the shape of one mask of each input; None for masks over its positions, (1, *S).
            spread: from the masks, of which there are as many as shapes, to one tensor for each input; None where they
                are that already.
            perturbations_per_eval, differentiable, known: as :class:`~captum_extremal.objective.Objective` takes them.
        """
        binds = [bind] * len(self.inputs) if callable(bind) else bind
        tensors = ((x.to(self.dtype), b.to(self.dtype)) for x, b in zip(self.inputs, self.baselines))
        perturb = tuple(of_input(x, b) for of_input, (x, b) in zip(binds, tensors, strict=True))
        shapes = mask_shapes or [(1, *x.shape[2:]) for x in self.inputs]
        nothing = tuple(torch.zeros(self.images, *shape, dtype=self.dtype, device=self.device) for shape in shapes)
        nothing = nothing if spread is None else spread(nothing)
        hidden: Tensors = ()
        if known is None:
            hidden = tuple(map(_hidden, perturb, nothing, self.inputs))
            if perturbations_per_eval != 1:
                for one, zeros in zip(perturb, nothing):
                    _check_several(one, zeros)
        return Objective(
            self.forward_func,
            self.inputs,
            perturb,
            hidden,
            self.target,
            self.arguments,
            perturbations_per_eval,
            self.caller,
            differentiable,
            may_be_constant=not isinstance(self.forward_func, LayerTail),  # no part of it is used then
            batching=self.batching,
            spread=spread,
            known=known,
            splits_images=not isinstance(self.forward_func, LayerTail),
        )

    def like_inputs(self, maps: Tensors) -> Any:
        """:func:`like_inputs` for the inputs of this session."""
        own = like_inputs(maps, self.inputs, True)
        return format_output(self.is_tuple, channels_at(own, self.channel_dims))


@contextmanager
def open_session(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    target: object = None,
    additional_forward_args: object = None,
    *,
    baselines: BaselineType = None,
    channel_dim: int | None = 1,
    layer: nn.Module | None = None,
    grouped: bool = False,
) -> Iterator[Session]:
    """A session, within which the model can run. Afterwards the model's state is as before.

    Args:
        forward_func, inputs, target, additional_forward_args, baselines: as the public methods take them. Targets and
            tensors on another device are moved to that of the inputs.
        channel_dim: the axis of the inputs' channels; None for 1, with a warning where the inputs look otherwise. The
            session has them as (N, C, *S), and the model is given them as the caller did.
        layer: where a layer is explained; then the inputs may be of any type and shape.
        grouped: whether groups of features are masked; then floating inputs may be of any shape (N, ...).
    """
    if layer is not None:
        tensors = check_examples(inputs)
    else:
        tensors = check_features(inputs) if grouped else check_inputs(inputs, channel_dim)
    if layer is not None:
        check_layer(forward_func, layer)
    images, device = len(tensors[0]), tensors[0].device
    checked_target = check_target(target, images, device)
    check_arguments(additional_forward_args, images)
    references = () if layer is not None else check_baselines(tensors, baselines, isinstance(inputs, tuple))
    dims = tuple((1 if channel_dim is None else int(channel_dim)) % max(x.dim(), 2) for x in tensors)
    moved = any(dim != 1 for dim in dims)
    with guarded(forward_func, device) as caller:
        plain = tuple(as_plain(x.detach()) for x in tensors)
        if additional_forward_args is None and isinstance(forward_func, PerImage):
            with caller.forward():
                additional_forward_args = forward_func.of_images(*plain)
        yield Session(
            _ChannelsBack(forward_func, dims) if moved else forward_func,
            channels_first(plain, dims),
            channels_first(tuple(as_plain(reference) for reference in references), dims),
            dims,
            isinstance(inputs, tuple),
            as_plain(_sent_once(checked_target, device)),
            as_plain(on_device(additional_forward_args, device)),
            caller,
            Batching(apart=not may_mix_examples(forward_func)),
        )


@dataclass(frozen=True)
class _ChannelsBack:
    """A model whose inputs are given with the channels on the axis 1."""

    forward_func: Callable[..., Any]
    dims: tuple[int, ...]

    def __call__(self, *given: Any) -> Any:
        """The output for the inputs, of which there are as many as ``dims``, and further arguments."""
        count = len(self.dims)
        return self.forward_func(*channels_at(given[:count], self.dims), *given[count:])


def channels_first(tensors: Tensors, dims: tuple[int, ...]) -> Tensors:
    """Tensors with the axis of their channels moved to 1; there may be none."""
    return tuple(x if dim == 1 else x.movedim(dim, 1) for x, dim in zip(tensors, dims))


def channels_at(tensors: Tensors, dims: tuple[int, ...]) -> Tensors:
    """Tensors (N, C, *S) with their channels moved to these axes, contiguous where they are moved."""
    return tuple(x if dim == 1 else x.movedim(1, dim).contiguous() for x, dim in zip(tensors, dims))


def _sent_once(target: TargetType, device: torch.device) -> TargetType:
    """A list of integers as a tensor on another device, to which it would be sent at every pass."""
    many = isinstance(target, list) and len(target) > 1 and isinstance(target[0], int)
    return torch.tensor(target, device=device) if many and device.type != "cpu" else target


@contextmanager
def guarded(forward_func: Callable[..., Any], device: torch.device) -> Iterator[ForwardPrecision]:
    """No gradients, no inference mode and no autocast inside. The model's and the random state are restored afterwards.

    Yields:
        the autocast state of the caller, in which the model runs.
    """
    caller = ForwardPrecision(device)
    with torch.inference_mode(False), torch.no_grad(), caller.ours(), preserve_state(forward_func, device):
        yield caller


def _hidden(perturb: BoundPerturbation, nothing: Tensor, x: Tensor) -> Tensor:
    """The input under a mask of zeros."""
    check_callable("perturbation.bind's result", perturb, "mask")
    hidden = perturb(nothing)
    rows = samples_of(perturb) * len(x)
    if not isinstance(hidden, Tensor) or hidden.shape != (rows, *x.shape[1:]):
        got = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        wanted = (rows, *x.shape[1:])
        raise ValueError(f"perturbation must turn one mask per image into inputs of shape {wanted}, got {got}")
    return hidden


def _check_several(perturb: BoundPerturbation, nothing: Tensor) -> None:
    """Raise ValueError unless a perturbation, which takes a mask of each of N images, takes two of each as well."""
    twice = torch.cat([nothing, nothing])
    images, rows = len(nothing), samples_of(perturb) * len(twice)
    must = (
        "perturbation must take R masks of each of N images, as R N rows, and return R N inputs, the first masks' of "
        f"all images first: with R = 2 and N = {images}"
    )
    advice = "repeat what it has of the images len(mask) // N times"
    try:
        returned = len(perturb(twice))
    except Exception as error:  # whatever it does with rows that it does not expect
        raise ValueError(f"{must} it fails, {type(error).__name__}: {error}; {advice}") from error
    if returned != rows:
        raise ValueError(f"{must} it returns {returned} rows instead of {rows}; {advice}")


def like_inputs(maps: Tensors, inputs: Tensors, is_tuple: bool) -> Any:
    """One map for each input, (N, 1, *S) or (N, C, *S), in the input's shape and type; a tuple where ``is_tuple``.

    Each map has memory of its own, also where it is repeated over the channels: Captum's metrics view it.
    """
    return format_output(is_tuple, tuple(one.to(x.dtype).expand_as(x).contiguous() for one, x in zip(maps, inputs)))
