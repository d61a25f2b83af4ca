"""Which tokens belong to which word of a text.

Shapes: N texts, L tokens of the longest text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from captum_extremal._checks import check_callable
from captum_extremal._state import warn_caller

WORD = r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}-]\w+)*|[^\w\s]"
"""Letters and digits, also with an apostrophe or a hyphen inside, or a single sign of punctuation."""

Span = tuple[int, int]


@dataclass(frozen=True)
class TokenisedTexts:
    """Texts as a model takes them, and where their words are.

    Attributes:
        encoding: what the model is called with: "input_ids" (N, L), and whatever else the tokenizer makes.
        spans: for each text the first and the last character, exclusive, of each word that the model sees.
        word_of: (N, L) int64, the word of each token, counted from 0 in each text. Tokens of no word have that of the
            first one, and are ``fixed``.
        fixed: (N, L) bool, the tokens of no word: special tokens, padding, spaces.
    """

    encoding: dict[str, Tensor]
    spans: tuple[tuple[Span, ...], ...]
    word_of: Tensor
    fixed: Tensor


def check_texts(name: str, texts: object) -> tuple[str, ...]:
    """One text or a sequence of texts, as a tuple.

    Raises:
        TypeError, ValueError: they are no strings, or there is none.
    """
    found = (texts,) if isinstance(texts, str) else texts
    if not isinstance(found, Sequence) or not all(isinstance(text, str) for text in found):
        kinds = sorted({type(one).__name__ for one in found}) if isinstance(found, Sequence) else type(texts).__name__
        raise TypeError(f"{name} must be a string or a sequence of strings, got {kinds}")
    if not found:
        raise ValueError(f"{name} must hold at least one text, got none")
    return tuple(found)


def check_tokenizer(tokenizer: object) -> None:
    """Raise TypeError unless the tokenizer can be called, ValueError unless it says where each token stands."""
    check_callable("tokenizer", tokenizer, "texts")
    if not getattr(tokenizer, "is_fast", True):
        raise ValueError(
            "tokenizer must say where in a text each token stands, as the fast ones of transformers do, got the slow "
            f"{type(tokenizer).__name__}: load it with use_fast=True"
        )


def check_word(word: object) -> re.Pattern[str]:
    """The regular expression of a word; raises TypeError or ValueError unless it is one that matches no empty text."""
    if not isinstance(word, str):
        raise TypeError(f"word must be a regular expression, a string, got {word!r}")
    try:
        pattern = re.compile(word)
    except re.error as error:
        raise ValueError(f"word must be a regular expression, got {word!r}: {error}") from error
    if pattern.match(""):
        raise ValueError(f"word must match at least one character, got {word!r}")
    return pattern


def tokenised(
    texts: tuple[str, ...], tokenizer: Any, word: re.Pattern[str], device: torch.device, name: str = "texts"
) -> TokenisedTexts:
    """The texts as tokens, and the word of each token.

    A token belongs to the word that it overlaps, and words that share a token are one. Words without a token, as where
    the tokenizer cuts a long text, are left out, with a warning.

    Raises:
        ValueError: a text has no word.
    """
    for k, text in enumerate(texts):
        if not word.search(text):
            raise ValueError(f"{name} must have words, got {text!r} at index {k}")
    encoding = tokenizer(
        list(texts),
        padding=len(texts) > 1,  # which a tokenizer without a token for it refuses
        truncation=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    offsets, special = _taken(encoding, "offset_mapping"), _taken(encoding, "special_tokens_mask").bool()
    word_of, spans, unseen = torch.full(special.shape, -1), [], 0
    for k, text in enumerate(texts):
        wanted = [match.span() for match in word.finditer(text)]
        numbers, found = _words_of(offsets[k].tolist(), special[k].tolist(), wanted)
        if not found:
            raise ValueError(f"{name} must have words that the tokenizer keeps, got {text!r} at index {k}")
        word_of[k], unseen = torch.tensor(numbers), unseen + (wanted[-1][1] > found[-1][1])
        spans.append(tuple(found))
    if unseen:
        warn_caller(
            f"{unseen} of {len(texts)} texts end with words that the tokenizer leaves out, as it does where it cuts a "
            f"text to {getattr(tokenizer, 'model_max_length', 'its')} tokens: the model does not see them"
        )
    tensors = {name: part.to(device) for name, part in encoding.items()}
    return TokenisedTexts(tensors, tuple(spans), word_of.clamp(min=0).to(device), (word_of < 0).to(device))


def _taken(encoding: Any, name: str) -> Tensor:
    """A part of what a tokenizer made, which the model does not take."""
    if not isinstance(encoding, Mapping) and not hasattr(encoding, "pop"):
        raise TypeError(f"tokenizer must return a dictionary, got {type(encoding).__name__}")
    return torch.as_tensor(encoding.pop(name))


def _words_of(offsets: list[Span], special: list[bool], words: list[Span]) -> tuple[list[int], list[Span]]:
    """The word of each token, -1 for none, and the words that have a token, those that share one joined."""
    overlapped = [
        [] if skip else [w for w, (first, last) in enumerate(words) if start < last and first < end]
        for (start, end), skip in zip(offsets, special)
    ]
    seen = sorted({w for of_token in overlapped for w in of_token})
    joined = {right for of_token in overlapped for right in of_token[1:]}  # to the word before them
    starts = [w for w in seen if w not in joined]
    ends = [(seen[seen.index(later) - 1]) for _, later in pairwise(starts)] + seen[-1:]
    number = {w: sum(first <= w for first in starts) - 1 for w in seen}
    spans = [(words[first][0], words[last][1]) for first, last in zip(starts, ends)]
    return [number[of_token[0]] if of_token else -1 for of_token in overlapped], spans
