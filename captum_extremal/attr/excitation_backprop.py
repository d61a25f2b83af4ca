"""Excitation backprop: the probability of each neuron to win when the target's excitation is followed down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn

from captum_extremal._captum import TargetType, TensorOrTupleOfTensorsGeneric, log_usage
from captum_extremal.attr._base import BaseAttribution
from captum_extremal.attr._excitation import Excitation
from captum_extremal.session import open_session


class ExcitationBackprop(BaseAttribution, GradientAttribution):
    r"""Marginal winning probability (MWP) of each neuron or input value, propagated down from the target.

    Each neuron divides its probability among the neurons below in proportion to activation times positive weight:

    .. math::

        P(a_j) = \sum_i P(a_j | a_i) P(a_i), \qquad
        P(a_j | a_i) = \frac{a_j w_{ij}^+}{\sum_k a_k w_{ik}^+}

    This is the z+ rule of layer-wise relevance propagation. The probabilities of a layer add up to 1 for each image,
    minus those of neurons that only their bias excites. A sum, such as a skip connection, is a neuron with weights of
    1; batch normalisation is folded into the layer below; biases excite no neuron. Negative inputs excite through
    negative weights: what counts is the positive part of :math:`a_j w_{ij}`. Where one branch uses a value and another
    its negation, what they propagate to it cancels. What is above the classifier, the topmost layer with weights, is
    averaged into that layer's weights.

    Convolutions, linear layers, pooling, batch normalisation, activation functions, sums, concatenations and products
    with constants are followed through any code that PyTorch runs, modules or functions. Anything else is refused.

    Reference: J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff, *Top-down Neural Attention by Excitation Backprop*,
    ECCV 2016.

    Args:
        forward_func: the model, or any function of its inputs.
        layer: the module whose output is explained; None for the inputs. The maps of the method come from a layer in
            the middle, such as the last pooling layer but one, summed over the channels and resized to the image.

    Examples::

        >>> attribution = ExcitationBackprop(model, model.layer3).attribute(x, target=207)
        >>> maps = LayerAttribution.interpolate(attribution.sum(1, keepdim=True), x.shape[2:], "bilinear")
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module | None = None) -> None:
        GradientAttribution.__init__(self, forward_func)
        if layer is not None and not isinstance(layer, nn.Module):
            raise TypeError(f"layer must be a module of the model or None, got {layer!r}")
        self.layer = layer

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel removes one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: TargetType = None,
        additional_forward_args: object = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """The probability of each neuron of the layer, or of each value of the inputs.

        Args:
            inputs: (N, C, *S) with one to three spatial dimensions of at least 8 positions each, or a tuple of these.
            target: which output, in any of Captum's forms. Outputs with positions share the probability equally.
            additional_forward_args: passed on to the model.

        Returns:
            a tensor of the layer's shape, or maps like ``inputs``: same type and device, contiguous.

        Raises:
            TypeError, ValueError: an argument is bad (before the model runs), the model's output or one of its
                operations cannot be explained, or the layer does not run once with one tensor.
        """
        with open_session(self.forward_func, inputs, target, additional_forward_args) as session:
            found = self._probabilities(Excitation(session, self.layer))
        attributions = session.like_inputs(found) if self.layer is None else found[0].contiguous()
        return cast(TensorOrTupleOfTensorsGeneric, attributions)

    def _probabilities(self, excitation: Excitation) -> tuple[Tensor, ...]:
        return excitation.probabilities()


class ContrastiveExcitationBackprop(ExcitationBackprop):
    r"""Contrastive marginal winning probability (cMWP): :class:`ExcitationBackprop` that tells classes apart.

    The target's *dual* is a virtual output whose weights in the classifier are negated. It detects what speaks against
    the target. Its probabilities are subtracted: :math:`C(a_j) = P(a_j) - \bar P(a_j)` (section 3.3 of the paper).

    Both add up to 1, so the contrast adds up to 0. The attribution is signed, one value per neuron. The maps of the
    method are the positive part of its sum over the channels, ``attribution.sum(1, keepdim=True).clamp(min=0)``.

    Args:
        forward_func, layer: as :class:`ExcitationBackprop` takes them. The layer must be below the classifier.
    """

    def _probabilities(self, excitation: Excitation) -> tuple[Tensor, ...]:
        pairs = zip(excitation.probabilities(), excitation.probabilities(dual=True))
        return tuple(target - dual for target, dual in pairs)
