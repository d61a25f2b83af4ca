"""Excitation backprop and its contrast, against probabilities that loops propagate neuron by neuron."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerAttribution
from PIL import Image
from torch import Tensor, nn
from torchvision.models import SqueezeNet1_0_Weights, resnet18, squeezenet1_0

from captum_extremal import ContrastiveExcitationBackprop, ExcitationBackprop

BOTH = [ExcitationBackprop, ContrastiveExcitationBackprop]
WITHIN = {"rtol": 0, "atol": 1e-12}


# The literal reference


def propagated(probability: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """P(x_j) = sum_i P(x_j | y_i) P(y_i) for y = weights x, one neuron after another."""
    found = torch.zeros_like(x)
    for chance, row in zip(probability, weights):
        excitation = (row * x).clamp(min=0)
        if excitation.sum() > 0:
            found += chance * excitation / excitation.sum()
    return found


def matrix_of(layer: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """A linear layer without its bias as a matrix, column by column."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    columns = []
    for j in range(zero.numel()):
        one = zero.clone()
        one.view(-1)[j] = 1
        columns.append((layer(one) - layer(zero)).flatten())
    return torch.stack(columns, dim=1).detach()


def through(probability: Tensor, layer: Callable[[Tensor], Tensor], x: Tensor, sign: float = 1.0) -> Tensor:
    """The probability propagated from a linear layer's output to its input x (1, ...), both flat."""
    weights = sign * matrix_of(layer, tuple(x.shape[1:]))
    return propagated(probability, weights, x.detach().flatten())


def one_hot(target: int, classes: int) -> Tensor:
    return F.one_hot(torch.tensor(target), classes).double()


def seeded(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> Any:
    network = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # scales of both signs, statistics unlike the identity's
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
            with torch.no_grad():
                module.weight.copy_(torch.linspace(-1.0, 1.5, len(module.weight)))
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.to(dtype).eval()


def images(count: int = 2, *shape: int) -> Tensor:
    """Images without negative values, as activations after a ReLU."""
    return torch.rand(count, *(shape or (2, 8, 9)), dtype=torch.float64)


def test_perceptron_is_explained_as_by_loops() -> None:
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 4), nn.Softmax(1)))
    x = images(3)
    found = ExcitationBackprop(network).attribute(x, target=[0, 3, 2])
    contrast = ContrastiveExcitationBackprop(network).attribute(x, target=[0, 3, 2])
    for n, target in enumerate([0, 3, 2]):
        hidden = network[:3](x[n : n + 1])
        maps = []
        for sign in (1.0, -1.0):
            above = through(one_hot(target, 4), network[3], hidden, sign)
            maps.append(through(above, network[1], x[n : n + 1].flatten(1)).view(2, 8, 9))
        torch.testing.assert_close(found[n], maps[0], **WITHIN)
        torch.testing.assert_close(contrast[n], maps[0] - maps[1], **WITHIN)
        assert float((maps[0] - maps[1]).abs().max()) > 1e-4


def test_signed_inputs_excite_where_they_add_to_the_score() -> None:
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 3)))
    x = torch.randn(1, 2, 8, 9, dtype=torch.float64)
    for target in range(3):
        adds = (network[1].weight[target].detach() * x.flatten()).view_as(x)
        above, below = adds.clamp(min=0) / adds.clamp(min=0).sum(), (-adds).clamp(min=0) / (-adds).clamp(min=0).sum()
        found = ExcitationBackprop(network).attribute(x, target=target)
        torch.testing.assert_close(found, above, **WITHIN)
        found = ContrastiveExcitationBackprop(network).attribute(x, target=target)
        torch.testing.assert_close(found, above - below, **WITHIN)


def test_pooling_network_is_explained_as_by_loops() -> None:
    network = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 2, groups=1),
            nn.ReLU(),
            nn.AvgPool2d((1, 1)),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(4, 5),
        )
    )
    x = images(1)
    first = network[:2](x)
    pooled, winners = F.max_pool2d(first, 2, return_indices=True)
    second = network[3:5](pooled)
    p = through(one_hot(1, 5), network[8], second.flatten(1))
    p = through(p, network[3], pooled)
    at_winners = torch.zeros(3, first[0, 0].numel(), dtype=torch.float64)
    at_winners.scatter_add_(1, winners.view(3, -1), p.view(3, -1))
    p = through(at_winners.flatten(), network[0], x)
    torch.testing.assert_close(ExcitationBackprop(network).attribute(x, target=1).flatten(), p, **WITHIN)
    found = ExcitationBackprop(network, network[1]).attribute(x, target=1)
    torch.testing.assert_close(found.flatten(), at_winners.flatten(), **WITHIN)


class Residual(nn.Module):
    """One residual block between a stem and a classifier, as in ResNet; ``in_place`` as torchvision writes it."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(in_place)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(3, 4)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        out = self.norm(self.conv(x))
        if self.in_place:
            out += x
        else:
            out = out + x
        return self.classifier(torch.flatten(self.pool(self.relu(out)), 1))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_residual_network_is_explained_as_by_loops(sign: float) -> None:
    network, x = seeded(Residual), images(1, 2, 8, 8)
    before = network.relu(network.stem(x))
    branch = network.norm(network.conv(before))
    after = network.relu(branch + before)
    pooled = network.pool(after).flatten(1)
    p = through(one_hot(2, 4), network.classifier, pooled, sign)
    p = through(p, lambda values: network.pool(values).flatten(1), after)
    by_branch, by_skip = branch.detach().clamp(min=0).flatten(), before.detach().flatten()
    share = torch.where(by_branch + by_skip > 0, p / (by_branch + by_skip), torch.zeros_like(p))
    folded = through(share * by_branch, lambda values: network.norm(network.conv(values)), before)
    at_block = share * by_skip + folded
    at_input = through(at_block, network.stem, x)
    found = ExcitationBackprop(network).attribute(x, target=2)
    if sign < 0:
        found = found - ContrastiveExcitationBackprop(network).attribute(x, target=2)
    torch.testing.assert_close(found.flatten(), at_input, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", BOTH)
def test_operations_in_place_change_nothing(method: Any) -> None:
    plain = seeded(Residual)
    in_place = Residual(in_place=True).double().eval()
    in_place.load_state_dict(plain.state_dict())
    x = images(2, 2, 8, 8)
    expected = method(plain).attribute(x, target=1)
    torch.testing.assert_close(method(in_place).attribute(x, target=1), expected, **WITHIN)
    for name in ("stem", "conv", "norm"):
        one, other = (method(model, getattr(model, name)).attribute(x, target=1) for model in (plain, in_place))
        torch.testing.assert_close(one, other, **WITHIN)
        assert float(one.abs().max()) > 0


@pytest.mark.parametrize("method", BOTH)
def test_relu_of_the_input_in_place_leaves_the_input_alone(method: Any) -> None:
    network = seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)))
    without = nn.Sequential(*network[1:]).eval()
    x = torch.randn(2, 2, 8, 9, dtype=torch.float64)
    before = x.clone()
    found = method(network).attribute(x, target=0)
    assert torch.equal(x, before)
    assert float(found[x < 0].abs().max()) == 0
    torch.testing.assert_close(found, method(without).attribute(x.clamp(min=0), target=0), **WITHIN)


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("target", [0, 1, 2, 3])
def test_pooling_before_or_after_the_classifier_is_the_same(method: Any, target: int) -> None:
    """Also for a class whose score is 0 after the last ReLU."""
    features = seeded(lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU()))
    classifier = seeded(lambda: nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        classifier.bias.fill_(-5.0)
    x = images()
    pooled = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten())
    after = nn.Sequential(features, classifier, pooled).eval()

    def before(x: Tensor) -> Tensor:
        return F.linear(features(x).mean((2, 3)), classifier.weight.flatten(1), classifier.bias)

    assert float(after(x).detach().max()) == 0
    found = method(after).attribute(x, target=target)
    torch.testing.assert_close(found, method(before).attribute(x, target=target), **WITHIN)
    assert float(found.abs().max()) > 0


@pytest.mark.parametrize("method", BOTH)
def test_added_heads_share_in_proportion_to_what_each_adds(method: Any) -> None:
    one, other = (seeded(lambda: nn.Linear(72, 3)) for _ in range(2))
    x = images(2, 2, 8, 9)
    joined = torch.cat([2 * one.weight, -0.5 * other.weight], 1).detach()

    def apart(x: Tensor) -> Tensor:
        return 2 * one(x[:, 0].flatten(1)) - other(x[:, 1].flatten(1)) / 2

    expected = method(lambda x: F.linear(x.flatten(1), joined)).attribute(x, target=1)
    torch.testing.assert_close(method(apart).attribute(x, target=1), expected, **WITHIN)


def test_concatenation_gives_each_part_its_own() -> None:
    one, other = (seeded(lambda: nn.Conv2d(2, 3, 1)) for _ in range(2))
    both = seeded(lambda: nn.Conv2d(2, 6, 1))
    with torch.no_grad():
        both.weight.copy_(torch.cat([one.weight, other.weight]))
        both.bias.copy_(torch.cat([one.bias, other.bias]))
    head = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 3)))
    x = images()
    expected = ExcitationBackprop(lambda x: head(both(x).relu())).attribute(x, target=1)
    found = ExcitationBackprop(lambda x: head(torch.cat([one(x), other(x)], 1).relu())).attribute(x, target=1)
    torch.testing.assert_close(found, expected, **WITHIN)


# Operations in every notation that change each value by itself


IDENTITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "plus a constant": lambda x: x + 1,
    "plus a tensor": lambda x: torch.ones_like(x) + x,
    "added in place": lambda x: x.clone().add_(1.0),
    "less a constant": lambda x: (x + 1) - 0.5,
    "times a constant": lambda x: 3 * x,
    "times a tensor": lambda x: x * torch.full((1, 2, 1, 1), 2.0, dtype=torch.float64),
    "scaled in place": lambda x: x.clone().mul_(2.0),
    "divided": lambda x: x / 4,
    "minus, twice": lambda x: (-x).neg(),
    "from a constant, twice": lambda x: 1 - (1 - x),
    "torch.sub": lambda x: torch.sub(x + 1, 0.25),
    "relu": F.relu,
    "relu, a method": lambda x: x.relu(),
    "relu in place": lambda x: x.clone().relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "leaky relu": F.leaky_relu,
    "gelu": F.gelu,
    "sigmoid, its logits": lambda x: torch.sigmoid(x),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "doubled": lambda x: x + x,
    "pooled by one": lambda x: F.avg_pool2d(x, 1),
    "a sum over nothing": lambda x: x.unsqueeze(-1).sum(-1),
    "a mean over nothing": lambda x: x.unsqueeze(-1).mean(-1),
    "moved to and fro": lambda x: x.permute(0, 2, 3, 1).contiguous().movedim(-1, 1),
    "cut and joined": lambda x: torch.cat(x.chunk(2, dim=1), dim=1),
    "split and stacked": lambda x: torch.stack(x.unbind(1), dim=1),
    "padded and cropped": lambda x: F.pad(x, (1, 1, 2, 2))[:, :, 2:-2, 1:-1],
    "pooled by the largest of one": lambda x: F.max_pool2d(x, 1),
    "flipped twice": lambda x: x.flip(-1).flip(-1),
    "batch normalisation": lambda x: F.batch_norm(x, torch.zeros(2).double(), torch.ones(2).double()),
    "assigned": lambda x: _assigned(x),
    "plus a reshaped parameter": lambda x: x + LEARNED.view(1, -1, 1, 1),
    "a parameter of many steps, plus it": lambda x: LEARNED.exp()[None, :, None, None].mul(2).expand_as(x) + x,
    "times an indexed parameter": lambda x: x * LEARNED[None, :, None, None],
    "over a reshaped parameter": lambda x: x / LEARNED.view(2, 1, 1),
    "times what a parameter gave before": lambda x: x * BEFORE,
    "torch.mul, named": lambda x: torch.mul(input=x, other=2.0),
    "torch.div, named": lambda x: torch.div(x, other=2.0),
    "torch.add, named": lambda x: torch.add(input=x, other=x, alpha=2),
    "torch.sub, named": lambda x: torch.sub(input=x, other=x, alpha=0.5),
    "torch.mean, named": lambda x: torch.mean(input=x.unsqueeze(-1), dim=-1),
    "relu, named": lambda x: F.relu(input=x),
    "softplus, named": lambda x: F.softplus(input=x),
}  # fmt: skip

LEARNED = nn.Parameter(torch.tensor([0.5, 1.5], dtype=torch.float64))
BEFORE = LEARNED.exp().view(1, 2, 1, 1)


def _assigned(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :1] = x[:, :1]
    y[:, 1:] += x[:, 1:]
    return y


@pytest.mark.parametrize("name", IDENTITIES)
def test_operation_on_each_value_passes_its_probability_on(name: str) -> None:
    x = images(2, 2, 8, 9)
    first, head = seeded(lambda: nn.Conv2d(2, 2, 3, padding=1)), seeded(lambda: nn.Linear(144, 3))
    marked: dict[str, Tensor] = {}

    def forward(x: Tensor) -> Tensor:
        hidden = first(x).relu()
        changed = IDENTITIES[name](hidden)
        marked["values"] = changed.detach()
        return head(changed.flatten(1))

    found = ContrastiveExcitationBackprop(forward).attribute(x, target=[0, 2])
    assert float(marked["values"].min()) >= 0
    for n, target in enumerate([0, 2]):
        values, image = marked["values"][n], x[n : n + 1]
        above = [through(one_hot(target, 3), head, values.reshape(1, -1), sign) for sign in (1.0, -1.0)]
        expected = through(above[0], first, image) - through(above[1], first, image)
        torch.testing.assert_close(found[n].flatten(), expected, rtol=0, atol=1e-11)


STATISTICS = torch.zeros(2).double(), torch.ones(2).double()


def gate(x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).sigmoid()


UNKNOWN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "gate": (gate, "Mul"),
    "gate, named": (lambda x: torch.mul(x, other=x.sigmoid()), "Mul"),
    "gate of itself and a parameter": (lambda x: x * (x.mean((2, 3), keepdim=True) + LEARNED.view(2, 1, 1)), "Mul"),
    "weights from the inputs": (
        lambda x: F.conv2d(x, x[:1].mean((2, 3))[:, :, None, None].expand(2, -1, 1, 1)),
        "Conv",
    ),
    "scale from the inputs": (lambda x: F.batch_norm(x, *STATISTICS, x.mean((0, 2, 3))), "BatchNorm"),
    "quotient": (lambda x: x / x.mean((2, 3), keepdim=True), "Div"),
    "constant over it": (lambda x: 1 / (x + 1), "Reciprocal|Div"),
    "power": (lambda x: x**2, "Pow"),
    "layer norm": (lambda x: F.layer_norm(x, x.shape[1:]), "NativeLayerNorm"),
    "attention": (lambda x: torch.einsum("nchw,ncij->nhwij", x, x).sum((3, 4))[:, None].expand_as(x), "Bmm"),
}


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("case", UNKNOWN)
def test_operation_without_a_rule_is_refused_by_name(method: Any, case: str) -> None:
    operation, name = UNKNOWN[case]
    network = seeded(lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()))
    head = seeded(lambda: nn.Linear(144, 3))
    with pytest.raises(ValueError, match=f"forward_func contains .*({name})"):
        method(lambda x: head(operation(network(x)).flatten(1))).attribute(images(), target=0)


def test_compiled_part_of_a_wrapper_is_not_taken_for_a_gradient() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0]

    head = seeded(lambda: nn.Linear(144, 3))
    with pytest.raises(ValueError, match="forward_func contains Opaque"):
        ExcitationBackprop(lambda x: head(Opaque.apply(x).flatten(1))).attribute(images(), target=0)


def test_model_that_only_pools_has_no_classifier() -> None:
    with pytest.raises(ValueError, match="forward_func must have a layer with weights"):
        ExcitationBackprop(lambda x: x.relu().mean((2, 3))).attribute(images(), target=0)


BAD_OUTPUTS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "detached inputs": (lambda head, x: head(x.detach().flatten(1)), "differentiable by its inputs"),
    "detached output": (lambda head, x: head(x.flatten(1)).detach(), "differentiable by its inputs"),
    "infinite": (lambda head, x: head(x.flatten(1)) / 0, "finite"),
    "one row": (lambda head, x: head(x.flatten(1)).sum(0, keepdim=True), "one row for each example"),
    "rows of parts": (lambda head, x: head(x.repeat(2, 1, 1, 1).flatten(1)).view(2, 6), "one row for each example"),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_output_that_cannot_be_explained_is_named(case: str) -> None:
    forward, message = BAD_OUTPUTS[case]
    head = seeded(lambda: nn.Linear(144, 3))
    with pytest.raises(ValueError, match=f"forward_func.*{message}"):
        ExcitationBackprop(lambda x: forward(head, x)).attribute(images(), target=0)


# Probability is kept


@pytest.mark.parametrize(("make", "middle"), [(squeezenet1_0, "features.7"), (resnet18, "layer3")])
def test_probabilities_of_torchvision_networks_add_up_to_one(make: Any, middle: str) -> None:
    network = make(weights=None).eval()
    x = torch.rand(2, 3, 64, 48)
    layer = network.get_submodule(middle)
    for end in (None, layer):
        found = ExcitationBackprop(network, end).attribute(x, target=[3, 700])
        assert float(found.min()) >= 0
        torch.testing.assert_close(found.flatten(1).sum(1), torch.ones(2), rtol=0, atol=1e-4)
        contrast = ContrastiveExcitationBackprop(network, end).attribute(x, target=[3, 700])
        torch.testing.assert_close(contrast.flatten(1).sum(1), torch.zeros(2), rtol=0, atol=1e-4)
        assert float(contrast.abs().flatten(1).sum(1).min()) > 1e-3


def test_neuron_that_only_its_bias_excites_keeps_what_it_has() -> None:
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([torch.ones(64), -torch.ones(64)]))
        network[1].bias.copy_(torch.tensor([0.0, 65.0]))
        network[3].weight.fill_(1.0)
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    found = ExcitationBackprop(network).attribute(x)  # hidden values 64 and 1, of which the second has no excitation
    torch.testing.assert_close(found, torch.full_like(x, 1 / 65), **WITHIN)


# Outputs, inputs and precision


def test_positions_of_an_output_share_equally() -> None:
    network = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1)))
    x = images()
    expected = ExcitationBackprop(lambda x: network(x).mean((2, 3))).attribute(x, target=1)
    torch.testing.assert_close(ExcitationBackprop(network).attribute(x, target=1), expected, **WITHIN)


def test_tuple_of_inputs_shares_one_probability(make_network: Callable[..., nn.Module]) -> None:
    image, signal = images(2, 3, 16, 16), images(2, 2, 30)
    features = [nn.Sequential(*list(make_network(*of))[:4]) for of in ((2,), (1, 2))]
    head = seeded(lambda: nn.Linear(16 + 8, 3))
    method = ExcitationBackprop(lambda a, b: head(torch.cat([features[0](a), features[1](b)], 1)))
    found = method.attribute((image, signal), target=1)
    assert [one.shape for one in found] == [image.shape, signal.shape]
    total = sum(one.flatten(1).sum(1) for one in found)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)
    unused = ExcitationBackprop(lambda a, b: head(torch.cat([features[0](a)] * 2, 1)[:, :24]))
    assert float(unused.attribute((image, signal), target=1)[1].abs().max()) == 0


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_near_to_double(method: Any, dtype: torch.dtype) -> None:
    network = seeded(lambda: nn.Sequential(*list(resnet18(weights=None).children())[:6], nn.AdaptiveAvgPool2d(2)))
    network = nn.Sequential(network, nn.Flatten(), nn.Linear(512, 5)).double().eval()
    x = torch.rand(1, 3, 48, 48, dtype=torch.float64)
    expected = method(network).attribute(x, target=1)
    found = method(copy.deepcopy(network).to(dtype)).attribute(x.to(dtype), target=1)
    assert found.dtype == dtype
    similar = F.cosine_similarity(found.double().flatten(), expected.flatten(), dim=0)
    assert float(similar) > 0.97


def test_probabilities_too_small_for_half_precision_are_not_lost() -> None:
    copies = 98304  # each value of each copy has a probability of 2.67 of half precision's smallest numbers
    head = nn.Linear(64 * copies, 1, bias=False, dtype=torch.float16).eval()
    nn.init.constant_(head.weight, 1e-4)
    x = torch.ones(1, 1, 8, 8, dtype=torch.float16)
    found = ExcitationBackprop(lambda x: head(x.repeat(1, copies, 1, 1).flatten(1))).attribute(x)
    torch.testing.assert_close(found.float(), torch.full((1, 1, 8, 8), 1 / 64), rtol=1e-2, atol=0)


# Layers, and what is said of a bad one


def test_layer_map_has_the_layers_shape_and_no_hook_is_left() -> None:
    network = seeded(Residual)
    x = images(2, 2, 8, 9)
    for layer, shape in ((network.conv, (2, 3, 8, 9)), (network.pool, (2, 3, 1, 1))):
        found = ExcitationBackprop(network, layer).attribute(x, target=1)
        assert found.shape == shape
        assert found.is_contiguous()
        assert not found.requires_grad
        assert LayerAttribution.interpolate(found, (16, 18)).shape[2:] == (16, 18)
        assert isinstance(ExcitationBackprop(network, layer).attribute((x,), target=1), Tensor)
    assert all(not module._forward_hooks for module in network.modules())


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_bad_layer_is_named() -> None:
    network, x = seeded(Residual), images(2, 2, 8, 8)
    with pytest.raises(TypeError, match=r"layer must be a torch\.nn\.Module of the model, got 'conv'"):
        ExcitationBackprop(network, "conv")  # type: ignore[arg-type]
    pair = Pair().eval()
    for layer, message in (
        (nn.ReLU().eval(), "ran 0 times"),
        (network.relu, "ran 2 times"),
        (network.classifier, "between the inputs and the classifier"),
        (pair, "must return one tensor.*tuple"),
    ):
        method = ExcitationBackprop(lambda x: network(pair(x)[0]), layer)
        with pytest.raises(ValueError, match=f"layer.*{message}"):
            method.attribute(x, target=1)
        assert not layer._forward_hooks


# Photographs


def boxes_of(annotation: Path) -> list[list[float]]:
    """Left, top, right and bottom of each object, as fractions of the photograph's sides."""
    root = ElementTree.parse(annotation).getroot()
    sides = [float(root.findtext(f"size/{side}") or 0) for side in ("width", "height")] * 2
    edges = ("xmin", "ymin", "xmax", "ymax")
    return [[float(box.findtext(edge) or 0) / side for edge, side in zip(edges, sides)] for box in root.iter("bndbox")]


@pytest.mark.parametrize("method", BOTH)
def test_kangaroos_are_found(method: Any, shared_data: Path) -> None:
    network = squeezenet1_0(weights=None).eval()
    weights = torch.load(shared_data / "models" / "squeezenet1_0_imagenet_fp16.pth", weights_only=True)
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    prepare = SqueezeNet1_0_Weights.IMAGENET1K_V1.transforms()
    names = ["00001", "00003", "00005", "00028", "00053", "00061"]
    photographs = [
        Image.open(shared_data / "kangaroo" / f"{name}.jpg").convert("RGB").resize((256, 256)) for name in names
    ]
    prepare.crop_size = [256]
    x = torch.stack([prepare(photograph) for photograph in photographs])
    maps = method(network, network.features[12]).attribute(x, target=104).sum(1, keepdim=True)
    maps = LayerAttribution.interpolate(maps, (256, 256), "bilinear")
    hits = 0
    for name, one in zip(names, maps):
        row, column = divmod(int(one.argmax()), 256)
        inside = [
            left <= column / 256 <= right and top <= row / 256 <= bottom
            for left, top, right, bottom in boxes_of(shared_data / "kangaroo" / f"{name}.xml")
        ]
        hits += any(inside)
    assert hits >= 5
