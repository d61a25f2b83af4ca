"""A stand-in for a GPU: tensors that say they are on ``standin:0``, hold values on the CPU, and do not mix with it.

It finds tensors that were left on the wrong device, and it counts the reads of a value by the host, each of which
would make a real device wait. It says nothing about a device's numbers or speed.

PyTorch lets Python provide a backend for its spare device type. A :class:`StandIn` is such a backend's only device,
there while the context lasts.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "standin"
DEVICE = torch.device("cpu")  # replaced below, once the name is known to PyTorch

_BETWEEN_DEVICES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_INDICES = {torch.int64, torch.int32, torch.bool, torch.uint8}
_READS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
}


class _Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]
    def is_available(self) -> bool:
        return StandIn.current is not None  # or DataParallel would take it for a GPU

    def device_count(self) -> int:
        return int(self.is_available())

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: Any = 0) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = 0) -> None:
        torch.set_rng_state(state)


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)


class DeviceTensor(torch.Tensor):
    """A tensor on the stand-in, whose values are ``held``."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        made.held = held
        return made

    def __init__(self, held: torch.Tensor) -> None:
        """Nothing is left to do."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.held!r})"

    def tolist(self) -> Any:  # PyTorch refuses it for subclasses
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert StandIn.current is not None, "a tensor of the stand-in outlived it"
        return StandIn.current.dispatched(func, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """The device, for as long as the context lasts.

    Attributes:
        reads: how often the host read a value, by the line of the package that did. Indexing by booleans reads how
            many there are.
        sent: how often it sent one there, which makes a real device wait as well.
    """

    current: StandIn | None = None

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def __enter__(self) -> StandIn:
        StandIn.current = self
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) asks the device too
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch._C._set_only_lift_cpu_tensors(False)
        StandIn.current = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.dispatched(func, args, kwargs or {})

    def dispatched(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of an operation, on the device where a real one would leave it."""
        name, leaves = func._schema.name, tree_leaves((args, kwargs))
        ours = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, DeviceTensor)}
        if ours:
            _refuse_mixed(name, args, leaves)
        copies_out = name in _BETWEEN_DEVICES and ours and _goes_to_cpu(name, args, kwargs)
        if ours and (name in _READS or copies_out or (name in _INDEXING and _by_booleans(args[1]))):
            self.reads[_caller()] += 1
        if name in _BETWEEN_DEVICES and _comes_from_cpu(name, args, kwargs):
            self.sent[_caller()] += 1
        result = func(*tree_map(_to_held, args), **_on_cpu(kwargs))
        asked = kwargs.get("device")
        stays = torch.device(asked).type == NAME if asked is not None else bool(ours) and not copies_out
        if name == "aten::copy_" and not isinstance(args[0], DeviceTensor):
            return args[0]
        if not stays:
            return result

        def placed(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or isinstance(leaf, DeviceTensor):
                return leaf
            return ours[id(leaf)] if func._schema.is_mutable and id(leaf) in ours else DeviceTensor(leaf)

        return tree_map(placed, result)


def _refuse_mixed(name: str, args: Any, leaves: list[Any]) -> None:
    """Raise what a real device raises when a tensor of the CPU, other than a number, meets one of its own."""
    if name in _BETWEEN_DEVICES:
        return
    others = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, DeviceTensor)]
    mixed = [leaf for leaf in others if leaf.dim()]
    if name in _INDEXING:
        if not isinstance(args[0], DeviceTensor):
            raise RuntimeError(f"{name}: a tensor on the cpu is indexed by one on {DEVICE}")
        values = args[2] if len(args) > 2 else None
        mixed = [leaf for leaf in mixed if leaf.dtype not in _INDICES or leaf is values]
    if mixed:
        shapes = [tuple(leaf.shape) for leaf in mixed]
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {DEVICE} and cpu {shapes}")


def _goes_to_cpu(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name == "aten::copy_":
        return not isinstance(args[0], DeviceTensor)
    asked = kwargs.get("device")
    return asked is not None and torch.device(asked).type == "cpu"


def _comes_from_cpu(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name == "aten::copy_":
        return isinstance(args[0], DeviceTensor) and not isinstance(args[1], DeviceTensor)
    asked = kwargs.get("device")
    return asked is not None and torch.device(asked).type == NAME and not isinstance(args[0], DeviceTensor)


def _by_booleans(indices: Any) -> bool:
    return any(isinstance(index, DeviceTensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _to_held(leaf: Any) -> Any:
    if isinstance(leaf, DeviceTensor):
        return leaf.held
    return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == NAME else leaf


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments for the CPU, which holds the values."""
    moved: dict[str, Any] = tree_map(_to_held, kwargs)
    if moved.get("device") is not None:
        moved["device"] = torch.device("cpu")
    if moved.get("pin_memory"):
        moved["pin_memory"] = False
    return moved


def _caller() -> str:
    """The innermost line of the package on the stack."""
    for frame in reversed(traceback.extract_stack()):
        if "captum_extremal/" in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.split('captum_extremal/')[-1]}:{frame.lineno}"
    return "elsewhere"


def to_device(value: Any) -> Any:
    """Tensors, and the parameters and buffers of a module, moved to the stand-in; other values as they are."""
    if isinstance(value, torch.nn.Module):
        for module in value.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    held = DeviceTensor(parameter.detach().clone())
                    module._parameters[name] = torch.nn.Parameter(held, requires_grad=parameter.requires_grad)
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = DeviceTensor(buffer.detach().clone())
        return value
    return tree_map(lambda leaf: DeviceTensor(leaf.detach().clone()) if isinstance(leaf, torch.Tensor) else leaf, value)
