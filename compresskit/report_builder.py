"""Fills a report: sizes from the config, scores and times from running the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compresskit.batches import collate, encode
from compresskit.checkpoint import Checkpoint, Original, load, read_original, read_record
from compresskit.cost import expected_flops
from compresskit.data import Corpus
from compresskit.evaluate import Evaluation, evaluate
from compresskit.model import CompressedForSequenceClassification
from compresskit.report import Leaving, Report, Score, Side, StepTime
from compresskit.run import Run
from compresskit.speed import Times, time_rows, time_shape


def compare(
    *,
    original: Checkpoint,
    reference: Checkpoint | None,
    model: CompressedForSequenceClassification,
    corpus: Corpus | None,
    run: Run,
    seconds: Sequence[tuple[str, float]] = (),
    name: str = "compressed",
) -> Report:
    """The report of a run, made before the model is on disk.

    Args:
        original: as it was given; its sizes are the ones reported, and its tokenizer is used.
        reference: the original with a trained head, whose scores are reported; None where it never had one.
        model: the result, on `run.device`.
        corpus: evaluation rows, or None: then nothing is scored, and times are those of random tokens.
        seconds: name and duration of each step.
        name: of the result.
    """
    weights = [weight for name, weight in model.state_dict().items() if name not in model.shared_weights]
    after = replace(
        Side.sized(name, original.original.dims, model.shape),
        bytes_on_disk=sum(weight.numel() * weight.element_size() for weight in weights),
    )
    before = _sized(original.original)
    other = (reference or original).model.to(run.device).eval()
    times = Times((), ())
    if corpus is None:
        times = time_shape(model, run, other) if run.timing else times
    else:
        tokenizer = original.tokenizer
        rows = encode(corpus.eval, tokenizer, run.max_tokens, token_types=True)
        padded = collate(tokenizer.pad_token_id, tokenizer.pad_token_type_id)
        if reference is not None:
            was = evaluate(other, rows, padded, corpus.task, run, thresholds=(), latency=False)
            before = replace(before, scores=scores(was), always=always(was))
        if model.depth not in model.untrained:
            now = evaluate(model, rows, padded, corpus.task, run, thresholds=(), latency=False)
            after = replace(after, scores=scores(now), always=always(now))
            after = replace(after, leaving=_leaving(now, original.original, model))
        times = time_rows(model, rows, padded, run, original=other) if run.timing else times
    return Report(
        replace(after, milliseconds=times.model),
        replace(before, milliseconds=times.original),
        steps=tuple(StepTime(step, duration) for step, duration in seconds),
    )


def report_on(model: str, against: str | None, run: Run, timing: bool = True, tokens: int = 128) -> Report:
    """The report of a model: sizes from its config, times from this machine, scores as `apply` saved them.

    Args:
        model, against: folders or Hub ids. Without `against`, the original of the saved report is shown, if any.
        timing: False loads no weights and measures nothing.
        tokens: length of the example that FLOPs and times are of.

    Raises:
        CheckpointError: a model can't be read.
        ArchitectureError: its `model_type` has no anatomy.
    """
    dims, saved = read_original(model).dims, _saved(model)
    side, original = _sized(read_original(model), tokens), saved.original if saved else None
    if original is not None:
        sized = Side.sized(original.name, dims, original.shape, tokens)
        # Its times were taken on the rows of the run; beside those of random tokens they would mean nothing.
        original = replace(original, flops=sized.flops, blocks=sized.blocks, milliseconds=())
    if against is not None:
        theirs = _saved(against)
        known = [report for report in (original, theirs.model if theirs else None) if report is not None]
        original = _sized(read_original(against), tokens)
        scored = [other.scores for other in known if other.shape == original.shape and _same(other.name, against)]
        original = replace(original, scores=scored[0] if scored else ())
    if saved is not None:
        leaving = saved.model.leaving
        if leaving is None or leaving.policy == _words(read_original(model).policy or {}):
            side = replace(side, scores=saved.model.scores, leaving=leaving, always=saved.model.always)
        else:
            run.progress.say(
                f"{model} no longer leaves by {leaving.policy}, with which it was scored, so its scores are left out; "
                "`compresskit evaluate` gives new ones"
            )
    if side.leaving is not None:
        flops = expected_flops(dims, side.shape, side.leaving.histogram, tokens)
        side = replace(side, leaving=replace(side.leaving, flops=flops))
    if timing:
        other_model = load(against).model.to(run.device) if against is not None else None
        times = time_shape(load(model).model.to(run.device), run, other_model, tokens)
        side = replace(side, milliseconds=times.model)
        if original is not None and against is not None:
            original = replace(original, milliseconds=times.original)
    return Report(side, original, steps=saved.steps if saved else (), tokens=tokens)


def scores(evaluation: Evaluation) -> tuple[Score, ...]:
    """The metrics that people are shown, the task's first."""
    answered = evaluation.own.metrics if evaluation.own else evaluation.per_exit[max(evaluation.per_exit)]
    exits = evaluation.per_exit if len(evaluation.per_exit) > 1 else {}
    return tuple(
        Score(name, answered[name], {number: metrics[name] for number, metrics in exits.items()})
        for name in evaluation.shown
    )


def always(evaluation: Evaluation) -> str | None:
    """The label that every row was given, answered where it left."""
    confusion = evaluation.own.confusion if evaluation.own else evaluation.confusion
    given = [
        label
        for label, column in zip(evaluation.task.labels, zip(*confusion, strict=True), strict=False)
        if any(column)
    ]
    return given[0] if len(given) == 1 else None


def _leaving(evaluation: Evaluation, original: Original, model: CompressedForSequenceClassification) -> Leaving | None:
    if evaluation.own is None or evaluation.policy is None:
        return None
    own = dict(evaluation.policy)
    words = _words({"by": own.pop("by"), "with": own})
    histogram = dict(evaluation.own.histogram)
    return Leaving(words, histogram, expected_flops(original.dims, model.shape, histogram))


def _same(one: str, other: str) -> bool:
    """Whether two names mean one model, however its folder is spelt."""
    return one == other or (Path(other).exists() and Path(one).resolve() == Path(other).resolve())


def _words(policy: Mapping[str, Any]) -> str:
    """An exit policy in the form of the config as `entropy, threshold 0.3`."""
    return ", ".join([str(policy.get("by")), *(f"{key} {value}" for key, value in policy.get("with", {}).items())])


def _sized(original: Original, tokens: int = 128) -> Side:
    """What the config tells, and the size of the weights in the folder."""
    folder = Path(original.name)
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    size = sum(_tensor_bytes(file) for file in files) if files else None
    return replace(Side.sized(original.name, original.dims, original.shape, tokens), bytes_on_disk=size)


def _tensor_bytes(file: Path) -> int:
    """Bytes of the numbers in a safetensors file: all but its header, whose length is its first 8 bytes."""
    with file.open("rb") as opened:
        return file.stat().st_size - 8 - int.from_bytes(opened.read(8), "little")


def _saved(name: str) -> Report | None:
    record = read_record(name)
    return Report.from_json(record["report"]) if record and "report" in record else None
