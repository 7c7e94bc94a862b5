"""The page about JSON: what the commands print and the files that a run writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from transformers import BertConfig

from compresskit import cost, edits, evaluate, report
from compresskit.checkpoint import Original
from compresskit.cost import original_shape
from compresskit.edits import EDITS, Shape, edit_to_json, head_from_json
from compresskit.evaluate import Evaluation, Point
from compresskit.labels import Task
from compresskit.plan import make_plan
from compresskit.predict import Prediction
from compresskit.recipe import read_recipe
from compresskit.report import Leaving, Milliseconds, Report, Score, Side, StepTime
from generator.parts import attribute_doc, doc, fenced, names, page, table
from generator.recipes import BUILT_IN

HEAD = head_from_json("cls-tanh")
RECORD = {
    "format": "number of the format, now 1",
    "recipe": "the recipe as YAML, every default written out",
    "seed": "of the run",
    "base_model": "the original, as it was named",
    "data": "where the data were and the options that they were read with, or null",
    "run": "tokens that texts were cut to, precision and device",
    "versions": "of compresskit and of the packages that a result depends on",
    "origins": "distribution and version that each strategy came from",
    "edits": "what was done to the model, in order, each with the number of its step",
    "report": "as in `report.json`",
}

FILES = (
    ("`config.json`", "the original's config, the shape now, the exit policy, and how the data were read"),
    ("`model.safetensors`", "the weights"),
    ("`tokenizer.json`, `tokenizer_config.json`", "the original's tokenizer"),
    ("`README.md`", "the model card: the report and the recipe"),
    ("`recipe.yaml`", "the recipe, every default written out; `compresskit apply OUT/recipe.yaml` repeats the run"),
    ("`report.json`", "the report"),
    ("`compression.json`", "where the model comes from and what was done to it"),
    ("`run.json`", "fingerprints of what the run depends on, by which the same command knows its folder"),
    ("`steps/`", "the finished steps, from which an interrupted run goes on; not needed for use"),
)


def _list(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


EVALUATE = f"""\
`accuracy`, `f1` and `matthews` stand for whatever metrics the task has. `flops_reduction` is at `tokens` tokens,
`flops_reduction_at_mean_length` at `mean_tokens`, both by `convention`. The sweep's thresholds are
{_list(evaluate.usual_thresholds(2))} for two classes. For more they are ln(classes) rounded
up, at which all leave at the first exit, and {_list(evaluate.THRESHOLDS_MORE)}. `--thresholds` gives others."""


PREDICT = """\
## predict

`--output` adds these columns to those of the input; `--json` prints them with `text`, and `text_pair` for pairs."""


def formats() -> str:
    """Every format with what its fields mean."""
    return page(
        "JSON and files",
        "Counts of layers start at 1, but for `layer` in the edits. A ratio is always the original's over the\n"
        "compressed model's, so more is better.",
        f"## FLOPs conventions\n\n{attribute_doc(cost, 'Convention')}",
        "## plan --json",
        "BERT base (`BertConfig()`, two classes) by `cost-eff-8x`, at 128 tokens and full depth; ratios rounded here:",
        fenced(json.dumps(_plan(), indent=2), "json"),
        "## report --json, apply --json and report.json",
        fenced(json.dumps(_outline(_report()), indent=2), "json"),
        *(_meanings(cls) for cls in (Report, Side, Score, Milliseconds, Leaving, cost.Block, StepTime)),
        "## evaluate --json",
        fenced(json.dumps(_outline(_evaluation().to_json()), indent=2), "json"),
        EVALUATE,
        _meanings(Evaluation),
        _meanings(Point),
        PREDICT,
        _meanings(Prediction),
        "## The folder that apply writes",
        table(("file", "what it is"), FILES),
        "## compression.json",
        table(("key", "meaning"), ((f"`{key}`", text) for key, text in RECORD.items())),
        "The edits:",
        fenced("\n".join(json.dumps(edit_to_json(edit) | {"step": 4}) for edit in _edits()), "json"),
        table(("edit", "what was done"), ((f"`{kind}`", doc(EDITS[kind]).text) for kind in EDITS)),
        f"The shape in `config.json`:\n\n{fenced(json.dumps(_plan_of().shape.to_json()), 'json')}",
        _meanings(Shape),
    )


def _plan_of() -> Any:
    config, anatomy = BertConfig(num_labels=2), BUILT_IN.anatomy("bert")
    original = Original("bert-base", config, anatomy, original_shape(anatomy, config))
    return make_plan(read_recipe("cost-eff-8x", catalogue=BUILT_IN), original)


def _plan() -> dict[str, object]:
    """Ratios in four digits; the command prints them all."""
    data = json.loads(json.dumps(_plan_of().to_json()), parse_float=float)
    data["reduction"] = json.loads(json.dumps(data["reduction"]), parse_float=lambda text: round(float(text), 4))
    return dict(data)


def _report() -> dict[str, Any]:
    side = Side(
        "text",
        Shape((edits.LayerShape(1, 1),), 1, (1,), HEAD, False),
        1,
        {"flops_all": 1.0},
        (cost.Block("text", 1, 1, 1, 1.0),),
        1,
        (Score("text", 1.0, {1: 1.0}),),
        (Milliseconds("text", 1, 1, 1.0, 1.0, 1.0, "text", 1, "text"),),
        Leaving("text", {1: 1}, {"flops_all": 1.0}),
    )
    data: dict[str, Any] = TypeAdapter(Report).dump_python(
        report.Report(side, None, 1, (StepTime("text", 1.0),)), mode="json"
    )
    return data | {"original": "as model, or null"}


def _evaluation() -> Evaluation:
    metrics = {"accuracy": 1.0, "f1": 1.0, "matthews": 1.0}
    point = Point(1.0, 1.0, metrics, {1: 1}, 1.0, 1.0, ((1,),))
    return Evaluation(
        Task("classification", ("text",), "accuracy"), 1, 1.0, {1: metrics}, (point,), {"by": "text", "threshold": 1.0},
        point, ((1,),), (Milliseconds("text", 1, 1, 1.0, 1.0, 1.0, "text", 1, "text"),),
    )  # fmt: skip


def _edits() -> tuple[edits.Edit, ...]:
    return (
        edits.CutHeads(3, (0, 2, 5)),
        edits.CutNeurons(3, (1, 4)),
        edits.CutLayers((0, 1, 4)),
        edits.ShareLayers((0, 0, 2, 2), "mean"),
        edits.FactorizeEmbedding(128),
        edits.ProjectEmbeddings(128),
        edits.AddExits((2, 4), HEAD, False),
    )


def _outline(value: Any) -> Any:
    """JSON with the kind of each value in place of the value, and one item of each list."""
    if isinstance(value, Mapping):
        return {("LAYER" if str(key).isdigit() else str(key)): _outline(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_outline(item) for item in value[:1]]
    if isinstance(value, bool):
        return "true or false"
    return "number" if isinstance(value, (int, float)) else value or "text"


def _meanings(cls: type) -> str:
    about = doc(cls)
    rows = [(names(listed), said) for listed, said in about.items()]
    return f"`{cls.__name__}`: {about.text}\n\n{table(('field', 'meaning'), rows) if rows else ''}".rstrip()
