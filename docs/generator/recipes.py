"""Pages about recipes: the format, its schema, and the strategies."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from compresskit.catalogue import VERBS as VERB_OF
from compresskit.catalogue import Entry, load_catalogue, options_of
from compresskit.interfaces import KINDS, Distiller, Strategy
from compresskit.recipe import read_recipe
from compresskit.recipe_files import recipes_shipped
from compresskit.schema import json_schema
from compresskit.verbs import VERBS, Distill, Finetune, Training
from generator.parts import default, doc, page, table, words

BUILT_IN = load_catalogue(())

ABOUT = """\
A recipe is a YAML file. `compresskit check RECIPE` finds every mistake in one, with its line and the nearest right
name; `compresskit plan RECIPE --model MODEL` shows what it would make of a model. Editors that know JSON schemas can
use [recipe.schema.json](recipe.schema.json). `--set steps.3.epochs=1` changes a value from the command line: a dotted
path, list items counted from 0, and the value in YAML."""

AMOUNTS = """\
## Amounts

`keep` and `rank` say what *stays*: a count (`2`), or a fraction (`1/6`, `0.5`), rounded to the nearest. A fraction in
`keep` is of the units there are where the step, or the `repeat` around it, begins; one in `rank` is of the full rank.
Inside a `repeat` the target is reached in equal parts, round by round. Neighbouring prunes of heads and neurons that
look at the same loss are scored together, before either cuts."""

LOSSES = """\
## Losses

What a `distill` minimizes (`by`), and what a `prune` takes gradients of (`loss`), is one distiller or several:

```yaml
by: labels                                     # one, with weight 1
by: [hidden-states, predictions]               # the sum of both
by: {predictions: 0.5, labels: 0.5}            # weighed
by:                                            # in full
  predictions: {weight: 0.5, after: 0.5, with: {temperature: 2}}
  labels: 0.5
```

Some distillers hold the student against what other models make of every training row (none of the built-in ones does,
`info-nce` of compresskit-layers does). Recipes name those models as `banks`, and each runs over the rows once:

```yaml
by: {labels: 0.1, info-nce: {weight: 0.3, banks: [original, teacher]}}
```

A step inside a `repeat` may save its model under a name that a step before the repeat has saved. As a teacher the name
stands for the latest of them, as a bank for all."""

STRATEGIES = """\
What recipes name after `by`; its options stand under `with`. `compresskit strategies` lists those of installed plugins
too. [Write a strategy](../tutorial/2-write-a-strategy.md) shows how to add one."""


def schema() -> str:
    """The JSON schema of recipes."""
    return json.dumps(json_schema(BUILT_IN), indent=2) + "\n"


def recipe() -> str:
    """The recipe format, verb by verb."""
    whole = json_schema(BUILT_IN)
    required = set(whole["required"])
    top = [_row(key, value, key in required) for key, value in whole["properties"].items() if key != "steps"]
    top += [["`steps`", "list of steps", "required", "What to do, in order."]]
    steps = whole["properties"]["steps"]["items"]["oneOf"]
    losses = [
        ["`weight`", "number above 0", "`1`", _loss("weight")],
        ["`after`", "number from 0 below 1", "`0`", _loss("after")],
    ]
    losses.append(["`banks`", "list of text", "", _loss("banks")])
    losses.append(["`with`", "mapping", "", "Options of the distiller."])
    return page(
        "Recipes",
        ABOUT,
        table(("key", "value", "default", "meaning"), top),
        "Each step is a mapping with one verb among its keys:",
        *(block for name, step in zip(VERBS, steps, strict=True) for block in _verb(name, step)),
        "## Options of training\n\nThose of `finetune` and `distill`, beside their own.",
        table(("option", "value", "default", "meaning"), _training(steps)),
        AMOUNTS,
        LOSSES,
        table(("option", "value", "default", "meaning"), losses),
        "## Shipped recipes\n\n`compresskit recipes NAME` prints one to start from.",
        table(
            ("name", "about"), ((f"`{name}`", " ".join(read_recipe(name).about.split())) for name in recipes_shipped())
        ),
    )


def strategies() -> str:
    """Every built-in strategy, by kind."""
    result = [STRATEGIES]
    for kind, base in KINDS.items():
        result.append(f"## {base.__name__}: `{VERB_OF[kind]}`\n\n{doc(base).text}")
        mine = [entry for entry in BUILT_IN.entries() if entry.kind == kind]
        result += [block for entry in mine for block in _strategy(entry)]
        if not mine:
            result.append("None is built in. Plugins bring some: `compresskit strategies` lists what is installed.")
    return page("Strategies", *result)


def _verb(name: str, step: Mapping[str, Any]) -> list[str]:
    verb = VERBS[name]
    inner = step["properties"]["finetune"] if verb is Finetune else step
    shared = set(Training.options()) if issubclass(verb, Training) else set()
    shared -= {"epochs", "save_as"} if verb is Finetune else {"epochs"}
    required = set(inner.get("required", []))
    first = (name, "by", "with", "epochs")  # the rest in the order of the code
    order = sorted(inner["properties"], key=lambda key: first.index(key) if key in first else len(first))
    rows = [_row(key, inner["properties"][key], key in required) for key in order if key not in shared]
    blocks = [f"## {name}\n\n{doc(verb).text}"]
    if verb is Finetune:
        blocks.append("Its options stand in a mapping of their own: `finetune: {epochs: 3}`.")
    if shared:
        blocks.append("More options: [those of training](#options-of-training).")
    return [*blocks, table(("option", "value", "default", "meaning"), rows)]


def _training(steps: list[dict[str, Any]]) -> list[list[str]]:
    distill = steps[list(VERBS).index(Distill.name)]
    return [_row(key, distill["properties"][key], key == "epochs") for key in Training.options()]


def _row(key: str, schema: Mapping[str, Any], required: bool) -> list[str]:
    value = "[losses](#losses)" if schema.get("$ref") == "#/$defs/losses" else words(schema)
    value = "[strategy](strategies.md)" if key == "by" and "enum" in schema else value
    value = "list of steps" if key == "steps" else value
    value = "[masker](strategies.md), of a plugin" if key == "mask" else value
    return [f"`{key}`", value, default(schema, required), " ".join(schema["description"].split())]


def _loss(name: str) -> str:
    from compresskit.verbs import Loss

    return doc(Loss).arguments[name]


def _strategy(entry: Entry) -> list[str]:
    assert isinstance(entry.what, type)
    page_ = doc(entry.what)
    schema_ = options_of(entry.what).json_schema()
    required = set(schema_.get("required", []))
    rows = [
        [f"`{name}`", words(value), default(value, name in required), page_.arguments[name]]
        for name, value in schema_["properties"].items()
    ]
    blocks = [f"### {entry.name}", page_.text, _needs(entry.what)]
    return [*blocks, table(("option", "value", "default", "meaning"), rows) if rows else "No options."]


def _needs(strategy: type[Strategy]) -> str:
    needs = ["training data"] if strategy.needs_data else []
    if issubclass(strategy, Distiller):
        needs += ["a teacher"] if strategy.needs_teacher else []
        needs += ["hidden states"] if strategy.needs_hidden else []
        needs += ["banks"] if strategy.needs_banks else []
    where = inspect.getsourcefile(strategy)
    assert where is not None
    file = f"compresskit/strategies/{where.replace(chr(92), '/').rpartition('/')[2]}"
    return f"{'Needs ' + ' and '.join(needs) + '. ' if needs else ''}Source: [`{file}`](../../{file})."
