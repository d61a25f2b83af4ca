"""A classifier of images of one size as a classifier of images of any size, as for table 1 (Zhang et al. 2018)."""

from collections import OrderedDict

import torch
from torch import nn

from captum_extremal._reach import copied


def fully_convolutional(model: nn.Module) -> nn.Sequential:
    """The same classifier with its linear layers as convolutions, whose scores are averaged over the positions.

    On images of the size of the training, the scores of VGGs and AlexNet do not change; those of ResNets do not change
    at any size. On larger images the first linear layer of a VGG sees every window of 7 x 7 positions.

    Args:
        model: one of torchvision's VGGs, AlexNet or ResNets, or a model with the same parts: ``features``, ``avgpool``
            and a ``classifier`` with linear layers, or ``avgpool`` and ``fc`` at the end. It is not changed.

    Returns:
        a network (N, 3, H, W) -> (N, K) in the same mode, whose parts keep their names, such as ``features.29``.

    Raises:
        ValueError: the model has other parts.
    """
    parts = OrderedDict(copied(model).named_children())
    pool, names = parts.pop("avgpool", None), list(parts)
    head = parts[names[-1]] if names else None
    if names[-1:] == ["fc"] and isinstance(pool, nn.AdaptiveAvgPool2d) and isinstance(head, nn.Linear):
        parts["fc"] = _convolution(head, (1, 1))
    elif names == ["features", "classifier"] and pool is not None and isinstance(head, nn.Sequential):
        size = getattr(pool, "output_size", 1)
        window = size if isinstance(size, tuple) else (size, size)
        for name, layer in head.named_children():
            if isinstance(layer, nn.Linear):
                setattr(head, name, _convolution(layer, window))
                window = (1, 1)
    else:
        raise ValueError(
            "model must be a VGG, AlexNet or ResNet of torchvision to be made fully convolutional, "
            f"got {type(model).__name__} with {', '.join(dict(model.named_children())) or 'no parts'}"
        )
    parts["average"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(parts).train(model.training)


def _convolution(linear: nn.Linear, window: tuple[int, int]) -> nn.Conv2d:
    """The linear layer as a convolution over windows of its inputs (C, rows, columns)."""
    weight, bias = linear.weight, linear.bias
    weight = nn.Parameter(weight.detach().view(len(weight), -1, *window), weight.requires_grad)
    with torch.device("meta"):
        made = nn.Conv2d(weight.shape[1], len(weight), window, bias=bias is not None)
    made.weight, made.bias = weight, bias
    return made
