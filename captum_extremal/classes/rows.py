"""What is kept of each image in the file of a run that can be continued."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_extremal.classes.loading import Batch
from captum_extremal.results import ExtremalMasks, threshold_of
from captum_extremal.search import as_game
from captum_extremal.settings import LayerSearchSettings

_ROUNDING = 1e-4  # by which a threshold that is computed again may differ, as a fraction


@dataclass(frozen=True)
class Row:
    """What was found for one image.

    Attributes:
        index: the image's position in the loader, from 0.
        label: its class.
        checksum: of the model's inputs.
        optimal_area: a*; None where no area reaches the threshold.
        clean, perturbed, threshold: the scores of the whole activation and of none of it, and Phi_0.
        mask: (K,) float32, m_a*; the largest area's mask where there is no a*.
    """

    index: int
    label: int
    checksum: str
    optimal_area: float | None
    clean: float
    perturbed: float
    threshold: float
    mask: Tensor

    def as_json(self) -> dict[str, Any]:
        """Plain values; the mask is base64 of its little-endian bytes."""
        return {**vars(self), "mask": base64.b64encode(self.mask.numpy().astype("<f4").tobytes()).decode()}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Row:
        """The row of such values; raises almost any error if they are others."""
        mask = np.frombuffer(base64.b64decode(values.pop("mask"), validate=True), "<f4")
        return cls(mask=torch.from_numpy(mask.astype(np.float32)), **values)


def rows_of(found: ExtremalMasks, batch: Batch) -> list[Row]:
    """One row per image of the batch.

    Raises:
        ValueError: the layer has several tensors.
    """
    masks = found.optimal_mask()
    if isinstance(masks, tuple):
        raise ValueError(f"the layer must have one tensor, got {len(masks)}: choose a layer inside of it")
    scores = zip(found.clean_score.tolist(), found.perturbed_score.tolist(), found.threshold.tolist())
    areas = [None if math.isnan(area) else area for area in found.optimal_area.tolist()]
    images = zip(batch.labels, batch.checksums, areas, scores, masks.cpu())
    return [
        Row(batch.start + k, label, checksum, area, clean, perturbed, threshold, mask)
        for k, (label, checksum, area, (clean, perturbed, threshold), mask) in enumerate(images)
    ]


def check_known(rows: list[Row], batch: Batch, settings: LayerSearchSettings) -> None:
    """Check that rows of an earlier run are those of the first images of the batch, with the threshold of this run.

    Raises:
        ValueError: they are not.
    """
    rule = "loader must give the images of the file in the same order, unshuffled and unchanged, but image"
    for index, (row, label, checksum) in enumerate(zip(rows, batch.labels, batch.checksums), batch.start):
        if row.index != index:
            raise ValueError(f"path must hold one row per image, got one damaged: image {row.index} at row {index}")
        if row.label != label:
            raise ValueError(f"{rule} {index} has label {label}, in the file {row.label}")
        if row.checksum != checksum:
            raise ValueError(f"{rule} {index} has other values than the one in the file")
    scores = torch.tensor([(row.clean, row.perturbed) for row in rows], dtype=torch.float64)
    clean, perturbed = scores.view(-1, 2).T
    thresholds = threshold_of(settings.score_threshold, as_game(settings.game), clean, perturbed) if rows else clean
    for row, value in zip(rows, thresholds.tolist()):
        if not math.isclose(value, row.threshold, rel_tol=_ROUNDING, abs_tol=1e-8):
            raise ValueError(
                f"score_threshold must be what it was for the images in the file, but for image {row.index} "
                f"it is {value:.6g}, in the file {row.threshold:.6g}"
            )
