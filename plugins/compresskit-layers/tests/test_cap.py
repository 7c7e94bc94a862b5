"""CAP: what every distiller must do, the two terms on numbers worked out by hand, and the recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from compresskit_layers import InfoNCE, SupCon
from compresskit_layers.cap import some
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from compresskit import Bank, Trace
from compresskit.apply import apply
from compresskit.data import DataOptions
from compresskit.errors import CompresskitError
from compresskit.recipe import read_recipe
from compresskit.run import Run
from compresskit.strategies.labels import Labels
from compresskit.strategies.predictions import Predictions
from compresskit.testing import apply_tiny, parametrize, trainings

RECIPE = Path(__file__).parent.parent / "compresskit_layers" / "recipes" / "cap.yaml"


@pytest.mark.parametrize(**parametrize(InfoNCE(), SupCon(), InfoNCE(0.5, 100), SupCon(2.0, 100)))
def test_is_a_good_strategy(check):
    check()


def like(*sizes, seed=0):
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def bank(*models, labels=None):
    """Of one (rows, size) tensor a model."""
    features = torch.stack([torch.as_tensor(model, dtype=torch.float32) for model in models])
    return Bank(features, torch.zeros(features.shape[1], dtype=torch.long) if labels is None else torch.tensor(labels))


def loss(distiller, anchors, rows, *banks):
    """Of a batch of those rows whose features are `anchors`; a second token and other layers say something else."""
    first = torch.as_tensor(anchors)
    last = torch.stack([first, torch.full_like(first, 9.0)], dim=1)
    index = torch.tensor(rows)
    student = Trace(
        {1: torch.zeros(len(rows), 2)},
        (last * 0 + 5, last),
        torch.ones(len(rows), 2),
        banks={str(number): each for number, each in enumerate(banks)},
    )
    return distiller.loss(student, None, {"index": index, "labels": banks[0].labels[index]})


def unit(degrees):
    """A feature in that direction, of whatever length."""
    angle = math.radians(degrees)
    return [(1 + degrees) * math.cos(angle), (1 + degrees) * math.sin(angle)]


def cosine(one, other):
    return math.cos(math.radians(one - other))


def logsumexp(scores):
    return math.log(sum(math.exp(score) for score in scores))


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_one_positive_costs_the_logsumexp_less_its_own_score(temperature):
    directions = [10.0, 35.0, 80.0, 170.0]
    for row, anchor in ((0, 20.0), (3, 120.0)):
        scores = [cosine(anchor, other) / temperature for other in directions]
        found = loss(InfoNCE(temperature), [unit(anchor)], [row], bank([unit(d) for d in directions]))
        assert found.item() == pytest.approx(-scores[row] + logsumexp(scores), rel=1e-4)


@pytest.mark.parametrize("entries", [2, 7])
def test_where_all_features_are_equal_a_guess_among_k_costs_ln_k(entries):
    same = torch.ones(entries, 4)
    rows = list(range(entries))
    assert loss(InfoNCE(), same, rows, bank(same)).item() == pytest.approx(math.log(entries))
    # Without itself there is one candidate less, and its positives are all equally good guesses.
    expected = pytest.approx(math.log(entries - 1), abs=1e-6)
    assert loss(SupCon(), same, rows, bank(same)).item() == expected


def test_the_supervised_term_leaves_the_example_itself_out():
    """As a positive and as a candidate: with itself among them, its own entry, which is nearest, would be both."""
    directions, labels = [10.0, 35.0, 80.0, 170.0], [1, 0, 1, 0]
    scores = [cosine(12, other) / 0.1 for other in directions[1:]]
    found = loss(SupCon(), [unit(12.0)], [0], bank([unit(d) for d in directions], labels=labels))
    assert found.item() == pytest.approx(-scores[1] + logsumexp(scores), rel=1e-4)
    # Wherever its own entry lies.
    moved = [unit(d) for d in [99.0, *directions[1:]]]
    assert loss(SupCon(), [unit(12.0)], [0], bank(moved, labels=labels)).item() == pytest.approx(found.item())


def test_the_supervised_term_is_a_mean_over_positives():
    """Row 0 has one positive, row 1 three; a sum over positives would be three times as large for it."""
    directions, labels = [0.0, 40.0, 60.0, 100.0, 130.0, 10.0], [0, 1, 1, 1, 1, 0]
    entries = bank([unit(d) for d in directions], labels=labels)

    def of(anchor, row):
        others = [other for other in range(6) if other != row]
        scores = {other: cosine(anchor, directions[other]) / 0.1 for other in others}
        positives = [other for other in others if labels[other] == labels[row]]
        return sum(logsumexp(scores.values()) - scores[other] for other in positives) / len(positives)

    whole = loss(SupCon(), [unit(20.0), unit(70.0)], [0, 1], entries).item()
    assert whole == pytest.approx((of(20.0, 0) + of(70.0, 1)) / 2, rel=1e-4)
    # A text that is there twice among the positives counts for no more than once.
    twice = bank([unit(d) for d in [0.0, 40.0, 60.0, 60.0]], labels=[0, 1, 1, 1])
    scores = [cosine(70, other) / 0.1 for other in (0, 60, 60)]
    assert loss(SupCon(), [unit(70.0)], [1], twice).item() == pytest.approx(logsumexp(scores) - scores[1], rel=1e-4)


@pytest.mark.parametrize("labels", [[0, 1, 1, 1], [0, 1, 2, 3]])
def test_an_example_without_positives_adds_nothing_and_no_nan(labels):
    entries = bank(like(4, 3), labels=labels)
    anchors = like(2, 3, seed=1).requires_grad_()
    both = loss(SupCon(), anchors, [0, 1], entries)
    alone = loss(SupCon(), anchors[1:], [1], entries).item()
    assert both.item() == pytest.approx(alone / 2)
    assert (both.item() == 0) is (labels[2] == 2)
    both.backward()
    assert torch.isfinite(anchors.grad).all()
    assert not anchors.grad[0].any()


def test_an_example_that_is_compared_with_nothing_adds_nothing():
    anchors = like(1, 3).requires_grad_()
    for distiller in (SupCon(), InfoNCE()):
        found = loss(distiller, anchors, [0], bank(like(1, 3, seed=2)))
        assert found.item() == 0
        found.backward()
        assert torch.equal(anchors.grad, torch.zeros(1, 3))


def test_terms_of_banks_are_added_up():
    one, other = bank(like(5, 3)), bank(like(5, 3, seed=1))
    for distiller in (InfoNCE(), SupCon()):
        apart = [loss(distiller, like(2, 3, seed=7), [1, 4], each).item() for each in (one, other)]
        assert loss(distiller, like(2, 3, seed=7), [1, 4], one, other).item() == pytest.approx(sum(apart), rel=1e-5)


def test_of_a_bank_of_several_models_every_entry_of_the_text_is_a_positive_and_none_a_supervised_candidate():
    first, second = [10.0, 80.0, 150.0], [30.0, 100.0, 140.0]
    entries = bank([unit(d) for d in first], [unit(d) for d in second], labels=[0, 0, 1])
    scores = [cosine(20, other) / 0.1 for other in first + second]
    expected = logsumexp(scores) - (scores[0] + scores[3]) / 2
    assert loss(InfoNCE(), [unit(20.0)], [0], entries).item() == pytest.approx(expected, rel=1e-4)
    others = [scores[place] for place in (1, 2, 4, 5)]
    expected = logsumexp(others) - (scores[1] + scores[4]) / 2
    assert loss(SupCon(), [unit(20.0)], [0], entries).item() == pytest.approx(expected, rel=1e-4)


def test_lengths_of_features_do_not_count_and_none_divides_by_zero():
    entries, anchors = like(6, 3), like(2, 3, seed=1)
    for distiller in (InfoNCE(), SupCon()):
        plain = loss(distiller, anchors, [0, 5], bank(entries)).item()
        scaled = loss(distiller, 100 * anchors, [0, 5], bank(entries / 7)).item()
        assert scaled == pytest.approx(plain, rel=1e-4)
        nothing = torch.zeros(2, 3, requires_grad=True)
        found = loss(distiller, nothing, [0, 5], bank(torch.zeros(6, 3)))
        found.backward()
        assert torch.isfinite(found)
        assert torch.isfinite(nothing.grad).all()


# --- who learns ------------------------------------------------------------------------------------------------------


def test_a_step_down_the_gradient_brings_the_student_nearer_to_what_it_should_be_like():
    entries = bank([unit(0.0), unit(90.0), unit(270.0)], labels=[0, 0, 1])
    for distiller, wanted in ((InfoNCE(1.0), unit(0.0)), (SupCon(1.0), unit(90.0))):
        anchor = torch.tensor([[1.0, 1.0]], requires_grad=True)
        loss(distiller, anchor, [0], entries).backward()
        moved = (anchor - anchor.grad).detach()
        nearness = torch.cosine_similarity(torch.stack([anchor.detach()[0], moved[0]]), torch.tensor([wanted]))
        assert nearness[1] > nearness[0] + 1e-4


# --- what is drawn ---------------------------------------------------------------------------------------------------


def candidates(distiller, count, rows, luck):
    """How many entries the rows are compared with: where all features are equal, the loss is their logarithm."""
    torch.manual_seed(luck)
    return round(math.exp(loss(distiller, torch.ones(len(rows), 2), rows, bank(torch.ones(count, 2))).item()))


@pytest.mark.parametrize(
    ("count", "extra", "rows", "compared"),
    [(50, 10, [7], 11), (50, 10, [3, 9, 40], 13), (50, 49, [0], 50), (50, 47, [0, 1, 2], 50), (50, 500, [4, 5], 50)],
)
def test_so_many_are_drawn_beside_the_batchs_own(count, extra, rows, compared):
    for luck in range(20):
        assert candidates(InfoNCE(extra=extra), count, rows, luck) == compared
        assert candidates(SupCon(extra=extra), count, rows, luck) == compared - 1


def test_every_other_entry_may_be_drawn_and_the_own_always_are():
    """Each entry has a direction of its own; the gradient lies in those that were looked at."""
    seen = torch.zeros(30)
    for luck in range(60):
        torch.manual_seed(luck)
        anchors = torch.ones(1, 30, requires_grad=True)
        loss(InfoNCE(temperature=1.0, extra=5), anchors, [4], bank(torch.eye(30))).backward()
        # Directions that nobody looked at all have the same slope.
        usual = anchors.grad[0].mode().values
        drawn = (anchors.grad[0] - usual).abs() > 1e-6
        assert drawn[4]
        assert drawn.sum() == 6
        seen += drawn
    assert (seen > 0).all()


def test_draws_follow_torchs_generator_and_nothing_else():
    entries, anchors = bank(like(50, 3)), like(2, 3, seed=1)

    def of(luck):
        torch.manual_seed(luck)
        return loss(InfoNCE(extra=5), anchors, [0, 1], entries).item()

    assert of(1) == of(1)
    assert len({of(luck) for luck in range(5)}) == 5


# --- precision, sizes, labels ----------------------------------------------------------------------------------------


def test_under_autocast_cosines_are_computed_in_full():
    """In bfloat16, scores of about 10 are off by several hundredths."""
    anchors, entries = like(4, 64).bfloat16(), bank(like(300, 64, seed=1))
    for distiller in (InfoNCE(extra=1000), SupCon(extra=1000)):
        exact = loss(distiller, anchors.float(), [0, 1, 2, 3], entries).item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss(distiller, anchors, [0, 1, 2, 3], entries)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact, abs=1e-4)


def test_features_of_another_size_are_refused():
    with pytest.raises(CompresskitError) as caught:
        loss(InfoNCE(), like(2, 3), [0, 1], bank(like(4, 5)))
    assert str(caught.value) == (
        "info-nce: a bank's features have 5 numbers and the student's hidden states 3; "
        "name models of the same hidden size"
    )


def test_numbers_are_no_classes():
    entries = bank(like(4, 3), labels=[0.5, 1.0, 2.0, 0.5])
    with pytest.raises(CompresskitError) as caught:
        loss(SupCon(), like(2, 3), [0, 1], entries)
    assert str(caught.value) == "sup-con: labels that are numbers make no classes; use info-nce alone"
    assert loss(InfoNCE(), like(2, 3), [0, 1], entries) > 0


# --- the recipe ------------------------------------------------------------------------------------------------------

QUICK = ("steps.0.finetune.epochs=0.5", "steps.4.repeat=2")


def test_regression_is_refused_before_anything_is_done(tmp_path):
    from compresskit.testing import save_tiny, tiny_text

    model = save_tiny(tmp_path / "model", trained=False, labels=1)
    data = tiny_text(tmp_path / "data", labels=1)
    (tmp_path / "r.yaml").write_text(
        "recipe: 1\nname: some\nsteps:\n- finetune: {epochs: 1}\n"
        "- {distill: teacher, by: {labels: 1, sup-con: {weight: 1, banks: [teacher]}}, epochs: 1}\n"
    )
    with pytest.raises(CompresskitError) as caught:
        apply(read_recipe(tmp_path / "r.yaml"), str(model), str(data), DataOptions(), tmp_path / "out", Run())
    message = "steps[1] distill: sup-con needs classes, and the labels are numbers; leave that loss out"
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("total", "count"), [(100, 20), (100, 100), (100, 120), (10_000, 50)])
def test_some_numbers_are_all_different_and_as_many_as_there_are(total, count):
    drawn = some(total, count)
    assert len(drawn) == len(set(drawn.tolist())) == min(count, total)
    assert int(drawn.min()) >= 0 and int(drawn.max()) < total


def test_some_numbers_come_from_everywhere():
    torch.manual_seed(0)
    drawn = torch.cat([some(2000, 50) for _ in range(400)]).float()
    assert float(drawn.mean()) == pytest.approx(999.5, abs=25)


def test_the_recipe_runs_and_its_model_loads(tmp_path):
    report = apply_tiny(RECIPE, tmp_path, *QUICK, "steps.4.steps.2.by.sup-con.with={extra: 9}")
    layers = report.model.shape.layers
    # 9/10 of 8 heads and 128 neurons, rounded to the nearest, are 7 and 115; 5/9 of those 4 and 64.
    assert sum(layer.heads for layer in layers) == 4
    assert sum(layer.neurons for layer in layers) == 64
    assert min(layer.heads for layer in layers) >= 1
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.shape.layers == layers
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    saved = [
        json.loads(path.read_text())["saved"].get("snapshots")
        for path in sorted(tmp_path.glob("out/steps/*/step.json"))
    ]
    rounds = ["steps/03-distill"] * 2 + ["steps/05-distill"] * 2 + ["steps/07-distill"]
    assert saved == [None, None, *rounds]
    assert all((tmp_path / "out" / folder / "model.safetensors").is_file() for folder in rounds)


def test_the_methods_trainings_in_numbers():
    """The first round has no snapshot yet and begins from the pre-trained weights; the next go on from its own."""
    terms = {"info-nce": (0.3, InfoNCE()), "sup-con": (3, SupCon())}
    losses = {"labels": (0.1, Labels()), "predictions": (0.9, Predictions()), **terms}
    each = {"teacher": "teacher", "epochs": 2, "batch_size": 16, "save_as": "snapshots", "by": losses}
    assert trainings(RECIPE) == [{"epochs": 3}, {**each, "rewind": True}, each]
    first, later = (step.by for step in read_recipe(RECIPE).steps[3:] for step in getattr(step, "steps", (step,))[-1:])
    for name in ("info-nce", "sup-con"):
        assert first[name].banks == ("original", "teacher")
        assert later[name].banks == ("original", "teacher", "snapshots")
