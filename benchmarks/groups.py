"""The fewest features that are enough: ours beside greedy search and rankings of Captum, on tables of scikit-learn.

    python benchmarks/groups.py [--examples 60] [--data breast_cancer wine digits] [--share 1.0]

Small networks are trained on the spot. The score is the log-probability of the predicted class, and what is hidden is
the mean of the training data. Enough is a share of the clean probability. Rankings are cut where they are first enough.
A backward pass counts as two forward passes; rankings that sample may take at least as many passes as ours.

Prints, for each table and method, the mean number of features, for how many examples it is larger than ours and for how
many smaller, and the mean passes. "exhaustive", for the first 12 features, is the truth.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from captum.attr import FeatureAblation, KernelShap, Lime, ShapleyValueSampling
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from captum_extremal import ExtremalPerturbation, GroupMask

TABLES = {"breast_cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
EXHAUSTIVE = 12  # features up to which every set is tried
SMOOTHING = 0.1  # of the labels: the scores of a network that is always sure differ by rounding alone
ROUNDING = 1e-12  # that the score may lose in a batch of another size
AT_ONCE = 4096  # rows that go through the network at once


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=60, help="of each table")
    parser.add_argument("--data", nargs="+", choices=sorted(TABLES), default=list(TABLES))
    parser.add_argument("--share", type=float, default=1.0, help="of the clean probability that is enough")
    parser.add_argument("--passes", type=int, default=GroupMask().passes, help="of GroupMask")
    options = parser.parse_args()
    print("| table | method | features | more than ours | fewer | passes | seconds |\n|---|---|---|---|---|---|---|")
    for name in options.data:
        for count in (None, EXHAUSTIVE):
            if count is None or name != "digits":
                report(name, count, options)
    return 0


def report(name: str, count: int | None, options: argparse.Namespace) -> None:
    """The rows of one table, of its first features or of all of them."""
    torch.manual_seed(0)
    data = TABLES[name]()
    features = torch.tensor(data.data[:, :count], dtype=torch.float64)
    labels = torch.tensor(data.target)
    train, test = train_test_split(range(len(labels)), test_size=0.4, random_state=0, stratify=data.target)
    scale = features[train].std(0).clamp(min=1e-3)
    features = (features - features[train].mean(0)) / scale
    network = trained(features[train], labels[train])
    x = features[test]
    correct = (network(x).argmax(1) == labels[test]).nonzero()[:, 0][: options.examples]
    x = x[correct]
    question = Question(network, x, options.share)
    groups = x.shape[1]
    table = f"{name}, {groups} features"
    ours, passes = None, 0
    for method, answer in contestants(options.passes).items():
        if method == "exhaustive" and groups > EXHAUSTIVE:
            continue
        question.passes = 0
        started = time.perf_counter()
        sets = answer(question, passes)
        seconds = time.perf_counter() - started
        counted = question.passes / len(x)
        sizes = sets.sum(1)
        assert bool((question.value(sets.to(x), range(len(x))) >= question.threshold - ROUNDING).all()), method
        if ours is None:
            ours, passes = sizes, int(counted)
        more, fewer = int((sizes > ours).sum()), int((sizes < ours).sum())
        cells = [table, method, f"{sizes.double().mean():.3f}", more, fewer, f"{counted:.0f}", f"{seconds:.1f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def trained(features: Tensor, labels: Tensor) -> nn.Module:
    """A network of two hidden layers."""
    network = nn.Sequential(
        nn.Linear(features.shape[1], 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, int(labels.max()) + 1)
    )
    network = network.to(features)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2, weight_decay=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(features), labels, label_smoothing=SMOOTHING).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


class Question:
    """Which features are enough for the class that the network predicts; it counts the passes of all examples."""

    def __init__(self, network: nn.Module, x: Tensor, share: float) -> None:
        self.network, self.x, self.passes = network, x, 0
        clean = network(x).log_softmax(1)
        self.target = clean.argmax(1)
        self.threshold = clean.amax(1) + math.log(share)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x) * (3 if torch.is_grad_enabled() and x.requires_grad else 1)
        scores: Tensor = self.network(x).log_softmax(1)
        return scores

    def value(self, masks: Tensor, rows: Any) -> Tensor:
        """The scores (B,) of masks (B, F) of the examples of some rows (B,)."""
        rows = torch.as_tensor(rows)
        scores = [
            self.forward(mask * self.x[row]).gather(1, self.target[row][:, None])[:, 0]
            for mask, row in zip(masks.split(AT_ONCE), rows.split(AT_ONCE))
        ]
        return torch.cat(scores)

    def enough(self, sets: Tensor, row: int) -> Tensor:
        """Whether each of the sets (B, F) is enough for one example, (B,) bool."""
        return self.scores(sets, row) >= self.threshold[row] - ROUNDING

    def scores(self, sets: Tensor, row: int) -> Tensor:
        return self.value(sets.to(self.x), [row] * len(sets))


Answer = Callable[[Question, int], Tensor]
"""From a question and the passes allowed for each example to sets (N, F), bool."""


def contestants(passes: int) -> dict[str, Answer]:
    return {
        "ours": lambda question, _: ours(question, passes),
        "greedy forward": lambda question, _: each(question, forward),
        "greedy backward": lambda question, _: each(question, backward),
        "FeatureAblation": lambda question, _: ranked(question, FeatureAblation(question.forward).attribute),
        "ShapleyValueSampling": lambda question, allowed: ranked(
            question,
            ShapleyValueSampling(question.forward).attribute,
            n_samples=-(-allowed // question.x.shape[1]),
        ),
        "KernelShap": lambda question, allowed: ranked_one_by_one(question, KernelShap(question.forward), allowed),
        "Lime": lambda question, allowed: ranked_one_by_one(question, Lime(question.forward), allowed),
        "exhaustive": lambda question, _: each(question, exhaustive),
    }


def ours(question: Question, passes: int) -> Tensor:
    found = ExtremalPerturbation(question.forward).extremal_masks(
        question.x,
        target=question.target,
        areas="optimal",
        score_threshold=question.threshold,
        mask=GroupMask(passes=passes),
    )
    assert found.minimal is not None
    assert bool((found.minimal | ~found.reached).all())
    masks = found.optimal_masks
    assert isinstance(masks, Tensor)
    return masks > 0


def each(question: Question, search: Callable[[Question, int], Tensor]) -> Tensor:
    """The sets of a search of one example after the other."""
    return torch.stack([search(question, row) for row in range(len(question.x))])


def forward(question: Question, row: int) -> Tensor:
    """Add the feature that raises the score most, until it is enough."""
    chosen = torch.zeros(question.x.shape[1], dtype=torch.bool)
    while not bool(question.enough(chosen[None], row)):
        candidates = (~chosen).nonzero()[:, 0]
        sets = chosen | torch.eye(len(chosen), dtype=torch.bool)[candidates]
        chosen = sets[question.scores(sets, row).argmax()]
    return chosen


def backward(question: Question, row: int) -> Tensor:
    """Leave out the feature that lowers the score least, as long as the rest is enough."""
    chosen = torch.ones(question.x.shape[1], dtype=torch.bool)
    while bool(chosen.any()):
        sets = chosen & ~torch.eye(len(chosen), dtype=torch.bool)[chosen]
        scores = question.scores(sets, row)
        if bool(scores.max() < question.threshold[row] - ROUNDING):
            break
        chosen = sets[scores.argmax()]
    return chosen


def exhaustive(question: Question, row: int) -> Tensor:
    """The first of all sets, by their size, that is enough."""
    count = question.x.shape[1]
    for size in range(count + 1):
        members = torch.tensor(list(combinations(range(count), size)), dtype=torch.int64)
        sets = torch.zeros(len(members), count, dtype=torch.bool).scatter_(1, members.view(len(members), size), True)
        enough = question.enough(sets, row)
        if bool(enough.any()):
            return sets[enough.int().argmax()]
    raise AssertionError("the whole input is enough")


def ranked(question: Question, attribute: Callable[..., Tensor], **how: Any) -> Tensor:
    """The shortest start of the order of attributions that is enough, of each example."""
    attributions = attribute(question.x, target=question.target, **how)
    return torch.stack([cut(question, row, one) for row, one in enumerate(attributions)])


def ranked_one_by_one(question: Question, method: Any, allowed: int) -> Tensor:
    """:func:`ranked` for methods that fit one example."""
    sets = []
    for row in range(len(question.x)):
        torch.manual_seed(row)
        attribution = method.attribute(
            question.x[row : row + 1], target=int(question.target[row]), n_samples=allowed, perturbations_per_eval=512
        )
        sets.append(cut(question, row, attribution[0]))
    return torch.stack(sets)


def cut(question: Question, row: int, attribution: Tensor) -> Tensor:
    """The shortest start of an order that is enough."""
    rank = attribution.argsort(descending=True, stable=True).argsort()
    sets = rank[None] < torch.arange(len(rank) + 1)[:, None]
    return sets[question.enough(sets, row).int().argmax()]


if __name__ == "__main__":
    sys.exit(main())
