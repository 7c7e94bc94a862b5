"""A run that SIGKILL ends at whatever moment, begun again by the same command, ends with the very same weights."""

from __future__ import annotations

import json
import shutil

import pytest

from compresskit import apply as applying
from compresskit.apply import apply
from compresskit.data import DataOptions
from compresskit.recipe import read_recipe
from compresskit.run import Run
from compresskit.testing import save_tiny, tiny_text

RECIPE = """
recipe: 1
name: trial
steps:
- finetune: {epochs: 3, learning_rate: 1e-3, batch_size: 16}
- {exit: all, by: entropy, with: {threshold: 0.3}, start: original}
- {distill: teacher, by: predictions, epochs: 1, batch_size: 16, learning_rate: 1e-3, save_as: coach}
- repeat: 2
  steps:
  - {prune: heads, by: taylor, keep: 1/2, teacher: coach, loss: {predictions: 0.9, labels: 0.1}, portion: 0.5}
  - {factorize: word-embeddings, by: svd, rank: 1/2}
  - distill: coach
    by: {hidden-states: 1, predictions: {after: 0.5}}
    epochs: 1
    batch_size: 16
    learning_rate: 1e-3
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("resume")
    save_tiny(root / "model", trained=False, layers=2)
    tiny_text(root / "data", 64, eval_rows=8)
    (root / "recipe.yaml").write_text(RECIPE)
    return root


@pytest.fixture(scope="module")
def run(zygote, places):
    """A run in a process of its own, of which only the folder and the kill are to be said."""

    def run(out, **more):
        what = {"recipe": str(places / "recipe.yaml"), "model": str(places / "model"), "data": str(places / "data")}
        return zygote(**what, out=str(out), run={"checkpoint_steps": 3}, **more)

    return run


@pytest.fixture(scope="module")
def undisturbed(run, places):
    assert run(places / "out") == {"codes": [0], "said": ""}
    return places / "out"


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# In the order in which a run meets them.
MOMENTS = (
    ("os.rename", "run.json", 1),  # the folder is not claimed yet
    ("open", "checkpoint-3/trainer_state.json", 1),  # in the first checkpoint
    ("open", "checkpoint-6/whole", 1),  # two checkpoints, one of them whole
    ("os.remove", "optimizer.pt", 1),  # half of an old checkpoint is gone
    ("os.mkdir", "training-01/checkpoint-9", 1),  # checkpoint 6 is in the second epoch
    ("open", "steps/.01-finetune.saving/step.json", 1),  # a step is half written
    ("os.rename", "steps/.01-finetune.saving", 1),  # it is written, but not there yet
    ("shutil.rmtree", "steps/training-01", 1),  # it is there, and so are its training's checkpoints
    ("os.mkdir", "steps/.06-distill.saving", 1),  # in the repeat, checkpoint 3 is after a change of losses
    ("os.remove", "06-distill/model.safetensors", 1),  # a step's weights are about to go
    ("os.rename", "out/.saving/config.json", 1),  # the result moves in
    ("os.rename", "out/.saving/tokenizer.json", 1),
    ("os.rename", "out/.saving/compression.json", 1),
)


@pytest.mark.parametrize("kill", [MOMENTS[at] for at in (0, 3, 4, 7, 9)], ids=lambda kill: " ".join(kill[:2]))
def test_a_killed_run_ends_as_one_that_was_not(run, undisturbed, tmp_path, kill):
    assert run(tmp_path / "out", kill=kill) == {"codes": [-9], "said": ""}
    assert run(tmp_path / "out") == {"codes": [0], "said": ""}
    assert weights(tmp_path / "out") == weights(undisturbed)
    assert files(tmp_path) == ["out", *(f"out/{name}" for name in files(undisturbed))]


def test_a_run_killed_again_and_again_gets_there(run, undisturbed, tmp_path):
    for kill in MOMENTS:
        assert run(tmp_path / "out", kill=kill) == {"codes": [-9], "said": ""}, kill
    assert run(tmp_path / "out") == {"codes": [0], "said": ""}
    assert weights(tmp_path / "out") == weights(undisturbed)
    assert files(tmp_path) == ["out", *(f"out/{name}" for name in files(undisturbed))]


def test_a_checkpoint_without_its_mark_is_not_gone_on_from(run, undisturbed, tmp_path):
    """Were it taken, its weights would show: they are of another training."""
    out = tmp_path / "out"
    run(out, kill=("os.mkdir", "training-01/checkpoint-6", 1))
    training = out / "steps" / "training-01"
    half = shutil.copytree(training / "checkpoint-3", training / "checkpoint-7")
    (half / "whole").unlink()
    content = bytearray(weights(half))
    content[-400:] = bytes(400)
    (half / "model.safetensors").write_bytes(content)
    assert run(out) == {"codes": [0], "said": ""}
    assert weights(out) == weights(undisturbed)


def test_the_training_goes_on_from_its_checkpoint_and_not_from_its_start(run, undisturbed, tmp_path):
    """The other way round: a marked checkpoint is what the rest is made from."""
    out = tmp_path / "out"
    run(out, kill=("os.mkdir", "training-01/checkpoint-6", 1))
    marked = out / "steps" / "training-01" / "checkpoint-3"
    content = bytearray(weights(marked))
    content[-400:] = bytes(400)
    (marked / "model.safetensors").write_bytes(content)
    assert run(out) == {"codes": [0], "said": ""}
    assert weights(out) != weights(undisturbed)


def test_a_run_is_known_again_by_another_process_as_finished(undisturbed, places, monkeypatch):
    """Nothing in a run's name depends on the process, such as the order of Python's sets."""

    def work(*args, **how):
        raise AssertionError("work")

    monkeypatch.setattr(applying, "carry_out", work)
    monkeypatch.setattr(applying, "compare", work)
    before = weights(undisturbed)
    report = apply(
        read_recipe(places / "recipe.yaml"),
        str(places / "model"),
        str(places / "data"),
        DataOptions(),
        undisturbed,
        Run(checkpoint_steps=3),
    )
    assert report.to_json() == json.loads((undisturbed / "report.json").read_text())
    assert weights(undisturbed) == before
