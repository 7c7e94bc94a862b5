"""The third of DistilBERT's losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn.functional import cosine_similarity

from compresskit import Batch, Distiller, Trace
from compresskit_students.means import over_tokens


@final
@dataclass(frozen=True)
class Cosine(Distiller):
    """One minus the cosine between the last hidden states (DistilBERT, Sanh et al. 2019, arXiv:1910.01108, section 2).

    The mean over a text's tokens, then over texts.
    """

    name: ClassVar[str] = "cosine"
    needs_hidden: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    same_hidden_size: ClassVar[bool] = True

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples."""
        assert teacher is not None
        near = cosine_similarity(student.hidden[-1].float(), teacher.hidden[-1].float(), dim=-1)  # (batch, tokens)
        return over_tokens(1 - near, student.mask)
