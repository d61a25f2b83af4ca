"""SmoothMask against the paper: equations 6 and 7 as slow loops, Lemma 1, what the fast mask promises;
ChannelMask; how far binary masks agree.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from captum_extremal import ChannelMask, SmoothMask, SpaceTimeMask
from captum_extremal._reach import reachable
from captum_extremal.masks import BoundMask, BoundSmoothMask, MaskFamily, kernel
from captum_extremal.masks.binary import agreement
from captum_extremal.masks.interpolation import Interpolation
from captum_extremal.search.area import mask_of_area

SHAPES = [(8,), (37,), (224,), (8, 8), (17, 24), (40, 31), (64, 50), (8, 8, 8), (9, 8, 13), (12, 17, 16)]
LIPSCHITZ = 2 * math.exp(-1 / 2)  # of k, a sigma
SUPPORT = 2.4
STEPS_AT_224 = {1: 7, 2: 7, 3: 14}
Lengths = float | tuple[float, ...]


def shape_id(shape: object) -> str:
    return "x".join(map(str, shape)) if isinstance(shape, tuple) else str(shape)


def each(lengths: Lengths, shape: tuple[int, ...]) -> tuple[float, ...]:
    """One length for each axis."""
    return lengths if isinstance(lengths, tuple) else (lengths,) * len(shape)


def literal_lattice(shape: tuple[int, ...], steps: Lengths) -> np.ndarray:
    """The positions (D, dimensions) of the lattice points: round(side / step), at least 2, centred."""
    axes = []
    for side, step in zip(shape, each(steps, shape)):
        points = max(2, round(side / step))
        axes.append([(side - 1) / 2 + (i - (points - 1) / 2) * step for i in range(points)])
    return np.array(list(itertools.product(*axes)))


def literal_mask(
    positions: np.ndarray, lattice: np.ndarray, p: np.ndarray, sigma: Lengths, temperature: float
) -> np.ndarray:
    """Equation 7 (equation 6 for temperature 0), one position after another. Distances are in sigmas of each axis."""
    values = []
    for position in positions:
        distance = np.sqrt((((lattice - position) / np.array(sigma)) ** 2).sum(1))
        near = distance <= SUPPORT + 1e-9
        k = np.exp(-2 * np.maximum(0, distance[near] - 1 / 2) ** 2)
        f = k * p[near]
        if temperature == 0:
            values.append(f.max())
        else:
            values.append((f * np.exp(f / temperature)).sum() / np.exp(f / temperature).sum())
    return np.array(values)


def node_positions(bound: BoundSmoothMask) -> np.ndarray:
    """Where the nodes of the coarse grid lie, in pixels, found out from how ``expand`` interpolates between them."""
    axes = []
    for axis, (side, nodes) in enumerate(zip(bound.shape, bound.grid_shape)):
        view = [1] * len(bound.shape)
        view[axis] = nodes
        number = torch.arange(nodes, dtype=torch.float64).view(view).expand(bound.grid_shape)
        along = bound.expand(number.reshape(1, -1))[0, 0].movedim(axis, 0).reshape(side, -1)[:, 0]
        per_pixel = (along[-1] - along[0]) / (side - 1)
        straight = along[0] + per_pixel * torch.arange(side, dtype=torch.float64)
        torch.testing.assert_close(along, straight, rtol=0, atol=1e-9)
        axes.append(((torch.arange(nodes) - along[0]) / per_pixel).numpy())
    return np.array(list(itertools.product(*axes)))


def pixels(shape: tuple[int, ...]) -> np.ndarray:
    return np.array(list(np.ndindex(*shape)), dtype=float)


def random_parameters(bound: BoundSmoothMask, rows: int = 1, seed: int = 0) -> Tensor:
    """Parameters of which a third are 0 and a third are 1."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(rows, bound.parameters, generator=generator, dtype=torch.float64)
    return (3 * p - 1).clamp(0, 1)


def smooth_parameters(bound: BoundSmoothMask) -> Tensor:
    """One value after another changes over a few sigma."""
    turn = bound.step / (3 * bound.sigma)
    waves = [torch.cos(0.3 + turn * torch.arange(points, dtype=torch.float64)) for points in bound.lattice_shape]
    field = waves[0]
    for wave in waves[1:]:
        field = field.unsqueeze(-1) * wave
    return (0.5 + 0.5 * field).reshape(1, -1)


def bind(shape: tuple[int, ...], area: float = 1.0, **settings: float) -> BoundSmoothMask:
    return SmoothMask(**settings).bind(shape, "cpu", torch.float64, area)


@pytest.mark.parametrize("temperature", [1 / 20, 0], ids=["smax", "max"])
@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_nodes_hold_equation_7_exactly(shape: tuple[int, ...], temperature: float) -> None:
    bound = bind(shape, temperature=temperature)
    p = random_parameters(bound)
    lattice = literal_lattice(shape, bound.step)
    some = np.random.default_rng(0).permutation(math.prod(bound.grid_shape))[:3000]
    sigma = SmoothMask().sigma_for(shape)
    literal = literal_mask(node_positions(bound)[some], lattice, p[0].numpy(), sigma, temperature)
    np.testing.assert_allclose(bound.grid_values(p)[0].numpy()[some], literal, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((21, 26), {"sigma": 2.0}),
        ((21, 26), {"step": 2.5, "sigma": 4.0}),
        ((21, 26), {"temperature": 0.3}),
        ((10, 12, 9), {"step": 2.0, "sigma": 3.0}),
        ((21, 26), {"step": (2.5, 1.0), "sigma": (4.0, 2.0)}),
        ((8, 20, 21), {"step": (1.0, 4.0, 3.0), "sigma": (1.5, 6.0, 6.0)}),
        ((4, 20, 9), {"step": 2.0, "sigma": (2.0, 3.0, 3.0)}),
    ],
    ids=str,
)
def test_nodes_hold_equation_7_for_any_settings(shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    bound = bind(shape, **settings)
    p = random_parameters(bound)
    lattice = literal_lattice(bound.shape, bound.step)
    temperature = settings.get("temperature", 1 / 20)
    sigma = SmoothMask(**settings).sigma_for(shape)
    literal = literal_mask(node_positions(bound), lattice, p[0].numpy(), sigma, temperature)
    np.testing.assert_allclose(bound.grid_values(p)[0].numpy(), literal, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "shape", [(8,), (224,), (500,), (17, 24), (96, 80), (128, 96), (9, 8, 13), (12, 17, 16)], ids=shape_id
)
def test_pixels_between_nodes_are_near_equation_7(shape: tuple[int, ...]) -> None:
    bound = bind(shape) if len(shape) < 3 else bind(shape, step=2.0, sigma=3.0)
    p = smooth_parameters(bound)
    where = np.random.default_rng(0).permutation(pixels(shape))[:4000]
    literal = literal_mask(where, literal_lattice(shape, bound.step), p[0].numpy(), bound.sigma, 1 / 20)
    fast = bound(p)[0, 0].numpy()[tuple(where.astype(int).T)]
    assert np.abs(fast - literal).max() <= 0.05


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_lattice_is_the_designs(shape: tuple[int, ...]) -> None:
    """With the shorter side of images; along each axis of volumes with its own side."""
    bound, family = bind(shape), SmoothMask()
    scale = shape if len(shape) == 3 else (min(shape),) * len(shape)
    steps = [max(1.0, STEPS_AT_224[len(shape)] * side / 224) for side in scale]
    assert each(family.step_for(shape), shape) == each(bound.step, shape) == tuple(steps)
    least = math.sqrt(len(shape)) / SUPPORT  # of a step, or there would be gaps
    sigmas = [max(21 * side / 224, least * step) for side, step in zip(scale, steps)]
    assert each(family.sigma_for(shape), shape) == pytest.approx(sigmas)
    assert bound.sigma == pytest.approx(max(sigmas))
    assert bound.lattice_shape == tuple(max(2, round(side / step)) for side, step in zip(shape, steps))
    assert bound.parameters == math.prod(bound.lattice_shape)
    assert isinstance(family.step_for(shape), tuple) == (len(set(steps)) > 1)


def test_lattice_has_two_points_along_each_axis_at_least() -> None:
    assert bind((9, 60), step=30.0, sigma=40.0).lattice_shape == (2, 2)


def test_mask_on_every_device_is_that_of_the_cpu(device: torch.device) -> None:
    p = random_parameters(bind((24, 20)), rows=2)
    there = SmoothMask().bind((24, 20), device, torch.float64)
    mask = there(p.to(device))
    assert mask.device.type == device.type
    torch.testing.assert_close(mask.cpu(), bind((24, 20))(p), rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [1 / 20, 0], ids=["smax", "max"])
@pytest.mark.parametrize("shape", [(12,), (9, 11), (20, 9), (8, 8, 8)], ids=shape_id)
def test_gradient_is_the_derivative(shape: tuple[int, ...], temperature: float) -> None:
    bound = bind(shape, step=2.0, sigma=2.6, temperature=temperature)
    p = (0.1 + 0.8 * torch.rand(1, bound.parameters, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(bound, (p,), nondet_tol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_mirrored_parameters_give_the_mirrored_mask(shape: tuple[int, ...]) -> None:
    bound = bind(shape)
    p = random_parameters(bound)
    mask = bound(p)
    for axis in range(len(shape)):
        mirrored = p.unflatten(1, bound.lattice_shape).flip(axis + 1).flatten(1)
        torch.testing.assert_close(bound(mirrored), mask.flip(axis + 2), rtol=0, atol=1e-12)


@given(
    shape=st.one_of(
        st.tuples(st.integers(8, 60)),
        st.tuples(st.integers(8, 20), st.integers(8, 20)),
        st.tuples(*[st.integers(8, 9)] * 3),
    ),
    sigma=st.floats(1.0, 6.0),
    seed=st.integers(0, 1000),
)
def test_lemma_1_holds_for_the_hard_maximum(shape: tuple[int, ...], sigma: float, seed: int) -> None:
    bound = bind(shape, sigma=sigma, temperature=0)
    p = random_parameters(bound, seed=seed)
    lattice, nodes = literal_lattice(shape, bound.step), node_positions(bound)
    at_lattice = [int(((nodes - point) ** 2).sum(1).argmin()) for point in lattice]
    np.testing.assert_allclose(nodes[at_lattice], lattice, atol=1e-9)  # the lattice is part of the grid
    m = bound.grid_values(p)[0].numpy()
    assert (m[at_lattice] >= p[0].numpy() - 1e-12).all()
    assert (m <= 1).all()

    some = np.random.default_rng(seed).permutation(pixels(shape))[:60]
    literal = literal_mask(some, lattice, p[0].numpy(), sigma, 0)
    distance = np.sqrt(((some[:, None] - some[None]) ** 2).sum(-1))
    # k itself falls from below 1e-3 to 0 at the end of its support.
    assert (np.abs(literal[:, None] - literal[None]) <= LIPSCHITZ / sigma * distance + 1e-3).all()


@pytest.mark.parametrize("area", [1.0, 0.02])
@pytest.mark.parametrize("shape", [(300,), (40, 56), (96, 100), (12, 17, 16)], ids=shape_id)
def test_slopes_are_at_most_twice_the_kernels(shape: tuple[int, ...], area: float) -> None:
    bound = bind(shape, area)
    single = torch.zeros(1, bound.parameters, dtype=torch.float64)
    single[0, bound.parameters // 2] = 1
    half = torch.zeros(1, *bound.lattice_shape, dtype=torch.float64)
    half[:, : bound.lattice_shape[0] // 2] = 1
    mask = bound(torch.cat([single, half.flatten(1), random_parameters(bound, rows=4)]))
    for axis in range(2, mask.dim()):
        assert float(mask.diff(dim=axis).abs().max()) <= 2 * LIPSCHITZ / bound.sigma


@given(
    shape=st.lists(st.integers(8, 40), min_size=1, max_size=3).map(tuple).filter(lambda s: math.prod(s) < 6000),
    share=st.floats(0, 1),
)
def test_masks_of_every_area_allowed_are_finite(shape: tuple[int, ...], share: float) -> None:
    smallest = SmoothMask().smallest_area(shape)
    bound = bind(shape, smallest ** (1 - share))
    for p in (torch.zeros(1, bound.parameters), torch.ones(1, bound.parameters)):
        mask = bound(p.double())
        assert bool(mask.isfinite().all())
        assert float(mask.min()) >= 0
        assert float(mask.max()) <= 1 + 1e-12


def test_positions_out_of_every_disks_reach_are_refused_or_finite() -> None:
    try:
        sparse = bind((32, 32), step=8.0, sigma=1.0)
    except ValueError as error:
        assert "sigma" in str(error)  # noqa: PT017
        return
    assert bool(sparse(torch.ones(1, sparse.parameters, dtype=torch.float64)).isfinite().all())


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_area_is_the_mean_of_the_expanded_mask(shape: tuple[int, ...]) -> None:
    bound = bind(shape)
    grid_values = bound.grid_values(random_parameters(bound, rows=3))
    torch.testing.assert_close(
        bound.area(grid_values), bound.expand(grid_values).flatten(1).mean(1), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("temperature", [1 / 20, 0], ids=["smax", "max"])
@pytest.mark.parametrize("shape", [(40,), (40, 31)], ids=shape_id)
def test_linearised_masks_have_the_derivatives_of_autograd(shape: tuple[int, ...], temperature: float) -> None:
    bound = bind(shape, temperature=temperature)
    p = random_parameters(bound, rows=3).clamp(0.05, 0.95)
    by_grid = torch.randn(3, math.prod(bound.grid_shape), dtype=torch.float64)
    here = bound.linearised(p)

    leaf = p.clone().requires_grad_()
    area = bound(leaf).flatten(1).mean(1)
    (of_area,) = torch.autograd.grad(area.sum(), leaf)
    (of_reward,) = torch.autograd.grad((bound.grid_values(leaf) * by_grid).sum(), leaf)
    by_reward, by_area = here.gradients(by_grid, here.area_by_grid)
    pairs = [
        (here.grid_values, bound.grid_values(p)),
        (here.area, area.detach()),
        (by_reward, of_reward),
        (by_area, of_area),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert not found.requires_grad


def test_rows_are_masks_of_their_own() -> None:
    bound = bind((64, 50))
    p = random_parameters(bound, rows=7)
    torch.testing.assert_close(bound(p), torch.cat([bound(row[None]) for row in p]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(400,), (96, 130), (16, 12, 17)], ids=shape_id)
def test_one_disk_covers_a_small_area(shape: tuple[int, ...]) -> None:
    def of_one_disk(area: float) -> float:
        bound = bind(shape, area, temperature=0)
        dot = torch.zeros(*bound.lattice_shape, dtype=torch.float64)
        dot[tuple(points // 2 for points in bound.lattice_shape)] = 1
        return float(bound(dot.view(1, -1)).mean())

    small = of_one_disk(1.0) / 2
    assert of_one_disk(small) == pytest.approx(small, rel=0.15)


def test_sigma_follows_small_areas_only() -> None:
    family, shape = SmoothMask(), (224, 224)
    radii = [family.sigma_for(shape, area) for area in (0.01, 0.02, 0.03, 0.1, 0.5, 1.0)]
    assert radii == sorted(radii)
    assert radii[0] < radii[1] < radii[2] < 21
    assert radii[3:] == [21, 21, 21]
    assert bind(shape, 0.01).sigma == radii[0]
    assert SmoothMask(sigma=9.0).sigma_for(shape, 0.001) == 9


def test_smallest_area_is_one_lattice_cell() -> None:
    assert SmoothMask().smallest_area((224, 224)) == 1 / 32**2
    assert SmoothMask(step=10.0).smallest_area((40, 60)) == 1 / 24


def test_disk_is_flat_in_the_middle_and_gone_at_the_end_of_its_support() -> None:
    k = kernel(torch.tensor([0.0, 5.0, 10.0, 24.0], dtype=torch.float64), 10.0)
    assert k[:2].tolist() == [1, 1]
    assert float(k[2]) == pytest.approx(math.exp(-1 / 2))
    assert float(k[3]) < 1e-3


def test_no_tensor_holds_every_tap_at_full_resolution() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.numel = max(self.numel, out.untyped_storage().nbytes() // out.element_size())
            return out

    bound = SmoothMask().bind((224, 224))
    p = torch.rand(1, bound.parameters, requires_grad=True)
    taps = math.pi * (SUPPORT * bound.sigma / bound.step) ** 2
    with Largest() as largest:
        bound(p).sum().backward()
    assert 224 * 224 <= largest.numel < 224 * 224 * taps / 4


@pytest.mark.parametrize(
    ("shape", "settings", "largest"),
    [((16, 112, 112), {}, 2.0), ((50_000,), {"step": 7.0, "sigma": 21.0}, 20.0)],
    ids=["video", "long series"],
)
def test_what_a_mask_keeps_grows_with_its_sides(
    shape: tuple[int, ...], settings: dict[str, Any], largest: float
) -> None:
    """In megabytes: not with the number of pairs of nodes and points, of which a video has millions."""
    bound = SmoothMask(**settings).bind(shape)
    tensors = {id(part): part for part in reachable(bound) if isinstance(part, Tensor)}
    assert sum(part.untyped_storage().nbytes() for part in tensors.values()) / 1e6 < largest
    assert len(tensors) > 5


@pytest.mark.parametrize("temperature", [1 / 20, 0], ids=["smax", "max"])
def test_a_long_axis_is_that_of_the_equation_everywhere(temperature: float) -> None:
    bound = bind((3000,), step=3.0, sigma=9.0, temperature=temperature)
    p = random_parameters(bound)
    lattice, nodes = literal_lattice((3000,), 3.0), node_positions(bound)
    literal = literal_mask(nodes, lattice, p[0].numpy(), 9.0, temperature)
    np.testing.assert_allclose(bound.grid_values(p)[0].numpy(), literal, rtol=0, atol=1e-10)
    expected = np.interp(np.arange(3000), nodes[:, 0], literal)
    np.testing.assert_allclose(bound(p)[0, 0].numpy(), expected, rtol=0, atol=1e-9)


def test_a_long_axis_does_not_depend_on_the_default_dtype() -> None:
    p = random_parameters(bind((3000,), step=3.0, sigma=9.0))
    expected = bind((3000,), step=3.0, sigma=9.0).grid_values(p)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = bind((3000,), step=3.0, sigma=9.0).grid_values(p)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_disks_wider_than_the_input_have_no_distances_beyond_it() -> None:
    wide = SmoothMask(step=7.0, sigma=2000.0).bind((224, 224))
    cells = wide._maximum._kernel.numel()
    assert cells <= math.prod(wide.grid_shape)


@pytest.mark.parametrize("positions", [2, 255, 256, 257, 900])
def test_interpolation_is_linear_and_its_transpose_is_exact(positions: int) -> None:
    nodes = torch.linspace(-1.5, positions + 0.25, max(3, positions // 3), dtype=torch.float64)
    interpolate = Interpolation.between(nodes, positions)
    values, back = torch.randn(2, 3, len(nodes)).double(), torch.randn(2, 3, positions).double()
    expected = [[np.interp(np.arange(positions), nodes.numpy(), row.numpy()) for row in rows] for rows in values]
    np.testing.assert_allclose(interpolate(values).numpy(), np.array(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close((interpolate(values) * back).sum(), (values * interpolate.transposed(back)).sum())
    torch.testing.assert_close(interpolate(values).mean(-1), values @ interpolate.means)


@pytest.mark.parametrize("name", ["step", "sigma", "temperature"])
@pytest.mark.parametrize(
    ("value", "error"),
    [("7", TypeError), (True, TypeError), (-1.0, ValueError), (math.nan, ValueError), (math.inf, ValueError)],
)
def test_bad_settings_are_named(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        SmoothMask(**{name: value})


def test_temperatures_whose_exponentials_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature must be 0 or at least 1/80, got 0\.01"):
        SmoothMask(temperature=0.01)
    bound = SmoothMask(temperature=1 / 80).bind((20, 20))
    values = bound.grid_values(torch.ones(1, bound.parameters))
    assert bool(values.isfinite().all())
    assert 0.9 < float(values.max()) <= 1


@pytest.mark.parametrize("name", ["step", "sigma"])
def test_lengths_of_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        SmoothMask(**{name: 0.0})


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1), (8, 8, 8, 8)], ids=shape_id)
def test_shapes_without_masks_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape must have one to three sides and at least 2 positions"):
        SmoothMask().bind(shape)


def test_settings_are_frozen_values() -> None:
    family = SmoothMask(step=2.0)
    assert copy.deepcopy(family) == family == SmoothMask(step=2.0) != SmoothMask()
    assert hash(family) == hash(SmoothMask(step=2.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        family.step = 3.0


@pytest.mark.parametrize("shape", [(2,), (7,), (2, 2), (5, 3), (2, 2, 2), (4, 3, 2), (7, 7, 7)], ids=shape_id)
def test_masks_of_small_layers_are_those_of_the_equation(shape: tuple[int, ...]) -> None:
    """Of sides from 2 up: at a distance of one position every node is a pixel, whose masks reach every area."""
    bound = bind(shape)
    assert bound.step == 1
    assert bound.lattice_shape == bound.grid_shape == shape
    p = random_parameters(bound, rows=2)
    literal = [literal_mask(pixels(shape), literal_lattice(shape, 1.0), row.numpy(), bound.sigma, 1 / 20) for row in p]
    np.testing.assert_allclose(bound(p).flatten(1).numpy(), np.array(literal), rtol=0, atol=1e-10)
    smallest = SmoothMask().smallest_area(shape)
    assert smallest == pytest.approx(1 / math.prod(shape))
    for area in (smallest, 0.6, 0.95, 1.0):
        measured = mask_of_area(p, area, bind(shape, area)).flatten(1).mean(1)
        np.testing.assert_allclose(measured.numpy(), area, rtol=0, atol=1e-6)
    flat = torch.ones(2, bound.parameters, dtype=torch.float64)
    torch.testing.assert_close(bound.smooth_gradient(flat, 0.3, 0.1), flat)


@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize("shape", [(40,), (40, 31), (16, 12, 17)], ids=shape_id)
def test_smoothed_gradient_is_a_gaussian_average_over_the_lattice(shape: tuple[int, ...], share: float) -> None:
    bound = bind(shape)
    gradient, areas = torch.randn(2, bound.parameters, dtype=torch.float64), (0.1, 0.6)
    smoothed = bound.smooth_gradient(gradient, torch.tensor(areas, dtype=torch.float64), share)
    at = np.array(list(itertools.product(*map(range, bound.lattice_shape))))
    for row, area in enumerate(areas):
        width = max(0.7, share * min(bound.lattice_shape) * area ** (1 / len(shape)))
        weights = np.exp(-((at[:, None] - at[None, :]) ** 2).sum(2) / (2 * width**2))
        weights /= weights.sum(1, keepdims=True)
        np.testing.assert_allclose(smoothed[row].numpy(), weights @ gradient[row].numpy(), rtol=0, atol=1e-12)
        alone = bound.smooth_gradient(gradient[row : row + 1], area, share)
        torch.testing.assert_close(alone[0], smoothed[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(40,), (40, 31), (8, 9, 10)], ids=shape_id)
def test_gradient_by_the_grid_is_the_transpose_of_the_expansion(shape: tuple[int, ...]) -> None:
    bound = bind(shape)
    leaf = torch.rand(2, math.prod(bound.grid_shape), dtype=torch.float64, requires_grad=True)
    by_mask = torch.randn(2, 1, *shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(bound.expand(leaf), leaf, by_mask)
    torch.testing.assert_close(bound.by_grid(by_mask), expected, rtol=0, atol=1e-12)


# Axes of their own


@pytest.mark.parametrize("shape", [(4, 20, 24), (1, 20, 24), (20, 5, 24), (20, 24, 7)], ids=shape_id)
def test_a_short_axis_has_a_mask_for_each_of_its_positions(shape: tuple[int, ...]) -> None:
    """Each of them is the mask of an image whose sides are the two long ones."""
    axis = shape.index(min(shape))
    plane = shape[:axis] + shape[axis + 1 :]
    bound, alone = bind(shape), bind(plane)
    p = random_parameters(bound)
    by_position = p.unflatten(1, bound.lattice_shape).movedim(axis + 1, 0).flatten(1)
    slices = alone(by_position)[:, 0]
    torch.testing.assert_close(bound(p)[0, 0].movedim(axis, 0), slices, rtol=0, atol=1e-12)
    small = 0.01
    if shape[axis] > 1:
        assert SmoothMask().smallest_area(shape) == pytest.approx(SmoothMask().smallest_area(plane) / shape[axis])
    assert SmoothMask().sigma_for(plane, small * shape[axis]) == pytest.approx(bind(shape, small).sigma)
    torch.testing.assert_close(
        mask_of_area(p, 0.1, bind(shape, 0.1)).mean(), torch.tensor(0.1).double(), rtol=0, atol=1e-6
    )


def test_a_signal_of_four_rows_is_masked_row_by_row() -> None:
    bound = bind((4, 300))
    assert bound.lattice_shape[0] == 4
    p = torch.zeros(1, *bound.lattice_shape, dtype=torch.float64)
    p[0, 2, 10] = 1
    assert [float(row.max()) > 0 for row in bound(p.flatten(1))[0, 0]] == [False, False, True, False]


@pytest.mark.parametrize("hold", [0, (0,), -3, (1, 2), (-1, 1)], ids=str)
def test_a_mask_is_constant_along_what_it_holds(hold: int | tuple[int, ...]) -> None:
    """And is the mask of the other axes."""
    shape = (9, 20, 24)
    held = {axis % 3 for axis in (hold if isinstance(hold, tuple) else (hold,))}
    free = tuple(side for axis, side in enumerate(shape) if axis not in held)
    bound, alone = SmoothMask(hold=hold).bind(shape, "cpu", torch.float64, 0.05), bind(free, 0.05)
    assert bound.parameters == alone.parameters
    p = random_parameters(alone, rows=2)
    view = [1 if axis in held else side for axis, side in enumerate(shape)]
    expected = alone(p).reshape(2, 1, *view).expand(2, 1, *shape)
    torch.testing.assert_close(bound(p), expected, rtol=0, atol=1e-12)
    smoothed, of_alone = (one.smooth_gradient(p, 0.3, 0.5) for one in (bound, alone))
    torch.testing.assert_close(smoothed, of_alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("time_axis", [0, 1, -1])
def test_a_space_time_mask_is_the_product_of_its_factors(time_axis: int) -> None:
    shape = (9, 20, 24)
    axis = time_axis % 3
    space = shape[:axis] + shape[axis + 1 :]
    family: MaskFamily = SpaceTimeMask(time_axis=time_axis)
    (bound,) = family.bind_areas(shape, torch.device("cpu"), torch.float64, (1.0,))
    in_time, in_space = bind(shape[axis : axis + 1]), bind(space)
    p_time, p_space = random_parameters(in_time, rows=2), random_parameters(in_space, rows=2, seed=1)
    expected = in_space(p_space).unsqueeze(axis + 2)
    view = [-1 if at == axis else 1 for at in range(3)]
    expected = expected * in_time(p_time).view(2, 1, *view)
    p = torch.cat([p_time, p_space], dim=1)
    torch.testing.assert_close(bound(p), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(bound.area(bound.grid_values(p)), expected.flatten(1).mean(1), rtol=0, atol=1e-12)
    assert family.smallest_area(shape) == pytest.approx(1 / in_time.parameters / in_space.parameters)
    for area in (0.02, 0.3, 0.9, 1.0):
        measured = mask_of_area(p, area, bound).flatten(1).mean(1)
        np.testing.assert_allclose(measured.numpy(), area, rtol=0, atol=1e-6)


def test_linearised_space_time_masks_have_the_derivatives_of_autograd() -> None:
    bound = SpaceTimeMask().bind((9, 10, 12), "cpu", torch.float64, 0.2)
    p = torch.rand(2, bound.parameters, dtype=torch.float64, requires_grad=True)
    by_mask = torch.randn(2, 1, 9, 10, 12, dtype=torch.float64)
    (of_reward,) = torch.autograd.grad((bound(p) * by_mask).sum(), p)
    (of_area,) = torch.autograd.grad(bound(p).flatten(1).mean(1).sum(), p)
    here = bound.linearised(p.detach())
    found = here.gradients(bound.by_grid(by_mask), here.area_by_grid)
    torch.testing.assert_close(found, (of_reward, of_area), rtol=0, atol=1e-12)
    torch.testing.assert_close(here.area, bound(p).flatten(1).mean(1).detach(), rtol=0, atol=1e-12)
    flat = torch.ones(2, bound.parameters, dtype=torch.float64)
    torch.testing.assert_close(bound.smooth_gradient(flat, 0.3, 0.5), flat, rtol=0, atol=1e-12)


def test_space_time_masks_of_areas_with_the_same_disks_are_one_object() -> None:
    bounds = SpaceTimeMask().bind_areas((16, 40, 40), torch.device("cpu"), torch.float32, (0.0001, 0.5, 1.0))
    assert bounds[0] is not bounds[1] is bounds[2]
    assert bounds[0].sigma < bounds[1].sigma


@pytest.mark.parametrize(
    ("make", "name", "error"),
    [
        (lambda: SmoothMask(step=(1.0, 0.0)), r"step\[1\] must be above 0", ValueError),
        (lambda: SmoothMask(sigma=(1.0, "2")), r"sigma\[1\] must be a number", TypeError),
        (lambda: SmoothMask(sigma=()), "sigma must be a number or one for each", ValueError),
        (lambda: SmoothMask(sigma=(1.0, 2.0, 3.0, 4.0)), "sigma must be a number or one for each", ValueError),
        (lambda: SmoothMask(step=(1.0, 2.0)).bind((9, 9, 9)), "step must have one number for each axis", ValueError),
        (lambda: SmoothMask(hold=1.5), "hold must be an integer", TypeError),
        (lambda: SmoothMask(hold="time"), "hold must be an integer", TypeError),
        (lambda: SmoothMask(hold=2).bind((9, 9)), "hold must name axes", ValueError),
        (lambda: SmoothMask(hold=(0, 1)).bind((9, 9)), "hold must leave an axis", ValueError),
        (lambda: SmoothMask(hold=0).bind((9, 1)), "hold must leave an axis", ValueError),
        (lambda: SpaceTimeMask(space=3.0), "space must be a SmoothMask", TypeError),
        (lambda: SpaceTimeMask(time_axis=None), "time_axis must be an integer", TypeError),
        (lambda: SpaceTimeMask().bind((9,)), "SpaceTimeMask for positions of two or three axes", ValueError),
        (lambda: SpaceTimeMask(time_axis=2).bind((9, 9)), "time_axis 2 for positions", ValueError),
        (lambda: SpaceTimeMask().bind((1, 9)), "must vary in time and in space", ValueError),
        (lambda: SpaceTimeMask().smallest_area((9, 1)), "must vary in time and in space", ValueError),
    ],
)
def test_bad_settings_of_axes_are_named(make: Callable[[], object], name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        make()


# Masks over channels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 7, 512])
def test_channel_mask_is_its_parameters(channels: int, dtype: torch.dtype) -> None:
    bound: BoundMask = ChannelMask().bind(channels, "cpu", dtype)
    p = torch.rand(3, channels, dtype=dtype)
    assert bound.parameters == channels
    assert bound.largest_area == 1
    assert math.isnan(bound.sigma)
    assert torch.equal(bound(p), p)
    assert torch.equal(bound.expand(bound.grid_values(p)), p)
    torch.testing.assert_close(bound.area(bound.grid_values(p)), p.mean(1))
    assert torch.equal(bound.smooth_gradient(p, 0.5, 0.1), p)
    new = bound.new_parameters(4)
    assert new.dtype == dtype
    assert torch.equal(new, torch.zeros(4, channels, dtype=dtype))


def test_linearised_channel_masks_have_the_derivatives_of_autograd() -> None:
    bound = ChannelMask().bind(6, "cpu", torch.float64)
    p = torch.rand(3, 6, dtype=torch.float64, requires_grad=True)
    by_grid = torch.randn(3, 6, dtype=torch.float64)
    (of_area,) = torch.autograd.grad(bound(p).mean(1).sum(), p)
    (of_reward,) = torch.autograd.grad((bound.grid_values(p) * by_grid).sum(), p)
    here = bound.linearised(p)
    by_reward, by_area = here.gradients(by_grid, here.area_by_grid)
    pairs = [
        (here.grid_values, p.detach()),
        (here.area, p.detach().mean(1)),
        (by_reward, of_reward),
        (by_area, of_area),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert not found.requires_grad


@given(channels=st.integers(1, 60), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_channel_masks_of_every_number_of_channels_have_exactly_their_area(
    channels: int, share: float, seed: int
) -> None:
    area = max(1, round(share * channels)) / channels
    bound = ChannelMask().bind(channels, "cpu", torch.float64)
    p = torch.rand(2, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = mask_of_area(p, area, bound)
    np.testing.assert_allclose(mask.mean(1).numpy(), area, rtol=0, atol=1e-6)
    assert float(mask.min()) >= 0
    assert float(mask.max()) <= 1 + 1e-12
    assert area < 1 or torch.equal(mask, torch.ones_like(mask))


def test_channel_mask_is_one_object_for_all_areas() -> None:
    family: MaskFamily = ChannelMask()
    bounds = family.bind_areas((8,), torch.device("cpu"), torch.float32, (0.125, 0.5, 1.0))
    assert len(bounds) == 3
    assert bounds[0] is bounds[1] is bounds[2]
    assert bounds[0].parameters == 8
    assert family.smallest_area((8,)) == 1 / 8
    assert copy.deepcopy(family) == family
    assert hash(family) == hash(ChannelMask())


@pytest.mark.parametrize(
    ("channels", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_channel_masks_need_a_number_of_channels(channels: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="channels must be"):
        ChannelMask().bind(channels)


# Binary masks


def test_agreement_by_hand() -> None:
    # Three searches of one image, of two inputs with 4 and 6 positions, of which a half is kept.
    first = torch.tensor([[3.0, 2, 1, 0], [3, 1, 2, 0], [3, 2, 1, 0]])[:, None]
    second = torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1]])[:, None]
    shares, score = agreement((first, second), 0.5, images=1)
    torch.testing.assert_close(shares[0], torch.tensor([[[1.0, 2 / 3, 1 / 3, 0]]]))
    torch.testing.assert_close(shares[1], torch.tensor([[[2 / 3, 2 / 3, 1 / 3, 2 / 3, 1 / 3, 1 / 3]]]))
    pairs = [(1 + 2) / (3 + 4), (2 + 0) / (2 + 6), (1 + 1) / (3 + 5)]
    assert score.tolist() == pytest.approx([sum(pairs) / 3])


def test_agreement_is_that_of_each_image_at_its_own_area() -> None:
    rows, areas = torch.rand(3, 2, 1, 8, 9), torch.tensor([0.25, 0.5])
    shares, score = agreement((rows.flatten(0, 1),), areas, images=2)
    for n in range(2):
        share, alone = agreement((rows[:, n],), float(areas[n]), images=1)
        assert torch.equal(shares[0][n], share[0][0])
        assert float(score[n]) == float(alone)


def test_one_search_agrees_with_nobody() -> None:
    shares, score = agreement((torch.rand(2, 1, 8, 9), torch.rand(2, 7)), 0.25, images=2)
    assert [share.shape for share in shares] == [(2, 1, 8, 9), (2, 7)]
    assert all(bool(part.isnan().all()) for part in (*shares, score))
