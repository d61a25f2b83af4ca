r"""Gradient ascent of images to a goal: that a layer's activation imitates :math:`\Phi_l(x)`, or excites one channel.

Shapes: N images (N, 3, H, W); activations (N, ...) with K channels on one axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_extremal._captum import progress_bar, run_forward
from captum_extremal._checks import check_callable, check_count, check_number
from captum_extremal._state import ForwardPrecision
from captum_extremal.hooks import unwrap
from captum_extremal.inversion.image_prior import Canvas, ImagePrior, random_view
from captum_extremal.layers.activations import capture, check_activation
from captum_extremal.masks import read_axes

Preprocess = Callable[[Tensor], Tensor]  # from RGB images (N, 3, H, W) in [0, 1] to the model's input
Activate = Callable[..., Any]  # :func:`activation_of` of an input, or of an input and ``stop``
View = Callable[[Tensor], Tensor]  # from images to images that are moved, scaled and turned
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation
_FINAL_RATE = 0.1  # of the learning rate, so that the noise of the random views fades at the end
_LEAST_COSINE = 0.1  # below it the dot product alone is followed, whatever its sign
_LEAK = 0.1


def activation_of(
    forward_func: Callable[..., Any], layer: nn.Module, caller: ForwardPrecision, x: Tensor, stop: bool = True
) -> Any:
    """The output of a layer, or the first tensor of it. With ``stop``, what stands behind the layer does not run.

    The inputs x (N, C, H, W) go through one copy of a ``DataParallel`` model, in the caller's autocast state.
    """
    with caller.forward():
        found = capture(layer, lambda: run_forward(unwrap(forward_func), (x,), None, None), stop=stop)
    (output,) = found.values()
    return output[0] if isinstance(output, (tuple, list)) and output else output


def checked_activation(activate: Activate, x: Tensor) -> Tensor:
    """The activation from one run of the whole model, detached, at least in float32, if it can be inverted."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        activation = activate(x, stop=False)
        if not isinstance(activation, Tensor):
            raise TypeError(
                "the layer's output must be a tensor, or a tuple that begins with one, got "
                f"{type(activation).__name__}: choose a layer inside of it"
            )
        check_activation(activation, len(x))
        if not bool(activation.isfinite().all()):
            shape = tuple(activation.shape)
            raise ValueError(f"the layer's output must be finite, got NaN or infinite values in shape {shape}")
        depends = activation.requires_grad and torch.autograd.grad(activation.sum(), x, allow_unused=True)[0]
    if not isinstance(depends, Tensor):
        raise ValueError(
            "layer's output must be differentiable by the inputs, but it carries no gradient: look for detach(), "
            "no_grad() or checkpoints before it"
        )
    return activation.detach().to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class Goal:
    """The direction in which the activation of an image should point.

    ``target`` gives it (N, ...) for images that are seen through a view; None for the images themselves. ``kept`` is 1
    where the activation counts and 0 elsewhere, and broadcasts with activations.
    """

    target: Callable[[View | None], Tensor]
    kept: Tensor

    def compare(self, activation: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The dot products (N,) of activations and targets, and their cosines, where the activation counts."""
        counted, wanted = (activation * self.kept).flatten(1), target.flatten(1)
        dot = (counted * wanted).sum(1)
        norms = torch.linalg.vector_norm(counted, dim=1) * torch.linalg.vector_norm(wanted, dim=1)
        return dot, dot / norms.clamp(min=torch.finfo(norms.dtype).tiny)


def imitate(activate: Activate, x: Tensor, own: Tensor, mask: Tensor | None, channel_dim: int | None) -> Goal:
    r"""Point to :math:`m \otimes \Phi_l(x)`, where ``own`` is :math:`\Phi_l(x)`.

    The view that moves the image moves x too.
    """
    axes = None if mask is None and channel_dim is None else read_axes(own, channel_dim)
    factor = own.new_ones(())
    if mask is not None and axes is not None:
        if mask.shape[1] != axes.channels:
            raise ValueError(
                f"channel_mask must have a value for each of the layer's {axes.channels} channels, got shape "
                f"{tuple(mask.shape)} for an activation of shape {tuple(own.shape)}"
            )
        factor = axes.over_channels(mask.to(own))
    empty = (own * factor == 0).flatten(1).all(1)
    if bool(empty.any()):
        raise ValueError(
            "nothing to invert: the layer's activation, under channel_mask, must not be zero, but it is for images "
            f"{empty.nonzero().flatten().tolist()}"
        )

    def target(view: View | None) -> Tensor:
        if view is None:
            return own * factor
        seen = view(x.to(own.dtype)).to(x.dtype)  # half-precision images cannot be interpolated
        return cast(Tensor, activate(seen).to(own.dtype) * factor)

    return Goal(target, (factor > 0).to(own.dtype))


def excite(own: Tensor, channels: Tensor, channel_dim: int | None) -> Goal:
    """Point to one channel per image, equally at all positions. The dot product is the mean of its activation."""
    axes = read_axes(own, channel_dim)
    if int(channels.max()) >= axes.channels:
        raise ValueError(
            f"channels must be below the layer's number of channels, {axes.channels}, got {channels.tolist()} for "
            f"an activation of shape {tuple(own.shape)}"
        )
    chosen = axes.over_channels(F.one_hot(channels.to(own.device), axes.channels).to(own.dtype))
    direction = (chosen / (own[0].numel() // axes.channels)).expand(own.shape)
    return Goal(lambda view: direction, direction.new_ones(()))


@dataclass(frozen=True)
class Ascent:
    """The settings that the methods of ``FeatureInversion`` share, which documents them, and the search itself."""

    prior: ImagePrior
    cosine_power: float
    steps: int
    learning_rate: float
    preprocess: Preprocess | None
    seed: int
    show_progress: bool

    def __post_init__(self) -> None:
        if not isinstance(self.prior, ImagePrior):
            raise TypeError(f"prior must be an ImagePrior, got {self.prior!r}")
        check_number("cosine_power", self.cosine_power, at_least=0)
        check_count("steps", self.steps)
        check_number("learning_rate", self.learning_rate, above=0)
        check_count("seed", self.seed, at_least=0)
        if self.preprocess is not None:
            check_callable("preprocess", self.preprocess, "images")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {
            "prior": repr(self.prior),
            "cosine_power": float(self.cosine_power),
            "steps": int(self.steps),
            "learning_rate": float(self.learning_rate),
            "preprocess": "ImageNet" if self.preprocess is None else repr(self.preprocess),
            "seed": int(self.seed),
        }

    def input_of(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """The model's input for images in [0, 1]."""
        if self.preprocess is None:
            mean, std = (images.new_tensor(values)[:, None, None] for values in _IMAGENET)
            return ((images - mean) / std).to(dtype)
        found = self.preprocess(images)
        if not isinstance(found, Tensor):
            raise TypeError(f"preprocess must return a tensor, got {type(found).__name__}")
        return found.to(dtype)

    def run(
        self, activate: Activate, goal: Goal, x: Tensor, shape: tuple[int, int], description: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The images (N, 3, H, W), and the dot products (N,) and cosines (N,) of their activations and the goal."""
        generator = torch.Generator().manual_seed(self.seed)
        canvas = Canvas(self.prior, shape, x.new_empty(0, dtype=torch.promote_types(x.dtype, torch.float32)))
        waves = canvas.start(len(x), generator).requires_grad_()
        with torch.enable_grad():
            found = self.input_of(canvas(waves), x.dtype)
        if found.shape != x.shape:
            rule = f"preprocess must turn RGB images (N, 3, H, W) into inputs of shape {tuple(x.shape)}"
            raise ValueError(f"{rule}, got {tuple(found.shape)}")
        if not found.requires_grad:
            raise ValueError("preprocess must be differentiable, but what it returns carries no gradient")

        def see(view: View) -> Tensor:
            return cast(Tensor, activate(self.input_of(view(canvas(waves)), x.dtype)))

        adam = torch.optim.Adam([waves], lr=self.learning_rate)
        with progress_bar(self.show_progress, self.steps, description) as bar:
            for step in range(self.steps):
                adam.param_groups[0]["lr"] = self.learning_rate * _FINAL_RATE ** (step / self.steps)
                view = random_view(self.prior, shape, generator)
                waves.grad = -self._direction(partial(see, view), waves, goal, goal.target(view))
                adam.step()
                bar.update(1)
        images = canvas(waves).detach()
        activation = activate(self.input_of(images, x.dtype)).to(images.dtype)
        return images, *goal.compare(activation, goal.target(None))

    def _direction(self, see: Callable[[], Tensor], waves: Tensor, goal: Goal, target: Tensor) -> Tensor:
        """The gradient of what is maximised. Where an image has none, ReLUs leak."""
        found = self._gradient(see, waves, goal, target)
        silent = (found.flatten(1) == 0).all(1)
        if bool(silent.any()):
            with _LeakyRectifiers():
                leaked = self._gradient(see, waves, goal, target)
            found = torch.where(silent.view(-1, 1, 1, 1, 1), leaked, found)
        return found

    @torch.enable_grad()
    def _gradient(self, see: Callable[[], Tensor], waves: Tensor, goal: Goal, target: Tensor) -> Tensor:
        """The gradient by the waves of what is maximised, up to a positive factor per image."""
        found = see()
        leaf = found.detach().to(target.dtype).requires_grad_()
        dot, cosine = goal.compare(leaf, target)
        maximised = dot * cosine.clamp(min=_LEAST_COSINE) ** self.cosine_power
        (slope,) = torch.autograd.grad(maximised.sum(), leaf)
        # At most 1, which a backward pass in half precision can hold.
        steepest = slope.flatten(1).abs().amax(1).clamp(min=torch.finfo(slope.dtype).tiny)
        slope /= steepest.view(-1, *[1] * (slope.dim() - 1))
        (gradient,) = torch.autograd.grad(found, waves, slope.to(found.dtype))
        return gradient


class _LeakyRectifiers(TorchFunctionMode):
    """Let gradients pass through ReLUs whose output is 0, as for a third of a late layer's channels at first."""

    _RECTIFIERS = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in self._RECTIFIERS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        leak = _LEAK * (x - x.detach())  # 0, but its gradient is not
        return func(*args, **kwargs) + leak
