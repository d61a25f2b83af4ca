r"""Feature inversion (equation 12): the image that a layer's activation, or single channels of it, call for.

.. math::

    I^* = argmax_I (m \otimes \Phi_l(x)) \cdot \Phi_l(I)

Equation 12 alone is largest for loud noise that no person can read. So the image is spanned by the waves of
natural images (:class:`ImagePrior`), it is shown to the network a little moved, scaled and turned at every step, and
the dot product is multiplied by a power of the cosine similarity, which asks for this activation, not for a large one.

Shapes: N images (N, 3, H, W); activations (N, ...) with K channels on one axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_extremal._captum import progress_bar, run_forward
from captum_extremal._checks import check_callable, check_count, check_number
from captum_extremal._state import ForwardPrecision, as_plain, modules_of, preserve_state
from captum_extremal.hooks import unwrap
from captum_extremal.inversion.image_prior import Canvas, ImagePrior, random_view
from captum_extremal.layers import check_layer
from captum_extremal.masks.axes import check_axes, read_axes

Preprocess = Callable[[Tensor], Tensor]
"""From RGB images (N, 3, H, W) in [0, 1] to the model's input."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_FINAL_RATE = 0.1  # of the learning rate: what the network's random views stir up settles at the end
_LEAST_COSINE = 0.1  # below it the dot product alone is followed, whatever its sign


@dataclass(frozen=True, eq=False, repr=False)
class InvertedFeatures:
    """Images that excite a layer as they were asked to.

    Attributes:
        images: (N, 3, H, W), RGB in [0, 1].
        dot_products: (N,), the value of equation 12 at each image; for a channel the mean of its activation.
        cosine_similarities: (N,), of the same two activations, over the channels that the mask keeps.
        input_dot_products: (N,), the value of equation 12 at x itself, to compare with; None for single channels.
        settings: how the images were made; plain values.
    """

    images: Tensor
    dot_products: Tensor
    cosine_similarities: Tensor
    input_dot_products: Tensor | None
    settings: dict[str, Any]

    def __repr__(self) -> str:
        shape = tuple(self.images.shape)
        dots, cosines = (
            [round(value, 4) for value in t.tolist()] for t in (self.dot_products, self.cosine_similarities)
        )
        return f"InvertedFeatures(images={shape}, dot_products={dots}, cosine_similarities={cosines})"


class FeatureInversion:
    """See what a layer has seen: equation 12 by gradient ascent, with a prior of natural images.

    Args:
        forward_func: the model, or any function that calls it. Images go through one copy of a ``DataParallel`` model.
        layer: the module whose output is inverted. Where it returns a tuple, the first tensor counts. The rest of the
            model behind it runs once only.

    Raises:
        TypeError, ValueError: ``forward_func`` cannot be called, or ``layer`` is no module of it.

    Examples::

        >>> found = FeatureInversion(model, model.layer3).invert(x)
        >>> found.images, found.cosine_similarities
        >>> FeatureInversion(model, model.layer3).invert_channels([3, 17]).images
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module) -> None:
        check_callable("forward_func", forward_func, "inputs")
        check_layer(forward_func, layer)
        self.forward_func = forward_func
        self.layer = layer

    def invert(
        self,
        inputs: Tensor,
        *,
        channel_mask: Tensor | None = None,
        channel_dim: int | None = None,
        prior: ImagePrior | None = None,
        cosine_power: float = 4.0,
        steps: int = 192,
        learning_rate: float = 0.1,
        preprocess: Preprocess | None = None,
        seed: int = 0,
        show_progress: bool = False,
    ) -> InvertedFeatures:
        r"""The images I that maximise :math:`(m \otimes \Phi_l(x)) \cdot \Phi_l(I)`, times a power of their cosine.

        An image of a batch comes out as it would alone, to rounding.

        Args:
            inputs: x (N, C, H, W), as the model takes it. The images get its H and W.
            channel_mask: m (N, K) in [0, 1], such as :class:`~captum_extremal.ExtremalMasks` hold; None keeps all. What
                an image excites in channels that are removed (m = 0) does not count.
            channel_dim: which dimension of the layer's output holds its K channels; None for 1, but of outputs of three
                dimensions, which may be signals (1) or tokens (-1).
            prior: of the images; default :class:`ImagePrior`.
            cosine_power: 0 for equation 12 alone. The larger it is, the more the image is like x to the layer, and the
                less it exaggerates.
            steps: a forward and a backward pass of the images up to the layer, and a forward pass of x, for each.
            learning_rate: of Adam, in standard deviations of a wave; it falls to a tenth.
            preprocess: from RGB in [0, 1], (N, 3, H, W), to the model's input, such as
                ``torchvision.transforms.Normalize(mean, std)``; default ImageNet's normalisation.
            seed: of the first image and of its views; on CUDA it gives the same images to rounding only.
            show_progress: draw a progress bar.

        Returns:
            images (N, 3, H, W) in float32 (float64 if ``inputs`` are) with their dot products and similarities.

        Raises:
            TypeError, ValueError: an argument breaks a rule above, the layer is not called exactly once, its output is
                no tensor with a row an image, or nothing of its activation is left under the mask.
        """
        _check_inputs(inputs)
        _check_channel_mask(channel_mask, len(inputs))
        check_axes(channel_dim)
        settings = _Settings(_as_prior(prior), cosine_power, steps, learning_rate, preprocess, seed, show_progress)
        device = inputs.device
        caller = ForwardPrecision(device)
        with _ours(self.forward_func, device, caller), _Activation(self.forward_func, self.layer, caller) as activate:
            x = as_plain(inputs.detach())
            goal = _Imitate(activate, x, as_plain(channel_mask), channel_dim)
            ascent = _Ascent(settings, activate, goal, x, (x.shape[2], x.shape[3]))
            return ascent.run(f"inversion of {type(self.layer).__name__}", goal.own_dot_products())

    def invert_channels(
        self,
        channels: int | Sequence[int] | Tensor,
        *,
        size: int | tuple[int, int] = 128,
        channel_dim: int | None = None,
        prior: ImagePrior | None = None,
        cosine_power: float = 0.0,
        steps: int = 192,
        learning_rate: float = 0.1,
        preprocess: Preprocess | None = None,
        seed: int = 0,
        show_progress: bool = False,
    ) -> InvertedFeatures:
        """What excites single channels: for each of them the image with the highest mean activation of it.

        Args:
            channels: N indices of the layer's channels.
            size: of the images in pixels: the side of a square, or (H, W).
            cosine_power: above 0, the other channels are kept quiet, and the channel even over its positions.
            channel_dim, prior, steps, learning_rate, preprocess, seed, show_progress: as in :meth:`invert`.

        Returns:
            images (N, 3, H, W), one a channel, with its mean activations as dot products.

        Raises:
            TypeError, ValueError: as :meth:`invert`, or the layer does not have these channels.
        """
        indices = _as_indices(channels)
        height, width = _as_size(size)
        check_axes(channel_dim)
        settings = _Settings(_as_prior(prior), cosine_power, steps, learning_rate, preprocess, seed, show_progress)
        like = _parameter_of(self.forward_func, self.layer)
        caller = ForwardPrecision(like.device)
        with (
            _ours(self.forward_func, like.device, caller),
            _Activation(self.forward_func, self.layer, caller) as activate,
        ):
            grey = like.new_full((len(indices), 3, height, width), 0.5, dtype=_working_dtype(like))
            x = settings.input_of(grey).to(like.dtype)
            goal = _Excite(activate, x, indices, channel_dim)
            ascent = _Ascent(settings, activate, goal, x, (height, width))
            return ascent.run(f"channels of {type(self.layer).__name__}", None)


@contextmanager
def _ours(forward_func: Callable[..., Any], device: torch.device, caller: ForwardPrecision) -> Iterator[None]:
    """No gradients, no autocast, no inference mode, and nothing of the caller's changed afterwards."""
    with torch.inference_mode(False), torch.no_grad(), caller.ours(), preserve_state(forward_func, device):
        yield


@dataclass(frozen=True)
class _Settings:
    """What both methods are told."""

    prior: ImagePrior
    cosine_power: float
    steps: int
    learning_rate: float
    preprocess: Preprocess | None
    seed: int
    show_progress: bool

    def __post_init__(self) -> None:
        check_number("cosine_power", self.cosine_power, at_least=0)
        check_count("steps", self.steps)
        check_number("learning_rate", self.learning_rate, above=0)
        check_count("seed", self.seed, at_least=0)
        if self.preprocess is not None:
            check_callable("preprocess", self.preprocess, "images")

    def input_of(self, images: Tensor) -> Tensor:
        """The model's input for images in [0, 1]."""
        if self.preprocess is None:
            mean, std = (images.new_tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))
            return (images - mean) / std
        found = self.preprocess(images)
        if not isinstance(found, Tensor):
            raise TypeError(f"preprocess must return a tensor, got {type(found).__name__}")
        return found

    def as_dict(self) -> dict[str, Any]:
        return {
            "prior": repr(self.prior),
            "cosine_power": float(self.cosine_power),
            "steps": int(self.steps),
            "learning_rate": float(self.learning_rate),
            "preprocess": "ImageNet" if self.preprocess is None else repr(self.preprocess),
            "seed": int(self.seed),
        }


# The layer


class _Reached(BaseException):
    """Ends a forward pass at the layer. Not an Exception, so that no model takes it for a mistake of its own."""


class _Activation:
    r""":math:`\Phi_l`: from the model's inputs to the layer's activation. A context: outside of it there is no hook."""

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module, caller: ForwardPrecision) -> None:
        self._forward_func = unwrap(forward_func)
        self._layer = layer
        self._caller = caller
        self._seen: list[Any] = []
        self._listening = self._whole = False

    def __enter__(self) -> _Activation:
        self._handle = self._layer.register_forward_hook(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()
        self._seen.clear()

    def _see(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if not self._listening:  # a checkpoint that calls the layer again in the backward pass
            return
        value = _first(output)
        # In the whole model a layer behind this one may overwrite its output.
        self._seen.append(value.clone() if isinstance(value, Tensor) else value)
        if not self._whole:
            raise _Reached

    def __call__(self, x: Tensor) -> Tensor:
        """The activation of inputs x, as the caller's precision has it; nothing behind the layer runs."""
        self._run(x, whole=False)
        found: Tensor = self._seen.pop()
        return found

    def _run(self, x: Tensor, whole: bool) -> None:
        self._seen.clear()
        self._listening, self._whole = True, whole
        try:
            with self._caller.forward():
                run_forward(self._forward_func, (x,), None, None)
        except _Reached:
            pass
        finally:
            self._listening = False

    def checked(self, x: Tensor) -> Tensor:
        """The activation of inputs x from one run of the whole model, detached.

        Raises:
            TypeError, ValueError: the layer is not called exactly once, or its output cannot be inverted.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            self._run(x, whole=True)
            name = type(self._layer).__name__
            if not self._seen:
                raise ValueError(f"layer must be called by the model, but its {name} was not")
            if len(self._seen) > 1:
                raise ValueError(
                    f"layer must be called once in a forward of the model, but its {name} was called "
                    f"{len(self._seen)} times"
                )
            activation = self._seen.pop()
            _check_activation(activation, len(x))
            depends = activation.requires_grad and torch.autograd.grad(activation.sum(), x, allow_unused=True)[0]
        if not isinstance(depends, Tensor):
            raise ValueError(
                "layer's output must be differentiable by the inputs, but it carries no gradient: look for detach(), "
                "no_grad() or checkpoints before it"
            )
        found: Tensor = activation.detach()
        return found


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) and output else output


def _check_activation(activation: Any, images: int) -> None:
    name = "the layer's output"
    if not isinstance(activation, Tensor):
        raise TypeError(
            f"{name} must be a tensor, or a tuple that begins with one, got {type(activation).__name__}: choose a "
            "layer inside of it"
        )
    if not activation.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {activation.dtype}")
    if activation.dim() < 2 or len(activation) != images:
        raise ValueError(
            f"{name} must have a row for each of {images} images and at least one more dimension, got shape "
            f"{tuple(activation.shape)}"
        )
    if not bool(activation.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite values in shape {tuple(activation.shape)}")


class _LeakyRectifiers(TorchFunctionMode):
    """Let gradients through ReLUs at rest, whose values stay as they are.

    A third of the channels of a late layer see nothing at all in a first image, and would never get a gradient.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _RECTIFIERS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        leak = _LEAK * (x - x.detach())  # 0, but not its gradient
        return func(*args, **kwargs) + leak


_RECTIFIERS = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh}
_LEAK = 0.1


# What is asked of the activation


class _Goal(Protocol):
    """Where an activation should point."""

    kept: Tensor | None
    """1 where the activation counts, 0 elsewhere; None for everywhere."""

    def target(self, view: Callable[[Tensor], Tensor] | None) -> Tensor:
        """The direction for images that are seen through a view; None for the images as they are."""


class _Imitate:
    r"""Point to :math:`m \otimes \Phi_l(x)`.

    When the image is moved, so is x, and the layer is asked for what it sees in both at the same place.
    """

    def __init__(self, activate: _Activation, x: Tensor, mask: Tensor | None, channel_dim: int | None) -> None:
        activation = activate.checked(x)
        self._activate, self._x, self._dtype = activate, x, _working_dtype(x)
        self._own = activation.to(self._dtype)
        self._mask: Tensor | None = None
        self.kept: Tensor | None = None
        if mask is None and channel_dim is not None:
            read_axes(activation, channel_dim)  # it plays no part, but must be right
        if mask is not None:
            axes = read_axes(activation, channel_dim)
            if mask.shape[1] != axes.channels:
                raise ValueError(
                    f"channel_mask must have a value for each of the layer's {axes.channels} channels, got shape "
                    f"{tuple(mask.shape)} for an activation of shape {tuple(activation.shape)}"
                )
            self._mask = axes.over_channels(mask.to(self._own))
            self.kept = (self._mask > 0).to(self._dtype)
        empty = (self.target(None).flatten(1) == 0).all(1)
        if bool(empty.any()):
            raise ValueError(
                "nothing to invert: the layer's activation, under channel_mask, must not be zero, but it is for images "
                f"{empty.nonzero().flatten().tolist()}"
            )

    def target(self, view: Callable[[Tensor], Tensor] | None) -> Tensor:
        activation = self._own
        if view is not None:
            seen = view(self._x.to(self._dtype)).to(self._x.dtype)  # half-precision images cannot be interpolated
            activation = self._activate(seen).to(self._dtype)
        return activation if self._mask is None else activation * self._mask

    def own_dot_products(self) -> Tensor:
        """Equation 12 at x itself (N,)."""
        return _compare(self._own, self.target(None), self.kept)[0]


class _Excite:
    """Point to one channel an image, everywhere alike; the dot product is the mean of its activation."""

    kept: Tensor | None = None

    def __init__(self, activate: _Activation, x: Tensor, channels: Tensor, channel_dim: int | None) -> None:
        activation = activate.checked(x)
        axes = read_axes(activation, channel_dim)
        if int(channels.max()) >= axes.channels:
            raise ValueError(
                f"channels must be below the layer's number of channels, {axes.channels}, got {channels.tolist()} for "
                f"an activation of shape {tuple(activation.shape)}"
            )
        chosen = F.one_hot(channels.to(activation.device), axes.channels).to(_working_dtype(x))
        positions = activation[0].numel() // axes.channels
        self._target = (axes.over_channels(chosen) / positions).expand(activation.shape)

    def target(self, view: Callable[[Tensor], Tensor] | None) -> Tensor:
        return self._target


def _compare(activation: Tensor, target: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """The dot product (N,) of activations (N, ...) and targets, and their cosine where the activation counts."""
    counted = (activation if kept is None else activation * kept).flatten(1)
    dot = (counted * target.flatten(1)).sum(1)
    norms = torch.linalg.vector_norm(counted, dim=1) * torch.linalg.vector_norm(target.flatten(1), dim=1)
    return dot, dot / norms.clamp(min=torch.finfo(norms.dtype).tiny)


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# The search


class _Ascent:
    """Adam on the waves of N images."""

    def __init__(
        self, settings: _Settings, activate: _Activation, goal: _Goal, x: Tensor, shape: tuple[int, int]
    ) -> None:
        self._settings, self._activate, self._goal, self._x, self._shape = settings, activate, goal, x, shape
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._canvas = Canvas(settings.prior, self._shape, x.new_empty(0, dtype=_working_dtype(x)))
        self._waves = self._canvas.start(len(x), self._generator).requires_grad_()
        self._check_preprocess()

    def run(self, description: str, input_dot_products: Tensor | None) -> InvertedFeatures:
        settings = self._settings
        adam = torch.optim.Adam([self._waves], lr=settings.learning_rate)
        with progress_bar(settings.show_progress, settings.steps, description) as bar:
            for step in range(settings.steps):
                adam.param_groups[0]["lr"] = settings.learning_rate * _FINAL_RATE ** (step / settings.steps)
                self._waves.grad = -self._gradient()
                adam.step()
                bar.update(1)
        images = self._canvas(self._waves)
        activation = self._activate(self._input_of(images)).to(images.dtype)
        dots, cosines = _compare(activation, self._goal.target(None), self._goal.kept)
        return InvertedFeatures(images.detach(), dots, cosines, input_dot_products, settings.as_dict())

    def _gradient(self) -> Tensor:
        """The direction in which the waves ascend, at a random view of the images."""
        view = random_view(self._settings.prior, self._shape, self._generator)
        target = self._goal.target(view)
        found = self._gradient_at(view, target)
        silent = (found.flatten(1) == 0).all(1)
        if bool(silent.any()):
            with _LeakyRectifiers():
                leaked = self._gradient_at(view, target)
            found = torch.where(silent.view(-1, 1, 1, 1, 1), leaked, found)
        return found

    def _gradient_at(self, view: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
        with torch.enable_grad():
            activation = self._activate(self._input_of(view(self._canvas(self._waves))))
            (found,) = torch.autograd.grad(activation, self._waves, self._uphill(activation.detach(), target))
        return found

    def _uphill(self, activation: Tensor, target: Tensor) -> Tensor:
        """The gradient of what is maximised by the activation, at most 1, which suits a half-precision backward too."""
        leaf = activation.to(target.dtype).requires_grad_()
        dot, cosine = _compare(leaf, target, self._goal.kept)
        reward = dot * cosine.clamp(min=_LEAST_COSINE) ** self._settings.cosine_power
        (slope,) = torch.autograd.grad(reward.sum(), leaf)
        steepest = slope.flatten(1).abs().amax(1).clamp(min=torch.finfo(slope.dtype).tiny)
        return (slope / steepest.view(-1, *[1] * (slope.dim() - 1))).to(activation.dtype)

    def _input_of(self, images: Tensor) -> Tensor:
        return self._settings.input_of(images).to(self._x.dtype)

    def _check_preprocess(self) -> None:
        with torch.enable_grad():
            x = self._input_of(self._canvas(self._waves))
        if x.shape != self._x.shape:
            raise ValueError(
                f"preprocess must turn RGB images (N, 3, H, W) into inputs of shape {tuple(self._x.shape)}, got "
                f"{tuple(x.shape)}"
            )
        if not x.requires_grad:
            raise ValueError("preprocess must be differentiable, but what it returns carries no gradient")


# Checks


def _check_inputs(inputs: object) -> None:
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
    if not inputs.is_floating_point():
        raise TypeError(f"inputs must be a floating tensor, got {inputs.dtype}")
    if inputs.dim() != 4 or not inputs.numel():
        raise ValueError(f"inputs must be images (N, C, H, W), not empty, got shape {tuple(inputs.shape)}")
    if not bool(inputs.isfinite().all()):
        raise ValueError(f"inputs must be finite, got NaN or infinite values in shape {tuple(inputs.shape)}")


def _check_channel_mask(mask: object, images: int) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.is_complex():
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"channel_mask must be a real tensor, got {got}")
    if mask.dim() != 2 or len(mask) != images:
        raise ValueError(f"channel_mask must be (N, K) for {images} images, got shape {tuple(mask.shape)}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(f"channel_mask must have values in [0, 1], got others in shape {tuple(mask.shape)}")


def _as_prior(prior: ImagePrior | None) -> ImagePrior:
    if prior is None:
        return ImagePrior()
    if not isinstance(prior, ImagePrior):
        raise TypeError(f"prior must be an ImagePrior, got {prior!r}")
    return prior


def _as_indices(channels: object) -> Tensor:
    """Indices (N,) of channels."""
    if isinstance(channels, Tensor):
        channels = channels.tolist() if channels.dim() <= 1 else [channels]
    listed = list(channels) if isinstance(channels, Sequence) and not isinstance(channels, str) else [channels]
    if not listed:
        raise ValueError("channels must not be empty")
    for channel in listed:
        check_count("channels", channel, at_least=0)
    return torch.tensor(listed, dtype=torch.int64)


def _as_size(size: object) -> tuple[int, int]:
    """(H, W)."""
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be one side or (H, W), got {size!r}")
    for side in sides:
        check_count("size", side)
    return int(sides[0]), int(sides[1])


def _parameter_of(forward_func: Callable[..., Any], layer: nn.Module) -> Tensor:
    """A floating parameter of the model, for its device and type."""
    modules = [layer, *modules_of(forward_func)]
    found = (p for module in modules for p in module.parameters() if p.is_floating_point())
    return next(found, torch.empty(0))
