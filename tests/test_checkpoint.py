"""Model folders: what is read from a good one, and the sentence about each bad one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers.utils import logging

from compresskit import __version__
from compresskit.architectures import ELASTICBERT
from compresskit.checkpoint import FORMAT, RECORD, load, quiet, read_original, read_record, save, usual_tokens
from compresskit.edits import AddExits, LayerShape
from compresskit.errors import ArchitectureError, CheckpointError, DataError
from compresskit.model import CompressedForSequenceClassification
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.surgery import perform
from compresskit.testing import save_tiny, tiny_model, tiny_tokenizer

BODY = "bert.encoder.layer.1.output.dense.weight"


@pytest.fixture
def folder(tmp_path):
    return save_tiny(tmp_path / "model", id2label={0: "awful", 1: "fine"}, label2id={"awful": 0, "fine": 1})


def set_config(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if value is not ...})
        )

    return change


def set_weights(**new):
    """Give a weight a new first entry; None takes the weight out."""

    def change(folder):
        weights = load_file(folder / "model.safetensors")
        for name, value in new.items():
            if value is None:
                del weights[name]
            else:
                weights[name].view(-1)[0] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def take_out(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def larger_tokenizer(folder):
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["vocab"]["zebra"] = 300
    path.write_text(json.dumps(told))


def pickle_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.fixture
def elastic(folder):
    """The same model as ElasticBERT is published: other names, a pooler after each layer, no head, a vocab.txt."""
    weights = load_file(folder / "model.safetensors")
    pooler = {name: weights.pop(f"bert.pooler.dense.{name}") for name in ("weight", "bias")}
    head = [weights.pop(f"classifier.{name}") for name in ("weight", "bias")]
    new = {name.replace("bert.", "elasticbert.", 1): weight for name, weight in weights.items()}
    for layer in range(2):
        for name, weight in pooler.items():
            new[f"elasticbert.encoder.pooler.{layer}.dense.{name}"] = weight.clone() if layer else -weight
    new["cls.predictions.bias"] = head[1]
    save_file(new, folder / "model.safetensors", metadata={"format": "pt"})
    set_config(
        model_type="elasticbert", architectures=["ElasticBertForMaskedLM"], max_output_layers=2, num_output_layers=2
    )(folder)
    words = load(str(save_tiny(folder.parent / "words"))).tokenizer.get_vocab()
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.__getitem__)))
    take_out("tokenizer.json", "tokenizer_config.json")(folder)
    return folder


def test_the_last_pooler_is_counted_from_the_first_layer_that_has_one(elastic, tmp_path):
    """As in elasticbert-large, whose first layers have none: poolers are numbered from 0 all the same."""
    weights = load_file(elastic / "model.safetensors")
    for name in ("weight", "bias"):
        weights[f"elasticbert.encoder.pooler.0.dense.{name}"] = weights.pop(
            f"elasticbert.encoder.pooler.1.dense.{name}"
        )
    save_file(weights, elastic / "model.safetensors", metadata={"format": "pt"})
    set_config(num_base_layers=1)(elastic)
    pooler, expected = (
        load(str(folder), ["awful", "fine"]).model.network.bert.pooler.dense for folder in (elastic, tmp_path / "words")
    )
    assert torch.equal(pooler.weight, expected.weight)
    assert torch.equal(pooler.bias, expected.bias)


@pytest.mark.parametrize(("base", "last"), [({}, 5), ({"num_base_layers": None}, 5), ({"num_base_layers": 2}, 3)])
def test_names_of_weights_know_the_last_layer_that_has_a_pooler(base, last):
    assert next(iter(ELASTICBERT.renames(BertConfig(**base), 6))) == (
        rf"^(?:elasticbert\.)?encoder\.pooler\.{last}\.dense\."
    )


@pytest.mark.parametrize("number", [2, -1, "1", [1], 0.5])
def test_a_number_of_base_layers_that_can_not_be_is_refused(elastic, number):
    set_config(num_base_layers=number)(elastic)
    with pytest.raises(CheckpointError) as error:
        load(str(elastic))
    assert str(error.value) == (
        f"model {elastic}: its config.json can't be read (num_base_layers must be a whole number from 0 to 1, not "
        f"{number!r}); copy the model again"
    )


def test_a_pooler_of_another_layer_than_the_last_is_not_passed_over(elastic):
    """Without this a new one would be drawn at random, and nobody told."""
    set_config(num_base_layers=1)(elastic)
    weights = load_file(elastic / "model.safetensors")
    for name in ("weight", "bias"):
        del weights[f"elasticbert.encoder.pooler.0.dense.{name}"]
    save_file(weights, elastic / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        load(str(elastic))
    assert str(error.value) == (
        f"{elastic}: 2 weights are missing (first: bert.pooler.dense.bias), and there is "
        "elasticbert.encoder.pooler.1.dense.bias; correct num_hidden_layers or num_base_layers in config.json, or use "
        "the whole checkpoint"
    )


def test_without_any_pooler_a_new_one_begins_as_in_bert(elastic):
    weights = load_file(elastic / "model.safetensors")
    bare = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(bare, elastic / "model.safetensors", metadata={"format": "pt"})
    assert not load(str(elastic)).head_trained


@pytest.mark.parametrize("family", ["bert", "mobilebert"])
def test_a_tokenizer_that_can_not_pad_is_refused(tmp_path, family):
    folder = save_tiny(tmp_path / "model", family)
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text()) | {"pad_token": None}
    path.write_text(json.dumps(told))
    with pytest.raises(CheckpointError) as error:
        load(str(folder))
    assert str(error.value) == f"{folder}: its tokenizer has no pad_token; name one in tokenizer_config.json"


def test_a_config_without_padding_means_the_token_0_that_embeddings_look_ahead_at(tmp_path):
    folder = save_tiny(tmp_path / "mobile", "mobilebert")
    expected = load(str(folder)).model
    set_config(pad_token_id=None)(folder)
    model = load(str(folder)).model
    for ids in torch.randint(3, 100, (4, 6)):
        said, wanted = (one(ids[None], torch.ones(1, 6, dtype=torch.long)).logits for one in (model, expected))
        assert torch.equal(said, wanted)


def test_a_tokenizer_that_pads_otherwise_is_refused_where_embeddings_look_ahead(tmp_path):
    folder = save_tiny(tmp_path / "mobile", "mobilebert")
    set_config(pad_token_id=3)(folder)
    with pytest.raises(CheckpointError) as error:
        load(str(folder))
    assert str(error.value) == (
        f"{folder}: its tokenizer pads with token 0, and config.json has pad_token_id 3; "
        "correct the one that the model was not trained with"
    )


@pytest.mark.parametrize("prefix", ["elasticbert.", ""])
def test_weights_under_other_names_are_read_as_those_of_the_family(elastic, tmp_path, prefix):
    weights = load_file(elastic / "model.safetensors")
    renamed = {name.replace("elasticbert.", prefix): weight for name, weight in weights.items()}
    save_file(renamed, elastic / "model.safetensors", metadata={"format": "pt"})
    checkpoint, plain = load(str(elastic), ["awful", "fine"]), load(str(tmp_path / "words"))
    assert not checkpoint.head_trained
    assert checkpoint.original.config.model_type == checkpoint.original.anatomy.model_type == "bert"
    expected = plain.model.network.state_dict()
    for name, weight in checkpoint.model.network.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(weight, expected[name]), name
    texts = ["a fine film", "awful"]
    ours, theirs = (one.tokenizer(texts, padding=True)["input_ids"] for one in (checkpoint, plain))
    assert ours == theirs
    save(checkpoint.model, checkpoint.tokenizer, tmp_path / "out", {})
    again = load(str(tmp_path / "out"))
    assert again.original.config.model_type == "bert"
    assert torch.equal(again.model.network.bert.pooler.dense.weight, expected["bert.pooler.dense.weight"])


def cut_weights(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])


# --- what is read


def test_an_original_is_loaded_wrapped_with_its_labels_and_answers_as_it_does(folder):
    checkpoint = load(str(folder))
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    ids = tiny_tokenizer()(["the film was fine"], return_tensors="pt")
    assert checkpoint.head_trained and checkpoint.record is None
    assert checkpoint.labels == ("awful", "fine")
    assert checkpoint.original.shape.layers == (LayerShape(4, 64),) * 2
    assert not checkpoint.model.training
    assert torch.equal(checkpoint.model(**ids).logits, stock(**ids).logits)
    assert checkpoint.tokenizer("the film")["input_ids"] == tiny_tokenizer()("the film")["input_ids"]


def test_a_config_is_read_without_weights(folder):
    (folder / "model.safetensors").unlink()
    original = read_original(str(folder))
    assert original.shape.layers == (LayerShape(4, 64),) * 2
    assert original.anatomy.model_type == "bert"
    assert read_original(str(folder), labels=5).config.num_labels == 5


def test_a_checkpoint_without_a_head_gets_one_for_the_labels_of_the_data(tmp_path):
    folder = save_tiny(tmp_path / "model", trained=False)
    plain = load(str(folder))
    assert not plain.head_trained
    named = load(str(folder), ["no", "perhaps", "yes"])
    assert not named.head_trained and named.labels == ("no", "perhaps", "yes")
    assert named.model(torch.tensor([[2, 3]])).logits.shape == (1, 3)
    assert named.model.config.problem_type == "single_label_classification"
    number = load(str(folder), regression=True)
    assert number.labels == ("score",) and number.model.config.problem_type == "regression"
    assert number.model(torch.tensor([[2, 3]])).logits.shape == (1, 1)


@pytest.mark.parametrize("head", ["classifier.weight", "classifier.bias"])
def test_half_a_head_is_no_trained_head(folder, head):
    set_weights(**{head: None})(folder)
    assert not load(str(folder)).head_trained


def test_a_compressed_folder_comes_back_with_its_record(tmp_path, folder):
    model = load(str(folder)).model
    perform(AddExits((1, 2), ClsTanh(), False), model)
    model.note_trained((2,))
    save(model, tiny_tokenizer(), tmp_path / "out", {RECORD: json.dumps({"format": FORMAT, "seed": 3})})
    again = load(str(tmp_path / "out"))
    assert again.model.untrained == (1,)
    assert isinstance(again.model, CompressedForSequenceClassification)
    assert again.head_trained and again.labels == ("awful", "fine")
    assert again.record == {"format": FORMAT, "seed": 3}
    assert again.original.shape.exits == (1, 2)
    assert again.original.config.model_type == "bert"


def test_which_heads_are_trained_outlives_what_transformers_loads_and_saves(tmp_path, folder):
    model = load(str(folder)).model
    perform(AddExits((1, 2), ClsTanh(), False), model)
    model.note_trained((2,))
    save(model, tiny_tokenizer(), tmp_path / "out", {})
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "out")
    again = load(str(tmp_path / "out"))
    assert (again.model.untrained, again.model.config.untrained, again.head_trained) == ((1,), [1], True)


def test_loading_is_quiet_and_leaves_the_volume_alone(folder, capfd):
    set_weights(**{"classifier.weight": None})(folder)
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        load(str(folder))
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, True)
        logging.disable_progress_bar()
        with quiet():
            pass
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
    assert capfd.readouterr() == ("", "")


# --- what is refused, word for word


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            take_out("config.json"),
            "model folder {} has no config.json; give the folder that save_pretrained wrote",
        ),
        (write("config.json", b"{nope"), "{}/config.json is not a JSON object; copy the model again"),
        (write("config.json", b"[1]"), "{}/config.json is not a JSON object; copy the model again"),
        (write("config.json", b"\xff{}"), "{}/config.json is not a JSON object; copy the model again"),
        (
            set_config(model_type=...),
            "{}/config.json has no model_type; give the folder that save_pretrained wrote",
        ),
        (
            set_config(hidden_size="wide"),
            (
                "model {}: its config.json can't be read (TypeError: Field 'hidden_size' expected int, got str "
                "(value: 'wide')); copy the model again"
            ),
        ),
        (
            set_config(hidden_size=64),
            "model {}: its weights can't be read (they do not fit the sizes in config.json); copy the model again",
        ),
        (
            set_config(num_hidden_layers=3),
            (
                "{}: 16 weights are missing (first: bert.encoder.layer.2.attention.output.LayerNorm.bias); "
                "use the whole checkpoint, or another one"
            ),
        ),
        (
            set_weights(**{BODY: None}),
            f"{{}}: 1 weights are missing (first: {BODY}); use the whole checkpoint, or another one",
        ),
        (
            set_weights(**{BODY: float("nan")}),
            f"{{}}: weight {BODY} holds NaN or infinity; its training went wrong, use an earlier checkpoint",
        ),
        (
            set_weights(**{BODY: float("-inf")}),
            f"{{}}: weight {BODY} holds NaN or infinity; its training went wrong, use an earlier checkpoint",
        ),
        (
            pickle_weights,
            (
                "model folder {} has its weights only as a pickle (pytorch_model.bin), which can run code "
                "when opened; convert it to model.safetensors where you trust it"
            ),
        ),
        (
            take_out("model.safetensors"),
            "model folder {} has no model.safetensors; give the folder that save_pretrained wrote",
        ),
        (
            cut_weights,
            (
                "{}: model.safetensors is damaged (Error while deserializing header: incomplete metadata, "
                "file not fully covered); copy the model again"
            ),
        ),
        (
            write("model.safetensors", b""),
            (
                "{}: model.safetensors is damaged (Error while deserializing header: header too small); "
                "copy the model again"
            ),
        ),
        (
            take_out("tokenizer.json"),
            "model folder {} has no tokenizer.json; copy the tokenizer's files into it",
        ),
        (
            write("tokenizer.json", b"{nope"),
            (
                "model {}: its tokenizer can't be read (Expecting property name enclosed in double quotes: "
                "line 1 column 2 (char 1)); copy the model again"
            ),
        ),
        (
            write(RECORD, b"{nope"),
            (
                f"{{}}/{RECORD} is damaged (Expecting property name enclosed in double quotes: "
                "line 1 column 2 (char 1)); copy the folder again"
            ),
        ),
        (
            write(RECORD, b"[1]"),
            f"{{}}/{RECORD} is damaged (it holds no JSON object); copy the folder again",
        ),
        (
            larger_tokenizer,
            (
                "{}: its tokenizer has a token 300, and its word embedding 143 rows, from 0; "
                "the folder mixes two models, copy it again"
            ),
        ),
        (
            write(RECORD, json.dumps({"format": FORMAT + 1}).encode()),
            f"{{}}/{RECORD} has format {FORMAT + 1}, this version reads {FORMAT}; update compresskit",
        ),
    ],
)
def test_a_bad_model_folder_is_refused_in_one_sentence(folder, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load(str(folder))
    assert str(caught.value) == message.format(folder)


def test_a_model_of_another_kind_is_refused(folder):
    set_config(model_type="gpt2")(folder)
    with pytest.raises(ArchitectureError) as caught:
        load(str(folder))
    assert str(caught.value) == (
        "no anatomy for model_type 'gpt2' (known: bert, distilbert, elasticbert, electra, mobilebert, roberta, "
        "xlm-roberta); add one with the hook compresskit_architectures, as docs/how-to shows"
    )


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load(str(tmp_path / "nowhere"))
    assert str(caught.value) == (
        f"model folder {tmp_path}/nowhere does not exist; "
        "give a folder with config.json and model.safetensors, or a Hub id"
    )
    (tmp_path / "file.txt").touch()
    with pytest.raises(CheckpointError) as caught:
        load(str(tmp_path / "file.txt"))
    assert str(caught.value) == f"model {tmp_path}/file.txt is a file; give the folder that it is in"


def test_a_name_that_the_hub_does_not_give_is_refused():
    with pytest.raises(CheckpointError) as caught:
        load("nobody/nothing")
    assert str(caught.value).startswith(
        "model nobody/nothing is not a folder here, and the Hub did not give it (We couldn't "
    )
    assert str(caught.value).endswith("); check the name and the connection")
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_model_is_not_run(folder):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    set_config(auto_map={"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"})(folder)
    assert load(str(folder)).head_trained
    assert not (folder / "ran").exists()


# --- what is written


def test_a_saved_folder_has_all_its_files(tmp_path):
    from compresskit.catalogue import load_catalogue
    from compresskit.model import wrap

    model = wrap(tiny_model(), load_catalogue().anatomy("bert"))
    save(model, tiny_tokenizer(), tmp_path / "new" / "out", {"README.md": f"compresskit {__version__}\n"})
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    assert read_record(tmp_path / "new" / "out") is None


@pytest.mark.parametrize(("family", "longest"), [("bert", 40), ("roberta", 39), ("xlm-roberta", 39), ("electra", 40)])
def test_texts_are_not_cut_to_more_tokens_than_there_are_positions_for(tmp_path, family, longest):
    """RoBERTa numbers positions from its padding id + 1 on, here from 1, so the first is never used."""
    save_tiny(tmp_path / "model", model_type=family, max_position_embeddings=40)
    checkpoint = load(str(tmp_path / "model"))
    checkpoint.tokenizer.model_max_length = 10**30
    checkpoint.check_length(longest)
    ids = torch.full((1, longest), 9)
    checkpoint.model.trace({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    with pytest.raises(DataError) as caught:
        checkpoint.check_length(longest + 1)
    assert str(caught.value) == (
        f"--max-tokens {longest + 1} is more than {tmp_path}/model can read; give at most {longest}"
    )


def test_texts_are_cut_as_when_the_model_was_compressed(tmp_path):
    assert usual_tokens(str(tmp_path)) == usual_tokens("owner/model") == 128
    for text, tokens in (('{"data": {"max_tokens": 72}}', 72), ('{"data": null}', 128), ("{}", 128), ("[nope", 128)):
        (tmp_path / "config.json").write_text(text)
        assert usual_tokens(str(tmp_path)) == tokens


def test_a_head_that_nobody_trained_takes_the_names_of_new_labels_but_not_their_number(tmp_path, folder):
    model = load(str(folder)).model
    perform(AddExits((1, 2), ClsTanh(), False), model)
    save(model, tiny_tokenizer(), tmp_path / "out", {})
    out = str(tmp_path / "out")
    assert load(out).labels == ("awful", "fine")
    assert load(out, ["no", "yes"]).labels == ("no", "yes")
    with pytest.raises(CheckpointError) as caught:
        load(out, ["a", "b", "c"])
    assert str(caught.value) == (
        f"{out} has 2 outputs that nobody trained, and the data ask for 3; compress its original anew with these data"
    )


def test_models_that_give_several_labels_are_refused(folder):
    set_config(problem_type="multi_label_classification")(folder)
    with pytest.raises(CheckpointError) as caught:
        load(str(folder))
    assert str(caught.value) == (
        f"model {folder} gives each text any number of labels (problem_type multi_label_classification); "
        "use a model that gives one label, or one number"
    )
