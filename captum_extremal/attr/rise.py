"""RISE: the scores of randomly masked inputs, averaged over the masks that show a position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
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
from captum_extremal.arguments import check_inputs
from captum_extremal.perturbations import FadePyramid
from captum_extremal.session import open_session

_UPSAMPLING = {1: "linear", 2: "bilinear", 3: "trilinear"}


class RISE(PerturbationAttribution):
    r"""Randomized input sampling for explanation (RISE).

    A position matters as much as the score is high when it is shown:

    .. math::

        S(u) = \frac{1}{n E[M]} \sum_{i=1}^n \Phi(x \odot M_i) M_i(u)

    The masks are random grids of a few cells, each shown with some probability, enlarged by linear interpolation to one
    cell more than the input and cropped at a random place. The model is only ever called: it need not be
    differentiable.

    Reference: V. Petsiuk, A. Das, K. Saenko, *RISE: Randomized Input Sampling for Explanation of Black-box Models*,
    BMVC 2018.

    Args:
        forward_func: the model, or any function of its inputs, whose output has a row an example. The method was
            proposed for probabilities: a large score of nothing at all, such as a logit far from 0, adds noise.

    Examples::

        >>> attribution = RISE(lambda x: model(x).softmax(1)).attribute(x, target=207, perturbations_per_eval=50)
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        PerturbationAttribution.__init__(self, forward_func)

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: the map is an average of masks, and is not multiplied by the input."""
        return False

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError("attribute_future is not implemented for RISE")

    @classmethod
    def get_name(cls) -> str:
        """The name, an acronym."""
        return "RISE"

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

        Every image of a batch is explained with the same masks, so that a batch gives what its images give one by one.

        Args:
            inputs: (N, C, *S) with one to three spatial dimensions of at least 8 positions each, or a tuple of such
                tensors. Every tensor of a tuple has masks of its own.
            baselines: what a hidden position becomes: a number, a tensor of the input's shape (or one example of it),
                or a tuple of these. Default 0, the mean colour of a normalised image.
            target: which output, in any of Captum's forms. Outputs with positions are averaged over them.
            additional_forward_args: passed on to the model: tensors (N, ...) repeated along dimension 0 with the
                inputs, 0-d tensors and whatever is no tensor as they are.
            n_samples: n, how many masks.
            cells: cells of the grid along each side.
            probability: of a cell to be shown, in (0, 1).
            seed: of the masks, which are the same on every device. The global random state is left alone.
            perturbations_per_eval: how many masks of each image go through the model at once; it changes only the
                memory and the time.
            show_progress: draw a progress bar.

        Returns:
            a tensor like ``inputs`` (a tuple where they are one): same shape, type and device, contiguous, the map
            repeated over the channels.

        Raises:
            TypeError, ValueError: an argument breaks a rule above (before the model runs), or the model's output
                cannot be explained (at its first run).
        """
        shapes = [tuple(x.shape[2:]) for x in check_inputs(inputs)]
        check_count("n_samples", n_samples)
        check_count("cells", cells)
        if cells > min(map(min, shapes)):
            raise ValueError(f"cells must be at most the shortest side, {min(map(min, shapes))}, got {cells}")
        check_number("probability", probability, above=0, below=1)
        check_count("seed", seed, at_least=None)
        check_count("perturbations_per_eval", perturbations_per_eval)
        with open_session(self.forward_func, inputs, target, additional_forward_args, baselines=baselines) as session:
            objective = session.objective(
                FadePyramid().bind, perturbations_per_eval=perturbations_per_eval, differentiable=False
            )
            total: list[Tensor] = []
            random = _RandomMasks(shapes, n_samples, cells, probability, seed)
            with progress_bar(show_progress, n_samples, self.get_name()) as bar:
                for masks in random.chunks(perturbations_per_eval):
                    masks = tuple(mask.to(objective.clean) for mask in masks)
                    rows = tuple(mask.repeat_interleave(objective.images, 0) for mask in masks)
                    scores = objective.value(rows)  # (R, N)
                    shown = [torch.einsum("rn,r...->n...", scores, mask) for mask in masks]
                    total = [before + now for before, now in zip(total, shown)] or shown
                    bar.update(len(scores))
        maps: TensorOrTupleOfTensorsGeneric = session.like_inputs(
            tuple(part / (n_samples * probability) for part in total)
        )
        return maps


class _RandomMasks:
    """n masks for inputs of some shapes, drawn at once as grids and shifts and enlarged chunk by chunk."""

    def __init__(self, shapes: list[tuple[int, ...]], n: int, cells: int, probability: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._shapes = shapes
        self._grids = []
        self._shifts = []
        for shape in shapes:
            grid = torch.rand(n, 1, *[cells] * len(shape), generator=generator) < probability
            shift = [torch.randint(_cell(side, cells) + 1, (n,), generator=generator) for side in shape]
            self._grids.append(grid.float())
            self._shifts.append(torch.stack(shift, dim=1).tolist())

    def chunks(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """``size`` masks (R, 1, *S) at a time for each shape."""
        for first in range(0, len(self._grids[0]), size):
            chunk = slice(first, first + size)
            yield tuple(
                _enlarged(grids[chunk], shifts[chunk], shape)
                for grids, shifts, shape in zip(self._grids, self._shifts, self._shapes)
            )


def _cell(side: int, cells: int) -> int:
    """The length of a cell: all but one of ``cells + 1`` cover the side, wherever it is cropped."""
    return math.ceil(side / cells)


def _enlarged(grids: Tensor, shifts: list[list[int]], shape: tuple[int, ...]) -> Tensor:
    """Masks (R, 1, *S): grids (R, 1, cells, ...) enlarged to one cell more than the input, cropped at each shift."""
    cells = grids.shape[-1]
    size = [(cells + 1) * _cell(side, cells) for side in shape]
    large = F.interpolate(grids, size=size, mode=_UPSAMPLING[len(shape)], align_corners=False)
    crops = [(..., *(slice(first, first + side) for first, side in zip(shift, shape))) for shift in shifts]
    return torch.stack([mask[crop] for mask, crop in zip(large, crops)])
