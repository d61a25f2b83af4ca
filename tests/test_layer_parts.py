"""Layers that return more than a tensor with a row for each image, and layers that are called by keyword."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import LayerExtremalPerturbation, PathSolver
from captum_extremal.layers import LayerTail

SHORT = PathSolver(steps=6, searches=2)
Pair = namedtuple("Pair", ["first", "second"])


class Recurrent(nn.Module):
    """Classifies sequences (N, T, 3) by the mean of a recurrent layer's output, or by its last hidden state."""

    def __init__(self, kind: type[nn.RNNBase], by: str = "output", batch_first: bool = True) -> None:
        super().__init__()
        self.layer, self.head = kind(3, 8, batch_first=batch_first), nn.Linear(8, 4)  # type: ignore[call-arg]
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        output, hidden = self.layer(x if self.layer.batch_first else x.transpose(0, 1))
        last = hidden[0][-1] if isinstance(hidden, tuple) else hidden[-1]
        scores: Tensor = self.head(output.mean(1 if self.layer.batch_first else 0) if self.by == "output" else last)
        return scores


@pytest.fixture(params=[1, 2], ids=["1 sequence", "2 sequences"])
def sequences(request: pytest.FixtureRequest) -> Tensor:
    return torch.randn(request.param, 10, 3)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.filterwarnings("ignore:. of . examples reach")
def test_output_of_a_recurrent_layer_is_masked_and_its_state_stays(kind: type[nn.RNNBase], sequences: Tensor) -> None:
    model = Recurrent(kind).eval()
    method = LayerExtremalPerturbation(model, model.layer)
    found = method.extremal_masks(sequences, target=1, areas=[2, 5, 8], channel_dim=-1, solver=SHORT)
    assert isinstance(found.masks, Tensor)
    assert found.masks.shape == (len(sequences), 3, 8)
    output = model.layer(sequences)[0]
    expected = [model.head((output * mask[:, None]).mean(1))[:, 1] for mask in found.masks.transpose(0, 1)]
    torch.testing.assert_close(found.scores, torch.stack(expected, 1).detach(), rtol=0, atol=1e-6)
    assert found.settings["not_split"] == "the layer has more than tensors with a row for each image"
    assert method.attribute(sequences, target=1, areas=[8], channel_dim=-1, solver=SHORT).shape == output.shape


@pytest.mark.parametrize(("kind", "state"), [(nn.GRU, r"\[1\] torch.float32"), (nn.LSTM, r"\[1\] tuple of torch")])
def test_a_model_that_uses_the_state_alone_is_told_where_to_look(
    kind: type[nn.RNNBase], state: str, sequences: Tensor
) -> None:
    model = Recurrent(kind, by="state").eval()
    with pytest.raises(ValueError, match=rf"must depend .* at \(0,\) .* {state}.* attribute_to_layer_input=True"):
        LayerExtremalPerturbation(model, model.layer).attribute(sequences, target=1, channel_dim=-1)
    found = LayerExtremalPerturbation(model, model.head).extremal_masks(
        sequences, target=1, areas=[2, 8], attribute_to_layer_input=True, solver=SHORT
    )
    torch.testing.assert_close(found.scores[:, -1], model(sequences)[:, 1].detach())


def test_a_batch_on_the_second_axis_is_refused_with_advice() -> None:
    model = Recurrent(nn.LSTM, batch_first=False).eval()
    with pytest.raises(TypeError, match=r"row for each of 2 images .* \(10, 2, 8\).*give the layer batch_first=True"):
        LayerExtremalPerturbation(model, model.layer).attribute(torch.randn(2, 10, 3), target=1, channel_dim=-1)


class Parts(nn.Module):
    """A layer that hands on features beside other things, and a head that uses features and indices."""

    def __init__(self, container: str) -> None:
        super().__init__()
        self.layer, self.head = _Pooled(container), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        features, indices = self.layer(x)
        scores: Tensor = self.head(
            features.mean((2, 3)) + 1e-3 * indices.double().mean((1, 2, 3), keepdim=True)[:, 0, 0]
        )
        return scores


class _Pooled(nn.Module):
    def __init__(self, container: str) -> None:
        super().__init__()
        self.conv, self.pool, self.container = nn.Conv2d(3, 6, 3), nn.MaxPool2d(2, return_indices=True), container

    def forward(self, x: Tensor) -> Any:
        features, indices = self.pool(self.conv(x))
        if self.container == "named":
            return Pair(features, indices)
        return [features, indices] if self.container == "list" else (features, indices)


@pytest.mark.parametrize("container", ["tuple", "list", "named"])
def test_integers_beside_features_stay_as_the_layer_computes_them(container: str) -> None:
    model, x = Parts(container).double().eval(), torch.rand(2, 3, 12, 12, dtype=torch.float64)
    found = LayerExtremalPerturbation(model, model.layer).extremal_masks(x, target=1, areas=[2, 6], solver=SHORT)
    assert found.masks.shape == (2, 2, 6)  # type: ignore[union-attr]
    torch.testing.assert_close(found.scores[:, -1], model(x)[:, 1].detach())
    torch.testing.assert_close(found.clean_score, model(x)[:, 1].detach())


def test_named_tuples_are_split_and_put_together_again() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return Pair(x.sin(), x.cos())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Two()

        def forward(self, x: Tensor) -> Tensor:
            pair = self.layer(x)
            first: Tensor = pair[0]
            return first + 2 * pair[1]

    net, x = Net().eval(), torch.randn(2, 6)
    tail = LayerTail(net, net.layer, (x,))
    assert tail.is_split
    one, two = torch.randn(2, 4, 6)
    torch.testing.assert_close(tail(one, two), one + 2 * two)


class ByName(nn.Module):
    """Calls its layer with keyword arguments: the input, and whatever else."""

    def __init__(self, **others: Any) -> None:
        super().__init__()
        self.layer, self.head, self.others = _Named(), nn.Linear(6, 3), others

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(input=x, **self.others).relu().mean((2, 3)))
        return scores


class _Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, input: Tensor, bias: Tensor | None = None, scale: float = 1.0) -> Tensor:  # noqa: A002
        features: Tensor = scale * self.conv(input)
        return features if bias is None else features + bias


@pytest.mark.parametrize(
    "others", [{}, {"scale": 2.0}, {"bias": torch.tensor(0.1)}, {"bias": None}], ids=["alone", "number", "0-d", "None"]
)
def test_what_a_layer_is_given_by_keyword_is_masked(others: dict[str, Any]) -> None:
    model, x = ByName(**others).eval(), torch.rand(2, 3, 12, 12)
    found = LayerExtremalPerturbation(model, model.layer).extremal_masks(
        x, target=1, areas=[1, 3], attribute_to_layer_input=True, solver=SHORT
    )
    assert found.masks.shape == (2, 2, 3)  # type: ignore[union-attr]
    expected = [model(x * mask[:, :, None, None])[:, 1] for mask in found.masks.transpose(0, 1)]  # type: ignore[union-attr]
    torch.testing.assert_close(found.scores, torch.stack(expected, 1).detach(), rtol=0, atol=1e-6)
    assert not model.layer._forward_pre_hooks
