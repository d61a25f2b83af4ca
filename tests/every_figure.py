"""Every figure function, called with small results, and with the longest texts that it may have to place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure

from by_hand import optimum_by_hand
from captum_extremal import Robustness
from captum_extremal import visualization as vis
from captum_extremal.metrics import WeightRandomisation
from figures import HEIGHT, WIDTH, make_images, make_result

AREAS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4)
KEPT, REMOVED = [-1.0, 2.0, 5.0, 8.0, 11.0, 14.0], [12.0, 11.0, 9.0, 6.0, 3.0, 0.5]
HYBRID = {"kept": 1.0, "removed": -1.0}
NAME = "contrastive_excitation_backprop of a Wire-haired Fox Terrier, WWWWWWWW"
WAYS = ("own", "fade", "half blur", "blur", "double blur", "others", "noise")


def make_found(images: int = 2, *size: int, long: bool = False, **how: Any) -> Any:
    """Masks of disks, or of intervals and balls; ``long`` have the most to tell."""
    size = size or (HEIGHT, WIDTH)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, length, dtype=torch.float64) for length in size), indexing="ij")
    order = sum((axis - 0.2) ** 2 for axis in axes).flatten().argsort().argsort().view(size) / axes[0].numel()
    masks = ((torch.tensor(AREAS).view(-1, *[1] * len(size)) - order) * 40).sigmoid().float()[:, None]
    masks = masks.expand(images, *masks.shape)
    game = {"game": HYBRID, "threshold": 99.0} if long else {}
    between = optimum_by_hand(masks[:, 3], [0.15] * images, [10.5] * images, [4.0] * images)
    others = {} if long else {"others": [between]}
    found = make_result(masks, AREAS, KEPT, REMOVED, **{**game, **others, **how})
    shares = (2 * masks).round() / 2
    return dataclasses.replace(found, agreement=shares, agreement_score=torch.full((images, len(AREAS)), 0.52))


def make_channels(long: bool = False) -> Any:
    masks = (torch.arange(512) < torch.tensor([1, 5, 20, 100, 256, 512])[:, None]).float().expand(2, -1, -1)
    areas = [count / 512 for count in (1, 5, 20, 100, 256, 512)]
    game = {"game": HYBRID, "threshold": 99.0} if long else {}
    return make_result(masks, areas, KEPT, REMOVED, sigma=float("nan"), **game)


def make_groups(long: bool = False, count: int = 5, of: int = 40) -> Any:
    """The first groups of two examples, each of which loses less than the one before; the long ones are not enough."""
    masks = (torch.arange(of) < count).float().expand(2, 1, -1)
    game = {"game": HYBRID, "threshold": 99.0} if long else {"threshold": 9.5}
    found = make_result(masks, [count / of], [10.0], [3.0], sigma=float("nan"), **game)
    losses = torch.where(found.optimal_masks > 0, torch.arange(float(of)).flip(0) - of + count, torch.nan)
    return dataclasses.replace(found, group_ids=torch.arange(of), removal_losses=losses, minimal=found.reached)


def make_run() -> WeightRandomisation:
    generator = torch.Generator().manual_seed(3)
    layers = ("classifier.1", "features.denseblock4.norm2", "features.0")
    maps = torch.rand(1 + len(layers), 2, HEIGHT, WIDTH, generator=generator)
    return WeightRandomisation(layers, maps, *-torch.rand(3, len(layers), 2, generator=generator))


def make_robustness(long: bool = False) -> Robustness:
    values = torch.rand(2, len(AREAS) + 1, len(WAYS), generator=torch.Generator().manual_seed(0)) * 20 - 10
    held = torch.tensor([[*AREAS, float("nan") if long else 0.1234]] * 2)
    return Robustness(WAYS, held, values, values / 2, values[:, 0] / 10, torch.full((2,), 10.0))


def _explanations(long: bool, **how: Any) -> Figure:
    found = make_found(long=long)
    return vis.show_explanations(dataclasses.replace(found, others=(found, found)), make_images(), **how)


def _compare(long: bool, **how: Any) -> Figure:
    maps = {name: make_images() - 0.5 for name in ("gradient", NAME if long else "Grad-CAM")}
    rows = {"index": range(2), "names": [NAME, "cat"]} if long else {}
    return vis.compare(make_found(long=long), make_images(), attributions=maps, **rows, **how)


def _bars(long: bool, **how: Any) -> Figure:
    values = {NAME if long else "ours": (0.9, 0.8, 0.95), "theirs": (-0.4, -0.5, -0.3), NAME[:40]: (0.0, 0.0, 0.1)}
    return vis.show_bars(values, ylabel="pointing game", **how)


def _channels(long: bool, **how: Any) -> Figure:
    return vis.show_channels(make_channels(long), make_images(), heat_maps=torch.rand(2, 1, 6, 10), **how)


def _inversions(long: bool, **how: Any) -> Figure:
    x, names = make_images(), [NAME if long else "dog", "cat"]
    return vis.show_inversions(x, torch.rand(2, 1, 6, 10), x, x, titles=names, **how)


def _masks(long: bool, **how: Any) -> Figure:
    others = {NAME if long else "other": make_images(), "b": make_images()}
    return vis.compare_masks(make_found(long=long), make_images(), masks=others, **how)


def _sweep(long: bool, **how: Any) -> Figure:
    return vis.show_sweep(make_found(long=long), make_images(), agreement=True, **how)


def _targets(long: bool, **how: Any) -> Figure:
    return vis.show_targets(make_found(4, long=long), make_images(4), names=[NAME if long else "cat"] * 4, **how)


def _randomisation(long: bool, **how: Any) -> Figure:
    return vis.show_randomisation({NAME if long else "gradient": make_run(), "b": make_run()}, make_images(), **how)


Call = Callable[..., Figure]
CALLS: dict[str, Call] = {
    "compare": _compare,
    "compare_masks": _masks,
    "show_bars": _bars,
    "show_channels": _channels,
    "show_class_channel": lambda long, **how: vis.show_class_channel(
        make_images()[0], make_images(7), values=[12345.6, -0.123, 1e-9, 0, 1, 2, 3], **how
    ),
    "show_curves": lambda long, **how: vis.show_curves(make_found(long=long), make_images(), **how),
    "show_explanations": _explanations,
    "show_groups": lambda long, **how: vis.show_groups(make_groups(long), names={2: NAME} if long else None, **how),
    "show_inversions": _inversions,
    "show_mask": lambda long, **how: vis.show_mask(make_found(long=long), make_images(), **how),
    "show_order": lambda long, **how: vis.show_order(make_found(long=long), make_images(), **how),
    "show_randomisation": _randomisation,
    "show_robustness": lambda long, **how: vis.show_robustness(make_robustness(long), **how),
    "show_signal": lambda long, **how: vis.show_signal(
        make_found(2, 50, long=long), torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0)), **how
    ),
    "show_sweep": _sweep,
    "show_targets": _targets,
    "show_volume": lambda long, **how: vis.show_volume(
        make_found(1, 8, 16, 16, long=long), torch.rand(1, 1, 8, 16, 16), **how
    ),
}
"""By name, called with whether the texts are long, and the figure's own keywords."""

OF_ONE_AXES = ("show_bars", "show_curves", "show_groups", "show_order")
"""Those that take ``ax`` in place of ``fig``."""
HEIGHTS = {"show_signal": 5.5, "show_robustness": 5.0, "show_channels": 6.0, "show_sweep": 6.0, "compare_masks": 5.0}
"""Inches, of figures that are 5 inches wide, where not 4."""


def at_five_inches(name: str, long: bool = False, **how: Any) -> Figure:
    """A figure drawn on one of the caller's that is 5 inches wide."""
    figure = Figure(figsize=(5, HEIGHTS.get(name, 4.0)), layout="constrained")
    place = {"ax": figure.subplots()} if name in OF_ONE_AXES else {"fig": figure}
    made = CALLS[name](long, **place, **how)
    assert made is figure
    return figure
