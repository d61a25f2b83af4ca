"""The layers of a classifier: their outputs, the chosen one, and the heat map of its channels.

Shapes: T targets of one photograph, K channels, h rows and w columns of a layer's positions.
"""

import math
from collections import Counter
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_extremal.cli.classifier import Classifier
from captum_extremal.cli.console import WRONG_ARGUMENT, StopError, stopping
from captum_extremal.hooks import on_every_output
from captum_extremal.layers import LayerTail
from captum_extremal.masks import Axes, read_axes


class Layer(NamedTuple):
    """A layer whose channels are to be masked, and the axes of its activation of an image of the weights' own size."""

    name: str
    model: nn.Module
    module: nn.Module
    axes: Axes

    def __str__(self) -> str:
        channels, grid = f"{self.name}: {self.axes.channels} channels", self.axes.grid
        if rows_and_columns(self.axes):
            return "{} of {} x {} positions".format(channels, *rows_and_columns(self.axes))
        if math.prod(grid) == 1:
            return f"{channels}, without positions: there will be no heat map"
        hint = "" if self.axes.prefix else "; --prefix-tokens 1 leaves out a class token"
        return f"{channels} of {' x '.join(map(str, grid))} positions, no square: there will be no heat map{hint}"

    def heat_maps(self, x: Tensor, masks: Tensor) -> Tensor | None:
        """Equation 11, sum_k m_k Phi_l^k(x), for x (1, 3, H, W) and masks (T, K): (T, 1, h, w), None without a map."""
        (activation,) = LayerTail(self.model, self.module, (x,)).activation
        axes = read_axes(activation, self.axes.channel + 1, self.axes.prefix)
        summed = (axes.over_channels(masks.to(activation)) * activation).sum(self.axes.channel + 1)
        grid = rows_and_columns(axes)
        return summed.flatten(1)[:, axes.prefix :].reshape(-1, 1, *grid) if grid else None


def rows_and_columns(axes: Axes) -> tuple[int, ...]:
    """Those of a layer's positions, () if they are no map of the image; tokens must fill a square."""
    positions, dimensions = math.prod(axes.grid), len(axes.grid)
    side = math.isqrt(positions)
    is_map = positions > 1 and (dimensions == 2 or (dimensions == 1 and side**2 == positions))
    return (axes.grid if dimensions == 2 else (side, side)) if is_map else ()


def chosen_layer(classifier: Classifier, name: str, channel_dim: int | None, prefix_tokens: int) -> Layer:
    """The layer of this name; raises StopError if there is none, or its channels cannot be masked."""
    outputs, modules = outputs_of(classifier), dict(classifier.model.named_modules())
    if not name or name not in modules:
        close = get_close_matches(name, [known for known in outputs if isinstance(outputs[known], Tensor)], 4)
        near = f"; near it: {', '.join(close)}" if close else ""
        raise StopError(f"--layer: {classifier.name} has no layer named {name!r}{near}; --layer list names them all")
    if name not in outputs:
        raise StopError(f"--layer: {classifier.name} does not call {name}")
    output = outputs[name]
    if isinstance(output, str):
        raise StopError(f"--layer: {name} cannot be masked: {output}; choose another, --layer list has them")
    with stopping("--channel-dim", ValueError, status=WRONG_ARGUMENT):
        positions = read_axes(output, channel_dim).grid
    if prefix_tokens and not (len(positions) == 1 and positions[0] > prefix_tokens):
        why = f"{name} has no {prefix_tokens} tokens before those of the image, its output is {as_text(output)}"
        raise StopError(f"--prefix-tokens: {why}")
    return Layer(name, classifier.model, modules[name], read_axes(output, channel_dim, prefix_tokens))


def outputs_of(classifier: Classifier) -> dict[str, Tensor | str]:
    """The output (1, ...) of each layer that a forward of a grey image of the weights' own size calls, by name.

    It is a tensor without values, or a text that says why its channels cannot be masked.
    """
    modules = [(name, module) for name, module in classifier.model.named_modules() if name]
    calls, found = Counter[str](), dict[str, Tensor | str]()

    def see(name: str, output: Any) -> None:
        calls[name] += 1
        found[name] = _read_output(output) if calls[name] == 1 else f"called {calls[name]} times"

    sides = tuple(classifier.preset.crop_size)  # which every classifier takes
    grey = torch.full((1, 3, sides[0], sides[-1]), 0.5, device=classifier.device)
    stops = stopping(f"--model: {classifier.name} cannot run", RuntimeError)
    with stops, on_every_output(modules, see), torch.no_grad():
        classifier.model(classifier.normalised(grey))
    return {name: found[name] for name, _ in modules if name in found}


def _read_output(output: Any) -> Tensor | str:
    parts = [part for part in (output if type(output) in (tuple, list) else [output]) if part is not None]
    if len(parts) > 1:
        return f"{len(parts)} parts"
    if not parts or not isinstance(parts[0], Tensor) or parts[0].dim() < 2 or not parts[0].is_floating_point():
        return "no tensor of channels"
    return torch.empty_like(parts[0], device="meta")


def as_text(output: Tensor | str) -> str:
    """The shape of a layer's output for one image, or why it cannot be masked."""
    return output if isinstance(output, str) else " x ".join(map(str, output.shape[1:]))
