"""Leaving when the prediction is sure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast, final

import torch
from pydantic import Field
from torch import BoolTensor, Tensor

from compresskit import ExitPolicy, ExitTrail, hookimpl


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the predictions (..., classes) -> (...), in fp32.

    From log-probabilities, so that a prediction too sure for its precision has entropy 0 and not NaN.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


@final
@dataclass(frozen=True)
class Entropy(ExitPolicy):
    """Leave once the entropy of the prediction is below `threshold` (Xin et al. 2020, arXiv:2004.12993).

    An entropy equal to the threshold goes on, so 0 means that everybody goes to the last layer; above ln(classes)
    everybody leaves at the first exit. A model with one output (regression) has no entropy, and nobody leaves.

    Args:
        threshold: in nats, from 0.
    """

    name: ClassVar[str] = "entropy"

    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    def leave(self, trail: ExitTrail) -> BoolTensor:
        """(alive,) True where the entropy at this exit is strictly below the threshold."""
        logits = trail.logits[-1]
        sure = (entropy(logits) < self.threshold) & (logits.shape[-1] > 1)
        return cast(BoolTensor, sure)


@hookimpl
def compresskit_strategies() -> Iterable[type[ExitPolicy]]:
    """This file's strategy."""
    return [Entropy]
