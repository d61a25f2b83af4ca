"""Random calls of the public methods, and calls that are stopped at every forward and backward pass.

``benchmarks/fuzz.py`` makes the same calls in great number.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_extremal import PathSolver

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import random_calls
from random_calls import Call, FaultError, Scene, ending_of, leaving_nothing, random_call

CALLING = [method for method in dict.fromkeys(random_calls.METHODS) if method.__name__ not in ("center", "pointing")]

OF_LAYERS = (random_calls.layer_attribute, random_calls.layer_masks, random_calls.channels_of_classes)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_a_call_ends_well_or_names_its_bad_argument(number: int) -> None:
    call = random_call(random.Random(number))
    note(f"python benchmarks/fuzz.py 1 --first {number}: {call!r}")
    ending_of(call)


def test_at_least_half_of_the_calls_are_valid() -> None:
    calls = [random_call(random.Random(number)) for number in range(40)]
    assert 20 <= sum(call.bad is None for call in calls) < 35


# Stopped at every pass


class Stopped(Exception):  # noqa: N818
    pass


class Passes:
    """Counts the forward and backward passes of a module, and raises an error at one of them."""

    def __init__(self, module: nn.Module) -> None:
        self.count = 0
        self.at = -1
        self.error: type[BaseException] = Stopped
        module.register_forward_hook(lambda *given: self._forward(*given))  # which a copy of the model shares

    def start(self, at: int = -1, error: type[BaseException] = Stopped) -> None:
        self.count, self.at, self.error = 0, at, error

    def _forward(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._see()
        if output.requires_grad:
            output.register_hook(lambda gradient: self._see())

    def _see(self) -> None:
        self.count += 1
        if self.count - 1 == self.at:
            raise self.error


def quick(method: Callable[[random.Random], Call]) -> Call:
    """A valid call of the method, of a short search and of one network that is the same on every machine."""
    call = next(call for call in map(method, map(random.Random, range(100))) if call.scene.network.kind == "plain")
    if "solver" in call.given:
        call.given |= {"solver": PathSolver(steps=2, refinement=1.0), "areas": 0.5}
    if method is random_calls.extremal_attribute:
        del call.given["areas"]  # to search for a*
        call.given["solver"] = PathSolver(steps=1, refinement=0.0)
    return call


@pytest.mark.parametrize("method", CALLING, ids=lambda method: method.__name__)
def test_a_call_that_is_stopped_at_any_pass_leaves_nothing_behind(method: Callable[[random.Random], Call]) -> None:
    call = quick(method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = call.scene.network
        passes = Passes(network.first if method is random_calls.inversion else network.drop)
        call.run(**call.given)
        count = passes.count
        assert count > 1
        for at in range(count):
            error = (Stopped, KeyboardInterrupt)[at % 2]
            with leaving_nothing(call.scene):
                passes.start(at, error)
                found, ending = outcome(call)
                passes.start()
            assert ending is error or (found is not None and method in OF_LAYERS and error is Stopped)
            if found is not None:  # a layer's model that cannot be split is run as a whole
                call.check(found)
        call.check(call.run(**call.given))


def outcome(call: Call) -> tuple[Any, type[BaseException] | None]:
    """What the call returns, or which of the two errors it ends with."""
    try:
        return call.run(**call.given), None
    except (Stopped, KeyboardInterrupt) as error:
        return None, type(error)


# The rules would notice


def spoiled_call(change: Callable[[Scene], Any]) -> Call:
    """A call of a method that does this to what it is given."""
    call = random_calls.center(random.Random(3))
    run = call.run

    def changing(**given: Any) -> Any:
        change(call.scene)
        return run(**given)

    call.run = changing
    return call


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scene: scene.model.register_forward_hook(lambda *given: None), "hooks"),
        (lambda scene: scene.model.train(not scene.model.training), "modes"),
        (lambda scene: scene.model.requires_grad_(not next(scene.model.parameters()).requires_grad), "flags"),
        (lambda scene: next(scene.model.parameters()).data.add_(1), "tensors of the model"),
        (lambda scene: scene.tensors[0].data.add_(1), "inputs"),
        (lambda scene: torch.rand(1), "random states"),
        (lambda scene: random.random(), "random states"),
        (lambda scene: setattr(scene.model, "own", 1), "attributes"),
        (lambda scene: warnings.warn("a warning", DeprecationWarning, stacklevel=1), "DeprecationWarning"),
    ],
)
def test_what_is_left_behind_is_noticed(change: Callable[[Scene], Any], message: str) -> None:
    with torch.random.fork_rng(devices=[]), pytest.raises(FaultError, match=message):
        ending_of(spoiled_call(change))


def test_wrong_endings_are_noticed() -> None:
    call = random_calls.center(random.Random(3))
    assert ending_of(call) == "result"
    call.bad = "target"
    with pytest.raises(FaultError, match="a bad target is taken"):
        ending_of(call)
    call.given["inputs"] = None
    with pytest.raises(FaultError, match="does not name target"):
        ending_of(call)
    call.bad = "inputs"
    assert ending_of(call) == "TypeError"
    call.bad = None
    with pytest.raises(FaultError, match="a valid call is refused"):
        ending_of(call)
