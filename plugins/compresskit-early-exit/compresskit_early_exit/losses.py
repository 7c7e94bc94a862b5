"""What the papers minimise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from compresskit import Batch, CompresskitError, Distiller, Trace


def error(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the answers of one exit, (batch, classes), are from the labels: a scalar, the mean over the batch.

    Cross-entropy; with one output (regression) the squared error, and with several labels at once (float labels, one
    column per class) the mean of the binary cross-entropies.
    """
    z = logits.float()
    if z.shape[-1] == 1:
        return (z.squeeze(-1) - labels.float()).square().mean()
    if labels.is_floating_point():
        return binary_cross_entropy_with_logits(z, labels.float())
    return cross_entropy(z, labels)


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@final
@dataclass(frozen=True)
class WeightedLabels(Distiller):
    """Cross-entropy with the labels at every exit, some exits weighing more than others.

    - `depth`: the mean over exits, weighted by their layers' numbers, as in PABEE (Zhou et al. 2020, arXiv:2006.04152,
      equation 5): the last of twelve exits counts 12/78.
    - a list: their sum, times one weight for each exit from the first to the last, as in BranchyNet (Teerapittayanon
      et al. 2016, arXiv:1709.01686, equation 1).

    The built-in `labels` is their plain sum. With one output (regression) it is the squared error.

    Args:
        weights: `depth`, or a list of numbers.
    """

    name: ClassVar[str] = "weighted-labels"
    needs_teacher: ClassVar[bool] = False

    weights: Literal["depth"] | tuple[Weight, ...] = "depth"

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, weighted over exits.

        Raises:
            CompresskitError: there are more or fewer weights than exits.
        """
        exits = list(student.logits)
        each = torch.stack([error(student.logits[number], batch["labels"]) for number in exits])
        if self.weights == "depth":
            return (each * each.new_tensor(exits)).sum() / sum(exits)
        if len(self.weights) != len(exits):
            raise CompresskitError(
                f"weighted-labels: {len(self.weights)} weights for {len(exits)} exits; give one weight for each exit"
            )
        return (each * each.new_tensor(self.weights)).sum()


@final
@dataclass(frozen=True)
class AlternatingLabels(Distiller):
    """Cross-entropy at the last exit in one step, at every exit in the next (BERxiT, Xin et al. 2021, section 3.2).

    The first step, and every second one after it, minimises the last exit's alone; those between the sum over all
    exits. With one output (regression) it is the squared error.

    Args:
        last: whether the last exit's loss is in the sum too; BERxiT leaves it out where `certainty` is learned.
    """

    name: ClassVar[str] = "alternating-labels"
    needs_teacher: ClassVar[bool] = False

    last: bool = True

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over the exits of this step."""
        deepest = max(student.logits)
        if student.step % 2 == 0 or len(student.logits) == 1:
            return error(student.last, batch["labels"])
        exits = [number for number in student.logits if self.last or number != deepest]
        return torch.stack([error(student.logits[number], batch["labels"]) for number in exits]).sum()


@final
@dataclass(frozen=True)
class Certainty(Distiller):
    """Knowing when one is wrong: learning to exit (Xin et al. 2021, BERxiT, EACL, section 3.3).

    The squared difference of an exit's probability of being wrong and whether it is, averaged over examples and over
    the exits below the last layer. It is on in every step, beside `alternating-labels` too. Its gradient flows into the
    layers, as in the released code. In regression the target is |tanh(answer - label)|. It needs exits that say how
    likely they are to be wrong, such as `head: dense-tanh-certain`; without any it is 0.
    """

    name: ClassVar[str] = "certainty"
    needs_teacher: ClassVar[bool] = False

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples and exits."""
        labels, deepest = batch["labels"], max(student.logits)
        asked = [number for number in student.signals if number != deepest]
        if not asked:
            return student.last.sum() * 0
        each = []
        for number in asked:
            sure = torch.sigmoid(student.signals[number].float())
            each.append((sure - self._wrong(student.logits[number].detach(), labels)).square().mean())
        return torch.stack(each).mean()

    def _wrong(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[-1] == 1:
            return torch.tanh(logits.squeeze(-1).float() - labels.float()).abs()
        if labels.is_floating_point():
            return ((logits > 0) != (labels > 0.5)).any(dim=-1).float()
        return (logits.argmax(dim=-1) != labels).float()


@final
@dataclass(frozen=True)
class SelfDistillation(Distiller):
    """Every exit learns what the last one says of the same text (FastBERT, Liu et al. 2020, arXiv:2004.02178).

    The sum over the exits below the last layer of the divergence between their predictions and the last exit's, which
    counts as given. No labels are looked at. With one output (regression) it is the squared difference.

    Args:
        reading: `released`, as the authors' code: KL(last || exit); `paper`, as their equation: KL(exit || last).
    """

    name: ClassVar[str] = "self-distillation"
    needs_teacher: ClassVar[bool] = False

    reading: Literal["released", "paper"] = "released"

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over exits."""
        deepest, last = max(student.logits), student.last.detach().float()
        shallow = [logits.float() for number, logits in student.logits.items() if number != deepest]
        if not shallow:
            return student.last.sum() * 0
        z = torch.stack(shallow)  # (exits, batch, classes)
        if z.shape[-1] == 1:
            return (z - last).square().mean(dim=(1, 2)).sum()
        ours, theirs = torch.log_softmax(z, dim=-1), torch.log_softmax(last, dim=-1).expand_as(z)
        first, second = (theirs, ours) if self.reading == "released" else (ours, theirs)
        return (first.exp() * (first - second)).sum(dim=-1).mean(dim=1).sum()
