"""The processes that share an evaluation: this one alone, or those started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

_LONGEST_WAIT = timedelta(days=7)  # by which the last process may finish later than the first
_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: the number of this one, from 0.
        count: how many there are.
        device: of this one; messages between the processes use it.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that prints."""
        return self.rank == 0

    def share(self, work: Sequence[_T]) -> Sequence[_T]:
        """This process's part of the work: every ``count``-th piece."""
        return work[self.rank :: self.count]

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
