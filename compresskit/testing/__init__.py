"""For tests, of compresskit and of plugins: checks of what every strategy must do, and tiny models and texts.

Nothing is downloaded. A model is a real `transformers` model built from its config, so what holds for it holds for a
large one.

    model = tiny_model("roberta", layers=3)
    folder = save_tiny(tmp_path / "model", "electra")
    data = tiny_text(tmp_path / "data")
    report = apply_tiny("recipe.yaml", tmp_path)

`parametrize`, `check_strategy` and `strategy_checks` are explained in `conformance.py`.
"""

from __future__ import annotations

from compresskit.testing.conformance import check_strategy, parametrize, strategy_checks
from compresskit.testing.models import save_tiny, tiny_batch, tiny_compressed, tiny_model, tiny_tokenizer
from compresskit.testing.recipes import apply_tiny, trainings
from compresskit.testing.text import WORDS, tiny_text

__all__ = [
    "WORDS",
    "apply_tiny",
    "check_strategy",
    "parametrize",
    "save_tiny",
    "strategy_checks",
    "tiny_batch",
    "tiny_compressed",
    "tiny_model",
    "tiny_text",
    "tiny_tokenizer",
    "trainings",
]
