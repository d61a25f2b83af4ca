"""A classifier of images of one size as a fully convolutional classifier of images of any size.

As the networks of table 1 (Zhang et al. 2018): each position of the last features has scores, and the scores of an
image are their mean.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn


def fully_convolutional(model: nn.Module) -> nn.Sequential:
    """The same classifier with its linear layers as convolutions, whose scores are averaged over the positions.

    On images of the size of the training, the scores of VGGs and AlexNet do not change; those of ResNets do not change
    at any size. On larger images the first linear layer of a VGG sees every window of 7 x 7 positions.

    Args:
        model: one of torchvision's VGGs, AlexNet or ResNets, or a model with the same parts: ``features``, ``avgpool``
            and a ``classifier`` with linear layers, or ``avgpool`` and ``fc`` at the end. It is not changed.

    Returns:
        a network (N, 3, H, W) -> (N, K) in the same mode, whose parts keep their names, such as ``features.29`` or
        ``layer4``.

    Raises:
        ValueError: the model has other parts.
    """
    parts = OrderedDict(copy.deepcopy(model).named_children())
    pool, last = parts.pop("avgpool", None), list(parts)[-1] if parts else ""
    if last == "fc" and isinstance(pool, nn.AdaptiveAvgPool2d) and isinstance(parts["fc"], nn.Linear):
        parts["fc"] = _convolution(parts["fc"], (1, 1))
    elif (
        list(parts) == ["features", "classifier"]
        and pool is not None
        and isinstance(parts["classifier"], nn.Sequential)
    ):
        parts["classifier"] = _slid(parts["classifier"], getattr(pool, "output_size", 1))
    else:
        raise ValueError(
            "model must be a VGG, AlexNet or ResNet of torchvision to be made fully convolutional, "
            f"got {type(model).__name__} with {', '.join(dict(model.named_children())) or 'no parts'}"
        )
    parts["average"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(parts).train(model.training)


def _slid(classifier: nn.Sequential, size: int | tuple[int, int]) -> nn.Sequential:
    """A classifier over positions; its first linear layer takes windows of ``size`` rows and columns."""
    window = size if isinstance(size, tuple) else (size, size)
    slid: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in classifier.named_children():
        slid[name] = layer
        if isinstance(layer, nn.Linear):
            slid[name], window = _convolution(layer, window), (1, 1)
    return nn.Sequential(slid)


def _convolution(linear: nn.Linear, window: tuple[int, int]) -> nn.Conv2d:
    """The linear layer as a convolution over windows of its inputs (C, rows, columns)."""
    weight, bias = linear.weight, linear.bias
    channels = linear.in_features // (window[0] * window[1])
    made = nn.Conv2d(
        channels, linear.out_features, window, bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        made.weight.copy_(weight.view(-1, channels, *window))
        if made.bias is not None:
            made.bias.copy_(bias)
    return made.requires_grad_(weight.requires_grad)
