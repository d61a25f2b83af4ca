"""Figures of what a search found, after those of the paper, on Captum's own and matplotlib.

Every function returns a :class:`matplotlib.figure.Figure` and shows nothing: a notebook displays a cell's last value,
``figure.savefig(path)`` writes it. pyplot knows nothing of them, so that none has to be closed.

Shapes: N images, A areas, K channels of a layer, C channels of an input, H rows and W columns of pixels. ``images`` is
what to draw, (N, 3, H, W) or (N, 1, H, W) in [0, 1]: the pictures as a person sees them, not as the model's
normalisation leaves them.
"""

from captum_extremal.visualization.attributions import compare
from captum_extremal.visualization.bars import show_bars
from captum_extremal.visualization.curves import show_curves
from captum_extremal.visualization.inputs import show_mask, show_order, show_sweep, show_targets
from captum_extremal.visualization.layers import show_channels, show_class_channel, show_inversions
from captum_extremal.visualization.other_masks import compare_masks
from captum_extremal.visualization.randomisation import show_randomisation

__all__ = [
    "compare",
    "compare_masks",
    "show_bars",
    "show_channels",
    "show_class_channel",
    "show_curves",
    "show_inversions",
    "show_mask",
    "show_order",
    "show_randomisation",
    "show_sweep",
    "show_targets",
]
