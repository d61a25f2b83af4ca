"""The fewest words of texts, through masks over the groups of tokens that the words are.

Shapes: N texts, L tokens of the longest text, D of the embedding, K classes, G words of the longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from captum.attr import LLMAttributionResult
from torch import Tensor, nn

from captum_extremal._captum import TargetType
from captum_extremal.arguments import check_target
from captum_extremal.attr import LayerExtremalPerturbation
from captum_extremal.hooks import on_output
from captum_extremal.layers import check_layer
from captum_extremal.masks import GroupMask
from captum_extremal.outputs import scores_in
from captum_extremal.results import ExtremalMasks
from captum_extremal.session import guarded
from captum_extremal.settings import LayerSearchSettings
from captum_extremal.text.explanation import TextExplanation
from captum_extremal.text.words import WORD, TokenisedTexts, check_texts, check_tokenizer, check_word, tokenised


class TokenExplainer:
    r"""Find the fewest words of a text that are enough for a language model's output.

    A word is kept or hidden with all its sub-word tokens, on the embedding of the tokens, so that the positions stay.
    Special tokens and padding are always kept, and do not count.

    Args:
        model: called as ``model(**tokenizer(texts))``, such as a ``...ForSequenceClassification`` or a
            ``...ForCausalLM`` of transformers.
        tokenizer: of the model: a fast one of transformers, or one that is called likewise and says where in the text
            each token stands.
        layer: the module of the model that turns token ids (N, L) into embeddings (N, L, D), and is called once in a
            forward; None for ``model.get_input_embeddings()``.
        hidden: the token in whose embedding a hidden word is changed, such as "[PAD]"; None for the tokenizer's
            mask token, or for zeros where it has none.
        word: a regular expression of what a word is. The default takes each sign of punctuation as a word, and suits
            languages with spaces; r"\w" makes every letter one.

    Raises:
        TypeError, ValueError: an argument is bad: a model that is no module, a tokenizer that is not fast, a layer that
            is none of the model's, a token that the tokenizer does not know.

    Examples::

        >>> explainer = TokenExplainer(classifier, tokenizer)
        >>> most = lambda clean, perturbed: perturbed + 0.9 * (clean - perturbed)
        >>> explanation = explainer.explain(["A dull film, but the music is good."], target=1, score_threshold=most)
        >>> words = explanation.kept_words[0]  # the most important first
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        layer: nn.Module | None = None,
        hidden: str | None = None,
        word: str = WORD,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        check_tokenizer(tokenizer)
        if layer is None:
            if not hasattr(model, "get_input_embeddings"):
                raise ValueError(
                    f"layer must be given, because {type(model).__name__} has no get_input_embeddings: the module that "
                    "turns token ids into embeddings"
                )
            layer = cast(Any, model).get_input_embeddings()
        check_layer(model, layer)
        self.model, self.tokenizer, self.layer = model, tokenizer, cast(nn.Module, layer)
        self._word = check_word(word)
        self._hidden = _token_id(tokenizer, hidden)

    @torch.no_grad()
    def explain(self, texts: str | Sequence[str], target: TargetType = None, **settings: Any) -> TextExplanation:
        """The smallest set of words of each text that is enough for the score of a class.

        Args:
            texts: one text, or N of them.
            target: a class, or one for each text; None for the class of each text's highest score.
            **settings: those of :meth:`~captum_extremal.LayerExtremalPerturbation.extremal_masks`, above all
                ``score_threshold``, what is enough; None asks for the score of the whole text. ``areas`` is "optimal",
                the smallest set alone, unless it is given.

        Returns:
            the words and the sets, with the masks (N, A, G) and their proof.

        Raises:
            TypeError, ValueError: an argument is bad, a text has no word, or the model's output is no logits (N, K).
        """
        checked = check_texts("texts", texts)
        options = _options(settings, len(checked))
        check_target(target, len(checked), self._device)
        tokens = tokenised(checked, self.tokenizer, self._word, self._device)
        run = _Called(self.model, tuple(tokens.encoding))
        with guarded(run, self._device) as caller, caller.forward():
            logits = scores_in(run(*tokens.encoding.values()), len(checked))
        if logits.dim() != 2 or len(logits) != len(checked):
            raise ValueError(f"model must return logits ({len(checked)}, K), got shape {tuple(logits.shape)}")
        predicted, probability = _prediction(logits)
        wanted = predicted if target is None else _classes(target, len(checked))
        found = self._search(run, tokens, wanted, options)
        return TextExplanation(checked, tokens.spans, found, wanted.cpu(), predicted.cpu(), probability.cpu())

    @torch.no_grad()
    def explain_continuation(self, prompt: str, continuation: str, **settings: Any) -> LLMAttributionResult:
        """The smallest set of words of a prompt that is enough for a generator to go on with a text.

        The score is the log-probability of the continuation.

        Args:
            prompt: a text.
            continuation: what follows, such as what the model has generated; with its space in front, where the
                tokenizer's tokens hold one.
            **settings: as :meth:`explain` takes them.

        Returns:
            Captum's result of language models, with its figures: ``seq_attr`` (words of the prompt,), how far the
            log-probability of the continuation falls when the set loses a word, 0 for words that are not in the set;
            and ``token_attr`` (tokens of the continuation, words), the same for each token.

        Raises:
            TypeError, ValueError: an argument is bad, the prompt has no word, or the continuation no token.
        """
        (text,), (following,) = check_texts("prompt", prompt), check_texts("continuation", continuation)
        options = _options(settings, 1)
        ids = self.tokenizer(following, add_special_tokens=False)["input_ids"]
        if not len(ids):
            raise ValueError(f"continuation must have at least one token, got {following!r}")
        prefix = tokenised((text,), self.tokenizer, self._word, self._device, "prompt")
        tokens = _continued(prefix, ids)
        run = _Continued(_Called(self.model, tuple(tokens.encoding)), len(ids))
        found = self._search(_Summed(run), tokens, None, options)
        kept = found.groups()[0]
        log_probabilities, falls = self._falls(run, tokens, kept.cpu())
        words = [text[first:last] for first, last in tokens.spans[0]]
        by_token = falls.new_zeros(len(ids), len(words))
        by_token[:, kept.cpu()] = falls.T
        return LLMAttributionResult(
            input_tokens=words,
            output_tokens=self.tokenizer.convert_ids_to_tokens(ids),
            seq_attr=by_token.sum(0),
            token_attr=by_token,
            output_probs=log_probabilities.exp(),
        )

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.layer.parameters()), torch.device("cpu"))

    def _search(
        self, run: Any, tokens: TokenisedTexts, target: Tensor | None, options: dict[str, Any]
    ) -> ExtremalMasks:
        """The masks over the words."""
        ids, *others = tokens.encoding.values()
        return LayerExtremalPerturbation(run, self.layer).extremal_masks(
            ids,
            target=target,
            additional_forward_args=tuple(others) or None,
            layer_mask=tokens.word_of[..., None],
            layer_baselines=self._embeddings(tokens)[1],
            **options,
        )

    def _embeddings(self, tokens: TokenisedTexts) -> tuple[Tensor, Tensor]:
        """Those of the tokens (N, L, D), and those where all words are hidden: tokens of no word hide nothing."""
        ids = tokens.encoding["input_ids"]
        with guarded(self.layer, self._device):
            whole = self.layer(ids).detach()
            hidden = torch.zeros_like(whole) if self._hidden is None else self.layer(torch.full_like(ids, self._hidden))
        return whole, torch.where(tokens.fixed[..., None], whole, hidden.detach())

    def _falls(self, run: _Continued, tokens: TokenisedTexts, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probabilities (T,) of a continuation's tokens, and how far each falls without a kept word (n, T).

        Args:
            kept: (n,), the set.
        """
        whole, hidden = self._embeddings(tokens)
        sets = torch.zeros(len(kept) + 1, len(tokens.spans[0]), dtype=torch.bool)  # (n + 1, G)
        sets[:, kept] = True
        sets[torch.arange(len(kept)) + 1, kept] = False
        rows = [part.expand(1 + len(sets), -1) for part in tokens.encoding.values()]
        shown = sets.to(whole.device)[:, tokens.word_of[0], None]
        embedded = torch.cat([whole, torch.where(shown, whole, hidden)])
        with guarded(run, self._device) as caller, on_output(self.layer, lambda _: embedded), caller.forward():
            of_tokens = run(*rows).double().cpu()
        return of_tokens[0], of_tokens[1] - of_tokens[2:]


@dataclass(frozen=True, eq=False)
class _Called:
    """A model that takes its named inputs as positional ones, in this order."""

    model: nn.Module
    names: tuple[str, ...]

    def __call__(self, *parts: Tensor) -> Any:
        return self.model(**dict(zip(self.names, parts)))


@dataclass(frozen=True, eq=False)
class _Continued:
    """The log-probability (N, T) of each of the last T tokens, given those before it."""

    model: _Called
    count: int

    def __call__(self, ids: Tensor, *others: Tensor) -> Tensor:
        output = self.model(ids, *others)
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != ids.shape:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model must return logits {(*ids.shape, 'V')} of the next tokens, got {got}")
        last = logits[:, -self.count - 1 : -1].log_softmax(2)
        return last.gather(2, ids[:, -self.count :, None])[..., 0]


@dataclass(frozen=True, eq=False)
class _Summed:
    """The log-probability (N,) of all the last tokens together."""

    of_tokens: _Continued

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.of_tokens(*inputs).sum(1)


def _options(settings: dict[str, Any], texts: int) -> dict[str, Any]:
    """The settings of the search, checked."""
    options = {"areas": "optimal", "mask": GroupMask()} | settings
    LayerSearchSettings.of(options, LayerExtremalPerturbation.extremal_masks).check_for(texts)
    mask = options["mask"]
    if not isinstance(mask, GroupMask) or mask.weights != "count":  # special tokens have no group of their own
        raise ValueError(f"mask must be a GroupMask that counts groups, which are the words, got {mask!r}")
    return options


def _token_id(tokenizer: Any, token: str | None) -> int | None:
    """The id of the token for hidden words; None for zeros."""
    if token is None:
        found = getattr(tokenizer, "mask_token_id", None)
        return None if found is None else int(found)
    if not isinstance(token, str):
        raise TypeError(f"hidden must be a token, a string, got {token!r}")
    number = tokenizer.convert_tokens_to_ids(token)
    if number is None or (number == getattr(tokenizer, "unk_token_id", None) and token != tokenizer.unk_token):
        raise ValueError(f"hidden must be a token of the tokenizer, got {token!r}")
    return int(number)


def _prediction(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The class (N,) of the highest of the logits (N, K), and its probability (N,)."""
    logits = logits.detach().float()
    if logits.shape[1] == 1:
        return torch.zeros(len(logits), dtype=torch.int64, device=logits.device), logits.sigmoid()[:, 0]
    highest = logits.softmax(1).max(1)
    return highest.indices, highest.values


def _classes(target: Any, texts: int) -> Tensor:
    """The classes (N,) of a target: a class, or one for each text."""
    found = torch.as_tensor(target)
    if found.dim() > 1 or found.numel() not in (1, texts) or found.is_floating_point():
        raise ValueError(f"target must be one class, or one for each of {texts} texts, got {target!r}")
    return found.detach().to(torch.int64).reshape(-1).expand(texts)


def _continued(tokens: TokenisedTexts, ids: Sequence[int]) -> TokenisedTexts:
    """The tokens of one text followed by others, which are of no word."""
    after = torch.tensor([list(ids)], device=tokens.word_of.device)
    more = {"input_ids": after, "attention_mask": torch.ones_like(after)}
    return replace(
        tokens,
        encoding={
            name: torch.cat([part, more[name].to(part.dtype)], dim=1)
            for name, part in tokens.encoding.items()
            if name in more
        },
        word_of=torch.cat([tokens.word_of, torch.zeros_like(after)], dim=1),
        fixed=torch.cat([tokens.fixed, torch.ones_like(after, dtype=torch.bool)], dim=1),
    )
