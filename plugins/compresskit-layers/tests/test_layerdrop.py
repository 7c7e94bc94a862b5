"""LayerDrop leaves out as many layers as its rate says, in training only, and what is cut then answers."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from compresskit_layers import LayerDrop
from compresskit_layers.layerdrop import DroppedLayers
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig

from compresskit import Distiller, Sizes
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import Original
from compresskit.cost import dims_of
from compresskit.edits import LayerShape, Shape
from compresskit.mismatches import mismatches
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.testing import apply_tiny, parametrize, tiny_model, trainings
from compresskit.verbs import Distill, Loss

RECIPES = Path(__file__).parent.parent / "compresskit_layers" / "recipes"
BERT = Sizes(heads=(12,) * 12, neurons=(3072,) * 12, head_size=64, hidden=768)


@pytest.mark.parametrize(**parametrize(LayerDrop(), LayerDrop(0.0), LayerDrop(0.9)))
def test_is_a_good_strategy(check):
    check()


def drawn(rate, passes):
    torch.manual_seed(0)
    module = LayerDrop(rate).build(BERT)
    return [module.masks(0, step, passes).layers for step in range(passes)]


def test_a_rate_of_zero_leaves_none_out():
    assert set(drawn(0.0, 20)) == {(True,) * 12}


def test_a_fifth_of_twelve_layers_leaves_nine_and_six_tenths():
    kept = [sum(layers) for layers in drawn(0.2, 4000)]
    assert sum(kept) / len(kept) == pytest.approx(9.6, abs=0.1)
    assert len(set(kept)) > 4


def test_each_pass_draws_anew_and_each_layer_alike():
    layers = torch.tensor(drawn(0.5, 4000)).float()
    assert layers.mean(dim=0).tolist() == pytest.approx([0.5] * 12, abs=0.04)


def test_one_layer_is_always_left():
    assert min(sum(layers) for layers in drawn(0.99, 2000)) == 1


def test_the_methods_training_in_numbers():
    """Half of the layers will go, for which the authors advise a rate of 0.5."""
    assert trainings(RECIPES / "layerdrop.yaml") == [{"when": "always", "epochs": 3, "mask": LayerDrop(0.5)}]


def test_the_recipe_keeps_every_other_layer_of_twelve():
    """Counted from 1, of BERT base, in which layers are told apart by numbers of neurons that they have not."""
    bert = load_catalogue().anatomy("bert")
    marked = Shape(tuple(LayerShape(12, 1000 + layer) for layer in range(1, 13)))
    plan = make_plan(read_recipe(RECIPES / "layerdrop.yaml"), Original("bert", BertConfig(), bert, marked))
    assert [layer.neurons - 1000 for layer in plan.shape.layers] == [1, 3, 5, 7, 9, 11]


def test_layers_are_left_out_while_the_recipe_trains(tmp_path, monkeypatch):
    seen = []
    masks = DroppedLayers.masks
    monkeypatch.setattr(DroppedLayers, "masks", lambda *asked: seen.append(masks(*asked)) or seen[-1])
    apply_tiny(RECIPES / "layerdrop.yaml", tmp_path, "steps.0.finetune.epochs=6", "steps.1.keep=[1, 3]", layers=4)
    assert len({one.layers for one in seen}) > 1


def test_the_recipe_cuts_layers_and_changes_no_weight_of_the_others(tmp_path):
    apply_tiny(RECIPES / "layerdrop.yaml", tmp_path, "steps.0.finetune.epochs=0.3", "steps.1.keep=[1, 3]", layers=4)
    before = load_file(tmp_path / "out" / "steps" / "01-finetune" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for new, old in ((0, 0), (1, 2)):
        theirs = {key: weight for key, weight in before.items() if f"encoder.layer.{old}." in key}
        assert theirs
        for key, weight in theirs.items():
            assert torch.equal(after[key.replace(f"layer.{old}.", f"layer.{new}.")], weight)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.depth == 2


class InPairs(Distiller):
    """Compares layers two by two."""

    name: ClassVar[str] = "in-pairs"

    def check(self, student, teacher):
        if len(student.heads) % 2:
            raise ValueError("an odd number of layers; leave one out")

    def loss(self, student, teacher, batch):
        return student.last.sum()


@pytest.mark.parametrize(("mask", "problems"), [(LayerDrop(0.2), 1), (LayerDrop(0.0), 0), (None, 0)])
def test_losses_have_to_bear_every_number_of_layers(mask, problems):
    shape = Shape((LayerShape(4, 64),) * 4)
    dims = dims_of(load_catalogue().anatomy("bert"), tiny_model(layers=4).config)
    losses = {"in-pairs": Loss(InPairs())}
    verb = Distill(label="", distill="teacher", by=losses, epochs=1, mask=mask)
    told = list(mismatches(verb, dims, shape, dims, shape))
    assert told == ["in-pairs can't learn from teacher: an odd number of layers; leave one out"] * problems
