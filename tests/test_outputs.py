"""Where the scores are in what a model returns."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import ExcitationBackprop, ExtremalPerturbation, LayerExtremalPerturbation, PathSolver
from captum_extremal.outputs import at_place, place_of_scores, scores_in

SCORES = torch.arange(6.0).view(2, 3)


class ModelOutput(OrderedDict[Any, Any]):
    """As in transformers: by name, by attribute, and by index."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __getitem__(self, key: Any) -> Any:
        return tuple(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


Named = namedtuple("Named", ["logits", "aux"])
OUTPUTS: dict[str, Any] = {
    "tensor": (SCORES, ()),
    "dictionary": ({"out": SCORES, "size": (8, 8), "mask": SCORES > 1}, ("out",)),
    "tuple": ((SCORES, None), (0,)),
    "list": ([torch.zeros(()), SCORES], (1,)),
    "named tuple": (Named(SCORES, torch.zeros(5, 3)), (0,)),
    "nested": ({"heads": (None, {"class": SCORES})}, ("heads", 1, "class")),
    "transformers": (ModelOutput(loss=torch.zeros(()), logits=SCORES, cache=object()), ("logits",)),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_the_only_floating_tensor_with_a_row_for_each_example_is_found(case: str) -> None:
    output, place = OUTPUTS[case]
    assert place_of_scores(output, 2) == place
    assert at_place(output, place) is SCORES
    assert scores_in(output, 2) is SCORES


def test_a_model_output_with_several_scores_asks_for_one_by_name() -> None:
    output = ModelOutput(logits_per_image=SCORES, image_embeds=SCORES)
    with pytest.raises(TypeError, match=r"got 2 of them in a ModelOutput .*lambda x: model\(x\)\['logits_per_image'\]"):
        place_of_scores(output, 2)


def in_a_dictionary(x: Tensor) -> dict[str, Any]:
    # For four rows, "shared" would fit as well: the place is that of the clean forward.
    return {"shared": torch.zeros(4, 3), "out": (x.mean((2, 3)), None)}


def test_a_search_reads_every_output_at_the_place_of_the_first(images: Tensor, quick: PathSolver) -> None:
    found, expected = (
        ExtremalPerturbation(model).extremal_masks(images, target=1, areas=[0.2, 0.4], solver=quick)
        for model in (in_a_dictionary, lambda x: in_a_dictionary(x)["out"][0])
    )
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(torch.as_tensor(found.masks), torch.as_tensor(expected.masks))


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return OrderedDict(out=self.network(x))


def test_layers_of_models_that_return_dictionaries(make_network: Callable[..., nn.Sequential], images: Tensor) -> None:
    network = make_network()
    wrapped = Wrapped(network).eval()
    layer, what = network[1], {"target": 1, "areas": [1, 3], "solver": PathSolver(steps=4)}
    found = LayerExtremalPerturbation(wrapped, layer).extremal_masks(images, **what)
    expected = LayerExtremalPerturbation(network, layer).extremal_masks(images, **what)
    assert found.settings["runs"] == "tail"  # what stands before the layer ran once
    assert torch.equal(found.scores, expected.scores)
    maps = [ExcitationBackprop(model, layer).attribute(images, target=1) for model in (wrapped, network)]
    assert torch.equal(*maps)
