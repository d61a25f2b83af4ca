"""Excitation backprop: which neurons win when the target's excitation is followed down through the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn

from captum_extremal._captum import TargetType, TensorOrTupleOfTensorsGeneric, format_output, log_usage
from captum_extremal.attr._excitation import Excitation
from captum_extremal.session import open_session


class ExcitationBackprop(GradientAttribution):
    r"""Marginal winning probability (MWP): a winner-take-all walk down from the target.

    Each neuron hands its probability to those that excite it, in proportion to activation times positive weight:

    .. math::

        P(a_j) = \sum_i P(a_j | a_i) P(a_i), \qquad
        P(a_j | a_i) = \frac{a_j w_{ij}^+}{\sum_k a_k w_{ik}^+}

    The probabilities of a layer add up to 1 for each image, less what neurons held that only their bias excites. A sum
    such as a skip connection is a neuron with weights of 1; batch normalisation is folded into the layer under it;
    biases excite nobody. Where an input is negative (an image's values, or what goes into a skip connection before its
    ReLU), it excites through negative weights: what counts is the positive part of :math:`a_j w_{ij}`. Where one
    branch takes a value and another its negation, as batch normalisations with negative scales do that stand on
    both sides of a skip connection, what the two hand to it cancels.

    What stands above the classifier, the topmost layer with weights, is averaged into that layer's weights: it makes
    no difference whether a network pools before a linear classifier or after a convolutional one.

    It reads convolutions, linear layers, pooling, batch normalisation, activation functions, sums, concatenations and
    products with constants out of any code that PyTorch runs, modules or functions; anything else is refused.

    Reference: J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff, *Top-down Neural Attention by Excitation Backprop*,
    ECCV 2016.

    Args:
        forward_func: the model, or any function of its inputs.
        layer: where the walk ends, at this module's output. The method's maps come from a layer in the middle, such as
            the last but one pooling layer, are summed over the channels and resized to the image. None for the inputs.

    Raises:
        TypeError: ``layer`` is no module.

    Examples::

        >>> attribution = ExcitationBackprop(model, model.layer3).attribute(x, target=207)
        >>> maps = LayerAttribution.interpolate(attribution.sum(1, keepdim=True), x.shape[2:], "bilinear")
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module | None = None) -> None:
        GradientAttribution.__init__(self, forward_func)
        if layer is not None and not isinstance(layer, nn.Module):
            raise TypeError(f"layer must be a module of the model or None, got {layer!r}")
        self.layer = layer

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: a probability is no score that was multiplied by the input."""
        return False

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel peels off one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: TargetType = None,
        additional_forward_args: object = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """The probabilities of each neuron of the layer, or of each value of the inputs.

        Args:
            inputs: (N, C, *S) with one to three spatial dimensions of at least 8 positions each, or a tuple of such
                tensors.
            target: which output, in any of Captum's forms. Outputs with positions share the probability equally.
            additional_forward_args: passed on to the model.

        Returns:
            a tensor of the layer's shape, or like ``inputs`` (a tuple where they are one): same type and device,
            contiguous.

        Raises:
            TypeError, ValueError: an argument is bad (before the model runs), or the model's output or one of its
                operations cannot be explained, or the layer does not run once with one tensor (at its only run).
        """
        with open_session(self.forward_func, inputs, target, additional_forward_args) as session, torch.enable_grad():
            excitation = Excitation(
                self.forward_func, self.layer, session.inputs, session.target, session.arguments, session.caller
            )
            found = self._probabilities(excitation)
        if self.layer is None:
            maps: TensorOrTupleOfTensorsGeneric = session.like_inputs(found)
            return maps
        return cast(TensorOrTupleOfTensorsGeneric, format_output(False, (found[0].contiguous(),)))

    def _probabilities(self, excitation: Excitation) -> tuple[Tensor, ...]:
        return excitation.probabilities()
