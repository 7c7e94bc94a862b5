"""The pages of results say what the files of results say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_cost_eff_is_what_its_results_give():
    command = [sys.executable, str(ROOT / "studies" / "cost_eff_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_of_the_paper_is_what_its_results_give():
    command = [sys.executable, str(ROOT / "studies" / "paper_page.py"), "--check"]
    settings = os.environ | {"COMPRESSKIT_PLUGINS": "early-exit,students,scores,gates"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    assert (done.returncode, done.stderr) == (0, "")
