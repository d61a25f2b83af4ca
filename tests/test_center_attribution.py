"""The centre baseline: one map, whatever the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from captum_extremal import CenterAttribution


def never(*_: Any) -> Tensor:
    raise RuntimeError("the model was called")


def at_maximum(found: Tensor) -> set[tuple[int, ...]]:
    return {tuple(index.tolist()) for index in (found == found.max()).nonzero()}


@pytest.mark.parametrize(
    ("shape", "centre"),
    [
        ((9,), {(4,)}),
        ((10,), {(4,), (5,)}),
        ((9, 13), {(4, 6)}),
        ((8, 11), {(3, 5), (4, 5)}),
        ((8, 10), {(3, 4), (3, 5), (4, 4), (4, 5)}),
        ((9, 11, 8), {(4, 5, 3), (4, 5, 4)}),
    ],
    ids=str,
)
def test_maximum_is_the_centre(shape: tuple[int, ...], centre: set[tuple[int, ...]]) -> None:
    x = torch.randn(2, 3, *shape)
    found = CenterAttribution(never).attribute(x, target=1)
    assert found.shape == x.shape
    assert float(found.min()) > 0
    assert float(found.max()) <= 1
    assert torch.equal(found, found[:1, :1].expand_as(found))
    assert at_maximum(found[0, 0]) == centre
    for axis in range(len(shape)):
        assert torch.equal(found[0, 0].flip(axis), found[0, 0])


def test_map_is_a_gaussian_of_a_quarter_of_each_side() -> None:
    found = CenterAttribution(never).attribute(torch.zeros(1, 1, 9, 21, dtype=torch.float64))[0, 0]
    row, column = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(21.0) - 10, indexing="ij")
    expected = torch.exp(-0.5 * ((row / (9 / 4)) ** 2 + (column / (21 / 4)) ** 2))
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_input_of_a_tuple_has_a_map_like_itself(dtype: torch.dtype) -> None:
    inputs = (torch.randn(2, 3, 9, 8).to(dtype), torch.randn(2, 1, 12).to(dtype))
    found = CenterAttribution(never).attribute(inputs, target=[0, 1], additional_forward_args=(torch.ones(2), "name"))
    assert isinstance(found, tuple)
    assert [(one.shape, one.dtype) for one in found] == [(x.shape, dtype) for x in inputs]
