"""What is told of a result: numbers, areas, its game, and a* with its score."""

import numpy as np

from captum_extremal.results import ExtremalMasks
from captum_extremal.results.maps import is_grey
from captum_extremal.results.shown import shown_area
from captum_extremal.results.tensors import Array, as_tuple


def number(value: float, form: str = "") -> str:
    """A number in this format, by default with two digits or more, and with the typographic minus sign."""
    size = abs(value)
    form = form or (".0f" if size >= 100 else ".1f" if size >= 10 else ".2f" if size >= 0.1 else ".2g")
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def area_unit(found: ExtremalMasks) -> tuple[int | None, str]:
    """K and "of K channels" if all masks are of K channels, else None and the words for percent."""
    if found.covers != "channels":
        return None, "% of the groups" if found.covers == "groups" else "%"
    sizes = {masks.shape[-1] for masks in as_tuple(found.masks)}
    return (None, "% of the channels") if len(sizes) > 1 else (count := sizes.pop(), f"of {count} channels")


def area_text(found: ExtremalMasks, area: float) -> str:
    """The area in percent, or as the number of channels of the binary mask, at least 1 of any mask that keeps some."""
    count, unit = area_unit(found)
    return f"{100 * area:.3g} {unit}" if count is None else f"{max(round(area * count), int(area > 0))} {unit}"


def removes_only(found: ExtremalMasks) -> bool:
    """Whether the game scores only what remains without the mask's region."""
    return game_of(found)[0] == 0


def game_of(found: ExtremalMasks) -> tuple[float, float]:
    """The weights in the game of the score that the mask keeps, and of that without its region."""
    game = found.settings.get("game", {})
    return game.get("kept", 1.0), game.get("removed", 0.0)


def game_text(found: ExtremalMasks) -> str:
    """What was asked of the masks."""
    kept, removed = game_of(found)
    if removed == 0:
        return "game: keep the score (preserve)"
    if kept == 0:
        return "game: lose the score (delete); bright is what is removed"
    return "game: keep and lose the score (hybrid)" if kept == -removed else f"game: {kept:g} kept, {removed:g} removed"


def enough_score(one: ExtremalMasks) -> float | None:
    """The score at which a mask is enough (Phi_0): of what is kept, or what remains; None where it is one of both."""
    (kept, removed), threshold = game_of(one), float(one.threshold)
    if kept and removed:
        return None
    return threshold / (kept or removed)


def same(one: float, other: float) -> bool:
    """Whether two scores are drawn at the same place."""
    return abs(one - other) <= 1e-5 * max(1.0, abs(one), abs(other))


def optimal_text(one: ExtremalMasks) -> str:
    if bool(one.vacuous):
        needed = "need be removed" if removes_only(one) else "needed"
        return f"a* = {area_text(one, 0.0)}, nothing {needed}"
    return f"a* = {area_text(one, float(one.optimal_area))}" if bool(one.reached) else "a* not reached"


def shown_text(one: ExtremalMasks) -> str:
    """The area that is shown: a*, or the largest area where a* is not reached."""
    largest = "" if bool(one.reached) else f"{area_text(one, shown_area(one))}, "
    return f"{largest}{optimal_text(one)}"


def summary(one: ExtremalMasks) -> str:
    """The area shown, and its score under the game beside the clean score."""
    return f"{shown_text(one)}\n{scores_text(one)}"


def scores_text(one: ExtremalMasks, *, with_threshold: bool = False) -> str:
    """The score of the mask shown under the game, that at which a mask is enough, and the clean score."""
    kept, removed = game_of(one)
    told = [f"score {number(float(one.optimal_score))}"] * bool(kept)
    told += [f"without it {number(float(one.optimal_complement_score))}"] * bool(removed)
    enough = enough_score(one) if with_threshold else None
    told += [] if enough is None else [f"enough {number(enough)}"]
    return ", ".join([*told, f"clean {number(float(one.clean_score))}"])


def mask_text(one: ExtremalMasks, mask: Array) -> str:
    """The game, and whether the mask of a* is grey."""
    told = game_text(one).replace("; ", "\n")
    binariness = float(np.square(mask).sum() / (mask.sum() or 1.0))
    grey = is_grey(binariness, float(mask.mean())) and bool(one.reached)
    return told + f"\ngrey mask: binariness {number(binariness, '.2f')}" * grey


def origin(found: ExtremalMasks) -> str:
    """Where masks come from: a search, which has disks of a radius, or the highest values of a map."""
    return "highest" if len(found.sigma) and bool((found.sigma == 0).all()) else "extremal"
