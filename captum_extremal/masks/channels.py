"""Masks over the channels of a layer (section 5): one free value for each channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_extremal._checks import check_count
from captum_extremal.masks.family import BoundMask, Linearised


@dataclass(frozen=True)
class ChannelMask:
    """The family of masks over the K channels of a layer (section 5, equation 9): every channel has its own value.

    A mask's area is the fraction of the channels that it keeps.
    """

    def smallest_area(self, shape: tuple[int, ...]) -> float:
        """One channel, of inputs whose shape is (K,)."""
        return 1 / math.prod(shape)

    def bind(
        self, channels: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> BoundChannelMask:
        """Fit the family to a layer of K channels.

        Args:
            channels: K.
            device: where the masks are made.
            dtype: their floating type.

        Raises:
            TypeError, ValueError: ``channels`` is no integer of at least 1.
        """
        check_count("channels", channels)
        return BoundChannelMask(torch.full((channels,), 1 / channels, device=device, dtype=dtype))

    def bind_areas(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, areas: tuple[float, ...]
    ) -> list[BoundMask]:
        """:meth:`bind`, once for all areas."""
        return [self.bind(math.prod(shape), device, dtype)] * len(areas)


class BoundChannelMask:
    """Masks (B, K) of one layer's channels: the parameters themselves.

    Attributes:
        parameters: K.
        sigma: NaN, for there are no disks.
        largest_area: 1.
    """

    sigma = math.nan
    largest_area = 1.0

    def __init__(self, share: Tensor) -> None:
        self._share = share  # (K,): what each channel counts for in the area
        self.parameters = len(share)

    def __call__(self, p: Tensor) -> Tensor:
        """Masks (B, K) of parameters (B, K)."""
        return p

    def new_parameters(self, rows: int) -> Tensor:
        """Parameters (B, K) of zeros, in the masks' type and on their device."""
        return self._share.new_zeros(rows, self.parameters)

    def grid_values(self, p: Tensor) -> Tensor:
        """The parameters (B, K)."""
        return p

    def area(self, grid_values: Tensor) -> Tensor:
        """The mean (B,) of the masks."""
        return grid_values @ self._share

    def expand(self, grid_values: Tensor) -> Tensor:
        """The masks (B, K)."""
        return grid_values

    def linearised(self, p: Tensor) -> Linearised:
        """The parameters, their mean and its derivative."""
        grid_values = p.detach()
        return Linearised(
            grid_values,
            self.area(grid_values),
            self._share[None],
            lambda *by: tuple(one.expand_as(grid_values) for one in by),
        )

    def spread(self, gradient: Tensor) -> Tensor:
        """The gradient as it is: channels have no neighbours."""
        return gradient
