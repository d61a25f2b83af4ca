"""RISE: for each position, the average score of the randomly masked inputs that show it."""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType, TensorOrTupleOfTensorsGeneric, log_usage, progress_bar
from captum_extremal._checks import check_count, check_number
from captum_extremal.attr._base import BaseAttribution, upsample
from captum_extremal.masks.lengths import SHORT
from captum_extremal.perturbations import FadePyramid
from captum_extremal.session import open_session


class RISE(BaseAttribution, PerturbationAttribution):
    r"""Randomized input sampling for explanation (RISE).

    The importance of a position u is the mean score over random masks, weighted by how much each mask shows of u:

    .. math::

        S(u) = \frac{1}{n E[M]} \sum_{i=1}^n \Phi(x \odot M_i) M_i(u)

    A mask is a grid of a few cells, each shown with the same probability, enlarged by linear interpolation to one cell
    more than the input and cropped at a random place.

    Reference: V. Petsiuk, A. Das, K. Saenko, *RISE: Randomized Input Sampling for Explanation of Black-box Models*,
    BMVC 2018.

    Args:
        forward_func: the model, or any function of its inputs, whose output has one row per example. It need not be
            differentiable. Scores of an empty input that are far from 0, as logits can be, add noise.

    Examples::

        >>> attribution = RISE(lambda x: model(x).softmax(1)).attribute(x, target=207, perturbations_per_eval=50)
    """

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel removes one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        n_samples: int = 4000,
        cells: int = 7,
        probability: float = 0.5,
        seed: int = 0,
        channel_dim: int | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """One map for each input. All images of a batch share the masks.

        Args:
            inputs: (N, C, *S), S of one to three sides, or a tuple of these, each with a mask over S.
            baselines: what a hidden position becomes, default 0. This, target and additional_forward_args are as
                :meth:`~captum_extremal.ExtremalPerturbation.attribute` takes them.
            n_samples: n, the number of masks, each of which is one forward pass of every image. The default, the
                reference's for VGG-16, takes minutes on a CPU: ``show_progress`` tells how many.
            cells: number of cells of the grid along each side; along a side shorter than 8 at most one a position.
            probability: that a cell is shown, in (0, 1).
            seed: of the masks, which are the same on every device. The global random state is not used.
            channel_dim: the axis of the channels, counted with N, which no mask covers: None for 1, -1 for (N, T, F),
                (N, L, D) and (N, H, W, C). All other axes but the first are masked.
            perturbations_per_eval: how many masks of each image go through the model at once; more are faster on a GPU.
            show_progress: draw a progress bar with the time left.

        Returns:
            maps like ``inputs`` in shape, type and device, contiguous, repeated over the channels.

        Raises:
            TypeError, ValueError: an argument is bad, or the model's output cannot be explained.
        """
        check_count("n_samples", n_samples)
        check_count("cells", cells)
        check_number("probability", probability, above=0, below=1)
        check_count("seed", seed, at_least=None)
        check_count("perturbations_per_eval", perturbations_per_eval)
        with open_session(
            self.forward_func, inputs, target, additional_forward_args, baselines=baselines, channel_dim=channel_dim
        ) as session:
            shapes = [tuple(x.shape[2:]) for x in session.inputs]
            if cells > (shortest := min(max(side, SHORT) for shape in shapes for side in shape)):
                raise ValueError(f"cells must be at most the shortest side, {shortest}, got {cells}")
            objective = session.objective(
                FadePyramid().bind, perturbations_per_eval=perturbations_per_eval, differentiable=False
            )
            totals = [objective.clean.new_zeros(session.images, 1, *shape) for shape in shapes]
            chunks = _random_masks(shapes, n_samples, cells, probability, seed, perturbations_per_eval)
            with progress_bar(show_progress, n_samples, self.get_name()) as bar:
                for chunk in chunks:
                    masks = tuple(mask.to(objective.clean) for mask in chunk)
                    scores = objective.value(tuple(mask.repeat_interleave(session.images, 0) for mask in masks))
                    # A mask that shows nothing adds nothing, also where the model has no score for it.
                    shows = torch.stack([mask.flatten(1).any(1) for mask in masks]).any(0)
                    scores = scores.where(shows[:, None], 0.0)
                    if bool(scores.isnan().any()):
                        raise ValueError("forward_func's output for the masked inputs must not be NaN, got NaN")
                    for total, mask in zip(totals, masks):
                        total += torch.einsum("rn,r...->n...", scores, mask)
                    bar.update(len(scores))
        maps = tuple(total / (n_samples * probability) for total in totals)
        return cast(TensorOrTupleOfTensorsGeneric, session.like_inputs(maps))


def _random_masks(
    shapes: list[tuple[int, ...]], n: int, cells: int, probability: float, seed: int, at_once: int
) -> Iterator[tuple[Tensor, ...]]:
    """The n masks for inputs of these shapes, as (R, 1, *S) with R at most ``at_once``."""
    generator = torch.Generator().manual_seed(seed)
    drawn_by: Any = {"generator": generator, "device": "cpu", "dtype": torch.float32}
    drawn = []
    for shape in shapes:
        counts = [min(cells, side) for side in shape]
        lengths = [math.ceil(side / count) for side, count in zip(shape, counts)]  # of a cell, in pixels
        large = tuple((count + 1) * length for count, length in zip(counts, lengths))
        grids = (torch.rand(n, 1, *counts, **drawn_by) < probability).float()
        corners = torch.stack(
            [torch.randint(length + 1, (n,), generator=generator, device="cpu") for length in lengths], dim=1
        )
        drawn.append((shape, grids, large, corners.tolist()))
    for first in range(0, n, at_once):
        chunk = slice(first, first + at_once)
        yield tuple(
            _cropped(upsample(grids[chunk], large), corners[chunk], shape) for shape, grids, large, corners in drawn
        )


def _cropped(masks: Tensor, corners: list[list[int]], shape: tuple[int, ...]) -> Tensor:
    """The part (R, 1, *S) of larger masks that begins at each corner."""
    crops = [(..., *(slice(first, first + side) for first, side in zip(corner, shape))) for corner in corners]
    return torch.stack([mask[crop] for mask, crop in zip(masks, crops)])
