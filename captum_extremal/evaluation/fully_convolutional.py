"""A classifier of images of one size as one of images of any size: its linear layers slid over the positions.

As the networks of table 1 are (Zhang et al. 2018): each position of the last features gives scores, and an image's are
their mean.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn


def fully_convolutional(model: nn.Module) -> nn.Sequential:
    """The same classifier with its linear layers as convolutions, whose scores are averaged over the positions.

    On images of the size it was trained on, VGG's and AlexNet's scores stay what they were; a ResNet's do so on images
    of any size. On larger ones VGG's first linear layer sees every window of 7 x 7 positions instead of 7 x 7 averages.

    Args:
        model: one of torchvision's VGGs, AlexNet or ResNets, or what has their parts: ``features`` and a ``classifier``
            that begins with a linear layer over a square of them, or a ResNet's parts up to ``fc``. It is not changed.

    Returns:
        a network (N, 3, H, W) -> (N, K) in the same mode, whose parts keep their names, such as ``features.29`` or
        ``layer4``.

    Raises:
        ValueError: the model has other parts.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict((name, copy.deepcopy(part)) for name, part in _parts_of(model))
    parts["average"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(parts).train(model.training)


def _parts_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    children = dict(model.named_children())
    pool, linear = children.get("avgpool"), children.get("fc")
    if isinstance(pool, nn.AdaptiveAvgPool2d) and isinstance(linear, nn.Linear) and list(children)[-1] == "fc":
        features = [(name, part) for name, part in children.items() if name not in ("avgpool", "fc")]
        return [*features, ("fc", _convolution(linear, (1, 1)))]
    layers = children.get("classifier")
    if list(children) == ["features", "avgpool", "classifier"] and isinstance(layers, nn.Sequential):
        return [("features", children["features"]), ("classifier", _slid(layers, _sides(pool)))]
    raise ValueError(
        "model must be a VGG, AlexNet or ResNet of torchvision to be made fully convolutional, "
        f"got {type(model).__name__} with {', '.join(children) or 'no parts'}"
    )


def _sides(pool: nn.Module | None) -> tuple[int, int]:
    """Rows and columns of the features that a VGG's classifier takes."""
    size = pool.output_size if isinstance(pool, nn.AdaptiveAvgPool2d) else (1, 1)
    rows, columns = size if isinstance(size, tuple) else (size, size)
    return int(rows or 1), int(columns or 1)


def _slid(layers: nn.Sequential, first: tuple[int, int]) -> nn.Sequential:
    """A classifier's layers over positions; the first linear one takes windows of ``first`` rows and columns."""
    slid: OrderedDict[str, nn.Module] = OrderedDict()
    window = first
    for name, layer in layers.named_children():
        slid[name] = _convolution(layer, window) if isinstance(layer, nn.Linear) else layer
        window = (1, 1) if isinstance(layer, nn.Linear) else window
    return nn.Sequential(slid)


def _convolution(linear: nn.Linear, window: tuple[int, int]) -> nn.Conv2d:
    """The linear layer as a convolution over windows of its inputs (C, rows, columns)."""
    rows, columns = window
    channels = linear.in_features // (rows * columns)
    weight: Tensor = linear.weight
    made = nn.Conv2d(
        channels, linear.out_features, window, bias=linear.bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        made.weight.copy_(weight.view(-1, channels, rows, columns))
        if made.bias is not None:
            made.bias.copy_(linear.bias)
    return made.requires_grad_(weight.requires_grad)
