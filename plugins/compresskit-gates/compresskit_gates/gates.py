"""Gates that learn whether to be open: the hard concrete distribution and the constraint on how many are."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from compresskit import MaskModule

LOW, HIGH = -0.1, 1.1
"""The stretch of the concrete distribution beyond 0 and 1, where it is cut off (Louizos et al. 2018, section 3)."""
LEAST, MOST = math.log(0.01), math.log(100)
"""Limits of the logits of CoFi's gates; FLOP's have none."""
SHARPNESS = 0.8
"""Of the factor that an open gate keeps in the end, in the released code of FLOP and CoFi."""


class HardConcrete(nn.Module):
    """Gates whose factors are random in training: 0, 1, or between (Louizos et al. 2018, arXiv:1712.01312, eq. 10).

    Args:
        count: of gates.
        temperature: beta; the lower, the nearer to 0 and 1 the factors are.
        logit: alpha, at the start.
    """

    def __init__(self, count: int, temperature: float, logit: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.logits = nn.Parameter(torch.full((count,), float(logit)))

    def sample(self) -> Tensor:
        """(count,) factors from 0 to 1."""
        uniform = torch.rand(self.logits.shape, device=self.logits.device).clamp(1e-6, 1 - 1e-6)
        concrete = torch.sigmoid((torch.logit(uniform) + self.logits) / self.temperature)
        return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)

    def open(self) -> Tensor:
        """(count,) probabilities that a factor is not 0 (equation 12)."""
        return how_open(self.logits, self.temperature)

    def settled(self) -> Tensor:
        """(count,) factors for good: 0 for as many as are expected to be, those with the lowest logits."""
        logits = self.logits.detach()
        closed = len(logits) - round(float(self.open().detach().sum()))
        factors = torch.sigmoid(SHARPNESS * logits / self.temperature)
        return factors.index_fill(0, logits.argsort(stable=True)[:closed], 0.0)

    def hold(self) -> None:
        """Bring the logits back between their limits, beyond which they would learn no more."""
        with torch.no_grad():
            self.logits.clamp_(LEAST, MOST)


def how_open(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities that the factors of gates with these logits are not 0."""
    return torch.sigmoid(logits - temperature * math.log(-LOW / HIGH))


class Constraint(nn.Module):
    """Holds the sparsity at its target by two multipliers that climb (Wang et al. 2020, arXiv:1910.04732, eq. 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(()))
        self.quadratic = nn.Parameter(torch.zeros(()))

    def forward(self, sparsity: Tensor, target: float) -> Tensor:
        """A scalar: 0 where the sparsity is the target, and pulling it there from below and from above."""
        away = sparsity - target
        return self.linear * away + self.quadratic * away.square()


class GatedModel(MaskModule):
    """Gates of one model under one constraint.

    Args:
        target: sparsity to end at.
        warmup: fraction of the training over which the target rises from 0.
        learning_rate: of gates and multipliers.
    """

    def __init__(self, target: float, warmup: float, learning_rate: float) -> None:
        super().__init__()
        self.target = target
        self.warmup = warmup
        self.learning_rate = learning_rate
        self.constraint = Constraint()

    def gates(self) -> list[HardConcrete]:
        """All of them."""
        return [module for module in self.modules() if isinstance(module, HardConcrete)]

    @abstractmethod
    def sparsity(self) -> Tensor:
        """The part of what can be cut that is expected to be, a scalar from 0 to 1."""

    def aim(self, step: int, steps: int) -> float:
        """The target of this step."""
        rise = self.warmup * steps
        return self.target if step >= rise else self.target * step / rise

    def penalty(self, step: int, steps: int) -> Tensor:
        """What the constraint adds to the loss."""
        total: Tensor = self.constraint(self.sparsity(), self.aim(step, steps))
        return total

    def groups(self) -> list[dict[str, Any]]:
        """Gates descend, multipliers climb."""
        logits = [gate.logits for gate in self.gates()]
        return [
            {"params": logits, "lr": self.learning_rate},
            {"params": list(self.constraint.parameters()), "lr": self.learning_rate, "maximize": True},
        ]
