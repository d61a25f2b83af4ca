r"""The rest of a model behind one of its layers (section 5).

:class:`LayerTail` runs the model once, keeps the activation :math:`\Phi_l(x)` of the layer, and is from then on the
function :math:`\Phi_{l+}` from activations to outputs. Where torch.fx can split the model at the layer, what comes
before the layer is computed once. Elsewhere the whole model runs, and a hook replaces the layer's activation.

Shapes: N images; activations (N, ...); R copies of the images as rows (R N, ...), one copy after another.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import scatter

from captum_extremal._captum import repeat_arguments, run_forward
from captum_extremal._state import ForwardPrecision, trains
from captum_extremal.first_run import MODEL_ERRORS, first_run
from captum_extremal.hooks import on_input, on_output, uncompiled, unwrap
from captum_extremal.layers.activations import Parts, Tensors, capture, device_of, gathered, rebuilt
from captum_extremal.layers.split import CannotSplitError, split_model
from captum_extremal.outputs import at_place, place_of_scores


class LayerTail:
    """From activations of a layer to the model's output.

    Of a layer that returns several things, the floating tensors with a row for each image are its activations. The
    rest, such as the hidden state of a recurrent layer, stays as the layer computes it.

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
        TypeError, ValueError: the layer is not called exactly once, has no tensor with N rows, or only other parts of
            what it returns count for the model's output.
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
            value = self._captured(lambda: first_run(self._called, *self._copies(1)))
            name = "the layer's input" if to_input else "the layer's output"
            self._parts = Parts.of(value, len(inputs[0]), name, self._twice(value))
            self.activation = tuple(tensor.detach() for tensor in self._parts.take(value))
            # Its structure alone, which holds no tensors in memory.
            self._like = None if isinstance(value, Tensor) else rebuilt(value, [None] * len(value))
            self._check_others()
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
        return run(tuple(map(torch.clone, activation)), len(activation[0]) // len(self._inputs[0]))

    def _captured(self, run: Callable[[], object], stop: bool = False) -> Any:
        return gathered(capture(self._layer, run, self._hook, stop), self._device_ids)

    def _twice(self, value: Any) -> Any:
        """What the layer gives for two copies of the images, which tells rows of images from other axes.

        None where there is nothing to tell apart, or where the model takes one example at a time.
        """
        if isinstance(value, (tuple, list)) and len(value) > 1:
            with suppress(*MODEL_ERRORS):
                return self._captured(lambda: self._run(2), stop=True)
        return None

    def _copies(self, repeats: int) -> tuple[Tensors, tuple[Any, ...]]:
        # New ones each time, because a model may overwrite its inputs in place.
        batch = tuple(x.repeat(repeats, *[1] * (x.dim() - 1)) for x in self._inputs)
        return batch, cast("tuple[Any, ...]", repeat_arguments(self._arguments, repeats) or ())

    def _run(self, repeats: int) -> Any:
        return self._called(*self._copies(repeats))

    def _called(self, inputs: Tensors, arguments: Any) -> Any:
        return run_forward(self._forward_func, inputs, None, arguments)

    def _run_whole(self, tensors: Tensors, repeats: int) -> Any:
        pieces = scatter(tensors, self._device_ids) if len(self._device_ids) > 1 else (tensors,)
        on_device = {device_of(piece): piece for piece in pieces}
        with self._hook(self._layer, lambda value: self._parts.put(on_device[device_of(value)], value)):
            return self._run(repeats)

    def _check_others(self) -> None:
        """Raise ValueError where the model's output depends on parts of the layer's value that are not explained alone.

        Without such parts, an output that does not depend on the layer is a constant as far as it is concerned.
        """
        if not self._parts.others:
            return
        with torch.enable_grad():
            leaves = tuple(x.clone().requires_grad_() for x in self.activation)
            output = self._run_whole(tuple(map(torch.clone, leaves)), 1)
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return  # the objective says what is wrong with it
            known = torch.autograd.grad(output.sum(), leaves, allow_unused=True) if output.requires_grad else ()
        if all(gradient is None for gradient in known):
            raise ValueError(
                "the model's output must depend on the layer's tensors with a row for each image, at "
                f"{self._parts.places} of what it returns, but it does not; the layer's other parts are "
                f"{', '.join(self._parts.others)}: choose a layer behind it, with attribute_to_layer_input=True for "
                "what that one is given"
            )

    def _checked_split(self) -> Callable[[Tensors, int], Any]:
        """The split model, if it gives the model's output for half the activation.

        Values that reach the output past the graph, such as one that a hook stored, are constants in the graph, and
        would not be halved. For this check the model must be traced before it runs with half the activation.
        """
        model = unwrap(self._forward_func)
        if not isinstance(model, nn.Module):
            raise CannotSplitError("forward_func is not a module")
        if len(self._device_ids) > 1:
            raise CannotSplitError("the model runs on several devices")
        if any(map(trains, model.modules())):
            raise CannotSplitError("the model is in train mode")
        if self._parts.others:
            raise CannotSplitError("the layer has more than tensors with a row for each image")
        run = split_model(model, self._layer, self._to_input, self._copies, self._caller)

        def split(tensors: Tensors, repeats: int) -> Any:
            return run(self._parts.put(tensors, self._like), repeats)

        half = tuple(0.5 * tensor for tensor in self.activation)
        expected = self._run_whole(tuple(map(torch.clone, half)), 1)
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
