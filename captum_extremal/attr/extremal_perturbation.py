"""Extremal perturbations of the input (section 3): the smallest part of it that is enough for the model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_extremal._captum import (
    BaselineType,
    TargetType,
    TensorOrTupleOfTensorsGeneric,
    log_usage,
)
from captum_extremal._checks import check_choice
from captum_extremal._state import ForwardPrecision, as_plain, preserve_state
from captum_extremal.attr import _inputs as check
from captum_extremal.attr._maps import like_inputs
from captum_extremal.attr._sweep import Callback, Sweep, warn_unreached
from captum_extremal.masks import MaskFamily
from captum_extremal.objective import Objective
from captum_extremal.perturbations import BoundPerturbation, Perturbation
from captum_extremal.results import ExtremalMasks, ScoreThreshold, check_threshold
from captum_extremal.search import as_solver
from captum_extremal.search.games import Game, as_game
from captum_extremal.search.problem import Solver

AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""The areas of section 4."""

_REDUCTIONS = {
    "extremal": ExtremalMasks.optimal_mask,
    "sum": ExtremalMasks.saliency,
    "refined": ExtremalMasks.refined_saliency,
}


class ExtremalPerturbation(PerturbationAttribution):
    r"""Find the smallest part of an input that is enough for a model's output.

    For each area a, the smooth mask of exactly that area is sought that maximally affects the output (equation 2):

    .. math::

        m_a = argmax_{m : mean(m) = a} \Phi(m \otimes x)

    and the attribution is the mask of the smallest area whose score reaches that of the whole input (equation 3).

    Reference: R. Fong, M. Patrick, A. Vedaldi, *Understanding Deep Networks via Extremal Perturbations and Smooth
    Masks*, ICCV 2019.

    Args:
        forward_func: the model, or any function of its inputs. It must be differentiable by them, and its output must
            have a row an example.

    Examples::

        >>> attribution = ExtremalPerturbation(model).attribute(x, target=207)
        >>> found = ExtremalPerturbation(model).extremal_masks(x, target=207)
        >>> found.optimal_area, found.scores
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        PerturbationAttribution.__init__(self, forward_func)

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: a mask says what is kept, and is no score that was multiplied by the input."""
        return False

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError("attribute_future is not implemented for ExtremalPerturbation")

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel peels off one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        areas: float | Sequence[float] | Tensor = AREAS,
        game: str | Game = "preserve",
        perturbation: str | Perturbation = "blur",
        mask: MaskFamily | None = None,
        solver: str | Solver = "path",
        score_threshold: ScoreThreshold = None,
        reduce: str = "extremal",
        perturbations_per_eval: int | None = None,
        callback: Callback | None = None,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """One map for each input: the mask of its smallest sufficient area a*, or a map of all areas.

        Where no area reaches the threshold, the largest area's mask is returned, and one warning counts the images.

        Args:
            inputs: (N, C, *S) with one to three spatial dimensions of at least 8 positions each, or a tuple of such
                tensors. Every tensor of a tuple gets its own mask, each of area a; what must not be masked goes into
                ``additional_forward_args``.
            baselines: what "fade" fades to: a number, a tensor of the input's shape (or one example of it), or a tuple
                of these. Default 0, the mean colour of a normalised image. The blur does not use it.
            target: which output, in any of Captum's forms, of Python's, NumPy's or PyTorch's integers. Outputs with
                positions are averaged over them.
            additional_forward_args: passed on to the model: tensors (N, ...) repeated along dimension 0 with the
                inputs, 0-d tensors and whatever is no tensor as they are.
            areas: strictly increasing fractions of the input, in (0, 1].
            game: "preserve", "delete", "hybrid", or a :class:`~captum_extremal.games.Game` (section 3.2).
            perturbation: "blur", "fade", or an object with ``bind(x, baseline)`` (section 3.4).
            mask: the family of masks; default :class:`~captum_extremal.SmoothMask` (section 3.5).
            solver: "path", "penalty" (the paper's, many times slower), or an object that carries its own settings.
            score_threshold: Phi_0 of equation 3, in units of the game's value: None for its value at the mask that
                keeps everything, a number, one number an image (N,), or a callable ``(clean, perturbed) -> (N,)``
                of the scores of the inputs and of the fully perturbed inputs.
            reduce: "extremal" for m_a*, in [0, 1]; "sum" for the pointing map of section 4.2, blurred by 9 % of the
                shorter side; "refined" for :meth:`~captum_extremal.ExtremalMasks.refined_saliency`, in [0, 2], which
                points more exactly at what is smaller than a mask's disks.
            perturbations_per_eval: how many perturbed copies of each input go through the model at once; None for all
                (three on the path, one an area for "penalty"; twice as many for "hybrid"). It changes the memory, and
                the result by rounding alone, which a search in float32 can amplify.
            callback: called after each step with its number, the areas (R,) and the game's values there (N, R): the
                best of the masks of one area. The path goes from large areas to small ones, then each area settles;
                the penalty's steps are of all areas at once. ``settings["steps"]`` of the result counts the calls.
            show_progress: draw a progress bar.

        Returns:
            a tensor like ``inputs`` (a tuple where they are one): same shape, type and device, contiguous, the map
            repeated over the channels.

        Raises:
            TypeError, ValueError: an argument breaks a rule above (before the model runs), or the model's output
                cannot be explained (at its first run).
        """
        check_choice("reduce", reduce, _REDUCTIONS)
        found = self.extremal_masks(
            inputs,
            baselines,
            target,
            additional_forward_args,
            areas=areas,
            game=game,
            perturbation=perturbation,
            mask=mask,
            solver=solver,
            score_threshold=score_threshold,
            perturbations_per_eval=perturbations_per_eval,
            callback=callback,
            show_progress=show_progress,
        )
        if reduce == "extremal":
            warn_unreached(found)
        maps = _REDUCTIONS[reduce](found)
        return like_inputs(maps if isinstance(maps, tuple) else (maps,), inputs)

    @torch.no_grad()
    def extremal_masks(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        areas: float | Sequence[float] | Tensor = AREAS,
        game: str | Game = "preserve",
        perturbation: str | Perturbation = "blur",
        mask: MaskFamily | None = None,
        solver: str | Solver = "path",
        score_threshold: ScoreThreshold = None,
        perturbations_per_eval: int | None = None,
        callback: Callback | None = None,
        show_progress: bool = False,
    ) -> ExtremalMasks:
        """The masks of all areas with their scores: what :meth:`attribute` chooses from.

        Args and Raises: as :meth:`attribute`.

        Returns:
            masks (N, A, 1, *S), scores (N, A), the smallest sufficient area a* (N,), and more.
        """
        tensors = check.check_inputs(inputs)
        is_tuple = isinstance(inputs, tuple)
        target = check.check_target(target, len(tensors[0]))
        check.check_arguments(additional_forward_args, len(tensors[0]))
        check.check_perturbations_per_eval(perturbations_per_eval)
        check.check_callback(callback)
        check_threshold(score_threshold, len(tensors[0]))
        family = check.as_family(mask)
        chosen_perturbation = check.as_perturbation(perturbation)
        chosen_game, chosen_solver = as_game(game), as_solver(solver)
        shapes = [tuple(x.shape[2:]) for x in tensors]
        fractions = check.check_areas(areas, max(family.smallest_area(s) for s in shapes))
        device = tensors[0].device
        caller = ForwardPrecision(device)
        with torch.inference_mode(False), torch.no_grad(), caller.ours():
            plain = tuple(as_plain(x.detach()) for x in tensors)
            references = check.check_baselines(plain, as_plain(baselines), is_tuple)
            dtype = torch.float64 if plain[0].dtype == torch.float64 else torch.float32
            bounds = list(zip(*(family.bind_areas(shape, device, dtype, fractions) for shape in shapes)))
            perturb = tuple(
                check.bind_perturbation(chosen_perturbation, x.to(dtype), reference.to(dtype))
                for x, reference in zip(plain, references)
            )
            with preserve_state(self.forward_func, device):
                objective = Objective(
                    self.forward_func,
                    plain,
                    perturb,
                    as_plain(target),
                    as_plain(additional_forward_args),
                    perturbations_per_eval,
                    caller,
                )
                sweep = Sweep(
                    objective,
                    bounds,
                    fractions,
                    chosen_game,
                    chosen_solver,
                    score_threshold,
                    callback,
                    show_progress,
                    self.get_name(),
                )
                how = {"perturbation": repr(chosen_perturbation), "mask": repr(family)}
                found = sweep.run(is_tuple, how)
                contrast = tuple(_contrast(x, perturbed) for x, perturbed in zip(plain, perturb))
                return replace(found, contrast=contrast if is_tuple else contrast[0])


def _contrast(x: Tensor, perturbed: BoundPerturbation) -> Tensor:
    """How far the full perturbation moves each position, (N, 1, *S) float32: the norm over the channels."""
    nothing_kept = torch.zeros_like(x[:, :1], dtype=torch.promote_types(x.dtype, torch.float32))
    change = perturbed(nothing_kept) - x
    return change.float().square().sum(1, keepdim=True).sqrt()
