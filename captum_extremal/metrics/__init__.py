"""Metrics: numbers with which attribution methods can be compared, for any Captum attribution or plain function.

Localisation: :func:`pointing_game`, :func:`energy_pointing_game`. Faithfulness: :func:`insertion_deletion`,
:func:`monotone_evidence`. Sanity: :func:`weight_randomisation`. Over many images: :func:`summarise`,
:func:`bootstrap_interval`, which take numbers by :func:`outcomes_of`. For Quantus' metrics: :func:`quantus_explainer`.
"""

from captum_extremal.metrics.ground_truth import difficult_classes, mask_from_boxes
from captum_extremal.metrics.insertion_deletion import InsertionDeletion, insertion_deletion
from captum_extremal.metrics.monotone_evidence import MonotoneEvidence, monotone_evidence, top_masks
from captum_extremal.metrics.outcomes import Outcome, outcomes_of
from captum_extremal.metrics.pointing_game import PointingOutcome, energy_pointing_game, pointing_game
from captum_extremal.metrics.quantus_bridge import quantus_explainer
from captum_extremal.metrics.similarity import rank_correlation, ssim
from captum_extremal.metrics.summary import Summary, bootstrap_interval, summarise
from captum_extremal.metrics.weight_randomisation import WeightRandomisation, weight_randomisation

__all__ = [
    "InsertionDeletion",
    "MonotoneEvidence",
    "Outcome",
    "PointingOutcome",
    "Summary",
    "WeightRandomisation",
    "bootstrap_interval",
    "difficult_classes",
    "energy_pointing_game",
    "insertion_deletion",
    "mask_from_boxes",
    "monotone_evidence",
    "outcomes_of",
    "pointing_game",
    "quantus_explainer",
    "rank_correlation",
    "ssim",
    "summarise",
    "top_masks",
    "weight_randomisation",
]
