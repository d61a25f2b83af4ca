"""Small data sets with known answers, to try attribution methods on.

:class:`DigitScenes` draws pictures of a few handwritten digits on a cluttered background, with
the pixels of every digit known; :func:`digit_network` loads a small network that says which digits
a picture holds. Both ship with the package: nothing is downloaded.
"""

from captum_extremal.datasets.digits import DigitScene, DigitScenes, digit_network

__all__ = ["DigitScene", "DigitScenes", "digit_network"]
