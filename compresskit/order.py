"""What can be said about the order of steps from the recipe alone, before any model is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from compresskit.yaml_tree import Node

Complain = Callable[[str, str], None]
"""Takes the key of the option that is wrong, and the sentence."""


class Order:
    """Meets the steps one by one, as they are written, and remembers what they leave behind."""

    def __init__(self) -> None:
        """Nothing has been done yet."""
        self.saved: list[str] = []
        self.outside: set[str] = set()  # saved by steps outside of repeats
        self.exited = False
        self.factored: set[str] = set()
        self.shared = False
        self.uneven = False
        self.cut = False
        self.tuned = False

    def save_name(self, verb: str, options: Mapping[str, Node], rounds: bool) -> str | None:
        """The name that a step saves; the first finetune of a recipe is the teacher unless it says otherwise."""
        if "save_as" in options:
            name = options["save_as"].plain()
            return name if isinstance(name, str) else None
        return "teacher" if verb == "finetune" and not rounds and "teacher" not in self.saved else None

    def meet(self, verb: str, options: Mapping[str, Node], rounds: bool, complain: Complain) -> set[str]:
        """Check one step against those before it.

        Args:
            rounds: whether the step is inside a repeat.

        Returns:
            Keys whose values have been complained about, so that nobody complains again.
        """
        before = {
            "exit": self._exit,
            "prune": self._prune,
            "rewire": self._rewire,
            "share": self._share,
            "factorize": self._factorize,
            "finetune": self._finetune,
        }
        excused = before[verb](options, rounds, complain) if verb in before else set()
        for key in ("distill",) if verb == "distill" else ("teacher",) if verb in ("prune", "rewire") else ():
            self._teacher(key, options, complain)
        if "rewind" in options and options["rewind"].plain() is True and self.factored:
            complain("rewind", "the original has no factors to begin from; take 'rewind' out, or factorize later")
        if "restore" in options and options["restore"].plain() and not rounds:
            complain("restore", "'restore' works only inside a repeat; take it out")
        name = self.save_name(verb, options, rounds)
        if name is not None:
            self._save(name, rounds, complain)
        return excused

    def _exit(self, options: Mapping[str, Node], rounds: bool, complain: Complain) -> set[str]:
        start = options.get("start")
        if self.exited or rounds:
            complain(
                "exit",
                "the model has exits already" if self.exited else "a repeat would put in the exits again; move it out",
            )
        if start and start.plain() == "original" and (self.cut or self.shared or self.factored):
            complain(
                "start",
                "'start: original' would undo the pruning, sharing and factorizing before it; "
                "move this step before them",
            )
        self.exited = True
        return set()

    def _prune(self, options: Mapping[str, Node], rounds: bool, complain: Complain) -> set[str]:
        target = options["prune"].plain()
        self.cut = True
        if target == "word-embeddings" and self.factored & {"embeddings", "word-embeddings"}:
            complain("prune", "the word embeddings are already two factors; prune nothing from them")
            return {"prune"}
        if target == "layers" and rounds:
            complain("prune", "a repeat would cut the listed layers again in each round; move it out")
        if target in ("heads", "neurons") and self.shared:
            complain(
                "prune", f"layers share their weights by now, so one layer's {target} can't go; prune before sharing"
            )
        scope = options.get("scope")
        self.uneven = self.uneven or (scope is not None and scope.plain() == "global")
        return set()

    def _rewire(self, options: Mapping[str, Node], rounds: bool, complain: Complain) -> set[str]:
        if self.shared:
            complain("rewire", "layers share their weights by now, and each has an order of its own; rewire before it")
        self.cut = True  # an original begun from anew would be in its old order
        return set()

    def _share(self, options: Mapping[str, Node], rounds: bool, complain: Complain) -> set[str]:
        if rounds:
            complain("share", "a repeat would share the layers again in each round; move it out")
        elif self.shared:
            complain("share", "layers share their weights already; take one of the two steps out")
        if self.uneven:
            complain(
                "share",
                "a prune with 'scope: global' leaves layers of different sizes, which can't share weights; "
                "share without it, or prune by 'scope: layer'",
            )
        self.shared = True
        return set()

    def _factorize(self, options: Mapping[str, Node], rounds: bool, complain: Complain) -> set[str]:
        target = options["factorize"].plain()
        either = {"embeddings", "word-embeddings"}
        done = next((one for one in self.factored if one in either and "embeddings" in (one, target)), None)
        if done and target in either:
            complain("factorize", f"the {done.replace('-', ' ')} are factorized already; take one of the two steps out")
        elif target == "embeddings" and rounds:
            complain("factorize", "a repeat would begin the embeddings' norm anew in each round; move it out")
        elif target in ("attention", "ffn") and self.shared:
            complain(
                "factorize",
                f"layers share their weights by now, so one layer's {target} can't be split; factorize before sharing",
            )
        self.factored.add(str(target))
        return set()

    def _finetune(self, options: Mapping[str, Node], rounds: bool, complain: Complain) -> set[str]:
        when = options.get("when")
        skips = when is None or when.plain() == "untrained"
        if (self.tuned or rounds) and skips:
            complain("finetune", "the head is trained by now, so this step would be skipped; write 'when: always'")
        elif (self.cut or self.shared or self.factored or self.exited) and skips:
            complain(
                "finetune",
                "a model with a trained head would skip this step, and nothing would mend the steps before it; "
                "write 'when: always', or move this step before them",
            )
        elif "mask" in options and skips:
            complain("mask", "a model with a trained head would skip this step and its mask; write 'when: always'")
        self.tuned = True
        return set()

    def _teacher(self, key: str, options: Mapping[str, Node], complain: Complain) -> None:
        name = options[key].plain() if key in options else None
        if isinstance(name, str) and (unknown := self.unknown(name)):
            complain(key, unknown)

    def unknown(self, name: str) -> str | None:
        """What is wrong with naming this model, or None where an earlier step saves it or it can be a folder."""
        if name in self.saved or Path(name).exists():
            return None
        if name.startswith((".", "/", "~")):
            return f"there is no folder {name}; name one from where compresskit is run"
        if "/" in name:
            return None
        saved = f"saved so far: {', '.join(self.saved)}" if self.saved else "none is saved so far"
        return (
            f"no earlier step saves '{name}' ({saved}); name one that does with 'save_as', or a model folder, from "
            "where compresskit is run"
        )

    def _save(self, name: str, rounds: bool, complain: Complain) -> None:
        # A round may add to what a step before the repeat has saved: then there is a model in the first round too.
        if rounds and name not in self.outside:
            complain("save_as", f"a repeat would save '{name}' again in each round; save it in a step after the repeat")
        elif not rounds and name in self.saved:
            complain("save_as", f"an earlier step saves '{name}' already; choose another name")
        self.saved += [name] if name not in self.saved else []
        self.outside |= set() if rounds else {name}
