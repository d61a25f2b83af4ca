"""RISE: for each position, the average score of the randomly masked inputs that show it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_extremal._captum import (
    BaselineType,
    TargetType,
    TensorOrTupleOfTensorsGeneric,
    log_usage,
    progress_bar,
)
from captum_extremal._checks import check_count, check_number
from captum_extremal.attr._base import BaseAttribution
from captum_extremal.attr._upsampling import upsample
from captum_extremal.perturbations import FadePyramid
from captum_extremal.session import open_session


class RISE(BaseAttribution, PerturbationAttribution):
    r"""Randomized input sampling for explanation (RISE).

    The importance of a position u is the mean score over random masks, weighted by how much each mask shows of u:

    .. math::

        S(u) = \frac{1}{n E[M]} \sum_{i=1}^n \Phi(x \odot M_i) M_i(u)

    A mask is a grid of a few cells, each shown with the same probability. It is enlarged by linear interpolation to one
    cell more than the input and cropped at a random place. The model need not be differentiable.

    Reference: V. Petsiuk, A. Das, K. Saenko, *RISE: Randomized Input Sampling for Explanation of Black-box Models*,
    BMVC 2018.

    Args:
        forward_func: the model, or any function of its inputs, whose output has one row per example. The method was
            proposed for probabilities: if the score of an empty input is far from 0, as logits can be, it adds noise.

    Examples::

        >>> attribution = RISE(lambda x: model(x).softmax(1)).attribute(x, target=207, perturbations_per_eval=50)
    """

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel peels off one wrapper
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
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """One map for each input.

        All images of a batch share the masks, so the result for an image does not depend on the batch.

        Args:
            inputs: (N, C, *S) with one to three spatial dimensions of at least 8 positions each, or a tuple of such
                tensors. Each tensor of a tuple has its own masks.
            baselines: what a hidden position becomes: a number, a tensor of the input's shape (or one example of it),
                or a tuple of these. Default 0, the mean colour of a normalised image.
            target, additional_forward_args: as :meth:`~captum_extremal.ExtremalPerturbation.attribute` takes them.
            n_samples: n, the number of masks.
            cells: number of cells of the grid along each side.
            probability: that a cell is shown, in (0, 1).
            seed: of the masks, which are the same on every device. The global random state is not used.
            perturbations_per_eval: how many masks of each image go through the model at once. It changes only the
                memory and the time.
            show_progress: draw a progress bar.

        Returns:
            a tensor like ``inputs`` (a tuple where they are one): same shape, type and device, contiguous, the map
            repeated over the channels.

        Raises:
            TypeError, ValueError: an argument breaks a rule above (before the model runs), or the model's output
                cannot be explained (at its first run).
        """
        check_count("n_samples", n_samples)
        check_count("cells", cells)
        check_number("probability", probability, above=0, below=1)
        check_count("seed", seed, at_least=None)
        check_count("perturbations_per_eval", perturbations_per_eval)
        with open_session(self.forward_func, inputs, target, additional_forward_args, baselines=baselines) as session:
            shapes = [tuple(x.shape[2:]) for x in session.inputs]
            if cells > min(map(min, shapes)):
                raise ValueError(f"cells must be at most the shortest side, {min(map(min, shapes))}, got {cells}")
            objective = session.objective(
                FadePyramid().bind, perturbations_per_eval=perturbations_per_eval, differentiable=False
            )
            totals = [objective.clean.new_zeros(session.images, 1, *shape) for shape in shapes]
            chunks = _random_masks(shapes, n_samples, cells, probability, seed, perturbations_per_eval)
            with progress_bar(show_progress, n_samples, self.get_name()) as bar:
                for chunk in chunks:
                    masks = tuple(mask.to(objective.clean) for mask in chunk)
                    rows = tuple(mask.repeat_interleave(session.images, 0) for mask in masks)
                    scores = objective.value(rows)  # (R, N)
                    for total, mask in zip(totals, masks):
                        total += torch.einsum("rn,r...->n...", scores, mask)
                    bar.update(len(scores))
        maps = tuple(total / (n_samples * probability) for total in totals)
        attributions: TensorOrTupleOfTensorsGeneric = session.like_inputs(maps)
        return attributions


def _random_masks(
    shapes: list[tuple[int, ...]], n: int, cells: int, probability: float, seed: int, at_once: int
) -> Iterator[tuple[Tensor, ...]]:
    """The n masks for inputs of these shapes, as (R, 1, *S) with R at most ``at_once``."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for shape in shapes:
        grids = (torch.rand(n, 1, *[cells] * len(shape), generator=generator) < probability).float()
        shifts = [torch.randint(_cell(side, cells) + 1, (n,), generator=generator) for side in shape]
        drawn.append((shape, grids, torch.stack(shifts, dim=1).tolist()))
    for first in range(0, n, at_once):
        chunk = slice(first, first + at_once)
        yield tuple(_enlarged(grids[chunk], shifts[chunk], shape) for shape, grids, shifts in drawn)


def _cell(side: int, cells: int) -> int:
    """The side of a cell in pixels. ``cells`` of them cover the input's side; one more leaves room for the crop."""
    return math.ceil(side / cells)


def _enlarged(grids: Tensor, shifts: list[list[int]], shape: tuple[int, ...]) -> Tensor:
    """Masks (R, 1, *S): grids (R, 1, cells, ...) enlarged to one cell more than the input, cropped at each shift."""
    cells = grids.shape[-1]
    large = upsample(grids, tuple((cells + 1) * _cell(side, cells) for side in shape))
    crops = [(..., *(slice(first, first + side) for first, side in zip(shift, shape))) for shift in shifts]
    return torch.stack([mask[crop] for mask, crop in zip(large, crops)])
