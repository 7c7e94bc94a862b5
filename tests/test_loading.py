"""A saved folder answers as the model that was saved, in whatever way transformers is made to load it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import save
from compresskit.cost import count
from compresskit.edits import (
    AddExits,
    CutHeads,
    CutLayers,
    CutNeurons,
    FactorizeEmbedding,
    ProjectEmbeddings,
    ShareLayers,
    head_from_json,
)
from compresskit.errors import CheckpointError
from compresskit.factoring import word_embedding
from compresskit.model import CompressedForSequenceClassification, wrap
from compresskit.strategies.svd import Svd
from compresskit.surgery import perform
from compresskit.testing import tiny_model, tiny_tokenizer

FAMILIES = load_catalogue([]).names("architecture")
TEXTS = ["the film was so good", "this story seemed rather dull to me today", "fine"]
NAMES = {0: "awful", 1: "middling", 2: "splendid"}


def compressed(family="bert", head="cls-tanh", read_out=False):
    network = tiny_model(family, layers=4, labels=3)
    network.config.dtype = torch.float32  # as in a checkpoint from the Hub; it must not decide in what it is loaded
    network.config.id2label, network.config.label2id = NAMES, {name: index for index, name in NAMES.items()}
    model = wrap(network, load_catalogue().anatomy(family))
    torch.manual_seed(0)
    perform(AddExits((1, 2, 3, 4), head_from_json(head), read_out), model)
    with torch.no_grad():
        for exit_ in model.exits.values():
            exit_.classifier.weight.normal_(std=0.4)
    for edit in (CutLayers((0, 1, 3)), CutHeads(0, (1, 3)), CutNeurons(2, tuple(range(0, 60, 3)))):
        perform(edit, model)
    perform(FactorizeEmbedding(6), model, Svd().factor(word_embedding(model), 6, None))
    model.set_policy({"by": "entropy", "with": {"threshold": 0.9}})
    return model


@pytest.fixture
def saved(tmp_path):
    """A saved model, and the folder."""

    def saved(family="bert", **how):
        model = compressed(family, **how)
        save(model, tiny_tokenizer(family), tmp_path / "out", {})
        return model, tmp_path / "out"

    return saved


def inputs(family="bert"):
    return tiny_tokenizer(family)(TEXTS, padding=True, return_tensors="pt")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("head", "read_out"), [("cls-tanh", False), ("mean-tanh", True)])
def test_a_loaded_folder_gives_the_same_logits_bit_for_bit(saved, family, head, read_out):
    model, folder = saved(family, head=head, read_out=read_out)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert isinstance(loaded, CompressedForSequenceClassification)
    assert not loaded.training
    batch = inputs(family)
    with torch.no_grad():
        ours, theirs = model(**batch), loaded(**batch)
        deep, again = model.trace(batch).logits, loaded.trace(batch).logits
    assert torch.equal(theirs.logits, ours.logits)
    assert torch.equal(theirs.exits, ours.exits)
    assert list(deep) == list(again) == [1, 2, 3]
    assert all(torch.equal(deep[number], again[number]) for number in deep)


def test_what_the_original_knew_about_its_labels_survives(saved):
    model, folder = saved()
    config = AutoConfig.from_pretrained(folder)
    assert config.id2label == NAMES
    assert config.label2id == {"awful": 0, "middling": 1, "splendid": 2}
    assert config.num_labels == 3
    assert config.problem_type == "single_label_classification"
    assert config.model_type == "compresskit"
    assert config.original["model_type"] == "bert"
    assert config.exit_policy == model.config.exit_policy
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.shape == model.shape
    assert loaded.network.config.id2label == NAMES


def test_a_pipeline_answers_with_the_names_of_the_labels(saved):
    model, folder = saved()
    classify = pipeline("text-classification", str(folder), device="cpu")
    with torch.no_grad():
        expected = [torch.softmax(model(**tiny_tokenizer()(text, return_tensors="pt")).logits[0], -1) for text in TEXTS]
    for found, probabilities in zip(classify(TEXTS), expected, strict=True):
        assert found["label"] == NAMES[int(probabilities.argmax())]
        assert found["score"] == pytest.approx(float(probabilities.max()), abs=1e-6)
    together = classify(TEXTS, batch_size=3, top_k=None)
    assert {row["label"]: row["score"] for row in together[1]} == pytest.approx(
        {NAMES[n]: float(p) for n, p in enumerate(expected[1])}, abs=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_precision_asked_for_is_the_precision_of_every_weight(saved, dtype):
    _, folder = saved()
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    assert {weight.dtype for weight in loaded.parameters()} == {dtype}
    assert loaded(**inputs()).logits.dtype == dtype


def test_a_model_in_half_precision_is_loaded_as_it_was_saved(tmp_path):
    model = compressed().to(torch.bfloat16)
    save(model, tiny_tokenizer(), tmp_path / "out", {})
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)


def test_the_attention_asked_for_is_the_one_used(saved):
    model, folder = saved()
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    assert loaded.network.config._attn_implementation == "eager"
    assert model.network.config._attn_implementation == "sdpa"
    batch = inputs()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
        assert torch.equal(loaded(**batch).exits, model(**batch).exits)


@pytest.mark.parametrize("name", ["inputs_embeds", "position_ids", "output_attentions", "head_mask"])
def test_what_would_change_an_answer_is_refused_and_not_passed_over(saved, name):
    model = AutoModelForSequenceClassification.from_pretrained(saved()[1])
    ids = torch.tensor([[2, 7, 3]])
    with pytest.raises(ValueError) as error:
        model(ids, **{name: torch.ones(1, 3)})
    assert str(error.value) == f"{name} can't be given to a compressed model; leave it out"
    assert model(ids, **{name: None}).logits.shape == (1, 3)


def test_hidden_states_and_tuples_are_had_as_from_every_model(saved):
    model = AutoModelForSequenceClassification.from_pretrained(saved()[1])
    ids = torch.tensor([[2, 7, 3]])
    with pytest.raises(ValueError) as error:
        model(ids, output_hidden_states=True)
    assert str(error.value) == "hidden states are those of full depth; set model.leave_early = False to have them"
    assert torch.equal(model(ids, return_dict=False)[0], model(ids).logits)
    model.leave_early = False
    found = model(ids, output_hidden_states=True)
    assert [state.shape for state in found.hidden_states] == [(1, 3, 32)] * (model.depth + 1)
    assert torch.equal(model(ids, return_dict=False)[0], found.logits)


def test_saving_a_loaded_model_again_changes_nothing(saved, tmp_path):
    _, folder = saved()
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    one, other = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "again")]
    assert configs[0] == configs[1]


def test_a_wrapped_original_is_saved_and_loaded_too(tmp_path):
    model = wrap(tiny_model("electra"), load_catalogue().anatomy("electra"))
    model.save_pretrained(tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    batch = inputs("electra")
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, tiny_model("electra")(**batch).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("exits.2.classifier.bias"),
            "1 weights are missing or too many (first: exits.2.classifier.bias); copy the folder again",
        ),
        (
            lambda weights: weights.update({"exits.7.classifier.bias": torch.zeros(3)}),
            "1 weights are missing or too many (first: exits.7.classifier.bias); copy the folder again",
        ),
        (
            lambda weights: weights.update({"exits.2.classifier.bias": torch.zeros(2)}),
            "the weights do not fit the shape in config.json; the folder mixes two checkpoints, copy it again",
        ),
    ],
    ids=["missing", "too many", "of another size"],
)
def test_weights_that_do_not_fit_are_refused(saved, change, message):
    _, folder = saved()
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        AutoModelForSequenceClassification.from_pretrained(folder)
    assert str(error.value) == f"{folder}: {message}"


def test_loading_information_is_given_on_request(saved):
    _, folder = saved()
    loaded, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert loaded.shape.rank == 6
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_a_model_whose_exit_policy_is_not_installed_still_answers_at_full_depth(saved, monkeypatch):
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "")
    model, folder = saved()
    config = json.loads((folder / "config.json").read_text())
    config["exit_policy"] = {"by": "patience", "with": {"times": 2}, "from": "compresskit-patience 1.2"}
    (folder / "config.json").write_text(json.dumps(config))
    message = (
        "this model's exit policy can't be used: no way to exit by 'patience' (known: entropy); install the plugin "
        "that it comes from (compresskit-patience 1.2); until then every example goes to the last layer"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.config.exit_policy == config["exit_policy"]
    with torch.no_grad():
        output = loaded(**inputs())
        assert torch.equal(output.logits, model.trace(inputs()).last)
    assert output.exits.tolist() == [3, 3, 3]


ORDERS = {
    "compresskit first": "import compresskit\nfrom transformers import AutoModelForSequenceClassification, pipeline",
    "transformers first": "from transformers import AutoModelForSequenceClassification, pipeline\nimport compresskit",
}
SCRIPT = """
import json, sys
folder, ids, mask, text = json.loads(sys.argv[1])
import torch
model = AutoModelForSequenceClassification.from_pretrained(folder)
with torch.no_grad():
    output = model(torch.tensor(ids), torch.tensor(mask))
answer = pipeline("text-classification", folder, device="cpu")(text)[0]
print(json.dumps([output.logits.tolist(), output.exits.tolist(), answer["label"], "datasets" in sys.modules]))
"""


@pytest.mark.parametrize("order", ORDERS)
def test_another_program_needs_only_the_two_imports_in_either_order(saved, order):
    model, folder = saved("roberta")
    batch = inputs("roberta")
    given = [str(folder), batch["input_ids"].tolist(), batch["attention_mask"].tolist(), TEXTS[0]]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", ORDERS[order] + SCRIPT, json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    logits, exits, label, datasets = json.loads(ran.stdout)
    with torch.no_grad():
        output = model(**batch)
        first = model(**{name: tensor[:1] for name, tensor in batch.items()}).logits
    assert torch.equal(torch.tensor(logits), output.logits)
    assert exits == output.exits.tolist()
    assert label == NAMES[int(first.argmax())]
    assert not datasets
    assert "not supported" not in ran.stderr


def test_a_tokenizer_travels_with_the_model(saved):
    _, folder = saved("distilbert")
    assert AutoTokenizer.from_pretrained(folder)(TEXTS[0]) == tiny_tokenizer("distilbert")(TEXTS[0])


# --- shared layers and projected embeddings --------------------------------------------------------------------------


def albert(family="bert"):
    """Four layers in two groups, of which the first has lost its owner; where it can, embeddings in a space of 6."""
    model = wrap(tiny_model(family, layers=5), load_catalogue().anatomy(family))
    for edit in (CutLayers((0, 1, 2, 3)), ShareLayers((0, 0, 2, 2), "mean"), CutLayers((1, 2, 3))):
        perform(edit, model)
    if model.anatomy.particulars is None:
        perform(ProjectEmbeddings(6), model, Svd().factor(word_embedding(model), 6, None))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_layers_are_in_the_file_once_and_shared_again_when_it_is_loaded(family, tmp_path):
    model = albert(family)
    save(model, tiny_tokenizer(family), tmp_path / "out", {})
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert sum(weight.numel() for weight in stored.values()) == count(model)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert (loaded.shape, count(loaded)) == (model.shape, count(model))
    batch = inputs(family)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    loaded.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], stored[name]) for name in stored)


OWNED = "network.bert.encoder.layer.1.output.dense.weight"
SHARED = "network.bert.encoder.layer.2.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop(OWNED),
            f"2 weights are missing or too many (first: {OWNED}); copy the folder again",
        ),
        (
            lambda weights: weights.update({SHARED: weights[OWNED] + 1}),
            (
                f"weights that layers share differ between them (first: {SHARED}); the folder mixes two checkpoints, "
                "copy it again"
            ),
        ),
        (
            lambda weights: weights.pop("network.bert.embeddings_project.bias"),
            "1 weights are missing or too many (first: network.bert.embeddings_project.bias); copy the folder again",
        ),
    ],
    ids=["missing", "too many", "no projection"],
)
def test_shared_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    albert().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        CompressedForSequenceClassification.from_pretrained(tmp_path)
    assert str(error.value) == f"{tmp_path}: {message}"


def test_a_config_from_before_there_was_sharing_still_loads(saved):
    _, folder = saved()
    shape = json.loads((folder / "config.json").read_text())["shape"]
    assert shape.keys() == {"heads", "neurons", "rank", "exits", "head", "read_out"}
    assert AutoModelForSequenceClassification.from_pretrained(folder).shape.owners == ()
