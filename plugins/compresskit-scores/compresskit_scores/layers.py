"""What the scores share."""

from __future__ import annotations

import torch
from torch import Tensor


def normalized(scores: Tensor) -> Tensor:
    """A layer's scores over the root of the sum of their squares, so that layers can be compared; zeros stay zeros."""
    length: Tensor = torch.linalg.vector_norm(scores)
    return scores / length.clamp(min=torch.finfo(scores.dtype).tiny)
