"""What the tables say where things are uneven, missing, or no better than before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import MobileBertConfig

from compresskit.architectures import MOBILEBERT
from compresskit.cost import Dims, dims_of
from compresskit.edits import LayerShape, Shape
from compresskit.report import Leaving, Milliseconds, Report, Score, Side
from compresskit.strategies.tanh_heads import ClsTanh, MeanTanh
from compresskit.tables import Table, blocks, exits, layers, markdown, summary

DIMS = Dims(50, 20, 2, 8, 8, 4, 3, 4, 2, 12)
FULL = Shape((LayerShape(2, 12),) * 4)
ORIGINAL = Side.sized("original", DIMS, FULL)


def timed(label: str, median: float, spread: float, **others) -> Milliseconds:
    settings = {"batch": 1, "tokens": 64, "processor": "Some CPU", "threads": 1, "dtype": "float32"} | others
    return Milliseconds(label, median=median, low=median - spread, high=median + spread, **settings)


def change(what: str, original: Side, model: Side) -> tuple[str, str, str]:
    rows = {row[0]: row[1:] for row in summary(Report(model, original)).rows}
    return rows[what]


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (timed("full depth", 5.0, 1.0), "2.00 times as fast"),
        (timed("full depth", 9.0, 0.1), "1.11 times as fast"),
        (timed("full depth", 9.0, 0.5), "no gain"),
        (timed("full depth", 10.0, 0.0), "no gain"),
        (timed("full depth", 30.0, 1.0), "no gain"),
    ],
)
def test_a_gain_is_one_beyond_the_spread(after, says):
    before = replace(ORIGINAL, milliseconds=(timed("full depth", 10.0, 0.5),))
    model = replace(ORIGINAL, milliseconds=(after,))
    assert change("ms, batch 1, full depth", before, model) == ("10.00", f"{after.median:.2f}", says)


@pytest.mark.parametrize(
    "other", [{"batch": 2}, {"tokens": 32}, {"processor": "Another"}, {"threads": 2}, {"dtype": "bfloat16"}]
)
def test_times_of_different_settings_are_not_compared(other):
    before = replace(ORIGINAL, milliseconds=(timed("full depth", 10.0, 0.5, **other),))
    model = replace(ORIGINAL, milliseconds=(timed("full depth", 5.0, 0.5),))
    assert change("ms, batch 1, full depth", before, model) == ("", "5.00", "")


def test_a_time_is_compared_with_the_same_label_first():
    before = replace(ORIGINAL, milliseconds=(timed("full depth", 10.0, 0.5), timed("leaving early", 6.0, 0.5)))
    model = replace(ORIGINAL, milliseconds=(timed("leaving early", 3.0, 0.5),))
    assert change("ms, batch 1, leaving early", before, model) == ("6.00", "3.00", "2.00 times as fast")


def test_a_model_that_grew_says_so():
    grown = Side.sized("grown", DIMS, replace(FULL, exits=(1, 2, 3, 4), head=ClsTanh()))
    added = 3 * (8 * 3 + 3)
    before, after, words = change("parameters", ORIGINAL, grown)
    assert (before, after) == (f"{ORIGINAL.parameters:,}", f"{ORIGINAL.parameters + added:,}")
    assert words == f"{(ORIGINAL.parameters + added) / ORIGINAL.parameters:.2f} times more"
    assert change("FLOPs (flops_all)", ORIGINAL, grown)[2] == "FLOPs reduction 1.00"


def test_a_model_that_hardly_grew_says_by_how_little():
    before, after = replace(ORIGINAL, parameters=22_713_986), replace(ORIGINAL, parameters=22_717_836)
    assert change("parameters", before, after)[2] == "0.02% more"
    assert change("parameters", after, before)[2] == "0.02% fewer"


def test_a_model_of_the_same_size_says_so():
    assert change("parameters", ORIGINAL, ORIGINAL)[2] == "the same"


def test_a_score_that_the_original_lacks_has_no_change():
    before = replace(ORIGINAL, scores=(Score("accuracy", 0.5, {}),))
    model = replace(ORIGINAL, scores=(Score("accuracy", 0.75, {}), Score("F1", 0.8, {})))
    assert change("accuracy", before, model) == ("0.5000", "0.7500", "+0.2500")
    assert change("F1", before, model) == ("", "0.8000", "")


def test_bytes_without_those_of_the_original():
    assert change("bytes on disk", ORIGINAL, replace(ORIGINAL, bytes_on_disk=1234)) == ("", "1,234", "")


def test_a_report_on_one_model_has_values_only():
    table = summary(Report(ORIGINAL, tokens=64))
    assert (table.title, table.columns) == ("original", ("", "value"))
    assert table.rows[0] == ("parameters", f"{ORIGINAL.parameters:,}")
    assert table.note == "FLOPs of one example of 64 tokens, padding included."


def test_uneven_layers_stand_in_rows_of_their_own():
    shape = Shape(
        (LayerShape(2, 12), LayerShape(1, 3), LayerShape(1, 3), LayerShape(2, 3)), None, (1, 3, 4), MeanTanh()
    )
    table = layers(Report(Side.sized("uneven", DIMS, shape), ORIGINAL))
    assert table.rows == (
        ("1", "2", "12", "1"),
        ("2 to 3", "1 of 2", "3 of 12", "3"),
        ("4", "2", "3 of 12", "4"),
    )
    assert table.note == "Word embeddings: one table. Exit heads: mean-tanh."


def test_shared_layers_and_projected_embeddings_are_told():
    shape = replace(FULL, owners=(0, 0, 2, 2), embedding=4)
    side = Side.sized("shared", DIMS, shape)
    assert layers(Report(side, ORIGINAL)).note == (
        "Word embeddings: 4 wide, as all embeddings, then a linear layer. Layers 1 to 2 share one set of weights. "
        "Layers 3 to 4 share one set of weights."
    )
    assert layers(Report(Side.sized("pair", DIMS, replace(FULL, owners=(0, 0, 2, 3))))).note == (
        "Word embeddings: one table. Layers 1 to 2 share one set of weights."
    )
    assert sum(int(row[1].replace(",", "")) for row in blocks(side).rows) == side.parameters


def test_exits_with_gaps():
    shape = replace(FULL, exits=(1, 2, 4), head=ClsTanh(), read_out=False)
    assert layers(Report(Side.sized("gaps", DIMS, shape))).rows == (("1 to 4", "2", "12", "1 to 2, 4"),)


def test_nothing_is_said_to_be_of_an_uneven_original():
    uneven = Side.sized("uneven", DIMS, Shape((LayerShape(2, 12), LayerShape(1, 12))))
    even = Side.sized("even", DIMS, Shape((LayerShape(1, 4),) * 2))
    assert layers(Report(even, uneven)).rows == (("1 to 2", "1", "4", ""),)


def test_blocks_of_uneven_layers_still_add_up():
    shape = Shape((LayerShape(2, 12), LayerShape(1, 3), LayerShape(1, 3)))
    side = Side.sized("uneven", DIMS, shape)
    rows = blocks(side).rows
    assert [row[0] for row in rows] == [
        "word embeddings",
        "other embeddings",
        "layer 1 attention",
        "layer 1 ffn",
        "layers 2 to 3 attention",
        "layers 2 to 3 ffn",
        "read-out",
    ]
    assert sum(int(row[1].replace(",", "")) for row in rows) == side.parameters


def test_what_layers_have_beside_attention_and_ffn_is_a_row_of_its_own():
    config = MobileBertConfig(vocab_size=50, num_hidden_layers=3, num_labels=3)
    dims = dims_of(MOBILEBERT, config)
    side = Side.sized("mobile", dims, replace(FULL, layers=(LayerShape(4, 512),) * 3))
    rows = {row[0]: int(row[1].replace(",", "")) for row in blocks(side).rows}
    assert list(rows)[2:5] == ["layers 1 to 3 attention", "layers 1 to 3 ffn", "layers 1 to 3 rest"]
    bottlenecks, ffns = 2 * (512 * 128 + 3 * 128) + 128 * 512 + 3 * 512, 3 * (2 * 128 * 512 + 512 + 3 * 128)
    assert rows["layers 1 to 3 rest"] == 3 * (bottlenecks + ffns)
    assert sum(rows.values()) == side.parameters


def test_exits_without_scores_or_leavers_are_no_table():
    shape = replace(FULL, exits=(2, 4), head=ClsTanh())
    assert exits(Side.sized("silent", DIMS, shape)).rows == ()


@pytest.mark.parametrize(
    ("left", "silent"), [({2: 0, 4: 9}, False), ({4: 9}, False), ({2: 1, 4: 8}, True), ({2: 9}, True)]
)
def test_a_setting_by_which_nobody_leaves_early_is_told(left, silent):
    shape = replace(FULL, exits=(2, 4), head=ClsTanh())
    side = replace(Side.sized("model", DIMS, shape), leaving=Leaving("patience, patience 6", left, {}))
    note = "Nobody leaves early by this setting; `compresskit evaluate` shows what others come to."
    assert exits(side).note == ("" if silent else note)


def test_markdown_escapes_pipes():
    assert markdown(Table("t", ("a|b",), (("c",),))) == "### t\n\n| a\\|b |\n| --- |\n| c |\n"
