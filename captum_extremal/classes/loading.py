"""Batches of images with their labels, and the mean of what is measured on them by label."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import ClassSummarizer, Count, Mean
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from captum_extremal._captum import progress_bar
from captum_extremal._checks import check_count
from captum_extremal._describe import checksum
from captum_extremal.arguments import check_examples

Loader = Iterable[Any]
"""Gives pairs (inputs, labels): a tensor (N, ...) or several, and N integers as a list, an array or a tensor (N,)."""


@dataclass(frozen=True)
class Batch:
    """Consecutive images of a loader.

    Attributes:
        start: the position of the first image in the loader.
        inputs: of the model, each (N, ...).
        labels: N classes.
        checksums: of the inputs of each image.
    """

    start: int
    inputs: tuple[Tensor, ...]
    labels: list[int]
    checksums: list[str]

    def after(self, count: int) -> Batch:
        """The batch without its first ``count`` images."""
        inputs = tuple(x[count:] for x in self.inputs)
        return Batch(self.start + count, inputs, self.labels[count:], self.checksums[count:])


def check_loader(loader: object, ordered: bool = False) -> None:
    """Raise TypeError unless the loader can be iterated, ValueError if it must be ordered and is known to shuffle."""
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader must give pairs (inputs, labels), such as a DataLoader, got {type(loader).__name__}")
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    if ordered and isinstance(sampler, RandomSampler) and sampler.generator is None:
        raise ValueError("loader must not shuffle where path is given: the next run could not tell what is done")


def batches_of(
    loader: Loader, device: torch.device | str | None, show_progress: bool, description: str
) -> Iterator[Batch]:
    """The loader's batches, checked, on a device (None leaves them where they are), with a progress bar.

    Raises:
        TypeError, ValueError: the loader gives no batch, or something else than pairs (inputs, labels).
    """
    start = 0
    with progress_bar(show_progress, operator.length_hint(loader), description) as bar:
        for given in loader:
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                kind = f"{len(given)} things" if isinstance(given, (tuple, list)) else type(given).__name__
                raise TypeError(f"loader must give pairs (inputs, labels), got {kind}")
            inputs, labels = given
            tensors = check_examples(tuple(inputs) if isinstance(inputs, list) else inputs)
            plain = _plain_labels(labels, len(tensors[0]))
            checksums = [checksum(example) for example in zip(*tensors)]
            yield Batch(start, tuple(x if device is None else x.to(device) for x in tensors), plain, checksums)
            start += len(plain)
            bar.update(1)
    if not start:
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

    def add(self, values: Tensor, labels: list[int]) -> None:
        """Count rows (N, D) with their N labels."""
        self._summarizer.update(values.double(), labels)

    def result(self) -> dict[int, tuple[Tensor, int]]:
        """For each label, in increasing order, the mean (D,) in float32 and the number of rows."""
        summaries = self._summarizer.class_summaries
        return {label: (parts[0]["mean"].float(), parts[0]["count"]) for label, parts in sorted(summaries.items())}
