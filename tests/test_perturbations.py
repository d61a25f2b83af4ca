"""BlurPyramid and FadePyramid against section 3.4, and objects of the user's own in their place."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from captum_extremal import BlurPyramid, ExtremalPerturbation, FadePyramid, PathSolver
from captum_extremal.perturbations import blur, gaussian_blur

PADDINGS = ["replicate", "reflect", "zeros"]
SHAPES = [(13,), (9, 8), (8, 11), (8, 9, 8)]


def literal_index(position: int, side: int, padding: str) -> int | None:
    """The pixel that stands at a position beyond the border; None for a zero."""
    if 0 <= position < side:
        return position
    if padding == "zeros":
        return None
    if padding == "replicate":
        return min(max(position, 0), side - 1)
    while not 0 <= position < side:
        position = -position if position < 0 else 2 * (side - 1) - position
    return position


def literal_blur(x: np.ndarray, sigma: float, padding: str) -> np.ndarray:
    """One image (C, *S), summed tap by tap out to six sigma."""
    shape = x.shape[1:]
    radius = math.ceil(6 * sigma)
    offsets = range(-radius, radius + 1)
    profile = {o: math.exp(-(o**2) / (2 * sigma**2)) for o in offsets}
    out, total = np.zeros_like(x), 0.0
    for taps in itertools.product(offsets, repeat=len(shape)):
        weight = math.prod(profile[o] for o in taps)
        total += weight
        along = [[literal_index(u + o, side, padding) for u in range(side)] for o, side in zip(taps, shape)]
        shifted = x
        for axis, index in enumerate(along, start=1):
            shifted = np.take(shifted, [0 if i is None else i for i in index], axis=axis)
            missing = [k for k, i in enumerate(index) if i is None]
            shifted[(slice(None),) * axis + (missing,)] = 0
        out += weight * shifted
    return out / total


def literal_pyramid(x: np.ndarray, m: np.ndarray, sigma_max: float, levels: int, padding: str) -> np.ndarray:
    """pi(x; u, sigma_max (1 - m(u))) for one image (C, *S) and one mask (*S), position after position."""
    pyramid = [x] + [literal_blur(x, sigma_max * k / (levels - 1), padding) for k in range(1, levels)]
    out = np.empty_like(x)
    for u in np.ndindex(*m.shape):
        depth = (1 - m[u]) * (levels - 1)
        below = min(int(depth), levels - 2)
        part = depth - below
        where = (slice(None), *u)
        out[where] = (1 - part) * pyramid[below][where] + part * pyramid[below + 1][where]
    return out


def random_input(images: int = 2, channels: int = 3, shape: tuple[int, ...] = (9, 8), **kinds: torch.dtype) -> Tensor:
    return torch.rand(images, channels, *shape, dtype=kinds.get("dtype", torch.float64))


def random_mask(x: Tensor, masks: int = 1) -> Tensor:
    return torch.rand(masks * len(x), 1, *x.shape[2:], dtype=x.dtype)


def some_pyramids() -> list[BlurPyramid | FadePyramid]:
    return [BlurPyramid(), *(BlurPyramid(sigma_max=2.0, padding=padding) for padding in PADDINGS), FadePyramid()]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_blur_is_the_papers_formula(shape: tuple[int, ...], padding: str) -> None:
    x = random_input(1, 2, shape)
    mask = random_mask(x)
    fast = BlurPyramid(sigma_max=1.7, padding=padding).bind(x, torch.zeros_like(x))(mask)
    literal = literal_pyramid(x[0].numpy(), mask[0, 0].numpy(), 1.7, 8, padding)
    np.testing.assert_allclose(fast[0].numpy(), literal, rtol=0, atol=5e-4)


def test_blur_of_a_volume_is_the_papers_formula() -> None:
    x = random_input(1, 2, (8, 9, 8))
    mask = random_mask(x)
    fast = BlurPyramid(sigma_max=0.8, levels=3).bind(x, torch.zeros_like(x))(mask)
    literal = literal_pyramid(x[0].numpy(), mask[0, 0].numpy(), 0.8, 3, "replicate")
    np.testing.assert_allclose(fast[0].numpy(), literal, rtol=0, atol=5e-4)


def dense_blur(side: int, sigma: float, padding: str) -> Tensor:
    """The blur of one axis, cut at four sigma, as a matrix (side, side)."""
    radius = max(1, math.ceil(4 * sigma))
    weights = torch.tensor(
        [math.exp(-(o**2) / (2 * sigma**2)) for o in range(-radius, radius + 1)], dtype=torch.float64
    )
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for u in range(side):
        for weight, position in zip(weights / weights.sum(), range(u - radius, u + radius + 1)):
            index = literal_index(position, side, padding)
            if index is not None:
                matrix[u, index] += weight
    return matrix


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sigmas", [(0.3, 5.0), (2.0, 0.0), (40.0, 1.1)], ids=str)
def test_blur_is_that_of_a_dense_matrix_along_each_axis(sigmas: tuple[float, float], padding: str) -> None:
    x = random_input(2, 3, (9, 14))
    expected = x
    for axis, (side, sigma) in enumerate(zip((9, 14), sigmas), start=2):
        if sigma:
            expected = (expected.movedim(axis, -1) @ dense_blur(side, sigma, padding).T).movedim(-1, axis)
    torch.testing.assert_close(gaussian_blur(x, sigmas, padding), expected, rtol=0, atol=1e-12)
    single = gaussian_blur(x.float(), sigmas, padding)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6)
    for dtype in (torch.float16, torch.bfloat16):
        half = gaussian_blur(x.to(dtype), sigmas, padding)
        assert half.dtype == dtype
        torch.testing.assert_close(half.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(12000,), (256, 256), (20, 32, 32)], ids=str)
def test_memory_of_the_blur_is_linear(shape: tuple[int, ...]) -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.numel = max(self.numel, out.untyped_storage().nbytes() // 4)
            return out

    x = torch.rand(1, 1, *shape)
    with Largest() as largest:
        BlurPyramid().bind(x, x)
    assert largest.numel == 8 * x.numel()  # the pyramid


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sigma", [0.3, 4.0, 60.0])
@pytest.mark.parametrize("side", [2, 31, 33, 100])
def test_long_rows_are_blurred_as_short_ones(
    monkeypatch: pytest.MonkeyPatch, side: int, sigma: float, padding: str
) -> None:
    x = random_input(2, 3, (side,)).requires_grad_()
    normalise = padding == "zeros"
    expected = gaussian_blur(x, sigma, padding, normalise=normalise)
    monkeypatch.setattr(blur, "_LONG", 2)
    found = gaussian_blur(x, sigma, padding, normalise=normalise)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.rand_like(found)
    torch.testing.assert_close(*(torch.autograd.grad(one, x, weights)[0] for one in (found, expected)))


def test_a_long_row_has_a_workspace_of_a_few_rows() -> None:
    """No tensor but the pyramid is as large as two rows, though the blur reaches over most of one."""

    class Sizes(TorchDispatchMode):
        sizes: set[int] = set()  # noqa: RUF012

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.sizes.add(out.untyped_storage().nbytes())
            return out

    x = torch.rand(1, 1, 12000)
    with Sizes() as found:
        BlurPyramid().bind(x, x)
    assert max(found.sizes - {8 * 4 * x.numel()}) < 2 * 4 * x.numel()


def test_blur_has_the_same_bits_twice() -> None:
    x = random_input(dtype=torch.float32)
    assert torch.equal(gaussian_blur(x, 2.0), gaussian_blur(x, 2.0))


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradient_through_a_blur_is_the_derivative(padding: str) -> None:
    x = random_input(1, 2, (5, 8)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gaussian_blur(x, (1.5, 3.0), padding), (x,))


@pytest.mark.parametrize(
    ("shape", "sigmas"),
    [
        ((112, 300), 10.0),
        ((224, 224, 224), 20.0),
        ((16, 112, 224), (20 * 16 / 224, 10.0, 20.0)),
        ((4, 112, 300), (20 * 4 / 224, 10.0, 10.0)),
        ((5, 300), (20 * 5 / 224, 20 * 300 / 224)),
        ((3, 4), 20 * 3 / 224),
    ],
    ids=str,
)
def test_default_blur_of_each_axis(shape: tuple[int, ...], sigmas: object) -> None:
    assert BlurPyramid().sigma_for(shape) == pytest.approx(sigmas)


@pytest.mark.parametrize("hold", [0, (-2, -1)], ids=str)
def test_held_axes_are_not_blurred(hold: int | tuple[int, ...]) -> None:
    x = random_input(1, 2, (9, 12, 10))
    nothing = torch.zeros(1, 1, 9, 12, 10, dtype=torch.float64)
    blurred = BlurPyramid(sigma_max=(2.0, 3.0, 4.0), hold=hold).bind(x, x)(nothing)
    sigmas = (0.0, 3.0, 4.0) if hold == 0 else (2.0, 0.0, 0.0)
    assert torch.equal(blurred, gaussian_blur(x, sigmas))
    assert BlurPyramid(hold=hold).sigma_for((9, 24, 12))[0] == (0 if hold == 0 else 20 * 9 / 224)


@pytest.mark.parametrize("sigma", [0.7, 3.0, 20.0])
def test_blur_spreads_a_point_by_sigma(sigma: float) -> None:
    point = torch.zeros(1, 1, 201, dtype=torch.float64)
    point[0, 0, 100] = 1
    blurred = gaussian_blur(point, sigma)[0, 0]
    offset = torch.arange(-100, 101, dtype=torch.float64)
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-12)
    assert float((blurred * offset**2).sum()) == pytest.approx(sigma**2, rel=0.01)


@pytest.mark.parametrize("shape", [(224, 224), (112, 300), (56,)], ids=str)
def test_strongest_blur_is_20_pixels_at_224(shape: tuple[int, ...]) -> None:
    x = random_input(1, 1, shape)
    nothing = torch.zeros(1, 1, *shape, dtype=torch.float64)
    strongest = BlurPyramid().bind(x, nothing)(nothing)
    torch.testing.assert_close(strongest, gaussian_blur(x, 20 * min(shape) / 224), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("pyramid", some_pyramids(), ids=repr)
def test_mask_of_one_returns_the_input_to_the_bit(
    pyramid: BlurPyramid, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = random_input(2, 3, shape, dtype=dtype)
    kept = pyramid.bind(x, torch.full_like(x, 0.3))(torch.ones(4, 1, *shape, dtype=dtype))
    assert torch.equal(kept, torch.cat([x, x]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mask_of_zero_perturbs_fully_to_the_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, baseline = random_input(2, 3, shape, dtype=dtype), random_input(2, 3, shape, dtype=dtype)
    nothing = torch.zeros(2, 1, *shape, dtype=dtype)
    assert torch.equal(FadePyramid().bind(x, baseline)(nothing), baseline)
    for padding in PADDINGS:
        blurred = BlurPyramid(sigma_max=2.5, padding=padding).bind(x, baseline)(nothing)
        assert torch.equal(blurred, gaussian_blur(x, 2.5, padding))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_fade_is_a_straight_line_to_the_baseline(channels: int, shape: tuple[int, ...]) -> None:
    x, baseline = random_input(2, channels, shape), random_input(2, channels, shape)
    mask = random_mask(x, masks=3)
    closed_form = mask * x.repeat(3, *[1] * (x.dim() - 1)) + (1 - mask) * baseline.repeat(3, *[1] * (x.dim() - 1))
    torch.testing.assert_close(FadePyramid().bind(x, baseline)(mask), closed_form, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pyramid", some_pyramids(), ids=repr)
def test_rows_are_mask_major(pyramid: BlurPyramid) -> None:
    x = random_input(3)
    baseline = random_input(3)
    mask = random_mask(x, masks=2)
    together = pyramid.bind(x, baseline)(mask)
    assert together.shape == (6, 3, 9, 8)
    for row in range(6):
        image = slice(row % 3, row % 3 + 1)
        alone = pyramid.bind(x[image], baseline[image])(mask[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_are_perturbed_alike(channels: int) -> None:
    x = random_input(2, channels)
    mask = random_mask(x)
    together = BlurPyramid(sigma_max=2.0).bind(x, x)(mask)
    for channel in range(channels):
        one = x[:, channel : channel + 1]
        alone = BlurPyramid(sigma_max=2.0).bind(one, one)(mask)
        torch.testing.assert_close(together[:, channel : channel + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("pyramid", [BlurPyramid(sigma_max=2.0, levels=4), FadePyramid()], ids=repr)
def test_gradient_is_the_derivative(pyramid: BlurPyramid, shape: tuple[int, ...]) -> None:
    x = random_input(2, 3, shape)
    # Away from the levels at 0, 1/3, 2/3 and 1, where the interpolation has kinks.
    thirds = torch.randint(0, 3, (4, 1, *shape), dtype=torch.float64)
    mask = ((thirds + 0.1 + 0.8 * torch.rand_like(thirds)) / 3).requires_grad_()
    assert torch.autograd.gradcheck(pyramid.bind(x, torch.zeros_like(x)), (mask,), nondet_tol=0, fast_mode=True)


def test_constant_image_stays_constant_under_blur() -> None:
    x = torch.full((1, 3, 12, 10), 0.7, dtype=torch.float64)
    for padding in ("replicate", "reflect"):
        perturbed = BlurPyramid(padding=padding).bind(x, x)(random_mask(x))
        torch.testing.assert_close(perturbed, x, rtol=0, atol=1e-12)


def test_normalised_blur_keeps_a_constant_at_the_border() -> None:
    x = torch.ones(1, 1, 10, 12, dtype=torch.float64)
    torch.testing.assert_close(gaussian_blur(x, 3.0, "zeros", normalise=True), x, rtol=0, atol=1e-12)
    assert float(gaussian_blur(x, 3.0, "zeros")[0, 0, 0, 0]) < 0.5


@dataclass(frozen=True)
class Replacement:
    """A user's own perturbation: another image where the mask is 0."""

    image: Tensor

    def bind(self, x: Tensor, baseline: Tensor) -> Callable[[Tensor], Tensor]:
        def perturb(mask: Tensor) -> Tensor:
            other = self.image.to(x).expand(len(mask), *x.shape[1:])
            return mask * x.repeat(len(mask) // len(x), 1, 1, 1) + (1 - mask) * other

        return perturb


@pytest.mark.parametrize("game", ["preserve", "delete", "hybrid"])
def test_users_own_perturbation_takes_a_pyramids_place(network: nn.Module, images: Tensor, game: str) -> None:
    other = torch.randn(3, 16, 16, dtype=torch.float64)
    method, solver = ExtremalPerturbation(network), PathSolver(steps=8)
    found = method.extremal_masks(
        images, target=1, game=game, areas=(0.2, 0.5), perturbation=Replacement(other), solver=solver
    )
    same = method.extremal_masks(
        images, other[None], target=1, game=game, areas=(0.2, 0.5), perturbation="fade", solver=solver
    )
    torch.testing.assert_close(found.masks, same.masks, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.scores, same.scores, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.perturbed_score, network(other[None])[:, 1].detach().expand(2), rtol=0, atol=1e-9)


@dataclass(frozen=True)
class Forgetful:
    """Ignores that there are several masks of each image."""

    function: Callable[[Tensor, Tensor], Tensor]

    def bind(self, x: Tensor, baseline: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda mask: self.function(mask, x)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda mask, x: mask * x, r"it fails, RuntimeError: The size of tensor a \(4\) must match"),
        (lambda mask, x: mask[: len(x)] * x, "it returns 2 rows instead of 4"),
    ],
    ids=["fails", "rows"],
)
def test_a_perturbation_that_forgets_several_masks_is_told_the_rule(
    network: nn.Module, images: Tensor, function: Callable[[Tensor, Tensor], Tensor], what: str
) -> None:
    rows: list[int] = []
    method = ExtremalPerturbation(lambda x: rows.append(len(x)) or network(x))
    with pytest.raises(ValueError, match=rf"R masks of each of N images, as R N rows.* R = 2 and N = 2 {what}"):
        method.extremal_masks(images, target=1, areas=0.5, perturbation=Forgetful(function))
    assert rows == []  # before the first forward
    one = method.extremal_masks(  # which never gives it two
        images, target=1, areas=0.5, perturbation=Forgetful(function), perturbations_per_eval=1, solver=PathSolver(10)
    )
    assert one.masks.shape == (2, 1, 1, 16, 16)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"sigma_max": 0.0}, ValueError),
        ({"sigma_max": math.nan}, ValueError),
        ({"sigma_max": "20"}, TypeError),
        ({"sigma_max": (1.0, 0.0)}, ValueError),
        ({"sigma_max": ()}, ValueError),
        ({"hold": 0.5}, TypeError),
        ({"levels": 1}, ValueError),
        ({"levels": 2.0}, TypeError),
        ({"padding": "circular"}, ValueError),
        ({"padding": None}, ValueError),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings: dict[str, object], error: type[Exception]) -> None:
    (name,) = settings
    with pytest.raises(error, match=name):
        BlurPyramid(**settings)


@pytest.mark.parametrize("pyramid", some_pyramids(), ids=repr)
def test_settings_are_frozen_values(pyramid: BlurPyramid) -> None:
    assert copy.deepcopy(pyramid) == pyramid
    assert hash(copy.deepcopy(pyramid)) == hash(pyramid)
    with pytest.raises(FrozenInstanceError):
        pyramid.levels = 3


def test_perturbation_runs_on_every_device(device: torch.device) -> None:
    x = random_input()
    mask = random_mask(x, masks=2)
    for pyramid in some_pyramids():
        there = pyramid.bind(x.to(device), torch.zeros_like(x, device=device))(mask.to(device))
        assert there.device.type == device.type
        torch.testing.assert_close(there.cpu(), pyramid.bind(x, torch.zeros_like(x))(mask), rtol=0, atol=1e-9)
