"""Feature inversion (equation 12): the image that a layer's activation, or single channels of it, call for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_extremal._checks import check_callable, check_count
from captum_extremal._reach import modules_of
from captum_extremal._state import as_plain
from captum_extremal.arguments import check_examples
from captum_extremal.hooks import run_uncompiled
from captum_extremal.inversion.ascent import Ascent, Preprocess
from captum_extremal.inversion.goals import activation_of, checked_activation, excite, imitate
from captum_extremal.inversion.image_prior import ImagePrior
from captum_extremal.layers import check_layer
from captum_extremal.masks import check_axes
from captum_extremal.session import guarded


@dataclass(frozen=True, eq=False, repr=False)
class InvertedFeatures:
    """Images that excite a layer.

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
        both = (self.dot_products, self.cosine_similarities)
        dots, cosines = ([round(value, 4) for value in values.tolist()] for values in both)
        shape = tuple(self.images.shape)
        return f"InvertedFeatures(images={shape}, dot_products={dots}, cosine_similarities={cosines})"


class FeatureInversion:
    r"""Show what a layer responds to: the image that maximises equation 12.

    .. math::

        I^* = argmax_I (m \otimes \Phi_l(x)) \cdot \Phi_l(I)

    Equation 12 alone is largest for high-contrast noise. So the image is a sum of waves as in natural images
    (:class:`ImagePrior`), the network sees it slightly moved, scaled and turned in each step, and the dot product is
    multiplied by a power of the cosine similarity, which asks for this activation instead of a large one.

    Args:
        forward_func: the model, or any function that calls it. Images go through one copy of a ``DataParallel`` model.
        layer: the module whose output, or the first tensor of it, is inverted. What stands behind it runs only once.

    Examples::

        >>> found = FeatureInversion(model, model.layer3).invert(x)
        >>> found.images, found.cosine_similarities
        >>> FeatureInversion(model, model.layer3).invert_channels([3, 7]).images
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
        """The images I that maximise the dot product of equation 12, times a power of their cosine.

        Args:
            inputs: x (N, C, H, W), as the model takes it. The images have the same H and W.
            channel_mask: m (N, K) in [0, 1], such as :class:`~captum_extremal.ExtremalMasks` hold; None keeps all. What
                an image excites in channels that are removed (m = 0) does not count.
            channel_dim: the axis of the layer's output that holds its K channels. None is 1, but outputs of three
                dimensions need it: 1 for signals, -1 for tokens.
            prior: of the images; default :class:`ImagePrior`.
            cosine_power: 0 for equation 12 alone. A larger one makes the image less exaggerated, and more like x.
            steps: each is one forward and backward pass of the images up to the layer, and one forward pass of x.
            learning_rate: of Adam, in standard deviations of a wave; it falls to a tenth.
            preprocess: from RGB (N, 3, H, W) in [0, 1] to the model's input; default ImageNet's normalisation.
            seed: of the first image and of its views. On CUDA the same seed gives the same images to rounding only.
            show_progress: draw a progress bar.

        Returns:
            images (N, 3, H, W) in float32 (float64 if ``inputs`` are) with their dot products and similarities.

        Raises:
            TypeError, ValueError: an argument is bad, the layer is not called exactly once, its output is not a tensor
                with one row per image, or its activation is zero under the mask.
        """
        _check_inputs(inputs)
        _check_channel_mask(channel_mask, len(inputs))
        check_axes(channel_dim)
        prior = ImagePrior() if prior is None else prior
        ascent = Ascent(prior, cosine_power, steps, learning_rate, preprocess, seed, show_progress)
        # Backward passes run uncompiled too, because their checkpoints run parts of the model again.
        with guarded(self.forward_func, inputs.device) as caller, run_uncompiled():
            activate = partial(activation_of, self.forward_func, self.layer, caller)
            x = as_plain(inputs.detach())
            own = checked_activation(activate, x)
            goal = imitate(activate, x, own, as_plain(channel_mask), channel_dim)
            found = ascent.run(activate, goal, x, x.shape[2:], f"inversion of {type(self.layer).__name__}")
            return InvertedFeatures(*found, goal.compare(own, goal.target(None))[0], ascent.as_dict())

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
        """For each of these channels, the image with the highest mean activation of the channel.

        Args:
            channels: N indices of the layer's channels.
            size: of the images in pixels: the side of a square, or (H, W).
            cosine_power: above 0, the other channels are kept low, and the channel even over its positions.
            channel_dim, prior, steps, learning_rate, preprocess, seed, show_progress: as in :meth:`invert`.

        Returns:
            images (N, 3, H, W), one per channel, with its mean activations as dot products.
        """
        indices, shape = _as_indices(channels), _as_size(size)
        check_axes(channel_dim)
        prior = ImagePrior() if prior is None else prior
        ascent = Ascent(prior, cosine_power, steps, learning_rate, preprocess, seed, show_progress)
        modules = [self.layer, *modules_of(self.forward_func)]
        parameters = (p for module in modules for p in module.parameters() if not nn.parameter.is_lazy(p))
        floating = (p for p in parameters if p.is_floating_point())
        like = next(floating, torch.empty(0))  # for the device and the type of the model's input
        with guarded(self.forward_func, like.device) as caller, run_uncompiled():
            activate = partial(activation_of, self.forward_func, self.layer, caller)
            grey = like.new_full((len(indices), 3, *shape), 0.5, dtype=torch.promote_types(like.dtype, torch.float32))
            x = ascent.input_of(grey, like.dtype)
            goal = excite(checked_activation(activate, x), indices, channel_dim)
            found = ascent.run(activate, goal, x, shape, f"channels of {type(self.layer).__name__}")
            return InvertedFeatures(*found, None, ascent.as_dict())


def _check_inputs(inputs: object) -> None:
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
    if not inputs.is_floating_point():
        raise TypeError(f"inputs must be a floating tensor, got {inputs.dtype}")
    if inputs.dim() != 4 or not inputs.numel():
        raise ValueError(f"inputs must be images (N, C, H, W), not empty, got shape {tuple(inputs.shape)}")
    check_examples(inputs)


def _check_channel_mask(mask: object, images: int) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.is_complex():
        raise TypeError(f"channel_mask must be a real tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.dim() != 2 or len(mask) != images:
        raise ValueError(f"channel_mask must be (N, K) for {images} images, got shape {tuple(mask.shape)}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(f"channel_mask must have values in [0, 1], got others in shape {tuple(mask.shape)}")


def _as_indices(channels: object) -> Tensor:
    """Indices (N,) of channels."""
    if isinstance(channels, Tensor):
        channels = channels.tolist() if channels.dim() <= 1 else [channels]
    listed = list(channels) if isinstance(channels, Sequence) and not isinstance(channels, str) else [channels]
    if not listed:
        raise ValueError("channels must not be empty")
    for channel in listed:
        check_count("channels", channel, at_least=0)
    return torch.tensor(listed, dtype=torch.int64, device="cpu")


def _as_size(size: object) -> tuple[int, int]:
    """(H, W)."""
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be one side or (H, W), got {size!r}")
    for side in sides:
        check_count("size", side)
    return int(sides[0]), int(sides[1])
