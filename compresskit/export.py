"""Writes a compressed model as a plain checkpoint of its original `model_type`, for tools without compresskit.

What was cut comes back as zeros: heads and neurons that add nothing, so the function is the same, and size and speed
are the original's. Layers that share weights get a copy each. Only layers that were cut stay away. Early exits are
lost: the last exit answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from compresskit.anatomy import Anatomy, find
from compresskit.checkpoint import Checkpoint, quiet
from compresskit.errors import CheckpointError
from compresskit.factoring import word_embedding
from compresskit.model import CompressedForSequenceClassification
from compresskit.modules import FactorizedLinear
from compresskit.writing import whole

STOCK = "cls-tanh"
"""The exit head that a plain read-out with tanh can express."""
NOTE = "no speed gain: what was cut is filled with zeros, so size and speed are the original's"


def export(checkpoint: Checkpoint, out: Path, format: Literal["stock"] = "stock") -> None:  # noqa: A002
    """Write the model's function at its last exit in another format.

    Args:
        checkpoint: what to export.
        out: a new or empty folder.
        format: `stock`, a checkpoint that transformers loads without compresskit.

    Raises:
        CheckpointError: the family can't express the last exit or the embeddings, `out` has something in it, or
            writing failed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is not an empty folder; name a new one with --out")
    assert format == "stock"
    network = stock(checkpoint.model, checkpoint.original.name)
    with whole(out) as beside:
        with quiet():
            network.save_pretrained(beside)
            checkpoint.tokenizer.save_pretrained(beside)
        (beside / "README.md").write_text(_card(checkpoint, network), encoding="utf-8")


def stock(model: CompressedForSequenceClassification, name: str = "the model") -> PreTrainedModel:
    """The family's own `...ForSequenceClassification` with the logits of the model's last exit, in eval mode.

    Raises:
        CheckpointError: the family can't express the last exit, the embeddings, or the width that is left.
    """
    anatomy = model.anatomy
    _check_embeddings(model, name)
    if not model.shape.read_out:
        _check_exit(model, name)
    _check_width(model, name)
    network: PreTrainedModel = AutoModelForSequenceClassification.from_config(_config(model))
    weights = model.network.state_dict()
    factors = f"{anatomy.word_embeddings}."
    weights = {key: weight for key, weight in weights.items() if not key.startswith(factors)}
    weights[f"{factors}weight"] = word_embedding(model)
    for path, module in model.network.named_modules():
        if isinstance(module, FactorizedLinear):
            weights[f"{path}.weight"] = module.product()
            if module.expand.bias is not None:
                weights[f"{path}.bias"] = module.expand.bias
    with torch.no_grad():
        for key, target in network.state_dict().items():
            if key in weights:
                _fill(target, weights[key])
            else:
                assert key.startswith(tuple(f"{part}." for part in anatomy.read_out))
        if not model.shape.read_out:
            _express(network, anatomy, model.exits[str(model.depth)])
    return network.to(dtype=weights[f"{factors}weight"].dtype).eval()


def _check_embeddings(model: CompressedForSequenceClassification, name: str) -> None:
    """A family that may embed in a width of its own has a linear layer after it only where that is another width."""
    width, anatomy = model.shape.embedding, model.anatomy
    if width is not None and (anatomy.embeddings_project is None or width == model.hidden_size):
        raise CheckpointError(
            f"{name}: its embeddings are {width} wide and a linear layer follows them, which {anatomy.model_type} "
            "can't express; compress it again with 'factorize: word-embeddings' to export it"
        )


def _check_exit(model: CompressedForSequenceClassification, name: str) -> None:
    family = model.anatomy.model_type
    head = model.shape.head
    assert head is not None
    if head.name != STOCK:
        reason = f"reads by {head.name}, which the read-out of {family} can't express"
    elif model.anatomy.stock is None:
        reason = f"applies tanh to the first token itself, which the read-out of {family} can't express"
    else:
        return
    raise CheckpointError(
        f"{name}: its last exit {reason}; compress it again with 'pooler: keep' in the recipe's exit step "
        "(--set steps.N.pooler=keep, where step N is the exit, from 0) to export it"
    )


def _check_width(model: CompressedForSequenceClassification, name: str) -> None:
    full = getattr(model.network.config, model.anatomy.hidden_size)
    if model.hidden_size < full:
        raise CheckpointError(
            f"{name}: its hidden states are {model.hidden_size} wide where {model.anatomy.model_type} has {full}, "
            "which its norms can't express; compress it again without a mask that cuts them to export it"
        )


def _config(model: CompressedForSequenceClassification) -> PreTrainedConfig:
    config = AutoConfig.for_model(**model.config.original)
    setattr(config, model.anatomy.layer_total, model.depth)
    if model.shape.embedding is not None:
        setattr(config, model.anatomy.embedding_size, model.shape.embedding)
    config.id2label = dict(model.config.id2label)
    config.label2id = dict(model.config.label2id)
    config.problem_type = model.config.problem_type
    return config


def _fill(target: Tensor, weight: Tensor) -> None:
    """Put a weight in the leading corner of zeros.

    The units that stayed come first and the zeros stand for those that were cut: a head whose values are zero, and a
    neuron that no output reads, add nothing.
    """
    assert all(small <= large for small, large in zip(weight.shape, target.shape, strict=True))
    target.zero_()
    target[tuple(slice(size) for size in weight.shape)] = weight


def _express(network: PreTrainedModel, anatomy: Anatomy, head: nn.Module) -> None:
    """linear(tanh(first token)) as linear(tanh(identity(first token)))."""
    assert anatomy.stock is not None
    dense, linear = (find(network, path) for path in anatomy.stock)
    assert isinstance(dense, nn.Linear)
    assert isinstance(linear, nn.Linear)
    nn.init.eye_(dense.weight)
    nn.init.zeros_(dense.bias)
    linear.load_state_dict(head.get_submodule("classifier").state_dict())


def _card(checkpoint: Checkpoint, network: PreTrainedModel) -> str:
    title = f"{Path(checkpoint.original.name).name}, as a plain {network.config.model_type} checkpoint"
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-classification",
            "tags:",
            "- compresskit",
            "---",
            "",
            f"# {title}",
            "",
            "Written by `compresskit export --format stock` for tools that can't load the compressed model. It gives",
            f"the logits of the compressed model's last exit, with {NOTE}.",
            "",
        ]
    )
