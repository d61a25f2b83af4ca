"""The layers of a classifier: their list, the chosen one, and the heat map of its channels.

Shapes: T targets of one photograph, K channels, h rows and w columns of a layer's positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from captum_extremal.cli.console import FAILED, StopError, print_table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from captum_extremal.cli.classifier import Classifier
    from captum_extremal.masks import Axes

_MOST_NEAR = 4


@dataclass(frozen=True)
class Layer:
    """A layer whose channels are to be masked.

    Attributes:
        name: as in ``model.named_modules()``.
        axes: those of its activation of a square image of the weights' own size.
    """

    name: str
    model: nn.Module
    module: nn.Module
    axes: Axes

    @property
    def channels(self) -> int:
        """K."""
        return self.axes.channels

    @property
    def channel_dim(self) -> int:
        """The dimension of the channels, counted with the batch's."""
        return self.axes.channel + 1

    def heat_maps(self, x: Tensor, masks: Tensor) -> Tensor | None:
        """Equation 11, v = sum_k m_k Phi_l^k(x), for each of several masks.

        Args:
            x: the model's input for one photograph (1, 3, H, W).
            masks: (T, K).

        Returns:
            (T, 1, h, w), or None for a layer whose channels have no positions in the image.
        """
        from captum_extremal.layers import LayerTail
        from captum_extremal.masks import read_axes

        (activation,) = LayerTail(self.model, self.module, (x,)).activation
        axes = read_axes(activation, self.channel_dim, self.axes.prefix)
        grid = grid_of(axes)
        if grid is None:
            return None
        summed = (axes.over_channels(masks.to(activation)) * activation).sum(self.channel_dim)
        return summed.flatten(1)[:, axes.prefix :].reshape(-1, 1, *grid)


def grid_of(axes: Axes) -> tuple[int, int] | None:
    """The rows and columns of a layer's positions, None if they are no map of the image; tokens must fill a square."""
    positions = math.prod(axes.grid)
    side = math.isqrt(positions)
    if positions == 1 or len(axes.grid) not in (1, 2):
        return None
    if len(axes.grid) == 2:
        return axes.grid[0], axes.grid[1]
    return (side, side) if side**2 == positions else None


def chosen_layer(classifier: Classifier, name: str, channel_dim: int | None, prefix_tokens: int) -> Layer:
    """The layer of this name.

    Args:
        channel_dim: the dimension of its output that holds the channels, counted with the batch's; None for 1.
        prefix_tokens: how many of its positions have no place in the image.

    Raises:
        StopError: there is none, or its channels cannot be masked.
    """
    modules, outputs = dict(classifier.model.named_modules()), _outputs(classifier)
    if not name or name not in modules:
        usable = [known for known, output in outputs.items() if output.activation is not None]
        close = get_close_matches(name, usable, _MOST_NEAR)
        near = f"; near it: {', '.join(close)}" if close else ""
        raise StopError(f"--layer: {classifier.name} has no layer named {name!r}{near}; --layer list names them all")
    if name not in outputs:
        raise StopError(f"--layer: {classifier.name} does not call {name}")
    return Layer(name, classifier.model, modules[name], _axes_of(name, outputs[name], channel_dim, prefix_tokens))


def _axes_of(name: str, output: _Output, channel_dim: int | None, prefix_tokens: int) -> Axes:
    from captum_extremal.masks import read_axes

    if output.activation is None:
        raise StopError(f"--layer: {name} cannot be masked: {output.text}; choose another, --layer list has them")
    if channel_dim is None and output.activation.dim() == 3:
        raise StopError(
            f"--channel-dim: must be given for {name}, whose output is {output.text}: which of its dimensions holds "
            "the channels, counted with the batch's; -1, the last, for a transformer's tokens"
        )
    channel_dim = 1 if channel_dim is None else channel_dim
    try:
        positions = read_axes(output.activation, channel_dim).grid
    except ValueError as error:
        raise StopError(f"--channel-dim: {error}") from error
    if prefix_tokens and not (len(positions) == 1 and positions[0] > prefix_tokens):
        raise StopError(
            f"--prefix-tokens: {name} has no {prefix_tokens} tokens before those of the image, its output is "
            f"{output.text}"
        )
    return read_axes(output.activation, channel_dim, prefix_tokens)


def print_layers(classifier: Classifier) -> None:
    """Print each layer that the model calls, its kind, and the shape of its output for one image."""
    modules, outputs = dict(classifier.model.named_modules()), _outputs(classifier)
    rows = [(name, type(modules[name]).__name__, output.text) for name, output in outputs.items()]
    print_table(rows, ("layer", "kind", "output"))


class _Output(NamedTuple):
    """What a layer returns for one image."""

    activation: Tensor | None  # (1, ...) without its values; None if its channels cannot be masked
    text: str  # its shape, or why it cannot be masked


def _outputs(classifier: Classifier) -> dict[str, _Output]:
    """The outputs of the layers that a forward of a grey image of the weights' own size calls, by name."""
    import torch

    from captum_extremal.hooks import on_every_output

    calls: dict[str, list[list[Any]]] = {name: [] for name, _ in classifier.model.named_modules() if name}

    def see(name: str, output: Any) -> None:
        parts = output if type(output) in (tuple, list) else [output]
        shapes = [torch.empty_like(x, device="meta") if isinstance(x, torch.Tensor) else x for x in parts]
        calls[name].append([x for x in shapes if x is not None])

    grey = torch.full((1, 3, *classifier.crop_size), 0.5, device=classifier.device)
    modules = [(name, classifier.model.get_submodule(name)) for name in calls]
    try:
        with on_every_output(modules, see), torch.no_grad():
            classifier.model(classifier.normalised(grey))
    except RuntimeError as error:
        raise StopError(f"--model: {classifier.name} cannot run: {error}", FAILED) from error
    return {name: _read_calls(each) for name, each in calls.items() if each}


def _read_calls(calls: list[list[Any]]) -> _Output:
    import torch

    parts = calls[0]
    if len(calls) > 1:
        return _Output(None, f"called {len(calls)} times")
    if len(parts) > 1:
        return _Output(None, f"{len(parts)} parts")
    if not parts or not isinstance(parts[0], torch.Tensor) or parts[0].dim() < 2 or not parts[0].is_floating_point():
        return _Output(None, "no tensor of channels")
    return _Output(parts[0], " x ".join(map(str, parts[0].shape[1:])))
