"""Class channels (section 5.2): which channels of a layer belong to a class, and what removing them costs."""

from captum_extremal.classes.means import ClassChannels, class_channels
from captum_extremal.classes.removal import RemovalDrop

__all__ = ["ClassChannels", "RemovalDrop", "class_channels"]
