"""The command ``captum-extremal``: a demo, explanations of one's own photographs, and evaluations on data sets.

``captum-extremal demo`` needs no network and no files. ``captum-extremal explain PHOTO...`` finds the smallest part of
a photograph that is enough for any of torchvision's classifiers, ``captum-extremal channels PHOTO... --layer NAME``
the fewest channels of a layer. All write figures, the masks and a summary to a folder whose path they print.
``captum-extremal evaluate`` judges a method on a data set; ``captum-extremal compare`` puts evaluations side by side.

Exit status: 0; 1 where something could not be read (except images of a data set), fetched or written; 2 for a wrong
argument; 130 after Ctrl-C.

Shapes: T targets of one photograph, K classes or channels, H rows and W columns of pixels.
"""

from captum_extremal.cli.app import main

__all__ = ["main"]
