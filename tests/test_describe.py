"""Descriptions of settings: equal for equal settings in every process, different for different ones."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from captum_extremal import PathSolver, PenaltySolver, SmoothMask
from captum_extremal._describe import checksum, describe
from captum_extremal.evaluation import Settings
from captum_extremal.search.games import Game


@dataclass(frozen=True)
class Holder:
    """A setting that compares by identity and whose printed form says nothing of its parts."""

    parts: Any = None
    name: str = field(default="", repr=False)

    def __repr__(self) -> str:
        return "Holder()"


def half(x: float, by: float = 0.5) -> float:
    return by * x


DIFFERENT: list[Any] = [
    None, True, 1, 1.0, "1", math.inf, [1], [1.0], ["1"], {"a": 1}, {"a": 2}, {"b": 1},
    torch.tensor([1.0]), torch.tensor([[1.0]]), torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0]),
    np.array([1.0]), np.array([1]), torch.float32, torch.device("cpu"), "torch.float32", "cpu",
    PathSolver(), PathSolver(steps=4), PathSolver(precision=torch.bfloat16), PenaltySolver(), SmoothMask(),
    Game(1.0, 0.0), Game(1.0, -1.0), Holder(), Holder(name="x"), Holder(torch.zeros(2)), Holder(torch.ones(2)),
    Holder([Holder()]), Holder(half), half, math.sqrt, math.exp, Holder, PathSolver, PathSolver.__init__,
]  # fmt: skip


def test_different_settings_have_different_descriptions() -> None:
    texts = [json.dumps(describe("setting", value)) for value in DIFFERENT]
    assert len(set(texts)) == len(DIFFERENT)
    assert len({Settings({"setting": value}).key for value in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PathSolver(steps=7), replace(PathSolver(), steps=7)),
        (Holder({"a": 1, "b": [torch.ones(3)]}), Holder({"b": [torch.ones(3)], "a": 1})),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), [1, 2]),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (torch.eye(3), torch.eye(3).T),
    ],
)
def test_equal_settings_have_one_description(one: Any, other: Any) -> None:
    assert Settings({"setting": one, "name": 1}).key == Settings({"name": 1, "setting": other}).key


def test_a_description_is_its_own_description() -> None:
    for value in DIFFERENT:
        found = describe("setting", value)
        again = describe("setting", json.loads(json.dumps(found)))
        assert again == found


def test_another_process_has_the_same_keys() -> None:
    """With other addresses and other hashes."""
    code = """
        import torch
        from captum_extremal import PathSolver
        from captum_extremal.evaluation import Settings, make_method
        parts = {"solver": PathSolver(steps=3), "tensor": torch.arange(5.0)}
        parts |= {"function": make_method, "class": PathSolver}
        print(Settings(parts).key)
    """
    code = "\n".join(line.strip() for line in code.strip().splitlines())
    keys = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        keys.add(done.stdout)
    assert len(keys) == 1
    assert len(keys.pop().strip()) == 16


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (object(), "setting"),
        ([1, {"inner": object()}], r"setting\[1\]\['inner'\]"),
        (Holder(itertools.count()), r"setting\.parts"),
        (lambda x: x, "setting"),
        ([half, functools.partial(half, by=1)], r"setting\[1\]"),
        (Game(1.0, 0.0).value, "setting"),  # bound to an object that its name says nothing of
        ({1: 2}, "setting"),
        (np.array([object()]), "setting"),
    ],
)
def test_a_state_that_cannot_be_told_is_refused(value: Any, what: str) -> None:
    with pytest.raises(TypeError, match=rf"{what} must be told apart .* got .* of type \w+: use a frozen dataclass"):
        describe("setting", value)


def test_checksums_are_of_values_of_any_type_and_layout() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert checksum([x.T]) == checksum([x.T.contiguous()]) != checksum([x])
    assert checksum([x.bfloat16()]) != checksum([x.half()])
    assert checksum([torch.tensor(True), torch.empty(0)]) == checksum([torch.tensor(True)])
