r"""Meaningful perturbations: the method that extremal perturbations came from (equation 1 of their paper).

Area, smoothness and score are weighed against each other in one sum, where extremal perturbations fix the area and the
family of masks and look at the score alone.
"""

from __future__ import annotations

from collections.abc import Callable
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
from captum_extremal.masks import REFERENCE_SIDE
from captum_extremal.objective import Objective
from captum_extremal.perturbations import BlurPyramid, BoundPerturbation, Perturbation, gaussian_blur
from captum_extremal.search.games import Game, as_game
from captum_extremal.session import open_session
from captum_extremal.settings import as_perturbation

# Lengths in pixels at 224, scaled with the input's shorter side.
_CELL = 8.0  # of the mask that is learned
_MASK_BLUR = 5.0
_IMAGE_BLUR = 10.0
_JITTER = 4.0  # shifts are whole numbers below it

_DISKS = 20  # radii tried for the mask to start from
_SUPPRESSED = 0.99  # of the game's range, by the mask to start from
_UPSAMPLING = {1: "linear", 2: "bilinear", 3: "trilinear"}


class MeaningfulPerturbation(PerturbationAttribution):
    r"""Learn a mask that weighs the score against its own area and roughness.

    In the deletion game, with s = 1 where the input is perturbed:

    .. math::

        \min_s \; \lambda_1 \|s\|_1 + \lambda_2 \sum_u |\nabla s(u)|^\beta + E_\tau \Phi((1 - s) \otimes x)

    The mask is learned on a grid of 28 cells along the shorter side, enlarged and blurred. It starts as the smallest
    disk in the middle that takes away 99 % of what perturbing everything takes away. At each step the input is shifted
    against the mask and the model by a few pixels (:math:`\tau`), against masks that exploit single pixels.

    Reference: R. Fong, A. Vedaldi, *Interpretable Explanations of Black Boxes by Meaningful Perturbation*, ICCV 2017.

    Args:
        forward_func: the model, or any function of its inputs. It must be differentiable by them, and its output must
            have a row an example. The weights below belong to probabilities: scores of another scale, such as logits,
            need others.

    Examples::

        >>> attribution = MeaningfulPerturbation(lambda x: model(x).softmax(1)).attribute(x, target=207)
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        PerturbationAttribution.__init__(self, forward_func)

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: a mask says what matters, and is no score that was multiplied by the input."""
        return False

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError("attribute_future is not implemented for MeaningfulPerturbation")

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel peels off one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        game: str | Game = "delete",
        perturbation: str | Perturbation = "blur",
        steps: int = 300,
        learning_rate: float = 0.1,
        area_weight: float = 1e-4,
        variation_weight: float = 1e-2,
        variation_power: float = 3.0,
        seed: int = 0,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """One mask for each input, near 1 on what matters to the game: what deletes the score, or what preserves it.

        Args:
            inputs: (N, C, *S) with one to three spatial dimensions of at least 8 positions each, or a tuple of such
                tensors. Every tensor of a tuple gets its own mask.
            baselines: what "fade" fades to: a number, a tensor of the input's shape (or one example of it), or a tuple
                of these. Default 0. The blur does not use it.
            target: which output, in any of Captum's forms. Outputs with positions are averaged over them.
            additional_forward_args: passed on to the model: tensors (N, ...) repeated along dimension 0 with the
                inputs, 0-d tensors and whatever is no tensor as they are.
            game: "delete", "preserve", "hybrid", or a :class:`~captum_extremal.games.Game`.
            perturbation: "blur" (standard deviation 10 px at 224 px), "fade", or an object with ``bind(x, baseline)``.
            steps: of Adam.
            learning_rate: of Adam.
            area_weight: lambda_1, of the sum of the mask's cells.
            variation_weight: lambda_2, of the sum of the differences between neighbouring cells, to the power.
            variation_power: beta.
            seed: of the shifts, which all images of a batch share. The global random state is left alone.
            show_progress: draw a progress bar.

        Returns:
            a tensor like ``inputs`` (a tuple where they are one): same shape, type and device, contiguous, the mask in
            [0, 1] repeated over the channels.

        Raises:
            TypeError, ValueError: an argument breaks a rule above (before the model runs), or the model's output
                cannot be explained (at its first run).
        """
        check_count("steps", steps)
        check_number("learning_rate", learning_rate, above=0)
        check_number("area_weight", area_weight, at_least=0)
        check_number("variation_weight", variation_weight, at_least=0)
        check_number("variation_power", variation_power, at_least=1)
        check_count("seed", seed, at_least=None)
        chosen_game, chosen_perturbation = as_game(game), as_perturbation(perturbation)
        shifts = _Shifts(seed)

        def bind(x: Tensor, baseline: Tensor) -> BoundPerturbation:
            chosen = _blur_for(x) if perturbation == "blur" else chosen_perturbation
            jitter = max(2.0, _scaled(_JITTER, x))  # so that a small image moves as well, by a pixel
            return shifts.around(chosen.bind(x, baseline), jitter)

        def penalty(cells: Tensor) -> Tensor:
            return area_weight * cells.sum() + variation_weight * _variation(cells, variation_power)

        with open_session(self.forward_func, inputs, target, additional_forward_args, baselines=baselines) as session:
            # There is one mask per image, except for the disks.
            objective = session.objective(bind, perturbations_per_eval=1)
            grids = [_Grid(x) for x in session.inputs]
            weights = (chosen_game.kept, chosen_game.removed)
            cells = _smallest_disks(objective, grids, chosen_game)
            optimizer = torch.optim.Adam(cells, lr=learning_rate)
            with progress_bar(show_progress, steps, self.get_name()) as bar, torch.enable_grad():
                for _ in range(steps):
                    shifts.draw()
                    masks: tuple[Tensor, ...] = tuple(map(_Grid.enlarge, grids, cells))
                    by_mask: tuple[Tensor, ...] = objective.value_and_grad(masks, *weights)[1]
                    optimizer.zero_grad()
                    loss = torch.stack([penalty(mask) for mask in cells]).sum()
                    torch.autograd.backward([loss, *masks], [None, *map(torch.neg, by_mask)])
                    optimizer.step()
                    for mask in cells:
                        mask.detach().clamp_(0, 1)
                    bar.update(1)
            maps = tuple(grid.enlarge(mask.detach()).clamp(0, 1) for grid, mask in zip(grids, cells))
        attributions: TensorOrTupleOfTensorsGeneric = session.like_inputs(maps)
        return attributions


def _variation(cells: Tensor, power: float) -> Tensor:
    """The differences between neighbours along each axis of cells (N, 1, ...), to the power, summed."""
    differences = [(cells.diff(dim=axis).abs() ** power).sum() for axis in range(2, cells.dim())]
    return torch.stack(differences).sum()


def _scaled(length: float, x: Tensor) -> float:
    """A length in pixels at 224 in pixels of x (N, C, *S)."""
    return length * min(x.shape[2:]) / REFERENCE_SIDE


def _blur_for(x: Tensor) -> BlurPyramid:
    return BlurPyramid(sigma_max=_scaled(_IMAGE_BLUR, x))


class _Grid:
    """The cells on which the mask of an input x (N, C, *S) is learned."""

    def __init__(self, x: Tensor) -> None:
        self._shape = tuple(x.shape[2:])
        self._blur = _scaled(_MASK_BLUR, x)
        cell = max(1.0, _scaled(_CELL, x))
        self._cells = tuple(max(1, round(side / cell)) for side in self._shape)

    def enlarge(self, cells: Tensor) -> Tensor:
        """Masks (B, 1, *S) from cells (B, 1, ...), in [0, 1] but for rounding."""
        mask = F.interpolate(cells, size=self._shape, mode=_UPSAMPLING[len(self._shape)], align_corners=False)
        return gaussian_blur(mask, self._blur)

    def disks(self, like: Tensor) -> Tensor:
        """Cells (R, 1, ...) of disks in the middle, from a single cell to everything."""
        axes = [torch.arange(count).to(like) - (count - 1) / 2 for count in self._cells]
        squared = sum(offset**2 for offset in torch.meshgrid(*axes, indexing="ij"))
        distance = torch.as_tensor(squared).sqrt()
        radii = torch.lerp(distance.min(), distance.max(), torch.linspace(0, 1, _DISKS).to(like))
        return (distance <= radii.view(-1, 1, *[1] * len(axes))).to(like)


def _smallest_disks(objective: Objective, grids: list[_Grid], game: Game) -> list[Tensor]:
    """For each image the cells (N, 1, ...) of the smallest disk whose value is 99 % of the way to the full mask's."""
    disks = [grid.disks(objective.clean) for grid in grids]
    rows = tuple(grid.enlarge(disk).repeat_interleave(objective.images, 0) for grid, disk in zip(grids, disks))
    values = objective.value(rows, game.kept, game.removed)  # (R, N)
    none = game.value(objective.perturbed, objective.clean)
    every = game.value(objective.clean, objective.perturbed)
    enough = values >= none + _SUPPRESSED * (every - none)
    enough[-1] = True
    first = enough.to(torch.int8).argmax(0)
    return [disk[first].clone().requires_grad_() for disk in disks]


class _Shifts:
    """One random shift of the inputs a step, the same for every image."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._at = torch.zeros(3)

    def draw(self) -> None:
        """The next shift, as fractions of the largest along up to three axes."""
        self._at = torch.rand(3, generator=self._generator)

    def around(self, perturb: BoundPerturbation, largest: float) -> BoundPerturbation:
        """A perturbation of an input that is shifted, while its mask stays where it is."""

        def shifted(mask: Tensor) -> Tensor:
            pixels = [int(part * largest) for part in self._at.tolist()][: mask.dim() - 2]
            return _shift(perturb(_shift(mask, [-count for count in pixels])), pixels)

        return shifted


def _shift(x: Tensor, pixels: list[int]) -> Tensor:
    """Move x (B, C, *S) along its positions and repeat its border."""
    for axis, count in enumerate(pixels, start=2):
        if count:
            side = x.shape[axis]
            x = x.index_select(axis, (torch.arange(side, device=x.device) - count).clamp(0, side - 1))
    return x
