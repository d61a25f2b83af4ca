"""Digit scenes (pictures whose digits are known to the pixel) and a network that reads them.

The digits are those of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak,
1998, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49), test part, CC BY 4.0.
"""

from captum_extremal.datasets.digits.network import DigitNetwork, digit_network
from captum_extremal.datasets.digits.scenes import MEAN, STD, DigitImages, DigitScene, DigitScenes, to_rgb

__all__ = ["MEAN", "STD", "DigitImages", "DigitNetwork", "DigitScene", "DigitScenes", "digit_network", "to_rgb"]
