"""The sizes that Tables 2 and 3 of COST-EFF print (Shen et al. 2022, arXiv:2210.15523), from configs alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from compresskit.cli import cli

STUDY = Path(__file__).parents[2] / "recipes" / "studies" / "paper-tables.yaml"
ROWS = {
    # run: parameters, how many times fewer as printed, FLOPs reductions (flops_all, torch110) at full depth
    "original": (109_483_778, "1.0", 1.000, 1.000),
    "8l-256h": (14_330_114, "7.6", 12.808, 13.493),
    "tinybert-4l": (14_350_874, "7.6", 17.917, 18.639),
    "deebert-256h": (18_218_520, "6.0", 8.538, 8.991),
    "pabee-256h": (17_494_808, "6.3", 8.538, 8.991),
    "cost-eff-8x": (13_920_024, "7.9", 8.792, 8.899),
    "6l-768h": (66_956_546, "1.6", 2.000, 2.000),
    "tinybert-6l": (66_956_546, "1.6", 2.000, 2.000),
    "distilbert-6l": (66_955_010, "1.6", 2.000, 2.000),
    "elasticbert-6l": (66_373_644, "1.6", 2.000, 2.000),
    "deebert-512h": (56_884_248, "1.9", 2.220, 2.248),
    "pabee-512h": (53_995_032, "2.0", 2.220, 2.248),
    "cost-eff-2x": (54_984_984, "2.0", 1.987, 1.986),
}


@pytest.fixture(scope="module", autouse=True)
def every_plugin():
    """All that are installed, not the example alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COMPRESSKIT_PLUGINS", raising=False)
        yield


@pytest.fixture(scope="module")
def planned(every_plugin):
    found = CliRunner().invoke(cli, ["sweep", "--plan-only", "--json", str(STUDY)])
    assert found.exit_code == 0, found.output
    return {plan["run"]: plan for plan in json.loads(found.stdout)}


def test_every_row_is_there(planned):
    assert list(planned) == list(ROWS)


@pytest.mark.parametrize("run", ROWS)
def test_a1_a3_parameters_are_exact_and_their_ratio_prints_as_in_the_paper(planned, run):
    parameters, printed, *_ = ROWS[run]
    assert planned[run]["planned"]["parameters"] == parameters
    ratio = planned[run]["reduction"]["parameters"]
    assert ratio == 109_483_778 / parameters
    # The paper rounds 1.6495 down, as this does.
    assert f"{ratio:.1f}" == printed


@pytest.mark.parametrize("run", ROWS)
def test_a2_flops_reductions(planned, run):
    *_, with_products, as_printed = ROWS[run]
    flops = planned[run]["reduction"]["flops"]
    assert flops["flops_all"] == pytest.approx(with_products, abs=5e-4)
    assert flops["torch110"] == pytest.approx(as_printed, abs=5e-4)


def test_the_table_fits_a_terminal():
    shown = CliRunner().invoke(cli, ["sweep", "--plan-only", str(STUDY)])
    assert max(len(line) for line in shown.output.splitlines()) <= 80
    assert "109,483,778" in shown.output
