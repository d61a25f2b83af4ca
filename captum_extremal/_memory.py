"""How many examples fit into a device's memory."""

import torch

_SHARE = 0.8  # of the free memory that is used: what is needed differs a little from pass to pass


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def held(device: torch.device) -> int | None:
    """The bytes that tensors hold on a CUDA device; None elsewhere."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def fitting_rows(device: torch.device, before: int | None, rows: int) -> int | None:
    """How many examples fit after a pass of some, which began with so many bytes held; None where nobody can tell.

    The peak may be of something earlier, so that fewer examples are sent than could be. It is not reset, because it
    belongs to the caller.
    """
    if before is None:
        return None
    needed = (torch.cuda.max_memory_allocated(device) - before) / rows
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(rows, int(_SHARE * (torch.cuda.mem_get_info(device)[0] + cached) / max(needed, 1)))
