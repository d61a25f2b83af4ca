"""Scores for models whose output is no vector of classes: detectors, segmenters, image-text models.

Each wraps a model and is then explained in its place, also by other methods of Captum::

    >>> from captum_extremal.objectives import BoxScore
    >>> ExtremalPerturbation(BoxScore(detector)).attribute(images)

A score of one's own that needs something of each image derives from :class:`PerImage`.

Shapes: N images (N, C, H, W), T texts, D features, K classes.
"""

from captum_extremal.objectives.box_score import BoxScore
from captum_extremal.objectives.per_image import PerImage
from captum_extremal.objectives.region_score import RegionScore
from captum_extremal.objectives.similarity import Similarity

__all__ = ["BoxScore", "PerImage", "RegionScore", "Similarity"]
