"""The smallest part of a photograph in which MTCNN finds the face: scikit-image's astronaut, 256 px.

    pip install --no-deps facenet-pytorch  # it asks for a torch of 2024; its networks run with later ones
    OMP_NUM_THREADS=1 python benchmarks/real_networks/faces.py [--out faces.png]

The three networks are put together as a detector, whose box for the clean photograph is the target. Boxes are proposed
without a gradient, as in other detectors, and the last network's score carries it.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

import torch
from facenet_pytorch import ONet, PNet, RNet
from skimage.data import astronaut
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms, roi_align

from captum_extremal import ExtremalPerturbation
from captum_extremal.objectives import BoxScore
from captum_extremal.visualization import show_mask

SIDE, SMALLEST, FACTOR = 256, 20.0, 0.709  # pixels, pixels of a face, between two sizes of the pyramid
PROPOSED, REFINED = 40, 8  # boxes that the second and the third network see


class FaceDetector(nn.Module):
    """MTCNN as a detector of torchvision's kind, without thresholds: images (N, 3, H, W) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = PNet(), RNet(), ONet()

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return [self._faces(image[None] * 2 - 1) for image in images]

    def _faces(self, image: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            boxes, chances = self._proposed(image)
            boxes = boxes[_best(boxes, chances, PROPOSED)]
            offsets, chances = self.second(_crops(image, boxes, 24))
            boxes = _square(_moved(boxes, offsets))
            boxes = boxes[_best(boxes, chances[:, 1], REFINED)]
        offsets, _, chances = self.third(_crops(image, boxes, 48))
        labels = torch.ones(len(boxes), dtype=torch.long, device=boxes.device)
        return {"boxes": _moved(boxes, offsets), "labels": labels, "scores": chances[:, 1]}

    def _proposed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (P, 4) at every place and size, and the first network's chances (P,) of a face in them."""
        boxes, chances, scale, side = [], [], 12 / SMALLEST, min(image.shape[2:])
        while side * scale >= 12:
            size = [int(length * scale + 1) for length in image.shape[2:]]
            offsets, found = self.first(F.interpolate(image, size, mode="area"))
            rows, columns = torch.meshgrid(*map(torch.arange, found.shape[2:]), indexing="ij")
            corner = 2 * torch.stack([columns, rows], dim=-1).flatten(0, 1).to(image)
            seen = torch.cat([corner, corner + 12], dim=1) / scale
            boxes.append(_square(_moved(seen, offsets[0].flatten(1).T)))
            chances.append(found[0, 1].flatten())
            scale *= FACTOR
        return torch.cat(boxes), torch.cat(chances)


def _best(boxes: Tensor, chances: Tensor, count: int) -> Tensor:
    return nms(boxes, chances, 0.7)[:count]


def _crops(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    return roi_align(image, [boxes], side, sampling_ratio=2, aligned=True)


def _moved(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Boxes (B, 4) whose sides are moved by offsets (B, 4), in widths and heights."""
    return boxes + offsets * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def _square(boxes: Tensor) -> Tensor:
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="faces.png")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    image = torch.from_numpy(astronaut()).permute(2, 0, 1)[None] / 255
    image = F.interpolate(image, [SIDE, SIDE], mode="area")
    score = BoxScore(FaceDetector().eval().requires_grad_(False))
    box = score.of_images(image)[0]
    started = perf_counter()
    found = ExtremalPerturbation(score).extremal_masks(
        image, areas="optimal", score_threshold=lambda clean, perturbed: 0.9 * clean, perturbations_per_eval=1
    )
    seconds = perf_counter() - started
    mask = found.optimal_mask()[0, 0]
    left, top, right, bottom = box[0].round().int().tolist()
    inside = mask[top:bottom, left:right].sum() / mask.sum()
    share = (right - left) * (bottom - top) / mask.numel()
    print(f"the face's box {left, top, right, bottom}, {share:.1%} of the photograph")
    print(
        f"a* {float(found.optimal_area):.3f}, score {float(found.optimal_score):.3f} of {float(found.clean_score):.3f}"
    )
    print(f"{float(inside):.1%} of the mask is inside the box; {seconds:.0f} seconds")
    show_mask(found, image, box=box[0]).savefig(out, dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
