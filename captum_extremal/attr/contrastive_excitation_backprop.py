"""Contrastive excitation backprop: the probabilities of the target minus those of its opposite."""

from __future__ import annotations

from torch import Tensor

from captum_extremal.attr._excitation import Excitation
from captum_extremal.attr.excitation_backprop import ExcitationBackprop


class ContrastiveExcitationBackprop(ExcitationBackprop):
    r"""Contrastive marginal winning probability (cMWP): :class:`ExcitationBackprop` that tells classes apart.

    The target's *dual* is a virtual output whose weights in the classifier (the topmost layer with weights) are
    negated. It detects what speaks against the target. Its probabilities are subtracted:

    .. math::

        C(a_j) = P(a_j) - \bar P(a_j)

    Both add up to 1, so the contrast adds up to 0. The attribution is signed, one value per neuron. The maps of the
    method are the positive part of its sum over the channels, ``attribution.sum(1, keepdim=True).clamp(min=0)``.

    Reference: J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff, *Top-down Neural Attention by Excitation Backprop*,
    ECCV 2016, section 3.3.

    Args:
        forward_func, layer: as :class:`ExcitationBackprop` takes them. The layer must be below the classifier.

    Raises:
        TypeError: ``layer`` is no module.
    """

    def _probabilities(self, excitation: Excitation) -> tuple[Tensor, ...]:
        pairs = zip(excitation.probabilities(), excitation.probabilities(dual=True))
        return tuple(target - dual for target, dual in pairs)
