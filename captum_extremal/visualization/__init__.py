"""Figures of a search's result, after those of the paper, with Captum's own figures and matplotlib.

Every function returns a :class:`matplotlib.figure.Figure` and shows nothing: after ``%matplotlib inline`` a notebook
displays the last value of a cell, and ``figure.savefig(path)`` writes a file. pyplot does not know the figures, so none
has to be closed. Text is drawn literally: ``$`` in the name of a class does not begin a formula.

The figures of one result are called alike: ``show_mask(found, images, index)``, and everything else by its name;
:func:`show_groups` has no images. Those that compare have what is compared before the index:
``compare(found, images, attributions, index)``.

- ``fig``, of the figures with several panels: a :class:`~matplotlib.figure.Figure` of yours to draw them in, or a
  :class:`~matplotlib.figure.SubFigure`, which keeps its size: the panels are arranged to fit, and the whole figure is
  returned. It gets matplotlib's constrained layout if it has no layout.
- ``ax``, of the figures with one panel (:func:`show_bars`, :func:`show_curves`, :func:`show_groups`,
  :func:`show_order`): your :class:`~matplotlib.axes.Axes`. A colour bar or a picture beside it takes its room from it.
  The layout of its figure stays yours: ``layout="constrained"`` makes room for long names, and for a legend beneath the
  curves.

Fonts, lines and colours, which the colour-blind can tell apart, stand in one style sheet, and matplotlib's settings are
never changed. ``matplotlib.style.use("captum_extremal.visualization.captum_extremal")`` draws other figures alike.

Shapes: N images, A areas, K channels of a layer, C channels of an input, H rows and W columns of pixels. Where a
function does not say more of them, its arguments are

- ``found``: masks of images, (N, A, 1, H, W), or of the positions of a layer, (N, A, 1, h, w), which are resized to the
  images by bilinear interpolation, as Captum's ``LayerAttribution.interpolate`` does.
- ``images``: for display, (N, 3, H, W) or (N, 1, H, W) in [0, 1], without the model's normalisation.
- ``index``: which of the N images.
- ``input_index``: which of the inputs, where they were a tuple.
- ``title``: a line above the figure, such as the target's name.

All raise TypeError or ValueError for an argument of the wrong type, shape or values, and IndexError for no such image.
"""

from captum_extremal.visualization.bars import show_bars
from captum_extremal.visualization.comparisons import compare, compare_masks
from captum_extremal.visualization.curves import show_curves
from captum_extremal.visualization.groups import show_groups
from captum_extremal.visualization.layers import show_channels, show_class_channel, show_inversions
from captum_extremal.visualization.masks import show_explanations, show_mask, show_targets
from captum_extremal.visualization.order import show_order
from captum_extremal.visualization.other_inputs import show_signal, show_volume
from captum_extremal.visualization.randomisation import show_randomisation
from captum_extremal.visualization.robustness import show_robustness
from captum_extremal.visualization.sweep import show_sweep

__all__ = [
    "compare",
    "compare_masks",
    "show_bars",
    "show_channels",
    "show_class_channel",
    "show_curves",
    "show_explanations",
    "show_groups",
    "show_inversions",
    "show_mask",
    "show_order",
    "show_randomisation",
    "show_robustness",
    "show_signal",
    "show_sweep",
    "show_targets",
    "show_volume",
]
