"""Scores of detectors, segmenters and image-text models: against literal formulas, and where the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from torchvision.models import detection, segmentation

from captum_extremal import RISE, ExtremalPerturbation, LayerExtremalPerturbation, PathSolver
from captum_extremal.objectives import BoxScore, PerImage, RegionScore, Similarity
from squares import SIDE, SQUARE, find_squares

# The score of a box that is found exactly is at its maximum, and untrained detectors find nothing.
pytestmark = pytest.mark.filterwarnings("ignore:forward_func has no gradient:UserWarning")

CORNERS = [[(3, 4), (18, 17)], [(20, 2), (4, 19)], [(2, 12), (17, 5)]]
"""For each image x and y of a bright red square and of a dimmer one, which are of class 1; there is no other class."""


def boxes_at(which: int) -> Tensor:
    return torch.tensor([[x, y, x + SQUARE, y + SQUARE] for x, y in (image[which] for image in CORNERS)]).float()


def squares() -> Tensor:
    """(3, 3, 32, 32): two squares an image, red in channel 0, the second one a bit green too."""
    images = torch.zeros(len(CORNERS), 3, SIDE, SIDE)
    for image, corners in zip(images, CORNERS):
        for (x, y), red in zip(corners, (1.0, 0.9)):
            image[0, y : y + SQUARE, x : x + SQUARE] = red
    return images


def shares_within(masks: Tensor, boxes: Tensor) -> list[float]:
    """The share of each mask (N, 1, H, W) that lies in its box (N, 4)."""
    return [
        float(mask[0, y0:y1, x0:x1].sum() / mask.sum()) for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist())
    ]


def settings(**more: Any) -> dict[str, Any]:
    return {"solver": PathSolver(steps=12), "perturbation": "fade"} | more


# Boxes


def constant_detector(*parts: tuple[Tensor, Tensor, Tensor]) -> Callable[[Tensor], list[dict[str, Tensor]]]:
    return lambda images: [dict(zip(("boxes", "labels", "scores"), part)) for part in parts]


def random_detections(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    corners = 20 * torch.rand(count, 2, dtype=dtype)
    boxes = torch.cat([corners, corners + 2 + 10 * torch.rand(count, 2, dtype=dtype)], dim=1)
    return boxes, torch.randint(1, 4, (count,)), torch.rand(count, dtype=dtype)


def similarity_by_hand(found: tuple[Tensor, Tensor, Tensor], box: list[float], label: int) -> float:
    best = 0.0
    for (x0, y0, x1, y1), other, score in zip(*(part.tolist() for part in found)):
        width, height = min(x1, box[2]) - max(x0, box[0]), min(y1, box[3]) - max(y0, box[1])
        common = max(width, 0) * max(height, 0)
        union = (x1 - x0) * (y1 - y0) + (box[2] - box[0]) * (box[3] - box[1]) - common
        best = max(best, common / union * score * (other == label))
    return best


def test_box_score_is_the_similarity_of_drise() -> None:
    found = [random_detections(30), random_detections(7), random_detections(0)]
    boxes, labels = [[3.0, 4.0, 12.0, 18.0], [5.0, 5.0, 20.0, 9.0], [1.0, 1.0, 9.0, 9.0]], [1, 3, 2]
    scores = BoxScore(constant_detector(*found), torch.tensor(boxes), torch.tensor(labels))(torch.rand(3, 3, 32, 32))
    expected = [similarity_by_hand(*one) for one in zip(found, boxes, labels)]
    assert expected[0] > 0
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)


def test_box_score_is_differentiable_in_scores_and_boxes() -> None:
    boxes, labels, scores = random_detections(6)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def moved(images: Tensor) -> list[dict[str, Tensor]]:
        by = images.mean()
        return [{"boxes": boxes + by * torch.arange(4), "labels": labels, "scores": scores * by}]

    score = BoxScore(moved, torch.tensor([[4.0, 4.0, 20.0, 20.0]]), labels[:1])
    assert float(score(x).detach()) > 0
    assert torch.autograd.gradcheck(score, (x,))


@pytest.mark.parametrize("found", [random_detections(0), (torch.zeros(2, 4), torch.full((2,), 9), torch.rand(2))])
def test_without_a_detection_of_the_class_the_score_is_a_zero_with_a_graph(found: tuple[Tensor, ...]) -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    score = BoxScore(constant_detector(found), torch.tensor([[1.0, 1.0, 5.0, 5.0]]), 1)(x)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert score.tolist() == [0.0]
    assert torch.equal(gradient, torch.zeros_like(x))


def test_the_default_target_is_the_top_detection_of_the_clean_image() -> None:
    boxes, labels = BoxScore(find_squares).of_images(squares())
    assert torch.equal(boxes, boxes_at(0))
    assert labels.tolist() == [1, 1, 1]
    found = (
        torch.tensor([[0.0, 0, 5, 5], [1, 1, 6, 6], [2, 2, 7, 7]]),
        torch.tensor([1, 2, 2]),
        torch.rand(3).sort()[0],
    )
    score = BoxScore(constant_detector(found, found), labels=torch.tensor([1, 2]))
    boxes, labels = score.of_images(torch.rand(2, 3, 8, 8))
    assert (boxes[:, 0].tolist(), labels.tolist()) == ([0.0, 2.0], [1, 2])


@pytest.mark.parametrize("which", [0, 1])
def test_the_mask_of_a_box_lies_on_its_square(which: int) -> None:
    images = squares()
    score = BoxScore(find_squares, *([boxes_at(1), 1] if which else []))
    masks = ExtremalPerturbation(score).attribute(
        images, **settings(score_threshold=lambda clean, perturbed: 0.9 * clean)
    )[:, :1]
    assert all(0.02 < float(mask.mean()) < 0.2 for mask in masks)  # the square is a tenth of the image
    assert min(shares_within(masks, boxes_at(which))) > 0.85
    assert max(shares_within(masks, boxes_at(1 - which))) < 0.05


def coloured(count: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) of a red and a green square in noise, and their places (N, 2, 2), y and x of each."""
    images, places = 0.2 * torch.rand(count, 3, SIDE, SIDE), torch.empty(count, 2, 2, dtype=torch.int64)
    for image, corners in zip(images, places):
        order = torch.randperm(2)
        corners[:, 0] = torch.randint(SIDE - SQUARE + 1, (2,))
        corners[:, 1] = torch.stack([torch.randint(SIDE // 2 - SQUARE + 1, ()) + k * SIDE // 2 for k in order])
        for channel, (y, x) in enumerate(corners.tolist()):
            image[channel, y : y + SQUARE, x : x + SQUARE] += 0.8
    return images, places


class Trained(nn.Module):
    """Logits of red and green squares, one for each window, learnt from where the squares are."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, SQUARE))
        optimizer = torch.optim.Adam(self.parameters(), 0.03)
        for _ in range(60):
            images, places = coloured(8)
            wanted = torch.zeros(8, 2, *[SIDE - SQUARE + 1] * 2)
            for one, corners in zip(wanted, places.tolist()):
                for channel, (y, x) in enumerate(corners):
                    one[channel, y, x] = 1
            logits = self.windows(images)
            loss = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=torch.tensor(50.0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for scores in self.windows(images).sigmoid():
            label, y, x = (scores > 0.01).nonzero(as_tuple=True)
            boxes = torch.stack([x, y, x + SQUARE, y + SQUARE], dim=1).to(scores)
            found.append({"boxes": boxes, "labels": label + 1, "scores": scores[label, y, x]})
        return found


def test_the_mask_of_a_trained_detectors_box_lies_on_its_square() -> None:
    model = Trained().eval()
    images, places = coloured(2)
    for channel in (0, 1):
        y, x = places[:, channel].unbind(1)
        boxes = torch.stack([x, y, x + SQUARE, y + SQUARE], dim=1).float()
        y, x = places[:, 1 - channel].unbind(1)
        others = torch.stack([x, y, x + SQUARE, y + SQUARE], dim=1).float()
        how = settings(areas=[0.15])
        found = ExtremalPerturbation(BoxScore(model, boxes, channel + 1)).extremal_masks(images, **how)
        assert float(found.clean_score.min()) > 0.3
        assert bool((found.scores[:, 0] > 0.8 * found.clean_score).all())
        masks = torch.as_tensor(found.masks)[:, 0]
        assert min(shares_within(masks, boxes)) > 0.5  # the square is a tenth of the image
        assert max(shares_within(masks, others)) < 0.1


def test_each_image_keeps_its_own_box_where_others_are_finished() -> None:
    """The search for a* leaves out images without one, so that its rows are not those of the batch."""
    images, boxes = squares(), boxes_at(0)
    images[0] = 0  # nothing is found there, so nothing is needed
    how = settings(areas="optimal", score_threshold=lambda clean, perturbed: 0.9 * clean)
    found = ExtremalPerturbation(BoxScore(find_squares, boxes, 1)).extremal_masks(images, **how)
    assert found.vacuous.tolist() == [True, False, False]
    assert found.reached.all()
    assert min(shares_within(torch.as_tensor(found.optimal_mask())[1:], boxes[1:])) > 0.85


def test_the_integrated_gradients_of_a_box() -> None:
    score, images = BoxScore(find_squares), squares()
    maps = IntegratedGradients(score).attribute(
        images, additional_forward_args=score.of_images(images), n_steps=8, internal_batch_size=3
    )
    assert min(shares_within(maps.abs().sum(1, keepdim=True), boxes_at(0))) > 0.7


def test_other_methods_of_the_package_know_the_boxes_too() -> None:
    images = squares()
    maps = RISE(BoxScore(find_squares, boxes_at(0), 1)).attribute(
        images, n_samples=64, cells=4, perturbations_per_eval=8
    )
    points = maps[:, 0].flatten(1).argmax(1)
    inside = boxes_at(0)
    x, y = points % SIDE, points // SIDE
    assert bool(((x >= inside[:, 0] - 4) & (x < inside[:, 2] + 4) & (y >= inside[:, 1] - 4)).all())


BAD_CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no model": (lambda: BoxScore("detector"), TypeError, "^model must be callable as"),
    "boxes alone": (lambda: BoxScore(find_squares, boxes_at(0)), ValueError, "^labels must be given with boxes"),
    "flat boxes": (lambda: BoxScore(find_squares, torch.rand(4), 1), ValueError, r"^boxes must be \(N, 4\)"),
    "swapped": (lambda: BoxScore(find_squares, boxes_at(0).flip(1), 1), ValueError, "^boxes must be x0, y0, x1, y1"),
    "label": (lambda: BoxScore(find_squares, labels=torch.ones(3)), TypeError, "^labels must be integers"),
    "labels": (lambda: BoxScore(find_squares, labels=torch.ones(3, 1).long()), ValueError, "^labels must be one"),
    "perturbed": (lambda: BoxScore(find_squares)(squares()), ValueError, "^boxes must be given, because"),
    "copies": (
        lambda: BoxScore(find_squares, boxes_at(0), 1)(squares().repeat(2, 1, 1, 1)),
        ValueError,
        r"^boxes must have one row, or one for each of 6 images, got 3.*score.of_images",
    ),
    "nothing": (
        lambda: BoxScore(find_squares).of_images(0 * squares()),
        ValueError,
        "^boxes must be given for image 0, in which the model has no detection$",
    ),
    "no such": (lambda: BoxScore(find_squares, labels=[1, 1, 7]).of_images(squares()), ValueError, "of label 7$"),
    "tensor": (lambda: BoxScore(lambda x: x).of_images(squares()), TypeError, "must return a list of dictionaries"),
    "one": (lambda: BoxScore(lambda x: [{}]).of_images(squares()), ValueError, "one dictionary for each of 3 images"),
    "keys": (lambda: BoxScore(lambda x: [{}] * 3).of_images(squares()), ValueError, r"\(D,\).*got boxes None"),
    "region": (lambda: RegionScore(nn.Identity(), [1], 0), TypeError, r"^region must be a tensor \(N, H, W\)"),
    "region's shape": (lambda: RegionScore(nn.Identity(), torch.ones(8, 8), 0), ValueError, "^region must be"),
    "empty": (lambda: RegionScore(nn.Identity(), torch.zeros(1, 8, 8), 0), ValueError, "^region .* not be empty"),
    "negative": (lambda: RegionScore(nn.Identity(), -torch.eye(8)[None], 0), ValueError, "^region .* at least 0"),
    "size": (
        lambda: RegionScore(nn.Identity(), torch.ones(1, 8, 8), 0)(squares()),
        ValueError,
        r"^region must have the images' size \(32, 32\)",
    ),
    "class": (
        lambda: RegionScore(nn.Identity(), torch.ones(1, 32, 32), 3)(squares()),
        ValueError,
        r"^label must be from 0 to 2, got \[3, 3, 3\]",
    ),
    "no logits": (
        lambda: RegionScore(nn.Flatten(), torch.ones(1, 32, 32), 0)(squares()),
        ValueError,
        r"^model must return logits \(3, K, h, w\), got \(3, 3072\)",
    ),
    "no encoder": (lambda: Similarity(None, torch.ones(1, 3)), TypeError, "^image_encoder must be callable"),
    "texts": (
        lambda: Similarity(nn.Flatten(), torch.ones(2, 3).long()),
        TypeError,
        "^text_features must be a floating",
    ),
    "one text": (lambda: Similarity(nn.Flatten(), torch.ones(3)), ValueError, r"^text_features must be \(T, D\)"),
    "no text": (lambda: Similarity(nn.Flatten(), torch.zeros(1, 3)), ValueError, "^text_features .* all zeros"),
    "features": (
        lambda: Similarity(nn.Flatten(), torch.ones(2, 5))(squares()),
        ValueError,
        r"^image_encoder must return features \(3, 5\).*got shape \(3, 3072\)",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_arguments_and_outputs_are_named(case: str) -> None:
    call, error, message = BAD_CALLS[case]
    with pytest.raises(error, match=message):
        call()


def test_a_bad_number_of_boxes_is_refused_before_the_model_runs(counted: type) -> None:
    model = counted(find_squares)
    with pytest.raises(ValueError, match=r"^boxes must have one row, or one for each of 3 images, got 2"):
        ExtremalPerturbation(BoxScore(model, boxes_at(0)[:2], 1)).attribute(squares())
    assert model.calls == 0


def test_a_detector_without_gradients_is_refused() -> None:
    detached = torch.no_grad()(find_squares)
    images = squares()
    images[0] = 0  # where nothing is found, the zero has a gradient all the same
    with pytest.raises(ValueError, match=r"^model must be differentiable by its inputs, but its scores"):
        ExtremalPerturbation(BoxScore(detached, boxes_at(0), 1)).attribute(images)


def test_a_model_in_train_mode_is_warned_of_behind_a_function(network: nn.Module) -> None:
    trained = nn.Sequential(network, nn.Dropout()).train()

    def detector(images: Tensor) -> list[dict[str, Tensor]]:
        trained(images.double())
        return find_squares(images)

    with pytest.warns(UserWarning, match="the model is in train mode"):
        ExtremalPerturbation(BoxScore(detector)).attribute(squares(), **settings(solver=PathSolver(steps=2)))


SMALL = {"weights": None, "weights_backbone": None}
DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "faster": partial(
        detection.fasterrcnn_mobilenet_v3_large_320_fpn, **SMALL, num_classes=3, min_size=64, max_size=64
    ),
    "ssdlite": partial(detection.ssdlite320_mobilenet_v3_large, **SMALL, num_classes=3),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_torchvisions_detectors_end_to_end(name: str) -> None:
    model = DETECTORS[name]().eval()
    score, x = BoxScore(model), torch.rand(2, 3, 64, 64)
    boxes, labels = score.of_images(x)
    leaf = x.clone().requires_grad_()
    values = score(leaf, boxes, labels)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    with torch.no_grad():
        tops = torch.stack([one["scores"].max() for one in model(x)])
    torch.testing.assert_close(values.detach(), tops)  # the top detection covers its own box fully
    assert bool(gradient.flatten(1).any(1).all())
    found = ExtremalPerturbation(score).extremal_masks(x, **settings(areas=[0.4], solver=PathSolver(steps=1)))
    torch.testing.assert_close(found.clean_score, tops)
    assert found.scores.isfinite().all()
    assert all(p.grad is None and p.requires_grad for p in model.backbone.parameters())


def test_channels_of_a_detector() -> None:
    model = DETECTORS["ssdlite"]().eval()
    layer = model.backbone.features[1][-1]
    method = LayerExtremalPerturbation(BoxScore(model), layer)
    found = method.extremal_masks(torch.rand(2, 3, 64, 64), areas=[0.5], solver=PathSolver(steps=1))
    assert found.scores.shape == (2, 1)
    assert found.settings["runs"] == "model"
    assert found.settings["layer"].endswith(type(layer).__name__)


# Regions


@pytest.mark.parametrize("labels", [1, [2, 0, 1]])
def test_region_score_is_the_mean_logit_in_the_region(labels: Any) -> None:
    logits, weights = torch.randn(3, 4, 8, 8), torch.rand(3, 8, 8)
    each = [labels] * 3 if isinstance(labels, int) else labels
    expected = [float((one[k] * w).sum() / w.sum()) for one, k, w in zip(logits, each, weights)]
    for output in (logits, {"out": logits, "aux": -logits}, (None, logits)):
        score = RegionScore(lambda images, output=output: output, weights, torch.tensor(labels))
        assert score(torch.rand(3, 3, 8, 8)).tolist() == pytest.approx(expected, abs=1e-6)


def test_smaller_logits_are_resized_to_the_region() -> None:
    logits, region = torch.randn(2, 4, 4, 4), torch.rand(1, 8, 8) > 0.5
    resized = F.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)[:, 2]
    expected = torch.stack([one[region[0]].mean() for one in resized])
    torch.testing.assert_close(RegionScore(lambda x: logits, region, 2)(torch.rand(2, 3, 8, 8)), expected)


def test_the_mask_of_a_region_lies_on_it() -> None:
    """A segmenter that looks one pixel far: what it says of a region comes from there."""
    images = squares()
    regions = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    for region, (x, y) in zip(regions, (corners[1] for corners in CORNERS)):
        region[y : y + SQUARE, x : x + SQUARE] = True

    def segmenter(x: Tensor) -> dict[str, Tensor]:
        red = F.avg_pool2d(x[:, :1], 3, 1, padding=1)
        return {"out": torch.cat([-red, 2 * red - 1], dim=1)}

    score = RegionScore(segmenter, regions, 1)
    masks = ExtremalPerturbation(score).attribute(images, **settings(score_threshold=lambda c, p: p + 0.7 * (c - p)))
    assert min(shares_within(masks[:, :1], boxes_at(1))) > 0.85


def test_torchvisions_segmenter_end_to_end() -> None:
    model = segmentation.lraspp_mobilenet_v3_large(**SMALL, num_classes=4).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(x)["out"]
    region = torch.zeros(1, 64, 64, dtype=torch.bool)
    region[:, :32, :32] = True
    how = settings(areas=[0.4], solver=PathSolver(steps=1))
    found = ExtremalPerturbation(RegionScore(model, region, 2)).extremal_masks(x, **how)
    torch.testing.assert_close(found.clean_score, logits[:, 2, :32, :32].mean((1, 2)))
    pixel = ExtremalPerturbation(model).extremal_masks(x, target=(2, 10, 20), **how)  # found in the dictionary
    torch.testing.assert_close(pixel.clean_score, logits[:, 2, 10, 20])


# Texts


def colours(images: Tensor) -> dict[str, Tensor]:
    """The features of an image are its mean colour."""
    return {"image_embeds": images.mean((2, 3))}


def test_similarity_is_the_cosine() -> None:
    images, texts = torch.rand(4, 3, 8, 8), torch.randn(5, 3)
    features = images.mean((2, 3))
    expected = torch.stack([torch.cosine_similarity(features, text[None]) for text in texts], dim=1)
    torch.testing.assert_close(Similarity(colours, 7 * texts)(images), expected)


def test_the_mask_of_a_text_lies_on_what_it_names() -> None:
    images = squares().index_select(1, torch.tensor([0, 1, 2]))
    for image, (_, (x, y)) in zip(images, CORNERS):
        image[2, y : y + SQUARE, x : x + SQUARE] = image[0, y : y + SQUARE, x : x + SQUARE]  # from red to blue
        image[0, y : y + SQUARE, x : x + SQUARE] = 0
    score = Similarity(colours, torch.eye(3)[[0, 2]])  # "red", "blue"
    for which in (0, 1):
        found = ExtremalPerturbation(score).extremal_masks(images, target=which, **settings(areas=[0.05]))
        own, other = (shares_within(torch.as_tensor(found.masks)[:, 0], boxes_at(k)) for k in (which, 1 - which))
        # Black has no colour, so that what the mask keeps of it makes no difference.
        assert min(mine / (mine + theirs) for mine, theirs in zip(own, other)) > 0.95
        assert float(found.scores.min()) > 0.99


def test_the_words_that_fit_an_image_are_groups_of_the_text() -> None:
    """The text is given as the embeddings of its tokens, "a", "cr", "imson", "square", "on", "blue"."""
    tokens = torch.zeros(1, 6, 3)
    tokens[0, 1, 0], tokens[0, 2, 0], tokens[0, 5, 2] = 0.5, 0.6, 1.2
    words = torch.tensor([[0, 1, 1, 2, 3, 4]])[..., None]
    image = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    score = Similarity(lambda embedded: embedded.sum(1) + 0.01, image)
    found = ExtremalPerturbation(score).extremal_masks(
        tokens.expand(2, -1, -1), target=[0, 1], feature_mask=words, areas="optimal", solver=PathSolver(steps=12)
    )
    assert [kept.tolist() for kept in found.groups()] == [[1], [4]]
    assert found.minimal is not None
    assert found.minimal.tolist() == [True, True]


def test_further_arguments_reach_the_encoder() -> None:
    gains = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = ExtremalPerturbation(Similarity(lambda x, gain: x.mean((2, 3)) * gain, torch.eye(3))).extremal_masks(
        torch.rand(2, 3, 8, 8), target=[0, 1], additional_forward_args=gains, **settings(areas=[0.5])
    )
    assert found.clean_score.tolist() == [1.0, 1.0]


# A score of one's own


class NearestTo(PerImage):
    """Minus the distance of an image's mean colour to that of the clean image."""

    def of_images(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images.mean((2, 3)),)

    def __call__(self, images: Tensor, colour: Tensor) -> Tensor:
        return -(images.mean((2, 3)) - colour).square().sum(1)


def test_a_score_of_ones_own_is_given_what_belongs_to_each_image() -> None:
    found = ExtremalPerturbation(NearestTo()).extremal_masks(squares(), **settings(areas=[0.2, 0.6]))
    assert found.clean_score.tolist() == [0.0, 0.0, 0.0]
    assert bool((found.scores[:, 1] > found.perturbed_score).all())
