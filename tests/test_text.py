"""The fewest words of a text: where the best set is known, with and without transformers."""

from __future__ import annotations

import copy
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import visualization
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

from captum_extremal import GroupMask, PathSolver, TokenExplainer
from captum_extremal.text.words import WORD, check_word, tokenised
from words import PieceTokenizer, WordCounter

TEXTS = ["The music is wonderful, but it's too long", "good <b>"]
WEIGHTS = {"wond": 1.0, "erfu": 1.0, "l": 1.0, "but": 2.0, "long": -1.0, "musi": 0.25, "c": 0.25, "good": 4.0}
QUICK: dict[str, Any] = {"solver": PathSolver(steps=10)}


def tokenizer(**how: Any) -> PieceTokenizer:
    return PieceTokenizer(["The", "is", ",", "it", "'", "s", "too", "<", "b", ">", *WEIGHTS], **how)


def explainer(**how: Any) -> TokenExplainer:
    pieces = tokenizer()
    return TokenExplainer(WordCounter(pieces, WEIGHTS).eval(), pieces, **how)


def words_of(texts: list[str], **how: Any) -> list[list[str]]:
    found = tokenised(tuple(texts), tokenizer(**how), check_word(WORD), torch.device("cpu"))
    return [[text[a:b] for a, b in spans] for text, spans in zip(texts, found.spans)]


# Words


def test_words_are_runs_of_letters_and_signs_of_punctuation() -> None:
    assert words_of(TEXTS) == [
        ["The", "music", "is", "wonderful", ",", "but", "it's", "too", "long"],
        ["good", "<", "b", ">"],
    ]


def test_each_token_has_the_word_that_it_stands_in() -> None:
    found = tokenised(("a music !", "long"), tokenizer(), check_word(WORD), torch.device("cpu"))
    assert found.word_of.tolist() == [[0, 0, 1, 1, 2, 0], [0, 0, 0, 0, 0, 0]]
    assert found.fixed.tolist() == [[True, False, False, False, False, True], [True, False, True, True, True, True]]
    assert list(found.encoding) == ["input_ids", "attention_mask"]


@given(
    tokens=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=8),
    words=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=8),
)
def test_words_that_share_a_token_are_joined(tokens: list[tuple[int, int]], words: list[tuple[int, int]]) -> None:
    """Gaps and lengths of any tokens and words: tokens of one word share its number, and words are in order."""
    from captum_extremal.text.words import _words_of

    def spans(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
        at, found = 0, []
        for gap, length in parts:
            found.append((at + gap, at + gap + length))
            at = found[-1][1]
        return found

    places, wanted = spans(tokens), spans(words)
    numbers, found = _words_of(places, [False] * len(places), wanted)
    for number, (start, end) in zip(numbers, places):
        touched = [(a, b) for a, b in wanted if start < b and a < end]
        assert (number == -1) == (not touched)
        assert all(found[number][0] <= a and b <= found[number][1] for a, b in touched)
    assert sorted(set(numbers) - {-1}) == list(range(len(found)))
    assert all(a[1] <= b[0] for a, b in pairwise(found))


def test_texts_that_are_cut_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts end with words that the tokenizer leaves out.*6 tokens"):
        assert words_of(TEXTS, model_max_length=6) == [["The", "music", "is"], ["good", "<", "b", ">"]]


# The smallest set, in closed form


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (4.0, ["wonderful", "but"]),
        (2.5, ["wonderful"]),
        (5.4, ["wonderful", "but", "music"]),
    ],
)
def test_the_fewest_words_whose_weights_are_enough(threshold: float, expected: list[str]) -> None:
    found = explainer(hidden="[UNK]").explain(TEXTS[0], target=1, score_threshold=threshold, **QUICK)
    assert found.kept_words == [expected]
    assert found.found.minimal is not None
    assert found.found.minimal.tolist() == [True]
    assert float(found.found.optimal_area) == pytest.approx(len(expected) / 9)  # special tokens do not count
    assert float(found.found.clean_score) == pytest.approx(4.5)
    assert float(found.found.perturbed_score) == pytest.approx(0)  # with its special tokens


def test_texts_of_a_batch_are_explained_as_alone() -> None:
    together = explainer().explain(TEXTS, target=[1, 1], score_threshold=2.5, **QUICK)
    alone = [explainer().explain(text, target=1, score_threshold=2.5, **QUICK).kept_words[0] for text in TEXTS]
    assert together.kept_words == alone == [["wonderful"], ["good"]]
    assert together.words[1] == ["good", "<", "b", ">"]


def test_without_a_target_the_class_of_the_highest_score_is_explained() -> None:
    found = explainer().explain([TEXTS[0], "too long"], **QUICK)
    assert found.target.tolist() == found.predicted.tolist() == [1, 0]
    expected = torch.tensor([4.5, 1.0]).sigmoid()
    torch.testing.assert_close(found.probability, expected)


def test_hidden_words_become_the_mask_token_or_another_or_zeros() -> None:
    pieces = tokenizer()
    model = WordCounter(pieces, WEIGHTS | {"[MASK]": 0.5, "[PAD]": 0.125})

    def hidden_score(**how: Any) -> float:
        found = TokenExplainer(model, pieces, **how).explain("long is good", 1, score_threshold=3.0, **QUICK)
        return float(found.found.perturbed_score)

    assert hidden_score() == pytest.approx(1.5)  # of three tokens
    assert hidden_score(hidden="[PAD]") == pytest.approx(0.375)
    pieces.mask_token_id = None  # type: ignore[assignment]
    assert hidden_score() == pytest.approx(0)


def test_other_words_can_be_asked_for() -> None:
    found = explainer(word=r"\w").explain("it good", 1, score_threshold=3.0, **QUICK)
    assert found.words == [["it", "good"]]  # letters that share a token are one
    assert found.kept_words == [["good"]]


def test_areas_and_settings_go_to_the_search() -> None:
    found = explainer().explain(TEXTS[0], 1, areas=[1, 2], mask=GroupMask(passes=8), score_threshold=2.5, **QUICK)
    assert found.found.masks.shape == (1, 2, 9)  # type: ignore[union-attr]
    assert found.kept_words == [["wonderful"]]


def test_several_answers_are_sets_of_words_of_their_own() -> None:
    found = explainer().explain(TEXTS[0], 1, score_threshold=1.9, explanations=2, **QUICK)
    sets = [[found.words[0][word] for word in one.groups()[0].tolist()] for one in found.found.explanations]
    assert sorted(sets) == [["but"], ["wonderful"]]
    assert found.kept_words == [sets[0]]
    assert found.found.distinct.tolist() == [2]


def test_nothing_is_left_on_the_model() -> None:
    one = explainer()
    before, state = copy.deepcopy(one.model.state_dict()), torch.get_rng_state()
    one.explain(TEXTS, 1, score_threshold=2.5, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in one.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.model.modules())
    assert torch.equal(torch.get_rng_state(), state)


# Drawn


def test_records_are_drawn_by_captum_with_the_text_escaped() -> None:
    pytest.importorskip("IPython", reason="Captum draws texts with IPython, which is not installed")
    found = explainer().explain(TEXTS, 1, score_threshold=[4.0, 3.0], **QUICK)
    records = found.records(true_classes=[1, 0], names=["bad", "<fine>"])
    torch.testing.assert_close(records[0].word_attributions, torch.tensor([0.0, 0, 0, 1, 0, 2 / 3, 0, 0, 0]))
    assert [record.true_class for record in records] == ["&lt;fine&gt;", "bad"]
    assert records[0].attr_score == pytest.approx(5.0)
    drawn = visualization.visualize_text(records).data
    assert "wonderful" in drawn
    assert "&lt;fine&gt;" in drawn
    assert "<fine>" not in drawn
    assert drawn.count("hsl(120") == 4  # the legend's, and the three words


def test_a_terminal_shows_the_texts_with_their_sets_marked() -> None:
    with pytest.warns(UserWarning, match="1 of 2 examples do not reach"):
        found = explainer().explain(TEXTS, 1, score_threshold=[2.5, 9.0], **QUICK)
    plain, marked = StringIO(), StringIO()
    Console(file=plain, width=200).print(found)
    Console(file=marked, width=200, force_terminal=True, color_system="truecolor").print(found)
    lines = plain.getvalue().splitlines()
    assert lines[0] == TEXTS[0]
    assert lines[1] == ("class 1: 1 of 9 words, none of which can be left out; score 3, of the whole text 4.5")
    assert lines[3] == "good <b>"
    assert "which are not enough" in lines[4]
    assert "mwonderful\x1b" in marked.getvalue()


def test_a_text_whose_words_are_not_needed_says_so() -> None:
    found = explainer().explain(TEXTS[0], 1, score_threshold=-1.0, **QUICK)
    assert "class 1: no word is needed; score 0, of the whole text 4.5" in str(found.__rich__())
    assert found.attributions()[0].tolist() == [0.0] * 9


# Bad input


@pytest.mark.parametrize(
    ("texts", "how", "error", "message"),
    [
        (["a", 3], {}, TypeError, r"texts must be a string or a sequence of strings, got \['int', 'str'\]"),
        (7, {}, TypeError, "texts must be a string or a sequence of strings, got int"),
        ([], {}, ValueError, "texts must hold at least one text"),
        (["good", " "], {}, ValueError, "texts must have words, got ' ' at index 1"),
        (["good"], {"target": [0, 1]}, ValueError, "target must"),
        (["good"], {"mask": "channels"}, ValueError, "mask must be a GroupMask that counts"),
        (["good"], {"mask": GroupMask(weights="size")}, ValueError, "mask must be a GroupMask that counts"),
        (["good"], {"stops": 3}, TypeError, "stops"),
        (["good"], {"score_threshold": [1.0, 2.0]}, ValueError, "score_threshold"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(
    texts: Any, how: dict[str, Any], error: type[Exception], message: str
) -> None:
    one, calls = explainer(), []
    one.model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(error, match=message):
        one.explain(texts, **how)
    assert not calls


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"hidden": "[HIDE]"}, ValueError, "hidden must be a token of the tokenizer, got '\\[HIDE\\]'"),
        ({"hidden": 3}, TypeError, "hidden must be a token, a string, got 3"),
        ({"word": "("}, ValueError, "word must be a regular expression"),
        ({"word": "a*"}, ValueError, "word must match at least one character"),
        ({"word": 3}, TypeError, "word must be a regular expression"),
        ({"layer": nn.Linear(1, 1)}, ValueError, "layer must be a part of the model"),
    ],
)
def test_bad_settings_are_refused(how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explainer(**how)


def test_models_and_tokenizers_that_do_not_fit_are_refused() -> None:
    pieces = tokenizer()
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        TokenExplainer(lambda **_: None, pieces)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer must be given, because Linear has no get_input_embeddings"):
        TokenExplainer(nn.Linear(1, 1), pieces)
    pieces.is_fast = False
    with pytest.raises(ValueError, match="got the slow PieceTokenizer"):
        TokenExplainer(WordCounter(pieces, WEIGHTS), pieces)


def test_outputs_that_are_no_logits_are_refused() -> None:
    class Encoder(WordCounter):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            return self.embeddings(input_ids)

    pieces = tokenizer()
    with pytest.raises(ValueError, match=r"model must return logits \(1, K\), got shape \(1, 3, 2\)"):
        TokenExplainer(Encoder(pieces, WEIGHTS), pieces).explain("good")


# transformers

KEYWORDS = ("excellent", "delightful")
COMMON = ("the", "film", "was", "long", "and", "its", "music", "dull", "in", "parts")


def bert_tokenizer(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra 'text'")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COMMON, "excel", "##lent", "delight", "##ful", "."]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    return transformers.BertTokenizerFast(str(folder / "vocab.txt"))


@pytest.fixture(scope="module")
def keyword_classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A small BERT that was trained to say whether a text has one of two words, each of two tokens."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra 'text'")
    pieces = bert_tokenizer(tmp_path_factory.mktemp("bert"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=len(pieces),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(150):
            texts = [[COMMON[int(k)] for k in torch.randint(len(COMMON), (7,))] for _ in range(32)]
            labels = torch.randint(2, (32,))
            for words, label in zip(texts, labels):
                for place in torch.randperm(7)[: int(torch.randint(8, ()))].tolist():  # as the search hides words
                    words[place] = "[MASK]"
                if label:
                    words[int(torch.randint(7, ()))] = KEYWORDS[int(torch.randint(2, ()))]
            encoded = pieces([" ".join(words) for words in texts], padding=True, return_tensors="pt")
            loss = torch.nn.functional.cross_entropy(model(**encoded).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert float(loss.detach()) < 0.1
    return model.eval(), pieces


def test_a_trained_classifier_is_convinced_by_its_keyword(keyword_classifier: tuple[Any, Any]) -> None:
    texts = ["The music was excellent in parts", "the film was long and delightful"]
    found = TokenExplainer(*keyword_classifier).explain(
        texts, score_threshold=lambda clean, perturbed: perturbed + 0.9 * (clean - perturbed), **QUICK
    )
    assert found.target.tolist() == [1, 1]
    assert found.kept_words == [["excellent"], ["delightful"]]
    assert found.found.minimal is not None
    assert found.found.minimal.all()
    assert min(found.probability) > 0.9


def test_a_generator_is_explained_by_the_words_before(tmp_path: Path) -> None:
    """A GPT-2 from a configuration; the figures of Captum's result are drawn."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra 'text'")
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<unk>", *COMMON, *KEYWORDS]
    raw = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    config = transformers.GPT2Config(vocab_size=len(names), n_positions=16, n_embd=8, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    prompt, following = "the film was long and excellent", "in parts"
    result = TokenExplainer(model, pieces).explain_continuation(prompt, following, **QUICK)
    assert result.input_tokens == prompt.split()
    assert result.output_tokens == following.split()
    ids = pieces(f"{prompt} {following}", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits[0, -3:-1].softmax(1)[torch.arange(2), ids[0, -2:]]
    torch.testing.assert_close(result.output_probs, expected.double())
    assert result.token_attr is not None
    assert (result.token_attr.shape, result.seq_attr.shape) == ((2, 6), (6,))
    torch.testing.assert_close(result.token_attr.sum(0), result.seq_attr)
    assert (result.seq_attr >= 0).all()  # of a smallest set, each word is needed
    for drawn in (result.plot_token_attr(), result.plot_seq_attr()):
        assert drawn is not None


class Copier(nn.Module):
    """A generator for which the next token is any of those before it: its logits count them, times ten.

    The token ``nothing`` counts nothing.
    """

    def __init__(self, tokens: int, nothing: int) -> None:
        super().__init__()
        table = 10 * torch.eye(tokens)
        table[nothing] = 0
        self.embeddings = nn.Embedding.from_pretrained(table)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (N, L, V) of token ids (N, L)."""
        logits: Tensor = self.embeddings(input_ids).cumsum(1)
        return logits


def test_a_copier_needs_the_words_that_it_copies(tmp_path: Path) -> None:
    pieces = bert_tokenizer(tmp_path)
    one = TokenExplainer(Copier(len(pieces), pieces.mask_token_id), pieces)
    result = one.explain_continuation(
        "the film was excellent", "was", score_threshold=lambda clean, perturbed: 0.5 * (clean + perturbed), **QUICK
    )
    assert result.input_tokens == ["the", "film", "was", "excellent"]
    assert (result.seq_attr > 0).tolist() == [False, False, True, False]
