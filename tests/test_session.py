"""A session of some of the images: what the model says of them is what it says of them in the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal.layers import LayerTail
from captum_extremal.objective import Objective
from captum_extremal.perturbations import BlurPyramid, FadePyramid
from captum_extremal.perturbations.product import masked
from captum_extremal.session import Session, open_session

N = 4
ROWS = torch.tensor([3, 1])
TARGETS: dict[str, Any] = {
    "number": 2,
    "list": [0, 1, 2, 1],
    "tensor": torch.tensor([0, 1, 2, 1]),
    "tensor of one": torch.tensor([1]),
}


class Network(nn.Module):
    """Scores (N, 3) that depend on each example's own ``gain`` (N,); the layer has four channels."""

    def __init__(self, branching: bool = False) -> None:
        super().__init__()
        self.layer, self.read_out = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.branching = branching
        self.double().eval()

    def forward(self, x: Tensor, gain: Tensor | None = None, power: Tensor | None = None) -> Tensor:
        h = torch.tanh(self.layer(x))
        if self.branching and float(h.detach().sum()) > 1e9:  # which torch.fx cannot follow
            h = 2 * h
        scores = self.read_out(h.mean((2, 3)))
        scores = scores if gain is None else scores * gain[:, None]
        return scores if power is None else scores * power


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, 3, 9, 8, dtype=torch.float64)


def check_some(every: Objective, some: Objective, shape: tuple[int, ...]) -> None:
    """An objective of some images against that of all."""
    masks = torch.rand(2, N, *shape, dtype=torch.float64)
    values, (gradient,) = every.value_and_grad((masks.flatten(0, 1),), 1.0, -0.5)
    found, (of_some,) = some.value_and_grad((masks[:, ROWS].flatten(0, 1),), 1.0, -0.5)
    assert some.images == len(ROWS)
    near = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(found, values[:, ROWS], **near)
    torch.testing.assert_close(of_some.view(2, -1, *shape), gradient.view(2, N, *shape)[:, ROWS], **near)
    torch.testing.assert_close(some.clean, every.clean[ROWS], **near)
    torch.testing.assert_close(some.perturbed, every.perturbed[ROWS], **near)


@pytest.mark.parametrize("arguments", [None, "gain", "gain and power"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("baseline", [0.5, "one", "each"])
def test_objective_of_some_images(x: Tensor, target: str, arguments: str | None, baseline: Any) -> None:
    extra = {None: None, "gain": torch.rand(N).double(), "gain and power": (torch.rand(N).double(), torch.tensor(2.0))}
    given = {"one": torch.randn_like(x[:1]), "each": torch.randn_like(x)}.get(baseline, baseline)
    with open_session(Network(), x, TARGETS[target], extra[arguments], baselines=given) as session:
        every, some = (one.objective(FadePyramid().bind) for one in (session, session.of_images(ROWS)))
        check_some(every, some, (1, 9, 8))


def test_objective_of_some_images_of_several_tensors(x: Tensor) -> None:
    def forward(one: Tensor, two: Tensor, gain: Tensor) -> Tensor:
        return one.mean((1, 2, 3)) * two.square().mean((1, 2)) * gain

    inputs = (x, torch.randn(N, 2, 11, dtype=torch.float64))
    with open_session(forward, inputs, None, torch.rand(N).double()) as session:
        every, some = (one.objective(BlurPyramid().bind) for one in (session, session.of_images(ROWS)))
    masks = torch.rand(N, 1, 9, 8, dtype=torch.float64), torch.rand(N, 1, 11, dtype=torch.float64)
    found = some.value(tuple(mask[ROWS] for mask in masks))
    torch.testing.assert_close(found, every.value(masks)[:, ROWS], rtol=0, atol=1e-12)


def layer_objective(session: Session, network: Network) -> tuple[Objective, LayerTail]:
    here = session.at_layer(network.layer, False, None)
    tail = here.forward_func
    assert isinstance(tail, LayerTail)
    return here.objective(lambda x, _: masked(x), [(4,)], lambda masks: (masks[0][..., None, None],)), tail


@pytest.mark.parametrize("arguments", [None, "gain"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("split", [True, False])
def test_objective_of_some_images_at_a_layer(x: Tensor, target: str, arguments: str | None, split: bool) -> None:
    network = Network(branching=not split)
    extra = torch.rand(N).double() if arguments else None
    with open_session(network, x, TARGETS[target], extra, layer=network.layer) as session:
        (every, whole), (some, part) = (layer_objective(one, network) for one in (session, session.of_images(ROWS)))
        assert whole.is_split == part.is_split == split
        check_some(every, some, (4,))
    assert not network.layer._forward_hooks
