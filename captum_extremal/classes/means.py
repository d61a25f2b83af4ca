r"""The mean channel mask of each class (section 5.2), over any number of batches and in runs that can be continued.

.. math::

    \bar{m}_c = mean of m_{a^*} over the images of class c, \qquad k^*_c = argmax_k \bar{m}_c^k
"""

from __future__ import annotations

import base64
import math
import os
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_extremal._checks import check_choice, check_number
from captum_extremal._describe import checksum, describe
from captum_extremal._jsonl import JsonLines
from captum_extremal._state import modules_of, warn_caller
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.classes.channels import (
    ClassChannels,
    Loader,
    MeansByLabel,
    batches_of,
    check_loader,
    check_method,
    layer_of,
)
from captum_extremal.results import ExtremalMasks, threshold_of
from captum_extremal.search import as_game
from captum_extremal.settings import LayerSearchSettings, check_areas, documents

_Image = tuple[int, int, str]  # its position in the loader, its class, and a checksum of the model's inputs
_ROUNDING = 1e-4  # by which a threshold that is computed again may differ, as a fraction


@documents(LayerSearchSettings)
def class_channels(
    method: LayerExtremalPerturbation,
    loader: Loader,
    *,
    path: str | os.PathLike[str] | None = None,
    attribute_to_layer_input: bool = False,
    device: torch.device | str | None = None,
    **settings: Any,
) -> ClassChannels:
    r"""The mean of the channel masks m_a* over each class's images, over any number of batches.

    An image that does not reach Phi_0 at any of the areas has no m_a*: it is skipped, and counted. (The default areas
    end with all channels, which reach the default threshold: such an image counts with a mask of ones.)

    With ``path``, a row (label, a*, scores, mask) per image is appended to a file of JSON lines after each batch. A
    call with the same file continues where the last one stopped, however it was stopped, and returns the same (up to
    rounding, if a batch was split): nothing is computed for the images in the file. The loader must give the same
    images in the same order each time, in batches of any size: an image that does not fit the position, label and
    checksum in its row is an error. So is a file of other settings, or of a model with other weights. A callable
    ``score_threshold`` is called again for the images in the file. Two calls at the same time need two files.

    Args:
        method: the model and the layer.
        loader: gives pairs (inputs, labels): a tensor (N, ...) or a tuple of the model's inputs, and N integers from 0
            up, which are the model's targets and the classes.
        path: the file of rows; None keeps none. Its folder must exist.
        attribute_to_layer_input: as :meth:`LayerExtremalPerturbation.extremal_masks` takes it.
        device: where the batches are moved; None leaves them where they are.
        **settings: as :meth:`LayerExtremalPerturbation.extremal_masks` takes them, for channel masks. A
            ``score_threshold`` is a number or a callable; a solver of your own is a dataclass; the progress bar counts
            batches.

    Raises:
        TypeError, ValueError: an argument breaks a rule above (before the model runs), the loader gives no batch or
            something else than pairs (inputs, labels), the file is damaged or does not fit, or the layer has several
            tensors.
        OSError: the file cannot be opened or written.

    Examples::

        >>> method = LayerExtremalPerturbation(model, model.features[10])
        >>> found = class_channels(method, DataLoader(folder, batch_size=32), path="features.10.jsonl")
        >>> channels, values = found.top(207, 5)
        >>> drop = found.removal_drop(method, loader, count=5)
        >>> drop.own, drop.others
    """
    check_method(method)
    options = LayerSearchSettings.of(settings, class_channels)
    check_choice("mask", options.mask, ("channels",))
    if options.score_threshold is not None and not callable(options.score_threshold):
        check_number("score_threshold", options.score_threshold)
    options.check_for(1)
    check_loader(loader, ordered=path is not None)
    about = _about(method, attribute_to_layer_input, options)
    search = {**settings, "attribute_to_layer_input": attribute_to_layer_input, "show_progress": False}
    means, skipped, channels, start = MeansByLabel(), Counter[int](), 0, 0
    with nullcontext() if path is None else JsonLines(path, "class_channels", about) as file:
        known = iter(()) if file is None else file.read(_Row.of_json)
        for batch in batches_of(loader, device, options.show_progress, "class channels"):
            images = list(zip(count(start), batch.labels, batch.checksums))
            rows = list(islice(known, len(images)))
            _check_known(rows, images, options)
            if len(rows) < len(images):
                inputs, labels = tuple(x[len(rows) :] for x in batch.inputs), batch.labels[len(rows) :]
                new = _rows_of(method.extremal_masks(inputs, labels, **search), images[len(rows) :])
                if file is not None:
                    file.append(row.as_json() for row in new)
                rows += new
            start, channels = start + len(images), len(rows[0].mask)
            for row in rows:
                skipped[row.label] += row.optimal_area is None  # which makes an entry for each label
            if counted := [row for row in rows if row.optimal_area is not None]:
                means.add(torch.stack([row.mask for row in counted]), [row.label for row in counted])
    by_class = means.result()
    if not by_class:
        warn_caller(
            f"none of {skipped.total()} images reaches the score threshold at any of the areas, so that no class has "
            "a mask: add larger areas or lower score_threshold"
        )
    classes, missed = zip(*sorted(skipped.items()))
    masks, used = zip(*(by_class.get(label, (torch.full((channels,), torch.nan), 0)) for label in classes))
    return ClassChannels(classes, torch.stack(masks), used, missed, about)


def _about(method: LayerExtremalPerturbation, to_input: bool, settings: LayerSearchSettings) -> dict[str, Any]:
    """What decides the masks, except for the threshold, as plain values of JSON."""
    modules = (*modules_of(method.forward_func), method.layer)
    areas = None if settings.areas is None else check_areas(settings.areas, counts=True)
    tensors = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    return {
        **layer_of(method),
        "attribute_to_layer_input": bool(to_input),
        "channel_dim": describe("channel_dim", settings.channel_dim),
        "areas": describe("areas", areas),
        "game": describe("game", as_game(settings.game)),
        "solver": describe("solver", settings.chosen_solver()),
        "model": checksum(tensors),
    }


@dataclass(frozen=True)
class _Row:
    """What is kept of one image in the file of a run that can be continued."""

    index: int
    label: int
    checksum: str
    optimal_area: float | None  # a*; None where no area reaches the threshold
    clean: float  # the score of the whole activation
    perturbed: float  # the score of none of it
    threshold: float  # Phi_0
    mask: Tensor  # (K,) float32, m_a*; the largest area's mask where there is no a*

    def as_json(self) -> dict[str, Any]:
        """Plain values; the mask is base64 of its little-endian bytes."""
        return {**vars(self), "mask": base64.b64encode(self.mask.numpy().astype("<f4").tobytes()).decode()}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> _Row:
        """The row of such values; raises almost any error if they are others."""
        mask = np.frombuffer(base64.b64decode(values.pop("mask"), validate=True), "<f4")
        return cls(mask=torch.from_numpy(mask.astype(np.float32)), **values)


def _rows_of(found: ExtremalMasks, images: list[_Image]) -> list[_Row]:
    masks = found.optimal_mask()
    if isinstance(masks, tuple):
        raise ValueError(f"the layer must have one tensor, got {len(masks)}: choose a layer inside of it")
    areas = [None if math.isnan(area) else area for area in found.optimal_area.tolist()]
    scores = (found.clean_score.tolist(), found.perturbed_score.tolist(), found.threshold.tolist())
    return [_Row(*image, *values) for image, *values in zip(images, areas, *scores, masks.cpu())]


def _check_known(rows: list[_Row], images: list[_Image], settings: LayerSearchSettings) -> None:
    """Check that rows of an earlier run are those of the first of the images, with the threshold of this run."""
    rule = "loader must give the images of the file in the same order, unshuffled and unchanged, but image"
    for row, (index, label, content) in zip(rows, images):
        if row.index != index:
            raise ValueError(f"path must hold one row per image, got one damaged: image {row.index} at row {index}")
        if row.label != label:
            raise ValueError(f"{rule} {index} has label {label}, in the file {row.label}")
        if row.checksum != content:
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
