r"""Class channels (section 5.2): which channels of a layer belong to a class, and what removing them costs.

.. math::

    \bar{m}_c = mean of m_{a^*} over the images of class c, \qquad k^*_c = argmax_k \bar{m}_c^k

Shapes: N images of a batch, K channels of the layer, C classes, R classes whose channels are removed.
"""

from __future__ import annotations

import math
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import ClassSummarizer, Count, Mean
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from captum_extremal._captum import progress_bar
from captum_extremal._checks import check_choice, check_count, check_number
from captum_extremal._describe import checksum, describe
from captum_extremal._jsonl import FORMAT, JsonLines, as_line
from captum_extremal._reach import constants_of, lazy_parameter, modules_of
from captum_extremal._state import as_device, warn_caller
from captum_extremal.areas import OPTIMAL, check_areas
from captum_extremal.arguments import Tensors, check_examples
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.class_rows import KIND, Batch, Image, ImageRow, RowsOnFile, repaired, rows_of
from captum_extremal.hooks import unwrap
from captum_extremal.layers import check_layer, name_of
from captum_extremal.masks import read_axes
from captum_extremal.objective import Objective
from captum_extremal.perturbations.product import masked
from captum_extremal.results import threshold_of
from captum_extremal.search import as_game
from captum_extremal.session import Session, open_session
from captum_extremal.settings import LayerSearchSettings, documents

__all__ = ["ClassChannels", "RemovalDrop", "class_channels"]

Loader = Iterable[Any]
"""Gives pairs (inputs, labels): a tensor (N, ...) or several, and N integers as a list, an array or a tensor (N,)."""

_REPEATED = 1e-3  # by which a score that is measured again, in another batch, may differ, as a fraction
_ROUNDING = 1e-4  # by which a threshold that is computed again may differ, as a fraction


@dataclass(frozen=True, eq=False, repr=False)
class RemovalDrop:
    """What it costs to remove the channels of R classes, in units of the model's output.

    Attributes:
        removed: the R classes whose channels were removed.
        channels: (R, count) int64, the channels.
        classes: the C labels of the images, increasing.
        drops: (R, C) float32, the mean over each class's images of their clean score minus the score without the
            channels, both of the image's own label.
        images: for each class, the number of its images.
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
        """(R,): the mean drop of the images of the class whose channels were removed; NaN if there are none."""
        return self._mean(torch.eq)

    @property
    def others(self) -> Tensor:
        """(R,): the mean drop of the images of all other classes; NaN if there are none."""
        return self._mean(torch.ne)

    def _mean(self, counts: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        plain = (self.removed, self.classes, self.images)
        removed, classes, images = (self.channels.new_tensor(numbers) for numbers in plain)
        weight = counts(removed[:, None], classes) * images
        return (self.drops * weight).sum(1) / weight.sum(1)


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
        shape, classes = tuple(self.masks.shape), list(self.classes)
        return f"ClassChannels(masks={shape}, classes={classes}, used={sum(self.used)}, skipped={sum(self.skipped)})"

    def top(self, label: int, count: int = 1) -> tuple[Tensor, Tensor]:
        """The ``count`` channels with the largest entries in the mean mask of a class; 1 for the paper's k*_c.

        Returns:
            channels (count,) int64, by decreasing entry and, where entries are equal, by channel; their entries
            (count,) in [0, 1].

        Raises:
            TypeError, ValueError: an argument is no integer, no image of the class counts, or there are fewer channels.
        """
        check_count("label", label, at_least=0)
        check_count("count", count)
        if label not in (counted := self._counted()):
            seen = "none of whose images reached the threshold" if label in self.classes else "which was not seen"
            raise ValueError(f"label must be a class of which an image counts, one of {counted}, got {label}, {seen}")
        mask = self.masks[self.classes.index(label)]
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
            method: the model, whose output may be another one such as probabilities, and the layer of the channels.
            loader: as :func:`class_channels` takes it; the images need not be the same.
            count: how many channels are removed, the class's :meth:`top`.
            classes: the classes whose channels are removed; None for all of which an image counts.
            device: where the batches are moved; None leaves them where they are.
            perturbations_per_eval: how many removals from each image go through the model at once; None for all.
            show_progress: draw a progress bar of batches.

        Raises:
            TypeError, ValueError: an argument breaks a rule above, the layer is another one, or the loader gives no
                pairs (inputs, labels).
        """
        _check_method(method)
        _check_loader(loader)
        LayerSearchSettings(perturbations_per_eval=perturbations_per_eval)
        here, named = _layer_of(method)
        layer = self.settings["layer"]
        if here != layer and named and self.settings["layer_has_name"]:
            raise ValueError(f"method must mask the layer that the channels are of, {layer}, got {here}")
        removed = self._counted() if classes is None else classes
        if not len(removed):
            raise ValueError("classes must not be empty")
        place = None if device is None else as_device(device)
        channels = torch.stack([self.top(label, count)[0] for label in removed])
        kept = self.masks.new_ones(len(channels), self.masks.shape[1]).scatter_(1, channels, 0.0)
        summarizer = ClassSummarizer([Mean(), Count()])
        for inputs, labels, _ in _batches_of(loader, place, show_progress, "channels removed"):
            drops = self._drops(method, inputs, labels, kept, perturbations_per_eval)
            summarizer.update(drops.double(), labels)
        by_class = _means(summarizer)
        means, images = zip(*by_class.values())
        return RemovalDrop(tuple(map(int, removed)), channels, tuple(by_class), torch.stack(means, dim=1), images)

    def _counted(self) -> list[int]:
        return [label for label, used in zip(self.classes, self.used) if used]

    def _drops(
        self, method: LayerExtremalPerturbation, inputs: Tensors, labels: list[int], kept: Tensor, per_eval: int | None
    ) -> Tensor:
        """(N, R): how far the score of each image's label falls under masks (R, K), 0 where a channel is removed."""
        with open_session(method.forward_func, inputs, labels, layer=method.layer) as session:
            to_input, channel_dim = self.settings["attribute_to_layer_input"], self.settings["channel_dim"]
            objective = _objective_at(session, method, to_input, channel_dim, kept.shape[1], per_eval)
            masks = kept.to(objective.clean).repeat_interleave(len(labels), dim=0)
            return (objective.clean - objective.value((masks,))).T.cpu()


def _objective_at(
    session: Session,
    method: LayerExtremalPerturbation,
    to_input: bool,
    channel_dim: int | None,
    channels: int,
    per_eval: int | None,
) -> Objective:
    """The score as a function of masks (N, K) of the layer's channels; ValueError unless K is ``channels``."""
    at_layer = session.at_layer(method.layer, to_input, method.device_ids)
    axes = read_axes(at_layer.inputs[0], channel_dim)
    if at_layer.is_tuple or axes.channels != channels:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in at_layer.inputs)
        raise ValueError(f"method must mask one tensor of {channels} channels, got activations {shapes}")
    return at_layer.objective(
        lambda x, baseline: masked(x),
        [(axes.channels,)],
        lambda masks: tuple(map(axes.over_channels, masks)),
        perturbations_per_eval=per_eval,
        differentiable=False,
    )


@documents(LayerSearchSettings)
def class_channels(
    method: LayerExtremalPerturbation,
    loader: Loader,
    *,
    path: str | os.PathLike[str] | None = None,
    repair: bool = False,
    attribute_to_layer_input: bool = False,
    device: torch.device | str | None = None,
    **settings: Any,
) -> ClassChannels:
    r"""The mean of the channel masks m_a* over each class's images, over any number of batches.

    An image that does not reach Phi_0 at any area has no m_a*: it is skipped, and counted. (All channels reach the
    default threshold: such an image counts with a mask of ones.) Where no channel is needed, the mask is zero.

    With ``path``, a row per image is appended to a file of JSON lines after each batch. A call with the same file
    continues where the last one stopped, however it was stopped, and returns the same (up to rounding, if a batch was
    split). The loader must give the same images in the same order each time, in batches of any size: other images are
    an error, as is a file of other settings or weights. A callable ``score_threshold`` is called again for the images
    in the file. Two calls at the same time need two files.

    Args:
        method: the model and the layer.
        loader: gives pairs (inputs, labels): a tensor (N, ...) or a tuple of the model's inputs, and N integers from 0
            up, which are the model's targets and the classes.
        path: the file of rows; None keeps none. Its folder must exist. The weights are recognised in a model, and in
            what a function or object refers to; where the layer's model is not found there, a path is refused.
        repair: set damaged lines of the file aside, and keep all others. The images of these lines are done again. The
            file as it was is kept beside it, under its name and ".damaged". Where the header is damaged, nothing in the
            file says how the rows were made: they are taken for those of these settings, after the clean score of one
            of their images was measured again and is the same.
        attribute_to_layer_input: as :meth:`LayerExtremalPerturbation.extremal_masks` takes it.
        device: where the batches are moved; None leaves them where they are.
        **settings: as :meth:`LayerExtremalPerturbation.extremal_masks` takes them, for channel masks, but ``areas``
            None is a* alone. A ``score_threshold`` is a number or a callable, a solver of your own a dataclass; the bar
            counts batches.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before the model runs), the loader gives no pairs, the
            file is damaged or does not fit (one whose header is damaged is then left as it was), or the layer has
            several tensors.
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
    _check_loader(loader, ordered=path is not None)
    place = None if device is None else as_device(device)
    if path is not None:
        _check_seen(method)
    about = _about(method, attribute_to_layer_input, options)
    batches = _batches_of(loader, place, options.show_progress, "class channels")
    if path is not None and repair:
        confirm = partial(_confirm, method, attribute_to_layer_input, options)
        batches = repaired(Path(path), as_line({KIND: FORMAT, **about}), batches, confirm)
    search = replace(options, areas=_areas_of(options), explanations=1, show_progress=False)
    summarizer, skipped, channels, start = ClassSummarizer([Mean(), Count()]), Counter[int](), 0, 0
    with nullcontext() if path is None else JsonLines(path, KIND, about) as file:
        known = None if file is None else RowsOnFile(file)
        for inputs, labels, checksums in batches:
            images = [(start + k, label, content) for k, (label, content) in enumerate(zip(labels, checksums))]
            by_index = {} if known is None else known.of(images)
            _check_known(by_index, images, options)
            if left := [k for k, (index, *_) in enumerate(images) if index not in by_index]:
                chosen = inputs if len(left) == len(images) else tuple(x[left] for x in inputs)
                found = method._masks_of(chosen, [labels[k] for k in left], None, attribute_to_layer_input, search)
                new = rows_of(found, [images[k] for k in left])
                if file is not None:
                    file.append(row.as_json() for row in new)
                by_index |= {row.index: row for row in new}
            rows = [by_index[index] for index, *_ in images]
            start, channels = start + len(images), len(rows[0].mask)
            for row in rows:
                skipped[row.label] += row.optimal_area is None  # which makes an entry for each label
            if counted := [row for row in rows if row.optimal_area is not None]:
                summarizer.update(torch.stack([row.mask for row in counted]).double(), [row.label for row in counted])
    by_class = _means(summarizer)
    if not by_class:
        warn_caller(
            f"none of {skipped.total()} images reaches the score threshold at any area, so that no class has "
            "a mask: add larger areas or lower score_threshold"
        )
    classes, missed = zip(*sorted(skipped.items()))
    unknown = torch.full((channels,), torch.nan, dtype=torch.float32, device="cpu")
    masks, used = zip(*(by_class.get(label, (unknown, 0)) for label in classes))
    return ClassChannels(classes, torch.stack(masks), used, missed, about)


def _about(method: LayerExtremalPerturbation, to_input: bool, settings: LayerSearchSettings) -> dict[str, Any]:
    """What decides the masks, except for the threshold, as plain values of JSON."""
    modules = (*modules_of(method.forward_func), method.layer)
    for module in modules:
        if lazy := lazy_parameter(module):
            raise ValueError(f"method's model must have its parameters, but {lazy!r} comes with the first forward")
    of_modules = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    tensors = chain(of_modules, constants_of(method.forward_func))
    return {
        **dict(zip(("layer", "layer_has_name"), _layer_of(method))),
        "attribute_to_layer_input": bool(to_input),
        "channel_dim": describe("channel_dim", settings.channel_dim),
        "areas": describe("areas", _areas_of(settings)),
        "game": describe("game", as_game(settings.game)),
        "solver": describe("solver", settings.chosen_solver()),
        "model": checksum(tensors),
    }


def _check_seen(method: LayerExtremalPerturbation) -> None:
    """Raise ValueError unless the layer is found in what ``forward_func`` refers to, and so the model's weights too."""
    models = modules_of(method.forward_func)
    if not any(module is method.layer for model in models for module in model.modules()):
        raise ValueError(
            "path must not be given where forward_func does not show which weights it uses, because rows of other "
            f"weights could not be told apart, got {method.forward_func!r}: give the model itself"
        )


def _areas_of(settings: LayerSearchSettings) -> tuple[float, ...] | str:
    """The areas among which a* is sought; the means need no sweep where none are given."""
    if settings.areas is None or isinstance(settings.areas, str):
        return OPTIMAL
    return check_areas(settings.areas, counts=True)


def _confirm(
    method: LayerExtremalPerturbation,
    to_input: bool,
    settings: LayerSearchSettings,
    rows: dict[int, ImageRow],
    batch: Batch,
    start: int,
) -> bool:
    """Whether a batch, whose first image is at ``start``, has an image of the rows.

    Raises:
        ValueError: the first that it has does not fit its row, or has another clean score.
    """
    inputs, labels, checksums = batch
    k = next((k for k in range(len(labels)) if start + k in rows), None)
    if k is None:
        return False
    row, label = rows[start + k], labels[k]
    _check_known({row.index: row}, [(row.index, label, checksums[k])], settings)
    with open_session(method.forward_func, tuple(x[k : k + 1] for x in inputs), [label], layer=method.layer) as session:
        clean = _objective_at(session, method, to_input, settings.channel_dim, len(row.mask), 1).clean.item()
    if not math.isclose(clean, row.clean, rel_tol=_REPEATED, abs_tol=1e-6):
        raise ValueError(f"the score of image {row.index} is {clean:.6g}, in the file {row.clean:.6g}")
    return True


def _check_known(rows: dict[int, ImageRow], images: list[Image], settings: LayerSearchSettings) -> None:
    """Check that rows of an earlier run are those of their images, with the threshold of this run."""
    rule = "loader must give the images of the file in the same order, unshuffled and unchanged, but image"
    for index, label, content in images:
        row = rows.get(index)
        if row is None:
            continue
        if row.label != label:
            raise ValueError(f"{rule} {index} has label {label}, in the file {row.label}")
        if row.checksum != content:
            raise ValueError(f"{rule} {index} has other values than the one in the file")
    scores = torch.tensor([(row.clean, row.perturbed) for row in rows.values()], dtype=torch.float64, device="cpu")
    clean, perturbed = scores.view(-1, 2).T
    thresholds = threshold_of(settings.score_threshold, as_game(settings.game), clean, perturbed) if rows else clean
    for row, value in zip(rows.values(), thresholds.tolist()):
        if not math.isclose(value, row.threshold, rel_tol=_ROUNDING, abs_tol=1e-8):
            raise ValueError(
                f"score_threshold must be what it was for the images in the file, but for image {row.index} "
                f"it is {value:.6g}, in the file {row.threshold:.6g}"
            )


def _check_method(method: object) -> None:
    if not isinstance(method, LayerExtremalPerturbation):
        raise TypeError(f"method must be a LayerExtremalPerturbation, got {method!r} of type {type(method).__name__}")
    check_layer(method.forward_func, method.layer)


def _layer_of(method: LayerExtremalPerturbation) -> tuple[str, bool]:
    """The layer, and whether it has a name: a function that calls the model does not know the names of its modules."""
    return name_of(method.forward_func, method.layer), isinstance(unwrap(method.forward_func), nn.Module)


def _check_loader(loader: object, ordered: bool = False) -> None:
    """Raise TypeError unless the loader can be iterated, ValueError if it must be ordered and is known to shuffle."""
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader must give pairs (inputs, labels), such as a DataLoader, got {type(loader).__name__}")
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    if ordered and isinstance(sampler, RandomSampler) and sampler.generator is None:
        raise ValueError("loader must not shuffle where path is given: the next run could not tell what is done")


def _batches_of(loader: Loader, device: torch.device | None, show_progress: bool, name: str) -> Iterator[Batch]:
    """Inputs, each (N, ...), on a device, N labels, and a checksum of the inputs of each image."""
    given = None
    with progress_bar(show_progress, operator.length_hint(loader), name) as bar:
        for given in loader:
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                kind = f"{len(given)} things" if isinstance(given, (tuple, list)) else type(given).__name__
                raise TypeError(f"loader must give pairs (inputs, labels), got {kind}")
            inputs, labels = given
            tensors = check_examples(tuple(inputs) if isinstance(inputs, list) else inputs)
            plain = _plain_labels(labels, len(tensors[0]))
            checksums = [checksum(example) for example in zip(*tensors)]
            yield tuple(x if device is None else x.to(device) for x in tensors), plain, checksums
            bar.update(1)
    if given is None:
        raise ValueError("loader must give at least one batch, got none (a generator runs once only)")


def _plain_labels(given: object, images: int) -> list[int]:
    """Python's integers, because Captum's summarizer takes each element of a tensor for a class of its own."""
    if isinstance(given, (Tensor, np.ndarray)):
        given = given.tolist()
    if not isinstance(given, (list, tuple)) or len(given) != images:
        got = f"{len(given)}" if isinstance(given, (list, tuple)) else repr(given)
        raise ValueError(f"labels must be one integer for each of {images} images, got {got}")
    for label in given:
        check_count("labels", label, at_least=0)
    return [int(label) for label in given]


def _means(summarizer: Any) -> dict[int, tuple[Tensor, int]]:
    """For each label, in increasing order, the mean (D,) in float32 of the rows (N, D) with it, and their number."""
    summaries = sorted(summarizer.class_summaries.items())
    return {label: (found["mean"].float(), found["count"]) for label, (found,) in summaries}
