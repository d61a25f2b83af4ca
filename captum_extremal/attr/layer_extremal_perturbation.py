"""Extremal perturbations of a layer (section 5): the fewest of its channels that are enough for the model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from captum.attr import LayerAttribution, PerturbationAttribution
from torch import Tensor, nn

from captum_extremal._captum import TargetType, format_output, log_usage
from captum_extremal._state import ForwardPrecision, as_plain, preserve_state
from captum_extremal.attr import _inputs as check
from captum_extremal.attr._layer_inputs import (
    LayerMasks,
    as_layer_family,
    as_layer_solver,
    check_examples,
    check_layer_areas,
    fractions_of,
)
from captum_extremal.attr._sweep import Callback, Sweep, warn_unreached
from captum_extremal.layers import LayerTail, check_layer, name_of
from captum_extremal.layers.axes import check_axes, masked, read_axes
from captum_extremal.masks import MaskFamily
from captum_extremal.objective import Objective
from captum_extremal.results import ExtremalMasks, ScoreThreshold, check_threshold
from captum_extremal.search.games import Game, as_game
from captum_extremal.search.problem import Solver


class LayerExtremalPerturbation(LayerAttribution, PerturbationAttribution):
    r"""Find the fewest channels of a layer that are enough for a model's output.

    For each number of channels the mask is sought that, multiplied with the layer's activation, maximally affects the
    output (equation 9, with the area as an exact constraint):

    .. math::

        m_a = argmax_{m \in [0, 1]^K : mean(m) = a} \Phi_{l+}(m \otimes \Phi_l(x))

    and the attribution is the mask of the smallest number whose score reaches that of the whole activation (equation
    10). Masks over the layer's positions are found in the same way.

    Reference: R. Fong, M. Patrick, A. Vedaldi, *Understanding Deep Networks via Extremal Perturbations and Smooth
    Masks*, ICCV 2019.

    Args:
        forward_func: the model, or any function of its inputs that calls the layer. Its output must have a row an
            example.
        layer: one of the model's modules, called once in a forward. Before PyTorch 2.6 it must not be inside a part of
            the model that is compiled on its own.
        device_ids: of a ``DataParallel`` model whose ``device_ids`` cannot be read from ``forward_func``.

    Examples::

        >>> method = LayerExtremalPerturbation(model, model.features[10])
        >>> heat_map = method.attribute(x, target=207, multiply_by_activation=True).sum(1, keepdim=True)  # equation 11
        >>> found = method.extremal_masks(x, target=207)
        >>> found.optimal_area * found.masks.shape[-1]  # channels
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module, device_ids: list[int] | None = None) -> None:
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        PerturbationAttribution.__init__(self, forward_func)

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: a mask says what is kept, and is no score that was multiplied by the activation."""
        return False

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError("attribute_future is not implemented for LayerExtremalPerturbation")

    @log_usage(part_of_slo=True)  # outermost: NoiseTunnel peels off one wrapper
    @torch.no_grad()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        areas: float | Sequence[float] | Tensor | None = None,
        game: str | Game = "preserve",
        mask: str | MaskFamily = "channels",
        channel_dim: int | None = None,
        prefix_tokens: int = 0,
        token_grid: tuple[int, ...] | None = None,
        solver: str | Solver = "path",
        score_threshold: ScoreThreshold = None,
        multiply_by_activation: bool = False,
        perturbations_per_eval: int | None = None,
        callback: Callback | None = None,
        show_progress: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """The mask of the smallest sufficient area a*, in the shape of the layer's activation.

        Where no area reaches the threshold, the largest area's mask is returned, and one warning counts the images.

        Args:
            inputs: the model's input or a tuple of its inputs, of any type, each with N rows.
            target: which output, in any of Captum's forms. Outputs with positions are averaged over them.
            additional_forward_args: passed on to the model: tensors (N, ...) with a row an example, 0-d tensors and
                whatever is no tensor as they are.
            attribute_to_layer_input: mask what the layer is given instead of what it returns.
            areas: strictly increasing, all integers, numbers of channels (of positions for masks over them), or all
                floats, fractions in (0, 1]: 1 is one channel, 1.0 all of them. None for the paper's 1, 5, 10, 20, 25,
                35, 40, 50, 60, 70, 80, 90, 100, 150, 200, ... and all channels; for masks over positions 0.05, 0.1,
                0.2, 0.4, 0.6, 0.8, 1.0, where a mask can be as small.
            game: "preserve", "delete", "hybrid", or a :class:`~captum_extremal.games.Game` (section 3.2).
            mask: "channels" (equation 9), "spatial" for smooth masks over the layer's positions, or a mask family. The
                lengths of a :class:`~captum_extremal.SmoothMask` are in positions of the layer.
            channel_dim: the axis of the layer's activation that holds the channels, of a transformer the embedding.
                None is 1, but activations of three dimensions need it: 1 for signals (N, channels, positions), -1 for
                tokens (N, tokens, embedding).
            prefix_tokens: of masks over a transformer's tokens, how many stand before the image's and are always kept.
            token_grid: of masks over tokens, the shape in which they lie in the image, such as (14, 14); None for a
                sequence.
            solver: "path", "penalty" (the paper's, many times slower), or an object that carries its own settings.
            score_threshold: Phi_0 of equation 10, in units of the game's value: None for its value at the mask that
                keeps everything, a number, one number an image (N,), or a callable ``(clean, perturbed) -> (N,)``
                of the scores of the activation and of the one set to zero.
            multiply_by_activation: return the masked activation instead of the mask. Its sum over the channels is the
                heat map of equation 11.
            perturbations_per_eval: how many masks of each image go through the model at once; None for all.
            callback: called after each step with its number, the areas (R,) and the game's values there (N, R).
            show_progress: draw a progress bar.

        Returns:
            a tensor like the layer's activation: same shape, type and device, contiguous; a tuple where the layer has
            several tensors, each of which has its own mask.

        Raises:
            TypeError, ValueError: an argument breaks a rule above (before the search), the layer is not called exactly
                once, or the model's output cannot be explained.
        """
        found, activation, masks_of = self._search(
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            areas=areas,
            game=game,
            mask=mask,
            channel_dim=channel_dim,
            prefix_tokens=prefix_tokens,
            token_grid=token_grid,
            solver=solver,
            score_threshold=score_threshold,
            perturbations_per_eval=perturbations_per_eval,
            callback=callback,
            show_progress=show_progress,
        )
        warn_unreached(found)
        best = found.optimal_mask()
        attributions = []
        for x, of_layer, one in zip(activation, masks_of, best if isinstance(best, tuple) else (best,)):
            values = of_layer.view(one)
            attribution = values * x if multiply_by_activation else values.expand_as(x)
            attributions.append(attribution.to(x.dtype).contiguous())
        return cast("Tensor | tuple[Tensor, ...]", format_output(len(attributions) > 1, tuple(attributions)))

    @torch.no_grad()
    def extremal_masks(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        areas: float | Sequence[float] | Tensor | None = None,
        game: str | Game = "preserve",
        mask: str | MaskFamily = "channels",
        channel_dim: int | None = None,
        prefix_tokens: int = 0,
        token_grid: tuple[int, ...] | None = None,
        solver: str | Solver = "path",
        score_threshold: ScoreThreshold = None,
        perturbations_per_eval: int | None = None,
        callback: Callback | None = None,
        show_progress: bool = False,
    ) -> ExtremalMasks:
        """The masks of all areas with their scores: what :meth:`attribute` chooses from.

        Args and Raises: as :meth:`attribute`.

        Returns:
            masks (N, A, K) of channels or (N, A, 1, *S) of positions, areas as fractions, scores (N, A), a* (N,), and
            more. ``settings["runs"]`` says whether a step runs "the layers behind" or "the whole model".
        """
        return self._search(
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            areas=areas,
            game=game,
            mask=mask,
            channel_dim=channel_dim,
            prefix_tokens=prefix_tokens,
            token_grid=token_grid,
            solver=solver,
            score_threshold=score_threshold,
            perturbations_per_eval=perturbations_per_eval,
            callback=callback,
            show_progress=show_progress,
        )[0]

    def _search(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType,
        additional_forward_args: object,
        attribute_to_layer_input: bool,
        *,
        areas: float | Sequence[float] | Tensor | None,
        game: str | Game,
        mask: str | MaskFamily,
        channel_dim: int | None,
        prefix_tokens: int,
        token_grid: tuple[int, ...] | None,
        solver: str | Solver,
        score_threshold: ScoreThreshold,
        perturbations_per_eval: int | None,
        callback: Callback | None,
        show_progress: bool,
    ) -> tuple[ExtremalMasks, tuple[Tensor, ...], list[LayerMasks]]:
        """The sweep, the activation that it masked, and how its masks lie over each tensor of it."""
        tensors = check_examples(inputs)
        images, device = len(tensors[0]), tensors[0].device
        check_layer(self.forward_func, self.layer)
        target = check.check_target(target, images)
        check.check_arguments(additional_forward_args, images)
        check.check_perturbations_per_eval(perturbations_per_eval)
        check.check_callback(callback)
        check_threshold(score_threshold, images)
        family = as_layer_family(mask)
        wanted = check_layer_areas(areas)
        check_axes(channel_dim, prefix_tokens, token_grid)
        chosen_game, chosen_solver = as_game(game), as_layer_solver(solver)
        caller = ForwardPrecision(device)
        with torch.inference_mode(False), torch.no_grad(), caller.ours(), preserve_state(self.forward_func, device):
            tail = LayerTail(
                self.forward_func,
                self.layer,
                tuple(as_plain(x.detach()) for x in tensors),
                as_plain(additional_forward_args),
                attribute_to_layer_input,
                self.device_ids,
                caller,
            )
            dtype = torch.float64 if tail.activation[0].dtype == torch.float64 else torch.float32
            axes = [read_axes(x, channel_dim, prefix_tokens, token_grid) for x in tail.activation]
            masks_of = [LayerMasks(family, of_tensor) for of_tensor in axes]
            fractions = fractions_of(wanted, masks_of)
            objective = Objective(
                tail,
                tail.activation,
                tuple(masked(x.to(dtype), of_layer.view) for x, of_layer in zip(tail.activation, masks_of)),
                as_plain(target),
                None,
                perturbations_per_eval,
                caller,
                mask_shapes=tuple(of_layer.mask_shape for of_layer in masks_of),
            )
            bounds = [family.bind_areas(of_layer.shape, device, dtype, fractions) for of_layer in masks_of]
            sweep = Sweep(
                objective,
                list(zip(*bounds)),
                fractions,
                chosen_game,
                chosen_solver,
                score_threshold,
                callback,
                show_progress,
                self.get_name(),
            )
            how = {
                "layer": name_of(self.forward_func, self.layer),
                "mask": repr(family),
                "runs": "the layers behind" if tail.is_split else "the whole model",
            }
            return sweep.run(len(tail.activation) > 1, how), tail.activation, masks_of
