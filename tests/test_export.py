"""Exported models against the compressed ones, loaded by the family's own class."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import load, save
from compresskit.edits import CutLayers, ProjectEmbeddings, ShareLayers
from compresskit.errors import CheckpointError
from compresskit.export import export
from compresskit.factoring import word_embedding
from compresskit.model import wrap
from compresskit.strategies.svd import Svd
from compresskit.surgery import perform
from compresskit.testing import save_tiny, tiny_compressed, tiny_model, tiny_tokenizer
from compresskit.testing.text import sentences

CLASSES = {family: type(tiny_model(family)).__name__ for family in load_catalogue([]).names("architecture")}
EXITS = (1, 2, 3)


def saved(folder, family, **settings):
    """A checkpoint of three uneven layers with a factored embedding, as `load` reads it."""
    model = tiny_compressed(family, layers=3, **settings)
    model.config.id2label, model.config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    save(model, tiny_tokenizer(family), folder, {})
    return load(str(folder))


# Embeddings of MobileBERT look ahead: of transformers' the last token of the longest text sees no padding.
PADDING = {"mobilebert": {"padding": "max_length", "max_length": 40}}


def same_answers(checkpoint, folder, family):
    """Logits of the stock class on a padded batch, to 1e-5 those of the last exit."""
    stock = getattr(transformers, CLASSES[family]).from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(sentences(12), return_tensors="pt", **PADDING.get(family, {"padding": True}))
    with torch.no_grad():
        torch.testing.assert_close(
            stock.eval()(**inputs).logits, checkpoint.model.trace(inputs).last, atol=1e-5, rtol=1e-5
        )
    return stock


@pytest.mark.parametrize("exits", [(), EXITS])
@pytest.mark.parametrize("family", CLASSES)
def test_a_kept_read_out_exports_from_every_family(tmp_path, family, exits):
    checkpoint = saved(tmp_path / "model", family, exits=exits, read_out=True)
    export(checkpoint, tmp_path / "stock")
    same_answers(checkpoint, tmp_path / "stock", family)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_a_first_token_exit_becomes_an_identity_and_a_linear_layer(tmp_path, family):
    checkpoint = saved(tmp_path / "model", family, exits=EXITS)
    export(checkpoint, tmp_path / "stock")
    same_answers(checkpoint, tmp_path / "stock", family)


def test_fewer_layers_stay_fewer(tmp_path):
    model = tiny_compressed("distilbert", layers=3)
    perform(CutLayers((0, 2)), model)
    save(model, tiny_tokenizer("distilbert"), tmp_path / "model", {})
    checkpoint = load(str(tmp_path / "model"))
    export(checkpoint, tmp_path / "stock")
    assert same_answers(checkpoint, tmp_path / "stock", "distilbert").config.n_layers == 2


@pytest.mark.parametrize("family", CLASSES)
def test_layers_that_share_weights_get_a_copy_each(tmp_path, family):
    checkpoint = edited(tmp_path / "model", family, ShareLayers((0, 0, 2), "mean"))
    export(checkpoint, tmp_path / "stock")
    same_answers(checkpoint, tmp_path / "stock", family)


def edited(folder, family, edit):
    model = wrap(tiny_model(family, layers=3), load_catalogue().anatomy(family))
    rank = getattr(edit, "rank", None)
    perform(edit, model, rank and Svd().factor(word_embedding(model), rank, None))
    save(model, tiny_tokenizer(family), folder, {})
    return load(str(folder))


def test_electra_can_express_projected_embeddings(tmp_path):
    checkpoint = edited(tmp_path / "model", "electra", ProjectEmbeddings(6))
    export(checkpoint, tmp_path / "stock")
    assert same_answers(checkpoint, tmp_path / "stock", "electra").config.embedding_size == 6


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_other_families_cannot_express_projected_embeddings(tmp_path, family):
    checkpoint = edited(tmp_path / "model", family, ProjectEmbeddings(6))
    with pytest.raises(CheckpointError) as caught:
        export(checkpoint, tmp_path / "stock")
    assert str(caught.value) == (
        f"{tmp_path / 'model'}: its embeddings are 6 wide and a linear layer follows them, which {family} can't "
        "express; compress it again with 'factorize: word-embeddings' to export it"
    )
    assert not (tmp_path / "stock").exists()


def test_an_untouched_original_exports_to_itself(tmp_path):
    checkpoint = load(str(save_tiny(tmp_path / "model", "electra")))
    export(checkpoint, tmp_path / "stock")
    stock = same_answers(checkpoint, tmp_path / "stock", "electra")
    for name, weight in checkpoint.model.network.state_dict().items():
        assert torch.equal(stock.state_dict()[name], weight), name


def test_what_a_reader_needs_comes_along(tmp_path):
    checkpoint = saved(tmp_path / "model", "bert", exits=EXITS)
    export(checkpoint, tmp_path / "stock")
    config = json.loads((tmp_path / "stock" / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["architectures"]) == ("bert", [CLASSES["bert"]])
    assert config["id2label"] == {"0": "no", "1": "yes"}
    assert (config["num_attention_heads"], config["intermediate_size"]) == (4, 64)
    card = (tmp_path / "stock" / "README.md").read_text(encoding="utf-8")
    assert "no speed gain: what was cut is filled with zeros, so size and speed are the original's" in card
    assert not (tmp_path / "stock" / "compression.json").exists()


TANH = "applies tanh to the first token itself, which the read-out of {} can't express"
MEAN = "reads by mean-tanh, which the read-out of {} can't express"


@pytest.mark.parametrize(
    ("family", "head", "reason"),
    [("electra", "cls-tanh", TANH), ("distilbert", "cls-tanh", TANH), ("bert", "mean-tanh", MEAN)],
)
def test_what_the_family_cannot_express_is_refused(tmp_path, family, head, reason):
    checkpoint = saved(tmp_path / "model", family, exits=EXITS, head=head)
    with pytest.raises(CheckpointError) as caught:
        export(checkpoint, tmp_path / "stock")
    assert str(caught.value) == (
        f"{tmp_path / 'model'}: its last exit {reason.format(family)}; compress it again with 'pooler: keep' in the "
        "recipe's exit step (--set steps.N.pooler=keep, where step N is the exit, from 0) to export it"
    )
    assert not (tmp_path / "stock").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    checkpoint = load(str(save_tiny(tmp_path / "model")))
    with pytest.raises(CheckpointError) as caught:
        export(checkpoint, tmp_path / "model")
    assert str(caught.value) == f"{tmp_path / 'model'} is not an empty folder; name a new one with --out"
