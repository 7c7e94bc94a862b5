"""The built-in anatomies, one row per family. Adding a family is adding a row here, or in a plugin.

Paths are those of `transformers` 5.23's `...ForSequenceClassification` classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from compresskit.anatomy import Alias, Anatomy, Particulars, Slice
from compresskit.hooks import hookimpl

if TYPE_CHECKING:
    from transformers.configuration_utils import PreTrainedConfig

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

# A BERT with a pooler after every layer but the base layers, of which the last is BERT's (Liu et al. 2022).
ELASTICBERT = Alias(
    model_type="elasticbert",
    family="bert",
    names=(
        (r"^(?:elasticbert\.)?encoder\.pooler\.{last}\.dense\.", "bert.pooler.dense."),
        (r"^(?:elasticbert\.)?(?=embeddings\.|encoder\.layer\.)", "bert."),
    ),
    without="num_base_layers",
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


def mobilebert_sizes(config: PreTrainedConfig) -> Particulars:
    """Bottlenecks, several FFNs a layer, and embeddings that look at three tokens (Sun et al. 2020, section 3)."""
    hidden, words = int(config.hidden_size), int(config.embedding_size)
    inner = int(config.intra_bottleneck_size) if config.use_bottleneck else hidden
    # Everything goes in through one bottleneck, queries and keys through a second, and out again through a third.
    entrances = (1 + config.key_query_shared_bottleneck) if config.use_bottleneck else 0
    exits = int(config.use_bottleneck)
    ffns, neurons = int(config.num_feedforward_networks) - 1, int(config.intermediate_size)
    unused = config.key_query_shared_bottleneck and config.use_bottleneck_attention and config.use_bottleneck
    ffn_macs, passage = 2 * inner * neurons, hidden * inner
    read = (3 if config.trigram_input else 1) * words
    read_macs = read * hidden if config.trigram_input or words != hidden else 0
    return Particulars(
        width=inner,
        values=inner if config.use_bottleneck_attention else hidden,
        layer_parameters=entrances * (passage + 3 * inner)
        + exits * (passage + 3 * hidden)
        + ffns * (ffn_macs + neurons + 3 * inner),
        layer_macs=(entrances + exits - unused) * passage + ffns * ffn_macs,
        embedding_parameters=(config.max_position_embeddings + config.type_vocab_size + read + 3) * hidden,
        embedding_macs=read_macs,
        dense=bool(config.classifier_activation),
    )


# Neurons are those of a layer's last FFN; the FFNs before it and the bottlenecks stay whole. The published model has no
# dense layer in its read-out. The last token of a text sees padding on its right, as in training; of the longest text
# of a batch it sees nothing in transformers, where answers depend on the batch therefore.
MOBILEBERT = replace(
    BERT,
    model_type="mobilebert",
    embeddings="mobilebert.embeddings",
    word_embeddings="mobilebert.embeddings.word_embeddings",
    layers="mobilebert.encoder.layer",
    read_out=("mobilebert.pooler", "dropout", "classifier"),
    stock=None,
    embedding_size="embedding_size",
    inner_size="intra_bottleneck_size",
    particulars=mobilebert_sizes,
    lookahead=1,
)


@hookimpl
def compresskit_architectures() -> Iterable[Anatomy | Alias]:
    """The families that come with compresskit."""
    return [BERT, ELASTICBERT, ROBERTA, XLM_ROBERTA, ELECTRA, DISTILBERT, MOBILEBERT]
