"""The heads: what every exit head must do, how many parameters they come to, and the recipes that use them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from compresskit_early_exit import (
    AlternatingLabels,
    Attention,
    Certainty,
    DenseTanh,
    LearnedCertainty,
    SelfDistillation,
    SharedDenseTanh,
    WeightedLabels,
)
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

from compresskit.catalogue import load_catalogue
from compresskit.cost import dims_of, flops, original_shape, parameters
from compresskit.edits import AddExits
from compresskit.testing import apply_tiny, parametrize, tiny_model, trainings

RECIPES = Path(__file__).parent.parent / "compresskit_early_exit" / "recipes"


@pytest.mark.parametrize(
    **parametrize(
        *(head(reads) for head in (DenseTanh, SharedDenseTanh, LearnedCertainty) for reads in ("first", "mean")),
        Attention(8, 2),
        Attention(),
    )
)
def test_is_a_good_strategy(check):
    check()


def planned(layers, hidden, edit):
    """Parameters and dims of BERT with these sizes after the edit."""
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=hidden // 64, intermediate_size=4 * hidden
    )
    anatomy = load_catalogue().anatomy("bert")
    return dims_of(anatomy, config), original_shape(anatomy, config).after(edit)


@pytest.mark.parametrize(("hidden", "count"), [(256, 18_218_520), (512, 56_884_248)])
def test_deeberts_eleven_poolers(hidden, count):
    edit = AddExits(tuple(range(1, 13)), DenseTanh(), read_out=True)
    assert parameters(*planned(12, hidden, edit)) == count


@pytest.mark.parametrize(("hidden", "count"), [(256, 17_494_808), (512, 53_995_032)])
def test_pabees_one_pooler(hidden, count):
    edit = AddExits(tuple(range(1, 13)), SharedDenseTanh(), read_out=False)
    assert parameters(*planned(12, hidden, edit)) == count


def test_learning_to_exit_adds_one_more_than_the_hidden_size():
    edits = [AddExits(tuple(range(1, 13)), head, read_out=True) for head in (LearnedCertainty(), DenseTanh())]
    counts = [parameters(*planned(12, 256, edit)) for edit in edits]
    assert counts[0] - counts[1] == 256 + 1


@pytest.mark.parametrize("head", [DenseTanh("mean"), LearnedCertainty("mean"), SharedDenseTanh("mean")], ids=repr)
def test_the_mean_is_that_of_the_tokens_and_not_of_the_padding(head):
    hidden, mask = torch.randn(2, 4, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    module, shared = head.build(8, 2, 0.0), head.build_shared(8, 2, 0.0)
    said = module(hidden, mask, *(() if shared is None else (shared,)))
    logits = said[0] if isinstance(said, tuple) else said
    dense = head.pooler_of(shared) or head.pooler_of(module)
    mean = torch.stack([hidden[0].mean(dim=0), hidden[1, :2].mean(dim=0)])
    torch.testing.assert_close(logits, module.classifier(torch.tanh(dense(mean))))


def test_the_certainty_reads_what_the_classifier_reads_after_dropout():
    """A dropout of 1 leaves nothing but the biases while training; without it both read tanh of the first token."""
    head, certainty = LearnedCertainty().build(8, 2, 1.0), LearnedCertainty().build_shared(8, 2, 1.0)
    hidden, mask = torch.randn(3, 4, 8), torch.ones(3, 4)
    logits, wrong = head.train()(hidden, mask, certainty)
    torch.testing.assert_close(logits, head.classifier.bias.expand(3, 2))
    torch.testing.assert_close(wrong, certainty.bias.expand(3))
    pooled = torch.tanh(head.pooler.dense(hidden[:, 0]))
    logits, wrong = head.eval()(hidden, mask, certainty)
    torch.testing.assert_close(logits, head.classifier(pooled))
    torch.testing.assert_close(wrong, certainty(pooled)[:, 0])


def test_fastberts_head_by_hand():
    """Of width 1, with weights of 1 and biases of 0: two tokens and one of padding, of which the first is read."""
    head = Attention(1, 1).build(1, 1, 0.0)
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, float(parameter.dim() == 2))
    first, second = math.tanh(2.0), math.tanh(-1.0)
    share = math.exp(first * first) / (math.exp(first * first) + math.exp(first * second))
    found = head(torch.tensor([[[2.0], [-1.0], [5.0]]]), torch.tensor([[1, 1, 0]]))
    assert found.item() == pytest.approx(math.tanh(share * first + (1 - share) * second), rel=1e-5)


def test_fastberts_printed_flops():
    """21,785,247,744 for BERT base, of which 41,975,808 are a head's without its last layer."""
    without_last = Attention().macs(768, 4, 128) - 128 * 4
    assert 2 * without_last == 41_975_808
    dims, shape = planned(12, 768, AddExits((12,), DenseTanh(), read_out=True))
    assert flops(dims, shape)["flops_lin"] + 2 * without_last == 21_785_247_744


# --- recipes ---------------------------------------------------------------------------------------------------------

PLAIN = {"when": "always", "warmup": 0, "weight_decay": 0}
TRAININGS = {
    "deebert": [
        {**PLAIN, "epochs": 3, "batch_size": 8, "exits": "last"},
        {**PLAIN, "epochs": 3, "batch_size": 8, "train": "shallow-exits"},
    ],
    "berxit": [
        {**PLAIN, "epochs": 3, "batch_size": 8, "gradient_equilibrium": False}
        # Where exits learn to be certain the last one, which nobody leaves before, is in the first objective alone.
        | {"by": {"alternating-labels": (1, AlternatingLabels(last=False)), "certainty": (1, Certainty())}},
    ],
    "pabee": [
        {**PLAIN, "epochs": 5, "gradient_equilibrium": False, "by": {"weighted-labels": (1, WeightedLabels("depth"))}},
    ],
    "fastbert": [
        {"when": "always", "epochs": 3, "exits": "last"},
        {"when": "always", "epochs": 5, "train": "shallow-exits"}
        | {"by": {"self-distillation": (1, SelfDistillation("released"))}},
    ],
    "elasticbert": [{"when": "always", "epochs": 5, "warmup": 0.06, "weight_decay": 0.1}],
    "branchynet": [
        {"when": "always", "epochs": 3, "gradient_equilibrium": False}
        | {"by": {"weighted-labels": (1, WeightedLabels((1.0, 0.6, 0.3)))}},
    ],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_the_methods_trainings_in_numbers(name):
    """All else is as everywhere; gradient equilibrium is on in ElasticBERT's training and in no other of all exits."""
    assert trainings(RECIPES / f"{name}.yaml") == TRAININGS[name]


QUICK = {
    "deebert": ("steps.1.finetune.epochs=1", "steps.2.finetune.epochs=1"),
    "berxit": ("steps.1.finetune.epochs=1", "steps.1.finetune.batch_size=16"),
    "pabee": ("steps.1.finetune.epochs=1", "steps.0.with.patience=1"),
    "fastbert": (
        "steps.1.finetune.epochs=1",
        "steps.2.finetune.epochs=1",
        "steps.0.head={attention: {width: 8}}",
    ),
    "elasticbert": ("steps.1.finetune.epochs=1",),
    "branchynet": ("steps.1.finetune.epochs=1", "steps.0.exit=[1, 2, 3]"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The output folder and the report of each recipe on a tiny model, made once."""
    found = {}

    def make(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            report = apply_tiny(RECIPES / f"{name}.yaml", folder, *QUICK[name], layers=3)
            found[name] = folder / "out", report
        return found[name]

    return make


@pytest.mark.parametrize("name", QUICK)
def test_the_recipe_runs_and_its_model_loads(made, name):
    out, report = made(name)
    assert report.model.shape.exits == (1, 2, 3)
    assert report.model.leaving is not None
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.untrained == ()
    ids = torch.randint(5, 50, (4, 9), generator=torch.Generator().manual_seed(0))
    together, alone = model(ids), [model(row[None]) for row in ids]
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]))
    assert together.exits.tolist() == [one.exits.item() for one in alone]


def weights(out, step):
    return load_file(out / "steps" / step / "model.safetensors")


@pytest.mark.parametrize("name", ["deebert", "fastbert"])
def test_o3_o4_the_second_training_leaves_all_but_the_shallow_exits_bit_for_bit(made, name):
    out, _ = made(name)
    before, after = weights(out, "02-finetune"), load_file(out / "model.safetensors")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    shallow = {key for key in before if key.startswith(("exits.1.", "exits.2."))}
    # Of two keys that are always equal only rounding could move the key's bias.
    assert moved <= shallow
    assert {key for key in shallow if "classifier" in key} <= moved
    untouched = weights(out, "01-exit")
    first = {key for key in untouched if not torch.equal(untouched[key], before[key])}
    assert not first & shallow
    assert any(key.startswith("network.bert.encoder") for key in first)


def test_where_exits_share_a_pooler_the_second_training_leaves_it_alone_and_marks_only_what_learnt(tmp_path):
    """The last exit answers through it, and must answer as before."""
    swapped = ("steps.0.head=shared-dense-tanh", "steps.0.pooler=remove", *QUICK["deebert"])
    apply_tiny(RECIPES / "deebert.yaml", tmp_path, *swapped, layers=3)
    out = tmp_path / "out"
    begun, before, after = weights(out, "01-exit"), weights(out, "02-finetune"), load_file(out / "model.safetensors")
    shared = [key for key in after if key.startswith("exits_share.")]
    assert shared and not any(torch.equal(begun[key], before[key]) for key in shared if key.endswith("weight"))
    assert all(torch.equal(before[key], after[key]) for key in [*shared, "exits.3.classifier.weight"])
    middle = AutoConfig.from_pretrained(out / "steps" / "02-finetune")
    assert (middle.untrained, AutoConfig.from_pretrained(out).untrained) == ([1, 2], [])


def test_deeberts_poolers_begin_as_the_pre_trained_one(made):
    out, _ = made("deebert")
    begun = weights(out, "01-exit")
    for number in (1, 2):
        torch.testing.assert_close(
            begun[f"exits.{number}.pooler.dense.weight"], begun["network.bert.pooler.dense.weight"], rtol=0, atol=0
        )


def test_pabees_pooler_begins_as_the_models_own_and_there_is_one():
    from compresskit.catalogue import load_catalogue
    from compresskit.model import wrap
    from compresskit.surgery import perform

    model = wrap(tiny_model(), load_catalogue().anatomy("bert"))
    own = model.network.bert.pooler.dense.weight.clone()
    perform(AddExits((1, 2), SharedDenseTanh(), read_out=False), model)
    torch.testing.assert_close(model.exits_share.dense.weight, own, rtol=0, atol=0)
    assert sum("dense" in name for name in model.exits.state_dict()) == 0
