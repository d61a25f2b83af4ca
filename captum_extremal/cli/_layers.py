"""The layers of a classifier: their list, the one that is meant, and the heat map of its channels.

Shapes: T targets of one photograph, K channels, h rows and w columns of a layer's positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from captum_extremal.cli._console import FAILED, StopError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from captum_extremal.cli._classifier import Classifier
    from captum_extremal.masks.axes import Axes

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
        from captum_extremal.masks.axes import read_axes

        (activation,) = LayerTail(self.model, self.module, (x,)).activation
        axes = read_axes(activation, self.channel_dim, self.axes.prefix)
        grid = grid_of(axes)
        if grid is None:
            return None
        summed = (axes.over_channels(masks.to(activation)) * activation).sum(self.channel_dim)
        return summed.flatten(1)[:, axes.prefix :].reshape(-1, 1, *grid)


def grid_of(axes: Axes) -> tuple[int, int] | None:
    """The rows and columns of a layer's positions; tokens must fill a square. None if that is no map of the image."""
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
        channel_dim: which dimension of its output holds the channels, counted with the batch's; None for 1.
        prefix_tokens: how many of its positions have no place in the image.

    Raises:
        StopError: there is none, or its channels cannot be masked.
    """
    modules = dict(classifier.model.named_modules())
    calls = _called(classifier)
    if not name or name not in modules:
        close = get_close_matches(name, [known for known in calls if calls[known].activation is not None], _MOST_NEAR)
        near = f"; near it: {', '.join(close)}" if close else ""
        raise StopError(f"--layer: {classifier.name} has no layer named {name!r}{near}; --layer list names them all")
    if name not in calls:
        raise StopError(f"--layer: {classifier.name} does not call {name}")
    return Layer(name, classifier.model, modules[name], _axes_of(name, calls[name], channel_dim, prefix_tokens))


def _axes_of(name: str, call: _Calls, channel_dim: int | None, prefix_tokens: int) -> Axes:
    from captum_extremal.masks.axes import read_axes

    activation = call.activation
    if activation is None:
        raise StopError(f"--layer: {name} cannot be masked: {call.output}; choose another, --layer list has them")
    if channel_dim is None and activation.dim() == 3:
        raise StopError(
            f"--channel-dim: must be given for {name}, whose output is {call.output}: which of its dimensions holds "
            "the channels, counted with the batch's; -1, the last, for a transformer's tokens"
        )
    channel_dim = 1 if channel_dim is None else channel_dim
    try:
        positions = read_axes(activation, channel_dim).grid
    except ValueError as error:
        raise StopError(f"--channel-dim: {error}") from error
    if prefix_tokens and not (len(positions) == 1 and positions[0] > prefix_tokens):
        raise StopError(
            f"--prefix-tokens: {name} has no {prefix_tokens} tokens before those of the image, its output is "
            f"{call.output}"
        )
    return read_axes(activation, channel_dim, prefix_tokens)


def print_layers(classifier: Classifier) -> None:
    """Each layer that the model calls, its kind, and what it returns for one image."""
    calls = _called(classifier)
    rows = [("layer", "kind", "output"), *((name, call.kind, call.output) for name, call in calls.items())]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    # At once, so that a reader who looks at its head alone does not break the pipe.
    print("\n".join(f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {output}" for name, kind, output in rows))


@dataclass
class _Calls:
    """What one forward of a model has seen of a layer."""

    kind: str
    count: int = 0
    parts: list[Any] = field(default_factory=list)  # of its output, without the values of tensors

    @property
    def activation(self) -> Tensor | None:
        """What the layer returns, (1, ...), if a mask of channels can be laid over it."""
        import torch

        if self.count != 1 or len(self.parts) != 1 or not isinstance(self.parts[0], torch.Tensor):
            return None
        activation = self.parts[0]
        return activation if activation.dim() > 1 and activation.is_floating_point() else None

    @property
    def output(self) -> str:
        """Its shape for one image, or why it cannot be masked."""
        if self.count > 1:
            return f"called {self.count} times"
        if self.activation is None:
            return f"{len(self.parts)} parts" if len(self.parts) > 1 else "no tensor of channels"
        return " x ".join(map(str, self.activation.shape[1:]))

    def see(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """A forward hook."""
        import torch

        parts = output if type(output) in (tuple, list) else [output]
        self.count += 1
        self.parts = [
            torch.empty_like(part, device="meta") if isinstance(part, torch.Tensor) else part
            for part in parts
            if part is not None
        ]


def _called(classifier: Classifier) -> dict[str, _Calls]:
    """The model's layers that a forward calls, by their names, from a grey square of the weights' own size."""
    import torch

    calls = {name: _Calls(type(module).__name__) for name, module in classifier.model.named_modules() if name}
    grey = torch.full((1, 3, *classifier.crop_size), 0.5, device=classifier.device)
    try:
        with _watched(classifier.model, calls), torch.no_grad():
            classifier.model(classifier.normalised(grey))
    except RuntimeError as error:
        raise StopError(f"--model: {classifier.name} cannot run: {error}", FAILED) from error
    return {name: call for name, call in calls.items() if call.count}


@contextmanager
def _watched(model: nn.Module, calls: dict[str, _Calls]) -> Iterator[None]:
    handles = [model.get_submodule(name).register_forward_hook(call.see) for name, call in calls.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
