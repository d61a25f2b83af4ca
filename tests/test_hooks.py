"""Hooks: what they see, what they replace, and that they are removed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal.hooks import (
    has_forward_hooks,
    noticing_calls,
    on_every_input,
    on_every_output,
    on_input,
    on_output,
    remove_copied,
    uncompiled,
    unwrap,
)


class Sum(nn.Module):
    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return x if other is None else x + other


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).eval()


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    yield
    torch.compiler.reset()


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def test_wrappers_are_looked_through(net: nn.Sequential) -> None:
    for wrapped in (net, nn.DataParallel(net), compiled(net), nn.DataParallel(compiled(nn.DataParallel(net)))):
        assert unwrap(wrapped) is net
    assert uncompiled(compiled(net)) is net
    parallel = nn.DataParallel(net)
    assert uncompiled(parallel) is parallel
    assert unwrap(net.forward) == net.forward


def test_outputs_and_inputs_are_seen_and_replaced(net: nn.Sequential) -> None:
    x, seen = torch.randn(4, 3), []
    inner = net[0](x)
    with on_output(net[0], seen.append), on_input(net[1], seen.append):
        assert torch.equal(net(x), net[2](torch.tanh(inner)))
    assert [torch.equal(value, inner) for value in seen] == [True, True]
    for replacing in (on_output(net[0], lambda value: 2 * value), on_input(net[1], lambda value: 2 * value)):
        with replacing:
            assert torch.equal(net(x), net[2](torch.tanh(2 * inner)))


def test_several_arguments_are_seen_and_replaced_as_a_tuple() -> None:
    x, module, seen = torch.randn(4, 3), Sum(), []
    with on_input(module, seen.append):
        module(x, 2 * x)
        module(x)
    assert isinstance(seen[0], tuple)
    assert seen[1] is x
    with on_input(module, lambda given: (given[0], given[0])):
        assert torch.equal(module(x, 5 * x), 2 * x)


def test_every_input_and_output_is_seen_with_its_name(net: nn.Sequential) -> None:
    x, given, returned = torch.randn(4, 3), [], []
    with (
        on_every_input(net.named_modules(), lambda name, value: given.append((name, value))),
        on_every_output(net.named_modules(), lambda name, value: returned.append((name, value))),
    ):
        output = net(x)
    assert [name for name, _ in given] == ["", "0", "1", "2"]
    assert [name for name, _ in returned] == ["0", "1", "2", ""]
    assert given[0][1] is x
    assert returned[-1][1] is output
    assert not any(map(has_forward_hooks, net.modules()))


@pytest.mark.parametrize("hook", [on_output, on_input, lambda module, see: on_every_output([("", module)], see)])
def test_hooks_are_removed_after_an_exception(
    hook: Callable[..., AbstractContextManager[None]], net: nn.Sequential
) -> None:
    def stop(*_: object) -> None:
        assert has_forward_hooks(net[1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), hook(net[1], stop):
        net(torch.randn(4, 3))
    assert not has_forward_hooks(net[1])


def test_forwards_of_other_threads_pass_hooks_by(net: nn.Sequential) -> None:
    x, seen, outputs = torch.randn(4, 3), [], []
    expected = net(x)
    other = threading.Thread(target=lambda: outputs.append(net(x)))
    with on_output(net[0], lambda value: 0 * value), on_input(net[1], seen.append), noticing_calls(net, seen.append):
        other.start()
        other.join()
        assert seen == []
        assert not torch.equal(net(x), expected)
    assert torch.equal(outputs[0], expected)
    assert [value for value in seen if isinstance(value, nn.Module)] == list(net)


def test_hooks_are_removed_from_a_copy_but_not_the_users(net: nn.Sequential) -> None:
    net[0].register_forward_hook(lambda module, arguments, output: None)
    with on_output(net[0], lambda value: None), on_input(net[1], lambda value: None):
        twin = copy.deepcopy(net)
        remove_copied(twin)
        assert has_forward_hooks(net[1])
    assert len(twin[0]._forward_hooks) == 1
    assert not has_forward_hooks(twin[1])


def test_compiled_parts_notice_hooks(net: nn.Sequential) -> None:
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("before PyTorch 2.6, compiled parts do not notice hooks")
    x, seen = torch.randn(4, 3), []
    fast = compiled(net)
    fast(x)
    with on_output(net[0], seen.append):
        fast(x)
    assert len(seen) == 1
    fast(x)
    assert len(seen) == 1
