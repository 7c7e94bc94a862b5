"""A recipe resolved against one model: fractions become counts, and costs are foreseen. Needs no weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import TypeAlias

from compresskit.anatomy import UnitTarget
from compresskit.checkpoint import Original
from compresskit.cost import CONVENTIONS, flops, matrix_sizes, narrowed, parameters, sizes_of
from compresskit.edits import CutLayers, FactorizeMatrix, Shape, ShareLayers
from compresskit.errors import RecipeError
from compresskit.interfaces import Masker
from compresskit.mismatches import compared, mismatches
from compresskit.recipe import Recipe
from compresskit.schedules import by_ratios, spread, towards
from compresskit.verbs import Amount, Distill, Exit, Factorize, Finetune, Prune, Repeat, Scored, Share, Training, Verb
from compresskit.yaml_tree import Mistakes, Where

Work: TypeAlias = "Finetune | Exit | Share | Factorize | Distill | tuple[Scored, ...]"


@dataclass(frozen=True)
class Planned:
    """One piece of work: done as a whole, committed as a whole.

    Args:
        work: the verb; neighbouring prunes are one piece, because they share one pass of scores.
        shape: of the model once it is done.
        iteration: inside a repeat, from 1; else 0.
    """

    work: Work
    shape: Shape
    iteration: int = 0

    @property
    def verbs(self) -> Sequence[Verb]:
        """One, or neighbouring prunes."""
        return self.work if isinstance(self.work, tuple) else (self.work,)

    @property
    def name(self) -> str:
        """`prune`, `distill` ... as in folder names."""
        return type(self.verbs[0]).__name__.lower()

    @property
    def place(self) -> str:
        """Where it stands in the recipe, counted from 0: `4.3` for `steps.4.steps.3`, `1, 2` for two prunes."""
        return ", ".join(".".join(re.findall(r"\d+", verb.label.split()[0])) for verb in self.verbs)


@dataclass(frozen=True)
class Plan:
    """Everything that will be done, and what it will leave.

    Args:
        recipe: what it was made from.
        original: the model it was made for.
        steps: in order; repeats are unrolled.
    """

    recipe: Recipe
    original: Original
    steps: tuple[Planned, ...]

    @property
    def shape(self) -> Shape:
        """The shape that the model will have."""
        return self.steps[-1].shape

    def to_json(self, tokens: int = 128, against: Original | None = None) -> dict[str, object]:
        """Parameters and FLOPs of one example of `tokens` tokens at full depth, before and after, and their ratios.

        Args:
            against: another model to compare with than the one that the plan was made for.
        """
        before, mine = against or self.original, self.original.dims
        counts = {"original": parameters(before.dims, before.shape), "planned": parameters(mine, self.shape)}
        costs = {"original": flops(before.dims, before.shape, tokens), "planned": flops(mine, self.shape, tokens)}
        report: dict[str, object] = {key: {"parameters": counts[key], "flops": costs[key]} for key in counts}
        report["reduction"] = {
            "parameters": counts["original"] / counts["planned"],
            "flops": {name: costs["original"][name] / costs["planned"][name] for name in CONVENTIONS},
        }
        return report


def make_plan(recipe: Recipe, original: Original) -> Plan:
    """Resolve a recipe against a model's config.

    Raises:
        RecipeError: a count is more than there is, nothing would be left, or exits miss the last layer; all at once.
    """
    planner = _Planner(original)
    steps = tuple(planner.plan(recipe.steps))
    if planner.wrong:
        raise RecipeError(planner.wrong.listing(recipe.source))
    return Plan(recipe, original, steps)


class _Planner:
    """Walks the recipe with the shape as it will be."""

    def __init__(self, original: Original) -> None:
        self.original = original
        self.shape = original.shape
        self.saved: dict[str, tuple[Shape, int]] = {}
        self.guessed = ""
        """The masker whose cuts of units are foreseen and not known."""
        self.narrowings = 0
        """Times that a masker may have cut hidden states."""
        self.pace = "linear"
        self.wrong = Mistakes()

    def plan(self, verbs: Sequence[Verb]) -> Iterator[Planned]:
        for piece in _joined(verbs):
            if isinstance(piece, Repeat):
                yield from self._repeat(piece)
            else:
                yield self._one(piece, self.shape, Fraction(1), 0)

    def _repeat(self, repeat: Repeat) -> Iterator[Planned]:
        start, self.pace = self.shape, repeat.pace
        for iteration in range(1, repeat.times + 1):
            for piece in _joined(repeat.steps):
                assert not isinstance(piece, Repeat)
                yield self._one(piece, start, Fraction(iteration, repeat.times), iteration)

    def _one(self, work: Work, start: Shape, way: Fraction, iteration: int) -> Planned:
        """The piece of work, with the shape moved `way` of the distance from `start` to its target."""
        self._compare(work)
        if isinstance(work, tuple):
            for verb in work:
                self._check_shared(verb)
                if isinstance(verb, Prune):
                    self._prune(verb, start, way)
        elif isinstance(work, Share):
            self._share(work)
        elif isinstance(work, Factorize):
            self._factorize(work, start, way)
        elif isinstance(work, Exit):
            self._exit(work)
        elif work.mask is not None:
            self._mask(work, work.mask, iteration)
        if isinstance(work, Training) and work.save_as:
            self.saved[work.save_as] = self.shape, self.narrowings
        return Planned(work, self.shape, iteration)

    def _compare(self, work: Work) -> None:
        """Whether the losses can hold the student against its teacher, where an earlier step saves that."""
        dims = self.original.dims
        for verb in work if isinstance(work, tuple) else (work,):
            teacher = verb.teacher if isinstance(verb, (Distill, Scored)) else None
            shape, _ = self.saved.get(teacher or "", (None, 0))
            for problem in mismatches(verb, dims, self.shape, dims, shape):
                self._mistake(verb, problem)
            for distiller, model in compared(verb):
                if distiller.same_hidden_size and self.saved.get(model, (None, 0))[1] < self.narrowings:
                    self._mistake(
                        verb,
                        f"{distiller.name} can't compare hidden states with those of {model}, as a mask before this "
                        "step may cut some; leave that loss out, or set the mask's option 'hidden' to false",
                    )

    def _check_shared(self, verb: Scored) -> None:
        """A unit of one layer can't go, or change places, where another layer uses its weights."""
        if verb.target != "layers" and self.original.shape.owners:
            self._mistake(
                verb,
                f"{self.original.name} has layers that share weights; {verb.name} {verb.target} before sharing, "
                "or leave it out",
            )

    def _prune(self, prune: Prune, start: Shape, way: Fraction) -> None:
        if prune.target == "layers":
            self._prune_layers(prune)
            return
        target: UnitTarget = prune.target
        if self.guessed:
            self._mistake(
                prune,
                f"how many {target} mask {self.guessed} leaves is not known before; prune before it, or leave one of "
                "the two out",
            )
            return
        before = [getattr(layer, target) for layer in start.layers]
        now = [getattr(layer, target) for layer in self.shape.layers]
        if prune.scope == "global":
            kept = spread(min(self._towards(sum(before), self._total(prune, sum(before)), way), sum(now)), now)
        else:
            goals = [self._count(prune, prune.keep, full, target) if full else 0 for full in before]
            counts = zip(before, goals, now, strict=True)
            kept = [min(self._towards(full, goal, way), here) for full, goal, here in counts]
        layers = (layer.with_units(target, count) for layer, count in zip(self.shape.layers, kept, strict=True))
        self.shape = replace(self.shape, layers=tuple(layers))

    def _total(self, prune: Prune, full: int) -> int:
        """What stays in all layers together."""
        goal = self._count(prune, prune.keep, full, f"{prune.target} of all layers")
        some: list[int] = [count for layer in self.shape.layers if (count := getattr(layer, prune.target))]
        floor_ = sum(min(prune.least, count) for count in some)
        if goal < floor_:
            self._mistake(
                prune,
                f"keep {prune.keep} of {full} {prune.target} leaves less than {prune.least} for each of the "
                f"{len(some)} layers; keep at least {floor_}",
            )
        return max(goal, floor_)

    def _prune_layers(self, prune: Prune) -> None:
        keep = prune.keep
        depth = len(self.shape.layers)
        assert isinstance(keep, tuple)
        if keep[-1] > depth:
            self._mistake(prune, f"keep {keep[-1]} is not one of the {depth} layers; give numbers from 1 to {depth}")
            return
        self.shape = self.shape.after(CutLayers(tuple(number - 1 for number in keep)))

    def _share(self, share: Share) -> None:
        depth = len(self.shape.layers)
        if self.original.shape.owners:
            given = self.original.name
            self._mistake(
                share, f"{given} has layers that share weights; leave this step out, or give --model its original"
            )
            return
        if self.guessed:
            self._mistake(
                share,
                f"mask {self.guessed} leaves layers of different sizes, which can't share weights; leave one of the "
                "two out",
            )
            return
        if depth % share.groups:
            fits = [str(groups) for groups in range(1, depth + 1) if depth % groups == 0]
            self._mistake(
                share, f"{depth} layers can't be split into {share.groups} equal groups; choose {' or '.join(fits)}"
            )
            return
        size = depth // share.groups
        for first in range(0, depth, size):
            if len(set(self.shape.layers[first : first + size])) > 1:
                self._mistake(
                    share,
                    f"layers {first + 1} to {first + size} have different sizes and can't share weights; "
                    "share before pruning, or keep equal numbers",
                )
        owners = tuple(layer - layer % size for layer in range(depth))
        self.shape = self.shape.after(ShareLayers(owners, share.start))

    def _factorize(self, factorize: Factorize, start: Shape, way: Fraction) -> None:
        if factorize.roles:
            self._factorize_layers(factorize, start, way)
            return
        full, given = self.original.dims.embedding, self.original.shape
        if factorize.target == "embeddings" and self.original.dims.particulars is not None:
            self._mistake(
                factorize,
                f"the embeddings of {self.original.anatomy.model_type} models can't be projected; "
                "factorize word-embeddings instead, or leave it out",
            )
            return
        if given.embedding is not None or (given.rank is not None and factorize.target == "embeddings"):
            self._mistake(
                factorize,
                f"{self.original.name} has factorized embeddings; leave this step out, or give --model its original",
            )
            return
        goal = self._count(factorize, factorize.rank, full, "dimensions of the word embedding")
        if start.rank and goal > start.rank:
            self._mistake(
                factorize,
                f"rank {goal} is more than the word embedding's {start.rank} by now; rank at most {start.rank}",
            )
        if factorize.target == "embeddings":
            self.shape = replace(self.shape, embedding=goal)
        else:
            self.shape = replace(self.shape, rank=self._towards(start.rank or full, goal, way))

    def _factorize_layers(self, factorize: Factorize, start: Shape, way: Fraction) -> None:
        if self.original.shape.owners:
            given = self.original.name
            self._mistake(
                factorize,
                f"{given} has layers that share weights; factorize {factorize.target} before sharing, or leave it out",
            )
            return
        if self.guessed or self.narrowings:
            self._mistake(
                factorize,
                f"how large a mask before it leaves the {factorize.target} is not known; factorize before it, or leave "
                "one of the two out",
            )
            return
        was, now = narrowed(self.original.dims, start), narrowed(self.original.dims, self.shape)
        for index, role in ((index, role) for index in range(len(self.shape.layers)) for role in factorize.roles):
            before, layer = start.layers[index], self.shape.layers[index]
            full, most = min(matrix_sizes(was, before)[role]), min(matrix_sizes(now, layer)[role])
            if not most:
                continue  # there is no attention, or no FFN, in this layer
            wrong, what = len(self.wrong), f"{role} of layer {index + 1}"
            rank = before.rank(role) or full
            goal = self._count(factorize, factorize.rank, full, f"dimensions of {what}")
            if goal > rank:
                self._mistake(factorize, f"rank {goal} is more than the {rank} of {what} by now; rank at most {rank}")
            if len(self.wrong) > wrong:
                return  # the next layer's would say the same
            layers = list(self.shape.layers)
            layers[index] = layer.with_rank(role, min(self._towards(rank, goal, way), most))
            self.shape = replace(self.shape, layers=tuple(layers))

    def _exit(self, exit_: Exit) -> None:
        if self.original.shape.exits:
            given = self.original.name
            self._mistake(exit_, f"{given} has exits already; leave this step out, or give --model its original")
            return
        depth = len(self.shape.layers)
        layers = tuple(range(1, depth + 1)) if exit_.layers == "all" else exit_.layers
        if layers[-1] > depth:
            self._mistake(
                exit_,
                f"layer {layers[-1]} is not one of the {depth} layers; "
                f"give numbers from 1 to {depth}, {depth} included",
            )
        elif layers[-1] < depth:
            self._mistake(
                exit_,
                f"the last exit is after layer {layers[-1]}, but the model has {depth} layers; add {depth} to the list",
            )
        if exit_.start == "original":
            if self.guessed or self.narrowings:
                self._mistake(exit_, "'start: original' would undo what a mask before it cut; move this step before it")
            self.shape = self.original.shape
        self.shape = replace(self.shape, exits=layers, head=exit_.head, read_out=exit_.pooler == "keep")

    def _mask(self, training: Finetune | Distill, masker: Masker, iteration: int) -> None:
        """What the masker thinks that it will leave."""
        now = self.shape
        if masker.narrows() and self.original.dims.particulars is not None:
            self._mistake(
                training,
                f"mask {masker.name} would cut hidden states, which it can't in {self.original.anatomy.model_type} "
                "models; set the mask's option 'hidden' to false",
            )
            return
        sizes = sizes_of(self.original.dims, now)
        try:
            then = masker.foresee(sizes)
        except ValueError as error:
            self._mistake(training, f"mask {masker.name} {error}")
            return
        units = (then.heads, then.neurons) != (sizes.heads, sizes.neurons)
        pairs = zip(now.factored, then.factored, strict=True)
        ranks = any(isinstance(split, FactorizeMatrix) and split.rank != left.rank for split, left in pairs)
        if now.owners and (units or ranks or masker.narrows()):
            self._mistake(
                training,
                f"mask {masker.name} would cut layers that share their weights; leave the mask or the sharing out",
            )
            return
        if iteration and (then != sizes or masker.narrows()):
            self._mistake(training, f"a repeat would have mask {masker.name} cut again in each round; move it out")
            return
        self.guessed = masker.name if units else self.guessed
        self.narrowings += masker.narrows()
        counts = zip(now.layers, then.heads, then.neurons, strict=True)
        layers = tuple(replace(layer, heads=heads, neurons=neurons) for layer, heads, neurons in counts)
        hidden = now.hidden if then.hidden == sizes.hidden else then.hidden
        self.shape = replace(now, layers=layers, hidden=hidden)
        for split, left in zip(now.factored, then.factored, strict=True):
            self.shape = self.shape.after(replace(split, rank=left.rank))

    def _count(self, verb: Prune | Factorize, amount: Amount | tuple[int, ...], full: int, what: str) -> int:
        """A count, or a fraction of the full count rounded to the nearest."""
        assert isinstance(amount, (int, Fraction))
        option = "rank" if isinstance(verb, Factorize) else "keep"
        if isinstance(amount, Fraction):
            count = floor(amount * full + Fraction(1, 2))
            if count < 1:
                least = "1" if full == 1 else f"1/{full}"
                self._mistake(verb, f"{option} {amount} of {full} {what} leaves none; {option} at least {least}")
            return max(count, 1)
        if amount > full:
            self._mistake(verb, f"{option} {amount} is more than the {full} {what}; {option} at most {full}")
        return min(amount, full)

    def _towards(self, start: int, goal: int, way: Fraction) -> int:
        return towards(start, goal, way) if self.pace == "linear" else by_ratios(start, goal, way)

    def _mistake(self, verb: Verb, message: str) -> None:
        self.wrong.add(Where(verb.line), f"{verb.label}: {message}")


def _joined(verbs: Sequence[Verb]) -> Iterator[Work | Repeat]:
    """Neighbouring prunes of units, or rewirings, as one piece of work."""
    waiting: list[Scored] = []
    for verb in verbs:
        if waiting and not (isinstance(verb, Scored) and all(_share_scores(verb, one) for one in waiting)):
            yield tuple(waiting)
            waiting = []
        if isinstance(verb, Scored):
            waiting.append(verb)
        else:
            assert isinstance(verb, (Finetune, Exit, Share, Factorize, Distill, Repeat))
            yield verb
    if waiting:
        yield tuple(waiting)


def _share_scores(one: Scored, other: Scored) -> bool:
    """Whether two neighbours do the same to different units by the same gradients."""
    if type(one) is not type(other) or "layers" in (one.target, other.target) or one.target == other.target:
        return False
    settings = ("scope", "teacher", "loss", "portion", "batch_size", "exits", "gradient_equilibrium")
    return all(getattr(one, name, None) == getattr(other, name, None) for name in settings)
