"""Extremal perturbations of a layer (section 5): the fewest of its channels that are enough for the model's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from captum.attr import LayerAttribution, PerturbationAttribution
from torch import Tensor, nn

from captum_extremal._captum import BaselineType, TargetType, log_usage
from captum_extremal._state import warn_caller
from captum_extremal.arguments import Tensors, check_baselines
from captum_extremal.attr._base import BaseAttribution
from captum_extremal.attr._groups import groups_of, with_group_mask
from captum_extremal.attr._sweep import Task, sweep, warn_of_optimum, warn_of_scores
from captum_extremal.batch_parts import Parts
from captum_extremal.layers import LayerTail, check_layer, name_of
from captum_extremal.masks import Family, FeatureGroups, GroupMask, Layout, MaskFamily, check_ids, read_axes
from captum_extremal.objective import Known, Objective
from captum_extremal.perturbations.product import masked
from captum_extremal.results import ExtremalMasks
from captum_extremal.results.tensors import as_tuple
from captum_extremal.session import Session, open_session
from captum_extremal.settings import LayerSearchSettings, documents


class LayerExtremalPerturbation(BaseAttribution, LayerAttribution, PerturbationAttribution):
    r"""Find the fewest channels of a layer that are enough for a model's output.

    For each number of channels the mask is sought that, multiplied with the layer's activation, maximally affects the
    output (equation 9, with the area as an exact constraint):

    .. math::

        m_a = argmax_{m \in [0, 1]^K : mean(m) = a} \Phi_{l+}(m \otimes \Phi_l(x))

    and the attribution is the mask of the smallest number whose score reaches that of the whole activation (equation
    10). Masks over the layer's positions are found in the same way.

    Reference: that of :class:`~captum_extremal.ExtremalPerturbation`.

    Args:
        forward_func: the model, or any function of its inputs that calls the layer. Its output has one row per example.
        layer: one of the model's modules, called once in a forward. Before PyTorch 2.6 it must not be inside a part of
            the model that is compiled on its own.
        device_ids: of a ``DataParallel`` model whose ``device_ids`` cannot be read from ``forward_func``.

    Raises:
        TypeError, ValueError: ``layer`` is no module, or none of the model's where ``forward_func`` is a module.

    Examples::

        >>> method = LayerExtremalPerturbation(model, model.features[10])
        >>> heat_map = method.attribute(x, target=207, multiply_by_activation=True).sum(1, keepdim=True)  # equation 11
        >>> found = method.extremal_masks(x, target=207)
        >>> found.optimal_area * found.masks.shape[-1]  # channels
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module, device_ids: list[int] | None = None) -> None:
        check_layer(forward_func, layer)
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        PerturbationAttribution.__init__(self, forward_func)

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel removes one wrapper
    @torch.no_grad()
    @documents(LayerSearchSettings)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        multiply_by_activation: bool = False,
        layer_mask: Tensor | tuple[Tensor, ...] | None = None,
        layer_baselines: BaselineType = None,
        **settings: Any,
    ) -> Tensor | tuple[Tensor, ...]:
        """The mask of the smallest sufficient area a*, in the shape of the layer's activation.

        Where no area reaches the threshold, it is the largest area's mask; where the activation set to zero already
        does, a* is 0 and the mask zero. One warning each counts such images.

        Args:
            inputs: the model's input or a tuple of its inputs, of any type, each with N rows.
            target: which output, in any of Captum's forms. Outputs with positions are averaged over them.
            additional_forward_args: passed on to the model: tensors (N, ...) with one row per example; 0-d tensors and
                everything else stay as they are.
            attribute_to_layer_input: mask what the layer is given instead of what it returns.
            multiply_by_activation: return the masked activation instead of the mask. Its sum over the channels is the
                heat map of equation 11.
            layer_mask: the ids of groups of the layer's values that are kept or hidden together, as in Captum: integers
                of at least 0, not necessarily consecutive, in the activation's shape, or 1 in dimensions over which
                they are repeated, such as (N, L, 1) for an embedding (N, L, D). A tuple where the layer has several
                tensors; an id in several of them is one group. None for masks over channels or positions; with
                ``mask=GroupMask()`` every value is then a group.
            layer_baselines: what hidden values are replaced by: a number, a tensor of the activation's shape (or one
                example of it), or a tuple of these. Default 0, with which the mask is a factor (equation 9).
            **settings: as listed here.

        Returns:
            a tensor like the layer's activation in shape, type and device, contiguous; a tuple where the layer has
            several tensors, each of which has its own mask.

        Raises:
            TypeError, ValueError: an argument is bad, the layer is not called exactly once, or the model's output
                cannot be explained. No search has run then.
        """
        options, at_layer = _options(settings, LayerExtremalPerturbation.attribute, layer_mask, layer_baselines)
        with open_session(self.forward_func, inputs, target, additional_forward_args, layer=self.layer) as session:
            found, here, spread = self._search(session, options, attribute_to_layer_input, at_layer, "extremal")
        warn_of_optimum(found)
        best = found.optimal_mask()
        attributions = []
        for x, values in zip(here.inputs, spread(as_tuple(best))):
            attribution = values * x if multiply_by_activation else values.expand_as(x)
            attributions.append(attribution.to(x.dtype).contiguous())
        return tuple(attributions) if here.is_tuple else attributions[0]

    @torch.no_grad()
    @documents(LayerSearchSettings)
    def extremal_masks(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        layer_mask: Tensor | tuple[Tensor, ...] | None = None,
        layer_baselines: BaselineType = None,
        **settings: Any,
    ) -> ExtremalMasks:
        """The masks of all areas with their scores, and a* with its mask.

        One warning counts the images whose threshold not even the whole activation reaches.

        Args:
            inputs, target, additional_forward_args, attribute_to_layer_input, layer_mask, layer_baselines: as
                :meth:`attribute` takes them.
            **settings: as listed here.

        Returns:
            masks (N, A, K) of channels, (N, A, 1, *S) of positions or (N, A, G) of groups, areas as fractions, scores
            (N, A), a* (N,), and more; the mask of a* over groups is a set of whole groups, with its proof, ``minimal``.
            ``settings["runs"]`` is "tail" where a step runs the layers behind alone, and "model" where it runs the
            whole model; ``settings["not_split"]`` then says why.

        Raises:
            TypeError, ValueError: as :meth:`attribute`.
        """
        options, at_layer = _options(settings, LayerExtremalPerturbation.extremal_masks, layer_mask, layer_baselines)
        found = self._masks_of(inputs, target, additional_forward_args, attribute_to_layer_input, options, at_layer)
        warn_of_scores(found)
        return found

    def _masks_of(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType,
        additional_forward_args: object,
        to_input: bool,
        settings: LayerSearchSettings,
        given: _AtLayer | None = None,
    ) -> ExtremalMasks:
        """:meth:`extremal_masks` without a warning, for callers that count the images themselves."""
        with open_session(self.forward_func, inputs, target, additional_forward_args, layer=self.layer) as session:
            return self._search(session, settings, to_input, given or _AtLayer(None, None))[0]

    def _search(
        self,
        session: Session,
        settings: LayerSearchSettings,
        to_input: bool,
        given: _AtLayer,
        reduce: str | None = None,
    ) -> tuple[ExtremalMasks, Session, Callable[[Tensors], Tensors]]:
        """The result, the session at the layer, and how the masks spread over the layer's tensors."""
        settings.check_for(session.images)
        here = self._at_layer(session, to_input, given)
        mask, tail = settings.family(), cast(LayerTail, here.forward_func)
        groups = groups_of(mask, given.ids, here.inputs, "layer_mask") if isinstance(mask, GroupMask) else None
        if groups is None and settings.channel_dim is None:
            for x in here.inputs:
                _warn_of_layout(self.layer, x)
        family: Family = groups or cast(MaskFamily, mask)
        layouts = [groups.layout()] if groups else _layouts(cast(MaskFamily, mask), settings, here)
        sought = settings.sought(layouts, family, reduce=reduce)  # checked before the model runs again

        def spread_of(of_images: FeatureGroups | None) -> Callable[[Tensors], Tensors]:
            """From masks to what multiplies the tensors."""
            if of_images is not None:
                return of_images.spread
            views = [layout.view for layout in layouts if layout.view]
            return lambda masks: tuple(view(one) for view, one in zip(views, masks))

        def objective_at(layer: Session, of_images: FeatureGroups | None, known: Known | None = None) -> Objective:
            faded = given.baselines is not None
            return layer.objective(
                lambda x, baseline: masked(x, baseline if faded else None),
                [layout.mask_shape for layout in layouts],
                spread_of(of_images),
                perturbations_per_eval=settings.perturbations_per_eval,
                known=known,
            )

        def objective_of(rows: Tensor) -> Objective:
            layer = self._at_layer(session.of_images(rows), to_input, given.of_images(rows))
            return objective_at(layer, groups and groups.of_images(rows), objective.known_of(rows))

        runs = "tail" if tail.is_split else "model"
        about = {"layer": name_of(self.forward_func, self.layer), "runs": runs, "not_split": tail.not_split}
        objective = objective_at(here, groups)
        task = Task(objective, Parts(objective, objective_of), family, layouts, sought)
        return sweep(here, task, settings, self.get_name(), about), here, spread_of(groups)

    def _at_layer(self, session: Session, to_input: bool, given: _AtLayer) -> Session:
        """The session at the layer, with its baselines."""
        here = session.at_layer(self.layer, to_input, self.device_ids)
        return replace(here, baselines=check_baselines(here.inputs, given.baselines, here.is_tuple, "layer_baselines"))


@dataclass(frozen=True)
class _AtLayer:
    """What is given in the shape of the layer's activation, which is not known before the model runs."""

    ids: Tensors | None
    baselines: BaselineType

    def of_images(self, rows: Tensor) -> _AtLayer:
        """The baselines of some images, rows (n,)."""
        if self.baselines is None:
            return self
        parts = self.baselines if isinstance(self.baselines, tuple) else (self.baselines,)
        cut = tuple(b[rows.to(b.device)] if isinstance(b, Tensor) and len(b) > 1 else b for b in parts)
        return replace(self, baselines=cut if isinstance(self.baselines, tuple) else cut[0])


def _options(
    settings: Mapping[str, Any], method: Callable[..., Any], layer_mask: object, layer_baselines: BaselineType
) -> tuple[LayerSearchSettings, _AtLayer]:
    """The settings of a method, and what it was given in the shape of the layer's activation."""
    settings = with_group_mask(settings, "channels", layer_mask, False, "layer_mask")
    ids = None if layer_mask is None else check_ids("layer_mask", layer_mask)
    return LayerSearchSettings.of(settings, method), _AtLayer(ids, layer_baselines)


def _layouts(family: MaskFamily, settings: LayerSearchSettings, here: Session) -> list[Layout]:
    """How masks over channels or positions lie on each of the layer's tensors."""
    where = (settings.channel_dim, settings.prefix_tokens, settings.token_grid)
    return [family.layout(read_axes(x, *where)) for x in here.inputs]


def _warn_of_layout(layer: nn.Module, activation: Tensor) -> None:
    """Warn where the last axis looks like the channels: in Swin transformers, activations are (N, H, W, C)."""
    *others, last = activation.shape[1:]
    if len(others) < 2 or last <= max(others):
        return
    widths = {part.normalized_shape[-1] for part in layer.modules() if isinstance(part, nn.LayerNorm)}
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            widths |= {part.in_features, part.out_features}
    if last in widths or len(set(others)) == 1:
        warn_caller(
            f"the layer's activation of shape {tuple(activation.shape)} is taken to have {others[0]} channels, on axis "
            "1: give channel_dim=-1 where they are the last axis, as in (N, H, W, C), or channel_dim=1 where not"
        )
