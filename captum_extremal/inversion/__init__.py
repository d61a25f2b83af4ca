"""Feature inversion (equation 12) and its prior of natural images."""

from captum_extremal.inversion.feature_inversion import FeatureInversion, InvertedFeatures
from captum_extremal.inversion.image_prior import ImagePrior

__all__ = ["FeatureInversion", "ImagePrior", "InvertedFeatures"]
