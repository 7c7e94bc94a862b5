"""The small cuts that surgery is made of: entries of one matrix or norm, and whether they are there to be cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compresskit.anatomy import find, layers
from compresskit.errors import SurgeryError
from compresskit.model import CompressedForSequenceClassification as Model


def own_layer(model: Model, index: int, what: str) -> nn.Module:
    """A layer of which something is to change.

    Raises:
        SurgeryError: there is no such layer, or it shares its weights.
    """
    if not 0 <= index < model.depth:
        raise SurgeryError(
            f"there is no layer {index + 1} to change {what} of; give the number of one of the {model.depth} layers"
        )
    if model.shape.owners:
        raise SurgeryError(
            f"layers share their weights, so {what} of layer {index + 1} can't change alone; change them before sharing"
        )
    return layers(model.anatomy, model.network)[index]


def cut_linear(module: nn.Linear, dim: int, kept: Tensor) -> None:
    """Keep these entries of an axis. Outputs (axis 0) take their bias with them; inputs leave the bias whole."""
    kept = kept.to(module.weight.device)
    with torch.no_grad():
        module.weight = nn.Parameter(module.weight.index_select(dim, kept))
        if dim == 0 and module.bias is not None:
            module.bias = nn.Parameter(module.bias.index_select(0, kept))
    module.out_features, module.in_features = module.weight.shape


def cut_norm(norm: nn.LayerNorm, kept: Tensor) -> None:
    """Keep these dimensions of a norm."""
    kept = kept.to(norm.weight.device)
    norm.weight, norm.bias = (nn.Parameter(weight.detach()[kept]) for weight in (norm.weight, norm.bias))
    norm.normalized_shape = (len(kept),)


def check_kept(what: str, keep: Sequence[int], now: int) -> None:
    """Whether these can be what stays of so many.

    Raises:
        SurgeryError: nothing would be left, or some of them are not there.
    """
    if not keep:
        raise SurgeryError(f"nothing would be left of the {what}; keep at least one of {now}")
    if list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= now:
        raise SurgeryError(
            f"cannot keep {list(keep)} of the {now} {what}; give different numbers from 0 to {now - 1}, rising"
        )


def put(root: nn.Module, path: str, new: nn.Module) -> None:
    """Replace the module at a dotted path."""
    parent, _, name = path.rpartition(".")
    setattr(find(root, parent), name, new)
