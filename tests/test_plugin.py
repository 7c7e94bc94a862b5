"""The example distribution in plugins/, installed as an outsider's would be: found, used, stored, and missed."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification

import compresskit
from compresskit import catalogue
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import load, save
from compresskit.cli import cli
from compresskit.testing import apply_tiny

PLUGIN = Path(__file__).parent.parent / "plugins" / "compresskit-margin"
RECIPE = PLUGIN / "recipes" / "leave-by-margin.yaml"
VERSION = metadata.version("compresskit-margin")
MISSED = (
    "this model's exit policy can't be used: no way to exit by 'margin' (known: entropy); install the plugin that it "
    f"comes from (compresskit-margin {VERSION}); until then every example goes to the last layer"
)


@pytest.fixture
def without_plugins(monkeypatch):
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "")
    catalogue._load_once.cache_clear()
    yield
    catalogue._load_once.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, batch):
    """A model of four layers that leaves early by margin, half of the batch at the first exit."""
    where = tmp_path_factory.mktemp("margin")
    apply_tiny(RECIPE, where, "steps.0.finetune.epochs=1", "steps.2.epochs=1", layers=4)
    ready = load(str(where / "out"))
    with torch.inference_mode():
        probabilities = ready.model.trace(batch).logits[1].softmax(-1)
    margins = (probabilities[:, 0] - probabilities[:, 1]).abs().sort().values
    halfway = float(margins[7] + margins[8]) / 2
    ready.model.set_policy(ready.model.config.exit_policy | {"with": {"threshold": halfway}})
    save(ready.model, ready.tokenizer, where / "out", {})
    return where / "out"


@pytest.fixture(scope="module")
def batch():
    ids = torch.randint(5, 60, (16, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def answers(model, batch):
    with torch.inference_mode():
        output = model.eval()(**batch)
    return output.logits, output.exits


def listed():
    found = CliRunner().invoke(cli, ["strategies", "--json"])
    assert found.exit_code == 0, found.output
    return {(entry["kind"], entry["name"]): entry for entry in json.loads(found.stdout)}


def test_the_plugin_is_found_and_says_where_it_comes_from():
    entry = listed()["exit-policy", "margin"]
    assert (entry["distribution"], entry["version"]) == ("compresskit-margin", VERSION)
    assert entry["summary"] == "Leave once the likeliest class is ahead of the next by more than `threshold`."
    assert listed()["exit-policy", "entropy"]["distribution"] == "compresskit"


@pytest.mark.usefixtures("without_plugins")
def test_an_empty_variable_hides_it():
    assert ("exit-policy", "margin") not in listed()
    checked = CliRunner().invoke(cli, ["check", str(RECIPE)])
    assert checked.exit_code == 1
    assert (
        f"{RECIPE}: 1 mistake\n  line 9: steps[1] exit: no way to exit by 'margin' (known: entropy)" in checked.output
    )


def test_named_alone_it_is_loaded(monkeypatch):
    assert load_catalogue(["margin"]).names("exit-policy") == ["entropy", "margin"]


def test_the_recipe_is_right():
    checked = CliRunner().invoke(cli, ["check", str(RECIPE)])
    assert (checked.exit_code, checked.output) == (0, f"{RECIPE}: no mistakes in 3 steps\n")


def test_a_model_made_with_it_leaves_by_it(folder, batch):
    record = json.loads((folder / "compression.json").read_text(encoding="utf-8"))
    assert record["origins"]["margin"] == f"compresskit-margin {VERSION}"
    model = load(str(folder)).model
    assert type(model.policy).__name__ == "Margin"
    logits, exits = answers(model, batch)
    assert exits.tolist().count(1) == 8

    again = AutoModelForSequenceClassification.from_pretrained(folder)
    for found, expected in zip(answers(again, batch), (logits, exits), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.usefixtures("without_plugins")
def test_without_it_the_model_runs_at_full_depth_and_says_so(folder, batch, tmp_path):
    with pytest.warns(UserWarning, match="exit policy") as caught:
        checkpoint = load(str(folder))
    assert [str(warning.message) for warning in caught] == [MISSED]
    model = checkpoint.model
    logits, exits = answers(model, batch)
    assert exits.tolist() == [4] * 16
    assert torch.equal(logits, model.trace(batch).logits[4])

    # Saved from here and loaded where the plugin is, it leaves early again.
    save(model, checkpoint.tokenizer, tmp_path / "copy", {})
    before, after = (
        json.loads((where / "config.json").read_text(encoding="utf-8")) for where in (folder, tmp_path / "copy")
    )
    assert after["exit_policy"] == before["exit_policy"]
    assert (after["exit_policy"]["by"], after["exit_policy"]["from"]) == ("margin", f"compresskit-margin {VERSION}")


@pytest.mark.usefixtures("without_plugins")
def test_without_it_a_report_needs_no_warning(folder):
    report = CliRunner().invoke(cli, ["report", str(folder), "--no-timing", "--json"])
    assert report.exit_code == 0, report.output
    assert json.loads(report.stdout)["model"]["shape"]["exits"] == [1, 2, 3, 4]


def test_it_imports_only_what_is_public():
    ours = {line for path in PLUGIN.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()}
    imports = {line for line in ours if line.startswith(("import compresskit", "from compresskit"))}
    allowed = {
        "from compresskit_margin import Margin",
        *(line for line in imports if "compresskit.testing import" in line),
    }
    public = {line for line in imports if line.startswith("from compresskit import ")}
    assert imports == allowed | public
    names = {name.strip() for line in public for name in line.partition("import")[2].split(",")}
    assert names <= set(compresskit.__all__)
