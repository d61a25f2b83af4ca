"""From a data set to rows: pairs are explained and judged in batches, and each is written once.

A row does not depend on when a run was stopped or on how many processes share it: the batches are the same, an
incomplete one is computed again as a whole, and the random state is set for each.

Shapes: N pairs of a batch, C channels, H rows and W columns of pixels.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_extremal._captum import TargetType
from captum_extremal._checks import check_choice, check_count
from captum_extremal.datasets.annotated import AnnotatedImage, AnnotatedImages, UnreadableError
from captum_extremal.evaluation.metrics import METRICS, STEPS, Explained, Values
from captum_extremal.evaluation.processes import Processes
from captum_extremal.evaluation.rows import Pair, Row, RowFile, Settings, read_rows

Progress = Callable[[int, int], None]
"""Called with the number of pairs of a share that are done, and the number of all."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is evaluated.

    Attributes:
        data: images and the regions of their classes.
        model: from inputs (N, C, H, W) to scores (N, K).
        prepare: from an image's pixels (3, H', W') in [0, 1] to the model's input (C, H, W), on the model's device.
        index_of: the model's index of each class of the data.
        explain: from inputs and targets to maps, as :func:`~captum_extremal.evaluation.methods.make_method` returns it.
        metrics: names in :data:`~captum_extremal.evaluation.metrics.METRICS`.
        steps: of the curves of insertion and deletion, each a forward pass.
        autocast: the floating type of the model while maps are made; None for its own.
        batch_size: the number of pairs in a batch. Those whose inputs have the same size are explained together.
    """

    data: AnnotatedImages
    model: nn.Module
    prepare: Callable[[Tensor], Tensor]
    index_of: Mapping[str, int]
    explain: Callable[[Tensor, TargetType], Tensor]
    metrics: tuple[str, ...] = ("pointing",)
    steps: int = STEPS
    autocast: torch.dtype | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        for name in self.metrics:
            check_choice("metrics", name, METRICS)
        missing = [label for label in self.data.classes if label not in self.index_of]
        if missing:
            raise ValueError(f"index_of must have every class of the data, got none for {', '.join(missing)}")


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pairs whose inputs have the same size."""

    pairs: list[Pair]
    inputs: Tensor
    images: list[AnnotatedImage]


def evaluate(
    evaluation: Evaluation,
    settings: Settings,
    folder: Path,
    processes: Processes,
    progress: Progress = lambda done, total: None,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Write a row for each pair of this process's share that has none in the folder.

    Args:
        evaluation: what is evaluated.
        settings: what decides the rows; rows of other settings in the folder are not changed.
        folder: must exist, and be the same for all processes of a run and for the runs that continue it.
        processes: those that share the work.
        progress: see :data:`Progress`.
        report: called with a line for each image that cannot be used.

    Raises:
        TypeError, ValueError: ``explain`` returns no maps, or the folder holds a damaged file.
        OSError: a file cannot be written.
    """
    pairs = evaluation.data.pairs()
    size = evaluation.batch_size
    done = processes.agreed(lambda: _pairs_done(folder, settings))
    chunks = [pairs[first : first + size] for first in range(0, len(pairs), size)]
    mine = processes.share([chunk for chunk in chunks if not done.issuperset(chunk)])
    total, so_far = sum(map(len, mine)), 0
    named: set[str] = set()
    with RowFile(folder, settings, len(pairs)) as file:
        progress(0, total)
        for chunk in mine:
            images, unreadable = _loaded(evaluation.data, chunk)
            for image, why in unreadable.items():
                if image not in named:
                    report(why)
                    file.note_unreadable(image, why)
            named |= unreadable.keys()
            for batch in _batches(evaluation, chunk, images):
                if not done.issuperset(batch.pairs):
                    file.append(row for row in _rows(evaluation, batch) if row.pair not in done)
            so_far += len(chunk)
            progress(so_far, total)


def _pairs_done(folder: Path, settings: Settings) -> set[Pair]:
    kept = read_rows([folder]).get(settings.key)
    return set(kept.rows) if kept else set()


def _loaded(data: AnnotatedImages, chunk: list[Pair]) -> tuple[dict[str, AnnotatedImage], dict[str, str]]:
    images, unreadable = {}, {}
    for name in dict.fromkeys(image for image, _ in chunk):
        try:
            images[name] = data.load(name)
        except UnreadableError as error:
            unreadable[name] = " ".join(str(error).split())
    return images, unreadable


def _batches(evaluation: Evaluation, chunk: list[Pair], images: dict[str, AnnotatedImage]) -> Iterator[_Batch]:
    prepared = {name: evaluation.prepare(image.pixels) for name, image in images.items()}
    for size in dict.fromkeys(x.shape for x in prepared.values()):
        pairs = [pair for pair in chunk if pair[0] in prepared and prepared[pair[0]].shape == size]
        inputs = torch.stack([prepared[image] for image, _ in pairs])
        yield _Batch(pairs, inputs, [images[image] for image, _ in pairs])


def _rows(evaluation: Evaluation, batch: _Batch) -> list[Row]:
    targets = [evaluation.index_of[label] for _, label in batch.pairs]
    started = _clock(batch.inputs)
    dtype, device = evaluation.autocast, batch.inputs.device
    with _random_state_of(batch), torch.autocast(device.type, dtype) if dtype else nullcontext():
        maps = _checked(evaluation.explain(batch.inputs, targets), batch.pairs).float()
    seconds = (_clock(batch.inputs) - started) / len(targets)
    regions = [image.regions[label] for image, (_, label) in zip(batch.images, batch.pairs)]
    found = Explained(batch.inputs, targets, maps, regions, evaluation.steps)
    values: list[Values] = [{} for _ in targets]
    for name in evaluation.metrics:
        for known, new in zip(values, METRICS[name](evaluation.model, found)):
            known.update(new)
    return [
        Row(image=image, label=label, difficult=label in annotated.difficult, seconds=seconds, values=one)
        for (image, label), annotated, one in zip(batch.pairs, batch.images, values)
    ]


def _checked(maps: object, pairs: list[Pair]) -> Tensor:
    count = len(pairs)
    if not isinstance(maps, Tensor) or maps.dim() != 4 or len(maps) != count:
        got = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"explain must return maps ({count}, 1, H, W) or ({count}, C, H, W), got {got}")
    for (image, label), one in zip(pairs, maps):
        if not bool(one.isfinite().all()):
            raise ValueError(f"explain must return finite maps, got others for image {image!r} and class {label!r}")
    return maps


@contextmanager
def _random_state_of(batch: _Batch) -> Iterator[None]:
    """A random state that depends on the batch alone, for methods that draw samples; the caller's is restored."""
    devices = [batch.inputs.device] if batch.inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(zlib.crc32("/".join(batch.pairs[0]).encode()))
        yield


def _clock(x: Tensor) -> float:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter()
