r"""The rest of a model behind one of its layers (section 5).

:class:`LayerTail` runs the model once, keeps the activation :math:`\Phi_l(x)` of the layer, and is from then on the
function :math:`\Phi_{l+}` from activations to outputs. Where torch.fx can split the model at the layer, what comes
before the layer is computed once. Elsewhere the whole model runs, and a hook replaces the layer's activation.

Shapes: N images; activations (N, ...); R copies of the images as rows (R N, ...), one copy after another.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import scatter

from captum_extremal._captum import repeat_arguments, run_forward
from captum_extremal._state import ForwardPrecision
from captum_extremal.hooks import on_input, on_output, uncompiled, unwrap
from captum_extremal.layers.activations import Tensors, capture, device_of, gathered, map_tensors, unpack
from captum_extremal.layers.split import CannotSplitError, split_model
from captum_extremal.objective import raise_hint_of_batch
from captum_extremal.outputs import at_place, place_of_scores


class LayerTail:
    """From activations of a layer to the model's output.

    Args:
        forward_func, layer: the model or a function that calls it, and one of its modules.
        inputs, additional_forward_args: of the model, as Captum takes them, each tensor with N rows.
        to_input: stand at the layer's input instead of its output.
        device_ids: of a ``DataParallel`` model, in the order in which it splits the batch.
        caller: the autocast state in which the activation is computed; None for the present one.

    Attributes:
        activation: the layer's tensors, each with N rows, detached.
        is_split: whether a call runs only what stands behind the layer, instead of the whole model.
        not_split: why the model was not split, in one sentence; None if it was.

    Raises:
        TypeError, ValueError: the layer is not called exactly once, or its output is not of tensors with N rows.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module,
        inputs: Tensors,
        additional_forward_args: object = None,
        to_input: bool = False,
        device_ids: list[int] | None = None,
        caller: ForwardPrecision | None = None,
    ) -> None:
        self._forward_func = uncompiled(forward_func)
        self._layer, self._to_input = layer, to_input
        self._hook = on_input if to_input else on_output
        self._device_ids = device_ids or list(getattr(forward_func, "device_ids", None) or [])
        self._inputs, self._arguments = inputs, additional_forward_args
        self._caller = caller or ForwardPrecision(inputs[0].device)
        with torch.no_grad(), self._caller.forward():
            try:
                seen = capture(layer, lambda: self._run(1), self._hook)
            except RuntimeError as error:
                raise_hint_of_batch(inputs[0], error)
                raise
            name = "the layer's input" if to_input else "the layer's output"
            tensors, self._pack = unpack(gathered(seen, self._device_ids), len(inputs[0]), name)
            self.activation = tuple(tensor.detach() for tensor in tensors)
            self._split, self.not_split = None, None
            try:
                self._split = self._checked_split()
            except CannotSplitError as reason:
                self.not_split = str(reason)
            except Exception as error:  # the model's own code may raise any while it is traced
                message = str(error).partition("\n")[0]
                self.not_split = f"torch.fx cannot split the model: {type(error).__name__}: {message}"
        self.is_split = self._split is not None

    def __call__(self, *activation: Tensor) -> Any:
        """The model's output for activations (R N, ...), copied because a layer behind may overwrite its input."""
        run = self._split or self._run_whole
        return run(self._pack(tuple(map(torch.clone, activation))), len(activation[0]) // len(self._inputs[0]))

    def _copies(self, repeats: int) -> tuple[Tensors, tuple[Any, ...]]:
        # New ones each time, because a model may overwrite its inputs in place.
        batch = tuple(x.repeat(repeats, *[1] * (x.dim() - 1)) for x in self._inputs)
        return batch, cast("tuple[Any, ...]", repeat_arguments(self._arguments, repeats) or ())

    def _run(self, repeats: int) -> Any:
        inputs, arguments = self._copies(repeats)
        return run_forward(self._forward_func, inputs, None, arguments)

    def _run_whole(self, value: Any, repeats: int) -> Any:
        pieces = scatter(value, self._device_ids) if len(self._device_ids) > 1 else (value,)
        on_device = {device_of(piece): piece for piece in pieces}
        with self._hook(self._layer, lambda value: on_device[device_of(value)]):
            return self._run(repeats)

    def _checked_split(self) -> Callable[[Any, int], Any]:
        """The split model, if it gives the model's output for half the activation.

        Values that reach the output past the graph, such as one that a hook stored, are constants in the graph, and
        would not be halved. For this check the model must be traced before it runs with half the activation.
        """
        model = unwrap(self._forward_func)
        if not isinstance(model, nn.Module):
            raise CannotSplitError("forward_func is not a module")
        if len(self._device_ids) > 1:
            raise CannotSplitError("the model runs on several devices")
        if model.training:
            raise CannotSplitError("the model is in train mode")
        split = split_model(model, self._layer, self._to_input, self._copies, self._caller)
        half = self._pack(tuple(0.5 * tensor for tensor in self.activation))
        expected = self._run_whole(map_tensors(torch.clone, half), 1)
        try:
            place = place_of_scores(expected, len(self._inputs[0]))
        except TypeError as error:
            raise CannotSplitError("the model's output is not one tensor of scores") from error
        if not _same(at_place(expected, place), at_place(split(half, 1), place)):
            raise CannotSplitError("the split model gives other outputs")
        return split


def _same(expected: Tensor, found: Any) -> bool:
    if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(expected.dtype, 1e-2)
    return bool(torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())))
