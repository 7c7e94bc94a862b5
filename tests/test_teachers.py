"""A teacher says the same whoever asks, whenever: in eval mode, with its own inputs, its classes matched by name."""

from __future__ import annotations

import random

import pytest
import torch

from compresskit.batches import batches, collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.data import DataOptions, load_corpus
from compresskit.edits import AddExits, CutLayers
from compresskit.errors import CheckpointError
from compresskit.model import wrap
from compresskit.run import Run
from compresskit.strategies.hidden_states import HiddenStates
from compresskit.strategies.predictions import Predictions
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.surgery import perform
from compresskit.teachers import BATCH, Teacher, match_labels
from compresskit.testing import tiny_model, tiny_text, tiny_tokenizer
from compresskit.training import Lesson, teach
from compresskit.verbs import Distill, Loss

ROWS = 70
"""Three batches for the teacher, the last one short."""


def model_of(family="bert", exits=(1, 2), seed=0, **config):
    model = wrap(tiny_model(family, seed=seed, **config), load_catalogue().anatomy(family))
    torch.manual_seed(seed)
    if exits:
        perform(AddExits(exits, ClsTanh(), False), model)
    return model


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    corpus = load_corpus(str(tiny_text(tmp_path_factory.mktemp("data"), ROWS, eval_rows=2)), DataOptions())
    return encode(corpus.train, tiny_tokenizer(), 128, token_types=True)


@pytest.fixture
def teacher():
    def teacher(run=None, columns=(0, 1), **how):
        return Teacher(model_of(seed=5, **how), list(columns), run or Run())

    return teacher


def batch_of(rows, indices):
    return collate(0)([rows[index] for index in indices])


def shuffled(seed, size=16):
    order = list(range(ROWS))
    random.Random(seed).shuffle(order)
    return [order[start : start + size] for start in range(0, ROWS, size)]


# --- how it is asked


def test_a_teacher_answers_in_eval_mode_without_gradients(teacher, rows):
    """Dropout, which is half of everything here, must never show."""
    half = teacher(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    batch = batch_of(rows, range(20))
    calm = half.model.trace(batch, hidden=True)
    half.model.train()
    assert not torch.equal(half.model.trace(batch).last, calm.last)
    asked = half.ask(batch, hidden=True)
    assert not half.model.training
    assert list(asked.logits) == [1, 2]
    for number in (1, 2):
        assert torch.equal(asked.logits[number], calm.logits[number])
        assert not asked.logits[number].requires_grad
    assert len(asked.hidden) == 3
    assert all(torch.equal(one, other) for one, other in zip(asked.hidden, calm.hidden, strict=True))
    half.model.train()
    half.study(rows, collate(0), hidden=True)
    assert torch.equal(half.trace(batch_of(rows, range(20)), hidden=False).last, half.trace(batch, hidden=False).last)
    assert not half.model.training


def test_a_teacher_goes_the_whole_way_though_its_exits_would_let_everybody_leave(teacher, rows):
    eager = teacher()
    eager.model.set_policy({"by": "entropy", "with": {"threshold": 100.0}})
    batch = batch_of(rows, range(8))
    assert eager.model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).exits.tolist() == [1] * 8
    assert list(eager.ask(batch, hidden=False).logits) == [1, 2]
    assert not torch.equal(eager.ask(batch, hidden=False).logits[1], eager.ask(batch, hidden=False).logits[2])


def test_a_teacher_gets_token_types_though_its_student_takes_none(tmp_path):
    tokenizer = tiny_tokenizer("distilbert")
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
    corpus = load_corpus(str(tiny_text(tmp_path / "data", 16, eval_rows=2, pairs=True)), DataOptions())
    pairs = encode(corpus.train, tokenizer, 128, token_types=True)
    stock = tiny_model(seed=5)
    teacher = Teacher(wrap(stock, load_catalogue().anatomy("bert")), [0, 1], Run())
    texts = [list(column) for column in zip(*corpus.train.texts, strict=True)]
    coded = tiny_tokenizer("bert")(*texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        right = stock(**coded).logits
        blind = stock(coded["input_ids"], coded["attention_mask"]).logits
    assert (right - blind).abs().max() > 0.01

    teacher.study(pairs, collate(0), hidden=False)
    batch = batch_of(pairs, range(16))
    torch.testing.assert_close(teacher.ask(batch, hidden=False).last, right)
    torch.testing.assert_close(teacher.trace(batch, hidden=False).last, right)

    # The student trains on the same batches and never sees the types.
    student = model_of("distilbert", exits=())
    losses = {"predictions": Loss(Predictions())}
    verb = Distill(distill="teacher", by=losses, epochs=1, batch_size=8)
    seen = []
    trace = student.trace
    student.trace = lambda batch, *rest: seen.append(sorted(batch)) or trace(batch, *rest)
    teach(Lesson(student, pairs, collate(0), losses, teacher, verb, 1e-3, 1, tmp_path / "scratch", Run()))
    assert seen == [["attention_mask", "input_ids"]] * 2


def test_a_student_with_token_types_can_learn_from_a_teacher_without(rows):
    teacher = Teacher(model_of("distilbert", exits=(), seed=5), [0, 1], Run())
    teacher.study(rows, collate(0), hidden=True)
    batch = batch_of(rows, range(9))
    assert "token_type_ids" in batch
    torch.testing.assert_close(teacher.trace(batch, hidden=False).last, teacher.ask(batch, hidden=False).last)


# --- classes


@pytest.mark.parametrize(
    ("teacher", "student", "columns"),
    [
        (["no", "yes"], ["no", "yes"], [0, 1]),
        (["yes", "no"], ["no", "yes"], [1, 0]),
        (["NEUTRAL", "Contradiction", "entailment"], ["contradiction", "entailment", "neutral"], [1, 2, 0]),
        (["no", "No", "NO"], ["NO", "no", "No"], [2, 0, 1]),
        (["LABEL_0"], ["score"], [0]),
        (["LABEL_1", "LABEL_0"], ["0", "1"], [1, 0]),
    ],
)
def test_classes_are_matched_by_name(teacher, student, columns):
    assert match_labels(teacher, student, "t") == columns


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        (["negative", "positive"], ["no", "yes"]),
        (["no", "yes", "maybe"], ["no", "yes"]),
        (["no", "yes"], ["no", "yes", "maybe"]),
        (["no", "NO"], ["no", "yes"]),
        (["score"], ["no", "yes"]),
    ],
)
def test_classes_of_other_names_are_refused(teacher, student):
    with pytest.raises(CheckpointError) as caught:
        match_labels(teacher, student, "assistant")
    assert str(caught.value) == (
        f"teacher assistant knows the labels {', '.join(teacher)}, the student {', '.join(student)}; "
        "give both the same names in config.json (id2label) or use another teacher"
    )


@pytest.mark.parametrize("studied", [False, True])
def test_a_teacher_with_its_classes_in_another_order_gives_the_same_loss(rows, studied):
    losses = []
    names = ["awful", "so-so", "fine"]
    for order in ([0, 1, 2], [2, 0, 1]):
        model = model_of(seed=5, labels=3)
        with torch.no_grad():
            for head in model.exits.values():
                head.classifier.weight.normal_(std=1, generator=torch.Generator().manual_seed(1))
                head.classifier.weight.copy_(head.classifier.weight[order])
        teacher = Teacher(model, match_labels([names[old] for old in order], names, "t"), Run())
        if studied:
            teacher.study(rows, collate(0), hidden=False)
        batch = batch_of(rows, range(32))
        ours = model_of(seed=1, labels=3).trace(batch)
        losses.append(Predictions().loss(ours, teacher.trace(batch, hidden=False), batch).item())
        unmatched = Teacher(model, [0, 1, 2], Run()).trace(batch, hidden=False)
        losses.append(Predictions().loss(ours, unmatched, batch).item())
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)
    assert losses[3] != pytest.approx(losses[0], rel=1e-3)


# --- what is remembered


@pytest.mark.parametrize("layers", [2, 1])
def test_what_is_remembered_makes_the_same_loss_as_what_is_said_now(teacher, rows, layers):
    wise = teacher()
    wise.study(rows, collate(0), hidden=True)
    student = model_of(seed=1)
    if layers == 1:
        perform(CutLayers((0,)), student)
    for indices in shuffled(3):
        batch = batch_of(rows, indices)
        live, kept = wise.ask(batch, hidden=True), wise.trace(batch, hidden=True)
        ours = student.trace(batch, hidden=True)
        for distiller in (Predictions(), HiddenStates(), HiddenStates(average="positions")):
            expected = distiller.loss(ours, live, batch).item()
            assert distiller.loss(ours, kept, batch).item() == pytest.approx(expected, rel=1e-3)
        # Hidden states are remembered in half precision, which has 11 bits.
        for now, then in zip(live.hidden, kept.hidden, strict=True):
            mask = batch["attention_mask"].unsqueeze(-1)
            torch.testing.assert_close(then * mask, now * mask, rtol=2**-10, atol=1e-4)
            assert not (then * (1 - mask)).any()
        assert torch.equal(kept.mask, batch["attention_mask"])


def test_hidden_states_are_remembered_as_far_as_the_budget_goes(teacher, rows):
    width, layers = 32, 2
    needed = sum(rows.lengths) * (layers + 1) * width * 2
    enough, short = teacher(Run(cache_bytes=needed)), teacher(Run(cache_bytes=needed - 1))
    for wise in (enough, short):
        wise.study(rows, collate(0), hidden=True)
        assert wise.hidden_bytes(rows) == needed
    assert enough.hidden.nbytes == needed
    assert short.hidden is None
    assert all(torch.equal(enough.logits[number], short.logits[number]) for number in (1, 2))
    batch = batch_of(rows, range(10))
    live = short.ask(batch, hidden=True)
    answered = short.trace(batch, hidden=True)
    assert all(torch.equal(one, other) for one, other in zip(live.hidden, answered.hidden, strict=True))


def test_nothing_is_asked_twice(teacher, rows, monkeypatch):
    wise = teacher()
    asked = []
    trace = wise.model.trace
    monkeypatch.setattr(wise.model, "trace", lambda batch, **how: asked.append(how["hidden"]) or trace(batch, **how))
    wise.study(rows, collate(0), hidden=False)
    wise.study(rows, collate(0), hidden=False)
    assert asked == [False] * 3
    wise.study(rows, collate(0), hidden=True)
    wise.study(rows, collate(0), hidden=True)
    wise.study(rows, collate(0), hidden=False)
    assert asked == [False] * 3 + [True] * 3
    for indices in shuffled(1):
        wise.trace(batch_of(rows, indices), hidden=True)
    assert len(asked) == 6


def test_beyond_the_budget_logits_are_still_asked_for_once(teacher, rows, monkeypatch):
    wise = teacher(Run(cache_bytes=0))
    asked = []
    trace = wise.model.trace
    monkeypatch.setattr(wise.model, "trace", lambda batch, **how: asked.append(how["hidden"]) or trace(batch, **how))
    wise.study(rows, collate(0), hidden=True)
    wise.study(rows, collate(0), hidden=True)
    wise.trace(batch_of(rows, range(5)), hidden=False)
    assert asked == [False] * 3
    wise.trace(batch_of(rows, range(5)), hidden=True)
    assert asked == [False] * 3 + [True]


def test_what_is_remembered_depends_on_the_rows_alone(teacher, rows):
    """Not on chance, nor on which batches were looked up before, nor on what is in a batch beside the row."""
    one, other = teacher(), teacher()
    torch.manual_seed(1)
    one.study(rows, collate(0), hidden=True)
    for indices in shuffled(1):
        one.trace(batch_of(rows, indices), hidden=True)
    torch.manual_seed(2)
    other.model.train()
    other.study(rows, collate(0), hidden=False)
    other.study(rows, collate(0), hidden=True)
    assert torch.equal(one.hidden, other.hidden)
    assert all(torch.equal(one.logits[number], other.logits[number]) for number in (1, 2))
    together = one.trace(batch_of(rows, range(ROWS)), hidden=True)
    for indices in shuffled(2, size=7):
        apart = other.trace(batch_of(rows, indices), hidden=True)
        assert torch.equal(apart.last, together.last[indices])
        tokens = apart.hidden[0].shape[1]
        for few, all_ in zip(apart.hidden, together.hidden, strict=True):
            assert torch.equal(few, all_[indices, :tokens])


def test_rows_are_asked_about_in_a_fixed_order_the_longest_first(teacher, rows, monkeypatch):
    wise = teacher()
    asked = []
    ask = wise.ask
    monkeypatch.setattr(wise, "ask", lambda batch, hidden: asked.append(batch["index"].tolist()) or ask(batch, hidden))
    wise.study(rows, collate(0), hidden=False)
    assert asked == batches(rows, BATCH, "length")
    lengths = [rows.lengths[index] for part in asked for index in part]
    assert lengths == sorted(rows.lengths, reverse=True)


def test_a_teacher_under_bf16_says_nearly_the_same(teacher, rows):
    exact, rounded = teacher(), teacher(Run(bf16=True))
    for wise in (exact, rounded):
        wise.study(rows, collate(0), hidden=True)
    batch = batch_of(rows, range(32))
    one, other = exact.trace(batch, hidden=True), rounded.trace(batch, hidden=True)
    assert not torch.equal(one.last, other.last)
    assert other.last.dtype == other.hidden[1].dtype == torch.float32
    torch.testing.assert_close(other.last, one.last, rtol=0, atol=0.03)
