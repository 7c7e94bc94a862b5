"""What every Distiller must do, on traces of a student and a teacher of three layers with an exit after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from compresskit.errors import CompresskitError
from compresskit.interfaces import Bank, Batch, Distiller, Projections, Trace
from compresskit.losses import looks_at_hidden
from compresskit.testing.requirements import like, require, same

LENGTHS = (6, 4, 2, 5)
"""Tokens of the four examples."""

TOKENS, HIDDEN, LAYERS, HEADS = 6, 8, 3, 2
ROWS = len(LENGTHS) + 2
"""In a bank: those of the batch, and two more."""
NEAR = 1e-5


def checks() -> Iterator[tuple[str, Callable[[Distiller], None]]]:
    """Every check with its name."""
    for check in (
        is_a_finite_scalar,
        is_the_mean_over_examples,
        moves_the_student,
        is_content_with_a_copy_of_the_teacher,
        ignores_what_is_in_padding,
        ignores_how_much_padding_there_is,
        ignores_the_order_of_a_bank,
        is_finite_for_the_only_example_of_a_class,
        changes_nothing,
    ):
        yield check.__name__, check


def is_a_finite_scalar(distiller: Distiller) -> None:
    """For two and three classes; for regression too, unless it raises a CompresskitError that says it can't."""
    for classes in (1, 2, 3):
        try:
            loss = _loss(distiller, _trace(distiller, classes, 1), _trace(distiller, classes, 2), _batch(classes))
        except CompresskitError:
            require(classes == 1, type(distiller), "refuses classification")
            continue
        sound = tuple(loss.shape) == () and loss.is_floating_point() and bool(torch.isfinite(loss))
        require(sound, type(distiller), f"returns {loss!r} for {classes} outputs; a finite scalar")


def is_the_mean_over_examples(distiller: Distiller) -> None:
    """So that it means the same whatever the batch size."""
    student, teacher, batch = _trace(distiller, 3, 1), _trace(distiller, 3, 2), _batch(3)
    whole = float(_loss(distiller, student, teacher, batch))
    each = [
        float(_loss(distiller, _row(student, row), _row(teacher, row), {k: v[row : row + 1] for k, v in batch.items()}))
        for row in range(len(LENGTHS))
    ]
    mean = sum(each) / len(each)
    near = abs(whole - mean) <= NEAR * max(1.0, abs(mean))
    require(near, type(distiller), f"is {whole:.6g} for a batch whose examples have a mean of {mean:.6g}")


def moves_the_student(distiller: Distiller) -> None:
    """Gradients are finite and somewhere not zero, and none goes missing on the way."""
    student = _learning(_trace(distiller, 3, 1))
    gradients = _gradients(distiller, student, _trace(distiller, 3, 2))
    require(bool(gradients), type(distiller), "can't be differentiated with respect to the student")
    finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    require(finite, type(distiller), "has a gradient with NaN or infinity")
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    require(largest > NEAR, type(distiller), "has no gradient where the student differs from what it should learn")


def is_content_with_a_copy_of_the_teacher(distiller: Distiller) -> None:
    """Where a teacher is what it learns from, a student that does as the teacher does has nothing to learn."""
    if not distiller.needs_teacher:
        return
    teacher = _trace(distiller, 3, 2)
    gradients = _gradients(distiller, _learning(teacher), teacher)
    largest = max((float(gradient.abs().max()) for gradient in gradients), default=0.0)
    require(largest < NEAR, type(distiller), f"has a gradient of {largest:.2g} where the student equals its teacher")


def ignores_what_is_in_padding(distiller: Distiller) -> None:
    """Hidden states of padding mean nothing."""
    student, teacher, batch = _trace(distiller, 3, 1), _trace(distiller, 3, 2), _batch(3)
    clean = float(_loss(distiller, student, teacher, batch))
    noise = (1 - student.mask.float()).unsqueeze(-1) * 9
    noisy = _with(student, lambda state: state + noise, lambda part: part + noise.unsqueeze(1))
    dirty = float(_loss(distiller, noisy, teacher, batch))
    require(abs(clean - dirty) < NEAR, type(distiller), f"goes from {clean:.6g} to {dirty:.6g} with what is in padding")


def ignores_how_much_padding_there_is(distiller: Distiller) -> None:
    """The same texts in a longer batch."""
    student, teacher, batch = _trace(distiller, 3, 1), _trace(distiller, 3, 2), _batch(3)
    short = float(_loss(distiller, student, teacher, batch))
    longer = {**batch, "attention_mask": _padded(batch["attention_mask"]), "input_ids": _padded(batch["input_ids"])}
    long = float(_loss(distiller, _longer(student), _longer(teacher), longer))
    require(abs(short - long) < NEAR, type(distiller), f"goes from {short:.6g} to {long:.6g} with more padding")


def ignores_the_order_of_a_bank(distiller: Distiller) -> None:
    """Of its models and of its rows. A bank is small here: a distiller that draws from it should look at all of it."""
    if not distiller.needs_banks:
        return
    student, teacher, batch = _trace(distiller, 3, 1), _trace(distiller, 3, 2), _batch(3)
    before = float(_loss(distiller, student, teacher, batch))
    order = torch.arange(ROWS).flip(0)
    turned = {name: Bank(bank.features.flip(0)[:, order], bank.labels[order]) for name, bank in student.banks.items()}
    after = float(_loss(distiller, replace(student, banks=turned), teacher, {**batch, "index": order[batch["index"]]}))
    near = abs(before - after) < NEAR * max(1.0, abs(before))
    require(near, type(distiller), f"goes from {before:.6g} to {after:.6g} with the order of what is in a bank")


def is_finite_for_the_only_example_of_a_class(distiller: Distiller) -> None:
    """Where no other row of a bank has its label, there is nothing to take a mean of."""
    if not distiller.needs_banks:
        return
    student, teacher, batch = _trace(distiller, ROWS, 1), _trace(distiller, ROWS, 2), _batch(ROWS)
    alone = {name: replace(bank, labels=torch.arange(ROWS)) for name, bank in student.banks.items()}
    student, batch = _learning(replace(student, banks=alone)), {**batch, "labels": batch["index"]}
    loss = _loss(distiller, student, teacher, batch)
    require(bool(torch.isfinite(loss)), type(distiller), f"is {loss.item()} where each example is alone in its class")
    for gradient in _slopes(loss, student):
        finite = bool(torch.isfinite(gradient).all())
        require(finite, type(distiller), "has a gradient with NaN or infinity where each example is alone in its class")


def changes_nothing(distiller: Distiller) -> None:
    """Other terms of the loss look at the same tensors."""
    student, teacher, batch = _trace(distiller, 3, 1), _trace(distiller, 3, 2), _batch(3)
    tensors = [*_tensors(student), *_tensors(teacher), *batch.values()]
    before = [tensor.clone() for tensor in tensors]
    _loss(distiller, student, teacher, batch)
    unchanged = all(same(now, then) for now, then in zip(tensors, before, strict=True))
    require(unchanged, type(distiller), "changes what it is given; work on a copy")


def _loss(distiller: Distiller, student: Trace, teacher: Trace, batch: Batch) -> Tensor:
    return distiller.loss(student, teacher if distiller.needs_teacher else None, batch)


def _trace(distiller: Distiller, classes: int, seed: int) -> Trace:
    """A made-up trace; hidden states only where the distiller says that it needs them."""
    logits = {layer: like((len(LENGTHS), classes), seed=100 * seed + layer) for layer in range(1, LAYERS + 1)}
    states = range(LAYERS + 1) if looks_at_hidden(distiller) else ()
    hidden = tuple(like((len(LENGTHS), TOKENS, HIDDEN), seed=1000 * seed + state) for state in states)
    depth = range(1, LAYERS + 1) if distiller.needs_attention else ()
    size = (len(LENGTHS), HEADS, TOKENS, HIDDEN // HEADS)
    attention = tuple(
        Projections(*(like(size, seed=10_000 * seed + 10 * layer + part) for part in range(3))) for layer in depth
    )
    # A projection that is still the identity.
    projected = hidden if distiller.projects else ()
    banks = _banks(classes) if distiller.needs_banks else {}
    alive = tuple(states)[1:]
    return Trace(logits, hidden, _mask(), attention=attention, projected=projected, alive=alive, banks=banks)


def _banks(classes: int) -> dict[str, Bank]:
    """One of one model, one of two, of the batch's rows and two more."""
    labels = torch.cat([_batch(classes)["labels"], _batch(classes)["labels"][:2]])
    sizes = {"one": 1, "two": 2}
    return {name: Bank(like((models, ROWS, HIDDEN), seed=models).half(), labels) for name, models in sizes.items()}


def _mask() -> Tensor:
    return torch.tensor([[int(place < length) for place in range(TOKENS)] for length in LENGTHS])


def _batch(classes: int) -> Batch:
    labels = torch.tensor([0, 1, 0, 1]) if classes > 1 else torch.tensor([0.5, 2.0, -1.0, 0.0])
    index = torch.arange(len(LENGTHS))
    return {"labels": labels, "attention_mask": _mask(), "input_ids": _mask() * 7, "index": index}


def _tensors(trace: Trace) -> list[Tensor]:
    parts = [part for layer in trace.attention for part in layer]
    banks = [tensor for bank in trace.banks.values() for tensor in (bank.features, bank.labels)]
    return [*trace.logits.values(), *trace.hidden, *parts, trace.mask, *banks]


def _row(trace: Trace, row: int) -> Trace:
    one = slice(row, row + 1)
    logits = {layer: answer[one] for layer, answer in trace.logits.items()}
    return replace(_with(trace, lambda state: state[one], lambda part: part[one]), logits=logits, mask=trace.mask[one])


def _learning(trace: Trace) -> Trace:
    """A copy whose logits and hidden states want gradients."""
    logits = {layer: answer.clone().requires_grad_() for layer, answer in trace.logits.items()}

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.clone().requires_grad_()

    return replace(_with(trace, leaf, leaf), logits=logits)


def _gradients(distiller: Distiller, student: Trace, teacher: Trace) -> list[Tensor]:
    return _slopes(_loss(distiller, student, teacher, _batch(3)), student)


def _slopes(loss: Tensor, student: Trace) -> list[Tensor]:
    """Gradients of the student's tensors, of those that have any."""
    if not loss.requires_grad:
        return []
    leaves = [tensor for tensor in _tensors(student) if tensor.requires_grad]
    loss.backward()  # type: ignore[no-untyped-call]
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def _padded(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, torch.zeros_like(tensor[:, :2])], dim=1)


def _longer(trace: Trace) -> Trace:
    longer = _with(trace, _padded, lambda part: torch.cat([part, torch.zeros_like(part[:, :, :2])], dim=2))
    return replace(longer, mask=_padded(trace.mask))


def _with(trace: Trace, hidden: Callable[[Tensor], Tensor], part: Callable[[Tensor], Tensor]) -> Trace:
    """The trace with its hidden states, and with queries, keys and values, made anew; projections follow."""
    states = tuple(map(hidden, trace.hidden))
    attention = tuple(Projections(*map(part, layer)) for layer in trace.attention)
    return replace(trace, hidden=states, attention=attention, projected=states if trace.projected else ())
