"""FeatureInversion against equation 12, closed forms on tiny layers, and what it must leave as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from captum.attr import LayerActivation
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from captum_extremal.datasets.digits import DigitScenes, digit_network
from captum_extremal.inversion import FeatureInversion, ImagePrior, ascent
from captum_extremal.inversion.goals import Goal
from captum_extremal.inversion.image_prior import Canvas, random_view

STILL = ImagePrior(jitter=0, scale=0, rotation=0)
CENTRE = 0.5


def centred(images: Tensor) -> Tensor:
    return images - CENTRE


def quick(**settings: Any) -> dict[str, Any]:
    return {"steps": 4, "preprocess": centred, **settings}


def small_network(dtype: torch.dtype = torch.float64, inplace: bool = False) -> nn.Sequential:
    """A convolution (layer 0), its ReLU, pooling, and a linear head: (N, 3, H, W) to (N, 4)."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)]
    return nn.Sequential(*layers).to(dtype).eval()


class Tokens(nn.Module):
    """Patches of 4 x 4 pixels as tokens (N, T, 6), mixed by an encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.0)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x).flatten(2).transpose(1, 2)).mean(1))
        return out


class Returns(nn.Module):
    """A layer that returns something made of its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


class Around(nn.Module):
    """A model that calls its layer ``times`` times and goes on with the image itself."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            self.layer(x)
        return x.mean((2, 3))


@pytest.fixture
def model() -> nn.Sequential:
    return small_network()


@pytest.fixture
def x() -> Tensor:
    """Two inputs (2, 3, 12, 10) in float64, not square."""
    return torch.randn(2, 3, 12, 10, dtype=torch.float64)


# What is reported


def literal_values(activation: Tensor, other: Tensor, mask: Tensor, axis: int) -> tuple[list[float], list[float]]:
    """Equation 12 and the cosine where the mask is not 0, summed entry by entry."""
    dots, cosines = [], []
    for n in range(len(activation)):
        dot = square = other_square = 0.0
        for index in torch.cartesian_prod(*(torch.arange(side) for side in activation.shape[1:])).tolist():
            place = (n, *index)
            m, a, b = mask[n, index[axis - 1]].item(), activation[place].item(), other[place].item()
            dot += m * a * b
            square += (m * a) ** 2
            other_square += b**2 if m > 0 else 0
        dots.append(dot)
        cosines.append(dot / math.sqrt(square * other_square))
    return dots, cosines


@pytest.mark.parametrize("kind", ["convolution", "relu", "tokens"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_what_is_reported_is_equation_12_at_the_images(kind: str, with_mask: bool, x: Tensor) -> None:
    model: nn.Module = Tokens().double().eval() if kind == "tokens" else small_network()
    layer = model.encoder if kind == "tokens" else model[0 if kind == "convolution" else 1]  # type: ignore[index]
    axis = 2 if kind == "tokens" else 1
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 0.5, 1, 0, 1], [0, 1, 1, 0.25, 1, 1]], dtype=torch.float64)
    given = mask if with_mask else None
    found = FeatureInversion(model, layer).invert(x, channel_mask=given, channel_dim=axis, **quick())
    see = LayerActivation(model, layer).attribute
    used = mask if with_mask else torch.ones(2, 6, dtype=torch.float64)
    own, seen = see(x).detach(), see(centred(found.images)).detach()
    dots, cosines = literal_values(own, seen, used, axis)
    torch.testing.assert_close(found.dot_products, torch.tensor(dots, dtype=torch.float64))
    torch.testing.assert_close(found.cosine_similarities, torch.tensor(cosines, dtype=torch.float64))
    at_x, _ = literal_values(own, own, used, axis)
    torch.testing.assert_close(found.input_dot_products, torch.tensor(at_x, dtype=torch.float64))


def test_channels_report_their_mean_activation(model: nn.Sequential) -> None:
    found = FeatureInversion(model, model[1]).invert_channels([4, 0, 4], size=(9, 12), **quick())
    assert found.images.shape == (3, 3, 9, 12)
    activation = model[:2](centred(found.images))
    means = torch.stack([activation[n, k].mean() for n, k in enumerate([4, 0, 4])])
    torch.testing.assert_close(found.dot_products, means.detach())
    assert found.input_dot_products is None
    torch.testing.assert_close(found.images[0], found.images[2])


def test_images_are_rgb_in_the_unit_interval_of_the_inputs_size(model: nn.Sequential) -> None:
    for shape in [(1, 3, 12, 10), (2, 3, 9, 13)]:
        found = FeatureInversion(model, model[0]).invert(torch.randn(shape, dtype=torch.float64), **quick())
        assert found.images.shape == shape
        assert 0 <= found.images.min() <= found.images.max() <= 1
        assert not found.images.requires_grad
        assert f"images={shape}" in repr(found)


def test_the_default_preprocessing_is_imagenets(x: Tensor) -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 1, 1)).double().eval()
    found = FeatureInversion(model, model[0]).invert(x, steps=2)
    mean, std = (torch.tensor(v, dtype=x.dtype)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(found.dot_products, ((found.images - mean) / std * x).sum((1, 2, 3)))


# The search


def test_inverting_the_identity_gives_the_picture_itself() -> None:
    u, v = torch.meshgrid(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 16), indexing="ij")
    waves = torch.stack([torch.sin(4 * u), torch.cos(3 * v), u * v])
    picture = (0.5 + 0.4 * waves).double()[None]
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 1, 1)).double().eval()
    found = FeatureInversion(model, model[0]).invert(picture - CENTRE, steps=200, preprocess=centred)
    assert found.cosine_similarities.item() > 0.95
    assert torch.nn.functional.cosine_similarity(found.images - CENTRE, picture - CENTRE, dim=1).mean() > 0.85


@pytest.mark.parametrize(("weights", "more", "less"), [((1.0, -1.0, 0.0), 0, 1), ((-1.0, 0.0, 1.0), 2, 0)])
def test_a_channel_of_one_colour_gives_an_image_of_that_colour(
    weights: tuple[float, ...], more: int, less: int
) -> None:
    convolution = nn.Conv2d(3, 1, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor(weights).view(1, 3, 1, 1))
    method = FeatureInversion(nn.Sequential(convolution, nn.Flatten()).eval(), convolution)
    found = method.invert_channels(0, size=16, prior=ImagePrior(colour=(1.0, 1.0, 1.0)), **quick(steps=120))
    colour = found.images.mean((0, 2, 3))
    assert colour[more] > 0.75
    assert colour[less] < 0.25


def test_a_channel_that_sees_nothing_at_first_is_woken() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True), nn.Flatten()).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1, 1], [1, 1, 1]]).view(2, 3, 1, 1))
        model[0].bias.copy_(torch.tensor([-0.3, 0.0]))  # only a bright image excites the first
    settings = {"size": 8, "preprocess": centred, "steps": 60}
    start = FeatureInversion(model, model[1]).invert_channels(0, **{**settings, "steps": 1})
    assert start.dot_products.item() == 0
    both = FeatureInversion(model, model[1]).invert_channels([0, 1], **settings)
    assert both.dot_products.min() > 0.1  # of 1.2 for white
    # Waking one image changes nothing for another.
    alone = FeatureInversion(model, model[1]).invert_channels(1, **settings)
    torch.testing.assert_close(both.images[1:], alone.images)


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return torch.stack([DigitScenes(2, size=(64, 64), split="test", seed=0)[k].image for k in range(2)])


class PixelCanvas(Canvas):
    """Images whose pixels are free of one another."""

    def start(self, images: int, generator: torch.Generator) -> Tensor:
        return (0.1 * torch.randn(3, *self._shape, 1, generator=generator)).repeat(images, 1, 1, 1, 1)

    def __call__(self, coefficients: Tensor) -> Tensor:
        return coefficients[..., 0].sigmoid()


def digits_input(images: Tensor) -> Tensor:
    return (images - 0.485) / 0.2


@pytest.mark.parametrize("index", [3, 7])
def test_inversions_beat_noise_the_mean_image_and_pixels(
    index: int, scenes: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = digit_network()
    layer = model.features[index]
    invert = FeatureInversion(model, layer).invert
    settings: dict[str, Any] = {"steps": 60, "preprocess": digits_input}
    found = invert(scenes, **settings)
    with torch.no_grad():
        own = model.features[: index + 1](scenes)
        noise = model.features[: index + 1](digits_input(torch.rand_like(scenes)))
        mean = model.features[: index + 1](torch.zeros_like(scenes))
    goal = Goal(lambda view: own, torch.ones(()))
    for other in (noise, mean):
        dot, cosine = goal.compare(other, own)
        assert (found.dot_products > dot).all()
        assert (found.cosine_similarities > cosine).all()
    monkeypatch.setattr(ascent, "Canvas", PixelCanvas)
    for prior, power in [(None, 4.0), (STILL, 0.0)]:  # the same objective, and equation 12 alone
        pixels = invert(scenes, prior=prior, cosine_power=power, **settings)
        assert (found.cosine_similarities > pixels.cosine_similarities).all(), (prior, power)


def test_power_zero_gains_dot_product_and_power_four_cosine(scenes: Tensor) -> None:
    model = digit_network()
    invert = FeatureInversion(model, model.features[5]).invert
    dot, both = (invert(scenes, cosine_power=power, steps=40, preprocess=digits_input) for power in (0, 4))
    assert (dot.dot_products > both.dot_products).all()
    assert (dot.cosine_similarities < both.cosine_similarities).all()


def test_a_batch_gives_what_each_image_gives_alone(model: nn.Sequential, x: Tensor) -> None:
    mask = torch.tensor([[1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0.5]])
    method = FeatureInversion(model, model[1])
    both = method.invert(x, channel_mask=mask, **quick(steps=10))
    for n in range(2):
        alone = method.invert(x[n : n + 1], channel_mask=mask[n : n + 1], **quick(steps=10))
        torch.testing.assert_close(both.images[n : n + 1], alone.images)
        torch.testing.assert_close(both.dot_products[n : n + 1], alone.dot_products)


def test_removed_channels_play_no_part(x: Tensor) -> None:
    mask = torch.tensor([[1.0, 0, 1, 0, 0, 1]] * 2)
    images = []
    for factor in (1.0, -30.0):
        model = small_network()
        with torch.no_grad():
            model[0].weight[[1, 3, 4]] *= factor  # type: ignore[index, operator]
        images.append(FeatureInversion(model, model[0]).invert(x, channel_mask=mask, **quick()).images)
    assert torch.equal(*images)


def test_a_mask_of_ones_is_no_mask(model: nn.Sequential, x: Tensor) -> None:
    method = FeatureInversion(model, model[0])
    for mask in (torch.ones(2, 6), torch.ones(2, 6, dtype=torch.bool)):
        torch.testing.assert_close(
            method.invert(x, channel_mask=mask, **quick()).images, method.invert(x, **quick()).images
        )


def test_the_seed_alone_decides(model: nn.Sequential, x: Tensor) -> None:
    method = FeatureInversion(model, model[0])
    first = method.invert(x, **quick(seed=3)).images
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert torch.equal(first, method.invert(x, **quick(seed=3)).images)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.allclose(first, method.invert(x, **quick(seed=4)).images, atol=1e-3)


# The prior


@pytest.mark.parametrize("shape", [(12, 10), (9, 13)])
def test_a_coefficient_is_a_wave(shape: tuple[int, int]) -> None:
    """One coefficient is a cosine of its frequency and colour, with an amplitude that falls as the prior says."""
    prior = ImagePrior(decay=1.5, colour=(1.0, 0.5, 0.25))
    canvas = Canvas(prior, shape, torch.empty(0, dtype=torch.float64))
    height, width = shape
    directions = torch.tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], dtype=torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)
    total = sum(
        max(math.hypot(a / height, b / width), 1 / max(shape)) ** -3
        for a in (k if k <= height / 2 else k - height for k in range(height))
        for b in (k if k <= width / 2 else k - width for k in range(width))
    )
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    for axis, a, b in [(0, 1, 2), (1, 0, 3), (2, 2, 1)]:
        coefficients = torch.zeros(1, 3, height, width // 2 + 1, 2, dtype=torch.float64)
        coefficients[0, axis, a, b, 0] = 1
        amplitude = math.hypot(a / height, b / width) ** -1.5 / math.sqrt(total)
        wave = 2 * amplitude * torch.cos(2 * math.pi * (a * v / height + b * u / width))
        expected = (directions[axis] * prior.colour[axis])[:, None, None] * wave
        torch.testing.assert_close(torch.logit(canvas(coefficients))[0], expected)


@pytest.mark.parametrize("shape", [(40, 40), (30, 50)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_views_move_scale_and_turn_within_the_prior(shape: tuple[int, int], seed: int) -> None:
    """Seen through a view, pixel coordinates show its map: a similarity, in pixels."""
    height, width = shape
    prior = ImagePrior(jitter=0.05, scale=0.1, rotation=20)
    view = random_view(prior, shape, torch.Generator().manual_seed(seed))
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    seen = view(torch.stack([u, v])[None])[0]
    middle = (height // 2, width // 2)
    along_u = seen[:, middle[0], middle[1] + 1] - seen[:, middle[0], middle[1]]
    along_v = seen[:, middle[0] + 1, middle[1]] - seen[:, middle[0], middle[1]]
    torch.testing.assert_close(along_v, torch.stack([-along_u[1], along_u[0]]))
    factor, angle = along_u.norm().item(), math.degrees(math.atan2(along_u[1], along_u[0]))
    assert 1 / 1.1 <= factor <= 1.1
    assert factor != pytest.approx(1, abs=1e-3)
    assert 1e-3 < abs(angle) <= 20
    shift = seen[:, middle[0] - 1 : middle[0] + 1, middle[1] - 1 : middle[1] + 1].mean((1, 2))
    moved = shift - torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    assert 1e-3 < moved.abs().max() <= 0.05 * min(shape)


def test_a_prior_without_views_shows_the_image_itself() -> None:
    images = torch.rand(2, 3, 9, 14, dtype=torch.float64)
    view = random_view(STILL, (9, 14), torch.Generator().manual_seed(0))
    torch.testing.assert_close(view(images), images)


# Layers of all kinds


def test_layers_that_work_in_place_behind_the_layer_change_nothing(x: Tensor) -> None:
    expected, found = (
        FeatureInversion(model, model[0]).invert(x, **quick())
        for model in (small_network(), small_network(inplace=True))
    )
    assert (expected.dot_products != 0).all()
    assert torch.equal(expected.images, found.images)
    assert torch.equal(expected.dot_products, found.dot_products)
    assert torch.equal(expected.input_dot_products, found.input_dot_products)  # type: ignore[arg-type]


@pytest.mark.parametrize("container", [tuple, list])
def test_of_a_tuple_the_first_tensor_counts(container: type, x: Tensor) -> None:
    network = small_network()
    wrapped = nn.Sequential(
        network[0], Returns(lambda y: container([y, None, y.sum()])), Returns(lambda out: out[0]), *network[1:]
    ).eval()
    found = FeatureInversion(wrapped, wrapped[1]).invert(x, **quick())
    assert torch.equal(found.images, FeatureInversion(network, network[0]).invert(x, **quick()).images)


@pytest.mark.parametrize("channel_dim", [2, -1])
def test_tokens_have_their_channels_last(channel_dim: int) -> None:
    model = Tokens().double().eval()
    found = FeatureInversion(model, model.encoder).invert_channels(
        [5], size=(8, 12), channel_dim=channel_dim, **quick()
    )
    seen = LayerActivation(model, model.encoder).attribute(centred(found.images))
    torch.testing.assert_close(found.dot_products, seen[:, :, 5].mean(1).detach())


def test_what_stands_behind_the_layer_runs_once(model: nn.Sequential, x: Tensor) -> None:
    calls: list[int] = []
    behind = nn.Sequential(*model, Returns(lambda y: (calls.append(len(y)), y)[1])).eval()
    FeatureInversion(behind, model[0]).invert(x, **quick())
    assert calls == [2]


def test_a_model_that_catches_exceptions_is_stopped_too(model: nn.Sequential, x: Tensor) -> None:
    def careful(y: Tensor) -> Tensor:
        try:
            return model(y)
        except Exception as error:
            raise AssertionError("the model saw an exception") from error

    expected = FeatureInversion(model, model[0]).invert(x, **quick())
    assert torch.equal(FeatureInversion(careful, model[0]).invert(x, **quick()).images, expected.images)


@pytest.mark.filterwarnings("ignore:.*cpu.amp.autocast:FutureWarning")  # from PyTorch 2.4's own checkpoint
@pytest.mark.parametrize("early_stop", [True, False])
def test_a_layer_within_a_checkpoint_is_inverted(early_stop: bool, model: nn.Sequential, x: Tensor) -> None:
    def saving(y: Tensor) -> Any:
        with set_checkpoint_early_stop(early_stop):  # False: the backward pass calls all of the layers again
            return model[2:](checkpoint(model[:2], y, use_reentrant=False))

    expected = FeatureInversion(model, model[0]).invert(x, **quick())
    torch.testing.assert_close(FeatureInversion(saving, model[0]).invert(x, **quick()).images, expected.images)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda m: torch.compile(m, backend="eager"), lambda m: lambda y: m(y)],
    ids=["DataParallel", "compiled", "function"],
)
def test_wrapped_models_give_the_same(wrap: Callable[..., Any], model: nn.Sequential, x: Tensor) -> None:
    expected = FeatureInversion(model, model[0]).invert(x, **quick())
    found = FeatureInversion(wrap(model), model[0]).invert(x, **quick())
    assert torch.equal(found.images, expected.images)


# Precision, and the caller's state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_inverted(dtype: torch.dtype) -> None:
    model, x = small_network(dtype), torch.randn(2, 3, 12, 10).to(dtype)
    found = FeatureInversion(model, model[1]).invert(x, **quick(steps=40))
    assert found.images.dtype == found.dot_products.dtype == torch.float32
    assert found.images.isfinite().all()
    exact = small_network(torch.float32)
    reference = FeatureInversion(exact, exact[1]).invert(x.float(), **quick(steps=40))
    assert (found.cosine_similarities > reference.cosine_similarities - 0.05).all()
    channels = FeatureInversion(model, model[1]).invert_channels([1], size=12, **quick())
    assert channels.images.dtype == torch.float32


def test_a_small_half_precision_activation_has_a_gradient() -> None:
    model, x = small_network(torch.float16), torch.randn(1, 3, 12, 10).half()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)  # type: ignore[operator]
        model[0].bias.mul_(1e-3)  # type: ignore[operator, union-attr]
    found = FeatureInversion(model, model[0]).invert(x, **quick(steps=40))
    assert found.cosine_similarities.item() > 0.5


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_callers_modes_do_not_stop_the_search(mode: Callable[[], Any], x: Tensor) -> None:
    model, x = small_network(torch.float32), x.float()
    method = FeatureInversion(model, model[0])
    expected = method.invert(x, **quick())
    with mode():
        found = method.invert(x.clone(), channel_mask=torch.ones(2, 6), **quick())
    assert not found.images.is_inference()
    torch.testing.assert_close(found.images, expected.images, atol=0.05, rtol=0)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Trace:
    """All of a model that a method could leave changed."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._state = {name: value.clone() for name, value in model.state_dict().items()}
        self._rest = self._read()

    def _read(self) -> list[Any]:
        parameters = [(p.requires_grad, p.grad) for p in self._model.parameters()]
        modules = [(m.training, *(len(getattr(m, name)) for name in HOOKS)) for m in self._model.modules()]
        return [parameters, modules]

    def check(self) -> None:
        assert self._read() == self._rest
        for name, value in self._model.state_dict().items():
            assert torch.equal(value, self._state[name]), name


class Interrupting(nn.Module):
    """Raises at its n-th call."""

    def __init__(self, error: type[BaseException] | None, call: int) -> None:
        super().__init__()
        self.error, self.left = error, call

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.error is not None and self.left == 0:
            raise self.error("stopped")
        return x


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 4])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("channels", [False, True])
def test_nothing_of_the_callers_is_changed(
    error: type[BaseException] | None, call: int, frozen: bool, channels: bool, x: Tensor
) -> None:
    model = nn.Sequential(Interrupting(error, call), *small_network()).eval()
    model.requires_grad_(not frozen)
    trace, before, state = Trace(model), x.clone(), torch.random.get_rng_state()
    method = FeatureInversion(model, model[2])
    run = (lambda: method.invert_channels([0], size=8, **quick())) if channels else lambda: method.invert(x, **quick())
    if error is None:
        run()
    else:
        with pytest.raises(error, match="stopped"):
            run()
    trace.check()
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_train_mode_is_warned_of_and_leaves_no_trace(x: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Flatten()).double().train()
    trace, state = Trace(model), torch.random.get_rng_state()
    with pytest.warns(UserWarning, match="train mode"):
        FeatureInversion(model, model[2]).invert(x, **quick())
    trace.check()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_progress_is_shown_on_stderr_and_only_when_asked_for(
    model: nn.Sequential, x: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    method = FeatureInversion(model, model[0])
    method.invert(x, **quick())
    assert capsys.readouterr() == ("", "")
    method.invert(x, **quick(show_progress=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert "Conv2d" in err
    assert "100%" in err


def test_settings_say_how_the_images_were_made(model: nn.Sequential, x: Tensor) -> None:
    found = FeatureInversion(model, model[0]).invert(x, **quick(seed=5, prior=STILL))
    assert found.settings["prior"] == repr(STILL)
    assert (found.settings["steps"], found.settings["seed"], found.settings["cosine_power"]) == (4, 5, 4.0)
    with pytest.raises(FrozenInstanceError):
        found.images = x  # type: ignore[misc]
    assert copy.deepcopy(STILL) == STILL


# Bad input


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"inputs": [[1.0]]}, TypeError, "^inputs must be a tensor"),
        ({"inputs": torch.zeros(1, 3, 8, 8, dtype=torch.int64)}, TypeError, "^inputs must be a floating tensor"),
        ({"inputs": torch.zeros(3, 8, 8)}, ValueError, r"^inputs must be images \(N, C, H, W\)"),
        ({"inputs": torch.zeros(0, 3, 8, 8)}, ValueError, "^inputs must be images .* not empty"),
        ({"inputs": torch.full((1, 3, 8, 8), math.nan)}, ValueError, "^inputs must be finite"),
        ({"channel_mask": [1.0] * 6}, TypeError, "^channel_mask must be a real tensor, got list"),
        ({"channel_mask": torch.ones(2, 6) * 1j}, TypeError, "^channel_mask must be a real tensor, got torch.complex"),
        ({"channel_mask": torch.ones(6)}, ValueError, r"^channel_mask must be \(N, K\) for 2 images"),
        ({"channel_mask": torch.ones(3, 6)}, ValueError, r"^channel_mask must be \(N, K\) for 2 images"),
        ({"channel_mask": torch.full((2, 6), 1.5)}, ValueError, r"^channel_mask must have values in \[0, 1\]"),
        ({"channel_mask": torch.full((2, 6), math.nan)}, ValueError, r"^channel_mask must have values in \[0, 1\]"),
        ({"channel_dim": 1.0}, TypeError, "^channel_dim must be an integer"),
        ({"prior": "natural"}, TypeError, "^prior must be an ImagePrior"),
        ({"prior": ImagePrior}, TypeError, "^prior must be an ImagePrior"),
        ({"cosine_power": -1}, ValueError, "^cosine_power must be at least 0"),
        ({"cosine_power": "4"}, TypeError, "^cosine_power must be a number"),
        ({"steps": 0}, ValueError, "^steps must be at least 1"),
        ({"steps": 1.5}, TypeError, "^steps must be an integer"),
        ({"learning_rate": 0}, ValueError, "^learning_rate must be above 0"),
        ({"seed": -1}, ValueError, "^seed must be at least 0"),
        ({"preprocess": 1.0}, TypeError, "^preprocess must be callable"),
    ],
)
def test_bad_arguments_are_named_before_the_model_runs(
    settings: dict[str, Any], error: type[Exception], match: str, x: Tensor
) -> None:
    model = nn.Sequential(Interrupting(AssertionError, 1), *small_network())
    inputs = settings.get("inputs", x)
    rest = {name: value for name, value in settings.items() if name != "inputs"}
    with pytest.raises(error, match=match):
        FeatureInversion(model, model[1]).invert(inputs, **quick(**rest))


@pytest.mark.parametrize(
    ("channels", "settings", "error", "match"),
    [
        ([], {}, ValueError, "^channels must not be empty"),
        ([-1], {}, ValueError, "^channels must be at least 0"),
        ([1.5], {}, TypeError, "^channels must be an integer"),
        ("12", {}, TypeError, "^channels must be an integer"),
        (torch.tensor([0.5]), {}, TypeError, "^channels must be an integer"),
        (torch.zeros(2, 2, dtype=torch.int64), {}, TypeError, "^channels must be an integer"),
        ([0], {"size": (8, 8, 8)}, ValueError, r"^size must be one side or \(H, W\)"),
        ([0], {"size": 0}, ValueError, "^size must be at least 1"),
        ([0], {"size": 8.5}, TypeError, "^size must be an integer"),
        ([0], {"steps": 0}, ValueError, "^steps must be at least 1"),
        ([0], {"channel_dim": "1"}, TypeError, "^channel_dim must be an integer"),
    ],
)
def test_bad_channels_are_named_before_the_model_runs(
    channels: Any, settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    model = nn.Sequential(Interrupting(AssertionError, 1), *small_network())
    with pytest.raises(error, match=match):
        FeatureInversion(model, model[1]).invert_channels(channels, **quick(**settings))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"decay": -1}, ValueError, "^decay must be at least 0"),
        ({"colour": 1.0}, TypeError, "^colour must be a tuple of three numbers"),
        ({"colour": (1.0, 0.5)}, TypeError, "^colour must be a tuple of three numbers"),
        ({"colour": (1.0, 0.5, -1.0)}, ValueError, "^colour must be at least 0"),
        ({"jitter": 0.6}, ValueError, "^jitter must be at most 0.5"),
        ({"scale": -0.1}, ValueError, "^scale must be at least 0"),
        ({"rotation": math.inf}, ValueError, "^rotation must be at most 180"),
    ],
)
def test_bad_priors_are_named(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        ImagePrior(**settings)


def test_layers_that_are_none_of_the_models_are_named(model: nn.Sequential) -> None:
    with pytest.raises(ValueError, match=r"^layer must be a part of the model"):
        FeatureInversion(model, nn.ReLU())
    with pytest.raises(TypeError, match=r"^layer must be a torch\.nn\.Module"):
        FeatureInversion(model, "0")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^forward_func must be callable"):
        FeatureInversion("model", model[0])  # type: ignore[arg-type]


def as_layer(make: Callable[[Tensor], Any], times: int = 1) -> nn.Module:
    return Around(Returns(make), times).eval()


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        (as_layer(lambda y: y, 0), ValueError, "^layer must be called by the model, but its Returns was not"),
        (as_layer(lambda y: y, 3), ValueError, "^layer must be called once .* but its Returns was called 3 times"),
        (as_layer(lambda y: {"a": y}), TypeError, "^the layer's output must be a tensor.*got dict"),
        (as_layer(lambda y: None), TypeError, "^the layer's output must be a tensor.*got NoneType"),
        (as_layer(lambda y: ()), TypeError, "^the layer's output must be a tensor.*got tuple"),
        (as_layer(lambda y: y.argmax(1)), TypeError, "^the layer's output must be a floating tensor"),
        (as_layer(lambda y: y.sum((1, 2, 3))), ValueError, "^the layer's output must have a row .* one more dimension"),
        (as_layer(lambda y: y.sum(0)), ValueError, "^the layer's output must have a row for each of 2 images"),
        (as_layer(lambda y: y / 0), ValueError, "^the layer's output must be finite"),
        (as_layer(lambda y: y.detach()), ValueError, "^layer's output must be differentiable"),
        (as_layer(lambda y: y * 0), ValueError, r"^nothing to invert: .* images \[0, 1\]"),
    ],
)
def test_layers_that_cannot_be_inverted_are_named(
    model: nn.Module, error: type[Exception], match: str, x: Tensor
) -> None:
    trace = Trace(model)
    with pytest.raises(error, match=match):
        FeatureInversion(model, model.layer).invert(x, **quick())  # type: ignore[arg-type]
    trace.check()


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"channel_mask": torch.ones(2, 5)}, ValueError, "^channel_mask must have a value for each .* 6 channels"),
        ({"channel_mask": torch.eye(2, 6) * torch.tensor([[1.0], [0]])}, ValueError, r"^nothing to .* images \[1\]"),
        ({"channel_dim": 4}, ValueError, "^channel_dim must be one of"),
        ({"channel_dim": 0}, ValueError, "^channel_dim must be one of"),
        ({"preprocess": lambda images: images.mean(1, keepdim=True)}, ValueError, "^preprocess must turn RGB images"),
        ({"preprocess": lambda images: images.detach()}, ValueError, "^preprocess must be differentiable"),
        ({"preprocess": lambda images: images.numpy(force=True)}, TypeError, "^preprocess must return a tensor"),
    ],
)
def test_what_does_not_fit_the_layer_is_named_before_the_search(
    settings: dict[str, Any], error: type[Exception], match: str, x: Tensor
) -> None:
    calls: list[int] = []
    model = nn.Sequential(Returns(lambda y: (calls.append(1), y)[1]), *small_network()).eval()
    with pytest.raises(error, match=match):
        FeatureInversion(model, model[1]).invert(x, **quick(**settings))
    assert len(calls) == 1


def test_channels_that_the_layer_does_not_have_are_named(model: nn.Sequential) -> None:
    with pytest.raises(ValueError, match=r"^channels must be below the layer's number of channels, 6"):
        FeatureInversion(model, model[0]).invert_channels([2, 6], size=8, **quick())
