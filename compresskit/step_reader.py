"""Steps of a recipe -> verbs, with their strategies built. Gathers mistakes instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import ValidationError

from compresskit.catalogue import Catalogue, try_build
from compresskit.errors import RecipeError
from compresskit.interfaces import Distiller, Strategy
from compresskit.order import Order
from compresskit.verbs import ORIGINAL, VERBS, Factorize, Finetune, Loss, Prune, Repeat, Scored, Verb
from compresskit.wording import complaint, did_you_mean, nearest, option, show
from compresskit.yaml_tree import Mistakes, Node, Where

Options: TypeAlias = Mapping[str, Node]


class StepReader:
    """Finds each step's verb and has it read."""

    def __init__(self, catalogue: Catalogue, mistakes: Mistakes) -> None:
        self.catalogue = catalogue
        self.mistakes = mistakes
        self.order = Order()

    def steps(self, nodes: Sequence[Node], path: str, rounds: bool) -> tuple[Verb, ...]:
        """The verbs of the steps that could be read.

        Args:
            path: `steps`, or `steps[3].steps` inside a repeat.
            rounds: whether they are inside a repeat.
        """
        found = [self._step(node, f"{path}[{index}]", rounds) for index, node in enumerate(nodes)]
        return tuple(step for step in found if step is not None)

    def strategy(self, kind: str, name: str, given: Node | None, where: Where, label: str) -> Strategy | None:
        """Look up a strategy and build it with the options given; None where there was a mistake."""
        try:
            found = self.catalogue.strategy(kind, name)
        except RecipeError as error:
            near = nearest(name, self.catalogue.names(kind))
            self.mistakes.add(where, f"{label}: {error}{'' if near else '; if a plugin has it, install that plugin'}")
            return None
        options = {} if given is None or given.value is None else given.plain()
        if not isinstance(options, dict):
            text = f"{label}: 'with' must be a mapping of {name}'s options, not {show(options)}"
            self.mistakes.add(given.where if given else where, text)
            return None
        built, wrong = try_build(found, options)
        for path, text in wrong:
            self.mistakes.add(given.at(path).where if given else where, f"{label}: {text}")
        return built

    def _step(self, node: Node, place: str, rounds: bool) -> Verb | None:
        verb = self._verb(node, place)
        if verb is None:
            return None
        assert isinstance(node.value, dict)
        label = f"{place} {verb}"
        options = self._nested(node.value, label) if verb == "finetune" else node.value
        if options is None:
            return None
        return _Step(self, VERBS[verb], node, options, label, rounds).read()

    def _verb(self, node: Node, place: str) -> str | None:
        keys = list(node.value) if isinstance(node.value, dict) else []
        verbs = [key for key in keys if key in VERBS]
        if len(verbs) == 1:
            return verbs[0]
        if verbs:
            said = " and ".join(f"'{verb}'" for verb in verbs)
            self.mistakes.add(node.where, f"{place}: two verbs, {said}; make them separate steps")
            return None
        known = {key for verb in VERBS.values() for key in verb.options()} | {"with"}
        for key in keys:
            if key not in known and (meant := nearest(key, VERBS)):
                self.mistakes.add(node.at((key,)).where, f"{place}: unknown verb '{key}' (did you mean '{meant}'?)")
                return None
        self.mistakes.add(node.where, f"{place}: no verb; a step is a mapping with one of {', '.join(VERBS)}")
        return None

    def _nested(self, step: dict[str, Node], label: str) -> Options | None:
        for key, node in step.items():
            if key != "finetune":
                self.mistakes.add(node.where, f"{label}: '{key}' belongs inside 'finetune: {{...}}'")
        inner = step["finetune"].value
        if inner is None:
            return {}
        if isinstance(inner, dict):
            return inner
        text = f"{label}: its options are a mapping such as {{epochs: 3}}, not {show(step['finetune'].plain())}"
        self.mistakes.add(step["finetune"].where, text)
        return None


class _Step:
    """Reads one step once its verb is known.

    `excused` are the options that have been complained about, which pydantic would only find missing or wrong again.
    """

    def __init__(
        self, reader: StepReader, verb: type[Verb], node: Node, options: Options, label: str, rounds: bool
    ) -> None:
        self.reader = reader
        self.verb = verb
        self.node = node
        self.given = options
        self.label = label
        self.rounds = rounds
        self.excused: set[str] = set()

    def read(self) -> Verb | None:
        known = [*self.verb.options(), *(["with"] if self.verb.slots else [])]
        if self.verb is Prune and self.given["prune"].plain() == "layers":
            known = ["prune", "keep"]
        self._unknown(known)
        values = {key: self._value(key, node) for key, node in self.given.items() if key in known and key != "with"}
        order = self.reader.order
        if "save_as" in known and "save_as" not in values:
            values["save_as"] = order.save_name(self.verb.name, self.given, self.rounds)
        if self.verb is not Repeat:
            self.excused |= order.meet(self.verb.name, self.given, self.rounds, self._at)
        values = {key: value for key, value in values.items() if key not in self.excused}
        if "loss" not in self.excused:
            values |= self._default_loss(values)
        return self._build(values)

    def _say(self, where: Where, text: str) -> None:
        self.reader.mistakes.add(where, f"{self.label}: {text}")

    def _at(self, key: str, text: str) -> None:
        self._say(self.given[key].where if key in self.given else self.node.where, text)

    def _unknown(self, known: Sequence[str]) -> None:
        for key in self.given:
            if key in known:
                continue
            if key in (*self.verb.options(), "with"):
                self._at(key, f"'{key}' means nothing for layers; give only 'keep', the list of those that stay")
                continue
            meant = nearest(key, known)
            self.excused |= {meant} if meant else set()
            self._at(key, f"unknown option '{key}'{did_you_mean(key, known)}")

    def _value(self, key: str, node: Node) -> Any:
        """The value for the verb; None and excused where it is wrong already."""
        value: Any = node.plain()
        if key in self.verb.slots:
            value = self._strategy(key, node)
        elif key in self.verb.parts:
            value = self._part(key, node)
        elif key in self.verb.losses:
            value = _Losses(self.reader, self.label, self.verb).read(node, self.given)
        elif key == "steps":
            value = self._rounds(node)
        else:
            return value
        if value is None:
            self.excused.add(key)
        return value

    def _strategy(self, key: str, node: Node) -> Strategy | None:
        if isinstance(node.value, str):
            return self.reader.strategy(
                self.verb.slots[key], node.value, self.given.get("with"), node.where, self.label
            )
        self._say(node.where, f"'{key}' must be the name of a strategy, not {show(node.plain())}")
        return None

    def _part(self, key: str, node: Node) -> Strategy | None:
        """A name, or a name with its options below it."""
        named = node.value
        if isinstance(named, dict) and len(named) == 1:
            ((name, given),) = named.items()
            return self.reader.strategy(self.verb.parts[key], name, given, given.where, self.label)
        if isinstance(named, str):
            return self.reader.strategy(self.verb.parts[key], named, None, node.where, self.label)
        text = f"'{key}' must be a name, or one name with its options below it, not {show(node.plain())}"
        self._say(node.where, text)
        return None

    def _rounds(self, node: Node) -> tuple[Verb, ...] | None:
        if self.rounds:
            self._say(node.where, "a repeat inside a repeat; write the steps out instead")
            return None
        if not isinstance(node.value, list) or not node.value:
            self._say(node.where, f"'steps' must be a list of at least one step, not {show(node.plain())}")
            return None
        steps = self.reader.steps(node.value, f"{self.label.split()[0]}.steps", rounds=True)
        if any(getattr(step, "rewind", False) for step in steps) and any(isinstance(step, Factorize) for step in steps):
            self._say(
                node.where, "a rewind in the next round would undo the factorize; take one of them out of the repeat"
            )
        return steps

    def _default_loss(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The labels, for a pruner that looks at data and isn't told what to look for."""
        by = values.get("by")
        if not issubclass(self.verb, Scored) or by is None or values.get("loss") or not by.needs_data:
            return {}
        if values.get("teacher") is not None:
            self._at("teacher", "a teacher but no loss; say what is learned from it, such as 'loss: predictions'")
            return {}
        labels = self.reader.strategy("distiller", "labels", None, self.node.where, self.label)
        return {"loss": {"labels": Loss(labels)}} if isinstance(labels, Distiller) else {}

    def _build(self, values: Mapping[str, Any]) -> Verb | None:
        try:
            return self.verb.model_validate({**values, "line": self.node.where.line, "label": self.label})
        except ValidationError as error:
            for found in error.errors():
                if found["loc"][0] not in self.excused:
                    self._wrong(
                        str(found["loc"][0]), found["loc"], complaint(found), missing=found["type"] == "missing"
                    )
        return None

    def _wrong(self, key: str, path: tuple[int | str, ...], text: str, *, missing: bool) -> None:
        if missing and key in self.verb.slots:
            text += f" (known: {', '.join(self.reader.catalogue.names(self.verb.slots[key]))})"
        place = self.node if missing else Node(dict(self.given), self.node.where).at(path)
        self._say(place.where, f"'{option(path)}' {text}")


class _Losses:
    """Reads `by: labels`, `by: [hidden-states, predictions]` and `by: {predictions: {weight: 0.5, with: {...}}}`.

    Args:
        verb: prune has a teacher where it names one, distill always has one, and finetune never.
    """

    def __init__(self, reader: StepReader, label: str, verb: type[Verb]) -> None:
        self.reader = reader
        self.label = label
        self.verb = verb

    def read(self, node: Node, given: Options) -> dict[str, Loss] | None:
        entries = self._entries(node)
        if entries is None:
            self._say(node.where, "losses are a name, a list of names, or a mapping of names to weights")
            return None
        losses: dict[str, Loss] = {}
        right = True
        for name, entry, where in entries:
            if name in losses:
                self._say(where, f"the loss '{name}' is listed twice")
            loss = self._loss(name, entry, where)
            right = right and loss is not None and name not in losses
            if loss is not None:
                losses[name] = loss
        if right:
            self._check(losses, node, given)
        return losses if right else None

    def _say(self, where: Where, text: str) -> None:
        self.reader.mistakes.add(where, f"{self.label}: {text}")

    def _entries(self, node: Node) -> list[tuple[str, Node | None, Where]] | None:
        if isinstance(node.value, dict) and node.value:
            return [(name, entry, entry.where) for name, entry in node.value.items()]
        items = node.value if isinstance(node.value, list) else [node]
        if not items or not all(isinstance(item.value, str) for item in items):
            return None
        return [(str(item.value), None, item.where) for item in items]

    def _check(self, losses: Mapping[str, Loss], node: Node, given: Options) -> None:
        if all(loss.after > 0 for loss in losses.values()):
            self._say(node.where, "no loss is on at the start; leave 'after' out of one of them")
        named = "teacher" in given and given["teacher"].value is not None
        for name, loss in losses.items():
            where = node.at((name,)).where
            if issubclass(self.verb, Scored) and loss.after > 0:
                self._say(where, f"{name}: 'after' means nothing here, as pruning trains nothing; take it out")
            if issubclass(self.verb, Scored) and loss.distiller.needs_teacher and not named:
                self._say(where, f"the loss '{name}' needs a teacher; add 'teacher: NAME'")
            if issubclass(self.verb, Scored) and loss.distiller.projects:
                self._say(
                    where, f"the loss '{name}' trains a projection along, and pruning trains nothing; take it out"
                )
            if self.verb is Finetune and loss.distiller.needs_teacher:
                self._say(where, f"the loss '{name}' needs a teacher, and finetune has none; use 'distill: TEACHER'")

    def _loss(self, name: str, entry: Node | None, where: Where) -> Loss | None:
        parts: Options = {} if entry is None else {"weight": entry}
        if entry is not None and isinstance(entry.value, dict):
            parts = entry.value
        known = ("weight", "after", "banks", "with")
        for key, node in parts.items():
            if key not in known:
                self._say(node.where, f"{name}: unknown option '{key}'{did_you_mean(key, known)}")
        weight = self._number(name, "weight", parts, 1.0)
        after = self._number(name, "after", parts, 0.0)
        built = self.reader.strategy("distiller", name, parts.get("with"), where, self.label)
        if not isinstance(built, Distiller) or weight is None or after is None or not set(parts) <= set(known):
            return None
        banks = self._banks(name, built, parts.get("banks"), where)
        return None if banks is None else Loss(built, weight, after, banks)

    def _banks(self, name: str, distiller: Distiller, node: Node | None, where: Where) -> tuple[str, ...] | None:
        """The banks named, or None where there is a mistake in them."""
        if issubclass(self.verb, Scored) and distiller.needs_banks:
            self._say(where, f"the loss '{name}' looks at banks, which only training has; take it out")
            return None
        if node is None and distiller.needs_banks:
            self._say(where, f"the loss '{name}' needs banks; name the models in them, such as 'banks: [original]'")
            return None
        if node is None:
            return ()
        if not distiller.needs_banks:
            self._say(node.where, f"{name}: 'banks' means nothing here, as this loss looks at none; take it out")
            return None
        names = node.plain()
        listed = names if isinstance(names, list) else []
        if not listed or not all(isinstance(bank, str) for bank in listed) or len(set(listed)) < len(listed):
            text = f"{name}: 'banks' must be a list of different names, such as [original], not {show(names)}"
            self._say(node.where, text)
            return None
        found = tuple(str(bank) for bank in listed)
        wrong = [self.reader.order.unknown(bank) for bank in found if bank != ORIGINAL]
        for text in filter(None, wrong):
            self._say(node.where, f"{name}: {text}, or 'original'")
        return None if any(wrong) else found

    def _number(self, name: str, key: str, parts: Options, default: float) -> float | None:
        if key not in parts:
            return default
        value = parts[key].value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if key == "weight" and 0 < value < float("inf"):
                return float(value)
            if key == "after" and 0 <= value < 1:
                return float(value)
        limits = "a number more than 0" if key == "weight" else "a fraction from 0 to below 1"
        self._say(parts[key].where, f"{name}: '{key}' must be {limits}, not {show(parts[key].plain())}")
        return None
