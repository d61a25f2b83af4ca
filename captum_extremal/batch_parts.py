"""Some of the images of a batch: alone where the model scores them alone as in the batch, and in the batch where not.

Finished images leave a search. But a function around a model may hold values for each image of the whole batch, and a
normalisation in train mode makes the scores of a batch depend on one another.

Shapes: N images of the batch, n some of them, R masks an image: rows (R n, *mask_shape), mask-major; scores (R, n).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_extremal.first_run import Tensors
from captum_extremal.objective import Objective


class PartOfBatch:
    """The objective of some images of a batch, which go through the model with all others, of which nothing is hidden.

    Args:
        whole: the objective of the batch.
        rows: the numbers (n,) of the images.
    """

    def __init__(self, whole: Objective, rows: Tensor) -> None:
        self._whole, self._rows = whole, rows
        self.images, self.samples = len(rows), whole.samples
        self.clean, self.perturbed = whole.clean[rows], whole.perturbed[rows]

    def apart_from(self, forbidden: Tensors) -> PartOfBatch:
        """As :meth:`Objective.apart_from`, with f (n, *mask_shape)."""
        return PartOfBatch(self._whole.apart_from(self._among_all(forbidden, torch.zeros_like)), self._rows)

    def value(self, masks: Tensors, kept: float = 1.0, removed: float = 0.0, **how: Any) -> Tensor:
        """As :meth:`Objective.value`, (R, n)."""
        return self._whole.value(self._among_all(masks), kept, removed, **how)[:, self._rows]

    def value_and_grad(
        self, masks: Tensors, kept: float = 1.0, removed: float = 0.0, **how: Any
    ) -> tuple[Tensor, Tensors]:
        """As :meth:`Objective.value_and_grad`."""
        values, gradients = self._whole.value_and_grad(self._among_all(masks), kept, removed, **how)
        own = tuple(by_image(part, self._whole.images)[:, self._rows].flatten(0, 1) for part in gradients)
        return values[:, self._rows], own

    def _among_all(self, some: Tensors, others: Callable[[Tensor], Tensor] = torch.ones_like) -> Tensors:
        """Rows (R N, ...) of all images, from those (R n, ...) of these."""
        found = []
        for part in some:
            ours = by_image(part, self.images)
            every = others(ours[:, :1].expand(-1, self._whole.images, *ours.shape[2:]))
            every[:, self._rows] = ours
            found.append(every.flatten(0, 1))
        return tuple(found)


AnyObjective = Objective | PartOfBatch
"""What scores masks of some images."""


class Parts:
    """From rows (n,), numbers of images, to the objective of these images.

    Args:
        whole: the objective of the batch.
        alone: from rows to the objective of these images without the others.
    """

    def __init__(self, whole: Objective, alone: Callable[[Tensor], Objective]) -> None:
        self._whole, self._alone = whole, alone

    def __call__(self, rows: Tensor) -> AnyObjective:
        """The objective of the images of some rows (n,)."""
        return self._alone(rows) if self._whole.splits(self._last_alone) else PartOfBatch(self._whole, rows)

    def _last_alone(self, last: int) -> Tensor:
        return self._alone(torch.tensor([last], device=self._whole.clean.device)).score_of_inputs()


def by_image(rows: Tensor, images: int) -> Tensor:
    """Rows (R N, ...), mask-major, as (R, N, ...)."""
    return rows.view(-1, images, *rows.shape[1:])
