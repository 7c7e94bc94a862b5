"""ALBERT's recipe on a tiny model: what it shares, what it saves, and that the result loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig

from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import Original
from compresskit.cost import original_shape
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.strategies.labels import Labels
from compresskit.strategies.predictions import Predictions
from compresskit.testing import apply_tiny, tiny_tokenizer, trainings

RECIPE = Path(__file__).parent.parent / "compresskit_layers" / "recipes" / "albert.yaml"
QUICK = ("steps.0.finetune.epochs=1", "steps.3.epochs=1")
LAYERS, HIDDEN, NEURONS = 4, 48, 64


def test_the_methods_trainings_in_numbers():
    losses = {"predictions": (1, Predictions()), "labels": (1, Labels())}
    again = {"teacher": "teacher", "epochs": 10, "learning_rate": 5e-5, "by": losses}
    assert trainings(RECIPE) == [{"epochs": 3}, again]


def test_of_bert_base_embeddings_of_128_numbers_and_one_layer_are_left():
    bert = load_catalogue().anatomy("bert")
    original = Original("bert", BertConfig(), bert, original_shape(bert, BertConfig()))
    shape = make_plan(read_recipe(RECIPE), original).shape
    assert (shape.embedding, shape.owners) == (128, (0,) * 12)


@pytest.fixture(scope="module", params=[1, 2])
def made(request, tmp_path_factory):
    """Groups, report and folder of a run."""
    folder = tmp_path_factory.mktemp("albert")
    groups = f"steps.2.groups={request.param}"
    report = apply_tiny(RECIPE, folder, *QUICK, groups, layers=LAYERS, hidden=HIDDEN, neurons=NEURONS)
    return request.param, report, folder / "out"


def test_the_layers_share_and_the_embeddings_are_a_sixth_as_wide(made):
    groups, report, _ = made
    shape = report.model.shape
    assert shape.owners == ((0, 0, 0, 0) if groups == 1 else (0, 0, 2, 2))
    assert shape.embedding == HIDDEN // 6


def test_parameters_go_and_work_stays(made):
    groups, report, out = made
    layer = 4 * (HIDDEN**2 + HIDDEN) + 2 * HIDDEN * NEURONS + NEURONS + HIDDEN + 4 * HIDDEN
    width, tables = HIDDEN // 6, len(tiny_tokenizer()) + 130 + 2
    embeddings = (tables + 2) * (HIDDEN - width) - (width * HIDDEN + HIDDEN)
    assert report.original.parameters - report.model.parameters == (LAYERS - groups) * layer + embeddings
    assert report.model.flops["macs_all"] - report.original.flops["macs_all"] == 128 * width * HIDDEN
    saved = load_file(out / "model.safetensors")
    assert sum(weight.numel() for weight in saved.values()) == report.model.parameters


def test_the_result_loads_and_its_layers_still_share(made):
    groups, report, out = made
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert sum(weight.numel() for weight in model.parameters()) == report.model.parameters
    with torch.no_grad():
        assert model(**tiny_tokenizer()(["a good film"], return_tensors="pt")).logits.shape == (1, 2)
    distinct = {id(layer.output.dense.weight) for layer in model.network.bert.encoder.layer}
    assert len(distinct) == groups
