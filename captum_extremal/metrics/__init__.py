"""Metrics: numbers with which attribution methods can be compared, for any Captum attribution or plain function.

Localisation: :func:`pointing_game`, :func:`energy_pointing_game`. Faithfulness: :func:`insertion_deletion`,
:func:`monotone_evidence`. Sanity: :func:`weight_randomisation`. Over many images: :func:`summarise`,
:func:`bootstrap_interval`, which take numbers by :func:`outcomes_of`. For Quantus' metrics: :func:`quantus_explainer`.

All raise TypeError or ValueError where an argument breaks a rule of its description, before the model runs, and where
a map is not finite or the model's output cannot be explained.
"""

from .explanations import quantus_explainer
from .insertion_deletion import InsertionDeletion, insertion_deletion
from .monotone_evidence import MonotoneEvidence, monotone_evidence, top_masks
from .outcomes import Outcome, Summary, bootstrap_interval, outcomes_of, summarise
from .pointing_game import PointingOutcome, difficult_classes, energy_pointing_game, mask_from_boxes, pointing_game
from .weight_randomisation import WeightRandomisation, rank_correlation, ssim, weight_randomisation

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
