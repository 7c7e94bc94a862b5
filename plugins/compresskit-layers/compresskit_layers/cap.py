"""CAP's contrastive terms."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from compresskit import Bank, Batch, CompresskitError, Distiller, Trace


class Entries(NamedTuple):
    """Some of a bank's: features (entries, size) in fp32, and the rows (entries,) that they are of, with labels."""

    features: Tensor
    rows: Tensor
    labels: Tensor


def draw(bank: Bank, index: Tensor, extra: int) -> Entries:
    """The entries of the batch's rows, and `extra` of the others by torch's global generator; on the batch's device.

    Args:
        index: (batch,) rows.
    """
    models, rows, _ = bank.features.shape
    own = (index.cpu() + rows * torch.arange(models).unsqueeze(1)).flatten()
    # At most so many of these are the batch's own, so `extra` others are left where there are as many.
    others = some(models * rows, extra + len(own))
    others = others[~torch.isin(others, own)][:extra]
    chosen = torch.cat([own, others])
    features, numbers = bank.features.flatten(0, 1)[chosen], chosen % rows
    return Entries(features.to(index.device).float(), numbers.to(index.device), bank.labels[numbers].to(index.device))


def some(total: int, count: int) -> Tensor:
    """That many different numbers below a total, or all of them, in random order."""
    if total < 16 * count:
        return torch.randperm(total)[:count]
    # Putting a large bank in order for each step would take longer than the step.
    drawn: Tensor = torch.unique(torch.randint(total, (2 * count,)))
    return drawn[torch.randperm(len(drawn))[:count]]


@dataclass(frozen=True)
class Contrast(Distiller):
    """What both terms share: how features are compared, and with which entries of a bank.

    Args:
        temperature: by which cosines are divided.
        extra: entries drawn from each bank in each step, beside those of the batch's own rows.
    """

    needs_teacher: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = True
    needs_banks: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    same_hidden_size: ClassVar[bool] = True

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    extra: Annotated[int, Field(ge=1)] = 4096

    @abstractmethod
    def pairs(self, entries: Entries, batch: Batch) -> tuple[Tensor, Tensor]:
        """(batch, entries) bool each: which entries an example should be like, and which it is compared with at all."""

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over banks.

        Raises:
            CompresskitError: a bank's features are of another size than the student's.
        """
        first = student.hidden[-1][:, 0]
        # Divided by the temperature, the eight bits of bfloat16 would be off by several hundredths.
        with torch.autocast(first.device.type, enabled=False):
            anchors = normalize(first.float(), dim=-1)
            terms = [self._term(anchors, bank, batch) for bank in student.banks.values()]
        return torch.stack(terms).sum()

    def _term(self, anchors: Tensor, bank: Bank, batch: Batch) -> Tensor:
        theirs, ours = bank.features.shape[-1], anchors.shape[-1]
        if theirs != ours:
            raise CompresskitError(
                f"{self.name}: a bank's features have {theirs} numbers and the student's hidden states {ours}; "
                "name models of the same hidden size"
            )
        entries = draw(bank, batch["index"], self.extra)
        positive, compared = self.pairs(entries, batch)
        cosines = anchors @ normalize(entries.features, dim=-1).T  # (batch, entries)
        # Finite, so that there is no NaN on the way where an example is compared with nothing.
        scores = (cosines / self.temperature).masked_fill(~compared, torch.finfo(torch.float32).min)
        logs = torch.where(positive, log_softmax(scores, dim=-1), 0.0)
        return -(logs.sum(dim=-1) / positive.sum(dim=-1).clamp(min=1)).mean()


@final
@dataclass(frozen=True)
class InfoNCE(Contrast):
    """Make the student's feature of a text like the banks' features of the same text (InfoNCE, the unsupervised term).

    A term of CAP (Xu et al. 2022, arXiv:2112.07198). With s_j the cosine of the student's feature and entry j of a
    bank, and p the entry of the same text: -s_p / temperature + log sum over j of exp(s_j / temperature), averaged over
    the batch and added up over the banks. A feature is the first token's last hidden state. Where a bank holds several
    models, a text has an entry of each, and the mean over them counts.

    Args:
        temperature: by which cosines are divided.
        extra: entries drawn from each bank in each step, beside those of the batch's own texts; all where there are
            fewer.
    """

    name: ClassVar[str] = "info-nce"

    def pairs(self, entries: Entries, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same text, among all."""
        same = entries.rows == batch["index"].unsqueeze(1)
        return same, torch.ones_like(same)


@final
@dataclass(frozen=True)
class SupCon(Contrast):
    """Make the student's feature of a text like the banks' features of its class (SupCon, the supervised term).

    A term of CAP (Xu et al. 2022, arXiv:2112.07198). As `info-nce`, but the entries to be like are those of all other
    texts with the same label, over which the mean is taken, and a text is never compared with itself. A text that is
    the only one of its class among the entries adds nothing. Not for regression, where there are no classes.

    Args:
        temperature: by which cosines are divided.
        extra: entries drawn from each bank in each step, beside those of the batch's own texts; all where there are
            fewer.
    """

    name: ClassVar[str] = "sup-con"
    needs_classes: ClassVar[bool] = True

    def pairs(self, entries: Entries, batch: Batch) -> tuple[Tensor, Tensor]:
        """Other texts of the same class, among all other texts.

        Raises:
            CompresskitError: the labels are numbers.
        """
        labels = batch["labels"]
        if labels.is_floating_point():
            raise CompresskitError("sup-con: labels that are numbers make no classes; use info-nce alone")
        others = entries.rows != batch["index"].unsqueeze(1)
        return others & (entries.labels == labels.unsqueeze(1)), others
