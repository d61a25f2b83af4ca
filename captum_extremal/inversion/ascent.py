"""Gradient ascent of images on a goal: Adam on the waves of the images, at a random view in each step.

Shapes: N images (N, 3, H, W); activations (N, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_extremal._captum import progress_bar
from captum_extremal._checks import check_callable, check_count, check_number
from captum_extremal.inversion.activation import Activation
from captum_extremal.inversion.goals import Goal, View, compare
from captum_extremal.inversion.image_prior import Canvas, ImagePrior, random_view

Preprocess = Callable[[Tensor], Tensor]
"""From RGB images (N, 3, H, W) in [0, 1] to the model's input."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_FINAL_RATE = 0.1  # of the learning rate, so that the noise of the random views fades at the end
_LEAST_COSINE = 0.1  # below it the dot product alone is followed, whatever its sign
_LEAK = 0.1


@dataclass(frozen=True)
class AscentSettings:
    """The settings that both methods of ``FeatureInversion`` share; it documents them."""

    prior: ImagePrior | None
    cosine_power: float
    steps: int
    learning_rate: float
    preprocess: Preprocess | None
    seed: int
    show_progress: bool

    def __post_init__(self) -> None:
        if self.prior is not None and not isinstance(self.prior, ImagePrior):
            raise TypeError(f"prior must be an ImagePrior, got {self.prior!r}")
        check_number("cosine_power", self.cosine_power, at_least=0)
        check_count("steps", self.steps)
        check_number("learning_rate", self.learning_rate, above=0)
        check_count("seed", self.seed, at_least=0)
        if self.preprocess is not None:
            check_callable("preprocess", self.preprocess, "images")

    def input_of(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """The model's input for images in [0, 1]."""
        if self.preprocess is None:
            mean, std = (images.new_tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))
            return ((images - mean) / std).to(dtype)
        found = self.preprocess(images)
        if not isinstance(found, Tensor):
            raise TypeError(f"preprocess must return a tensor, got {type(found).__name__}")
        return found.to(dtype)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "prior": repr(self.prior or ImagePrior()),
            "cosine_power": float(self.cosine_power),
            "steps": int(self.steps),
            "learning_rate": float(self.learning_rate),
            "preprocess": "ImageNet" if self.preprocess is None else repr(self.preprocess),
            "seed": int(self.seed),
        }


class Ascent:
    """Adam on the waves of N images.

    Args:
        settings: how long and how fast, and the prior.
        activate: the layer.
        goal: what its activation should be.
        x: an input of the model: its shape, type and device are those of all inputs.
        shape: H and W of the images.

    Raises:
        ValueError: ``preprocess`` does not give inputs of this shape, or is not differentiable.
    """

    def __init__(
        self, settings: AscentSettings, activate: Activation, goal: Goal, x: Tensor, shape: tuple[int, int]
    ) -> None:
        self._settings, self._activate, self._goal, self._x, self._shape = settings, activate, goal, x, shape
        self._prior = settings.prior or ImagePrior()
        self._generator = torch.Generator().manual_seed(settings.seed)
        dtype = torch.promote_types(x.dtype, torch.float32)
        self._canvas = Canvas(self._prior, shape, x.new_empty(0, dtype=dtype))
        self._waves = self._canvas.start(len(x), self._generator).requires_grad_()
        self._check_preprocess()

    def run(self, description: str) -> tuple[Tensor, Tensor, Tensor]:
        """The images (N, 3, H, W), and the dot products (N,) and cosines (N,) of their activations and the goal."""
        settings = self._settings
        adam = torch.optim.Adam([self._waves], lr=settings.learning_rate)
        with progress_bar(settings.show_progress, settings.steps, description) as bar:
            for step in range(settings.steps):
                adam.param_groups[0]["lr"] = settings.learning_rate * _FINAL_RATE ** (step / settings.steps)
                self._waves.grad = -self._direction()
                adam.step()
                bar.update(1)
        images = self._canvas(self._waves).detach()
        activation = self._activate(settings.input_of(images, self._x.dtype)).to(images.dtype)
        return images, *compare(activation, self._goal.target(None), self._goal.kept)

    def _direction(self) -> Tensor:
        """The gradient at a random view. Where an image has none, ReLUs leak."""
        view = random_view(self._prior, self._shape, self._generator)
        target = self._goal.target(view)
        found = self._gradient(view, target)
        silent = (found.flatten(1) == 0).all(1)
        if bool(silent.any()):
            with _LeakyRectifiers():
                leaked = self._gradient(view, target)
            found = torch.where(silent.view(-1, 1, 1, 1, 1), leaked, found)
        return found

    @torch.enable_grad()
    def _gradient(self, view: View, target: Tensor) -> Tensor:
        """The gradient by the waves of what is maximised, up to a positive factor per image.

        The gradient by the activation is scaled to at most 1, which a backward pass in half precision can hold.
        """
        x = self._settings.input_of(view(self._canvas(self._waves)), self._x.dtype)
        activation = self._activate(x)
        leaf = activation.detach().to(target.dtype).requires_grad_()
        dot, cosine = compare(leaf, target, self._goal.kept)
        maximised = dot * cosine.clamp(min=_LEAST_COSINE) ** self._settings.cosine_power
        (slope,) = torch.autograd.grad(maximised.sum(), leaf)
        steepest = slope.flatten(1).abs().amax(1).clamp(min=torch.finfo(slope.dtype).tiny)
        slope /= steepest.view(-1, *[1] * (slope.dim() - 1))
        (found,) = torch.autograd.grad(activation, self._waves, slope.to(activation.dtype))
        return found

    def _check_preprocess(self) -> None:
        with torch.enable_grad():
            x = self._settings.input_of(self._canvas(self._waves), self._x.dtype)
        if x.shape != self._x.shape:
            raise ValueError(
                f"preprocess must turn RGB images (N, 3, H, W) into inputs of shape {tuple(self._x.shape)}, got "
                f"{tuple(x.shape)}"
            )
        if not x.requires_grad:
            raise ValueError("preprocess must be differentiable, but what it returns carries no gradient")


class _LeakyRectifiers(TorchFunctionMode):
    """Let gradients pass through ReLUs whose output is 0. The outputs stay as they are.

    A third of the channels of a late layer are 0 everywhere for the first image, and would never get a gradient.
    """

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
