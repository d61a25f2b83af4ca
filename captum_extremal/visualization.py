"""Figures of what a search found, after figures 1, 2, 3 and 5 of the paper, on Captum's own and matplotlib.

Every function returns a :class:`matplotlib.figure.Figure` and shows nothing: a notebook displays a cell's last value,
``figure.savefig(path)`` writes it. pyplot knows nothing of them, so that none has to be closed.

Shapes: N images, A areas, C channels, H rows and W columns of pixels. ``images`` is what to draw, (N, 3, H, W) or
(N, 1, H, W) in [0, 1]: the pictures as a person sees them, not as the model's normalisation leaves them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from captum.attr import visualization as captum_figures
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from captum_extremal._checks import check_choice, check_count
from captum_extremal.results import ExtremalMasks

__all__ = ["compare", "show_curves", "show_mask", "show_order", "show_sweep", "show_targets"]

SATURATION = 1.25
"""Where the bars of figure 5 end: a quarter above the score of the whole image."""

Array = NDArray[np.float64]

_GREY = np.array([0.299, 0.587, 0.114])  # luminance
_HIDDEN = 0.28  # how much of its grey is left of a hidden pixel: enough to see what was left out, clearly not shown
_MOST_COLUMNS = 8
_LEAST_CONTRAST = 0.25  # of a mask's inside to its outside
_SMALL, _NORMAL, _LARGE = 8.5, 10.0, 11.5  # points
_INK, _FAINT = "#222222", "#8a8a8a"
_BLUE, _ORANGE, _GREEN, _RED = "#0072b2", "#e08214", "#1b8a3d", "#c5283d"  # figure 3's; apart for the colour-blind too
_MARK = "#e0a800"  # a*: its box and its outline
_SIGNS = ("all", "positive", "negative", "absolute_value")
_METHODS = ("blended_heat_map", "heat_map")
_COLOURS = {"all": "RdBu_r", "positive": "inferno", "negative": "inferno", "absolute_value": "inferno"}


def show_mask(
    found: ExtremalMasks, images: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """The image, and the mask of the smallest sufficient area a* over it (figure 1).

    What the mask hides is dark and grey; the model sees it perturbed instead. The outline encloses exactly the area; a
    nearly flat mask has none.

    Args:
        found: masks of images.
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        index: which of the N images.
        input_index: which of the inputs, where they were a tuple.
        title: a line above the figure, such as the target's name.

    Returns:
        a figure of two panels; the second's title has a*, the score and the clean score, or says that no area reached
        the threshold, and then shows the largest one's mask.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    view = _view(found, images, index, input_index)
    figure, ((left, right),) = _panels(view.shape, 2, base=3.3, title=title, title_lines=2, least_width=2.2)
    _draw_image(left, view.rgb, "image")
    _draw_masked(right, view, view.optimal)
    right.set_title(f"{_optimal_text(view.found)}\n{_score_text(view.found)}", fontsize=_NORMAL, color=_INK)
    return figure


def show_targets(
    found: ExtremalMasks,
    images: Tensor,
    names: Sequence[str] | None = None,
    *,
    input_index: int = 0,
    title: str | None = None,
) -> Figure:
    """Several classes of one image: the image, and for each the mask of its smallest sufficient area.

    Args:
        found: masks of one image repeated N times, each time with another target.
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1]: the repeated image.
        names: N titles; default "target 1", "target 2", ...
        input_index: which of the inputs, where they were a tuple.
        title: a line above the figure.

    Returns:
        a figure of N + 1 panels.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
    """
    _check_found(found)
    count = len(found.clean_score)
    labels = _check_names(names, count)
    views = [_view(found, images, k, input_index) for k in range(count)]
    figure, rows = _panels(
        views[0].shape, count + 1, base=2.5, title=title, title_lines=2, least_width=1.6, most_columns=5
    )
    axes = [ax for row in rows for ax in row]
    _draw_image(axes[0], views[0].rgb, "image")
    for ax, view, label in zip(axes[1:], views, labels):
        _draw_masked(ax, view, view.optimal)
        ax.set_title(f"{label}\n{_optimal_text(view.found)}", fontsize=_NORMAL, color=_INK)
    return figure


def show_sweep(
    found: ExtremalMasks, images: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """The masks of all areas, and what each does to the score (figure 5).

    Under each mask a bar shows the score as a fraction of the clean score: that of what the mask keeps, or for a game
    that only removes, that of what is left without it. Bars end at 1.25; the number beneath goes on. Where the clean
    score is not above 0 (log-probabilities), a fraction of it would mean nothing, and the bar is the share of the way
    from the fully perturbed score to the clean one.

    Args: as :func:`show_mask`.

    Returns:
        a figure with, for the whole image and then for each area, a picture and a bar; that of a* is boxed.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    view = _view(found, images, index, input_index)
    fractions, meaning = _fractions(view.found)
    areas = view.found.areas.tolist()
    figure, rows = _panels(view.shape, len(areas) + 1, base=1.5, title=title, title_lines=1, least_width=0.9, below=1.0)
    pictures = [ax for row in rows[0::2] for ax in row]
    bars = [ax for row in rows[1::2] for ax in row]
    _draw_image(pictures[0], view.rgb, "image")
    _draw_bar(bars[0], 1.0, _FAINT, first=True)
    best = _optimal_index(view.found)
    for k, area in enumerate(areas):
        _draw_masked(pictures[k + 1], view, k, outline=k == best)
        _box_title(pictures[k + 1], _percent(area), boxed=k == best)
        _draw_bar(bars[k + 1], fractions[k], _BLUE if k != best else _MARK, first=False)
    figure.supxlabel(f"bars, up to {SATURATION:g}: {meaning}{_boxed_text(view.found)}", fontsize=_SMALL, color=_INK)
    return figure


def show_curves(found: ExtremalMasks, index: int = 0, *, title: str | None = None) -> Figure:
    """The score of what the masks keep, and of what is left without it, against their area (figure 3).

    Args:
        found: masks of any kind, also of channels.
        index: which of the N images.
        title: a line above the figure.

    Returns:
        a figure with the preserved (blue) and the deleted (orange) score, and lines for the clean (green) and the fully
        perturbed score (red) and for a*.

    Raises:
        TypeError: ``found`` is no :class:`~captum_extremal.ExtremalMasks`, or the index no integer.
        IndexError, ValueError: there is no such image.
    """
    _check_found(found)
    one = found.image(index)
    figure = _new_figure(6.4, 3.4)
    ax = figure.subplots()
    percents = 100 * _array(one.areas)
    preserved, deleted = _array(one.scores)[0], _array(one.complement_scores)[0]
    ax.axhline(float(one.clean_score), color=_GREEN, linewidth=1.3, linestyle="--", label="whole image")
    ax.plot(percents, preserved, "-o", color=_BLUE, markersize=5, label="only the mask's region")
    ax.plot(percents, deleted, "-s", color=_ORANGE, markersize=5, label="all but the mask's region")
    ax.axhline(float(one.perturbed_score), color=_RED, linewidth=1.3, linestyle="--", label="fully perturbed")
    if bool(one.reached):
        optimal = float(one.optimal_area)
        ax.axvline(100 * optimal, color=_MARK, linewidth=6, alpha=0.3, zorder=0, label=f"a* = {_percent(optimal)}")
    else:
        ax.plot([], [], " ", label="a* not reached")
    _style_curves(figure, ax, title)
    return figure


def show_order(
    found: ExtremalMasks, images: Tensor, index: int = 0, *, input_index: int = 0, title: str | None = None
) -> Figure:
    """The order in which the pixels enter as the area grows, as one image.

    Args: as :func:`show_mask`.

    Returns:
        a figure of the grey image under the colours of the areas: each pixel has that of the smallest area whose binary
        mask holds it, and stays grey where none does. The colour bar is in fractions of the image.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    view = _view(found, images, index, input_index)
    step = _entry_step(view)
    count = len(view.found.areas)
    colours = ListedColormap(colormaps["viridis_r"](np.linspace(0.02, 1.0, count)))
    width, height = _panel_size(view.shape, 3.6)
    figure = _new_figure(width + 1.1, height + 0.35)
    ax = figure.subplots()
    ax.imshow(view.rgb @ _GREY, cmap="gray", vmin=0, vmax=1)
    drawn = ax.imshow(step, cmap=colours, vmin=-0.5, vmax=count - 0.5, alpha=0.7, interpolation="nearest")
    _bare(ax)
    ax.set_title(title or "order of entry", fontsize=_LARGE if title else _NORMAL, color=_INK)
    bar = figure.colorbar(drawn, ax=ax, ticks=np.arange(-0.5, count), shrink=0.9, pad=0.03)
    bar.ax.set_yticklabels([_percent(area) for area in [0.0, *view.found.areas.tolist()]], fontsize=_SMALL)
    bar.set_label("area of the mask when the pixel enters", fontsize=_SMALL, color=_INK)
    bar.outline.set_visible(False)
    return figure


def compare(
    found: ExtremalMasks,
    images: Tensor,
    attributions: Mapping[str, Tensor],
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
    method: str = "blended_heat_map",
    sign: str = "absolute_value",
    outlier_perc: float = 2,
) -> Figure:
    """The image, its extremal mask, and other attributions side by side (figure 2).

    Args:
        found, images, index, input_index, title: as :func:`show_mask`.
        attributions: name -> (N, C, H, W), such as Captum's methods return; the channels are summed. A layer's map is
            brought to the image's size by ``captum.attr.LayerAttribution.interpolate``.
        method, sign, outlier_perc: how :func:`captum.attr.visualization.visualize_image_attr` draws them: "heat_map" or
            "blended_heat_map"; "absolute_value", "positive", "negative" or "all".

    Returns:
        a figure of 2 + len(attributions) panels; one of an attribution without values of the sign is blank.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    check_choice("method", method, _METHODS)
    check_choice("sign", sign, _SIGNS)
    view = _view(found, images, index, input_index)
    maps = _check_attributions(attributions, view.shape, len(found.clean_score), index)
    figure, rows = _panels(
        view.shape, 2 + len(maps), base=2.3, title=title, title_lines=1, least_width=1.9, most_columns=6
    )
    axes = [ax for row in rows for ax in row]
    _draw_image(axes[0], view.rgb, "image")
    _draw_masked(axes[1], view, view.optimal)
    _box_title(axes[1], f"extremal, {_optimal_text(view.found)}", boxed=bool(view.found.reached))
    for ax, (name, values) in zip(axes[2:], maps.items()):
        _draw_attribution(ax, view.rgb, values, method, sign, outlier_perc)
        ax.set_title(name, fontsize=_NORMAL, color=_INK)
    return figure


@dataclass(frozen=True)
class _View:
    """One image of a result, as arrays: rgb (H, W, 3) in [0, 1], soft masks and binary masks (A, H, W)."""

    found: ExtremalMasks
    rgb: Array
    masks: Array
    binary: NDArray[np.bool_]
    entry: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.rgb.shape[0], self.rgb.shape[1]

    @property
    def optimal(self) -> int:
        """Which area to show: a*, or the largest where none is reached."""
        return int(self.found.optimal_index)


def _view(found: ExtremalMasks, images: Tensor, index: int, input_index: int) -> _View:
    _check_found(found)
    one = found.image(index)
    masks = _of_input("masks", one.masks, input_index)
    if masks.dim() != 5:
        raise ValueError(
            f"found must hold masks of images, (N, A, 1, H, W), got {tuple(masks.shape)}: show_curves draws any kind"
        )
    _check_images(images, (len(found.clean_score), masks.shape[-2], masks.shape[-1]))
    picture = images[index].detach().cpu().double().clamp(0, 1)
    return _View(
        found=one,
        rgb=picture.expand(3, -1, -1).permute(1, 2, 0).numpy(),
        masks=_array(masks[0, :, 0]),
        binary=_of_input("masks", one.binary_masks(), input_index)[0, :, 0].cpu().numpy(),
        entry=_array(_of_input("masks", one.order_of_entry(), input_index)[0, 0]),
    )


def _of_input(name: str, given: Tensor | tuple[Tensor, ...], input_index: int) -> Tensor:
    check_count("input_index", input_index, at_least=0)
    tensors = given if isinstance(given, tuple) else (given,)
    if input_index >= len(tensors):
        raise ValueError(f"input_index must be below {len(tensors)}, the number of {name}, got {input_index}")
    return tensors[input_index]


def _check_found(found: object) -> None:
    if not isinstance(found, ExtremalMasks):
        raise TypeError(f"found must be an ExtremalMasks, the result of extremal_masks(), got {type(found).__name__}")


def _check_images(images: object, shape: tuple[int, int, int]) -> None:
    """Images (N, 3, H, W) or (N, 1, H, W) in [0, 1], for N masks of H x W."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"images must be a floating tensor in [0, 1], got {images.dtype}")
    count, height, width = shape
    if images.dim() != 4 or images.shape[1] not in (1, 3) or (len(images), *images.shape[2:]) != shape:
        raise ValueError(
            f"images must be of the masks' size, ({count}, 3, {height}, {width}) or ({count}, 1, {height}, {width}), "
            f"got shape {tuple(images.shape)}"
        )
    low, high = images.min().item(), images.max().item()
    # What undoes a normalisation may overshoot by rounding; NaN fails both comparisons.
    if not (low >= -0.01 and high <= 1.01):
        raise ValueError(
            f"images must be in [0, 1], for display: undo the model's normalisation; "
            f"got values from {low:.3g} to {high:.3g}"
        )


def _check_names(names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [f"target {k + 1}" for k in range(count)]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a sequence of strings, got {names!r}")
    if len(names) != count:
        raise ValueError(f"names must be {count}, one for each target, got {len(names)}")
    return list(names)


def _check_attributions(attributions: object, shape: tuple[int, int], count: int, index: int) -> dict[str, Array]:
    """The attributions of one image, their channels summed: name -> (H, W)."""
    if not isinstance(attributions, Mapping):
        raise TypeError(f"attributions must be a dict of names and tensors, got {type(attributions).__name__}")
    return {
        str(name): _summed_channels(f"attributions[{name!r}]", values, shape, count, index)
        for name, values in attributions.items()
    }


def _summed_channels(name: str, values: object, shape: tuple[int, int], count: int, index: int) -> Array:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
    if values.dim() != 4 or len(values) != count or tuple(values.shape[2:]) != shape:
        raise ValueError(
            f"{name} must be ({count}, C, {shape[0]}, {shape[1]}), got shape {tuple(values.shape)}: "
            "captum.attr.LayerAttribution.interpolate brings a layer's map to the image's size"
        )
    summed = _array(values[index].double().sum(0))
    if not np.isfinite(summed).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return summed


def _array(values: Tensor) -> Array:
    array: Array = values.detach().cpu().double().numpy()
    return array


def _percent(area: float) -> str:
    return f"{100 * area:.3g} %"


def _number(value: float) -> str:
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2
    text = f"{value:.{decimals}f}" if size >= 0.1 else f"{value:.2g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _removes_only(found: ExtremalMasks) -> bool:
    """Whether the game scores only what is left without the mask's region."""
    return bool(found.settings.get("game", {}).get("kept") == 0)


def _optimal_index(found: ExtremalMasks) -> int | None:
    return int(found.optimal_index) if bool(found.reached) else None


def _optimal_text(found: ExtremalMasks) -> str:
    if bool(found.reached):
        return f"a* = {_percent(float(found.optimal_area))}"
    return f"{_percent(float(found.areas[-1]))}, a* not reached"


def _score_text(found: ExtremalMasks) -> str:
    """The scores that the game looked at, at a*."""
    shown = int(found.optimal_index)
    kept = f"score {_number(float(found.scores[0, shown]))}"
    removed = f"without it {_number(float(found.complement_scores[0, shown]))}"
    clean = f"clean {_number(float(found.clean_score))}"
    return f"{removed if _removes_only(found) else kept}, {clean}"


def _boxed_text(found: ExtremalMasks) -> str:
    return f"; boxed: a* = {_percent(float(found.optimal_area))}" if bool(found.reached) else "; a* not reached"


def _fractions(found: ExtremalMasks) -> tuple[list[float], str]:
    """The bars of figure 5, (A,), not yet saturated, and what they are."""
    removes = _removes_only(found)
    scores = _array(found.complement_scores if removes else found.scores)[0]
    what = "score without the region" if removes else "score"
    clean, perturbed = float(found.clean_score), float(found.perturbed_score)
    if clean > 0:
        return (scores / clean).tolist(), f"{what} / score of the whole image"
    if clean > perturbed:
        share = (scores - perturbed) / (clean - perturbed)
        return share.tolist(), f"{what}, from fully perturbed (0) to the whole image (1)"
    return [0.0] * len(scores), f"none: the whole image scores {_number(clean)}, no more than fully perturbed"


def _entry_step(view: _View) -> np.ma.MaskedArray[Any, Any]:
    """Which of the areas a pixel enters with, (H, W), masked where it never does."""
    areas = _array(view.found.areas)
    step = np.searchsorted(areas - 1e-9, view.entry, side="right") - 1
    return np.ma.masked_array(step, mask=~view.binary.any(0))


def _panel_size(shape: tuple[int, int], base: float) -> tuple[float, float]:
    """Width and height in inches of a panel whose area is that of a square of ``base``, whatever its proportions."""
    ratio = min(max(shape[1] / shape[0], 0.4), 2.5)
    return base * ratio**0.5, base / ratio**0.5


def _panels(
    shape: tuple[int, int],
    count: int,
    *,
    base: float,
    title: str | None,
    title_lines: int,
    least_width: float,
    below: float = 0.0,
    most_columns: int = _MOST_COLUMNS,
) -> tuple[Figure, list[list[Axes]]]:
    """A grid of ``count`` panels for images of this shape (H, W), the places left over switched off.

    Args:
        base: side in inches of a square panel.
        title_lines: of each panel's own title.
        least_width: of a column, in inches.
        below: height in inches of a second, smaller axes under each panel: then rows alternate.
    """
    # As few rows as fit, and then rows of about equal length.
    bands = -(-count // most_columns)
    columns = -(-count // bands)
    width, height = _panel_size(shape, base)
    row = height + 0.1 + 0.17 * title_lines
    tall = bands * (row + below) + 0.1 + (0.3 if title else 0) + (0.3 if below else 0)
    # A narrow picture still needs room for its title.
    figure = _new_figure(columns * (max(width, least_width) + 0.1) + 0.1, tall)
    if title:
        figure.suptitle(title, fontsize=_LARGE, color=_INK)
    heights = [row, below] * bands if below else [row] * bands
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    rows: list[list[Axes]] = [list(axes) for axes in grid]
    for place in range(count, bands * columns):
        band, column = divmod(place, columns)
        for line in [2 * band, 2 * band + 1] if below else [band]:
            figure.delaxes(rows[line][column])
    for line, axes in enumerate(rows):
        band = line // 2 if below else line
        del axes[max(0, count - band * columns) :]
    return figure, rows


def _new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches that pyplot does not know."""
    figure = Figure(figsize=(width, height), dpi=100)
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.06, wspace=0.01, hspace=0.01)
    return figure


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    # At the top of its place, where the layout expects the title.
    ax.set_anchor("N")


def _draw_image(ax: Axes, rgb: Array, title: str) -> None:
    ax.imshow(rgb, interpolation="nearest")
    _bare(ax)
    ax.set_title(title, fontsize=_NORMAL, color=_INK)


def _draw_masked(ax: Axes, view: _View, area: int, *, outline: bool = True) -> None:
    """The image under one of its masks: what is hidden is dark and grey."""
    mask = view.masks[area][..., None].clip(0, 1)
    hidden = _HIDDEN * (view.rgb @ _GREY)[..., None]
    ax.imshow(mask * view.rgb + (1 - mask) * hidden, interpolation="nearest")
    _bare(ax)
    if outline and _has_outline(view.masks[area], view.binary[area]):
        values, level = _outline(view.masks[area], view.binary[area])
        # Dark under light, so that it shows on any picture.
        ax.contour(values, levels=[level], colors=["black"], linewidths=[2.4], alpha=0.6)
        ax.contour(values, levels=[level], colors=[_MARK], linewidths=[1.2])


def _has_outline(mask: Array, binary: NDArray[np.bool_]) -> bool:
    """Whether the mask has an inside and an outside. That of a nearly flat one would trace the lattice's ripples."""
    if binary.all() or not binary.any():
        return False
    return bool(mask[binary].mean() - mask[~binary].mean() >= _LEAST_CONTRAST)


def _outline(mask: Array, binary: NDArray[np.bool_]) -> tuple[Array, float]:
    """Values (H, W) and the level that encloses exactly the binary mask's area."""
    least, most = float(mask[binary].min()), float(mask[~binary].max())
    if least > most:
        return mask, (least + most) / 2
    # Equal values on both sides (a plateau): no level parts them, but the binary mask does.
    return binary.astype(np.float64), 0.5


def _box_title(ax: Axes, text: str, *, boxed: bool) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": "#fff3cd", "edgecolor": _MARK, "linewidth": 1.4}
    ax.set_title(text, fontsize=_NORMAL, color=_INK, bbox=box if boxed else None)


def _draw_bar(ax: Axes, fraction: float, colour: str, *, first: bool) -> None:
    ax.bar([0], [min(max(fraction, 0.0), SATURATION)], width=0.55, color=colour)
    ax.axhline(1.0, color=_GREEN, linewidth=1.0, linestyle="--")
    ax.set(xlim=(-0.8, 0.8), ylim=(0, SATURATION))
    ax.set_xticks([0], [f"{fraction:.2f}".replace("-", "\N{MINUS SIGN}")], fontsize=_SMALL, color=_INK)
    ax.set_yticks([0, 1], ["0", "1"] if first else ["", ""], fontsize=_SMALL, color=_INK)
    ax.tick_params(length=0)
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.spines["bottom"].set_color(_FAINT)


def _style_curves(figure: Figure, ax: Axes, title: str | None) -> None:
    ax.set_xlim(left=0)
    ax.set_xlabel("area of the mask, % of the input", fontsize=_NORMAL, color=_INK)
    ax.set_ylabel("score", fontsize=_NORMAL, color=_INK)
    ax.tick_params(labelsize=_SMALL, colors=_INK)
    ax.grid(color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["right", "top"]].set_visible(False)
    # Beside the axes: within them it would hide one curve or the other.
    figure.legend(loc="outside right upper", fontsize=_SMALL, frameon=False)
    if title:
        ax.set_title(title, fontsize=_LARGE, color=_INK)


def _draw_attribution(ax: Axes, rgb: Array, values: Array, method: str, sign: str, outlier_perc: float) -> None:
    signed = {"positive": values.clip(min=0), "negative": values.clip(max=0)}.get(sign, values)
    largest = float(np.abs(signed).max())
    if largest == 0:
        _draw_blank(ax, rgb.shape[:2], sign, all_zero=not values.any())
        return
    captum_figures.visualize_image_attr(
        # Captum scales the map anyway, but warns of small values.
        values / largest,
        rgb,
        method=method,
        sign=sign,
        plt_fig_axis=(ax.figure, ax),  # type: ignore[arg-type]
        outlier_perc=outlier_perc,
        cmap=_COLOURS[sign],
        alpha_overlay=0.7,
        use_pyplot=False,
    )
    _bare(ax)


def _draw_blank(ax: Axes, shape: tuple[int, ...], sign: str, *, all_zero: bool) -> None:
    ax.imshow(np.full((*shape, 3), 0.93))
    text = "all zero" if all_zero else f"no {sign} values"
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=_NORMAL, color=_INK)
    _bare(ax)
