"""The formulas against printed tables, real models, and two counters that watch a model run."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MobileBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from compresskit.architectures import BERT, DISTILBERT, ELECTRA, MOBILEBERT, ROBERTA, XLM_ROBERTA
from compresskit.cost import (
    CONVENTIONS,
    Dims,
    by_block,
    count,
    dims_of,
    expected_flops,
    flops,
    original_shape,
    parameters,
    ptflops_macs,
)
from compresskit.edits import CutLayers, LayerShape, ProjectEmbeddings, Shape, ShareLayers
from compresskit.errors import ArchitectureError
from compresskit.strategies.tanh_heads import ClsTanh

BASE = Dims(
    vocabulary=30_522,
    positions=512,
    types=2,
    hidden=768,
    embedding=768,
    head_size=64,
    classes=2,
    layers=12,
    heads=12,
    neurons=3072,
)


def sized(hidden: int, head_size: int = 64, **others: int) -> Dims:
    return replace(BASE, hidden=hidden, embedding=hidden, head_size=head_size, **others)


def stack(layers: int, heads: int, neurons: int, **others) -> Shape:
    return Shape((LayerShape(heads, neurons),) * layers, **others)


def exits(layers: int, read_out: bool = False) -> dict:
    return {"exits": tuple(range(1, layers + 1)), "head": ClsTanh(), "read_out": read_out}


BERT_BASE = (BASE, stack(12, 12, 3072))
BERT_8L = (sized(256), stack(8, 4, 1024))
TINYBERT_4 = (sized(312, 26), stack(4, 12, 1200))
PABEE_256 = (sized(256), stack(12, 4, 1024, **exits(12, read_out=True)))
PABEE_512 = (sized(512), stack(12, 8, 2048, **exits(12, read_out=True)))
COST_EFF_8X = (BASE, stack(12, 2, 256, rank=128, **exits(12)))
COST_EFF_2X = (BASE, stack(12, 6, 1536, rank=384, **exits(12)))
BERT_6L = (BASE, stack(6, 12, 3072))
DISTILBERT_6 = (replace(BASE, types=0), stack(6, 12, 3072))
ELASTICBERT_6 = (BASE, stack(6, 12, 3072, **exits(6)))

# Parameters, then millions: MACs in weights, attention MACs, 2 * lin, 2 * all, torch110.
TABLE = {
    "BERT base": (BERT_BASE, 109_483_778, 10_871.64, 301.99, 21_743.3, 22_347.3, 21_749.4),
    "BERT 8L-256H": (BERT_8L, 14_330_114, 805.31, 67.11, 1_610.6, 1_744.8, 1_611.9),
    "TinyBERT4": (TINYBERT_4, 14_350_874, 582.75, 40.89, 1_165.5, 1_247.3, 1_166.9),
    "PABEE 12L-256H": (PABEE_256, 17_494_808, 1_207.96, 100.66, 2_415.9, 2_617.2, 2_417.7),
    "COST-EFF 8x": (COST_EFF_8X, 13_920_024, 1_220.54, 50.33, 2_441.1, 2_541.7, 2_444.1),
    "BERT 6L-768H": (BERT_6L, 66_956_546, 5_435.82, 150.99, 10_871.6, 11_173.6, 10_875.4),
    "DistilBERT6": (DISTILBERT_6, 66_955_010, 5_435.82, 150.99, 10_871.6, 11_173.6, 10_875.4),
    "ElasticBERT6L": (ELASTICBERT_6, 66_373_644, 5_435.82, 150.99, 10_871.6, 11_173.6, 10_874.2),
    "PABEE 12L-512H": (PABEE_512, 53_995_032, 4_831.84, 201.33, 9_663.7, 10_066.3, 9_667.5),
    "COST-EFF 2x": (COST_EFF_2X, 54_984_984, 5_473.57, 150.99, 10_947.1, 11_249.1, 10_950.9),
}


def dense_exits(model: tuple[Dims, Shape], number: int) -> tuple[int, float]:
    """Parameters and torch110 FLOPs where `number` exits have a dense layer of their own, which no Shape has."""
    dims, shape = model
    square = dims.hidden**2
    return parameters(dims, shape) + number * (square + dims.hidden), flops(dims, shape)[
        "torch110"
    ] + 2 * number * square


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_a1_parameters_of_the_table(row):
    model, expected = row[0], row[1]
    assert parameters(*model) == expected


def test_a1_parameters_of_deebert_whose_eleven_lower_exits_are_dense():
    assert dense_exits(PABEE_256, 11)[0] == 18_218_520
    assert dense_exits(PABEE_512, 11)[0] == 56_884_248


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_a2_flops_of_the_table_under_every_convention(row):
    (dims, shape), _, lin, attention, flops_lin, flops_all, torch110 = row
    millions = {convention: value / 1e6 for convention, value in flops(dims, shape).items()}
    assert tuple(millions) == CONVENTIONS
    assert round(millions["macs_lin"], 2) == lin
    assert round(millions["macs_all"] - millions["macs_lin"], 2) == attention
    assert round(millions["flops_lin"], 1) == flops_lin
    assert round(millions["flops_all"], 1) == flops_all
    assert round(millions["torch110"], 1) == torch110


def test_a2_torch110_of_deebert_whose_eleven_lower_exits_are_dense():
    assert round(dense_exits(PABEE_256, 11)[1] / 1e6, 1) == 2_419.1
    assert round(dense_exits(PABEE_512, 11)[1] / 1e6, 1) == 9_673.3


def ratio(model: tuple[Dims, Shape]) -> float:
    return flops(*BERT_BASE)["torch110"] / flops(*model)["torch110"]


def test_a3_ratios_as_the_paper_prints_them():
    def fewer(model):
        return parameters(*BERT_BASE) / parameters(*model)

    assert round(fewer(BERT_8L), 1) == 7.6
    assert round(fewer(COST_EFF_8X), 1) == 7.9
    assert round(fewer(COST_EFF_2X), 1) == 2.0
    assert round(ratio(BERT_8L), 1) == 13.5
    assert round(ratio(TINYBERT_4), 1) == 18.6
    assert round(ratio(BERT_6L), 1) == 2.0
    assert round(ratio(COST_EFF_8X), 3) == 8.899
    assert round(ratio(COST_EFF_2X), 3) == 1.986


def test_a3_only_torch110_gives_the_printed_ratio_of_tinybert():
    ratios = {c: flops(*BERT_BASE)[c] / flops(*TINYBERT_4)[c] for c in CONVENTIONS}
    assert [c for c in CONVENTIONS if round(ratios[c], 1) == 18.6] == ["torch110"]


@pytest.mark.parametrize(
    ("model", "printed", "mean_exit"),
    [(COST_EFF_8X, 19.0, 5.55), (COST_EFF_8X, 20.3, 5.19), (COST_EFF_2X, 2.4, 9.92), (ELASTICBERT_6, 2.4, 5.00)],
)
def test_a4_mean_exit_behind_a_printed_reduction(model, printed, mean_exit):
    one, two = (flops(*model, exit=k)["torch110"] for k in (1, 2))
    per_layer = two - one
    spent = flops(*BERT_BASE)["torch110"] / printed
    assert round((spent - one) / per_layer + 1, 2) == mean_exit


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("model", [COST_EFF_8X, COST_EFF_2X, ELASTICBERT_6])
def test_a5_cost_rises_with_the_exit_by_a_constant_step(model, convention):
    dims, shape = model
    costs = [flops(dims, shape, exit=k)[convention] for k in shape.exits]
    steps = {after - before for before, after in pairwise(costs)}
    assert len(steps) == 1
    assert steps.pop() > 0
    assert costs[-1] == flops(dims, shape)[convention]


def test_a5_the_step_of_the_8x_model_under_torch110():
    one, two = (flops(*COST_EFF_8X, exit=k)["torch110"] for k in (1, 2))
    assert round((two - one) / 1e6, 2) == 201.56


def test_skipped_exits_are_not_paid_for():
    dims, every = COST_EFF_8X
    some = replace(every, exits=(4, 8, 12))
    assert flops(dims, every, exit=8)["torch110"] - flops(dims, some, exit=8)["torch110"] == 2 * 6 * dims.hidden * 2
    assert parameters(dims, every) - parameters(dims, some) == 9 * (dims.hidden * 2 + 2)


def test_the_kept_read_out_answers_at_the_last_layer_only():
    dims, shape = PABEE_256
    removed = replace(shape, read_out=False)
    assert parameters(dims, shape) - parameters(dims, removed) == 256 * 256 + 256
    assert flops(dims, shape, exit=11) == flops(dims, removed, exit=11)
    assert flops(dims, shape, exit=12)["torch110"] - flops(dims, removed, exit=12)["torch110"] == 2 * 256 * 256


def test_layers_of_different_width_add_up():
    layers = (LayerShape(12, 3072), LayerShape(1, 5))
    both = flops(BASE, Shape(layers), tokens=7)
    assert both["macs_lin"] == 7 * (4 * 768 * (12 + 1) * 64 + 2 * 768 * (3072 + 5))
    assert both["macs_all"] - both["macs_lin"] == 2 * 7 * 7 * (12 + 1) * 64


def test_expected_flops_is_the_mean_over_the_histogram():
    cost = expected_flops(*COST_EFF_8X, {2: 30, 4: 10}, tokens=64)
    assert cost == expected_flops(*COST_EFF_8X, {2: 0.75, 4: 0.25}, tokens=64)
    for convention in CONVENTIONS:
        two, four = (flops(*COST_EFF_8X, tokens=64, exit=k)[convention] for k in (2, 4))
        assert cost[convention] == 0.75 * two + 0.25 * four


def test_expected_flops_of_full_depth():
    assert expected_flops(*BERT_BASE, {12: 408}) == flops(*BERT_BASE)


def test_no_example_leaves_where_there_is_no_exit():
    with pytest.raises(ValueError) as error:
        flops(*BERT_BASE, exit=3)
    assert str(error.value) == "no example leaves at layer 3; exits: 12"
    with pytest.raises(ValueError) as error:
        expected_flops(*ELASTICBERT_6, {7: 1})
    assert str(error.value) == "no example leaves at layer 7; exits: [1, 2, 3, 4, 5, 6]"


def test_an_empty_histogram_has_no_mean():
    with pytest.raises(ValueError) as error:
        expected_flops(*COST_EFF_8X, {3: 0})
    assert str(error.value) == "an empty exit histogram has no mean cost"


def test_blocks_of_bert_base_have_the_shares_that_the_paper_prints():
    blocks = by_block(*BERT_BASE)
    share = {part: sum(b.share for b in blocks if b.part == part) for part in ("word embeddings", "attention", "ffn")}
    assert {part: round(100 * value, 1) for part, value in share.items()} == {
        "word embeddings": 21.4,
        "attention": 25.9,
        "ffn": 51.8,
    }


def test_blocks_of_the_8x_model():
    blocks = by_block(*COST_EFF_8X)
    assert [block.name for block in blocks][:4] == [
        "word embeddings",
        "other embeddings",
        "layer 1 attention",
        "layer 1 ffn",
    ]
    assert blocks[-1].name == "exits"
    assert blocks[2].parameters + blocks[3].parameters == 791_680
    assert blocks[-1].parameters == 12 * (768 * 2 + 2)
    assert sum(block.share for block in blocks) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("model", [BERT_BASE, PABEE_512, COST_EFF_2X])
def test_blocks_add_up_to_every_mac_and_the_heads(model):
    dims, shape = model
    heads = len(shape.exits or (1,)) * dims.hidden * dims.classes + shape.read_out * dims.hidden**2
    total = sum(block.macs for block in by_block(dims, shape, tokens=50))
    assert total == flops(dims, shape, tokens=50)["macs_all"] + heads


ALBERT_BASE = (replace(BASE, vocabulary=30_000), stack(12, 12, 3072, owners=(0,) * 12, embedding=128))


def test_a6_parameters_of_albert_base_without_its_classifier():
    dims, shape = ALBERT_BASE
    assert parameters(dims, shape) - (768 * 2 + 2) == 11_683_584
    blocks = by_block(dims, shape)
    assert blocks[0].parameters == 30_000 * 128
    assert blocks[1].parameters == (512 + 2) * 128 + 2 * 128 + 128 * 768 + 768
    assert blocks[2].parameters + blocks[3].parameters == 7_087_872


# Layers and hidden size, then parameters of the encoder and its pooler, without a classifier.
MINIATURES = {
    "Tiny": (2, 128, 4_385_920),
    "Mini": (4, 256, 11_170_560),
    "Small": (4, 512, 28_763_648),
    "Medium": (8, 512, 41_373_184),
    "8L-256H": (8, 256, 14_329_600),
    "12L-256H": (12, 256, 17_488_640),
    "12L-512H": (12, 512, 53_982_720),
    "6L-768H": (6, 768, 66_955_008),
    "Base": (12, 768, 109_482_240),
}


@pytest.mark.parametrize(("layers", "hidden", "expected"), MINIATURES.values(), ids=MINIATURES)
def test_a6_parameters_of_the_miniatures_without_their_classifier(layers, hidden, expected):
    """Heads of 64, and four times as many neurons as the hidden states are wide (Turc et al. 2019)."""
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=hidden // 64, intermediate_size=4 * hidden
    )
    whole = parameters(dims_of(BERT, config), original_shape(BERT, config))
    assert whole - (hidden * 2 + 2) == expected


@pytest.mark.parametrize("exit", [None, 3])
@pytest.mark.parametrize("model", [BERT_BASE, COST_EFF_8X])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_sharing_changes_parameters_and_never_flops(model, groups, exit):
    dims, shape = model
    owners = tuple(layer - layer % (12 // groups) for layer in range(12))
    shared = shape.after(ShareLayers(owners, "mean"))
    layer = sum(block.parameters for block in by_block(dims, shape) if block.layer == 1)
    assert parameters(dims, shape) - parameters(dims, shared) == (12 - groups) * layer
    if exit is None or shape.exits:
        assert flops(dims, shared, exit=exit) == flops(dims, shape, exit=exit)
    ours, theirs = by_block(dims, shared), by_block(dims, shape)
    assert [block.macs for block in ours] == [block.macs for block in theirs]
    assert sum(block.share for block in ours) == pytest.approx(1, abs=1e-12)


def test_a_shared_layer_counts_once_also_where_its_first_owner_is_gone():
    shape = stack(4, 12, 3072, owners=(0, 0, 2, 2)).after(CutLayers((1, 2, 3)))
    assert parameters(BASE, shape) == parameters(BASE, stack(2, 12, 3072))


def test_a_projection_works_on_every_token_and_its_tables_are_added_in_the_small_space():
    before, after = flops(*BERT_BASE, tokens=7), flops(BASE, BERT_BASE[1].after(ProjectEmbeddings(128)), tokens=7)
    work = 7 * 128 * 768
    assert after["macs_all"] - before["macs_all"] == work
    assert after["torch110"] - before["torch110"] == 2 * work - 2 * 7 * (768 - 128)


SMALL = {"vocab_size": 50, "max_position_embeddings": 20, "num_labels": 3}
BODY = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12}
NARROW = {**SMALL, **BODY, "embedding_size": 5, "intra_bottleneck_size": 6}

TINY = {
    "bert": (BERT, BertConfig(**SMALL, **BODY)),
    "roberta": (ROBERTA, RobertaConfig(**SMALL, **BODY, type_vocab_size=1)),
    "xlm-roberta": (XLM_ROBERTA, XLMRobertaConfig(**SMALL, **BODY, type_vocab_size=1)),
    "electra": (ELECTRA, ElectraConfig(**SMALL, **BODY, embedding_size=6)),
    "electra as wide as its embeddings": (ELECTRA, ElectraConfig(**SMALL, **BODY, embedding_size=8)),
    "distilbert": (DISTILBERT, DistilBertConfig(**SMALL, dim=8, n_layers=3, n_heads=2, hidden_dim=12)),
    "mobilebert": (MOBILEBERT, MobileBertConfig(**NARROW)),
    "mobilebert as published": (MOBILEBERT, MobileBertConfig(**NARROW, classifier_activation=False)),
    "mobilebert of single tokens": (MOBILEBERT, MobileBertConfig(**NARROW, trigram_input=False)),
    "mobilebert of wide tokens": (MOBILEBERT, MobileBertConfig(**NARROW | {"embedding_size": 8}, trigram_input=False)),
    "mobilebert without bottlenecks": (MOBILEBERT, MobileBertConfig(**NARROW, use_bottleneck=False)),
    "mobilebert of narrow values": (MOBILEBERT, MobileBertConfig(**NARROW, use_bottleneck_attention=True)),
    "mobilebert with one bottleneck": (
        MOBILEBERT,
        MobileBertConfig(**NARROW, use_bottleneck_attention=True, key_query_shared_bottleneck=False),
    ),
    "mobilebert with one ffn": (MOBILEBERT, MobileBertConfig(**NARROW, num_feedforward_networks=1)),
}

# Configs of the checkpoints that people start from, with two classes.
REAL = {
    "bert-base-uncased": (BERT, BertConfig(), 109_483_778),
    "roberta-base": (
        ROBERTA,
        RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1),
        124_647_170,
    ),
    "xlm-roberta-base": (
        XLM_ROBERTA,
        XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1),
        278_045_186,
    ),
    "electra-small-discriminator": (ELECTRA, ElectraConfig(), 13_549_314),
    "distilbert-base-uncased": (DISTILBERT, DistilBertConfig(), 66_955_010),
    "mobilebert-uncased": (MOBILEBERT, MobileBertConfig(classifier_activation=False), 24_582_914),
}


@pytest.mark.parametrize(("anatomy", "config"), TINY.values(), ids=TINY)
def test_a1_parameters_are_those_of_a_real_model(anatomy, config):
    model = AutoModelForSequenceClassification.from_config(config)
    assert parameters(dims_of(anatomy, config), original_shape(anatomy, config)) == count(model)


@pytest.mark.parametrize(("anatomy", "config", "expected"), REAL.values(), ids=REAL)
def test_a1_parameters_of_checkpoints_in_use(anatomy, config, expected):
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    assert count(model) == expected
    assert parameters(dims_of(anatomy, config), original_shape(anatomy, config)) == expected


def test_dims_of_electra_small():
    dims = dims_of(ELECTRA, ElectraConfig())
    assert (dims.embedding, dims.hidden, dims.head_size, dims.heads, dims.neurons) == (128, 256, 64, 4, 1024)
    assert original_shape(ELECTRA, ElectraConfig()) == stack(12, 4, 1024)


def test_dims_of_distilbert_has_no_types():
    assert dims_of(DISTILBERT, DistilBertConfig()) == replace(BASE, types=0, layers=6)


def test_a6_mobilebert_is_as_large_and_as_costly_as_it_is_said_to_be():
    """25.3 M parameters are those with the masked language model's part, which is not ours; 5.7 B FLOPs are 2 MACs."""
    dims = dims_of(MOBILEBERT, MobileBertConfig())
    shape = original_shape(MOBILEBERT, MobileBertConfig())
    blocks = by_block(dims, replace(shape, read_out=False), 128)
    assert sum(block.parameters for block in blocks) == 24_581_888
    layers = [sum(block.parameters for block in blocks if block.layer == number) for number in range(1, 25)]
    assert layers == [842_240] * 24
    assert [block.name for block in blocks][2:6] == [
        "layer 1 attention",
        "layer 1 ffn",
        "layer 1 rest",
        "layer 2 attention",
    ]
    assert sum(block.macs for block in blocks) == flops(dims, shape, 128)["macs_all"]
    cost = flops(dims, shape, 128)
    assert round(cost["macs_lin"] / 1e9, 3) == 2.592
    assert round((cost["macs_all"] - cost["macs_lin"]) / 1e9, 3) == 0.101
    early = flops(dims, replace(shape, exits=(6, 24), head=ClsTanh(), read_out=False), 128, exit=6)
    assert 4 * (early["macs_lin"] - 128 * 3 * 128 * 512) == cost["macs_lin"] - 128 * 3 * 128 * 512


def test_shared_parameters_count_once():
    inner = torch.nn.Linear(3, 3)
    assert count(torch.nn.Sequential(inner, inner)) == 12


def test_a_config_that_lacks_a_size_is_refused():
    with pytest.raises(ArchitectureError) as error:
        dims_of(DISTILBERT, BertConfig())
    assert str(error.value) == "the config of this distilbert model has no 'dim'; add it to config.json"


def test_heads_that_do_not_divide_the_width_inside_a_layer_are_refused():
    with pytest.raises(ArchitectureError) as error:
        dims_of(MOBILEBERT, MobileBertConfig(intra_bottleneck_size=126))
    assert str(error.value) == (
        "a width inside a layer of 126 can't be split over 4 heads; "
        "correct 'intra_bottleneck_size' or 'num_attention_heads' in the model's config.json"
    )


def test_heads_that_do_not_divide_the_hidden_size_of_layers_without_a_bottleneck_are_refused():
    with pytest.raises(ArchitectureError) as error:
        dims_of(MOBILEBERT, MobileBertConfig(hidden_size=126, intra_bottleneck_size=126, use_bottleneck=False))
    assert str(error.value) == (
        "a hidden size of 126 can't be split over 4 heads; "
        "correct 'hidden_size' or 'num_attention_heads' in the model's config.json"
    )


def test_embeddings_of_mobilebert_are_added_as_wide_as_its_hidden_states():
    """Two sums of three tables; then two a layer, as of any family, and the scores' mask."""
    dims, shape = dims_of(MOBILEBERT, config := MobileBertConfig()), original_shape(MOBILEBERT, config)
    cost = flops(dims, shape, 10)
    heads = 512 * 512 + 512 * 2
    assert cost["torch110"] - cost["flops_lin"] - 2 * heads == 2 * 10 * 512 + 24 * (2 * 10 * 512 + 4 * 10**2)


def test_heads_that_do_not_divide_the_hidden_size_are_refused():
    with pytest.raises(ArchitectureError) as error:
        dims_of(BERT, BertConfig(hidden_size=10, num_attention_heads=3))
    assert str(error.value) == (
        "a hidden size of 10 can't be split over 3 heads; "
        "correct 'hidden_size' or 'num_attention_heads' in the model's config.json"
    )


TOKENS = 6


def watched(anatomy, config, attention: str):
    """A tiny model, its cost, and the MACs of its read-out."""
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()
    dims, shape = dims_of(anatomy, config), original_shape(anatomy, config)
    dense = dims.hidden**2 if anatomy is not MOBILEBERT or config.classifier_activation else 0
    return model, flops(dims, shape, TOKENS), dense + dims.hidden * dims.classes


def torch_counts(model) -> dict[str, int]:
    ids = torch.ones(1, TOKENS, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return {str(operation): flops for operation, flops in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize(("anatomy", "config"), TINY.values(), ids=TINY)
def test_torch_counts_eager_attention_as_we_do(anatomy, config):
    model, cost, read_out = watched(anatomy, config, "eager")
    assert torch_counts(model) == {
        "aten.addmm": cost["flops_lin"] + 2 * read_out,
        "aten.bmm": cost["flops_all"] - cost["flops_lin"],
    }


@pytest.mark.parametrize(("anatomy", "config"), TINY.values(), ids=TINY)
def test_torch_counts_no_attention_products_of_sdpa_on_cpu(anatomy, config):
    # Its table has no formula for the operator that CPUs use (pytorch#195460): products cost 0, weights are as ours.
    model, cost, read_out = watched(anatomy, config, "sdpa")
    assert torch_counts(model) == {"aten.addmm": cost["flops_lin"] + 2 * read_out}


def bias_entries(model) -> int:
    """Additions of bias of the linear layers that run: once for each number that they put out."""
    added = []
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(lambda part, inputs, output: added.append(output.numel()))
    model(input_ids=torch.ones(1, TOKENS, dtype=torch.long))
    return sum(added)


@pytest.mark.parametrize(("anatomy", "config"), TINY.values(), ids=TINY)
def test_ptflops_adds_biases_to_what_we_count_in_eager_attention(anatomy, config):
    model, cost, read_out = watched(anatomy, config, "eager")
    assert ptflops_macs(model, TOKENS) == cost["macs_all"] + read_out + bias_entries(model)


@pytest.mark.parametrize(("anatomy", "config"), TINY.values(), ids=TINY)
def test_ptflops_counts_no_attention_products_of_sdpa(anatomy, config):
    model, cost, read_out = watched(anatomy, config, "sdpa")
    assert ptflops_macs(model, TOKENS) == cost["macs_lin"] + read_out + bias_entries(model)


def test_ptflops_leaves_the_model_as_it_was(capsys):
    model = AutoModelForSequenceClassification.from_config(TINY["bert"][1]).train()
    ptflops_macs(model, TOKENS)
    assert model.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore")
def test_ptflops_on_more_tokens_than_positions_says_so(capsys):
    model = AutoModelForSequenceClassification.from_config(TINY["bert"][1])
    with pytest.raises(RuntimeError) as error:
        ptflops_macs(model, 21)
    assert str(error.value) == "ptflops could not run BertForSequenceClassification on 21 tokens"
    capsys.readouterr()


def test_a_factored_embedding_is_a_second_matrix_product():
    table = torch.nn.Sequential(torch.nn.Embedding(50, 3), torch.nn.Linear(3, 8, bias=False))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        table(torch.ones(1, TOKENS, dtype=torch.long))
    dims, shape = dims_of(*TINY["bert"]), original_shape(*TINY["bert"])
    factored = replace(shape, rank=3)
    assert (
        counter.get_total_flops()
        == flops(dims, factored, TOKENS)["flops_lin"] - flops(dims, shape, TOKENS)["flops_lin"]
    )
    assert parameters(dims, factored) - parameters(dims, shape) == count(table) - 50 * 8
