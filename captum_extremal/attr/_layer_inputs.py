"""What methods that mask a layer check of their arguments, and what masks over its activation look like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real

from torch import Tensor

from captum_extremal._checks import check_choice
from captum_extremal.attr._inputs import as_family, check_areas
from captum_extremal.layers.axes import Axes
from captum_extremal.masks import ChannelMask, MaskFamily, SmoothMask
from captum_extremal.search import PenaltySolver, as_solver
from captum_extremal.search.problem import Solver

_LADDER = (1, 5, 10, 20, 25, 35, 40, 50, 60, 70, 80, 90, 100)  # section 5; then in steps of 50
_FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_FAMILIES: dict[str, MaskFamily] = {"channels": ChannelMask(), "spatial": SmoothMask()}


def check_examples(inputs: object) -> tuple[Tensor, ...]:
    """The model's inputs as a tuple of tensors with N rows each, of any type and shape.

    Raises:
        TypeError: they are no tensors.
        ValueError: there are none, or their rows, devices or values do not fit.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors:
        raise ValueError("inputs must hold at least one tensor, got an empty tuple")
    for k, x in enumerate(tensors):
        name = f"inputs[{k}]" if isinstance(inputs, tuple) else "inputs"
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor or a tuple of tensors, got {type(x).__name__}")
        if not x.dim() or not x.numel():
            raise ValueError(f"{name} must have a row an example and not be empty, got shape {tuple(x.shape)}")
        if len(x) != len(tensors[0]) or x.device != tensors[0].device:
            raise ValueError(
                f"{name} must have as many examples as inputs[0], {len(tensors[0])}, on the same device, "
                f"got {len(x)} on {x.device}"
            )
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinite values in shape {tuple(x.shape)}")
    return tensors


def as_layer_family(mask: str | MaskFamily) -> MaskFamily:
    """The mask family of this name; an object is returned as it is.

    Raises:
        ValueError: there is no family of this name.
        TypeError: the object is no family of masks.
    """
    if isinstance(mask, str):
        check_choice("mask", mask, _FAMILIES)
        return _FAMILIES[mask]
    return as_family(mask)


def as_layer_solver(solver: str | Solver) -> Solver:
    """The solver of this name, "penalty" with the paper's settings for channels; an object is returned as it is.

    Raises:
        ValueError: there is no solver of this name, or it mirrors what it perturbs.
        TypeError: the object is no solver.
    """
    chosen = PenaltySolver.channels() if solver == "penalty" else as_solver(solver)
    if getattr(chosen, "flip", False):
        raise ValueError(f"solver must not flip a layer's activation, got {chosen!r}: use PenaltySolver.channels()")
    return chosen


def check_layer_areas(areas: object) -> tuple[int, ...] | tuple[float, ...] | None:
    """Increasing counts, or increasing fractions; None for the default of the mask.

    Raises:
        TypeError: no numbers, or counts and fractions mixed.
        ValueError: empty, not increasing, or out of range.
    """
    if areas is None:
        return None
    if isinstance(areas, Tensor):
        areas = areas.tolist()
    given = [areas] if isinstance(areas, Real) else areas
    try:
        values = list(given)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"areas must be a number or a sequence of numbers, got {areas!r}") from None
    counts = [isinstance(value, Integral) and not isinstance(value, bool) for value in values]
    if values and all(counts):
        if values[0] < 1 or any(after <= before for before, after in pairwise(values)):
            raise ValueError(f"areas must be strictly increasing numbers of channels from 1 up, got {areas!r}")
        return tuple(int(value) for value in values)
    fractions = all(isinstance(value, Real) and not isinstance(value, bool) for value in values)
    if any(counts) or not fractions:
        raise TypeError(f"areas must be all integers, numbers of channels, or all floats, fractions, got {areas!r}")
    return check_areas(values, 0.0)


@dataclass(frozen=True)
class LayerMasks:
    """How one family's masks lie over one tensor of a layer."""

    family: MaskFamily
    axes: Axes

    @property
    def over_channels(self) -> bool:
        """Whether the masks have a value a channel; else a value a position."""
        return isinstance(self.family, ChannelMask)

    @property
    def shape(self) -> tuple[int, ...]:
        """What the family is bound to: (K,) or S."""
        return (self.axes.channels,) if self.over_channels else self.axes.grid

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Of one mask: (K,) or (1, *S)."""
        return self.shape if self.over_channels else (1, *self.shape)

    def view(self, masks: Tensor) -> Tensor:
        """Masks (B, K) or (B, 1, *S) in a shape that multiplies activations (B, ...)."""
        return self.axes.over_channels(masks) if self.over_channels else self.axes.over_positions(masks)

    @property
    def smallest_area(self) -> float:
        """The area below which the family has no masks."""
        return self.family.smallest_area(self.shape)


def fractions_of(areas: tuple[int, ...] | tuple[float, ...] | None, masks: list[LayerMasks]) -> tuple[float, ...]:
    """The areas as fractions of each tensor's channels or positions.

    Raises:
        ValueError: more channels or positions than there are, smaller than a mask can be, or counts of tensors of
            several sizes; the layer has no positions for masks over them.
    """
    _check_positions(masks)
    sizes = sorted({math.prod(of_layer.shape) for of_layer in masks})
    what = "channels" if masks[0].over_channels else "positions"
    smallest = max(of_layer.smallest_area for of_layer in masks)
    wanted = _default_areas(sizes, masks[0].over_channels, smallest) if areas is None else areas
    if isinstance(wanted[0], int):
        if len(sizes) > 1:
            raise ValueError(f"areas must be fractions for a layer with tensors of {sizes} {what}, got {wanted}")
        if wanted[-1] > sizes[0]:
            raise ValueError(f"areas must be at most the layer's {sizes[0]} {what}, got {wanted}")
    fractions = tuple(area / sizes[0] if isinstance(area, int) else area for area in wanted)
    if fractions[0] < smallest:
        raise ValueError(
            f"areas must be at least that of the smallest mask, {smallest:.3g} of the layer's {what}, got {wanted[0]}"
        )
    return fractions


def _default_areas(sizes: list[int], over_channels: bool, smallest: float) -> tuple[int, ...] | tuple[float, ...]:
    """The paper's numbers of channels up to K; fractions for masks over positions and for tensors of several K."""
    if over_channels and len(sizes) == 1:
        below = [count for count in (*_LADDER, *range(150, sizes[0], 50)) if count < sizes[0]]
        return (*below, sizes[0])
    return tuple(area for area in _FRACTIONS if area >= smallest)


def _check_positions(masks: list[LayerMasks]) -> None:
    for of_layer in masks:
        if not of_layer.over_channels and (not 1 <= len(of_layer.shape) <= 3 or min(of_layer.shape) < 2):
            raise ValueError(
                "mask must be 'channels' for a layer without one to three dimensions of at least 2 positions, "
                f"got an activation of shape (N, {', '.join(map(str, of_layer.axes.shape))})"
            )
