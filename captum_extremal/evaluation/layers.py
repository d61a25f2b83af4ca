"""The layer that methods such as Grad-CAM look at where none is named."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from captum_extremal._state import preserve_state
from captum_extremal.hooks import on_every_output


def last_spatial_layer(model: nn.Module, inputs: Tensor) -> str:
    """The last layer whose output still has positions, and is not yet the scores of the classes.

    For torchvision's VGG16 this is ``features.29``, for its ResNets ``layer4``. Layers that run more than once, dropout
    and layers that return the output of a pooling layer are left out.

    Args:
        model: from (N, C, H, W) to scores (N, K, ...).
        inputs: an example of its inputs, (N, C, H, W).

    Returns:
        its name in ``model.named_modules()``.

    Raises:
        ValueError: there is no such layer.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    seen: list[tuple[str, Any]] = []
    record = on_every_output(modules.items(), lambda name, output: seen.append((name, output)))
    with torch.no_grad(), preserve_state(model, inputs.device), record:
        classes = model(inputs[:1]).shape[1]
    calls = Counter(name for name, _ in seen)
    pooled = {id(output) for name, output in seen if "Pool" in type(modules[name]).__name__}
    found = [
        name
        for name, output in seen
        if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1
        if output.shape[1] != classes and calls[name] == 1
        if id(output) not in pooled and "Dropout" not in type(modules[name]).__name__
    ]
    if not found:
        raise ValueError("layer must be given: no layer of the model has an output (N, K, h, w) with several positions")
    return found[-1]
