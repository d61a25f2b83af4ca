"""The metrics of an evaluation by name: what each records of a pair, and which of it the tables show."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from captum_extremal.evaluation.rows import Row, Values
from captum_extremal.metrics import Outcome, energy_pointing_game, insertion_deletion, pointing_game

TOLERANCE = 15.0
"""Pixels by which a map may miss the object in the pointing game (Zhang et al. 2018)."""

STEPS = 224
"""The number of steps of the curves of insertion and deletion (Petsiuk et al. 2018, at 224 px)."""


@dataclass(frozen=True)
class Explained:
    """A batch of pairs and their maps."""

    inputs: Tensor  # of the model, (N, C, H, W)
    targets: list[int]  # N indices of classes
    maps: Tensor  # (N, 1, H, W) or (N, C, H, W)
    regions: list[Tensor]  # N masks (H', W') bool of the class in the annotated image
    steps: int = STEPS  # of the curves of insertion and deletion


def _pointing(model: nn.Module, found: Explained) -> list[Values]:
    outcomes = pointing_game(found.maps, ground_truth=found.regions)
    # The distance, for any tolerance; None where a constant map points nowhere.
    return [{} if one.value is None else {"distance": one.distance} for one in outcomes]


def _energy(model: nn.Module, found: Explained) -> list[Values]:
    outcomes = energy_pointing_game(found.maps, ground_truth=found.regions)
    return [{} if one.value is None else {"energy": one.value} for one in outcomes]


def _insertion_deletion(model: nn.Module, found: Explained) -> list[Values]:
    curves = insertion_deletion(model, found.maps, found.inputs, found.targets, steps=found.steps)
    areas = zip(curves.insertion_auc.tolist(), curves.deletion_auc.tolist())
    return [{"insertion": inserted, "deletion": deleted} for inserted, deleted in areas]


_Metric = Callable[[nn.Module, Explained], list[Values]]
METRICS: dict[str, _Metric] = {"pointing": _pointing, "energy": _energy, "insertion_deletion": _insertion_deletion}
"""From the model and a batch to what is recorded of each pair: nothing where the class is not annotated."""

COLUMNS = {"pointing": "distance", "energy": "energy", "insertion": "insertion", "deletion": "deletion"}
"""The columns of the tables, and the recorded value of each."""


def outcome(row: Row, column: str, tolerance: float) -> Outcome:
    """A row's outcome in a column; for pointing a hit where the distance is at most the tolerance, in pixels.

    Pointing and energy are averaged over the classes (section 4.2), insertion and deletion over the pairs, as their
    authors do: all have the label "all".
    """
    value = row.values.get(COLUMNS[column])
    if column == "pointing" and COLUMNS[column] in row.values:
        value = float(value is not None and value <= tolerance)
    label = row.label if column in ("pointing", "energy") else "all"
    return Outcome(image=row.image, label=label, value=value, difficult=row.difficult)
