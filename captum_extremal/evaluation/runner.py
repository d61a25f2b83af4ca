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
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from torch import Tensor, distributed, nn

from captum_extremal._checks import check_choice, check_count
from captum_extremal.datasets.annotated import AnnotatedImage, AnnotatedImages, UnreadableError
from captum_extremal.datasets.image_files import in_one_line
from captum_extremal.evaluation.methods import Explain
from captum_extremal.evaluation.metrics import METRICS, STEPS, Explained
from captum_extremal.evaluation.rows import Kept, Pair, Row, RowFile, Settings, Values, read_rows

_LONGEST_WAIT = timedelta(days=7)  # by which the last process may finish later than the first
_LONGEST_DELAY, _PAUSE = 60.0, 0.2  # seconds, until a shared folder shows what was written there
_TOO_MANY_IN_A_ROW = 64  # images; a device that has failed explains no more
_MANY = 16  # images; if so many cannot be explained, and fewer can, the run ends
# What one image, or its size, can make a model or a method raise. Other errors end the run.
_OF_ONE = (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError, LookupError, AttributeError, Warning)
_T = TypeVar("_T")


class _NoMapsError(ValueError):
    """The method returns no maps."""


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

    def gathered(self, own: _T) -> list[_T]:
        """What each process has, once all of them have called this.

        Raises:
            RuntimeError: one of them has ended.
        """
        if not distributed.is_initialized():
            return [own]
        found: list[Any] = [None] * self.count
        try:
            distributed.all_gather_object(found, own)
        except RuntimeError as error:
            raise RuntimeError(
                f"a process of this run has ended: its rows are kept, and the same command does what is left ({error})"
            ) from error
        return found


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

    A pair that cannot be explained, because of its image or its size, costs only itself: it gets no row, and a report.

    Raises:
        TypeError, ValueError, RuntimeError: ``explain`` fails for more images than not, another process is at the same
            run, one that shares it has ended, or the folder holds a damaged file.
        OSError: a file cannot be written.
    """
    with _held(folder, settings, processes):
        written = _evaluate(evaluation, settings, folder, processes, progress, report)
        sizes = {name: size for of_one in processes.gathered(written) for name, size in of_one.items()}
        if processes.first and not _seen(folder, sizes):
            report(f"{folder} does not show the rows of all processes yet: start the same command once more")


def _evaluate(
    evaluation: Evaluation,
    settings: Settings,
    folder: Path,
    processes: Processes,
    progress: Callable[[int, int], None],
    report: Callable[[str], None],
) -> dict[str, int]:
    """Write the rows of this process; the size of its file, by name."""
    pairs, size = evaluation.data.pairs(), evaluation.batch_size
    done = processes.agreed(lambda: set(read_rows([folder]).get(settings.key, Kept(settings, 0)).rows))
    chunks = [pairs[first : first + size] for first in range(0, len(pairs), size)]
    mine = [chunk for chunk in chunks if not done.issuperset(chunk)][processes.rank :: processes.count]
    total, so_far = sum(map(len, mine)), 0
    with RowFile(folder, settings, len(pairs)) as file:
        failures = _Failures(file, report, {image for image, _ in done})
        progress(0, total)
        for chunk in mine:
            images: dict[str, AnnotatedImage] = {}
            for name in dict.fromkeys(image for image, _ in chunk if image not in failures.unreadable):
                try:
                    images[name] = evaluation.data.load(name)
                except UnreadableError as error:
                    failures.add_unreadable(name, error)
            for batch, inputs in _batches(evaluation, chunk, images, failures):
                if not done.issuperset(batch):
                    for rows in _explained(evaluation, batch, inputs, images, failures):
                        failures.add_success(rows)
                        file.append(row for row in rows if row.pair not in done)
            so_far += len(chunk)
            progress(so_far, total)
        failures.check(1)
        return file.sizes()


def _seen(folder: Path, sizes: dict[str, int]) -> bool:
    """Wait until files of the folder have these sizes: a shared one may show late what another machine wrote."""
    end = time.monotonic() + _LONGEST_DELAY
    while not all(_size(folder / name) >= size for name, size in sizes.items()):
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
    return True


def _size(path: Path) -> int:
    try:
        with path.open("rb") as file:  # an opened file is looked up anew, a listed one may be remembered
            return file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        return 0


@contextmanager
def _held(folder: Path, settings: Settings, processes: Processes) -> Iterator[None]:
    """Hold a run, which another start of it at the same time would do a second time. A process that ends lets it go."""
    lock = FileLock(folder / f".{settings.key}.lock", timeout=0)

    def is_held() -> bool:
        try:
            lock.acquire()
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # a file system without locks
            pass
        return False

    try:
        if processes.agreed(is_held):
            raise RuntimeError(f"another process is at this run in {folder}: wait for its end, or stop it")
        yield
    finally:
        lock.release()


class _Failures:
    """Images that cannot be used. Where more cannot than can, or many one after another, the run itself is wrong."""

    def __init__(self, file: RowFile, report: Callable[[str], None], explained: set[str]) -> None:
        self.unreadable: set[str] = set()
        self._file, self._report = file, report
        self._explained = explained  # images
        self._in_a_row: set[str] = set()  # images that were refused since the last success
        self._refused: dict[str, str] = {}  # images that were read, and why they cannot be explained
        self._noted: set[str] = set()
        self._first: Exception | None = None

    def add_unreadable(self, image: str, error: Exception) -> None:
        why = in_one_line(error)
        self._report(why)
        self._file.note_unreadable(image, why)
        self.unreadable.add(image)

    def add_refused(self, what: str, image: str, error: Exception) -> None:
        why = f"{what}: cannot be explained: {in_one_line(error)}"
        self._report(why)
        self._first = self._first or error
        self._refused[image] = why
        self._in_a_row.add(image)
        self._note()
        self.check(_MANY)
        if len(self._in_a_row) >= _TOO_MANY_IN_A_ROW:
            raise self._first

    def add_success(self, rows: list[Row]) -> None:
        self._explained.update(row.image for row in rows)
        if rows:
            self._in_a_row.clear()
        self._note()

    def check(self, at_least: int) -> None:
        """Raise the first error once at least so many images, and more than could, could not be explained."""
        refused = self._refused.keys() - self._explained
        if self._first and len(refused) >= max(at_least, len(self._explained) + 1):
            raise self._first

    def _note(self) -> None:
        if self._explained:  # nothing is written of a run that is wrong from the start
            for image in self._refused.keys() - self._noted:
                self._file.note_unexplained(image, self._refused[image])
            self._noted.update(self._refused)


def _explained(
    evaluation: Evaluation, batch: list[Pair], inputs: Tensor, images: dict[str, AnnotatedImage], failures: _Failures
) -> Iterator[list[Row]]:
    """The rows of a batch; where it fails, those of each pair alone that does not."""
    try:
        rows, refused = _rows(evaluation, batch, inputs, [images[name] for name, _ in batch])
        yield rows
        for (name, label), error in refused.items():
            failures.add_refused(f"{name}, {label}", name, error)
        return
    except (torch.cuda.OutOfMemoryError, _NoMapsError):  # of the run, not of one image
        raise
    except _OF_ONE as error:
        if len(batch) == 1:
            ((name, label),) = batch
            failures.add_refused(f"{name}, {label}", name, error)
            return
    for k, pair in enumerate(batch):
        yield from _explained(evaluation, [pair], inputs[k : k + 1], images, failures)


def _batches(
    evaluation: Evaluation, chunk: list[Pair], images: dict[str, AnnotatedImage], failures: _Failures
) -> Iterator[tuple[list[Pair], Tensor]]:
    """Pairs whose inputs have the same size, and these inputs."""
    prepared: dict[str, Tensor] = {}
    for name, image in images.items():
        try:
            prepared[name] = evaluation.prepare(image.pixels)
        except _OF_ONE as error:
            failures.add_refused(name, name, error)
    for size in dict.fromkeys(x.shape for x in prepared.values()):
        pairs = [pair for pair in chunk if pair[0] in prepared and prepared[pair[0]].shape == size]
        yield pairs, torch.stack([prepared[image] for image, _ in pairs])


def _rows(
    evaluation: Evaluation, pairs: list[Pair], inputs: Tensor, images: list[AnnotatedImage]
) -> tuple[list[Row], dict[Pair, Exception]]:
    """The rows of the pairs, and why others have none: their maps are not finite."""
    targets = [evaluation.index_of[label] for _, label in pairs]
    dtype, device = evaluation.autocast, inputs.device
    started = _clock(device)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.autocast(device.type, dtype) if dtype else nullcontext(),
    ):
        torch.manual_seed(
            zlib.crc32("/".join(pairs[0]).encode(errors="surrogatepass"))
        )  # which depends on the batch alone
        maps = _checked(evaluation.explain(inputs, targets), pairs).float()
    seconds = (_clock(device) - started) / len(pairs)
    kept = [k for k, one in enumerate(maps) if bool(one.isfinite().all())]
    rule = "explain must return finite maps, got others for image"
    refused: dict[Pair, Exception] = {
        pair: ValueError(f"{rule} {pair[0]!r} and class {pair[1]!r}") for k, pair in enumerate(pairs) if k not in kept
    }
    if not kept:
        return [], refused
    pairs, images = [pairs[k] for k in kept], [images[k] for k in kept]
    regions = [image.regions[label] for image, (_, label) in zip(images, pairs)]
    found = Explained(inputs[kept], [targets[k] for k in kept], maps[kept], regions, evaluation.steps)
    values: list[Values] = [{} for _ in pairs]
    for name in evaluation.metrics:
        for known, new in zip(values, METRICS[name](evaluation.model, found)):
            known.update(new)
    rows = [
        Row(image=name, label=label, difficult=label in image.difficult, seconds=seconds, values=one)
        for (name, label), image, one in zip(pairs, images, values)
    ]
    return rows, refused


def _checked(maps: object, pairs: list[Pair]) -> Tensor:
    count = len(pairs)
    if not isinstance(maps, Tensor) or maps.dim() != 4 or len(maps) != count:
        got = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise _NoMapsError(f"explain must return maps ({count}, 1, H, W) or ({count}, C, H, W), got {got}")
    return maps


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
