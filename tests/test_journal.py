"""What is in an output folder after steps, kills and mistakes, and what a run makes of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from compresskit.catalogue import load_catalogue
from compresskit.edits import AddExits, CutHeads, FactorizeEmbedding
from compresskit.errors import CheckpointError, CompresskitError
from compresskit.journal import RUN, STEP, WEIGHTS, Entry, Journal, digest
from compresskit.model import wrap
from compresskit.strategies.tanh_heads import MeanTanh
from compresskit.testing import tiny_model, tiny_tokenizer

NAMES = ["finetune", "exit", "prune", "distill"]
KEPT = [True, True, False, False]


@pytest.fixture(scope="module")
def model():
    return wrap(tiny_model(layers=1, hidden=16, neurons=8), load_catalogue().anatomy("bert"))


@pytest.fixture
def commit(model):
    """Opens a folder and commits steps up to a number."""

    def commit(out, digests="abcd", upto=4, kept=KEPT, reuse=None):
        journal = Journal(out, {"recipe": digests[-1], "seed": digests[0]}, list(digests), NAMES, kept)
        journal.open(reuse)
        journal.close()  # or none of the next could come in
        for number in range(len(journal.done()) + 1, upto + 1):
            entry = Entry(number, NAMES[number - 1], digests[number - 1], seconds=float(number))
            journal.commit(entry, model, tiny_tokenizer())
        return journal

    return commit


def steps(out):
    return sorted(path.name for path in (out / "steps").iterdir())


def with_weights(out):
    return [name for name in steps(out) if (out / "steps" / name / WEIGHTS).is_file()]


def numbers(journal):
    return [entry.number for entry in journal.done()]


# --- entries


def test_an_entry_comes_back_from_json_as_it_was():
    edits = (CutHeads(1, (0, 2)), FactorizeEmbedding(8), AddExits((1, 2), MeanTanh(), True))
    entry = Entry(3, "prune", "ab12", edits, {"teacher": "original", "a": "steps/01-finetune"}, 1.5, True)
    assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry
    assert entry.folder == "steps/03-prune"


def test_a_digest_depends_on_every_part_and_not_on_the_order_of_keys():
    assert digest("a", {"x": 1, "y": None}) == digest("a", {"y": None, "x": 1})
    assert len({digest("a", 1), digest("a", 2), digest("a1"), digest("a", "1"), digest(1, "a"), digest("a", None)}) == 6
    assert len(digest()) == 16


# --- steps that are done


def test_a_committed_step_is_a_whole_folder_with_its_record(tmp_path, commit):
    journal = commit(tmp_path / "out", upto=1)
    assert steps(tmp_path / "out") == ["01-finetune"]
    assert sorted(path.name for path in (tmp_path / "out" / "steps" / "01-finetune").iterdir()) == [
        "config.json",
        WEIGHTS,
        STEP,
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert journal.done() == [Entry(1, "finetune", "a", seconds=1.0)]


def test_weights_inside_a_repeat_stay_until_the_next_step_is_done(tmp_path, commit):
    out = tmp_path / "out"
    assert numbers(commit(out, upto=3)) == [1, 2, 3]
    assert with_weights(out) == ["01-finetune", "02-exit", "03-prune"]
    assert numbers(commit(out)) == [1, 2, 3, 4]
    assert with_weights(out) == ["01-finetune", "02-exit", "04-distill"]
    assert steps(out) == ["01-finetune", "02-exit", "03-prune", "04-distill"]


def test_weights_that_a_kill_left_over_go_at_the_next_start(tmp_path, commit):
    out = tmp_path / "out"
    commit(out)
    shutil.copy(out / "steps" / "04-distill" / WEIGHTS, out / "steps" / "03-prune")
    commit(out, upto=0)
    assert with_weights(out) == ["01-finetune", "02-exit", "04-distill"]


def test_a_run_goes_on_after_the_last_step_that_has_its_weights(tmp_path, commit):
    out = tmp_path / "out"
    commit(out)
    shutil.rmtree(out / "steps" / "04-distill")
    journal = commit(out, upto=0)
    assert numbers(journal) == [1, 2]
    assert steps(out) == ["01-finetune", "02-exit"]


@pytest.mark.parametrize("damage", ["{nope", "[1]", "", '{"digest": "x"}', "{}"])
def test_a_damaged_record_makes_its_step_undone(tmp_path, commit, damage):
    out = tmp_path / "out"
    commit(out)
    (out / "steps" / "02-exit" / STEP).write_text(damage)
    assert numbers(commit(out, upto=0)) == [1]
    assert steps(out) == ["01-finetune"]


def test_what_a_kill_left_over_is_cleared_but_not_the_training_under_way(tmp_path, commit):
    out = tmp_path / "out"
    journal = commit(out, upto=2)
    assert journal.scratch(3).parent == out / "steps"
    for left in (
        journal.scratch(2),
        journal.scratch(3),
        out / "steps" / ".03-prune.saving",
        out / "steps" / ".x.linking",
    ):
        (left / "checkpoint-5").mkdir(parents=True)
    assert numbers(commit(out, upto=2)) == [1, 2]
    assert steps(out) == ["01-finetune", "02-exit", journal.scratch(3).name]
    commit(out, upto=3)
    assert steps(out) == ["01-finetune", "02-exit", "03-prune"]


def test_trainings_of_two_steps_never_share_a_folder(tmp_path, commit):
    """Or what a kill left of one would be taken for the beginning of the next."""
    journal = commit(tmp_path / "out", upto=0)
    assert len({journal.scratch(number) for number in range(1, 200)}) == 199


def test_a_full_disk_at_a_commit_keeps_all_before_it(tmp_path, commit, model, monkeypatch):
    out = tmp_path / "out"
    journal = commit(out, upto=2)
    (journal.scratch(3) / "checkpoint-5").mkdir(parents=True)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(type(model), "save_pretrained", full)
        journal.commit(Entry(3, "prune", "c"), model, tiny_tokenizer())
    assert str(caught.value) == (
        f"could not save to {out}/steps/03-prune: No space left on device; what was there before is untouched, "
        "make room and run the command again"
    )
    assert numbers(journal) == [1, 2]
    assert steps(out) == ["01-finetune", "02-exit", journal.scratch(3).name]


# --- whose folder it is


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "what a kill left at the very start"])
def test_a_new_or_empty_folder_is_claimed(tmp_path, commit, there):
    out = tmp_path / "deep" / "out"
    if there != "nothing":
        out.mkdir(parents=True)
    if there.startswith("what"):
        (out / f".{RUN}").write_text('{"dig')
    journal = commit(out, upto=0)
    assert json.loads((out / RUN).read_text()) == {"recipe": "d", "seed": "a"}
    assert [path.name for path in out.iterdir()] == [RUN]
    assert journal.done() == []


def test_a_folder_with_other_things_in_it_is_refused(tmp_path, commit):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "a.txt").touch()
    with pytest.raises(CompresskitError) as caught:
        commit(tmp_path)
    assert str(caught.value) == (
        f"--out {tmp_path} is not empty and was not written by compresskit apply (a.txt is in it); "
        "give a new or empty folder"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "thesis.tex"]


def test_a_folder_in_which_another_run_is_at_work_is_refused_until_that_is_done(tmp_path, commit):
    first, second = (Journal(tmp_path / "out", {"all": "same"}, ["a"], ["finetune"], [True]) for _ in range(2))
    first.open(None)
    with pytest.raises(CompresskitError) as caught:
        second.open(None)
    assert str(caught.value) == (
        f"--out {tmp_path / 'out'}: another run is at work in it; wait until it is done, or give another folder"
    )
    first.close()
    second.open(None)
    second.close()


def test_a_file_is_refused(tmp_path, commit):
    (tmp_path / "out").touch()
    with pytest.raises(CompresskitError) as caught:
        commit(tmp_path / "out")
    assert str(caught.value) == f"--out {tmp_path}/out is a file; give a folder"


@pytest.mark.parametrize(
    ("record", "digests", "differing"),
    [
        (None, "abcx", "what differs: recipe"),
        (None, "xbcx", "what differs: recipe, seed"),
        ("{nope", "abcd", "its run.json can't be read"),
        ("[]", "abcd", "its run.json can't be read"),
    ],
)
def test_another_run_is_refused_and_left_as_it_is(tmp_path, commit, record, digests, differing):
    out = tmp_path / "out"
    commit(out)
    if record is not None:
        (out / RUN).write_text(record)
    before = sorted(out.rglob("*"))
    with pytest.raises(CompresskitError) as caught:
        commit(out, digests)
    assert str(caught.value) == (
        f"--out {out} holds another run ({differing}); "
        f"give a new folder, with --reuse {out} to take over the steps that are the same"
    )
    assert sorted(out.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_named(tmp_path, commit):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError) as caught:
        commit(tmp_path / "file" / "out")
    assert str(caught.value).startswith(f"could not save to {tmp_path}/file/out: Not a directory; ")


@pytest.mark.parametrize(
    ("papers", "finished"), [((), False), (("report.json",), False), (("report.json", "compression.json"), True)]
)
def test_a_run_is_finished_once_its_papers_are_there(tmp_path, commit, papers, finished):
    journal = commit(tmp_path / "out")
    for paper in papers:
        (tmp_path / "out" / paper).touch()
    assert journal.is_finished(("report.json", "compression.json")) is finished
    other = Journal(tmp_path / "out", {"recipe": "x", "seed": "a"}, list("abcx"), NAMES, KEPT)
    assert not other.is_finished(("report.json", "compression.json"))


# --- reuse


def test_reuse_takes_over_the_steps_that_are_the_same(tmp_path, commit):
    commit(tmp_path / "one")
    journal = commit(tmp_path / "two", "abXY", upto=0, reuse=tmp_path / "one")
    assert numbers(journal) == [1, 2]
    assert steps(tmp_path / "two") == ["01-finetune", "02-exit"]
    one, two = (tmp_path / name / "steps" / "01-finetune" / WEIGHTS for name in ("one", "two"))
    assert one.samefile(two)
    shutil.rmtree(tmp_path / "one")
    assert numbers(commit(tmp_path / "two", "abXY")) == [1, 2, 3, 4]
    assert two.is_file()


def test_reuse_does_without_links_where_there_are_none(tmp_path, commit, monkeypatch):
    def nothing(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    commit(tmp_path / "one")
    monkeypatch.setattr(os, "link", nothing)
    assert numbers(commit(tmp_path / "two", "abXY", upto=0, reuse=tmp_path / "one")) == [1, 2]


def test_reuse_stops_before_steps_whose_weights_are_gone(tmp_path, commit):
    commit(tmp_path / "one")
    journal = commit(tmp_path / "two", "abcX", upto=0, reuse=tmp_path / "one")
    assert numbers(journal) == [1, 2]  # the weights of step 3 went when step 4 was done
    whole = commit(tmp_path / "three", "abcd", upto=0, reuse=tmp_path / "one")
    assert numbers(whole) == [1, 2, 3, 4]
    assert with_weights(tmp_path / "three") == ["01-finetune", "02-exit", "04-distill"]


def test_reuse_goes_on_where_a_kill_stopped_it(tmp_path, commit):
    commit(tmp_path / "one")
    commit(tmp_path / "two", "abcd", upto=1)
    (tmp_path / "two" / "steps" / ".02-exit.linking").mkdir()
    assert numbers(commit(tmp_path / "two", "abcd", upto=0, reuse=tmp_path / "one")) == [1, 2, 3, 4]
    assert steps(tmp_path / "two") == ["01-finetune", "02-exit", "03-prune", "04-distill"]


def test_of_a_folder_of_runs_the_one_that_goes_furthest_is_reused(tmp_path, commit):
    """Steps of others, and equally many of them, do not count."""
    runs = tmp_path / "runs"
    commit(runs / "a", "xbcd")
    commit(runs / "b", "abcd", upto=3)
    commit(runs / "c", "abxd")
    (runs / "d.log").write_text("")
    assert numbers(commit(tmp_path / "new", "abcd", upto=0, reuse=runs)) == [1, 2, 3]
    assert numbers(commit(runs / "new", "abcd", upto=0, reuse=runs)) == [1, 2, 3]


def test_weights_that_a_run_at_work_drops_meanwhile_are_not_missed(tmp_path, commit, monkeypatch):
    """Where it goes on to steps that are no longer the same; what is left is taken over."""
    commit(tmp_path / "one", "abcd", upto=2, kept=(True,) * 4)
    link = os.link

    def drop_and_link(source, target):
        if Path(source).name == WEIGHTS and "02-exit" in str(source):
            Path(source).unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", drop_and_link)
    kept = (True,) * 4
    assert numbers(commit(tmp_path / "two", "abcd", upto=0, reuse=tmp_path / "one", kept=kept)) == [1]


def test_there_must_be_something_to_reuse(tmp_path, commit):
    with pytest.raises(CompresskitError) as caught:
        commit(tmp_path / "two", reuse=tmp_path / "nowhere")
    assert str(caught.value) == (
        f"--reuse {tmp_path}/nowhere was not written by compresskit apply; "
        "give an output folder of it, or a folder of such"
    )
    assert not (tmp_path / "two").exists()
