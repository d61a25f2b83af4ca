"""Gradient ascent of images to a goal of their activation: Adam on the images' waves, at a random view in each step.

Shapes: N images (N, 3, H, W); activations (N, ...).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_extremal._autograd import gradients
from captum_extremal._captum import progress_bar
from captum_extremal._checks import check_callable, check_count, check_number
from captum_extremal.inversion.goals import Activate, Goal, View
from captum_extremal.inversion.image_prior import Canvas, ImagePrior, random_view

Preprocess = Callable[[Tensor], Tensor]  # from RGB images (N, 3, H, W) in [0, 1] to the model's input
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation
_FINAL_RATE = 0.1  # of the learning rate, so that the noise of the random views fades at the end
_LEAST_COSINE = 0.1  # below it the dot product alone is followed, whatever its sign
_LEAK = 0.1


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
                with torch.device("cpu"):  # where the optimiser counts, whatever the default device is
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
        (gradient,) = gradients(found, waves, slope.to(found.dtype))
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
