"""What it costs to set channels of a layer to zero (section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.classes.loading import Batch
from captum_extremal.masks import read_axes
from captum_extremal.perturbations.product import masked
from captum_extremal.session import open_session


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
        return self._mean(self._is_own())

    @property
    def others(self) -> Tensor:
        """(R,): the mean drop of the images of all other classes; NaN if there are none."""
        return self._mean(~self._is_own())

    def _is_own(self) -> Tensor:
        return torch.tensor(self.removed)[:, None] == torch.tensor(self.classes)

    def _mean(self, chosen: Tensor) -> Tensor:
        weight = chosen * torch.tensor(self.images)
        return (self.drops * weight).sum(1) / weight.sum(1)


def drops_of(
    method: LayerExtremalPerturbation,
    batch: Batch,
    kept: Tensor,
    settings: dict[str, Any],
    perturbations_per_eval: int | None,
) -> Tensor:
    """(N, R): how far the score of each image's label falls under masks (R, K), which are 0 where a channel is removed.

    Raises:
        ValueError: the layer has several tensors, or another number of channels.
    """
    with open_session(method.forward_func, batch.inputs, batch.labels, layer=method.layer) as session:
        at_layer = session.at_layer(method.layer, settings["attribute_to_layer_input"], method.device_ids)
        axes = read_axes(at_layer.inputs[0], settings["channel_dim"])
        if at_layer.is_tuple or axes.channels != kept.shape[1]:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in at_layer.inputs)
            raise ValueError(f"method must mask one tensor of {kept.shape[1]} channels, got activations {shapes}")
        objective = at_layer.objective(
            lambda x, baseline: masked(x, axes.over_channels),
            [(axes.channels,)],
            perturbations_per_eval=perturbations_per_eval,
            differentiable=False,
        )
        masks = kept.to(objective.clean).repeat_interleave(len(batch.labels), dim=0)
        return (objective.clean - objective.value((masks,))).T.cpu()
