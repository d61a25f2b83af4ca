"""The command ``captum-extremal``: a demo, explanations of one's own photographs, and evaluations on data sets.

Exit status: 0; 1 where something could not be read (except images of a data set), fetched or written; 2 for a wrong
argument; 130 after Ctrl-C; 141 where nobody reads what is printed.

Shapes: T targets of one photograph, K classes or channels, H rows and W columns of pixels.
"""

from captum_extremal.cli.app import main

__all__ = ["main"]
