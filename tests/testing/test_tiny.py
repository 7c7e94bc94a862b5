"""Tiny models, tokenizer and text are what their names say."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import load
from compresskit.data import DataOptions, load_corpus
from compresskit.edits import LayerShape
from compresskit.testing import WORDS, apply_tiny, save_tiny, tiny_compressed, tiny_model, tiny_text, tiny_tokenizer
from compresskit.testing.text import OPINIONS

FAMILIES = load_catalogue([]).names("architecture")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_as_the_family_with_its_tokenizer(tmp_path, family):
    model = AutoModelForSequenceClassification.from_pretrained(save_tiny(tmp_path, family))
    assert model.config.model_type == family
    inputs = AutoTokenizer.from_pretrained(tmp_path)(["a good film", "so dull"], padding=True, return_tensors="pt")
    with torch.no_grad():
        found, expected = model(**inputs).logits, tiny_model(family)(**inputs).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_model_has_no_head(tmp_path, family):
    assert not load(str(save_tiny(tmp_path / "body", family, trained=False)), ["a", "b"]).head_trained
    assert load(str(save_tiny(tmp_path / "whole", family))).head_trained


def test_weights_come_from_the_seed_and_from_nothing_else():
    state = torch.random.get_rng_state()
    one, same, other = tiny_model(), tiny_model(), tiny_model(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
        assert not torch.equal(weight, other.state_dict()[name])


@pytest.mark.parametrize(
    ("family", "keyword", "hint"),
    [
        ("bert", "family", ""),
        ("bert", "layer", " (did you mean 'layers'?)"),
        ("distilbert", "hidden_dropout_prob", ""),
        ("roberta", "num_labels", " (did you mean 'labels'?)"),
    ],
)
def test_a_keyword_that_would_change_nothing_is_refused(tmp_path, family, keyword, hint):
    makers = (
        tiny_model,
        tiny_compressed,
        partial(save_tiny, tmp_path / "model"),
        partial(apply_tiny, "shape-8x", tmp_path / "job"),
    )
    for make in makers:
        with pytest.raises(TypeError) as caught:
            make(model_type=family, **{keyword: 3})
        assert str(caught.value) == (
            f"'{keyword}' is no argument of tiny_model and no field of a {family} config{hint}; correct it or leave it "
            "out (arguments: model_type, layers, heads, hidden, neurons, vocabulary, labels, seed, trained)"
        )
    assert not list(tmp_path.iterdir())


def test_fields_of_the_config_are_taken():
    assert tiny_model(hidden_dropout_prob=0.25).config.hidden_dropout_prob == 0.25
    assert tiny_model("distilbert", dropout=0.25).config.dropout == 0.25


def test_no_weight_of_a_trained_model_is_zero_or_one():
    for name, weight in tiny_model("electra").named_parameters():
        assert not bool(((weight == 0) | (weight == 1)).any()), name


def test_a_compressed_model_is_uneven_factored_and_leaves_early():
    model = tiny_compressed("roberta", layers=3, exits=(2, 3))
    assert model.shape.layers == (LayerShape(1, 3), LayerShape(4, 64), LayerShape(2, 1))
    assert (model.shape.rank, model.shape.exits, model.policy.threshold) == (5, (2, 3), 0.5)


def test_every_word_of_the_text_is_one_token_and_any_other_can_be_spelt():
    tokenizer = tiny_tokenizer()
    assert all(tokenizer.tokenize(word) == [word] for word in WORDS)
    assert tokenizer.tokenize("Zoo 42!") == ["z", "##o", "##o", "4", "##2", "!"]
    pair = tokenizer("good", "bad")
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]
    assert "token_type_ids" not in tiny_tokenizer("roberta")("good", "bad")


@pytest.mark.parametrize("labels", [2, 3])
def test_one_word_tells_the_label(tmp_path, labels):
    corpus = load_corpus(str(tiny_text(tmp_path, labels=labels)), DataOptions())
    assert (len(corpus.train), len(corpus.eval)) == (64, 32)
    for rows in (corpus.train, corpus.eval):
        for (text,), label in zip(rows.texts, rows.labels, strict=True):
            assert [set(text.split()) & set(words) != set() for words in OPINIONS] == [k == label for k in range(3)]


def test_names_pairs_and_numbers(tmp_path):
    named = load_corpus(str(tiny_text(tmp_path / "named", names=("down", "up"), pairs=True)), DataOptions())
    assert named.task.labels == ("down", "up")
    assert all(len(texts) == 2 for texts in named.train.texts)
    numbers = load_corpus(str(tiny_text(tmp_path / "numbers", labels=1)), DataOptions())
    assert numbers.task.kind == "regression"
    assert all(0 <= label <= 5 for label in numbers.train.labels)
