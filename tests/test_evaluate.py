"""Simulated exits against exits that really stop the work; scores and costs against sums by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import torch
from pydantic import Field

from compresskit.batches import collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.cost import dims_of, flops, original_shape
from compresskit.data import Rows
from compresskit.errors import RecipeError
from compresskit.evaluate import THRESHOLDS_MORE, THRESHOLDS_TWO, evaluate, exit_answers, simulate
from compresskit.interfaces import ExitPolicy, ExitTrail
from compresskit.labels import Task
from compresskit.run import Run
from compresskit.speed import EARLY, FULL
from compresskit.testing import tiny_compressed, tiny_tokenizer
from compresskit.testing.text import sentences

FAMILIES = load_catalogue([]).names("architecture")
ROWS = 40
TASK = Task("classification", ("no", "yes"), "accuracy")
PADDED = collate(0)
MARGIN = 1e-5


pytestmark = pytest.mark.usefixtures("quick_clock")


def encoded(model, rows=ROWS, labels: Sequence[int] | Sequence[float] | None = None):
    tokenizer = tiny_tokenizer(model.anatomy.model_type)
    labels = tuple(labels if labels is not None else [row % 2 for row in range(rows)])
    texts = tuple((text,) for text in sentences(rows, seed=3))
    return encode(Rows(texts, labels, "test"), tokenizer, 128, "token_type_ids" in model.input_names)


def multi_exit(family="bert", exits=(1, 2, 3), **sizes):
    return tiny_compressed(family, exits=exits, layers=3, **sizes)


def scores_by_hand(logits, rows):
    return (logits.argmax(-1) == rows.labels).float().mean().item()


@pytest.mark.parametrize("head", ["cls-tanh", "mean-tanh"])
@pytest.mark.parametrize("family", FAMILIES)
def test_leaving_early_in_batches_gives_the_simulated_answers(family, head):
    model = multi_exit(family, head=head)
    rows = encoded(model)
    logits, _ = exit_answers(model, rows, PADDED, Run())
    left = simulate(model.policy, logits, 3)
    assert len(left.unique()) > 1
    answers = torch.stack([logits[number][row] for row, number in enumerate(left.tolist())])
    entropies = torch.stack([torch.distributions.Categorical(logits=logits[number]).entropy() for number in (1, 2)])
    # A different order of sums may tip an entropy that equals the threshold.
    clear = ((entropies - model.policy.threshold).abs() > MARGIN).all(0)
    assert clear.sum() > ROWS / 2

    for size in (7, 1):
        for start in range(0, ROWS, size):
            batch = PADDED([rows[row] for row in range(start, min(start + size, ROWS))])
            with torch.no_grad():
                output = model(**{name: batch[name] for name in model.input_names if name in batch})
            here = clear[batch["index"]]
            assert torch.equal(output.exits[here], left[batch["index"]][here])
            torch.testing.assert_close(output.logits[here], answers[batch["index"]][here], atol=1e-5, rtol=1e-5)


def test_logits_come_in_the_order_of_the_rows():
    model = multi_exit()
    rows = encoded(model).subset([5, 2, 9, 5])
    logits, _ = exit_answers(model, rows, PADDED, Run())
    for position in range(4):
        with torch.no_grad():
            alone = model.trace(PADDED([rows[position]])).logits
        for number in (1, 2, 3):
            torch.testing.assert_close(logits[number][position], alone[number][0], atol=1e-5, rtol=1e-5)


def test_every_exit_is_scored_as_if_all_left_there():
    model = multi_exit()
    rows = encoded(model)
    found = evaluate(model, rows, PADDED, TASK, Run(), latency=False)
    logits, _ = exit_answers(model, rows, PADDED, Run())
    assert list(found.per_exit) == [1, 2, 3]
    for number in (1, 2, 3):
        assert found.per_exit[number]["accuracy"] == pytest.approx(scores_by_hand(logits[number], rows))
    assert found.value == found.per_exit[3]["accuracy"]
    assert sum(map(sum, found.confusion)) == ROWS
    assert found.confusion[0][0] + found.confusion[1][1] == found.value * ROWS


def test_the_ends_of_the_sweep_are_the_first_and_the_last_exit():
    model = multi_exit()
    found = evaluate(model, encoded(model), PADDED, TASK, Run(), thresholds=[10.0, 0.0], latency=False)
    first, last = found.sweep
    assert first.histogram == {1: ROWS, 2: 0, 3: 0}
    assert last.histogram == {1: 0, 2: 0, 3: ROWS}
    assert (first.mean_exit, last.mean_exit) == (1.0, 3.0)
    assert (first.value, last.value) == (found.per_exit[1]["accuracy"], found.per_exit[3]["accuracy"])

    dims = dims_of(model.anatomy, model.network.config)
    whole = flops(dims, original_shape(model.anatomy, model.network.config), 128)["flops_all"]
    assert first.flops_reduction == pytest.approx(whole / flops(dims, model.shape, 128, 1)["flops_all"])
    assert last.flops_reduction == pytest.approx(whole / flops(dims, model.shape, 128)["flops_all"])
    # The rows have about nine tokens.
    real = flops(dims, original_shape(model.anatomy, model.network.config), round(found.mean_tokens))["flops_all"]
    cheap = flops(dims, model.shape, round(found.mean_tokens), 1)["flops_all"]
    assert first.flops_reduction_real == pytest.approx(real / cheap)


def test_the_own_point_is_the_policy_as_it_is():
    model = multi_exit(threshold=0.4)
    found = evaluate(model, encoded(model), PADDED, TASK, Run(), thresholds=[0.4, 0.1], latency=False)
    assert found.own == found.sweep[0]
    assert found.own.threshold == 0.4
    assert found.policy == {"by": "entropy", "threshold": 0.4}
    assert sum(found.own.histogram.values()) == ROWS
    assert found.own.histogram[3] < ROWS


def test_mean_cost_is_that_of_the_histogram():
    model = multi_exit()
    found = evaluate(model, encoded(model), PADDED, TASK, Run(), thresholds=[0.5], latency=False)
    dims = dims_of(model.anatomy, model.network.config)
    whole = flops(dims, original_shape(model.anatomy, model.network.config), 128)["flops_all"]
    point = found.sweep[0]
    mean = sum(n / ROWS * flops(dims, model.shape, 128, k)["flops_all"] for k, n in point.histogram.items())
    assert point.flops_reduction == pytest.approx(whole / mean)


@pytest.mark.parametrize(("classes", "thresholds"), [(2, (0.7, *THRESHOLDS_TWO)), (3, (1.1, *THRESHOLDS_MORE))])
def test_usual_thresholds_depend_on_the_number_of_classes(classes, thresholds):
    model = multi_exit(labels=classes)
    task = Task("classification", tuple("abc"[:classes]), "accuracy")
    rows = encoded(model, labels=[row % classes for row in range(ROWS)])
    found = evaluate(model, rows, PADDED, task, Run(), latency=False)
    assert tuple(point.threshold for point in found.sweep) == thresholds
    layers = [point.mean_exit for point in found.sweep]
    assert layers == sorted(layers)
    assert (layers[0], layers[-1]) == (1, 3), "from all at the first exit to all at the last"


@dataclass(frozen=True)
class Halves(ExitPolicy):
    """Its thresholds are probabilities from a half."""

    name: ClassVar[str] = "halves"

    threshold: Annotated[float, Field(ge=0.5, le=1)]

    def leave(self, trail):
        return trail.logits[-1].softmax(-1).max(-1).values >= self.threshold


def test_usual_thresholds_that_a_policy_does_not_take_are_left_out(monkeypatch):
    model = tiny_compressed(exits=(1, 2, 3), layers=3)
    model.policy = Halves(0.9)
    found = evaluate(model, encoded(model), PADDED, TASK, Run(), latency=False)
    assert [point.threshold for point in found.sweep] == [0.7, 0.65, 0.6, 0.55, 0.5]
    assert evaluate(model, encoded(model), PADDED, TASK, Run(), thresholds=(), latency=False).sweep == ()
    rows = encoded(model)
    monkeypatch.setattr(model, "trace", None)  # refused before any row is answered
    with pytest.raises(RecipeError) as caught:
        evaluate(model, rows, PADDED, TASK, Run(), thresholds=(0.4,), latency=False)
    assert str(caught.value) == "halves's 'threshold' must be at least 0.5, not 0.4"


@dataclass(frozen=True)
class Second(ExitPolicy):
    """Everybody leaves at the second exit."""

    name: ClassVar[str] = "second"

    def leave(self, trail: ExitTrail):
        return torch.full((len(trail.logits[-1]),), len(trail.exits) == 2)


def test_a_policy_without_a_threshold_is_seen_as_it_is():
    model = multi_exit(exits=(1, 2, 3))
    model.policy = Second()
    found = evaluate(model, encoded(model), PADDED, TASK, Run(), latency=False)
    assert [point.threshold for point in found.sweep] == [None]
    assert found.sweep[0] == found.own
    assert found.own.histogram == {1: 0, 2: ROWS, 3: 0}


@dataclass(frozen=True)
class Patience(ExitPolicy):
    """Leaves where the last so many exits each agree with the one before (Zhou et al. 2020, arXiv:2006.04152)."""

    name: ClassVar[str] = "patience"

    patience: int
    tolerance: float = 0.0

    def leave(self, trail: ExitTrail):
        if len(trail.logits) <= self.patience:
            return torch.zeros(len(trail.logits[-1]), dtype=torch.bool)
        answers = torch.stack(trail.logits[-self.patience - 1 :])  # (exits, alive, outputs)
        if answers.shape[-1] == 1:
            return (answers.diff(dim=0).abs() < self.tolerance).squeeze(-1).all(0)
        return (answers.argmax(-1).diff(dim=0) == 0).all(0)


ANSWERS = ((0, 1, 1, 1, 0, 0), (0, 1, 0, 1, 0, 1), (1, 1, 1, 1, 1, 1), (0, 0, 1, 1, 1, 0), (0, 1, 0, 0, 0, 0))
"""Of six exits, for five examples."""


def leaving(monkeypatch, policy, logits):
    """Where the examples of (examples, exits, outputs) leave: worked out, and in a batch of a model that stops."""
    rows, depth, outputs = logits.shape
    simulated = simulate(policy, {number: logits[:, number - 1] for number in range(1, depth + 1)}, depth)
    model = tiny_compressed(exits=tuple(range(1, depth + 1)), layers=depth, labels=outputs)
    # Examples are told apart by their length, which survives the packing.
    monkeypatch.setattr(model, "answer", lambda number, hidden, mask: (logits[mask.sum(1) - 1, number - 1], None))
    model.policy = policy
    mask = torch.ones(rows, rows, dtype=torch.long).tril()
    with torch.no_grad():
        found = model(torch.full_like(mask, 7), attention_mask=mask)
    assert torch.equal(found.logits, logits[torch.arange(rows), found.exits - 1])
    return simulated.tolist(), found.exits.tolist()


@pytest.mark.parametrize(
    ("patience", "exits"),
    [
        (1, [3, 6, 2, 2, 4]),
        (2, [4, 6, 3, 5, 5]),  # 0, 1, 1, 1 leaves at the fourth
        (3, [6, 6, 4, 6, 6]),
        (4, [6, 6, 5, 6, 6]),  # nobody before exit t + 1
        (5, [6, 6, 6, 6, 6]),
        (6, [6, 6, 6, 6, 6]),  # as patient as the model is deep
        (9, [6, 6, 6, 6, 6]),
    ],
)
def test_x4_patience_counts_agreements_in_a_row(monkeypatch, patience, exits):
    said = torch.tensor(ANSWERS)
    # How sure an exit is differs from exit to exit, and does not count.
    logits = torch.nn.functional.one_hot(said, 2) * torch.arange(1.0, said.numel() + 1).reshape(*said.shape, 1)
    simulated, left = leaving(monkeypatch, Patience(patience), logits)
    assert simulated == left == exits


@pytest.mark.parametrize(("tolerance", "exits"), [(0.0, [6, 6, 6]), (0.25, [2, 5, 6]), (1.5, [2, 2, 2])])
def test_x4_numbers_agree_where_they_are_near_and_never_at_tolerance_zero(monkeypatch, tolerance, exits):
    values = torch.tensor([[3.0] * 6, [1.0, 2.0, 3.0, 4.0, 4.125, 5.0], [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]])
    simulated, left = leaving(monkeypatch, Patience(1, tolerance), values[..., None])
    assert simulated == left == exits


def test_a_number_has_no_entropy_so_nobody_leaves():
    model = multi_exit(labels=1)
    rows = encoded(model, labels=[row / 7 for row in range(ROWS)])
    found = evaluate(model, rows, PADDED, Task("regression", (), "pearson"), Run(), latency=False)
    assert [point.threshold for point in found.sweep] == [0.5]
    assert found.own.histogram == {1: 0, 2: 0, 3: ROWS}
    assert list(found.per_exit[3]) == ["pearson", "spearman"]
    assert found.to_json()["confusion"] == {"last_exit": [], "operating_point": []}


def test_every_row_has_its_length_and_an_answer_at_each_exit():
    """Texts differ in length, and rows are answered by length but told in their order."""
    model = multi_exit()
    rows = encoded(model)
    found = evaluate(model, rows, PADDED, TASK, Run(), latency=False).answers
    assert found.tokens == tuple(len(rows[row]["input_ids"]) for row in range(ROWS))
    assert len(set(found.tokens)) > 1
    logits, _ = exit_answers(model, rows, PADDED, Run())
    assert found.per_exit == {number: tuple(answer.argmax(-1).tolist()) for number, answer in logits.items()}
    assert found.last == found.per_exit[3] != found.per_exit[1]
    assert found.early == tuple(found.per_exit[left][row] for row, left in enumerate(found.exits))
    assert len(set(found.exits)) > 1
    assert json.loads(json.dumps(found.to_json()))["per_exit"].keys() == {"1", "2", "3"}


def test_without_exits_there_is_nothing_to_sweep():
    model = tiny_compressed()
    found = evaluate(model, encoded(model), PADDED, TASK, Run())
    data = found.to_json()
    assert (data["sweep"], data["operating_point"], data["confusion"]["operating_point"]) == ([], None, None)
    assert [(time.label, time.batch) for time in found.milliseconds] == [(FULL, 1), (FULL, 32)]


def test_times_are_measured_with_exits_on_and_off():
    model = multi_exit()
    model.train()
    found = evaluate(model, encoded(model, rows=5, labels=[0, 1, 0, 1, 1]), PADDED, TASK, Run(), thresholds=[0.1])
    settings = [(time.label, time.batch) for time in found.milliseconds]
    assert settings == [(FULL, 1), (EARLY, 1), (FULL, 32), (EARLY, 32)]
    assert all(0 < time.low <= time.median <= time.high for time in found.milliseconds)
    assert model.training
    assert model.leave_early


def test_json_has_what_the_issue_names():
    model = multi_exit()
    data = evaluate(model, encoded(model), PADDED, TASK, Run(), thresholds=[0.3], latency=False).to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["metric"], data["convention"], data["tokens"], data["rows"]) == ("accuracy", "flops_all", 128, ROWS)
    assert [row["exit"] for row in data["per_exit"]] == [1, 2, 3]
    assert {"threshold", "value", "mean_exit", "flops_reduction", "accuracy", "f1"} <= set(data["sweep"][0])
    assert data["operating_point"]["policy"] == {"by": "entropy", "threshold": 0.5}
    assert data["operating_point"]["histogram"].keys() == {"1", "2", "3"}
