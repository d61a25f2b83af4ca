"""What a result says in words and numbers."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from captum_extremal.results import ExtremalMasks


def percent(area: float) -> str:
    return f"{100 * area:.3g} %"


def kind(found: ExtremalMasks) -> str:
    """Which masks these are: those of a search, or the highest values of another method's map."""
    return "highest" if "masks" in found.settings else "extremal"


def number(value: float) -> str:
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2
    text = f"{value:.{decimals}f}" if size >= 0.1 else f"{value:.2g}"
    return text.replace("-", "\N{MINUS SIGN}")


def wrapped(text: str, letters: int, after: str = "_") -> str:
    """In lines of at most so many letters, which begin after spaces and after this sign."""
    return textwrap.fill(text.replace(after, f"{after} "), letters).replace(f"{after} ", after)


@dataclass(frozen=True)
class Extent:
    """In what areas are told.

    Attributes:
        over_channels: whether they are areas of channels.
        channels: the number of them, if it is the same for all masks.
    """

    over_channels: bool
    channels: int | None

    def on_axis(self, area: float) -> float:
        """A percentage, or the number of channels of the binary mask."""
        return 100 * area if self.channels is None else round(area * self.channels)

    def text(self, area: float) -> str:
        if self.channels is not None:
            return f"{self.on_axis(area)} of {self.channels} channels"
        return f"{percent(area)} of the channels" if self.over_channels else percent(area)

    def axis_label(self) -> str:
        if self.channels is not None:
            return f"number of channels, of {self.channels}"
        return f"area of the mask, %{' of the channels' if self.over_channels else ''}"


def extent_of(found: ExtremalMasks) -> Extent:
    """That of a result's masks."""
    masks = found.masks if isinstance(found.masks, tuple) else (found.masks,)
    over_channels = all(one.dim() == 3 for one in masks)
    sizes = {one.shape[-1] for one in masks}
    return Extent(over_channels, sizes.pop() if over_channels and len(sizes) == 1 else None)


def removes_only(found: ExtremalMasks) -> bool:
    """Whether the game scores only what is left without the mask's region."""
    return bool(found.settings.get("game", {}).get("kept") == 0)


def optimal_index(found: ExtremalMasks) -> int | None:
    return int(found.optimal_index) if bool(found.reached) else None


def optimal_text(found: ExtremalMasks) -> str:
    extent = extent_of(found)
    if bool(found.reached):
        return f"a* = {extent.text(float(found.optimal_area))}"
    return f"{extent.text(float(found.areas[-1]))}, a* not reached"


def score_text(found: ExtremalMasks) -> str:
    """The scores that the game looked at, at a*."""
    shown = int(found.optimal_index)
    kept = f"score {number(float(found.scores[0, shown]))}"
    removed = f"without it {number(float(found.complement_scores[0, shown]))}"
    clean = f"clean {number(float(found.clean_score))}"
    return f"{removed if removes_only(found) else kept}, {clean}"
