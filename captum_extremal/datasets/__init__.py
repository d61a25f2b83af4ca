"""Images with known answers, to try attribution methods on.

:class:`DigitScenes` draws pictures of a few handwritten digits on a cluttered background and knows the pixels of each;
:func:`digit_network` loads a small network that says which digits a picture shows. Both ship with the package.

For evaluations, :class:`VOCImages`, :class:`COCOImages`, :class:`FolderImages` and :class:`DigitImages` share one
interface, :class:`AnnotatedImages`: pairs of image and class, and each image with the pixels of its classes. Nothing is
downloaded, and files from elsewhere are read so that they can do no harm.
"""

from captum_extremal.datasets.annotated import AnnotatedImage, AnnotatedImages, UnreadableError
from captum_extremal.datasets.coco import COCOImages
from captum_extremal.datasets.digit_images import DigitImages
from captum_extremal.datasets.digits import DigitScene, DigitScenes, digit_network
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
