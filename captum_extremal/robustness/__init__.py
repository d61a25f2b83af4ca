"""Robustness: do masks keep their value where the input is hidden in another way than the search hid it?

A mask is found with one perturbation. If its value falls with every other one, the mask says more about how the model
reacts to that perturbation than about the image. The same holds for its binary form: values between 0 and 1 show a
little of everything, and a binary mask shows its area and nothing else.

Shapes: N images, A areas, P ways of hiding, M other inputs; masks (N, A + 1, 1, *S), the last that of a*.
"""

from captum_extremal.robustness.measure import robustness_of
from captum_extremal.robustness.result import Robustness

__all__ = ["Robustness", "robustness_of"]
