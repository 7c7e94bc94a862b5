"""What a run of a recipe works on, read and checked before anything is written, and the digests that name its steps."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers import __version__ as transformers_version
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from compresskit import __version__
from compresskit.banks import BYTES
from compresskit.batches import Collate, Encoded, collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import Checkpoint, load
from compresskit.data import Corpus, DataOptions, load_corpus
from compresskit.errors import CheckpointError, CompresskitError, DataError, RecipeError
from compresskit.interfaces import Strategy
from compresskit.journal import digest
from compresskit.mismatches import mismatches
from compresskit.model import CompressedForSequenceClassification
from compresskit.plan import Plan, Planned, make_plan
from compresskit.recipe import Recipe, needs_data
from compresskit.run import Run
from compresskit.teachers import match_labels
from compresskit.verbs import ORIGINAL, Distill, Finetune, Loss, Repeat, Scored, Training, Verb, optimizer_steps
from compresskit.wording import did_you_mean


@dataclass(frozen=True)
class Job:
    """A recipe with the model and the data it is applied to.

    Args:
        plan: what will be done.
        fresh: loads the original anew, with a head for the data's labels.
        original: loaded once, for its tokenizer and config.
        weights: fingerprint of the original.
        corpus: the data, or None for a recipe that needs none.
        data, options: where the data was and how it was read, for the record.
        run: device, precision, memory, progress.
        teachers: fingerprints of the models, teachers and banks, that the recipe names by their folders.
    """

    plan: Plan
    fresh: Callable[[], Checkpoint]
    original: Checkpoint
    weights: str
    corpus: Corpus | None
    data: str | None
    options: DataOptions
    run: Run
    teachers: dict[str, str]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The original's."""
        return self.original.tokenizer

    @cached_property
    def conditions(self) -> dict[str, str]:
        """A digest of each thing that every step's result depends on, under the name that its user has for it."""
        config = self.original.model.config.original
        model = (
            self.weights,
            {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")},
            self.tokenizer.get_vocab(),
        )
        return {
            "version": digest(*code_versions()),
            "model": digest(*model),
            "training data": digest(self.corpus.fingerprint if self.corpus else None),
            "seed": digest(self.plan.recipe.seed),
            "precision": digest(self.run.bf16),
            "device": digest(self.run.device),
            "--max-tokens": digest(self.run.max_tokens),
        }

    def digests(self) -> list[str]:
        """One per step: of everything that the step's result depends on."""
        last, found = digest(self.conditions), []
        for planned in self.plan.steps:
            last = digest(last, *self._describe(planned).values(), planned.shape.to_json())
            found.append(last)
        return found

    def digest(self) -> dict[str, str]:
        """Of the whole run: its conditions, what its steps do, and the rows that the result is reported on."""
        steps = [self._describe(planned) for planned in self.plan.steps]
        work = {name: digest([step[name] for step in steps]) for name in steps[0]}
        rows = digest(self.corpus.eval_fingerprint if self.corpus else None)
        return work | self.conditions | {"evaluation data": rows}

    def rows(self) -> tuple[Encoded | None, Collate | None]:
        """The training data in tokens, with token types, which a teacher may read where the student does not.

        Raises:
            DataError: `max_tokens` leaves no room for the text.
        """
        if self.corpus is None or self.corpus.train is None:
            return None, None
        rows = encode(self.corpus.train, self.tokenizer, self.run.max_tokens, token_types=True)
        return rows, collate(self.tokenizer.pad_token_id, self.tokenizer.pad_token_type_id)

    def _describe(self, planned: Planned) -> dict[str, Any]:
        """What a step does and what with, under the names that its user has for it."""
        teachers = [self.teachers.get(name) for name in (*_teachers(planned.verbs), *_banks(planned.verbs))]
        work = [planned.iteration, [_plain(verb) for verb in planned.verbs]]
        return {"recipe": work, "strategies": sources(planned), "teachers": teachers}


def code_versions() -> tuple[str, ...]:
    """Of what every result may depend on: compresskit, torch and transformers."""
    return __version__, torch.__version__, transformers_version


def sources(planned: Planned) -> list[tuple[str, str]]:
    """The distribution of each strategy of a step, and a digest of what its author wrote."""
    used = [type(strategy) for verb in planned.verbs for strategy in verb.strategies()]
    return [(str(load_catalogue().origin(strategy)), _source(strategy)) for strategy in used]


def outside_models(recipe: Recipe) -> list[str]:
    """Folders or Hub ids of the teachers and banks that the recipe itself does not make."""
    return [*_outsiders(recipe.steps, _teachers), *_outsiders(recipe.steps, _banks)]


def prepare(recipe: Recipe, model: str, data: str | None, options: DataOptions, run: Run, processes: int = 1) -> Job:
    """Read and check everything that a run needs; nothing is written.

    Args:
        processes: how many train together.

    Raises:
        CompresskitError: what is wrong with the recipe, the model, a teacher or the data.
    """
    # An untrained head is drawn at random: here the same for every seed, so that the fingerprint is of the files alone.
    torch.manual_seed(0)
    _check_trackers(run.trackers)
    original = load(model)
    if data is None and needs_data(recipe):
        raise DataError(f"recipe {recipe.name} trains or scores on data; name labelled text with --data")
    corpus = None
    if data is not None:
        original.check_length(run.max_tokens)
        labels = original.labels if original.head_trained else None
        corpus = load_corpus(data, options, labels, needs_data(recipe), original.columns)

    def fresh() -> Checkpoint:
        # A new head is drawn at random: from the recipe's seed, so that every load gives the same.
        torch.manual_seed(recipe.seed)
        if corpus is None:
            return load(model)
        new = () if original.head_trained else (corpus.task.labels, corpus.task.kind == "regression")
        loaded = load(model, *new)
        texts, label = list(corpus.columns.texts), corpus.columns.label
        loaded.model.config.data = {"text_columns": texts, "label_column": label, "max_tokens": run.max_tokens}
        return loaded

    first = fresh()
    plan = make_plan(recipe, first.original)
    for planned in plan.steps:
        if isinstance(planned.work, Training):
            _check_training(planned.work, planned, processes)
            if corpus is not None and corpus.train is not None:
                _check_length(planned.work, len(corpus.train))
    if corpus is not None and corpus.task.kind == "regression":
        _check_regression(recipe)
    if corpus is not None and corpus.train is not None:
        _check_room(plan, len(corpus.train.texts), run)
    teachers = {name: _check_teacher(name, first, plan, run) for name in _outsiders(recipe.steps, _teachers)}
    teachers |= {name: _check_bank(name, first, recipe, run) for name in _outsiders(recipe.steps, _banks)}
    return Job(plan, fresh, first, _fingerprint(original.model), corpus, data, options, run, teachers)


def _check_trackers(names: Sequence[str]) -> None:
    """Each must be one that transformers knows and can use here."""
    known = sorted(INTEGRATION_TO_CALLBACK)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise CompresskitError(f"--report-to {name}: there is no such tracker{hint}; known: {', '.join(known)}")
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise CompresskitError(f"--report-to {name}: it is not installed here; pip install {name}") from error


def _check_training(verb: Training, planned: Planned, processes: int) -> None:
    parts = verb.gradient_accumulation * processes
    if verb.batch_size % parts:
        shared = f"gradient_accumulation {verb.gradient_accumulation}"
        shared += f" and {processes} processes" if processes > 1 else ""
        raise RecipeError(
            f"{verb.label}: batch_size {verb.batch_size} can't be shared equally by {shared}; "
            f"make it a multiple of {parts}"
        )
    own = len(planned.shape.exits) - (planned.shape.read_out or verb.train == "shallow-exits")
    heads_alone = verb.train in ("exits", "shallow-exits")
    if heads_alone and own < 1:
        below = " with exits below the last layer" if verb.train == "shallow-exits" else ""
        raise RecipeError(
            f"{verb.label}: 'train: {verb.train}' has no exit head to train; put an exit step{below} before it"
        )
    on = [loss for loss in verb.by.values() if loss.after == 0] if isinstance(verb, (Distill, Finetune)) else []
    if heads_alone and on and not any(loss.distiller.needs_logits for loss in on):
        raise RecipeError(
            f"{verb.label}: no loss that is on from the start moves what 'train: {verb.train}' lets move; "
            "add a loss of the exits' answers, such as predictions"
        )
    if verb.train == "shallow-exits" and verb.exits == "last":
        raise RecipeError(
            f"{verb.label}: 'train: shallow-exits' moves nothing that the loss of 'exits: last' depends on; "
            "leave 'exits: last' out"
        )


def _check_length(verb: Training, rows: int) -> None:
    """A mask may need more steps than there are."""
    steps = optimizer_steps(verb, rows)
    if verb.mask is not None and steps < verb.mask.least_steps():
        raise RecipeError(
            f"{verb.label}: mask {verb.mask.name} needs at least {verb.mask.least_steps()} optimizer steps and has "
            f"{steps} here; give the step more epochs or smaller batches, or see the mask's options"
        )


def _check_regression(recipe: Recipe) -> None:
    for verb, loss in _terms(recipe.steps):
        if loss.distiller.needs_classes:
            raise RecipeError(
                f"{verb.label}: {loss.distiller.name} needs classes, and the labels are numbers; leave that loss out"
            )


def _check_teacher(name: str, student: Checkpoint, plan: Plan, run: Run) -> str:
    """The fingerprint of a teacher in a folder.

    Raises:
        CheckpointError: it can't be read, or can't teach this student.
    """
    teacher = load(name)
    if not teacher.head_trained:
        raise CheckpointError(f"teacher {name} has no trained head; fine-tune it first, or use another teacher")
    match_labels(teacher.labels, student.labels, name)
    _check_input("teacher", teacher, student, run)
    theirs, shape = teacher.original, plan.original.shape
    for planned in plan.steps:
        for verb in planned.verbs:
            if name in _teachers((verb,)):
                for problem in mismatches(verb, plan.original.dims, shape, theirs.dims, theirs.shape):
                    raise CheckpointError(f"{verb.label}: {problem}")
        shape = planned.shape
    return _fingerprint(teacher.model)


def _check_bank(name: str, student: Checkpoint, recipe: Recipe, run: Run) -> str:
    """The fingerprint of a bank's model in a folder; whether it has a head is all the same.

    Raises:
        CheckpointError: it can't be read, or can't be compared with this student.
    """
    model = load(name)
    _check_input("bank", model, student, run)
    theirs, ours = model.original.hidden_size, student.original.hidden_size
    for verb, loss in _terms(recipe.steps) if theirs != ours else ():
        if name in loss.banks and loss.distiller.same_hidden_size:
            raise CheckpointError(
                f"{verb.label}: {loss.distiller.name} can't look at bank {name}, whose hidden states have {theirs} "
                f"numbers and not {ours}; name a model of the same hidden size"
            )
    return _fingerprint(model.model)


def _check_input(role: str, model: Checkpoint, student: Checkpoint, run: Run) -> None:
    """It must read the student's batches."""
    if model.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise CheckpointError(
            f"{role} {model.original.name} has another vocabulary than {student.original.name}; "
            f"use a {role} with the same tokenizer"
        )
    model.check_length(run.max_tokens)


def _check_room(plan: Plan, rows: int, run: Run) -> None:
    """Banks have to be in memory: whether they fit is better said before the first round than in the last.

    Raises:
        RecipeError: those of a step are larger than `cache_bytes`.
    """
    saves: Counter[str | None] = Counter()
    for planned in plan.steps:
        if not isinstance(planned.work, Training):
            continue
        names = {name for _, loss in _terms((planned.work,)) for name in loss.banks}
        models = sum(max(saves[name], 1) for name in names)
        size = models * rows * plan.original.hidden_size * BYTES
        if size > run.cache_bytes:
            where = planned.work.label + (f" (round {planned.iteration})" if planned.iteration else "")
            raise RecipeError(
                f"{where}: its banks hold {models} models' features of {rows} rows, {size / 2**30:.2g} gigabytes; "
                f"give --cache-gigabytes as much, or name fewer banks"
            )
        saves[planned.work.save_as] += 1


def _outsiders(verbs: Sequence[Verb], names: Callable[[Sequence[Verb]], list[str]]) -> Iterator[str]:
    """Teachers, or banks, that no step of the recipe saves."""
    saved: set[str | None] = set()
    for verb in _flat(verbs):
        yield from (name for name in names((verb,)) if name not in saved)
        saved.add(getattr(verb, "save_as", None))


def _teachers(verbs: Sequence[Verb]) -> list[str]:
    return [verb.teacher for verb in verbs if isinstance(verb, (Distill, Scored)) and verb.teacher is not None]


def _banks(verbs: Sequence[Verb]) -> list[str]:
    """Beside the original, which every step depends on."""
    return [name for _, loss in _terms(verbs) for name in loss.banks if name != ORIGINAL]


def _terms(verbs: Sequence[Verb]) -> Iterator[tuple[Verb, Loss]]:
    """Every term of a loss, with its step."""
    for verb in _flat(verbs):
        for losses in verb.losses:
            yield from ((verb, loss) for loss in getattr(verb, losses).values())


def _flat(verbs: Sequence[Verb]) -> Iterator[Verb]:
    for verb in verbs:
        if isinstance(verb, Repeat):
            yield from verb.steps
        else:
            yield verb


def _plain(verb: Verb) -> str:
    fields = {name: repr(value) for name, value in dict(verb).items() if name not in ("line", "label")}
    return json.dumps({"verb": verb.name, **fields}, sort_keys=True)


def _source(strategy: type[Strategy]) -> str:
    """Of the file that the strategy is written in, which its author may change without a new version.

    With those beside it, where it is one of a plugin's, as they may share something.
    """
    file = getattr(sys.modules[strategy.__module__], "__file__", None)
    if file is None:
        return ""
    lone = "." not in strategy.__module__ or strategy.__module__.startswith("compresskit.")
    found = hashlib.sha256()
    for path in [Path(file)] if lone else sorted(Path(file).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _fingerprint(model: CompressedForSequenceClassification) -> str:
    """Of every weight's bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
