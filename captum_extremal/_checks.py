"""Checks of settings, with one wording for each rule."""

import inspect
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise TypeError unless ``value`` is a real number, ValueError unless it is finite and within bounds."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    rules = [
        (above is not None and not float(value) > above, f"above {above}"),
        (at_least is not None and not float(value) >= at_least, f"at least {at_least}"),
        (at_most is not None and not float(value) <= at_most, f"at most {at_most}"),
        (below is not None and not float(value) < below, f"below {below}"),
        (not math.isfinite(float(value)), "finite"),
    ]
    for broken, rule in rules:
        if broken:
            raise ValueError(f"{name} must be {rule}, got {value!r}")


def check_count(name: str, value: object, *, at_least: int | None = 1) -> None:
    """Raise TypeError unless ``value`` is an integer, ValueError unless it is at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    if at_least is not None and value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")


def check_callable(name: str, value: object, *arguments: str, by_name: Iterable[str] = ()) -> None:
    """Raise TypeError unless ``value`` can be called with these arguments, as far as its signature tells.

    Args:
        arguments: given by position.
        by_name: given by keyword.
    """
    rule = f"{name} must be callable as ({', '.join((*arguments, *(f'{keyword}=...' for keyword in by_name)))})"
    if not callable(value):
        raise TypeError(f"{rule}, got {value!r}")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some that are written in C have none
        return
    try:
        signature.bind(*arguments, **dict.fromkeys(by_name))
    except TypeError as error:
        raise TypeError(f"{rule}, got {value!r} with the signature {signature}: {error}") from error


def check_choice(name: str, value: object, choices: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> None:
    """Raise ValueError unless ``value`` is one of the names in ``choices``.

    Args:
        elsewhere: names that other software gives to choices. They are not taken, but the message says what they are.
    """
    names = sorted(choices)
    if value in names:
        return
    text = value.lower() if isinstance(value, str) else ""
    meant = (elsewhere or {}).get(text) or next(iter(get_close_matches(text, names, 1)), None)
    hint = f": did you mean {meant!r}?" if meant else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, names))}, got {value!r}{hint}")
