"""The words and numbers that the figures tell of a result."""

from __future__ import annotations

import textwrap

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import as_tuple


def percent(area: float) -> str:
    return f"{100 * area:.3g} %"


def number(value: float) -> str:
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2
    return with_minus(f"{value:.{decimals}f}" if size >= 0.1 else f"{value:.2g}")


def with_minus(text: str) -> str:
    """A formatted number with the typographic minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


def wrapped(text: str, letters: int, after: str = "_") -> str:
    """The text in lines of at most ``letters``, broken at spaces and after the sign ``after``."""
    return textwrap.fill(text.replace(after, f"{after} "), letters).replace(f"{after} ", after)


class AreaUnit:
    """How a result's areas are told: as numbers of channels, or in percent.

    Attributes:
        channels: K if every mask is of K channels, else None: then areas are told in percent.
    """

    def __init__(self, found: ExtremalMasks) -> None:
        sizes = {masks.shape[-1] for masks in as_tuple(found.masks)}
        of_channels = found.covers == "channels"
        self.channels: int | None = sizes.pop() if of_channels and len(sizes) == 1 else None
        self._whole = " of the channels" if of_channels else ""

    def value(self, area: float) -> float:
        """A percentage, or the number of channels of the binary mask."""
        return 100 * area if self.channels is None else round(area * self.channels)

    def text(self, area: float) -> str:
        if self.channels is None:
            return f"{percent(area)}{self._whole}"
        return f"{self.value(area)} of {self.channels} channels"

    def axis_label(self) -> str:
        if self.channels is None:
            return f"area of the mask, %{self._whole}"
        return f"number of channels, of {self.channels}"


# What follows is told of a result of one image.


def origin(found: ExtremalMasks) -> str:
    """Where the masks come from: a search, or another method's map (:func:`~captum_extremal.metrics.top_masks`).

    The masks of a map's highest values have no disks, so that their ``sigma`` is 0; a search's is positive.
    """
    return "highest" if bool((found.sigma == 0).all()) else "extremal"


def removes_only(found: ExtremalMasks) -> bool:
    """Whether the game scores only what remains without the mask's region."""
    return bool(found.settings.get("game", {}).get("kept") == 0)


def shown_index(found: ExtremalMasks) -> int:
    """The index of the area to show: that of a*, or of the largest area where a* is not reached."""
    return int(found.optimal_index)


def reached_index(found: ExtremalMasks) -> int | None:
    """The index of a*, if it is reached."""
    return shown_index(found) if bool(found.reached) else None


def optimal_text(found: ExtremalMasks) -> str:
    if not bool(found.reached):
        return "a* not reached"
    return f"a* = {AreaUnit(found).text(float(found.optimal_area))}"


def shown_text(found: ExtremalMasks) -> str:
    """The area that :func:`shown_index` shows."""
    if bool(found.reached):
        return optimal_text(found)
    return f"{AreaUnit(found).text(float(found.areas[shown_index(found)]))}, {optimal_text(found)}"


def summary(found: ExtremalMasks) -> str:
    """The area shown, and its score under the game beside the clean score."""
    scores, what = (found.complement_scores, "without it") if removes_only(found) else (found.scores, "score")
    score, clean = float(scores[0, shown_index(found)]), float(found.clean_score)
    return f"{shown_text(found)}\n{what} {number(score)}, clean {number(clean)}"
