"""Extremal perturbations of the input (section 3): the smallest part of it that is enough for the model's output."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_extremal._captum import BaselineType, TargetType, TensorOrTupleOfTensorsGeneric, log_usage
from captum_extremal._checks import check_choice
from captum_extremal.arguments import Tensors, warn_of_layout
from captum_extremal.attr._base import BaseAttribution
from captum_extremal.attr._groups import groups_of, has_columns_alone, with_group_mask
from captum_extremal.attr._sweep import Task, sweep, warn_of_optimum, warn_of_scores
from captum_extremal.batch_parts import Parts
from captum_extremal.masks import Family, GroupMask, Layout, MaskFamily, check_ids, read_axes
from captum_extremal.objective import Known, Objective
from captum_extremal.perturbations import BlurPyramid, Perturbation, of_each_input
from captum_extremal.results import ExtremalMasks
from captum_extremal.results.tensors import as_tuple
from captum_extremal.robustness import Robustness, robustness_of
from captum_extremal.session import Bind, Session, open_session
from captum_extremal.settings import InputSearchSettings, documents, warn_of_baselines

Spread = Callable[[Tensors], Tensors]

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

    and the attribution is the mask of the smallest area whose score reaches that of the whole input (equation 3). With
    a ``feature_mask``, and for tables (N, F), masks are over groups of features, which are kept or not kept.

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
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        **settings: Any,
    ) -> TensorOrTupleOfTensorsGeneric:
        """One map for each input: the mask of its smallest sufficient area a*, or a map of all areas.

        Where no area reaches the threshold, it is the largest area's mask; where the fully perturbed input already
        does, a* is 0 and the mask zero. One warning each counts such images.

        Args:
            inputs: (N, C, *S), S of one to three sides, or a tuple of these, each with a mask of area a over S. The
                channels may lie on another axis, see ``channel_dim``. With a ``feature_mask``, floating tensors
                (N, ...) of any shape, with one mask for all of them. What must not be masked goes into
                ``additional_forward_args``.
            baselines: what "fade" fades to: a number, a tensor in the input's shape with any side 1, such as
                (1, C, 1, 1), or a tuple of these. Default 0, the mean colour of a normalised image. The blur does not
                use it, and warns of it.
            target: which output, in any of Captum's forms, of Python's, NumPy's or PyTorch's integers. Outputs with
                positions are averaged over them.
            additional_forward_args: passed on to the model: tensors (N, ...) are repeated along dimension 0 with the
                inputs; 0-d tensors and everything else stay as they are.
            reduce: "extremal" for m_a*, in [0, 1]; "sum" for the pointing map of section 4.2, blurred by 9 % of the
                shorter side; "refined" for :meth:`~captum_extremal.ExtremalMasks.refined_saliency`, in [0, 2], which
                points more exactly at what is smaller than a mask's disks.
            feature_mask: the ids of groups of features that are kept or hidden together, as in Captum: integers of at
                least 0, not necessarily consecutive, in the inputs' shape, or 1 in dimensions over which they are
                repeated, so that examples share them or have their own. A tuple where the inputs are one; an id in
                several tensors is one group. None for masks over positions; of tables (N, F), and with
                ``mask=GroupMask()``, every element is a group.
            **settings: as listed here.

        Returns:
            maps like ``inputs`` in shape, type and device, contiguous, repeated over the channels.

        Raises:
            TypeError, ValueError: an argument is bad, or the model's output cannot be explained.
        """
        check_choice("reduce", reduce, _REDUCTIONS)
        options, ids = _options(settings, ExtremalPerturbation.attribute, inputs, feature_mask)
        if isinstance(options.mask, GroupMask) and reduce == "refined":
            raise ValueError("reduce must be 'extremal' or 'sum' for masks over groups, got 'refined'")
        with self._open(inputs, baselines, target, additional_forward_args, options) as session:
            found, spread = self._search(session, options, ids, reduce)
        if reduce == "extremal":
            warn_of_optimum(found)
        maps = _REDUCTIONS[reduce](found)
        maps = spread(as_tuple(maps))
        return cast(TensorOrTupleOfTensorsGeneric, session.like_inputs(maps))

    @torch.no_grad()
    @documents(InputSearchSettings)
    def extremal_masks(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        **settings: Any,
    ) -> ExtremalMasks:
        """The masks of all areas with their scores, and a* with its mask.

        One warning counts the images whose threshold not even the whole input reaches.

        Args:
            inputs, baselines, target, additional_forward_args, feature_mask: as :meth:`attribute` takes them.
            **settings: as listed here.

        Returns:
            masks (N, A, 1, *S), scores (N, A), the smallest sufficient area a* (N,) with its mask and score, and more.
            Masks over groups are (N, A, G); the mask of a* is then a set of whole groups, with its proof, ``minimal``.

        Raises:
            TypeError, ValueError: as :meth:`attribute`.
        """
        options, ids = _options(settings, ExtremalPerturbation.extremal_masks, inputs, feature_mask)
        with self._open(inputs, baselines, target, additional_forward_args, options) as session:
            found, _ = self._search(session, options, ids)
        warn_of_scores(found)
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

    @contextmanager
    def _open(
        self,
        inputs: Any,
        baselines: BaselineType,
        target: TargetType,
        additional_forward_args: object,
        settings: InputSearchSettings,
    ) -> Iterator[Session]:
        given = (self.forward_func, inputs, target, additional_forward_args)
        grouped = isinstance(settings.mask, GroupMask)
        where: dict[str, Any] = {"grouped": True} if grouped else {"channel_dim": settings.channel_dim}
        with open_session(*given, baselines=baselines, **where) as session:
            warn_of_baselines(baselines, settings.chosen_perturbation())
            yield session

    def _search(
        self, session: Session, settings: InputSearchSettings, ids: Tensors | None, reduce: str | None = None
    ) -> tuple[ExtremalMasks, Spread]:
        """The result, and how its masks spread over the inputs."""
        settings.check_for(session.images)
        perturbation, mask = settings.chosen_perturbation(), settings.family()
        groups = groups_of(mask, ids, session.inputs, "feature_mask") if isinstance(mask, GroupMask) else None
        family: Family = groups or cast(MaskFamily, mask)
        layouts = [groups.layout()] if groups else _layouts_of_positions(cast(MaskFamily, mask), session)
        sought = settings.sought(layouts, family, reduce=reduce)  # checked before the model runs

        def objective_at(images: Session, spread: Spread | None, known: Known | None = None) -> Objective:
            return images.objective(
                _binds(perturbation, images, groups is not None and known is None),
                [layout.mask_shape for layout in layouts],
                spread,
                perturbations_per_eval=settings.perturbations_per_eval,
                known=known,
            )

        def objective_of(rows: Tensor) -> Objective:
            spread = groups.of_images(rows).spread if groups else None
            return objective_at(session.of_images(rows), spread, objective.known_of(rows))

        objective = objective_at(session, groups.spread if groups else None)
        task = Task(objective, Parts(objective, objective_of), family, layouts, sought)
        contrast = None if groups else tuple(map(_contrast, objective.hidden, session.inputs))
        found = sweep(session, task, settings, self.get_name(), {"perturbation": repr(perturbation)}, contrast)
        return found, groups.spread if groups else lambda maps: maps


def _options(
    settings: Mapping[str, Any], method: Callable[..., Any], inputs: object, feature_mask: object
) -> tuple[InputSearchSettings, Tensors | None]:
    """The settings of a method, and the checked ids of the feature mask."""
    settings = with_group_mask(settings, None, feature_mask, has_columns_alone(inputs), "feature_mask")
    ids = None if feature_mask is None else check_ids("feature_mask", feature_mask)
    return InputSearchSettings.of(settings, method), ids


def _layouts_of_positions(family: MaskFamily, session: Session) -> list[Layout]:
    """How masks lie on the positions of the inputs."""
    layouts = [family.layout(read_axes(x, channel_dim=1)) for x in session.inputs]
    for layout, x in zip(layouts, session.inputs):
        if layout.mask_shape != (1, *x.shape[2:]):
            raise ValueError(f"mask must cover the positions of the input, got {family!r} over its {layout.unit}")
    return layouts


def _binds(perturbation: Perturbation, session: Session, grouped: bool) -> list[Bind]:
    """What binds the perturbation to each of the inputs."""
    if isinstance(perturbation, BlurPyramid) and any(x.dim() < 3 for x in session.inputs):
        shapes = [tuple(x.shape) for x in session.inputs]
        raise ValueError(f"perturbation 'blur' needs inputs (N, C, *S) with positions, got {shapes}: use 'fade'")
    if isinstance(perturbation, BlurPyramid) and grouped:
        for x in session.inputs:
            warn_of_layout("inputs", x)
    return [one.bind for one in of_each_input(perturbation, len(session.inputs))]


def _contrast(hidden: Tensor, x: Tensor) -> Tensor:
    """How far each position (N, 1, *S) is from what hides it and from the mean of its input: the geometric mean.

    The hole of a letter is as far from its blurred version as the letter is, but nearer to the mean.
    """
    hiding = hidden.view(-1, *x.shape).mean(0) if len(hidden) > len(x) else hidden
    mean = x.float().reshape(*x.shape[:2], -1).mean(2).view(*x.shape[:2], *[1] * (x.dim() - 2))
    squares = [(x.float() - other.float()).square().sum(1, keepdim=True) for other in (hiding, mean)]
    return squares[0].pow(0.25) * squares[1].pow(0.25)
