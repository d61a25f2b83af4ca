"""Which axes of an activation are channels and positions, and equation 9's product, against loops over values."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from captum_extremal.masks import Axes, read_axes
from captum_extremal.perturbations.product import masked

# An activation's shape with N, its settings, K, and S.
READINGS = {
    "vector": ((2, 5), {}, 5, ()),
    "signal": ((2, 5, 7), {"channel_dim": 1}, 5, (7,)),
    "image": ((2, 5, 4, 3), {}, 5, (4, 3)),
    "volume": ((2, 5, 4, 3, 2), {}, 5, (4, 3, 2)),
    "channels last": ((2, 4, 3, 5), {"channel_dim": 3}, 5, (4, 3)),
    "channels last from behind": ((2, 4, 3, 5), {"channel_dim": -1}, 5, (4, 3)),
    "channels between": ((2, 4, 5, 3), {"channel_dim": 2}, 5, (4, 3)),
    "tokens": ((2, 7, 5), {"channel_dim": 2}, 5, (7,)),
    "class token": ((2, 7, 5), {"channel_dim": -1, "prefix_tokens": 1}, 5, (6,)),
    "tokens of an image": ((2, 7, 5), {"channel_dim": -1, "prefix_tokens": 1, "token_grid": (2, 3)}, 5, (2, 3)),
    "grid without prefix": ((2, 5, 6), {"channel_dim": 1, "token_grid": (3, 2)}, 5, (3, 2)),
    "prefix behind the channels": ((2, 5, 8), {"channel_dim": 1, "prefix_tokens": 2, "token_grid": (3, 2)}, 5, (3, 2)),
    "tokens of a volume": ((2, 9, 5), {"channel_dim": -1, "prefix_tokens": 1, "token_grid": (2, 2, 2)}, 5, (2, 2, 2)),
}


@pytest.fixture(params=READINGS)
def reading(request: pytest.FixtureRequest) -> tuple[Tensor, Axes, dict[str, Any], int, tuple[int, ...]]:
    shape, settings, channels, grid = READINGS[request.param]
    activation = torch.randn(shape, dtype=torch.float64)
    return activation, read_axes(activation, **settings), settings, channels, grid


def literal(activation: Tensor, masks: Tensor, settings: dict[str, Any], over_channels: bool) -> Tensor:
    """Each value of R copies of the activation times the mask's value of its channel, or of its position."""
    images, copies = len(activation), len(masks) // len(activation)
    axis = settings.get("channel_dim", 1) % activation.dim()
    prefix = settings.get("prefix_tokens", 0)
    rows = torch.empty(copies * images, *activation.shape[1:], dtype=activation.dtype)
    for row in range(copies * images):
        for at in itertools.product(*map(range, activation.shape[1:])):
            value = activation[(row % images, *at)]
            position = [i for k, i in enumerate(at, start=1) if k != axis]
            if over_channels:
                value = value * masks[row, at[axis - 1]]
            elif not prefix or position[0] >= prefix:
                number = 0  # of the position, in the order of memory
                sizes = [size for k, size in enumerate(activation.shape) if k not in (0, axis)]
                for i, size in zip(position, sizes):
                    number = number * size + i
                value = value * masks[row].flatten()[number - prefix]
            rows[(row, *at)] = value
    return rows


def test_axes_are_read(reading: Any) -> None:
    _, axes, _, channels, grid = reading
    assert axes.channels == channels
    assert axes.grid == grid


@pytest.mark.parametrize("copies", [1, 3])
def test_channel_masks_multiply_their_channels(reading: Any, copies: int) -> None:
    activation, axes, settings, channels, _ = reading
    masks = torch.rand(copies * len(activation), channels, dtype=torch.float64)
    found = masked(activation)(axes.over_channels(masks))
    assert torch.equal(found, literal(activation, masks, settings, True))


@pytest.mark.parametrize("copies", [1, 3])
def test_masks_of_positions_multiply_all_channels_there_but_no_prefix(reading: Any, copies: int) -> None:
    activation, axes, settings, _, grid = reading
    masks = torch.rand(copies * len(activation), 1, *grid, dtype=torch.float64)
    found = masked(activation)(axes.over_positions(masks))
    assert torch.equal(found, literal(activation, masks, settings, False))


@pytest.mark.parametrize("kind", ["channels", "positions"])
def test_mask_of_ones_leaves_the_bits(reading: Any, kind: str) -> None:
    activation, axes, _, channels, grid = reading
    shape = (channels,) if kind == "channels" else (1, *grid)
    view = axes.over_channels if kind == "channels" else axes.over_positions
    ones = torch.ones(len(activation), *shape, dtype=torch.float64)
    assert torch.equal(masked(activation)(view(ones)), activation)


@pytest.mark.parametrize("kind", ["channels", "positions"])
def test_product_is_differentiable_by_the_mask(kind: str) -> None:
    activation = torch.randn(2, 7, 5, dtype=torch.float64)
    axes = read_axes(activation, -1, 1, (2, 3))
    shape, view = ((5,), axes.over_channels) if kind == "channels" else ((1, 2, 3), axes.over_positions)
    masks = torch.rand(4, *shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: masked(activation)(view(m)), (masks,))


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"channel_dim": 0}, ValueError, "channel_dim"),
        ({"channel_dim": 3}, ValueError, "channel_dim"),
        ({"channel_dim": -3}, ValueError, "channel_dim"),
        ({"channel_dim": 1.0}, TypeError, "channel_dim"),
        ({"channel_dim": True}, TypeError, "channel_dim"),
        ({"prefix_tokens": -1}, ValueError, "prefix_tokens"),
        ({"prefix_tokens": 0.5}, TypeError, "prefix_tokens"),
        ({"prefix_tokens": 7}, ValueError, "prefix_tokens 7"),
        ({"token_grid": [7]}, TypeError, "token_grid"),
        ({"token_grid": 7}, TypeError, "token_grid"),
        ({"token_grid": (3.5, 2)}, TypeError, "token_grid"),
        ({"token_grid": (0, 7)}, ValueError, "token_grid"),
        ({"token_grid": (2, 3)}, ValueError, "token_grid"),
        ({"token_grid": ()}, ValueError, "token_grid"),
        ({"prefix_tokens": 1, "token_grid": (7,)}, ValueError, "token_grid"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        read_axes(torch.zeros(2, 5, 7), **{"channel_dim": 1} | settings)


def test_channels_of_three_dimensions_are_not_guessed() -> None:
    with pytest.raises(ValueError, match=r"channel_dim must be given .* -1 for tokens .* \(2, 5, 7\)"):
        read_axes(torch.zeros(2, 5, 7))


def test_tokens_need_one_axis_of_positions() -> None:
    for shape in ((2, 5), (2, 5, 3, 4)):
        with pytest.raises(ValueError, match="must account for all tokens"):
            read_axes(torch.zeros(shape), prefix_tokens=1)
