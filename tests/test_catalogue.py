"""What the catalogue finds, where it says that it comes from, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import compresskit
from compresskit.architectures import BERT, ELASTICBERT
from compresskit.catalogue import BUILTINS, Catalogue, Entry, Origin, build, load_catalogue
from compresskit.errors import ArchitectureError, PluginError, RecipeError
from compresskit.strategies.entropy import Entropy
from compresskit.strategies.taylor import Taylor

HERE = Path(__file__).parent
BROKEN = HERE / "broken_plugins"


@pytest.fixture
def installed(monkeypatch):
    """Puts a plugin's folder on the path, where its metadata is found as if pip had installed it."""
    return monkeypatch.syspath_prepend


def test_built_ins_come_through_the_hooks():
    catalogue = load_catalogue([])
    assert catalogue.names("pruner") == ["magnitude", "taylor"]
    assert catalogue.names("factorizer") == ["svd"]
    assert catalogue.names("exit-policy") == ["entropy"]
    assert catalogue.names("distiller") == ["hidden-states", "labels", "predictions"]
    assert {"bert", "distilbert", "electra", "roberta", "xlm-roberta"} <= set(catalogue.names("architecture"))
    assert catalogue.strategy("pruner", "taylor") is Taylor
    assert catalogue.anatomy("bert") is BERT
    assert catalogue.origin(Taylor) == catalogue.origin(BERT) == Origin("compresskit", compresskit.__version__)


def test_every_module_of_strategies_is_a_built_in():
    folder = Path(compresskit.__file__).parent / "strategies"
    found = {f"compresskit.strategies.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"}
    assert found == {name for name in BUILTINS if name.startswith("compresskit.strategies.")}


def test_every_strategy_says_what_it_is_in_one_line():
    for entry in load_catalogue([]).entries():
        assert entry.summary
        assert entry.summary.endswith(".")
        assert "\n" not in entry.summary


def test_unknown_strategy():
    with pytest.raises(RecipeError) as caught:
        load_catalogue([]).strategy("pruner", "tailor")
    assert str(caught.value) == "no way to prune by 'tailor'; did you mean 'taylor'? (known: magnitude, taylor)"
    with pytest.raises(RecipeError) as caught:
        load_catalogue([]).strategy("exit-policy", "patience")
    assert str(caught.value) == "no way to exit by 'patience' (known: entropy)"


def test_unknown_architecture():
    with pytest.raises(ArchitectureError) as caught:
        load_catalogue([]).anatomy("gpt2")
    assert str(caught.value) == (
        "no anatomy for model_type 'gpt2' (known: bert, distilbert, elasticbert, electra, mobilebert, roberta, "
        "xlm-roberta); add one with the hook compresskit_architectures, as docs/how-to shows"
    )


def test_an_alias_is_no_architecture_and_a_plugins_anatomy_comes_before_it():
    catalogue = load_catalogue([])
    assert catalogue.alias("elasticbert") is ELASTICBERT
    assert catalogue.alias("bert") is catalogue.alias("gpt2") is None
    with pytest.raises(ArchitectureError) as error:
        catalogue.anatomy("elasticbert")
    assert str(error.value) == ("'elasticbert' has no anatomy of its own; its checkpoints are read as those of 'bert'")
    own = replace(BERT, model_type="elasticbert")
    origin = Origin("compresskit-elastic", "1.0")
    catalogue = Catalogue([*catalogue.entries(), Entry("architecture", "elasticbert", own, origin)])
    assert catalogue.alias("elasticbert") is None
    assert catalogue.anatomy("elasticbert") is own


def test_plugin_is_found_with_its_origin(installed):
    installed(HERE / "good_plugin")
    catalogue = load_catalogue(["good"])
    flat = catalogue.strategy("pruner", "flat")
    assert catalogue.names("pruner") == ["flat", "magnitude", "taylor"]
    assert str(catalogue.origin(flat)) == "compresskit-good 1.0"
    assert str(catalogue.origin(catalogue.anatomy("camembert"))) == "compresskit-good 1.0"
    entry = next(entry for entry in catalogue.entries() if entry.name == "flat")
    assert entry.summary == "Every unit is as good as any other."


@pytest.mark.parametrize(("named", "found"), [("", False), ("good", True), (" good ,", True), (None, True)])
def test_variable_names_the_plugins_to_load(installed, monkeypatch, named, found):
    installed(HERE / "good_plugin")
    monkeypatch.delenv("COMPRESSKIT_PLUGINS")
    if named is not None:
        monkeypatch.setenv("COMPRESSKIT_PLUGINS", named)
    from compresskit import catalogue

    catalogue._load_once.cache_clear()
    try:
        assert ("flat" in load_catalogue().names("pruner")) is found
        assert load_catalogue() is load_catalogue()
    finally:
        catalogue._load_once.cache_clear()


def test_named_plugin_that_is_not_installed(installed):
    installed(HERE / "good_plugin")
    with pytest.raises(PluginError) as caught:
        load_catalogue(["godo"])
    message = str(caught.value)
    assert message.startswith("COMPRESSKIT_PLUGINS names the plugin 'godo', which is not installed (installed: ")
    assert "good" in message
    assert message.endswith("); install it or take it out")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            "duplicate",
            (
                f"two pruners are called 'taylor', one from compresskit {compresskit.__version__} and one from "
                "compresskit-duplicate 1.0; uninstall one of them or name the plugins to load in COMPRESSKIT_PLUGINS"
            ),
        ),
        (
            "misspelt",
            (
                "plugin 'misspelt' (compresskit-misspelt 1.0) implements the hook 'compresskit_strategy', "
                "which does not "
                "exist (did you mean 'compresskit_strategies'?); the hooks are compresskit_strategies and "
                "compresskit_architectures"
            ),
        ),
        (
            "no-strategy",
            (
                "plugin 'no-strategy' (compresskit-no-strategy 1.0) offers <class 'dict'>, which is not a "
                "strategy; return "
                "classes that derive from Pruner, Factorizer, ExitPolicy or Distiller"
            ),
        ),
        (
            "import-error",
            (
                "plugin 'import-error' (compresskit-import-error 1.0) can't be imported "
                "(ModuleNotFoundError: No module "
                "named 'compresskit_of_another_planet'); repair or uninstall it, or leave it out of COMPRESSKIT_PLUGINS"
            ),
        ),
        (
            "thawed",
            (
                "plugin 'thawed' (compresskit-thawed 1.0) offers Thawed, which is not a frozen dataclass; "
                "decorate it with "
                "@dataclass(frozen=True)"
            ),
        ),
        (
            "nameless",
            (
                "plugin 'nameless' (compresskit-nameless 1.0) offers Nameless without a name that recipes can say; add "
                'name: ClassVar[str] = "like-this", in small letters, digits and hyphens'
            ),
        ),
        (
            "abstract",
            "plugin 'abstract' (compresskit-abstract 1.0) offers Undecided, which lacks the method score; write it",
        ),
        (
            "unreadable",
            (
                "plugin 'unreadable' (compresskit-unreadable 1.0) offers Unreadable, whose options can't "
                "be read from a recipe: "
                "Unable to generate pydantic-core schema for <class 'torch.Tensor'>. Set "
                "`arbitrary_types_allowed=True` in the "
                "model_config to ignore this error or implement `__get_pydantic_core_schema__` on your "
                "type to fully support it."
            ),
        ),
        (
            "no-hook",
            (
                "plugin 'no-hook' (compresskit-no-hook 1.0) implements no hook; decorate compresskit_strategies with "
                "@hookimpl"
            ),
        ),
        (
            "no-anatomy",
            (
                "plugin 'no-anatomy' (compresskit-no-anatomy 1.0) offers 'albert', which is neither an Anatomy nor an "
                "Alias; return records of those"
            ),
        ),
        (
            "no-list",
            "plugin 'no-list' (compresskit-no-list 1.0) returns None from compresskit_strategies; return a list",
        ),
        (
            "arguments",
            (
                "plugin 'arguments' (compresskit-arguments 1.0) takes arguments in the hook "
                "compresskit_strategies, which "
                "has none; take them out"
            ),
        ),
    ],
)
def test_broken_plugins_are_refused(installed, plugin, message):
    installed(BROKEN / plugin)
    with pytest.raises(PluginError) as caught:
        load_catalogue([plugin])
    assert str(caught.value) == message


def test_every_broken_plugin_is_tested():
    marks = test_broken_plugins_are_refused.pytestmark[0].args[1]
    assert {case[0] for case in marks} == {path.name for path in BROKEN.iterdir()}


def test_build_checks_options():
    assert build(Taylor, {"reading": "paper"}) == Taylor(reading="paper")
    assert build(Entropy, {"threshold": 1}) == Entropy(threshold=1.0)
    for strategy, options, message in [
        (Entropy, {}, "entropy's 'threshold' is missing"),
        (Entropy, {"threshold": "low"}, "entropy's 'threshold' must be a number, not 'low'"),
        (Entropy, {"thresold": 1}, "entropy has no option 'thresold' (did you mean 'threshold'?)"),
        (
            Taylor,
            {"size": 1, "matrices": 3},
            "taylor has no option 'size'; taylor's 'matrices' must be 'auto', 'attention-out' or 'all', not 3",
        ),
    ]:
        with pytest.raises(RecipeError) as caught:
            build(strategy, options)
        assert str(caught.value) == message


def test_built_ins_are_named_and_never_imported_by_the_core():
    code = "import sys, compresskit.catalogue as c; print([m for m in sys.modules if m in c.BUILTINS])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
