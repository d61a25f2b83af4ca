"""Class channels: closed forms where a class reads one channel, and runs that are stopped and go on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_extremal import ClassChannels, LayerExtremalPerturbation, PathSolver, class_channels, cli, evaluation
from captum_extremal._jsonl import JsonLines
from captum_extremal.class_rows import KIND, RowsOnFile
from captum_extremal.classes import RemovalDrop
from captum_extremal.datasets import DigitScenes, digit_network

Batch = tuple[Tensor, Any]
Batches = list[Batch]
How = dict[str, Any]
Case = tuple[How, type[Exception], str]
Method = LayerExtremalPerturbation
CLASSES = 4
AREAS = (1, 2, 4)
THRESHOLD = "score_threshold must be what it was .* for image 0 it is"


def enough(clean: Tensor, perturbed: Tensor) -> Tensor:
    return 0.9 * clean


class OneEach(nn.Module):
    """Class c reads channel c alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(CLASSES, CLASSES, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(CLASSES)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean((2, 3))


@pytest.fixture
def model() -> OneEach:
    return OneEach().double().eval()


@pytest.fixture
def method(model: OneEach) -> Method:
    return Method(model, model.layer)


LABELS = [2, 0, 1, 1, 3, 0, 2]


@pytest.fixture
def batches() -> Batches:
    """Seven images in batches of 3, 2 and 2."""
    x = torch.rand(len(LABELS), CLASSES, 3, 2, dtype=torch.float64) + 0.5
    return [(x[:3], LABELS[:3]), (x[3:5], LABELS[3:5]), (x[5:], LABELS[5:])]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.fixture
def how() -> How:
    return {"areas": AREAS, "solver": PathSolver(steps=20), "score_threshold": enough}


def same(one: ClassChannels, other: ClassChannels) -> bool:
    return torch.equal(one.masks.nan_to_num(-1), other.masks.nan_to_num(-1)) and (
        (one.classes, one.used, one.skipped) == (other.classes, other.used, other.skipped)
    )


def test_each_class_has_the_channel_that_it_reads(method: Method, batches: Batches, how: How) -> None:
    found = class_channels(method, batches, **how)
    assert found.classes == (0, 1, 2, 3)
    assert (found.used, found.skipped) == ((2, 2, 2, 1), (0, 0, 0, 0))
    for label in found.classes:
        channels, values = found.top(label, 2)
        assert channels[0] == label
        assert values[0] > 0.9 > 0.1 > values[1]
        assert torch.equal(values, found.masks[label][channels])
    assert repr(found) == "ClassChannels(masks=(4, 4), classes=[0, 1, 2, 3], used=7, skipped=0)"


def test_means_are_those_of_the_masks_one_by_one(method: Method, batches: Batches, how: How) -> None:
    masks: dict[int, list[Tensor]] = {}
    for x, labels in batches:
        for one, label in zip(x, labels):
            found = method.extremal_masks(one[None], label, **how)
            masks.setdefault(label, []).append(found.optimal_mask()[0])  # type: ignore[index]
    expected = torch.stack([torch.stack(masks[label]).mean(0) for label in range(CLASSES)])
    torch.testing.assert_close(class_channels(method, batches, **how).masks, expected, rtol=1e-5, atol=1e-6)


def test_images_that_do_not_reach_are_skipped_and_counted(method: Method, batches: Batches, how: How) -> None:
    """A dark image of a class cannot reach what the others reach."""
    x = torch.cat([x for x, _ in batches])
    x[1], x[4] = x[1] / 100, x[4] / 100
    alone = [k for k in range(7) if k not in (1, 4)]
    found = class_channels(method, [(x, LABELS)], **how | {"score_threshold": 0.2})
    assert (found.used, found.skipped) == ((1, 2, 2, 0), (1, 0, 0, 1))
    assert bool(found.masks[3].isnan().all())
    without = class_channels(method, [(x[alone], [LABELS[k] for k in alone])], **how | {"score_threshold": 0.2})
    torch.testing.assert_close(found.masks[:3], without.masks)
    with pytest.raises(ValueError, match=r"label must be a class of which an image counts, one of \[0, 1, 2\], got 3"):
        found.top(3)
    with pytest.warns(UserWarning, match="none of 7 images reaches the score threshold"):
        none = class_channels(method, [(x, LABELS)], **how | {"score_threshold": 99})
    assert (none.used, none.skipped, none.masks.shape) == ((0, 0, 0, 0), (2, 2, 2, 1), (4, 4))


def test_of_equal_entries_the_first_channel_is_taken() -> None:
    masks = torch.tensor([[0.5, 0.75, 0.25, 0.75]])
    found = ClassChannels((6,), masks, (1,), (0,), {})
    channels, values = found.top(6, 4)
    assert channels.tolist() == [1, 3, 0, 2]
    assert values.tolist() == [0.75, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("kind", [torch.tensor, np.array, tuple, list])
def test_labels_in_any_form(method: Method, batches: Batches, how: How, kind: Callable[[list[int]], Any]) -> None:
    found = class_channels(method, [(x, kind(labels)) for x, labels in batches], **how)
    assert same(found, class_channels(method, batches, **how))
    assert [type(label) for label in found.classes] == [int] * CLASSES


def test_a_data_loader_and_a_progress_bar(
    method: Method, batches: Batches, how: How, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.cat([x for x, _ in batches])
    loader = DataLoader(TensorDataset(x, torch.tensor(LABELS)), batch_size=3)
    found = class_channels(method, loader, show_progress=True, **how)
    assert "class channels: 100%" in capsys.readouterr().err
    torch.testing.assert_close(found.masks, class_channels(method, batches, **how).masks)
    found.removal_drop(method, iter(loader), show_progress=True)
    assert "channels removed" in capsys.readouterr().err


def test_several_inputs_come_as_a_list(how: How, batches: Batches) -> None:
    one = OneEach().double().eval()

    def both(x: Tensor, y: Tensor) -> Tensor:
        return one(x + y)

    pairs = [([x / 2, x / 2], labels) for x, labels in batches]
    found = class_channels(Method(both, one.layer), pairs, **how)
    assert [int(found.top(label)[0]) for label in found.classes] == [0, 1, 2, 3]


def test_channels_of_tokens_and_of_a_layers_input() -> None:
    """The last axis holds the channels; at the layer's input they are in the opposite order."""
    flip = nn.Linear(3, 3, bias=False)
    flip.weight.data = torch.eye(3).flip(0)
    model = nn.Sequential(flip, nn.AdaptiveAvgPool2d((1, 3)), nn.Flatten()).eval()
    method = Method(model, flip)
    batch = [(torch.rand(3, 5, 3) + 0.5, [0, 1, 2])]
    how: How = {"areas": (1, 3), "solver": PathSolver(steps=20), "score_threshold": enough, "channel_dim": -1}
    for to_input, expected in [(False, [0, 1, 2]), (True, [2, 1, 0])]:
        found = class_channels(method, batch, attribute_to_layer_input=to_input, **how)
        assert [int(found.top(label)[0]) for label in range(3)] == expected
        drop = found.removal_drop(method, batch)
        assert bool((drop.own > 0.4).all())
        torch.testing.assert_close(drop.others, torch.zeros(3))


def test_the_device_is_where_the_model_runs(model: OneEach, batches: Batches, how: How, device: torch.device) -> None:
    method = Method(model.to(device), model.layer)
    found = class_channels(method, batches, device=device, **how)
    assert found.masks.device == torch.device("cpu")
    assert found.removal_drop(method, batches, device=device).drops.device == torch.device("cpu")


# Removing channels


def test_removing_a_classs_channel_costs_its_whole_score_and_the_others_nothing(
    method: Method, batches: Batches, how: How
) -> None:
    drop = class_channels(method, batches, **how).removal_drop(method, batches)
    x = torch.cat([x for x, _ in batches])
    scores = x.mean((2, 3))[range(7), LABELS]
    means = torch.stack([scores[torch.tensor(LABELS) == label].mean() for label in range(CLASSES)])
    torch.testing.assert_close(drop.drops, means.diag().float())
    torch.testing.assert_close(drop.own, means.float())
    torch.testing.assert_close(drop.others, torch.zeros(CLASSES))
    assert (drop.removed, drop.classes, drop.images) == ((0, 1, 2, 3), (0, 1, 2, 3), (2, 2, 2, 1))
    assert drop.channels.tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("count", [1, 3])
def test_drops_are_those_of_images_one_by_one(count: int) -> None:
    """On a network that mixes its channels, with classes that were chosen, against a literal loop."""
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 4, 3)).double().eval()
    method = Method(network, network[1])
    masks = torch.rand(3, 6)
    settings = {"layer": "1 Tanh", "layer_has_name": True, "attribute_to_layer_input": False, "channel_dim": 1}
    found = ClassChannels((0, 1, 2), masks, (1, 1, 1), (0, 0, 0), settings)
    x, labels = torch.randn(7, 2, 4, 4, dtype=torch.float64), [2, 0, 2, 1, 1, 2, 2]
    drop = found.removal_drop(method, [(x[:4], labels[:4]), (x[4:], labels[4:])], count=count, classes=[2, 0])
    for row, removed in enumerate([2, 0]):
        channels = masks[removed].topk(count).indices
        costs = []
        for one, label in zip(x, labels):
            activation = network[:2](one[None])
            without = activation.clone()
            without[:, channels] = 0
            costs.append((network[2:](activation) - network[2:](without))[0, label].item())
        of = torch.tensor(costs)
        mine = torch.tensor(labels) == removed
        torch.testing.assert_close(drop.own[row], of[mine].mean())
        torch.testing.assert_close(drop.others[row], of[~mine].mean())
    chunked = found.removal_drop(method, [(x, labels)], count=count, classes=[2, 0], perturbations_per_eval=1)
    torch.testing.assert_close(chunked.drops, drop.drops)


def test_no_image_of_a_class_has_no_mean() -> None:
    drop = RemovalDrop((5,), torch.tensor([[0]]), (1, 2), torch.tensor([[1.0, 4.0]]), (2, 1))
    assert bool(drop.own.isnan().all())
    assert drop.others.tolist() == [2.0]


def test_channels_are_removed_from_the_layer_that_they_are_of(method: Method, batches: Batches, how: How) -> None:
    found = class_channels(method, batches, **how)
    network = nn.Sequential(nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = network.double().eval()
    with pytest.raises(ValueError, match=r"the layer that the channels are of, layer Conv2d, got 0 Conv2d"):
        found.removal_drop(Method(network, network[0]), batches)
    within = [network]  # where the layer's name is not found
    with pytest.raises(ValueError, match=r"one tensor of 4 channels, got activations \(3, 5, 3, 2\)"):
        found.removal_drop(Method(lambda x: within[0](x), network[0]), batches)
    probable = Method(lambda x: method.forward_func(x).softmax(1), method.layer)
    assert bool((found.removal_drop(probable, batches).own > 0).all())


def test_a_name_that_looks_like_none_is_a_name(how: How) -> None:
    """The layer of a model has a name, whatever its class is called; that of a function has none."""
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    batch = [(torch.rand(2, 4, 3, 3) + 0.5, [0, 1])]
    found = class_channels(Method(network, network), batch, **how | {"score_threshold": None})
    assert (found.settings["layer"], found.settings["layer_has_name"]) == ("Sequential", True)
    with pytest.raises(ValueError, match=r"the layer that the channels are of, Sequential, got 0 Conv2d"):
        found.removal_drop(Method(network, network[0]), batch)
    unnamed = class_channels(Method(lambda x: network(x), network[0]), batch, **how)
    assert not unnamed.settings["layer_has_name"]
    assert unnamed.removal_drop(Method(network, network[1]), batch).images == (1, 1)


def test_a_layer_inside_data_parallel_is_the_models_layer(
    model: OneEach, batches: Batches, how: How, path: Path, counted: Any
) -> None:
    """A run of the bare model is continued by the wrapped one, and the other way round."""
    wrapped = Method(nn.DataParallel(model), model.layer)
    bare = Method(model, model.layer)
    class_channels(bare, batches[:1], path=path, **how)
    found = class_channels(wrapped, batches, path=path, **how)
    assert same(found, class_channels(bare, batches, path=path, **how))
    assert found.settings["layer"] == "layer Conv2d"
    drop = found.removal_drop(wrapped, batches)
    assert torch.equal(drop.drops, found.removal_drop(bare, batches).drops)
    other = nn.Sequential(nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    with pytest.raises(ValueError, match=r"the channels are of, layer Conv2d, got 0 Conv2d"):
        found.removal_drop(Method(nn.DataParallel(other), other[0]), batches)


def test_nothing_of_the_callers_is_changed(model: OneEach, method: Method, batches: Batches, how: How) -> None:
    before = [x.clone() for x, _ in batches]
    random = torch.get_rng_state()
    class_channels(method, batches, **how).removal_drop(method, batches)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(one, x) for one, (x, _) in zip(before, batches))
    assert not model.layer._forward_hooks
    assert model.layer.weight.requires_grad
    assert model.layer.weight.grad is None


# Stopped runs


class Watched:
    """A forward function that keeps the first value of each image that it sees, and is interrupted after some calls."""

    def __init__(self, model: nn.Module, calls: int = 10**9) -> None:
        self.model, self.left, self.calls = model, calls, 0
        self.seen: list[float] = []

    def __call__(self, x: Tensor) -> Any:
        self.left -= 1
        self.calls += 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.seen += [value for value in x[:, 0, 0, 0].tolist() if value not in self.seen]
        return self.model(x)


def first_values(batches: Batches) -> list[float]:
    return torch.cat([x for x, _ in batches])[:, 0, 0, 0].tolist()  # type: ignore[no-any-return]


def test_a_finished_file_needs_no_forward(model: OneEach, batches: Batches, how: How, path: Path, counted: Any) -> None:
    forward = counted(model)
    method = Method(forward, model.layer)
    whole = class_channels(method, batches, path=path, **how)
    calls = forward.calls
    assert calls > 0
    x = torch.cat([x for x, _ in batches])
    for again in (batches, [(x, LABELS)], [(one[None], [label]) for one, label in zip(x, LABELS)]):
        assert same(class_channels(method, again, path=str(path), **how), whole)
    assert forward.calls == calls
    part = class_channels(method, batches[:1], path=path, **how)
    assert same(part, class_channels(method, batches[:1], **how))


def test_batches_of_which_nothing_is_known_are_not_copied(
    method: Method, batches: Batches, how: How, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []
    search = Method._masks_of

    def keep(self: Method, inputs: tuple[Tensor, ...], *others: Any) -> Any:
        given.extend(inputs)
        return search(self, inputs, *others)

    monkeypatch.setattr(Method, "_masks_of", keep)
    class_channels(method, batches, path=path, **how)
    assert [x.data_ptr() for x in given] == [x.data_ptr() for x, _ in batches]


@pytest.mark.parametrize(("share", "finished"), [(0.0, 0), (0.2, 0), (0.5, 3), (0.9, 5)])
def test_an_interrupted_run_goes_on_and_ends_the_same(
    model: OneEach, batches: Batches, how: How, path: Path, share: float, finished: int
) -> None:
    forward = Watched(model)
    whole = class_channels(Method(forward, model.layer), batches, **how)
    stops = Watched(model, int(share * forward.calls))
    with pytest.raises(KeyboardInterrupt):
        class_channels(Method(stops, model.layer), batches, path=path, **how)
    assert path.read_bytes().count(b"\n") == (finished + 1 if finished else 0)
    rest = Watched(model)
    again = class_channels(Method(rest, model.layer), batches, path=path, **how)
    assert same(again, whole)
    assert rest.seen == first_values(batches)[finished:]


@pytest.mark.parametrize("cut", [0, 1, 60, 500, 640, -1, -2, -200, -700])
def test_a_file_cut_anywhere_loses_at_most_its_last_row(
    model: OneEach, batches: Batches, how: How, path: Path, cut: int
) -> None:
    forward = Watched(model)
    method = Method(forward, model.layer)
    whole = class_channels(method, batches, path=path, **how)
    lines = path.read_bytes().splitlines(keepends=True)
    written = b"".join(lines)[:cut]
    path.write_bytes(written)
    forward.seen.clear()
    again = class_channels(method, batches, path=path, **how)
    kept = written.count(b"\n")
    found = path.read_bytes().splitlines(keepends=True)
    assert found[:kept] == lines[:kept]
    assert [json.loads(line)["index"] for line in found[1:]] == list(range(7))
    assert forward.seen == first_values(batches)[max(kept - 1, 0) :]
    torch.testing.assert_close(again.masks, whole.masks)


@pytest.mark.filterwarnings("ignore:. of . examples do not reach the score threshold even")
def test_rows_say_what_was_found(method: Method, batches: Batches, how: How, path: Path) -> None:
    class_channels(method, batches, path=path, **how | {"score_threshold": 1.0})
    about, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert about["layer"] == "layer Conv2d"
    assert about["areas"] == [1, 2, 4]
    x = torch.cat([x for x, _ in batches])
    found = method.extremal_masks(x, LABELS, **how | {"score_threshold": 1.0})
    assert [row["label"] for row in rows] == LABELS
    reached = [row["optimal_area"] is not None for row in rows]
    assert reached == found.reached.tolist()
    assert 0 < sum(reached) < 7
    torch.testing.assert_close(torch.tensor([row["clean"] for row in rows], dtype=torch.float64), found.clean_score)
    masks = [np.frombuffer(base64.b64decode(row["mask"]), "<f4") for row in rows]
    torch.testing.assert_close(torch.from_numpy(np.stack(masks)), found.optimal_mask())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"areas": (1, 4)}, r"areas \[1, 2, 4\] instead of \[1, 4\]"),
        ({"areas": None}, r"areas \[1, 2, 4\] instead of 'optimal'"),
        ({"game": "delete"}, "game"),
        ({"solver": "path"}, "solver .*PathSolver.*'steps': 20,"),
        ({"channel_dim": 2}, "channel_dim None instead of 2"),
        ({"attribute_to_layer_input": True}, "attribute_to_layer_input False instead of True"),
        ({"score_threshold": None}, THRESHOLD),
        ({"score_threshold": 0.3}, THRESHOLD),
        ({"score_threshold": lambda clean, perturbed: 0.8 * clean}, THRESHOLD),
    ],
)
def test_rows_of_other_settings_are_not_mixed(
    method: Method, batches: Batches, how: How, path: Path, change: How, named: str
) -> None:
    class_channels(method, batches[:1], path=path, **how)
    written = path.read_bytes()
    with pytest.raises(ValueError, match=rf"(path must be a file of these settings, got .* with |^){named}"):
        class_channels(method, batches, path=path, **how | change)
    assert path.read_bytes() == written


def test_rows_of_other_weights_are_not_mixed(
    model: OneEach, method: Method, batches: Batches, how: How, path: Path
) -> None:
    class_channels(method, batches[:1], path=path, **how)
    model.layer.weight.data[0, 0] += 1e-12
    with pytest.raises(ValueError, match=r"with model '\w+' instead of '\w+'"):
        class_channels(method, batches, path=path, **how)


class Service:
    """Holds a model, of which a function sees this object alone."""

    def __init__(self, model: nn.Module) -> None:
        self.models = [model]

    def predict(self, x: Tensor) -> Tensor:
        return self.models[0](x)


@pytest.mark.parametrize("kind", ["object", "matrix"])
def test_rows_of_weights_behind_a_function_are_not_mixed(
    model: OneEach, batches: Batches, how: How, path: Path, kind: str
) -> None:
    service, gain = Service(nn.Sequential(model, nn.Identity())), torch.ones(CLASSES, dtype=torch.float64)
    changed = model.layer.weight.data[0, 0] if kind == "object" else gain
    method = Method(lambda x: service.predict(x) * gain, model.layer)
    class_channels(method, batches[:1], path=path, **how)
    class_channels(method, batches[:1], path=path, **how)
    changed += 1e-12
    with pytest.raises(ValueError, match=r"with model '\w+' instead of '\w+'"):
        class_channels(method, batches, path=path, **how)


def test_path_is_refused_where_the_weights_cannot_be_seen(
    model: OneEach, batches: Batches, how: How, path: Path
) -> None:
    hidden: Any = map(model, iter([batches[0][0]] * 9))  # a part of Python that does not show what it holds
    method = Method(lambda x: next(hidden), model.layer)
    with pytest.raises(ValueError, match="path must not be given where forward_func does not show which weights"):
        class_channels(method, batches[:1], path=path, **how)
    assert not path.exists()


def test_lazy_models_are_refused_before_their_weights_are_there(batches: Batches, how: How) -> None:
    lazy = nn.Sequential(nn.LazyConv2d(3, 1), nn.Flatten())
    with pytest.raises(ValueError, match=r"method's model must have its parameters, but '0\.weight' comes with"):
        class_channels(Method(lazy, lazy[0]), batches, **how)


def test_other_images_are_noticed(method: Method, batches: Batches, how: How, path: Path) -> None:
    class_channels(method, batches, path=path, **how)
    x, labels = batches[1]
    with pytest.raises(ValueError, match="image 4 has label 2, in the file 3"):
        class_channels(method, [batches[0], (x, [labels[0], 2])], path=path, **how)
    with pytest.raises(ValueError, match=r"same order.*but image 3 has other values"):
        class_channels(method, [batches[0], (x + 1e-9, labels)], path=path, **how)


def below_all(clean: Tensor, perturbed: Tensor) -> Tensor:
    return torch.full_like(clean, -torch.inf)


def above_all(clean: Tensor, perturbed: Tensor) -> Tensor:
    return -below_all(clean, perturbed)


@pytest.mark.filterwarnings("ignore:none of . images reaches")
@pytest.mark.parametrize(("threshold", "used"), [(below_all, (2, 2, 2, 1)), (above_all, (0, 0, 0, 0))])
def test_a_run_with_infinite_thresholds_goes_on(
    method: Method, batches: Batches, how: How, path: Path, threshold: Any, used: tuple[int, ...]
) -> None:
    how["score_threshold"] = threshold
    class_channels(method, batches[:1], path=path, **how)
    found = class_channels(method, batches, path=path, **how)
    assert found.used == used
    assert same(class_channels(method, batches, path=path, **how), found)
    with pytest.raises(ValueError, match=THRESHOLD):
        class_channels(method, batches, path=path, **how | {"score_threshold": None})


@pytest.mark.filterwarnings("ignore:none of . images reaches")
def test_a_run_with_infinite_scores_goes_on(model: OneEach, batches: Batches, how: How, path: Path) -> None:
    method = Method(nn.Sequential(model, Logarithm()), model.layer)
    how["score_threshold"] = -5.0
    class_channels(method, batches[:1], path=path, **how)
    assert {json.loads(line)["perturbed"] for line in path.read_bytes().splitlines()[1:]} == {-torch.inf}
    assert same(class_channels(method, batches, path=path, **how), class_channels(method, batches, **how))


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


DAMAGE = [b"\n", b"5\n", b'{"index": 1}\n', b"again", b"label", b"mask", b"channels", b"nan", b"zeros"]


def damaged(lines: list[bytes], damage: bytes) -> bytes:
    """A line to be put in the place of the second row."""
    changed = {
        b"again": lines[3],
        b"label": lines[2].replace(b'"label": ', b'"label": -1'),
        b"mask": lines[2].replace(b'"mask": "', b'"mask": "AAAA'),
        b"channels": lines[2].replace(b'"mask": "', b'"mask": "' + 16 * b"A"),
        b"nan": lines[2].replace(b'"clean": ', b'"clean": NaN, "old": '),
        b"zeros": b"\0" * 700 + b"\n",
    }
    return changed.get(damage, damage)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("by", ["class_channels", "evaluation"])
def test_damaged_rows_are_noticed_and_set_aside(
    method: Method, batches: Batches, how: How, path: Path, damage: bytes, by: str
) -> None:
    expected = class_channels(method, batches, path=path, **how)
    lines = path.read_bytes().splitlines(True)
    spoiled = b"".join([*lines[:2], damaged(lines, damage), *lines[3:]])
    path.write_bytes(spoiled)
    with pytest.raises(
        ValueError, match=r"damaged.* (at line|image 1) .*; repair=True sets damaged lines aside, and keeps"
    ):
        class_channels(method, batches, path=path, **how)
    assert path.read_bytes() == spoiled
    if by == "evaluation":
        assert evaluation.repair([path]) == {path: 1}
        assert path.read_bytes() == b"".join([*lines[:2], *lines[3:]])
        found = class_channels(method, batches, path=path, **how)
    else:
        with pytest.warns(UserWarning, match="damaged lines set aside: 1; the file as it was is beside it"):
            found = class_channels(method, batches, path=path, repair=True, **how)
    assert path.with_name(f"{path.name}.damaged").read_bytes() == spoiled
    assert sorted(path.read_bytes().splitlines(True)[1:]) == sorted(lines[1:])  # the lost row was made again
    torch.testing.assert_close(found.masks, expected.masks)
    assert class_channels(method, batches, path=path, repair=True, **how).used == expected.used


@pytest.mark.parametrize("by", ["class_channels", "evaluation"])
def test_a_first_row_of_other_channels_costs_itself_alone(
    method: Method, batches: Batches, how: How, path: Path, by: str
) -> None:
    class_channels(method, batches, path=path, **how)
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"mask": "', b'"mask": "' + 16 * b"A"), *lines[2:]]))
    with pytest.raises(ValueError, match="is damaged: image 0 has a mask of another number of channels than most, 7"):
        class_channels(method, batches, path=path, **how)
    if by == "evaluation":
        assert evaluation.repair([path]) == {path: 1}
    else:
        with pytest.warns(UserWarning, match="damaged lines set aside: 1;"):
            class_channels(method, batches, path=path, repair=True, **how)
    assert path.read_bytes().splitlines(True)[: len(lines) - 1] == [lines[0], *lines[2:]]


def test_compare_repairs_and_leaves_out_rows_of_channels(
    method: Method, batches: Batches, how: How, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class_channels(method, batches, path=path, **how)
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join([*lines[:2], b"\0\n", *lines[2:]]))
    assert cli.main(["compare", str(path), "--repair"]) == 1
    told = capsys.readouterr().err
    assert f"{path}: damaged lines set aside: 1" in told
    assert f"there is no row in {path}" in told  # of an evaluation
    assert path.read_bytes() == b"".join(lines)


def test_what_does_not_know_the_settings_leaves_a_file_with_a_damaged_header_alone(
    method: Method, batches: Batches, how: How, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class_channels(method, batches, path=path, **how)
    spoiled = b"x" + path.read_bytes()[1:]
    path.write_bytes(spoiled)
    for call in (lambda: evaluation.repair([path.parent]), lambda: cli.main(["compare", str(path), "--repair"])):
        with pytest.warns(UserWarning, match=r"rows.jsonl: left as it is, .* class_channels\(.*repair=True\) mends it"):
            assert call() in ({}, 1)
        assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [(path.name, spoiled)]
    assert "--repair" not in capsys.readouterr().err  # which has just been tried


@pytest.mark.parametrize("first", ["whole", "lost"])
def test_a_damaged_header_costs_no_other_row(
    method: Method, batches: Batches, how: How, path: Path, first: str
) -> None:
    """Also where the first image with a row is in a later batch, and the batches come once."""
    class_channels(method, batches, path=path, **how)
    lines = path.read_bytes().splitlines(True)
    kept = lines[1:] if first == "whole" else lines[4:]
    path.write_bytes(b"".join([b"x" + lines[0][1:], *kept]))
    told = "damaged lines set aside: 1; .*; the header is damaged, and the rows are taken for those of these settings"
    with pytest.warns(UserWarning, match=told):
        class_channels(method, iter(batches), path=path, repair=True, **how)
    found = path.read_bytes().splitlines(True)
    assert found[: 1 + len(kept)] == [lines[0], *kept]
    assert len(found) == len(lines)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("weights", "the score of image 0 is .*, in the file "),
        ("images", "loader must give the images of the file .* image 0 has other values"),
        ("threshold", "score_threshold must be what it was"),
        ("channels", "method must mask one tensor of 4 channels, got activations .1, 6, 3, 2."),
        ("loader", "loader has none of their images"),
    ],
)
def test_rows_under_a_damaged_header_must_fit(
    model: OneEach, method: Method, batches: Batches, how: How, path: Path, change: str, told: str
) -> None:
    class_channels(method, batches, path=path, **how)
    lines = path.read_bytes().splitlines(True)
    spoiled = b"".join([b"x" + lines[0][1:], *(lines[6:] if change == "loader" else lines[1:])])
    path.write_bytes(spoiled)
    if change == "weights":
        model.layer.weight.data *= 1.01
    elif change == "images":
        batches[0] = (batches[0][0] + 1, batches[0][1])
    elif change == "threshold":
        how["score_threshold"] = 0.1
    elif change == "channels":
        six = nn.Conv2d(CLASSES, 6, 1).double()
        method = Method(nn.Sequential(six, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), six)
    else:
        del batches[1:]
    with pytest.raises(
        ValueError, match=rf"rows.jsonl has a damaged header, and its rows do not fit this call: {told}"
    ):
        class_channels(method, batches, path=path, repair=True, **how)
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [(path.name, spoiled)]


def test_another_file_is_not_repaired(method: Method, batches: Batches, how: How, path: Path) -> None:
    path.write_bytes(b"a diary\nof two lines\n")
    with pytest.raises(ValueError, match="path must be a new file or one of class_channels"):
        class_channels(method, batches, path=path, repair=True, **how)
    assert path.read_bytes() == b"a diary\nof two lines\n"


# Bad arguments


@pytest.mark.parametrize(
    "case",
    [
        ({"method": nn.Linear(2, 2)}, TypeError, "method must be a LayerExtremalPerturbation, got Linear"),
        ({"loader": 3}, TypeError, "loader must give pairs"),
        ({"loader": []}, ValueError, "loader must give at least one batch"),
        ({"loader": iter(())}, ValueError, "a generator runs once only"),
        ({"loader": [torch.ones(2, 4, 3, 3)]}, TypeError, r"pairs \(inputs, labels\), got Tensor"),
        ({"loader": [(1, 2, 3)]}, TypeError, r"pairs \(inputs, labels\), got 3 things"),
        ({"loader": [("x", [1])]}, TypeError, "inputs must be a tensor"),
        ({"loader": [(torch.ones(0, 4, 3, 3), [])]}, ValueError, "inputs must have one row per example"),
        ({"loader": [(torch.ones(2, 4, 3, 3), 1)]}, ValueError, "one integer for each of 2 images, got 1"),
        ({"loader": [(torch.ones(2, 4, 3, 3), [1])]}, ValueError, "one integer for each of 2 images, got 1"),
        ({"loader": [(torch.ones(1, 4, 3, 3), [-1])]}, ValueError, "labels must be at least 0, got -1"),
        ({"loader": [(torch.ones(1, 4, 3, 3), [True])]}, TypeError, "labels must be an integer"),
        ({"loader": [(torch.ones(1, 4, 3, 3), torch.ones(1))]}, TypeError, "labels must be an integer, got 1.0"),
        ({"loader": [(torch.ones(1, 4, 3, 3), torch.ones(1, 1).int())]}, TypeError, "got .1. of type list"),
        ({"path": 3}, TypeError, "path must be a string or a path, got 3 of type int"),
        ({"path": "no such folder/rows"}, FileNotFoundError, "no such folder"),
        ({"device": "gpu"}, ValueError, "device must be one of PyTorch's, got 'gpu'"),
        ({"areas": "few"}, ValueError, "areas must be numbers, None or 'optimal'"),
        ({"areas": (2, 1)}, ValueError, "areas must be strictly increasing"),
        ({"game": "win"}, ValueError, "game must be one of"),
        ({"solver": "fast"}, ValueError, "solver must be one of"),
        ({"mask": "spatial"}, ValueError, "mask must be one of 'channels', got 'spatial'"),
        ({"area": (1, 2)}, TypeError, r"class_channels\(\) got an unexpected keyword argument 'area': did you mean"),
        ({"channel_dim": 1.0}, TypeError, "channel_dim must be an integer"),
        ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval must be at least 1"),
        ({"score_threshold": [1.0, 2.0]}, TypeError, "score_threshold must be a number"),
        ({"score_threshold": lambda clean: clean}, TypeError, "score_threshold must be callable as"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named_before_the_model_runs(
    model: OneEach, batches: Batches, how: How, counted: Any, path: Path, case: Case
) -> None:
    (arguments, error, message), forward = case, counted(model)
    given = {"method": Method(forward, model.layer), "loader": batches, "path": path}
    with pytest.raises(error, match=message):
        class_channels(**given | how | arguments)
    assert forward.calls == 0
    assert not path.exists() or not path.read_bytes()


def test_what_shows_in_the_first_forward_leaves_no_row(method: Method, batches: Batches, how: How, path: Path) -> None:
    """So that the call can be put right and made again with the same file."""
    with pytest.raises(ValueError, match="areas must be at most the layer's 4 channels"):
        class_channels(method, batches, path=path, **how | {"areas": (1, 5)})
    with pytest.raises(ValueError, match="target must lie within the output"):
        class_channels(method, [(batches[0][0], [9, 9, 9])], path=path, **how)
    assert class_channels(method, batches, path=path, **how).used == (2, 2, 2, 1)


def test_layers_of_several_tensors_have_no_one_mask(how: How) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    twice = Twice().eval()
    method = Method(lambda x: torch.cat(twice(x)).mean((2, 3))[: len(x)], twice)
    with pytest.raises(ValueError, match="the layer must have one tensor, got 2"):
        class_channels(method, [(torch.rand(1, 4, 3, 3), [1])], **how)


def test_shuffled_images_cannot_be_found_again(method: Method, batches: Batches, how: How, path: Path) -> None:
    data = TensorDataset(torch.cat([x for x, _ in batches]), torch.tensor(LABELS))
    with pytest.raises(ValueError, match="loader must not shuffle where path is given"):
        class_channels(method, DataLoader(data, shuffle=True), path=path, **how)
    assert class_channels(method, DataLoader(data, batch_size=7, shuffle=True), **how).used == (2, 2, 2, 1)

    def seeded() -> DataLoader[Any]:
        return DataLoader(data, batch_size=7, shuffle=True, generator=torch.Generator().manual_seed(3))

    first = class_channels(method, seeded(), path=path, **how)
    assert same(first, class_channels(method, seeded(), path=path, **how))


@pytest.mark.parametrize(
    "case",
    [
        ({"method": 3}, TypeError, "method must be a LayerExtremalPerturbation"),
        ({"loader": 3}, TypeError, "loader must give pairs"),
        ({"loader": []}, ValueError, "loader must give at least one batch"),
        ({"count": 0}, ValueError, "count must be at least 1"),
        ({"count": 5}, ValueError, "count must be at most the layer's 4 channels, got 5"),
        ({"classes": []}, ValueError, "classes must not be empty"),
        ({"classes": [7]}, ValueError, "label must be a class of which an image counts"),
        ({"classes": [-1]}, ValueError, "label must be at least 0"),
        ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval must be at least 1"),
    ],
)
def test_bad_arguments_of_removal_are_named(model: OneEach, batches: Batches, counted: Any, case: Case) -> None:
    (arguments, error, message), forward = case, counted(model)
    settings = {"layer": "layer Conv2d", "layer_has_name": True, "attribute_to_layer_input": False, "channel_dim": 1}
    found = ClassChannels((0, 1), torch.rand(2, 4), (1, 1), (0, 0), settings)
    given = {"method": Method(forward, model.layer), "loader": batches}
    with pytest.raises(error, match=message):
        found.removal_drop(**given | arguments)
    assert forward.calls == 0


# A trained network


def digits_of(classes: tuple[int, ...], images: int) -> Iterator[Batch]:
    """A batch a class of scenes that show one digit."""
    found: dict[int, list[Tensor]] = {label: [] for label in classes}
    for scene in DigitScenes(1000, size=(64, 64), digits_per_scene=(1, 1), seed=5):  # type: ignore[attr-defined]
        of_class = found.get(scene.labels[0], [])
        of_class.append(scene.image)
        if all(len(some) >= images for some in found.values()):
            break
    for label, some in found.items():
        yield torch.stack(some[:images]), [label] * images


def test_digits_have_channels_of_their_own() -> None:
    network = digit_network()
    method = Method(network, network.features[9])
    batches = list(digits_of((1, 7), 6))
    found = class_channels(
        method, batches, areas=(1, 5, 10, 20, 64), solver=PathSolver(steps=30), score_threshold=enough
    )
    assert found.used == (6, 6)
    assert found.top(1)[0] != found.top(7)[0]
    drop = found.removal_drop(method, batches, count=3)
    assert bool((drop.own > 2 * drop.others).all())


def test_of_the_rows_of_a_file_only_the_places_are_held(method: Method, batches: Batches, how: How, path: Path) -> None:
    class_channels(method, batches, path=path, **how)
    header, *lines = path.read_bytes().splitlines(True)
    about = {name: value for name, value in json.loads(header).items() if name != KIND}
    with JsonLines(path, KIND, about) as file:
        rows = RowsOnFile(file)
        starts = [len(header) + sum(map(len, lines[:k])) for k in range(len(lines))]
        assert vars(rows) == {"_file": file, "_starts": dict(enumerate(starts))}
        (found,) = rows.of([(2, 0, ""), (10**6, 0, "")]).values()
    assert found.as_json() == json.loads(lines[2])
