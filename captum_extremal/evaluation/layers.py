"""Which layer a method looks at that looks at one, such as Grad-CAM, where nobody names it."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from captum_extremal._state import preserve_state


def last_spatial_layer(model: nn.Module, inputs: Tensor) -> str:
    """The last layer whose output still has positions, and is not yet the scores of the classes.

    For torchvision's VGG16 this is ``features.29``, for its ResNets ``layer4``. Layers that run more than once are no
    candidates, nor are dropout and the output of a pooling layer.

    Args:
        model: from (N, C, H, W) to scores (N, K, ...).
        inputs: an example of its inputs, (N, C, H, W).

    Returns:
        its name in ``model.named_modules()``.

    Raises:
        ValueError: there is no such layer.
    """
    seen: list[tuple[str, nn.Module, Tensor]] = []

    with ExitStack() as hooks, torch.no_grad(), preserve_state(model, inputs.device):
        for name, module in model.named_modules():

            def see(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                if name and isinstance(output, Tensor):
                    seen.append((name, module, output))

            hooks.callback(module.register_forward_hook(see).remove)
        classes = model(inputs[:1]).shape[1]
    calls = Counter(name for name, _, _ in seen)
    pooled = {id(output) for _, module, output in seen if "Pool" in type(module).__name__}
    found = [
        name
        for name, module, output in seen
        if output.dim() == 4 and min(output.shape[2:]) > 1 and output.shape[1] != classes
        if calls[name] == 1 and id(output) not in pooled and "Dropout" not in type(module).__name__
    ]
    if not found:
        raise ValueError("layer must be given: no layer of the model has an output (N, K, h, w) with several positions")
    return found[-1]
