"""The wrapped model against the stock one, batches against single examples, and gradients against sums by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from compresskit.anatomy import groups, layers
from compresskit.catalogue import load_catalogue
from compresskit.edits import AddExits
from compresskit.errors import CheckpointError, PluginError
from compresskit.interfaces import ExitPolicy, ExitTrail
from compresskit.model import wrap
from compresskit.modules import scale_gradient
from compresskit.passes import leavers
from compresskit.scoring import listening
from compresskit.strategies.tanh_heads import ClsTanh, MeanTanh
from compresskit.surgery import perform
from compresskit.testing import tiny_compressed, tiny_model
from compresskit.testing.models import POSITIONS

FAMILIES = load_catalogue([]).names("architecture")
LENGTHS = (9, 2, 12, 5, 3, 7, 12, 4, 6, 2, 10, 8, 3, 11, 5, 4)

CLS = ClsTanh()


def wrapped(family="bert", exits: Sequence[int] = (), head=CLS, read_out=False, **sizes):
    model = wrap(tiny_model(family, **sizes), load_catalogue().anatomy(family))
    if exits:
        perform(AddExits(tuple(exits), head, read_out), model)
        spread(model)
    return model


def spread(model):
    """Exit heads that give different texts different answers, as training would leave them."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for exit_ in model.exits.values():
            exit_.classifier.weight.normal_(std=0.4, generator=draw)
        answers = model.trace(texts(model)).logits
        for number, exit_ in model.exits.items():
            exit_.classifier.bias -= answers[int(number)].mean(0)


def texts(model, lengths: Sequence[int] = LENGTHS, seed=0):
    """A batch of random tokens, padded to the longest, and by what embeddings look ahead."""
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths) + model.anatomy.lookahead) < torch.tensor(lengths)[:, None]).long()
    batch = {"input_ids": torch.randint(5, 60, mask.shape, generator=draw) * mask, "attention_mask": mask}
    if "token_type_ids" in model.input_names:
        batch["token_type_ids"] = torch.randint(0, 2, mask.shape, generator=draw) * mask
    return batch


def precise(model):
    """In double where layers have no norm: sums grow there until 1e-5 is below what a float can tell."""
    return model.double() if model.anatomy.particulars is not None else model


def one_by_one(batch):
    """Each example alone, without its padding."""
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        yield {name: tensor[row : row + 1, :length] for name, tensor in batch.items()}


def entropy_of(logits):
    p = torch.softmax(logits.double(), -1)
    return -(p * p.log()).sum(-1)


def leave_at(model, batch, part=0.3):
    """Let examples leave below the entropy that this part of all answers is below, and return it."""
    with torch.no_grad():
        entropies = torch.cat([entropy_of(logits) for logits in model.trace(batch).logits.values()]).sort().values
    place = int(len(entropies) * part)
    threshold = float(entropies[place - 1 : place + 1].mean())  # between two of them, so that rounding decides nothing
    model.set_policy({"by": "entropy", "with": {"threshold": threshold}})
    return threshold


@dataclass(frozen=True)
class Agreed(ExitPolicy):
    """Leaves where this exit's answer is that of the exit before; needs the history of those still alive."""

    name: ClassVar[str] = "agreed"

    def leave(self, trail: ExitTrail):
        if len(trail.logits) < 2:
            return torch.zeros(len(trail.logits[-1]), dtype=torch.bool)
        return trail.logits[-1].argmax(-1) == trail.logits[-2].argmax(-1)


class Watching(ExitPolicy):
    """Remembers what it is asked, and lets nobody leave."""

    name = "watching"

    def __init__(self):
        self.asked: list[tuple[int, ...]] = []

    def leave(self, trail: ExitTrail):
        self.asked.append(trail.exits)
        return torch.zeros(len(trail.logits[-1]), dtype=torch.bool)


# --- the stock model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_a_wrapped_original_gives_the_stock_models_logits_exactly(family, training):
    stock = tiny_model(family, layers=3, labels=3).train(training)
    model = wrap(stock, load_catalogue().anatomy(family))
    batch = texts(model)
    with torch.no_grad():
        torch.manual_seed(7)
        expected = stock(**batch).logits
        torch.manual_seed(7)
        traced = model.trace(batch, hidden=True)
        torch.manual_seed(7)
        output = model(**batch)
    assert model.training is training
    assert torch.equal(traced.last, expected)
    assert torch.equal(output.logits, expected)
    assert list(traced.logits) == [3]
    assert output.exits.tolist() == [3] * len(LENGTHS)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_the_stock_models(family):
    stock = tiny_model(family, layers=3)
    model = wrap(stock, load_catalogue().anatomy(family))
    batch = texts(model)
    with torch.no_grad():
        expected = stock(**batch, output_hidden_states=True).hidden_states
        traced = model.trace(batch, hidden=True).hidden
    # The stock ELECTRA lists its embeddings before they are projected.
    first = 1 if family == "electra" else 0
    assert len(traced) == len(expected) == 4
    there = batch["attention_mask"].bool()
    pairs = zip(traced[first:], expected[first:], strict=True)
    assert all(torch.equal(ours[there], theirs[there]) for ours, theirs in pairs)


@pytest.mark.parametrize("size", [16, 32])
def test_electra_projects_its_embeddings_only_where_they_are_narrower(size):
    stock = tiny_model("electra", hidden=32, embedding_size=size)
    model = wrap(stock, load_catalogue().anatomy("electra"))
    assert hasattr(stock.electra, "embeddings_project") == (size != 32)
    batch = texts(model)
    with torch.no_grad():
        assert torch.equal(model.trace(batch).last, stock(**batch).logits)


@pytest.mark.parametrize(
    ("labels", "problem", "truth"),
    [
        (3, "single_label_classification", torch.tensor([0, 2, 1, 1])),
        (3, None, torch.tensor([0, 2, 1, 1])),
        (3, "multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
        (3, None, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
        (1, "regression", torch.tensor([0.5, -1.0, 2.0, 0.0])),
        (1, None, torch.tensor([0.5, -1.0, 2.0, 0.0])),
    ],
)
def test_the_loss_is_the_stock_models(labels, problem, truth):
    stock = tiny_model(labels=labels)
    stock.config.problem_type = problem
    model = wrap(stock, load_catalogue().anatomy("bert"))
    batch = texts(model, (3, 5, 4, 2))
    with torch.no_grad():
        loss = model(**batch, labels=truth).loss
        torch.testing.assert_close(loss, stock(**batch, labels=truth).loss)


def test_wrapping_keeps_weights_that_were_put_in_by_hand():
    stock = tiny_model(labels=3)
    stock.classifier = nn.Linear(32, 3)
    before = copy.deepcopy(stock.state_dict())
    model = wrap(stock, load_catalogue().anatomy("bert"))
    assert all(torch.equal(before[name], weight) for name, weight in model.network.state_dict().items())


def test_an_attention_mask_may_be_left_out():
    model = wrapped(exits=(1, 2))
    ids = texts(model, (4, 4, 4))["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids, attention_mask=torch.ones_like(ids)).logits)


# --- leaving early ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("head", "read_out"), [(ClsTanh(), False), (MeanTanh(), True)])
def test_x1_a_batch_is_answered_as_one_by_one(family, head, read_out):
    model = precise(wrapped(family, (1, 2, 3, 4), head, read_out, layers=4, labels=3))
    batch = texts(model)
    leave_at(model, batch)
    with torch.no_grad():
        together = model(**batch)
        alone = [model(**example) for example in one_by_one(batch)]
    assert len(set(together.exits.tolist())) >= 3
    assert together.exits.tolist() == [int(single.exits) for single in alone]
    torch.testing.assert_close(together.logits, torch.cat([single.logits for single in alone]), rtol=0, atol=1e-5)


def test_x1_a_text_that_is_padded_and_one_that_is_not_are_answered_alike_where_embeddings_look_ahead():
    """The stock MobileBERT gives the last token of the longest text no neighbour, and of others a padding token."""
    stock = tiny_model("mobilebert", labels=3, pad_token_id=3)
    model = wrap(stock, load_catalogue().anatomy("mobilebert"))
    bare, padded = ({name: part[:1, :tokens] for name, part in texts(model, (5, 9)).items()} for tokens in (5, 7))
    padded["input_ids"][:, 5:] = 3
    with torch.no_grad():
        torch.testing.assert_close(model(**bare).logits, model(**padded).logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(**bare).logits, stock(**padded).logits, rtol=0, atol=1e-5)
        assert (stock(**bare).logits - stock(**padded).logits).abs().max() > 1e-3
        # The longest text that there are positions for has nothing on its right in any batch.
        longest = {name: part[:1] for name, part in texts(model, (POSITIONS - 1,)).items()}
        longest["attention_mask"][:] = 1
        assert torch.equal(model(**longest).logits, stock(**longest).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_x1_each_example_gets_the_answer_of_the_exit_where_it_left(family):
    model = precise(wrapped(family, (1, 2, 4, 5), layers=5, labels=3))
    batch = texts(model)
    threshold = leave_at(model, batch)
    with torch.no_grad():
        output = model(**batch)
        trace = model.trace(batch).logits
    left = torch.full((len(LENGTHS),), 5)
    for number in (4, 2, 1):
        left[entropy_of(trace[number]) < threshold] = number
    assert len(set(left.tolist())) >= 3
    assert torch.equal(output.exits, left)
    expected = torch.stack([trace[number][row] for row, number in enumerate(left.tolist())])
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-5)


def test_x1_a_policy_with_a_memory_sees_only_its_own_examples_history():
    model = wrapped(exits=(1, 2, 3, 4, 5), layers=5, labels=3)
    model.policy = Agreed()
    batch = texts(model)
    with torch.no_grad():
        together = model(**batch).exits.tolist()
        alone = [int(model(**example).exits) for example in one_by_one(batch)]
        answers = torch.stack([logits.argmax(-1) for logits in model.trace(batch).logits.values()], dim=1).tolist()
    by_hand = [next((n for n in range(2, 5) if row[n - 1] == row[n - 2]), 5) for row in answers]
    assert len(set(together)) >= 3
    assert together == alone == by_hand


def test_x2_limits_and_monotone_mean_exit():
    model = wrapped(exits=(1, 2, 3, 4), layers=4, labels=3)
    batch = texts(model)

    def exits(threshold):
        model.set_policy({"by": "entropy", "with": {"threshold": threshold}})
        with torch.no_grad():
            return model(**batch)

    full = exits(0.0)
    with torch.no_grad():
        trace = model.trace(batch)
    assert full.exits.tolist() == [4] * len(LENGTHS)
    assert torch.equal(full.logits, trace.last)
    first = exits(math.log(3) + 1e-6)
    assert first.exits.tolist() == [1] * len(LENGTHS)
    assert torch.equal(first.logits, trace.logits[1])
    means = [exits(step / 20).exits.double().mean().item() for step in range(23)]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) > 5


@pytest.mark.parametrize("family", FAMILIES)
def test_x5_at_the_last_layer_the_kept_read_out_answers(family):
    stock = tiny_model(family, layers=3)
    model = wrap(copy.deepcopy(stock), load_catalogue().anatomy(family))
    perform(AddExits((1, 3), ClsTanh(), True), model)
    model.set_policy({"by": "entropy", "with": {"threshold": 0.0}})
    assert list(model.exits) == ["1"]
    batch = texts(model)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, stock(**batch).logits)


def test_x5_at_the_last_layer_its_own_head_answers_where_the_read_out_is_removed():
    model = wrapped(exits=(1, 3), layers=3)
    model.set_policy({"by": "entropy", "with": {"threshold": 0.0}})
    batch = texts(model)
    with torch.no_grad():
        state = model.trace(batch, hidden=True).hidden[-1]
        expected = model.exits["3"].classifier(torch.tanh(state[:, 0]))
        torch.testing.assert_close(model(**batch).logits, expected)


def test_x7_exits_below_the_first_configured_are_never_consulted():
    model = wrapped(exits=(3, 5, 6), layers=6)
    model.policy = watching = Watching()
    batch = texts(model)
    with torch.no_grad():
        model(**batch)
    assert watching.asked == [(3,), (3, 5)]
    model.set_policy({"by": "entropy", "with": {"threshold": 1.0}})
    with torch.no_grad():
        assert model(**batch).exits.tolist() == [3] * len(LENGTHS)


def test_leaving_stops_the_work_and_packs_the_survivors():
    model = wrapped(exits=(1, 2, 3, 4), layers=4, labels=3)
    batch = texts(model)
    leave_at(model, batch)
    seen = []
    for layer in layers(model.anatomy, model.network):
        layer.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[:2])))
    with torch.no_grad():
        left = model(**batch).exits
        lengths = torch.tensor(LENGTHS)
        alive = [lengths[left >= number] for number in range(1, int(left.max()) + 1)]
        assert seen[0] == (len(LENGTHS), max(LENGTHS))  # as the batch came
        assert seen[1:] == [(len(rows), int(rows.max())) for rows in alive[1:]]
        assert len(seen) > 1 and seen[1] < seen[0]
        seen.clear()
        model.set_policy({"by": "entropy", "with": {"threshold": 1.2}})
        model(**batch)
    assert seen == [(len(LENGTHS), max(LENGTHS))]


@pytest.mark.parametrize("how", ["train", "switched off", "no policy", "no exits"])
def test_nobody_leaves_early_unless_asked_to(how):
    model = wrapped(exits=() if how == "no exits" else (1, 2))
    model.set_policy(None if how == "no policy" else {"by": "entropy", "with": {"threshold": 1.0}})
    model.train(how == "train")
    model.leave_early = how != "switched off"
    with torch.no_grad():
        assert model(**texts(model)).exits.tolist() == [2] * len(LENGTHS)


def test_regression_never_leaves_early():
    model = wrapped(exits=(1, 2), labels=1)
    model.set_policy({"by": "entropy", "with": {"threshold": 5.0}})
    with torch.no_grad():
        assert model(**texts(model)).exits.tolist() == [2] * len(LENGTHS)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (
            {"by": "patience", "with": {}},
            "no way to exit by 'patience' (known: entropy); install the plugin that it comes from",
        ),
        (
            {"by": "entropy", "with": {"limit": 1}},
            "entropy has no option 'limit'; entropy's 'threshold' is missing; give it the options that it has",
        ),
    ],
)
def test_a_policy_that_is_not_installed_or_has_other_options_is_refused_and_the_old_one_stays(policy, why, monkeypatch):
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "")
    model = wrapped(exits=(1, 2))
    old = {"by": "entropy", "with": {"threshold": 0.5}}
    model.set_policy(old)
    with pytest.raises(CheckpointError) as error:
        model.set_policy(policy)
    assert str(error.value) == f"this model's exit policy can't be used: {why}"
    assert model.config.exit_policy == old
    assert model.policy is not None and model.policy.name == "entropy"


# --- exit heads ------------------------------------------------------------------------------------------------------


def test_mean_tanh_heads_ignore_padding():
    model = wrapped(exits=(1, 2), head=MeanTanh())
    head = model.exits["1"]
    hidden = torch.randn(3, 5, 32)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    with torch.no_grad():
        expected = [head.classifier(torch.tanh(hidden[row, :n].mean(0))) for row, n in enumerate((5, 2, 1))]
        torch.testing.assert_close(head(hidden, mask), torch.stack(expected))
        noisy = torch.where(mask.bool().unsqueeze(-1), hidden, hidden + 100)
        assert torch.equal(head(noisy, mask), head(hidden, mask))


def test_new_exit_heads_are_in_the_models_own_mode():
    assert not any(part.training for part in wrapped(exits=(1, 2)).modules())
    model = wrapped().train()
    perform(AddExits((1, 2), ClsTanh(), False), model)
    assert all(part.training for part in model.exits.modules())


# --- gradient equilibrium --------------------------------------------------------------------------------------------


def chain(equilibrium):
    a = torch.tensor([2.0, 3.0, 0.5, 4.0], requires_grad=True)
    c = torch.tensor([1.0, -2.0, 3.0, 5.0], requires_grad=True)
    h, loss = torch.tensor(1.0), torch.tensor(0.0)
    for k in range(4):
        h = a[k] * h
        if equilibrium:
            h = scale_gradient(h, 1 / (4 - k))
        loss = loss + c[k] * h
        if equilibrium and k < 3:
            h = scale_gradient(h, 4 - k - 1)
    loss.backward()
    return a.grad, c.grad


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_queries_keys_and_values_are_what_the_attention_works_with(family):
    """softmax(Q K^T / sqrt(size)) V over the tokens that are there is what attention-out reads, in cut layers too."""
    model = tiny_compressed(family, layers=3, heads=4)
    batch = texts(model, (5, 3, 7))
    readers = [group.member("attention-out").linear for group in groups(model.anatomy, model.network, "heads")]
    with listening(readers) as heard, torch.no_grad():
        trace = model.trace(batch, attention=True)
    assert [layer.query.shape[1] for layer in trace.attention] == [layer.heads for layer in model.shape.layers]
    hidden = batch["attention_mask"][:, None, None, :] == 0
    for layer, context in zip(trace.attention, heard, strict=True):
        size = layer.query.shape[-1]
        scores = (layer.query @ layer.key.transpose(-1, -2) / size**0.5).masked_fill(hidden, float("-inf"))
        mixed = (scores.softmax(-1) @ layer.value).transpose(1, 2).flatten(2)
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(mixed[real], context[real], rtol=1e-4, atol=1e-5)
    assert model.trace(batch).attention == ()
    assert not any(part._forward_hooks for part in model.modules())


def test_hidden_states_are_projected_where_there_is_a_layer_for_that():
    model = wrapped(layers=2)
    batch = texts(model, (5, 3))
    assert model.trace(batch, hidden=True).projected == ()
    model.projection = nn.Linear(32, 7)
    trace = model.trace(batch, hidden=True)
    assert [state.shape[-1] for state in trace.projected] == [7] * 3
    torch.testing.assert_close(trace.projected[1], model.projection(trace.hidden[1]))
    assert model.trace(batch).projected == ()


def test_g1_scalar_chain():
    plain, plain_c = chain(False)
    balanced, balanced_c = chain(True)
    torch.testing.assert_close(plain, torch.tensor([29.5, 19, 138, 15]))
    torch.testing.assert_close(balanced, torch.tensor([7.375, 19 / 3, 69, 15]))
    assert torch.equal(plain_c, balanced_c)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exits", [(1, 2, 3, 4), (2, 4), (4,)])
def test_g1_layer_k_receives_the_mean_of_the_gradients_of_the_exits_above(family, exits):
    model = wrapped(family, exits, layers=4, labels=3).double()
    batch, truth = texts(model, (3, 6, 4, 5)), torch.tensor([0, 1, 2, 1])
    encoder = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    logits = model.trace(batch).logits
    single = {
        n: torch.autograd.grad(cross_entropy(logits[n], truth), encoder.values(), retain_graph=True, allow_unused=True)
        for n in exits
    }
    balanced = model.trace(batch, gradient_equilibrium=True).logits
    total = sum(cross_entropy(answer, truth) for answer in balanced.values())
    found = torch.autograd.grad(total, encoder.values())
    for place, name in enumerate(encoder):
        inside = name.partition(f"{model.anatomy.layers.partition('.')[2]}.")[2]
        layer = int(inside.partition(".")[0]) + 1 if inside else 1  # the embeddings lie below every exit
        above = [single[n][place] for n in exits if n >= layer]
        expected = sum(above) / len(above)
        torch.testing.assert_close(found[place], expected, rtol=1e-8, atol=1e-12, msg=lambda m, at=name: f"{at}: {m}")


def test_g1_hidden_states_get_their_own_layers_factor_and_the_embedding_none():
    """A loss of h_0 alone moves the embedding as without equilibrium; one of h_k moves layer k by 1 / exits above."""
    model = wrapped(exits=(1, 2, 3), layers=3).double()
    batch = texts(model, (3, 6, 4, 5))
    word = model.network.bert.embeddings.word_embeddings.weight
    first = [layer.output.dense.weight for layer in layers(model.anatomy, model.network)]
    for k, weight in enumerate((word, *first)):
        plain, balanced = (
            torch.autograd.grad(model.trace(batch, True, None, on).hidden[k].square().sum(), weight)[0]
            for on in (False, True)
        )
        torch.testing.assert_close(balanced, plain / (1 if k == 0 else 3 - k + 1))


def test_g1_layers_above_the_last_exit_that_counts_are_left_alone():
    model = wrapped(exits=(1, 2, 3), layers=3).double()
    batch = texts(model, (3, 6, 4, 5))
    weight = layers(model.anatomy, model.network)[2].output.dense.weight
    plain, balanced = (
        torch.autograd.grad(model.trace(batch, True, (1, 2), on).hidden[3].square().sum(), weight)[0]
        for on in (False, True)
    )
    torch.testing.assert_close(balanced, plain)


def test_g1_exit_heads_and_forward_values_are_not_rescaled():
    model = wrapped(exits=(1, 2, 3), layers=3)
    batch, truth = texts(model, (3, 6, 4, 5)), torch.tensor([0, 1, 0, 1])

    def run(equilibrium):
        logits = model.trace(batch, gradient_equilibrium=equilibrium).logits
        loss = sum(cross_entropy(answer, truth) for answer in logits.values())
        return logits, torch.autograd.grad(loss, model.exits.parameters())

    (plain, plain_heads), (balanced, balanced_heads) = run(False), run(True)
    assert all(torch.equal(plain[n], balanced[n]) for n in plain)
    assert all(torch.equal(one, other) for one, other in zip(plain_heads, balanced_heads, strict=True))


def trained(optimizer, equilibrium, clip=None):
    """The weights of a stack of four tanh layers with four exits after sixty steps."""
    torch.manual_seed(0)
    stack = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    heads = nn.ModuleList(nn.Linear(8, 2) for _ in range(4))
    x, truth = torch.randn(64, 8), torch.randint(0, 2, (64,))
    weights = [*stack.parameters(), *heads.parameters()]
    step = optimizer(weights)
    for _ in range(60):
        h, loss = x, torch.tensor(0.0)
        for k in range(4):
            h = torch.tanh(stack[k](h))
            h = scale_gradient(h, 1 / (4 - k)) if equilibrium else h
            loss = loss + cross_entropy(heads[k](h), truth)
            h = scale_gradient(h, 4 - k - 1) if equilibrium and k < 3 else h
        step.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(weights, clip)
        step.step()
    return torch.cat([weight.detach().reshape(-1) for weight in stack.parameters()])


def test_g3_under_adam_gradient_equilibrium_is_almost_nothing():
    def adam(weights):
        return torch.optim.AdamW(weights, lr=1e-2, eps=1e-12)

    def sgd(weights):
        return torch.optim.SGD(weights, lr=0.1)

    def apart(optimizer, clip=None):
        difference = trained(optimizer, True, clip) - trained(optimizer, False, clip)
        return difference.abs().max().item()

    assert apart(adam) < 1e-5
    assert apart(adam, clip=0.2) > 1e-3
    assert apart(sgd) > 1e-2
    start = trained(lambda weights: torch.optim.SGD(weights, lr=0.0), True)
    assert (trained(adam, True) - start).abs().max() > 0.1


def test_d6_hidden_states_alone_send_no_gradient_to_exits():
    model = wrapped(exits=(1, 2))
    distiller = load_catalogue().strategy("distiller", "hidden-states")()
    batch = texts(model)
    with torch.no_grad():
        teacher = wrapped(seed=1).trace(batch, hidden=True)
    student = model.trace(batch, hidden=True, gradient_equilibrium=True)
    distiller.loss(student, teacher, batch).backward()
    assert all(weight.grad is None for weight in model.exits.parameters())
    assert all(weight.grad is not None for weight in layers(model.anatomy, model.network).parameters())


def test_only_the_exits_asked_for_are_answered():
    model = wrapped(exits=(1, 2, 3), layers=3)
    batch = texts(model)
    with torch.no_grad():
        assert list(model.trace(batch, exits=(1, 3)).logits) == [1, 3]
        output = model(**batch, record_exits=(1, 3), record_hidden=True)
        assert list(output.exit_logits) == [1, 3]
        assert len(output.hidden_states) == 4
        assert model.trace(batch).hidden == ()
        assert model(**batch).hidden_states is None


@dataclass(frozen=True)
class Wrong(ExitPolicy):
    """Answers with numbers, or for all rows at once."""

    name: ClassVar[str] = "wrong"

    answer: torch.Tensor

    def leave(self, trail: ExitTrail):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (torch.tensor([1, 0]), "torch.int64 of shape (2,)"),
        (torch.tensor([True]), "torch.bool of shape (1,)"),
        (torch.tensor(True), "torch.bool of shape ()"),
    ],
)
def test_an_exit_policy_that_gives_no_truth_value_for_each_row_is_refused(answer, what):
    logits = (torch.zeros(2, 3),)
    with pytest.raises(PluginError) as caught:
        leavers(Wrong(answer), ExitTrail(logits, (1,), 4))
    assert str(caught.value) == (
        f"exit policy 'wrong' must return 2 truth values, not {what}; correct its leave method"
    )
    assert leavers(Wrong(torch.tensor([True, False])), ExitTrail(logits, (1,), 4)).tolist() == [True, False]


@pytest.mark.parametrize("exits", [(), (1, 2)])
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_answers_are_not_rounded_to_bfloat16(family, exits):
    model = wrapped(family, exits, labels=1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        answers = model.trace(texts(model)).logits
    for answer in answers.values():
        assert answer.dtype is torch.float32
        assert not torch.equal(answer, answer.bfloat16().float())
