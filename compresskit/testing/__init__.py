"""For tests, of compresskit and of plugins: tiny models of every architecture, with a tokenizer and a learnable text.

Nothing is downloaded. A model is a real `transformers` model built from its config, so what holds for it holds for a
large one.

    model = tiny_model("roberta", layers=3)
    folder = save_tiny(tmp_path / "model", "electra")
    data = tiny_text(tmp_path / "data")
"""

from __future__ import annotations

from compresskit.testing.models import save_tiny, tiny_model, tiny_tokenizer
from compresskit.testing.text import WORDS, tiny_text

__all__ = ["WORDS", "save_tiny", "tiny_model", "tiny_text", "tiny_tokenizer"]
