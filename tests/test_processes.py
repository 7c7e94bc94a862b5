"""Two processes that train together, over gloo on the processor, do what one does with the same batches."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from compresskit.report import Report
from compresskit.testing import save_tiny, tiny_text

RECIPE = """
recipe: 1
name: trial
steps:
- finetune: {epochs: 2.5, learning_rate: 1e-3, batch_size: 16}
- {exit: all, by: entropy, with: {threshold: 0.3}, start: original}
# Exit heads are in the way of nothing here, yet belong to the model that the processes share.
- {distill: teacher, by: hidden-states, epochs: 1.75, batch_size: 16, gradient_accumulation: 2, learning_rate: 1e-3}
- distill: teacher
  by: {labels: 1, predictions: {after: 0.5}}
  epochs: 2
  batch_size: 16
  learning_rate: 1e-3
  save_as: coach
# Labels too: of its own predictions, which the coach's are, a model's gradient is nothing but rounding.
- {prune: heads, by: taylor, keep: 1/2, teacher: coach, loss: {predictions: 0.9, labels: 0.1}}
- {factorize: word-embeddings, by: svd, rank: 1/2}
- {distill: coach, by: predictions, epochs: 1, batch_size: 16, learning_rate: 1e-3, exits: last}
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    # Processes draw their own dropout, so there must be none where results are to be equal.
    save_tiny(root / "calm", trained=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tiny_text(root / "data", 72, eval_rows=32)
    (root / "recipe.yaml").write_text(RECIPE)
    return root


@pytest.fixture(scope="module")
def run(zygote, places):
    def run(out, processes, **more):
        what = {"recipe": str(places / "recipe.yaml"), "model": str(places / "calm"), "data": str(places / "data")}
        return zygote(**what, out=str(out), processes=processes, run={"checkpoint_steps": 3}, **more)["codes"]

    return run


@pytest.fixture(scope="module")
def both(run, places):
    """The folders of a run in one process and of one in two."""
    for processes in (1, 2):
        assert run(places / f"out{processes}", processes) == [0] * processes
    return places / "out1", places / "out2"


def weights(folder):
    return load_file(folder / "model.safetensors")


def weights_in_bytes(folder):
    return (folder / "model.safetensors").read_bytes()


def test_two_processes_end_with_the_weights_of_one(both):
    start = weights(both[0] / "steps" / "02-exit")
    for name in ("steps/01-finetune", "steps/03-distill", "steps/04-distill", "."):
        one, two = (weights(out / name) for out in both)
        torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
    for name in ("steps/01-finetune", "steps/03-distill"):
        end = weights(both[0] / name)
        assert max((end[key] - start[key]).abs().max() for key in start if key.startswith("network.bert")) > 3e-3


def test_weights_that_no_loss_uses_stay_bit_for_bit_in_two_processes_too(both):
    for out in both:
        before, after = weights(out / "steps" / "02-exit"), weights(out / "steps" / "03-distill")
        heads = [name for name in before if name.startswith("exits.")]
        assert len(heads) == 4
        assert all(torch.equal(before[name], after[name]) for name in heads)
        before, after = weights(out / "steps" / "06-factorize"), weights(out)
        moved = {name for name in heads if not torch.equal(before[name], after[name])}
        assert moved == {"exits.2.classifier.weight", "exits.2.classifier.bias"}


def test_two_processes_give_the_report_of_one(both):
    one, two = (Report.from_json(json.loads((out / "report.json").read_text())) for out in both)
    assert two.model.shape == one.model.shape
    assert two.model.parameters == one.model.parameters
    assert two.original.scores == one.original.scores
    for mine, theirs in zip(two.model.scores, one.model.scores, strict=True):
        assert mine.metric == theirs.metric
        assert mine.value == pytest.approx(theirs.value, abs=1 / 32)
        assert mine.per_exit == pytest.approx(dict(theirs.per_exit), abs=1 / 32)
    files = [sorted(str(path.relative_to(out)) for path in out.rglob("*")) for out in both]
    assert files[0] == files[1]


def test_two_killed_processes_go_on_to_the_weights_of_two_that_were_not(run, both, tmp_path):
    for kill in (
        ["os.mkdir", "training-01/checkpoint-9", 1],  # 6 is in the second epoch, whose order is not that of the first
        ["os.rename", "steps/.02-exit.saving", 1],
    ):
        assert run(tmp_path / "out", 2, kill=kill) == [-9, -9]
    assert run(tmp_path / "out", 2) == [0, 0]
    assert weights_in_bytes(tmp_path / "out") == weights_in_bytes(both[1])


def test_a_finished_run_is_known_by_any_number_of_processes(run, both):
    before = (both[0] / "report.json").stat().st_mtime_ns
    assert run(both[0], 2) == [0, 0]
    assert (both[0] / "report.json").stat().st_mtime_ns == before


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_written(zygote, places, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("batch_size: 16}", "batch_size: 9}"))
    answer = zygote(
        recipe=str(tmp_path / "recipe.yaml"),
        model=str(places / "calm"),
        data=str(places / "data"),
        out=str(tmp_path / "out"),
        processes=2,
    )
    assert 1 in answer["codes"]
    assert (
        "RecipeError: steps[0] finetune: batch_size 9 can't be shared equally by gradient_accumulation 1 and "
        "2 processes; make it a multiple of 2\n"
    ) in answer["said"]
    assert not (tmp_path / "out").exists()
