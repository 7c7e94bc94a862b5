"""What finetune, exit, prune, share, factorize and distill do to the model. Strategies decide, surgery cuts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Generator

from compresskit.anatomy import Group, groups
from compresskit.banks import features
from compresskit.batches import Collate, Encoded
from compresskit.catalogue import load_catalogue, options_of
from compresskit.checkpoint import Checkpoint, load
from compresskit.edits import (
    AddExits,
    CutHeads,
    CutLayers,
    CutNeurons,
    Edit,
    FactorizeEmbedding,
    FactorizeMatrix,
    OrderUnits,
    ProjectEmbeddings,
    Shape,
    ShareLayers,
)
from compresskit.errors import DataError, PluginError
from compresskit.factoring import matrix, word_embedding
from compresskit.folding import fold
from compresskit.interfaces import Bank, Distiller, Pruner
from compresskit.losses import Losses, banks_of, needs_hidden, of_teacher
from compresskit.model import CompressedForSequenceClassification
from compresskit.plan import Planned
from compresskit.run import Run
from compresskit.scoring import ScoreContext, Scoring
from compresskit.surgery import perform
from compresskit.teachers import Teacher, match_labels
from compresskit.training import Lesson, teach
from compresskit.verbs import ORIGINAL, Distill, Exit, Factorize, Finetune, Loss, Prune, Rewire, Scored, Share, Training


@dataclass
class Workshop:
    """Everything a step may need while a recipe is carried out.

    Args:
        checkpoint: the original, as it was given; never changed.
        model: what the recipe works on.
        rows, collate: the training data, or None where the recipe needs none.
        saved: folders of the models that steps saved, by name, the latest last; rounds of a repeat may add to a name.
        run: device, precision, memory, progress.
        seed: of the recipe.
        scratch: where Trainer checkpoints go.
        logs: where trackers that write files put them, a folder for each step.
        edits: what was done to the model so far, with the number of the step that did it.
        banks: those of the last training, by name.
    """

    fresh: Callable[[], Checkpoint]
    model: CompressedForSequenceClassification
    head_trained: bool
    rows: Encoded | None
    collate: Collate | None
    run: Run
    seed: int
    scratch: Path
    saved: dict[str, list[str]] = field(default_factory=dict)
    teachers: dict[str, Teacher] = field(default_factory=dict)
    logs: Path | None = None
    edits: list[tuple[int, Edit]] = field(default_factory=list)
    banks: dict[str, Bank] = field(default_factory=dict)

    def rewind(self) -> None:
        """Put back the original's weights, cut as the model is by now; exit heads are those that were drawn first."""
        model = self.fresh().model.to(self.run.device)
        for number, edit in self.edits:
            torch.manual_seed(step_seed(self.seed, number))
            perform(edit, model)
        model.set_policy(self.model.config.exit_policy)
        self.model = model

    def data(self) -> tuple[Encoded, Collate]:
        """The training data.

        Raises:
            DataError: there is none.
        """
        if self.rows is None or self.collate is None:
            raise DataError("this recipe trains or scores on data; name it with --data")
        return self.rows, self.collate

    def teacher(self, name: str) -> Teacher:
        """A saved model or a model folder, frozen. Only the last teacher's outputs are kept in memory."""
        folder = self.saved.get(name, [name])[-1]
        if folder not in self.teachers:
            checkpoint = self._load(folder)
            labels = [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]
            columns = match_labels(checkpoint.labels, labels, name)
            self.teachers = {folder: Teacher(checkpoint.model.to(self.run.device).eval(), columns, self.run)}
        return self.teachers[folder]

    def fill_banks(self, names: Sequence[str]) -> Mapping[str, Bank]:
        """What the named models made of the training rows: of a name that was saved several times, all of them.

        A model runs over the rows once, as long as each training that follows names its bank.
        """
        # Loading draws new heads; what is drawn after it must not depend on which banks are in memory already.
        with torch.random.fork_rng(devices=()):
            self.banks = {name: self._bank(name) for name in names}
        return self.banks

    def _bank(self, name: str) -> Bank:
        rows, collate = self.data()
        found = list(self.banks[name].features) if name in self.banks else []
        models = (self._load(folder).model.to(self.run.device) for folder in self.saved.get(name, [name])[len(found) :])
        found += [features(model, rows, collate, self.run) for model in models]
        return Bank(torch.stack(found), rows.labels)

    def _load(self, folder: str) -> Checkpoint:
        return self.fresh() if folder == ORIGINAL else load(folder)


@dataclass(frozen=True)
class Done:
    """What a step did: its edits, in order, and the seconds of training, or of measuring importance, in it."""

    edits: tuple[Edit, ...] = ()
    seconds: float = 0.0
    skipped: bool = False


def carry_out(planned: Planned, number: int, workshop: Workshop) -> Done:
    """Do one planned step to the workshop's model.

    Args:
        planned: what to do.
        number: of the step, from 1; with the recipe's seed it seeds the step's randomness.
        workshop: its model is changed.
    """
    torch.manual_seed(step_seed(workshop.seed, number))
    work = planned.work
    if isinstance(work, Finetune):
        return _finetune(work, number, workshop)
    if isinstance(work, Exit):
        return _exit(work, planned, number, workshop)
    if isinstance(work, Share):
        return _share(work, planned.shape, workshop)
    if isinstance(work, Factorize):
        return _factorize(work, planned.shape, number, workshop)
    if isinstance(work, Distill):
        return _distill(work, planned.iteration, number, workshop)
    return _score(work, planned.shape, number, workshop)


def _finetune(verb: Finetune, number: int, workshop: Workshop) -> Done:
    if workshop.head_trained and verb.when == "untrained":
        if verb.save_as:
            workshop.saved[verb.save_as] = [ORIGINAL]
        return Done(skipped=True)
    return _train(verb, verb.by or labels_only(), None, verb.learning_rate, number, workshop)


def _distill(verb: Distill, iteration: int, number: int, workshop: Workshop) -> Done:
    rate = verb.learning_rate * (1 + verb.restore) ** iteration
    return _train(verb, verb.by, workshop.teacher(verb.teacher), rate, number, workshop)


def _train(
    verb: Training, losses: Losses, teacher: Teacher | None, rate: float, number: int, workshop: Workshop
) -> Done:
    rows, collate = workshop.data()
    if verb.rewind:
        workshop.rewind()
    model, seed = workshop.model, step_seed(workshop.seed, number)
    before = {layer: model.head_weights(layer) for layer in model.exit_layers}
    logs = None if workshop.logs is None else workshop.logs / f"{number:02d}-{verb.name}"
    banks = workshop.fill_banks(banks_of(losses))
    lesson = Lesson(
        model, rows, collate, losses, teacher, verb, rate, seed, workshop.scratch, workshop.run, logs, banks
    )
    seconds, left = teach(lesson)
    # Not every training teaches every head: hidden states teach none, the last exit's answers only the last one.
    model.note_trained(layer for layer, weights in before.items() if not weights.equal(model.head_weights(layer)))
    if left is None:
        return Done(seconds=seconds)
    edits = fold(model, left)
    workshop.run.progress.say(f"the mask leaves {_counts(model)}")
    return Done(edits, seconds)


def _counts(model: CompressedForSequenceClassification) -> str:
    """`18 heads and 144 neurons in 6 layers, hidden states of 351`."""
    layers = model.shape.layers
    heads, neurons = sum(layer.heads for layer in layers), sum(layer.neurons for layer in layers)
    rank = "" if model.shape.rank is None else f", a word embedding of rank {model.shape.rank}"
    return (
        f"{heads:,} heads and {neurons:,} neurons in {len(layers)} layers, hidden states of {model.hidden_size}{rank}"
    )


def _exit(verb: Exit, planned: Planned, number: int, workshop: Workshop) -> Done:
    if verb.start == "original":
        workshop.model = workshop.fresh().model.to(workshop.run.device)
        torch.manual_seed(step_seed(workshop.seed, number))  # loading seeds the head that it draws by itself
    assert planned.shape.head is not None
    edit = AddExits(planned.shape.exits, planned.shape.head, verb.pooler == "keep")
    perform(edit, workshop.model)
    options = options_of(type(verb.by)).dump_python(verb.by, mode="json")
    origin = str(load_catalogue().origin(type(verb.by)))
    workshop.model.set_policy({"by": verb.by.name, "with": options, "from": origin})
    return Done((edit,))


def _share(verb: Share, shape: Shape, workshop: Workshop) -> Done:
    # A shape names no owners where each layer is alone in its group.
    edit = ShareLayers(shape.owners or tuple(range(len(shape.layers))), verb.start)
    perform(edit, workshop.model)
    return Done((edit,))


def _factorize(verb: Factorize, shape: Shape, number: int, workshop: Workshop) -> Done:
    model, context = workshop.model, ScoreContext(_generator(workshop, number), None)
    edits = _splits(verb, shape)
    for edit in edits:
        weight = matrix(model, edit) if isinstance(edit, FactorizeMatrix) else word_embedding(model)
        factors = verb.by.factor(weight, edit.rank, context)
        sizes = [tuple(factor.shape) for factor in factors]
        if sizes != [(weight.shape[0], edit.rank), (edit.rank, weight.shape[1])]:
            raise PluginError(
                f"factorizer '{verb.by.name}' returned {sizes} for rank {edit.rank} of {tuple(weight.shape)}; "
                "correct its factor method"
            )
        perform(edit, model, factors)
    return Done(tuple(edits))


def _splits(verb: Factorize, shape: Shape) -> Sequence[FactorizeEmbedding | FactorizeMatrix | ProjectEmbeddings]:
    """What the step splits, at the ranks that were planned."""
    if verb.target == "embeddings":
        assert shape.embedding is not None
        return [ProjectEmbeddings(shape.embedding)]
    roles = verb.roles
    return [
        split
        for split in shape.factored
        if (split.role in roles if isinstance(split, FactorizeMatrix) else verb.target == "word-embeddings")
    ]


def _score(verbs: Sequence[Scored], shape: Shape, number: int, workshop: Workshop) -> Done:
    """Score every group first, then cut or rewire, so that one pass of gradients serves heads and neurons."""
    began, model = time.perf_counter(), workshop.model
    context = _context(verbs, number, workshop)
    edits: list[Edit] = []
    for verb in verbs:
        if isinstance(verb, Rewire):
            edits += _orders(verb, context, model)
        elif isinstance(verb, Prune) and isinstance(verb.keep, tuple):
            edits.append(CutLayers(tuple(layer - 1 for layer in verb.keep)))
        elif isinstance(verb, Prune):
            edits += _cuts(verb, shape, context, model)
    for edit in edits:
        perform(edit, model)
    return Done(tuple(edits), time.perf_counter() - began if _look_at_data(verbs) else 0.0)


def _look_at_data(verbs: Sequence[Scored]) -> bool:
    return any(strategy.needs_data for verb in verbs for strategy in verb.strategies() if isinstance(strategy, Pruner))


def _orders(verb: Rewire, context: ScoreContext, model: CompressedForSequenceClassification) -> list[Edit]:
    found = [group for group in groups(model.anatomy, model.network, verb.target) if group.units]
    scores = [_scores(verb.by, group, context) for group in found]
    return [
        OrderUnits(verb.target, group.layer, tuple(torch.sort(own, descending=True, stable=True).indices.tolist()))
        for group, own in zip(found, scores, strict=True)
    ]


def _cuts(verb: Prune, shape: Shape, context: ScoreContext, model: CompressedForSequenceClassification) -> list[Edit]:
    assert verb.by is not None and verb.target != "layers"
    kind: Callable[[int, tuple[int, ...]], Edit] = CutHeads if verb.target == "heads" else CutNeurons
    found = [group for group in groups(model.anatomy, model.network, verb.target) if group.units]
    places = [getattr(layer, verb.target) for layer in shape.layers]
    if verb.scope == "global":
        competing = found if sum(places) < sum(group.units for group in found) else []
        kept = best_of_all([_scores(verb.by, group, context) for group in competing], sum(places), verb.least)
    else:
        competing = [group for group in found if places[group.layer] < group.units]
        kept = [best(_scores(verb.by, group, context), places[group.layer]) for group in competing]
    cuts = zip(competing, kept, strict=True)
    return [kind(group.layer, keep) for group, keep in cuts if len(keep) < group.units]


def _scores(pruner: Pruner, group: Group, context: ScoreContext) -> torch.Tensor:
    scores, where = pruner.score(group, context), f"{group.target} of layer {group.layer + 1}"
    if scores.shape != (group.units,):
        raise PluginError(
            f"pruner '{pruner.name}' must return one score for each of the {group.units} {where}, "
            f"not a tensor of shape {tuple(scores.shape)}; correct its score method"
        )
    if not bool(torch.isfinite(scores).all()):
        raise PluginError(
            f"pruner '{pruner.name}' gave the {where} a score that is NaN or infinite; "
            "see whether the training before it diverged, and lower its learning rate"
        )
    return scores.detach().cpu()


def best(scores: torch.Tensor, keep: int) -> tuple[int, ...]:
    """Positions of the `keep` highest scores, ascending; of equal scores the earlier stays."""
    order = torch.sort(scores, descending=True, stable=True).indices[:keep]
    return tuple(sorted(order.tolist()))


def best_of_all(scores: Sequence[torch.Tensor], keep: int, least: int) -> list[tuple[int, ...]]:
    """For each layer the positions of its `least` highest scores and of those among the `keep` highest of all layers.

    Of equal scores the earlier stays.
    """
    if not scores:
        return []
    # What a layer keeps in any case stands before everything that competes.
    safe = [torch.zeros_like(some).index_fill(0, torch.tensor(best(some, least)), 1.0) for some in scores]
    order = torch.sort(torch.cat(list(scores)), descending=True, stable=True).indices
    order = order[torch.sort(torch.cat(safe)[order], descending=True, stable=True).indices][:keep]
    kept, start = [], 0
    for some in scores:
        here = order[(order >= start) & (order < start + len(some))] - start
        kept.append(tuple(sorted(here.tolist())))
        start += len(some)
    return kept


def _context(verbs: Sequence[Scored], number: int, workshop: Workshop) -> ScoreContext:
    """What the verbs' pruners share; the verbs have the same loss."""
    generator, verb = _generator(workshop, number), verbs[0]
    if not _look_at_data(verbs):
        return ScoreContext(generator, None)
    rows, collate = workshop.data()
    losses = verb.loss or labels_only()
    teacher = workshop.teacher(verb.teacher) if verb.teacher else None
    if teacher is not None:
        teacher.study(rows, collate, needs_hidden(of_teacher(losses)))
    model = workshop.model
    exits = model.exit_layers if verb.exits == "all" else (model.depth,)
    # It scales the gradients of a whole layer, which layers that compete must not be.
    competing = isinstance(verb, Prune) and verb.scope == "global"
    equilibrium = verb.gradient_equilibrium and len(exits) > 1 and not competing
    scoring = Scoring(
        model,
        rows,
        collate,
        losses,
        teacher,
        verb.portion,
        verb.batch_size,
        exits,
        equilibrium,
        workshop.run,
        generator,
    )
    return ScoreContext(generator, scoring)


def labels_only() -> Losses:
    """What finetune minimises."""
    distiller = load_catalogue().strategy("distiller", "labels")
    return {"labels": Loss(cast(Distiller, distiller()))}


def step_seed(seed: int, number: int) -> int:
    """A seed for a step that shares nothing with its neighbours' or with another recipe seed's, as a sum would."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


def _generator(workshop: Workshop, number: int) -> Generator:
    return Generator().manual_seed(step_seed(workshop.seed, number))
