r"""The mean channel mask of each class (section 5.2).

.. math::

    \bar{m}_c = mean of m_{a^*} over the images of class c, \qquad k^*_c = argmax_k \bar{m}_c^k

Shapes: N images of a batch, K channels of the layer, C classes.
"""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from captum_extremal._captum import progress_bar
from captum_extremal._checks import check_callable, check_count, check_number
from captum_extremal._describe import checksum, describe
from captum_extremal._jsonl import JsonLines
from captum_extremal._state import modules_of, warn_caller
from captum_extremal.attr._inputs import check_perturbations_per_eval
from captum_extremal.attr._layer_inputs import as_layer_solver, check_layer_areas
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.class_channels.loading import Batch, Loader, MeansByLabel, batches_of, check_loader
from captum_extremal.class_channels.removal import RemovalDrop, drops_of
from captum_extremal.class_channels.rows import Row, check_known, rows_of
from captum_extremal.hooks import unwrap
from captum_extremal.layers import check_layer, name_of
from captum_extremal.layers.axes import check_axes
from captum_extremal.results import threshold_of
from captum_extremal.search.games import Game, as_game
from captum_extremal.search.problem import Solver

_ROUNDING = 1e-4  # by which a threshold that is computed again may differ, as a fraction


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
        check_perturbations_per_eval(perturbations_per_eval)
        here, there = _layer_of(method), {name: self.settings[name] for name in ("layer", "layer_has_name")}
        if here != there and here["layer_has_name"] and there["layer_has_name"]:
            raise ValueError(
                f"method must mask the layer that the channels are of, {there['layer']}, got {here['layer']}"
            )
        removed = tuple(label for label, used in zip(self.classes, self.used) if used) if classes is None else classes
        if not len(removed):
            raise ValueError("classes must not be empty")
        channels = torch.stack([self.top(label, count)[0] for label in removed])
        means, total = MeansByLabel(), self.masks.shape[1]
        for batch in _watched(loader, device, show_progress, "channels removed"):
            drops = drops_of(method, batch, channels, self.settings, total, perturbations_per_eval)
            means.add(drops, batch.labels)
        by_class = means.result()
        mean_drops, images = zip(*by_class.values())
        return RemovalDrop(tuple(map(int, removed)), channels, tuple(by_class), torch.stack(mean_drops, 1), images)

    def _row(self, label: int) -> int:
        check_count("label", label, at_least=0)
        counted = [known for known, used in zip(self.classes, self.used) if used]
        if label not in counted:
            seen = "none of whose images reached the threshold" if label in self.classes else "which was not seen"
            raise ValueError(f"label must be a class of which an image counts, one of {counted}, got {label}, {seen}")
        return self.classes.index(label)


def class_channels(
    method: LayerExtremalPerturbation,
    loader: Loader,
    *,
    path: str | os.PathLike[str] | None = None,
    attribute_to_layer_input: bool = False,
    areas: float | Sequence[float] | Tensor | None = None,
    game: str | Game = "preserve",
    channel_dim: int | None = None,
    solver: str | Solver = "path",
    score_threshold: float | Callable[[Tensor, Tensor], Tensor] | None = None,
    device: torch.device | str | None = None,
    perturbations_per_eval: int | None = None,
    show_progress: bool = False,
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
        attribute_to_layer_input, areas, game, channel_dim, solver, perturbations_per_eval: as
            :meth:`LayerExtremalPerturbation.extremal_masks` takes them. A solver of your own must be a dataclass.
        score_threshold: Phi_0 as there: None, one number, or a callable ``(clean, perturbed) -> (N,)``.
        device: where the batches are moved; None leaves them where they are.
        show_progress: draw a progress bar of batches.

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
    search = _Search(
        method,
        bool(attribute_to_layer_input),
        check_layer_areas(areas),
        as_game(game),
        channel_dim,
        as_layer_solver(solver),
        score_threshold,
        perturbations_per_eval,
    )
    check_loader(loader, ordered=path is not None)
    settings, means, skipped, channels = search.settings(), MeansByLabel(), Counter[int](), 0
    with nullcontext() if path is None else JsonLines(path, "class_channels", settings) as file:
        known = iter(()) if file is None else file.read(Row.of_json)
        for batch in _watched(loader, device, show_progress, "class channels"):
            rows = list(islice(known, len(batch.labels)))
            check_known(rows, batch)
            search.check_threshold(rows)
            if len(rows) < len(batch.labels):
                new = search.rows(batch.after(len(rows)))
                if file is not None:
                    file.append(row.as_json() for row in new)
                rows += new
            channels = len(rows[0].mask)
            for row in rows:
                skipped[row.label] += row.optimal_area is None
            counted = [row for row in rows if row.optimal_area is not None]
            if counted:
                means.add(torch.stack([row.mask for row in counted]), [row.label for row in counted])
    classes, by_class = tuple(sorted(skipped)), means.result()
    if not by_class:
        warn_caller(
            f"none of {skipped.total()} images reaches the score threshold at any of the areas, so that no class has "
            "a mask: add larger areas or lower score_threshold"
        )
    masks, used = zip(*(by_class.get(label, (torch.full((channels,), torch.nan), 0)) for label in classes))
    return ClassChannels(classes, torch.stack(masks), used, tuple(skipped[label] for label in classes), settings)


def _watched(loader: Loader, device: torch.device | str | None, show_progress: bool, about: str) -> Iterator[Batch]:
    """The loader's batches, with a progress bar."""
    with progress_bar(show_progress, operator.length_hint(loader), about) as bar:
        for batch in batches_of(loader, device):
            yield batch
            bar.update(1)


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


@dataclass(frozen=True)
class _Search:
    """How the mask of each image is found, checked before anything runs."""

    method: LayerExtremalPerturbation
    attribute_to_layer_input: bool
    areas: tuple[int, ...] | tuple[float, ...] | None
    game: Game
    channel_dim: int | None
    solver: Solver
    score_threshold: float | Callable[[Tensor, Tensor], Tensor] | None
    perturbations_per_eval: int | None

    def __post_init__(self) -> None:
        _check_method(self.method)
        check_axes(self.channel_dim)
        check_perturbations_per_eval(self.perturbations_per_eval)
        if callable(self.score_threshold):
            check_callable("score_threshold", self.score_threshold, "clean", "perturbed")
        elif self.score_threshold is not None:
            check_number("score_threshold", self.score_threshold)

    def settings(self) -> dict[str, Any]:
        """What decides the masks, but for the threshold, as plain values of JSON."""
        modules = (*modules_of(self.method.forward_func), self.method.layer)
        tensors = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
        names = ("attribute_to_layer_input", "channel_dim", "areas", "game", "solver")
        described = {name: describe(name, getattr(self, name)) for name in names}
        return {**_layer_of(self.method), **described, "model": checksum(tensors)}

    def rows(self, batch: Batch) -> list[Row]:
        """The rows of a batch."""
        found = self.method.extremal_masks(
            batch.inputs,
            batch.labels,
            attribute_to_layer_input=self.attribute_to_layer_input,
            areas=self.areas,
            game=self.game,
            channel_dim=self.channel_dim,
            solver=self.solver,
            score_threshold=self.score_threshold,
            perturbations_per_eval=self.perturbations_per_eval,
        )
        return rows_of(found, batch)

    def check_threshold(self, rows: list[Row]) -> None:
        """Raise ValueError unless rows of an earlier run have the threshold of this one."""
        if not rows:
            return
        scores = [(row.clean, row.perturbed, row.threshold) for row in rows]
        clean, perturbed, before = torch.tensor(scores, dtype=torch.float64).T
        now = threshold_of(self.score_threshold, self.game, clean, perturbed)
        for row, same, value in zip(rows, torch.isclose(now, before, rtol=_ROUNDING).tolist(), now.tolist()):
            if not same:
                raise ValueError(
                    f"score_threshold must be what it was for the images in the file, but for image {row.index} "
                    f"it is {value:.6g}, in the file {row.threshold:.6g}"
                )
