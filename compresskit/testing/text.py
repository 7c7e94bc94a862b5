"""A few sentences that a tiny model can learn to classify."""

from __future__ import annotations

import random
from pathlib import Path

SUBJECTS = ("the film", "this story", "her song", "our dinner", "that long walk", "the first act", "his new book")
LINKS = ("was", "seemed", "felt", "turned out", "is", "became")
DEGREES = ("very", "quite", "rather", "so", "really")
OPINIONS = (
    ("awful", "dull", "bad", "empty", "boring", "poor"),
    ("good", "lovely", "great", "warm", "funny", "fine"),
    ("green", "old", "loud", "short", "slow", "blue"),
)
ENDINGS = ("to me", "in the end", "for everyone who came", "again", "from the start to the last minute", "today")

PHRASES = (*SUBJECTS, *LINKS, *DEGREES, *(word for words in OPINIONS for word in words), *ENDINGS)
WORDS: tuple[str, ...] = tuple(sorted({word for phrase in PHRASES for word in phrase.split()}))
"""Every word of the text, so that a vocabulary can hold each as one token."""


def tiny_text(
    folder: Path,
    rows: int = 64,
    *,
    eval_rows: int = 32,
    labels: int = 2,
    names: tuple[str, ...] | None = None,
    pairs: bool = False,
    seed: int = 0,
) -> Path:
    """Write `train.tsv` and `dev.tsv`: one word of each sentence tells its label. Sentences have 3 to 14 words.

    Args:
        folder: made where it is missing.
        rows, eval_rows: of the two files; labels take turns, so every label is in both.
        labels: 2 or 3 classes, or 1 for a number between 0 and 5 to predict.
        names: of the classes; 0, 1, ... where None.
        pairs: two text columns, `sentence1` and `sentence2`, in place of `sentence`.
        seed: for another text.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)  # noqa: S311 - no secret hangs on it
    header = "sentence1\tsentence2" if pairs else "sentence"
    for name, count in (("train", rows), ("dev", eval_rows)):
        lines = [f"{header}\t{'score' if labels == 1 else 'label'}"]
        for row in range(count):
            opinion = row % max(labels, 2)
            texts = [_sentence(draw, opinion) for _ in range(2 if pairs else 1)]
            number = f"{5 * opinion * draw.uniform(0.6, 1):.2f}"
            label = number if labels == 1 else (names or "012")[opinion]
            lines.append("\t".join([*texts, label]))
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def sentences(count: int, seed: int = 0) -> list[str]:
    """So many sentences of the kind that `tiny_text` writes."""
    draw = random.Random(seed)  # noqa: S311 - no secret hangs on it
    return [_sentence(draw, row % 2) for row in range(count)]


def _sentence(draw: random.Random, opinion: int) -> str:
    parts = [draw.choice(SUBJECTS), draw.choice(LINKS)]
    parts += [draw.choice(DEGREES)] if draw.random() < 0.5 else []
    parts += [draw.choice(OPINIONS[opinion])]
    parts += [draw.choice(ENDINGS)] if draw.random() < 0.5 else []
    return " ".join(parts)
