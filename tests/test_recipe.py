"""Recipes: what they say, what they refuse, and in which words."""

from __future__ import annotations

from fractions import Fraction

import pytest

from compresskit.errors import RecipeError
from compresskit.recipe import needs_data, read_recipe
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.verbs import Distill, Exit, Factorize, Finetune, Prune, Repeat

HEAD = "recipe: 1\nsteps:\n"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a recipe from its text, as half.yaml in the current folder."""
    monkeypatch.chdir(tmp_path)

    def reader(text, *overrides):
        (tmp_path / "half.yaml").write_text(text, encoding="utf-8")
        return read_recipe("half.yaml", overrides)

    return reader


@pytest.fixture
def refused(read):
    """The lines of the message that a recipe is refused with."""

    def refuse(text, *overrides):
        with pytest.raises(RecipeError) as caught:
            read(text, *overrides)
        return str(caught.value)

    return refuse


def one(line, text):
    return f"half.yaml: 1 mistake\n  line {line}: {text}"


def test_every_verb_becomes_a_plain_object(read):
    recipe = read(
        "recipe: 1\nname: all\nabout: everything\nseed: 7\nsteps:\n"
        "  - finetune: {epochs: 3, learning_rate: 2e-5}\n"
        "  - exit: [4, 2]\n"
        "    by: entropy\n"
        "    with: {threshold: 0.3}\n"
        "  - {distill: teacher, by: {predictions: 0.5, labels: {weight: 2, after: 0.5}}, epochs: 1, "
        "save_as: assistant}\n"
        "  - repeat: 2\n"
        "    steps:\n"
        "      - {prune: heads, by: taylor, keep: 1/6, teacher: assistant, loss: [labels, predictions]}\n"
        "      - {factorize: word-embeddings, by: svd, rank: 16}\n"
        "  - {prune: layers, keep: [3, 1]}\n"
    )
    finetune, exits, distill, repeat, layers = recipe.steps
    assert (recipe.name, recipe.about, recipe.seed, recipe.source) == ("all", "everything", 7, "half.yaml")
    assert isinstance(finetune, Finetune)
    assert (finetune.epochs, finetune.learning_rate, finetune.save_as) == (3.0, 2e-5, "teacher")
    assert (finetune.line, finetune.label) == (6, "steps[0] finetune")
    assert isinstance(exits, Exit)
    assert (exits.layers, exits.by.name, exits.by.threshold, exits.head) == ((2, 4), "entropy", 0.3, ClsTanh())
    assert isinstance(distill, Distill)
    assert distill.teacher == "teacher"
    assert {name: (loss.weight, loss.after) for name, loss in distill.by.items()} == {
        "predictions": (0.5, 0.0),
        "labels": (2.0, 0.5),
    }
    assert isinstance(repeat, Repeat)
    assert (repeat.times, len(repeat.steps)) == (2, 2)
    prune, factorize = repeat.steps
    assert isinstance(prune, Prune)
    assert (prune.target, prune.keep, prune.teacher, list(prune.loss)) == (
        "heads",
        Fraction(1, 6),
        "assistant",
        ["labels", "predictions"],
    )
    assert (prune.line, prune.label) == (13, "steps[3].steps[0] prune")
    assert isinstance(factorize, Factorize)
    assert (factorize.target, factorize.rank) == ("word-embeddings", 16)
    assert isinstance(layers, Prune)
    assert (layers.target, layers.keep, layers.by) == ("layers", (1, 3), None)


def test_name_is_the_file_s_and_seed_is_42_by_default(read):
    recipe = read(HEAD + "  - {prune: layers, keep: [1]}\n")
    assert (recipe.name, recipe.about, recipe.seed) == ("half", "", 42)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("3", 3), ("1/6", Fraction(1, 6)), ("0.1", Fraction(1, 10)), ("2/4", Fraction(1, 2)), ("1e-1", Fraction(1, 10))],
)
def test_amounts_are_exact(read, written, meant):
    keep = read(HEAD + f"  - {{prune: heads, by: magnitude, keep: {written}}}\n").steps[0].keep
    assert keep == meant
    assert type(keep) is type(meant)


@pytest.mark.parametrize(
    ("written", "shown"),
    [("0", "0"), ("-1", "-1"), ("1.0", "1.0"), ("7/6", "'7/6'"), ("6/6", "'6/6'"), ("1/0", "'1/0'"), ("true", "true"),
     ("half", "'half'"), (".nan", "nan"), ("[1]", "[1]"), ("", "nothing")],
)  # fmt: skip
def test_amounts_out_of_range(refused, written, shown):
    text = "must be a count from 1 or a fraction between 0 and 1 (such as 0.5 or 1/6), not"
    assert refused(HEAD + f"  - {{prune: heads, by: magnitude, keep: {written}}}\n") == one(
        3, f"steps[0] prune: 'keep' {text} {shown}"
    )
    assert refused(HEAD + f"  - {{factorize: word-embeddings, by: svd, rank: {written}}}\n") == one(
        3, f"steps[0] factorize: 'rank' {text} {shown}"
    )


def test_all_mistakes_at_once_with_lines_and_nearest_names(refused):
    assert refused(
        "recipe: 1\nname: half\nsteps:\n"
        "  - finetune: {epochs: 1}\n"
        "  - prune: heads\n"
        "    kep: 1/2\n"
        "    by: taylor\n"
        "  - prune: neurons\n"
        "    by: tailor\n"
        "    keep: 1/2\n"
    ) == (
        "half.yaml: 2 mistakes\n"
        "  line 6: steps[1] prune: unknown option 'kep' (did you mean 'keep'?)\n"
        "  line 9: steps[2] prune: no way to prune by 'tailor'; did you mean 'taylor'? (known: magnitude, taylor)"
    )


REWIND = "    - finetune: {when: always, epochs: 1, rewind: true}\n"
FACTORIZE = "    - {factorize: word-embeddings, by: svd, rank: 4}\n"


@pytest.mark.parametrize(
    ("step", "line", "text"),
    [
        ("- prun: heads\n", 3, "steps[0]: unknown verb 'prun' (did you mean 'prune'?)"),
        *(
            (
                step,
                3,
                (
                    "steps[0]: no verb; a step is a mapping with one of finetune, exit, prune, rewire, share, "
                    "factorize, distill, repeat"
                ),
            )
            for step in ("- heads: all\n", "- prune\n")
        ),
        (
            "- {prune: heads, exit: all}\n",
            3,
            "steps[0]: two verbs, 'prune' and 'exit'; make them separate steps",
        ),
        ("- finetune: {epochs: 1}\n    epochs: 2\n", 4, "steps[0] finetune: 'epochs' belongs inside 'finetune: {...}'"),
        ("- finetune: 3\n", 3, "steps[0] finetune: its options are a mapping such as {epochs: 3}, not 3"),
        ("- finetune:\n", 3, "steps[0] finetune: 'epochs' is missing"),
        ("- finetune: {epochs: three}\n", 3, "steps[0] finetune: 'epochs' must be a number, not 'three'"),
        ("- finetune: {epochs: 0}\n", 3, "steps[0] finetune: 'epochs' must be more than 0, not 0"),
        ("- finetune: {epochs: .inf}\n", 3, "steps[0] finetune: 'epochs' must be a finite number, not inf"),
        ("- finetune: {epochs: true}\n", 3, "steps[0] finetune: 'epochs' must be a number, not true"),
        (
            "- finetune:\n      epochs: 1\n      batch_size: 2.5\n",
            5,
            "steps[0] finetune: 'batch_size' must be a whole number, not 2.5",
        ),
        ("- finetune: {epochs: 1, warmup: 1}\n", 3, "steps[0] finetune: 'warmup' must be less than 1, not 1"),
        (
            "- finetune: {epochs: 1, gradient_equilibrium: 1}\n",
            3,
            "steps[0] finetune: 'gradient_equilibrium' must be true or false, not 1",
        ),
        ("- finetune: {epochs: 1, save_as: 3}\n", 3, "steps[0] finetune: 'save_as' must be text, not 3"),
        (
            "- finetune: {epochs: 1, schedule: linaer}\n",
            3,
            ("steps[0] finetune: 'schedule' must be 'linear', 'constant' or 'cosine', not 'linaer' "
            "(did you mean 'linear'?)"),
        ),
        ("- finetune: {epochs: 1, line: 3}\n", 3, "steps[0] finetune: unknown option 'line'"),
        (
            "- {prune: head, by: magnitude, keep: 1}\n",
            3,
            "steps[0] prune: 'prune' must be 'heads', 'neurons' or 'layers', not 'head' (did you mean 'heads'?)",
        ),
        ("- {prune: heads, keep: 1/2}\n", 3, "steps[0] prune: 'by' is missing (known: magnitude, taylor)"),
        ("- {prune: heads, by: magnitude}\n", 3, "steps[0] prune: 'keep' is missing"),
        (
            "- {prune: heads, by: [magnitude], keep: 1}\n",
            3,
            "steps[0] prune: 'by' must be the name of a strategy, not ['magnitude']",
        ),
        (
            "- {prune: heads, by: entropy, keep: 1}\n",
            3,
            (
                "steps[0] prune: no way to prune by 'entropy' (known: magnitude, taylor); "
                "if a plugin has it, install that plugin"
            ),
        ),
        (
            "- {prune: layers, by: magnitude, keep: [1]}\n",
            3,
            "steps[0] prune: 'by' means nothing for layers; give only 'keep', the list of those that stay",
        ),
        (
            "- {prune: layers, keep: 2}\n",
            3,
            "steps[0] prune: 'keep' must be a list of different layer numbers, counted from 1, not 2",
        ),
        (
            "- {prune: layers, keep: [2, 2]}\n",
            3,
            "steps[0] prune: 'keep' must be a list of different layer numbers, counted from 1, not [2, 2]",
        ),
        (
            "- prune: heads\n    by: taylor\n    keep: 1\n    with:\n      redaing: paper\n",
            7,
            "steps[0] prune: taylor has no option 'redaing' (did you mean 'reading'?)",
        ),
        (
            "- {prune: heads, by: taylor, keep: 1, with: {reading: papr}}\n",
            3,
            "steps[0] prune: taylor's 'reading' must be 'released' or 'paper', not 'papr' (did you mean 'paper'?)",
        ),
        (
            "- {prune: heads, by: taylor, keep: 1, with: paper}\n",
            3,
            "steps[0] prune: 'with' must be a mapping of taylor's options, not 'paper'",
        ),
        (
            "- {prune: heads, by: magnitude, keep: 1, least: 2}\n",
            3,
            "steps[0] prune: 'least' means nothing without 'scope: global'; add that",
        ),
        (
            "- {exit: all, by: entropy, with: {threshold: 0.3}, head: cls-tan}\n",
            3,
            "steps[0] exit: no way to read an exit by 'cls-tan'; did you mean 'cls-tanh'? (known: cls-tanh, mean-tanh)",
        ),
        (
            "- {exit: all, by: entropy, with: {threshold: 0.3}, head: {cls-tanh: {width: 3}}}\n",
            3,
            "steps[0] exit: cls-tanh has no option 'width'",
        ),
        (
            "- {exit: all, by: entropy, with: {threshold: 0.3}, head: [cls-tanh]}\n",
            3,
            "steps[0] exit: 'head' must be a name, or one name with its options below it, not ['cls-tanh']",
        ),
        (
            "- finetune: {epochs: 1, by: predictions}\n",
            3,
            "steps[0] finetune: the loss 'predictions' needs a teacher, and finetune has none; use 'distill: TEACHER'",
        ),
        (
            f"- repeat: 2\n    steps:\n{REWIND}{FACTORIZE}",
            4,
            "steps[0] repeat: a rewind in the next round would undo the factorize; take one of them out of the repeat",
        ),
        (
            "- {factorize: word-embeddings, by: svd, rank: 4}\n  - finetune: {when: always, epochs: 1, rewind: true}\n",
            4,
            "steps[1] finetune: the original has no factors to begin from; take 'rewind' out, or factorize later",
        ),
        ("- {exit: all, by: entropy}\n", 3, "steps[0] exit: entropy's 'threshold' is missing"),
        (
            "- exit: all\n    by: entropy\n    with:\n      threshold: -0.1\n",
            6,
            "steps[0] exit: entropy's 'threshold' must be at least 0, not -0.1",
        ),
        (
            "- {exit: 3, by: entropy, with: {threshold: 0.3}}\n",
            3,
            "steps[0] exit: 'exit' must be 'all' or a list of layer numbers such as [2, 4, 6], not 3",
        ),
        (
            "- {exit: [0, 2], by: entropy, with: {threshold: 0.3}}\n",
            3,
            "steps[0] exit: 'exit' must be a list of different layer numbers, counted from 1, not [0, 2]",
        ),
        (
            "- {distill: a/folder, by: {predictions: {wieght: 2}}, epochs: 1}\n",
            3,
            "steps[0] distill: predictions: unknown option 'wieght' (did you mean 'weight'?)",
        ),
        (
            "- {distill: a/folder, by: {predictions: 0}, epochs: 1}\n",
            3,
            "steps[0] distill: predictions: 'weight' must be a number more than 0, not 0",
        ),
        (
            "- {distill: a/folder, by: {predictions: 1, labels: {after: 1}}, epochs: 1}\n",
            3,
            "steps[0] distill: labels: 'after' must be a fraction from 0 to below 1, not 1",
        ),
        (
            "- {distill: a/folder, by: {predictions: {after: 0.5}}, epochs: 1}\n",
            3,
            "steps[0] distill: no loss is on at the start; leave 'after' out of one of them",
        ),
        (
            "- {distill: a/folder, by: [labels, labels], epochs: 1}\n",
            3,
            "steps[0] distill: the loss 'labels' is listed twice",
        ),
        (
            "- {distill: a/folder, by: 3, epochs: 1}\n",
            3,
            "steps[0] distill: losses are a name, a list of names, or a mapping of names to weights",
        ),
        (
            "- {distill: a/folder, by: logits, epochs: 1}\n",
            3,
            (
                "steps[0] distill: no way to distill by 'logits' (known: hidden-states, labels, predictions); "
                "if a plugin has it, install that plugin"
            ),
        ),
        (
            "- {distill: a/folder, by: {}, epochs: 1}\n",
            3,
            "steps[0] distill: losses are a name, a list of names, or a mapping of names to weights",
        ),
        ("- {distill: a/folder, epochs: 1}\n", 3, "steps[0] distill: 'by' is missing"),
        (
            "- {prune: heads, by: taylor, keep: 1, loss: predictions}\n",
            3,
            "steps[0] prune: the loss 'predictions' needs a teacher; add 'teacher: NAME'",
        ),
        (
            "- {prune: heads, by: taylor, keep: 1, teacher: a/folder}\n",
            3,
            "steps[0] prune: a teacher but no loss; say what is learned from it, such as 'loss: predictions'",
        ),
        (
            "- {prune: heads, by: taylor, keep: 1, loss: {labels: {after: 0.5}, hidden-states: 1}, teacher: a/b}\n",
            3,
            "steps[0] prune: labels: 'after' means nothing here, as pruning trains nothing; take it out",
        ),
        ("- {repeat: 0, steps: [{prune: heads, by: magnitude, keep: 1}]}\n", 3,
         "steps[0] repeat: 'repeat' must be at least 1, not 0"),
        ("- {share: heads}\n", 3, "steps[0] share: 'share' must be 'layers', not 'heads'"),
        ("- {share: layers, groups: 0}\n", 3, "steps[0] share: 'groups' must be at least 1, not 0"),
        ("- {share: layers, group: 2}\n", 3, "steps[0] share: unknown option 'group' (did you mean 'groups'?)"),
        (
            "- {share: layers, start: last}\n",
            3,
            "steps[0] share: 'start' must be 'mean' or 'first', not 'last'",
        ),
        ("- repeat: 2\n", 3, "steps[0] repeat: 'steps' is missing"),
        (
            "- {repeat: 2, steps: []}\n",
            3,
            "steps[0] repeat: 'steps' must be a list of at least one step, not []",
        ),
        (
            "- repeat: 2\n    steps:\n      - repeat: 3\n        steps: [{prune: heads, by: magnitude, keep: 1}]\n",
            6,
            "steps[0].steps[0] repeat: a repeat inside a repeat; write the steps out instead",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_a_step(refused, step, line, text):
    assert refused(HEAD + "  " + step) == one(line, text)


FACTORIZE = "  - {factorize: word-embeddings, by: svd, rank: 1/2}\n"
PROJECT = "  - {factorize: embeddings, by: svd, rank: 1/2}\n"
SHARE = "  - {share: layers}\n"
EXIT = "  - {exit: all, by: entropy, with: {threshold: 0.3}}\n"
PRUNE = "  - {prune: heads, by: magnitude, keep: 1/2}\n"


@pytest.mark.parametrize(
    ("steps", "line", "text"),
    [
        (
            FACTORIZE + "  - {prune: word-embeddings, by: magnitude, keep: 1/2}\n",
            4,
            "steps[1] prune: the word embeddings are already two factors; prune nothing from them",
        ),
        (EXIT + EXIT, 4, "steps[1] exit: the model has exits already"),
        (
            FACTORIZE + PROJECT,
            4,
            "steps[1] factorize: the word embeddings are factorized already; take one of the two steps out",
        ),
        *(
            (
                PROJECT + step,
                4,
                "steps[1] factorize: the embeddings are factorized already; take one of the two steps out",
            )
            for step in (FACTORIZE, PROJECT)
        ),
        (
            "  - repeat: 2\n    steps:\n    " + PROJECT,
            5,
            "steps[0].steps[0] factorize: a repeat would begin the embeddings' norm anew in each round; move it out",
        ),
        (
            PROJECT + "  - finetune: {when: always, epochs: 1, rewind: true}\n",
            4,
            "steps[1] finetune: the original has no factors to begin from; take 'rewind' out, or factorize later",
        ),
        (SHARE + SHARE, 4, "steps[1] share: layers share their weights already; take one of the two steps out"),
        (
            "  - repeat: 2\n    steps:\n    " + SHARE,
            5,
            "steps[0].steps[0] share: a repeat would share the layers again in each round; move it out",
        ),
        *(
            (
                f"{SHARE}  - {{prune: {units}, by: magnitude, keep: 1/2}}\n",
                4,
                (
                    f"steps[1] prune: layers share their weights by now, so one layer's {units} can't go; "
                    "prune before sharing"
                ),
            )
            for units in ("heads", "neurons")
        ),
        (
            "  - {prune: heads, by: magnitude, keep: 1/2, scope: global}\n" + SHARE,
            4,
            (
                "steps[1] share: a prune with 'scope: global' leaves layers of different sizes, which can't share "
                "weights; share without it, or prune by 'scope: layer'"
            ),
        ),
        (
            SHARE + "  - {exit: all, by: entropy, with: {threshold: 0.3}, start: original}\n",
            4,
            (
                "steps[1] exit: 'start: original' would undo the pruning, sharing and factorizing before it; move this "
                "step before them"
            ),
        ),
        (
            "  - repeat: 2\n    steps:\n    " + EXIT,
            5,
            "steps[0].steps[0] exit: a repeat would put in the exits again; move it out",
        ),
        (
            PRUNE + "  - {exit: all, by: entropy, with: {threshold: 0.3}, start: original}\n",
            4,
            (
                "steps[1] exit: 'start: original' would undo the pruning, sharing and factorizing before it; move this "
                "step before them"
            ),
        ),
        (
            "  - {distill: assistant, by: predictions, epochs: 1}\n",
            3,
            (
                "steps[0] distill: no earlier step saves 'assistant' (none is saved so far); "
                "name one that does with 'save_as', or a model folder, from where compresskit is run"
            ),
        ),
        (
            (
                "  - finetune: {epochs: 1}\n  - {prune: heads, by: taylor, keep: 1, teacher: assistant, loss: "
                "predictions}\n"
            ),
            4,
            (
                "steps[1] prune: no earlier step saves 'assistant' (saved so far: teacher); "
                "name one that does with 'save_as', or a model folder, from where compresskit is run"
            ),
        ),
        (
            "  - {distill: ./no-such, by: predictions, epochs: 1}\n",
            3,
            "steps[0] distill: there is no folder ./no-such; name one from where compresskit is run",
        ),
        (
            "  - finetune: {epochs: 1}\n  - {distill: teacher, by: predictions, epochs: 1, save_as: teacher}\n",
            4,
            "steps[1] distill: an earlier step saves 'teacher' already; choose another name",
        ),
        (
            "  - repeat: 2\n    steps:\n      - {distill: a/folder, by: labels, epochs: 1, save_as: me}\n",
            5,
            (
                "steps[0].steps[0] distill: a repeat would save 'me' again in each round; "
                "save it in a step after the repeat"
            ),
        ),
        (
            "  - finetune: {epochs: 1}\n" + PRUNE + "  - finetune: {epochs: 1}\n",
            5,
            "steps[2] finetune: the head is trained by now, so this step would be skipped; write 'when: always'",
        ),
        *(
            (
                f"{step}  - finetune: {{epochs: 1}}\n",
                4,
                (
                    "steps[1] finetune: a model with a trained head would skip this step, and nothing would mend the "
                    "steps before it; write 'when: always', or move this step before them"
                ),
            )
            for step in (
                PRUNE,
                SHARE,
                "  - {factorize: word-embeddings, by: svd, rank: 1/2}\n",
                "  - {exit: all, by: entropy, with: {threshold: 0.3}}\n",
            )
        ),
        (
            "  - repeat: 2\n    steps:\n      - {prune: layers, keep: [1]}\n",
            5,
            "steps[0].steps[0] prune: a repeat would cut the listed layers again in each round; move it out",
        ),
        (
            "  - finetune: {epochs: 1, restore: 0.1}\n",
            3,
            "steps[0] finetune: 'restore' works only inside a repeat; take it out",
        ),
    ],
)
def test_mistakes_in_the_order(refused, steps, line, text):
    assert refused(HEAD + steps) == one(line, text)


@pytest.mark.parametrize(
    "steps",
    [
        PRUNE + SHARE + "  - {prune: layers, keep: [1]}\n" + EXIT,
        SHARE + PROJECT + "  - finetune: {when: always, epochs: 1}\n",
        SHARE + "  - finetune: {when: always, epochs: 1, rewind: true}\n",
    ],
)
def test_what_may_stand_beside_sharing(read, steps):
    recipe = read(HEAD + steps)
    assert read(recipe.to_yaml()) == recipe


def test_a_step_with_a_mistake_still_counts_for_those_after_it(refused):
    steps = "  - finetune: {epochs: 0}\n  - {distill: teacher, by: predictions, epochs: 1}\n"
    assert refused(HEAD + steps) == one(3, "steps[0] finetune: 'epochs' must be more than 0, not 0")


def test_teacher_may_be_a_folder(read, tmp_path):
    (tmp_path / "big").mkdir()
    recipe = read(HEAD + "  - {distill: big, by: predictions, epochs: 1}\n")
    assert recipe.steps[0].teacher == "big"


def test_finetune_inside_a_repeat_saves_nothing_by_itself(read):
    recipe = read(HEAD + "  - repeat: 2\n    steps:\n    " + PRUNE + "      - finetune: {epochs: 1, when: always}\n")
    assert recipe.steps[0].steps[1].save_as is None


def test_second_finetune_saves_nothing_by_itself(read):
    recipe = read(HEAD + "  - finetune: {epochs: 1}\n  - finetune: {epochs: 1, when: always}\n")
    assert [step.save_as for step in recipe.steps] == ["teacher", None]


def test_pruner_that_looks_at_data_sees_the_labels_by_default(read):
    step = read(HEAD + "  - {prune: heads, by: taylor, keep: 1}\n").steps[0]
    assert list(step.loss) == ["labels"]
    assert read(HEAD + PRUNE).steps[0].loss == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", one(1, "a recipe is a mapping with the keys recipe, name, about, seed, steps")),
        ("- a\n", one(1, "a recipe is a mapping with the keys recipe, name, about, seed, steps")),
        ("recipe: 1\n", one(1, "'steps' must be a list of at least one step")),
        ("recipe: 1\nsteps: []\n", one(2, "'steps' must be a list of at least one step")),
        ("recipe: 2\nsteps:\n" + PRUNE, one(1, "recipe format 2 is unknown; this compresskit reads format 1")),
        (
            "name: x\nsteps:\n" + PRUNE,
            one(1, "the line 'recipe: 1' is missing; it says which recipe format this is"),
        ),
        ("recipe: 1\nnmae: x\nsteps:\n" + PRUNE, one(2, "unknown key 'nmae' (did you mean 'name'?)")),
        ("recipe: 1\nstepz:\n" + PRUNE, one(2, "unknown key 'stepz' (did you mean 'steps'?)")),
        ("recipe: 1\nstepz:\n  - {prune: heads, by: tailor, keep: 1}\n",
         ("half.yaml: 2 mistakes\n  line 2: unknown key 'stepz' (did you mean 'steps'?)\n"
         "  line 3: steps[0] prune: no way to prune by 'tailor'; did you mean 'taylor'? (known: magnitude, taylor)")),
        ("recipe: 1\nseed: -1\nsteps:\n" + PRUNE, one(2, "'seed' must be a whole number from 0, not -1")),
        ("recipe: 1\nname: 3\nsteps:\n" + PRUNE, one(2, "'name' must be text, not 3")),
        ("recipe: 1\nname: x\nname: y\nsteps:\n" + PRUNE, one(3, "duplicate key 'name' (first on line 2)")),
        ("recipe: 1\nsteps:\n\t- prune: heads\n", one(3, "a tab where YAML wants spaces; indent with spaces")),
        ("recipe: 1\nsteps: [a\nb: 2\n",
         one(3, "not YAML: expected ',' or ']', but got ':'; the [ on line 2 is not closed")),
        ("recipe: 1\nsteps: [a: {b: 2, ]\n", one(2, "not YAML: expected the node content, but found ']'")),
        ("recipe: 1\nwith: {a: 1\nsteps:\n  - a\n",
         one(3, "not YAML: expected ',' or '}', but got ':'; the { on line 2 is not closed")),
        ("recipe: 1\nname: 'x\nsteps:\n" + PRUNE,
         one(5, "not YAML: found unexpected end of stream; the quote on line 2 is not closed")),
        ("recipe: 1\nsteps: *x\n", one(2, "not YAML: found undefined alias 'x'")),
        ("recipe: 1\nname: !!set x\nsteps:\n" + PRUNE,
         one(2, "the YAML tag 'tag:yaml.org,2002:set' means nothing here; take it out")),
        ("recipe: 1\n? [a]\n: b\nsteps:\n" + PRUNE, one(2, "a key must be one word, not a list or mapping")),
    ],
)  # fmt: skip
def test_mistakes_in_the_file(refused, text, message):
    assert refused(text) == message


def test_an_alias_inside_itself_is_refused(refused):
    message = refused("recipe: 1\nname: &x\n  - *x\nsteps:\n" + PRUNE)
    assert "\n  line 2: an alias (*) stands inside what it names" in message


def test_aliases_are_copies(read):
    steps = "  - {prune: heads, by: taylor, keep: 1, loss: &loss {labels: 1}}\n"
    steps += "  - {prune: neurons, by: taylor, keep: 1, loss: *loss}\n"
    recipe = read(HEAD + steps, "steps.0.loss.labels=2")
    assert [step.loss["labels"].weight for step in recipe.steps] == [2.0, 1.0]


def test_overrides(read):
    text = HEAD + "  - finetune: {epochs: 4}\n  - repeat: 2\n    steps:\n    " + PRUNE
    recipe = read(
        text,
        "steps.0.finetune.epochs=1",
        "steps.0.finetune.learning_rate=5e-5",
        "steps.1.repeat=3",
        "steps.1.steps.0.keep=1/6",
        "steps.1.steps.0.with.norm=2",
        "name=other",
    )
    assert (recipe.name, recipe.steps[0].epochs, recipe.steps[0].learning_rate) == ("other", 1.0, 5e-5)
    assert recipe.steps[1].times == 3
    assert (recipe.steps[1].steps[0].keep, recipe.steps[1].steps[0].by.norm) == (Fraction(1, 6), 2)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("steps.3.keep=1", "steps has no item 3 (it has 1, numbered from 0)"),
        ("steps.first.keep=1", "steps has no item first (it has 1, numbered from 0)"),
        ("steps.0.by.norm=1", "steps.0.by is 'magnitude' and has no part 'norm'"),
        ("steps.0.keep", "an override is written PATH=VALUE, such as steps.3.epochs=1"),
        ("steps..keep=1", "an override is written PATH=VALUE, such as steps.3.epochs=1"),
        ("steps.0.keep=[", "'[' is not a YAML value"),
        ("steps.0.keep=0", ("steps[0] prune: 'keep' must be a count from 1 or a fraction between 0 and 1 "
                           "(such as 0.5 or 1/6), not 0")),
        ("steps.0.kep=1", "steps[0] prune: unknown option 'kep' (did you mean 'keep'?)"),
        ("sed=1", "unknown key 'sed' (did you mean 'seed'?)"),
    ],
)  # fmt: skip
def test_mistakes_in_overrides_name_the_override(refused, argument, text):
    assert refused(HEAD + PRUNE, argument) == f"half.yaml: 1 mistake\n  --set {argument}: {text}"


def test_needs_data(read):
    taylor = "  - {prune: heads, by: taylor, keep: 1/2}\n"
    assert not needs_data(read(HEAD + PRUNE + EXIT + FACTORIZE + "  - {prune: layers, keep: [1]}\n"))
    assert needs_data(read(HEAD + taylor))
    assert needs_data(read(HEAD + "  - repeat: 2\n    steps:\n    " + taylor))
    assert needs_data(read(HEAD + "  - finetune: {epochs: 1}\n"))


def test_steps_are_equal_wherever_they_stand(read):
    first = read(HEAD + PRUNE).steps[0]
    second = read("recipe: 1\n# a comment\nsteps:\n  - prune: heads\n    by: magnitude\n    keep: 0.5\n").steps[0]
    assert first.line != second.line
    assert first == second
    assert first != read(HEAD + PRUNE.replace("1/2", "1/3")).steps[0]


def test_resolved_text_writes_every_default(read):
    recipe = read(HEAD + PRUNE)
    assert recipe.to_yaml() == (
        "recipe: 1\nname: half\nabout: ''\nseed: 42\nsteps:\n"
        "- prune: heads\n  by: magnitude\n  with:\n    norm: 1\n  keep: 1/2\n  scope: layer\n  least: 1\n"
        "  teacher: null\n  portion: 1.0\n  batch_size: 32\n  exits: all\n  gradient_equilibrium: true\n"
    )
    assert read(recipe.to_yaml()) == recipe
