"""What each verb does to a model, on the smallest data that shows it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from compresskit.anatomy import groups, layers
from compresskit.batches import collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import Checkpoint, Original, save
from compresskit.cost import count, original_shape, parameters
from compresskit.data import Rows
from compresskit.edits import (
    AddExits,
    CutHeads,
    CutLayers,
    CutNeurons,
    FactorizeEmbedding,
    ProjectEmbeddings,
    ShareLayers,
)
from compresskit.errors import CheckpointError, DataError, PluginError
from compresskit.factoring import word_embedding
from compresskit.interfaces import Factorizer, Pruner
from compresskit.model import wrap
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.run import Run
from compresskit.steps import Workshop, best, carry_out
from compresskit.strategies.svd import Svd
from compresskit.strategies.tanh_heads import MeanTanh
from compresskit.testing import WORDS, tiny_model, tiny_tokenizer
from compresskit.verbs import ORIGINAL

ANATOMY = load_catalogue().anatomy("bert")
EXIT = "{exit: all, by: entropy, with: {threshold: 0.4}}"


def rows_of(count=24):
    draw = random.Random(0)
    texts = tuple((" ".join(draw.choices(WORDS, k=draw.randint(1, 9))),) for _ in range(count))
    return encode(Rows(texts, tuple(draw.randint(0, 1) for _ in texts), "here"), tiny_tokenizer(), 16, True)


ROWS = rows_of()


def given(seed=0, labels=2, **sizes):
    """A checkpoint as it would be loaded."""
    network = tiny_model(layers=3, seed=seed, labels=labels, **sizes)
    original = Original("here", network.config, ANATOMY, original_shape(ANATOMY, network.config))
    return Checkpoint(original, wrap(network, ANATOMY), tiny_tokenizer(), None)


class Bench:
    """A workshop, and a way to do written steps in it."""

    def __init__(self, folder, data=True, model=None):
        self.folder = folder
        self.workshop = Workshop(
            fresh=given,
            model=model or given().model,
            head_trained=True,
            rows=ROWS if data else None,
            collate=collate(0) if data else None,
            run=Run(),
            seed=42,
            scratch=folder / "scratch",
        )

    @property
    def model(self):
        return self.workshop.model

    def do(self, *steps, change=lambda planned: planned, first=1):
        """Plan these steps, written as YAML, and carry them out, numbered from `first`."""
        path = self.folder / "r.yaml"
        path.write_text("recipe: 1\nsteps:\n" + "".join(f"  - {step}\n" for step in steps), encoding="utf-8")
        plan = make_plan(read_recipe(path), given().original)
        done = [carry_out(change(step), number, self.workshop) for number, step in enumerate(plan.steps, start=first)]
        self.planned = plan.shape
        return done


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def answers(model):
    batch = collate(0)([ROWS[index] for index in range(6)])
    with torch.no_grad():
        return torch.stack(list(model.trace(batch).logits.values()))


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- prune -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "keep", "kept"),
    [
        ([3, 1, 2], 2, (0, 2)),
        ([1, 2, 3], 2, (1, 2)),
        ([5, 5, 5, 5], 2, (0, 1)),
        ([1, 5, 5, 5], 2, (1, 2)),
        ([1], 1, (0,)),
    ],
)
def test_the_best_are_kept_in_order_and_of_equals_the_earlier(scores, keep, kept):
    assert best(torch.tensor(scores, dtype=torch.float), keep) == kept


def test_p3_a_head_without_attention_out_is_cut_first(bench):
    with torch.no_grad():
        for layer, head in zip(layers(ANATOMY, bench.model.network), (2, 0, 3), strict=True):
            layer.attention.output.dense.weight[:, 8 * head : 8 * head + 8] = 0
            layer.attention.self.value.weight[8 * head : 8 * head + 8] *= 50
    before = answers(bench.model)
    (done,) = bench.do("{prune: heads, by: taylor, keep: 3}")
    assert done.edits == (CutHeads(0, (0, 1, 3)), CutHeads(1, (1, 2, 3)), CutHeads(2, (0, 1, 2)))
    torch.testing.assert_close(answers(bench.model), before, rtol=0, atol=1e-5)


def test_p4_equal_neurons_at_the_cut_leave_exactly_what_was_asked_for_in_line(bench):
    first = layers(ANATOMY, bench.model.network)[0]
    with torch.no_grad():
        for linear, dim in ((first.intermediate.dense, 0), (first.output.dense, 1)):
            linear.weight.copy_(linear.weight.index_select(dim, torch.arange(64) // 2))  # neurons in equal pairs
        first.intermediate.dense.bias.copy_(first.intermediate.dense.bias[torch.arange(64) // 2])
    into, back = first.intermediate.dense.weight.clone(), first.output.dense.weight.clone()
    (done,) = bench.do("{prune: neurons, by: taylor, keep: 7}")
    kept = next(edit.keep for edit in done.edits if edit.layer == 0)
    assert len(kept) == 7
    pairs = [neuron // 2 for neuron in kept]
    odd = [neuron for neuron in kept if pairs.count(neuron // 2) == 1]
    assert len(odd) == 1 and odd[0] % 2 == 0  # of the pair that is cut in two, the earlier stays
    assert torch.equal(first.intermediate.dense.weight, into[list(kept)])
    assert torch.equal(first.output.dense.weight, back[:, list(kept)])
    assert [(layer.heads, layer.neurons) for layer in bench.model.shape.layers] == [(4, 7)] * 3


def test_pruning_cuts_the_lowest_scores_to_the_planned_shape_and_cost(bench):
    norms = [
        sum(member.per_unit(member.linear.weight.detach()).abs().sum(1) for member in group.members)
        for group in groups(ANATOMY, bench.model.network, "neurons")
    ]
    (done,) = bench.do("{prune: neurons, by: magnitude, keep: 1/4}")
    for edit, norm in zip(done.edits, norms, strict=True):
        assert edit == CutNeurons(edit.layer, tuple(sorted(norm.topk(16).indices.tolist())))
    assert [edit.layer for edit in done.edits] == [0, 1, 2]
    assert bench.model.shape == bench.planned
    assert count(bench.model) == parameters(given().original.dims, bench.planned)


def test_heads_and_neurons_are_scored_together_before_either_is_cut(tmp_path):
    together, heads, neurons = Bench(tmp_path), Bench(tmp_path), Bench(tmp_path)
    (done,) = together.do("{prune: heads, by: taylor, keep: 2}", "{prune: neurons, by: taylor, keep: 9}")
    (first,), (second,) = (
        heads.do("{prune: heads, by: taylor, keep: 2}"),
        neurons.do("{prune: neurons, by: taylor, keep: 9}"),
    )
    assert done.edits == first.edits + second.edits


def test_a_pruner_without_data_may_stand_beside_one_with(bench):
    loss = "teacher: teacher, loss: predictions"
    bench.workshop.saved["teacher"] = [ORIGINAL]
    bench.do(
        "finetune: {epochs: 1}",
        f"{{prune: heads, by: magnitude, keep: 2, {loss}}}",
        f"{{prune: neurons, by: taylor, keep: 9, {loss}}}",
    )
    assert bench.model.shape == bench.planned


def test_pruning_twice_in_a_row_prunes_what_is_left(bench):
    first, second = bench.do("{prune: heads, by: magnitude, keep: 3}", "{prune: heads, by: magnitude, keep: 2}")
    assert [len(edit.keep) for edit in (*first.edits, *second.edits)] == [3] * 3 + [2] * 3
    assert bench.model.shape == bench.planned


def test_pruning_to_what_is_there_already_does_nothing(bench):
    before = weights(bench.model)
    (done,) = bench.do("{prune: heads, by: magnitude, keep: 4}")
    assert done.edits == ()
    assert same(weights(bench.model), before)


def test_with_scope_global_the_best_of_all_layers_stay(bench):
    """Magnitudes are made to grow from layer to layer, so that all but the first's best head are of the upper two."""
    body = layers(ANATOMY, bench.model.network)
    with torch.no_grad():
        for index, layer in enumerate(body):
            for part in (*layer.attention.self.children(), layer.attention.output.dense):
                if isinstance(part, torch.nn.Linear):
                    part.weight.mul_(10.0**index)
    (done,) = bench.do("{prune: heads, by: magnitude, keep: 7, scope: global}")
    assert [len(edit.keep) for edit in done.edits] == [1, 2]  # of the last layer nothing is cut
    assert [layer.heads for layer in bench.model.shape.layers] == [1, 2, 4]
    assert sum(layer.heads for layer in bench.planned.layers) == 7
    assert count(bench.model) == parameters(given().original.dims, bench.planned)


def test_a_second_global_pruning_cuts_to_its_own_total(bench):
    bench.do(
        "{prune: neurons, by: magnitude, keep: 1/2, scope: global, least: 9}",
        "{prune: neurons, by: magnitude, keep: 30, scope: global, least: 3}",
    )
    neurons = [layer.neurons for layer in bench.model.shape.layers]
    assert sum(neurons) == 30 and min(neurons) >= 3


def test_layers_are_listed_from_one(bench):
    (done,) = bench.do("{prune: layers, keep: [1, 3]}")
    assert done.edits == (CutLayers((0, 2)),)
    assert bench.model.shape == bench.planned


@pytest.mark.parametrize("step", [EXIT, "{prune: neurons, by: taylor, keep: 20, portion: 0.4, batch_size: 2}"])
def test_what_is_drawn_depends_on_seed_and_number_alone(tmp_path, step):
    def drawn(number, before):
        bench = Bench(tmp_path)
        torch.manual_seed(before)
        bench.do(step, first=number)
        return weights(bench.model)

    assert same(drawn(3, before=0), drawn(3, before=1))
    assert not same(drawn(3, before=0), drawn(4, before=0))


# --- exit ------------------------------------------------------------------------------------------------------------


def test_exit_puts_in_heads_and_the_policy(bench):
    (done,) = bench.do("{exit: [1, 3], by: entropy, with: {threshold: 0.4}, head: mean-tanh, pooler: keep}")
    assert done.edits == (AddExits((1, 3), MeanTanh(), True),)
    assert list(bench.model.exits) == ["1"]
    assert bench.model.config.exit_policy["by"] == "entropy"
    assert bench.model.config.exit_policy["with"] == {"threshold": 0.4}
    assert bench.model.policy.threshold == 0.4
    assert torch.equal(answers(bench.model)[-1], answers(given().model)[0])


def test_exit_may_begin_again_from_the_original(tmp_path):
    bench = Bench(tmp_path, model=given(seed=9).model)
    bench.do("{exit: all, by: entropy, with: {threshold: 0.4}, pooler: keep}")
    assert torch.equal(answers(bench.model)[-1], answers(given(seed=9).model)[0])
    bench.do("{exit: all, by: entropy, with: {threshold: 0.4}, pooler: keep, start: original}")
    assert torch.equal(answers(bench.model)[-1], answers(given().model)[0])


# --- factorize -------------------------------------------------------------------------------------------------------


def test_f2_a_repeat_of_factorizings_ends_where_one_does(tmp_path):
    often, once = Bench(tmp_path), Bench(tmp_path)
    done = often.do("repeat: 4\n    steps: [{factorize: word-embeddings, by: svd, rank: 4}]")
    assert [step.edits for step in done] == [(FactorizeEmbedding(rank),) for rank in (25, 18, 11, 4)]
    once.do("{factorize: word-embeddings, by: svd, rank: 4}")
    torch.testing.assert_close(word_embedding(often.model), word_embedding(once.model), rtol=0, atol=1e-5)
    torch.testing.assert_close(answers(often.model), answers(once.model), rtol=0, atol=1e-4)


def test_f3_factorizing_at_full_rank_keeps_the_answers(bench):
    before = answers(bench.model)
    bench.do("{factorize: word-embeddings, by: svd, rank: 32}")
    torch.testing.assert_close(answers(bench.model), before, rtol=0, atol=1e-5)


def test_all_embeddings_take_the_factors_of_the_word_embedding(bench):
    table = word_embedding(bench.model)
    (done,) = bench.do("{factorize: embeddings, by: svd, rank: 1/4}")
    assert done.edits == (ProjectEmbeddings(8),)
    assert torch.equal(word_embedding(bench.model), Svd().factor(table, 8, None)[0])
    assert bench.model.shape == bench.planned
    assert count(bench.model) == parameters(given().original.dims, bench.planned)


# --- share -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "owners"), [(1, (0, 0, 0)), (3, (0, 1, 2))])
def test_layers_share_as_planned_and_training_moves_them_together(bench, groups, owners):
    (done,) = bench.do(f"{{share: layers, groups: {groups}, start: first}}")
    assert done.edits == (ShareLayers(owners, "first"),)
    assert bench.model.shape == bench.planned
    before = weights(bench.model)
    bench.do("finetune: {epochs: 1, when: always, batch_size: 8, learning_rate: 1e-3}")
    after = weights(bench.model)
    assert not any(torch.equal(after[name], before[name]) for name in before)
    one, *others = layers(ANATOMY, bench.model.network)
    for path, weight in one.named_parameters():
        assert all(torch.equal(layer.get_parameter(path), weight) for layer in others) is (groups == 1)
    assert count(bench.model) == parameters(given().original.dims, bench.model.shape)


def test_rewinding_shares_the_first_weights_again(bench):
    (done,) = bench.do("{share: layers}")
    first = weights(bench.model)
    bench.do("finetune: {when: always, epochs: 1, learning_rate: 1e-2}")
    bench.workshop.edits = [(1, done.edits[0])]
    bench.workshop.rewind()
    assert same(weights(bench.model), first)
    assert bench.model.shape.owners == (0, 0, 0)


# --- finetune and distill --------------------------------------------------------------------------------------------


def test_finetune_is_skipped_where_the_head_is_trained_and_its_name_is_bound(bench):
    before = weights(bench.model)
    (done,) = bench.do("finetune: {epochs: 1}")
    assert done.skipped
    assert bench.workshop.saved == {"teacher": [ORIGINAL]}
    assert same(weights(bench.model), before)


def test_finetune_trains_every_weight_that_is_used(bench):
    bench.workshop.head_trained = False
    before = weights(bench.model)
    (done,) = bench.do("finetune: {epochs: 1, batch_size: 8, learning_rate: 1e-3}")
    assert not done.skipped and done.seconds > 0
    after = weights(bench.model)
    assert not any(torch.equal(after[name], before[name]) for name in before)
    assert not bench.model.training


def test_rewinding_puts_back_the_first_weights_with_the_same_units_cut(bench):
    (put_in,) = bench.do(EXIT)
    drawn = {name: weight for name, weight in weights(bench.model).items() if name.startswith("exits.")}
    _, cut = bench.do(
        "finetune: {when: always, epochs: 2, learning_rate: 1e-2}",
        "{prune: heads, by: magnitude, keep: 2}",
        first=2,
    )
    bench.workshop.edits = [(1, put_in.edits[0]), *((3, edit) for edit in cut.edits)]
    before = bench.model
    bench.workshop.rewind()
    model, first = bench.model, given().model
    assert model is not before and model.shape == before.shape
    assert type(model.policy) is type(before.policy) and model.policy == before.policy
    for edit, now, whole in zip(cut.edits, layers(ANATOMY, model.network), layers(ANATOMY, first.network), strict=True):
        rows = [row for head in edit.keep for row in range(8 * head, 8 * head + 8)]
        assert torch.equal(now.attention.self.query.weight, whole.attention.self.query.weight[rows])
        assert torch.equal(now.output.dense.weight, whole.output.dense.weight)
    assert all(torch.equal(weights(model)[name], weight) for name, weight in drawn.items())
    assert not all(torch.equal(weights(before)[name], weight) for name, weight in drawn.items())


def test_a_training_that_rewinds_begins_from_the_first_weights(bench, monkeypatch):
    begun = []
    monkeypatch.setattr("compresskit.steps.teach", lambda lesson: begun.append(weights(lesson.model)) or (1.0, None))
    with torch.no_grad():
        bench.model.network.classifier.weight.add_(1)
    bench.do("finetune: {when: always, epochs: 1}", "finetune: {when: always, rewind: true, epochs: 1}")
    assert not same(begun[0], weights(given().model))
    assert same(begun[1], weights(given().model))


def test_d6_distilling_hidden_states_leaves_exits_as_they_were(bench):
    bench.workshop.saved["teacher"] = [ORIGINAL]
    bench.do(EXIT)
    heads, body = weights(bench.model.exits), weights(bench.model.network)
    with torch.no_grad():
        bench.model.network.bert.embeddings.word_embeddings.weight.mul_(1.1)
    bench.do(
        "finetune: {epochs: 1}",
        "{distill: teacher, by: hidden-states, epochs: 1, batch_size: 8, learning_rate: 1e-3}",
    )
    assert same(weights(bench.model.exits), heads)
    after = weights(bench.model.network)
    assert not any(torch.equal(after[name], body[name]) for name in body)


def test_training_the_exits_alone_leaves_the_rest_as_it_was(bench):
    bench.do(EXIT)
    heads, body = weights(bench.model.exits), weights(bench.model.network)
    bench.do("finetune: {epochs: 1, when: always, train: exits, batch_size: 8, learning_rate: 1e-3}")
    assert same(weights(bench.model.network), body)
    after = weights(bench.model.exits)
    assert not any(torch.equal(after[name], heads[name]) for name in heads)
    assert all(weight.requires_grad for weight in bench.model.parameters())


@pytest.mark.parametrize(("restore", "rates"), [(0.5, [1e-3 * 1.5, 1e-3 * 1.5**2]), (0.0, [1e-3, 1e-3])])
def test_the_learning_rate_grows_with_each_round(bench, monkeypatch, restore, rates):
    lessons = []
    monkeypatch.setattr("compresskit.steps.teach", lambda lesson: lessons.append(lesson) or (1.0, None))
    bench.do(
        "finetune: {epochs: 1}",
        "repeat: 2\n    steps: [{distill: teacher, by: predictions, epochs: 1, "
        f"learning_rate: 1e-3, restore: {restore}}}]",
    )
    assert [lesson.learning_rate for lesson in lessons] == pytest.approx(rates)
    assert len({lesson.seed for lesson in lessons}) == 2


def test_a_teacher_may_be_a_folder_and_its_labels_must_match(bench, tmp_path):
    save(given(seed=4).model, tiny_tokenizer(), tmp_path / "mate", {})
    before = weights(bench.model)
    bench.do(f"{{distill: {tmp_path / 'mate'}, by: predictions, epochs: 1, batch_size: 8}}")
    assert not same(weights(bench.model), before)
    save(given(labels=3).model, tiny_tokenizer(), tmp_path / "other", {})
    with pytest.raises(CheckpointError) as error:
        bench.do(f"{{distill: {tmp_path / 'other'}, by: predictions, epochs: 1, batch_size: 8}}")
    assert str(error.value) == (
        f"teacher {tmp_path / 'other'} knows the labels LABEL_0, LABEL_1, LABEL_2, the student LABEL_0, LABEL_1; "
        "give both the same names in config.json (id2label) or use another teacher"
    )


# --- mistakes of strategies ------------------------------------------------------------------------------------------


WHERE, ANY = "the 4 heads of layer 1", "the heads of layer 1"
CORRECT = "correct its score method"
DIVERGED = "see whether the training before it diverged, and lower its learning rate"


@dataclass(frozen=True)
class Returns(Pruner):
    name: ClassVar[str] = "returns"

    what: object = None

    def score(self, group, context):
        return self.what


@dataclass(frozen=True)
class Thick(Factorizer):
    name: ClassVar[str] = "thick"

    def factor(self, weight, rank, context):
        return weight, torch.eye(weight.shape[1])


def by(strategy):
    """Swaps a planned step's strategy."""

    def change(planned):
        verbs = planned.work if isinstance(planned.work, tuple) else (planned.work,)
        swapped = tuple(verb.model_copy(update={"by": strategy}) for verb in verbs)
        return replace(planned, work=swapped if isinstance(planned.work, tuple) else swapped[0])

    return change


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (torch.zeros(3), f"must return one score for each of {WHERE}, not a tensor of shape (3,); {CORRECT}"),
        (torch.zeros(4, 1), f"must return one score for each of {WHERE}, not a tensor of shape (4, 1); {CORRECT}"),
        (torch.tensor([1.0, float("nan"), 2.0, 3.0]), f"gave {ANY} a score that is NaN or infinite; {DIVERGED}"),
        (torch.tensor([1.0, float("inf"), 2.0, 3.0]), f"gave {ANY} a score that is NaN or infinite; {DIVERGED}"),
    ],
    ids=["shape", "dimensions", "NaN", "infinity"],
)
def test_scores_that_are_none_are_refused(bench, what, message):
    before = weights(bench.model)
    with pytest.raises(PluginError) as error:
        bench.do("{prune: heads, by: magnitude, keep: 2}", change=by(Returns(what)))
    assert str(error.value) == f"pruner 'returns' {message}"
    assert same(weights(bench.model), before)


def test_factors_of_another_size_are_refused(bench):
    with pytest.raises(PluginError) as error:
        bench.do("{factorize: word-embeddings, by: svd, rank: 3}", change=by(Thick()))
    words = bench.model.network.config.vocab_size
    assert str(error.value) == (
        f"factorizer 'thick' returned [({words}, 32), (32, 32)] for rank 3 of ({words}, 32); correct its factor method"
    )


def test_training_and_scoring_without_data_is_refused(tmp_path):
    bench = Bench(tmp_path, data=False)
    for step in ("{prune: heads, by: taylor, keep: 2}", "finetune: {epochs: 1, when: always}"):
        with pytest.raises(DataError) as error:
            bench.do(step)
        assert str(error.value) == "this recipe trains or scores on data; name it with --data"
