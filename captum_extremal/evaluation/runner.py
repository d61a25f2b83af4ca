"""From a data set to rows: pairs are explained and judged in batches, by one process or by several.

A row does not depend on when a run was stopped or on how many processes share it: the batches are the same, an
incomplete one is computed again as a whole, and the random state is set for each.

Shapes: N pairs of a batch, C channels, H rows and W columns of pixels.
"""

import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from captum_extremal._checks import check_choice, check_count
from captum_extremal.datasets.annotated import AnnotatedImage, AnnotatedImages, UnreadableError
from captum_extremal.evaluation.methods import Explain
from captum_extremal.evaluation.metrics import METRICS, STEPS, Explained
from captum_extremal.evaluation.rows import Kept, Pair, Row, RowFile, Settings, Values, read_rows

_LONGEST_WAIT = timedelta(days=7)  # by which the last process may finish later than the first
_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """The processes that share a run."""

    rank: int  # the number of this one, from 0
    count: int
    device: torch.device  # of this one; messages between the processes use it

    @property
    def first(self) -> bool:
        """Whether this is the process that prints."""
        return self.rank == 0

    def agreed(self, find: Callable[[], _T]) -> _T:
        """What the first process finds, in all of them."""
        found = [find() if self.first else None]
        if distributed.is_initialized():
            distributed.broadcast_object_list(found, src=0, device=self.device)
        return found[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Return once all processes have called this."""
        if distributed.is_initialized():
            distributed.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)


@contextmanager
def processes_of(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started (gloo on the CPU, nccl on GPUs), or this one alone."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield Processes(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_LONGEST_WAIT)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is evaluated: a method that explains a model, on data."""

    data: AnnotatedImages
    model: nn.Module  # from inputs (N, C, H, W) to scores (N, K)
    prepare: Callable[[Tensor], Tensor]  # from pixels (3, H', W') in [0, 1] to an input (C, H, W) on the model's device
    index_of: Mapping[str, int]  # the model's index of each class of the data
    explain: Explain
    metrics: tuple[str, ...] = ("pointing",)  # names in METRICS
    steps: int = STEPS  # of the curves of insertion and deletion, each a forward pass
    autocast: torch.dtype | None = None  # the floating type of the model while maps are made; None for its own
    batch_size: int = 8  # pairs in a batch; those whose inputs have the same size are explained together

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        for name in self.metrics:
            check_choice("metrics", name, METRICS)
        if missing := [label for label in self.data.classes if label not in self.index_of]:
            raise ValueError(f"index_of must have every class of the data, got none for {', '.join(missing)}")


def evaluate(
    evaluation: Evaluation,
    settings: Settings,
    folder: Path,
    processes: Processes,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Write a row for each pair of this process's share that has none in the folder.

    Args:
        settings: what decides the rows; rows of other settings in the folder are not changed.
        folder: must exist, and be the same for all processes of a run and for the runs that continue it.
        progress: called with the number of pairs of the share that are done, and the number of all.
        report: called with a line for each image that cannot be used.

    Raises:
        TypeError, ValueError: ``explain`` returns no maps, or the folder holds a damaged file.
        OSError: a file cannot be written.
    """
    pairs, size = evaluation.data.pairs(), evaluation.batch_size
    done = processes.agreed(lambda: set(read_rows([folder]).get(settings.key, Kept(settings, 0)).rows))
    chunks = [pairs[first : first + size] for first in range(0, len(pairs), size)]
    mine = [chunk for chunk in chunks if not done.issuperset(chunk)][processes.rank :: processes.count]
    total, so_far = sum(map(len, mine)), 0
    unreadable: set[str] = set()
    with RowFile(folder, settings, len(pairs)) as file:
        progress(0, total)
        for chunk in mine:
            images: dict[str, AnnotatedImage] = {}
            for name in dict.fromkeys(image for image, _ in chunk if image not in unreadable):
                try:
                    images[name] = evaluation.data.load(name)
                except UnreadableError as error:
                    why = " ".join(str(error).split())
                    report(why)
                    file.note_unreadable(name, why)
                    unreadable.add(name)
            for batch, inputs in _batches(evaluation, chunk, images):
                if not done.issuperset(batch):
                    rows = _rows(evaluation, batch, inputs, [images[name] for name, _ in batch])
                    file.append(row for row in rows if row.pair not in done)
            so_far += len(chunk)
            progress(so_far, total)


def _batches(
    evaluation: Evaluation, chunk: list[Pair], images: dict[str, AnnotatedImage]
) -> Iterator[tuple[list[Pair], Tensor]]:
    """Pairs whose inputs have the same size, and these inputs."""
    prepared = {name: evaluation.prepare(image.pixels) for name, image in images.items()}
    for size in dict.fromkeys(x.shape for x in prepared.values()):
        pairs = [pair for pair in chunk if pair[0] in prepared and prepared[pair[0]].shape == size]
        yield pairs, torch.stack([prepared[image] for image, _ in pairs])


def _rows(evaluation: Evaluation, pairs: list[Pair], inputs: Tensor, images: list[AnnotatedImage]) -> list[Row]:
    targets = [evaluation.index_of[label] for _, label in pairs]
    dtype, device = evaluation.autocast, inputs.device
    started = _clock(device)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.autocast(device.type, dtype) if dtype else nullcontext(),
    ):
        torch.manual_seed(zlib.crc32("/".join(pairs[0]).encode()))  # which depends on the batch alone
        maps = _checked(evaluation.explain(inputs, targets), pairs).float()
    seconds = (_clock(device) - started) / len(pairs)
    regions = [image.regions[label] for image, (_, label) in zip(images, pairs)]
    found = Explained(inputs, targets, maps, regions, evaluation.steps)
    values: list[Values] = [{} for _ in pairs]
    for name in evaluation.metrics:
        for known, new in zip(values, METRICS[name](evaluation.model, found)):
            known.update(new)
    return [
        Row(image=name, label=label, difficult=label in image.difficult, seconds=seconds, values=one)
        for (name, label), image, one in zip(pairs, images, values)
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


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
