"""The Trainer does what the recipe says: which losses, at which rate, in how many steps; and a stopped one goes on."""

from __future__ import annotations

import copy
import errno
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from compresskit import training
from compresskit.batches import LengthGrouped, collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.data import DataOptions, load_corpus
from compresskit.edits import AddExits, ShareLayers
from compresskit.errors import CheckpointError, CompresskitError
from compresskit.interfaces import Distiller, Masker, MaskModule, Masks
from compresskit.model import CompressedForSequenceClassification, wrap
from compresskit.progress import Silent
from compresskit.run import Run
from compresskit.strategies.hidden_states import HiddenStates
from compresskit.strategies.labels import Labels
from compresskit.strategies.predictions import Predictions
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.surgery import perform
from compresskit.teachers import Teacher
from compresskit.testing import tiny_model, tiny_text, tiny_tokenizer
from compresskit.training import WHOLE, Lesson, last_checkpoint, optimizer_steps, teach
from compresskit.verbs import Distill, Loss

pytestmark = pytest.mark.usefixtures("light_collections")
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Watcher(Distiller):
    """The mean of the last answers, noting each batch that it is asked about."""

    name: ClassVar[str] = "watcher"
    needs_teacher: ClassVar[bool] = False

    seen: list
    hidden: bool = False

    @property
    def needs_hidden(self):
        return self.hidden

    def loss(self, student, teacher, batch):
        self.seen.append((batch["index"].tolist(), student))
        return student.last.square().mean()


@dataclass(frozen=True)
class Constant(Distiller):
    """2.5, whatever is answered."""

    name: ClassVar[str] = "constant"
    needs_teacher: ClassVar[bool] = False

    def loss(self, student, teacher, batch):
        return student.last.sum() * 0 + 2.5


@dataclass(frozen=True)
class Nothing(Watcher):
    """Asks about nothing that trains."""

    def loss(self, student, teacher, batch):
        return student.hidden[0].sum()


class Interruption(BaseException):
    """As a kill, but the test lives on."""


def student(exits=(1, 2), seed=0, family="bert", **config):
    model = wrap(tiny_model(family, seed=seed, **config), load_catalogue().anatomy(family))
    torch.manual_seed(seed)
    if exits:
        perform(AddExits(exits, ClsTanh(), False), model)
    return model


@pytest.fixture
def lesson(tmp_path):
    """Makes a `Lesson` of tiny text; keywords beside the named ones are the recipe's."""
    numbers = iter(range(100))

    def lesson(model=None, losses=None, teacher=None, rows=64, run=None, rate=None, folder=None, **options):
        encoded = rows_of(tmp_path / f"data{rows}", rows)
        losses = losses or {"labels": Loss(Labels())}
        settings = {"distill": "teacher", "by": losses, "epochs": 1, "batch_size": 16, "learning_rate": 1e-3} | options
        verb = Distill(label="steps[0] distill", **settings)
        return Lesson(
            model or student(),
            encoded,
            collate(0),
            losses,
            teacher,
            verb,
            rate or verb.learning_rate,
            43,
            folder or tmp_path / f"scratch{next(numbers)}",
            run or Run(),
        )

    return lesson


def rows_of(folder, rows):
    corpus = load_corpus(str(tiny_text(folder, rows, eval_rows=2)), DataOptions())
    return encode(corpus.train, tiny_tokenizer(), 128, token_types=True)


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def watched(monkeypatch):
    """What every optimizer step starts from: gradients and learning rates."""
    steps = []

    def note(optimizer, args, kwargs):
        groups = optimizer.param_groups
        gradients = [None if p.grad is None else p.grad.clone() for group in groups for p in group["params"]]
        moved = [id(p) for group in groups for p in group["params"]]
        steps.append(SimpleNamespace(gradients=gradients, moved=moved, rates=[group["lr"] for group in groups]))

    make = training._optimizer

    def optimizer(lesson):
        made = make(lesson)
        made.register_step_pre_hook(note)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(training, "_optimizer", optimizer)
        yield steps


# --- which losses, which weights


@pytest.mark.parametrize(("accumulation", "calls"), [(1, 1), (2, 2)])
def test_a_loss_is_on_from_its_share_of_the_steps_on(lesson, accumulation, calls):
    early, middle, late = [], [], []
    losses = {
        "early": Loss(Watcher(early)),
        "middle": Loss(Watcher(middle), after=0.3),
        "late": Loss(Watcher(late, hidden=True), after=0.5),
    }
    teach(lesson(losses=losses, epochs=2, gradient_accumulation=accumulation))  # 8 steps
    # 0.3 of 8 steps are 2.4, so the fourth step is the first one after them; half of them are 4.
    assert (len(early), len(middle), len(late)) == (8 * calls, 5 * calls, 4 * calls)
    assert [batch for batch, _ in middle] == [batch for batch, _ in early[3 * calls :]]
    # Hidden states are recorded only while somebody wants them.
    assert [len(trace.hidden) for _, trace in early] == [0] * (4 * calls) + [3] * (4 * calls)


def test_weights_of_losses_multiply_their_gradients(lesson, monkeypatch):
    with watched(monkeypatch) as single:
        teach(lesson(student(**CALM), {"a": Loss(Labels(), 1.0)}, epochs=0.25, max_grad_norm=1e9))
    with watched(monkeypatch) as both:
        losses = {"a": Loss(Labels(), 2.0), "b": Loss(Labels(), 0.5)}
        teach(lesson(student(**CALM), losses, epochs=0.25, max_grad_norm=1e9))
    for one, two in zip(single[0].gradients, both[0].gradients, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(two, 2.5 * one)


def test_train_exits_leaves_the_body_bit_for_bit(lesson):
    model = student()
    before = weights(model)
    teach(lesson(model, epochs=2, train="exits", weight_decay=0.1))
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {f"exits.{layer}.classifier.{part}" for layer in (1, 2) for part in ("weight", "bias")}
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not model.training


@pytest.mark.parametrize(("exits", "read_out", "trained"), [((1, 2), False, (1,)), ((1, 3), True, (1,))])
def test_train_shallow_exits_leaves_the_body_and_the_last_exit_bit_for_bit(lesson, exits, read_out, trained):
    model = student(exits=(), layers=max(exits))
    perform(AddExits(exits, ClsTanh(), read_out), model)
    before = weights(model)
    teach(lesson(model, epochs=2, train="shallow-exits", weight_decay=0.1))
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {f"exits.{layer}.classifier.{part}" for layer in trained for part in ("weight", "bias")}
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("train", ["exits", "shallow-exits"])
def test_train_exits_needs_a_loss_of_their_answers(lesson, train):
    with pytest.raises(CompresskitError) as caught:
        teach(lesson(losses={"nothing": Loss(Nothing([], hidden=True))}, train=train))
    assert str(caught.value) == (
        f"steps[0] distill: no loss that is on moves what 'train: {train}' lets move; "
        "add a loss of the exits' answers, such as predictions"
    )


def test_exits_last_trains_the_last_exit_alone(lesson):
    model = student()
    before = weights(model)
    teach(lesson(model, exits="last"))
    after = weights(model)
    moved = {name for name in after if name.startswith("exits.") and not torch.equal(after[name], before[name])}
    assert moved == {"exits.2.classifier.weight", "exits.2.classifier.bias"}


def test_gradient_equilibrium_acts_only_with_several_exits(lesson):
    assert lesson().equilibrium
    assert not lesson(gradient_equilibrium=False).equilibrium
    assert not lesson(student(exits=())).equilibrium
    assert not lesson(exits="last").equilibrium
    assert lesson().exits == (1, 2)
    assert lesson(exits="last").exits == lesson(student(exits=())).exits == (2,)


def gradients_of(lesson, monkeypatch, **options):
    """What the first and only optimizer step starts from, by name, where a gradient reached it."""
    model = student(**CALM)
    with watched(monkeypatch) as steps:
        teach(lesson(model, epochs=0.25, **options))
    (step,) = steps
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = zip(step.moved, step.gradients, strict=True)
    return {names[moved]: gradient for moved, gradient in found if gradient is not None}


def test_g1_the_trainer_gives_each_layer_the_mean_of_the_gradients_of_the_exits_above(lesson, monkeypatch):
    summed, balanced = (
        gradients_of(lesson, monkeypatch, gradient_equilibrium=equilibrium, max_grad_norm=1e9)
        for equilibrium in (False, True)
    )
    assert summed.keys() == balanced.keys()
    below = ("network.bert.embeddings.", "network.bert.encoder.layer.0.")
    above = ("network.bert.encoder.layer.1.", "exits.1.", "exits.2.")
    assert all(any(name.startswith(part) for name in summed) for part in (*below, *above))
    for name, gradient in summed.items():
        assert name.startswith((*below, *above))
        share = 1 / 2 if name.startswith(below) else 1  # two exits above layer 1, one above layer 2
        torch.testing.assert_close(balanced[name], gradient * share, rtol=1e-6, atol=0, msg=f"{name} is not {share}")


def norm(gradients):
    return torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()


def test_gradients_are_scaled_down_to_the_norm_of_the_options_and_never_up(lesson, monkeypatch):
    whole = gradients_of(lesson, monkeypatch, max_grad_norm=1e9)
    assert norm(whole) > 0.1
    for longest in (0.01, 0.1):
        clipped = gradients_of(lesson, monkeypatch, max_grad_norm=longest)
        assert norm(clipped) == pytest.approx(longest, rel=1e-4)
        for name, gradient in whole.items():
            torch.testing.assert_close(clipped[name], gradient * (longest / norm(whole)), rtol=1e-4, atol=1e-9)
    left = gradients_of(lesson, monkeypatch, max_grad_norm=2 * norm(whole))
    assert all(torch.equal(left[name], gradient) for name, gradient in whole.items())


def test_the_optimizer_is_adamw_with_its_usual_constants(lesson):
    optimizer = training._optimizer(lesson())
    assert type(optimizer) is torch.optim.AdamW
    assert {(group["eps"], group["betas"]) for group in optimizer.param_groups} == {(1e-8, (0.9, 0.999))}


# --- learning rates


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Two of ten steps are warm-up.
        ("linear", [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0, 0.5, *(0.5 + 0.5 * torch.tensor(k * torch.pi / 8).cos().item() for k in range(8))]),
    ],
)
def test_rates_follow_the_schedule_and_exits_have_their_own(lesson, monkeypatch, schedule, expected):
    # In the second round of a repeat with `restore: 1`, 1e-3 has become 4e-3; the exits' own rate grows with it.
    with watched(monkeypatch) as steps:
        teach(lesson(epochs=2.5, warmup=0.2, schedule=schedule, exit_learning_rate=5e-2, restore=1, rate=4e-3))
    assert len(steps) == 10
    for step, factor in zip(steps, expected, strict=True):
        assert step.rates == pytest.approx([4e-3 * factor] * 2 + [2e-1 * factor] * 2)


def test_matrices_decay_and_biases_and_norms_do_not(lesson):
    model = student()
    todo = lesson(model, weight_decay=0.1, exit_learning_rate=5e-3)
    settings = {
        id(weight): (group["lr"], group["weight_decay"])
        for group in training._optimizer(todo).param_groups
        for weight in group["params"]
    }
    named = {name: settings.pop(id(weight)) for name, weight in model.named_parameters()}
    assert not settings
    layer = "network.bert.encoder.layer.1"
    assert named["network.bert.embeddings.word_embeddings.weight"] == (1e-3, 0.1)
    assert named[f"{layer}.attention.self.query.weight"] == (1e-3, 0.1)
    assert named[f"{layer}.attention.self.query.bias"] == (1e-3, 0.0)
    assert named[f"{layer}.output.LayerNorm.weight"] == named[f"{layer}.output.LayerNorm.bias"] == (1e-3, 0.0)
    assert named["exits.2.classifier.weight"] == (5e-3, 0.1)
    assert named["exits.2.classifier.bias"] == (5e-3, 0.0)


def test_without_a_rate_of_their_own_exits_learn_like_the_rest(lesson):
    assert {group["lr"] for group in training._optimizer(lesson(rate=3e-3)).param_groups} == {3e-3}


# --- how many steps, over which rows


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "epochs", "steps"),
    [
        (64, 16, 1, 1, 4),
        (40, 16, 1, 3, 6),  # the last 8 rows of an epoch fill no batch
        (40, 16, 4, 3, 6),
        (46, 16, 8, 2, 4),  # seven parts of a batch are left over
        (64, 16, 2, 0.5, 2),
        (64, 16, 1, 1.75, 7),
        (64, 16, 1, 0.01, 1),
        (10, 16, 1, 3, 3),  # fewer rows than a batch
        (10, 16, 2, 3, 3),
        (16, 16, 1, 2, 2),
    ],
)
def test_the_optimizer_steps_as_often_as_foretold_over_whole_batches(
    lesson, monkeypatch, rows, batch, accumulation, epochs, steps
):
    seen = []
    todo = lesson(
        losses={"watcher": Loss(Watcher(seen))},
        rows=rows,
        batch_size=batch,
        gradient_accumulation=accumulation,
        epochs=epochs,
        run=Run(progress=Counter()),
    )
    assert optimizer_steps(todo.options, rows) == steps
    with watched(monkeypatch) as taken:
        teach(todo)
    assert len(taken) == steps
    assert todo.run.progress.told == [("training", steps, steps)]
    indices = [index for part, _ in seen for index in part]
    size = min(batch, rows)
    assert len(indices) == steps * size
    per_epoch = rows // size * size
    for start in range(0, len(indices), per_epoch):
        epoch = indices[start : start + per_epoch]
        assert len(set(epoch)) == len(epoch)  # no row twice in an epoch


class Counter(Silent):
    """Notes each task with its total and how far it came."""

    def __init__(self):
        self.told = []

    @contextmanager
    def task(self, description, total):
        self.done = 0
        yield self
        self.told.append((description, total, self.done))

    def advance(self, n=1):
        self.done += n


@pytest.mark.parametrize(("rows", "batch", "taken"), [(40, 16, 32), (32, 16, 32), (10, 16, 10), (1, 1, 1)])
def test_a_sampler_yields_whole_batches_as_many_rows_as_it_says(rows, batch, taken):
    order = LengthGrouped([3] * rows, batch, seed=1)
    assert len(order) == len(list(order)) == len(set(order)) == taken


def test_the_loss_is_told_every_fifty_steps(lesson):
    class Hearing(Counter):
        heard: ClassVar[list[str]] = []

        def update(self, description):
            self.heard.append(description)

    teach(lesson(losses={"constant": Loss(Constant())}, rows=16, batch_size=8, epochs=60, run=Run(progress=Hearing())))
    assert Hearing.heard == ["training, loss 2.5"] * 2


def test_each_epoch_has_another_order(lesson):
    seen = []
    teach(lesson(losses={"watcher": Loss(Watcher(seen))}, epochs=2))
    first, second = ([index for part, _ in half for index in part] for half in (seen[:4], seen[4:]))
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_parts_of_a_batch_make_the_same_update_as_the_batch(lesson, monkeypatch, accumulation):
    results = []
    for parts in (1, accumulation):
        model, seen = student(**CALM), []
        losses = {"watcher": Loss(Watcher(seen)), "labels": Loss(Labels())}
        with watched(monkeypatch) as steps:
            teach(lesson(model, losses, rows=40, epochs=2, gradient_accumulation=parts))
        indices = [part for part, _ in seen]
        read = [set(chain.from_iterable(indices[at : at + parts])) for at in range(0, len(seen), parts)]
        results.append((read, steps, weights(model)))
    (rows, whole, after), (rows_in_parts, in_parts, after_parts) = results
    assert rows_in_parts == rows
    for one, other in zip(whole[0].gradients, in_parts[0].gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after_parts, after, rtol=0, atol=5e-5)  # the weights have moved by about 2e-3


# --- precision


def test_forward_is_left_as_it_was_after_bf16(lesson):
    model = student()
    for _ in range(2):
        teach(lesson(model, run=Run(bf16=True), epochs=0.25))
        assert "forward" not in vars(model) and "_original_forward" not in vars(model)
        assert model.forward.__func__ is CompressedForSequenceClassification.forward
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.exits["2"].classifier.bias += 1
    ids = torch.tensor([[2, 7, 8, 3]])
    torch.testing.assert_close(twin(ids).logits, model(ids).logits + 1)


def test_bf16_is_used_and_losses_are_in_fp32_and_the_next_run_may_be_in_fp32(lesson):
    seen, after = [], []
    for bf16 in (False, True, False):
        model = student(**CALM)
        losses = {"labels": Loss(Labels()), "watcher": Loss(Watcher(seen, hidden=True))}
        teach(lesson(model, losses, run=Run(bf16=bf16), epochs=0.5))
        after.append(weights(model))
    assert {tensor.dtype for _, trace in seen for tensor in (*trace.logits.values(), *trace.hidden)} == {torch.float32}
    exact, rounded, again = after
    assert same(exact, again)
    assert not same(exact, rounded)
    assert all(weight.dtype == torch.float32 for weight in rounded.values() if weight.is_floating_point())
    torch.testing.assert_close(rounded, exact, rtol=0, atol=3e-3)


def test_every_training_of_a_model_has_the_precision_that_it_was_given(lesson):
    model, seen = student(), []
    linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    linear.register_forward_hook(lambda module, given, answer: seen.append(answer.dtype))
    for bf16 in (True, True, False, True):
        seen.clear()
        teach(lesson(model, run=Run(bf16=bf16), epochs=0.25))
        assert set(seen) == {torch.bfloat16 if bf16 else torch.float32}


def test_one_process_trains_on_one_gpu_however_many_there_are(lesson, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    arguments = training._arguments(lesson(run=Run(device="cuda")))
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 16)


# --- checkpoints


def test_only_whole_checkpoints_count_the_latest_first(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") == (None, 0.0)
    for number, mark in ((9, "1.5"), (10, "2.5"), (11, None)):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "model.safetensors").touch()
        if mark is not None:
            (tmp_path / f"checkpoint-{number}" / WHOLE).write_text(mark)
    assert last_checkpoint(tmp_path) == (str(tmp_path / "checkpoint-10"), 2.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


def test_an_older_checkpoint_goes_once_the_newer_is_whole(lesson, monkeypatch):
    """Whatever is there at a kill, the last one that is marked can be gone on from."""
    todo = lesson(epochs=2, run=Run(checkpoint_steps=2))
    at_deletion = []

    def deleting(folder, **_):
        at_deletion.append({path.name: (path / WHOLE).is_file() for path in sorted(todo.folder.iterdir())})
        remove(folder, ignore_errors=True)

    remove = training.shutil.rmtree
    monkeypatch.setattr(training.shutil, "rmtree", deleting)
    teach(todo)
    assert at_deletion == [
        {"checkpoint-2": True, "checkpoint-4": True},
        {"checkpoint-4": True, "checkpoint-6": True},
    ]
    # None at the end, where the model itself is saved next.
    assert [path.name for path in todo.folder.iterdir()] == ["checkpoint-6"]


@pytest.mark.parametrize(
    "stopped",
    [
        2,  # before there is a checkpoint
        5,  # in the first epoch, after checkpoint 3
        7,  # checkpoint 6 is in the second epoch
        9,  # checkpoint 8 lies between two epochs
        11,
    ],
)
def test_a_stopped_training_goes_on_to_the_very_same_weights(lesson, tmp_path, stopped):
    steps = 3 if stopped in (2, 5, 7) else 4
    run = Run(checkpoint_steps=steps)
    undisturbed = student()
    teach(lesson(undisturbed, epochs=3, run=run))

    class Stopping(Counter):
        def advance(self, n=1):
            self.done += n
            if self.done >= stopped:
                raise Interruption

    again = {"epochs": 3, "folder": tmp_path / "same"}
    with pytest.raises(Interruption):
        teach(lesson(student(), run=replace(run, progress=Stopping()), **again))
    torch.manual_seed(99)
    resumed, counter = student(), Counter()
    teach(lesson(resumed, run=replace(run, progress=counter), **again))
    assert same(weights(resumed), weights(undisturbed))
    assert counter.told == [("training", 12, 12)]


def test_a_stopped_training_of_shared_layers_goes_on_to_the_very_same_weights(lesson, tmp_path):
    def sharing():
        model = student()
        perform(ShareLayers((0, 0), "mean"), model)
        return model

    class Stopping(Counter):
        def advance(self, n=1):
            self.done += n
            if self.done >= 3:
                raise Interruption

    run, undisturbed, resumed = Run(checkpoint_steps=2), sharing(), sharing()
    teach(lesson(undisturbed, run=run))
    with pytest.raises(Interruption):
        teach(lesson(sharing(), run=replace(run, progress=Stopping()), folder=tmp_path / "same"))
    with torch.no_grad():
        for weight in resumed.parameters():
            weight.zero_()  # all that is right from now on comes from the checkpoint
    teach(lesson(resumed, run=run, folder=tmp_path / "same"))
    assert same(weights(resumed), weights(undisturbed))
    assert len(list(resumed.parameters())) < len(list(student().parameters()))


def test_the_seconds_before_a_stop_count_too(lesson, tmp_path):
    todo = lesson(epochs=1, run=Run(checkpoint_steps=3), folder=tmp_path / "same")
    seconds, _ = teach(todo)
    mark = tmp_path / "same" / "checkpoint-3" / WHOLE
    assert 0 < float(mark.read_text()) < seconds
    mark.write_text("1000")
    assert 1000 < teach(replace(todo, model=student()))[0] < 1000 + 10 * seconds + 10


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "No space left on device",
        ),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "a file was cut short"),
    ],
)
def test_a_full_disk_costs_one_checkpoint_and_not_the_one_before(lesson, monkeypatch, error, reason):
    undisturbed = student()
    teach(lesson(undisturbed, epochs=2))

    run = Run(checkpoint_steps=3)
    todo = lesson(epochs=2, run=run)
    write = torch.save

    def full(what, where, *args, **kwargs):
        if "checkpoint-6/optimizer.pt" in str(where):
            raise error
        write(what, where, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(torch, "save", full)
        teach(todo)
    assert str(caught.value) == (
        f"could not save to {todo.folder}/checkpoint-6: {reason}; what was there before is untouched, "
        "make room and run the command again"
    )
    assert [path.name for path in todo.folder.iterdir()] == ["checkpoint-3"]
    resumed = student()
    teach(replace(todo, model=resumed))
    assert same(weights(resumed), weights(undisturbed))


def test_other_errors_in_saving_are_not_taken_for_a_full_disk(lesson, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        teach(lesson(run=Run(checkpoint_steps=3)))


# --- what goes wrong, and what is left


def test_a_training_that_diverges_is_an_error_and_not_a_model(lesson):
    with pytest.raises(CompresskitError) as caught:
        teach(lesson(learning_rate=1e38, warmup=0, epochs=2))
    assert str(caught.value) == (
        "steps[0] distill: training diverged, weights are NaN or infinite; give it a lower learning_rate"
    )


def test_the_teacher_is_asked_once_for_each_row_and_keeps_its_weights(lesson, monkeypatch):
    master = student(seed=5)
    before = weights(master)
    teacher = Teacher(master.eval(), [0, 1], Run())
    asked, ask = [], teacher.ask
    monkeypatch.setattr(teacher, "ask", lambda batch, hidden: asked.append(len(batch["index"])) or ask(batch, hidden))
    losses = {"predictions": Loss(Predictions()), "hidden-states": Loss(HiddenStates(), after=0.5)}
    teach(lesson(losses=losses, teacher=teacher, epochs=3))
    assert sum(asked) == 64
    assert same(weights(master), before)
    assert all(weight.grad is None for weight in master.parameters())


def test_a_teacher_that_is_remembered_teaches_as_one_that_is_asked(lesson):
    results = []
    for budget in (2**30, 0):
        model, run = student(**CALM), Run(cache_bytes=budget)
        teacher = Teacher(student(seed=5).eval(), [0, 1], run)
        losses = {"predictions": Loss(Predictions()), "hidden-states": Loss(HiddenStates())}
        teach(lesson(model, losses, teacher, run=run))
        assert (teacher.hidden is None) is (budget == 0)
        results.append(weights(model))
    assert not same(*results)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=2e-4)  # the weights have moved by about 2e-3


def test_what_transformers_says_is_as_loud_as_before(lesson):
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        teach(lesson(epochs=0.25))
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity(before)


# --- parts of the model


class Gate(MaskModule):
    """Two passes: heads halved by a factor that learns, then the first layer alone. The price of a factor climbs."""

    passes = 2

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.factor = nn.Parameter(torch.tensor(0.5))
        self.price = nn.Parameter(torch.tensor(1.0))
        self.asked = []

    def masks(self, number, step, steps):
        self.asked.append((number, step, steps))
        if number == 1:
            return Masks(layers=(True, False))
        # Drawn, so that a training that goes on must go on drawing where it was.
        factor = self.factor * (0.5 + torch.rand(()))
        return Masks(heads=tuple(factor.expand(heads) for heads in self.sizes.heads))

    def penalty(self, step, steps):
        return 100 * self.price * self.factor

    def groups(self):
        return [{"params": [self.factor], "lr": 0.1}, {"params": [self.price], "lr": 0.2, "maximize": True}]

    def final(self):
        assert not self.training
        return Masks(heads=tuple((self.factor * torch.arange(heads)).detach() for heads in self.sizes.heads))


@dataclass(frozen=True)
class Gates(Masker):
    name: ClassVar[str] = "gates"

    made: list = field(default_factory=list)

    def build(self, sizes):
        self.made.append(Gate(sizes))
        return self.made[-1]


def test_each_batch_makes_a_pass_for_each_part_and_their_gradients_add_up(lesson, monkeypatch):
    masker = Gates()
    with watched(monkeypatch) as both:
        teach(lesson(student(**CALM), epochs=0.5, mask=masker, max_grad_norm=1e9))
    assert masker.made[0].asked == [(0, 0, 2), (1, 0, 2), (0, 1, 2), (1, 1, 2)]

    def alone(number):
        class One(Gate):
            passes = 1

            def masks(self, _, step, steps):
                return super().masks(number, step, steps)

        only = Gates()
        monkeypatch.setattr(Gates, "build", lambda self, sizes: One(sizes))
        with watched(monkeypatch) as steps:
            teach(lesson(student(**CALM), epochs=0.25, mask=only, max_grad_norm=1e9))
        return steps[0].gradients

    first, second = alone(0), alone(1)
    for sum_, one, two in zip(both[0].gradients[:-2], first[:-2], second[:-2], strict=True):
        parts = [part for part in (one, two) if part is not None]
        assert (sum_ is None) == (not parts)
        if parts:
            torch.testing.assert_close(sum_, torch.stack(parts).sum(dim=0))
    # The penalty counts once, not once for each pass.
    assert both[0].gradients[-1] == pytest.approx(100 * 0.5)


def test_a_masks_own_rates_stay_its_prices_climb_and_its_gradients_are_not_clipped(lesson, monkeypatch):
    masker, model = Gates(), student()
    with watched(monkeypatch) as steps:
        teach(lesson(model, epochs=1, mask=masker, warmup=0.5, max_grad_norm=1.0))
    assert [step.rates[-2:] for step in steps] == [[0.1, 0.2]] * 4
    assert steps[0].rates[0] == 0
    assert all(step.gradients[-1] > 1 for step in steps[:2])
    norms = [torch.stack([g.norm() for g in step.gradients[:-2] if g is not None]).norm() for step in steps]
    assert all(norm == pytest.approx(1.0, abs=1e-3) or norm < 1 for norm in norms)
    assert max(norms) > 0.1
    assert masker.made[0].price > 1
    assert masker.made[0].factor < 0.5


def test_what_is_left_in_the_end_is_handed_over_and_the_mask_is_gone(lesson):
    masker, model = Gates(), student()
    names = set(model.state_dict())
    _, left = teach(lesson(model, epochs=0.5, mask=masker))
    factor = masker.made[0].factor.detach()
    torch.testing.assert_close(left.heads[1], factor * torch.arange(4))
    assert model.mask is None
    assert set(model.state_dict()) == names


def test_a_training_that_fails_leaves_no_mask(lesson):
    model = student()
    with pytest.raises(CompresskitError, match="training diverged"):
        teach(lesson(model, epochs=2, mask=Gates(), learning_rate=1e30))
    assert model.mask is None


def test_a_stopped_training_with_a_mask_goes_on_to_the_very_same_weights(lesson, tmp_path):
    run = Run(checkpoint_steps=3)
    whole, model = Gates(), student()
    teach(lesson(model, epochs=3, run=run, mask=whole))

    class Stopping(Counter):
        def advance(self, n=1):
            self.done += n
            if self.done >= 5:
                raise Interruption

    again = {"epochs": 3, "folder": tmp_path / "same"}
    with pytest.raises(Interruption):
        teach(lesson(student(), run=replace(run, progress=Stopping()), mask=Gates(), **again))
    torch.manual_seed(99)
    resumed, masker = student(), Gates()
    teach(lesson(resumed, run=run, mask=masker, **again))
    assert masker.made[0].asked[0] == (0, 3, 12)
    assert same(weights(resumed), weights(model))
    assert torch.equal(masker.made[0].factor, whole.made[0].factor)
    assert torch.equal(masker.made[0].price, whole.made[0].price)


def test_a_mask_works_in_bf16_and_its_own_parameters_stay_in_fp32(lesson):
    masker, model = Gates(), student()
    teach(lesson(model, epochs=0.5, mask=masker, run=Run(bf16=True)))
    assert masker.made[0].factor.dtype is torch.float32
    assert 0 < masker.made[0].factor < 0.5
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_train_layers_leaves_the_embeddings_bit_for_bit(lesson, family):
    """ELECTRA's are half as wide as its hidden states, and a linear layer leads from them."""
    model = student(family=family)
    before = weights(model)
    teach(lesson(model, epochs=2, train="layers", weight_decay=0.1))
    still = {name for name, weight in model.state_dict().items() if torch.equal(weight, before[name])}
    assert still == {name for name in before if ".embeddings." in name or ".embeddings_project." in name}
    assert any(".embeddings_project." in name for name in still) == (family == "electra")
    assert all(weight.requires_grad for weight in model.parameters())
