"""How well a detector still finds an object: the similarity of D-RISE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from captum_extremal._checks import check_callable
from captum_extremal.objectives.per_image import PerImage, as_labels, rows_for

_KEYS = ("boxes", "labels", "scores")


class BoxScore(PerImage):
    r"""How similar the most similar detection in an image is to a target.

    The target is a box b and a class l, the detections j are boxes b_j with classes l_j and scores s_j:

    .. math::

        \max_{j : l_j = l} IoU(b, b_j) \, s_j

    It is the similarity of D-RISE, the product of the overlap, the cosine of the class distributions and the
    objectness. A detector such as torchvision's returns one class and one score for each detection. So distributions
    are one-hot, their cosine is 1 or 0, and the score, which holds the objectness, stands in its place.

    The score is differentiable in the detections' scores, and in their boxes where these carry gradients. Without a
    detection of the class it is 0, with a gradient of 0. Detections that the model drops score nothing: a low
    threshold of the model (``box_score_thresh`` or ``score_thresh`` of torchvision's) leaves a gradient to follow. The
    target itself scores its full s, so that a box that moves by a pixel is not enough for the clean score: ask for a
    part of it, as in the example.

    Reference: V. Petsiuk et al., *Black-box Explanation of Object Detectors via Saliency Maps*, CVPR 2021, section 3.

    Args:
        model: a detector in evaluation mode, from images (N, C, H, W) to a list of N dictionaries with "boxes" (D, 4)
            as x0, y0, x1, y1, "labels" (D,) and "scores" (D,).
        boxes: (N, 4), or (1, 4) for all images, in pixels. None for the detection of the highest score in each clean
            image, of the labels where they are given.
        labels: (N,) or one class for all images. Needed where boxes are given.

    Raises:
        TypeError, ValueError: an argument is bad; when called, the model's output is no list of detections, carries no
            gradient, or has no detection in a clean image whose top detection is wanted.

    Examples::

        >>> score = BoxScore(detector)
        >>> most = lambda clean, perturbed: 0.9 * clean
        >>> found = ExtremalPerturbation(score).extremal_masks(images, score_threshold=most)
        >>> boxes, labels = score.of_images(images)  # the targets
    """

    def __init__(
        self, model: Callable[..., Any], boxes: Tensor | None = None, labels: Tensor | int | None = None
    ) -> None:
        check_callable("model", model, "images")
        if boxes is not None and labels is None:
            raise ValueError("labels must be given with boxes: the class of each of them")
        self.model = model
        self.boxes = None if boxes is None else _checked_boxes(boxes)
        self.labels = None if labels is None else as_labels("labels", labels)

    def of_images(self, images: Tensor) -> tuple[Tensor, ...]:
        """The targets of clean images (N, C, H, W): boxes (N, 4) and labels (N,)."""
        labels = None if self.labels is None else rows_for("labels", self.labels, images)
        if self.boxes is not None and labels is not None:
            return rows_for("boxes", self.boxes, images), labels
        with torch.no_grad():
            found = self._detections(images)
        wanted = [None] * len(images) if labels is None else labels.tolist()
        tops = [_top(k, detections, label) for k, (detections, label) in enumerate(zip(found, wanted))]
        return torch.stack([box for box, _ in tops]), torch.stack([label for _, label in tops])

    def __call__(self, images: Tensor, boxes: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """The similarities (N,) of images (N, C, H, W) to targets, boxes (N, 4) and labels (N,); None for the own."""
        if boxes is None or labels is None:
            if self.boxes is None:
                raise ValueError(
                    "boxes must be given, because images that may be perturbed do not tell the top detection of the "
                    "clean ones: give additional_forward_args=score.of_images(images)"
                )
            boxes, labels = self.of_images(images)
        found = self._detections(images)
        return torch.stack([_similarity(*row) for row in zip(found, images, boxes, labels)])

    def _detections(self, images: Tensor) -> list[Detections]:
        output = self.model(images)
        if not isinstance(output, (list, tuple)) or not all(isinstance(one, Mapping) for one in output):
            raise TypeError(f"model must return a list of dictionaries, one an image, got {type(output).__name__}")
        if len(output) != len(images):
            raise ValueError(f"model must return one dictionary for each of {len(images)} images, got {len(output)}")
        return [_checked(one) for one in output]


class Detections(NamedTuple):
    """What a detector found in one image: boxes (D, 4), labels (D,), scores (D,)."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def _checked(one: Mapping[str, Any]) -> Detections:
    parts = [one.get(key) for key in _KEYS]
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else None for part in parts]
    count = (shapes[2] or (0,))[0]
    if shapes != [(count, 4), (count,), (count,)]:
        got = ", ".join(f"{key} {shape}" for key, shape in zip(_KEYS, shapes))
        raise ValueError(f"model must return boxes (D, 4), labels (D,) and scores (D,) of each image, got {got}")
    return Detections(*parts)  # type: ignore[arg-type]


def _checked_boxes(boxes: Any) -> Tensor:
    found = torch.as_tensor(boxes).detach().to(torch.float32)
    if found.dim() != 2 or found.shape[1] != 4 or not len(found):
        raise ValueError(f"boxes must be (N, 4), got shape {tuple(found.shape)}")
    if not bool((found.isfinite().all(1) & (found[:, :2] < found[:, 2:]).all(1)).all()):
        raise ValueError(f"boxes must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {found.tolist()}")
    return found


def _top(index: int, found: Detections, label: int | None) -> tuple[Tensor, Tensor]:
    """The box (4,) and the label () of the highest score in an image, among those of a label if there is one."""
    places = torch.arange(len(found.scores), device=found.scores.device)
    if label is not None:
        places = places[found.labels == label]
    if not len(places):
        what = "" if label is None else f" of label {label}"
        raise ValueError(f"boxes must be given for image {index}, in which the model has no detection{what}")
    best = places[found.scores[places].argmax()]
    return found.boxes[best].detach(), found.labels[best].long()


def _similarity(found: Detections, image: Tensor, box: Tensor, label: Tensor) -> Tensor:
    """The similarity () of the detections of one image to its target."""
    same = found.labels == label
    if not bool(same.any()):
        # A zero that depends on the image, and on a layer behind which the image is not seen any more.
        return 0 * (image.sum().to(found.scores) + found.scores.sum())
    if torch.is_grad_enabled() and image.requires_grad and not found.scores.requires_grad:
        raise ValueError(
            "model must be differentiable by its inputs, but its scores carry no gradient: look for detach(), "
            "no_grad(), argmax or numpy inside it"
        )
    overlaps = box_iou(found.boxes[same], box[None].to(found.boxes))[:, 0]
    return (overlaps * found.scores[same]).amax()
