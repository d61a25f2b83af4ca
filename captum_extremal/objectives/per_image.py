"""What a score needs of each image beside the image itself, such as a box or a region."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class PerImage(ABC):
    """A score that needs something of its own for each image.

    A search runs many copies of each image, and not always those of all images. So what belongs to an image travels
    with it, as further arguments of the call. The methods of this package ask for it once, with the clean images,
    unless they are given ``additional_forward_args``.
    """

    @abstractmethod
    def of_images(self, images: Tensor) -> tuple[Tensor, ...]:
        """What belongs to each of the clean images (N, C, H, W): tensors (N, ...), the arguments of a call after them.

        It can also be given to any method of Captum, as ``additional_forward_args``.
        """

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The scores (N,) of images (N, C, H, W), clean or perturbed, and of what belongs to each of them."""


def rows_for(name: str, own: Tensor, images: Tensor) -> Tensor:
    """A tensor (N, ...), or (1, ...) for all images alike, with one row for each of N images, on their device.

    Raises:
        ValueError: it has another number of rows.
    """
    if len(own) not in (1, len(images)):
        raise ValueError(
            f"{name} must have one row, or one for each of {len(images)} images, got {len(own)}: where a method of "
            "Captum makes copies of the images, give it additional_forward_args=score.of_images(images)"
        )
    return own.to(images.device).expand(len(images), *own.shape[1:])


def as_labels(name: str, labels: Any) -> Tensor:
    """A class, or one for each of N images, as integers (1,) or (N,).

    Raises:
        TypeError, ValueError: they are no integers, or of another shape.
    """
    found = torch.as_tensor(labels)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {found.dtype}")
    if found.dim() > 1 or not found.numel():
        raise ValueError(f"{name} must be one class, or one for each of N images (N,), got shape {tuple(found.shape)}")
    return found.reshape(-1).long()
