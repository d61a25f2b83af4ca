r"""The mean channel mask of each class (section 5.2).

.. math::

    \bar{m}_c = mean of m_{a^*} over the images of class c, \qquad k^*_c = argmax_k \bar{m}_c^k

Shapes: N images of a batch, K channels of the layer, C classes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from captum_extremal._checks import check_choice, check_count, check_number
from captum_extremal._describe import checksum, describe
from captum_extremal._jsonl import JsonLines
from captum_extremal._state import modules_of, warn_caller
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.classes.loading import Loader, MeansByLabel, batches_of, check_loader
from captum_extremal.classes.removal import RemovalDrop, drops_of
from captum_extremal.classes.rows import Row, check_known, rows_of
from captum_extremal.hooks import unwrap
from captum_extremal.layers import check_layer, name_of
from captum_extremal.search import as_game
from captum_extremal.settings import LayerSearchSettings, check_areas, documents


@dataclass(frozen=True, eq=False, repr=False)
class ClassChannels:
    """The mean channel mask of each class.

    Attributes:
        classes: the C labels that were seen, increasing.
        masks: (C, K) float32 on the CPU, the mean of m_a* over each class's images; NaN where no image counts.
        used: for each class, how many images count.
        skipped: for each class, how many images do not count because they reach Phi_0 at none of the areas.
        settings: how the masks were made: layer, areas, game, solver, a checksum of the model; plain values.
    """

    classes: tuple[int, ...]
    masks: Tensor
    used: tuple[int, ...]
    skipped: tuple[int, ...]
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return (
            f"ClassChannels(masks={tuple(self.masks.shape)}, classes={list(self.classes)}, "
            f"used={sum(self.used)}, skipped={sum(self.skipped)})"
        )

    def top(self, label: int, count: int = 1) -> tuple[Tensor, Tensor]:
        """The channels with the largest entries in the mean mask of a class.

        Args:
            label: the class.
            count: how many channels; 1 for the paper's k*_c.

        Returns:
            channels (count,) int64, by decreasing entry and, where entries are equal, by channel; their entries
            (count,) in [0, 1].

        Raises:
            TypeError, ValueError: an argument is no integer, no image of the class counts, or there are fewer channels.
        """
        mask = self.masks[self._row(label)]
        check_count("count", count)
        if count > len(mask):
            raise ValueError(f"count must be at most the layer's {len(mask)} channels, got {count}")
        values, channels = mask.sort(descending=True, stable=True)
        return channels[:count], values[:count]

    def removal_drop(
        self,
        method: LayerExtremalPerturbation,
        loader: Loader,
        *,
        count: int = 1,
        classes: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> RemovalDrop:
        """How far the scores of images fall when only the top channels of a class are set to zero.

        The score is that of each image's own label. The channels of every class are removed from every image, so that
        the effect on the class itself can be compared with the effect on the others.

        Args:
            method: the model and the layer whose channels these are. The model's output may be another one, such as
                probabilities.
            loader: as :func:`class_channels` takes it; the images need not be the same.
            count: how many channels are removed, the class's :meth:`top`.
            classes: the classes whose channels are removed; None for all of which an image counts.
            device: where the batches are moved; None leaves them where they are.
            perturbations_per_eval: how many removals from each image go through the model at once; None for all.
            show_progress: draw a progress bar of batches.

        Raises:
            TypeError, ValueError: an argument breaks a rule above, the layer is another one, or the loader gives no
                batch or something else than pairs (inputs, labels).
        """
        _check_method(method)
        check_loader(loader)
        LayerSearchSettings(perturbations_per_eval=perturbations_per_eval)
        here, there = _layer_of(method), {name: self.settings[name] for name in ("layer", "layer_has_name")}
        if here != there and here["layer_has_name"] and there["layer_has_name"]:
            raise ValueError(
                f"method must mask the layer that the channels are of, {there['layer']}, got {here['layer']}"
            )
        removed = tuple(label for label, used in zip(self.classes, self.used) if used) if classes is None else classes
        if not len(removed):
            raise ValueError("classes must not be empty")
        channels = torch.stack([self.top(label, count)[0] for label in removed])
        kept = torch.ones(len(channels), self.masks.shape[1]).scatter_(1, channels, 0.0)
        means = MeansByLabel()
        for batch in batches_of(loader, device, show_progress, "channels removed"):
            means.add(drops_of(method, batch, kept, self.settings, perturbations_per_eval), batch.labels)
        by_class = means.result()
        drops, images = zip(*by_class.values())
        return RemovalDrop(tuple(map(int, removed)), channels, tuple(by_class), torch.stack(drops, dim=1), images)

    def _row(self, label: int) -> int:
        check_count("label", label, at_least=0)
        counted = [known for known, used in zip(self.classes, self.used) if used]
        if label not in counted:
            seen = "none of whose images reached the threshold" if label in self.classes else "which was not seen"
            raise ValueError(f"label must be a class of which an image counts, one of {counted}, got {label}, {seen}")
        return self.classes.index(label)


@documents(LayerSearchSettings)
def class_channels(
    method: LayerExtremalPerturbation,
    loader: Loader,
    *,
    path: str | os.PathLike[str] | None = None,
    attribute_to_layer_input: bool = False,
    device: torch.device | str | None = None,
    **settings: Any,
) -> ClassChannels:
    r"""The mean of the channel masks m_a* over each class's images, over any number of batches.

    An image that does not reach Phi_0 at any of the areas has no m_a*: it is skipped, and counted. (The default areas
    end with all channels, which reach the default threshold: such an image counts with a mask of ones.)

    With ``path``, a row (label, a*, scores, mask) per image is appended to a file of JSON lines after each batch. A
    call with the same file continues where the last one stopped, however it was stopped, and returns the same (up to
    rounding, if a batch was split): nothing is computed for the images in the file, and an unfinished last line is
    dropped. The loader must give the same images in the same order each time, in batches of any size: a row holds the
    position, label and checksum of its image, and an image that does not fit is an error. So is a file of other
    settings, or of a model with other weights. A callable ``score_threshold`` is called again for the images in the
    file. Two calls at the same time need two files.

    Args:
        method: the model and the layer.
        loader: gives pairs (inputs, labels): a tensor (N, ...) or a tuple of the model's inputs, and N integers from 0
            up, which are the model's targets and the classes.
        path: the file of rows; None keeps none. Its folder must exist.
        attribute_to_layer_input: as :meth:`LayerExtremalPerturbation.extremal_masks` takes it.
        device: where the batches are moved; None leaves them where they are.
        **settings: as :meth:`LayerExtremalPerturbation.extremal_masks` takes them, for channel masks. A
            ``score_threshold`` is a number or a callable; a solver of your own is a dataclass; the progress bar counts
            batches.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before the model runs), the loader gives no batch or
            something else than pairs (inputs, labels), the file is damaged or does not fit, or the layer has several
            tensors.
        OSError: the file cannot be opened or written.

    Examples::

        >>> method = LayerExtremalPerturbation(model, model.features[10])
        >>> found = class_channels(method, DataLoader(folder, batch_size=32), path="features.10.jsonl")
        >>> channels, values = found.top(207, 5)
        >>> drop = found.removal_drop(method, loader, count=5)
        >>> drop.own, drop.others
    """
    _check_method(method)
    options = LayerSearchSettings.of(settings, class_channels)
    check_choice("mask", options.mask, ("channels",))
    if options.score_threshold is not None and not callable(options.score_threshold):
        check_number("score_threshold", options.score_threshold)
    options.check_for(1)
    check_loader(loader, ordered=path is not None)
    about = _about(method, attribute_to_layer_input, options)
    search = {**settings, "attribute_to_layer_input": attribute_to_layer_input, "show_progress": False}
    means, skipped, channels = MeansByLabel(), Counter[int](), 0
    with nullcontext() if path is None else JsonLines(path, "class_channels", about) as file:
        known = iter(()) if file is None else file.read(Row.of_json)
        for batch in batches_of(loader, device, options.show_progress, "class channels"):
            rows = list(islice(known, len(batch.labels)))
            check_known(rows, batch, options)
            if len(rows) < len(batch.labels):
                rest = batch.after(len(rows))
                new = rows_of(method.extremal_masks(rest.inputs, rest.labels, **search), rest)
                if file is not None:
                    file.append(row.as_json() for row in new)
                rows += new
            channels = len(rows[0].mask)
            skipped.update({row.label: 0 for row in rows})
            skipped.update(row.label for row in rows if row.optimal_area is None)
            if counted := [row for row in rows if row.optimal_area is not None]:
                means.add(torch.stack([row.mask for row in counted]), [row.label for row in counted])
    classes, by_class = tuple(sorted(skipped)), means.result()
    if not by_class:
        warn_caller(
            f"none of {skipped.total()} images reaches the score threshold at any of the areas, so that no class has "
            "a mask: add larger areas or lower score_threshold"
        )
    masks, used = zip(*(by_class.get(label, (torch.full((channels,), torch.nan), 0)) for label in classes))
    return ClassChannels(classes, torch.stack(masks), used, tuple(skipped[label] for label in classes), about)


def _check_method(method: object) -> None:
    if not isinstance(method, LayerExtremalPerturbation):
        raise TypeError(f"method must be a LayerExtremalPerturbation, got {method!r} of type {type(method).__name__}")
    check_layer(method.forward_func, method.layer)


def _layer_of(method: LayerExtremalPerturbation) -> dict[str, Any]:
    """The layer, and whether it has a name: a function that calls the model does not know the names of its modules."""
    return {
        "layer": name_of(method.forward_func, method.layer),
        "layer_has_name": isinstance(unwrap(method.forward_func), nn.Module),
    }


def _about(method: LayerExtremalPerturbation, to_input: bool, settings: LayerSearchSettings) -> dict[str, Any]:
    """What decides the masks, except for the threshold, as plain values of JSON."""
    modules = (*modules_of(method.forward_func), method.layer)
    areas = None if settings.areas is None else check_areas(settings.areas, counts=True)
    tensors = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    return {
        **_layer_of(method),
        "attribute_to_layer_input": bool(to_input),
        "channel_dim": describe("channel_dim", settings.channel_dim),
        "areas": describe("areas", areas),
        "game": describe("game", as_game(settings.game)),
        "solver": describe("solver", settings.chosen_solver()),
        "model": checksum(tensors),
    }
