"""The result of a search: the masks with their scores, the threshold and a* (equation 3), maps, and files."""

from captum_extremal.results.extremal_masks import ExtremalMasks
from captum_extremal.results.optimal import Measured, assemble
from captum_extremal.results.threshold import ScoreThreshold, check_threshold, threshold_of

__all__ = [
    "ExtremalMasks",
    "Measured",
    "ScoreThreshold",
    "assemble",
    "check_threshold",
    "threshold_of",
]
