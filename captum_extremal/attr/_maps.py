"""From one map an input to what Captum expects back."""

from __future__ import annotations

from torch import Tensor

from captum_extremal._captum import TensorOrTupleOfTensorsGeneric, format_output


def like_inputs(maps: tuple[Tensor, ...], inputs: TensorOrTupleOfTensorsGeneric) -> TensorOrTupleOfTensorsGeneric:
    """Maps (N, 1, *S) or (N, C, *S), one an input tensor, in the shape and type of the inputs; a tuple where they are.

    A map of one channel is repeated over the channels, each with memory of its own: Captum's metrics view them.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    found = tuple(one.to(x.dtype).expand_as(x).contiguous() for one, x in zip(maps, tensors))
    given: TensorOrTupleOfTensorsGeneric = format_output(isinstance(inputs, tuple), found)
    return given
