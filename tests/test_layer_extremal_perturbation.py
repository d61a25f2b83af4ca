"""Section 5: masks over a layer on networks whose best channels are known, and against hooks written here."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution
from torch import Tensor, nn

from captum_extremal import ChannelMask, LayerExtremalPerturbation, PathSolver, PenaltySolver, SmoothMask

# Untrained networks often score an activation of zeros as high as the activation.
pytestmark = pytest.mark.filterwarnings("ignore:.* reach the score threshold with nothing kept:UserWarning")

QUICK = PathSolver(steps=10)
GAMES = ["preserve", "delete", "hybrid"]


class ReadOut(nn.Module):
    """A linear read-out of a layer's channels: what each contributes to the score is known."""

    def __init__(self, weights: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, weights.shape[1], 3, padding=1)
        self.weights, self.bias = nn.Parameter(weights), bias
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean((2, 3)) @ self.weights.T + self.bias

    def contributions(self, x: Tensor, target: int = 0) -> Tensor:
        """(N, K), of each channel to the score."""
        with torch.no_grad():
            return self.layer(x).mean((2, 3)) * self.weights[target]


def with_contributions(contributions: list[list[float]], x: Tensor, bias: float = 0.0) -> ReadOut:
    """A network with these contributions (1, K) for the first image."""
    net = ReadOut(torch.ones(1, len(contributions[0])), bias)
    means = net.contributions(x[:1])
    with torch.no_grad():
        net.weights.copy_(torch.tensor(contributions, dtype=torch.float64) / means)
    return net


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 9, 7, dtype=torch.float64)


@pytest.fixture
def net() -> nn.Sequential:
    """Convolutions with 6 channels, a nonlinear tail and 4 outputs; the layer is ``net[1]``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 4),
        )
    return network.double().eval()


def explain(net: Any, x: Any, layer: nn.Module | None = None, **settings: Any) -> Any:
    method = LayerExtremalPerturbation(net, net[1] if layer is None else layer)
    return method.extremal_masks(x, **({"target": 1, "solver": QUICK} | settings))


def attribute(net: Any, x: Any, layer: nn.Module | None = None, **settings: Any) -> Any:
    method = LayerExtremalPerturbation(net, net[1] if layer is None else layer)
    return method.attribute(x, **({"target": 1, "solver": QUICK} | settings))


def same(one: Any, other: Any, atol: float = 1e-6) -> None:
    torch.testing.assert_close(one.masks, other.masks, rtol=0, atol=atol)
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=atol)


# Known answers


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("channels", [3, 12, 40])
def test_binary_masks_are_the_channels_that_contribute_most(channels: int, game: str) -> None:
    torch.manual_seed(channels)
    net, x = ReadOut(torch.randn(3, channels), bias=0.3), torch.randn(4, 3, 9, 7, dtype=torch.float64)
    counts = tuple(range(1, channels + 1))
    found = explain(net, x, net.layer, target=2, areas=counts, game=game, solver="path")
    contributions = net.contributions(x, 2)
    ranks = contributions.argsort(1, descending=True).argsort(1)
    expected = torch.stack([ranks < count for count in counts], dim=1)
    assert torch.equal(found.binary_masks(), expected)
    torch.testing.assert_close(
        found.masks.double().mean(2), torch.tensor([[c / channels for c in counts]] * 4).double(), rtol=0, atol=1e-5
    )
    assert float(found.masks.min()) >= 0
    assert float(found.masks.max()) <= 1
    torch.testing.assert_close(
        found.scores, (found.masks.double() * contributions[:, None]).sum(2) + 0.3, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("count", [1, 2, 20, 38, 39])
def test_single_count_is_solved_without_a_sweep(count: int) -> None:
    net, x = ReadOut(torch.randn(1, 40)), torch.randn(4, 3, 9, 7, dtype=torch.float64)
    found = explain(net, x, net.layer, target=0, areas=count, solver="path").binary_masks()
    best = net.contributions(x).topk(count).indices
    assert torch.equal(found[:, 0], torch.zeros(4, 40, dtype=torch.bool).scatter(1, best, True))


@pytest.mark.parametrize(("game", "smallest"), [("preserve", 2), ("delete", 4), ("hybrid", 3)])
def test_smallest_sufficient_number_of_channels_is_known(x: Tensor, game: str, smallest: int) -> None:
    """Score 2.5 of the whole; thresholds that 2, 4 and 3 of the sorted channels reach."""
    net = with_contributions([[0.5, 3.0, -4.0, 1.0, 2.0, 0.0]], x)
    # Best first: kept 3, 5, 6, 6.5, 6.5, 2.5; left -0.5, -2.5, -3.5, -4, -4, 0.
    threshold = {"preserve": 4.5, "delete": 3.7, "hybrid": 9.0}[game]
    how = {"target": 0, "areas": (1, 2, 3, 4, 5, 6), "game": game, "solver": "path", "score_threshold": threshold}
    found = explain(net, x[:1], net.layer, **how)
    assert float(found.clean_score) == pytest.approx(2.5)
    assert float(found.optimal_area) * 6 == pytest.approx(smallest)
    map_ = attribute(net, x[:1], net.layer, **how)
    ranks = torch.tensor([3, 0, 5, 2, 1, 4])
    assert torch.equal(map_.mean((2, 3))[0] > 0.5, ranks < smallest)


def test_without_a_threshold_the_whole_activations_score_must_be_reached(x: Tensor) -> None:
    net = with_contributions([[0.5, 3.0, -4.0, 1.0, 2.0, 0.0]], x)
    found = explain(net, x[:1], net.layer, target=0, areas=(1, 2, 3, 4, 5, 6), solver="path")
    assert float(found.threshold) == pytest.approx(2.5)
    assert float(found.optimal_area) * 6 == pytest.approx(1)


def test_penalty_solver_finds_the_same_channels() -> None:
    """Five channels of 32 speak for each class. Of channels that equation 4 holds at 1 it drops any, so none fewer."""
    contributions = -1 - 2 * torch.rand(4, 32, dtype=torch.float64)
    for of_class in contributions:
        of_class[torch.randperm(32)[:5]] = 1 + 2 * torch.rand(5, dtype=torch.float64)
    net, x = ReadOut(torch.ones(4, 32)), torch.randn(1, 3, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        net.weights.copy_(contributions / net.contributions(x))
    ranks = contributions.argsort(1, descending=True).argsort(1)
    counts = (5, 8, 12)
    expected = torch.stack([ranks < count for count in counts], dim=1)
    for solver in ("path", "penalty"):
        found = explain(net, x.expand(4, -1, -1, -1), net.layer, target=[0, 1, 2, 3], areas=counts, solver=solver)
        assert torch.equal(found.binary_masks(), expected)
        torch.testing.assert_close(
            found.masks.mean(2), torch.tensor([counts] * 4) / 32, rtol=0, atol=1e-6, check_dtype=False
        )
    assert found.settings["solver"] == repr(PenaltySolver.channels())
    assert found.settings["steps"] == 300 + 3 * 19  # and a little settling


def test_spatial_mask_lies_where_the_score_comes_from() -> None:
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(12.0), indexing="ij")
    weights = torch.exp(-((rows - 4) ** 2 + (columns - 8) ** 2) / 8).double()
    layer = nn.Identity()
    counts = (10, 30, 60)
    found = explain(
        nn.Sequential(layer, Weighted(weights)).eval(),
        torch.ones(1, 3, 14, 12, dtype=torch.float64),
        layer,
        target=None,
        mask="spatial",
        areas=counts,
        solver="path",
    )
    for index, count in enumerate(counts):
        best = weights > weights.flatten().sort(descending=True).values[count]
        kept = found.binary_masks()[0, index, 0]
        assert int(kept.sum()) == count
        assert float((kept & best).sum() / (kept | best).sum()) > 0.7
    torch.testing.assert_close(
        found.masks.double().flatten(2).mean(2), torch.tensor([counts]) / 168.0, rtol=0, atol=1e-5, check_dtype=False
    )


class Weighted(nn.Module):
    """Scores (N, 1): positions times weights."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean(1) * self.weights).flatten(1).sum(1, keepdim=True)


# The equations, literally


def literal_scores(net: nn.Sequential, x: Tensor, masks: Tensor, target: int = 1) -> Tensor:
    """Equation 9's Phi of masks (N, ..., 1, 1) or (N, 1, H, W), by a hook on the whole network."""
    handle = net[1].register_forward_hook(lambda module, args, output: output * masks)
    try:
        with torch.no_grad():
            return net(x)[:, target]
    finally:
        handle.remove()


@pytest.mark.parametrize("mask", ["channels", "spatial"])
@pytest.mark.parametrize("game", GAMES)
def test_scores_are_equation_9(net: nn.Sequential, x: Tensor, mask: str, game: str) -> None:
    found = explain(net, x, mask=mask, areas=(0.2, 0.5, 1.0), game=game)
    for index in range(3):
        masks = found.masks[:, index].double()
        masks = masks[:, :, None, None] if mask == "channels" else masks
        # The masks are kept in float32, the scores are of the masks as they were found.
        for scores, kept in ((found.scores, masks), (found.complement_scores, 1 - masks)):
            torch.testing.assert_close(scores[:, index], literal_scores(net, x, kept), rtol=0, atol=1e-6)
    nothing = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(found.perturbed_score, literal_scores(net, x, nothing), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.clean_score, net(x)[:, 1].detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_channels_score_what_the_clean_activation_scores(net: nn.Sequential, x: Tensor, dtype: torch.dtype) -> None:
    for mask in ("channels", "spatial"):
        found = explain(net.to(dtype), x.to(dtype), mask=mask, areas=(0.5, 1.0))
        assert torch.equal(found.scores[:, 1], found.clean_score)
        assert torch.equal(found.complement_scores[:, 1], found.perturbed_score)
        assert torch.equal(found.masks[:, 1], torch.ones_like(found.masks[:, 1]))
        assert bool(found.reached.all())


@pytest.mark.parametrize("mask", ["channels", "spatial"])
def test_attribution_is_the_mask_of_the_smallest_sufficient_area(net: nn.Sequential, x: Tensor, mask: str) -> None:
    found = explain(net, x, mask=mask, areas=(0.2, 0.5, 1.0))
    attribution = attribute(net, x, mask=mask, areas=(0.2, 0.5, 1.0))
    assert attribution.shape == (2, 6, 9, 7)
    assert attribution.dtype == torch.float64
    assert attribution.is_contiguous()
    best = found.optimal_mask().double()
    expected = best[:, :, None, None] if mask == "channels" else best
    assert torch.equal(attribution, expected.expand(2, 6, 9, 7))


@pytest.mark.parametrize("mask", ["channels", "spatial"])
def test_heat_map_is_equation_11(net: nn.Sequential, x: Tensor, mask: str) -> None:
    activation = net[1](net[0](x)).detach()
    masks = attribute(net, x, mask=mask, areas=(0.2, 0.5, 1.0))
    product = attribute(net, x, mask=mask, areas=(0.2, 0.5, 1.0), multiply_by_activation=True)
    v = torch.zeros(2, 9, 7, dtype=torch.float64)
    for k in range(6):
        v += masks[:, k] * activation[:, k]
    torch.testing.assert_close(product.sum(1), v, rtol=0, atol=1e-12)
    assert float(product.min()) < 0  # of the convolution, before the ReLU that works in place
    larger = LayerAttribution.interpolate(product.sum(1, keepdim=True), (27, 21))
    assert larger.shape == (2, 1, 27, 21)


# Areas


@pytest.mark.parametrize(
    ("channels", "counts"),
    [
        (1, [1]),
        (5, [1, 5]),
        (12, [1, 5, 10, 12]),
        (25, [1, 5, 10, 20, 25]),
        (100, [1, 5, 10, 20, 25, 35, 40, 50, 60, 70, 80, 90, 100]),
        (101, [1, 5, 10, 20, 25, 35, 40, 50, 60, 70, 80, 90, 100, 101]),
        (220, [1, 5, 10, 20, 25, 35, 40, 50, 60, 70, 80, 90, 100, 150, 200, 220]),
    ],
    ids=str,
)
def test_default_is_the_papers_ladder_up_to_all_channels(channels: int, counts: list[int]) -> None:
    net, x = ReadOut(torch.randn(1, channels)), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    found = explain(net, x, net.layer, target=0, solver=PathSolver(steps=1))
    assert [round(area * channels, 6) for area in found.areas.tolist()] == counts
    assert found.binary_masks()[0].sum(1).tolist() == counts


@pytest.mark.parametrize(
    ("side", "areas"),
    [(6, [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0]), (4, [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]), (2, [0.4, 0.6, 0.8, 1.0])],
)
def test_default_over_positions_leaves_out_what_is_smaller_than_a_mask(side: int, areas: list[float]) -> None:
    net, x = ReadOut(torch.randn(1, 4)), torch.randn(1, 3, side, side, dtype=torch.float64)
    found = explain(net, x, net.layer, target=0, mask="spatial", solver=PathSolver(steps=1))
    assert found.areas.tolist() == pytest.approx(areas)
    assert found.masks.mean((0, 2, 3, 4)).tolist() == pytest.approx(areas, abs=1e-5)


@pytest.mark.parametrize(
    "areas",
    [
        (2, 3, 6),
        [2, 3, 6],
        (2 / 6, 0.5, 1.0),
        torch.tensor([2, 3, 6]),
        torch.tensor([2 / 6, 0.5, 1.0], dtype=torch.float64),
        np.array([2, 3, 6]),
        np.array([2 / 6, 0.5, 1.0]),
        (np.int64(2), 3, np.int32(6)),
        range(2, 7, 2),
    ],
    ids=str,
)
def test_areas_come_in_every_form(net: nn.Sequential, x: Tensor, areas: Any) -> None:
    expected = [2 / 6, 4 / 6, 1.0] if isinstance(areas, range) else [2 / 6, 0.5, 1.0]
    found = explain(net, x, areas=areas)
    assert found.areas.tolist() == pytest.approx(expected)
    same(found, explain(net, x, areas=tuple(expected)), atol=0)


def test_one_is_a_channel_and_one_point_zero_all_of_them(net: nn.Sequential, x: Tensor) -> None:
    assert explain(net, x, areas=1).masks.mean((1, 2)).tolist() == pytest.approx([1 / 6] * 2, abs=1e-6)
    assert torch.equal(explain(net, x, areas=1.0).masks, torch.ones(2, 1, 6))


def test_fractions_need_not_be_whole_channels(net: nn.Sequential, x: Tensor) -> None:
    found = explain(net, x, areas=(0.3, 0.9))
    torch.testing.assert_close(found.masks.mean(2), torch.tensor([[0.3, 0.9]] * 2), rtol=0, atol=1e-6)
    assert found.binary_masks().sum(2).tolist() == [[2, 5]] * 2


# Mask families and shapes


@pytest.mark.parametrize("sides", [(), (7,), (2,), (5, 4), (2, 2), (2, 9), (3, 4, 2)], ids=str)
@pytest.mark.parametrize("mask", ["channels", "spatial", ChannelMask(), SmoothMask(step=1.0, sigma=1.5)], ids=repr)
def test_layers_of_every_rank_are_masked(sides: tuple[int, ...], mask: Any) -> None:
    net = nn.Sequential(nn.Identity(), nn.Identity(), nn.Flatten(), nn.Linear(6 * math.prod(sides), 3)).double().eval()
    x = torch.randn(2, 6, *sides, dtype=torch.float64)
    over_channels = mask == "channels" or isinstance(mask, ChannelMask)
    if not over_channels and not sides:
        with pytest.raises(ValueError, match="mask must be 'channels'"):
            explain(net, x, mask=mask)
        return
    found = explain(net, x, mask=mask, areas=(0.5, 0.8, 1.0), channel_dim=1)
    assert found.masks.shape == ((2, 3, 6) if over_channels else (2, 3, 1, *sides))
    torch.testing.assert_close(found.masks.flatten(2).mean(2), torch.tensor([[0.5, 0.8, 1.0]] * 2), rtol=0, atol=1e-5)
    assert bool(found.sigma.isnan().all()) is over_channels
    assert found.settings["mask"] == repr({"channels": ChannelMask(), "spatial": SmoothMask()}.get(mask, mask))
    assert attribute(net, x, mask=mask, areas=(0.5, 1.0), channel_dim=1).shape == x.shape


@pytest.mark.parametrize("mask", ["channels", "spatial"])
def test_order_of_axes_changes_nothing(net: nn.Sequential, x: Tensor, mask: str) -> None:
    class ChannelsLast(nn.Module):
        def __init__(self, dims: tuple[int, ...], back: tuple[int, ...]) -> None:
            super().__init__()
            self.layer, self.dims, self.back = nn.Identity(), dims, back

        def forward(self, x: Tensor) -> Tensor:
            return net[2:](self.layer(net[1](net[0](x)).permute(self.dims)).permute(self.back))

    expected = explain(net, x, mask=mask, areas=(0.2, 0.5, 1.0))
    for dims, back, channel_dims in (((0, 2, 3, 1), (0, 3, 1, 2), (3, -1)), ((0, 2, 1, 3), (0, 2, 1, 3), (2, -2))):
        turned = ChannelsLast(dims, back).eval()
        for channel_dim in channel_dims:
            found = explain(turned, x, turned.layer, mask=mask, areas=(0.2, 0.5, 1.0), channel_dim=channel_dim)
            same(found, expected, atol=1e-7)
        map_ = attribute(turned, x, turned.layer, mask=mask, areas=(0.2, 0.5, 1.0), channel_dim=channel_dims[0])
        torch.testing.assert_close(
            map_.permute(back), attribute(net, x, mask=mask, areas=(0.2, 0.5, 1.0)), rtol=0, atol=1e-7
        )


# Transformers


class Transformer(nn.Module):
    """A class token before the tokens of a 4 x 3 grid of patches; attention behind the layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.3 * torch.randn(1, 13, width))
        self.layer = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.positions
        tokens = self.layer(tokens)
        mixed, _ = self.attention(tokens, tokens, tokens)
        return self.head((tokens + mixed)[:, 0])


@pytest.fixture
def transformer() -> Transformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return Transformer().double().eval()


@pytest.fixture
def picture() -> Tensor:
    return torch.randn(2, 3, 16, 12, dtype=torch.float64)


GRID = {"mask": "spatial", "channel_dim": -1, "prefix_tokens": 1, "token_grid": (4, 3)}


@pytest.mark.parametrize("wrapped", [False, True], ids=["split", "hook"])
def test_embedding_channels_of_a_transformer(transformer: Transformer, picture: Tensor, wrapped: bool) -> None:
    forward = (lambda x: transformer(x)) if wrapped else transformer
    found = explain(forward, picture, transformer.layer, channel_dim=-1, areas=(2, 5, 8))
    assert found.settings["runs"] == ("model" if wrapped else "tail")
    assert found.settings["not_split"] == ("forward_func is not a module" if wrapped else None)
    assert found.masks.shape == (2, 3, 8)
    same(found, explain(transformer, picture, transformer.layer, channel_dim=2, areas=(2, 5, 8)))
    map_ = attribute(forward, picture, transformer.layer, channel_dim=-1, areas=(2, 5, 8))
    assert map_.shape == (2, 13, 8)
    torch.testing.assert_close(map_[:, 4].float(), found.optimal_mask(), rtol=0, atol=1e-6)


def test_tokens_of_a_transformer_have_smooth_masks_and_the_class_token_is_kept(
    transformer: Transformer, picture: Tensor
) -> None:
    found = explain(transformer, picture, transformer.layer, areas=(0.3, 1.0), **GRID)
    assert found.masks.shape == (2, 2, 1, 4, 3)
    torch.testing.assert_close(found.masks.mean((2, 3, 4)), torch.tensor([[0.3, 1.0]] * 2), rtol=0, atol=1e-5)
    rows = torch.ones(2, 13, 1, dtype=torch.float64)
    rows[:, 1:, 0] = found.masks[:, 0, 0].double().flatten(1)
    others = torch.cat([rows[:, :1], 1 - rows[:, 1:]], dim=1)
    for multiplier, scores in ((rows, found.scores), (others, found.complement_scores)):
        handle = transformer.layer.register_forward_hook(lambda module, args, output, m=multiplier: output * m)
        expected = transformer(picture)[:, 1].detach()
        handle.remove()
        torch.testing.assert_close(scores[:, 0], expected, rtol=0, atol=1e-6)
    # What is removed is never the class token: it stays where the tokens are gone.
    handle = transformer.layer.register_forward_hook(
        lambda module, args, output: torch.cat([output[:, :1], 0 * output[:, 1:]], dim=1)
    )
    nothing = transformer(picture)[:, 1].detach()
    handle.remove()
    torch.testing.assert_close(found.perturbed_score, nothing, rtol=0, atol=1e-12)
    map_ = attribute(transformer, picture, transformer.layer, areas=(0.3, 1.0), **GRID)
    assert torch.equal(map_[:, 0], torch.ones(2, 8, dtype=torch.float64))


def test_tokens_in_a_row_need_no_grid(transformer: Transformer, picture: Tensor) -> None:
    how = {"mask": "spatial", "channel_dim": -1, "areas": (0.3, 1.0)}
    found = explain(transformer, picture, transformer.layer, prefix_tokens=1, **how)
    assert found.masks.shape == (2, 2, 1, 12)
    assert explain(transformer, picture, transformer.layer, **how).masks.shape == (2, 2, 1, 13)


def test_vision_transformer_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    net = models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=16, num_classes=4
    )
    nn.init.normal_(net.heads.head.weight)
    net, x = net.eval(), torch.randn(2, 3, 32, 32)
    for name in ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.mlp", "encoder.ln"):
        layer = net.get_submodule(name)
        assert explain(net, x, layer, channel_dim=-1, areas=(3, 12)).masks.shape == (2, 2, 12)
        tokens = explain(net, x, layer, **(GRID | {"token_grid": (4, 4), "areas": (0.25, 1.0)}))
        assert tokens.masks.shape == (2, 2, 1, 4, 4)
        torch.testing.assert_close(tokens.clean_score, net(x)[:, 1].detach(), rtol=1e-4, atol=1e-5)


def test_swin_transformer_of_torchvision_has_its_channels_last() -> None:
    models = pytest.importorskip("torchvision.models")
    net = models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=8,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=[4, 4],
        stochastic_depth_prob=0.0,
        num_classes=4,
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    assert explain(net, x, net.features[1], channel_dim=-1, areas=(2, 8)).masks.shape == (2, 2, 8)
    found = explain(net, x, net.features[1], channel_dim=-1, mask="spatial", areas=(0.2, 1.0))
    assert found.masks.shape == (2, 2, 1, 8, 8)
    assert attribute(net, x, net.features[1], channel_dim=-1, areas=(2, 8)).shape == (2, 8, 8, 8)


class Language(nn.Module):
    """Integer tokens in, classes out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.mix = nn.Conv1d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)
        self.double().eval()

    def forward(self, tokens: Tensor, weights: Tensor | None = None) -> Tensor:
        h = self.embedding(tokens)
        if weights is not None:
            h = h * weights[:, :, None]
        return self.head(torch.tanh(self.mix(h.transpose(1, 2))).mean(2))


def test_integer_inputs_are_explained_at_their_embedding() -> None:
    net, tokens = Language(), torch.randint(20, (2, 9))
    words = explain(net, tokens, net.embedding, channel_dim=-1, mask="spatial", areas=(3, 9))
    assert words.settings["runs"] == "tail"
    assert words.masks.shape == (2, 2, 1, 9)
    assert words.masks.mean((2, 3)).tolist() == [pytest.approx([3 / 9, 1], abs=1e-5)] * 2
    map_ = attribute(net, tokens, net.embedding, channel_dim=-1, areas=(2, 6))
    assert map_.shape == (2, 9, 6)
    assert map_.dtype == torch.float64
    weights = torch.rand(2, 9, dtype=torch.float64)
    with_weights = explain(
        net, tokens, net.embedding, channel_dim=-1, areas=(2, 6), additional_forward_args=weights, target=[0, 3]
    )
    torch.testing.assert_close(with_weights.clean_score, net(tokens, weights)[[0, 1], [0, 3]].detach())


# Inputs, arguments and targets


@pytest.mark.parametrize("wrapped", [False, True], ids=["split", "hook"])
def test_several_inputs_and_arguments_reach_the_model(wrapped: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, index: Tensor, scale: Tensor, power: float) -> Tensor:
            h = self.layer(torch.tanh(self.one(x)))
            return self.head(torch.tanh(h) * scale + h.gather(1, index) ** power)

    net = Net().double().eval()
    inputs = torch.randn(2, 4, dtype=torch.float64), torch.tensor([[1], [4]])
    scale = torch.rand(2, 6, dtype=torch.float64)
    forward = (lambda *args: net(*args)) if wrapped else net
    how = {"areas": (1, 3, 6), "game": "hybrid", "additional_forward_args": (scale, 2.0)}
    found = explain(forward, inputs, net.layer, **how)
    assert found.settings["runs"] == ("model" if wrapped else "tail")
    assert isinstance(found.masks, Tensor)
    torch.testing.assert_close(found.clean_score, net(*inputs, scale, 2.0)[:, 1].detach())
    for image in range(2):
        alone = explain(
            forward,
            tuple(part[image : image + 1] for part in inputs),
            net.layer,
            **(how | {"additional_forward_args": (scale[image : image + 1], 2.0)}),
        )
        same(found.image(image), alone, atol=1e-6)
    assert isinstance(attribute(forward, inputs, net.layer, **how), Tensor)  # the layer has one tensor


@pytest.mark.parametrize("target", [[0, 3], torch.tensor([0, 3]), torch.tensor([0, 3], dtype=torch.int32)])
def test_every_image_may_have_its_target(net: nn.Sequential, x: Tensor, target: Any) -> None:
    found = explain(net, x, areas=(2, 6), target=target)
    for image, one in enumerate((0, 3)):
        same(found.image(image), explain(net, x[image : image + 1], areas=(2, 6), target=one))


@pytest.mark.parametrize("target", [(1, 2, 3), [(1, 2, 3), (0, 0, 0)], 1])
def test_outputs_may_have_positions(net: nn.Sequential, x: Tensor, target: Any) -> None:
    cut = net[:5].eval()  # (N, 6, 7, 5)
    found = explain(cut, x, cut[1], areas=(2, 6), target=target)
    output = cut(x).detach()
    at = target if isinstance(target, list) else [target] * 2
    expected = [output[(n, *one)] if isinstance(one, tuple) else output[n, one].mean() for n, one in enumerate(at)]
    torch.testing.assert_close(found.clean_score, torch.stack(expected))


def test_one_score_an_example_needs_no_target(x: Tensor) -> None:
    net = ReadOut(torch.randn(1, 5))
    same(
        explain(net, x, net.layer, target=None, areas=(2, 5)),
        explain(net, x, net.layer, target=0, areas=(2, 5)),
        atol=0,
    )


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("mask", ["channels", "spatial"])
def test_batch_is_as_many_separate_calls(net: nn.Sequential, mask: str, game: str) -> None:
    x = torch.randn(3, 3, 9, 7, dtype=torch.float64)
    together = explain(net, x, mask=mask, game=game, areas=(0.2, 0.5, 1.0))
    for image in range(3):
        alone = explain(net, x[image : image + 1], mask=mask, game=game, areas=(0.2, 0.5, 1.0))
        same(together.image(image), alone)
        torch.testing.assert_close(together.optimal_area[image : image + 1], alone.optimal_area)


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
@pytest.mark.parametrize("solver", [QUICK, PenaltySolver(steps=4, flip=False)], ids=["path", "penalty"])
def test_perturbations_per_eval_changes_nothing(net: nn.Sequential, x: Tensor, solver: Any, at_once: int) -> None:
    how = {"areas": (1, 2, 4, 5, 6), "game": "hybrid", "solver": solver}
    same(explain(net, x, **how), explain(net, x, perturbations_per_eval=at_once, **how), atol=1e-8)


# Layers of several tensors, and their inputs


class Pair(nn.Module):
    def forward(self, h: Tensor) -> tuple[Tensor, None, Tensor]:
        return torch.sin(h), None, h[:, :2].mean((2, 3))


class Pairs(nn.Module):
    """Its layer returns (N, 6, 9, 7), None and (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 6, 1), Pair(), nn.Linear(8, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        maps, _, vector = self.layer(self.stem(x))
        return self.head(torch.cat([maps.mean((2, 3)), vector], dim=1))


@pytest.mark.parametrize("wrapped", [False, True], ids=["split", "hook"])
def test_every_tensor_of_a_layer_has_a_mask_of_each_area(x: Tensor, wrapped: bool) -> None:
    net = Pairs()
    forward = (lambda x: net(x)) if wrapped else net
    found = explain(forward, x, net.layer, areas=(0.5, 1.0), target=2)
    assert [mask.shape for mask in found.masks] == [(2, 2, 6), (2, 2, 2)]
    for mask in found.masks:
        torch.testing.assert_close(mask.mean(2), torch.tensor([[0.5, 1.0]] * 2), rtol=0, atol=1e-6)
    one, two = found.masks[0][:, 0].double(), found.masks[1][:, 0].double()
    handle = net.layer.register_forward_hook(lambda m, a, o: (o[0] * one[:, :, None, None], None, o[2] * two))
    torch.testing.assert_close(found.scores[:, 0], net(x)[:, 2].detach(), rtol=0, atol=1e-6)
    handle.remove()
    maps = attribute(forward, x, net.layer, areas=(0.5, 1.0), target=2)
    assert isinstance(maps, tuple)
    assert [m.shape for m in maps] == [(2, 6, 9, 7), (2, 2)]
    assert explain(forward, x, net.layer, target=2).areas.tolist() == pytest.approx([0.6, 0.8, 1.0])


def test_counts_of_channels_need_tensors_of_one_size(x: Tensor) -> None:
    net = Pairs()
    with pytest.raises(ValueError, match=r"areas must be fractions for a layer with tensors of \[2, 6\] channels"):
        explain(net, x, net.layer, areas=(1, 2), target=2)


def test_input_of_a_layer_is_masked_and_nothing_else_that_has_it() -> None:
    class Skip(nn.Module):
        """The layer's input goes around it as well."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(x)
            return self.head(self.layer(h) + h)

    net, x = Skip(), torch.randn(2, 6, dtype=torch.float64)
    method = LayerExtremalPerturbation(net, net.layer)
    for forward in (net, lambda x: net(x)):
        found = explain(forward, x, net.layer, areas=(2, 6), attribute_to_layer_input=True)
        h = torch.tanh(x)
        kept = h * found.masks[:, 0].double()
        expected = net.head(net.layer(kept) + h)[:, 1].detach()
        torch.testing.assert_close(found.scores[:, 0], expected, rtol=0, atol=1e-6)
    settings = {"areas": (2, 6), "solver": QUICK, "score_threshold": lambda clean, perturbed: perturbed + 1e-9}
    product = method.attribute(x, 1, None, True, multiply_by_activation=True, **settings)
    torch.testing.assert_close(product, kept, rtol=0, atol=1e-6)


# Precision and modes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("mask", ["channels", "spatial"])
def test_models_of_every_precision_are_explained(net: nn.Sequential, x: Tensor, dtype: torch.dtype, mask: str) -> None:
    found = explain(net.to(dtype), x.to(dtype), mask=mask, areas=(0.2, 0.5, 1.0))
    assert found.masks.dtype == torch.float32
    measured = found.masks.flatten(2).mean(2)
    torch.testing.assert_close(measured, torch.tensor([[0.2, 0.5, 1.0]] * 2), rtol=0, atol=1e-5)
    assert found.scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found.scores[:, 2], found.clean_score)
    map_ = attribute(net, x.to(dtype), mask=mask, areas=(0.2, 0.5, 1.0), multiply_by_activation=True)
    assert map_.dtype == dtype
    assert bool(map_.isfinite().all())


@pytest.mark.parametrize("wrapped", [False, True], ids=["split", "hook"])
def test_autocast_of_the_caller_is_that_of_the_model(net: nn.Sequential, x: Tensor, wrapped: bool) -> None:
    net, x = net.float(), x.float()
    seen: list[torch.dtype] = []
    net[3].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        map_ = attribute((lambda x: net(x)) if wrapped else net, x, net[1], areas=(0.2, 0.5, 1.0))
    assert set(seen) == {torch.bfloat16}
    assert map_.dtype == torch.bfloat16  # the layer's own
    seen.clear()
    explain(net, x, areas=(2, 6), solver=PathSolver(steps=3, precision=torch.bfloat16))
    assert set(seen) == {torch.bfloat16, torch.float32}


def test_model_on_a_device_is_explained_there(net: nn.Sequential, x: Tensor, device: torch.device) -> None:
    expected = explain(net, x, areas=(2, 5, 6))
    for forward in (net, nn.DataParallel(net)):
        found = explain(forward.to(device), x.to(device), net[1], areas=(2, 5, 6))
        assert found.masks.device.type == device.type
        torch.testing.assert_close(found.masks.cpu(), expected.masks, rtol=0, atol=1e-4)
        assert attribute(forward, x.to(device), net[1], areas=(2, 6)).device.type == device.type
        net.cpu()


# Bad input


class Handing(nn.Module):
    """Hands on whatever its function makes of (N, 4)."""

    def __init__(self, function: Callable[[Tensor], Any], times: int = 1) -> None:
        super().__init__()
        self.layer, self.head, self.times = nn.Identity(), nn.Linear(4, 3), times
        self.layer.forward = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            self.layer(x)
        return self.head(x)


BEFORE_ANY_FORWARD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank 0": ({"x": torch.tensor(1.0)}, ValueError, "inputs must have one row per example"),
    "area zero": (
        {"areas": 0},
        ValueError,
        "areas must be strictly increasing numbers of channels or groups from 1 up",
    ),
    "area negative": ({"areas": (-1, 2)}, ValueError, "areas must be strictly increasing"),
    "area 0.0": ({"areas": 0.0}, ValueError, r"areas must be fractions in \(0, 1\]"),
    "area above 1": ({"areas": (0.5, 1.5)}, ValueError, r"areas must be fractions in \(0, 1\]"),
    "area NaN": ({"areas": math.nan}, ValueError, r"areas must be fractions in \(0, 1\]"),
    "areas mixed": (
        {"areas": (1, 0.5)},
        TypeError,
        "areas must be all integers, numbers of channels or groups, or all floats",
    ),
    "areas mixed at the end": ({"areas": (0.5, 1)}, TypeError, "areas must be all integers"),
    "area bool": ({"areas": True}, TypeError, "areas must be a number or a sequence"),
    "areas bool": ({"areas": (1, True)}, TypeError, "areas must be a number or a sequence"),
    "areas of a bool tensor": ({"areas": torch.tensor([True])}, TypeError, "areas must be a number or a sequence"),
    "areas of text": ({"areas": "5"}, ValueError, "areas must be numbers, None or 'optimal'"),
    "areas complex": ({"areas": 1j}, TypeError, "areas must be a number or a sequence"),
    "areas empty": ({"areas": ()}, ValueError, "areas must not be empty"),
    "areas nested": ({"areas": [[1, 2]]}, ValueError, "areas must be one set of numbers"),
    "counts decreasing": ({"areas": (3, 2)}, ValueError, "areas must be strictly increasing"),
    "counts repeated": ({"areas": (3, 3)}, ValueError, "areas must be strictly increasing"),
    "fractions decreasing": ({"areas": (0.3, 0.2)}, ValueError, "areas must be strictly increasing"),
    "mask": ({"mask": "rows"}, ValueError, "mask must be one of 'channels', 'spatial'"),
    "mask class": ({"mask": ChannelMask}, TypeError, "mask must be an object"),
    "mask number": ({"mask": 3}, TypeError, "mask must be an object"),
    "solver": ({"solver": "newton"}, ValueError, "solver must be one of"),
    "solver class": ({"solver": PathSolver}, TypeError, "solver must be a name or an object"),
    "solver that flips": ({"solver": PenaltySolver()}, ValueError, "solver must not flip a layer's activation"),
    "channel_dim of text": ({"channel_dim": "last"}, TypeError, "channel_dim must be an integer"),
    "prefix negative": ({"prefix_tokens": -1}, ValueError, "prefix_tokens must be at least 0"),
    "grid list": ({"token_grid": [3, 3]}, TypeError, "token_grid must be a tuple of integers"),
    "threshold": ({"score_threshold": "high"}, TypeError, "score_threshold must be"),
    "threshold length": ({"score_threshold": [1.0, 2.0, 3.0]}, ValueError, "score_threshold must be"),
    "callback": ({"callback": 3}, TypeError, "callback must be callable"),
}

BEFORE_THE_SEARCH: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "above K": ({"areas": (1, 7)}, ValueError, r"areas must be at most the layer's 6 channels, got \(1, 7\)"),
    "above S": ({"areas": 64, "mask": "spatial"}, ValueError, "areas must be at most the layer's 63 positions"),
    "below a channel": ({"areas": (0.1, 0.5)}, ValueError, "smallest mask, 0.167 of the channels, got 0.1"),
    "below a position": ({"areas": 0.01, "mask": "spatial"}, ValueError, "smallest mask, 0.0159 of the posi"),
    "channel_dim 0": ({"channel_dim": 0}, ValueError, "channel_dim must be one of the layer's 3 dimensions"),
    "channel_dim 4": ({"channel_dim": 4}, ValueError, r"channel_dim .* \(2, 6, 9, 7\)"),
    "channel_dim -4": ({"channel_dim": -4}, ValueError, "channel_dim must be one"),
    "prefix of an image": ({"prefix_tokens": 1, "mask": "spatial"}, ValueError, "must account for all tokens"),
    "grid of an image": ({"token_grid": (9, 7), "mask": "spatial"}, ValueError, "must account for all tokens"),
    "target outside": ({"target": 4}, ValueError, "target must lie within the output"),
    "no target": ({"target": None}, ValueError, "target None needs one score for each example"),
    "layer without positions": ({"at": 6, "mask": "spatial"}, ValueError, "mask must be 'channels'"),
    "threshold's return": ({"score_threshold": lambda c, p: c[:1].expand(3)}, ValueError, "score_threshold"),
}


def assert_refused(net: nn.Sequential, x: Tensor, case: tuple[dict[str, Any], type[Exception], str]) -> int:
    """How often the model ran until the error came."""
    given, error, named = dict(case[0]), case[1], case[2]
    layer = net[given.pop("at", 1)]
    calls: list[int] = []
    net[0].register_forward_hook(lambda module, args, output: calls.append(len(output)))
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()]
    told: list[int] = []
    settings = {"target": 1, "callback": lambda step, areas, scores: told.append(step)} | given
    inputs = settings.pop("x", x)
    method = LayerExtremalPerturbation(net, layer)
    for call in (method.attribute, method.extremal_masks):
        with pytest.raises(error, match=named):
            call(inputs, **settings)
    assert told == []
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()] == hooks
    return len(calls)


@pytest.mark.parametrize(
    ("layer", "error", "named"),
    [
        (nn.Linear(2, 2), ValueError, "layer must be a part of the model"),
        ("1", TypeError, "layer must be a torch.nn.Module"),
        (nn.Linear, TypeError, "layer must be a torch.nn.Module"),
    ],
    ids=["foreign", "by name", "class"],
)
def test_a_bad_layer_is_named_at_construction(
    net: nn.Sequential, layer: Any, error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        LayerExtremalPerturbation(net, layer)


@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential, lambda net: lambda x: net(x)])
def test_a_layer_belongs_to_a_wrapped_model_too(net: nn.Sequential, wrap: Callable[[nn.Module], Any]) -> None:
    assert LayerExtremalPerturbation(wrap(net), net[1]).layer is net[1]


def test_a_swapped_model_and_layer_are_told(net: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="they are swapped: got the layer"):
        LayerExtremalPerturbation(net[1], net)


@pytest.mark.parametrize("case", BEFORE_ANY_FORWARD)
def test_bad_input_is_named_before_any_forward(net: nn.Sequential, x: Tensor, case: str) -> None:
    assert assert_refused(net, x, BEFORE_ANY_FORWARD[case]) == 0


@pytest.mark.parametrize("case", BEFORE_THE_SEARCH)
def test_what_does_not_fit_the_layer_is_named_before_the_search(net: nn.Sequential, x: Tensor, case: str) -> None:
    assert assert_refused(net, x, BEFORE_THE_SEARCH[case]) > 0


@pytest.mark.parametrize(
    ("function", "times", "error", "named"),
    [
        (lambda x: x, 0, ValueError, "must be called by the model"),
        (lambda x: x, 2, ValueError, "must be called once in a forward of the model"),
        (lambda x: {"x": x}, 1, TypeError, "must be a tensor or a tuple of tensors, got dict"),
        (lambda x: x.sum(1), 1, ValueError, "must have a row for each of 2 images and at least one more dimension"),
        (lambda x: x[:1], 1, ValueError, "must have a row for each of 2 images"),
        (lambda x: x, 1, ValueError, "forward_func must be differentiable by its inputs"),
    ],
    ids=["never called", "called twice", "no tensor", "rank 1", "rows", "not used"],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["model", "function"])
def test_layers_that_cannot_be_masked_are_refused(
    function: Callable[[Tensor], Any], times: int, error: type[Exception], named: str, wrapped: bool
) -> None:
    net = Handing(function, times)
    told: list[int] = []
    with pytest.raises(error, match=named):
        explain(
            (lambda x: net(x)) if wrapped else net,
            torch.randn(2, 4),
            net.layer,
            callback=lambda step, areas, scores: told.append(step),
        )
    assert told == []
    assert not net.layer._forward_hooks


def test_one_warning_counts_the_images_that_reach_no_area(net: nn.Sequential, x: Tensor) -> None:
    with pytest.warns(UserWarning, match="2 of 2 examples do not reach") as told:
        map_ = attribute(net, x, areas=(1, 3), score_threshold=1e9)
    assert len(told) == 1
    assert told[0].filename == __file__
    torch.testing.assert_close(map_.mean((1, 2, 3)), torch.tensor([0.5, 0.5]).double(), rtol=0, atol=1e-6)


# Nothing is left behind


def test_settings_and_results_are_plain(net: nn.Sequential, x: Tensor, tmp_path: Any) -> None:
    how = {"areas": (2, 6), "mask": SmoothMask(step=1.0), "solver": QUICK}
    before = copy.deepcopy(how)
    found = explain(net, x, **(how | {"areas": (0.2, 1.0)}))
    assert how == before
    assert found.settings["layer"] == "1 Conv2d"
    assert found.settings["runs"] == "tail"
    channels = explain(net, x, areas=(2, 6))
    for one in (found, channels):
        one.save(tmp_path / "found.npz")
        loaded = type(one).load(tmp_path / "found.npz")
        assert torch.equal(loaded.masks, one.masks)
        assert loaded.settings == one.settings


def test_same_call_gives_the_same_bits(net: nn.Sequential, x: Tensor) -> None:
    assert torch.equal(attribute(net, x, areas=(2, 6)), attribute(net, x, areas=(2, 6)))


def test_a_star_alone_has_no_masks_of_areas(net: nn.Module, x: Tensor) -> None:
    found = explain(net, x, areas="optimal")
    assert (found.masks.shape, found.areas.shape, found.scores.shape) == ((2, 0, 6), (0,), (2, 0))
    assert found.optimal_mask().shape == (2, 6)
    swept = explain(net, x)
    assert swept.masks.shape == (2, 3, 6)  # 1, 5 and 6 channels
    for result in (found, swept):
        channels = 6 * result.optimal_area
        torch.testing.assert_close(channels, channels.round())
        assert bool((result.optimal_value >= result.threshold).all())


def test_attribute_without_areas_is_the_mask_of_a_star(net: nn.Module, x: Tensor) -> None:
    method = LayerExtremalPerturbation(net, net[1])
    found = method.attribute(x, target=1, solver=QUICK)
    expected = explain(net, x, areas="optimal").optimal_mask()
    torch.testing.assert_close(found[:, :, 0, 0].float(), expected)
    with pytest.raises(ValueError, match="areas must be numbers, or None for the default of attribute"):
        method.attribute(x, target=1, areas="optimal")
