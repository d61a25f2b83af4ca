"""What the session does with arguments before the model runs; the contract test has the refusals of every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_extremal.arguments import check_target, on_device

META = torch.device("meta")  # a device that every machine has, other than the CPU


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_tensors_of_targets_are_moved_to_the_inputs_device(dtype: torch.dtype) -> None:
    target = check_target(torch.tensor([1, 2], dtype=dtype), 2, META)
    assert isinstance(target, torch.Tensor)
    assert (target.device.type, target.dtype) == ("meta", torch.int64)


def test_other_targets_have_no_device() -> None:
    assert check_target(np.array([1, 2], dtype=np.int16), 2, META) == [1, 2]
    assert check_target([(0, np.int64(1)), (2, 3)], 2, META) == [(0, 1), (2, 3)]


def test_extra_tensors_are_moved_to_the_inputs_device() -> None:
    tensor, pair, text = on_device((torch.ones(2), (torch.ones(()), 3), "text"), META)
    assert tensor.device.type == pair[0].device.type == "meta"
    assert (pair[1], text) == (3, "text")
