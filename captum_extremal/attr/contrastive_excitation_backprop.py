"""Contrastive excitation backprop: what wins for the target, less what wins for its opposite."""

from __future__ import annotations

from torch import Tensor

from captum_extremal.attr._excitation import Excitation
from captum_extremal.attr.excitation_backprop import ExcitationBackprop


class ContrastiveExcitationBackprop(ExcitationBackprop):
    r"""Contrastive marginal winning probability (cMWP): :class:`ExcitationBackprop` made to tell classes apart.

    The target's *dual* is a virtual output whose weights in the classifier (the topmost layer with weights) are
    negated: a detector of everything that speaks against the target. Its probabilities are subtracted:

    .. math::

        C(a_j) = P(a_j) - \bar P(a_j)

    Both add up to 1, so that the contrast adds up to 0. It is returned with its signs, one value a neuron. The
    method's maps are the positive part of its sum over the channels, ``attribution.sum(1, keepdim=True).clamp(min=0)``.

    Reference: J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff, *Top-down Neural Attention by Excitation Backprop*,
    ECCV 2016, section 3.3.

    Args:
        forward_func: the model, or any function of its inputs.
        layer: where the walk ends, as in :class:`ExcitationBackprop`; it stands below the classifier.

    Raises:
        TypeError: ``layer`` is no module.
    """

    def _probabilities(self, excitation: Excitation) -> tuple[Tensor, ...]:
        pairs = zip(excitation.probabilities(), excitation.probabilities(dual=True))
        return tuple(target - dual for target, dual in pairs)
