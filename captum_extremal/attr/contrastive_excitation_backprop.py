"""Contrastive excitation backprop: what speaks for the target more than against it."""

from torch import Tensor

from captum_extremal.attr.excitation_backprop import Excitation, ExcitationBackprop


class ContrastiveExcitationBackprop(ExcitationBackprop):
    r"""Contrastive marginal winning probability (cMWP): :class:`ExcitationBackprop` that tells classes apart.

    The target's *dual* is a virtual output whose weights in the classifier are negated. It detects what speaks against
    the target. Its probabilities are subtracted: :math:`C(a_j) = P(a_j) - \bar P(a_j)` (section 3.3 of the paper).

    Both add up to 1, so the contrast adds up to 0. The maps of the method are the positive part of its sum over the
    channels, ``attribution.sum(1, keepdim=True).clamp(min=0)``.

    Args:
        forward_func, layer: as :class:`ExcitationBackprop` takes them. The layer must be below the classifier.
    """

    def _probabilities(self, excitation: Excitation) -> tuple[Tensor, ...]:
        pairs = zip(excitation.probabilities(), excitation.probabilities(dual=True))
        return tuple(target - dual for target, dual in pairs)
