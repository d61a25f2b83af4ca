"""Masks over the channels of a layer (section 5, equation 9): one free value per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal.masks.axes import Axes
from captum_extremal.masks.binary import binarised
from captum_extremal.masks.family import BoundMask, Layout, Linearised

_ROUNDED = 1e-6  # of a channel: what rounding may add to a number of channels
_COUNTS = (1, 5, 10, 20, 25, 35, 40, 50, 60, 70, 80, 90, 100)  # section 5; then in steps of 50


def default_counts(most: int) -> tuple[int, ...]:
    """The paper's numbers of channels up to a number, and this number."""
    return (*(count for count in (*_COUNTS, *range(150, most, 50)) if count < most), most)


@dataclass(frozen=True)
class ChannelMask:
    """The family of masks over the K channels of a layer. A mask's area is the fraction of the channels it keeps."""

    def layout(self, axes: Axes) -> Layout:
        """One value per channel. The default areas are the paper's numbers of channels up to K."""
        k = axes.channels
        return Layout((k,), (k,), "channels", default_counts(k), view=axes.over_channels)

    def smallest_area(self, shape: tuple[int, ...]) -> float:
        """One channel, for the shape (K,)."""
        return 1 / math.prod(shape)

    def bind(
        self, channels: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> BoundChannelMask:
        """Fit the family to a layer of K channels, for masks on this device and of this floating type.

        Raises:
            TypeError, ValueError: K is not an integer of at least 1.
        """
        check_count("channels", channels)
        return BoundChannelMask(torch.full((1, channels), 1 / channels, device=device, dtype=dtype), equal=True)

    def bind_areas(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, areas: tuple[float, ...]
    ) -> list[BoundMask]:
        """:meth:`bind`, once for all areas."""
        return [self.bind(math.prod(shape), device, dtype)] * len(areas)


class BoundChannelMask:
    """Masks (R N, K) of channels, or of groups. Parameters, grid values and masks are the same.

    Args:
        weight: (1, K), what each channel counts for in the area, or (N, K), where this differs between images.
        equal: whether all channels count the same, so that any k of them make the area k / K.

    Attributes:
        parameters: K.
        sigma: NaN, because there are no disks.
        largest_area: 1.
    """

    sigma = math.nan
    largest_area = 1.0

    def __init__(self, weight: Tensor, equal: bool = False) -> None:
        self._weight = weight
        self._equal = equal
        self.parameters = weight.shape[1]

    def of_images(self, rows: Tensor) -> BoundChannelMask:
        """The masks of some images, rows (n,)."""
        return self if len(self._weight) == 1 else BoundChannelMask(self._weight[rows])

    def __call__(self, p: Tensor) -> Tensor:
        """Masks (B, K) of parameters (B, K)."""
        return p

    grid_values = expand = by_grid = __call__

    def smooth_gradient(self, gradient: Tensor, area: float | Tensor, share: float) -> Tensor:
        """The gradient itself: channels have no neighbours."""
        return gradient

    def binary(self, p: Tensor, area: float) -> Tensor | None:
        """The channels of the highest parameters; None where they differ in weight or the area is no number of them."""
        count = area * self.parameters
        if not self._equal or abs(count - round(count)) > _ROUNDED:
            return None
        return binarised(p[:, None], p.new_full((1,), area))[:, 0].to(p)

    def new_parameters(self, rows: int) -> Tensor:
        """Parameters (B, K) of zeros, in the masks' type and on their device."""
        return self._weight.new_zeros(rows, self.parameters)

    def area(self, grid_values: Tensor) -> Tensor:
        """The mean (B,) of the masks, each channel with its weight."""
        if len(self._weight) == 1:
            return grid_values @ self._weight[0]
        return (grid_values * self._by_row(grid_values)).sum(1)

    def linearised(self, p: Tensor) -> Linearised:
        """The parameters, their mean and its derivative."""
        p = p.detach()
        return Linearised(p, self.area(p), self._by_row(p), lambda *by: tuple(one.expand_as(p) for one in by))

    def _by_row(self, rows: Tensor) -> Tensor:
        """The weights (1, K), or those (B, K) of rows (B, K)."""
        images = len(self._weight)
        return self._weight if images == 1 else self._weight.repeat(len(rows) // images, 1)
