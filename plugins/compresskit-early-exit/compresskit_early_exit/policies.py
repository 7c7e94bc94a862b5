"""When the papers let an example leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, cast, final

import torch
from pydantic import Field
from torch import BoolTensor, Tensor

from compresskit import ExitPolicy, ExitTrail


def nobody(logits: Tensor) -> BoolTensor:
    """(alive,) False."""
    return cast(BoolTensor, torch.zeros(len(logits), dtype=torch.bool, device=logits.device))


@final
@dataclass(frozen=True)
class Patience(ExitPolicy):
    """Leave once so many exits in a row have said the same as the one before them (Zhou et al. 2020, arXiv:2006.04152).

    A count begins at 0 and grows by one at each exit that agrees with the one before it; where one does not, it falls
    back to 0. Who reaches `patience` leaves with that exit's answer, so nobody leaves before exit patience + 1, and at
    a patience of the number of exits or more nobody leaves early. In regression two exits agree where their answers
    differ by less than `tolerance`; at 0 they never do.

    Args:
        patience: agreements in a row, from 1.
        tolerance: of a regression's answers.
    """

    name: ClassVar[str] = "patience"
    dial: ClassVar[str] = "patience"

    patience: Annotated[int, Field(ge=1)]
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def settings(self, classes: int, depth: int) -> Sequence[float]:
        """Every patience that lets somebody leave, and one that lets nobody."""
        return range(1, depth + 1)

    def leave(self, trail: ExitTrail) -> BoolTensor:
        """(alive,) True where the last `patience` exits agreed, each with the one before it."""
        if len(trail.logits) <= self.patience:
            return nobody(trail.logits[-1])
        recent = trail.logits[-self.patience - 1 :]
        agree = [self._agree(one, next_) for one, next_ in pairwise(recent)]
        return cast(BoolTensor, torch.stack(agree).all(dim=0))

    def _agree(self, one: Tensor, other: Tensor) -> Tensor:
        if one.shape[-1] == 1:
            return (one - other).squeeze(-1).abs() < self.tolerance
        return one.argmax(dim=-1) == other.argmax(dim=-1)


@final
@dataclass(frozen=True)
class MaximumProbability(ExitPolicy):
    """Leave once the likeliest class is likely enough (Li et al. 2019, arXiv:1908.06294).

    A probability equal to the threshold leaves, so 0 lets everybody leave at the first exit. A model with one output
    (regression) has no classes, and nobody leaves.

    Args:
        threshold: a probability, from 0 to 1.
    """

    name: ClassVar[str] = "maximum-probability"

    threshold: Annotated[float, Field(ge=0, le=1)]

    def settings(self, classes: int, depth: int) -> Sequence[float]:
        """From the first guess to almost sure; no class is ever less likely than the first."""
        return () if classes == 1 else (1 / classes, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)

    def leave(self, trail: ExitTrail) -> BoolTensor:
        """(alive,) True where the largest probability at this exit is at least the threshold."""
        logits = trail.logits[-1]
        if logits.shape[-1] == 1:
            return nobody(logits)
        return cast(BoolTensor, torch.softmax(logits.float(), dim=-1).amax(dim=-1) >= self.threshold)


@final
@dataclass(frozen=True)
class NormalizedEntropy(ExitPolicy):
    """Leave once the entropy over its largest possible value is at most `speed` (Liu et al. 2020, arXiv:2004.02178).

    FastBERT's uncertainty: the entropy in nats over ln(classes), between 0 and 1. An uncertainty equal to the speed
    leaves, so at a speed of 1 everybody leaves at the first exit. With two classes a speed of 0.5 is an entropy of
    0.347. A model with one output (regression) has no entropy, and nobody leaves.

    Args:
        speed: from 0 to 1.
    """

    name: ClassVar[str] = "normalized-entropy"
    dial: ClassVar[str] = "speed"

    speed: Annotated[float, Field(ge=0, le=1)]

    def settings(self, classes: int, depth: int) -> Sequence[float]:
        """From everybody at the first exit to nobody but the surest."""
        return () if classes == 1 else (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0)

    def leave(self, trail: ExitTrail) -> BoolTensor:
        """(alive,) True where the uncertainty at this exit is at most the speed."""
        logits = trail.logits[-1]
        if logits.shape[-1] == 1:
            return nobody(logits)
        log_p = torch.log_softmax(logits.float(), dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        # Rounding may put an even guess a little above 1.
        uncertainty = (entropy / math.log(logits.shape[-1])).clamp(max=1)
        return cast(BoolTensor, uncertainty <= self.speed)


@final
@dataclass(frozen=True)
class Learned(ExitPolicy):
    """Leave once the exit thinks itself unlikely to be wrong (Xin et al. 2021, BERxiT, EACL, section 3.3).

    It needs exits that say how likely they are to be wrong, such as `head: dense-tanh-certain`; where they say nothing,
    nobody leaves. It works for regression too.

    Args:
        threshold: a probability of being wrong, below which an example leaves.
    """

    name: ClassVar[str] = "learned"

    threshold: Annotated[float, Field(ge=0, le=1)]

    def settings(self, classes: int, depth: int) -> Sequence[float]:
        """From the first exit to the last."""
        return (1.0, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01, 0.0)

    def leave(self, trail: ExitTrail) -> BoolTensor:
        """(alive,) True where the probability of being wrong at this exit is below the threshold."""
        if not trail.signals:
            return nobody(trail.logits[-1])
        return cast(BoolTensor, torch.sigmoid(trail.signals[-1].float()) < self.threshold)
