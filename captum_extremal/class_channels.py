r"""Class channels (section 5.2): which channels of a layer belong to a class, and what removing them costs.

.. math::

    \bar{m}_c = mean of m_{a^*} over the images of class c, \qquad k^*_c = argmax_k \bar{m}_c^k

Shapes: N images of a batch, K channels of the layer, C classes.
"""

from __future__ import annotations

import math
import operator
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from captum.attr import ClassSummarizer, Count, Mean
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from captum_extremal._captum import progress_bar
from captum_extremal._checks import check_callable, check_count, check_number
from captum_extremal._rows import Row, RowFile, Rows
from captum_extremal._state import modules_of, warn_caller
from captum_extremal.arguments import check_examples
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.layers import check_layer, name_of
from captum_extremal.masks import read_axes
from captum_extremal.perturbations.product import masked
from captum_extremal.results import threshold_of
from captum_extremal.search import Game, Solver, as_game
from captum_extremal.session import open_session
from captum_extremal.settings import LayerSearchSettings, check_areas

Loader = Iterable[Any]
"""Gives pairs (inputs, labels): a tensor (N, ...) or several, and N integers as a list, an array or a tensor (N,)."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ROUNDING = 1e-4  # what it may change of a threshold that is computed again


@dataclass(frozen=True, eq=False, repr=False)
class ClassChannels:
    """The mean channel mask of each class.

    Attributes:
        classes: the C labels that were seen, increasing.
        masks: (C, K) float32 on the CPU, the mean of m_a* over each class's images; NaN where none of them counts.
        used: of each class, how many images count.
        skipped: of each class, how many do not, because they reach Phi_0 at none of the areas.
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
        """A class's channels: those with the largest entries in its mean mask.

        Args:
            label: the class.
            count: how many; 1 for the paper's k*_c.

        Returns:
            channels (count,) int64, the largest entry first and of equal ones the first channel; their entries (count,)
            in [0, 1].

        Raises:
            TypeError, ValueError: an argument is no integer, no image of the class counts, or there are fewer channels.
        """
        mask = self.masks[self._row(label)]
        self._check_count(count)
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
        """How far the score of images falls when only the top channels of a class are set to zero.

        The score is that of each image's own label, and every class's channels are removed from every image, so that
        what removing them does to their class can be held against what it does to the others.

        Args:
            method: the model and the layer whose channels these are. The model's output may be another, such as
                probabilities.
            loader: as :func:`class_channels` takes it; the images need not be the same.
            count: how many channels are removed, the class's :meth:`top`.
            classes: whose channels are removed; None for all classes of which an image counts.
            device: where the batches are moved; None leaves them where they are.
            perturbations_per_eval: how many removals from each image go through the model at once; None for all.
            show_progress: draw a progress bar of batches.

        Raises:
            TypeError, ValueError: an argument breaks a rule above, the layer is another one, or the loader gives no
                batch or something else than pairs (inputs, labels).
        """
        _check_method(method)
        _check_loader(loader)
        self._check_count(count)
        LayerSearchSettings(perturbations_per_eval=perturbations_per_eval)
        here, there = name_of(method.forward_func, method.layer), self.settings["layer"]
        if here != there and " " in here and " " in there:  # a function that calls the model does not know its names
            raise ValueError(f"method must mask the layer that the channels are of, {there}, got {here}")
        removed = tuple(label for label, used in zip(self.classes, self.used) if used) if classes is None else classes
        if not len(removed):
            raise ValueError("classes must not be empty")
        channels = torch.stack([self.top(label, count)[0] for label in removed])
        kept = torch.ones(len(channels), self.masks.shape[1]).scatter_(1, channels, 0.0)
        means = _Means()
        with progress_bar(show_progress, operator.length_hint(loader), "channels removed") as bar:
            for batch in _batches(loader, device):
                means.add(_drops(method, batch, kept, self.settings, perturbations_per_eval), batch.labels)
                bar.update(1)
        by_class = means.of()
        drops, images = zip(*by_class.values())
        return RemovalDrop(tuple(map(int, removed)), channels, tuple(by_class), torch.stack(drops, dim=1), images)

    def _row(self, label: int) -> int:
        check_count("label", label, at_least=0)
        counted = [known for known, used in zip(self.classes, self.used) if used]
        if label not in counted:
            seen = "none of whose images reached the threshold" if label in self.classes else "which was not seen"
            raise ValueError(f"label must be a class of which an image counts, one of {counted}, got {label}, {seen}")
        return self.classes.index(label)

    def _check_count(self, count: int) -> None:
        check_count("count", count)
        if count > self.masks.shape[1]:
            raise ValueError(f"count must be at most the layer's {self.masks.shape[1]} channels, got {count}")


@dataclass(frozen=True, eq=False, repr=False)
class RemovalDrop:
    """What it costs to remove the channels of R classes, in units of the model's output.

    Attributes:
        removed: whose channels were removed.
        channels: (R, count) int64, which ones.
        classes: the C labels of the images, increasing.
        drops: (R, C) float32, the mean over each class's images of their clean score minus the score without the
            channels, both of the image's own label.
        images: of each class, how many there were.
    """

    removed: tuple[int, ...]
    channels: Tensor
    classes: tuple[int, ...]
    drops: Tensor
    images: tuple[int, ...]

    def __repr__(self) -> str:
        own, others = ([round(value, 4) for value in drops.tolist()] for drops in (self.own, self.others))
        return f"RemovalDrop(removed={self.removed}, channels={tuple(self.channels.shape)}, own={own}, others={others})"

    @property
    def own(self) -> Tensor:
        """(R,): the mean drop of the images of the class whose channels were removed; NaN without any."""
        return self._mean(self._is_own())

    @property
    def others(self) -> Tensor:
        """(R,): the mean drop of the images of all other classes; NaN without any."""
        return self._mean(~self._is_own())

    def _is_own(self) -> Tensor:
        return torch.tensor(self.removed)[:, None] == torch.tensor(self.classes)

    def _mean(self, chosen: Tensor) -> Tensor:
        weight = chosen * torch.tensor(self.images)
        return (self.drops * weight).sum(1) / weight.sum(1)


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
    r"""The mean of the channel masks m_a* over each class's images, over as many batches as there are.

    An image that does not reach Phi_0 at any of the areas has no m_a*: it is skipped, and counted. (The default areas
    end with all channels, which reach the default threshold: such an image counts with a mask of ones.)

    With ``path``, each image's row (label, a*, scores, mask) is appended to a file of JSON lines as soon as its batch
    is done. A call with the same file goes on where the last one stopped, however it was stopped, and gives what that
    one would have given (to rounding, where a batch is split): nothing is computed for the images in the file, and a
    last line that was not written to its end is dropped. So the loader must give the same images in the same order
    each time, in batches of any size: a row holds its image's place, label and checksum, and one that does not fit is
    an error. So is a file of other settings, or of a model with other weights; a callable ``score_threshold`` is asked
    again for the images in the file. Two calls at once need two files.

    Args:
        method: the model and the layer.
        loader: gives pairs (inputs, labels): a tensor (N, ...) or a tuple of the model's inputs, and N integers from 0
            up, the model's targets and the names of the classes.
        path: the file of rows; None keeps none. Its folder must exist.
        attribute_to_layer_input, areas, game, channel_dim, solver, perturbations_per_eval: as
            :meth:`LayerExtremalPerturbation.extremal_masks` takes them.
        score_threshold: Phi_0 as there: None, one number, or a callable ``(clean, perturbed) -> (N,)``.
        device: where the batches are moved; None leaves them where they are.
        show_progress: draw a progress bar of batches.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before the model runs), the loader gives no batch or
            something else than pairs (inputs, labels), the file is no file of rows or does not fit, or the layer has
            several tensors.
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
        None if areas is None else check_areas(areas, counts=True),
        as_game(game),
        channel_dim,
        LayerSearchSettings(solver=solver).chosen_solver(),
        score_threshold,
        perturbations_per_eval,
    )
    _check_loader(loader, ordered=path is not None)
    settings, tally = search.settings(), _Tally()
    with (
        Rows() if path is None else RowFile(path, settings) as kept,
        progress_bar(show_progress, operator.length_hint(loader), "class channels") as bar,
    ):
        for batch in _batches(loader, device):
            rows = kept.take(len(batch.labels))
            search.check_known(rows, batch)
            if len(rows) < len(batch.labels):
                found = search.rows(batch.behind(len(rows)))
                kept.append(found)
                rows += found
            tally.add(rows)
            bar.update(1)
    return tally.result(settings)


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
        LayerSearchSettings(channel_dim=self.channel_dim, perturbations_per_eval=self.perturbations_per_eval)
        if callable(self.score_threshold):
            check_callable("score_threshold", self.score_threshold, "clean", "perturbed")
        elif self.score_threshold is not None:
            check_number("score_threshold", self.score_threshold)

    def settings(self) -> dict[str, Any]:
        """What decides the masks, but for the threshold, as values that JSON keeps."""
        forward_func, layer = self.method.forward_func, self.method.layer
        modules = (*modules_of(forward_func), layer)
        tensors = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
        return {
            "layer": name_of(forward_func, layer),
            "attribute_to_layer_input": self.attribute_to_layer_input,
            "channel_dim": None if self.channel_dim is None else int(self.channel_dim),
            "areas": None if self.areas is None else list(self.areas),
            "game": asdict(self.game),
            "solver": _ADDRESS.sub("", repr(self.solver)),
            "model": _checksum(tensors),
        }

    def rows(self, batch: _Batch) -> list[Row]:
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
        masks = found.optimal_mask()
        if isinstance(masks, tuple):
            raise ValueError(f"the layer must have one tensor, got {len(masks)}: choose a layer inside of it")
        columns = (found.optimal_area, found.clean_score, found.perturbed_score, found.threshold)
        numbers = zip(*(column.tolist() for column in columns))
        return [
            Row(
                index=batch.start + k,
                label=batch.labels[k],
                checksum=batch.checksums[k],
                optimal_area=None if math.isnan(area) else area,
                clean=clean,
                perturbed=perturbed,
                threshold=threshold,
                mask=mask,
            )
            for k, ((area, clean, perturbed, threshold), mask) in enumerate(zip(numbers, masks.cpu()))
        ]

    def check_known(self, rows: list[Row], batch: _Batch) -> None:
        """Rows of an earlier run must be those of the batch's first images, with the threshold of this run.

        Raises:
            ValueError: they are not.
        """
        if not rows:
            return
        order = "loader must give the images of the file in the same order, unshuffled and unchanged, but image"
        for row, label, checksum in zip(rows, batch.labels, batch.checksums):
            if row.label != label:
                raise ValueError(f"{order} {row.index} has label {label}, in the file {row.label}")
            if row.checksum != checksum:
                raise ValueError(f"{order} {row.index} has other values than the one in the file")
        clean, perturbed, before = torch.tensor(
            [(row.clean, row.perturbed, row.threshold) for row in rows], dtype=torch.float64
        ).T
        now = threshold_of(self.score_threshold, self.game, clean, perturbed)
        for row, same, value in zip(rows, torch.isclose(now, before, rtol=_ROUNDING).tolist(), now.tolist()):
            if not same:
                raise ValueError(
                    f"score_threshold must be what it was for the images in the file, but for image {row.index} "
                    f"it is {value:.6g}, in the file {row.threshold:.6g}"
                )


def _drops(
    method: LayerExtremalPerturbation,
    batch: _Batch,
    kept: Tensor,
    settings: dict[str, Any],
    perturbations_per_eval: int | None,
) -> Tensor:
    """Drops (N, R) of the scores of a batch's labels under masks (R, K), which are 0 where a channel is removed."""
    with open_session(method.forward_func, batch.inputs, batch.labels, layer=method.layer) as session:
        at_layer = session.at_layer(method.layer, settings["attribute_to_layer_input"], method.device_ids)
        activation = at_layer.inputs[0]
        axes = read_axes(activation, settings["channel_dim"])
        if at_layer.is_tuple or axes.channels != kept.shape[1]:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in at_layer.inputs)
            raise ValueError(f"method must mask one tensor of {kept.shape[1]} channels, got activations {shapes}")
        objective = at_layer.objective(
            lambda x, baseline: masked(x, axes.over_channels),
            [(axes.channels,)],
            perturbations_per_eval=perturbations_per_eval,
            differentiable=False,
        )
        rows = kept.to(objective.clean).repeat_interleave(len(batch.labels), dim=0)
        return (objective.clean - objective.value((rows,))).T.cpu()


# The loader


@dataclass(frozen=True)
class _Batch:
    """Some images in a row: the place of the first, the model's inputs, a label and a checksum each."""

    start: int
    inputs: tuple[Tensor, ...]
    labels: list[int]
    checksums: list[int]

    def behind(self, count: int) -> _Batch:
        """The batch without its first images."""
        inputs = tuple(x[count:] for x in self.inputs)
        return _Batch(self.start + count, inputs, self.labels[count:], self.checksums[count:])


def _batches(loader: Loader, device: torch.device | str | None) -> Iterator[_Batch]:
    start = 0
    for given in loader:
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            kind = f"{len(given)} things" if isinstance(given, (tuple, list)) else type(given).__name__
            raise TypeError(f"loader must give pairs (inputs, labels), got {kind}")
        inputs, labels = given
        tensors = check_examples(tuple(inputs) if isinstance(inputs, list) else inputs)
        plain = _labels(labels, len(tensors[0]))
        checksums = [_checksum(row) for row in zip(*tensors)]
        yield _Batch(start, tuple(x if device is None else x.to(device) for x in tensors), plain, checksums)
        start += len(plain)
    if not start:
        raise ValueError("loader must give at least one batch, got none (a generator runs once only)")


def _labels(given: object, images: int) -> list[int]:
    """Python's own integers: Captum's summarizer would take each element of a tensor for a class of its own."""
    if isinstance(given, (Tensor, np.ndarray)):
        given = given.tolist()
    if not isinstance(given, (list, tuple)) or len(given) != images:
        got = f"{len(given)}" if isinstance(given, (list, tuple)) else repr(given)
        raise ValueError(f"labels must be one integer for each of {images} images, got {got}")
    for label in given:
        check_count("labels", label, at_least=0)
    return [int(label) for label in given]


def _checksum(tensors: Iterable[Tensor]) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def _check_loader(loader: object, ordered: bool = False) -> None:
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader must give pairs (inputs, labels), such as a DataLoader, got {type(loader).__name__}")
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    if ordered and isinstance(sampler, RandomSampler) and sampler.generator is None:
        raise ValueError("loader must not shuffle where path is given: the next run could not tell what is done")


def _check_method(method: object) -> None:
    if not isinstance(method, LayerExtremalPerturbation):
        raise TypeError(f"method must be a LayerExtremalPerturbation, got {method!r} of type {type(method).__name__}")
    check_layer(method.forward_func, method.layer)


# Means by class


class _Means:
    """The mean of rows (N, D) by label, with Captum's summarizer, in float64."""

    def __init__(self) -> None:
        self._summarizer: Any = ClassSummarizer([Mean(), Count()])

    def add(self, values: Tensor, labels: list[int]) -> None:
        self._summarizer.update(values.double(), labels)

    def of(self) -> dict[int, tuple[Tensor, int]]:
        """For each label, in increasing order, the mean (D,) in float32 and of how many rows."""
        summaries = self._summarizer.class_summaries
        return {label: (parts[0]["mean"].float(), parts[0]["count"]) for label, parts in sorted(summaries.items())}


class _Tally:
    """Rows of images, put together."""

    def __init__(self) -> None:
        self._means, self._skipped, self._channels = _Means(), Counter[int](), 0

    def add(self, rows: list[Row]) -> None:
        self._channels = len(rows[0].mask)
        self._skipped.update({row.label: 0 for row in rows})
        self._skipped.update(row.label for row in rows if not row.reached)
        counted = [row for row in rows if row.reached]
        if counted:
            self._means.add(torch.stack([row.mask for row in counted]), [row.label for row in counted])

    def result(self, settings: dict[str, Any]) -> ClassChannels:
        classes, means = tuple(sorted(self._skipped)), self._means.of()
        nothing = (torch.full((self._channels,), torch.nan), 0)
        masks, used = zip(*(means.get(label, nothing) for label in classes))
        skipped = tuple(self._skipped[label] for label in classes)
        if not any(used):
            warn_caller(
                f"none of {sum(skipped)} images reaches the score threshold at any of the areas, so that no class has "
                "a mask: add larger areas or lower score_threshold"
            )
        return ClassChannels(classes, torch.stack(masks), used, skipped, settings)
