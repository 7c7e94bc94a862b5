"""A report survives JSON, and says in words what the figures say and no more."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from compresskit.cost import CONVENTIONS, Dims, by_block, expected_flops, flops, parameters
from compresskit.edits import LayerShape, Shape
from compresskit.errors import CheckpointError
from compresskit.report import Leaving, Milliseconds, Report, Score, Side, StepTime
from compresskit.strategies.tanh_heads import ClsTanh

BASE = Dims(30_522, 512, 2, 768, 768, 64, 2, 12, 12, 3072)
FULL = Shape((LayerShape(12, 3072),) * 12)
SMALL = Shape((LayerShape(2, 256),) * 12, 128, tuple(range(1, 13)), ClsTanh(), read_out=False)
LEFT = {3: 300, 6: 100}


def measured(label: str, batch: int, median: float, spread: float = 0.1, **others) -> Milliseconds:
    settings = {"processor": "Some CPU", "threads": 2, "dtype": "float32"} | others
    return Milliseconds(label, batch, 128, median, median - spread, median + spread, **settings)


ORIGINAL = replace(
    Side.sized("original", BASE, FULL),
    bytes_on_disk=400_000,
    scores=(Score("accuracy", 0.931, {}),),
    milliseconds=(measured("full depth", 1, 80.0),),
)
COMPRESSED = replace(
    Side.sized("small", BASE, SMALL),
    bytes_on_disk=100_000,
    scores=(Score("accuracy", 0.906, {3: 0.81, 12: 0.91}),),
    milliseconds=(measured("leaving early", 1, 8.0),),
    leaving=Leaving("entropy, threshold 0.3", LEFT, expected_flops(BASE, SMALL, LEFT)),
)
REPORT = Report(COMPRESSED, ORIGINAL, 128, (StepTime("finetune", 300.4), StepTime("distill", 1200.0)))


def test_a_report_survives_json():
    data = json.loads(json.dumps(REPORT.to_json()))
    assert Report.from_json(data) == REPORT


def test_a_report_without_measurements_survives_json():
    report = Report(Side.sized("original", BASE, FULL))
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_json_has_every_convention_and_the_shape_as_checkpoints_have_it():
    data = REPORT.to_json()
    assert tuple(data["model"]["flops"]) == CONVENTIONS
    assert data["model"]["shape"] == SMALL.to_json()
    assert data["original"]["parameters"] == 109_483_778
    assert data["model"]["scores"][0]["per_exit"] == {"3": 0.81, "12": 0.91}


def test_json_that_is_no_report_is_refused():
    data = REPORT.to_json()
    del data["model"]["parameters"]
    with pytest.raises(CheckpointError) as error:
        Report.from_json(data)
    assert str(error.value) == (
        "the saved report is wrong at 'model.parameters' (field required); "
        "copy the folder again, or apply its recipe again"
    )


def test_json_with_a_broken_shape_is_refused():
    data = REPORT.to_json()
    del data["model"]["shape"]["rank"]
    with pytest.raises(CheckpointError) as error:
        Report.from_json(data)
    assert str(error.value) == (
        "the saved report is wrong at 'model.shape' (value error, no 'rank'); "
        "copy the folder again, or apply its recipe again"
    )


def test_a_side_is_sized_by_the_formulas():
    side = Side.sized("small", BASE, SMALL, tokens=40)
    assert side.parameters == parameters(BASE, SMALL) == 13_920_024
    assert side.flops == flops(BASE, SMALL, 40)
    assert side.blocks == by_block(BASE, SMALL, 40)


def test_the_mean_exit_weighs_layers_by_examples():
    assert Leaving("entropy", LEFT, {}).mean_exit == 3.75


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread"), (2, "2 threads")])
def test_times_name_the_machine(threads, words):
    time = measured("full depth", 1, 5.0, threads=threads)
    assert time.measured == f"measured on Some CPU, {words}, float32"


def test_markdown_of_a_whole_report():
    assert REPORT.to_markdown() == MARKDOWN


def test_a_flops_ratio_is_never_called_a_speed_up():
    static = Report(replace(COMPRESSED, milliseconds=()), replace(ORIGINAL, milliseconds=()))
    text = static.to_markdown().lower()
    assert "flops reduction 8.90" in text
    assert not any(word in text for word in ("speed", "fast", "slow"))


MARKDOWN = """\
### small against original

|  | original | compressed | change |
| --- | ---: | ---: | ---: |
| parameters | 109,483,778 | 13,920,024 | 7.87 times fewer |
| FLOPs (flops_all) | 22,347.3 M | 2,541.7 M | FLOPs reduction 8.79 |
| leaving early (flops_all) | 22,347.3 M | 811.6 M | FLOPs reduction 27.53 |
| FLOPs (torch110) | 21,749.4 M | 2,444.1 M | FLOPs reduction 8.90 |
| leaving early (torch110) | 21,749.4 M | 781.2 M | FLOPs reduction 27.84 |
| bytes on disk | 400,000 | 100,000 | 4.00 times smaller |
| accuracy | 0.9310 | 0.9060 | -0.0250 |
| ms, batch 1, leaving early | 80.00 | 8.00 | 10.00 times as fast |

FLOPs of one example of 128 tokens, padding included. Leaving early by entropy, threshold 0.3: mean exit 3.75. \
Milliseconds per example, measured on Some CPU, 2 threads, float32.

### Exits

| exit | accuracy | left here |
| --- | ---: | ---: |
| layer 1 |  | 0.0% |
| layer 2 |  | 0.0% |
| layer 3 | 0.8100 | 75.0% |
| layer 4 |  | 0.0% |
| layer 5 |  | 0.0% |
| layer 6 |  | 25.0% |
| layer 7 |  | 0.0% |
| layer 8 |  | 0.0% |
| layer 9 |  | 0.0% |
| layer 10 |  | 0.0% |
| layer 11 |  | 0.0% |
| layer 12 | 0.9100 | 0.0% |

### Measured time

| model | batch | tokens | milliseconds | quartiles |
| --- | ---: | ---: | ---: | ---: |
| original, full depth | 1 | 128 | 80.00 | 79.90 to 80.10 |
| compressed, leaving early | 1 | 128 | 8.00 | 7.90 to 8.10 |

Per example, measured on Some CPU, 2 threads, float32.

### Layers

| layers | heads each | FFN neurons each | exits after |
| --- | ---: | ---: | ---: |
| 1 to 12 | 2 of 12 | 256 of 3,072 | 1 to 12 |

Word embeddings: two factors of rank 128. Exit heads: cls-tanh.

### Blocks

| block | parameters | MACs | share |
| --- | ---: | ---: | ---: |
| word embeddings | 4,005,120 | 12.58 M | 28.8% |
| other embeddings | 396,288 | 0.00 M | 2.8% |
| layers 1 to 12 attention | 4,750,848 | 654.31 M | 34.1% |
| layers 1 to 12 ffn | 4,749,312 | 603.98 M | 34.1% |
| exits | 18,456 | 0.02 M | 0.1% |

MACs include attention products and heads; the share is of the parameters.

### Training time

| step | seconds |
| --- | ---: |
| finetune | 300 |
| distill | 1,200 |

1,500 s in all.
"""
