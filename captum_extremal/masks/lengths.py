"""How lengths along the axes follow from an input's shape: where the paper gives pixels of a square image of 224.

Shapes: S, the sides of the positions. What a mask or a blur is constant along is *held*.
"""

from collections.abc import Sequence

from captum_extremal._checks import check_count, check_number

REFERENCE_SIDE = 224
"""The side in pixels that the paper's lengths (step, sigma, blur) refer to."""
SHORT = 8
"""An axis of fewer positions is too short for disks: masks have a value for each of its positions."""

Lengths = float | tuple[float, ...] | None
"""A setting in pixels: one for all axes, one for each, or None for the default."""
Hold = int | tuple[int, ...]
"""Axes, counted from 0 without N and the channels; negative ones from the last."""


def scales(shape: Sequence[int], held: Sequence[int] = ()) -> tuple[int, ...]:
    """The side that lengths along each axis are scaled with.

    In signals and images it is the shorter side. In three dimensions each axis has its own, because time and slices
    have another unit than the plane. An axis shorter than :data:`SHORT` beside longer ones has its own, and the others
    are those of a signal or an image.
    """
    sides = [shape[axis] for axis in varying(shape, held)]
    sides = [side for side in sides if side >= SHORT] or sides
    if len(sides) == 3:
        return tuple(shape)
    shared = min(sides, default=1)
    return tuple(side if side < shared else shared for side in shape)


def varying(shape: Sequence[int], held: Sequence[int] = ()) -> list[int]:
    """The axes along which a mask can vary: of more than one position, and not held."""
    return [axis for axis, side in enumerate(shape) if side > 1 and axis not in held]


def check_lengths(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless a setting is None, a number above 0, or a tuple of one to three of these."""
    if value is None:
        return
    if not isinstance(value, tuple):
        check_number(name, value, above=0)
        return
    if not 1 <= len(value) <= 3:
        raise ValueError(f"{name} must be a number or one for each of one to three axes, got {value!r}")
    for k, one in enumerate(value):
        check_number(f"{name}[{k}]", one, above=0)


def check_hold(value: object) -> None:
    """Raise TypeError unless a setting is an integer or a tuple of integers."""
    for axis in value if isinstance(value, tuple) else (value,):
        check_count("hold", axis, at_least=None)


def each_axis(name: str, value: float | tuple[float, ...], shape: Sequence[int]) -> tuple[float, ...]:
    """A checked setting as one number for each axis.

    Raises:
        ValueError: it has another number of axes than the shape.
    """
    if not isinstance(value, tuple):
        return (float(value),) * len(shape)
    if len(value) != len(shape):
        raise ValueError(f"{name} must have one number for each axis of the positions {tuple(shape)}, got {value!r}")
    return tuple(map(float, value))


def held_axes(hold: Hold, shape: Sequence[int]) -> tuple[int, ...]:
    """The held axes, counted from 0.

    Raises:
        ValueError: the shape does not have one of them, or nothing is left that varies.
    """
    axes = hold if isinstance(hold, tuple) else (hold,)
    rank = len(shape)
    for axis in axes:
        if not -rank <= axis < rank:
            raise ValueError(f"hold must name axes of the positions {tuple(shape)}, from 0 on, got {hold!r}")
    held = tuple(sorted({int(axis) % rank for axis in axes}))
    if not varying(shape, held):
        raise ValueError(f"hold must leave an axis of at least 2 positions, got {hold!r} for {tuple(shape)}")
    return held


def one_or_each(lengths: Sequence[float]) -> float | tuple[float, ...]:
    """One number where all axes have the same, else one for each."""
    return lengths[0] if len(set(lengths)) == 1 else tuple(lengths)
