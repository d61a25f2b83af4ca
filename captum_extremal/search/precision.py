"""In which floating type the model runs during a search."""

import torch

AUTO = "auto"
_LOWER = (torch.bfloat16, torch.float16)  # what autocast takes on every device
_FAST_ON_CPU = "AVX512"  # of PyTorch's names of CPU capabilities, the first with fast bfloat16
_FAST_ON_CUDA = (8, 0)  # the first compute capability with bfloat16


def check_precision(precision: object) -> None:
    """Raise TypeError or ValueError unless ``precision`` is None, a type that autocast knows, or "auto"."""
    if precision is None or precision == AUTO or precision in _LOWER:
        return
    floating = isinstance(precision, torch.dtype) and precision.is_floating_point
    kind = ValueError if isinstance(precision, str) or floating else TypeError
    raise kind(f"precision must be torch.bfloat16, torch.float16, {AUTO!r} or None, got {precision!r}")


def chosen_precision(precision: torch.dtype | str | None, device: torch.device) -> torch.dtype | None:
    """The type to autocast the model's forward to on a device; None leaves the caller's.

    "auto" is bfloat16 where the machine is fast at it. Elsewhere bfloat16 is emulated and takes twice the time of
    float32.
    """
    if not isinstance(precision, str):
        return precision
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= _FAST_ON_CUDA
    else:
        fast = device.type == "cpu" and torch.backends.cpu.get_cpu_capability().startswith(_FAST_ON_CPU)
    return torch.bfloat16 if fast else None
