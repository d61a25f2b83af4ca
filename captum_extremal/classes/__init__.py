"""Class channels (section 5.2): which channels of a layer belong to a class, and what removing them costs."""

from captum_extremal.classes.channels import ClassChannels, RemovalDrop
from captum_extremal.classes.means import class_channels

__all__ = ["ClassChannels", "RemovalDrop", "class_channels"]
