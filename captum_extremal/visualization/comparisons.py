"""Several methods side by side, after figures 2, 6 and 7 of the paper."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from captum.attr import visualization as captum_figures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal._checks import check_choice, check_number
from captum_extremal.metrics import WeightRandomisation
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization import _arguments as check
from captum_extremal.visualization import _drawing as draw
from captum_extremal.visualization.masks import draw_areas, draw_kept, draw_masked

_COLOURS = {"all": "RdBu_r", "positive": "inferno", "negative": "inferno", "absolute_value": "inferno"}  # by sign
_ROUNDING = 1e-3  # by which a mask that was resized may leave [0, 1]
_BASE, _LEAST_WIDTH = 1.15, 1.2  # inches: the side of a randomised model's map, and the room for its title
_LETTER, _LINE, _BAR = 0.075, 0.14, 0.75  # inches, of a bar's name, and from bar to bar
_ROOM = 0.12  # of the axis, above and below the intervals, for the numbers


def compare(
    found: ExtremalMasks,
    images: Tensor,
    attributions: Mapping[str, Tensor],
    index: int | Sequence[int] = 0,
    *,
    input_index: int = 0,
    names: Sequence[str] | None = None,
    title: str | None = None,
    method: str = "blended_heat_map",
    sign: str = "positive",
    outlier_perc: float = 2,
) -> Figure:
    """Images, their extremal masks, and other attributions side by side (figure 2).

    Args:
        attributions: name -> (N, C, H, W), such as Captum's methods return; the channels are summed. Resize a layer's
            map to the image with ``captum.attr.LayerAttribution.interpolate``.
        index: which of the N images; of several, such as ``range(3)``, each has a row.
        names: of the images that are drawn, such as their targets.
        method, sign, outlier_perc: how :func:`captum.attr.visualization.visualize_image_attr` draws them: "heat_map" or
            "blended_heat_map"; "positive", in which the brightest place is where the metrics say that a map points,
            "absolute_value", "negative" or "all". An attribution without values of the sign is blank.
    """
    check_choice("method", method, ("blended_heat_map", "heat_map"))
    check_choice("sign", sign, _COLOURS)
    check_number("outlier_perc", outlier_perc, at_least=0, below=100)
    chosen = list(index) if isinstance(index, Sequence) else [index]
    if not chosen:
        raise ValueError("index must name at least one image, got none")
    views = [check.view(found, images, one, input_index) for one in chosen]
    labels = check.names("names", names, [""] * len(views), "image")
    shape, alone = views[0].rgb.shape[:2], len(views) == 1
    maps = check.attributions("attributions", attributions, len(found.clean_score), shape)
    columns = 2 + len(maps)
    base, width, most_columns = (2.3, 1.9, 6) if alone else (1.6, 1.6, columns)
    letters = int(draw.LETTERS * width)
    size: dict[str, Any] = {"base": base, "least_width": width, "most_columns": most_columns}
    figure, axes = draw.panels(shape, len(views) * columns, title, title_lines=1 if alone else 2, **size)
    # With 0 per cent, Captum's threshold can be rounded above the sum of all values, and then nothing reaches it.
    how = {"method": method, "outlier_perc": max(outlier_perc, 1e-6), "cmap": _COLOURS[sign]}
    for row, (one, view) in enumerate(zip(chosen, views)):
        image, mask, *others = axes[row * columns : (row + 1) * columns]
        draw.image(image, view.rgb, "" if row else "image")
        draw.row_name(image, labels[row], draw.panel_size(shape, base)[1])
        draw_masked(mask, view.rgb, view.best)
        text = f"{_origin(view.found)}, {draw.shown_text(view.found)}"
        draw.title(mask, draw.wrapped(text, letters), boxed=bool(view.found.reached & ~view.found.vacuous))
        for ax, (name, values) in zip(others, maps.items()):
            _draw_attribution(ax, view.rgb, check.as_array(values[one].double().sum(0)), sign, how)
            draw.title(ax, "" if row else draw.wrapped(name, letters))
    return figure


def compare_masks(
    found: ExtremalMasks,
    images: Tensor,
    masks: Mapping[str, Tensor],
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
) -> Figure:
    """The image under other methods' masks, and under the extremal masks of every area (figure 6).

    What a mask hides is dark and grey, as in :func:`show_mask`. Figure 6 has the masks of Fong and Vedaldi (ICCV 2017),
    which :class:`~captum_extremal.MeaningfulPerturbation` makes.

    Args:
        masks: name -> (N, C, H, W) in [0, 1], 1 where the method keeps or points; the channels are averaged. The mean
            of each is told as its area.
    """
    view = check.view(found, images, index, input_index)
    others = check.attributions("masks", masks, len(found.clean_score), view.rgb.shape[:2])
    for name, values in others.items():
        low, high = values.min().item(), values.max().item()
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ValueError(f"masks[{name!r}] must be a mask in [0, 1], got values from {low:.3g} to {high:.3g}")
    count = 1 + len(others) + len(view.panels)
    figure, (image, *axes) = draw.panels(view.rgb.shape, count, title, base=1.7, least_width=1.3)
    draw.image(image, view.rgb, "image")
    for ax, (name, values) in zip(axes, others.items()):
        mask = check.as_array(values[index].double().mean(0))
        draw_kept(ax, view.rgb, mask)
        draw.title(ax, f"{name}\n{100 * mask.mean():.3g} %")
    draw_areas(axes[len(others) :], view, f"{_origin(view.found)}\n")
    return figure


def show_randomisation(
    found: Mapping[str, WeightRandomisation], images: Tensor, index: int = 0, *, title: str | None = None
) -> Figure:
    """The maps of one image while layer after layer is randomised (figure 7).

    A row per method has the learned model's map, and then one map per layer. Each map has its own range of colours:
    from 0 to its maximum where it has no negative value, else blue below and red above 0, up to its largest magnitude.
    Under it stand the rank correlation and the structural similarity with the learned model's map, of absolute
    attributions: near 1, the map does not depend on what was learned; near 0 or below it, it does. Under a constant map
    stands "none". Maps that are empty almost everywhere are structurally similar whatever they show.

    Args:
        found: name -> result of :func:`~captum_extremal.metrics.weight_randomisation`, of the same layers and images.
    """
    runs = check.named("found", found, "WeightRandomisation", at_least_one="method")
    layers, (_, count, *size) = _shared(runs)
    pictures = check.images("images", images, count)
    index = check.row_of("index", index, count)
    width, height = draw.panel_size(size, _BASE)
    letters = int(draw.SMALL_LETTERS * max(width, _LEAST_WIDTH))
    names = [draw.wrapped(name, letters, after=".") for name in ("learned weights", *layers)]
    columns, lines = 1 + len(names), 1 + max(name.count("\n") for name in names)
    at: dict[str, Any] = {"base": _BASE, "least_width": _LEAST_WIDTH, "title_lines": lines, "most_columns": columns}
    figure, axes = draw.panels(size, len(runs) * columns, title, **at)
    draw.image(axes[0], check.as_rgb(pictures[index]), "image")
    for ax in axes[columns::columns]:
        ax.remove()
    for ax, name in zip(axes[1:], names):
        draw.write(ax.set_title, name, draw.SMALL)
    for row, (method, run) in enumerate(runs.items()):
        maps = axes[row * columns + 1 : (row + 1) * columns]
        draw.row_name(maps[0], method, height)
        alike = map(_similarity, run.rank_correlation_absolute[:, index].tolist(), run.ssim[:, index].tolist())
        for ax, values, under in zip(maps, check.as_array(run.maps[:, index]), ["", *alike]):
            largest = float(np.abs(values).max())
            colours, least = ("RdBu_r", -largest) if (values < 0).any() else ("inferno", 0)
            if largest == 0:
                draw.blank(ax, values.shape, "all zero")
            else:
                draw.image(ax, values, cmap=colours, vmin=least, vmax=largest, interpolation=None)
            draw.write(ax.set_xlabel, under, draw.SMALL)
    what = "above: the layer randomised last; below each map: rank correlation / SSIM with the learned model's"
    draw.write(figure.supxlabel, what, draw.SMALL)
    return figure


def show_bars(values: Mapping[str, tuple[float, float, float]], *, ylabel: str) -> Figure:
    """Means, as bars from 0, with their intervals, as lines: one bar per method, in the order given.

    Args:
        values: name -> (mean, low, high), such as ``summarise(outcomes).mean`` and the 95 % interval over images of
            ``bootstrap_interval(outcomes)``, both of :mod:`captum_extremal.metrics`.
        ylabel: what the numbers are.
    """
    given = check.named("values", values, "(mean, low, high)", at_least_one="bar")
    bars = [_check_bar(f"values[{name!r}]", bar) for name, bar in given.items()]
    names = [draw.wrapped(name, 28) for name in given]
    if not isinstance(ylabel, str):
        raise TypeError(f"ylabel must be a string, got {ylabel!r}")
    sizes = [(max(map(len, lines)), len(lines)) for lines in (name.split("\n") for name in names)]
    below = 0.71 * max(_LETTER * letters + _LINE * lines for letters, lines in sizes)  # names stand at 45 degrees
    figure = draw.new_figure(1.0 + _BAR * max(4, len(bars)), 2.6 + below)
    ax = figure.subplots()
    for place, (mean, low, high) in enumerate(bars):
        ax.bar(place, mean, width=0.6, color=draw.BLUE)
        ax.plot([place, place], [low, high], "-_", color=draw.INK, linewidth=1.2, markersize=7)
        end, offset, side = (max(mean, high), 4, "bottom") if mean >= 0 else (min(mean, low), -4, "top")
        where = {"xy": (place, end), "xytext": (0, offset), "textcoords": "offset points", "ha": "center", "va": side}
        draw.write(ax.annotate, draw.number(mean), draw.SMALL, **where)
    ax.axhline(0, color=draw.FAINT, linewidth=0.8)
    lowest, highest = min(0.0, *map(min, bars)), max(0.0, *map(max, bars))
    room = _ROOM * ((highest - lowest) or 1.0)
    ax.set_ylim(lowest - room if lowest < 0 else 0, highest + room if highest > 0 or lowest == 0 else 0)
    draw.grid(ax, "y")
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(axis="x", length=0)
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    draw.write(partial(ax.set_xticks, range(len(names))), names, draw.SMALL, **slanted)
    draw.write(ax.set_ylabel, ylabel)
    return figure


def _origin(found: ExtremalMasks) -> str:
    """Where masks come from: a search, which has disks of a radius, or the highest values of a map."""
    return "highest" if len(found.sigma) and bool((found.sigma == 0).all()) else "extremal"


def _draw_attribution(ax: Axes, rgb: check.Array, values: check.Array, sign: str, how: dict[str, Any]) -> None:
    signed = {"positive": values.clip(min=0), "negative": values.clip(max=0)}.get(sign, values)
    largest = float(np.abs(signed).max())
    if largest == 0:
        draw.blank(ax, rgb.shape[:2], f"no {sign} values" if values.any() else "all zero")
        return
    values = values / largest  # Captum scales the map anyway, but warns of small values
    at: Any = {"plt_fig_axis": (ax.figure, ax), "use_pyplot": False}
    captum_figures.visualize_image_attr(values, rgb, sign=sign, alpha_overlay=0.7, **at, **how)
    draw.no_ticks(ax)


def _shared(runs: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The layers, and the maps' shape (1 + L, N, H, W), which must be the same for all methods."""
    told = {}
    for name, run in runs.items():
        if not isinstance(run, WeightRandomisation):
            raise TypeError(f"found[{name!r}] must be a WeightRandomisation, got {type(run).__name__}")
        shape = tuple(run.maps.shape)
        told[run.layers, shape] = f"{name!r} of {', '.join(run.layers)} with maps {shape}"
    if len(told) > 1:
        raise ValueError(f"found must hold methods of the same layers and images, got {', '.join(told.values())}")
    return next(iter(told))


def _similarity(*rank_and_ssim: float) -> str:
    told = [draw.number(round(value, 2) + 0.0, ".2f") for value in rank_and_ssim]  # + 0.0: no -0.00
    return "none" if told[0] == "nan" else " / ".join(told)


def _check_bar(name: str, bar: object) -> tuple[float, float, float]:
    if not isinstance(bar, Sequence) or isinstance(bar, str):
        raise TypeError(f"{name} must be (mean, low, high), got {bar!r}")
    if len(bar) != 3:
        raise ValueError(f"{name} must be (mean, low, high), got {len(bar)} numbers")
    for part, value in zip(("mean", "low", "high"), bar):
        check_number(f"{name}'s {part}", value)
    mean, low, high = map(float, bar)
    if low > high:
        raise ValueError(f"{name}'s low must be at most its high, got {low:g} and {high:g}")
    return mean, low, high
