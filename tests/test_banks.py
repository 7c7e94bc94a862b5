"""Banks: what recipes say of them, which models are in them, and what a training is shown."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from compresskit import apply as applying
from compresskit import report_builder, steps
from compresskit.apply import apply
from compresskit.banks import features
from compresskit.batches import collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import load
from compresskit.data import DataOptions, load_corpus
from compresskit.errors import CheckpointError, DataError, RecipeError
from compresskit.interfaces import Bank, Distiller
from compresskit.job import prepare
from compresskit.losses import total
from compresskit.recipe import read_recipe
from compresskit.run import Run
from compresskit.schema import json_schema
from compresskit.speed import Times
from compresskit.teachers import Teacher
from compresskit.testing import save_tiny, tiny_compressed, tiny_text, tiny_tokenizer
from compresskit.training import LossTrainer
from compresskit.verbs import Loss

pytestmark = pytest.mark.usefixtures("light_collections")
TEACHER = "- finetune: {epochs: 1, batch_size: 8, learning_rate: 1e-2}\n"
CONTRAST = "info-nce: {weight: 0.3, banks: [%s]}"
TRAIN = (
    "{distill: teacher, by: {predictions: 0.9, " + CONTRAST + "}, epochs: 1, batch_size: 8, learning_rate: 1e-2%s}\n"
)
ROUNDS = (
    TEACHER
    + "- {prune: heads, by: magnitude, keep: 3}\n"
    + f"- {TRAIN % ('original, teacher', ', save_as: snapshots')}"
    + "- repeat: 2\n  steps:\n"
    + "  - {prune: heads, by: magnitude, keep: 1}\n"
    + f"  - {TRAIN % ('original, teacher, snapshots', ', save_as: snapshots')}"
)


@pytest.fixture(autouse=True, scope="module")
def plugins():
    """None of the built-in losses looks at banks, so these tests borrow one from a plugin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSKIT_PLUGINS", "layers")
        patch.setattr(report_builder, "time_rows", lambda *args, **how: Times((), ()))
        patch.setattr(report_builder, "time_shape", lambda *args, **how: Times((), ()))
        yield


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads the steps of a recipe as half.yaml in the current folder."""
    monkeypatch.chdir(tmp_path)

    def read(written):
        Path("half.yaml").write_text("recipe: 1\nsteps:\n" + written)
        return read_recipe("half.yaml")

    return read


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("banks")
    save_tiny(root / "model", trained=False)
    tiny_text(root / "data", 40, eval_rows=4)
    return root


@pytest.fixture(scope="module")
def rows(places):
    corpus = load_corpus(str(places / "data"), DataOptions())
    return encode(corpus.train, tiny_tokenizer(), 128, token_types=True)


# --- what recipes say


def test_banks_are_names_beside_the_loss(read):
    Path("a").mkdir()
    recipe = read(TEACHER + "- " + TRAIN % ("original, teacher, ./a", ""))
    assert recipe.steps[1].by["info-nce"].banks == ("original", "teacher", "./a")
    assert recipe.steps[1].by["predictions"].banks == ()
    Path("whole.yaml").write_text(recipe.to_yaml())
    assert read_recipe("whole.yaml") == recipe
    alone = read("- finetune: {epochs: 1, by: {labels: 1, " + CONTRAST % "original" + "}}\n")
    assert alone.steps[0].by["info-nce"].banks == ("original",)


@pytest.mark.parametrize(
    ("by", "text"),
    [
        ("info-nce", "the loss 'info-nce' needs banks; name the models in them, such as 'banks: [original]'"),
        ("{labels: 1, info-nce: 0.3}",
         "the loss 'info-nce' needs banks; name the models in them, such as 'banks: [original]'"),
        ("{labels: {banks: [original]}}",
         "labels: 'banks' means nothing here, as this loss looks at none; take it out"),
        *(
            (f"{{info-nce: {{banks: {banks}}}}}",
             f"info-nce: 'banks' must be a list of different names, such as [original], not {shown}")
            for banks, shown in (("original", "'original'"), ("[]", "[]"), ("[a, a]", "['a', 'a']"), ("[3]", "[3]"),
                                 ("", "nothing"), ("{a: 1}", "a mapping"))
        ),
        ("{info-nce: {banks: [original, techer]}}",
         ("info-nce: no earlier step saves 'techer' (saved so far: teacher); name one that does with 'save_as', or a "
          "model folder, from where compresskit is run, or 'original'")),
        ("{info-nce: {bnaks: [original]}}", "info-nce: unknown option 'bnaks' (did you mean 'banks'?)"),
    ],
)  # fmt: skip
def test_mistakes_have_their_line(read, by, text):
    with pytest.raises(RecipeError) as caught:
        read(TEACHER + f"- distill: teacher\n  epochs: 1\n  by: {by}\n")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("half.yaml: ")
    assert lines[1] == f"  line 6: steps[1] distill: {text}"


def test_a_step_can_not_compare_with_what_it_will_save_itself(read):
    with pytest.raises(RecipeError) as caught:
        read(TEACHER + "- " + TRAIN % ("snapshots", ", save_as: snapshots"))
    assert "no earlier step saves 'snapshots' (saved so far: teacher)" in str(caught.value)


@pytest.mark.parametrize("loss", ["{" + CONTRAST % "original" + "}", "info-nce"])
def test_prune_has_no_banks(read, loss):
    with pytest.raises(RecipeError) as caught:
        read("- {prune: heads, by: taylor, keep: 1, loss: " + loss + "}\n")
    assert str(caught.value) == (
        "half.yaml: 1 mistake\n"
        "  line 3: steps[0] prune: the loss 'info-nce' looks at banks, which only training has; take it out"
    )


def test_rounds_may_add_to_a_name_from_before_the_repeat_and_to_no_other(read):
    read(ROUNDS)
    first_in_the_repeat = TEACHER + "- repeat: 2\n  steps:\n  - " + TRAIN % ("original", ", save_as: snapshots")
    again = ROUNDS + "- " + TRAIN % ("original", ", save_as: snapshots")
    # The bank would be empty in the first round.
    empty = TEACHER + "- repeat: 2\n  steps:\n  - " + TRAIN % ("snapshots", ", save_as: snapshots")
    for text, line, complaint in (
        (first_in_the_repeat, 6, "a repeat would save 'snapshots' again in each round; save it in a step after the"),
        (empty, 6, "info-nce: no earlier step saves 'snapshots' (saved so far: teacher)"),
        (again, 10, "an earlier step saves 'snapshots' already; choose another name"),
    ):
        with pytest.raises(RecipeError) as caught:
            read(text)
        assert f"  line {line}: " in str(caught.value)
        assert complaint in str(caught.value)


def test_the_schema_has_banks_where_they_are_needed_and_nowhere_else():
    losses = json_schema(load_catalogue())["$defs"]["losses"]["anyOf"]
    assert "info-nce" not in losses[0]["enum"] + losses[1]["items"]["enum"]
    terms = losses[2]["properties"]
    assert terms["info-nce"]["required"] == ["banks"]
    assert "banks" in terms["info-nce"]["properties"]
    assert "banks" not in str(terms["labels"])


# --- what is checked before a run


@pytest.fixture
def job(places, read):
    def job(steps, run=None):
        return prepare(read(steps), str(places / "model"), str(places / "data"), DataOptions(), run or Run())

    return job


def test_the_weights_of_a_bank_in_a_folder_count(job, tmp_path):
    def digests():
        return job(TEACHER + "- " + TRAIN % ("original, ./other", "")).digests()

    save_tiny(tmp_path / "other", trained=False, seed=1)  # without a head: nobody asks it for an answer
    one = digests()
    shutil.rmtree(tmp_path / "other")
    save_tiny(tmp_path / "other", trained=False, seed=2)
    assert [a == b for a, b in zip(one, digests(), strict=True)] == [True, False]


def test_which_banks_there_are_counts(job):
    one, other = (job(TEACHER + "- " + TRAIN % (banks, "")).digests() for banks in ("original", "original, teacher"))
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, False]


def test_a_bank_must_read_the_same_texts_and_be_of_the_same_size(job, tmp_path, places):
    recipe = TEACHER + "- " + TRAIN % ("./other", "")
    save_tiny(tmp_path / "other", hidden=64)
    with pytest.raises(CheckpointError) as caught:
        job(recipe)
    assert str(caught.value) == (
        "steps[1] distill: info-nce can't look at bank ./other, whose hidden states have 64 numbers and not 32; "
        "name a model of the same hidden size"
    )
    save_tiny(tmp_path / "other", max_position_embeddings=40)
    with pytest.raises(DataError) as caught:
        job(recipe)
    assert str(caught.value) == "--max-tokens 128 is more than ./other can read; give at most 40"
    folder = save_tiny(tmp_path / "other")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"dull"', '"gnarly"'))
    with pytest.raises(CheckpointError) as caught:
        job(recipe)
    assert str(caught.value) == (
        f"bank ./other has another vocabulary than {places}/model; use a bank with the same tokenizer"
    )


def test_a_teacher_of_another_size_is_no_matter_to_a_loss_that_looks_at_banks_alone(job, tmp_path):
    save_tiny(tmp_path / "wide", hidden=64)
    job(TEACHER + "- " + (TRAIN % ("original", "")).replace("distill: teacher", "distill: ./wide"))


def test_banks_that_will_not_fit_are_refused_before_the_first_round(job):
    """In the last round four models: the original, the teacher and two snapshots, of 40 rows of 32 halves each."""
    needed = 4 * 40 * 32 * 2
    job(ROUNDS, Run(cache_bytes=needed))
    with pytest.raises(RecipeError) as caught:
        job(ROUNDS, Run(cache_bytes=needed - 1))
    assert str(caught.value) == (
        "steps[3].steps[1] distill (round 2): its banks hold 4 models' features of 40 rows, 9.5e-06 gigabytes; "
        "give --cache-gigabytes as much, or name fewer banks"
    )
    job(TEACHER + "- {distill: teacher, by: predictions, epochs: 1}\n", Run(cache_bytes=0))


# --- what is in a bank


def test_features_are_the_first_tokens_last_hidden_states_row_by_row(rows):
    model = tiny_compressed(hidden_dropout_prob=0.5)
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = features(model, rows, collate(0), Run())
    assert (found.shape, found.dtype, found.requires_grad) == ((40, 32), torch.float16, False)
    assert len(set(rows.lengths)) > 3
    for row in range(40):
        with torch.no_grad():
            alone = model.eval().trace(collate(0)([rows[row]]), hidden=True).hidden[-1][0, 0]
        torch.testing.assert_close(found[row].float(), alone, rtol=2**-10, atol=1e-4)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


@dataclass(frozen=True)
class Looks(Distiller):
    """Notes which banks it is shown."""

    name: ClassVar[str] = "looks"
    needs_teacher: ClassVar[bool] = False
    needs_banks: ClassVar[bool] = True

    seen: list

    def loss(self, student, teacher, batch):
        self.seen.append(dict(student.banks))
        return student.last.sum() * 0


def test_a_loss_sees_the_banks_that_it_names_and_no_others(rows):
    banks = {name: Bank(torch.zeros(1, 40, 2), rows.labels) for name in "abc"}
    batch = collate(0)([rows[row] for row in range(4)])
    student = replace(tiny_compressed().trace(batch), banks=banks)
    seen = []
    losses = [Loss(Looks(seen), banks=names) for names in (("a",), ("c", "b"), ())]
    total(losses, student, None, batch)
    assert seen == [{"a": banks["a"]}, {"c": banks["c"], "b": banks["b"]}, {}]


@pytest.fixture
def watch(monkeypatch):
    """What each training is given as banks, and how often a model ran over the rows for one."""
    shown, filled = [], itertools.count()
    teach, fill = steps.teach, steps.features
    monkeypatch.setattr(steps, "teach", lambda lesson: shown.append(dict(lesson.banks)) or teach(lesson))
    monkeypatch.setattr(steps, "features", lambda *args: next(filled) * 0 + fill(*args))
    return shown, filled


def run(recipe, places, out, **options):
    return apply(recipe, str(places / "model"), str(places / "data"), DataOptions(), out, Run(**options))


def test_banks_hold_the_models_that_their_names_stand_for(read, places, rows, tmp_path, watch):
    """A snapshot is the model after its round's training: with the round's heads cut, and its weights trained."""
    run(read(ROUNDS), places, tmp_path / "out")
    shown, filled = watch
    assert [list(banks) for banks in shown] == [
        [],
        ["original", "teacher"],
        *[["original", "teacher", "snapshots"]] * 2,
    ]

    def of(folder):
        return features(load(str(folder)).model, rows, collate(0), Run())

    steps = tmp_path / "out" / "steps"
    expected = {
        "original": [of(places / "model")],
        "teacher": [of(steps / "01-finetune")],
        "snapshots": [of(steps / "03-distill"), of(steps / "05-distill")],
    }
    assert load(str(steps / "03-distill")).model.shape.layers[0].heads == 3
    assert load(str(steps / "05-distill")).model.shape.layers[0].heads == 2
    every = list(itertools.chain(*expected.values()))
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(every, 2))
    for training, banks in enumerate(shown):
        for name, bank in banks.items():
            models = expected[name][: training - 1] if name == "snapshots" else expected[name]
            assert torch.equal(bank.features, torch.stack(models))
            assert torch.equal(bank.labels, rows.labels)
    # Each model ran over the rows once, though three trainings look at two of them.
    assert next(filled) == 4


def test_a_teacher_that_a_round_saves_anew_is_the_latest(read, places, tmp_path, monkeypatch):
    loaded = []
    fresh = steps.load
    monkeypatch.setattr(steps, "load", lambda folder: loaded.append(Path(folder).name) or fresh(folder))
    step = "{distill: coach, by: predictions, epochs: 0.5, batch_size: 16, save_as: coach}\n"
    first = "- {distill: teacher, by: predictions, epochs: 0.5, batch_size: 16, save_as: coach}\n"
    run(read(TEACHER + first + "- repeat: 2\n  steps:\n  - " + step), places, tmp_path / "out")
    assert loaded == ["01-finetune", "02-distill", "03-distill"]


def test_a_loss_of_banks_does_not_have_the_teacher_keep_hidden_states(read, places, tmp_path, monkeypatch):
    asked = []
    study = Teacher.study
    monkeypatch.setattr(Teacher, "study", lambda self, *args: asked.append(args[-1]) or study(self, *args))
    run(read(TEACHER + "- " + TRAIN % ("original", "")), places, tmp_path / "out")
    assert asked == [False]


class Interruption(BaseException):
    """As a kill, but the test lives on."""


@pytest.mark.parametrize("step", [3, 7])
def test_a_stopped_run_fills_its_banks_again_and_ends_with_the_same_weights(read, places, tmp_path, monkeypatch, step):
    """In the last round, before and after a checkpoint: what is drawn from the banks follows too."""
    recipe = read(ROUNDS.replace("epochs: 1", "epochs: 2").replace("banks: [", "with: {extra: 5}, banks: ["))
    settings = {"checkpoint_steps": 5}
    luck, teach = [], steps.teach
    monkeypatch.setattr(steps, "teach", lambda lesson: luck.append(torch.get_rng_state()) or teach(lesson))
    run(recipe, places, tmp_path / "undisturbed", **settings)

    loss, calls = LossTrainer.compute_loss, itertools.count()

    def stopping(self, *args, **kwargs):
        if "/training-07" in str(self.lesson.folder) and next(calls) == step:
            raise Interruption
        return loss(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(LossTrainer, "compute_loss", stopping)
        run(recipe, places, tmp_path / "out", **settings)
    shown = []
    carry_out = applying.carry_out
    monkeypatch.setattr(
        applying,
        "carry_out",
        lambda planned, number, shop: (carry_out(planned, number, shop), shown.append(shop.banks.copy()))[0],
    )
    torch.manual_seed(99)
    run(recipe, places, tmp_path / "out", **settings)
    assert [list(map(len, (bank.features for bank in banks.values()))) for banks in shown] == [[1, 1, 2]]
    assert torch.equal(luck[3], luck[-1])  # whether the banks were in memory or not
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("undisturbed", "out"))
    assert one == other
