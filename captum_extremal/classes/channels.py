"""The channels of each class, and what it costs to set them to zero (section 5.2).

Shapes: N images of a batch, K channels of the layer, C classes, R classes whose channels are removed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import ClassSummarizer, Count, Mean
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from captum_extremal._captum import progress_bar
from captum_extremal._checks import check_count
from captum_extremal._describe import checksum
from captum_extremal.arguments import check_examples
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.hooks import unwrap
from captum_extremal.layers import check_layer, name_of
from captum_extremal.masks import read_axes
from captum_extremal.perturbations.product import masked
from captum_extremal.session import open_session
from captum_extremal.settings import LayerSearchSettings

Loader = Iterable[Any]
"""Gives pairs (inputs, labels): a tensor (N, ...) or several, and N integers as a list, an array or a tensor (N,)."""


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
        weight = counts(torch.tensor(self.removed)[:, None], torch.tensor(self.classes)) * torch.tensor(self.images)
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
                batch or something else than pairs (inputs, labels).
        """
        check_method(method)
        check_loader(loader)
        LayerSearchSettings(perturbations_per_eval=perturbations_per_eval)
        here, there = layer_of(method), {name: self.settings[name] for name in ("layer", "layer_has_name")}
        if here != there and here["layer_has_name"] and there["layer_has_name"]:
            raise ValueError(
                f"method must mask the layer that the channels are of, {there['layer']}, got {here['layer']}"
            )
        removed = self._counted() if classes is None else classes
        if not len(removed):
            raise ValueError("classes must not be empty")
        channels = torch.stack([self.top(label, count)[0] for label in removed])
        kept = torch.ones(len(channels), self.masks.shape[1]).scatter_(1, channels, 0.0)
        means = MeansByLabel()
        for batch in batches_of(loader, device, show_progress, "channels removed"):
            means.add(self._drops(method, batch, kept, perturbations_per_eval), batch.labels)
        by_class = means.result()
        drops, images = zip(*by_class.values())
        return RemovalDrop(tuple(map(int, removed)), channels, tuple(by_class), torch.stack(drops, dim=1), images)

    def _counted(self) -> list[int]:
        return [label for label, used in zip(self.classes, self.used) if used]

    def _drops(self, method: LayerExtremalPerturbation, batch: Batch, kept: Tensor, per_eval: int | None) -> Tensor:
        """(N, R): how far the score of each image's label falls under masks (R, K), 0 where a channel is removed."""
        with open_session(method.forward_func, batch.inputs, batch.labels, layer=method.layer) as session:
            at_layer = session.at_layer(method.layer, self.settings["attribute_to_layer_input"], method.device_ids)
            axes = read_axes(at_layer.inputs[0], self.settings["channel_dim"])
            if at_layer.is_tuple or axes.channels != kept.shape[1]:
                shapes = ", ".join(str(tuple(tensor.shape)) for tensor in at_layer.inputs)
                raise ValueError(f"method must mask one tensor of {kept.shape[1]} channels, got activations {shapes}")
            objective = at_layer.objective(
                lambda x, baseline: masked(x, axes.over_channels),
                [(axes.channels,)],
                perturbations_per_eval=per_eval,
                differentiable=False,
            )
            masks = kept.to(objective.clean).repeat_interleave(len(batch.labels), dim=0)
            return (objective.clean - objective.value((masks,))).T.cpu()


def check_method(method: object) -> None:
    """Raise TypeError or ValueError unless the method masks a layer of its model."""
    if not isinstance(method, LayerExtremalPerturbation):
        raise TypeError(f"method must be a LayerExtremalPerturbation, got {method!r} of type {type(method).__name__}")
    check_layer(method.forward_func, method.layer)


def layer_of(method: LayerExtremalPerturbation) -> dict[str, Any]:
    """The layer, and whether it has a name: a function that calls the model does not know the names of its modules."""
    has_name = isinstance(unwrap(method.forward_func), nn.Module)
    return {"layer": name_of(method.forward_func, method.layer), "layer_has_name": has_name}


def check_loader(loader: object, ordered: bool = False) -> None:
    """Raise TypeError unless the loader can be iterated, ValueError if it must be ordered and is known to shuffle."""
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader must give pairs (inputs, labels), such as a DataLoader, got {type(loader).__name__}")
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    if ordered and isinstance(sampler, RandomSampler) and sampler.generator is None:
        raise ValueError("loader must not shuffle where path is given: the next run could not tell what is done")


class Batch(NamedTuple):
    """Images of a loader: the model's inputs, each (N, ...), N classes, and a checksum of the inputs of each image."""

    inputs: tuple[Tensor, ...]
    labels: list[int]
    checksums: list[str]


def batches_of(loader: Loader, device: torch.device | str | None, show_progress: bool, name: str) -> Iterator[Batch]:
    """The loader's batches, checked, on a device (None leaves them where they are), with a progress bar."""
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
            yield Batch(tuple(x if device is None else x.to(device) for x in tensors), plain, checksums)
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


class MeansByLabel:
    """The mean of rows (N, D) by label, with Captum's summarizer, in float64."""

    def __init__(self) -> None:
        self._summarizer: Any = ClassSummarizer([Mean(), Count()])

    def add(self, rows: Tensor, labels: list[int]) -> None:
        """Count rows (N, D) with their N labels."""
        self._summarizer.update(rows.double(), labels)

    def result(self) -> dict[int, tuple[Tensor, int]]:
        """For each label, in increasing order, the mean (D,) in float32 and the number of rows."""
        summaries = sorted(self._summarizer.class_summaries.items())
        return {label: (found["mean"].float(), found["count"]) for label, (found,) in summaries}
