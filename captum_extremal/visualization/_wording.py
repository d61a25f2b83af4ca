"""The words and numbers that the figures tell of a result."""

from __future__ import annotations

import textwrap

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import as_tuple


def percent(area: float) -> str:
    return f"{100 * area:.3g} %"


def number(value: float, form: str = "") -> str:
    """A number in this format, by default with two digits or more, and with the typographic minus sign."""
    size = abs(value)
    form = form or (".0f" if size >= 100 else ".1f" if size >= 10 else ".2f" if size >= 0.1 else ".2g")
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def wrapped(text: str, letters: int, after: str = "_") -> str:
    """The text in lines of at most ``letters``, broken at spaces and after the sign ``after``."""
    return textwrap.fill(text.replace(after, f"{after} "), letters).replace(f"{after} ", after)


def channels(found: ExtremalMasks) -> int | None:
    """K if all masks are of K channels, else None: then areas are told in percent."""
    sizes = {masks.shape[-1] for masks in as_tuple(found.masks)}
    return sizes.pop() if found.covers == "channels" and len(sizes) == 1 else None


def area_value(found: ExtremalMasks, area: float) -> float:
    """The number of channels of the binary mask, or a percentage."""
    count = channels(found)
    return 100 * area if count is None else round(area * count)


def percent_unit(found: ExtremalMasks) -> str:
    return "% of the channels" if found.covers == "channels" else "%"


def area_text(found: ExtremalMasks, area: float) -> str:
    value, count = area_value(found, area), channels(found)
    return f"{value:.3g} {percent_unit(found)}" if count is None else f"{value} of {count} channels"


def origin(found: ExtremalMasks) -> str:
    """Where masks of positions come from: a search, which has disks of a radius, or the highest values of a map."""
    return "highest" if bool((found.sigma == 0).all()) else "extremal"


def removes_only(found: ExtremalMasks) -> bool:
    """Whether the game scores only what remains without the mask's region."""
    return bool(found.settings.get("game", {}).get("kept") == 0)


# Of the result of one image


def optimal_text(one: ExtremalMasks) -> str:
    return f"a* = {area_text(one, float(one.optimal_area))}" if bool(one.reached) else "a* not reached"


def shown_text(one: ExtremalMasks) -> str:
    """The area that is shown: a*, or the largest area where a* is not reached."""
    largest = "" if bool(one.reached) else f"{area_text(one, float(one.areas[-1]))}, "
    return f"{largest}{optimal_text(one)}"


def summary(one: ExtremalMasks) -> str:
    """The area shown, and its score under the game beside the clean score."""
    scores, what = (one.complement_scores, "without it") if removes_only(one) else (one.scores, "score")
    score, clean = float(scores[0, one.optimal_index]), float(one.clean_score)
    return f"{shown_text(one)}\n{what} {number(score)}, clean {number(clean)}"
