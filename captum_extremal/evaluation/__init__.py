"""Evaluation of any method on any data set, in rows that a stopped run continues.

Methods and metrics have names (:func:`make_method`, :data:`METRICS`). :func:`evaluate` writes rows into a folder, alone
or as one of the processes of torchrun. :func:`read_rows` and :func:`tabulate` make tables of any number of runs, and
:func:`leads` compares one of them with the others pair by pair.
"""

from captum_extremal.evaluation.fully_convolutional import fully_convolutional
from captum_extremal.evaluation.methods import METHODS, find_method, last_spatial_layer, make_method, method_names
from captum_extremal.evaluation.metrics import METRICS
from captum_extremal.evaluation.repair import repair
from captum_extremal.evaluation.rows import Kept, Row, RowFile, Settings, read_rows
from captum_extremal.evaluation.runner import Evaluation, Processes, evaluate, processes_of
from captum_extremal.evaluation.tables import Line, Score, as_frame, leads, tabulate

__all__ = [
    "METHODS", "METRICS", "Evaluation", "Kept", "Line", "Processes", "Row", "RowFile", "Score", "Settings", "as_frame",
    "evaluate", "find_method", "fully_convolutional", "last_spatial_layer", "leads", "make_method", "method_names",
    "processes_of", "read_rows", "repair", "tabulate",
]  # fmt: skip
