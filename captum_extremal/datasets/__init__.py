"""Images with known answers, to try attribution methods on.

:class:`DigitScenes` and :func:`digit_network`, a small network that reads them, ship with the package. For evaluations,
:class:`VOCImages`, :class:`COCOImages`, :class:`FolderImages` and :class:`DigitImages` share one interface,
:class:`AnnotatedImages`. Nothing is downloaded, and files from elsewhere are read so that they can do no harm.
"""

from captum_extremal.datasets.annotated import AnnotatedImage, AnnotatedImages, UnreadableError
from captum_extremal.datasets.coco import COCOImages
from captum_extremal.datasets.digits import DigitImages, DigitScene, DigitScenes, digit_network
from captum_extremal.datasets.voc import FolderImages, VOCImages

__all__ = [
    "AnnotatedImage",
    "AnnotatedImages",
    "COCOImages",
    "DigitImages",
    "DigitScene",
    "DigitScenes",
    "FolderImages",
    "UnreadableError",
    "VOCImages",
    "digit_network",
]
