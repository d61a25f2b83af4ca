"""Meaningful perturbations (equation 1 of the paper): score, area and smoothness weighed against each other."""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType, TensorOrTupleOfTensorsGeneric, log_usage, progress_bar
from captum_extremal._checks import check_count, check_number
from captum_extremal.attr._base import BaseAttribution, upsample
from captum_extremal.masks.lengths import REFERENCE_SIDE, scales
from captum_extremal.objective import Objective, samples_of
from captum_extremal.perturbations import BlurPyramid, BoundPerturbation, Perturbation, gaussian_blur, of_each_input
from captum_extremal.search.games import Game, as_game
from captum_extremal.session import open_session
from captum_extremal.settings import as_perturbation, warn_of_baselines

# Lengths in pixels of an input whose shorter side is 224; they scale with that side.
_CELL = 8.0  # of the grid on which the mask is learned
_MASK_BLUR = 5.0
_IMAGE_BLUR = 10.0
_JITTER = 4.0  # shifts are smaller than this
_DISKS = 20  # number of radii tried for the first mask
_SUPPRESSED = 0.99  # fraction of the full perturbation's effect that the first mask must reach


class MeaningfulPerturbation(BaseAttribution, PerturbationAttribution):
    r"""Learn a mask that weighs the score against its own area and roughness.

    In the deletion game, with s = 1 where the input is perturbed:

    .. math::

        \min_s \; \lambda_1 \|s\|_1 + \lambda_2 \sum_u |\nabla s(u)|^\beta + E_\tau \Phi((1 - s) \otimes x)

    The mask is learned on a grid of 28 cells along the shorter side, enlarged and blurred. It starts as the smallest
    disk in the middle that has 99 % of the effect of perturbing everything. At each step the input is shifted by a few
    pixels (:math:`\tau`) while the mask stays.

    Reference: R. Fong, A. Vedaldi, *Interpretable Explanations of Black Boxes by Meaningful Perturbation*, ICCV 2017.

    Args:
        forward_func: the model, or any differentiable function of its inputs, whose output has one row per example.
            The default weights are meant for probabilities; scores of another scale, such as logits, need others.

    Examples::

        >>> attribution = MeaningfulPerturbation(lambda x: model(x).softmax(1)).attribute(x, target=207)
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
        game: str | Game = "delete",
        perturbation: str | Perturbation = "blur",
        steps: int = 300,
        learning_rate: float = 0.1,
        area_weight: float = 1e-4,
        variation_weight: float = 1e-2,
        variation_power: float = 3.0,
        seed: int = 0,
        channel_dim: int | None = None,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """One mask for each input, near 1 on what deletes or preserves the score, depending on the game.

        Args:
            inputs: (N, C, *S), S of one to three sides, or a tuple of these, each with a mask over S.
            baselines: what "fade" fades to, default 0. This, target and additional_forward_args are as
                :meth:`~captum_extremal.ExtremalPerturbation.attribute` takes them.
            game: "delete", "preserve", "hybrid", or a :class:`~captum_extremal.Game`.
            perturbation: "blur" (standard deviation 10 px at 224 px), "fade", or an object with ``bind(x, baseline)``.
            steps, learning_rate: of Adam.
            area_weight: lambda_1, of the sum of the mask's cells.
            variation_weight, variation_power: lambda_2, of the sum of differences of neighbouring cells, and beta.
            seed: of the shifts, which all images of a batch share.
            channel_dim: the axis of the channels, counted with N, which no mask covers: None for 1, -1 for (N, T, F),
                (N, L, D) and (N, H, W, C). All other axes but the first are masked.
            show_progress: draw a progress bar.

        Returns:
            maps like ``inputs`` in shape, type and device, contiguous: masks in [0, 1], repeated over the channels.

        Raises:
            TypeError, ValueError: an argument is bad, or the model's output cannot be explained.
        """
        check_count("steps", steps)
        check_number("learning_rate", learning_rate, above=0)
        check_number("area_weight", area_weight, at_least=0)
        check_number("variation_weight", variation_weight, at_least=0)
        check_number("variation_power", variation_power, at_least=1)
        check_count("seed", seed, at_least=None)
        chosen_game, chosen_perturbation = as_game(game), as_perturbation(perturbation)
        weights = (chosen_game.kept, chosen_game.removed)
        generator = torch.Generator().manual_seed(seed)
        shift = [0.0] * 3  # of the inputs, fractions of the largest shift along each of up to three axes

        def bind(given: Perturbation, x: Tensor, baseline: Tensor) -> BoundPerturbation:
            blur = BlurPyramid(sigma_max=_scaled(_IMAGE_BLUR, x.shape[2:]))
            chosen = blur if perturbation == "blur" else given
            # Small images are shifted as well, by at most a pixel.
            largest = [max(2.0, length) for length in _scaled(_JITTER, x.shape[2:])]
            return _Shifted(chosen.bind(x, baseline), shift, largest)

        with open_session(
            self.forward_func, inputs, target, additional_forward_args, baselines=baselines, channel_dim=channel_dim
        ) as session:
            warn_of_baselines(baselines, chosen_perturbation)
            binds = [partial(bind, one) for one in of_each_input(chosen_perturbation, len(session.inputs))]
            objective = session.objective(binds, perturbations_per_eval=1)  # more than one mask only for the disks
            shapes = [tuple(x.shape[2:]) for x in session.inputs]
            cells = _smallest_disks(objective, shapes, chosen_game)
            optimizer = torch.optim.Adam(cells, lr=learning_rate)
            with progress_bar(show_progress, steps, self.get_name()) as bar, torch.enable_grad():
                for _ in range(steps):
                    shift[:] = torch.rand(3, generator=generator, dtype=torch.float32, device="cpu").tolist()
                    masks: tuple[Tensor, ...] = tuple(map(_enlarge, cells, shapes))
                    by_mask: tuple[Tensor, ...] = objective.value_and_grad(masks, *weights)[1]
                    steepness = [v.diff(dim=axis).abs() ** variation_power for v in cells for axis in range(2, v.dim())]
                    roughness = torch.stack([part.sum() for part in steepness]).sum()
                    area = torch.stack([values.sum() for values in cells]).sum()
                    penalty = area_weight * area + variation_weight * roughness
                    optimizer.zero_grad()
                    torch.autograd.backward([penalty, *masks], [None, *map(torch.neg, by_mask)])
                    with torch.device("cpu"):  # where the optimiser counts, whatever the default device is
                        optimizer.step()
                    for values in cells:
                        values.detach().clamp_(0, 1)
                    bar.update(1)
            maps = tuple(_enlarge(values.detach(), shape).clamp(0, 1) for values, shape in zip(cells, shapes))
        return cast(TensorOrTupleOfTensorsGeneric, session.like_inputs(maps))


def _scaled(length: float, shape: Sequence[int]) -> tuple[float, ...]:
    """A length given for an image whose shorter side is 224 pixels, along each axis of an input of this shape S."""
    return tuple(length * side / REFERENCE_SIDE for side in scales(shape))


def _enlarge(cells: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Masks (B, 1, *S) of cells (B, 1, ...), in [0, 1] up to rounding."""
    return gaussian_blur(upsample(cells, shape), _scaled(_MASK_BLUR, shape))


def _disks(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Cells (R, 1, ...) of disks in the middle, from the smallest to one that covers everything."""
    counts = [max(1, round(side / max(1.0, cell))) for side, cell in zip(shape, _scaled(_CELL, shape))]
    axes = [torch.arange(count, dtype=like.dtype, device=like.device) - (count - 1) / 2 for count in counts]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    radii = torch.lerp(
        distance.min(), distance.max(), torch.linspace(0, 1, _DISKS, dtype=like.dtype, device=like.device)
    )
    return (distance <= radii.view(-1, 1, *[1] * len(axes))).to(like)


def _smallest_disks(objective: Objective, shapes: list[tuple[int, ...]], game: Game) -> list[Tensor]:
    """For each image the cells (N, 1, ...) of the smallest disk that reaches 99 % of the full mask's effect."""
    disks = [_disks(shape, objective.clean) for shape in shapes]
    rows = tuple(_enlarge(disk, shape).repeat_interleave(objective.images, 0) for disk, shape in zip(disks, shapes))
    values = objective.value(rows, game.kept, game.removed)  # (R, N)
    nothing = game.value(objective.perturbed, objective.clean)
    everything = game.value(objective.clean, objective.perturbed)
    enough = values >= nothing + _SUPPRESSED * (everything - nothing)
    enough[-1] = True
    first = enough.to(torch.int8).argmax(0)
    return [disk[first].clone().requires_grad_() for disk in disks]


class _Shifted:
    """The perturbation after the present shift of the input, with its mask in place."""

    def __init__(self, perturb: BoundPerturbation, shift: list[float], largest: list[float]) -> None:
        self._perturb, self._shift, self._largest = perturb, shift, largest
        self.samples = samples_of(perturb)

    def __call__(self, mask: Tensor) -> Tensor:
        pixels = [int(part * most) for part, most in zip(self._shift, self._largest)]
        return _shift(self._perturb(_shift(mask, [-count for count in pixels])), pixels)


def _shift(x: Tensor, pixels: list[int]) -> Tensor:
    """Move x (B, C, *S) along its positions and repeat its border."""
    for axis, count in enumerate(pixels, start=2):
        if count:
            side = x.shape[axis]
            x = x.index_select(axis, (torch.arange(side, device=x.device) - count).clamp(0, side - 1))
    return x
