"""Arguments and settings before the model runs; the contract test has what every method refuses."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest
import torch

from captum_extremal import ExtremalPerturbation, LayerExtremalPerturbation
from captum_extremal.areas import check_areas
from captum_extremal.arguments import arguments_of_rows, check_baselines, check_target, on_device, target_of_rows
from captum_extremal.settings import InputSearchSettings, LayerSearchSettings

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


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, None),
        (2, 2),
        ((1, 2), (1, 2)),
        ([3, 4, 5], [5, 3]),
        ([(0, 1), (2, 3), (4, 5)], [(4, 5), (0, 1)]),
        (np.array([3, 4, 5]), [5, 3]),
        (torch.tensor([3, 4, 5]), torch.tensor([5, 3])),
        (torch.tensor([3]), 3),
        (torch.tensor(3), 3),
    ],
    ids=str,
)
def test_targets_of_some_examples(target: object, expected: object) -> None:
    found = target_of_rows(check_target(target, 3, torch.device("cpu")), torch.tensor([2, 0]))
    assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected  # type: ignore[arg-type]


def test_target_of_one_example_is_a_list_of_one_or_a_number() -> None:
    rows = torch.tensor([0])
    assert target_of_rows([3], rows) == [3]
    assert target_of_rows(torch.tensor([3]), rows) == 3


def test_additional_arguments_of_some_examples() -> None:
    rows, by_example, shared = torch.tensor([2, 0]), torch.arange(6).view(3, 2), torch.tensor(7.0)
    assert arguments_of_rows(None, rows) is None
    assert torch.equal(arguments_of_rows(by_example, rows), by_example[[2, 0]])
    first, second, third, fourth = arguments_of_rows((by_example, shared, "text", [1, 2, 3]), rows)
    assert torch.equal(first, by_example[[2, 0]])
    assert second is shared
    assert (third, fourth) == ("text", [1, 2, 3])


@pytest.mark.parametrize(
    "areas", [np.array([0.1, 0.3]), torch.tensor([0.1, 0.3], dtype=torch.float64), [0.1, 0.3], (0.1, 0.3)], ids=type
)
def test_areas_come_in_any_sequence_of_numbers(areas: object) -> None:
    assert check_areas(areas, counts=True) == (0.1, 0.3)


def test_areas_that_can_be_read_once_are_refused() -> None:
    with pytest.raises(TypeError, match="areas must be a number or a sequence of numbers, got <generator"):
        check_areas((area / 10 for area in (1, 2, 3)), counts=False)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_a_baseline_is_of_real_numbers(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="baselines must be real numbers, got torch"):
        check_baselines((torch.zeros(2, 3, 4),), torch.zeros(1, 3, 4, dtype=dtype), False)


def test_a_number_is_one_area() -> None:
    assert check_areas(np.array(3), counts=True) == (3,)
    assert check_areas(np.float32(0.5), counts=True) == (0.5,)
    assert check_areas(1, counts=False) == (1.0,)
    assert isinstance(check_areas(1, counts=False)[0], float)


@pytest.mark.parametrize(
    ("method", "name", "nearest"),
    [
        (ExtremalPerturbation, "gamme", "game"),
        (ExtremalPerturbation, "reduse", "reduce"),
        (LayerExtremalPerturbation, "chanel_dim", "channel_dim"),
    ],
)
def test_unknown_settings_are_refused_with_the_nearest_name(method: type, name: str, nearest: str) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 2)).eval()
    arguments = (model,) if method is ExtremalPerturbation else (model, model[0])
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}': did you mean '{nearest}'"):
        method(*arguments).attribute(torch.rand(1, 3, 8, 8), target=0, **{name: 1})


def test_misplaced_arguments_are_refused_with_their_place() -> None:
    method = ExtremalPerturbation(lambda x: x.mean((2, 3)))
    with pytest.raises(TypeError, match=r"'steps': it belongs to the solver, as in solver=PathSolver\(steps=\.\.\.\)"):
        method.attribute(torch.rand(1, 3, 8, 8), target=0, steps=5)
    with pytest.raises(TypeError, match="got list: give the target by keyword"):
        method.attribute(torch.rand(1, 3, 8, 8), [0])


@pytest.mark.parametrize("method", [ExtremalPerturbation, LayerExtremalPerturbation])
def test_signatures_and_help_show_every_setting(method: type) -> None:
    settings = InputSearchSettings if method is ExtremalPerturbation else LayerSearchSettings
    for function in (method.attribute, method.extremal_masks):
        shown = inspect.signature(function).parameters
        for field in fields(settings):
            assert shown[field.name].default == field.default
            assert f"        {field.name}: " in (function.__doc__ or "")
