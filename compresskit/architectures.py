"""The built-in anatomies, one row per family. Adding a family is adding a row here, or in a plugin.

Paths are those of `transformers` 5.23's `...ForSequenceClassification` classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from compresskit.anatomy import Anatomy, Slice
from compresskit.hooks import hookimpl

BERT_HEADS = (
    Slice("attention.self.query", "query", 0),
    Slice("attention.self.key", "key", 0),
    Slice("attention.self.value", "value", 0),
    Slice("attention.output.dense", "attention-out", 1),
)
BERT_NEURONS = (Slice("intermediate.dense", "ffn-in", 0), Slice("output.dense", "ffn-out", 1))

BERT = Anatomy(
    model_type="bert",
    embeddings="bert.embeddings",
    word_embeddings="bert.embeddings.word_embeddings",
    layers="bert.encoder.layer",
    heads=BERT_HEADS,
    neurons=BERT_NEURONS,
    head_size="attention.self.attention_head_size",
    head_count="attention.self.num_attention_heads",
    inputs=("input_ids", "token_type_ids"),
    read_out=("bert.pooler", "dropout", "classifier"),
    stock=("bert.pooler.dense", "classifier"),
)

# RoBERTa numbers positions itself, from the token ids, so nothing is passed for them.
ROBERTA = replace(
    BERT,
    model_type="roberta",
    embeddings="roberta.embeddings",
    word_embeddings="roberta.embeddings.word_embeddings",
    layers="roberta.encoder.layer",
    inputs=("input_ids",),
    read_out=("classifier",),
    stock=("classifier.dense", "classifier.out_proj"),
    positions_after="pad_token_id",
)

XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta")

# ELECTRA's small models embed in fewer dimensions than they think in. Its read-out applies gelu, not tanh.
ELECTRA = replace(
    BERT,
    model_type="electra",
    embeddings="electra.embeddings",
    word_embeddings="electra.embeddings.word_embeddings",
    layers="electra.encoder.layer",
    read_out=("classifier",),
    stock=None,
    embeddings_project="electra.embeddings_project",
    embedding_size="embedding_size",
)

DISTILBERT = Anatomy(
    model_type="distilbert",
    embeddings="distilbert.embeddings",
    word_embeddings="distilbert.embeddings.word_embeddings",
    layers="distilbert.transformer.layer",
    heads=(
        Slice("attention.q_lin", "query", 0),
        Slice("attention.k_lin", "key", 0),
        Slice("attention.v_lin", "value", 0),
        Slice("attention.out_lin", "attention-out", 1),
    ),
    neurons=(Slice("ffn.lin1", "ffn-in", 0), Slice("ffn.lin2", "ffn-out", 1)),
    head_size="attention.attention_head_size",
    head_count="attention.n_heads",
    inputs=("input_ids",),
    read_out=(":first", "pre_classifier", ":relu", "dropout", "classifier"),
    embedding_size="dim",
    hidden_size="dim",
    head_total="n_heads",
    neuron_total="hidden_dim",
    layer_total="n_layers",
)


@hookimpl
def compresskit_architectures() -> Iterable[Anatomy]:
    """The families that come with compresskit."""
    return [BERT, ROBERTA, XLM_ROBERTA, ELECTRA, DISTILBERT]
