"""Tiny models and their tokenizer."""

from __future__ import annotations

import string
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import quiet
from compresskit.edits import AddExits, CutHeads, CutNeurons, Edit, FactorizeEmbedding, head_from_json
from compresskit.factoring import word_embedding
from compresskit.model import CompressedForSequenceClassification, wrap
from compresskit.surgery import perform
from compresskit.testing.text import WORDS, sentences
from compresskit.wording import did_you_mean

PADDING, UNKNOWN, FIRST, SEPARATOR, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = {
    "pad_token": PADDING,
    "unk_token": UNKNOWN,
    "cls_token": FIRST,
    "sep_token": SEPARATOR,
    "mask_token": MASK,
}
VOCABULARY = (
    *SPECIAL.values(),
    *WORDS,
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
    *string.digits,
    *(f"##{digit}" for digit in string.digits),
    *".,!?'-",
)
POSITIONS = 130
"""128 tokens, and the two positions that RoBERTa leaves out."""


def tiny_model(  # noqa: PLR0913 - all but the first by name
    model_type: str = "bert",
    *,
    layers: int = 2,
    heads: int = 4,
    hidden: int = 32,
    neurons: int = 64,
    vocabulary: int = len(VOCABULARY),
    labels: int = 2,
    seed: int = 0,
    trained: bool = True,
    **config: Any,
) -> PreTrainedModel:
    """A `...ForSequenceClassification` of any architecture in the catalogue, in eval mode.

    Args:
        model_type: of the architecture.
        layers, heads, hidden, neurons, vocabulary: sizes. Where a family embeds in a width of its own, it is half of
            `hidden`; where its layers have one inside, that is three quarters.
        labels: classes; 1 is regression.
        seed: of the weights. The global random state is left alone.
        trained: give every weight, biases and norms too, a value of the size that training would, so that nothing is
            zero or one by accident; False leaves the weights as `transformers` initialises them.
        config: further fields of the config.

    Raises:
        ArchitectureError: the catalogue has no such architecture.
        TypeError: a keyword is neither named above nor a field of the config.
    """
    anatomy = load_catalogue().anatomy(model_type)
    _check_fields(model_type, config)
    sizes: dict[str, Any] = {
        anatomy.hidden_size: hidden,
        anatomy.head_total: heads,
        anatomy.neuron_total: neurons,
        anatomy.layer_total: layers,
    }
    if anatomy.embedding_size != anatomy.hidden_size:
        sizes[anatomy.embedding_size] = hidden // 2
    if anatomy.inner_size is not None:
        sizes[anatomy.inner_size] = heads * max(hidden // heads * 3 // 4, 1)
    sizes |= {
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        "bos_token_id": VOCABULARY.index(FIRST),
        "eos_token_id": VOCABULARY.index(SEPARATOR),
        "num_labels": labels,
        "problem_type": "regression" if labels == 1 else "single_label_classification",
    }
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model(model_type, **(sizes | config))
        )
        if trained:
            _spread(model)
    return model.eval()


def tiny_compressed(
    model_type: str = "bert",
    *,
    exits: tuple[int, ...] = (),
    head: Any = "cls-tanh",
    read_out: bool = False,
    threshold: float = 0.5,
    **sizes: Any,
) -> CompressedForSequenceClassification:
    """A tiny model after surgery, in eval mode: layers of different sizes, a factored word embedding, exits.

    Args:
        model_type, sizes: as for `tiny_model`; at least two layers of three heads.
        exits: layers (1-based) that get an exit, the last one among them; none where empty.
        head: what the exits read with, as a recipe names it.
        read_out: as in `AddExits`.
        threshold: of the entropy by which examples leave.
    """
    anatomy = load_catalogue().anatomy(model_type)
    model = wrap(tiny_model(model_type, **sizes), anatomy)
    last = model.depth - 1
    cuts: list[Edit] = [CutHeads(0, (1,)), CutHeads(last, (0, 2)), CutNeurons(0, (3, 4, 7)), CutNeurons(last, (0,))]
    for edit in [*cuts, *([AddExits(exits, head_from_json(head), read_out)] if exits else [])]:
        perform(edit, model)
    rank = 5
    draw = torch.Generator().manual_seed(1)
    words, size = word_embedding(model).shape
    perform(
        FactorizeEmbedding(rank),
        model,
        (torch.randn(words, rank, generator=draw), torch.randn(rank, size, generator=draw) / rank),
    )
    model.eval()
    if exits:
        _balance(model, draw)
        model.note_trained(exits)
        model.set_policy({"by": "entropy", "with": {"threshold": threshold}})
    return model


def _balance(model: CompressedForSequenceClassification, draw: torch.Generator) -> None:
    """Give the exit heads weights by which texts differ, and biases by which no class is always the answer."""
    heads = {int(number): _classifier(head) for number, head in model.exits.items()}
    texts = tiny_tokenizer(model.anatomy.model_type)(sentences(32), padding=True, return_tensors="pt")
    with torch.no_grad():
        for head in heads.values():
            head.weight.normal_(generator=draw)
            head.bias.zero_()
        answers = model.trace(texts).logits
        for number, head in heads.items():
            head.bias.sub_(answers[number].mean(0))


def _classifier(head: nn.Module) -> nn.Linear:
    """The last linear layer of an exit's module: the one that makes logits."""
    return [part for part in head.modules() if isinstance(part, nn.Linear)][-1]


def tiny_tokenizer(model_type: str = "bert") -> PreTrainedTokenizerFast:
    """Word pieces over the words of `tiny_text` and single letters, as BERT arranges them, padded on the right.

    Args:
        model_type: a family without token types gets none.
    """
    ids = {piece: number for number, piece in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(FIRST, ids[FIRST]), (SEPARATOR, ids[SEPARATOR])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=[*load_catalogue().anatomy(model_type).inputs, "attention_mask"],
        model_max_length=128,
        **SPECIAL,
    )


def save_tiny(folder: Path, model_type: str = "bert", *, trained: bool = True, **sizes: Any) -> Path:
    """Write a tiny model with its tokenizer, as a checkpoint from the Hub would look.

    Args:
        folder: made where it is missing.
        model_type: of the architecture.
        trained: False writes the encoder alone, without a head: a checkpoint that is still to be fine-tuned.
        sizes: as for `tiny_model`.

    Returns:
        The folder.
    """
    model = tiny_model(model_type, trained=trained, **sizes)
    whole = model if trained else model.base_model
    with quiet():
        whole.save_pretrained(folder)
        tiny_tokenizer(model_type).save_pretrained(folder)
    return folder


def _check_fields(model_type: str, given: Mapping[str, Any]) -> None:
    """`transformers` keeps whatever it is given in a config, so that a slip of the pen would change nothing."""
    config = AutoConfig.for_model(model_type)
    fields = {*config.to_dict(), *config.attribute_map}
    arguments = [name for name in signature(tiny_model).parameters if name != "config"]
    for name in given:
        if name not in fields:
            hint = did_you_mean(name, [*arguments, *sorted(fields)])
            raise TypeError(
                f"'{name}' is no argument of tiny_model and no field of a {model_type} config{hint}; "
                f"correct it or leave it out (arguments: {', '.join(arguments)})"
            )


def _spread(model: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight.shape[-1] ** -0.5)
            else:
                weight.normal_(mean=1.0 if name.endswith(".weight") else 0.0, std=0.1)


def tiny_batch(model: CompressedForSequenceClassification, rows: int = 6) -> dict[str, Tensor]:
    """What a tiny model reads of a batch: up to 9 random tokens a row, padded on the right, always the same."""
    draw = torch.Generator().manual_seed(0)
    mask = (torch.arange(9) < torch.randint(2, 10, (rows, 1), generator=draw)).long()
    ids = torch.randint(5, 60, mask.shape, generator=draw) * mask
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": mask * (torch.arange(9) > 4)}
    return {name: batch[name] for name in model.input_names}
