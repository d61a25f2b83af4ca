"""The fewest words of texts that are enough, and how they are drawn.

Shapes: N texts, G words of the longest text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from captum.attr import visualization
from rich.text import Text
from torch import Tensor

from captum_extremal.results import ExtremalMasks

_KEPT = "bold black on green3"


@dataclass(frozen=True, eq=False)
class TextExplanation:
    """The smallest set of words of each of N texts that is enough for the model's score.

    ``rich.print(explanation)`` draws it in a terminal, and :meth:`records` are for Captum's ``visualize_text``.

    Attributes:
        texts: N strings.
        spans: for each text the first and the last character, exclusive, of each word that the model sees.
        found: the masks, (N, A, G), of which group k of a text is its word k. ``found.minimal`` (N,) is the proof that
            no word of a set can be left out, ``found.reached`` (N,) says whether any set is enough.
        target: (N,) int64, the class that is explained.
        predicted: (N,) int64, the class of the highest score of the whole text.
        probability: (N,), the softmax of that score; where the model has a single score, its sigmoid.
    """

    texts: tuple[str, ...]
    spans: tuple[tuple[tuple[int, int], ...], ...] = field(repr=False)
    found: ExtremalMasks
    target: Tensor
    predicted: Tensor
    probability: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def words(self) -> list[list[str]]:
        """The words of each text, in the order of reading."""
        return [[text[first:last] for first, last in spans] for text, spans in zip(self.texts, self.spans)]

    @property
    def kept(self) -> list[Tensor]:
        """The numbers of the words in the set of each text, those first whose loss costs most. N tensors (n,) int64."""
        return self.found.groups()

    @property
    def kept_words(self) -> list[list[str]]:
        """The words in the set of each text, those first whose loss costs most."""
        return [[words[k] for k in kept.tolist()] for words, kept in zip(self.words, self.kept)]

    def attributions(self) -> list[Tensor]:
        """What each word of a set is worth: how far the score falls without it, as a share of the largest fall.

        Returns:
            N tensors, (number of words,) in [0, 1]: 0 for words that are not in the set, 1 for the first of the set;
            1 for all of a set whose losses are not known (see :attr:`~captum_extremal.ExtremalMasks.minimal`).
        """
        worth = []
        for words, kept, losses in zip(self.spans, self.kept, _losses(self.found)):
            mine = losses[kept].nan_to_num(1).clamp(min=0)
            one = torch.zeros(len(words), dtype=losses.dtype)
            one[kept] = mine / mine.max() if len(kept) and float(mine.max()) > 0 else 1.0
            worth.append(one)
        return worth

    def records(
        self, true_classes: Sequence[object] | None = None, names: Sequence[str] | None = None
    ) -> list[visualization.VisualizationDataRecord]:
        """One record a text for ``captum.attr.visualization.visualize_text``, which draws the set in green.

        The score of a record is that of the kept words alone. Captum writes text into HTML as it is, so that it is
        escaped here.

        Args:
            true_classes: the class of each text; None writes none.
            names: of the classes, by their numbers; None for the numbers.

        Raises:
            ValueError: there are not as many ``true_classes`` as texts, or too few names.
        """
        if true_classes is not None and len(true_classes) != len(self):
            raise ValueError(f"true_classes must be one for each of {len(self)} texts, got {len(true_classes)}")
        most = int(torch.cat([self.target, self.predicted]).max())
        if names is not None and len(names) <= most:
            raise ValueError(f"names must be one for each class up to {most}, got {len(names)}")

        def named(label: object) -> Any:  # Captum's type is a number, its own examples give text
            return html.escape(str(label if names is None or not isinstance(label, int) else names[label]))

        return [
            visualization.VisualizationDataRecord(
                worth,
                float(self.probability[n]),
                named(int(self.predicted[n])),
                named("" if true_classes is None else true_classes[n]),
                named(int(self.target[n])),
                float(self.found.optimal_score[n]),
                [html.escape(word) for word in words],
                float("nan"),  # of the convergence, which is not drawn
            )
            for n, (worth, words) in enumerate(zip(self.attributions(), self.words))
        ]

    def __rich__(self) -> Text:
        """The texts with their sets marked, one a paragraph."""
        return Text("\n\n").join([self._drawn(n) for n in range(len(self))])

    def _drawn(self, index: int) -> Text:
        """One text as it is, its set marked, and below it what the set is."""
        found, spans, kept = self.found, self.spans[index], self.kept[index].tolist()
        drawn = Text(self.texts[index])
        for k in kept:
            drawn.stylize(_KEPT, *spans[k])
        told = f"{len(kept)} of {len(spans)} words"
        if bool(found.vacuous[index]):
            told = "no word is needed"
        elif not bool(found.reached[index]):
            told += ", which are not enough"
        elif found.minimal is not None and bool(found.minimal[index]):
            told += ", none of which can be left out"
        whole, alone = float(found.clean_score[index]), float(found.optimal_score[index])
        below = f"class {int(self.target[index])}: {told}; score {alone:.4g}, of the whole text {whole:.4g}"
        return drawn.append(f"\n{below}", style="dim")


def _losses(found: ExtremalMasks) -> Tensor:
    """(N, G): how far the score falls without each single word of the set."""
    if found.removal_losses is None:
        raise ValueError(f"found must be of groups, got masks of {found.covers}")
    return found.removal_losses.cpu()
