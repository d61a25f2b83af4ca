"""What it costs to set channels of a layer to zero (section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_extremal._state import ForwardPrecision, as_plain, preserve_state
from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
from captum_extremal.class_channels.loading import Batch
from captum_extremal.layers import LayerTail
from captum_extremal.layers.axes import masked, read_axes
from captum_extremal.objective import Objective
from captum_extremal.search.games import PRESERVE


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
    channels: Tensor,
    settings: dict[str, Any],
    total: int,
    perturbations_per_eval: int | None,
) -> Tensor:
    """(N, R): how far the score of each image's label falls without channels (R, count) of the layer's ``total``."""
    device = batch.inputs[0].device
    caller = ForwardPrecision(device)
    with torch.inference_mode(False), torch.no_grad(), caller.ours(), preserve_state(method.forward_func, device):
        tail = LayerTail(
            method.forward_func,
            method.layer,
            tuple(as_plain(x.detach()) for x in batch.inputs),
            to_input=settings["attribute_to_layer_input"],
            device_ids=method.device_ids,
            caller=caller,
        )
        activation = tail.activation[0]
        axes = read_axes(activation, settings["channel_dim"])
        if len(tail.activation) > 1 or axes.channels != total:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tail.activation)
            raise ValueError(f"method must mask one tensor of {total} channels, got activations {shapes}")
        objective = Objective(
            tail,
            (activation,),
            (masked(activation.to(torch.promote_types(activation.dtype, torch.float32)), axes.over_channels),),
            batch.labels,
            perturbations_per_eval=perturbations_per_eval,
            caller=caller,
            differentiable=False,
            mask_shapes=((total,),),
        )
        kept = torch.ones(len(channels), total).scatter_(1, channels, 0.0).to(objective.clean)
        masks = kept.repeat_interleave(len(batch.labels), dim=0)
        return (objective.clean - objective.reward((masks,), PRESERVE)).T.cpu()
