"""Extremal perturbations of the input (section 3): the smallest part of it that is enough for the model's output."""

from typing import Any, cast

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType, TensorOrTupleOfTensorsGeneric, log_usage
from captum_extremal._checks import check_choice
from captum_extremal.attr._base import BaseAttribution
from captum_extremal.attr._sweep import Task, sweep, warn_of_optimum, warn_of_threshold
from captum_extremal.masks import read_axes
from captum_extremal.objective import Objective
from captum_extremal.perturbations import Perturbation
from captum_extremal.results import ExtremalMasks
from captum_extremal.robustness import Robustness, robustness_of
from captum_extremal.session import Session, open_session
from captum_extremal.settings import InputSearchSettings, documents, warn_of_baselines

_REDUCTIONS = {
    "extremal": ExtremalMasks.optimal_mask,
    "sum": ExtremalMasks.saliency,
    "refined": ExtremalMasks.refined_saliency,
}


class ExtremalPerturbation(BaseAttribution, PerturbationAttribution):
    r"""Find the smallest part of an input that is enough for a model's output.

    For each area a, the smooth mask of exactly that area is sought that maximally affects the output (equation 2):

    .. math::

        m_a = argmax_{m : mean(m) = a} \Phi(m \otimes x)

    and the attribution is the mask of the smallest area whose score reaches that of the whole input (equation 3).

    Reference: R. Fong, M. Patrick, A. Vedaldi, *Understanding Deep Networks via Extremal Perturbations and Smooth
    Masks*, ICCV 2019.

    Args:
        forward_func: the model, or any differentiable function of its inputs, whose output has one row per example.

    Examples::

        >>> attribution = ExtremalPerturbation(model).attribute(x, target=207)
        >>> found = ExtremalPerturbation(model).extremal_masks(x, target=207)
        >>> found.optimal_area, found.scores
    """

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel removes one wrapper
    @torch.no_grad()
    @documents(InputSearchSettings)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        reduce: str = "extremal",
        **settings: Any,
    ) -> TensorOrTupleOfTensorsGeneric:
        """One map for each input: the mask of its smallest sufficient area a*, or a map of all areas.

        Where no area reaches the threshold, it is the largest area's mask; where the fully perturbed input already
        does, a* is 0 and the mask zero. One warning each counts such images.

        Args:
            inputs: (N, C, *S), S of one to three sides, or a tuple of these, each with a mask of area a over S. The
                channels may lie on another axis, see ``channel_dim``. What must not be masked goes into
                ``additional_forward_args``.
            baselines: what "fade" fades to: a number, a tensor that broadcasts to the input's shape, such as
                (1, C, 1, 1), or a tuple of these. Default 0, the mean colour of a normalised image. The blur does not
                use it, and warns of it.
            target: which output, in any of Captum's forms, of Python's, NumPy's or PyTorch's integers. Outputs with
                positions are averaged over them.
            additional_forward_args: passed on to the model: tensors (N, ...) are repeated along dimension 0 with the
                inputs; 0-d tensors and everything else stay as they are.
            reduce: "extremal" for m_a*, in [0, 1]; "sum" for the pointing map of section 4.2, blurred by 9 % of the
                shorter side; "refined" for :meth:`~captum_extremal.ExtremalMasks.refined_saliency`, in [0, 2], which
                points more exactly at what is smaller than a mask's disks.
            **settings: as listed here.

        Returns:
            maps like ``inputs`` in shape, type and device, contiguous, repeated over the channels.

        Raises:
            TypeError, ValueError: an argument is bad, or the model's output cannot be explained.
        """
        check_choice("reduce", reduce, _REDUCTIONS)
        options = InputSearchSettings.of(settings, ExtremalPerturbation.attribute)
        with open_session(
            self.forward_func,
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            channel_dim=options.channel_dim,
        ) as session:
            warn_of_baselines(baselines, options.chosen_perturbation())
            found = self._search(session, options, reduce)
        if reduce == "extremal":
            warn_of_optimum(found)
        maps = _REDUCTIONS[reduce](found)
        maps = maps if isinstance(maps, tuple) else (maps,)
        return cast(TensorOrTupleOfTensorsGeneric, session.like_inputs(maps))

    @torch.no_grad()
    @documents(InputSearchSettings)
    def extremal_masks(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        **settings: Any,
    ) -> ExtremalMasks:
        """The masks of all areas with their scores, and a* with its mask.

        One warning counts the images whose threshold not even the whole input reaches.

        Args:
            inputs, baselines, target, additional_forward_args: as :meth:`attribute` takes them.
            **settings: as listed here.

        Returns:
            masks (N, A, 1, *S), scores (N, A), the smallest sufficient area a* (N,) with its mask and score, and more.

        Raises:
            TypeError, ValueError: as :meth:`attribute`.
        """
        options = InputSearchSettings.of(settings, ExtremalPerturbation.extremal_masks)
        with open_session(
            self.forward_func,
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            channel_dim=options.channel_dim,
        ) as session:
            warn_of_baselines(baselines, options.chosen_perturbation())
            found = self._search(session, options)
        warn_of_threshold(found)
        return found

    @torch.no_grad()
    def robustness(
        self,
        found: ExtremalMasks,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        others: Tensor | tuple[Tensor, ...] | None = None,
        perturbation: str | Perturbation | None = None,
        channel_dim: int | None = None,
        perturbations_per_eval: int | None = None,
    ) -> Robustness:
        """Do masks keep their value where the input is hidden in another way than the search hid it?

        A mask that works with its own blur alone is an artefact of the model. So each mask, and its binary form of
        exactly the same area, is measured with other blurs, a fade, the content of other images, and noise. No
        gradient is taken: the model need not be differentiable here.

        Args:
            found: the masks of these inputs, of :meth:`extremal_masks`.
            inputs, baselines, target, additional_forward_args: as :meth:`extremal_masks` was given them.
            others: (M, C, *S), or with the channels where the inputs have them: what the hidden positions show in turn;
                values are means over all M. A tuple where the inputs are one. None for one other image of the batch
                each, the nearest before it that differs; where there is none, "others" is left out.
            perturbation: the search's, where it is an object of your own. None for the one that ``found.settings`` say.
            channel_dim: as the search was given it.
            perturbations_per_eval: how many masked copies of each image go through the model at once; None for all,
                2 (A + 1), and twice as many for games of two scores.

        Returns:
            the game's values under P ways of hiding, ``soft`` and ``binary`` (N, A + 1, P), in the last row at a*; in
            per cent of the clean score they are ``soft_percent`` and ``binary_percent``. Of game="delete", whose value
            is minus the score of what remains, 0 % is the best, nothing of the score is left, and -100 % the worst.

        Raises:
            TypeError, ValueError: ``found`` or ``others`` does not fit the inputs, or another argument is bad.

        Examples::

            >>> extremal = ExtremalPerturbation(model)
            >>> found = extremal.extremal_masks(x, target=207)
            >>> robust = extremal.robustness(found, x, target=207)
            >>> robust.names, robust.soft_percent[0, -1]  # at a* of the first image
        """
        with open_session(
            self.forward_func, inputs, target, additional_forward_args, baselines=baselines, channel_dim=channel_dim
        ) as session:
            return robustness_of(session, found, others, perturbation, perturbations_per_eval)

    def _search(self, session: Session, settings: InputSearchSettings, reduce: str | None = None) -> ExtremalMasks:
        family, perturbation = settings.family(), settings.chosen_perturbation()
        layouts = [family.layout(read_axes(x, channel_dim=1)) for x in session.inputs]
        for layout, x in zip(layouts, session.inputs):
            if layout.mask_shape != (1, *x.shape[2:]):
                raise ValueError(f"mask must cover the positions of the input, got {family!r} over its {layout.unit}")
        sought = settings.sought(layouts, family, reduce=reduce)  # checked before the model runs
        settings.check_for(session.images)

        def objective_of(images: Session, differentiable: bool = False) -> Objective:
            return images.objective(
                perturbation.bind,
                perturbations_per_eval=settings.perturbations_per_eval,
                differentiable=differentiable,
            )

        objective = objective_of(session, differentiable=True)  # that of some images is checked with all of them
        changes = [(hidden - x).float() for hidden, x in zip(objective.hidden, session.inputs)]
        contrast = tuple(change.square().sum(1, keepdim=True).sqrt() for change in changes)  # (N, 1, *S)
        about = {"perturbation": repr(perturbation)}
        task = Task(objective, lambda rows: objective_of(session.of_images(rows)), family, layouts, sought)
        return sweep(session, task, settings, self.get_name(), about, contrast)
